"""DPM-Solver++ in all its forms, SEEDS, RES, DEIS, UniPC, SA-Solver, ER-SDE, LCM, TCD and newer grids against NumPy.

Each reference is written from the paper in float64, on VP levels, with the exact E[x0 | x] of a mixture. Integrals of
a polynomial against an exponential are taken in closed form here, by quadrature in the samplers.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial

import samplerbench as sb
from cases import thinned
from samplerbench.bench.conformance.randomness import Pulses, moments
from samplerbench.plugins.grids.grids import beta_distribution, beta_quantiles
from samplerbench.samplers.exact import exact_model, gaussian, gaussian_flow
from samplerbench.samplers.registry import default_registry

MEANS = np.array([[-1.0, 0.5], [0.8, 1.0], [0.3, -1.2]])
VARIANCES = np.array([0.02, 0.1, 0.3])
WEIGHTS = np.array([0.5, 0.3, 0.2])
MIXTURE = sb.GaussianMixture(tuple(map(tuple, MEANS.tolist())), tuple(VARIANCES.tolist()), tuple(WEIGHTS.tolist()))
VP, EDM, FLOW = sb.vp_linear(), sb.edm(), sb.flow()
RNG = np.random.default_rng(5)
X = RNG.standard_normal((5, 2))
NOISE = RNG.standard_normal((32, 5, 2))
GRIDS = {
    "even": [999, 888, 777, 666, 555, 444, 333, 222, 111, 0],
    "uneven": [990.5, 950.0, 600.25, 590.0, 200.0, 150.5, 20.0, 3.0],
    "two": [700, 10],
    "one": [999],
}


def draw(spec, grid, schedule=VP, x=X, noise=NOISE, data=MIXTURE, **options):
    """What the sampler makes of x; `noise` is used in order."""
    stream = iter(torch.from_numpy(noise))
    model = exact_model(data, schedule, options.pop("predicts", "eps"))
    got = sb.sample(
        model, spec, grid=GRIDS.get(grid, grid) if isinstance(grid, str) else grid, x_init=torch.from_numpy(x),
        noise=lambda a, b: next(stream), **options,
    )  # fmt: skip
    return got.x.numpy()


# ---- The references ----


def denoised(x, alpha, sigma):
    """E[x0 | x] by Bayes' rule over the components."""
    s2 = alpha**2 * VARIANCES + sigma**2
    residual = x[:, None, :] - alpha * MEANS
    log_likelihood = -0.5 * (residual**2).sum(-1) / s2 - np.log(s2) + np.log(WEIGHTS)
    likelihood = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
    posterior = likelihood / likelihood.sum(1, keepdims=True)
    return (posterior[:, :, None] * (MEANS + (alpha * VARIANCES / s2)[:, None] * residual)).sum(1)


def vp_at(lambda_):
    """(alpha, sigma) of a variance preserving process at log(alpha / sigma) = lambda_."""
    return 1 / math.sqrt(1 + math.exp(-2 * lambda_)), 1 / math.sqrt(1 + math.exp(2 * lambda_))


def exponential_weights(nodes, start, end, rate):
    """Integrals from start to end of e^(rate (lambda - end)) times each Lagrange polynomial, in closed form."""
    weights = []
    for j in nodes:
        basis = Polynomial([1.0])
        for k in nodes:
            if k != j:
                basis *= Polynomial([(end - k) / (j - k), 1 / (j - k)])  # in lambda - end
        primitive = sum(((-1) ** n * basis.deriv(n) / rate ** (n + 1) for n in range(len(nodes))), Polynomial([0.0]))
        weights.append(primitive(0.0) - math.exp(rate * (start - end)) * primitive(start - end))
    return weights


def steps_of(levels):
    """(alpha_a, sigma_a, lambda_a, alpha_b, sigma_b, h) of each interval but the last."""
    for (alpha_a, sigma_a), (alpha_b, sigma_b) in itertools.pairwise(levels):
        lambda_a = math.log(alpha_a / sigma_a)
        yield alpha_a, sigma_a, lambda_a, alpha_b, sigma_b, math.log(alpha_b / sigma_b) - lambda_a


def dpm_solver_pp(order, published=False):
    def run(x, levels, noise):
        past = []
        for alpha_a, sigma_a, lambda_a, alpha_b, sigma_b, h in steps_of(levels):
            past = [(lambda_a, denoised(x, alpha_a, sigma_a)), *past][:order]
            m = [m for _, m in past]
            if len(past) == 1:
                d = m[0]
            elif len(past) == 2:  # algorithm 2
                r = (past[0][0] - past[1][0]) / h
                d = (1 + 1 / (2 * r)) * m[0] - 1 / (2 * r) * m[1]
            if len(past) < 3:
                x = sigma_b / sigma_a * x - alpha_b * math.expm1(-h) * d
                continue
            if published:
                r0, r1 = (past[0][0] - past[1][0]) / h, (past[1][0] - past[2][0]) / h
                d10, d11 = (m[0] - m[1]) / r0, (m[1] - m[2]) / r1
                d1, d2 = d10 + r0 / (r0 + r1) * (d10 - d11), (d10 - d11) / (r0 + r1)
                phi = [math.exp(-h) - 1, (math.exp(-h) - 1) / h + 1, ((math.exp(-h) - 1) / h + 1) / h - 0.5]
                x = sigma_b / sigma_a * x - alpha_b * phi[0] * m[0] + alpha_b * phi[1] * d1 - alpha_b * phi[2] * d2
            else:  # x0 is the parabola through the three
                w = exponential_weights([lambda_ for lambda_, _ in past], lambda_a, lambda_a + h, 1.0)
                x = sigma_b / sigma_a * x + alpha_b * sum(w_j * m_j for w_j, m_j in zip(w, m, strict=True))
        return denoised(x, *levels[-1])

    return run


def dpm_solver_pp_single(order, eta=0.0):
    def run(x, levels, noise):
        for (alpha_a, sigma_a, lambda_a, alpha_b, sigma_b, _), z in zip(steps_of(levels), noise, strict=False):
            s_a, s_b = sigma_a / alpha_a, sigma_b / alpha_b
            s_up = min(s_b, eta * math.sqrt(s_b**2 * (s_a**2 - s_b**2) / s_a**2))
            s_down = math.sqrt(s_b**2 - s_up**2)
            h = -math.log(s_down) - lambda_a
            m = denoised(x, alpha_a, sigma_a)

            def first(x, alpha, sigma, h, m, sigma_a=sigma_a):
                return sigma / sigma_a * x - alpha * math.expm1(-h) * m

            if order == 2:
                alpha_s, sigma_s = vp_at(lambda_a + h / 2)
                m = denoised(first(x, alpha_s, sigma_s, h / 2, m), alpha_s, sigma_s)
                x = first(x, alpha_b, alpha_b * s_down, h, m)
            else:
                alpha_1, sigma_1 = vp_at(lambda_a + h / 3)
                d1 = denoised(first(x, alpha_1, sigma_1, h / 3, m), alpha_1, sigma_1) - m
                alpha_2, sigma_2 = vp_at(lambda_a + 2 * h / 3)
                phi_22 = math.expm1(-2 * h / 3) / (2 * h / 3) + 1
                u2 = first(x, alpha_2, sigma_2, 2 * h / 3, m) + 2 * alpha_2 * phi_22 * d1
                d2 = denoised(u2, alpha_2, sigma_2) - m
                x = first(x, alpha_b, alpha_b * s_down, h, m) + 1.5 * alpha_b * (math.expm1(-h) / h + 1) * d2
            x = x + alpha_b * s_up * z
        return denoised(x, *levels[-1])

    return run


def dpm_solver_pp_sde(order, eta=1.0, variant="midpoint", published=False):
    def run(x, levels, noise):
        past = []
        for (alpha_a, sigma_a, lambda_a, alpha_b, sigma_b, h), z in zip(steps_of(levels), noise, strict=False):
            past = [(lambda_a, denoised(x, alpha_a, sigma_a)), *past][:order]
            m = [m for _, m in past]
            h_eta = h * (1 + eta)
            x = sigma_b / sigma_a * math.exp(-eta * h) * x
            if len(past) == 2 and variant == "midpoint":
                r = (past[0][0] - past[1][0]) / h
                x = x + alpha_b * (1 - math.exp(-h_eta)) * (m[0] + (m[0] - m[1]) / (2 * r))
            elif len(past) == 3 and published:
                r0, r1 = (past[0][0] - past[1][0]) / h, (past[1][0] - past[2][0]) / h
                d10, d11 = (m[0] - m[1]) / r0, (m[1] - m[2]) / r1
                d1, d2 = d10 + (d10 - d11) * r0 / (r0 + r1), (d10 - d11) / (r0 + r1)
                phi2 = (math.exp(-h_eta) - 1) / h_eta + 1
                x = x + alpha_b * ((1 - math.exp(-h_eta)) * m[0] + phi2 * d1 - (phi2 / h_eta - 0.5) * d2)
            else:
                w = exponential_weights([lambda_ for lambda_, _ in past], lambda_a, lambda_a + h, 1 + eta)
                x = x + alpha_b * (1 + eta) * sum(w_j * m_j for w_j, m_j in zip(w, m, strict=True))
            x = x + sigma_b * math.sqrt(1 - math.exp(-2 * eta * h)) * z
        return denoised(x, *levels[-1])

    return run


def dpm_solver_pp_sde_single(eta=1.0):
    """In y = x / alpha and s = sigma / alpha, the noise of a step and of its middle from one Brownian path in s."""

    def run(x, levels, noise):
        noise = iter(noise)
        for alpha_a, sigma_a, lambda_a, alpha_b, sigma_b, h in steps_of(levels):
            s_a, s_b, s_m = sigma_a / alpha_a, sigma_b / alpha_b, math.exp(-lambda_a - h / 2)
            alpha_m, sigma_m = vp_at(lambda_a + h / 2)
            first, second = (np.sqrt(d) * (next(noise) if eta else 0.0) for d in (s_a - s_m, s_m - s_b))

            def ancestral(y, m, s, path, s_a=s_a):
                up = min(s, eta * math.sqrt(s**2 * (s_a**2 - s**2) / s_a**2))
                down = math.sqrt(s**2 - up**2)
                return down / s_a * y + (1 - down / s_a) * m + up * path / math.sqrt(s_a - s)

            y = x / alpha_a
            middle = alpha_m * ancestral(y, denoised(x, alpha_a, sigma_a), s_m, first)
            x = alpha_b * ancestral(y, denoised(middle, alpha_m, sigma_m), s_b, first + second)
        return denoised(x, *levels[-1])

    return run


def res(variant):
    """Zhang et al. 2023: weights b1 = phi_1 - phi_2 / c2 and b2 = phi_2 / c2 of two x0, in y = x / alpha."""

    def run(x, levels, noise):
        before = None
        for alpha_a, sigma_a, lambda_a, alpha_b, _, h in steps_of(levels):
            m = denoised(x, alpha_a, sigma_a)
            phi1 = (1 - math.exp(-h)) / h
            phi2 = (1 - phi1) / h
            if variant == "singlestep":
                alpha_m, sigma_m = vp_at(lambda_a + h / 2)
                y = math.exp(-h / 2) * x / alpha_a + (1 - math.exp(-h / 2)) * m
                c2, other = 1 / 2, denoised(alpha_m * y, alpha_m, sigma_m)
            else:
                c2, other = ((before[0] - lambda_a) / h, before[1]) if before else (1.0, m)
            before = lambda_a, m
            x = alpha_b * (math.exp(-h) * x / alpha_a + h * ((phi1 - phi2 / c2) * m + phi2 / c2 * other))
        return denoised(x, *levels[-1])

    return run


def lcm(x, levels, noise):
    for (alpha_a, sigma_a, _, alpha_b, sigma_b, _), z in zip(steps_of(levels), noise, strict=False):
        x = alpha_b * denoised(x, alpha_a, sigma_a) + sigma_b * z
    return denoised(x, *levels[-1])


def tcd(eta):
    log_alpha, times = 0.5 * np.log(VP.alphas_cumprod), np.arange(1000.0)

    def run(x, levels, noise):
        for (alpha_a, sigma_a, _, alpha_b, _, _), z in zip(steps_of(levels), noise, strict=False):
            t_b = np.interp(math.log(alpha_b), log_alpha[::-1], times[::-1])
            alpha_s = math.exp(np.interp((1 - eta) * t_b, times, log_alpha))
            sigma_s = math.sqrt(1 - alpha_s**2)
            m = denoised(x, alpha_a, sigma_a)
            x_s = alpha_s * m + sigma_s * (x - alpha_a * m) / sigma_a
            x = alpha_b / alpha_s * x_s + math.sqrt(max(0.0, 1 - (alpha_b / alpha_s) ** 2)) * z
        return denoised(x, *levels[-1])

    return run


def seeds(order, eta=1.0):
    """Each noise of the interval's parts, z1, z2, ..., enters every later state with its share of the path."""

    def run(x, levels, noise):
        noise = iter(noise)
        for alpha_a, sigma_a, lambda_a, alpha_b, sigma_b, h in steps_of(levels):
            z = [next(noise) for _ in range(order)]

            m = denoised(x, alpha_a, sigma_a)

            def state(r, alpha, sigma, bend=0.0, x=x, z=z, h=h, sigma_a=sigma_a, m=m):
                h_r = (1 + eta) * r * h
                u = sigma / sigma_a * math.exp(-eta * r * h) * x + alpha * (1 - math.exp(-h_r)) * m + alpha * bend
                for k in range(round(r * order)):  # z_k belongs to the stretch from k h / order to (k + 1) h / order
                    start, end = k / order - r, (k + 1) / order - r
                    u = u + sigma * math.sqrt(math.exp(2 * eta * end * h) - math.exp(2 * eta * start * h)) * z[k]
                return u

            def phi2(r, h=h):
                h_r = (1 + eta) * r * h
                return (math.exp(-h_r) - 1) / h_r + 1

            inner = [vp_at(lambda_a + k / order * h) for k in range(1, order)]
            if order == 1:
                x = state(1, alpha_b, sigma_b)
            elif order == 2:  # exponential midpoint rule
                d = denoised(state(1 / 2, *inner[0]), *inner[0]) - m
                x = state(1, alpha_b, sigma_b, (1 - math.exp(-(1 + eta) * h)) * d)
            else:
                d1 = denoised(state(1 / 3, *inner[0]), *inner[0]) - m
                d2 = denoised(state(2 / 3, *inner[1], 2 * phi2(2 / 3) * d1), *inner[1]) - m
                x = state(1, alpha_b, sigma_b, 1.5 * phi2(1) * d2)
        return denoised(x, *levels[-1])

    return run


def deis(order):
    def run(x, levels, noise):
        past = []
        for alpha_a, sigma_a, lambda_a, alpha_b, sigma_b, h in steps_of(levels):
            eps = (x - alpha_a * denoised(x, alpha_a, sigma_a)) / sigma_a
            past = [(lambda_a, eps), *past][: order + 1]
            w = exponential_weights([lambda_ for lambda_, _ in past], lambda_a, lambda_a + h, -1.0)
            x = alpha_b / alpha_a * x - sigma_b * sum(w_j * eps_j for w_j, (_, eps_j) in zip(w, past, strict=True))
        return denoised(x, *levels[-1])

    return run


def unipc(order, variant="bh2", corrector=True):
    """UniPC as published: solve the system R rho = b, with phi_k by their recursion."""

    def rhos(r, h, b_h):
        phi, b = math.expm1(-h) / -h - 1, []
        for k in range(1, len(r) + 1):
            b.append(phi * math.factorial(k) / b_h)
            phi = phi / -h - 1 / math.factorial(k + 1)
        return np.linalg.solve(np.array([[r_m ** (k - 1) for r_m in r] for k in range(1, len(r) + 1)]), np.array(b))

    def run(x, levels, noise):
        past, correct = [], None
        for alpha_a, sigma_a, lambda_a, alpha_b, sigma_b, h in steps_of(levels):
            m0 = denoised(x, alpha_a, sigma_a)
            x = correct(m0) if correct else x
            past = [(lambda_a, m0), *past][:order]
            r = [(lambda_ - lambda_a) / h for lambda_, _ in past[1:]]
            d = [(m - m0) / r_m for (_, m), r_m in zip(past[1:], r, strict=True)]
            b_h = -h if variant == "bh1" else math.expm1(-h)
            base = sigma_b / sigma_a * x - alpha_b * math.expm1(-h) * m0

            def correct(m, base=base, r=r, d=d, h=h, b_h=b_h, m0=m0, alpha_b=alpha_b):
                rho = rhos([*r, 1.0], h, b_h) if r else [0.5]
                return base - alpha_b * b_h * sum(p * d_m for p, d_m in zip(rho, [*d, m - m0], strict=True))

            rho = [0.5] if len(r) == 1 else rhos(r, h, b_h) if r else []
            x = base - alpha_b * b_h * sum((p * d_m for p, d_m in zip(rho, d, strict=True)), 0 * x)
            correct = correct if corrector else None
        return denoised(x, *levels[-1])

    return run


def sa_solver(predictor, corrector, tau):
    def run(x, levels, noise):
        past, correct = [], None
        for (alpha_a, sigma_a, lambda_a, alpha_b, sigma_b, h), z in zip(steps_of(levels), noise, strict=False):
            m = denoised(x, alpha_a, sigma_a)
            x = correct((lambda_a, m)) if correct else x
            past = [(lambda_a, m), *past]
            rest = math.exp(-(tau**2) * h) * sigma_b / sigma_a * x
            rest = rest + sigma_b * math.sqrt(1 - math.exp(-2 * tau**2 * h)) * z

            def adams(points, rest=rest, end=lambda_a + h, start=lambda_a, alpha_b=alpha_b):
                w = exponential_weights([lambda_ for lambda_, _ in points], start, end, 1 + tau**2)
                return rest + alpha_b * (1 + tau**2) * sum(w_j * m_j for w_j, (_, m_j) in zip(w, points, strict=True))

            x = adams(past[:predictor])
            known = past[:corrector]
            correct = (lambda new, adams=adams, known=known: adams([new, *known])) if corrector else None
        return denoised(x, *levels[-1])

    return run


def er_sde(order, phi):
    scale = {"ode": lambda s: s, "sde": lambda s: s**2, "sde5": lambda s: s * (np.exp(s**0.3) + 10)}[phi]

    def integral(f, low, high):
        """Simpson's rule in log s."""
        u = np.linspace(math.log(low), math.log(high), 4001)
        y = f(np.exp(u)) * np.exp(u)
        return (u[1] - u[0]) / 3 * (y[0] + 4 * y[1:-1:2].sum() + 2 * y[2:-1:2].sum() + y[-1])

    def run(x, levels, noise):
        past, slopes = [], []
        for (alpha_a, sigma_a, _, alpha_b, sigma_b, _), z in zip(steps_of(levels), noise, strict=False):
            s_a, s_b = sigma_a / alpha_a, sigma_b / alpha_b
            past = [(s_a, denoised(x, alpha_a, sigma_a)), *past]
            r = scale(s_b) / scale(s_a)
            y = r * x / alpha_a + (1 - r) * past[0][1]
            if phi != "ode":  # whose deviation is 0, less rounding
                y = y + math.sqrt(s_b**2 - s_a**2 * r**2) * z
            if len(past) > 1 and order > 1:
                slopes = [(past[0][1] - past[1][1]) / (s_a - past[1][0]), *slopes]
                y = y + (s_b - s_a + scale(s_b) * integral(lambda s: 1 / scale(s), s_b, s_a)) * slopes[0]
            if len(past) > 2 and order > 2:
                bend = 2 * (slopes[0] - slopes[1]) / (s_a - past[2][0])
                moment = integral(lambda s, s_a=s_a: (s - s_a) / scale(s), s_b, s_a)
                y = y + ((s_b - s_a) ** 2 / 2 + scale(s_b) * moment) * bend
            x = alpha_b * y
        return denoised(x, *levels[-1])

    return run


REFERENCES = {
    **{f"dpm-solver++:order={k}": dpm_solver_pp(k) for k in (1, 2, 3)},
    "dpm-solver++:order=3,coefficients=published": dpm_solver_pp(3, published=True),
    "dpm-solver++-single": dpm_solver_pp_single(2),
    "dpm-solver++-single:order=3": dpm_solver_pp_single(3),
    "dpm-solver++-single:eta=0.6": dpm_solver_pp_single(2, 0.6),
    "DPM++ 2S a": dpm_solver_pp_single(2, 1.0),
    "dpm-solver++-sde": dpm_solver_pp_sde(2),
    "dpm-solver++-sde:order=1,eta=0.4": dpm_solver_pp_sde(1, 0.4),
    "dpm-solver++-sde:order=2,variant=heun": dpm_solver_pp_sde(2, variant="heun"),
    "dpm-solver++-sde:order=2,eta=0.5": dpm_solver_pp_sde(2, 0.5),
    "dpm-solver++-sde:order=3": dpm_solver_pp_sde(3),
    "dpm-solver++-sde:order=3,variant=heun,eta=0.7": dpm_solver_pp_sde(3, 0.7, "heun"),
    "DPM++ 3M SDE": dpm_solver_pp_sde(3, variant="heun", published=True),
    "DPM++ SDE": dpm_solver_pp_sde_single(),
    "dpm-solver++-sde-single:eta=0.6": dpm_solver_pp_sde_single(0.6),
    **{f"res:variant={variant}": res(variant) for variant in ("multistep", "singlestep")},
    "lcm": lcm,
    "tcd": tcd(0.3),
    "tcd:eta=1": tcd(1.0),
    **{f"seeds:order={k},eta={eta}": seeds(k, eta) for k in (1, 2, 3) for eta in (0.0, 0.4, 1.0)},
    **{f"deis:order={k}": deis(k) for k in (0, 1, 2, 3)},
    **{
        f"unipc:order={k},variant={variant},corrector={corrector}": unipc(k, variant, corrector == "true")
        for k in (1, 2, 3)
        for variant in ("bh1", "bh2")
        for corrector in ("true", "false")
    },
    **{
        f"sa-solver:predictor={p},corrector={c},tau={tau}": sa_solver(p, c, tau)
        for p, c in ((1, 0), (1, 1), (2, 1), (3, 0), (3, 3), (2, 3))
        for tau in (0.0, 0.6, 1.0)
    },
    **{f"er-sde:order={k},phi={phi}": er_sde(k, phi) for k in (1, 2, 3) for phi in ("ode", "sde", "sde5")},
}


@pytest.mark.parametrize("grid", thinned(GRIDS, "uneven"))
@pytest.mark.parametrize("spec", REFERENCES)
def test_agrees_with_the_numpy_reference(spec, grid):
    levels = [(level.alpha, level.sigma) for level in map(VP.at_time, GRIDS[grid])]
    expected = REFERENCES[spec](X, levels, NOISE)
    assert np.abs(expected).max() > 0.3
    assert np.abs(draw(spec, grid) - expected).max() < 1e-10


# ---- Two names, one sampler ----


@pytest.mark.parametrize("grid", thinned(GRIDS, "uneven"))
@pytest.mark.parametrize(
    ("spec", "same_as"),
    [
        ("unipc:order=1,corrector=false", "ddim"),
        ("deis:order=0", "ddim"),
        ("sa-solver:predictor=1,corrector=0,tau=0", "ddim"),
        ("er-sde:order=1,phi=ode", "ddim"),
        ("dpm-solver++-sde:order=1,eta=0", "ddim"),
        ("dpm-solver++-sde:order=1", "ddpm"),
        ("sa-solver:predictor=1,corrector=0", "ddpm"),
        ("er-sde:order=1,phi=sde", "ddpm"),
        ("seeds:order=1", "ddpm"),
        ("seeds:order=1,eta=0", "ddim"),
        ("seeds:order=1,eta=0.6", "dpm-solver++-sde:order=1,eta=0.6"),
        ("seeds:eta=0", "dpm-solver++-single"),
        ("seeds:order=3,eta=0", "dpm-solver++-single:order=3"),
        ("dpm-solver++-sde:eta=0", "dpm-solver++"),
        ("dpm-solver++-sde:order=3,eta=0", "dpm-solver++:order=3"),
        ("dpm-solver++-sde:order=3,eta=0,coefficients=published", "dpm-solver++:order=3,coefficients=published"),
        ("unipc:corrector=false", "dpm-solver++"),
        ("dpm-solver++-sde-single:eta=0", "dpm-solver++-single"),
        ("res", "dpm-solver++-sde:variant=heun,eta=0"),
        ("tcd:eta=0", "ddim"),
        ("sa-solver:predictor=2,corrector=0,tau=0.5", "dpm-solver++-sde:variant=heun,eta=0.25"),
        ("sa-solver:predictor=3,corrector=0,tau=1", "dpm-solver++-sde:order=3,variant=heun"),
    ],
)
def test_identities(spec, same_as, grid):
    assert np.abs(draw(spec, grid) - draw(same_as, grid)).max() < 1e-10
    assert np.abs(draw(spec, grid)).max() > 0.3


def test_samplers_that_differ_differ():
    drawn = {spec: draw(spec, "uneven") for spec in REFERENCES}
    same = {a for a, b in itertools.combinations(drawn, 2) if np.abs(drawn[a] - drawn[b]).max() < 1e-6}
    assert len(drawn) - len(same) > 40
    for a, b in (
        ("dpm-solver++:order=3", "dpm-solver++:order=3,coefficients=published"),
        ("dpm-solver++-sde", "dpm-solver++-sde:order=2,variant=heun"),
        ("unipc:order=2,variant=bh1,corrector=true", "unipc:order=2,variant=bh2,corrector=true"),
        ("er-sde:order=2,phi=sde5", "er-sde:order=3,phi=sde5"),
        ("deis:order=3", "deis:order=2"),
    ):
        assert np.abs(drawn[a] - drawn[b]).max() > 1e-5


# ---- Orders ----


def run_over(levels):
    """A run over noisy levels of EDM with the exact prediction for data N(0.4, 0.3), without noise."""
    data = gaussian((0.4,), 0.3)

    def predict(x, level):
        alpha, sigma = (torch.full((len(x), 1), part, dtype=x.dtype) for part in (level.alpha, level.sigma))
        return sb.Prediction(x, level, data.x0(x, alpha, sigma), "x0")

    def no_noise(*where):
        raise AssertionError(f"drew noise at {where}")

    return sb.StepContext(tuple(levels), predict, no_noise, EDM)


def errors_of(spec, warm_up, counts):
    """Largest errors at the end, from the exact state after `warm_up` steps that each start from the exact state."""
    sampler, x0, errors = sb.make_sampler(spec), torch.tensor([[30.0], [-20.0]], dtype=torch.float64), []
    for steps in counts:
        levels = [EDM.at_lambda(-2.5 + 5.5 * i / steps) for i in range(-warm_up, steps + 1)]
        exact = [gaussian_flow(0.4, 0.3, x0, EDM.at_lambda(-2.5), level) for level in levels]
        run, x, past = run_over(levels), exact[0], None
        for i, (a, b) in enumerate(itertools.pairwise(levels)):
            run.enter(i)
            x, past = sampler.step(run, exact[i] if i <= warm_up else x, a, b, past)
        errors.append(float((x - exact[-1]).abs().max()))
    return errors


ORDERS = {
    "dpm-solver++:order=3": (3, 2),
    "dpm-solver++:order=3,coefficients=published": (2, 2),
    "dpm-solver++-single": (2, 2),
    "dpm-solver++-single:order=3": (3, 3),
    "dpm-solver++-sde:eta=0": (2, 2),
    "dpm-solver++-sde:eta=0,order=3": (3, 2),
    "dpm-solver++-sde-single:eta=0": (2, 2),
    "res": (2, 2),
    "res:variant=singlestep": (2, 2),
    "seeds:eta=0": (2, 2),
    "seeds:order=3,eta=0": (3, 3),
    "deis:order=1": (2, 2),
    "deis:order=2": (3, 2),
    "deis:order=3": (4, 2),
    "unipc:order=1": (2, 2),
    "unipc:order=2": (3, 3),
    "unipc:order=3": (4, 3),
    "unipc:order=2,corrector=false": (2, 2),
    "unipc:order=3,corrector=false": (3, 2),
    "sa-solver:tau=0": (2, 2),
    "sa-solver:tau=0,predictor=1": (2, 2),
    "sa-solver:tau=0,predictor=2,corrector=2": (3, 3),
    "sa-solver:tau=0,predictor=3,corrector=3": (4, 3),
    "sa-solver:tau=0,predictor=3,corrector=0": (3, 2),
    "er-sde:phi=ode": (2, 2),
    "er-sde:phi=ode,order=2": (2, 2),
}
"""Spec -> the order from an exact history, and at least from the sampler's own start."""


QUICK_ORDERS = (
    "dpm-solver++:order=3", "dpm-solver++-single", "res", "seeds:order=3,eta=0", "deis:order=2", "unipc:order=2",
    "sa-solver:tau=0,predictor=2,corrector=2", "er-sde:phi=ode",
)  # fmt: skip


@pytest.mark.parametrize("spec", thinned(ORDERS, *QUICK_ORDERS[::4]))
def test_order_of_convergence(spec):
    order, own = ORDERS[spec]
    assert sb.make_sampler(spec).convergence == order
    coarse, fine = errors_of(spec, 6, (400, 800))
    assert fine > 1e-11  # above rounding, so that a slope can be seen
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15 if order < 3 else 0.3)
    coarse, fine = errors_of(spec, 0, (200, 400))
    assert math.log2(coarse / fine) > own - 0.2


def test_the_correctors_ask_once_at_each_level():
    """Though they use the prediction at b within the step to b."""
    for spec in ("unipc", "unipc:order=3", "sa-solver", "sa-solver:predictor=1,corrector=3,tau=0"):
        asked = []

        def network(x, t, asked=asked):
            asked.append(float(t[0]))
            return x.tanh()

        sb.sample(sb.wrap_network(network, VP, (2,)), spec, grid=GRIDS["uneven"], n=2)
        assert asked == GRIDS["uneven"]


# ---- Noise ----


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_mean_and_variance_of_2m_sde_follow_the_recursion_of_their_covariance(eta):
    """(x, previous x0) is a Gaussian vector: its mean and covariance go from step to step by a matrix."""
    m, v, levels = 0.4, 0.3, [VP.at_time(t) for t in GRIDS["even"]]
    pulses = Pulses(len(levels))
    states = sb.sample(
        exact_model(gaussian((m,), v), VP), f"dpm-solver++-sde:eta={eta}", grid=GRIDS["even"], x_init=pulses.rows,
        noise=pulses, trajectory=True,
    ).trajectory  # fmt: skip
    mean, covariance, h_last = np.array([1.4, 0.0]), np.diag([0.5, 0.0]), None
    for (a, b), state in zip(itertools.pairwise(levels), states[1:], strict=False):
        gain = a.alpha * v / (a.alpha**2 * v + a.sigma**2)  # x0 = m + gain (x - alpha m)
        h = b.lambda_ - a.lambda_
        half = h / h_last / 2 if h_last else 0.0
        x0_weight = b.alpha * (1 - math.exp(-(1 + eta) * h))
        kept = b.sigma / a.sigma * math.exp(-eta * h)
        matrix = np.array([[kept + x0_weight * (1 + half) * gain, -x0_weight * half], [gain, 0.0]])
        shift = (m - gain * a.alpha * m) * np.array([x0_weight * (1 + half), 1.0])
        mean, covariance = matrix @ mean + shift, matrix @ covariance @ matrix.T
        covariance[0, 0] += b.sigma**2 * (1 - math.exp(-2 * eta * h))
        h_last = h
        assert moments(state, 1.4, 0.5) == pytest.approx((mean[0], covariance[0, 0]), rel=1e-10)
    assert pulses.drawn == len(levels) - 1


STOCHASTIC = [
    "dpm-solver++-single:eta=0.5", "dpm-solver++-single:eta=1", "dpm-solver++-sde", "dpm-solver++-sde:eta=0.5",
    "dpm-solver++-sde:eta=2,variant=heun", "dpm-solver++-sde:order=3", "DPM++ 3M SDE", "sa-solver",
    "sa-solver:tau=0.4,predictor=3,corrector=3", "sa-solver:tau=1.4", "er-sde", "er-sde:order=2", "er-sde:phi=sde",
    "seeds", "seeds:order=3", "seeds:eta=0.5", "seeds:order=3,eta=1.5", "dpm-solver++-sde-single",
    "dpm-solver++-sde-single:eta=0.5",
]  # fmt: skip


PARTS = ("seeds", "dpm-solver++-sde-single")
"""Samplers that draw noise for the parts of an interval."""


LIMITS = (
    "dpm-solver++-single:eta=1", "dpm-solver++-sde", "dpm-solver++-sde:order=3", "DPM++ 3M SDE", "sa-solver",
    "sa-solver:tau=0.4,predictor=3,corrector=3", "er-sde", "seeds", "dpm-solver++-sde-single",
)  # fmt: skip


@pytest.mark.parametrize("spec", thinned(STOCHASTIC, *LIMITS[1::4]))
def test_gaussian_data_comes_out_with_its_variance_in_the_limit(spec):
    """However strong the noise, the SDE keeps the marginals: the mean exactly, the variance as the steps shrink."""
    errors = []
    for steps in (60, 240):
        pulses = Pulses(3 * steps)  # as many draws as any sampler makes in a step
        x = sb.sample(
            exact_model(gaussian((0.4,), 0.3), EDM, "x0"), spec, steps=steps, grid="karras", x_init=80 * pulses.rows,
            noise=pulses, batch_size=768,  # all rows in one call
        ).x  # fmt: skip
        mean, variance = moments(x, 0.4 / 80, (0.3 + 6400) / 6400)
        assert mean == pytest.approx(0.4, rel=1e-9)
        errors.append(abs(variance - 0.3))
    assert errors[1] < max(errors[0] / 3, 1e-5)  # first order or better over a factor of 4
    assert errors[1] < 6e-3


@pytest.mark.parametrize("spec", thinned([*STOCHASTIC, *ORDERS], *LIMITS, *QUICK_ORDERS))
def test_noise_is_drawn_where_it_has_a_factor_alone(spec):
    drawn = []

    def noise(a, b):
        drawn.append((a.t, b.t))
        return torch.from_numpy(NOISE[0])

    sb.sample(exact_model(MIXTURE, VP), spec, grid=GRIDS["uneven"], x_init=torch.from_numpy(X), noise=noise)
    if spec.startswith(PARTS) and drawn:  # for the parts of an interval, one after the other
        assert all(b == a for (_, b), (a, _) in itertools.pairwise(drawn))
        drawn = list(itertools.pairwise([drawn[0][0], *(b for _, b in drawn if b in GRIDS["uneven"])]))
    assert drawn == (list(itertools.pairwise(GRIDS["uneven"])) if spec in STOCHASTIC else [])


@pytest.mark.parametrize("spec", thinned([*STOCHASTIC, *ORDERS], *LIMITS, *QUICK_ORDERS))
def test_vp_edm_and_flow_are_one_process_in_three_scales(spec):
    levels = [VP.at_time(t) for t in GRIDS["uneven"]]
    sigmas = [level.sigma_ve for level in levels]
    times = [s / (1 + s) for s in sigmas]
    vp, x_edm = draw(spec, "uneven"), X / levels[0].alpha
    assert np.abs(draw(spec, sigmas, EDM, x=x_edm) - vp).max() < 1e-10
    assert np.abs(draw(spec, times, FLOW, x=(1 - times[0]) * x_edm) - vp).max() < 1e-10
    assert np.abs(vp).max() > 0.3


@pytest.mark.parametrize("spec", thinned([*STOCHASTIC, *ORDERS], *LIMITS, *QUICK_ORDERS))
def test_from_alpha_0_the_first_step_aims_at_the_mean(spec):
    model, pulses = exact_model(MIXTURE, FLOW, "v"), Pulses(18)
    start = torch.zeros(20, 2, dtype=torch.float64)

    def noise(a, b):
        return pulses(a, b).expand(20, 2)

    states = sb.sample(model, spec, steps=6, x_init=start, noise=noise, trajectory=True).trajectory
    assert bool(states[-1].isfinite().all())
    mean = (WEIGHTS[:, None] * MEANS).sum(0)
    assert np.abs(states[1][:2].numpy() - 1 / 6 * mean).max() < 1e-12
    if spec in STOCHASTIC:
        assert float(states[1][2, 0] - states[1][0, 0]) > 0.1


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_noise_of_seeds_is_one_path_at_every_place(order, eta):
    """With x0 = 0 a step is linear: the states asked about and the end are a path of the SDE, whose covariance is
    sigma_s sigma_t e^(-eta (t - s)) (1 - e^(-2 eta s)) for s <= t in lambda from the start."""
    a, b, states = EDM.at_time(20.0), EDM.at_time(2.0), []
    rows = torch.zeros(order, 1, dtype=torch.float64)
    pulses = iter(torch.eye(order, dtype=torch.float64)[:, :, None])

    def predict(x, level):
        states.append((level, x))
        return sb.Prediction(x, level, 0 * x, "x0")

    run = sb.StepContext((a, b, EDM.clean), predict, lambda *where: next(pulses), EDM)
    end, _ = sb.make_sampler("seeds", order=order, eta=eta).step(run, rows, a, b, None)
    path = [*states[1:], (b, end)]
    assert len(path) == order
    for (s, x_s), (t, x_t) in itertools.combinations_with_replacement(path, 2):
        s_time, t_time = s.lambda_ - a.lambda_, t.lambda_ - a.lambda_
        covariance = s.sigma * t.sigma * math.exp(-eta * (t_time - s_time)) * (1 - math.exp(-2 * eta * s_time))
        assert float((x_s * x_t).sum()) == pytest.approx(covariance, rel=1e-12)


def test_with_eta_1_dpm_pp_sde_is_seeds_but_for_the_path_of_its_noise():
    """One step of both, from the same noise up to the middle and the same total noise at b."""
    a, b = EDM.at_time(20.0), EDM.at_time(2.0)
    ends = {}
    for name in ("seeds", "dpm-solver++-sde-single"):
        states, draws = [], iter(torch.from_numpy(NOISE))

        def predict(x, level, states=states):
            states.append((level, x))
            return sb.Prediction(x, level, (0.3 * x).tanh(), "x0")

        run = sb.StepContext((a, b, EDM.clean), predict, lambda *where, draws=draws: next(draws), EDM)
        x, _ = sb.make_sampler(name).step(run, 20 * torch.from_numpy(X), a, b, None)
        (_, _), (middle, asked) = states
        h, s_a, s_m, s_b = b.lambda_ - a.lambda_, a.sigma, middle.sigma, b.sigma
        z, later = torch.from_numpy(NOISE[0]), torch.from_numpy(NOISE[1])
        if name == "seeds":  # the linear SDE from the middle to b
            kept = math.exp(-h) * s_m * math.sqrt(1 - math.exp(-h))
            noise = kept * z + s_b * math.sqrt(1 - math.exp(-h)) * later
        else:  # a Brownian path in sigma, scaled to the deviation at b
            part = (s_a - s_m) / (s_a - s_b)
            noise = s_b * math.sqrt(1 - math.exp(-2 * h)) * (math.sqrt(part) * z + math.sqrt(1 - part) * later)
        ends[name] = asked, x - noise
    for one, other in zip(*ends.values(), strict=True):
        assert float(one.abs().max()) > 0.3
        assert float((one - other).abs().max()) < 1e-12


# ---- Consistency models ----


@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_lcm_on_a_consistency_model_gives_the_data_at_any_number_of_steps(steps):
    """A consistency model answers with the end of the path; for Gaussian data the end is linear in the state."""
    m, v, pulses = 0.4, 0.3, Pulses(steps)

    def network(x, t):
        return m + math.sqrt(v / (v + float(t[0]) ** 2)) * (x - m)

    model = sb.wrap_network(network, EDM, (1,), "x0")
    x = sb.sample(model, "lcm", steps=steps, x_init=80 * pulses.rows, noise=pulses).x
    assert moments(x, m / 80, (v + 6400) / 6400) == pytest.approx((m, v), rel=1e-9)
    assert pulses.drawn == steps - 1


@pytest.mark.parametrize("schedule", [EDM, FLOW], ids=["edm", "flow"])
def test_where_time_ends_clean_tcd_with_eta_1_is_lcm(schedule):
    grid = {EDM: [40.0, 9.0, 2.0, 0.8, 0.01], FLOW: [1.0, 0.9, 0.5, 0.1]}[schedule]
    one, other = (draw(spec, grid, schedule, predicts="v") for spec in ("tcd:eta=1", "lcm"))
    assert np.abs(one).max() > 0.3
    assert np.abs(one - other).max() < 1e-12


@pytest.mark.parametrize("eta", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("schedule", [VP, FLOW], ids=["vp", "flow"])
def test_mean_and_variance_of_tcd_follow_the_linear_recursion(schedule, eta):
    """x_b = alpha_b x0 + alpha_b s eps + alpha_b sqrt(s_b^2 - s^2) z, s as sigma / alpha at (1 - eta) t_b."""
    m, v, grid = 0.4, 0.3, {VP: GRIDS["even"], FLOW: [0.98, 0.7, 0.5, 0.2, 0.1]}[schedule]
    pulses, levels = Pulses(len(grid)), [schedule.at_time(t) for t in grid]
    states = sb.sample(
        exact_model(gaussian((m,), v), schedule, "v"), f"tcd:eta={eta}", grid=grid, x_init=pulses.rows, noise=pulses,
        trajectory=True,
    ).trajectory  # fmt: skip
    mean, variance = m + 1.0, 0.5
    for (a, b), state in zip(itertools.pairwise(levels), states[1:], strict=False):
        below = (1 - eta) * b.t
        s = 0.0 if schedule is FLOW and not below else schedule.at_time(below).sigma_ve
        marginal = a.alpha**2 * v + a.sigma**2
        slope = b.alpha * (a.alpha * v + s * a.sigma) / marginal
        mean = b.alpha * m + slope * (mean - a.alpha * m)
        variance = slope**2 * variance + b.sigma**2 - (b.alpha * s) ** 2
        assert moments(state, m + 1.0, 0.5) == pytest.approx((mean, variance), rel=1e-10)
    assert pulses.drawn == len(grid) - 1 - (schedule is VP)  # below timestep 0 there is no time


# ---- Options ----


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tcd:eta=1.2", "'tcd': option eta 1.2: expected a number from 0 to 1"),
        ("dpm-solver++-sde-single:eta=-1", "option eta -1.0: expected a number from 0 to 1"),
        ("res:variant=3m", "expected one of multistep, singlestep"),
        ("dpm-solver++-sde:eta=-0.1", "'dpm-solver\\+\\+-sde': option eta -0.1: expected a number from 0"),
        ("dpm-solver++-single:eta=1.2", "option eta 1.2: expected a number from 0 to 1"),
        ("dpm-solver++-single:eta=0.5,order=3", "option eta 0.5: expected 0 with order 3; use order=2"),
        ("seeds:eta=-0.1", "'seeds': option eta -0.1: expected a number from 0"),
        ("seeds:order=4", "expected one of 1, 2, 3"),
        ("sa-solver:tau=-1", "'sa-solver': option tau -1.0: expected a number from 0"),
        ("sa-solver:corrector=4", "expected one of 0, 1, 2, 3"),
        ("unipc:variant=bh3", "expected one of bh1, bh2"),
        ("unipc:corrector=maybe", "expected true or false"),
        ("deis:order=4", "expected one of 0, 1, 2, 3"),
        ("er-sde:phi=sde9", "expected one of ode, sde, sde5"),
        ("dpm-solver++-sde:varient=heun", "did you mean 'variant'"),
        ("dpm-solver++:coefficients=half", "expected one of exact, published"),
    ],
)
def test_bad_options_are_refused(spec, message):
    with pytest.raises(sb.InputError, match=message):
        sb.make_sampler(spec)


def test_options_out_of_range_are_refused_as_values_too():
    for make in (
        lambda: sb.make_sampler("sa-solver", tau=math.inf),
        lambda: sb.make_sampler("dpm-solver++-sde", eta=math.nan),
    ):
        with pytest.raises(sb.InputError, match="option"):
            make()


@pytest.mark.parametrize(
    ("alias", "spec", "grid"),
    [
        ("DPM++ 2S a Karras", "dpm-solver++-single:eta=1", "karras"),
        ("DPM++ 2M SDE", "dpm-solver++-sde", None),
        ("dpmpp_3m_sde", "dpm-solver++-sde:order=3,variant=heun,coefficients=published", None),
        ("uni_pc_bh2", "unipc", None),
        ("DPM++ SDE Karras", "dpm-solver++-sde-single", "karras"),
        ("dpmpp_sde", "dpm-solver++-sde-single", None),
        ("res_multistep", "res", None),
        ("res_2s", "res:variant=singlestep", None),
        ("LCMScheduler", "lcm", None),
        ("TCD", "tcd", None),
        ("SA-Solver", "sa-solver", None),
        ("er_sde", "er-sde", None),
    ],
)
def test_familiar_names(alias, spec, grid):
    assert default_registry().sampler_and_grid(alias) == (sb.make_sampler(spec), grid)


def test_defaults_and_budgets():
    for name, calls in {"deis": 10, "unipc": 10, "sa-solver": 10, "er-sde": 10, "dpm-solver++-single": 19}.items():
        assert sb.make_sampler(name).nfe(10) == calls
    assert sb.make_sampler("res:variant=singlestep").nfe(10) == sb.make_sampler("DPM++ SDE").nfe(10) == 19
    assert sb.make_sampler("deis").convergence == 4
    assert sb.make_sampler("dpm-solver++-single:order=3").nfe(10) == 28
    assert sb.make_sampler("sa-solver").convergence is None
    assert sb.make_sampler("er-sde").convergence is None


# ---- Grids ----


def levels_of(grid, schedule, steps):
    return default_registry().levels(grid, schedule, steps, integer=False)[:-1]


@pytest.mark.parametrize("schedule", [VP, sb.vp_cosine(100), EDM], ids=["vp", "cosine", "edm"])
@pytest.mark.parametrize("steps", [2, 3, 10, 31])
def test_sigma_grids_follow_the_formula(schedule, steps):
    first, last = schedule.first.sigma_ve, schedule.last.sigma_ve
    u = np.arange(steps) / (steps - 1)
    angles = math.atan(first) + u * (math.atan(last) - math.atan(first))
    formulas = {
        "polyexponential": np.exp(math.log(last) + (1 - u) * math.log(first / last)),
        "polyexponential:rho=2": np.exp(math.log(last) + (1 - u) ** 2 * math.log(first / last)),
        "beta:alpha=1,beta=1": last + (1 - u) * (first - last),
        "beta:alpha=0.5,beta=0.5": last + np.sin((1 - u) * np.pi / 2) ** 2 * (first - last),
        "beta:alpha=2,beta=1": last + (1 - u) ** 0.5 * (first - last),  # I_x(a, 1) = x^a
        "cosine": np.tan(angles),
    }
    for grid, expected in formulas.items():
        got = [level.sigma_ve for level in levels_of(grid, schedule, steps)]
        assert got == pytest.approx(expected.tolist(), rel=1e-9), grid


def test_beta_quantiles_invert_the_integral_of_the_density():
    for a, b in ((0.6, 0.6), (0.6, 1.7), (3.0, 0.4)):
        p = np.linspace(0, 1, 9)
        x = beta_quantiles(p, a, b)
        assert (x[0], x[-1]) == (0.0, 1.0)
        assert np.abs(beta_distribution(x, a, b) - p).max() < 1e-14
        # Midpoints in v with t = v^8 / (v^8 + (1 - v)^8): flat at both ends, where the density is infinite.
        v = (np.arange(200_000) + 0.5) / 200_000
        up, down = v**8, (1 - v) ** 8
        t, one_minus_t = up / (up + down), down / (up + down)
        density = t**a * one_minus_t**b * 8 / (v * (1 - v)) / 200_000  # dt = 8 t (1 - t) / (v (1 - v)) dv
        share = np.array([density[t < x_i].sum() for x_i in x]) / density.sum()
        assert np.abs(share - p).max() < 1e-4


def test_the_beta_grid_is_dense_at_both_ends_and_may_be_laid_out_in_time():
    times = np.array([level.t for level in levels_of("beta:variable=t", VP, 9)])
    assert times == pytest.approx(999 * (1 - beta_quantiles(np.linspace(0, 1, 9), 0.6, 0.6)), rel=1e-9)
    widths = -np.diff(times)
    assert (np.diff(widths)[:3] > 0).all()
    assert widths == pytest.approx(widths[::-1], rel=1e-9)


def test_ays_are_the_published_levels():
    stable_diffusion = sb.vp_scaled_linear()
    got = levels_of("ays", stable_diffusion, 10)
    published = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152]
    assert [level.sigma_ve for level in got] == pytest.approx(published, rel=5e-3)  # three decimals
    timesteps = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    assert max(abs(level.t - t) for level, t in zip(got, timesteps, strict=True)) < 1.2
    sdxl = [999, 845, 730, 587, 443, 310, 193, 116, 53, 13]
    got = levels_of("ays:model=sdxl", stable_diffusion, 10)
    assert max(abs(level.t - t) for level, t in zip(got, sdxl, strict=True)) < 1.2
    video = [700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034]
    got = levels_of("ays:model=svd", sb.edm(0.002, 700.0), 10)
    assert [level.sigma for level in got] == pytest.approx(video, rel=1e-9)
    first_stage = [160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030]
    got = levels_of("ays:model=if", sb.edm(0.006, 160.41), 10)
    assert [level.sigma for level in got] == pytest.approx(first_stage, rel=1e-9)


@pytest.mark.parametrize("schedule", [VP, EDM], ids=["vp", "edm"])
def test_align_your_steps_is_log_linear_between_its_levels(schedule):
    ten, twenty = (np.log([level.sigma_ve for level in levels_of("ays:model=if", schedule, n)]) for n in (10, 20))
    assert twenty[::2] == pytest.approx(ten, rel=1e-9)
    assert twenty[1:-1:2] == pytest.approx((ten[1:] + ten[:-1]) / 2, rel=1e-9)


@pytest.mark.parametrize("grid", ["polyexponential", "beta", "cosine", "ays"])
def test_grids_in_sigma_refuse_flow(grid):
    with pytest.raises(sb.InputError, match=f"grid '{grid}': sigma / alpha is infinite.*'uniform'"):
        levels_of(grid, FLOW, 5)


@pytest.mark.parametrize("schedule", [FLOW, sb.rescale_zero_terminal_snr(VP)], ids=["flow", "zero-snr"])
def test_quantiles_of_time_need_no_finite_sigma(schedule):
    first, last = schedule.first.t, schedule.last.t
    got = [level.t for level in levels_of("beta:alpha=1,beta=1,variable=t", schedule, 5)]
    assert got == pytest.approx(np.linspace(first, last, 5), abs=1e-9)  # Beta(1, 1) is uniform
    assert levels_of("beta:variable=t", schedule, 5)[0] == schedule.first


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("polyexponential:rho=0", "rho 0.0: expected a positive number"),
        ("beta:alpha=0", "alpha 0.0: expected a number above 0"),
        ("beta:beta=11", "beta 11.0: expected a number above 0, at most 10"),
        ("beta:variable=u", "expected one of sigma, t"),
        ("ays:model=sd3", "expected one of sd15, sdxl, if, svd"),
        ("cosine:s=1", "unknown option 's'"),
    ],
)
def test_bad_grid_options_are_refused(grid, message):
    with pytest.raises(sb.InputError, match=message):
        levels_of(grid, EDM, 5)

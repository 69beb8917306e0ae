"""Euler, Heun, DPM2, the linear multistep methods, EDM, Restart, DPM-Solver fast and adaptive against plain NumPy.

Each reference is the published algorithm, in float64, in the variance exploding form x = x0 + sigma eps, with the
exact denoiser D(x, sigma) = E[x0 | x] of a mixture. The samplers run on the EDM schedule, where the two are one.
"""

import itertools
import math

import numpy as np
import pytest
import torch

import samplerbench as sb
from cases import thinned
from samplerbench.plugins.samplers.ipndm import ADAMS_BASHFORTH
from samplerbench.plugins.samplers.ipndm_v import published
from samplerbench.plugins.samplers.lms import coefficients
from samplerbench.samplers.exact import exact_model, gaussian, gaussian_flow
from samplerbench.samplers.registry import default_registry

MEANS = np.array([[-1.0, 0.5], [0.8, 1.0], [0.3, -1.2]])
VARIANCES = np.array([0.02, 0.1, 0.3])
WEIGHTS = np.array([0.5, 0.3, 0.2])
MIXTURE = sb.GaussianMixture(tuple(map(tuple, MEANS.tolist())), tuple(VARIANCES.tolist()), tuple(WEIGHTS.tolist()))
EDM, VP = sb.edm(), sb.vp_linear()

RNG = np.random.default_rng(3)
X = 40.0 * RNG.standard_normal((5, 2))
NOISE = RNG.standard_normal((64, 5, 2))
GRIDS = {
    "karras": [float((40 ** (1 / 7) + i / 11 * (0.01 ** (1 / 7) - 40 ** (1 / 7))) ** 7) for i in range(12)],
    "uneven": [40.0, 31.0, 8.0, 7.0, 2.5, 0.9, 0.7, 0.31, 0.07, 0.05, 0.002],
    "two": [40.0, 0.4],
    "one": [40.0],
}


def denoised(x, sigma):
    """E[x0 | x] by Bayes' rule over the components."""
    s2 = VARIANCES + sigma**2
    residual = x[:, None, :] - MEANS
    log_likelihood = -0.5 * (residual**2).sum(-1) / s2 - np.log(s2) + np.log(WEIGHTS)
    likelihood = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
    posterior = likelihood / likelihood.sum(1, keepdims=True)
    return (posterior[:, :, None] * (MEANS + (VARIANCES / s2)[:, None] * residual)).sum(1)


def slope(x, sigma):
    """dx / dsigma = eps."""
    return (x - denoised(x, sigma)) / sigma


def drawn(spec, sigmas, x=X, noise=NOISE):
    """What the sampler makes of it; the number of draws it made."""
    stream = iter(torch.from_numpy(noise))
    counted = itertools.count()

    def next_noise(a, b):
        next(counted)
        return next(stream)

    result = sb.sample(exact_model(MIXTURE, EDM), spec, grid=sigmas, x_init=torch.from_numpy(x), noise=next_noise).x
    return result.numpy(), next(counted)


# ---- The references ----


def euler(x, sigmas, noise):
    for s, s_next in itertools.pairwise(sigmas):
        x = x + (s_next - s) * slope(x, s)
    return denoised(x, sigmas[-1])


def heun(x, sigmas, noise):
    for s, s_next in itertools.pairwise(sigmas):
        d = slope(x, s)
        x = x + (s_next - s) * (d + slope(x + (s_next - s) * d, s_next)) / 2
    return denoised(x, sigmas[-1])


def heun_in_flow_time(x, sigmas, noise):
    """y = x / (1 + sigma), t = sigma / (1 + sigma), dy / dt = eps - x0."""

    def velocity(y, t):
        sigma = t / (1 - t)
        return slope(y * (1 + sigma), sigma) - denoised(y * (1 + sigma), sigma)

    times = [s / (1 + s) for s in sigmas]
    y = x / (1 + sigmas[0])
    for t, t_next in itertools.pairwise(times):
        v = velocity(y, t)
        y = y + (t_next - t) * (v + velocity(y + (t_next - t) * v, t_next)) / 2
    return denoised(y * (1 + sigmas[-1]), sigmas[-1])


def dpm2(x, sigmas, noise):
    for s, s_next in itertools.pairwise(sigmas):
        middle = math.sqrt(s * s_next)
        x = x + (s_next - s) * slope(x + (middle - s) * slope(x, s), middle)
    return denoised(x, sigmas[-1])


def dpm2_ancestral(eta):
    def run(x, sigmas, noise):
        noise = iter(noise)
        for s, s_next in itertools.pairwise(sigmas):
            up = eta * math.sqrt(s_next**2 * (s**2 - s_next**2) / s**2)
            down = math.sqrt(s_next**2 - up**2)
            middle = math.exp((math.log(s) + math.log(down)) / 2)
            x = x + (down - s) * slope(x + (middle - s) * slope(x, s), middle)
            x = x + up * next(noise) if up else x
        return denoised(x, sigmas[-1])

    return run


def lagrange(nodes, j, at):
    return np.prod([(at - node) / (nodes[j] - node) for k, node in enumerate(nodes) if k != j], axis=0)


def lms(order):
    """The Lagrange polynomials are integrated by Gauss-Legendre quadrature, exact up to degree 9."""
    points, weights = np.polynomial.legendre.leggauss(5)

    def run(x, sigmas, noise):
        slopes = []
        for i, (s, s_next) in enumerate(itertools.pairwise(sigmas)):
            slopes = [slope(x, s), *slopes][:order]
            nodes = sigmas[max(0, i + 1 - order) : i + 1][::-1]
            at = s + (s_next - s) * (points + 1) / 2
            for j, d in enumerate(slopes):
                x = x + (s_next - s) / 2 * (weights * lagrange(nodes, j, at)).sum() * d
        return denoised(x, sigmas[-1])

    return run


def combined(slopes):
    """Adams-Bashforth for equal steps, the newest first."""
    e, n = slopes, len(slopes)
    return {
        1: lambda: e[0],
        2: lambda: (3 * e[0] - e[1]) / 2,
        3: lambda: (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12,
        4: lambda: (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24,
    }[n]()


def ipndm(order):
    def run(x, sigmas, noise):
        slopes = []
        for s, s_next in itertools.pairwise(sigmas):
            slopes = [slope(x, s), *slopes][:order]
            x = x + (s_next - s) * combined(slopes)
        return denoised(x, sigmas[-1])

    return run


def published_weights(h, *older):
    """The weights of iPNDM_v as published, in units of the step: the differences of eps, each times its own factor."""
    weights = np.zeros(len(older) + 1)
    weights[0] = 1
    if older:
        h1 = older[0]
        weights[:2] += h / h1 / 2 * np.array([1, -1])
    if len(older) > 1:
        h2 = older[1]
        factor = (1 - h / (3 * (h + h1)) * (h * (h + h1)) / (h1 * (h1 + h2))) / 2
        weights[:3] += factor * np.array([1, -(1 + h1 / h2), h1 / h2])
    if len(older) > 2:
        h3 = older[2]
        factor = (1 - h / (3 * (h + h1))) / 2 + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
        factor *= h * (h + h1) * (h + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
        q = h1 * (h1 + h2) / (h2 * (h2 + h3))
        weights += factor * np.array([1, -(1 + h1 / h2 + q), h1 / h2 + q * (1 + h2 / h3), -q * h1 / h2])
    return weights


def ipndm_v_as_published(order):
    def run(x, sigmas, noise):
        slopes = []
        for i, (s, s_next) in enumerate(itertools.pairwise(sigmas)):
            slopes = [slope(x, s), *slopes][:order]
            steps = [sigmas[k + 1] - sigmas[k] for k in range(i, i - len(slopes), -1)]
            x = x + (s_next - s) * sum(w * d for w, d in zip(published_weights(*steps), slopes, strict=True))
        return denoised(x, sigmas[-1])

    return run


def gradient_estimation(gamma):
    def run(x, sigmas, noise):
        before = None
        for s, s_next in itertools.pairwise(sigmas):
            d = slope(x, s)
            x = x + (s_next - s) * (d if before is None else gamma * d + (1 - gamma) * before)
            before = d
        return denoised(x, sigmas[-1])

    return run


def plms(x, sigmas, noise):
    """PLMS of latent diffusion: improved Euler, then two, three and four predictions, in DDIM's transfer."""
    slopes = []
    for s, s_next in itertools.pairwise(sigmas):
        slopes = [slope(x, s), *slopes][:4]
        e = combined(slopes)
        if len(slopes) == 1:
            e = (e + slope(x + (s_next - s) * e, s_next)) / 2
        x0 = x - s * e
        x = x0 + s_next * e
    return denoised(x, sigmas[-1])


def edm(churn, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0):
    """Algorithm 2 of Karras et al., with t_hat at most t_0, and t_hat = t before the last step."""

    def run(x, sigmas, noise):
        noise = iter(noise)
        for t, t_next in itertools.pairwise(sigmas):
            gamma = min(churn / len(sigmas), math.sqrt(2) - 1) if s_tmin <= t <= s_tmax else 0.0
            t_hat = min(t + gamma * t, sigmas[0])
            if t_hat > t:
                x = x + math.sqrt(t_hat**2 - t**2) * s_noise * next(noise)
            d = slope(x, t_hat)
            x = x + (t_next - t_hat) * (d + slope(x + (t_next - t_hat) * d, t_next)) / 2
        return denoised(x, sigmas[-1])

    return run


def restart(k, steps, s_min, s_max):
    """Restart as in the authors' code, with one restart interval."""

    def run(x, sigmas, noise):
        noise = iter(noise)
        turn = min(range(1, len(sigmas)), key=lambda i: abs(sigmas[i] - s_min), default=None)
        for i, (s, s_next) in enumerate(itertools.pairwise(sigmas), 1):
            d = slope(x, s)
            x = x + (s_next - s) * (d + slope(x + (s_next - s) * d, s_next)) / 2
            if i != turn:
                continue
            top = s_max if s_max > s_next else s_next * s_max / s_min
            stretch = [
                (top ** (1 / 7) + j / (steps - 1) * (s_next ** (1 / 7) - top ** (1 / 7))) ** 7 for j in range(steps)
            ]
            for _ in range(k):
                x = x + math.sqrt(stretch[0] ** 2 - stretch[-1] ** 2) * next(noise)
                for t, t_next in itertools.pairwise(stretch):
                    d = slope(x, t)
                    x = x + (t_next - t) * (d + slope(x + (t_next - t) * d, t_next)) / 2
        return denoised(x, sigmas[-1])

    return run


def adaptive(order, rtol=0.05, atol=0.0078, h_init=0.05):
    """DPM-Solver-12 or -23, sample by sample, with k-diffusion's controller."""

    def one(x, s_first, s_last, h):
        lambda_, end, previous = -math.log(s_first), -math.log(s_last), x
        while lambda_ < end:
            after = end if lambda_ + h > end - 1e-5 else lambda_ + h
            low, high = orders(x, lambda_, after - lambda_)
            delta = np.maximum(atol, rtol * np.maximum(abs(low), abs(previous)))
            error = math.sqrt((((low - high) / delta) ** 2).mean())
            factor = 1 + math.atan((1 / (error + 1e-8)) ** (1 / order) - 1)
            if factor >= 0.81:
                x, previous, h, lambda_ = high, low, (after - lambda_) * factor, after
            else:
                h = (after - lambda_) * factor
        return x, h

    def orders(x, lambda_, h):
        def eps(u, part):
            return slope(u, math.exp(-lambda_ - part * h))

        def sigma(part):
            return math.exp(-lambda_ - part * h)

        e = eps(x, 0)
        first = x - sigma(1) * math.expm1(h) * e
        if order == 2:
            u = x - sigma(1 / 2) * math.expm1(h / 2) * e
            return first, first - sigma(1) * math.expm1(h) * (eps(u, 1 / 2) - e)
        d1 = eps(x - sigma(1 / 3) * math.expm1(h / 3) * e, 1 / 3) - e
        w = 2 * h / 3
        u2 = x - sigma(2 / 3) * math.expm1(w) * e - 2 * sigma(2 / 3) * (math.expm1(w) / w - 1) * d1
        d2 = eps(u2, 2 / 3) - e
        return first - 1.5 * sigma(1) * math.expm1(h) * d1, first - 1.5 * sigma(1) * (math.expm1(h) / h - 1) * d2

    def run(x, sigmas, noise):
        rows = []
        for row in np.split(x, len(x)):
            state, h = row, h_init
            for s_first, s_last in itertools.pairwise(sigmas):  # the step goes on from one interval to the next
                state, h = one(state, s_first, s_last, h)
            rows.append(state)
        return denoised(np.concatenate(rows), sigmas[-1])

    return run


REFERENCES = {
    "euler": euler,
    "heun": heun,
    "heun:variable=t": heun_in_flow_time,
    "dpm2": dpm2,
    "dpm2-a": dpm2_ancestral(1.0),
    "dpm2-a:eta=0.6": dpm2_ancestral(0.6),
    "dpm2-a:eta=0": dpm2,
    **{f"lms:order={order}": lms(order) for order in (1, 2, 3, 4)},
    **{f"ipndm:order={order}": ipndm(order) for order in (1, 2, 3, 4)},
    **{f"ipndm-v:order={order}": lms(order) for order in (1, 2, 3, 4)},
    **{f"ipndm-v:order={order},coefficients=published": ipndm_v_as_published(order) for order in (2, 3, 4)},
    **{f"gradient-estimation:gamma={gamma}": gradient_estimation(gamma) for gamma in (2, 1.5, 1, 0.5)},
    "plms": plms,
    "edm": heun,
    "edm:churn=2": edm(2),
    "edm:churn=40,s_tmin=0.05,s_tmax=20,s_noise=1.003": edm(40, 0.05, 20, 1.003),
    "restart": restart(2, 3, 0.06, 0.3),
    "restart:k=3,steps=5,s_min=0.5,s_max=9": restart(3, 5, 0.5, 9),
    "restart:k=0": heun,
}


@pytest.mark.parametrize("grid", thinned(GRIDS, "uneven"))
@pytest.mark.parametrize("spec", REFERENCES)
def test_agrees_with_the_numpy_reference(spec, grid):
    sigmas = GRIDS[grid]
    expected = REFERENCES[spec](X, sigmas, NOISE)
    assert np.abs(expected).max() > 0.3
    assert np.abs(drawn(spec, sigmas)[0] - expected).max() < 1e-10


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(
    "options",
    thinned([{}, {"rtol": 1e-3, "atol": 1e-4}, {"h": 4.0}], {}, {"h": 4.0}),
    ids=["default", "strict", "rejected"],
)
def test_adaptive_agrees_with_the_numpy_reference(order, options):
    names = {"h": "h_init"}
    reference = adaptive(order, **{names.get(name, name): value for name, value in options.items()})
    sampler = sb.make_sampler("dpm-solver-adaptive", order=order, **options)
    for sigmas in ([40.0, 0.002], [40.0, 2.0, 0.05], [40.0]):
        assert np.abs(drawn(sampler, sigmas)[0] - reference(X, sigmas, None)).max() < 1e-10


# ---- DPM-Solver-fast ----


def published_orders(nfe):
    """The list of DPM-Solver-fast for a budget, as its authors' code and k-diffusion have it."""
    thirds = nfe // 3
    return {0: [3] * (thirds - 1) + [2, 1], 1: [3] * thirds + [1], 2: [3] * thirds + [2]}[nfe % 3]


def fast(x, sigmas, orders):
    """DPM-Solver of the order in the list, interval by interval."""
    for s, s_next, order in zip(sigmas, sigmas[1:], orders, strict=False):
        h = math.log(s / s_next)
        e = slope(x, s)
        first = x - s_next * math.expm1(h) * e
        if order == 1:
            x = first
        elif order == 2:
            middle = s * math.exp(-h / 2)
            x = x - s_next * math.expm1(h) * slope(x - middle * math.expm1(h / 2) * e, middle)
        else:
            s1, s2, w = s * math.exp(-h / 3), s * math.exp(-2 * h / 3), 2 * h / 3
            d1 = slope(x - s1 * math.expm1(h / 3) * e, s1) - e
            d2 = slope(x - s2 * math.expm1(w) * e - 2 * s2 * (math.expm1(w) / w - 1) * d1, s2) - e
            x = first - 1.5 * s_next * (math.expm1(h) / h - 1) * d2
    return denoised(x, sigmas[-1])


@pytest.mark.parametrize("nfe", range(1, 32))
def test_fast_meets_every_budget_with_the_published_orders_where_the_clean_end_allows(nfe):
    """The interval to the clean end takes one call, so a published list that ends with 2 ends with 2, 1 instead."""
    sampler, steps = sb.make_sampler("dpm-solver:plan=fast").plan(nfe)
    orders = [1] if nfe == 1 else [1, 1] if nfe == 2 else published_orders(nfe)
    if orders[-1] != 1:
        orders = [*orders[:-2], 2, 2, 1]
    assert (len(orders), sum(orders)) == (steps, nfe)
    sigmas = [float(s) for s in np.geomspace(40.0, 0.01, steps)]
    got = sb.sample(exact_model(MIXTURE, EDM), sampler, grid=sigmas, x_init=torch.from_numpy(X))
    assert sampler.nfe(steps) == got.nfe == nfe
    assert np.abs(got.x.numpy() - fast(X, sigmas, orders)).max() < 1e-10


@pytest.mark.parametrize("saved", thinned([0, 1, 2], 2))
def test_fast_declares_its_calls_for_any_number_of_steps(saved):
    sampler = sb.make_sampler("dpm-solver:plan=fast", saved=saved)
    for steps in range(1, 20):
        calls = sb.sample(exact_model(MIXTURE, VP), sampler, steps=steps, n=1).nfe
        assert calls == sampler.nfe(steps) == (3 * (steps - 1) + 1 - saved if steps > 1 else 1)


@pytest.mark.parametrize("saved", thinned([0, 1, 2], 0))
def test_fast_is_of_order_3_up_to_the_jump_to_the_clean_end(saved):
    """One or two intervals of order 2, with errors of h^3, do not spoil it; one of order 1 would."""
    sampler, data = sb.make_sampler("dpm-solver:plan=fast", saved=saved), gaussian((0.4,), 0.3)
    x0, errors = torch.tensor([[30.0], [-20.0]], dtype=torch.float64), []

    def predict(x, level):
        sigma = torch.full((len(x), 1), level.sigma, dtype=x.dtype)
        return sb.Prediction(x, level, data.x0(x, torch.ones_like(sigma), sigma), "x0")

    for steps in (100, 200, 400):
        levels = [EDM.at_lambda(-2.5 + 5.5 * i / steps) for i in range(steps + 1)]
        run, x = sb.StepContext(tuple(levels), predict, None, EDM), x0
        for i, (a, b) in enumerate(itertools.pairwise(levels)):
            run.enter(i)
            x, _ = sampler.step(run, x, a, b, None)
        errors.append(float((x - gaussian_flow(0.4, 0.3, x0, levels[0], levels[-1])).abs().max()))
    assert errors[-1] > 1e-11  # above rounding, so that a slope can be seen
    assert math.log2(errors[1] / errors[2]) == pytest.approx(sampler.convergence, abs=0.3)


# ---- Linear multistep coefficients ----


@pytest.mark.parametrize("nodes", [[5.0], [5.0, 6.0], [5.0, 9.0, 9.5], [5.0, 5.5, 12.0, 80.0]])
def test_lms_coefficients_integrate_polynomials_exactly(nodes):
    c = coefficients(nodes, 5.0, 1.5)
    for power in range(len(nodes)):
        integral = (1.5 ** (power + 1) - 5.0 ** (power + 1)) / (power + 1)
        assert sum(c_j * node**power for c_j, node in zip(c, nodes, strict=True)) == pytest.approx(integral, rel=1e-12)


@pytest.mark.parametrize("order", ADAMS_BASHFORTH)
def test_on_equal_steps_the_coefficients_are_the_constant_ones(order):
    nodes = [3.0 + j * 0.25 for j in range(order)]
    assert np.array(coefficients(nodes, 3.0, 2.75)) / -0.25 == pytest.approx(ADAMS_BASHFORTH[order], rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_on_equal_steps_ipndm_is_lms(order):
    equal, unequal = [4.0 - 0.25 * i for i in range(16)], GRIDS["uneven"]
    x = X / 10
    assert np.abs(drawn(f"ipndm:order={order}", equal, x)[0] - drawn(f"lms:order={order}", equal, x)[0]).max() < 1e-12
    apart = np.abs(drawn(f"ipndm:order={order}", unequal)[0] - drawn(f"lms:order={order}", unequal)[0]).max()
    assert apart < 1e-12 if order == 1 else apart > 1e-3


def test_the_weights_of_ipndm_v_are_the_published_numbers():
    nodes = [1.0, 2.0, 4.0]
    exact = coefficients(nodes, 1.0, 0.5)
    assert np.array(exact) / -0.5 == pytest.approx([1.361, -0.417, 0.056], abs=5e-4)
    assert np.array(published(exact, [0.5, *nodes])) / -0.5 == pytest.approx([1.736, -0.979, 0.243], abs=5e-4)


def test_what_the_slips_of_ipndm_v_change():
    """On equal steps order 3 nothing; order 4 adds up to 1 only where all neighbouring steps have one ratio."""
    equal = [3.0, 3.25, 3.5, 3.75]
    exact = coefficients(equal[:3], 3.0, 2.75)
    assert published(exact, [2.75, *equal[:3]]) == pytest.approx(exact, rel=1e-12)
    exact = coefficients(equal, 3.0, 2.75)
    with_slips = np.array(published(exact, [2.75, *equal])) / -0.25
    assert with_slips == pytest.approx(np.array(exact) / -0.25 + np.array([1, -3, 3, -1]) / 12, rel=1e-12)
    for last, total in ((8.0, 1.0), (9.0, 0.9983)):
        nodes = [1.0, 2.0, 4.0, last]
        weights = published(coefficients(nodes, 1.0, 0.5), [0.5, *nodes])
        assert sum(weights) / -0.5 == pytest.approx(total, rel=1e-12 if total == 1 else 1e-3)
        assert (abs(sum(weights) / -0.5 - 1) < 1e-12) == (total == 1)


@pytest.mark.slow
@pytest.mark.further
def test_the_published_order_4_of_ipndm_v_converges_with_order_2_or_3_by_the_ratio_of_steps():
    x0, slopes = torch.from_numpy(X[:2]), []
    for at in (lambda u: math.exp(2 - 4 * u), lambda u: (7 ** (1 / 7) + u * (0.1 ** (1 / 7) - 7 ** (1 / 7))) ** 7):
        errors = []
        for steps in (400, 800):
            levels = [EDM.at_time(at(i / steps)) for i in range(-6, steps + 1)]
            exact = [gaussian_flow(0.4, 0.3, x0, levels[0], level) for level in levels]
            run, past = (
                sb.StepContext(tuple(levels), predictor_of(exact_model(gaussian((0.4, 0.4), 0.3), EDM)), no_noise, EDM),
                None,
            )
            x = exact[0]
            for i, (a, b) in enumerate(itertools.pairwise(levels)):
                x, past = sb.make_sampler("ipndm-v:order=4,coefficients=published").step(
                    run, exact[i] if i <= 6 else x, a, b, past
                )
            errors.append(float((x - exact[-1]).abs().max()))
        slopes.append(math.log2(errors[0] / errors[1]))
    assert slopes == [pytest.approx(3, abs=0.2), pytest.approx(2, abs=0.15)]


@pytest.mark.parametrize("spec", ["plms", "ipndm:order=2", "ipndm:order=3", "ipndm:order=4", "lms", "lms:order=2"])
@pytest.mark.parametrize("ratio", [3, 1 / 3])
def test_constant_coefficients_lose_an_order_where_neighbouring_steps_differ(spec, ratio):
    """The error of one step from an exact history falls with h^2 for any constant order, h^(order + 1) for lms."""
    sampler = sb.make_sampler(spec)
    model, errors = exact_model(gaussian((0.4, 0.4), 0.3), EDM), []
    start = EDM.at_time(20.0)
    for h in (0.02, 0.01):
        back = [h, h * ratio, h, h * ratio]  # before them the last step, h, after a step of h * ratio
        levels = [EDM.at_time(1.0 + sum(back[i:])) for i in range(5)] + [EDM.at_time(1.0 - h)]
        run = sb.StepContext(tuple(levels), predictor_of(model), no_noise, EDM)
        past = None
        for a, b in itertools.pairwise(levels):
            x, past = sampler.step(run, gaussian_flow(0.4, 0.3, torch.from_numpy(X), start, a), a, b, past)
        errors.append(float((x - gaussian_flow(0.4, 0.3, torch.from_numpy(X), start, levels[-1])).abs().max()))
    assert errors[-1] > 1e-12
    lms_order = {"lms": 4, "lms:order=2": 2}.get(spec, 1)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(lms_order + 1, abs=0.25)


def predictor_of(model):
    network = model.network(torch.device("cpu"), torch.float64)

    def predict(x, level):
        return sb.Prediction(x, level, network(x, torch.full((len(x),), level.t, dtype=x.dtype)), "eps")

    return predict


def no_noise(*where):
    raise AssertionError(f"a deterministic sampler drew noise at {where}")


# ---- Noise ----


def test_churn_is_kept_within_its_range_and_off_both_ends():
    sigmas = GRIDS["uneven"]
    assert drawn("edm", sigmas)[1] == 0
    assert drawn("edm:churn=3", sigmas)[1] == len(sigmas) - 2  # not above the first level, not before the last step
    assert drawn("edm:churn=3,s_tmin=0.5,s_tmax=8", sigmas)[1] == 5  # 8.0, 7.0, 2.5, 0.9, 0.7
    assert drawn("edm:churn=3,s_noise=0", sigmas)[1] == 0
    assert np.array_equal(drawn("edm:churn=3,s_tmin=100", sigmas)[0], drawn("heun", sigmas)[0])
    assert np.abs(drawn("edm:churn=3", sigmas)[0] - drawn("heun", sigmas)[0]).max() > 1e-3


def test_churn_and_restart_keep_the_marginal_distribution():
    """Linear response on N(0.4, 0.3): the end's variance is that of the data, however the noise is cycled."""
    for spec, draws in (("edm:churn=30", 118), ("restart:k=4,steps=40,s_min=0.1,s_max=20", 4)):
        rows = torch.zeros(2 + draws, 1, dtype=torch.float64)
        rows[1] = 1
        count = itertools.count(2)

        def pulse(a, b, rows=rows, count=count):
            z = torch.zeros_like(rows)
            z[next(count)] = 1
            return z

        x = sb.sample(exact_model(gaussian((0.4,), 0.3), EDM), spec, steps=120, x_init=rows, noise=pulse).x
        assert next(count) == 2 + draws
        offset, first, added = x[0].item(), (x[1] - x[0]).item(), x[2:] - x[0]
        assert offset == pytest.approx(0.4 * (1 - first), rel=1e-9)
        variance = first**2 * (0.3 + 80.0**2) + float(added.square().sum())
        assert variance == pytest.approx(0.3, rel=2e-2)
        assert float(added.square().sum()) > 0.05  # most of what is left was drawn on the way


def test_restart_turns_at_the_level_nearest_to_s_min():
    asked = []
    sigmas = [40.0, 9.0, 1.0, 0.1, 0.01]

    def network(x, t):
        asked.append(float(t[0]))
        return x / 41

    model = sb.wrap_network(network, EDM, (2,))
    sb.sample(model, "restart:k=2,steps=3,s_min=0.6,s_max=4", grid=sigmas, x_init=torch.from_numpy(X))
    middle = ((4 ** (1 / 7) + 1) / 2) ** 7
    stretch = [4.0, middle, middle, 1.0]
    assert asked == pytest.approx([40.0, 9.0, 9.0, 1.0, *stretch, *stretch, 1.0, 0.1, 0.1, 0.01, 0.01], rel=1e-12)


@pytest.mark.parametrize("sigmas", [[40.0, 30.0], [40.0, 39.0, 38.0], [0.3, 0.2], [0.05, 0.01]])
def test_restart_makes_its_calls_on_a_grid_that_has_no_room_for_it(sigmas):
    sampler = sb.make_sampler("restart")
    calls = []

    def network(x, t):
        calls.append(float(t[0]))
        return x / 41

    x = torch.from_numpy(X)
    assert bool(sb.sample(sb.wrap_network(network, EDM, (2,)), sampler, grid=sigmas, x_init=x).x.isfinite().all())
    assert len(calls) == sampler.nfe(len(sigmas))
    assert max(calls) == sigmas[0]


# ---- Heun ----


@pytest.mark.slow
@pytest.mark.further
def test_heun_in_sigma_and_in_t_are_two_methods_of_one_limit():
    coarse, fine = ([float(s) for s in np.geomspace(40, 0.05, n)] for n in (12, 400))
    assert np.abs(drawn("heun", coarse)[0] - drawn("heun:variable=t", coarse)[0]).max() > 1e-3
    assert np.abs(drawn("heun", fine)[0] - drawn("heun:variable=t", fine)[0]).max() < 1e-4


def test_heun_in_t_is_the_flow_libraries_heun():
    """x_b = x_a + dt (f_a + f_b) / 2 with the network's own answer f = eps - x0."""
    model = exact_model(MIXTURE, sb.flow(), "flow")
    network = model.network(torch.device("cpu"), torch.float64)

    def f(x, t):
        return network(x, torch.full((len(x),), t, dtype=x.dtype))

    times = [0.98, 0.9, 0.7, 0.4, 0.2, 0.05]
    x = start = torch.from_numpy(X / 40)
    for t, t_next in itertools.pairwise(times):
        v = f(x, t)
        x = x + (t_next - t) * (v + f(x + (t_next - t) * v, t_next)) / 2
    x = x - times[-1] * f(x, times[-1])
    got = sb.sample(model, "heun:variable=t", grid=times, x_init=start).x
    assert float((got - x).abs().max()) < 1e-12
    assert float(x.abs().max()) > 0.3


# ---- Adaptive steps ----


def test_adaptive_takes_each_sample_as_if_it_were_alone():
    model = exact_model(MIXTURE, EDM)
    x = torch.from_numpy(X)
    together = sb.sample(model, "dpm-solver-adaptive", grid=[40.0, 0.002], x_init=x)
    alone = [sb.sample(model, "dpm-solver-adaptive", grid=[40.0, 0.002], x_init=row[None]) for row in x]
    assert torch.equal(together.x, torch.cat([one.x for one in alone]))
    assert len({one.nfe for one in alone}) > 1
    assert all(isinstance(one.nfe, int) for one in alone)
    assert together.nfe == pytest.approx(sum(one.nfe for one in alone) / len(alone), rel=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_adaptive_takes_the_same_steps_whatever_the_scale_of_the_state(order):
    """The error is that of x / alpha: a VP run divides its intervals as the EDM run at the same sigma / alpha."""
    times = [900, 500, 40]
    levels = [VP.at_time(t) for t in times]
    x, spec = torch.from_numpy(X), f"dpm-solver-adaptive:order={order}"
    scale = levels[0].alpha
    vp = sb.sample(exact_model(MIXTURE, VP), spec, grid=times, x_init=x * scale)
    edm = sb.sample(exact_model(MIXTURE, EDM), spec, grid=[level.sigma_ve for level in levels], x_init=x)
    assert vp.nfe == edm.nfe
    assert float((vp.x - edm.x).abs().max()) < 1e-10
    assert float(vp.x.abs().max()) > 0.3


def test_adaptive_asks_with_each_samples_own_prompt():
    """Condition and guidance follow the sample, though it is asked about by itself."""

    def network(x, t, condition):
        return (x - condition) / (t[:, None] + 1)

    def encode(prompts):
        return torch.tensor([[float(prompt or 0)] for prompt in prompts])

    model = sb.wrap_network(network, EDM, (2,), encode=encode)
    prompts, x = ["1", "5", "-3"], torch.from_numpy(X[:3])

    def ask(which, state):
        return sb.sample(model, "dpm-solver-adaptive", grid=[40.0, 0.01], prompts=which, guidance=2.0, x_init=state)

    together = ask(prompts, x)
    for k, prompt in enumerate(prompts):
        assert torch.equal(together.x[k : k + 1], ask([prompt], x[k : k + 1]).x)
    assert together.network_evaluations == 2 * together.nfe


@pytest.mark.slow
@pytest.mark.further
def test_adaptive_is_as_close_as_it_is_told_and_works_more_for_it():
    """A tolerance 8 times finer: an error several times smaller, with about 8^(1/3) times the steps."""
    exact = drawn("dpm-solver:order=3", [float(s) for s in np.geomspace(40, 0.002, 2000)])[0]
    model, x, errors, calls = exact_model(MIXTURE, EDM), torch.from_numpy(X), [], []
    for rtol in (0.05, 0.05 / 8, 0.05 / 64):
        sampler = sb.make_sampler("dpm-solver-adaptive", rtol=rtol, atol=rtol / 6)
        got = sb.sample(model, sampler, grid=[40.0, 0.002], x_init=x)
        errors.append(float(np.abs(got.x.numpy() - exact).mean()))
        calls.append(got.nfe)
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[0] < 0.15
    assert calls[0] < calls[1] < calls[2] < 4 * calls[0]


def test_adaptive_ends_where_the_network_knows_whole_timesteps_only():
    """Even with a tolerance that no step meets: one timestep is the shortest step, and is taken."""
    table = sb.vp_linear(30, 1e-3, 0.3)
    exact, asked = exact_model(MIXTURE, table), []

    def network(x, t):
        asked.append(int(t[0]))
        return exact.network(x.device, x.dtype)(x, t.to(x.dtype))

    model = sb.wrap_network(network, table, (2,), timesteps="integer")
    x = torch.from_numpy(X / 40)
    got = sb.sample(model, sb.make_sampler("dpm-solver-adaptive", rtol=1e-12, atol=1e-12), steps=2, x_init=x)
    assert {0, 15, 29} <= set(asked) <= set(range(30))
    assert float((got.x - sb.sample(model, "ddim", steps=30, x_init=x).x).abs().max()) < 0.2


def test_adaptive_gives_up_on_a_network_that_is_not_finite():
    model = sb.wrap_network(lambda x, t: x * math.nan, VP, (2,))
    with pytest.raises(sb.NetworkFault, match="timestep 999"):
        sb.sample(model, "dpm-solver-adaptive", steps=2, x_init=torch.from_numpy(X))


# ---- Options, names, counts ----


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("euler:eta=1", "sampler 'euler': unknown option 'eta'; options: none"),
        ("heun:variable=x", "option variable 'x': expected one of sigma, t"),
        ("dpm2-a:eta=1.2", "sampler 'dpm2-a': option eta 1.2: expected a number from 0 to 1"),
        ("dpm2-a:eta=-1", "option eta -1.0: expected a number from 0 to 1"),
        ("lms:order=5", "option order '5': expected one of 1, 2, 3, 4"),
        ("ipndm:order=0", "option order '0': expected one of 1, 2, 3, 4"),
        ("plms:order=2", "sampler 'plms': unknown option 'order'; options: none"),
        ("edm:churn=-1", "sampler 'edm': option churn -1.0: expected a number from 0 up"),
        ("edm:s_tmin=2,s_tmax=1", "sampler 'edm': option s_tmax 1.0: expected a number from 2 up"),
        ("edm:s_noise=-0.1", "option s_noise -0.1: expected a number from 0 up"),
        ("restart:k=-1", "sampler 'restart': option k -1: expected a whole number from 0 up"),
        ("restart:steps=1", "option steps 1: expected a whole number from 2 up"),
        ("restart:s_min=0.5", "options s_min 0.5, s_max 0.3: expected 0 < s_min < s_max"),
        ("restart:s_min=0", "options s_min 0.0, s_max 0.3: expected 0 < s_min < s_max"),
        ("dpm-solver-adaptive:order=1", "option order '1': expected one of 2, 3"),
        ("dpm-solver-adaptive:rtol=0", "option rtol 0.0: expected a positive number"),
        ("dpm-solver-adaptive:h=-1", "option h -1.0: expected a positive number"),
    ],
)
def test_an_option_out_of_range_is_refused_with_what_is_accepted(spec, message):
    with pytest.raises(sb.InputError) as caught:
        sb.make_sampler(spec)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("alias", "spec"),
    [
        ("Euler", "euler"),
        ("k_euler", "euler"),
        ("Heun", "heun"),
        ("k_heun", "heun"),
        ("DPM2", "dpm2"),
        ("DPM2 a", "dpm2-a"),
        ("dpm_2_ancestral", "dpm2-a"),
        ("LMS", "lms"),
        ("k_lms", "lms"),
        ("LMS Karras", "lms"),
        ("PLMS", "plms"),
        ("iPNDM_v", "ipndm-v"),
        ("gradient_estimation", "gradient-estimation"),
        ("DPM adaptive", "dpm-solver-adaptive"),
        ("dpm_adaptive", "dpm-solver-adaptive"),
        ("dpm_fast", "dpm-solver:plan=fast"),
    ],
)
def test_familiar_names(alias, spec):
    assert default_registry().sampler(alias) == sb.make_sampler(spec)


@pytest.mark.parametrize(
    ("spec", "one", "ten"),
    [
        ("euler", 1, 10),
        ("heun", 1, 19),
        ("dpm2", 1, 19),
        ("dpm2-a", 1, 19),
        ("lms", 1, 10),
        ("plms", 1, 11),
        ("ipndm", 1, 10),
        ("edm:churn=5", 1, 19),
        ("restart", 1, 27),
        ("restart:k=3,steps=5", 1, 43),
        ("restart:k=0", 1, 19),
    ],
)
def test_declared_calls_are_made(spec, one, ten):
    sampler = sb.make_sampler(spec)
    for steps, calls in ((1, one), (10, ten)):
        assert sampler.nfe(steps) == calls
        assert sb.sample(exact_model(MIXTURE, VP), sampler, steps=steps, n=2).nfe == calls


@pytest.mark.parametrize("spec", ["dpm2-a:eta=0", "edm:churn=0", "restart:k=0", "dpm-solver-adaptive", "plms"])
def test_without_noise_an_order_is_claimed(spec):
    assert sb.make_sampler(spec).convergence in (2, 3)


@pytest.mark.parametrize("spec", ["dpm2-a", "edm:churn=1", "restart"])
def test_with_noise_none_is(spec):
    assert sb.make_sampler(spec).convergence is None

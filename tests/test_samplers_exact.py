"""Every registered sampler against models whose answer is known: identities, orders, moments, counts.

All in float64 unless a test says otherwise. The samplers come from the registry, each with every value of its
enumerated options, so a new one is held to the same claims by being registered.
"""

import dataclasses
import itertools
import math
from typing import Literal, get_args, get_origin

import pytest
import torch

import samplerbench as sb
from samplerbench.samplers.exact import exact_model, gaussian, gaussian_flow, point
from samplerbench.samplers.registry import options_of
from samplerbench.samplers.sampler import integrate

VP, EDM, FLOW = sb.vp_linear(), sb.edm(), sb.flow()
PREDICTS = ("eps", "x0", "v", "flow")
MIXTURE = sb.GaussianMixture(((-1.0, 0.5), (0.8, 1.0), (0.3, -1.2)), (0.02, 0.1, 0.3), (0.5, 0.3, 0.2))
X_INIT = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GRIDS = {
    "uniform": [999, 888, 777, 666, 555, 444, 333, 222, 111, 0],
    "uneven": [999, 950, 600, 590, 200, 150, 20, 3],
    "fractional": [990.5, 700.25, 410.0, 99.9, 12.5, 0.5],
    "one": [999],
    "two": [700, 10],
}


def variants():
    """Spec strings of every registered sampler: as it is, and with each other value of enumerated options."""
    for name, cls in sb.list_samplers().items():
        yield name
        for key, option in options_of(cls).items():
            if get_origin(option.kind) is Literal:
                others = (value for value in get_args(option.kind) if value != option.default)
                yield from (f"{name}:{key}={value}" for value in others)


SPECS = list(variants())
DETERMINISTIC = [spec for spec in SPECS if sb.make_sampler(spec).convergence is not None]
STOCHASTIC = [spec for spec in SPECS if sb.make_sampler(spec).convergence is None]


class Stream:
    """Seeded noise that ignores the levels; keeps the intervals it was asked for."""

    def __init__(self, shape=X_INIT.shape):
        self.shape, self.intervals = shape, []
        self.generator = torch.Generator().manual_seed(1)

    def __call__(self, a, b):
        self.intervals.append((a, b))
        return torch.randn(self.shape, generator=self.generator, dtype=torch.float64)


class Pulses:
    """Linear response: row 2 + k gets one unit at draw number k, other rows nothing. Start from `rows`."""

    def __init__(self, draws):
        self.draws, self.count = draws, 0
        self.rows = torch.zeros(2 + draws, 1, dtype=torch.float64)
        self.rows[1] = 1

    def __call__(self, a, b):
        z = torch.zeros_like(self.rows)
        z[2 + self.count] = 1
        self.count += 1
        return z

    def moments(self, x, mean, variance):
        """Mean and variance of the result for a start N(mean, variance), from the rows of the affine map."""
        offset, slope, noise = x[0].item(), (x[1] - x[0]).item(), x[2:] - x[0]
        return offset + slope * mean, slope**2 * variance + float(noise.square().sum())


def draw(spec, grid="uneven", schedule=VP, *, data=MIXTURE, predicts="eps", x=X_INIT, clip=None, **options):
    """The clean samples from the state x, on a grid of GRIDS, a name or a list."""
    model = dataclasses.replace(exact_model(data, schedule, predicts), clip=clip)
    options.setdefault("noise", Stream(x.shape))
    return sb.sample(model, spec, grid=GRIDS.get(grid, grid) if isinstance(grid, str) else grid, x_init=x, **options).x


def difference(a, b):
    """Largest difference of two samples that are large enough for it to mean something."""
    assert float(a.abs().max()) > 0.1
    assert float(b.abs().max()) > 0.1
    return float((a - b).abs().max())


def same(a, b):
    """Equal within 1e-10: a run multiplies roundings of 1e-16 by sigma / alpha = 160 and by a few steps."""
    return difference(a, b) < 1e-10


# ---- Two names, one sampler ----


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("spec", ["dpm-solver:order=1", "dpm-solver++:order=1", "euler-a:eta=0"])
def test_first_order_solvers_are_ddim(spec, grid):
    assert same(draw(spec, grid), draw("ddim", grid))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("eta", [0, 0.3, 0.7, 1])
def test_euler_ancestral_is_ddim_with_the_same_eta(eta, grid):
    assert same(draw(f"euler-a:eta={eta}", grid), draw(f"ddim:eta={eta}", grid))


@pytest.mark.parametrize("clip", [None, (-0.3, 0.3)], ids=["free", "clipped"])
@pytest.mark.parametrize("grid", GRIDS)
def test_ddim_and_euler_ancestral_with_eta_1_are_ddpm(grid, clip):
    """Clipping does not part them, since eps is derived from the clipped x0."""
    ddpm = draw("ddpm:variance=small", grid, clip=clip)
    assert same(draw("ddim:eta=1", grid, clip=clip), ddpm)
    assert same(draw("euler-a:eta=1", grid, clip=clip), ddpm)
    if clip:
        assert float(ddpm.abs().max()) < 0.3 + 1e-12
        assert not same(ddpm, draw("ddpm:variance=small", grid))


@pytest.mark.parametrize("grid", ["uniform", "uneven", "fractional"])
def test_samplers_that_differ_differ(grid):
    """Above eta = 1 Euler ancestral is on its own; so are large variance, each eta and each order."""
    specs = [
        "ddim", "ddim:eta=0.5", "ddpm", "ddpm:variance=large", "euler-a:eta=1.3",
        "dpm-solver", "dpm-solver:order=3", "dpm-solver++", "dpm-solver++:order=3",
    ]  # fmt: skip
    for (one, a), (other, b) in itertools.combinations(((spec, draw(spec, grid)) for spec in specs), 2):
        assert difference(a, b) > 1e-5, (one, other)


@pytest.mark.parametrize("grid", ["uneven", "fractional"])
@pytest.mark.parametrize("spec", [*SPECS, "ddim:eta=0.5", "euler-a:eta=1.3"])
def test_vp_edm_and_flow_are_one_process_in_three_scales(spec, grid):
    """The same sigma / alpha, the start scaled by alpha: x_VP = alpha_VP x_EDM, x_flow = alpha_flow x_EDM."""
    levels = [VP.at_time(t) for t in GRIDS[grid]]
    sigmas = [level.sigma_ve for level in levels]
    x_edm = X_INIT / levels[0].alpha
    vp = draw(spec, grid)
    assert same(draw(spec, sigmas, EDM, x=x_edm), vp)
    times = [s / (1 + s) for s in sigmas]
    assert same(draw(spec, times, FLOW, x=(1 - times[0]) * x_edm), vp)


@pytest.mark.parametrize("schedule", [VP, EDM, FLOW], ids=["vp", "edm", "flow"])
@pytest.mark.parametrize("spec", SPECS)
def test_what_the_network_predicts_makes_no_difference(spec, schedule):
    grid = {VP: "uneven", EDM: [40.0, 9.0, 2.0, 0.8, 0.1, 0.01], FLOW: [0.98, 0.8, 0.5, 0.3, 0.02]}[schedule]
    x = X_INIT * schedule.prior_scale(EDM.at_time(40.0))
    eps, *others = (draw(spec, grid, schedule, predicts=predicts, x=x) for predicts in PREDICTS)
    for other in others:
        assert same(other, eps)


@pytest.mark.parametrize("spec", SPECS)
def test_float32_follows_float64(spec):
    model = exact_model(MIXTURE, VP, "v")
    noise = Stream()
    single = sb.sample(model, spec, grid=GRIDS["uneven"], x_init=X_INIT.float(), noise=noise).x
    assert single.dtype == torch.float32
    assert difference(single.double(), draw(spec, "uneven", predicts="v")) < 1e-3  # 6e-8 times sigma / alpha = 160


# ---- Known answers ----


@pytest.mark.parametrize("schedule", [VP, EDM, FLOW], ids=["vp", "edm", "flow"])
@pytest.mark.parametrize("spec", SPECS)
def test_point_data_is_reached_exactly(spec, schedule):
    """x0 is constant, so the first-order step into the clean end is exact, whatever came before."""
    data = point((0.7, -0.4))
    expected = torch.tensor(data.means, dtype=torch.float64).expand_as(X_INIT)
    for steps in (1, 2, 7):
        x = draw(spec, None, schedule, data=data, predicts="x0", steps=steps)
        assert same(x, expected)


@pytest.mark.parametrize("spec", [spec for spec in DETERMINISTIC if sb.make_sampler(spec).convergence == 1])
@pytest.mark.parametrize(("first", "last"), [(999, 998), (900, 100), (50, 0)])
def test_one_first_order_step_is_exact_on_point_data(spec, first, last):
    """Not only at the clean end: the noise that is left is the noise that was there."""
    a, b, data = VP.at_time(first), VP.at_time(last), point((0.7, -0.4))
    location = torch.tensor(data.means, dtype=torch.float64)
    x = integrate(sb.make_sampler(spec), run_over(data, (a, b), VP), X_INIT)
    assert same(x, b.alpha * location + b.sigma / a.sigma * (X_INIT - a.alpha * location))


@pytest.mark.parametrize("schedule", [VP, EDM], ids=["vp", "edm"])
@pytest.mark.parametrize("spec", DETERMINISTIC)
def test_on_gaussian_data_the_closed_form_is_the_limit(spec, schedule):
    sampler, data = sb.make_sampler(spec), gaussian((0.4, 0.4), 0.3)
    order, errors = sampler.convergence, []
    for steps in (100, 400):
        levels = [schedule.at_lambda(-3 + 6 * i / steps) for i in range(steps + 1)]
        x = X_INIT * levels[0].sigma
        expected = gaussian_flow(0.4, 0.3, x, levels[0], levels[-1])
        errors.append(difference(integrate(sampler, run_over(data, levels, schedule), x), expected))
    assert errors[1] < {1: 2e-2, 2: 5e-4}.get(order, 5e-5)
    # Order-3 multistep starts with lower orders, and its limit is approached with those: at least 2.
    assert math.log2(errors[0] / errors[1]) / 2 > min(order, 2) - 0.3


@pytest.mark.parametrize("variance", [1e-4, 0.3, 4.0])
@pytest.mark.parametrize("schedule", [VP, EDM, FLOW], ids=["vp", "edm", "flow"])
def test_gaussian_flow_keeps_the_marginals(schedule, variance):
    """One standard deviation above the mean stays one standard deviation above the mean."""
    a, b = schedule.at_lambda(-1.5), schedule.at_lambda(2.0)

    def quantile(level, z):
        return level.alpha * 0.4 + z * math.sqrt(level.alpha**2 * variance + level.sigma**2)

    for z in (-1.0, 0.5, 2.0):
        moved = gaussian_flow(0.4, variance, torch.tensor(quantile(a, z), dtype=torch.float64), a, b)
        assert float(moved) == pytest.approx(quantile(b, z), rel=1e-12)


def step_deviation(spec, a, b):
    """Standard deviation of the noise that a step adds, by the papers' formulas in sigma / alpha and abar."""
    name, _, option = spec.partition(":")
    value = option.partition("=")[2]
    kept = (b.sigma_ve / a.sigma_ve) ** 2
    if value == "large":
        return math.sqrt(1 - a.alpha**2 / b.alpha**2) if b.sigma else 0.0
    eta = {"ddpm": 1.0, "euler-a": 1.0, "ddim": 0.0}[name] if value in ("", "small") else float(value)
    return min(1.0, eta * math.sqrt(1 - kept)) * b.sigma


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    "spec",
    [
        "ddpm",
        "ddpm:variance=large",
        "ddim",
        "ddim:eta=0.4",
        "ddim:eta=1",
        "euler-a",
        "euler-a:eta=0.6",
        "euler-a:eta=1.3",
    ],
)
def test_gaussian_mean_and_variance_follow_the_linear_recursion(spec, grid):
    """x_b = alpha_b x0 + sqrt(sigma_b^2 - s^2) eps + s z with x0 and eps linear in x: exact after every step.

    Large variance takes the mean of small and adds more. Only DDPM's own mean is written differently.
    """
    m, v = 0.4, 0.3
    levels = [*(VP.at_time(t) for t in GRIDS[grid]), VP.clean]
    mean, variance = m + 1.0, 0.5  # not the prior's: the recursion holds for any start
    pulses = Pulses(len(levels))
    model = exact_model(gaussian((m,), v), VP)
    states = sb.sample(model, spec, grid=GRIDS[grid], x_init=pulses.rows, noise=pulses, trajectory=True).trajectory
    for (a, b), state in zip(itertools.pairwise(levels), states[1:], strict=True):
        s2 = a.alpha**2 * v + a.sigma**2
        deviation = step_deviation(spec, a, b)
        left = min(deviation, step_deviation("ddpm", a, b)) if "large" in spec else deviation
        slope = (b.alpha * a.alpha * v + math.sqrt(b.sigma**2 - left**2) * a.sigma) / s2
        mean = b.alpha * m + slope * (mean - a.alpha * m)
        variance = slope**2 * variance + deviation**2
        assert pulses.moments(state, m + 1.0, 0.5) == pytest.approx((mean, variance), rel=1e-10)
    assert pulses.count == (0 if spec == "ddim" else len(levels) - 2)


@pytest.mark.parametrize("schedule", [VP, EDM, FLOW], ids=["vp", "edm", "flow"])
@pytest.mark.parametrize("spec", [*SPECS, "ddim:eta=0.5"])
def test_gaussian_data_comes_out_with_its_mean_and_more_and_more_its_variance(spec, schedule):
    grid = {VP: "karras", EDM: "karras", FLOW: "uniform"}[schedule]
    errors = []
    for steps in (50, 100):
        mean, variance = moments_of_result(spec, schedule, grid, steps)
        assert mean == pytest.approx(0.4, rel=1e-9)  # every method here is exact in the mean
        errors.append(abs(variance - 0.55**2))
    assert errors[1] < 0.04
    assert errors[1] < max(0.7 * errors[0], 1e-3)  # half or better, until too small to tell


def moments_of_result(spec, schedule, grid, steps):
    """Mean and variance from the exact start, for data N(0.4, 0.55^2)."""
    model = exact_model(gaussian((0.4,), 0.55**2), schedule, "v")
    pulses = Pulses(3 * steps)  # as many draws as any sampler makes in a step
    x = sb.sample(model, spec, steps=steps, grid=grid, x_init=pulses.rows, noise=pulses).x
    first = schedule.first
    return pulses.moments(x, first.alpha * 0.4, first.alpha**2 * 0.55**2 + first.sigma**2)


# ---- alpha = 0 ----

ZERO_SNR = sb.vp_from_alphas_cumprod([*(a for a in sb.vp_linear().alphas_cumprod[:-1]), 0.0])


@pytest.mark.parametrize("predicts", ["x0", "v", "flow"])
@pytest.mark.parametrize("schedule", [FLOW, ZERO_SNR], ids=["flow", "zero terminal SNR"])
@pytest.mark.parametrize("spec", [*SPECS, "ddim:eta=0.5"])
def test_a_start_at_alpha_0_is_finite_and_the_first_step_aims_at_the_mean(spec, schedule, predicts):
    """At alpha = 0 the best guess of x0 is the data's mean: the first interval is the first-order x0 form.

    A high order may overshoot on few steps; with 20 it may not.
    """
    mean = sum(w * torch.tensor(m, dtype=torch.float64) for w, m in zip(MIXTURE.weights, MIXTURE.means, strict=True))
    model = exact_model(MIXTURE, schedule, predicts)
    for steps in (1, 2, 3, 4, 7, 20):
        got = sb.sample(model, spec, steps=steps, x_init=X_INIT, noise=Stream(), trajectory=True)
        assert bool(got.x.isfinite().all())
        assert 0.3 < float(got.x.abs().max()) < (10 if steps == 20 else 100)
        first = got.trajectory[1]
        if steps == 1:
            assert same(first, mean.expand_as(X_INIT))
        elif spec in DETERMINISTIC:
            b = schedule.at_time({FLOW: 1 - 1 / steps, ZERO_SNR: round(999 - 999 / (steps - 1))}[schedule])
            assert same(first, b.alpha * mean + b.sigma * X_INIT)


@pytest.mark.parametrize("spec", SPECS)
def test_eps_at_alpha_0_is_refused(spec):
    with pytest.raises(sb.InputError, match="predicts 'eps'"):
        draw(spec, None, FLOW, steps=3, predicts="eps")


# ---- Orders ----

LINE = sb.GaussianMixture(((-1.0,), (0.3,), (1.4,)), (0.2, 0.1, 0.3), (0.3, 0.4, 0.3))
PROBABILITIES = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)[:, None]


def distribution(x, level):
    """P(state <= x) at a level, for the data LINE."""
    parts = zip(LINE.weights, LINE.means, LINE.variances, strict=True)
    return sum(
        w * torch.special.ndtr((x - level.alpha * m) / math.sqrt(level.alpha**2 * v + level.sigma**2))
        for w, (m,), v in parts
    )


def on_the_path(level):
    """States of the exact ODE solution: in one dimension it keeps each state's quantile, so invert that."""
    low = torch.full_like(PROBABILITIES, -10 * (1 + level.sigma))
    high = -low
    for _ in range(70):  # to the last digit
        middle = (low + high) / 2
        below = distribution(middle, level) < PROBABILITIES
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def run_over(data, levels, schedule=EDM):
    """A run over noisy levels alone, so that it ends before the jump to the clean end, with the exact eps."""

    def predict(x, level, rows=None):
        alpha, sigma = (torch.full((len(x), 1), part, dtype=x.dtype) for part in (level.alpha, level.sigma))
        return sb.Prediction(x, level, (x - level.alpha * data.x0(x, alpha, sigma)) / level.sigma, "eps")

    def no_noise(*where):
        raise AssertionError(f"a deterministic sampler drew noise at {where}")

    return sb.Run(tuple(levels), predict, no_noise, schedule)


def after_exact_history(sampler, levels, warm_up, schedule):
    """From the exact state at levels[warm_up] to the last level; the steps before start from exact states.

    So a multistep method has the past that its order supposes, and a one-step method is not affected.
    """
    run, x, past = run_over(LINE, levels, schedule), on_the_path(levels[0]), None
    for i, (a, b) in enumerate(itertools.pairwise(levels)):
        run.enter(i)
        if i <= warm_up:
            x = on_the_path(a)
        x, past = sampler.step(run, x, a, b, past)
    return x


def slopes(errors):
    """log2 of the ratio of neighbours."""
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


def karras_sigma(u):
    """sigma from 7 to 0.05 as u goes from 0 to 1; smooth, unequal in lambda."""
    return (7 ** (1 / 7) + u * (0.05 ** (1 / 7) - 7 ** (1 / 7))) ** 7


SMOOTH = {
    "logsnr, vp": (VP, lambda u: VP.at_lambda(-2 + 5 * u)),
    "karras, edm": (EDM, lambda u: EDM.at_time(karras_sigma(u))),
}
WARM_UP = 6
"""Enough for the corrected states and the predictions of a predictor-corrector to be as good as its order."""
ORDER_OF_A_STEP = {"plms": 1, "ipndm": 1, "dpm-solver:plan=fast": 2}
"""Published with the coefficients of equal steps: the order that is left where neighbouring steps differ. The fast
list of DPM-Solver takes its last noisy interval with order 2, one alone, which costs the run no order."""


@pytest.mark.parametrize("smooth", SMOOTH)
@pytest.mark.parametrize("spec", DETERMINISTIC)
def test_order_of_convergence(spec, smooth):
    sampler, (schedule, level) = sb.make_sampler(spec), SMOOTH[smooth]
    errors = []
    for steps in (40, 80, 160):
        levels = [level(i / steps) for i in range(-WARM_UP, steps + 1)]
        end = after_exact_history(sampler, levels, WARM_UP, schedule)
        errors.append(difference(end, on_the_path(levels[-1])))
    assert errors[-1] > 1e-11  # above rounding, so that a slope can be seen
    assert slopes(errors)[-1] == pytest.approx(sampler.convergence, abs=0.15 if sampler.convergence < 3 else 0.3)


@pytest.mark.parametrize("spec", DETERMINISTIC)
def test_order_of_convergence_with_the_samplers_own_start(spec):
    """Up to order 2 a first-order start costs no order; above, the start may dominate, with order 2."""
    sampler, (schedule, level) = sb.make_sampler(spec), SMOOTH["logsnr, vp"]
    errors = []
    for steps in (80, 160, 320):
        levels = [level(i / steps) for i in range(steps + 1)]
        end = integrate(sampler, run_over(LINE, levels, schedule), on_the_path(levels[0]))
        errors.append(difference(end, on_the_path(levels[-1])))
    order = sampler.convergence
    assert min(order, 2) - 0.15 < slopes(errors)[-1] < order + 0.3


@pytest.mark.parametrize("pattern", [(1, 3, 1, 3), (3, 1, 3, 1), (1, 1, 1, 3), (3, 3, 3, 1)])
@pytest.mark.parametrize("spec", DETERMINISTIC)
def test_local_order_with_unequal_steps(spec, pattern):
    """One step after an exact history, neighbouring steps in ratio 3 or 1/3: the error falls with order + 1.

    This sees the coefficients of a multistep method, which a global order on an even grid cannot.
    """
    sampler = sb.make_sampler(spec)
    errors = []
    pattern = pattern * 2  # a predictor-corrector needs a longer past
    for h in (0.04, 0.02, 0.01):
        lambdas = [0.2 - h * sum(pattern[i:-1]) for i in range(len(pattern))]  # the last step starts at 0.2
        levels = [EDM.at_lambda(lambda_) for lambda_ in [*lambdas, 0.2 + h * pattern[-1]]]
        end = after_exact_history(sampler, levels, len(pattern) - 1, EDM)
        errors.append(difference(end, on_the_path(levels[-1])))
    assert errors[-1] > 1e-11
    order = ORDER_OF_A_STEP.get(spec, ORDER_OF_A_STEP.get(spec.partition(":")[0], sampler.convergence))
    # Of order 4 the slope is still rising at the smallest step that rounding allows.
    assert slopes(errors)[-1] == pytest.approx(min(order, sampler.convergence) + 1, abs=0.2 if order < 4 else 0.55)


def test_the_jump_to_the_clean_end_is_first_order():
    """Why orders are measured to sigma_min: the last interval of every deterministic sampler is DDIM's."""
    last = VP.at_time(30)
    x = X_INIT * last.sigma
    for spec in DETERMINISTIC:
        assert same(draw(spec, [30], x=x), draw("ddim", [30], x=x))


# ---- Noise and counts ----


def lies_within(part, interval):
    return interval[0].sigma_ve >= part[0].sigma_ve > part[1].sigma_ve >= interval[1].sigma_ve


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("spec", [*SPECS, "ddim:eta=0.5", "euler-a:eta=0", "euler-a:eta=0.2"])
def test_noise_is_drawn_in_order_never_without_need_never_in_the_last_step(spec, grid):
    noise = Stream()
    draw(spec, grid, noise=noise)
    levels = [*(VP.at_time(t) for t in GRIDS[grid]), VP.clean]
    if sb.make_sampler(spec).convergence is not None:
        assert noise.intervals == []
    else:
        # None in the last step; in the others as often as the sampler likes, for all of the interval or a part of it,
        # in the grid's order.
        intervals = list(itertools.pairwise(levels[:-1]))
        around = [next(i for i in intervals if lies_within(part, i)) for part in noise.intervals]
        assert [pair for pair, _ in itertools.groupby(around)] == intervals


@pytest.mark.parametrize("spec", STOCHASTIC)
def test_the_last_step_has_no_noise(spec):
    """From one state before the last step two seeds give one result; before that they part."""
    model = exact_model(MIXTURE, VP)
    a, b = (sb.sample(model, spec, grid=[30], x_init=X_INIT, seed=seed).x for seed in (1, 2))
    assert torch.equal(a, b)
    a, b = (sb.sample(model, spec, grid=[30, 5], x_init=X_INIT, seed=seed).x for seed in (1, 2))
    assert difference(a, b) > 1e-3


@pytest.mark.parametrize("spec", DETERMINISTIC)
def test_deterministic_samplers_do_not_depend_on_the_seed(spec):
    model = exact_model(MIXTURE, VP)
    a, b = (sb.sample(model, spec, grid=GRIDS["uneven"], x_init=X_INIT, seed=seed).x for seed in (1, 2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("spec", SPECS)
def test_any_number_of_steps_is_finite_with_the_declared_calls(spec, predicts):
    calls = 0

    def network(x, t):
        nonlocal calls
        calls += 1
        return 0.9 * x.tanh()

    sampler = sb.make_sampler(spec)
    model = sb.wrap_network(network, sb.vp_linear(80, 1e-3, 0.2), (2,), predicts)
    for steps in range(1, 61) if predicts == "eps" else (1, 2, 3, 20):
        calls = 0
        got = sb.sample(model, sampler, steps=steps, n=1)
        assert bool(got.x.isfinite().all())
        assert got.nfe == got.network_evaluations == calls > 0
        assert sampler.nfe(steps) in (calls, None)


@pytest.mark.parametrize("spec", SPECS)
def test_a_network_of_whole_timesteps_is_asked_for_those_alone(spec):
    table = sb.vp_linear(40, 1e-3, 0.3)
    exact = exact_model(MIXTURE, table)
    asked = []

    def network(x, t):
        asked.append(t)
        return exact.network(x.device, x.dtype)(x, t.to(x.dtype))

    model = sb.wrap_network(network, table, (2,), timesteps="integer")
    for steps in (1, 2, 5, 13, 40):
        x = sb.sample(model, spec, steps=steps, x_init=X_INIT, noise=Stream()).x
        assert 0.3 < float(x.abs().max()) < (3 if steps > 20 else 100)
    assert all(t.dtype == torch.int64 and 0 <= int(t.min()) <= int(t.max()) < 40 for t in asked)
    # With a step for every timestep nothing fits in between: every solver is then first order.
    if spec in DETERMINISTIC and spec.startswith("dpm-solver:"):
        assert same(x, sb.sample(model, "ddim", steps=40, x_init=X_INIT).x)


@pytest.mark.parametrize("spec", SPECS)
def test_a_budget_of_calls_is_met_as_closely_as_whole_steps_allow(spec):
    sampler = sb.make_sampler(spec)
    if sampler.nfe(1) is None:
        pytest.skip("adaptive: no budget")
    for nfe in range(1, 30):
        planned, steps = sampler.plan(nfe)
        assert planned.nfe(steps) <= nfe
        assert planned.nfe(steps + 1) > nfe
    with pytest.raises(sb.InputError, match="nfe 0"):
        sampler.plan(0)


def test_a_result_that_is_not_finite_names_the_step():
    def network(x, t):
        return x * (math.nan if float(t[0]) < 50 else 1.0)

    model = sb.wrap_network(network, VP, (2,))
    with pytest.raises(sb.SamplerFault, match="step 2"):
        sb.sample(model, "ddim", grid=[900, 60, 40, 10], x_init=X_INIT)


@dataclasses.dataclass(frozen=True)
class Wrong(sb.Sampler):
    """Returns what it is given."""

    returned: object = None

    def nfe(self, steps):
        return 0

    def step(self, run, x, a, b, past):
        return self.returned(x) if callable(self.returned) else self.returned


@pytest.mark.parametrize(
    "returned",
    [
        None,
        lambda x: x,
        lambda x: (x,),
        lambda x: (None, None),
        lambda x: (x[:1], None),
        lambda x: (x.float(), None),
        lambda x: (x * math.nan, None),
        lambda x: (x * math.inf, None),
    ],
)
def test_a_step_that_returns_no_state_is_a_fault_of_the_sampler(returned):
    with pytest.raises(sb.SamplerFault, match="sampler Wrong, step 0"):
        draw(Wrong(returned), [30, 10], noise=None)

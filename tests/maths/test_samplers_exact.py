"""Samplers against models whose answer is known: identities between them, closed forms of single ones, faults.

All in float64. What every sampler is held to, whoever wrote it, is in test_conformance.py.
"""

import dataclasses
import itertools
import math

import pytest
import torch

import samplerbench as sb
from cases import is_default, thinned
from samplerbench.bench.conformance.check import variants
from samplerbench.bench.conformance.randomness import Pulses, moments
from samplerbench.samplers.exact import exact_model, gaussian, gaussian_flow, point
from samplerbench.samplers.registry import default_registry
from samplerbench.samplers.sampler import integrate

VP, EDM, FLOW = sb.vp_linear(), sb.edm(), sb.flow()
MIXTURE = sb.GaussianMixture(((-1.0, 0.5), (0.8, 1.0), (0.3, -1.2)), (0.02, 0.1, 0.3), (0.5, 0.3, 0.2))
X_INIT = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GRIDS = {
    "uniform": [999, 888, 777, 666, 555, 444, 333, 222, 111, 0],
    "uneven": [999, 950, 600, 590, 200, 150, 20, 3],
    "fractional": [990.5, 700.25, 410.0, 99.9, 12.5, 0.5],
    "one": [999],
    "two": [700, 10],
}


SPECS = variants(default_registry())
DETERMINISTIC = [spec for spec in SPECS if sb.make_sampler(spec).convergence is not None]


class Stream:
    """Seeded noise that ignores the levels; keeps the intervals it was asked for."""

    def __init__(self, shape=X_INIT.shape):
        self.shape, self.intervals = shape, []
        self.generator = torch.Generator().manual_seed(1)

    def __call__(self, a, b):
        self.intervals.append((a, b))
        return torch.randn(self.shape, generator=self.generator, dtype=torch.float64)


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


@pytest.mark.parametrize("grid", thinned(GRIDS, "uneven", "fractional"))
@pytest.mark.parametrize("spec", ["dpm-solver:order=1", "dpm-solver++:order=1", "euler-a:eta=0"])
def test_first_order_solvers_are_ddim(spec, grid):
    assert same(draw(spec, grid), draw("ddim", grid))


@pytest.mark.parametrize("grid", thinned(GRIDS, "uneven", "fractional"))
@pytest.mark.parametrize("eta", [0, 0.3, 0.7, 1])
def test_euler_ancestral_is_ddim_with_the_same_eta(eta, grid):
    assert same(draw(f"euler-a:eta={eta}", grid), draw(f"ddim:eta={eta}", grid))


@pytest.mark.parametrize("clip", [None, (-0.3, 0.3)], ids=["free", "clipped"])
@pytest.mark.parametrize("grid", thinned(GRIDS, "uneven", "fractional"))
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


# ---- Known answers ----


def run_over(data, levels, schedule):
    """A run over noisy levels alone, so that it ends before the jump to the clean end, with the exact eps."""

    def predict(x, level):
        alpha, sigma = (torch.full((len(x), 1), part, dtype=x.dtype) for part in (level.alpha, level.sigma))
        said = sb.Prediction(x, level, (x - level.alpha * data.x0(x, alpha, sigma)) / level.sigma, "eps")
        return dataclasses.replace(said, unconditional=said)

    def no_noise(*where):
        raise AssertionError(f"a deterministic sampler drew noise at {where}")

    return sb.StepContext(tuple(levels), predict, no_noise, schedule)


@pytest.mark.parametrize("spec", [spec for spec in DETERMINISTIC if sb.make_sampler(spec).convergence == 1])
@pytest.mark.parametrize(("first", "last"), [(999, 998), (900, 100), (50, 0)])
def test_one_first_order_step_is_exact_on_point_data(spec, first, last):
    """Not only at the clean end: the noise that is left is the noise that was there."""
    a, b, data = VP.at_time(first), VP.at_time(last), point((0.7, -0.4))
    location = torch.tensor(data.means, dtype=torch.float64)
    x = integrate(sb.make_sampler(spec), run_over(data, (a, b), VP), X_INIT)
    assert same(x, b.alpha * location + b.sigma / a.sigma * (X_INIT - a.alpha * location))


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


@pytest.mark.parametrize("grid", thinned(GRIDS, "uneven", "fractional"))
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
        assert moments(state, m + 1.0, 0.5) == pytest.approx((mean, variance), rel=1e-10)
    assert pulses.drawn == (0 if spec == "ddim" else len(levels) - 2)


# ---- Ends, budgets, faults ----


@pytest.mark.parametrize("spec", thinned(SPECS, is_default))
def test_eps_at_alpha_0_is_refused(spec):
    with pytest.raises(sb.InputError, match="predicts 'eps'"):
        draw(spec, None, FLOW, steps=3, predicts="eps")


def test_the_jump_to_the_clean_end_is_first_order():
    """Why orders are measured to sigma_min: the last interval of every deterministic sampler is DDIM's."""
    last = VP.at_time(30)
    x = X_INIT * last.sigma
    for spec in DETERMINISTIC:
        assert same(draw(spec, [30], x=x), draw("ddim", [30], x=x))


@pytest.mark.parametrize("order", [2, 3])
def test_with_a_step_for_every_whole_timestep_a_singlestep_solver_is_first_order(order):
    """Nothing fits in between."""
    table = sb.vp_linear(40, 1e-3, 0.3)
    exact = exact_model(MIXTURE, table)
    model = sb.wrap_network(
        lambda x, t: exact.network(x.device, x.dtype)(x, t.to(x.dtype)), table, (2,), timesteps="integer"
    )
    x = sb.sample(model, f"dpm-solver:order={order}", steps=40, x_init=X_INIT).x
    assert same(x, sb.sample(model, "ddim", steps=40, x_init=X_INIT).x)


@pytest.mark.parametrize("t", [0.2, 10.4, 10.6, 998.7])
def test_a_run_of_whole_timesteps_goes_to_the_nearest_in_time(t):
    def never(*where):
        raise AssertionError(where)

    lambda_ = VP.at_time(t).lambda_
    levels = (VP.at_time(999), VP.clean)
    assert sb.StepContext(levels, never, never, VP, integer=True).at(lambda_) == VP.at_time(round(t))
    assert sb.StepContext(levels, never, never, VP).at(lambda_).t == pytest.approx(t, rel=1e-9)


@pytest.mark.parametrize("spec", thinned(SPECS, is_default))
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
        lambda x: (x.mul_(0.5), None),
        lambda x: (x.mul_(0.5).clone(), None),
    ],
)
def test_a_step_that_returns_no_state_or_changes_the_one_it_was_given_is_a_fault_of_the_sampler(returned):
    with pytest.raises(sb.SamplerFault, match="sampler Wrong, step 0"):
        draw(Wrong(returned), [30, 10], noise=None)

"""Grids: the published formulas, and what holds for every registered grid and number of steps."""

import contextlib
import dataclasses
import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch

import samplerbench as sb
from cases import thinned
from samplerbench.samplers.grid import levels_at, spread_duplicates
from samplerbench.samplers.registry import default_registry
from samplerbench.samplers.sample import request_for
from samplerbench.samplers.schedule import Flow

VP, EDM, FLOW = sb.vp_linear(), sb.edm(), sb.flow()
GRIDS = sorted(default_registry().grids.things)
COUNTS_TIMESTEPS = ("leading", "trailing", "quadratic")
"""Grids in timesteps: only a VP schedule has those."""
IN_SIGMA_VE = ("logsnr", "exponential", "karras")
"""Grids in sigma / alpha: infinite where flow starts."""
ALSO_IN_SIGMA_VE = ("polyexponential", "beta", "cosine", "ays")
"""Grids in sigma / alpha whose formulas are tested in test_modern_samplers.py."""
IN_FLOW_TIME = ("shift", "shift-twice")
"""Flow alone."""


def levels(grid, schedule=VP, steps=10, *, integer=False):
    return default_registry().levels(grid, schedule, steps, integer=integer)


def times(*args, **kwargs):
    return [level.t for level in levels(*args, **kwargs)[:-1]]


def timestep_formula(grid, total, steps):
    """design: the timestep grids, duplicates and all."""
    i = np.arange(steps)
    if grid in ("uniform", "linspace"):
        return np.round(np.linspace(total - 1, 0, steps))
    if grid == "leading":
        return np.floor((steps - 1 - i) * total / steps + 1e-9)  # 1e-9: a whole quotient stays whole
    if grid == "trailing":
        return np.round(total - i * total / steps) - 1
    return np.floor(np.linspace(math.sqrt(0.8 * total), 0, steps) ** 2)


def sigma_formula(grid, first, last, steps, rho=7.0):
    """sigma / alpha of the grids that are laid out in it."""
    u = np.arange(steps) / (steps - 1)
    if grid == "karras":
        return (first ** (1 / rho) + u * (last ** (1 / rho) - first ** (1 / rho))) ** rho
    return first ** (1 - u) * last**u


@pytest.mark.parametrize("grid", ["uniform", "linspace", *COUNTS_TIMESTEPS])
@pytest.mark.parametrize(("total", "steps"), [(1000, 2), (1000, 7), (1000, 10), (1000, 30), (1000, 64), (37, 9)])
def test_timesteps_follow_the_formula(grid, total, steps):
    expected = timestep_formula(grid, total, steps)
    got = times(grid, sb.vp_linear(total), steps)
    repeated = len(set(expected)) < steps
    assert set(expected) <= set(got)
    assert got == expected.tolist() or repeated


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ("uniform", [999, 666, 333, 0]),
        ("leading", [750, 500, 250, 0]),
        ("trailing", [999, 749, 499, 249]),
        ("quadratic", [800, 355, 88, 0]),
    ],
)
def test_four_steps_by_hand(grid, expected):
    assert times(grid, steps=4) == expected


@pytest.mark.parametrize("grid", IN_SIGMA_VE)
@pytest.mark.parametrize("schedule", [VP, sb.vp_cosine(100), EDM], ids=["vp", "cosine", "edm"])
@pytest.mark.parametrize("steps", [2, 3, 10, 31])
def test_sigma_grids_follow_the_formula(grid, schedule, steps):
    expected = sigma_formula(grid, schedule.first.sigma_ve, schedule.last.sigma_ve, steps)
    got = [level.sigma_ve for level in levels(grid, schedule, steps)[:-1]]
    assert got == pytest.approx(expected.tolist(), rel=1e-9)  # t is interpolated: rounding of lambda remains


def test_karras_rho_is_an_option():
    expected = sigma_formula("karras", 80, 0.002, 5, rho=3)
    assert [level.sigma for level in levels("karras:rho=3", EDM, 5)[:-1]] == pytest.approx(expected.tolist(), rel=1e-9)
    assert levels("karras:rho=7", EDM, 5) == levels("karras", EDM, 5) != levels("karras:rho=3", EDM, 5)


def test_uniform_is_even_in_sigma_for_edm_and_in_t_for_flow():
    assert times("uniform", sb.edm(1, 9), 5) == pytest.approx([9, 7, 5, 3, 1])
    assert times("uniform", FLOW, 5) == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])


def test_shift_multiplies_sigma_over_alpha_of_even_times():
    shifted = levels("shift:factor=3", FLOW, 4)
    assert [level.sigma_ve for level in shifted[1:-1]] == pytest.approx([3 * t / (1 - t) for t in (0.75, 0.5, 0.25)])
    assert times("shift:factor=3", FLOW, 2) == pytest.approx([1, 0.75])
    assert times("shift:factor=1", FLOW, 5) == pytest.approx(times("uniform", FLOW, 5))
    assert times("shift:factor=2,last=0.1", FLOW, 3) == pytest.approx([1, 1.1 / 1.55, 0.2 / 1.1])


@pytest.mark.parametrize("steps", [2, 28, 50])
def test_the_published_times_of_stable_diffusion_3_are_shifted_twice(steps):
    last = 0.003 / 1.002  # 1/1000, shifted once by 3
    even = np.linspace(1, last, steps)
    assert times("shift-twice", FLOW, steps) == pytest.approx((3 * even / (1 + 2 * even)).tolist(), rel=1e-12)
    assert times("shift-twice", FLOW, steps)[-1] == pytest.approx(0.00892857, abs=5e-9)  # 1/112
    assert times("shift:factor=3,last=0.001", FLOW, steps)[-1] == pytest.approx(last, rel=1e-12)
    assert times("shift-twice:factor=1,timesteps=50", FLOW, steps) == pytest.approx(np.linspace(1, 0.02, steps))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("shift-twice:factor=-1", "factor -1.0: expected a positive number"),
        ("shift-twice:timesteps=1", "timesteps 1: expected a whole number from 2 up"),
        ("shift:factor=0", "factor 0.0: expected a positive number"),
        ("shift:last=1", "last 1.0: expected a number from 0 up and below 1"),
    ],
)
def test_options_of_shift(grid, message):
    with pytest.raises(sb.InputError, match=message):
        levels(grid, FLOW)


def test_a_schedule_may_have_a_grid_of_its_own():
    assert levels(None, Flow(default_grid="shift:factor=2.5"), 6) == levels("shift:factor=2.5", FLOW, 6)


@pytest.mark.parametrize(("schedule", "name"), [(VP, "uniform"), (EDM, "karras"), (FLOW, "uniform")])
def test_default_grid(schedule, name):
    assert levels(None, schedule, 6) == levels(name, schedule, 6)


@pytest.mark.parametrize("integer", [False, True], ids=["fractional", "integer"])
@pytest.mark.parametrize("grid", [name for name in GRIDS if name not in IN_FLOW_TIME])
@pytest.mark.parametrize("counts", thinned([[1, 2, 3, 7, 10, 30, 64, 100], range(1, 101)], lambda c: type(c) is list))
def test_every_vp_grid_descends_to_the_clean_end(grid, integer, counts):
    first_level = {"leading": lambda s: (s - 1) * 1000 // s, "quadratic": lambda s: 800}
    for steps in counts:
        got = levels(grid, VP, steps, integer=integer)
        assert len(got) == steps + 1
        assert got[-1].is_clean
        assert all(a.sigma_ve > b.sigma_ve for a, b in pairwise(got))
        assert all(0 <= level.t <= 999 for level in got[:-1])
        assert got[0].t == (first_level.get(grid, lambda s: 999)(steps) if steps > 1 else 999)
        if integer or grid in ("uniform", "linspace", *COUNTS_TIMESTEPS):
            assert all(level.t.is_integer() for level in got[:-1])
        assert all(level == VP.at_time(level.t) for level in got[:-1])


@pytest.mark.parametrize("schedule", [EDM, FLOW], ids=["edm", "flow"])
@pytest.mark.parametrize("grid", thinned(GRIDS, *list(GRIDS)[::2]))
def test_every_other_grid_descends_or_is_refused(grid, schedule):
    no_time = (*COUNTS_TIMESTEPS, *IN_FLOW_TIME) if schedule is EDM else COUNTS_TIMESTEPS
    if grid in no_time or (grid in (*IN_SIGMA_VE, *ALSO_IN_SIGMA_VE) and schedule is FLOW):
        with pytest.raises(sb.InputError, match="use"):
            levels(grid, schedule, 5)
        return
    for steps in range(1, 101):
        got = levels(grid, schedule, steps)
        assert len(got) == steps + 1
        assert got[0] == schedule.first
        assert got[-1] == schedule.clean
        assert all(a.sigma_ve > b.sigma_ve for a, b in pairwise(got))


# Zero terminal SNR: alpha = 0 at T-1


ZERO_SNR = sb.rescale_zero_terminal_snr(sb.vp_scaled_linear())
CAP = 4096.0
"""sigma / alpha where published samplers start: sqrt((1 - abar) / abar) with abar = 2^-24."""
AT_ZERO = ZERO_SNR.last.sigma_ve


def beta_quantile(p, steps=200_000):
    """x with I_x(0.6, 0.6) = p, by sums of the density over u, x = u^(1 / 0.6), on the half that x = 0 is in."""
    if p > 0.5:
        return 1 - beta_quantile(1 - p)
    u = np.linspace(0, 0.5**0.6, steps)
    density = (1 - u ** (1 / 0.6)) ** -0.4
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(np.interp(p, area / area[-1] / 2, u)) ** (1 / 0.6)


BY_DEFINITION = {
    "karras": lambda share: (CAP ** (1 / 7) + share * (AT_ZERO ** (1 / 7) - CAP ** (1 / 7))) ** 7,
    "karras:rho=3": lambda share: (CAP ** (1 / 3) + share * (AT_ZERO ** (1 / 3) - CAP ** (1 / 3))) ** 3,
    "logsnr": lambda share: CAP ** (1 - share) * AT_ZERO**share,
    "exponential": lambda share: CAP ** (1 - share) * AT_ZERO**share,
    "polyexponential:rho=2": lambda share: AT_ZERO * (CAP / AT_ZERO) ** ((1 - share) ** 2),
    "beta": lambda share: AT_ZERO + (CAP - AT_ZERO) * beta_quantile(1 - share),
    "cosine": lambda share: math.tan(math.atan(CAP) + share * (math.atan(AT_ZERO) - math.atan(CAP))),
}


@pytest.mark.parametrize("grid", BY_DEFINITION)
def test_grids_in_sigma_start_at_4096_where_alpha_is_zero(grid):
    got = levels(grid, ZERO_SNR, 6)
    assert [level.sigma_ve for level in got[:-1]] == pytest.approx(
        [BY_DEFINITION[grid](i / 5) for i in range(6)], rel=1e-6
    )
    assert (got[0].alpha, got[0].t) == (pytest.approx(2**-12, rel=1e-12), 999)
    assert (got[-2].alpha, got[-2].t) == (ZERO_SNR.last.alpha, 0)
    assert all(level.alpha**2 + level.sigma**2 == pytest.approx(1, abs=1e-14) for level in got)


def test_align_your_steps_covers_the_range_up_to_4096():
    published = np.log([14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029])
    share = (published - published[-1]) / (published[0] - published[-1])
    got = [level.sigma_ve for level in levels("ays", ZERO_SNR, 10)[:-1]]
    assert got == pytest.approx((AT_ZERO * (CAP / AT_ZERO) ** share)[:-1], rel=1e-6)


def test_the_published_levels_between_4096_and_a_cleaner_end():
    """The EulerDiscreteScheduler of diffusers, 6 Karras steps with `rescale_betas_zero_snr`: with trailing spacing its
    last level is that of timestep 166, with linspace that of 0, as here."""
    stretch = sb.vp_from_alphas_cumprod(ZERO_SNR.alphas_cumprod[166:])
    trailing = [level.sigma_ve for level in levels("karras", stretch, 6)[:-1]]
    assert trailing == pytest.approx([4096, 1372.7, 375.58, 76.446, 9.7058, 0.51335], rel=5e-5)  # five digits
    linspace = [level.sigma_ve for level in levels("karras", ZERO_SNR, 6)[:-1]]
    assert linspace == pytest.approx([4096, 1176.7, 257.66, 36.938, 2.4884, 0.029168], rel=5e-5)


def test_the_cap_lies_within_the_table_where_that_goes_beyond_it():
    """4096 in place of a sigma / alpha above the cap at T-2 would be a level out of order."""
    schedule = sb.rescale_zero_terminal_snr(sb.vp_linear())
    assert schedule.at_time(998).sigma_ve > 15_000
    for integer in (False, True):
        got = levels("karras", schedule, 6, integer=integer)
        assert got[0].sigma_ve == pytest.approx(CAP, rel=0.08 if integer else 1e-6)
        assert 995 <= got[0].t < 996
        assert all(a.sigma_ve > b.sigma_ve for a, b in pairwise(got))


@pytest.mark.parametrize("integer", [False, True], ids=["fractional", "integer"])
@pytest.mark.parametrize("grid", [*IN_SIGMA_VE, *ALSO_IN_SIGMA_VE])
def test_a_capped_grid_descends_for_every_number_of_steps(grid, integer):
    for steps in (2, 3, 7, 30, 100):
        got = levels(grid, ZERO_SNR, steps, integer=integer)
        assert len(got) == steps + 1
        assert all(a.sigma_ve > b.sigma_ve for a, b in pairwise(got))
        assert all(level.alpha >= 2**-12 * (1 - 1e-12) for level in got)
        assert got[0].t == 999
    assert levels(grid, ZERO_SNR, 1, integer=integer)[0] == ZERO_SNR.first  # one step, from no signal at all


@pytest.mark.parametrize("grid", ["uniform", "trailing", [999, 500]])
def test_other_grids_start_at_alpha_zero_as_before(grid):
    assert levels(grid, ZERO_SNR, 2)[0] == ZERO_SNR.first
    assert ZERO_SNR.first.alpha == 0


@pytest.mark.parametrize(
    "sampler",
    thinned(
        ["ddim", "euler-a", "dpm-solver++", "dpm-solver:order=3", "heun", "edm:churn=40"],
        "euler-a",
        "dpm-solver++",
        "heun",
    ),
)
@pytest.mark.parametrize("timesteps", ["fractional", "integer"])
def test_samplers_run_on_a_capped_grid(sampler, timesteps):
    """From unit noise to the data's mean; a step in between never comes to a level of infinite sigma / alpha."""
    data = sb.GaussianMixture(((0.7, -0.4),), (0.01,), (1.0,))
    exact = sb.exact_model(data, ZERO_SNR, "v")
    model = dataclasses.replace(exact, timesteps=timesteps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whole timesteps move the levels
        x = sb.sample(model, sampler, steps=40, n=200, grid="karras", dtype="float64").x
    assert x.mean(0).numpy() == pytest.approx([0.7, -0.4], abs=0.03)  # 4 deviations of the mean of 200


def test_eps_is_refused_at_the_cap_as_at_alpha_zero():
    """A small alpha in place of 0 does not make the noise say more of x0."""
    model = sb.exact_model(sb.GaussianMixture(((0.7,),), (0.01,), (1.0,)), ZERO_SNR, "eps")
    for grid in ("karras", "uniform", [999, 500]):
        with pytest.raises(sb.InputError, match=r"predicts 'eps'.*alpha = 0"):
            sb.sample(model, "ddim", steps=2, n=1, grid=grid)
    assert sb.sample(model, "ddim", n=1, grid=[990, 500], x_init=torch.zeros(1, 1)).x.isfinite().all()


# Whole timesteps


def whole(schedule):
    """A model that knows whole timesteps only."""
    return sb.wrap_network(lambda x, t: x, schedule, (2,), timesteps="integer")


def asked(model, sampler, **settings):
    return request_for(default_registry(), model, sampler, **{"steps": None, **settings})


def test_a_grid_that_whole_timesteps_move_is_said():
    """Karras' levels of 20 steps on the cosine schedule: 20291, 14547, 10258, 7101; between 998 and 999 all of them."""
    request = asked(whole(sb.vp_cosine()), "DPM++ 2M Karras", steps=20)
    assert [level.sigma_ve for level in request.levels[:4]] == pytest.approx([20291, 642, 321, 214], rel=1e-3)
    assert request.notes == ("was moved to whole timesteps: sigma/alpha 213.89 where the grid has 7101.4",)
    with pytest.warns(UserWarning, match=r"the grid was moved to whole timesteps: sigma/alpha 213\.89 where"):
        sb.sample(whole(sb.vp_cosine()), "dpm-solver++", steps=20, n=1, grid="karras")
    with pytest.warns(UserWarning, match="moved to whole timesteps"):
        sb.sample(whole(sb.vp_cosine()), "ddim", steps=20, grid="karras", x_init=torch.zeros(1, 2))
    fractional = dataclasses.replace(whole(sb.vp_cosine()), timesteps="fractional")
    assert asked(fractional, "DPM++ 2M Karras", steps=20).notes == ()


@pytest.mark.parametrize("schedule", [
    *thinned([VP, sb.vp_scaled_linear(), sb.vp_cosine()], VP), *thinned([ZERO_SNR, sb.vp_linear(50)], ZERO_SNR),
], ids=["linear", "scaled-linear", "cosine", "zero-snr", "fifty"])  # fmt: skip
@pytest.mark.parametrize("grid", [name for name in GRIDS if name not in IN_FLOW_TIME])
def test_every_named_grid_is_within_5_percent_or_a_note_says_not(grid, schedule):
    model = dataclasses.replace(whole(schedule), predicts="v")
    for steps in (1, 2, 5, 10, 20, 40):
        request = asked(model, "ddim", steps=steps, grid=grid)
        exact = levels(grid, schedule, steps)
        pairs = [(a, b) for a, b in zip(request.levels, exact, strict=True) if a != b]
        off = max((abs(math.log(a.sigma_ve / b.sigma_ve)) for a, b in pairs), default=0.0)
        assert bool(request.notes) == (off > math.log(1.05)), (steps, off)
    if grid in ("uniform", "linspace", *COUNTS_TIMESTEPS):
        assert not asked(model, "ddim", steps=40, grid=grid).notes  # whole by definition


# Lists that start low


@pytest.mark.parametrize(
    ("schedule", "grid", "missing"),
    [
        (VP, [200, 100, 50], "1.4"),
        (VP, [800, 400], "0.039"),
        (sb.vp_scaled_linear(), [700, 400], "0.3"),
        (sb.vp_cosine(), [900, 400], "0.16"),
        (ZERO_SNR, [900, 400], "0.054"),
        (EDM, [14.0, 1.0], "0.071"),
        (FLOW, [0.9, 0.5], "0.11"),
    ],
)
def test_a_list_that_starts_low_is_said_with_the_start_that_it_needs(schedule, grid, missing):
    model = sb.wrap_network(lambda x, t: x, schedule, (2,), "v" if schedule is ZERO_SNR else "x0")
    first = schedule.at_time(grid[0])
    request = asked(model, "ddim", grid=grid)
    (note,) = request.notes
    assert f"starts from noise only, where a sample has alpha/sigma {missing} " in note
    needed = (
        f"start near {schedule.first.t:g}, or from Python give x_init = alpha x0 + sigma eps, "
        f"with alpha {first.alpha:.4g} and sigma {first.sigma:.4g}"
    )
    with pytest.warns(UserWarning, match="starts from noise only") as seen:
        sb.sample(model, "ddim", n=1, grid=grid)
    assert [str(warning.message) for warning in seen] == [f"the grid {note}; {needed}"]
    assert seen[0].filename == __file__
    text = "/".join(map(str, grid))
    assert asked(model, f"ddim:grid={text}", steps=len(grid)).notes == (note,)
    assert asked(model, "ddim", grid=text).notes == (note,)
    sb.sample(model, "ddim", grid=grid, x_init=torch.zeros(1, 2))  # the state is given: there is nothing to say


@pytest.mark.parametrize(
    ("schedule", "grid"),
    [
        (VP, [999, 500, 20]),
        (VP, [901, 501, 1]),  # the leading timesteps of ten steps, as published tools count them
        (sb.vp_scaled_linear(), [951, 501]),
        (sb.vp_scaled_linear(), [901, 501]),
        (sb.vp_cosine(), [999, 500]),
        (ZERO_SNR, [999, 500]),
        (EDM, [80.0, 1.0]),
        (EDM, [160.0, 1.0]),
        (EDM, [50.0, 1.0]),
        (FLOW, [1.0, 0.5]),
        (FLOW, [0.99, 0.5]),
        (sb.edm(0.02, 10.0), [10.0, 1.0]),  # as much signal as its own start
    ],
)
def test_a_list_that_starts_in_noise_is_taken_without_a_word(schedule, grid):
    model = sb.wrap_network(lambda x, t: x, schedule, (2,), "v")
    assert asked(model, "ddim", grid=grid).notes == ()
    sb.sample(model, "ddim", grid=grid, n=1)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_named_grid_starts_where_it_is_said_to(grid):
    for schedule in (VP, sb.vp_scaled_linear(), ZERO_SNR, EDM, FLOW):
        model = sb.wrap_network(lambda x, t: x, schedule, (2,), "v")
        for steps in (1, 2, 10):
            with contextlib.suppress(sb.InputError):  # not every grid is for every schedule
                assert asked(model, "ddim", steps=steps, grid=grid).notes == ()


@pytest.mark.parametrize("grid", GRIDS)
def test_one_step_starts_at_the_noisiest_timestep(grid):
    assert times(grid, sb.vp_cosine(50), 1) == [49]


@pytest.mark.parametrize("grid", ["uniform", "linspace", *COUNTS_TIMESTEPS])
def test_as_many_steps_as_timesteps_take_every_timestep(grid):
    assert times(grid, sb.vp_linear(60), 60) == list(range(59, -1, -1))


@pytest.mark.parametrize(
    ("given", "spread"),
    [
        ([9, 5, 0], [9, 5, 0]),
        ([5, 5, 5, 0], [6, 5, 4, 0]),
        ([5, 5, 0], [6, 5, 0]),
        ([9, 9, 1], [9, 8, 1]),
        ([2, 0, 0, 0], [3, 2, 1, 0]),
        ([5, 5, 4, 4], [6, 5, 4, 3]),
    ],
)
def test_duplicates_move_to_the_nearest_free_timestep(given, spread):
    assert spread_duplicates(given, 10) == spread


def test_duplicates_of_a_named_grid_are_spread():
    repeated = timestep_formula("quadratic", 1000, 60)
    assert len(set(repeated)) < 60
    got = times("quadratic", VP, 60)
    assert len(set(got)) == 60
    assert set(repeated) <= set(got)


def test_integer_grids_round_to_the_nearest_timestep():
    exact, whole = times("logsnr", VP, 12), times("logsnr", VP, 12, integer=True)
    assert any(not t.is_integer() for t in exact)
    assert max(abs(a - b) for a, b in zip(exact, whole, strict=True) if b > 3) <= 0.5  # below: spread duplicates


@pytest.mark.parametrize(
    ("schedule", "given"),
    [
        (VP, [999, 500.5, 3]),
        (EDM, [80, 1.0, 0.01]),
        (FLOW, [1.0, 0.5, 0.1]),
        (VP, (400,)),
        (VP, np.array([9, 1])),
    ],
)
def test_an_explicit_list_is_taken_as_it_is(schedule, given):
    got = levels(given, schedule, len(given))
    assert got == (*[schedule.at_time(float(t)) for t in given], schedule.clean)


def test_a_list_can_be_written_as_text():
    assert levels("999/500.5/20", steps=3) == levels([999, 500.5, 20], steps=3)
    spec = sb.sample("gaussian", "ddim:grid=900/300/20", steps=3, n=2).x
    assert torch.equal(spec, sb.sample("gaussian", "ddim", grid=[900, 300, 20], n=2).x)
    with pytest.raises(sb.InputError, match="grid '900/x': expected a name, or a list of levels"):
        levels("900/x", steps=2)


def test_a_fractional_timestep_never_reaches_a_network_of_whole_ones():
    """Rounded before the maths, or refused; cut on its way to the network, it would be another level."""
    asked = []

    def network(x, t):
        asked.append((t.unique().item(), t.dtype))
        return x

    model = sb.wrap_network(network, VP, (2,), timesteps="integer")
    with contextlib.suppress(sb.InputError):
        assert all(level.t.is_integer() for level in levels([900.0, 400.5], VP, 2, integer=True)[:-1])
    sb.sample(model, "dpm-solver:order=3", steps=4, n=1, grid="logsnr")
    assert len(asked) == 10  # three calls in each of three intervals, one in the last
    assert all(dtype == torch.int64 for _, dtype in asked)


@pytest.mark.parametrize(
    ("schedule", "given", "message"),
    [
        (VP, [3, 500], "descending"),
        (VP, [500, 500], "descending"),
        (EDM, [1.0, 2.0], "descending"),
        (VP, [1000, 5], "timestep 1000.*: expected a number from 0 to 999"),
        (VP, [5, -1], "timestep -1"),
        (EDM, [1.0, 0.0], "expected a positive number"),
        (FLOW, [1.5, 0.5], "flow time 1.5"),
        (VP, [], "at least one"),
        (VP, [math.nan], "nan"),
    ],
)
def test_a_bad_list_is_refused(schedule, given, message):
    with pytest.raises(sb.InputError, match=message):
        levels_at(given, schedule)


def test_list_and_steps_must_agree():
    with pytest.raises(sb.InputError, match="steps 3: the grid lists 2 levels"):
        levels([500, 3], VP, 3)


@pytest.mark.parametrize("grid", ["uniform", "leading", "quadratic"])
def test_more_steps_than_timesteps_are_refused(grid):
    with pytest.raises(sb.InputError, match="steps 11: the model has 10 timesteps"):
        levels(grid, sb.vp_linear(10), 11)


def test_unknown_grid_names_the_closest_and_all():
    with pytest.raises(sb.InputError, match=r"unknown grid 'karas' \(did you mean 'karras'\?\).*leading.*uniform"):
        levels("karas")
    with pytest.raises(sb.InputError, match=r"unknown option 'roh'.*'rho'"):
        levels("karras:roh=5")
    with pytest.raises(sb.InputError, match="rho"):
        levels("karras:rho=0")

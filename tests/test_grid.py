"""Grids: the published formulas, and what holds for every registered grid and number of steps."""

import contextlib
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import samplerbench as sb
from samplerbench.samplers.grid import levels_at, spread_duplicates
from samplerbench.samplers.registry import default_registry
from samplerbench.samplers.schedule import Flow

VP, EDM, FLOW = sb.vp_linear(), sb.edm(), sb.flow()
GRIDS = sorted(default_registry().grids.things)
COUNTS_TIMESTEPS = ("leading", "trailing", "quadratic")
"""Grids in timesteps: only a VP schedule has those."""
IN_SIGMA_VE = ("logsnr", "exponential", "karras")
"""Grids in sigma / alpha: infinite where flow starts."""
ALSO_IN_SIGMA_VE = ("polyexponential", "beta", "cosine", "ays")
"""The same; their formulas are in test_modern_samplers.py."""
IN_FLOW_TIME = ("shift",)
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


@pytest.mark.parametrize(
    ("grid", "message"),
    [
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
def test_every_vp_grid_descends_to_the_clean_end(grid, integer):
    first_level = {"leading": lambda s: (s - 1) * 1000 // s, "quadratic": lambda s: 800}
    for steps in range(1, 101):
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
@pytest.mark.parametrize("grid", GRIDS)
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

"""The time left of a run: within a fifth after a tenth of it, for slow and fast networks and a machine that drifts."""

import random

import pytest

from samplerbench.bench.draw.clock import in_turn
from samplerbench.bench.draw.ledger import cost
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.show.pace import Pace, rows_with_padding
from samplerbench.samplers.registry import load_registry

WITHIN, FROM, TO = 0.2, 0.1, 0.95
"""The relative error, and the part of a run in which it is looked at."""


@pytest.fixture(scope="module")
def registry():
    return load_registry()


def events_of(plan, *, evaluation, image, warm=0.0, drift=0.0, noise=0.0):
    """(seconds, what) of all that happens in a run that draws a chunk at a time.

    Everything takes so long for each evaluation, those of padding included, and chunks so long for each image.
    """
    rng, events, rows = random.Random(0), [], rows_with_padding(plan.ode_samples, 64)
    for one in plan.references:
        steps = len(one.levels) - 1
        events += [(evaluation * rows * one.passes, plan.ode_samples * one.passes)] * steps
    for block in plan.blocks:
        for cell in in_turn(plan.cells, block.number):
            seconds = evaluation * cost(cell) * rows_with_padding(block.n, 64) + image * block.n
            events.append((seconds * rng.uniform(1 - noise, 1 + noise), (cell, block)))
    first = next(i for i, (_, what) in enumerate(events) if isinstance(what, tuple))
    events[first] = (events[first][0] + warm, events[first][1])
    return [(seconds * (1 + drift * i / len(events)), what) for i, (seconds, what) in enumerate(events)]


def worst_error(plan, events, todo, *, from_first_chunk=False):
    """The largest relative error of the time left between a tenth of the run and its end.

    What images cost beside the network shows with the first chunk; where it is much, nothing is asked before that.
    """
    whole = sum(seconds for seconds, _ in events)
    pace, now, worst = Pace(plan, todo, 0.0), 0.0, 0.0
    pace.missing = {cell.key: plan.blocks.images for cell in plan.cells}
    for seconds, what in events:
        now += seconds
        if isinstance(what, tuple):
            cell, block = what
            pace.chunk(cell.key, block.n, cost(cell) * block.n, now)
        else:
            pace.other(what, now)
        if FROM * whole <= now <= TO * whole and (pace.number or not from_first_chunk):
            worst = max(worst, abs(pace.left(now) / (whole - now) - 1))
    assert pace.left(now) == 0
    return worst


SPEEDS = {
    "a slow network": {"evaluation": 0.02, "image": 0.05, "warm": 5.0, "noise": 0.1},
    "a fast network": {"evaluation": 1e-5, "image": 0.01, "noise": 0.1},
    "images that cost as much": {"evaluation": 1e-3, "image": 0.01, "warm": 0.3, "noise": 0.05},
    "a machine that slows down": {"evaluation": 0.02, "image": 0.05, "drift": 0.3, "noise": 0.05},
}


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("samples", [130, 512])
def test_the_time_left_is_within_a_fifth_after_a_tenth(registry, speed, samples):
    plan = plan_for(Config(model="mixture", samples=samples), registry)
    events = events_of(plan, **SPEEDS[speed])
    is_much = speed.startswith("images")
    assert worst_error(plan, events, plan.network_evaluations, from_first_chunk=is_much) < WITHIN


def test_without_an_ode_solution_chunks_alone_tell_the_pace(registry):
    plan = plan_for(Config(model="mixture", sampler=("ddpm", "euler-a", "sa-solver"), samples=1024), registry)
    assert not plan.references
    events = events_of(plan, evaluation=0.01, image=0.02, noise=0.05)
    assert worst_error(plan, events, plan.network_evaluations) < WITHIN


def test_the_time_goes_down_between_chunks_and_never_below_nothing(registry):
    plan = plan_for(Config(model="mixture", sampler=("ddpm",), steps=(5,), samples=128), registry)
    pace = Pace(plan, 640, 0.0)
    assert pace.left(5.0) is None
    key = plan.cells[0].key
    pace.missing = {key: 128}
    pace.chunk(key, 64, 320, 10.0)
    assert [pace.left(now) for now in (10.0, 13.0, 30.0)] == [10.0, 7.0, 0.0]


def test_what_a_failed_cell_took_is_nobody_s_pace(registry):
    plan = plan_for(Config(model="mixture", sampler=("ddpm", "euler-a"), steps=(5,), samples=128), registry)
    one, other = plan.cells
    pace = Pace(plan, 1280, 0.0)
    pace.missing = {one.key: 128, other.key: 128}
    pace.todo -= 640
    pace.missing.pop(other.key)
    pace.skip(1000.0)
    pace.chunk(one.key, 64, 320, 1010.0)
    assert pace.left(1010.0) == 10.0


def test_workers_share_the_work(registry):
    plan = plan_for(Config(model="mixture", sampler=("ddpm",), steps=(5,), samples=640), registry)
    key = plan.cells[0].key
    pace = Pace(plan, 3200, 0.0, workers=4)
    pace.missing = {key: 640}
    for k in range(2):
        pace.chunk(key, 64, 320, 5.0 * (k + 1))
    assert pace.left(10.0) == 40.0

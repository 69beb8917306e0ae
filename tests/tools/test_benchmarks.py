"""The benchmarks of whole runs: what they compare is the same, and what they fit is right."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import samplerbench as sb

FOLDER = Path(__file__).parents[2] / "benchmarks"


def module(name):
    """A benchmark."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


def network(x, t, condition):
    """An answer that depends on state, time and condition; its clean image is beyond the bounds here and there."""
    return 0.3 * x - 0.4 * (t / 1000).view(-1, 1, 1, 1) + 0.2 * condition.view(-1, 1, 1, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # diffusers' own
@pytest.mark.parametrize("spec", ["ddim", "euler", "heun", "dpm-solver++"])
def test_the_script_of_the_sweep_draws_the_same_images(spec):
    sweep = module("sweep")
    condition = torch.tensor([[1.0], [-1.0]])
    task = sweep.Task((spec,), (5,), 3, 2, torch.device("cpu"))
    model = sb.Model(
        name="of the test", network=lambda device, dtype: network, schedule=sb.vp_linear(), shape=sweep.SHAPE,
        predicts="v", clip=(-1.0, 1.0), batch_size=64, encode=lambda prompts: condition[[int(p) for p in prompts]],
        prompts=("0", "1"),
    )  # fmt: skip
    ours = sb.sample(model, spec, steps=5, n=3, grid="leading").images
    theirs = sweep.drawn(task, network, condition, sweep.SCHEDULERS[spec], 5)
    assert 0.01 < ((ours == 0) | (ours == 255)).float().mean() < 0.95
    difference = (ours.int() - theirs.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01


def test_the_sweep_tells_what_differs(capsys):
    sweep = module("sweep")
    mine = {("ddim", 5): (10.0, 50.0), ("ddim", 10): (1.0, 50.0)}
    assert sweep.are_equal(mine, {("ddim", 5): (10.1, 50.0), ("ddim", 10): (1.01, 50.01)}, "ours")
    assert not sweep.are_equal(mine, {("ddim", 5): (10.3, 50.0), ("ddim", 10): (1.0, 50.1)}, "ours")
    assert not sweep.are_equal({("euler", 5): (float("nan"), 50.0)}, {("euler", 5): (float("nan"), 50.0)}, "x")
    lines = ["different: ours: ddim at 5 steps, ddim at 10 steps", "different: x: euler at 5 steps"]
    assert capsys.readouterr().out.splitlines() == lines


def test_the_sweep_has_all_take_turns_and_compares_each_with_the_script(monkeypatch, capsys):
    sweep, turns, now = module("sweep"), [], [0.0]
    takes = {"script": 8.0, None: 4.0, 2: 2.0}
    numbers = {who: {("ddim", 5): (10.0, 50.0)} for who in takes}

    def turn(who):
        turns.append(who)
        now[0] += takes[who]
        return numbers[who]

    monkeypatch.setattr(sweep, "clock", lambda device: now[0])
    monkeypatch.setattr(sweep, "script", lambda task, folder: turn("script"))
    monkeypatch.setattr(sweep, "ours", lambda task, folder, workers=None: turn(workers))
    task = sweep.Task(("ddim",), (5,), 3, 2, torch.device("cpu"))
    assert sweep.compared(task, rounds=2, workers=2)
    assert turns == ["script", None, 2, 2, None, "script"]
    out = capsys.readouterr().out
    assert "| ddim | 5 | 10.000 | 10.000 | 50.000 | 50.000 |" in out
    assert "| samplerbench | 4.0 (4.0, 4.0) | 2.00 |" in out
    assert "| samplerbench, 2 workers | 2.0 (2.0, 2.0) | 4.00 |" in out
    # One of them alone is enough for another number to be told.
    numbers[2] = {("ddim", 5): (10.0, 50.1)}
    assert not sweep.compared(task, rounds=1, workers=2)
    assert "different: samplerbench, 2 workers: ddim at 5 steps\n" in capsys.readouterr().out


def test_metrics_are_those_of_torch_fidelity_and_a_difference_is_told(monkeypatch):
    metrics = module("metrics")
    problem = metrics.problem_of(60, 4)
    rows, is_equal = metrics.rows_of_table(problem, 1)
    assert is_equal
    assert [row.split(" | ")[0] for row in rows] == ["| FID", "| KID, of all rows", "| precision and recall"]
    assert not any("differs" in row for row in rows)
    monkeypatch.setattr(metrics.Problem, "fid", lambda problem: (1.001 * problem.ours("fid")[0],))
    rows, is_equal = metrics.rows_of_table(problem, 1)
    assert not is_equal
    assert ["differs" in row for row in rows] == [True, False, False]


def test_growth_fits_the_exponent():
    growth = module("growth")
    sizes = [2, 4, 8]
    assert growth.exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_growth_takes_off_what_does_not_grow():
    growth = module("growth")
    linear = growth.Axis("things", 1, 4, lambda size: 5 + 0.25 * size)
    assert growth.row_of(linear, 1) == "| things | 1: 5.2 s | 4, 8, 16, 32 | 0.75, 1.8, 3.8, 7.8 | 1.00 |"
    flat = growth.Axis("things", 1, 4, lambda size: 5.0)
    assert growth.row_of(flat, 1).endswith("| 0, 0, 0, 0 | nan |")


def test_the_share_of_the_network_is_told_for_each_sampler(monkeypatch):
    overhead = module("overhead")
    monkeypatch.setattr(overhead, "PEERS", {"ddim": overhead.Peer(), "heun": overhead.Peer()})
    lines = overhead.table_of_shares("mixture", 4, 2, 1, torch.device("cpu")).splitlines()
    assert lines[0] == "### mixture, 4 samples, 2 steps"
    rows = lines[4:]
    assert [row.split(" | ")[0] for row in rows] == ["| ddim", "| heun"]
    assert all(0 < float(row.split(" | ")[2].split(" %")[0]) < 100 for row in rows)

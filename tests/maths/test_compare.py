"""Paired differences, their intervals and verdicts."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import samplerbench as sb
from samplerbench.bench import cli
from samplerbench.bench.draw.clock import Repeat, Timing, in_turn
from samplerbench.bench.judge.compare import (
    BETTER,
    NOT_SHOWN,
    SAME,
    WORSE,
    Comparison,
    compare,
    comparison_of,
    comparisons_to_table,
    holm,
    seconds_compared,
)
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.plan.record import CellRecord
from samplerbench.bench.show.verdicts import comparison_to_rows
from samplerbench.plugins.metrics.fid import FID
from samplerbench.samplers.metric import mean_estimate, root_mean_estimate
from samplerbench.samplers.registry import load_registry
from samplerbench.samplers.student import student_p

CELL = CellRecord("ddim", "uniform", 5, 5, "")


def comparison(values_a, values_b, *, lower_is_better=True):
    return comparison_of("m", CELL, CELL, drawn(values_a), drawn(values_b), lower_is_better)


def drawn(values):
    """The mean of values by which the samples are known."""
    return dataclasses.replace(mean_estimate(values), digest=values.tobytes())


def verdicts(comparisons):
    return list(comparisons_to_table(comparisons)["verdict"])


def test_holm_on_a_worked_example():
    """Holm 1979: the smallest of m times m, the next times m - 1, never below one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_influence_of_a_root_mean_is_its_derivative():
    squares = np.array([1.0, 4.0, 9.0, 2.0])
    estimate = root_mean_estimate(squares)
    assert estimate.value == 2.0
    for i in range(4):
        moved = squares.copy()
        moved[i] += 1e-6
        derivative = (root_mean_estimate(moved).value - 2.0) / 1e-6
        assert estimate.influence[i] - estimate.influence[1] == pytest.approx(
            4 * derivative * (squares[i] - squares[1]), abs=1e-5
        )
    assert float(estimate.influence.sum()) == pytest.approx(0, abs=1e-12)
    assert float(np.abs(estimate.influence).max()) > 1


def test_pairing_takes_out_what_moves_both():
    rng = np.random.default_rng(0)
    common = rng.standard_normal(500) * 10
    a, b = common + 0.05 * rng.standard_normal(500), common + 0.05 * rng.standard_normal(500) + 0.1
    difference = mean_estimate(a) - mean_estimate(b)
    assert difference.value == pytest.approx(-0.1, abs=0.0095)  # three standard errors: 3 x 0.05 sqrt(2 / 500)
    assert difference.standard_error < mean_estimate(a).standard_error / 100
    assert verdicts([comparison(a, b)]) == [BETTER]
    assert verdicts([comparison(b, a)]) == [WORSE]
    assert verdicts([comparison(a, b, lower_is_better=False)]) == [WORSE]


def test_the_same_samples_are_said_to_be_that():
    a = np.arange(50.0)
    assert verdicts([comparison(a, a)]) == [SAME]
    assert verdicts([comparison(a, a[::-1])]) == [NOT_SHOWN]


def test_fid_differences_are_paired_too():
    """Two slightly different images of the same noise: the difference is known far better than either value."""
    rng = np.random.default_rng(1)
    metric = FID()
    reference = metric.prepare(rng.standard_normal((2000, 4)))
    rows = rng.standard_normal((400, 4)) + 0.2
    a, b = metric.estimate(rows, reference), metric.estimate(rows + 0.02 * rng.standard_normal(rows.shape), reference)
    assert (a - b).standard_error < a.standard_error / 5
    assert abs((a - b).value) < 5 * (a - b).standard_error


def false_claims(runs, samplers=12, n=100):
    """How often a family of comparisons with the first of equal samplers claims any difference."""
    rng = np.random.default_rng(2)
    claimed = 0
    for _ in range(runs):
        common, own = rng.standard_normal(n), rng.standard_normal((samplers, n))
        values = [mean_estimate(common + 0.3 * part) for part in own]
        found = verdicts([Comparison("m", CELL, CELL, other - values[0], True) for other in values[1:]])
        claimed += any(verdict != NOT_SHOWN for verdict in found)
    return claimed / runs


def test_equal_samplers_are_rarely_told_apart():
    assert false_claims(runs=200) <= 0.09  # 5 % and three standard errors


@pytest.mark.slow
def test_of_twelve_equal_samplers_at_most_one_family_in_twenty_has_a_false_claim(figure):
    found = false_claims(runs=2000)
    figure("families of 12 equal samplers with a false claim (Holm)", f"{found:.1%} of 2,000")
    assert found <= 0.05 + 2 * 0.005


TOY = str(Path(__file__).parents[1] / "toy.py")
REGISTRY = load_registry([TOY])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A finished run of four samplers, two of them one."""
    folder = tmp_path_factory.mktemp("run") / "out"
    specs = ["ddim", "euler", "ddpm", "ddpm:variance=large"]
    sb.run("toy", specs, steps=[3, 4], n=64, output=folder, plugins=[TOY])
    return folder


def test_a_run_is_compared_cell_by_cell(stored):
    found = compare(StoredRun(stored), "ddim", "euler", REGISTRY)
    assert list(found["metric"]) == ["fid_unbiased", "clip_score", "ode_error", "ode_distance", "seconds_per_image"] * 2
    assert list(found["verdict"]) == [*[SAME] * 4, "not compared: fewer than 5 repeats side by side"] * 2
    assert list(found["a"][:1]) == ["ddim, 3 steps, 3 calls"]
    found = compare(StoredRun(stored), "ddpm", "ddpm:variance=large", REGISTRY)
    assert list(found["metric"]) == ["fid_unbiased", "clip_score", "seconds_per_image"] * 2
    assert list(found["verdict"][:2]) == [BETTER, BETTER]
    metrics = found[found["metric"] != "seconds_per_image"]
    assert (metrics["low"] <= metrics["difference"]).all()


def test_the_difference_is_that_of_the_table(stored):
    found = compare(StoredRun(stored), "ddpm", "ddim", REGISTRY).dropna(subset="difference")
    table = pd.read_csv(stored / "table.csv").set_index(["sampler", "steps"])
    expected = [
        table.loc[("ddpm", s), m] - table.loc[("ddim", s), m] for s in (3, 4) for m in ("fid_unbiased", "clip_score")
    ]
    assert list(found["difference"]) == pytest.approx(expected, rel=1e-9)
    assert min(map(abs, expected)) > 1e-4


def test_a_sampler_that_is_not_in_the_run_is_named_with_those_that_are(stored):
    with pytest.raises(sb.InputError, match=r"did you mean 'ddim'.*there are: ddim, euler, ddpm"):
        compare(StoredRun(stored), "dimd", "ddpm", REGISTRY)


def test_cells_without_samples_in_common_are_refused(stored, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(stored, folder)
    key = json.loads((folder / "run.json").read_text())["cells"][0]["key"]
    shutil.rmtree(folder / "chunks" / key[:16])
    with pytest.raises(sb.InputError, match="'ddim, 3 steps, 3 calls', 'ddpm, 3 steps, 3 calls': the run"):
        compare(StoredRun(folder), "ddim", "ddpm", REGISTRY)


def test_the_command_prints_differences_and_verdicts(stored, monkeypatch, capsys):
    def printed(*arguments):
        monkeypatch.setattr(
            "sys.argv", ["samplerbench", "table", str(stored), "--plugin", TOY, "--compare", *arguments]
        )
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, *capsys.readouterr()

    code, out, _ = printed("ddpm", "ddpm:variance=large")
    assert code == 0
    heading, first, *_ = (re.split(r"  +", line) for line in out.splitlines())
    assert heading == ["metric", "A", "B", "A - B", "p", "A is"]
    assert first[:3] == [
        "unbiased FID [toy quadrants]",
        "ddpm, 3 steps, 3 calls",
        "ddpm:variance=large, 3 steps, 3 calls",
    ]
    assert first[-1] == "better"
    _, out, _ = printed("ddpm", "ddim", "--json")
    assert len(json.loads(out)["table"]) == 6
    code, out, _ = printed("ddpm", "ddim")
    assert out.splitlines()[-1] == (
        "p is corrected for all comparisons that can be asked of a metric "
        "(unbiased FID, CLIP score: 10) and for look 1 at the run."
    )
    code, out, err = printed("ddpm", "dimd")
    assert (code, out, err.count("\n")) == (2, "", 1)


# The interval and the p of a difference


def test_the_interval_of_a_difference_is_that_of_student_s_t():
    found = comparison(np.tile([1.0, 2.0, 3.0, 4.0, 5.0], 5), np.zeros(25))
    error = math.sqrt(5 * 10 / 24 / 25)
    half = 2.063899 * error
    assert (found.low, found.high) == (pytest.approx(3 - half, rel=1e-5), pytest.approx(3 + half, rel=1e-5))
    assert found.p == pytest.approx(student_p(3 / error, 24))
    assert math.isnan(comparison(np.ones(1), np.zeros(1)).low)


def test_nothing_is_shown_of_fewer_than_20_images():
    rising = np.arange(20.0)
    assert verdicts([comparison(rising[:19], rising[:19] + 5)]) == ["not compared: 19 images, fewer than 20"]
    assert verdicts([comparison(rising, rising**1.01 + 5)]) == [BETTER]
    assert verdicts([comparison(rising[:19], rising[:19])]) == [SAME]
    assert np.isnan([mean_estimate(rising[:19]).low, mean_estimate(rising[:19]).high]).all()
    assert mean_estimate(rising).low < 9.5 < mean_estimate(rising).high


def test_images_decide_what_the_same_samples_are_and_shares_of_1_and_0_differ():
    """Precision 1 beside precision 1 has no influence in it, and neither has 1 beside 0."""
    every, none = np.ones(20, dtype=bool), np.zeros(20, dtype=bool)
    other = dataclasses.replace(mean_estimate(every), digest=b"other images")
    equal = comparison_of("m", CELL, CELL, mean_estimate(every), other, lower_is_better=False)
    assert (verdicts([equal]), equal.p) == ([NOT_SHOWN], pytest.approx(1.0))
    assert equal.low < -0.05
    apart = comparison(every, none, lower_is_better=False)
    assert verdicts([apart]) == [BETTER]
    assert apart.p < 1e-9
    constant = comparison(np.ones(30), np.zeros(30))
    assert (verdicts([constant]), constant.p) == ([WORSE], 0.0)


# Seconds


def clocked(starts, seconds, machine="m", n=64):
    """Repeats that began at these times and took these seconds an image."""
    return [
        Repeat(n, Timing(5, 5, s * n, s * n, machine=machine, started=t)) for t, s in zip(starts, seconds, strict=True)
    ]


def test_seconds_are_compared_on_neighbours_in_time():
    drift = np.linspace(0, 1, 10)
    a, b = clocked(range(0, 20, 2), 1.0 + drift), clocked(range(1, 20, 2), 1.1 + drift + 0.01 * (-1) ** np.arange(10))
    found = seconds_compared(CELL, CELL, a, b)
    assert found.difference.value == pytest.approx(-0.1)
    assert found.high - found.low < 0.03
    assert verdicts([found]) == [BETTER]
    assert verdicts([seconds_compared(CELL, CELL, b, a)]) == [WORSE]


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        (clocked(range(0, 8, 2), [1.0] * 4), clocked(range(1, 9, 2), [2.0] * 4), "fewer than 5 repeats side by side"),
        (clocked(range(9), [1.0] * 9), clocked(range(9, 18), [2.0] * 9), "fewer than 5 repeats side by side"),
        (clocked(range(0, 18, 2), [1.0] * 9), clocked(range(1, 19, 2), [2.0] * 9, "other"), "machines differ"),
    ],
)
def test_seconds_that_were_not_clocked_alike_are_not_compared(a, b, why):
    left_out = seconds_compared(CELL, CELL, a, b)
    table = comparisons_to_table([comparison(np.arange(30.0) - 9, np.zeros(30)), left_out])
    assert table["verdict"][1] == f"not compared: {why}"
    assert table.loc[1, ["difference", "low", "high", "p"]].isna().all()
    assert table["p"][0] == comparison(np.arange(30.0) - 9, np.zeros(30)).p  # corrected for one, not for two
    assert comparison_to_rows(table, {})[1]["p"] == "-"


def test_a_run_with_repeats_compares_seconds_too(tmp_path):
    specs = ["ddim", "dpm2"]
    sb.run("toy", specs, steps=[2], n=64, output=tmp_path / "run", plugins=[TOY], repeats=6, metrics=[])
    found = compare(StoredRun(tmp_path / "run"), *specs, REGISTRY)
    assert list(found["metric"]) == ["ode_error", "ode_distance", "seconds_per_image"]
    table = pd.read_csv(tmp_path / "run" / "table.csv")
    seconds = found.iloc[2]
    assert math.isfinite(seconds["p"])
    assert abs(seconds["difference"]) < 100 * table["seconds_per_image"].max()


# Two equal cells on a machine that something disturbs


def disturbed(rng, kind, length):
    """How much slower than alone the machine is at each moment, (length,)."""
    slower = np.ones(length)
    if kind == "drift":
        slower += np.linspace(0, rng.uniform(0.1, 0.5), length)
    else:
        for _ in range(rng.poisson(2) + 1):
            start, long = rng.integers(length), rng.integers(1, length // 3)
            slower[start : start + long] += rng.uniform(0.2, 2.0)
    return slower


def differences_claimed(kind, *, interleaved, runs, repeats=8):
    """How often two equal cells are told apart, each clocked `repeats` times on a disturbed machine."""
    rng = np.random.default_rng(3)
    claimed = 0
    for _ in range(runs):
        rounds = [in_turn("ab", i) for i in range(repeats)] if interleaved else ["a" * repeats, "b" * repeats]
        order = "".join(map("".join, rounds))
        seconds = 0.01 * disturbed(rng, kind, len(order)) * rng.normal(1, 0.02, len(order))
        # One after the other, i is paired with i: what a benchmark does that takes no turns.
        started = {True: lambda place: place, False: lambda place: 2 * (place % repeats) + place // repeats}[
            interleaved
        ]
        cells = {
            name: clocked([started(i) for i, o in enumerate(order) if o == name],
                          [s for s, o in zip(seconds, order, strict=True) if o == name])
            for name in "ab"
        }  # fmt: skip
        claimed += verdicts([seconds_compared(CELL, CELL, cells["a"], cells["b"])]) != [NOT_SHOWN]
    return claimed / runs


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["drift", "bursts"])
def test_what_disturbs_the_machine_tells_no_cell_from_its_equal(kind, figure):
    in_turns, in_sequence = (differences_claimed(kind, interleaved=turns, runs=1000) for turns in (True, False))
    name = f"equal cells told apart by the clock under {kind}: in turns, in sequence"
    figure(name, f"{in_turns:.1%}, {in_sequence:.1%} of 1,000")
    assert in_turns <= 0.05
    assert in_sequence > 0.1

"""Paired differences, their intervals and verdicts."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import samplerbench as sb
from samplerbench.bench import cli
from samplerbench.bench.compare import BETTER, NOT_SHOWN, SAME, WORSE, Comparison, compare, comparisons_to_table, holm
from samplerbench.plugins.metrics.fid import FID
from samplerbench.samplers.metric import mean_estimate, root_mean_estimate
from samplerbench.samplers.registry import load_registry

CELL = {"sampler": "ddim", "grid": "uniform", "steps": 5, "nfe": 5, "key": ""}


def comparison(values_a, values_b, *, lower_is_better=True):
    return Comparison("m", CELL, CELL, mean_estimate(values_a) - mean_estimate(values_b), lower_is_better)


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
    assert difference.value == pytest.approx(-0.1, abs=0.02)
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


TOY = str(Path(__file__).with_name("toy.py"))
REGISTRY = load_registry([TOY])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A finished run of four samplers, two of them one."""
    folder = tmp_path_factory.mktemp("run") / "out"
    specs = ["ddim", "euler", "ddpm", "ddpm:variance=large"]
    sb.run("toy", specs, steps=[3, 4], n=64, output=folder, plugins=[TOY])
    return folder


def test_a_run_is_compared_cell_by_cell(stored):
    found = compare(stored, "ddim", "euler", REGISTRY)
    assert list(found["metric"]) == ["fid", "clip_score", "ode_error"] * 2
    assert set(found["verdict"]) == {SAME}
    assert list(found["a"][:1]) == ["ddim, 3 steps, 3 calls"]
    found = compare(stored, "ddpm", "ddpm:variance=large", REGISTRY)
    assert list(found["metric"]) == ["fid", "clip_score"] * 2
    assert list(found["verdict"][:2]) == [BETTER, BETTER]
    assert (found["low"] <= found["difference"]).all()


def test_the_difference_is_that_of_the_table(stored):
    found = compare(stored, "ddpm", "ddim", REGISTRY)
    table = pd.read_csv(stored / "table.csv").set_index(["sampler", "steps"])
    expected = [table.loc[("ddpm", s), m] - table.loc[("ddim", s), m] for s in (3, 4) for m in ("fid", "clip_score")]
    assert list(found["difference"]) == pytest.approx(expected, rel=1e-9)
    assert min(map(abs, expected)) > 1e-4


def test_a_sampler_that_is_not_in_the_run_is_named_with_those_that_are(stored):
    with pytest.raises(sb.InputError, match=r"did you mean 'ddim'.*there are: ddim, euler, ddpm"):
        compare(stored, "dimd", "ddpm", REGISTRY)


def test_cells_without_samples_in_common_are_refused(stored, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(stored, folder)
    key = json.loads((folder / "run.json").read_text())["cells"][0]["key"]
    shutil.rmtree(folder / "chunks" / key[:16])
    with pytest.raises(sb.InputError, match="'ddim, 3 steps, 3 calls', 'ddpm, 3 steps, 3 calls': the run"):
        compare(folder, "ddim", "ddpm", REGISTRY)


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
    assert first[:3] == ["fid", "ddpm, 3 steps, 3 calls", "ddpm:variance=large, 3 steps, 3 calls"]
    assert first[-1] == "better"
    _, out, _ = printed("ddpm", "ddim", "--json")
    assert len(json.loads(out)["table"]) == 4
    code, out, err = printed("ddpm", "dimd")
    assert (code, out, err.count("\n")) == (2, "", 1)

"""samplerbench table --fail-if and --baseline: what fails a check in continuous integration, and what does not."""

import json
from pathlib import Path

import pandas as pd
import pytest

import samplerbench as sb_
from samplerbench.bench.judge import baseline
from samplerbench.bench.judge.baseline import against_baseline
from samplerbench.bench.judge.conditions import Condition, parse_condition
from samplerbench.bench.judge.looks import Look
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
MINE = '''
from samplerbench import Sampler, hookimpl

class Mine(Sampler):
    """DDIM times a factor."""
    convergence = 1

    def nfe(self, steps):
        """One call a step."""
        return steps

    def step(self, run, x, a, b, past):
        """A step; the factor is that of the last one."""
        x = run.predict(x, a).combine(b.alpha, b.sigma)
        if b.is_clean and run.i == 2 and {fails}:
            raise ValueError("broken")
        return x * {factor} if b.is_clean else x, None

@hookimpl
def samplerbench_samplers():
    """What this file adds."""
    return {{"mine": Mine}}
'''


def run_of_mine(folder, factor, *, fails=False, **settings):
    """A run of a sampler whose last step is off by a factor, and of ddim."""
    folder.mkdir()
    plugin = folder / "mine.py"
    plugin.write_text(MINE.format(factor=factor, fails=fails))
    out = folder / "run"
    sb_.run("toy", ["mine", "ddim"], plugins=[TOY, str(plugin)], output=out, **{"steps": [2, 3], "n": 70, **settings})
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, one whose sampler is worse, one whose sampler fails at 3 steps, and one with another seed."""
    root = tmp_path_factory.mktemp("runs")
    return {
        "good": run_of_mine(root / "good", 1.0),
        "worse": run_of_mine(root / "worse", 0.8),
        "failing": run_of_mine(root / "failing", 1.0, fails=True),
        "other": run_of_mine(root / "other", 1.0, seed=1),
    }


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("fid > 2", ("fid", "", {}, ">", 2.0)),
        ("fid[ddim,steps=10]>=2e-1", ("fid", "ddim", {"steps": 10}, ">=", 0.2)),
        ("clip_score[nfe=10] < .5", ("clip_score", "", {"nfe": 10}, "<", 0.5)),
        (
            "fid [ddim:eta=0.5,grid=karras, steps=10] <= 3",
            ("fid", "ddim:eta=0.5,grid=karras", {"steps": 10}, "<=", 3.0),
        ),
    ],
)
def test_a_condition_names_column_rows_and_limit(text, parts):
    assert parse_condition(text) == Condition(text, *parts)


@pytest.mark.parametrize(
    "text", ["", "fid", "fid > two", "fid > nan", "fid = 2", "fid[ddim > 2", "fid[steps=2,steps=3] > 1", "> 2"]
)
def test_what_is_no_condition_is_refused_in_a_line(sb, runs, text):
    sb("table", runs["good"], "--fail-if", text).refused(2, "fail-if", "fid[ddim,steps=10] > 2")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fidd > 2", ("'fidd'", "did you mean 'fid'?")),
        ("sampler > 2", ("no numbers in a column 'sampler'",)),
        ("fid[dim] > 2", ("did you mean 'ddim'?",)),
        ("fid[ddim,steps=10] > 2", ("no row with steps=10; there are: steps 2, 3",)),
    ],
)
def test_a_condition_on_what_the_table_lacks_is_refused_in_a_line(sb, runs, text, words):
    sb("table", runs["good"], "--fail-if", text).refused(2, *words)


def test_the_rows_that_break_a_limit_are_named_and_the_code_is_1(sb, runs):
    run = StoredRun(runs["good"]).table
    at_2 = float(run.loc[(run["sampler"] == "ddim") & (run["steps"] == 2), "fid"].iloc[0])
    assert sb("table", runs["good"], "--fail-if", f"fid[ddim,steps=2] > {at_2 * 1.01}").code == 0
    done = sb("table", runs["good"], "--fail-if", "fid > 1e9", "--fail-if", f"fid[ddim,steps=2] > {at_2 * 0.99}")
    assert done.code == 1
    assert done.err.startswith(f"Failed: fid of ddim, 2 steps, 2 calls is {at_2:.6g}; fail-if 'fid[ddim,steps=2] > ")
    assert done.err.count("\n") == 1
    assert "| ddim" in done.out
    every = sb("table", runs["good"], "--fail-if", "fid >= 0", "--json")
    assert every.code == 1
    assert every.err.count("Failed: fid of ") == len(json.loads(every.out)["table"]) == 4


def test_a_row_without_a_value_cannot_pass(sb, runs):
    done = sb("table", runs["failing"], "--fail-if", "fid[mine] > 1e9")
    assert done.code == 1
    assert done.err.splitlines() == [
        "Failed: fid of mine, 3 steps, 3 calls has no value (status failed: ValueError: broken); "
        "fail-if 'fid[mine] > 1e9'"
    ]


def test_a_worse_row_fails_and_its_equal_does_not(sb, runs):
    options = ("--baseline", runs["good"], "--plugin", TOY)
    done = sb("table", runs["worse"], *options)
    assert done.code == 1
    lines = done.err.splitlines()
    assert all(line.startswith("Failed: ") and f"is worse than in {runs['good']}: " in line for line in lines)
    assert {(line.split()[1], line.split(" of ")[1].split(",")[0]) for line in lines} >= {("fid_unbiased", "mine")}
    assert not any(" of ddim" in line for line in lines)
    assert "same samples" in done.out
    assert "p is corrected for all comparisons" in done.out
    same = sb("table", runs["good"], *options)
    assert (same.code, same.err) == (0, "")


def test_a_better_row_passes(sb, runs):
    done = sb("table", runs["good"], "--baseline", runs["worse"], "--plugin", TOY)
    assert (done.code, done.err) == (0, "")
    assert "better" in done.out


def test_the_difference_is_that_of_both_tables_and_p_is_corrected_for_all_rows(runs):
    found = against_baseline(StoredRun(runs["worse"]), StoredRun(runs["good"]), load_registry([TOY])).table
    here, there = (StoredRun(runs[name]).table for name in ("worse", "good"))
    fid = found[found["metric"].eq("fid_unbiased")]
    assert list(fid["row"]) == [f"{name}, {n} steps, {n} calls" for name in ("mine", "ddim") for n in (2, 3)]
    differences = (here["fid_unbiased"] - there["fid_unbiased"]).rename("difference")
    pd.testing.assert_series_equal(fid["difference"].reset_index(drop=True), differences, rtol=1e-9)
    # The rows of ddim have the same samples and are no question: two are left.
    assert set(fid["family"]) == {2}
    assert "seconds_per_image" not in set(found["metric"])


def test_a_row_that_fails_and_did_not_is_named(sb, runs):
    done = sb("table", runs["failing"], "--baseline", runs["good"], "--plugin", TOY, "--json")
    assert done.code == 1
    assert done.err == "Failed: mine, 3 steps, 3 calls failed: ValueError: broken\n"
    found = json.loads(done.out)
    assert found["failed"] == ["mine, 3 steps, 3 calls failed: ValueError: broken"]
    assert found["left_out"] == []
    back = sb("table", runs["good"], "--baseline", runs["failing"], "--plugin", TOY)
    assert back.code == 0
    assert "not compared" in back.err


def test_a_baseline_of_which_every_row_fails_now_fails_the_check(sb, runs, tmp_path):
    plugin = runs["failing"].parent / "mine.py"
    sb_.run("toy", ["mine"], steps=[3], n=70, plugins=[TOY, str(plugin)], output=tmp_path / "now")
    for form in ([], ["--json"]):
        done = sb("table", "now", "--baseline", runs["good"], "--plugin", TOY, *form)
        assert (done.code, done.err) == (1, "Failed: mine, 3 steps, 3 calls failed: ValueError: broken\n")
    assert json.loads(done.out)["table"] == []


def test_a_limit_holds_for_merged_runs_too(sb, runs):
    both = ("table", runs["good"], runs["worse"], "--merge", "--fail-if")
    done = sb("table", runs["good"], runs["good"], "--merge", "--fail-if", "fid[ddim] > 1e9")
    assert (done.code, done.err) == (0, "")
    sb(*both, "fid > 1e9").refused(2, "merge")


def test_both_checks_are_made_in_one_call(sb, runs):
    done = sb("table", runs["good"], "--baseline", runs["good"], "--fail-if", "fid[mine] >= 0", "--plugin", TOY)
    assert done.code == 1
    assert done.err.count("Failed: fid of mine") == 2


def test_other_samples_and_other_questions_are_refused(sb, runs, tmp_path):
    options = ("--baseline", runs["other"], "--plugin", TOY)
    sb("table", runs["good"], *options).refused(2, "baseline", "seed 1, and 0")
    sb("table", runs["good"], "--pareto", *options).refused(2, "--pareto and --baseline")
    sb("table", runs["good"], "--pareto", "--fail-if", "fid > 2").refused(2, "--fail-if and --pareto")
    sb("table", runs["good"], "--baseline", tmp_path / "none", "--plugin", TOY).refused(2, "none")
    apart = tmp_path / "apart"
    sb_.run("toy", ["euler"], steps=[4], n=70, plugins=[TOY], output=apart)
    sb("table", apart, "--baseline", runs["good"], "--plugin", TOY).refused(2, "no row in common")


def test_the_versions_of_a_baseline_may_differ(sb, runs, tmp_path, monkeypatch):
    monkeypatch.setattr("samplerbench.bench.plan.environment.version_of", lambda name: "9.9")
    later = tmp_path / "later"
    sb_.run("toy", ["ddim"], steps=[2], n=70, plugins=[TOY], output=later)
    assert StoredRun(later).record.environment.versions != StoredRun(runs["good"]).record.environment.versions
    done = sb("table", later, "--baseline", runs["good"], "--plugin", TOY)
    assert done.code == 0
    assert "same samples" in done.out


def test_a_row_of_one_guidance_is_told_from_the_others(sb, tmp_path):
    """Guidance is an axis: without it in the brackets a condition is about the rows of all."""
    sb_.run("toy", "ddim", plugins=[TOY], output=tmp_path / "run", steps=[2], n=20, guidance=[1, 2.5])
    lines = {text: sb("table", tmp_path / "run", "--fail-if", f"guidance[ddim{text}] > 0") for text in
             ("", ",guidance=1", ",guidance=2.5")}  # fmt: skip
    assert [done.err.count("Failed:") for done in lines.values()] == [2, 1, 1]
    assert "is 2.5;" in lines[",guidance=2.5"].err
    sb("table", tmp_path / "run", "--fail-if", "guidance[guidance=3] > 0").refused(2, "guidance=3", "guidance 1, 2.5")


def test_a_baseline_has_a_row_for_each_guidance(tmp_path):
    out = tmp_path / "run"
    sb_.run("toy", "ddim", plugins=[TOY], output=out, steps=[2], n=70, guidance=[1, 2.5])
    against = against_baseline(StoredRun(out), StoredRun(out), load_registry([TOY]))
    assert set(against.table.groupby("metric").size()) == {2}
    assert against.left_out == ()


def test_a_baseline_is_corrected_for_looks(runs, monkeypatch):
    """The third look at a run costs as much as anywhere."""

    def p_at(look):
        monkeypatch.setattr(baseline, "look_at", lambda run, samples: Look(look, samples))
        return against_baseline(StoredRun(runs["worse"]), StoredRun(runs["good"]), load_registry([TOY])).table["p"]

    first, third = p_at(1), p_at(3)
    told = (first > 0) & (third < 1)
    assert told.any()
    assert (third[told] / first[told]).to_numpy() == pytest.approx(Look(3).weight / Look(1).weight)

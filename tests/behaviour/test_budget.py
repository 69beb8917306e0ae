"""Budgets and the front of quality against cost: which rows are taken, and what is said of them."""

import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

import samplerbench as sb
from samplerbench.bench.draw.clock import Repeat, Timing
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.judge.budget import BEST, NO_ROW, budgets, parse_seconds
from samplerbench.bench.judge.compare import NOT_SHOWN, SAME, WORSE, comparisons_to_table
from samplerbench.bench.judge.pareto import CLOSE, DOMINATED, ON_FRONT, costs_no_more, pareto
from samplerbench.bench.judge.ranking import Other
from samplerbench.bench.judge.scores import NOT_MEASURED, Score, Scores
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.judge.table import write_sealed_table
from samplerbench.bench.judge.verdict_files import read_answers
from samplerbench.bench.plan.record import CellRecord
from samplerbench.bench.show.verdicts import budgets_to_rows, pareto_caption
from samplerbench.samplers.metric import mean_estimate
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
REGISTRY = load_registry([TOY])
PLACE = Path("run")


# Rows whose quality and cost are known


def score(sampler, values, *, nfe=10, seconds=0.01, quartiles=(), clocked=(), steps=10):
    """A row with these values of the metric, one a sample; None = it failed."""
    low, high = quartiles or (math.nan, math.nan)
    cell = CellRecord(sampler, "uniform", steps, nfe, f"{sampler}-{steps}")
    row = msgspec.structs.asdict(cell) | {
        "samples": 0 if values is None else len(values), "seconds_per_image": seconds, "seconds_low": low,
        "seconds_high": high, "timing": "ok",
    }  # fmt: skip
    estimate = None if values is None else drawn(np.asarray(values, dtype=float))
    return Score(cell, row, estimate, {} if estimate is None else {"m": estimate}, tuple(clocked))


def drawn(values):
    """The mean of values by which the samples are known."""
    return dataclasses.replace(mean_estimate(values), digest=values.tobytes())


@pytest.fixture
def scored(monkeypatch):
    """Budgets and fronts of rows that are given, lower values better unless told."""

    def of(rows, find, *arguments, lower_is_better=True):
        scores = Scores("m", {"m": lower_is_better}, tuple(rows))
        for name in ("budget.all_scores_of", "pareto.scores_of"):
            monkeypatch.setattr(f"samplerbench.bench.judge.{name}", lambda *_, **__: scores)
        return find(PLACE, REGISTRY, *arguments)

    return of


RNG = np.random.default_rng(4)
NOISE = RNG.standard_normal(400)


def values(mean, own=0.1):
    """400 values around a mean; what all rows have in common falls out."""
    part = RNG.standard_normal(400) * own
    return mean + NOISE + part - part.mean()


def test_each_sampler_gives_the_row_that_makes_the_most_of_a_budget(scored):
    rows = [
        score("a", values(3), nfe=5, steps=5), score("a", values(2), nfe=10), score("a", values(1), nfe=20, steps=20),
        score("b", values(9), nfe=9, steps=5), score("b", values(8), nfe=19),
        score("c", values(0), nfe=30),
    ]  # fmt: skip
    found = scored(rows, budgets, "nfe", [10, 20, 4], None)
    picked = found.groupby("budget", sort=False)[["sampler", "nfe"]].apply(lambda g: g.fillna(0).values.tolist())
    assert picked[10] == [["a", 10], ["b", 9], ["c", 0]]
    assert picked[20] == [["a", 20], ["b", 19], ["c", 0]]
    assert list(found["verdict"]) == [BEST, WORSE, NO_ROW, BEST, WORSE, NO_ROW, NO_ROW, NO_ROW, NO_ROW]
    assert list(found["rank"].fillna(0)) == [1, 2, 0, 1, 2, 0, 0, 0, 0]


def test_the_upper_quartile_of_the_seconds_has_to_fit(scored):
    rows = [
        score("a", values(1), seconds=0.019, quartiles=(0.018, 0.021)),
        score("a", values(3), seconds=0.010, quartiles=(0.009, 0.011), steps=5),
        score("b", values(2), seconds=0.019),
        score("c", values(2), seconds=math.nan),
    ]
    found = scored(rows, budgets, "seconds", [0.02], None)
    assert list(found["sampler"]) == ["b", "a", "c"]
    assert list(found["steps"][:2]) == [10, 5]
    assert list(found["verdict"]) == [BEST, WORSE, NO_ROW]


def test_the_best_has_the_highest_value_where_higher_is_better(scored):
    rows = [score("a", values(1)), score("b", values(5))]
    found = scored(rows, budgets, "nfe", [10], None, lower_is_better=False)
    assert list(found["sampler"]) == ["b", "a"]
    assert list(found["verdict"]) == [BEST, WORSE]
    assert found["difference"][1] == pytest.approx(-4, abs=1e-9)


def test_what_is_shown_of_a_row_beside_the_best(scored):
    best = values(1)
    rows = [
        score("best", best), score("same", best.copy()), score("close", values(1.0005)), score("worse", values(1.5)),
        score("failed", None), score("late", None, nfe=99),
    ]  # fmt: skip
    found = scored(rows, budgets, "nfe", [10], None).set_index("sampler")
    assert dict(found["verdict"]) == {
        "best": BEST, "same": SAME, "close": NOT_SHOWN, "worse": WORSE, "failed": NOT_MEASURED, "late": NOT_MEASURED,
    }  # fmt: skip
    worse = found.loc["worse"]
    assert worse["difference_low"] < worse["difference"] < worse["difference_high"]
    assert worse["difference"] == pytest.approx(0.5, abs=1e-9)
    assert found.loc["best", ["difference", "p"]].isna().all()


def test_p_is_corrected_for_all_pairs_that_fit(scored):
    """The best was picked by looking: any pair could have been one with it."""
    rows = [score(name, values(mean)) for name, mean in (("a", 1), ("b", 1.01), ("c", 1.02), ("d", 1.012))]
    alone = scored(rows[:2], budgets, "nfe", [10], None)
    among = scored(rows, budgets, "nfe", [10], None)
    again = scored(rows, budgets, "nfe", [10, 20], None)  # the same rows fit: no further pair

    def p(found):
        return found.query("sampler == 'b' and budget == 10")["p"].item()

    smallest = among["p"].min()
    assert p(among) > 2 * p(alone)
    assert smallest == pytest.approx(6 * scored([rows[0], rows[2]], budgets, "nfe", [10], None)["p"].min())
    assert p(again) == p(among)
    named_twice = dataclasses.replace(rows[0], cell=msgspec.structs.replace(rows[0].cell, sampler="a:option=1"))
    twice = scored([*rows, named_twice], budgets, "nfe", [10], None)
    assert p(twice) == p(among)


def equal_samplers(runs, samplers):
    """Rows of samplers that are equal, run by run: the same noise and something of their own."""
    rng = np.random.default_rng(5)
    for _ in range(runs):
        common = rng.standard_normal(100)
        yield [score(f"s{i}", common + 0.3 * rng.standard_normal(100)) for i in range(samplers)]


def false_claims(runs, samplers, scored):
    """How often a budget claims that one of equal samplers is worse than the best of them."""
    found = (scored(rows, budgets, "nfe", [10], None) for rows in equal_samplers(runs, samplers))
    return sum(WORSE in set(table["verdict"]) for table in found) / runs


def false_claims_of_pairs_with_the_best(runs, samplers):
    """The verdicts if p were corrected only for the pairs with the best."""
    claimed = 0
    for rows in equal_samplers(runs, samplers):
        scores = Scores("m", {"m": True}, tuple(rows))
        best, *others = scores.best_first(rows)
        claimed += WORSE in set(comparisons_to_table([scores.comparison(row, best) for row in others])["verdict"])
    return claimed / runs


@pytest.mark.slow
def test_of_equal_samplers_none_is_worse_than_the_best_but_in_one_run_of_twenty(scored, figure):
    found, simpler = false_claims(1000, 12, scored), false_claims_of_pairs_with_the_best(1000, 12)
    name = "rankings of 12 equal samplers that call one worse (corrected for the pairs with the best alone)"
    figure(name, f"{found:.1%} ({simpler:.1%}) of 1,000")
    assert found <= 0.05 + 2 * 0.007
    assert simpler > 0.1


def test_equal_samplers_are_rarely_called_worse(scored):
    assert false_claims(40, 6, scored) <= 0.15  # 5 % and three standard errors


# The front


def front(scored, rows, against="nfe", **settings):
    found = scored(rows, pareto, None, against, **settings)
    return dict(zip(found["sampler"], found["verdict"], strict=True)), found.set_index("sampler")


def test_a_known_front_is_found(scored):
    rows = [
        score("cheap", values(9), nfe=5), score("middle", values(5), nfe=10), score("dear", values(1), nfe=20),
        score("bad", values(8), nfe=10), score("worst", values(7), nfe=20), score("close", values(5.0004), nfe=11),
        score("even", values(5.0004), nfe=10), score("failed", None, nfe=7),
    ]  # fmt: skip
    verdict, found = front(scored, rows)
    assert verdict == {
        "cheap": ON_FRONT, "middle": ON_FRONT, "dear": ON_FRONT, "bad": DOMINATED, "worst": DOMINATED,
        "close": CLOSE, "even": CLOSE, "failed": NOT_MEASURED,
    }  # fmt: skip
    assert found.loc["bad", "dominated_by"] == "middle, 10 steps, 10 calls"
    assert found.loc["worst", "dominated_by"] == "dear, 10 steps, 20 calls"
    assert list(found["cost"]) == sorted(found["cost"])


def test_a_front_of_values_of_which_higher_is_better(scored):
    rows = [score("low", values(1), nfe=10), score("high", values(2), nfe=10), score("dear", values(1), nfe=20)]
    verdict, _ = front(scored, rows, lower_is_better=False)
    assert verdict == {"low": DOMINATED, "high": ON_FRONT, "dear": DOMINATED}


def test_identical_cells_are_on_the_front_together(scored):
    same = values(1)
    verdict, _ = front(scored, [score(name, same.copy()) for name in "abc"])
    assert set(verdict.values()) == {ON_FRONT}
    verdict, _ = front(scored, [score("a", same, seconds=0.01), score("b", same, seconds=0.011)], "seconds")
    assert verdict == {"a": ON_FRONT, "b": ON_FRONT}  # one method, with one time
    calls = [score("a", same, seconds=0.01), score("b", same, seconds=0.011, nfe=11)]
    assert front(scored, calls, "seconds")[0] == {"a": ON_FRONT, "b": CLOSE}


def clocked(seconds, first):
    """Repeats every two seconds from the time of the first."""
    return [
        Repeat(64, Timing(10, 10, 64 * s, 32 * s, machine="m", started=first + 2.0 * i)) for i, s in enumerate(seconds)
    ]


def timed_score(name, mean, seconds, first):
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return score(name, values(mean), seconds=median, quartiles=(low, high), clocked=clocked(seconds, first))


JITTER = np.array([0.0, 0.4, -0.5, 0.3, -0.2, 0.5, -0.4, 0.1]) * 1e-3


def test_time_within_noise_does_not_save_a_row(scored):
    """Better by far, and 1 % slower by the median, as noise has it: that is no more time."""
    rows = [timed_score("better", 1, 0.0101 + JITTER, 0.0), timed_score("worse", 5, 0.0100 - JITTER, 1.0)]
    verdict, _ = front(scored, rows, "seconds")
    assert verdict == {"better": ON_FRONT, "worse": DOMINATED}


def test_a_row_that_is_shown_to_be_faster_is_dominated_by_none_that_is_slower(scored):
    """Side by side one is slower each time, though the machine's drift is larger than that."""
    drift = np.linspace(0, 0.01, 8)
    rows = [timed_score("better", 1, 0.0102 + drift, 0.0), timed_score("faster", 5, 0.0100 + drift + JITTER / 50, 1.0)]
    assert rows[0].cost("seconds") < rows[1].upper_cost("seconds")
    verdict, _ = front(scored, rows, "seconds")
    assert verdict == {"faster": ON_FRONT, "better": ON_FRONT}


def test_without_repeats_the_medians_alone_say_what_costs_more(scored):
    a, b = score("a", values(1), seconds=0.0101), score("b", values(5), seconds=0.0100)
    assert costs_no_more(b, a, "seconds")
    assert not costs_no_more(a, b, "seconds")
    assert costs_no_more(a, b, "nfe")
    assert costs_no_more(b, a, "nfe")
    verdict, _ = front(scored, [a, b], "seconds")
    assert verdict == {"a": ON_FRONT, "b": ON_FRONT}


def test_rows_without_seconds_are_not_placed(scored):
    rows = [score("a", values(1)), score("b", values(0), seconds=math.nan)]
    verdict, _ = front(scored, rows, "seconds")
    assert verdict == {"a": ON_FRONT, "b": NOT_MEASURED}


def test_a_front_is_never_empty_and_a_dominating_row_has_no_better_one(scored):
    for _, lower in itertools.product(range(20), (True, False)):
        rows = [score(f"s{i}", values(RNG.uniform(0, 0.1)), nfe=int(RNG.integers(1, 9))) for i in range(8)]
        verdict, found = front(scored, rows, lower_is_better=lower)
        assert ON_FRONT in verdict.values()
        for name in found.index[found["verdict"] == DOMINATED]:
            above = found.loc[found.loc[name, "dominated_by"].partition(",")[0]]
            assert (above["value"] < found.loc[name, "value"]) == lower
            assert above["cost"] <= found.loc[name, "cost"]


# Of a run


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A finished run of four samplers, two of them one, and one that fails."""
    folder = tmp_path_factory.mktemp("run") / "out"
    specs = ["ddim", "euler", "ddpm", "ddpm:variance=large", "raises"]
    sb.run("toy", specs, steps=[3, 6], n=100, output=folder, plugins=[TOY])
    return folder


def test_a_run_has_budgets(stored):
    found = budgets(StoredRun(stored), REGISTRY, "nfe", [5], None)
    assert set(found["metric"]) == {"fid_unbiased"}
    assert set(found["steps"].dropna()) == {3}
    table = pd.read_csv(stored / "table.csv").query("steps == 3").set_index("sampler")
    ranked = found.dropna(subset="rank").set_index("sampler")
    for name, row in ranked.iterrows():
        assert row["value"] == pytest.approx(table.loc[name, "fid_unbiased"], rel=1e-9)
        assert row["low"] == pytest.approx(table.loc[name, "fid_unbiased_low"], rel=1e-9)
    assert list(ranked["value"]) == sorted(ranked["value"])
    assert set(ranked.loc[["ddim", "euler"], "verdict"]) <= {BEST, SAME, WORSE, NOT_SHOWN}
    assert found.set_index("sampler").loc["raises", "verdict"] == NOT_MEASURED


@pytest.mark.parametrize(
    "amounts", [[3, 6, 4], [100, 3, 1], *(pytest.param([one], marks=pytest.mark.slow) for one in (3, 6))]
)
def test_what_is_said_of_a_budget_is_what_the_report_answers(stored, amounts):
    run = StoredRun(stored)
    answers = {(a.metric, a.budget): a for a in read_answers(run)}
    assert {budget for _, budget in answers} == {3, 6}
    for metric in ("fid", "clip_score", "ode_error"):
        found = budgets(run, REGISTRY, "nfe", amounts, metric)
        assert list(dict.fromkeys(found["budget"])) == amounts
        for budget, said in found.dropna(subset="rank").groupby("budget"):
            answer = answers[metric, {4: 3, 100: 6}.get(budget, budget)]
            rows = [run.table.iloc[row] for row in (answer.best, *(other.row for other in answer.others))]
            assert list(zip(said["sampler"], said["steps"], strict=True)) == [
                (row["sampler"], row["steps"]) for row in rows
            ]
            others = pd.DataFrame(map(msgspec.structs.asdict, answer.others), columns=Other.__struct_fields__)
            of_others = said.iloc[1:]
            assert list(of_others["p"]) == list(others["p"])
            assert list(of_others["difference"]) == list(-others["difference"])
            assert list(of_others["difference_low"]) == list(-others["high"])
            assert list(of_others["verdict"]) == list(others["verdict"].replace("better", WORSE))


def test_a_front_says_whose_time_rows_with_the_same_samples_have(stored):
    run = StoredRun(stored)
    found = pareto(run, REGISTRY)
    own = found.assign(seconds_per_image=[float(i) for i in range(len(found))])
    said = "Rows with the same samples have the time of the first of them."
    assert pareto_caption(found.assign(seconds_per_image=1.0), run.labels).endswith(said)
    assert said not in pareto_caption(own, run.labels)
    assert said not in pareto_caption(found.assign(seconds_per_image=float("nan")), run.labels)


def test_a_run_has_budgets_of_seconds_and_a_front(stored):
    found = budgets(StoredRun(stored), REGISTRY, "seconds", [1e-9, 100.0], "clip_score")
    assert list(found["verdict"][:5]) == [NO_ROW] * 4 + [NOT_MEASURED]
    last = found[found["budget"] == 100].dropna(subset="rank")
    assert len(last) == 4
    assert list(last["value"]) == sorted(last["value"], reverse=True)
    by_time = pareto(StoredRun(stored), REGISTRY)
    assert len(by_time) == 10
    assert set(by_time["against"]) == {"seconds"}
    assert (by_time["verdict"] == NOT_MEASURED).sum() == 2
    ode = pareto(StoredRun(stored), REGISTRY, "ode_error", "nfe")
    assert (ode["verdict"] == NOT_MEASURED).sum() == 6
    assert list(ode.dropna(subset="value")["verdict"]) == [ON_FRONT] * 4  # 3 and 6 steps of the same sampler twice


def test_a_metric_that_the_run_does_not_have_is_refused(stored):
    with pytest.raises(sb.InputError, match=r"metric 'fd': not in the run \(did you mean 'fid'\?\); there are: fid, c"):
        pareto(StoredRun(stored), REGISTRY, "fd")


def test_a_run_without_metrics_goes_by_the_ode_error(tmp_path):
    folder = sb.run("mixture", ["ddim", "dpm-solver++"], steps=[4], n=64, output=tmp_path / "run").folder
    ranks = budgets(StoredRun(folder), REGISTRY, "nfe", [4], None)
    assert list(ranks["rank"]) == [1, 2]
    assert set(ranks["metric"]) == {"ode_error"}


def test_samples_that_are_gone_are_named(stored, tmp_path):
    shutil.copytree(stored, tmp_path / "cut")
    key = json.loads((stored / "run.json").read_text())["cells"][0]["key"]
    shutil.rmtree(tmp_path / "cut" / "chunks" / key[:16])
    with pytest.raises(sb.InputError, match="'ddim, 3 steps, 3 calls': the run has not all of its samples; give its"):
        budgets(StoredRun(tmp_path / "cut"), REGISTRY, "nfe", [5], None)


def test_a_table_of_another_length_is_refused(stored, tmp_path):
    shutil.copytree(stored, tmp_path / "cut")
    keys = [cell.key for cell in read_run(stored).cells]
    write_sealed_table(RunFolder(tmp_path / "cut"), StoredRun(stored).table.iloc[:-1], keys)
    with pytest.raises(sb.StoreError, match=r"9 rows, and 10 were written"):
        pareto(StoredRun(tmp_path / "cut"), REGISTRY)


def test_seconds_of_several_machines_are_not_ranked(tmp_path, monkeypatch):
    settings = {"steps": [2], "n": 64, "output": tmp_path / "run", "plugins": [TOY]}
    folder = sb.run("toy", ["ddim", "ddpm"], **settings).folder
    next(folder.glob("chunks/*/00000000-*.safetensors")).unlink()
    monkeypatch.setattr("samplerbench.bench.draw.clock.machine_of", lambda device: "another")
    sb.run("toy", ["ddim", "ddpm"], **settings)
    for find in (
        lambda: budgets(StoredRun(folder), REGISTRY, "seconds", [1.0], None),
        lambda: pareto(StoredRun(folder), REGISTRY),
    ):
        with pytest.raises(sb.InputError, match="several machines, whose seconds are not compared"):
            find()
    assert len(budgets(StoredRun(folder), REGISTRY, "nfe", [2], None)) == 2
    assert set(pareto(StoredRun(folder), REGISTRY, against="nfe")["verdict"]) <= {ON_FRONT, DOMINATED, CLOSE}


# As people read it


def test_budgets_are_shown_with_their_extractor_and_no_more_digits_than_they_have(stored):
    found = budgets(StoredRun(stored), REGISTRY, "nfe", [5, 2], None)
    rows = budgets_to_rows(found, {"fid_unbiased": {"label": "toy quadrants"}})
    assert list(rows[0]) == [
        "budget", "rank", "sampler", "steps", "NFE", "ms/image", "clock", "unbiased FID [toy quadrants]",
        "less the best", "p", "verdict",
    ]  # fmt: skip
    assert (rows[0]["budget"], rows[0]["rank"], rows[0]["steps"], rows[0]["p"]) == ("5 calls", "1", "3", "-")
    assert rows[0]["clock"] == "1 repeat"
    assert " ± " in rows[0]["unbiased FID [toy quadrants]"]
    assert [rows[-1][name] for name in ("budget", "rank", "NFE", "clock", "p")] == ["2 calls", *"----"]


@pytest.mark.parametrize(("text", "amounts"), [("0.02", (0.02,)), ("1e-3, 2", (0.001, 2.0))])
def test_seconds_are_read(text, amounts):
    assert parse_seconds(text) == amounts


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "1,,2", "1;2"])
def test_seconds_that_cannot_be_are_refused(text):
    with pytest.raises(sb.InputError, match=r"seconds .*expected positive numbers"):
        parse_seconds(text)


def test_the_command_ranks_budgets_and_shows_the_front(sb, stored):
    table = ("table", stored, "--plugin", TOY)
    done = sb(*table, "--nfe", "3,6")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].startswith("budget   rank  sampler ")
    assert sum(line.startswith("3 calls") for line in done.out.splitlines()) == 5
    assert {row["by"] for row in json.loads(sb(*table, "--seconds", "1,2", "--json").out)["table"]} == {"seconds"}
    done = sb(*table, "--pareto")
    assert done.code == 0, done.err
    assert "on the front" in done.out
    rows = json.loads(sb(*table, "--pareto", "--against", "nfe", "--metric", "clip_score", "--json").out)["table"]
    assert {row["metric"] for row in rows} == {"clip_score"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nfe", "5", "--pareto"], ["--nfe and --pareto", "one of them"]),
        (["--compare", "ddim", "ddpm", "--seconds", "1"], ["--compare and --seconds"]),
        (["--metric", "fid"], ["metric 'fid'", "--nfe"]),
        (["--nfe", "5", "--against", "nfe"], ["against 'nfe'", "--pareto"]),
        (["--nfe", "x"], ["nfe 'x'", "whole numbers"]),
        (["--seconds", "-1"], ["seconds '-1'", "positive"]),
        (["--nfe", "5", "--metric", "fd"], ["metric 'fd'", "did you mean 'fid'"]),
    ],
)
def test_options_that_do_not_go_together_are_refused(sb, stored, arguments, words):
    sb("table", stored, "--plugin", TOY, *arguments).refused(2, *words)

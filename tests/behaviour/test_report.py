"""report.html: what the page says is what the run found, and nothing in a text becomes more than text."""

import base64
import dataclasses
import functools
import io
import itertools
import json
import math
import os
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import altair
import numpy as np
import pytest
import vl_convert
from PIL import Image

import samplerbench as sb
from cases import thinned
from samplerbench.bench.draw.paths import PATHS, read_path, write_paths
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.sealed_file import SEAL
from samplerbench.bench.draw.session import Watch
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.judge import verdict_files
from samplerbench.bench.judge.compare import comparison_of, holm
from samplerbench.bench.judge.pareto import pareto
from samplerbench.bench.judge.ranking import Answer, Other, Source, answers_for, directions, estimates_of
from samplerbench.bench.judge.run_metrics import ready_metrics
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.judge.table import firsts_of_same
from samplerbench.bench.judge.verdict_files import (
    ANSWERS,
    FRONTS,
    clocked_signature,
    fronts_of,
    keep,
    read_answers,
    signature,
)
from samplerbench.bench.plan.config import Config
from samplerbench.bench.run import begin, plan_for
from samplerbench.bench.show import charts
from samplerbench.bench.show import view as reports
from samplerbench.bench.show.charts import AXES, ROWS, curves, round_ticks, visible_interval
from samplerbench.bench.show.page import json_for_script, source_hash, vega_bundle, view_to_html, write_report
from samplerbench.bench.show.sheet import table_to_cells
from samplerbench.bench.show.sprites import BUDGET, sheet, sheets
from samplerbench.bench.show.view import view_of
from samplerbench.samplers.files.tiles import shrunk
from samplerbench.samplers.registry import load_registry
from samplerbench.samplers.text import printable

TOY = str(Path(__file__).parents[1] / "toy.py")
SAMPLERS = ["ddim", "euler", "ddpm", "dpm-solver", "raises"]
HOSTILE = [
    "<script>window.harmed = 1</script>",
    "</script><script>window.harmed = 1</script>",
    "<!-- <script>",
    "<img src=x onerror='window.harmed = 1'>",
    '"><svg onload=window.harmed=1>',
    "' onmouseover='window.harmed=1",
    '" autofocus onfocus="window.harmed=1',
    "<iframe srcdoc='<script>parent.harmed=1</script>'>",
    "<style>*{display:none}",
    "</style><script>window.harmed=1</script>",
    "</title><script>window.harmed=1</script>",
    "</textarea></select><b>",
    "<base href='//x.invalid'>",
    "<a href='javascript:window.harmed=1'>click</a>",
    "javascript:window.harmed=1",
    "<meta http-equiv=refresh content=0>",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "${window.harmed = 1}",
    "`${window.harmed=1}`",
    "]]><x>",
    "&lt;b&gt;&amp;",
    "&#60;script&#62;",
    "\x1b[31mred\x1b[0m",
    "null\x00byte",
    "\u202eright to left",
    "\u05e9\u05dc\u05d5\u05dd \u0639\u0631\u0628\u064a",
    "[a](javascript:window.harmed=1) | *b* | `c`",
    "datum.series; window.harmed = 1",
    "=cmd|'/c calc'!A1 \u2028 \\u003c",
]


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.styles, self.words = [], [], [], [], []
        self.policy = ""
        self._within = []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]
        self._within.append(tag)
        if tag in ("script", "style"):
            (self.scripts if tag == "script" else self.styles).append([dict(attrs).get("type"), ""])

    def handle_endtag(self, tag):
        if tag in self._within:
            while self._within.pop() != tag:
                pass

    def handle_data(self, data):
        if self._within and self._within[-1] in ("script", "style"):
            (self.scripts if self._within[-1] == "script" else self.styles)[-1][1] += data
        else:
            self.words.append(data)

    def values(self, name):
        """All values of an attribute."""
        return [value for _, key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder with everything in it; a test that changes it makes a copy."""
    folder = tmp_path_factory.mktemp("report") / "run"
    session = begin(toy_plan(), load_registry([TOY]), folder, command="samplerbench run --model toy")
    session.work(Watch())
    session.conclude()
    return folder


def toy_plan():
    """Five samplers, one of which fails, at three step counts."""
    config = Config(model="toy", sampler=tuple(SAMPLERS), steps=(2, 3, 5), samples=100, prompts=("left", "right"))
    return plan_for(config, load_registry([TOY]))


@pytest.fixture
def folder(finished, tmp_path):
    """A copy to change."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def view(finished):
    return view_of(StoredRun(finished))


@pytest.fixture(scope="module")
def page(finished):
    return Page((finished / "report.html").read_text())


# ---- The view ----


def test_the_numbers_are_those_of_the_table(finished, view):
    table, labels = StoredRun(finished).table, StoredRun(finished).labels
    assert len(view.rows) == len(table) == 15
    fields = {"nfe": "nfe", "steps": "steps", "m0": "fid", "m0_low": "fid_low", "m0_high": "fid_high",
              "m1": "clip_score", "m1_low": "clip_low", "m1_high": "clip_high", "m2": "fid_unbiased",
              "m3": "ode_error"}  # fmt: skip
    seen, firsts = 0, firsts_of_same(table)
    for row, (_, cell) in zip(view.rows, table.iterrows(), strict=True):
        for field, column in fields.items():
            assert row[field] == cell[column] or (row[field] is None and np.isnan(cell[column])), (field, cell)
            seen += row[field] is not None
        if row["milliseconds"] is not None:
            assert row["milliseconds"] == table["seconds_per_image"][firsts[row["row"]]] * 1000
    assert seen > 100
    assert [m["heading"] for m in view.metrics] == [
        "FID [toy quadrants]", "CLIP score [toy CLIP]", "unbiased FID [toy quadrants]", "ODE error",
    ]  # fmt: skip
    assert (view.headings, view.texts) == table_to_cells(table, labels)


def test_the_page_says_the_numbers_too(view, page):
    for text in itertools.chain.from_iterable(view.texts):
        assert " ".join(text.split()) in page.text
    for metric in view.metrics:
        column = view.headings.index(metric["heading"])
        for answer in metric["answers"]:
            assert answer["best"]["value"] == view.texts[answer["best"]["row"]][column]
            assert f"{answer['best']['name']} {answer['best']['value']}" in page.text


def test_failed_cells_are_named_with_their_reason(view, page):
    assert [cell["name"] for cell in view.unfinished] == [f"raises, {n} steps, {n} calls" for n in (2, 3, 5)]
    assert "failed: ZeroDivisionError: one | two three" in page.text
    assert view.rows[-1]["m0"] is None


def test_the_answer_is_the_best_that_fits_the_budget(view):
    for metric in view.metrics:
        key, better = metric["key"], min if metric["better"] == "lower" else max
        assert [answer["budget"] for answer in metric["answers"]] == [2, 3, 5, 9]
        for answer in metric["answers"]:
            fit = [row for row in view.rows if row[key] is not None and row["nfe"] <= answer["budget"]]
            most = {row["series"]: row for row in sorted(fit, key=lambda row: row["nfe"])}
            best = better(row[key] for row in most.values())
            assert view.rows[answer["best"]["row"]][key] == best
            assert len(answer["others"]) == len(most) - 1


def test_the_differences_are_those_of_compare_and_corrected_for_all_pairs(finished):
    run = StoredRun(finished)
    ready = ready_metrics(run, load_registry([TOY]))
    answers = answers_for(run, ready)
    assert answers == read_answers(run)
    rows = {i: cell.key for i, cell in enumerate(run.record.cells) if run.table["samples"][i] > 0}
    found = estimates_of({i: Source(run, key, ready) for i, key in rows.items()})
    by_pair = {}
    for metric, *places in {
        (a.metric, *sorted(pair))
        for a in answers
        for pair in itertools.combinations([a.best, *(o.row for o in a.others)], 2)
    }:
        one = comparison_of(metric, None, None, *(found[i][metric] for i in places), directions(ready)[metric])
        if one.is_question:
            by_pair[metric, *places] = one
    p_values = {}
    for metric in {key[0] for key in by_pair}:
        family = {key: one.p for key, one in by_pair.items() if key[0] == metric}
        p_values |= zip(family, holm(list(family.values()), 1.25), strict=True)
    seen = 0
    for answer in answers:
        for other in answer.others:
            key = (answer.metric, *sorted((answer.best, other.row)))
            if key not in by_pair:
                assert other.verdict == "same samples"
                continue
            sign = 1 if answer.best < other.row else -1
            assert other.difference == pytest.approx(sign * by_pair[key].difference.value)
            assert other.p == pytest.approx(p_values[key])
            assert (other.verdict == "better") == (p_values[key] < 0.05)
            seen += 1
    assert seen > 20
    assert {o.verdict for a in answers for o in a.others} == {"better", "no difference shown", "same samples"}


def test_who_has_the_same_samples_is_no_second(view):
    for metric in view.metrics[:2]:
        for answer in metric["answers"]:
            pair = {answer["best"]["name"], answer["second"]["name"]}
            assert pair != {"ddim", "euler"}
            if answer["best"]["name"] == "ddim":
                assert answer["same"] == ["euler"]


def test_how_far_behind_is_positive_whatever_is_better(view):
    for metric in view.metrics:
        for answer in metric["answers"]:
            for other in answer["others"]:
                if other["verdict"] != "same samples":
                    assert float(other["behind"].split(" ")[0]) >= 0


def test_the_front_is_that_of_the_table_of_verdicts(finished, view):
    registry, run = load_registry([TOY]), StoredRun(finished)
    seen = set()
    for metric, name in zip(view.metrics, reports.metrics_with_ode(run.table), strict=True):
        found = pareto(run, registry, name)
        shown = {(row["short"], row["steps"]): row[f"{metric['key']}_front"] for row in view.rows}
        for row in found.to_dict("records"):
            assert shown[row["sampler"], row["steps"]] == (row["verdict"] == "on the front"), row
        count = {verdict: list(found["verdict"]).count(verdict) for verdict in found["verdict"]}
        close, dominated = count.get("not told apart from the front", 0), count.get("dominated", 0)
        assert metric["behind"].startswith(f"Of the others, {close} not told apart")
        assert f" {dominated} shown to be dominated" in metric["behind"]
        seen |= set(count)
    assert seen == {"on the front", "dominated", "not measured"}  # `euler` has the time of `ddim`, whose samples it has


def test_cells_with_the_same_samples_are_one_mark_with_one_time(view):
    """In the toy run `euler` draws what `ddim` does."""
    ddim, euler = ([row for row in view.rows if row["short"] == name] for name in ("ddim", "euler"))
    for first, second in zip(ddim, euler, strict=True):
        assert (second["first"], first["same"], second["same"]) == (first["row"], ["euler"], [])
        assert second["milliseconds"] == first["milliseconds"]
        assert second["m0_front"] == first["m0_front"]
        assert (first["label"], second["label"]) == (f"ddim, {first['steps']} = euler", "")


def test_a_front_of_unreliable_times_is_grey_and_says_so():
    rows = [
        {"row": i, "first": i, "m0": 3.0 - i, "milliseconds": 1.0 + i, "doubtful": i == 1} for i in range(3)
    ]  # fmt: skip
    metric = {"key": "m0", "better": "lower"}
    assert reports.mark_front(metric, rows, None) == "The front is grey: 1 of its 3 times cannot be relied on."
    line, *_ = charts.front("m0", "FID", rows, 1)["layer"]
    assert line["mark"]["color"] == charts.GREY
    rows[1]["m0"] = 9.0
    told = reports.mark_front(metric, rows, ["on the front", "dominated", "on the front"])
    assert told.endswith(" 1 of the 3 times, none of them on the front, cannot be relied on.")
    line, *_ = charts.front("m0", "FID", rows, 1)["layer"]
    assert line["mark"]["color"] == charts.INK


def test_what_is_shown_to_be_the_best_is_marked(finished, view):
    shown = {
        (answer.best, answer.metric)
        for answer in read_answers(StoredRun(finished))
        if answer.others and all(other.verdict == "better" for other in answer.others)
    }
    names = reports.metrics_with_ode(StoredRun(finished).table)
    marked = {(row["row"], name) for row in view.rows for i, name in enumerate(names) if row[f"m{i}_shown"]}
    assert marked == shown
    assert sum(map(len, view.bold)) == len(shown)
    assert ("Bold: the best within its budget" in view.caption) == bool(shown)


def test_differences_say_that_they_are_of_the_unbiased_metric(view, page):
    assert [metric["difference"] for metric in view.metrics] == ["unbiased FID", "", "", ""]
    assert "(unbiased FID)" in page.text


def test_the_front_of_other_seconds_is_not_taken(folder):
    run = StoredRun(folder)

    def there(run):
        return fronts_of(run, ["fid"], None)

    fronts = there(run)
    assert set(fronts) == {"fid", "clip_score", "fid_unbiased", "ode_error"}
    assert there(with_table(run, seconds_per_image=2 * run.table["seconds_per_image"])) == {}
    assert there(with_table(run, samples=64)) == {}
    (folder / FRONTS).write_text("[]")
    assert there(run) == {}
    measures = functools.partial(ready_metrics, run, load_registry([TOY]))
    assert fronts_of(run, ["fid"], measures) == {"fid": fronts["fid"]}


def with_table(run, **columns):
    """The run as it would be with other columns in its table."""
    other = StoredRun(run.path)
    other.table = run.table.assign(**columns)
    return other


@pytest.mark.parametrize("file", [ANSWERS, FRONTS])
@pytest.mark.parametrize("change", ["entry", "row", "seal"])
def test_what_is_kept_and_was_changed_is_not_taken(folder, file, change):
    run = StoredRun(folder)
    of = signature(run) if file == ANSWERS else clocked_signature(run)
    value = json.loads((folder / file).read_text())["kept"]
    assert value
    if change == "seal":
        content = (folder / file).read_text()
        (folder / file).write_text(content[: content.index(SEAL)] + "}")
    elif file == ANSWERS:
        value[0]["others"][0] |= {"row": len(run.table)} if change == "row" else {"other": 1}
        keep(folder / file, of, value)
    else:
        value["fid"] = value["fid"][1:] if change == "row" else [1] * len(run.table)
        keep(folder / file, of, value)
    if file == ANSWERS:
        assert read_answers(run) is None
    else:
        assert fronts_of(run, ["fid"], None) == {}
    write_report(StoredRun(folder))


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_without_verdicts_the_front_is_what_nothing_beats_in_both(better):
    sign = 1 if better == "lower" else -1
    pairs = np.random.default_rng(3).integers(1, 30, (40, 2)).tolist()
    rows = [{"m0": sign * (noise - time), "milliseconds": time} for noise, time in pairs]
    rows.append({"m0": None, "milliseconds": 0.1})
    for i, row in enumerate(rows):
        row |= {"row": i, "first": i, "doubtful": False}
    assert reports.mark_front({"key": "m0", "better": better}, rows, None) == ""
    assert sum(row["m0_front"] for row in rows[:-1]) >= 4
    for row in rows[:-1]:
        beaten = any(
            sign * o["m0"] <= sign * row["m0"] and o["milliseconds"] <= row["milliseconds"] and
            (o["m0"], o["milliseconds"]) != (row["m0"], row["milliseconds"])
            for o in rows[:-1]
        )  # fmt: skip
        assert row["m0_front"] != beaten
    assert "m0_front" not in rows[-1]


def test_an_interval_is_drawn_where_a_logarithmic_axis_has_a_place():
    assert visible_interval(1.0, -0.5, 2.5, 0.1) == (0.1, 2.5)
    assert visible_interval(1.0, -0.5, 2.5, float("nan")) == (-0.5, 2.5)
    assert visible_interval(1.0, None, None, 0.1) == (1.0, 1.0)


@pytest.mark.parametrize(("values", "ticks"), [
    ([14.3, 153], {20, 50, 100}), ([12.1, 44], {15, 20, 30, 40}), ([0.3, 0.5], {0.3, 0.4, 0.5}), ([7], {7}),
])  # fmt: skip
def test_ticks_are_round_numbers_within_the_values(values, ticks):
    made = round_ticks(values)
    assert made == sorted(made)
    assert ticks <= set(made)
    assert made[0] <= min(values)
    assert made[-1] >= max(values)
    assert all(float(f"{tick:.1e}") == tick for tick in made)


@pytest.mark.parametrize("values", thinned([[41.0, 72.0], [0.31, 0.89], [2.0, 19.0], [12000.0, 71000.0]], [0.31, 0.89]))
def test_the_numbers_at_an_axis_are_written_out(values):
    rows = [{"m": value, "nfe": calls, "series": 0, "row": calls} for calls, value in enumerate(values, 2)]
    chart = curves("m", "metric", AXES[0], rows, 1)
    chart |= {"data": {"name": ROWS, "values": rows}, "width": 300, "height": 150}
    texts = [element.text for element in ET.fromstring(vl_convert.vegalite_to_svg(chart)).iter() if element.text]
    assert {"2", "3"} < set(texts)
    assert not [text for text in texts if re.fullmatch(r"[\d.]+e[+-]?\d+", text)]


def test_every_chart_is_valid(view):
    assert {frozenset(charts) for charts in view.charts.values()} == {
        frozenset({"nfe", "steps", "milliseconds", "front"})
    }
    logarithmic, linear = view.charts["m0"], view.charts["m1"]
    assert logarithmic["nfe"]["layer"][0]["encoding"]["y"]["scale"]["type"] == "log"
    assert linear["nfe"]["layer"][0]["encoding"]["y"]["scale"] == {"zero": False}
    for chart in (logarithmic["nfe"], logarithmic["milliseconds"], linear["steps"], linear["front"]):
        altair.Chart.from_dict(chart)  # raises what the schema forbids


def test_words_for_lists_and_leaders():
    lists = (["5"], ["5", "8"], ["5", "8", "10"])
    assert [reports.join_words(words) for words in lists] == ["5", "5 and 8", "5, 8 and 10"]
    second = {"verdict": "shown"}
    answers = [
        {"best": {"name": "a"}, "budget": 5, "second": second},
        {"best": {"name": "b"}, "budget": 8, "second": {"verdict": "not shown"}},
    ]
    text = reports.headline("FID", answers, "lower")
    assert text == "Lowest FID: a at 5; b at 8 calls. Only at 5 calls is the best told apart from the second."
    assert reports.headline("FID", answers[1:], "higher").endswith(
        "At no budget is the best told apart from the second."
    )


def test_a_budget_without_a_second_is_none_at_which_the_best_is_told_apart():
    def at(budget, verdict):
        return {"budget": budget, "best": {"name": "ddim"}, "second": verdict and {"verdict": verdict}}

    text = reports.headline("FID", [at(5, None), at(10, "shown"), at(20, "shown")], "lower")
    assert (
        text
        == "Lowest FID: ddim at 5, 10 and 20 calls. Only at 10 and 20 calls is the best told apart from the second."
    )
    text = reports.headline("FID", [at(5, None), at(10, "not shown")], "lower")
    assert text == "Lowest FID: ddim at 5 and 10 calls. At no budget is the best told apart from the second."


def test_a_difference_of_nothing_has_no_sign():
    rows = [{"row": i, "short": "ddim", "series": i, "counts": "5 steps", "m0_text": "1"} for i in range(2)]
    answer = Answer("fid", "lower", 5, 0, (Other(1, 0.0, 0.0, 0.0, 1.0, "same samples"),))
    assert reports.answer_view(answer, "m0", rows)["others"][0]["behind"] == "0"


# ---- What a report is made from ----


def test_a_report_needs_neither_model_nor_plugin(finished, folder):
    (folder / "report.html").unlink()
    assert write_report(StoredRun(folder)) == folder / "report.html"
    assert (folder / "report.html").read_bytes() == (finished / "report.html").read_bytes()


def test_without_chunks_there_is_still_a_page(folder):
    shutil.rmtree(folder / "chunks")
    view = view_of(StoredRun(folder))
    assert not view.pictures
    assert not view.paths
    assert not any(metric["answers"] for metric in view.metrics)
    assert view.charts["m3"]["front"]  # of the ODE error the direction is known
    page = Page(view_to_html(view))
    assert "paired differences are not stored" in page.text
    assert view.texts[0][3] in page.text


def test_answers_that_are_not_there_come_from_the_chunks(folder, view):
    (folder / ANSWERS).unlink()
    run = StoredRun(folder)
    assert view_of(run, lambda: ready_metrics(run, load_registry([TOY]))).metrics == view.metrics


def test_verdicts_of_other_code_are_not_taken(folder, monkeypatch):
    run = StoredRun(folder)
    assert read_answers(run)
    monkeypatch.setattr(verdict_files, "version_of_judging", lambda: "another")
    assert read_answers(run) is None
    assert fronts_of(run, ["fid"], None) == {}


def test_the_version_of_judging_is_of_all_its_code(monkeypatch, tmp_path):
    before = verdict_files.version_of_judging()
    for pattern in verdict_files.JUDGED_BY:
        for file in verdict_files.PACKAGE.glob(pattern):
            copy = tmp_path / file.relative_to(verdict_files.PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    monkeypatch.setattr(verdict_files, "PACKAGE", tmp_path)
    assert verdict_files.version_of_judging.__wrapped__() == before
    for name in ("bench/judge/statistics.py", "plugins/metrics/kid.py", "samplers/metric.py"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content + b"\n")
        assert verdict_files.version_of_judging.__wrapped__() != before, name
        (tmp_path / name).write_bytes(content)


def test_answers_of_another_table_are_not_taken(folder):
    run = StoredRun(folder)
    assert read_answers(run)
    assert read_answers(with_table(run, samples=64)) is None
    (folder / ANSWERS).write_text("{")
    assert read_answers(run) is None


def test_samples_that_are_no_images_have_a_page(tmp_path):
    result = sb.run("mixture", ["ddim", "ddpm"], [2, 4], n=16, output=tmp_path / "run")
    view = view_of(StoredRun(result.folder))
    assert not view.pictures
    assert [metric["name"] for metric in view.metrics] == ["ODE error"]
    assert not (result.folder / PATHS).exists()
    Page((result.folder / "report.html").read_text())


def test_a_run_that_failed_or_did_not_begin_has_a_page(tmp_path):
    failed = sb.run("toy", ["raises"], [3], n=8, plugins=[TOY], output=tmp_path / "failed")
    assert "failed: ZeroDivisionError" in Page((failed.folder / "report.html").read_text()).text
    registry = load_registry([TOY])
    config = Config(model="toy", sampler=("ddim",), steps=(2,), samples=8)
    begin(plan_for(config, registry), registry, tmp_path / "begun").conclude()
    assert view_of(StoredRun(tmp_path / "begun")).unfinished == [
        {"name": "ddim, 2 steps, 2 calls", "status": "pending"}
    ]


def test_an_adaptive_sampler_has_its_measured_calls(tmp_path):
    result = sb.run("toy", ["dpm-solver-adaptive", "ddim"], [3], n=8, plugins=[TOY], output=tmp_path / "run")
    calls = result.table["nfe"][0]
    (metric,) = (m for m in view_of(StoredRun(result.folder)).metrics if m["name"] == "ODE error")
    assert [answer["budget"] for answer in metric["answers"]] == [3, np.ceil(calls)]
    assert metric["answers"][0]["second"] is None
    begun = Config(model="toy", sampler=("dpm-solver-adaptive",), steps=(2,), samples=8)
    registry = load_registry([TOY])
    begin(plan_for(begun, registry), registry, tmp_path / "begun").conclude()
    assert "2 steps, adaptive" in (tmp_path / "begun" / "report.html").read_text()


def test_a_run_by_budgets_of_calls_says_so(tmp_path):
    result = sb.run("toy", ["ddim", "heun"], nfe=[3, 5], n=8, plugins=[TOY], output=tmp_path / "run")
    view = view_of(StoredRun(result.folder))
    assert view.budgets == ["3 calls", "5 calls"]
    assert [answer["budget"] for answer in view.metrics[-1]["answers"]] == [3, 5]


# ---- Provenance ----


def test_a_run_from_python_says_its_call(tmp_path):
    settings = {"prompts": ["left"], "guidance": 0.5, "keep_images": False, "metrics": [], "seed": 3}
    result = sb.run("toy", ["ddim"], nfe=[3], n=8, plugins=[TOY], output=tmp_path / "run", **settings)
    view = view_of(StoredRun(result.folder))
    assert view.command == ""
    text = (result.folder / "report.html").read_text()
    assert "The call in Python" in text
    again = eval(view.call, {"samplerbench": Again(tmp_path / "again")})
    assert read_run(again.folder).plan == read_run(result.folder).plan


class Again:
    """The package, whose runs go to another folder."""

    def __init__(self, output):
        self.output = output

    def run(self, **settings):
        return sb.run(**settings, output=self.output)


def test_the_page_says_by_which_weights_and_data_it_was_measured(finished, view):
    about, facts = read_run(finished), dict(view.provenance)
    label = about.extractors["fid"]
    assert facts["Model"] == f"toy, weights {about.model.fingerprint[:12]}"
    assert f"FID [toy quadrants], weights and data {label['fingerprint'][:12]}" in facts["Measured with"]


# ---- Paths ----


def test_a_path_goes_from_noise_to_the_cells_own_sample(finished):
    folder, about = RunFolder(finished), read_run(finished)
    there = {cell.key: cell for cell in about.cells if read_path(folder, cell.key)}
    assert {(cell.sampler, cell.steps) for cell in there.values()} == {(name, 5) for name in SAMPLERS[:-1]}
    for key in there:
        path = read_path(folder, key)
        assert len(path.images) == len(path.noise) == 6
        assert path.noise[0] == pytest.approx(1, abs=1e-4)
        assert path.noise == sorted(path.noise, reverse=True)
        assert path.noise[-1] == 0
        own = folder.first_chunk_of(key).images[0].astype(int)
        assert np.abs(path.images[-1].astype(int) - own).max() <= 1
        assert np.abs(path.images[0].astype(int) - own).max() > 50


def test_a_path_is_drawn_once_and_again_when_it_is_gone(finished, folder, monkeypatch):
    plan = toy_plan()
    failures = {cell.key: "" for cell in plan.cells if cell.sampler == "raises"}
    gone = folder / PATHS / f"{plan.cells[2].key[:16]}.safetensors"
    gone.unlink()
    write_paths(plan, RunFolder(folder), failures)
    again, before = (read_path(RunFolder(place), plan.cells[2].key) for place in (folder, finished))
    np.testing.assert_array_equal(again.images, before.images)
    assert again.noise == before.noise
    monkeypatch.setattr("samplerbench.bench.draw.paths.draw", lambda *_, **__: pytest.fail("drawn again"))
    write_paths(plan, RunFolder(folder), failures)


# ---- Pictures ----


def test_a_sheet_holds_the_images(finished):
    images = RunFolder(finished).first_chunk_of(read_run(finished).cells[0].key).images[:11]
    made = sheet(images)
    assert (made.width, made.height, made.images) == (64, 16, 11)
    assert made.uri.startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_image_is_made_smaller_by_the_mean_of_its_pixels(channels):
    images = np.zeros((2, channels, 128, 256), dtype=np.uint8)
    images[..., ::2, :] = 100
    assert shrunk(images).shape == (2, channels, 32, 64)
    assert set(shrunk(images).ravel()) == {50}
    assert shrunk(images, 256) is images


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)])
def test_twelve_by_six_cells_of_noise_fit_into_the_budget(shape):
    """Noise cannot be compressed; all else is smaller."""
    images = np.random.default_rng(0).integers(0, 256, (16, *shape), dtype=np.uint8)
    made = sheets(dict.fromkeys(range(72), images))
    assert len(made) == 72
    assert BUDGET / 8 < sum(len(one.uri) for one in made.values()) <= BUDGET


def test_a_page_without_pictures_leaves_room_for_them(finished):
    bare = dataclasses.replace(view_of(StoredRun(finished)), pictures=[], paths=[])
    size = len(view_to_html(bare).encode())
    assert 500_000 < size < 3_000_000 - BUDGET - reports.PATHS_CHARACTERS - 72 * 2000


# ---- The page ----


def test_every_reference_has_its_element(page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    named = ("for", "aria-labelledby", "aria-describedby", "list", "aria-controls")
    pointed = [word for name in named for value in page.values(name) for word in value.split()]
    pointed += [value.removeprefix("#") for value in page.values("href")]
    assert len(pointed) > 15
    assert set(pointed) <= set(ids)


def test_every_image_has_a_text_and_every_control_a_name(page):
    assert page.tags.count("img") == page.values("alt").__len__() > 10
    labelled = set(page.values("for"))
    controls = [a for a in page.attributes if a[0] in ("select", "input", "output") and a[1] == "id"]
    assert {value for _, _, value in controls} <= labelled | {"budget-shown"}
    assert len(controls) >= 6


def test_nothing_is_loaded_and_no_other_script_may_run(page):
    assert all(value.startswith("#") for value in page.values("href"))
    assert all(value.startswith("data:image/png;base64,") for value in page.values("src"))
    directives = dict(part.strip().split(" ", 1) for part in page.policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert "unsafe" not in page.policy
    run = [text for kind, text in page.scripts if kind == "module"]
    assert directives["script-src"].split() == [source_hash(text) for text in run]
    assert len(run) == 2
    assert directives["style-src"].split() == [source_hash(text) for _, text in page.styles]
    assert not any(name.startswith("on") or name == "style" for _, name, _ in page.attributes)


def test_the_library_of_charts_is_put_together_once_and_kept(tmp_path, monkeypatch):
    made = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda text: made.append(text) or "let a = 1;")

    def told():
        return vega_bundle.__wrapped__()

    assert told() == told() == "let a = 1;"
    assert len(made) == 1
    (kept,) = (tmp_path / ".cache" / "samplerbench" / "report").iterdir()
    kept.write_text(kept.read_text().replace("a = 1", "a = 2"))
    assert told() == "let a = 1;"
    assert len(made) == 2
    kept.unlink()
    kept.mkdir()
    assert told() == "let a = 1;"


def test_the_licences_of_what_is_in_the_page_are_in_the_page(page):
    for holder in (
        "Vega: Copyright (c) 2015-2023, University of Washington Interactive Data Lab",
        "Vega-Lite: Copyright (c) 2015, University of Washington Interactive Data Lab",
        "Vega-Embed: Copyright (c) 2015, University of Washington Interactive Data Lab",
        "Mike Bostock", "Joachim Wester", "Cynthia Brewer", "Jon Mease",
    ):  # fmt: skip
        assert holder in page.text
    for condition in (
        "Redistributions in binary form must reproduce",
        "hereby granted, provided that the above copyright notice",
        "Permission is hereby granted, free of charge",
        "Licensed under the Apache License, Version 2.0",
    ):
        assert condition in page.text


def test_what_is_no_number_is_null(page):
    (data,) = (text for kind, text in page.scripts if kind == "application/json")
    rows = json.loads(data, parse_constant=pytest.fail)["rows"]
    assert rows[-1]["m0"] is None


def test_no_chart_and_no_row_holds_what_json_does_not_know(view):
    def numbers(value):
        if isinstance(value, dict):
            return [n for item in value.values() for n in numbers(item)]
        if isinstance(value, (list, tuple)):
            return [n for item in value for n in numbers(item)]
        return [value] if isinstance(value, float) else []

    missing = [row for row in view.rows if None in row.values()]
    assert len(missing) >= 6  # the cells that failed, and those of ddpm, which has no ODE error
    found = numbers([view.rows, view.charts])
    assert len(found) > 100
    assert all(map(math.isfinite, found))


def test_a_report_beside_a_report_in_one_folder_writes_both(folder, monkeypatch):
    """A second process writes the page and what is kept for it while the first is about to put its own in place."""
    for name in (ANSWERS, FRONTS):
        (folder / name).unlink()
    names, inner = [], os.replace
    measures = functools.partial(ready_metrics, StoredRun(folder), load_registry([TOY]))

    def replace(temporary, path):
        if len(names) < 3:
            names.append(Path(path).name)
            write_report(StoredRun(folder), measures)
        inner(temporary, path)

    monkeypatch.setattr(os, "replace", replace)
    write_report(StoredRun(folder), measures)
    assert len(names) == 3
    assert not list(folder.rglob("*.tmp"))
    assert Page((folder / "report.html").read_text()).scripts


def test_json_cannot_leave_its_element():
    text = json_for_script({"a": "</script><!-- & \u2028"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!-- & \u2028"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_for_script(float("nan"))


@pytest.fixture
def hostile_folder(folder, stored_as, edited):
    """A run folder with hostile strings in every text that a stranger may have written."""
    table = StoredRun(folder).table
    rows = table.iloc[[i % 12 for i in range(30)]].copy().reset_index(drop=True)
    # What stands in front of an = would be a name for the rows.
    rows["sampler"], rows["grid"] = [f"x:{text}" for text in HOSTILE], HOSTILE[::-1]
    rows["status"] = ["ok" if i % 2 else f"failed: {text}" for i, text in enumerate(HOSTILE)]
    rows["same_as"], rows["model"], rows["steps"] = HOSTILE, " ".join(HOSTILE), 2
    stored_as(folder, rows)
    edited(
        folder, config__prompts=HOSTILE, config__model=" ".join(HOSTILE), config__negative=HOSTILE[1],
        config__device=HOSTILE[0], command=" ".join(HOSTILE),
        extractors={"fid": {"label": " ".join(HOSTILE), "note": " ".join(HOSTILE)}},
        environment__cpu=HOSTILE[3], environment__device=HOSTILE[4],
        environment__versions=dict(zip(HOSTILE, HOSTILE, strict=True)),
    )  # fmt: skip
    keep(folder / ANSWERS, reports_signature(folder), [
        {"metric": "fid", "better": "lower", "budget": 5, "best": 1, "others": [
            {"row": i, "difference": -1.0, "low": -2.0, "high": 0.0, "p": 0.5, "verdict": HOSTILE[i]} for i in range(30)
        ]},
    ])  # fmt: skip
    return folder


def reports_signature(folder):
    """What answers of this folder must be of."""
    return signature(StoredRun(folder))


def test_hostile_texts_stay_text(hostile_folder, page):
    assert len(set(HOSTILE)) == 30
    path = write_report(StoredRun(hostile_folder))
    hostile = Page(path.read_text())
    assert len(hostile.scripts) == 3
    assert [text for kind, text in hostile.scripts if kind == "module"] == [t for k, t in page.scripts if k == "module"]
    assert set(hostile.tags) <= set(page.tags)
    assert {(tag, name) for tag, name, _ in hostile.attributes} <= {
        *((tag, name) for tag, name, _ in page.attributes), ("line", "stroke-dasharray")
    }  # fmt: skip
    assert hostile.policy == page.policy
    for text in HOSTILE:
        shown = " ".join(printable(text).split())
        assert hostile.text.count(shown) >= 5, text
    raw = path.read_text()
    assert all(c.isprintable() or c == "\n" for c in re.sub(r"<script.*?</script>", "", raw, flags=re.DOTALL))


# ---- The command ----


def test_the_command_writes_the_page_of_the_newest_run(sb, tmp_path, finished):
    shutil.copytree(finished, tmp_path / "results" / "mine")
    (tmp_path / "results" / "mine" / "report.html").unlink()
    done = sb("report")
    assert (done.code, done.out) == (0, "results/mine/report.html\n")
    assert (tmp_path / "results" / "mine" / "report.html").read_bytes() == (finished / "report.html").read_bytes()


def test_the_command_refuses_what_is_no_run(sb, tmp_path):
    sb("report").refused(2, "no run in results")
    sb("report", tmp_path / "nowhere").refused(2, "no such folder")
    (tmp_path / "empty").mkdir()
    sb("report", tmp_path / "empty").refused(2, "no run.json")


# ---- In a browser ----

READY = "return document.documentElement.dataset.ready === 'true'"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
DESKTOP, TELEPHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium without a network."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium; pip install -e '.[test]'")
    if not CHROMIUM or not DRIVER:
        pytest.skip("no chromium or no chromedriver on the path")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def shown(browser, finished):
    """The page, open and ready, on a desktop."""
    opened(browser, finished / "report.html")
    yield browser
    assert complaints(browser) == []


def opened(browser, path, size=DESKTOP, scheme="light"):
    """Open a page and wait until its scripts have run."""
    from selenium.webdriver.support.ui import WebDriverWait

    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == TELEPHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get_log("browser")
    browser.get(path.as_uri())
    WebDriverWait(browser, 30, 0.05).until(lambda driver: driver.execute_script(READY))


def until(browser, script, *arguments):
    """Wait until a script says something true; what it says."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 10, 0.05).until(lambda driver: driver.execute_script(script, *arguments))


def complaints(browser):
    """What the console has to say since the last time it was asked."""
    return [entry["message"] for entry in browser.get_log("browser")]


def element(browser, selector):
    return browser.find_element("css selector", selector)


def texts(browser, selector):
    """The texts of all elements that are to be seen."""
    return [e.text for e in browser.find_elements("css selector", selector) if e.is_displayed()]


def press(browser, selector):
    browser.execute_script("arguments[0].click()", element(browser, selector))


def choose(browser, selector, value):
    """Set a control as a user would, with its event."""
    browser.execute_script(
        "arguments[0].value = arguments[1]; for (const e of ['input', 'change'])"
        " arguments[0].dispatchEvent(new Event(e, {bubbles: true}))",
        element(browser, selector), value,
    )  # fmt: skip


def marks(browser, chart):
    """How many points are drawn in a chart."""
    return len(browser.find_elements("css selector", f"#{chart} .mark-symbol.role-mark path"))


@pytest.mark.slow
def test_the_page_opens_from_the_disk_and_asks_for_nothing(shown):
    asked = [
        message["params"]["request"]["url"]
        for entry in shown.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    ]
    assert asked
    assert all(url.startswith(("file:", "data:", "chrome:")) for url in asked), asked
    assert marks(shown, "curve") > 0 < marks(shown, "pareto")
    assert texts(shown, "#question")[0].startswith("Which sampler is best on toy")


@pytest.mark.slow
def test_another_metric_changes_answers_and_charts(shown):
    first = texts(shown, "#answer .best .value")
    press(shown, "#metrics input[value=m1]")
    until(shown, "return document.querySelector('#curve').ariaLabel.includes('CLIP')")
    assert texts(shown, "#answer .best .value") != first
    assert "CLIP score" in " ".join(texts(shown, "#answer .note"))


@pytest.mark.slow
def test_another_axis_changes_the_curves(shown):
    choose(shown, "#axis", "milliseconds")
    assert until(shown, "return document.querySelector('#curve').ariaLabel.endsWith('milliseconds an image')")


@pytest.mark.slow
def test_a_name_in_the_legend_hides_its_marks(shown):
    before = marks(shown, "curve")
    press(shown, ".legend [data-series='0']")
    count = "return document.querySelectorAll('#curve .mark-symbol.role-mark path').length < arguments[0]"
    assert until(shown, count, before)
    assert element(shown, ".legend [data-series='0']").get_attribute("aria-pressed") == "false"
    press(shown, "#all")
    until(
        shown, "return document.querySelectorAll('#curve .mark-symbol.role-mark path').length === arguments[0]", before
    )


@pytest.mark.slow
def test_a_mark_tells_its_numbers(shown, view):
    shown.execute_script(
        "const point = [...document.querySelectorAll('#curve .mark-symbol.role-mark path')].at(-1);"
        "point.dispatchEvent(new MouseEvent('mousemove', {bubbles: true, clientX: 100, clientY: 100}));"
        "point.dispatchEvent(new PointerEvent('pointermove', {bubbles: true, clientX: 100, clientY: 100}))"
    )
    said = until(shown, "return document.querySelector('.tip:not([hidden])')?.textContent")
    assert said in [row["tip"] for row in view.rows]


@pytest.mark.slow
def test_the_slider_shows_the_pictures_of_a_budget(shown):
    for index, label in enumerate(["2 steps", "3 steps", "5 steps"]):
        choose(shown, "#budget", index)
        assert texts(shown, "#budget-shown") == [label]
        assert all(text.startswith(label) for text in texts(shown, ".sheets[data-budget] figcaption .small"))
        assert element(shown, "#budget").get_attribute("aria-valuetext") == label
    assert "failed: ZeroDivisionError" in " ".join(texts(shown, ".missing"))


@pytest.mark.slow
def test_two_cells_can_be_compared(shown):
    options = {
        option.text: option.get_attribute("value") for option in shown.find_elements("css selector", "#left option")
    }
    choose(shown, "#left", options["ddim, 5 steps, 5 calls"])
    choose(shown, "#right", options["euler, 5 steps, 5 calls"])
    until(shown, "return document.querySelector('#difference-text').textContent.includes('the same')")
    choose(shown, "#right", options["ddpm, 5 steps, 5 calls"])
    assert until(shown, "return /difference [1-9]/.test(document.querySelector('#difference-text').textContent)")


@pytest.mark.slow
def test_the_table_can_be_sorted_and_filtered(shown, view):
    names = "#numbers tbody th"
    assert len(texts(shown, names)) == 15
    column = view.headings.index("FID [toy quadrants]")
    for turn, sign in (("ascending", 1), ("descending", -1)):
        press(shown, f"#numbers thead th:nth-child({column + 1}) button")
        assert element(shown, f"#numbers thead th:nth-child({column + 1})").get_attribute("aria-sort") == turn
        cells = texts(shown, f"#numbers tbody td:nth-child({column + 1})")
        values = [sign * float(cell.split(" ")[0]) for cell in cells[:12]]
        assert values == sorted(values)
        assert set(cells[12:]) == {"-"}  # what has no number comes last, whichever way
    choose(shown, "#filter", "DDIM")
    assert texts(shown, names) == ["ddim"] * 3 + ["euler"] * 3 or set(texts(shown, names)) == {"ddim", "euler"}
    choose(shown, "#filter", "zerodivision")
    choose(shown, "#steps", "3")
    assert texts(shown, names) == ["raises"]
    assert texts(shown, "#shown") == ["1 of 15 rows"]


@pytest.mark.slow
def test_the_theme_can_be_switched(shown):
    background = "return getComputedStyle(document.body).backgroundColor"
    light = shown.execute_script(background)
    press(shown, "#theme")
    dark = shown.execute_script(background)
    assert light != dark
    press(shown, "#theme")
    assert shown.execute_script(background) == light


@pytest.mark.slow
def test_all_can_be_reached_by_the_keyboard(shown):
    from selenium.webdriver.common.keys import Keys

    reached = []
    for _ in range(60):
        shown.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(shown.execute_script("const e = document.activeElement; return e.id || e.className || e.name"))
        if shown.execute_script("return document.activeElement === document.body"):
            break  # past the last
        outline = shown.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or reached[-1] == "metric"  # its label has the outline
    assert reached[0] == "skip"
    assert {"theme", "metric", "axis", "budget", "left", "right", "filter", "steps"} <= set(reached)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [("desktop", DESKTOP, "light"), ("telephone", TELEPHONE, "light"), ("dark", DESKTOP, "dark")],
)
def test_nothing_is_wider_than_the_screen(browser, finished, name, size, scheme):
    opened(browser, finished / "report.html", size, scheme)
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    wide, screen = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= screen == size[0]
    assert complaints(browser) == []


PICTURED = {"desktop": ("#main", 1000), "telephone": ("#main", 1300), "dark": ("#curves", 1150)}
"""Where each screenshot begins, and its height."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURED)
def test_the_page_can_be_pictured(browser, finished, name, tmp_path):
    """With SAMPLERBENCH_SCREENSHOTS=DIR the pictures are kept, with SAMPLERBENCH_REPORT=FILE they are of that page."""
    page = Path(os.environ.get("SAMPLERBENCH_REPORT", finished / "report.html")).resolve()
    size = TELEPHONE if name == "telephone" else DESKTOP
    opened(browser, page, size, "dark" if name == "dark" else "light")
    begin, height = PICTURED[name]
    top = browser.execute_script("return document.querySelector(arguments[0]).offsetTop", begin)
    clip = {"x": 0, "y": 0 if begin == "#main" else top, "width": size[0], "height": height, "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    target = Path(os.environ.get("SAMPLERBENCH_SCREENSHOTS", tmp_path)) / f"report-{name}.png"
    with Image.open(io.BytesIO(base64.b64decode(shot["data"]))) as picture:
        assert picture.size == (size[0], height)
        picture.convert("RGB").save(target, optimize=True)
    assert target.stat().st_size < 200_000


@pytest.mark.slow
def test_no_script_of_a_hostile_text_runs(browser, hostile_folder):
    path = write_report(StoredRun(hostile_folder))
    for size in (DESKTOP, TELEPHONE):
        opened(browser, path, size)
        choose(browser, "#budget", 1)
        choose(browser, "#axis", "milliseconds")
        press(browser, "#metrics input[value=m1]")
        browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
        for event in ("mousemove", "mouseover", "focus", "error", "load"):
            browser.execute_script(
                "for (const e of document.querySelectorAll('main *')) e.dispatchEvent(new Event(arguments[0]))", event
            )
        assert browser.execute_script("return [window.harmed ?? 0, document.scripts.length, frames.length]") == [
            0,
            3,
            0,
        ]
        wide, screen = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide <= screen == size[0]
    assert complaints(browser) == []

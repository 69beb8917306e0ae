"""Several runs: one page of all, one table of several seeds, and curves over an option of samplers."""

import json
import math
import re
import shutil
import statistics
from pathlib import Path

import pandas as pd
import pytest

import samplerbench as sb_
from samplerbench.bench.judge.seeds import mean_of, over_seeds
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.show.figures import charts_by_name
from samplerbench.bench.show.formats import Layout, content_of, frame_for, sheet_for
from samplerbench.bench.show.over import curves_in, numbers_in, over, without
from samplerbench.bench.show.pivot import pivot_of
from samplerbench.bench.show.several import default_page, short_setting
from samplerbench.bench.show.view import view_of
from samplerbench.samplers.student import student_t

TOY = str(Path(__file__).parents[1] / "toy.py")
SAMPLERS = ["ddim:eta=0", "ours=ddim:eta=0.5", "ddim:eta=1", "euler"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three runs that differ in their seed only, and one at another guidance."""
    root = tmp_path_factory.mktemp("several")
    settings = {"plugins": [TOY], "steps": [2], "n": 20, "metrics": ["fid"]}
    for seed in range(3):
        sb_.run("toy", SAMPLERS, output=root / f"seed-{seed}", seed=seed, **settings)
    sb_.run("toy", ["euler"], output=root / "guided", guidance=2.0, **settings)
    return root


@pytest.fixture
def runs(made, tmp_path, monkeypatch):
    """Copies of them, in the current folder."""
    shutil.copytree(made, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return [Path("runs") / name for name in ("seed-0", "seed-1", "seed-2", "guided")]


# ---- One page ----


def test_runs_that_cannot_be_one_table_stand_in_one_page(runs, sb):
    done = sb("report", runs[0], runs[3], "--plugin", TOY)
    assert done.code == 0, done.err
    assert done.out.split() == ["runs/seed-0/report.html", "runs/guided/report.html", "runs/reports.html"]
    page = Path("runs/reports.html").read_text()
    assert re.findall(r'<a href="#run-\d"><bdi>(.*?)</bdi>', page) == ["seed-0", "guided"]
    assert re.findall(r'<a href="([^"#]*)">report</a>', page) == ["seed-0/report.html", "guided/report.html"]
    assert "They differ in sampler, guidance." in page
    assert "<script" not in page
    assert page.count('src="data:image/svg+xml;base64,') == 4
    for text in (
        "ours",
        "euler",
        *StoredRun(runs[0]).record.commands,
        StoredRun(runs[3]).table["fid"].map("{:.3f}".format)[0],
    ):
        assert text in page
    assert default_page([StoredRun(run) for run in runs]) == Path("runs/reports.html")


def test_one_page_asks_for_several_runs(runs, sb):
    sb("report", runs[0], "-o", "x.html", "--plugin", TOY).refused(2, "output x.html: is the page of several runs")
    sb("report", *runs[:2], "--figures", "f", "--plugin", TOY).refused(2, "figures f: of which run?")
    sb("report", runs[0], "nowhere", "--plugin", TOY).refused(2, "nowhere: no such folder")


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), ([5, 10], "5, 10"), (2.0, "2"), ("x" * 99, "x" * 80 + "…"), (True, "True")]
)
def test_a_setting_is_short_in_the_index(value, text):
    assert short_setting(value) == text


def test_nothing_is_written_where_one_run_is_damaged_or_the_page_has_no_place(runs, sb):
    there = {run: (run / "report.html").stat().st_mtime_ns for run in runs}
    sb("report", *runs[:2], "--plugin", TOY, "-o", "runs").refused(2, "output runs: is a folder")
    sb("report", *runs[:2], "--plugin", TOY, "-o", "no/it.html").refused(2, "output no/it.html: there is no folder no")
    table = runs[1] / "table.csv"
    table.write_text(table.read_text().replace("toy", "boy", 1))
    sb("report", *runs[:2], "--plugin", TOY).refused(5, "table.csv: damaged")
    assert there == {run: (run / "report.html").stat().st_mtime_ns for run in runs}


# ---- Several seeds ----


def test_a_mean_has_the_interval_of_student(made):
    mean, low, high, deviation = mean_of([1.0, 2.0, 4.0])
    assert (mean, deviation) == (pytest.approx(7 / 3), pytest.approx(statistics.stdev([1, 2, 4])))
    assert high - mean == pytest.approx(4.302653 * deviation / math.sqrt(3), rel=1e-6)
    assert low == pytest.approx(2 * mean - high)
    assert student_t(2) == pytest.approx(4.302653, rel=1e-6)
    assert all(map(math.isnan, mean_of([1.0, math.nan])))
    assert mean_of([3.0])[0] == 3
    assert math.isnan(mean_of([3.0])[1])


def test_several_seeds_are_one_row_with_mean_and_spread(made):
    runs = [StoredRun(made / f"seed-{seed}") for seed in range(3)]
    found = over_seeds(runs)
    assert list(found.table["sampler"]) == ["ddim:eta=0", "ours", "ddim:eta=1", "euler"]
    assert found.seeds == (0, 1, 2)
    for place, row in enumerate(found.table.to_dict("records")):
        values = [run.table["fid"][place] for run in runs]
        assert row["fid"] == pytest.approx(statistics.fmean(values))
        assert row["fid_sd"] == pytest.approx(statistics.stdev(values))
        assert row["fid_low"] < row["fid"] < row["fid_high"]
        assert (row["seeds"], row["samples"], row["nfe"]) == (3, 20, 2)


def test_the_table_of_seeds_says_what_its_numbers_are(runs, sb):
    done = sb("table", *runs[:3], "--seeds", "--format", "md")
    assert done.code == 0, done.err
    assert "20 images of each seed a row; each value is the mean of 3 seeds; ± is the 95 % interval" in done.out
    assert "(Student's t, 2 degrees of freedom), in brackets the standard deviation between seeds" in done.out
    assert "Seeds: 0, 1, 2." in done.out
    assert "Nothing is bold" in done.out
    assert re.search(r"\| ours \| 2 \| 2 \| [\d.]+ ± [\d.]+ \([\d.e-]+\) \|", done.out)
    data = json.loads(sb("table", *runs[:3], "--seeds", "--json").out)
    assert data["seeds"] == [0, 1, 2]
    assert {"fid_sd", "ode_error_sd"} <= data["table"][0].keys()
    failing = sb("table", *runs[:3], "--seeds", "--fail-if", "fid[ours] > 0")
    assert (failing.code, failing.err.count("Failed: fid of ours")) == (1, 1)


def test_runs_that_differ_in_more_than_their_seed_are_no_seeds(runs, sb, edited):
    sb("table", runs[0], "--seeds").refused(2, "--seeds: 1 run; expected two or more")
    sb("table", runs[0], runs[1], "--seeds", "--merge").refused(2, "expected one of them")
    edited(runs[1], config__seed=0)
    sb("table", *runs[:2], "--seeds").refused(2, "seeds runs/seed-1: seed 0, as runs/seed-0")
    edited(runs[1], config__seed=1, config__dtype="float64")
    sb("table", *runs[:2], "--seeds").refused(2, "dtype 'float64', and 'float32' in runs/seed-0")


def test_a_row_that_one_run_lacks_is_left_out_with_a_word(runs, edited):
    edited(runs[1], cells__0__steps=3, cells__1__steps=3, cells__2__steps=3, cells__3__steps=3, config__steps=[3])
    with pytest.raises(sb_.InputError, match="no row is finished in all runs"):
        over_seeds([StoredRun(runs[0]), pending(runs[1])])


def test_what_only_some_runs_measure_is_said(runs, edited):
    edited(runs[1], extractors={})
    (*_, note) = over_seeds([StoredRun(runs[0]), StoredRun(runs[1])]).notes
    assert note == "left out, because not all runs measure it: fid, fid_unbiased"


def pending(folder):
    """A run whose rows have no samples yet."""
    run = StoredRun(folder)
    run.__dict__["table"] = StoredRun(folder.with_name("seed-0")).table.assign(status="pending", steps=3)
    return run


# ---- Over an option ----


@pytest.mark.parametrize(
    ("spec", "numbers", "rest"),
    [
        ("ddim", {}, "ddim"),
        ("ddim:eta=0.5", {"eta": 0.5}, "ddim"),
        ("ddim:eta=1,grid=karras", {"eta": 1.0}, "ddim:grid=karras"),
        ('x:a="b', {}, 'x:a="b'),
    ],
)
def test_options_are_read_from_the_spec(spec, numbers, rest):
    assert numbers_in(spec) == numbers
    assert without(spec, "eta") == rest


def test_a_pivot_may_have_an_option_across(made, runs, sb):
    content = content_of(StoredRun(made / "seed-0"))
    frame = frame_for(content, Layout("fid", over="eta"))
    assert frame[["sampler", "steps"]].values.tolist() == [["ddim", 2]]
    assert [frame[name][0] for name in ("0", "0.5", "1")] == content.table["fid"].tolist()[:3]
    sheet = sheet_for(content, Layout("fid", over="eta"))
    assert [column.heading for column in sheet.columns] == ["sampler", "steps", "eta 0", "eta 0.5", "eta 1"]
    assert "for each value of eta" in sheet.caption
    assert over(content.table, "guidance").values == (1.0,) * 4
    sb("table", runs[0], "--pivot", "fid", "--over", "etta").refused(
        2, "over 'etta'", "(did you mean 'eta'?)", "eta, guidance"
    )
    sb("table", runs[0], "--over", "eta").refused(2, "--over eta: of which metric?")
    sb("table", runs[0], "--pivot", "fid", "--over", "").refused(2, "over '': is empty")


def test_values_that_differ_in_their_last_digits_have_columns_of_their_own():
    counts = [0.1234567, 0.1234568, 0.5]
    table = pd.DataFrame({"sampler": ["ddim"] * 3, "fid": [1.0, 2.0, 3.0]})
    frame = pivot_of(table, "fid", counts).frame()
    assert frame.to_dict("records") == [{"sampler": "ddim", "0.1234567": 1.0, "0.1234568": 2.0, "0.5": 3.0}]


def test_the_page_has_curves_over_options(made):
    run = StoredRun(made / "seed-0")
    ((one, groups),) = curves_in(run.table)
    assert (one.option, groups) == ("eta", ["ddim, 2 steps"] * 3 + [None])
    view = view_of(run)
    assert [axis["title"] for axis in view.axes if axis["group"]] == ["eta"]
    chart = view.charts["m0"]["o0"]
    assert chart["description"] == "FID [toy quadrants] against eta"
    assert chart["layer"][1]["encoding"]["color"]["scale"]["domain"] == ["ddim, 2 steps"]
    assert [row["o0"] for row in view.rows] == [0, 0.5, 1, None]
    assert all("o0" not in name for name in charts_by_name(run, view))

"""`run --add`: a run with more samplers, steps or budgets is the run that would have had them from the start."""

import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

import samplerbench as sb_
from samplerbench.bench.draw import chunk as harness
from samplerbench.bench.draw import clock as timing
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.judge.verdict_files import read_answers, signature
from samplerbench.bench.run import Benchmark
from samplerbench.bench.show.figures import write_figures
from samplerbench.bench.show.picture import redraw
from samplerbench.bench.show.pivot import pivot_of
from samplerbench.bench.show.view import view_of
from samplerbench.bench.verify import verify
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
REGISTRY = load_registry([TOY])
SETTINGS = {"n": 100, "seed": 3, "guidance": 2.0, "prompts": ["left", "right"], "plugins": [TOY]}
OPTIONS = ("--plugin", TOY, "--model", "toy", "-n", 100, "--seed", 3, "--guidance", 2, "--prompts", "prompts.txt")
NOTE = "rows were added to the run later; verdicts are corrected for all rows"


def toy_run(folder, samplers, **settings):
    return sb_.run("toy", samplers, output=folder, **{"steps": [2, 3], **SETTINGS, **settings})


def unclocked(table):
    """A table by cell, without what a clock says and which of several rows is the first."""
    return table.drop(columns=[*timing.COLUMNS, "same_as"]).sort_values(["sampler", "steps"], ignore_index=True)


def same_cells(a, b):
    """Assert that the tables of two runs have the same rows, in whatever order."""
    tables = [unclocked(StoredRun(folder).table) for folder in (a, b)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def content_of(folder):
    """The bytes of every file below a folder."""
    return {p.relative_to(folder): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of three samplers at three step counts from the start."""
    return toy_run(tmp_path_factory.mktemp("whole") / "run", ["ddpm", "ddim", "late"], steps=[2, 5, 3])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run of two of them at two of the counts."""
    return toy_run(tmp_path_factory.mktemp("stored") / "run", ["ddpm", "ddim"], steps=[2, 5])


@pytest.fixture
def copy(stored, tmp_path):
    """A copy of it."""
    (tmp_path / "prompts.txt").write_text("left\nright\n")
    return Path(shutil.copytree(stored.folder, tmp_path / "run"))


@pytest.fixture
def draws(monkeypatch):
    """(sampler, steps, first, n) of every draw of more than one sample."""
    made, inner = [], harness.draw

    def counted(request, first, n, **settings):
        if n > 1:
            made.append((type(request.sampler).__name__, len(request.levels) - 1, first, n))
        return inner(request, first, n, **settings)

    monkeypatch.setattr(harness, "draw", counted)
    return made


def test_a_sampler_that_is_added_is_drawn_alone_and_stands_behind_the_others(sb, stored, copy, tmp_path, draws):
    chunks = content_of(copy / "chunks")
    done = sb("run", "--add", "-s", "late", "-o", "run", "--plugin", TOY)
    assert done.code == 1  # late fails
    assert [one for one in draws if one[0] != "Late"] == []
    assert sorted(one[1:] for one in draws) == [(2, 0, 64), (2, 64, 36), (5, 0, 64), (5, 64, 36)]
    kept = {name: content for name, content in chunks.items() if name.suffix in (".safetensors", ".timing")}
    assert kept.items() <= content_of(copy / "chunks").items()
    table = StoredRun(copy).table
    pd.testing.assert_frame_equal(table.iloc[:4], StoredRun(stored.folder).table, check_dtype=False)
    assert list(table["sampler"].iloc[4:]) == ["late", "late"]
    same_cells(copy, toy_run(tmp_path / "other", ["ddpm", "ddim", "late"], steps=[2, 5]).folder)
    config = read_run(copy).config
    assert (config.sampler, config.steps, config.samples) == (("ddpm", "ddim", "late"), (2, 5), 100)


def test_counts_that_are_added_are_drawn_for_every_sampler_behind_all_rows(sb, stored, copy, whole, draws):
    assert sb("run", "--add", "--steps", "3,2", "-s", "late", *OPTIONS, "-o", "run").code == 1
    assert {one[:2] for one in draws} == {("DDPM", 3), ("DDIM", 3), ("Late", 2), ("Late", 5), ("Late", 3)}
    table = StoredRun(copy).table
    assert list(zip(table["sampler"], table["steps"], strict=True)) == [
        *(("ddpm", 2), ("ddpm", 5), ("ddim", 2), ("ddim", 5)),
        *(("ddpm", 3), ("ddim", 3), ("late", 2), ("late", 5), ("late", 3)),
    ]
    pd.testing.assert_frame_equal(table.iloc[:4], StoredRun(stored.folder).table, check_dtype=False)
    same_cells(copy, whole.folder)
    assert read_run(copy).plan == read_run(whole.folder).plan


def test_a_budget_is_added_to_a_run_by_budgets(tmp_path):
    toy_run(tmp_path / "run", ["ddim", "dpm-solver"], steps=(), nfe=[4])
    table = sb_.run(samplers="ddim", nfe=8, output=tmp_path / "run", plugins=[TOY], add=True).table
    assert list(table["nfe"]) == [4, 3, 8, 7]
    same_cells(tmp_path / "run", toy_run(tmp_path / "other", ["ddim", "dpm-solver"], steps=(), nfe=[4, 8]).folder)


def test_what_is_there_is_added_to_nothing_twice(sb, copy, draws):
    command = ("run", "--add", "-s", "euler", "-o", "run", "--plugin", TOY)
    assert sb(*command).code == 0
    before, record = content_of(copy / "chunks"), read_run(copy)
    draws.clear()
    assert sb(*command).code == 0
    assert sb("run", "--add", "-s", "euler", "-s", "ddpm", "--steps", "5", *OPTIONS, "-o", "run").code == 0
    full = ("-s", "ddpm", "-s", "ddim", "-s", "euler", "--steps", "2,5", *OPTIONS, "-o", "run")
    assert sb("run", *full).code == 0
    assert draws == []
    assert content_of(copy / "chunks") == before
    assert read_run(copy) == record
    assert [one.rows for one in record.added] == [4]
    assert record.added[0].command.endswith(f"run --add -s euler -o run --plugin {TOY}")


def test_from_python_what_is_left_at_its_default_is_the_run_s(copy, draws):
    result = sb_.run(samplers="euler", output=copy, plugins=[TOY], add=True)
    assert {one[0] for one in draws} == {"Euler"}
    assert list(result.table["sampler"]) == ["ddpm", "ddpm", "ddim", "ddim", "euler", "euler"]
    assert set(result.table["samples"]) == {100}
    with pytest.raises(sb_.InputError, match="add: samples 64; the run has 100 images a cell"):
        sb_.run(samplers="euler", n=64, output=copy, plugins=[TOY], add=True)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("-n", 64), "samples 64; the run has 100"), (("--seed", 0), "seed: 3 -> 0"),
        (("--guidance", 3), "guidance: 2.0 -> 3.0"), (("--model", "mixture"), "model: 'toy' -> 'mixture'"),
        (("--grid", "karras"), "grid: None -> 'karras'"), (("--dtype", "float64"), "dtype: 'float32' -> 'float64'"),
        (("--metric", "fid"), "metric: ['fid', 'clip_score'] -> ['fid']"), (("-b", 32), "batch_size: None -> 32"),
        (("--no-keep-images",), "keep_images: None -> False"), (("--nfe", 4), "add: nfe 4; the run counts by steps"),
        (("--guidance", 3, "--seed", 0), "seed: 3 -> 0; guidance: 2.0 -> 3.0"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_any_other_setting_that_differs_is_refused_by_name(sb, copy, more, words):
    before = content_of(copy)
    sb("run", "--add", "-s", "euler", *more, "-o", "run", "--plugin", TOY).refused(2, "Error: add: ", words)
    assert content_of(copy) == before


def test_a_setting_of_a_file_or_the_environment_counts_as_given(sb, copy, tmp_path):
    (tmp_path / "c.toml").write_text("samples = 64\n")
    command = ("run", "--add", "-s", "euler", "-o", "run", "--plugin", TOY)
    sb(*command, "--config", "c.toml").refused(2, "samples 64; the run has 100")
    sb(*command, env={"SAMPLERBENCH_RUN_SEED": "5"}).refused(2, "seed: 3 -> 5")
    (tmp_path / "c.toml").write_text("samples = 100\n")
    assert sb(*command, "--config", "c.toml", "--dry-run").code == 0


@pytest.mark.parametrize("more", [
    ("-s", "ddpm", "-s", "ddim", "-s", "euler", "--steps", "2,5"), ("-s", "ddpm", "-s", "ddim", "--steps", "2,5,7"),
    ("-s", "ddpm", "--steps", "2,5"),
])  # fmt: skip
def test_without_the_option_it_stays_refused_with_the_option_named(sb, copy, more):
    before = content_of(copy)
    sb("run", *more, *OPTIONS, "-o", "run").refused(
        2, "belongs to another run", "; give --add to add to it, another -o"
    )
    other = ("-s", "ddpm", "-s", "ddim", "--steps", "2,5", "--plugin", TOY, "--model", "toy", "-o", "run")
    done = sb("run", *other)
    done.refused(2, "belongs to another run", "; give another -o")
    assert "--add" not in done.err
    assert content_of(copy) == before


@pytest.mark.parametrize("more", [("--steps", "2,5", "-n", "64"), ("--nfe", "4")], ids=["fewer images", "budgets"])
def test_the_option_is_not_named_where_it_would_be_refused(sb, copy, more):
    done = sb("run", "-s", "ddpm", "-s", "ddim", *OPTIONS, *more, "-o", "run")
    done.refused(2, "belongs to another run", "; give another -o")
    assert "--add" not in done.err


@pytest.mark.parametrize("more", [(), ("--json",), ("--steps", "7")])
def test_a_dry_run_says_what_would_be_made_and_changes_nothing(sb, copy, more):
    before = content_of(copy), [p.stat().st_mtime_ns for p in sorted(copy.rglob("*"))]
    done = sb("run", "--add", "-s", "heun", "-o", "run", "--plugin", TOY, "--dry-run", *more)
    assert done.code == 0
    calls = 3 + 9 + (13 + 2 * 7 if "--steps" in more else 0)
    if "--json" in more:
        assert json.loads(done.out)["network_evaluations_left"] == 2 * calls * 100
    else:
        assert f"of which {2 * calls * 100:,} are left to make in run" in done.out
    assert (content_of(copy), [p.stat().st_mtime_ns for p in sorted(copy.rglob("*"))]) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--plugin", TOY), "add: to which run? expected with its folder, as in --add -s ddim -o RUN"),
        (("-o", "nowhere"), "add: there is no run in nowhere; leave out --add to make one"),
        (("-o", "run", "--fresh", "--plugin", TOY), "add with fresh: the one keeps the run"),
        (("-o", "run"), "was made with"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_added_to_is_refused(sb, copy, tmp_path, arguments, words):
    sb("run", "--add", "-s", "euler", *arguments).refused(2, words)
    assert {p.name for p in tmp_path.iterdir()} == {"run", "prompts.txt"}


def test_a_model_without_a_fingerprint_is_not_added_to(tmp_path):
    nameless = dataclasses.replace(REGISTRY.model("toy"), fingerprint="")
    settings = {"steps": [2], "n": 8, "output": tmp_path / "run"}
    with pytest.warns(UserWarning, match="will not resume"):
        sb_.run(nameless, "ddim", **settings)
    before = content_of(tmp_path)
    with (
        pytest.warns(UserWarning, match="will not resume"),
        pytest.raises(sb_.InputError, match="add: model 'toy' has no fingerprint"),
    ):
        sb_.run(nameless, "ddpm", **settings, add=True)
    assert content_of(tmp_path) == before


def test_what_is_added_is_drawn_with_the_threads_of_the_run(copy):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        added = sb_.run(samplers="euler", output=copy, plugins=[TOY], add=True)
    finally:
        torch.set_num_threads(threads)
    assert "euler" in set(added.table["sampler"])
    assert read_run(copy).environment.threads == threads


@pytest.mark.parametrize("after", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 3))])
def test_a_run_that_stops_while_it_is_added_to_goes_on_with_the_same_command(sb, copy, whole, monkeypatch, after):
    command, inner, written = ("run", "--add", "--steps", "3", "-s", "late", *OPTIONS, "-o", "run"), RunFolder.put, []

    class Crash(BaseException):
        """The end of the process."""

    def write(folder, cell, block, chunk):
        if len(written) == after:
            raise Crash
        written.append(cell)
        inner(folder, cell, block, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "put", write)
        patch.setattr(Benchmark, "conclude", None)
        with pytest.raises(Crash):
            sb(*command)
    table = StoredRun(copy).table  # that of the run before: what is new is pending in it
    assert list(table["status"]) == ["ok"] * 4 + ["pending"] * 5
    assert sb("table", "run").code == sb("report", "run", "--plugin", TOY).code == 0
    assert sb(*command).code == 1
    same_cells(copy, whole.folder)
    assert [one.rows for one in read_run(copy).added] == [4]


def test_verdicts_are_made_again_for_the_larger_family_and_the_caption_says_so(sb, copy):
    sb("report", "run", "--plugin", TOY)
    before, kept = view_of(StoredRun(copy)), read_answers(StoredRun(copy))
    assert NOTE not in before.caption
    assert sb("run", "--add", "-s", "euler:grid=karras", "-o", "run", "--plugin", TOY).code == 0
    assert f"2 of the 6 {NOTE}." in (copy / "table.md").read_text()
    run = StoredRun(copy)
    answers = read_answers(run)
    assert len(signature(run)) == 6
    wider = {(a.metric, a.budget): a for a in answers}
    for answer in kept:
        assert len(wider[answer.metric, answer.budget].others) == len(answer.others) + 1
    view = view_of(StoredRun(copy))
    assert f" 2 of the 6 {NOTE}." in view.caption
    assert [metric["behind"] for metric in view.metrics] != [metric["behind"] for metric in before.metrics]
    assert view.command.endswith(f"run --add -s euler:grid=karras -o run --plugin {TOY}")
    for form in ("md", "html", "latex"):
        assert NOTE in sb("table", "run", "--format", form, "--plugin", TOY).out
    assert NOTE in sb("table", "run", "--plugin", TOY).out


def test_the_rows_that_were_added_are_verified_compared_and_shown(sb, copy, whole, tmp_path):
    assert sb("run", "--add", "--steps", "3", "-s", "late", *OPTIONS, "-o", "run").code == 1
    assert verify(StoredRun(copy), REGISTRY, chunks=99).exit_code == 0
    compared = [sb("table", run, "--compare", "ddpm", "ddim", "--plugin", TOY).out for run in (copy, whole.folder)]
    ours, theirs = ([line for line in text.splitlines() if not line.startswith("s/image")] for text in compared)
    assert ours == theirs
    for command in (("--nfe", "2,3,5"), ("--pareto", "--against", "nfe")):
        assert sb("table", copy, *command, "--plugin", TOY).code == 0
    pivots = [sb("table", run, "--pivot", "fid", "--format", "csv").out for run in (copy, whole.folder)]
    assert pivots[0] == pivots[1]
    pivot = pivot_of(StoredRun(copy).table, "fid", list(StoredRun(copy).table["steps"]))
    assert (pivot.counts, len(pivot.rows)) == ([2, 3, 5], 3)
    assert all(sorted(row) == [2, 3, 5] for row in pivot.places)
    assert redraw(StoredRun(copy)).tobytes() == redraw(StoredRun(whole.folder)).tobytes()
    ours, theirs = (view_of(StoredRun(run)) for run in (copy, whole.folder))

    def pictures(view):
        return sorted((p["name"], view.budgets[p["budget"]], (p["sheet"] or {}).get("uri")) for p in view.pictures)

    assert pictures(ours) == pictures(theirs)
    assert {path["name"] for path in ours.paths} == {path["name"] for path in theirs.paths}


@pytest.mark.slow
def test_figures_of_a_run_that_was_added_to_are_those_of_the_whole_one(sb, copy, whole, tmp_path):
    assert sb("run", "--add", "--steps", "3", "-s", "late", *OPTIONS, "-o", "run").code == 1
    written = [write_figures(StoredRun(run), tmp_path / name) for name, run in (("a", copy), ("b", whole.folder))]
    samples = [next(p for p in paths if p.name == "samples.png").read_bytes() for paths in written]
    assert samples[0] == samples[1]

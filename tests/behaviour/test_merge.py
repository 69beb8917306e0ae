"""samplerbench table RUN RUN --merge: one table of runs that can be compared, and a refusal of all others."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

import samplerbench as sb_
from samplerbench.bench.draw import clock as timing
from samplerbench.bench.judge.merge import RUNS_NOTE, SECONDS_NOTE, merge
from samplerbench.bench.judge.stored import StoredRun

TOY = str(Path(__file__).parents[1] / "toy.py")
CLOCKED = list(timing.COLUMNS)


def toy_run(folder, samplers, **settings):
    """A run of the toy model."""
    sb_.run("toy", samplers, plugins=[TOY], output=folder, **{"steps": [2, 3], "n": 70, **settings})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that share a cell, and a third at another guidance."""
    root = tmp_path_factory.mktemp("runs")
    return [
        toy_run(root / "a", ["ddim", "ddpm"]),
        toy_run(root / "b", ["ddpm", "euler", "late", "ddim:eta=1"], metrics=["fid", "clip_score", "brightness"]),
        toy_run(root / "c", ["ddpm"], guidance=2.0),
    ]


@pytest.fixture
def copies(runs, tmp_path):
    """Copies of them."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in runs]


def merge_of(folders):
    """One table of several run folders."""
    return merge([StoredRun(folder) for folder in folders])


@pytest.fixture
def rewritten(stored_as):
    """Change a run's table, as if its run had made it so."""

    def rewrite(folder, change):
        table = StoredRun(folder).table
        change(table)
        stored_as(folder, table)

    return rewrite


def test_the_rows_of_all_runs_stand_once_in_the_order_given(runs):
    merged = merge_of(runs)
    found = list(merged.table[["sampler", "steps", "guidance"]].itertuples(index=False, name=None))
    assert found == [
        *((name, steps, 1.0) for name in ("ddim", "ddpm", "euler", "late", "ddim:eta=1") for steps in (2, 3)),
        ("ddpm", 2, 2.0), ("ddpm", 3, 2.0),
    ]  # fmt: skip
    parts = [pd.read_csv(run / "table.csv") for run in runs]
    for part in parts:
        of_part = merged.table.merge(part[["sampler", "steps", "guidance"]], on=["sampler", "steps", "guidance"])
        for name in ("fid", "fid_low", "clip_score", "ode_error", "samples"):
            pd.testing.assert_series_equal(of_part[name], part[name], check_exact=True, check_dtype=False)
    own = merged.table["sampler"].eq("ddim")
    assert merged.table.loc[own, "brightness"].isna().all()
    assert merged.table.loc[merged.table["sampler"].eq("euler"), "brightness"].notna().all()
    assert merged.table.loc[merged.table["sampler"].eq("late"), "status"].str.startswith("failed: ").all()
    assert merged.table["seconds_per_image"].notna().sum() == 10
    assert merged.notes == (RUNS_NOTE,)
    assert merged.labels["brightness"]["label"] == "toy quadrants"


def test_the_same_samples_are_named_across_runs_by_their_chunks(runs, copies):
    def names(table):
        return {(r.sampler, r.steps): r.same_as for r in table.itertuples() if isinstance(r.same_as, str)}

    expected = {(name, steps): first for name, first in (("euler", "ddim"), ("ddim:eta=1", "ddpm")) for steps in (2, 3)}
    assert names(merge_of(runs[:2]).table) == expected
    shutil.rmtree(copies[0] / "chunks")
    alone = {key: value for key, value in expected.items() if key[0] == "ddim:eta=1"}
    assert names(merge_of(copies[:2]).table) == alone


def test_the_seconds_of_different_machines_are_left_out_with_a_note(sb, copies, edited):
    edited(copies[1], environment__cpu="abacus")
    merged = merge_of(copies[:2])
    assert merged.table[CLOCKED].isna().all(axis=None)
    assert merged.table["fid"].notna().sum() == 8
    assert merged.notes == (SECONDS_NOTE,)
    done = sb("table", *copies[:2], "--merge")
    assert done.out.splitlines()[-1] == f"Note: {SECONDS_NOTE}."
    assert json.loads(sb("table", *copies[:2], "--merge", "--json").out)["notes"] == [SECONDS_NOTE]


@pytest.mark.parametrize(("entry", "other"), [("cores", 4095), ("threads", 4095), ("device", "abacus")])
def test_what_makes_a_machine_another_empties_the_seconds(copies, entry, other, edited):
    edited(copies[1], **{f"environment__{entry}": other})
    assert merge_of(copies[:2]).table[CLOCKED].isna().all(axis=None)


def test_another_batch_size_empties_the_seconds_alone(copies, edited):
    edited(copies[1], config__batch_size=32)
    merged = merge_of(copies[:2])
    assert merged.table["seconds_per_image"].isna().all()
    assert merged.table["fid"].notna().sum() == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__fingerprint": "toy 2"}, ["model fingerprint 'toy 2', and 'toy 1' in"]),
        ({"model__fingerprint": ""}, ["does not say of which model", "again"]),
        ({"extractors__fid__label": "Inception"}, ["extractor of fid ('Inception', '1'), and ('toy quadrants', '1')"]),
        ({"extractors__clip_score__fingerprint": "2"}, ["extractor of clip_score ('toy CLIP', '2')"]),
        ({"config__samples": 80}, ["samples 80, and 70"]),
        ({"config__seed": 1}, ["seed 1, and 0"]),
        ({"config__prompts": ["left"]}, ["prompts ['left'], and None"]),
        ({"config__negative": "left"}, ["negative 'left', and None"]),
        ({"config__guidance_rescale": 0.5}, ["guidance_rescale 0.5, and 0.0"]),
        ({"config__dtype": "float64"}, ["dtype 'float64', and 'float32'"]),
        ({"environment__versions__torch": "1.0"}, ["torch version '1.0'"]),
        ({"environment__versions__samplerbench": "9"}, ["samplerbench version '9'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_runs_that_cannot_be_compared_are_refused_with_field_and_values(sb, copies, changes, words, edited):
    edited(copies[1], **changes)
    sb("table", *copies[:2], "--merge").refused(2, str(copies[1]), *words)


def test_a_run_that_is_not_done_is_refused_beside_one_that_is(sb, copies, rewritten):
    def cut(table):
        table.loc[table["samples"] > 0, "samples"] = 64

    rewritten(copies[1], cut)
    sb("table", *copies[:2], "--merge").refused(2, "samples that are there so far 64, and 70")


def test_a_cell_with_other_numbers_is_refused_and_rounding_is_not(sb, copies, rewritten):
    def changed(table, by):
        table.loc[table["sampler"] == "ddpm", "fid"] *= by

    rewritten(copies[1], lambda table: changed(table, 1 + 1e-9))
    assert len(merge_of(copies[:2]).table) == 10
    rewritten(copies[1], lambda table: changed(table, 1.001))
    sb("table", *copies[:2], "--merge").refused(
        2, str(copies[1]), "fid of sampler ddpm grid uniform steps 2 guidance 1"
    )


def test_a_cell_that_failed_in_one_run_alone_is_refused(copies, rewritten):
    def fail(table):
        table.loc[table["sampler"] == "ddpm", "status"] = "failed: no luck"

    rewritten(copies[1], fail)
    with pytest.raises(sb_.InputError, match=r"status of sampler ddpm .* 'failed: no luck', and 'ok'"):
        merge_of(copies[:2])


def test_a_run_with_itself_is_itself(runs):
    own = pd.read_csv(runs[0] / "table.csv")
    pd.testing.assert_frame_equal(merge_of([runs[0], runs[0]]).table, own, check_exact=True, check_dtype=False)


def test_the_command_prints_one_table_with_what_differs_as_a_column(sb, runs):
    done = sb("table", *runs, "--merge")
    assert done.code == 0
    headings = [text.strip() for text in done.out.splitlines()[0].strip("|").split("|")]
    assert headings[:4] == ["sampler", "guidance", "steps", "NFE"]
    assert sum(line.startswith("| ") for line in done.out.splitlines()) == 2 + 12
    assert "guidance 2" not in done.out.splitlines()[-1]
    about = json.loads(sb("table", *runs, "--merge", "--json").out)
    assert about["folders"] == [str(run) for run in runs]
    assert len(about["table"]) == 12
    assert not any(isinstance(value, float) and math.isnan(value) for row in about["table"] for value in row.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "b"], ["2 runs", "add --merge"]),
        (["a", "--merge"], ["--merge: 1 run;", "two or more"]),
        (["--merge"], ["--merge: 0 runs"]),
        (["a", "b", "--merge", "--compare", "ddim", "ddpm"], ["--compare and --merge", "one of them"]),
        (["a", "nowhere", "--merge"], ["nowhere", "no such folder"]),
    ],
    ids=" ".join,
)
def test_what_cannot_be_asked_is_refused(sb, runs, tmp_path, arguments, words):
    for run in runs[:2]:
        (tmp_path / run.name).symlink_to(run)
    sb("table", *arguments).refused(2, *words)

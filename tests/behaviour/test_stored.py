"""A run as it is read after drawing: each fact once, whatever is asked; and what `status` may say."""

import json
import shutil
from pathlib import Path

import pytest

import samplerbench as sb_
from cases import FURTHER
from samplerbench.bench.cli.run_schema import run_schema
from samplerbench.bench.draw import sealed_file
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.sealed_file import seal_json
from samplerbench.bench.judge.status import Outcome, Status, failed_outcome, outcome_of
from samplerbench.bench.judge.stored import StoredRun

TOY = str(Path(__file__).parents[1] / "toy.py")
OWN = ("--plugin", TOY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with a cell that failed, and with repeats for the clock."""
    path = tmp_path_factory.mktemp("stored") / "run"
    sb_.run("toy", ["ddim", "ddpm", "late"], [2, 3], n=70, plugins=[TOY], output=path, repeats=5)
    return path


@pytest.fixture
def reads(monkeypatch):
    """The names of the files of run folders that are read, in order."""
    names, inner = [], sealed_file.open_regular

    def opened(path, flags):
        names.append(Path(path).name)
        return inner(path, flags)

    monkeypatch.setattr(sealed_file, "open_regular", opened)
    return names


@pytest.mark.parametrize(
    ("command", "tables"),
    [
        (("table",), 1), (("table", "--json"), 1), pytest.param(("table", "--format", "md", *OWN), 1, marks=FURTHER),
        (("table", "--pivot", "fid", *OWN), 1), (("table", "--nfe", "2,3", *OWN), 1),
        pytest.param(("table", "--seconds", "9", *OWN), 1, marks=FURTHER), (("table", "--pareto", *OWN), 1),
        (("table", "--compare", "ddim", "ddpm", *OWN), 0), (("report", *OWN), 1),
        pytest.param(("report", "--figures", "figures", *OWN), 1, marks=FURTHER), (("verify", *OWN), 0),
        (("grid", "-o", "grid.png"), 1),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_run_json_and_the_table_are_read_once_a_command(sb, folder, reads, command, tables, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kept in ("answers.json", "fronts.json"):  # what is measured again would tempt to read again
        (folder / "chunks" / kept).unlink(missing_ok=True)
    assert sb(command[0], folder, *command[1:]).code == 0
    assert (reads.count("run.json"), reads.count("table.csv")) == (1, tables)


def test_runs_that_are_merged_are_read_once_each(sb, folder, reads, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert sb("table", folder, copy, folder, "--merge").code == 0
    assert (reads.count("run.json"), reads.count("table.csv")) == (2, 2)


def test_a_run_is_read_when_it_is_asked_for_and_repeats_once(folder, reads):
    run = StoredRun(folder)
    assert reads == []
    cell = run.record.cells[0]
    assert run.record is run.record
    assert run.table is run.table
    assert run.repeats(cell) is run.repeats(cell)
    assert len(run.repeats(cell)) == 4
    assert list(run.chunks(cell)) == [(0, 64), (64, 6)]
    assert run.first_chunk(cell).n == 64
    assert reads.count("0000.timing") == 1


def test_what_became_of_each_cell_is_told_with_its_reason(folder):
    run = StoredRun(folder)
    assert [outcome.status for outcome in run.outcomes] == [Status.OK] * 4 + [Status.FAILED] * 2
    late = {cell.key for cell in run.record.cells if cell.sampler == "late"}
    assert set(run.reasons) == late
    said = [json.loads(path.read_text())["reason"] for path in (folder / "chunks").glob("*.failed.json")]
    assert sorted(run.reasons.values()) == sorted(said)
    assert list(run.table["status"]) == [str(outcome) for outcome in run.outcomes]


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("ok", Outcome(Status.OK)), ("partial", Outcome(Status.PARTIAL)), ("pending", Outcome(Status.PENDING)),
        ("failed: why: so", failed_outcome("why: so")), ("failed: ", failed_outcome("")),
    ],
)  # fmt: skip
def test_a_status_is_read_as_it_was_written(text, outcome):
    assert outcome_of(text) == outcome
    assert str(outcome) == text
    assert type(str(outcome)) is str
    assert outcome.is_whole == (text == "ok")
    assert outcome.has_failed == text.startswith("failed")


@pytest.mark.parametrize("text", ["", "failed", "failed:why", "fine", "OK", "ok: so", " ok"])
def test_what_is_no_status_is_refused(text):
    with pytest.raises(ValueError, match="expected ok, partial, pending or failed: a reason"):
        outcome_of(text)


def test_only_one_module_spells_a_status():
    spelt = {
        path.name
        for path in (Path(__file__).parents[2] / "bench").rglob("*.py")
        if any(f"{quote}failed: " in path.read_text() for quote in "\"'")
    }
    assert spelt == {"status.py"}


# ---- The schema of run.json ----


def test_the_schema_in_the_documentation_is_that_of_the_types(sb):
    text = (Path(__file__).parents[2] / "docs" / "run.schema.json").read_text()
    assert sb("list", "run-schema").out == text
    sb("list", "run-schema", "--markdown").refused(2, "run-schema is JSON")


@pytest.fixture(scope="module")
def validator():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(run_schema())
    return jsonschema.Draft202012Validator(run_schema())


def test_a_run_is_what_the_schema_says(folder, validator):
    content = json.loads((folder / "run.json").read_text())
    assert not list(validator.iter_errors(content))
    assert set(content) <= set(run_schema()["$defs"]["RunRecord"]["properties"])
    assert "unknown_settings" not in run_schema()["$defs"]["RunRecord"]["properties"]


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": "x"}, {"cells": []}, {"format": 1}, {"environment__threads": 0}, {"config__steps": "2"},
        {"cells__0__key": "0" * 63}, {"cells__0__nfe": -1}, {"model__fingerprint": None}, {"extractors__fid": 1},
    ],
    ids=str,
)  # fmt: skip
def test_the_schema_and_the_reader_refuse_the_same(folder, validator, edited, tmp_path, changes):
    shutil.copytree(folder, tmp_path / "run")
    edited(tmp_path / "run", **changes)
    assert list(validator.iter_errors(json.loads((tmp_path / "run" / "run.json").read_text())))
    with pytest.raises(sb_.StoreError):
        read_run(tmp_path / "run")


def test_each_field_of_run_json_that_is_needed_is_missed_by_both(folder, validator, tmp_path):
    content = json.loads((folder / "run.json").read_text())
    shutil.copytree(folder, tmp_path / "run")
    for whole, names in ((content, list(content)), (content["config"], list(content["config"]))):
        for name in names:
            taken = whole.pop(name)
            text = json.dumps({key: value for key, value in content.items() if key != "sha256"})
            (tmp_path / "run" / "run.json").write_bytes(seal_json(text) if name != "sha256" else text.encode())
            is_needed = bool(list(validator.iter_errors(content)))
            try:
                read_run(tmp_path / "run")
            except sb_.StoreError:
                assert is_needed, name
            else:
                assert not is_needed, name
            whole[name] = taken

"""Where a run goes: the seconds of each stage of a chunk, in its file, in the table and in the report."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

import samplerbench as sb
from samplerbench.bench.draw.chunk_file import timing_from_json
from samplerbench.bench.draw.clock import STAGES, Repeat, Timing, clock_columns
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.session import Session
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.plan.record import record_of
from samplerbench.bench.show.provenance import stages_to_text
from samplerbench.samplers import sample
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
CHUNK = Timing(
    5,
    5,
    seconds=2.0,
    model_seconds=1.0,
    encode_seconds=0.5,
    decode_seconds=0.25,
    extract_seconds=4.0,
    hash_seconds=0.125,
)


def toy_run(output, **settings):
    return sb.run("toy", ["ddim"], plugins=[TOY], output=output, **{"steps": [2], "n": 130, **settings})


def test_each_stage_is_clocked_by_itself(monkeypatch):
    now = 0.0

    def passes(seconds, returned):
        nonlocal now
        now += seconds
        return returned

    toy = load_registry([TOY]).model("toy")
    slow = replace(
        toy,
        encode=lambda prompts: passes(3.0, toy.encode(prompts)),
        network=lambda *_: lambda x, t, condition: passes(0.5, x * 0.5),
        decode=lambda x: passes(5.0, toy.images(x)),
    )
    monkeypatch.setattr(sample, "clock", lambda device: now)
    drawn = sb.sample(slow, "ddim", steps=4, n=2)
    assert (drawn.encode_seconds, drawn.seconds, drawn.decode_seconds) == (3.0, 2.0, 5.0)


def test_the_table_has_the_seconds_of_all_chunks_of_a_cell():
    stored = [replace(CHUNK, store_seconds=seconds) for seconds in (None, 0.2, 0.4)]
    for_the_clock = replace(CHUNK, extract_seconds=None, hash_seconds=None, seconds=9.0)
    found = clock_columns([Repeat(64, timing) for timing in (*stored, for_the_clock)])
    assert {name: found[name] for name in STAGES} == pytest.approx({
        "encode_seconds": 1.5, "draw_seconds": 6.0, "decode_seconds": 0.75, "extract_seconds": 12.0,
        "hash_seconds": 0.375, "store_seconds": 0.9,
    })  # fmt: skip


def test_seconds_of_stages_do_not_need_a_machine_of_their_own():
    found = clock_columns([Repeat(64, replace(CHUNK, machine=machine, alone=False)) for machine in "ab"])
    assert math.isnan(found["seconds_per_image"])
    assert found["draw_seconds"] == 4.0


def test_a_run_says_where_it_went(tmp_path):
    result = toy_run(tmp_path / "run")
    table = result.table
    assert (table[[name for name in STAGES if name != "encode_seconds"]] > 0).all(axis=None)
    key = json.loads((result.folder / "run.json").read_text())["cells"][0]["key"]
    chunks = list(RunFolder(result.folder).chunks_of(key).values())
    assert table["draw_seconds"][0] == pytest.approx(sum(chunk.timing.seconds for chunk in chunks))
    assert table["extract_seconds"][0] == pytest.approx(sum(chunk.timing.extract_seconds for chunk in chunks))
    assert [chunk.timing.store_seconds is None for chunk in chunks] == [True, False, False]
    assert stages_to_text(table, ["one"]) in (result.folder / "report.html").read_text().replace("&#39;", "'")
    stages = read_run(result.folder).stages
    assert list(stages) == list(STAGES.values())
    assert stages == pytest.approx({words: table[name].sum() for name, words in STAGES.items()})


def test_run_json_says_where_all_of_a_run_went(tmp_path):
    before = toy_run(tmp_path / "run")
    first = read_run(before.folder).stages
    toy_run(tmp_path / "run")
    assert read_run(before.folder).stages == first  # nothing was drawn anew
    toy_run(tmp_path / "run", steps=[3], add=True)
    after = read_run(before.folder)
    assert all(after.stages[stage] > first[stage] for stage in first if stage != "encoding")
    assert len(after.cells) == 2
    # A file of an earlier version says nothing of it, and is a run as before.
    content = json.loads((before.folder / "run.json").read_text())
    content.pop("stages")
    assert record_of(content).stages == {}


def test_chunks_that_two_rows_share_count_once(tmp_path):
    two = sb.run("toy", ["ddim", "ddim:eta=0"], plugins=[TOY], output=tmp_path / "run", steps=[2], n=8)
    assert len({cell.key for cell in read_run(two.folder).cells}) == 1
    assert read_run(two.folder).stages["drawing"] == two.table["draw_seconds"][0]


def test_a_run_that_is_done_keeps_its_stages_while_it_is_run_again(tmp_path, monkeypatch):
    folder = toy_run(tmp_path / "run").folder
    before = read_run(folder).stages
    seen = []

    def refused(session, *_):
        seen.append(read_run(folder).stages)
        raise sb.ModelError("gone")

    monkeypatch.setattr(Session, "work", refused)
    with pytest.raises(sb.ModelError, match="gone"):
        toy_run(tmp_path / "run")
    assert seen == [before]
    assert read_run(folder).stages == before


@pytest.mark.parametrize("seconds", [-1, "12", None])
def test_run_json_with_other_than_seconds_is_refused(tmp_path, seconds):
    content = json.loads((toy_run(tmp_path / "run", n=2).folder / "run.json").read_text())
    with pytest.raises(ValueError, match="stages"):
        record_of({**content, "stages": {"drawing": seconds}})


def test_a_chunk_of_an_earlier_version_has_no_stages(tmp_path):
    known = {name: value for name, value in asdict(CHUNK).items() if name not in STAGES}
    old = timing_from_json(json.dumps(known))
    assert old.extract_seconds is None
    found = clock_columns([Repeat(64, old)])
    assert all(math.isnan(found[name]) for name in STAGES)
    assert stages_to_text(pd.DataFrame([found]), ["one"]) == ""


def test_the_line_of_a_report_names_what_took_time():
    table = pd.DataFrame({"draw_seconds": [6.0, 6.0], "extract_seconds": [3.0, math.nan], "hash_seconds": [0.01, 0.01]})
    assert stages_to_text(table, ["one", "other"]) == "15 s: drawing 80 %, extracting 20 %"
    assert stages_to_text(pd.DataFrame({"fid": [1.0]}), ["one"]) == ""

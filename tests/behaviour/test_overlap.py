"""Storing and hashing beside drawing. The CPU stands in for the accelerator, beside which alone that is done."""

import json
import os
import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import samplerbench as sb_
from samplerbench.bench import run as runs
from samplerbench.bench.draw import chunk as chunks
from samplerbench.bench.draw.engines import here
from samplerbench.bench.draw.ledger import Ledger
from samplerbench.bench.draw.session import Session, Watch
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.draw.writer import Writer
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.samplers.acceleration import Acceleration, accelerate
from samplerbench.samplers.extractor import on_device
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
SETTINGS = {"steps": [2], "n": 64 * 8, "plugins": [TOY], "metrics": ["fid", "clip_score", "brightness"]}
REGISTRY = load_registry([TOY])
PLAN = plan_for(
    Config(model="toy", sampler=("ddim", "ddpm"), steps=(2,), samples=64 * 8, metric=tuple(SETTINGS["metrics"])),
    REGISTRY,
)
AGES = 60.0
"""Seconds that nothing here takes, by far, unless it waits for ever."""


@pytest.fixture(autouse=True)
def accelerator(monkeypatch):
    """Take this device for one that draws by itself."""
    monkeypatch.setattr(runs, "is_accelerator", lambda device: True)


def toy_run(output, **settings):
    return sb_.run("toy", ["ddim", "ddpm"], output=output, **{**SETTINGS, **settings})


def draw_all(output, **manner):
    """Draw the chunks of the same run, and make no table of them."""
    begun = runs.begin(PLAN.for_shard(runs.Manner(**manner).part), REGISTRY, output, runs.Manner(**manner))
    try:
        begun.work(Watch())
    finally:
        begun.folder.close()
    return [sum(chunk.timing.alone for chunk in cell) for cell in stored(output)[1]]


def stored(folder):
    """The chunks of each cell, by the place of the cell."""
    store = RunFolder(folder)
    keys = [cell["key"] for cell in json.loads((folder / "run.json").read_text())["cells"]]
    return keys, [list(store.chunks_of(key).values()) for key in keys]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A run that overlaps, and one that does not."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "is_accelerator", lambda device: True)
        return toy_run(folder / "overlapped"), toy_run(folder / "one_by_one", no_overlap=True)


def test_overlap_changes_no_number_and_no_key(both):
    (keys, cells), (other_keys, other_cells) = (stored(result.folder) for result in both)
    assert keys == other_keys
    for chunk, other in zip(chain(*cells), chain(*other_cells), strict=True):
        assert (chunk.first, chunk.n) == (other.first, other.n)
        assert chunk.hashes.tobytes() == other.hashes.tobytes()
        assert chunk.images.tobytes() == other.images.tobytes()
        assert {k: v.tobytes() for k, v in chunk.rows.items()} == {k: v.tobytes() for k, v in other.rows.items()}
    numbers = [name for name in both[0].table if not any(word in name for word in ("seconds", "load", "peak"))]
    numbers = [name for name in numbers if name not in ("overhead", "timing", "repeats")]
    pd.testing.assert_frame_equal(both[0].table[numbers], both[1].table[numbers])


def test_the_first_five_blocks_of_each_cell_are_drawn_alone_and_make_its_times(both):
    for result, alone in zip(both, (5, 8), strict=True):
        _, cells = stored(result.folder)
        assert [[chunk.timing.alone for chunk in cell] for cell in cells] == 2 * [[i < alone for i in range(8)]]
        assert list(result.table["repeats"]) == [alone, alone]
        assert result.table["seconds_per_image"].notna().all()
    assert (both[0].table["hash_seconds"] > 0).all()


def test_what_is_clocked_has_no_thread_beside_it_and_the_rest_is_hashed_and_stored_by_one(tmp_path, monkeypatch):
    hashed_by, stored_by, threads = [], [], []
    hashes, put, draw = chunks.sample_hashes, RunFolder.put, chunks.draw_clocked
    here = threading.current_thread()
    writing = threading.Event()

    def busy():
        """Whether the writer has something to do."""
        return writing.is_set()

    def hashed(samples):
        hashed_by.append(threading.current_thread())
        return hashes(samples)

    def kept(folder, cell, block, chunk):
        writing.set()
        stored_by.append(threading.current_thread())
        put(folder, cell, block, chunk)
        writing.clear()

    def drawn(cell, block):
        threads.append((block.number, threading.current_thread(), busy()))
        return draw(cell, block)

    monkeypatch.setattr(chunks, "sample_hashes", hashed)
    monkeypatch.setattr(RunFolder, "put", kept)
    monkeypatch.setattr(chunks, "draw_clocked", drawn)
    draw_all(tmp_path / "run")
    assert {thread for _, thread, _ in threads} == {here}
    assert not any(is_busy for number, _, is_busy in threads if number < 5)
    assert hashed_by[:10] == stored_by[:10] == [here] * 10
    (writer,) = {*hashed_by[10:], *stored_by[10:]}
    assert writer is not here
    assert not writer.is_alive()


def test_extractors_that_set_no_switch_read_beside_drawing_too(tmp_path, monkeypatch, both):
    read_by, rows_in, main = [], chunks.rows_in, threading.current_thread()

    def read(*given):
        read_by.append(threading.current_thread())
        return rows_in(*given)

    monkeypatch.setattr(here, "may_read_beside", lambda plan, extractors: True)
    monkeypatch.setattr(chunks, "rows_in", read)
    assert draw_all(tmp_path / "run") == [5, 5]
    roles = len(read_by) // 16
    assert read_by[: 10 * roles] == [main] * 10 * roles
    assert main not in read_by[10 * roles :]
    for chunk, other in zip(chain(*stored(tmp_path / "run")[1]), chain(*stored(both[1].folder)[1]), strict=True):
        assert {k: v.tobytes() for k, v in chunk.rows.items()} == {k: v.tobytes() for k, v in other.rows.items()}
        assert chunk.timing.extract_seconds > 0


def test_the_first_reading_of_a_process_is_never_beside_drawing(tmp_path, monkeypatch):
    draw_all(tmp_path / "run")
    (keys, _), folder = stored(tmp_path / "run"), RunFolder(tmp_path / "run")
    for key in keys:  # of a run that is resumed, with blocks that may overlap alone
        folder._chunks.joinpath(key[:16], "00000448-0064.safetensors").unlink()
    read_by, rows_in = [], chunks.rows_in
    monkeypatch.setattr(here, "may_read_beside", lambda plan, extractors: True)
    monkeypatch.setattr(chunks, "rows_in", lambda *given: read_by.append(threading.current_thread()) or rows_in(*given))
    draw_all(tmp_path / "run")
    roles = len(read_by) // 2
    assert read_by[:roles] == [threading.current_thread()] * roles
    assert threading.current_thread() not in read_by[roles:]


def test_which_extractors_may_read_beside_drawing():
    assert not chunks.may_read_beside(PLAN, ["features"])  # of a stranger's file
    model = REGISTRY.model("fashion-mnist")
    placed = on_device(model.extractors, torch.device("meta"))
    for extractors in (model.extractors, placed):
        plan = SimpleNamespace(model=replace(model, extractors=extractors))
        assert chunks.may_read_beside(plan, ["features", "clip"])


@pytest.mark.parametrize(
    ("how", "may"), [("tf32", False), ("cudnn_benchmark", False), ("channels_last", True), ("compile", True)]
)
def test_no_extractor_reads_beside_a_network_that_turns_switches_of_the_process(how, may):
    model = accelerate(REGISTRY.model("fashion-mnist"), Acceleration(**{how: True}), "cuda")
    assert chunks.may_read_beside(SimpleNamespace(model=model), ["features", "clip"]) is may


def test_a_stream_of_its_own_where_the_device_has_streams(monkeypatch):
    assert isinstance(chunks.beside(torch.device("cpu")), nullcontext)
    entered = []

    class Streams:
        Stream = staticmethod(lambda device: f"stream of {device}")

        @staticmethod
        def stream(stream):
            entered.append(stream)
            return nullcontext()

    monkeypatch.setattr(torch, "get_device_module", lambda device: Streams)
    for _ in range(2):
        with chunks.beside(torch.device("xpu", 7)):
            pass
    assert entered == ["stream of xpu:7"] * 2
    monkeypatch.setattr(torch, "get_device_module", lambda device: object())  # mps has none
    assert isinstance(chunks.beside(torch.device("mps", 7)), nullcontext)


def test_the_device_draws_on_while_a_chunk_is_stored(tmp_path, monkeypatch):
    put, draw = RunFolder.put, chunks.draw_clocked
    drawn_since, waited = threading.Event(), []

    def slow(folder, cell, block, chunk):
        if block.number == 6 and not waited:
            drawn_since.clear()
            waited.append(drawn_since.wait(AGES))
        put(folder, cell, block, chunk)

    def drawn(cell, block):
        drawn_since.set()
        return draw(cell, block)

    monkeypatch.setattr(RunFolder, "put", slow)
    monkeypatch.setattr(chunks, "draw_clocked", drawn)
    draw_all(tmp_path / "run")
    assert waited == [True]


def test_as_many_blocks_are_drawn_alone_as_there_are_to_be_repeats(tmp_path):
    assert draw_all(tmp_path / "run", repeats=7) == [7, 7]
    keys, _ = stored(tmp_path / "run")
    assert [RunFolder(tmp_path / "run").count_repeats(key) for key in keys] == [0, 0]
    draw_all(tmp_path / "run", repeats=8)
    assert [RunFolder(tmp_path / "run").count_repeats(key) for key in keys] == [1, 1]


def test_what_is_missing_for_the_clock_counts_only_blocks_that_will_be_drawn_alone(tmp_path):
    folder = RunFolder(tmp_path / "none")
    folder._cells = set()
    asked = [len(list(Ledger(PLAN, folder, repeats=8, alone=alone).repeats_missing())) for alone in (None, 8, 5, 0)]
    assert asked == [0, 0, 6, 16]


def test_no_chunk_of_a_shard_waits_to_be_drawn_alone(tmp_path):
    assert draw_all(tmp_path / "run", shard="1/2") == [0, 0]


# What may come between


def test_a_disk_that_fails_while_the_device_draws_ends_in_one_line_and_loses_nothing(sb, tmp_path, monkeypatch, both):
    command = ("run", "--model", "toy", "-s", "ddim", "-s", "ddpm", "--steps", "2", "-n", "512", "--plugin", TOY, "-o")
    metrics = [word for name in SETTINGS["metrics"] for word in ("--metric", name)]
    write = RunFolder.write_arrays

    def full(folder, path, arrays, about, **belongs):
        if belongs.get("first") == 64 * 6:
            raise sb_.StoreError(f"{path}: no space left on the disk")
        write(folder, path, arrays, about, **belongs)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_arrays", full)
        outcome = sb(*command, "run", "--quiet", *metrics)
    assert outcome.code == 5
    assert outcome.err.splitlines()[-1].startswith("Error: run/chunks/")
    assert outcome.err.endswith(": no space left on the disk\n")
    _, cells = stored(tmp_path / "run")
    assert [len(cell) for cell in cells] == [6, 6]
    draw_all(tmp_path / "run")
    assert stored(tmp_path / "run")[1][0][6].hashes.tobytes() == stored(both[0].folder)[1][0][6].hashes.tobytes()


def test_what_was_drawn_before_a_signal_is_stored(tmp_path, monkeypatch):
    draw, drawn = chunks.draw_clocked, []

    def stopped(cell, block):
        if len(drawn) == 13:
            raise KeyboardInterrupt
        drawn.append(block.first)
        return draw(cell, block)

    monkeypatch.setattr(chunks, "draw_clocked", stopped)
    with pytest.raises(KeyboardInterrupt):
        draw_all(tmp_path / "run")
    _, cells = stored(tmp_path / "run")
    assert sorted(chunk.first for cell in cells for chunk in cell) == sorted(drawn)


def test_a_sampler_that_fails_keeps_the_chunks_before(tmp_path, monkeypatch):
    draw = chunks.draw_clocked

    def fails(cell, block):
        if block.number == 7 and cell.sampler == "ddpm":
            raise ZeroDivisionError("late")
        return draw(cell, block)

    monkeypatch.setattr(chunks, "draw_clocked", fails)
    draw_all(tmp_path / "run")
    keys, cells = stored(tmp_path / "run")
    assert RunFolder(tmp_path / "run").failures(PLAN) == {keys[1]: "ZeroDivisionError: late"}
    assert [len(cell) for cell in cells] == [8, 7]


def test_a_failure_of_the_writer_is_not_kept_for_later():
    writer = Writer()
    results = [writer.add(lambda number=number: 1 / number) for number in range(2)]
    with pytest.raises(ZeroDivisionError):
        list(writer.results())
    assert list(writer.results()) == [1.0]
    assert [list(result) for result in results] == [[], []]
    writer.close()


KILLED = """
import os, sys
import samplerbench
from samplerbench.bench import run as runs
from samplerbench.bench.draw import sealed_file
from samplerbench.samplers.files import atomic
runs.is_accelerator = lambda device: True
sys.path.insert(0, {tests!r})
from samplerbench.bench.draw.store import RunFolder
put, count = RunFolder.put, 0
def kill(folder, *given):
    global count
    count += 1
    put(folder, *given)
    print(given[1].number, flush=True)
    if count == 13:
        os.kill(os.getpid(), 9)
RunFolder.put = kill
samplerbench.run("toy", ["ddim", "ddpm"], output={output!r}, **{settings!r})
"""


@pytest.mark.slow
def test_a_kill_loses_no_stored_chunk(tmp_path, both):
    script = KILLED.format(tests=str(Path(TOY).parent), output=str(tmp_path / "run"), settings=SETTINGS)
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ)
    assert killed.returncode == -9, killed.stderr
    acknowledged = killed.stdout.split()
    assert len(acknowledged) == 13
    _, cells = stored(tmp_path / "run")
    assert sum(len(cell) for cell in cells) >= 13
    result = toy_run(tmp_path / "run")
    pd.testing.assert_series_equal(result.table["fid"], both[0].table["fid"])


def test_on_the_cpu_nothing_overlaps(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(Session, "_settle", lambda session, watch: None)  # nothing depends on it
    assert draw_all(tmp_path / "run") == [8, 8]

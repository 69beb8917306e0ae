"""The run folder against crashes, full disks, damage, a second writer, and cells that fail."""

import csv
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors import safe_open

import samplerbench as sb_
from cases import thinned
from samplerbench.bench.draw import clock as timing
from samplerbench.bench.draw import output
from samplerbench.bench.draw.chunk_file import arrays_to_bytes, bytes_to_arrays, content_hash
from samplerbench.bench.draw.engines import here as harness
from samplerbench.bench.draw.folder import CHUNKS, REFERENCE, RUN_FILE, is_own, names_below
from samplerbench.bench.draw.paths import PATHS
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.sealed_file import seal_json, unseal_json
from samplerbench.bench.draw.session import Watch, next_renewal
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.judge.ranking import answers_for
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.judge.table import GrowingTable, write_sealed_table
from samplerbench.bench.judge.verdict_files import ANSWERS, FRONTS, read_answers
from samplerbench.bench.plan import keys
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.plan.yardstick import yardsticks
from samplerbench.bench.run import Manner, begin
from samplerbench.bench.show.page import write_report
from samplerbench.bench.show.picture import redraw
from samplerbench.bench.show.sheet import table_to_markdown
from samplerbench.samplers.files.lock import LOCK_FILE, WriterLock
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
REGISTRY = load_registry([TOY])
CLOCKED = list(timing.COLUMNS)


def plan_of(*samplers, model="mixture", **settings):
    """The plan of a small run: two blocks, of 64 and of 2 samples."""
    return plan_for(Config(model=model, sampler=samplers, **{"steps": (2,), "samples": 66, **settings}), REGISTRY)


PLAN = plan_of("ddpm", "late", "ddim")


def finished(plan, folder, watch=None, **settings):
    """A run of a plan to its end; its result."""
    session = begin(plan, REGISTRY, folder, Manner(**settings))
    # As the program does it: whatever ends a run, the next one may write to the folder.
    with closing(session.folder):
        session.work(watch or Watch())
        return session.conclude()


def same_table(a, b):
    """Assert that two tables differ in seconds at most."""
    pd.testing.assert_frame_equal(a.drop(columns=CLOCKED), b.drop(columns=CLOCKED), check_exact=True)


def chunks_in(folder):
    """The bytes of every chunk and stored failure, by name."""
    paths = sorted((folder / "chunks").rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths if p.is_file() and p.name[0] != "."}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The finished run of PLAN."""
    return finished(PLAN, tmp_path_factory.mktemp("stored") / "run")


@pytest.fixture
def copy(stored, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(stored.folder, tmp_path / "copy"))


class Crash(BaseException):
    """The end of the process: nothing that comes after is done."""


class Disk:
    """The writes, fsyncs, renames and new folders that reach the disk, counted; at one of them it fails.

    A power cut takes back all that was not synced: the content of files, and names in folders.
    """

    def __init__(self, monkeypatch, root):
        self.calls = []
        self.fail_at, self.error = None, None
        self.root = root
        self._unsynced = {}
        """Path -> what it was before: bytes of a file, None where there was none."""
        self._renamed = []
        """(path, what it was before) of names that a crash would take back, the newest last."""
        for name in ("write", "fsync", "replace", "mkdir"):
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name, inner):
        def call(*arguments, **settings):
            path = self._path(arguments[1] if name == "replace" else arguments[0])
            if not path.is_relative_to(self.root):
                return inner(*arguments, **settings)
            if len(self.calls) == self.fail_at:
                if name == "write":
                    inner(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise self.error()  # a new one: an old one would hold the frames of what it ended
            self.calls.append((name, path.name))
            getattr(self, f"_before_{name}")(*([self._path(arguments[0])] if name == "replace" else []), path)
            return None if name == "fsync" else inner(*arguments, **settings)  # a real one would only take time

        return call

    @staticmethod
    def _path(thing):
        return Path(f"/proc/self/fd/{thing}").readlink() if isinstance(thing, int) else Path(thing)

    def _before_write(self, path):
        self._unsynced[path] = b""

    def _before_fsync(self, path):
        if path.is_dir():
            self._renamed = [one for one in self._renamed if one[0].parent != path]
        else:
            self._unsynced.pop(path, None)

    def _before_replace(self, temporary, path):
        self._renamed.append((path, path.read_bytes() if path.exists() else None))
        if temporary in self._unsynced:
            self._unsynced[path] = self._unsynced.pop(temporary)

    def _before_mkdir(self, path):
        if not path.exists():
            self._renamed.append((path, None))

    def power_cut(self):
        """Take back what was not synced."""
        for path, content in self._unsynced.items():
            path.write_bytes(content)
        for path, before in reversed(self._renamed):
            if path.is_dir():
                shutil.rmtree(path)
            elif before is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(before)
        self._unsynced, self._renamed = {}, []


# One writer


def test_a_second_writer_is_refused_and_readers_are_not(sb, stored, copy):
    session = begin(PLAN, REGISTRY, copy)
    before = chunks_in(copy)
    with pytest.raises(sb_.StoreError, match=rf"process {os.getpid()} is writing to it; .* give another -o"):
        begin(PLAN, REGISTRY, copy, Manner(fresh=True))
    assert chunks_in(copy) == before
    assert sb("table", copy).code == 0
    session.conclude()
    same_table(finished(PLAN, copy).table, stored.table)
    assert not (copy / LOCK_FILE).exists()


HOLD = """
import sys
from pathlib import Path
from samplerbench.samplers.files.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_lock_of_another_process_is_free_when_that_is_killed(sb, tmp_path):
    (tmp_path / "here").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "here")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        run = ("run", "--model", "mixture", "-s", "ddpm", "--steps", "2", "-n", "2", "-o", "here")
        done = sb(*run)
        done.refused(5, f"here: process {other.pid} is writing to it")
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert (tmp_path / "here" / LOCK_FILE).read_text() == str(other.pid)
    assert sb(*run).code == 0


def test_a_lock_file_alone_locks_nothing(stored, copy):
    (copy / LOCK_FILE).write_text(str(os.getppid()))
    same_table(finished(PLAN, copy).table, stored.table)


def test_a_lock_on_a_file_that_its_last_owner_removed_is_none(tmp_path, monkeypatch):
    inner, taken = fcntl.flock, []

    def late(file, how):
        if not taken:
            (tmp_path / LOCK_FILE).unlink()
        inner(file, how)
        taken.append(file)

    monkeypatch.setattr(fcntl, "flock", late)
    lock = WriterLock(tmp_path)
    assert len(taken) == 2
    with pytest.raises(sb_.StoreError):
        WriterLock(tmp_path)
    lock.release()
    lock.release()
    WriterLock(tmp_path).release()


class Stop(Watch):
    """Raises once so many chunks are stored, the ODE reference among them."""

    def __init__(self, after, error):
        self.left, self.error = after, error

    def advanced(self, evaluations):
        """Count down."""
        self.left -= 1
        if self.left < 0:
            raise self.error


def test_a_run_that_stops_with_an_error_leaves_no_lock(tmp_path, monkeypatch):
    def failing(*arguments):
        raise sb_.StoreError("full")

    monkeypatch.setattr(RunFolder, "put", failing)
    with pytest.raises(sb_.StoreError, match="full"):
        sb_.run("mixture", ["ddpm"], steps=[2], n=2, output=tmp_path / "run")
    monkeypatch.undo()
    sb_.run("mixture", ["ddpm"], steps=[2], n=2, output=tmp_path / "run")


def test_a_folder_that_cannot_be_opened_is_not_locked_by_the_attempt(copy):
    with pytest.raises(sb_.InputError, match="belongs to another run"):
        begin(plan_of("ddpm"), REGISTRY, copy)
    assert not (copy / LOCK_FILE).exists()


def test_a_run_whose_failures_cannot_be_read_leaves_no_lock(copy):
    (failure,) = (copy / "chunks").glob("*.failed.json")
    failure.write_bytes(b"{")
    for _ in range(2):
        with pytest.raises(sb_.StoreError, match="damaged"):
            begin(PLAN, REGISTRY, copy)
        assert not (copy / LOCK_FILE).exists()


# What is the run's own


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """The folder of a run with every kind of file that a run can have."""
    plan = plan_of("ddim", "late", "ddpm", model="toy")
    result = finished(plan, tmp_path_factory.mktemp("rich") / "run", repeats=2)
    write_report(StoredRun(result.folder), REGISTRY)
    return plan, result.folder


def test_all_that_a_run_writes_is_known_as_its_own(rich):
    _, folder = rich
    names = list(names_below(folder))
    assert [name for name in names if not is_own(name)] == []
    assert {ANSWERS, FRONTS, f"{PATHS}/", f"{CHUNKS}/", RUN_FILE} <= set(names)
    kinds = {re.sub("[0-9a-f]{4,}", "#", name) for name in names}
    assert {f"{CHUNKS}/#/#-#.safetensors", f"{CHUNKS}/#/#.timing", f"{CHUNKS}/#.failed.json"} <= kinds
    for half_done in (r".\1.tmp", r".\1.0123456789abcdef.tmp"):
        assert all(is_own(re.sub("([^/]+)$", half_done, name)) for name in names if name[-1] != "/")


def test_fresh_leaves_nothing_of_a_run_and_all_of_others(rich, tmp_path):
    plan, folder = rich
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    key = plan.cells[0].key[:16]
    theirs = ["notes.txt", "chunks/precious.txt", f"chunks/{key}/mine.safetensors", "chunks/mine/00000000-0064.timing"]
    for name in theirs:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(name)
    (copy / ".table.csv.tmp").touch()
    begun = begin(plan, REGISTRY, copy, Manner(fresh=True))
    begun.folder.write_failure(plan.cells[0], "RuntimeError: tired")  # until then it may come back
    begun.folder.failure_path(plan.cells[0].key).unlink()
    begun.folder.close()
    left = {p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()}
    assert left == {*theirs, RUN_FILE}
    assert all((copy / name).read_text() == name for name in theirs)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("theirs", ["chunks/precious.txt", "chunks/0123456789abcdef/precious.txt", "chunks/mine/a",
                                    "chunks/paths/b", "table.csv", "chunks", "precious.tmp"])  # fmt: skip
def test_what_no_run_wrote_is_not_taken_for_a_stopped_run(tmp_path, theirs, fresh):
    file = tmp_path / "run" / theirs
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    nameless = dataclasses.replace(PLAN, model=dataclasses.replace(PLAN.model, fingerprint=""))
    for plan in (PLAN, nameless):
        with pytest.raises(sb_.InputError, match=r"holds other files and no run\.json"):
            begin(plan, REGISTRY, tmp_path / "run", Manner(fresh=fresh))
    assert [p for p in (tmp_path / "run").rglob("*") if p.is_file()] == [file]
    assert file.read_text() == "precious"


@pytest.mark.parametrize("left", [[], ["chunks/"], ["chunks/0123456789abcdef/", ".run.json.tmp", ".lock"]])
def test_what_a_stopped_run_left_is_taken_over(tmp_path, left):
    for name in left:
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name[-1] == "/" else path.touch()
    begin(PLAN, REGISTRY, tmp_path / "run").folder.close()
    assert read_run(tmp_path / "run").plan == PLAN.key


@pytest.mark.parametrize("where", ["chunks", "chunks/{key}"])
def test_fresh_refuses_links_to_chunks_that_it_would_not_remove(copy, where):
    linked = copy / where.format(key=PLAN.cells[0].key[:16])
    linked.rename(copy.parent / "elsewhere")
    linked.symlink_to(copy.parent / "elsewhere")
    before = chunks_in(copy)
    with pytest.raises(sb_.StoreError, match=f"{linked.name}: a link or a file"):
        begin(PLAN, REGISTRY, copy, Manner(fresh=True))
    assert chunks_in(copy) == before
    assert (copy / RUN_FILE).exists()


# Outputs that cannot be


RUN = ("run", "--model", "mixture", "-s", "ddim", "--steps", "2", "-n", "2")


@pytest.mark.parametrize("output", ["link", "link/below"])
def test_an_output_that_is_a_link_to_nothing_is_refused(sb, tmp_path, output):
    (tmp_path / "link").symlink_to("nowhere")
    sb(*RUN, "-o", output).refused(
        2, "Error: output link: a link to 'nowhere', which does not exist; make that folder or give another -o"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["link"]


def test_an_output_that_is_a_device_is_refused_in_plain_words(sb):
    sb(*RUN, "-o", "/dev/null").refused(2, "Error: output /dev/null: is a file; expected a folder, new or of the same")


def test_an_output_of_too_long_a_name_is_refused_with_what_to_do(sb):
    sb(*RUN, "-o", "x" * 300).refused(2, "cannot be a path (File name too long); give another or a shorter one\n")


@pytest.mark.parametrize("environment", [False, True])
def test_an_output_without_a_name_is_refused(sb, tmp_path, environment):
    (tmp_path / "c.toml").write_text("output = ''")
    settings = ("--config", "c.toml") if environment else ("-o", "")
    sb(*RUN, *settings).refused(2, "output '': is empty; expected a folder, or leave -o out")
    assert [p.name for p in tmp_path.iterdir()] == ["c.toml"]


# A dry run of what is there


def states_of(folder):
    """Hash, times and names of all in a folder and of the folder itself."""
    paths = [folder, *sorted(folder.rglob("*"))]
    content = hashlib.sha256(b"".join(p.read_bytes() for p in paths if p.is_file())).hexdigest()
    return content, [(str(p), p.stat().st_mtime_ns, p.stat().st_ctime_ns) for p in paths]


@pytest.mark.parametrize("more", [(), ("--fresh",), ("--retry-failed",), ("--json",)])
def test_a_dry_run_changes_nothing_of_a_run(sb, copy, more):
    before = states_of(copy)
    command = ("run", "--plugin", TOY, "--model", "mixture", "-s", "ddpm", "-s", "late", "-s", "ddim", "--steps", 2)
    assert sb(*command, "-n", 66, "-o", copy, "--dry-run", *more).code == 0
    assert states_of(copy) == before


def test_a_dry_run_says_how_much_is_left_to_make(sb, copy):
    command = ("run", "--plugin", TOY, "--model", "mixture", "-s", "ddpm", "-s", "late", "-s", "ddim", "--steps", 2)
    command = (*command, "-n", 66, "-o", copy, "--dry-run")
    total = 3 * 2 * 66 + 16 * 101

    def left(*more):
        about = json.loads(sb(*command, *more, "--json").out)
        assert about["network_evaluations"] == total
        assert about["estimated_seconds"] == 0 or about["network_evaluations_left"]
        return about["network_evaluations_left"]

    assert f"{total:,} network evaluations, of which 0 are left to make in {copy}, about 0 s here" in sb(*command).out
    assert left() == 0
    assert left("--fresh") == total
    assert "left" not in sb(*command, "--fresh").out
    assert left("--retry-failed") == 2 * 2  # the second block of late
    RunFolder(copy).chunk_path(PLAN.cells[0], PLAN.blocks[0]).unlink()
    assert left() == 2 * 64
    (copy / "chunks" / "ode-reference.safetensors").unlink()
    assert left() == 2 * 64 + 16 * 101
    shutil.rmtree(copy)
    assert left() == total
    assert "left" not in sb(*command).out


# What identifies a cell


@pytest.mark.parametrize("package", ["samplerbench", "torch", "numpy"])
def test_a_run_of_another_version_is_refused_by_name(copy, monkeypatch, package):
    def other(name):
        return "99.0" if name == package else inner(name)

    inner = output.version_of
    for module in (keys, output):
        monkeypatch.setattr(module, "version_of", other)
    before = states_of(copy)
    with pytest.raises(sb_.InputError, match=rf"another run \({package}: {re.escape(inner(package))} -> 99\.0\)"):
        begin(plan_of("ddpm", "late", "ddim"), REGISTRY, copy)
    assert states_of(copy)[0] == before[0]


@pytest.mark.parametrize(
    "changed",
    [
        {"clip": (-1.0, 1.0)}, {"clip": sb_.dynamic_threshold()}, {"clip": sb_.dynamic_threshold(0.9)},
        {"predicts": "x0"}, {"timesteps": "integer"}, {"shape": (1, 4, 16)},
        {"guide": lambda condition, guidance: condition}, {"decode": lambda x: x}, {"encode": lambda prompts: None},
    ],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_a_model_that_is_asked_in_another_way_is_another_cell(changed):
    config = Config(model="toy", sampler=("ddim",), steps=(2,), samples=2)
    toy = REGISTRY.model("toy")
    settings = []
    for model in (toy, dataclasses.replace(toy, clip=None), dataclasses.replace(toy, **changed)):
        request = plan_for(config, REGISTRY, toy).cells[0].request
        settings.append(keys.cell_setting(dataclasses.replace(request, model=model), set()))
    assert settings[0] == settings[1] != settings[2]


def test_a_model_with_other_bounds_is_refused_the_folder_of_the_first(tmp_path):
    sb_.run("toy", ["ddim"], steps=[2], n=2, plugins=[TOY], output=tmp_path / "run")
    clipped = dataclasses.replace(REGISTRY.model("toy"), clip=(-0.1, 0.1))
    with pytest.raises(sb_.InputError, match="belongs to another run"):
        sb_.run(clipped, ["ddim"], steps=[2], n=2, output=tmp_path / "run")


# Cells that fail


@pytest.fixture
def drawn(monkeypatch):
    """The samplers of all chunks that are drawn."""
    made = []
    inner = harness.make_chunk

    def counted(plan, cell, *arguments):
        made.append(cell.sampler)
        return inner(plan, cell, *arguments)

    monkeypatch.setattr(harness, "make_chunk", counted)
    return made


def test_a_failed_cell_stays_failed_until_it_is_retried(stored, copy, drawn):
    again = finished(PLAN, copy)
    assert drawn == []
    assert again.failed == 1
    same_table(again.table, stored.table)
    (failure,) = (copy / "chunks").glob("*.failed.json")
    assert unseal_json(failure.read_bytes())["reason"] == "RuntimeError: the second block"
    retried = finished(PLAN, copy, retry_failed=True)
    assert drawn == ["late"]
    same_table(retried.table, stored.table)


MOODY = """
from dataclasses import dataclass
from pathlib import Path
from samplerbench import hookimpl
from samplerbench.plugins.samplers.ddim import DDIM

@dataclass(frozen=True)
class Moody(DDIM):
    def step(self, run, x, a, b, past):
        if Path("broken").exists():
            raise RuntimeError("broken")
        return super().step(run, x, a, b, past)

@hookimpl
def samplerbench_samplers():
    return {"moody": Moody}
"""


def test_a_cell_that_fails_no_more_is_whole_when_retried(sb, tmp_path):
    (tmp_path / "mine.py").write_text(MOODY)
    run = ("run", "--plugin", "mine.py", "--model", "mixture", "-s", "moody", "--steps", 2, "-n", 2, "-o", "here")
    (tmp_path / "broken").touch()
    assert sb(*run).code == 1
    (tmp_path / "broken").unlink()
    failed = sb(*run, "--json")
    assert failed.err.startswith("here: 1 cell failed before; --retry-failed runs them again\n")
    assert (failed.code, json.loads(failed.out)["table"][0]["status"]) == (1, "failed: RuntimeError: broken")
    done = sb(*run, "--retry-failed", "--json")
    assert (done.code, json.loads(done.out)["table"][0]["status"]) == (0, "ok")
    assert sb(*run).code == 0
    assert not list((tmp_path / "here" / "chunks").glob("*.failed.json"))


def test_the_failure_of_a_sampler_is_not_that_of_its_edited_self(stored, copy, drawn):
    edited = dataclasses.replace(
        PLAN, cells=(PLAN.cells[0], dataclasses.replace(PLAN.cells[1], key="f" * 64), PLAN.cells[2])
    )
    assert begin(edited, REGISTRY, copy.parent / "other").failures == {}
    folder = RunFolder(copy)
    assert list(folder.failures(PLAN)) == [PLAN.cells[1].key]
    assert folder.failures(edited) == {}


def test_work_that_failed_is_not_announced_again(copy):
    class Count(Watch):
        todo = None

        def started(self, plan, todo):
            self.todo = todo

        def remaining(self, images):
            self.images = images

    count = Count()
    finished(PLAN, copy, count)
    assert count.todo == 0
    assert count.images == {PLAN.cells[0].key: 0, PLAN.cells[2].key: 0}


# Crashes


CRASHED = plan_of("ddpm", "late")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The table of a run of CRASHED that nothing stops, and its steps on the disk."""
    root = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, root)
        return finished(CRASHED, root / "run").table, disk.calls


@pytest.mark.parametrize(("powered", "every"), [
    pytest.param(True, 17, id="killed"), pytest.param(True, 1, id="killed at every step", marks=pytest.mark.slow),
    pytest.param(False, 1, id="power cut", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_crash_at_any_step_loses_no_chunk_that_was_stored(unbroken, tmp_path, monkeypatch, powered, every):
    table, calls = unbroken
    disk = Disk(monkeypatch, tmp_path / "nowhere")
    acknowledged = []
    inner = RunFolder.put

    def write(folder, cell, block, chunk):
        inner(folder, cell, block, chunk)
        acknowledged.append(folder.chunk_path(cell, block))

    monkeypatch.setattr(RunFolder, "put", write)
    crashed, points = 0, range(0, len(calls), every)
    for point in points:
        folder = tmp_path / str(point) / "run"
        folder.parent.mkdir()
        disk.root = folder.parent
        acknowledged.clear()
        disk.calls, disk.fail_at, disk.error = [], point, Crash
        try:
            finished(CRASHED, folder)
        except Crash:
            crashed += 1
        if not powered:
            disk.power_cut()
        before = {path: path.read_bytes() for path in acknowledged}
        disk.fail_at = None
        same_table(finished(CRASHED, folder).table, table)
        assert all(path.read_bytes() == content for path, content in before.items())
    assert crashed > len(points) / 2


def test_a_chunk_counts_once_file_and_folder_are_on_the_disk(unbroken):
    key = CRASHED.cells[0].key[:16]
    name = "00000000-0064.safetensors"
    _, calls = unbroken
    first = calls.index(("mkdir", key))
    assert calls[first : first + 6] == [
        ("mkdir", key), ("fsync", "chunks"),
        ("write", f".{name}.tmp"), ("fsync", f".{name}.tmp"), ("replace", name), ("fsync", key),
    ]  # fmt: skip


# The disk


def full():
    """What the system says."""
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("every", [23, pytest.param(3, marks=pytest.mark.slow)])
def test_a_full_disk_is_exit_code_5_and_what_was_stored_is_there(sb, unbroken, tmp_path, monkeypatch, every):
    table, calls = unbroken
    run = ("run", "--plugin", TOY, "--model", "mixture", "-s", "ddpm", "-s", "late", "--steps", 2, "-n", 66, "-o")
    disk = Disk(monkeypatch, tmp_path / "nowhere")
    for point in range(0, len(calls), every):
        folder = tmp_path / str(point) / "run"
        folder.parent.mkdir()
        disk.root = folder.parent
        disk.calls, disk.fail_at, disk.error = [], point, full
        done = sb(*run, folder)
        assert done.code == 5
        assert "cannot be written (No space left on device); what was stored before is intact: make room" in done.err
        assert done.err.splitlines()[-1].startswith("Error: ")
        assert "Traceback" not in done.err
        before = chunks_in(folder) if (folder / "chunks").exists() else {}
        assert not list(folder.rglob("*.tmp"))
        disk.fail_at = None
        same_table(finished(CRASHED, folder).table, table)
        assert before.items() <= chunks_in(folder).items()


def test_a_folder_that_may_not_be_written_is_exit_code_5(sb, copy, monkeypatch):
    before = chunks_in(copy)

    def read_only(path, flags, *mode, inner=os.open):
        if flags & (os.O_WRONLY | os.O_RDWR) and Path(path).is_relative_to(copy):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return inner(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(sb_.StoreError, match="cannot be written") as caught:
        finished(PLAN, copy)
    assert caught.value.exit_code == 5
    assert chunks_in(copy) == before
    assert sb("table", copy).code == 0


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_folder_deleted_in_the_middle_is_a_store_error_and_stays_deleted(tmp_path, after):
    class Delete(Watch):
        left = after

        def advanced(self, evaluations):
            self.left -= 1
            if self.left < 0:
                shutil.rmtree(tmp_path / "run", ignore_errors=True)

    with pytest.raises(sb_.StoreError, match=r"cannot be (read|written)|damaged"):
        finished(PLAN, tmp_path / "run", Delete())
    assert not (tmp_path / "run").exists()


# Damage


def damages(content):
    """The content cut, and with a bit of a byte flipped, at many places."""
    step = max(1, len(content) // 60)
    for i in range(0, len(content), step):
        yield content[:i]
        for bit in (0, 4):
            flipped = bytearray(content)
            flipped[i] ^= 1 << bit
            yield bytes(flipped)


def refusals(path, read):
    """How many damaged forms of a file are refused; any error but a StoreError that names the file comes through."""
    content = path.read_bytes()
    refused = 0
    for damaged in damages(content):
        path.write_bytes(damaged)
        try:
            read()
        except sb_.StoreError as error:
            assert path.name in str(error)  # noqa: PT017  (in a loop)
            refused += 1
    path.write_bytes(content)
    return refused / sum(1 for _ in damages(content))


def test_a_damaged_run_file_opens_or_is_refused(copy):
    assert refusals(copy / "run.json", lambda: read_run(copy)) > 0.95


@pytest.fixture
def impatient():
    """A reader that waits for ever is an error after seconds."""

    def stop(number, frame):
        raise AssertionError("still waiting")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", ["run.json", "table.csv", "chunks/{key}/00000000-0064.safetensors",
                                  "chunks/ode-reference.safetensors", "chunks/{failed}.failed.json"])  # fmt: skip
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_in_place_of_a_file_is_refused(sb, copy, impatient, name, make):
    victim = copy / name.format(key=PLAN.cells[0].key[:16], failed=PLAN.cells[1].key[:16])
    victim.unlink()
    make(victim)
    if name == "run.json":
        sb("table", copy).refused(5, f"{victim}: damaged (a folder, pipe or device; expected a file)")
    elif name == "table.csv":
        sb("table", copy).refused(5, "table.csv: damaged (a folder, pipe or device")
        return
    with pytest.raises(sb_.StoreError, match=f"{victim.name}: damaged .a folder, pipe or device"):
        finished(PLAN, copy)


@pytest.mark.parametrize("name", [ANSWERS, FRONTS])
def test_a_pipe_in_place_of_what_is_kept_for_the_page_is_passed_over(rich, impatient, tmp_path, name):
    copy = Path(shutil.copytree(rich[1], tmp_path / "copy"))
    (copy / name).unlink()
    os.mkfifo(copy / name)
    write_report(StoredRun(copy))


def test_a_damaged_failure_opens_or_is_refused(copy):
    (path,) = (copy / "chunks").glob("*.failed.json")
    assert refusals(path, lambda: RunFolder(copy).failures(PLAN)) > 0.9


def markdown_of(run):
    """table.md of a run, made again."""
    return table_to_markdown(run.table, run.labels)


def test_a_damaged_table_opens_or_is_refused(copy):
    assert refusals(copy / "table.csv", lambda: markdown_of(StoredRun(copy))) > 0.05


def test_a_chunk_that_was_moved_to_another_cell_is_refused(copy):
    folder = RunFolder(copy)
    ddpm, _, ddim = PLAN.cells
    block = PLAN.blocks[0]
    shutil.copy(folder.chunk_path(ddpm, block), folder.chunk_path(ddim, block))
    with pytest.raises(sb_.StoreError, match=f"its cell is {ddpm.key[:16]}, and {ddim.key[:16]} belongs here; delete"):
        folder.read(ddim, block)


@pytest.fixture(scope="module")
def clocked(tmp_path_factory):
    """A finished run of three whole blocks, with repeats and paths; its plan and its folder."""
    plan = plan_of("ddim", "ddpm", model="toy", samples=192)
    return plan, finished(plan, tmp_path_factory.mktemp("clocked") / "run", repeats=5).folder


@pytest.fixture
def again(clocked, tmp_path):
    """Its plan and a copy of it."""
    plan, folder = clocked
    return plan, Path(shutil.copytree(folder, tmp_path / "again"))


ASKING = [
    ("table", "--compare", "ddim", "ddpm"), ("table", "--nfe", "2"), ("verify", "--chunks", "99"),
    ("run", "--model", "toy", "-s", "ddim", "-s", "ddpm", "--steps", "2", "-n", "192", "--repeats", "5", "-o"),
]  # fmt: skip


@pytest.mark.parametrize("command", ASKING, ids=lambda command: " ".join(command[:2]))
def test_a_chunk_under_another_name_within_its_cell_is_refused(sb, again, command):
    plan, folder = again
    cell = RunFolder(folder).cell_path(plan.cells[0].key)
    shutil.copy(cell / "00000000-0064.safetensors", cell / "00000064-0064.safetensors")
    done = sb(*command[:1], *command[1:], folder, "--plugin", TOY)
    assert done.code == 5
    assert (
        "00000064-0064.safetensors: its first sample is 0, and 64 belongs here; delete the file" in done.out + done.err
    )
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("name", "words"), [
    ("00000192-0064.safetensors", None), ("00000000-0032.safetensors", "hold the same samples; delete the one"),
    ("00000032-0064.safetensors", "hold the same samples"),
])  # fmt: skip
def test_a_chunk_beyond_or_across_those_of_the_run_counts_no_sample_twice(sb, again, name, words):
    plan, folder = again
    for cell in plan.cells:
        path = RunFolder(folder).cell_path(cell.key)
        shutil.copy(path / "00000000-0064.safetensors", path / name)
    done = sb("table", folder, "--compare", "ddim", "ddpm", "--plugin", TOY)
    assert done.code == 5
    assert (words or "its first sample is 0, and 192 belongs here") in done.err


@pytest.mark.parametrize("name", [
    "backup.safetensors", "00000064-0064 (copy).safetensors", "000000000-0064.safetensors", "64-64.safetensors",
    "spare.timing", "00001.timing",
])  # fmt: skip
def test_files_of_other_names_are_nothing_to_a_run(sb, clocked, again, name):
    plan, folder = again
    cell = RunFolder(folder).cell_path(plan.cells[0].key)
    shutil.copy(cell / f"{'0000' if name.endswith('.timing') else '00000000-0064'}{Path(name).suffix}", cell / name)
    command = ("table", "--compare", "ddim", "ddpm", "--plugin", TOY)
    assert sb(*command, folder).out == sb(*command, clocked[1]).out
    assert RunFolder(folder).repeats_of(plan.cells[0].key) == RunFolder(clocked[1]).repeats_of(plan.cells[0].key)


@pytest.mark.parametrize(("source", "target", "words"), [
    ("{a}/0000.timing", "{a}/0001.timing", "its number is 0, and 1 belongs here"),
    ("{a}/0000.timing", "{b}/0000.timing", "its cell is {a}, and {b} belongs here"),
    ("{a}/00000000-0064.safetensors", "{b}/00000000-0064.safetensors", "its cell is {a}, and {b} belongs here"),
])  # fmt: skip
def test_a_copy_of_a_repeat_or_of_a_chunk_is_refused(again, source, target, words):
    plan, folder = again
    keys = dict(zip("ab", (cell.key[:16] for cell in plan.cells), strict=True))
    shutil.copy(folder / "chunks" / source.format(**keys), folder / "chunks" / target.format(**keys))
    with pytest.raises(sb_.StoreError, match=words.format(**keys)):
        finished(plan, folder, repeats=5)


def test_a_copy_of_a_path_is_refused(sb, again):
    plan, folder = again
    a, b = (folder / PATHS / f"{cell.key[:16]}.safetensors" for cell in plan.cells)
    shutil.copy(a, b)
    sb("report", folder, "--plugin", TOY).refused(5, f"{b.name}: its cell is {a.stem}, and {b.stem} belongs here")


def test_a_copy_of_a_failure_is_refused(copy):
    (failure,) = (copy / "chunks").glob("*.failed.json")
    shutil.copy(failure, RunFolder(copy).failure_path(PLAN.cells[0].key))
    with pytest.raises(
        sb_.StoreError, match=f"its cell is {PLAN.cells[1].key[:16]}, and {PLAN.cells[0].key[:16]} belongs"
    ):
        begin(PLAN, REGISTRY, copy)


def test_an_ode_solution_of_another_run_is_refused(sb, copy, tmp_path):
    other = plan_of("ddpm", "late", "ddim", seed=1)
    assert other.reference_key != PLAN.reference_key
    shutil.copy(finished(other, tmp_path / "other").folder / REFERENCE, copy / REFERENCE)
    shutil.rmtree(RunFolder(copy).cell_path(PLAN.cells[2].key))
    with pytest.raises(sb_.StoreError, match=r"ode-reference\.safetensors: its ODE solution is"):
        finished(PLAN, copy)
    sb("verify", copy, "--plugin", TOY).refused(5, "its ODE solution is", f"{PLAN.reference_key[:16]} belongs here")


def test_a_chunk_of_another_format_is_refused(copy):
    folder, cell, block = RunFolder(copy), PLAN.cells[0], PLAN.blocks[0]
    path = folder.chunk_path(cell, block)
    arrays, about = bytes_to_arrays(path.read_bytes())
    path.write_bytes(arrays_to_bytes(arrays, {**about, "format": "1"}))
    with pytest.raises(sb_.StoreError, match="its format is 1, and 2 belongs here"):
        folder.read(cell, block)


# The table


SHOWING = [
    ["table"],
    ["table", "--json"],
    ["table", "--pareto", "--against", "nfe"],
    ["report"],
    ["table", "--nfe", "2"],
]


@pytest.mark.parametrize("has_chunks", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", thinned(SHOWING, ["table"], ["report"]), ids=" ".join)
def test_a_table_that_was_edited_is_refused_and_made_again(sb, clocked, again, command, has_chunks):
    plan, folder = again
    content = (folder / "table.csv").read_text()
    value = str(StoredRun(folder).table["fid"][0])
    assert value in content
    (folder / "table.csv").write_text(content.replace(value, "0.1"))
    if not has_chunks:
        shutil.rmtree(folder / "chunks")
    sb(*command[:1], folder, *command[1:], "--plugin", TOY).refused(
        5, "table.csv: damaged (its content is not what was written); give the run's command again, which makes it from"
    )
    finished(plan, folder)
    same_table(StoredRun(folder).table.drop(columns="status"), StoredRun(clocked[1]).table.drop(columns="status"))


def test_a_table_without_its_seal_is_refused(sb, copy):
    (copy / "table.seal").unlink()
    sb("table", copy).refused(5, "table.csv: damaged (table.seal is missing)")


def test_a_folder_that_is_passed_on_without_its_chunks_has_its_table(sb, copy):
    before = sb("table", copy).out
    for name in ("report.html", "table.md"):
        (copy / name).unlink()
    shutil.rmtree(copy / "chunks")
    done = sb("table", copy)
    assert (done.code, done.out) == (0, before)


def test_a_table_is_a_plain_file_of_the_fixed_columns(stored):
    with (stored.folder / "table.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == list(stored.table.columns)
    assert {len(row) for row in rows} == {len(header)}
    assert len(rows) == len(stored.table)


def test_a_table_that_a_crash_cuts_off_from_its_seal_is_the_one_before(copy, stored, monkeypatch):
    """The seal is written first, of both tables; what is there is one of them at every moment."""
    before, table = (copy / "table.csv").read_bytes(), StoredRun(copy).table
    keys = [cell.key for cell in PLAN.cells]
    changed = table.assign(seconds_per_image=2 * table["seconds_per_image"])
    with monkeypatch.context() as patch:
        disk = Disk(patch, copy)
        for point in range(8):
            disk.calls, disk.fail_at, disk.error = [], point, Crash
            with pytest.raises(Crash):
                write_sealed_table(RunFolder(copy), changed, keys)
            assert (copy / "table.csv").read_bytes() == before or point > 6
            same_table(StoredRun(copy).table, table)
        assert disk.calls[-1] == ("replace", "table.csv")
    write_sealed_table(RunFolder(copy), changed, keys)
    pd.testing.assert_frame_equal(StoredRun(copy).table, changed)


def test_an_edited_table_is_not_sealed_by_the_next(copy):
    table = StoredRun(copy).table
    edited = (copy / "table.csv").read_bytes().replace(b"ddim", b"mine", 1)
    (copy / "table.csv").write_bytes(edited)
    write_sealed_table(RunFolder(copy), table.assign(samples=1), [cell.key for cell in PLAN.cells])
    (copy / "table.csv").write_bytes(edited)
    with pytest.raises(sb_.StoreError, match="not what was written"):
        StoredRun(copy).table  # noqa: B018  (which reads it)


def test_the_row_of_a_cell_that_was_edited_since_is_pending(copy):
    edited = dataclasses.replace(PLAN, cells=(dataclasses.replace(PLAN.cells[0], key="e" * 64), *PLAN.cells[1:]))
    session = begin(edited, REGISTRY, copy)
    table = StoredRun(copy).table
    assert list(table["status"].str.partition(":")[0]) == ["pending", "failed", "ok"]
    assert (table["samples"][0], table["sampler"][0]) == (0, "ddpm")
    assert table[["ode_error", "seconds_per_image"]].iloc[0].isna().all()
    session.folder.close()


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("nfe", float("inf"), "nfe inf: expected a finite number from 0"),
        ("nfe", -1.0, "nfe -1: expected a finite number from 0"),
        ("nfe", 1e300, "nfe 1e+300: expected"),
        ("seconds_per_image", 0.0, "seconds_per_image 0: expected a finite number above 0"),
        ("seconds_low", -1.0, "seconds_low -1: expected a finite number above 0"),
        ("steps", -3, "steps -3: expected a whole number from 1"),
        ("steps", 0, "steps 0: expected"),
        ("samples", 1.5, "samples 1.5: expected a whole number from 0"),
        ("samples", -1, "samples -1: expected"),
        ("fid", float("inf"), "fid inf: expected a finite number"),
        ("fid", "low", "fid: expected numbers"),
        ("overhead", float("-inf"), "overhead -inf: expected"),
        ("repeats", -1, "repeats -1: expected"),
        ("guidance", None, "a row has no guidance"),
        ("status", None, "a row has no status"),
        ("status", "fine", "status 'fine': expected ok, partial, pending or failed: a reason"),
        ("sampler", "mine", "the row 'mine', uniform, 2 steps is not that of its cell"),
    ],
)  # fmt: skip
def test_a_table_with_what_no_run_writes_is_refused(copy, column, value, words):
    table = StoredRun(copy).table
    keys = [cell.key for cell in PLAN.cells]
    write_sealed_table(RunFolder(copy), table.assign(**{column: pd.Series([value] * 3)}), keys)
    with pytest.raises(sb_.StoreError, match=f"table.csv: damaged .{re.escape(words)}"):
        StoredRun(copy).table  # noqa: B018  (which reads it)


@pytest.mark.parametrize("column", ["fid", "status", "samples", "ode_error"])
def test_a_table_without_one_of_its_columns_is_refused_by_name(copy, column):
    table = StoredRun(copy).table
    write_sealed_table(RunFolder(copy), table.drop(columns=column), [cell.key for cell in PLAN.cells])
    with pytest.raises(sb_.StoreError, match=f"damaged .the column {column} is missing"):
        StoredRun(copy).table  # noqa: B018  (which reads it)


# run.json


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extractors": []}, "extractors: expected object, got array"),
        ({"cells__1": False}, "cells[1]: expected object, got bool"),
        ({"cells__1__key": "../x"}, "cells[1].key: expected str matching"),
        ({"cells__0__steps": 0}, "cells[0].steps: expected int >= 1"),
        ({"cells": []}, "cells: expected array of length >= 1"),
        ({"config__nfe": 5}, "config.nfe: expected array, got int"),
        ({"config__steps": [2, 2]}, "config: steps 2,2: a number is given twice"),
        ({"config__sampler": ["ddpm"]}, "cells are not those of 1 samplers"),
        ({"config__steps": [3]}, "the steps of cells are not those of config.steps"),
        ({"config__guidance": "much"}, "config.guidance: expected float | array, got str"),
        ({"environment__threads": 2**63}, "environment.threads: expected int <= 4096"),
        ({"environment__threads": True}, "environment.threads: expected int, got bool"),
        ({"environment__versions__torch": 2}, "environment.versions[...]: expected str, got int"),
        ({"environment": None}, "environment: expected object, got null"),
        ({"model": "toy"}, "model: expected object, got str"),
        ({"plan": "0"}, "plan: expected str matching"),
        ({"plugins": "toy.py"}, "plugins: expected array, got str"),
        ({"command": 1}, "command: expected str, got int"),
        ({"added": [{"command": "", "rows": 3}]}, "added.rows is not below the number of cells, 3"),
    ],
)  # fmt: skip
def test_a_run_file_is_refused_with_the_field_that_is_not_what_it_should_be(sb, copy, edited, changes, words):
    edited(copy, **changes)
    sb("table", copy).refused(5, f"run.json: damaged ({words}", "put back a copy of run.json")


@pytest.mark.parametrize("command", [("report",), ("verify",), ("table", "--compare", "ddim", "ddpm")], ids=" ".join)
def test_every_command_refuses_a_run_file_with_a_field_that_is_not_what_it_should_be(sb, copy, edited, command):
    edited(copy, cells=[])
    sb(*command[:1], copy, *command[1:]).refused(
        5, "run.json: damaged (cells: expected array of length >= 1", "put back a copy of run.json"
    )


@pytest.mark.parametrize(
    "field", ["plan", "config", "command", "plugins", "model", "extractors", "environment", "cells"]
)
def test_a_run_file_without_one_of_its_fields_is_refused_by_name(copy, field):
    content = json.loads((copy / "run.json").read_text())
    del content["sha256"], content[field]
    (copy / "run.json").write_bytes(seal_json(json.dumps(content)))
    with pytest.raises(sb_.StoreError, match=rf"run\.json: damaged .object missing required field {field}"):
        read_run(copy)


def test_a_run_file_without_a_setting_or_a_seal_is_refused(copy):
    content = json.loads((copy / "run.json").read_text())
    del content["sha256"]
    (copy / "run.json").write_text(json.dumps(content))
    with pytest.raises(sb_.StoreError, match="its seal is missing"):
        read_run(copy)
    del content["config"]["seed"]
    (copy / "run.json").write_bytes(seal_json(json.dumps(content)))
    with pytest.raises(sb_.StoreError, match=r"config\.seed is missing"):
        read_run(copy)


def test_a_run_file_is_the_record_that_is_read(copy, stored):
    record, content = read_run(copy), json.loads((copy / "run.json").read_text())
    assert record.config == PLAN.config
    assert [(c.sampler, c.grid, c.steps, c.nfe, c.key) for c in record.cells] == [
        tuple(c.values()) for c in content["cells"]
    ]
    assert list(content) == [
        "format", "plan", "config", "command", "plugins", "model", "extractors", "environment", "stages", "cells",
        "sha256",
    ]  # fmt: skip


def test_a_whole_number_is_the_same_guidance_as_the_float(tmp_path):
    plans = [plan_of("ddim", model="toy", guidance=guidance) for guidance in (2, 2.0)]
    assert plans[0].key == plans[1].key
    finished(plans[0], tmp_path / "run")
    assert read_run(tmp_path / "run").config == plans[1].config


def test_a_run_file_of_another_format_is_refused_with_what_to_do(sb, copy):
    content = {**json.loads((copy / "run.json").read_text()), "format": 7}
    content["environment"]["versions"]["samplerbench"] = "7.0"
    (copy / "run.json").write_text(json.dumps(content))
    before = chunks_in(copy)
    for command in (("table",), ("run", "--model", "mixture", "-o")):
        if command[0] == "run":
            sb(*command, copy).refused(5, "format 7", "reads 2", "use samplerbench 7.0", "another -o")
    with pytest.raises(sb_.StoreError, match=r"use samplerbench 7\.0"):
        StoredRun(copy).table  # noqa: B018  (which reads it)
    assert chunks_in(copy) == before


def test_a_damaged_run_can_be_started_again(stored, copy):
    (copy / "run.json").write_bytes(b"{")
    same_table(finished(PLAN, copy, fresh=True).table, stored.table)


def test_a_seal_tells_another_content():
    content = seal_json(json.dumps({"a": [1, {"b": "}"}]}, indent=1))
    assert unseal_json(content)["a"] == [1, {"b": "}"}]
    with pytest.raises(ValueError, match="not what was written"):
        unseal_json(content.replace(b"1", b"2", 1))
    with pytest.raises(ValueError, match="its seal is missing"):
        unseal_json(b'{"a": 1}')


def test_a_chunk_is_read_as_safetensors_reads_it(copy):
    path = RunFolder(copy).chunk_path(PLAN.cells[0], PLAN.blocks[1])
    arrays, about = RunFolder(copy).read_arrays(path)
    with safe_open(path, framework="numpy") as file:
        assert {**about, "sha256": content_hash(arrays, about)} == file.metadata()
        assert arrays.keys() == set(file.keys())
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, file.get_tensor(name), strict=True)


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3).T, np.zeros((0, 3)), np.float32(2.5) * np.ones(()), np.array([True, False])]
)
def test_the_hash_of_a_content_is_that_of_its_bytes_in_rows(array):
    """Chunks of earlier versions are held to it."""
    whole = hashlib.sha256(b'[["a", "b"]]')
    whole.update(f"x {array.dtype} {array.shape}".encode() + array.tobytes())
    assert content_hash({"x": array}, {"a": "b"}) == whole.hexdigest()


# The table as it grows


def from_nothing(session):
    """The table of a session that no earlier one helps to make."""
    return GrowingTable(session.plan, session.folder, session.ready).table(session.failures)


def test_a_growing_table_is_that_of_the_folder_and_reads_each_chunk_once(tmp_path, monkeypatch):
    plan = plan_of("ddim", "ddpm", "late", model="toy", samples=150)
    read = []
    inner = RunFolder.read

    def counted(folder, cell, block):
        read.append((cell.sampler, block.number))
        return inner(folder, cell, block)

    class Look(Watch):
        def failed(self, cell, reason, evaluations):
            self.advanced(evaluations)

        def advanced(self, evaluations):
            if session.folder.has(plan.cells[0], plan.blocks[0]):
                read.clear()
                tables.append((growing.table(session.failures), list(read)))
                expected.append(from_nothing(session))

    session = begin(plan, REGISTRY, tmp_path / "run")
    growing = GrowingTable(plan, session.folder, session.ready)
    tables, expected = [], []
    monkeypatch.setattr(RunFolder, "read", counted)
    session.work(Look())
    for (table, _), right in zip(tables, expected, strict=True):
        pd.testing.assert_frame_equal(table, right, check_exact=True)
    grown = [place for _, places in tables for place in places]
    assert len(set(grown)) == len(grown)
    assert len(grown) == 2 * 3 + 2  # the third of late failed
    session.conclude()


def test_a_repeat_for_the_clock_measures_no_cell_again(tmp_path, monkeypatch):
    plan = plan_of("ddim", "ddpm", model="toy")
    session = begin(plan, REGISTRY, tmp_path / "run")
    session.work(Watch())
    before = session.growing.table({})
    measured, timed, inner = [], [], timing.clock_columns
    monkeypatch.setattr("samplerbench.bench.judge.table.estimates", measured.append)
    monkeypatch.setattr(timing, "clock_columns", lambda repeats: timed.append(repeats) or inner(repeats))
    session.folder.write_repeat(plan.cells[1], session.folder.read(plan.cells[1], plan.blocks[0]).repeat)
    after = session.growing.table({})
    assert measured == []
    assert [len(repeats) for repeats in timed] == [3]
    assert (list(before["repeats"]), list(after["repeats"])) == ([1, 1], [1, 2])
    monkeypatch.undo()
    pd.testing.assert_frame_equal(after, from_nothing(session), check_exact=True)
    session.conclude()


def test_the_estimates_are_those_of_rows_that_have_samples(tmp_path):
    plan = plan_of("ddim", "ddpm", model="toy")
    session = begin(plan, REGISTRY, tmp_path / "run")
    session.work(Watch())
    assert list(session.growing.table({})["samples"]) == [66, 66]
    assert list(session.growing.estimates()) == [0, 1]
    assert list(session.growing.table({plan.cells[0].key: "tired"})["samples"]) == [0, 66]
    assert list(session.growing.estimates()) == [1]
    session.folder.close()


def test_a_picture_drawn_again_reads_one_chunk_of_each_cell(rich, monkeypatch):
    read, inner = [], RunFolder.read_at
    monkeypatch.setattr(RunFolder, "read_at", lambda folder, *place: read.append(place) or inner(folder, *place))
    plan, folder = rich
    with Image.open(folder / "grid.png") as stored:
        assert redraw(StoredRun(folder)).size == stored.size
    assert read == [(cell.key, (0, 64)) for cell in plan.cells]


def test_the_answers_of_a_run_are_of_the_estimates_of_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr("samplerbench.bench.judge.ranking.estimates", None)  # nothing is measured a second time
    plan = plan_of("ddim", "late", "ddpm", model="toy")
    result = finished(plan, tmp_path / "run")
    monkeypatch.undo()
    run = StoredRun(result.folder)
    ready = yardsticks(plan.config.metric, REGISTRY.metrics.things, plan.model, plan.config.samples)
    stored = read_answers(run)
    assert [answer.metric for answer in stored] == ["fid", "clip_score", "fid_unbiased", "ode_error", "ode_distance"]
    assert stored == answers_for(run, ready)


def test_what_is_too_much_to_remember_is_read_again(stored, copy, monkeypatch):
    monkeypatch.setattr("samplerbench.bench.judge.table.REMEMBERED_BYTES", 0)
    session = begin(PLAN, REGISTRY, copy)
    growing = GrowingTable(PLAN, session.folder, session.ready)
    for _ in range(2):
        pd.testing.assert_frame_equal(growing.table(session.failures), from_nothing(session))
    session.conclude()


def test_a_table_that_takes_long_is_renewed_less_often():
    assert next_renewal(100.0, 100.1) == 110.1
    due = next_renewal(100.0, 104.0)
    assert 4.0 / (due - 100.0) == pytest.approx(0.05)


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_loses_nothing(figure):
    command = [sys.executable, str(Path(__file__).parents[1] / "tools" / "kill.py"), "--points", "25"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" 0 lost, 0 tables differ, 0 other faults\n")
    figure("runs killed with SIGKILL at random moments and resumed", done.stdout.strip())

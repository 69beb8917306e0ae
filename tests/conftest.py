"""What holds for every test, and the command line as a test sees it."""

import gc
import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tiny_diffusers
from samplerbench.bench import cli
from samplerbench.bench.cli import loading
from samplerbench.bench.draw import session
from samplerbench.bench.draw.sealed_file import seal_json
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.judge.table import write_sealed_table
from samplerbench.bench.show import doing
from samplerbench.samplers import process, registry

# The models of the tests are small: a second thread would only wait for the first, here and in child processes.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# A child process takes seconds to start: what is not about children draws the samplers of others in this process.
os.environ["SAMPLERBENCH_IN_PROCESS"] = "1"

# To look, around each call of a plugin, whether one of 18,000 names stands for another function by now takes a quarter
# of a small run. The tests of that, and some whole runs, turn it on again: `functions_watched`.
WATCHING = {name: getattr(process, name) for name in ("functions_now", "put_back_functions")}
process.functions_now, process.put_back_functions = lambda: None, lambda _: []

# Each command asks all installed packages for plugins, which is a tenth of what a short one does: they are asked again
# only where a test has installed one.
ENTRY_POINTS = importlib.metadata.entry_points
_found = {}


def entry_points(**which):
    """What importlib.metadata finds, kept as long as the folders of packages stay as they are."""
    folders = tuple((folder, Path(folder).stat().st_mtime_ns) for folder in sys.path if Path(folder).is_dir())
    asked = (folders, *which.items())
    if asked not in _found:
        _found[asked] = ENTRY_POINTS(**which)
    return _found[asked]


importlib.metadata.entry_points = entry_points

# What waits for the disk shows in no test, and may take longer than what it writes.
os.fsync = lambda _: None

# On a busy machine any plugin takes long to load, and the note of that would stand among the lines that a test expects.
registry.SLOW_SECONDS = 600.0


def pytest_pycollect_makemodule():
    """Keep the search for garbage from looking, again and again, through modules and tests that live to the end."""
    gc.disable()


def pytest_collection_finish():
    """From here on it looks through what the tests make, and through nothing else."""
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item):
    """Skip what needs a GPU where there is none."""
    if "gpu" in item.keywords and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


NEVER = 1e6
"""Seconds: a slow machine says more and makes tables between, which is no matter of the tests."""
session.FIRST_TABLE_SECONDS = NEVER


class Outcome:
    """What a command gave back."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def refused(self, code, *words):
        """Assert one line of error with these words, and this exit code."""
        assert self.code == code, self.err
        assert self.err.startswith("Error: ")
        assert self.err.count("\n") == 1, self.err
        assert self.err.endswith("\n")
        assert self.err[:-1].isprintable()
        assert not self.out
        for word in words:
            assert word in self.err, self.err


@pytest.fixture
def sb(monkeypatch, capsys, tmp_path):
    """Run the program in this process, in an empty folder; any exception but SystemExit is a traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doing, "PATIENCE", NEVER)
    monkeypatch.setattr(loading, "PATIENCE", NEVER)
    threads = torch.get_num_threads()

    def invoke(*arguments, env=None):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["samplerbench", *map(str, arguments)])
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as stopped:
                cli.main()
        out, err = capsys.readouterr()
        return Outcome(stopped.value.code, out, err)

    yield invoke
    torch.set_num_threads(threads)


@pytest.fixture
def functions_watched(monkeypatch):
    """Name and put back each function that a plugin replaces, as outside the tests."""
    for name, function in WATCHING.items():
        monkeypatch.setattr(process, name, function)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """Kind -> the folder of a tiny diffusers model, made when it is first asked for; a test spoils a copy only."""
    return tiny_diffusers.made_on_demand(tmp_path_factory.mktemp("models"))


@pytest.fixture
def figure(record_property):
    """Record what a test measured: a figure's name and its value, for `python tests/tools/figures.py`."""

    def record(name, value):
        record_property(name, value)
        print(f"{name}: {value}")

    return record


@pytest.fixture
def broken_plugin(tmp_path, monkeypatch):
    """Install a plugin that raises a RuntimeError of these words when it is loaded; its name is broken_by_test."""

    def install(words):
        (tmp_path / "broken_by_test.py").write_text(f"raise RuntimeError({words!r})")
        monkeypatch.syspath_prepend(str(tmp_path))
        inner = importlib.metadata.entry_points
        broken = importlib.metadata.EntryPoint("broken", "broken_by_test", "samplerbench")
        monkeypatch.setattr(
            importlib.metadata,
            "entry_points",
            lambda **kw: [*inner(**kw), broken] if kw.get("group") == "samplerbench" else inner(**kw),
        )

    return install


@pytest.fixture
def edited():
    """Change entries of a folder's run.json, as if they had been written so; with __ in its name that of an entry."""

    def change(folder, **changes):
        about = json.loads((folder / "run.json").read_text())
        del about["sha256"]
        for path, value in changes.items():
            *outer, last = path.split("__")
            entry = about
            for name in outer:
                entry = entry[int(name) if isinstance(entry, list) else name]
            entry[int(last) if isinstance(entry, list) else last] = value
        (folder / "run.json").write_bytes(seal_json(json.dumps(about)))

    return change


@pytest.fixture
def stored_as(edited):
    """Store another table in a run folder, with cells and a seal that fit it, as if its run had made it."""

    def store(folder, table):
        about = json.loads((folder / "run.json").read_text())
        before = [about["cells"][i % len(about["cells"])] for i in range(len(table))]
        keys = [cell["key"] for cell in before]
        cells = [
            {**cell, "sampler": row.sampler, "grid": row.grid, "steps": int(row.steps)}
            for row, cell in zip(table.itertuples(), before, strict=True)
        ]
        samplers = list(dict.fromkeys(table["sampler"]))
        steps = [cell["steps"] for cell in cells if cell["sampler"] == samplers[0]]
        edited(folder, cells=cells, config__sampler=samplers, config__steps=steps)
        write_sealed_table(RunFolder(folder), table, keys)

    return store


@pytest.fixture
def follow(tmp_path, monkeypatch, capsys):
    """Carry out a command of a documentation page in an empty folder; returns the lines that it prints on stdout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))  # a busy machine has a caption of its own
    threads = torch.get_num_threads()

    def carry_out(command: str) -> list[str]:
        words = shlex.split(command)
        if words[0] == "samplerbench":
            monkeypatch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as stopped:
                cli.main()
            out, err = capsys.readouterr()
            assert stopped.value.code == (1 if "FAILS" in out else 0), err
            return out.splitlines()
        if words[0] == "pytest":
            command = shlex.join([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words[1:]])
        elif words[0] == "python":
            command = shlex.join([sys.executable, *words[1:]])
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    yield carry_out
    torch.set_num_threads(threads)

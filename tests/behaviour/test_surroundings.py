"""Where a program finds itself: no docstrings, few open files, a folder that is gone, streams, terminals and names."""

import errno
import fcntl
import os
import pty
import resource
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

import samplerbench as sb
from cases import thinned
from samplerbench.bench.plan import surroundings
from samplerbench.bench.plan.surroundings import FREE_FILES, docstrings_kept
from samplerbench.samplers.errors import StoreError
from samplerbench.samplers.files.lock import WriterLock

PROGRAM = "from samplerbench.bench.cli import main; main()"


def program(*arguments, cwd, flags=(), env=None, prepare=None, **settings):
    """Run the program as a user does, in a process that `prepare` was called in first."""
    command = [sys.executable, *flags, "-c", PROGRAM, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    given = {"capture_output": True, "timeout": 300, **settings}
    return subprocess.run(command, cwd=cwd, env=environment, preexec_fn=prepare, check=False, **given)


def refused(done, code, *words):
    """Assert one line of error with these words, and this exit code."""
    err = done.stderr.decode()
    assert done.returncode == code, err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1, err
    assert all(word in err for word in words), err
    assert done.stdout == b""


# A folder that is gone


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    """Before any library is loaded that would say so in its own words."""
    gone = tmp_path / "gone"
    gone.mkdir()

    def leave():
        os.chdir(gone)
        gone.rmdir()

    done = program("run", "--dry-run", cwd=tmp_path, prepare=leave)
    refused(done, 2, "current folder: is gone; change to one that is there, as in cd ~")
    gone.mkdir()
    assert program("run", "--help", cwd=tmp_path, prepare=leave).returncode == 0


def test_a_command_looks_at_its_surroundings_first(sb_in_gone_folder):
    for command in (("list",), ("table",), ("doctor", "--json"), ("check", "ddim"), ("train", "-o", "x")):
        sb_in_gone_folder(*command).refused(2, "current folder: is gone")
    assert sb_in_gone_folder("list", "--help").code == 0


@pytest.fixture
def sb_in_gone_folder(sb, tmp_path, monkeypatch):
    """The program, in a folder that is gone."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    return sb


# Few open files


def test_windows_is_refused_in_one_line(sb, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(StoreError, match=r"the system is Windows; expected Linux or macOS, as inside WSL"):
        WriterLock(tmp_path)
    sb("table").refused(2, "system: Windows; expected Linux or macOS, as inside WSL")
    assert not list(tmp_path.iterdir())


def test_too_few_open_files_are_one_line(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))

    done = program("run", "--model", "mixture", "-s", "ddim", "--steps", 2, "-n", 8, cwd=tmp_path, prepare=limit)
    refused(done, 5, "open files: Too many open files", f"room for {FREE_FILES} more, as after ulimit -n 256")
    assert list(tmp_path.iterdir()) == []


def test_room_for_files_is_tried_and_given_back(sb, monkeypatch):
    before = open_files()
    surroundings.check_surroundings()
    assert open_files() == before
    opened = []

    def refusing(*_):
        opened.append(os.dup(0))
        if len(opened) > 20:
            os.close(opened.pop())
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
        return opened[-1]

    monkeypatch.setattr(surroundings.os, "open", refusing)
    with pytest.raises(StoreError, match="open files: Too many open files in system"):
        surroundings.check_surroundings()
    assert open_files() == before


def open_files():
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files", "results/run.json"), "results/run.json: Too many open files"),
        (OSError(errno.ENFILE, "Too many open files in system"), "the system: Too many open files in system"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), "/tmp/x: No space left on device"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "the system: Resource temporarily"),
    ],
)
def test_what_a_machine_runs_out_of_in_the_midst_of_work_is_one_line(sb, monkeypatch, fault, said):
    def examine(*_):
        raise fault

    monkeypatch.setattr("samplerbench.bench.cli.diagnosis.examine", examine)
    sb("doctor").refused(5, said)


@pytest.mark.slow
def test_a_run_needs_no_more_files_than_are_asked_for(tmp_path):
    """With a sampler from outside the package, which runs in a child process, and with the report."""
    (tmp_path / "mine.py").write_text(MINE)

    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (FREE_FILES + 8, FREE_FILES + 8))

    env = {"SAMPLERBENCH_IN_PROCESS": "0"}
    run = ("run", "--model", "mixture", "-s", "mine", "--plugin", "mine.py", "--steps", 2, "-n", 8, "-o", "r")
    done = program(*run, cwd=tmp_path, prepare=limit, env=env)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "r" / "report.html").exists()


MINE = """
from samplerbench import hookimpl
from samplerbench.plugins.samplers.ddim import DDIM
class Mine(DDIM):
    pass
@hookimpl
def samplerbench_samplers():
    return {"mine": Mine}
"""


# No docstrings


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run to ask about."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    sb.run("mixture", ["ddim", "ddpm"], steps=[2], n=8, output=folder)
    return folder


def test_a_package_keeps_its_docstrings_where_the_others_lose_them(tmp_path):
    (tmp_path / "wordy").mkdir()
    (tmp_path / "wordy" / "__init__.py").write_text('"""Words."""\nfrom . import inner\nassert inner.__doc__\n')
    (tmp_path / "wordy" / "inner.py").write_text('"""More."""\nassert True\n')
    (tmp_path / "silent.py").write_text('"""None."""\n')
    script = (
        "from samplerbench.bench.plan.surroundings import docstrings_kept\n"
        "with docstrings_kept('wordy'):\n    import wordy, silent\n"
        "print(wordy.__doc__, wordy.inner.__doc__, silent.__doc__)\n"
    )
    done = subprocess.run([sys.executable, "-OO", "-c", script], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.split() == [b"Words.", b"More.", b"None"]
    before = list(sys.meta_path)
    with docstrings_kept("wordy"):
        assert sys.meta_path == before  # docstrings are there: nothing to do


EVERY_COMMAND = {
    "help": ("--help",),
    "help of run": ("run", "--help"),
    "samplers": ("list",),
    "samplers page": ("list", "samplers", "--markdown"),
    "grids page": ("list", "grids", "--markdown"),
    "metrics page": ("list", "metrics", "--markdown"),
    "commands page": ("list", "commands", "--markdown"),
    "models": ("list", "models", "--json"),
    "extractors": ("list", "extractors"),
    "data": ("list", "data"),
    "dry run": ("run", "--model", "mixture", "-s", "ddim", "--steps", "2", "--dry-run"),
    "run": ("run", "--model", "mixture", "-s", "mine", "--plugin", "mine.py", "--steps", "2", "-n", "8", "-o", "out"),
    "table": ("table", "RUN"),
    "compare": ("table", "RUN", "--compare", "ddim", "ddpm"),
    "pareto": ("table", "RUN", "--pareto", "--metric", "ode_error"),
    "latex": ("table", "RUN", "--format", "latex"),
    "report": ("report", "RUN"),
    "figures": ("report", "RUN", "--figures", "out"),
    "verify": ("verify", "RUN", "--chunks", "1"),
    "check": ("check", "ddim", "--quick"),
    "grid": ("grid", "-s", "ddim", "--steps", "1", "-x", "seed=0", "-o", "it.png"),
    "new-plugin": ("new-plugin", "mine2"),
    "doctor": ("doctor",),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_COMMAND)
def test_every_command_does_without_docstrings(tmp_path, stored, name):
    (tmp_path / "mine.py").write_text(MINE)
    arguments = [str(stored) if word == "RUN" else word for word in EVERY_COMMAND[name]]
    done = program(*arguments, cwd=tmp_path, flags=["-OO"], env={"SAMPLERBENCH_IN_PROCESS": "0"})
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert done.stdout


def test_help_does_without_docstrings(tmp_path):
    """A quick one of the above: torch compiles nothing again."""
    done = program("run", "--help", cwd=tmp_path, flags=["-OO"])
    assert done.returncode == 0
    assert b"--steps N,N,..." in done.stdout


# Streams


FULL = Path("/dev/full")
SAID = {
    "list": ("list",),
    "list commands": ("list", "commands"),
    "list --json": ("list", "--json"),
    "list --markdown": ("list", "--markdown"),
    "table": ("table", "RUN"),
    "table --json": ("table", "RUN", "--json"),
    "table --format csv": ("table", "RUN", "--format", "csv"),
    "compare": ("table", "RUN", "--compare", "ddim", "ddpm"),
    "report": ("report", "RUN"),
    "verify": ("verify", "RUN", "--chunks", "1"),
    "dry run": ("run", "--model", "mixture", "-s", "ddim", "--steps", "2", "--dry-run"),
    "run": ("run", "--model", "mixture", "-s", "ddim", "--steps", "2", "-n", "8", "-o", "out"),
    "doctor": ("doctor",),
    "check": ("check", "ddim", "--quick"),
    "new-plugin": ("new-plugin", "mine"),
    "grid": ("grid", "-s", "ddim", "--steps", "1", "-x", "seed=0", "-o", "it.png"),
    "help": ("run", "--help"),
    "version": ("--version",),
}
QUICK = ("list commands", "version")
"""Commands that load no torch."""


@pytest.mark.parametrize("name", QUICK)
def test_what_needs_no_torch_loads_none(tmp_path, name):
    code = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); {PROGRAM}"
    done = subprocess.run([sys.executable, "-c", code, *SAID[name]], cwd=tmp_path, capture_output=True, check=True)
    assert done.stderr == b"False\n"


def in_every_command(*quick):
    """All of SAID, those that take seconds marked as slow."""
    return pytest.mark.parametrize(
        "name", [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in SAID]
    )


def arguments_of(name, request):
    """The words of a command, with a run where it asks about one."""
    return [str(request.getfixturevalue("stored")) if word == "RUN" else word for word in SAID[name]]


@in_every_command(*QUICK)
@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line(tmp_path, request, name):
    with FULL.open("w") as full:
        done = program(*arguments_of(name, request), cwd=tmp_path, stdout=full, stderr=subprocess.PIPE,
                       capture_output=False)  # fmt: skip
    assert done.returncode == 5
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("Error: standard output: cannot be written (No space left on device)")
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@in_every_command(*QUICK)
@pytest.mark.parametrize("closed", thinned(["<&-", ">&-", "2>&-", "<&- >&- 2>&-"], ">&-", "<&- >&- 2>&-"))
def test_closed_streams_are_no_hindrance(tmp_path, request, name, closed):
    words = " ".join(f"'{word}'" for word in [sys.executable, "-c", PROGRAM, *arguments_of(name, request)])
    done = subprocess.run(
        ["bash", "-c", f"{words} {closed}"], cwd=tmp_path, capture_output=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


# Terminals


@pytest.mark.parametrize("value", ["", "0", "1", "-5", "garbage", "9" * 20])
def test_the_width_of_a_terminal_may_be_anything(sb, value):
    env = {"COLUMNS": value, "LINES": value}
    for command in (("run", "--help"), ("list", "commands")):
        assert sb(*command, env=env).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 80), (0, 0), (24, 3)])
@pytest.mark.parametrize("name", ["run", "table", "check", "grid"])
def test_a_terminal_of_any_size(tmp_path, request, name, size):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments_of(name, request)], cwd=tmp_path, stdin=theirs, stdout=theirs,
        stderr=theirs, env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    with suppress(OSError):  # the other end is closed
        while more := os.read(ours, 65_536):
            said += more
    os.close(ours)
    assert process.wait(timeout=300) == 0
    assert b"Traceback" not in said


# Names and variables


WORDS = {"no text": b"\xff\xfe", "long": b"x" * 130_000, "escape": b"\x1b[31m", "right to left": "e\u202e".encode()}


@pytest.mark.parametrize("command", ["list", "table", "run -s", "run --steps", "new-plugin"])
@pytest.mark.parametrize("word", thinned(WORDS, "no text", "long"))
def test_words_that_are_no_text_and_very_long_ones_are_one_line(sb, tmp_path, command, word):
    done = sb(*command.split(), os.fsdecode(WORDS[word]))
    done.refused(2)
    assert len(done.err) < 3000
    assert list(tmp_path.iterdir()) == []


def test_a_megabyte_of_words_is_one_line(tmp_path):
    done = program("list", *["word" * 1000] * 250, cwd=tmp_path)
    refused(done, 2, "unknown kind 'wordword", "kinds: samplers")
    assert len(done.stderr) < 3000


@pytest.mark.parametrize("name", ["RUN_STEPS", "RUN_SAMPLER", "RUN_CONFIG", "NO_PLUGINS", "LIST_KIND"])
def test_a_variable_that_is_no_text_is_one_line(sb, tmp_path, name):
    variable = f"SAMPLERBENCH_{name}"
    command = ["list"] if name == "LIST_KIND" else ["run", "--model", "mixture", "-n", 8]
    done = sb(*command, env={variable: os.fsdecode(b"\xff\x1b[31m")})
    done.refused(2)
    assert variable in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "env",
    [
        {"TMPDIR": "/nonexistent"}, {"TMPDIR": "/proc"}, {"HOME": "/nonexistent"}, {"HOME": ""},
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"},
        {"TERM": "garbage"}, {"TERM": ""}, {"XDG_CACHE_HOME": "/proc"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("name", ["list", "run", "report", "grid", "doctor"])
def test_an_environment_that_lacks_something_is_no_hindrance(tmp_path, request, name, env):
    done = program(*arguments_of(name, request), cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr

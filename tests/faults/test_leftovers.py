"""What another program started ends with this process, however it ends and whoever has lost its parent."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from samplerbench.samplers import leftovers
from samplerbench.samplers.leftovers import Leftovers, below, processes

if sys.platform != "linux":
    pytest.skip("processes are found by /proc", allow_module_level=True)
PARENT = "import subprocess; print(subprocess.Popen(['sleep', '600'], stdout=2).pid, flush=True); input()"
KILLED = """
import os, signal, subprocess, sys
from samplerbench.samplers.leftovers import Leftovers, below
sleeps = subprocess.Popen(["sleep", "600"])
told = Leftovers()
told.note({sleeps.pid: below(os.getpid())[sleeps.pid]})
print(sleeps.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def is_there(process):
    """Whether a process is there and not only waiting to be reaped."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_what_has_lost_its_parent_is_ended_and_no_other():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        left, told = int(parent.stdout.readline()), Leftovers()
        told.note({parent.pid: processes()[parent.pid][1]})
        assert left in below(parent.pid)
        parent.kill()
        parent.wait()
        assert is_there(left)
        with subprocess.Popen(["sleep", "600"]) as other:
            told.note({other.pid: "0"})  # as a process of this number that had started earlier
            told.end()
            assert not is_there(left)
            assert is_there(other.pid)
            other.kill()


def test_all_of_them_end_where_this_process_is_killed():
    done = subprocess.run([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, check=False)
    sleeps, due = int(done.stdout), time.monotonic() + 60
    while is_there(sleeps) and time.monotonic() < due:
        time.sleep(0.01)
    assert not is_there(sleeps)


def test_a_watcher_that_somebody_ended_disturbs_nobody(monkeypatch):
    monkeypatch.setattr(leftovers, "PROGRAM", "")
    told = Leftovers()
    told._watcher.wait()
    told.note({1: "2"})
    told.end()

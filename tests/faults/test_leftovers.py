"""What another program started ends with this process, however it ends and whoever has lost its parent."""

import os
import subprocess
import sys
import time

import pytest

from samplerbench.samplers import leftovers
from samplerbench.samplers.leftovers import MARK, Leftovers, marked

if sys.platform != "linux":
    pytest.skip("processes are found by /proc", allow_module_level=True)
PATIENCE = 60.0
"""Seconds; only processes that are left for ever take so long."""
PARENT = "import subprocess; print(subprocess.Popen(['sleep', '600'], stdout=2).pid, flush=True); input()"
KILLED = """
import os, signal, subprocess, time
from samplerbench.samplers.leftovers import Leftovers, MARK
with Leftovers().marking():
    print(f"{MARK}={os.environ[MARK]}", flush=True)
    subprocess.Popen(["sleep", "600"], stdout=2)
    # Which starts something when this process is gone.
    subprocess.Popen(["sh", "-c", "sleep 0.2; exec sleep 600"], stdout=2)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def are_gone(mark):
    """Whether no process bears a mark, or none does before patience ends."""
    due = time.monotonic() + PATIENCE
    while marked(mark) and time.monotonic() < due:
        time.sleep(0.01)
    return not marked(mark)


def bears(mark, process):
    """Whether this process, and no other, bears a mark before patience ends."""
    due = time.monotonic() + PATIENCE
    while marked(mark) != [process] and time.monotonic() < due:
        time.sleep(0.01)
    return marked(mark) == [process]


def test_what_has_lost_its_parent_is_ended_and_no_other():
    left = Leftovers()
    with left.marking():
        parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with parent, subprocess.Popen(["sleep", "600"]) as other:
        sleeps = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        # A program that is just being started has, for a moment, no environment that the system tells.
        assert bears(left._mark, sleeps)
        left.end()
        left.end()
        assert marked(left._mark) == []
        assert other.poll() is None
        other.kill()
    assert MARK not in os.environ


def test_all_of_them_end_where_this_process_is_killed_while_it_starts_others():
    done = subprocess.run([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, check=False)
    assert are_gone(done.stdout.strip())


def test_a_watcher_that_somebody_ended_disturbs_nobody(monkeypatch):
    monkeypatch.setattr(leftovers, "PROGRAM", "")
    left = Leftovers()
    left._watcher.wait()
    left.end()

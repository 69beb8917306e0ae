"""Nothing of a run outlives it, whatever is killed and whatever the child of a sampler is doing at that moment."""

import subprocess
import sys

import pytest

import orphans
from cases import thinned

if sys.platform != "linux":
    pytest.skip("processes are found by /proc", allow_module_level=True)
PATIENCE = 60.0
"""Seconds; only processes that are left for ever take so long."""


@pytest.mark.parametrize("state", thinned(orphans.STATES, "starting", "waiting", "with helpers"))
def test_no_child_outlives_its_parent(state):
    left, _ = orphans.left_after(state, "parent", seconds=PATIENCE)
    assert left == []


@pytest.mark.parametrize("victim", thinned(["child", "both"], "child"))
@pytest.mark.parametrize("state", ["with helpers", "forking"])
def test_what_a_child_has_started_does_not_outlive_it(state, victim):
    left, _ = orphans.left_after(state, victim, seconds=PATIENCE)
    assert left == []


def test_the_watcher_is_enough_where_the_system_sends_no_signal(monkeypatch):
    alone = f"{orphans.READY}ctypes.CDLL(None).prctl(1, 0); ready(); ctypes.PyDLL(None).sleep(600)"
    monkeypatch.setitem(orphans.STATES, "alone", alone)
    left, _ = orphans.left_after("alone", "parent", seconds=PATIENCE)
    assert left == []


def test_the_signal_is_enough_where_the_watcher_is_gone(monkeypatch):
    kill_it = """
for path in os.listdir("/proc"):
    try:
        if path.isdigit() and os.getsid(int(path)) == os.getpid() != int(path):
            os.kill(int(path), signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
    monkeypatch.setattr(orphans, "LEAST", 2)
    monkeypatch.setitem(orphans.STATES, "alone", f"{orphans.READY}{kill_it}ready()\nctypes.PyDLL(None).sleep(600)")
    left, _ = orphans.left_after("alone", "parent", seconds=PATIENCE)
    assert left == []


IDLE = """
import os, time
from samplerbench.bench.draw.engines import lifeline
lifeline._watch = lambda *_: time.sleep(600)  # as if it had no turn on the processor yet
os.setsid()
lifeline.end_with(os.getppid(), 0)
found = [int(name) for name in os.listdir("/proc") if name.isdigit() and os.path.exists(f"/proc/{name}/stat")]
session = [process for process in found if os.getsid(process) == os.getpid() != process]
print(len(session), [process for process in session if os.getpgid(process) == os.getpid()])
for process in session:
    os.kill(process, 9)
"""


def test_the_watcher_is_not_stopped_with_the_child_that_it_watches():
    """A child is stopped between two requests, and a watcher that was stopped with it would be there for ever."""
    command = [sys.executable, "-c", IDLE]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert done.stdout == "1 []\n"


def test_a_sampler_that_waits_for_all_its_children_does_not_wait_for_the_watcher(monkeypatch):
    waits = f"{orphans.READY}\ntry:\n    os.wait()\nexcept ChildProcessError:\n    ready()\ntime.sleep(600)"
    monkeypatch.setitem(orphans.STATES, "waits", waits)
    left, _ = orphans.left_after("waits", "child", seconds=PATIENCE)
    assert left == []


def test_a_process_that_nothing_guards_is_found(monkeypatch):
    """The search can fail: a process with a session of its own is left."""
    # Ready only when the process has left the session: before, it is killed with its parent.
    escapes = (
        "left, leave = os.pipe()\n"
        "if not os.fork():\n    os.setsid()\n    os.write(leave, b'.')\n    time.sleep(600)\n"
        "os.read(left, 1)\nready(); time.sleep(600)"
    )
    monkeypatch.setitem(orphans.STATES, "escapes", f"{orphans.READY}{escapes}")
    left, _ = orphans.left_after("escapes", "both", seconds=0.3)
    assert len(left) >= 1


@pytest.mark.slow
def test_forty_kills_leave_no_orphan():
    for state, victim in orphans.cases(40):
        left, took = orphans.left_after(state, victim)
        assert left == [], (state, victim)
        assert took < orphans.SECONDS

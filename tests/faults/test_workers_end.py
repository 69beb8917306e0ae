"""However a run with workers ends, none of their processes stays, and what was stored is there."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.store import RunFolder

if sys.platform != "linux":
    pytest.skip("processes are found by /proc", allow_module_level=True)
PATIENCE = 60.0
"""Seconds; only processes that are left for ever take so long."""


def children_of(process):
    """The processes that a process has started, by their numbers."""
    return [int(n) for task in Path(f"/proc/{process}/task").iterdir() for n in (task / "children").read_text().split()]


def have_ended(descriptors):
    """Whether all of these processes, by their descriptors, are gone, or go before patience ends."""
    left = set(descriptors)
    while left:
        ended, _, _ = select.select(left, [], [], PATIENCE)
        if not ended:
            return False
        left -= set(ended)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_run(tmp_path, number):
    """The log is a pipe here, which says without waiting for anything that workers are at work."""
    os.mkfifo(tmp_path / "log")
    command = [sys.executable, "-m", "samplerbench", "run", "--model", "mixture", "-s", "ddim", "--steps", "300"]
    command += ["-n", "64000", "--workers", "2", "--threads", "1", "-o", "run", "--log", "log"]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with (tmp_path / "log").open() as log:
        events = [json.loads(log.readline())["event"] for _ in range(3)]
        assert events == ["started", "stored", "stored"]
        workers = [os.pidfd_open(child) for child in children_of(run.pid)]
        assert len(workers) == 2
        run.send_signal(number)
        rest = [json.loads(line) for line in log]
    assert run.wait() == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert have_ended(workers)
    last = rest[-1] if rest else {}
    assert (last.get("event"), last.get("complete")) == ((None, None) if number == signal.SIGKILL else ("done", False))
    (cell,) = read_run(tmp_path / "run").cells
    assert len(RunFolder(tmp_path / "run").chunks_of(cell.key)) >= 2

"""Processes that do not outlive this one, though another program started them and some have lost their parent.

They are told to a watcher, a small process that waits for the end of a pipe which only this process holds open. When it
is closed, on purpose or because this process was killed, the watcher ends all that it was told of, and what came from
them. Nothing here imports torch or NumPy: the watcher is there at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

PROGRAM = f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {__name__} import watch; watch()"
PATIENCE = 10.0
"""Seconds in which the watcher has to be done."""
ROUNDS = 3
"""How often it looks again for what was started meanwhile."""


class Leftovers:
    """The watcher, as this process sees it."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C is for this process.
        self._watcher = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(sys.path)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._told: dict[int, str] = {}

    def note(self, new: Mapping[int, str]) -> None:
        """Tell of processes, each with the time of its start, and of all that came from those that were told of."""
        found = {**new}
        for process in (*self._told, *new):
            found |= below(process)
        lines = [f"{process} {since}\n" for process, since in found.items() if self._told.get(process) != since]
        self._told |= found
        pipe = self._watcher.stdin
        assert pipe is not None
        with suppress(OSError):  # somebody ended the watcher
            pipe.write("".join(lines).encode())
            pipe.flush()

    def end(self) -> None:
        """End them all, and the watcher."""
        self.note({})
        pipe = self._watcher.stdin
        assert pipe is not None
        with suppress(OSError):
            pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._watcher.wait(PATIENCE)


def watch() -> None:
    """What the watcher does."""
    told: dict[int, str] = {}
    for line in sys.stdin:
        process, since = line.split()
        told[int(process)] = since
    for _ in range(ROUNDS):
        there = processes()
        # By number and time: another process may have got the number since.
        left = {process for process, since in told.items() if there.get(process, (0, ""))[1] == since}
        for process in left.union(*map(below, left)):
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)


def processes() -> dict[int, tuple[int, str]]:
    """The parent and the time of the start of each process; {} where the system does not list them in /proc."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            # The name of the program, which may hold anything, ends with the last bracket.
            about = path.read_text(errors="replace").rpartition(")")[2].split()
            found[int(path.parent.name)] = int(about[1]), about[19]
    return found


def below(process: int) -> dict[int, str]:
    """The time of the start of each process that comes from this one."""
    there, known = processes(), {process}
    while new := {child for child, (parent, _) in there.items() if parent in known} - known:
        known |= new
    return {one: there[one][1] for one in known - {process}}

"""Processes that do not outlive this one, though another program starts them and some lose their parent.

They are marked: what is started in `marking`, and all that comes from it, has a word in its environment that nothing
else has. A watcher, a small process, waits for the end of a pipe which only this process holds open. When it is closed,
on purpose or because this process was killed, the watcher ends all that bear the mark: what was started a moment before
too, and what its parent, who is gone, would have told nobody of. Nothing here imports torch or NumPy: the watcher is
there at once.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "SAMPLERBENCH_ENDS_WITH"
"""The variable whose value is the mark."""
PROGRAM = f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {__name__} import watch; watch(sys.argv[2])"
FAREWELL = b"."
"""What this process sends before it closes the pipe on purpose: whatever it started is there, or gone, by then."""
LINGER = 1.0
"""Seconds without a find, after which nothing more is expected of a process that was killed while it started others."""
LOOK_EVERY_SECONDS = 0.1
PATIENCE = 10.0
"""Seconds in which the watcher has to be done."""


class Leftovers:
    """The watcher, as this process sees it."""

    def __init__(self) -> None:
        self._mark = f"{MARK}={secrets.token_hex(16)}"
        # A session of its own: Ctrl-C is for this process.
        self._watcher = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(sys.path), self._mark], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    @contextmanager
    def marking(self) -> Iterator[None]:
        """Mark what is started inside the block, with all that it will start."""
        name, _, value = self._mark.partition("=")
        os.environ[name] = value
        try:
            yield
        finally:
            os.environ.pop(name, None)

    def end(self) -> None:
        """End all that bear the mark, and the watcher."""
        with suppress(OSError, ValueError, subprocess.TimeoutExpired):  # somebody ended the watcher, or it was told
            self._watcher.communicate(FAREWELL, PATIENCE)


def watch(mark: str) -> None:
    """What the watcher does."""
    # One that was killed may have been about to start something, which bears the mark only a moment later.
    linger = 0.0 if sys.stdin.buffer.read() == FAREWELL else LINGER
    due = time.monotonic() + linger
    while (left := marked(mark)) or time.monotonic() < due:
        for process in left:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        if left:
            due = time.monotonic() + linger
        time.sleep(LOOK_EVERY_SECONDS)


def marked(mark: str) -> list[int]:
    """The processes that bear a mark; [] where the system does not list them in /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it is another user's, or has ended
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found

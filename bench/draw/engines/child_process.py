"""A child process as its parent sees it: requests to it, answers from it, its memory, its end.

Requests and answers go through two pipes in frames: JSON, with the arrays of a chunk behind it. An answer carries the
number of its request. Between an answer and the next request the child and all that it started in its process group
are stopped (SIGSTOP): what a sampler left running neither slows the chunks of others nor disturbs their clock.

Nothing here imports torch: what the child runs is `child`, which does.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

FRAME = struct.Struct(">QQ")
"""Lengths of the JSON and of what is behind it."""
LONGEST = 1 << 40
"""A frame of more bytes than this is no answer."""
LOOK_EVERY_SECONDS = 0.05
GUARDED = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); requests, answers, parent = 0, *map(int, sys.argv[2:]); "
    f"from {__package__} import lifeline; lifeline.end_with(parent, requests, [answers]); "
)
"""How a child begins: its modules are found where this process finds them, and it does not outlive this process."""
ENTRY = f"{GUARDED} from {__package__}.child import main; main(answers)"
"""What the child runs."""


class Child:
    """A running child."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self.answers, writing = os.pipe()
        try:
            # A session of its own: Ctrl-C is for the parent, which stops the child with all that it started.
            self._process = subprocess.Popen(
                [sys.executable, "-c", ENTRY, json.dumps(sys.path), str(writing), str(os.getpid())],
                stdin=subprocess.PIPE, pass_fds=[writing], start_new_session=True,
                env={**os.environ, **(variables or {})},
            )  # fmt: skip
        except BaseException:
            os.close(self.answers)
            raise
        finally:
            os.close(writing)
        self._received = bytearray()
        self._closed = False
        self._asked = 0

    def send(self, request: dict[str, Any]) -> None:
        """Let the child go on, with this to do. If it is gone, that shows when its answer is awaited."""
        # The child was stopped after its last answer.
        self._signal(signal.SIGCONT)
        self._asked += 1
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(BrokenPipeError):
            write_frame(stdin.fileno(), {"request": self._asked, **request})

    def pause(self) -> None:
        """Stop the child's process group until the next request."""
        self._signal(signal.SIGSTOP)

    def has_answered(self, seconds: float = LOOK_EVERY_SECONDS) -> bool:
        """Whether a whole frame is there, after a look of at most `seconds`."""
        if self._has_frame():  # it came together with the one before
            return True
        readable, _, _ = select.select([] if self._closed else [self.answers], [], [], seconds)
        if readable:
            # At most a megabyte at a time, and what is there already: a child that hangs in the middle of a frame
            # blocks nobody.
            received = os.read(self.answers, 1 << 20)
            self._received += received
            self._closed = not received
        return self._has_frame()

    def answer(self) -> tuple[dict[str, Any], bytes]:
        """The frame that is there; ValueError, in words for the table, if it does not answer the last request."""
        head, body = self._lengths()
        end = FRAME.size + head + body
        frame = bytes(self._received[FRAME.size : end])
        del self._received[:end]
        try:
            about = json.loads(frame[:head])
            number = about["request"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError("its process sent what is no answer") from error
        if number != self._asked:
            raise ValueError("its process answered an earlier request again, as a forked copy of it does")
        return about, frame[head:]

    def _has_frame(self) -> bool:
        if len(self._received) < FRAME.size:
            return False
        # A frame that announces too much counts as there, so that `answer` refuses it and nobody waits for its end.
        announced = sum(self._lengths())
        return announced > LONGEST or len(self._received) >= FRAME.size + announced

    def _lengths(self) -> tuple[int, int]:
        head, body = FRAME.unpack(self._received[: FRAME.size])
        return head, body

    def memory(self) -> int:
        """Resident bytes; 0 where the system does not tell."""
        return memory_of(self._process.pid)[0]

    def has_ended(self) -> bool:
        """Whether the process is gone, or has closed its pipe."""
        return self._closed or self._process.poll() is not None

    def manner_of_end(self) -> str:
        """How the process ended."""
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=1.0)  # the pipe closes a moment before the process is gone
            if code >= 0:
                return f"its process ended with exit code {code}"
            name = next((s.name for s in signal.Signals if s == -code), "unknown")
            return f"its process ended with signal {-code} ({name})"
        return "its process closed the pipe that it answers by"

    def stop(self) -> None:
        """End the process and its group."""
        # The whole group, and the child itself where it has left its group.
        self._signal(signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        os.close(self.answers)

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the process group; its number stays taken as long as the watcher of the child lives."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def memory_of(process: int | str) -> tuple[int, int]:
    """Resident bytes of a process, by its number or "self", and how many of them others can share, such as weights that
    are mapped from a file; 0 where the system does not tell."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 0, 0
    page = os.sysconf("SC_PAGE_SIZE")
    return int(resident) * page, int(shared) * page


def write_frame(descriptor: int, about: dict[str, Any], body: bytes = b"") -> None:
    """JSON and what is behind it, to a pipe."""
    head = json.dumps(about).encode()
    rest = memoryview(FRAME.pack(len(head), len(body)) + head + body)
    while rest:
        # A pipe takes what it has room for.
        rest = rest[os.write(descriptor, rest) :]

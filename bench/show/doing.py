"""What a command does before its view begins: loading torch, plugins, the model. It never looks stuck.

Nothing here imports what is slow: the first words come before that.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

from .console import PASSING, say

PATIENCE = 2.0
"""Seconds after which a line tells a pipe what takes so long; a terminal shows it at once."""
TICK = 1.0
"""Seconds between two looks at the clock."""
SHOWN_AFTER = 3
"""Seconds after which a terminal shows how long a stage has taken."""
LINE_EVERY_SECONDS = 10.0
LINE_SHARE = 0.05
"""Lines in a pipe come every ten seconds, later whenever a twentieth more time has passed: 150 lines in a day."""
DUMB = ("dumb", "unknown")
"""Values of TERM of terminals that cannot overwrite a line."""


def line_is_due(now: float, spoken: float, started: float) -> bool:
    """Whether a pipe gets another line of progress."""
    return now - spoken > max(LINE_EVERY_SECONDS, LINE_SHARE * (now - started))


class Doing:
    """Says on stderr what a command is doing; use it as a context.

    On a terminal it is one line, which the next words take the place of; in a pipe a line for each stage that takes
    long. Quiet, it says nothing.
    """

    def __init__(self, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_quiet, self._clock = quiet, clock
        # By hand and not with rich, whose import takes longer than what it would show.
        self._passes = sys.stderr.isatty() and os.environ.get("TERM", "") not in DUMB
        self._doing = ""
        self._since = 0.0
        self._is_told = True
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Doing:
        """Nothing is said yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal clean."""
        self.over()

    def loading_torch(self) -> None:
        """Say so at once, before the import that takes seconds; nothing where torch is there already."""
        if "torch" not in sys.modules:
            self("loading torch", at_once=True)

    def __call__(self, doing: str, *, at_once: bool = False) -> None:
        """The command begins to do this; `at_once`: a pipe is told too, without waiting whether it takes long."""
        self._doing, self._since, self._is_told = doing, self._clock(), False
        # A terminal shows it now; the thread only adds the seconds.
        self.look(at_once=at_once)
        if self._thread is None and not self.is_quiet:
            self._ended.clear()
            # A daemon: who only looks at the clock must not keep a program alive that ends with an error.
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def over(self) -> None:
        """Nothing of it goes on: something else will show progress, or the command ends."""
        if self._thread:
            self._ended.set()
            # Before the line is erased, or the thread could write it once more.
            self._thread.join()
            self._thread = None
        self._is_told = True
        PASSING.erase()

    def look(self, *, at_once: bool = False) -> None:
        """Tell the time on a terminal; tell a pipe of a stage that takes long, once."""
        seconds = self._clock() - self._since
        if self.is_quiet:
            return
        if self._passes:
            PASSING.show(f"{self._doing} ..." + (f" {seconds:.0f} s" if seconds >= SHOWN_AFTER else ""))
        elif not self._is_told and (at_once or seconds >= PATIENCE):
            self._is_told = True
            say(self._doing, err=True)

    def _watch(self) -> None:
        while not self._ended.wait(TICK):
            self.look()

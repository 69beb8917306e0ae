"""The view of a training: one bar a phase, with loss and time left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from ...samplers.model import Progress as TrainingProgress
from .doing import line_is_due
from .live import draws_live


class TrainingView:
    """Called after each training step; use it as a context.

    `before` is called when it takes over from what was shown before; quiet, it shows nothing.
    """

    def __init__(self, console: Console, *, quiet: bool = False, before: Callable[[], object] = lambda: None) -> None:
        self._console, self._quiet, self._before = console, quiet, before
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}{task.fields[eta]} left"), console=console,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._started = self._spoken = 0.0

    def __enter__(self) -> TrainingView:
        """Nothing is drawn before the first step."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal clean."""
        if self._bars.live.is_started:  # else it would print an empty line
            self._bars.stop()

    def __call__(self, progress: TrainingProgress) -> None:
        """Move the phase's bar on, or print a line now and then."""
        if self._quiet:
            return
        now = time.monotonic()
        # Not before the first step: until then another view says what goes on.
        if not self._tasks:
            self._begin(now)
        minutes, seconds = divmod(round(progress.eta), 60)
        eta = f"{minutes}:{seconds:02d}"
        loss = "" if math.isnan(progress.loss) else f"loss {progress.loss:.4f}, "  # what trains nothing has none
        if progress.phase not in self._tasks:
            self._tasks[progress.phase] = self._bars.add_task(progress.phase, total=progress.steps, loss=loss, eta=eta)
        self._bars.update(self._tasks[progress.phase], completed=progress.step, loss=loss, eta=eta)
        # The end of each phase is always told.
        is_due = line_is_due(now, self._spoken, self._started) or progress.step == progress.steps
        if not draws_live(self._console) and is_due:
            self._spoken = now
            line = f"{progress.phase} {progress.step}/{progress.steps}, {loss}{eta} left"
            self._console.print(Text(line))

    def _begin(self, now: float) -> None:
        """The first step is done."""
        self._before()
        self._started = now
        if draws_live(self._console):
            self._bars.start()

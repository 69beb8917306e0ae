"""The view of a training: one bar a phase, with loss and time left."""

from __future__ import annotations

import math
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from ...samplers.model import Progress as TrainingProgress

LINE_EVERY_SECONDS = 20.0


class TrainingView:
    """Called after each training step; use it as a context."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}{task.fields[eta]} left"), console=console,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._spoken = 0.0

    def __enter__(self) -> TrainingView:
        """Start to draw, on a terminal."""
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal clean."""
        if self._console.is_terminal:
            self._bars.stop()

    def __call__(self, progress: TrainingProgress) -> None:
        """Move the phase's bar on, or print a line now and then."""
        minutes, seconds = divmod(round(progress.eta), 60)
        eta = f"{minutes}:{seconds:02d}"
        loss = "" if math.isnan(progress.loss) else f"loss {progress.loss:.4f}, "  # what trains nothing has none
        if progress.phase not in self._tasks:
            self._tasks[progress.phase] = self._bars.add_task(progress.phase, total=progress.steps, loss=loss, eta=eta)
        self._bars.update(self._tasks[progress.phase], completed=progress.step, loss=loss, eta=eta)
        now = time.monotonic()
        if not self._console.is_terminal and (
            now - self._spoken > LINE_EVERY_SECONDS or progress.step == progress.steps
        ):
            self._spoken = now
            line = f"{progress.phase} {progress.step}/{progress.steps}, {loss}{eta} left"
            self._console.print(Text(line))

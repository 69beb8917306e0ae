"""The live view of a run: progress, time left, the table so far; plain lines where there is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

import pandas as pd
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .plan import Plan
from .sheet import Sheet, sheet_of
from .table import Labels

LINE_EVERY_SECONDS = 10.0


def rich_table(sheet: Sheet) -> Table:
    """The table for a terminal; texts are shown as they are, never read as markup."""
    shown = Table(caption=Text(sheet.caption), caption_justify="left", header_style="bold")
    for column in sheet.columns:
        left, heading = column.is_text, column.heading
        shown.add_column(Text(heading), justify="left" if left else "right", no_wrap=heading == "sampler")
    previous = None
    for row in sheet.rows:
        if previous is not None and row[0].text != previous:
            shown.add_section()
        previous = row[0].text
        shown.add_row(*(Text(entry.whole, style="bold" if entry.bold else "") for entry in row))
    return shown


class View:
    """Watches a run on stderr; use it as a context."""

    def __init__(self, console: Console, labels: Labels) -> None:
        self._console, self._labels = console, labels
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console,
        )  # fmt: skip
        self._task = self._progress.add_task("evaluations", total=None)
        self._live = Live(self._progress, console=console, refresh_per_second=2, transient=True)
        self._started = self._spoken = time.monotonic()
        self._done = self._todo = 0

    def __enter__(self) -> View:
        """Start to draw, on a terminal."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal clean."""
        if self._console.is_terminal:
            self._live.stop()

    def started(self, plan: Plan, todo: int) -> None:
        """Say what is to come."""
        self._todo = todo
        self._progress.update(self._task, total=todo)
        if not self._console.is_terminal:
            self._say(f"{len(plan.cells)} cells x {plan.config.samples} samples, {todo:,} network evaluations to make")

    def advanced(self, evaluations: int) -> None:
        """Move the bar on, or say so now and then."""
        self._done += evaluations
        self._progress.advance(self._task, evaluations)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._spoken > LINE_EVERY_SECONDS:
            self._spoken = now
            left = (now - self._started) * (self._todo - self._done) / max(self._done, 1)
            self._say(f"{self._done:,} of {self._todo:,} evaluations, about {left:.0f} s left")

    def table(self, table: pd.DataFrame) -> None:
        """Show the table so far above the bar."""
        self._live.update(Group(rich_table(sheet_of(table, self._labels)), self._progress))

    def _say(self, line: str) -> None:
        self._console.print(Text(line))

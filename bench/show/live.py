"""The live view of a run: progress, time left, the table so far; plain lines where there is no terminal."""

from __future__ import annotations

import importlib.util
import math
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Literal

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...samplers.text import counted, printable
from ..draw.session import Watch
from ..judge.statistics import metric_columns
from ..judge.status import failed, outcome_of
from ..judge.table import Labels, by_sampler
from ..plan.plan import Cell, Plan
from .sheet import Sheet, heading_of, metrics_of, with_interval

LINE_EVERY_SECONDS = 10.0
BAR_WIDTH = 12
COLUMN_GAP = 2
LEAST = {"sampler": 10, "note": 8}
"""Characters that these columns keep where there is too little room; the others keep their numbers whole."""
LEAST_HEADING = 6
MOST_LEFT_OUT_LINES = 2
FAILURES_SHOWN = 3
MILLISECONDS = "ms/image"


def rich_table(sheet: Sheet) -> Group:
    """The table for a terminal, its caption below; texts are shown as they are, never read as markup.

    A caption of rich's own is as wide as the table, and cut where that is too wide for the terminal.
    """
    shown = Table(
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for column, entries in zip(sheet.columns, zip(*sheet.rows, strict=True), strict=True):
        # A number never breaks. Its heading does, sooner than to make the column wider; so do long names and notes.
        heading, widest = column.heading, max(cell_len(entry.whole) for entry in entries)
        least = min(widest, LEAST.get(heading, widest))
        lines = "\n".join(textwrap.wrap(heading, max(widest, LEAST_HEADING))) if widest else heading
        justify: Literal["left", "right"] = "left" if column.is_text else "right"
        shown.add_column(Text(lines), justify=justify, min_width=least, overflow="fold")
    previous = None
    for row in sheet.rows:
        if previous is not None and row[0].text != previous:
            shown.add_section()
        previous = row[0].text
        shown.add_row(*(Text(entry.whole, style="bold" if entry.bold else "") for entry in row))
    return Group(shown, Text(sheet.caption, style="table.caption"))


def pivot(  # noqa: PLR0913  (what is shown, and the room for it)
    table: pd.DataFrame, labels: Labels, budget: str, budgets: Sequence[int], width: int, height: int
) -> list[str]:
    """The first metric in lines of text: samplers down, `budgets` (of steps, or NFE) across.

    There are at most `height` lines of at most `width` characters, but for a screen with no room for one sampler and
    one number; the last lines say what is left out.
    """
    table, metric, across = by_sampler(table), first_metric(table), len(budgets)
    names = [printable(str(name)) for name in table["sampler"].iloc[::across]]
    if table["grid"].nunique() > 1:
        grids = table["grid"].iloc[::across]
        names = [name if "grid=" in name else f"{name} {grid}" for name, grid in zip(names, grids, strict=True)]
    name_width = min(max(map(cell_len, ["sampler", *names])), width // 2)
    headings = [str(number) for number in budgets]
    room = width - name_width
    columns = value_columns(table, metric, headings, room, interval=True)
    if len(columns) < across:
        columns = value_columns(table, metric, headings, room, interval=False)

    title = f"{heading_of(metric, labels)} by {budget}, {int(table['samples'].max())} images a cell"
    title_lines = textwrap.wrap(title, width)
    left_out = [f"{budget} {', '.join(headings[len(columns) :])}"] if len(columns) < across else []
    rows = height - len(title_lines) - 1  # the heading
    if len(names) > rows - bool(left_out):
        rows = max(1, rows - MOST_LEFT_OUT_LINES)
        left_out.append(f"{len(names) - rows} more samplers")
    footer = textwrap.wrap(f"no room for {' and '.join(left_out)}", width) if left_out else []
    grid = zip(["sampler", *names[:rows]], zip(*columns, strict=True), strict=False)
    lines = [set_cell_size(shortened(name, name_width), name_width) + "".join(values) for name, values in grid]
    return [*title_lines, *lines, *footer[:MOST_LEFT_OUT_LINES]]


def value_columns(
    table: pd.DataFrame, metric: str, headings: Sequence[str], room: int, *, interval: bool
) -> list[list[str]]:
    """The columns of the pivot that there is room for, at least one: a heading and a text for each sampler."""
    texts = [_value(row, metric, interval=interval) for row in table.to_dict("records")]
    columns: list[list[str]] = []
    for k, heading in enumerate(headings):
        column = [heading, *texts[k :: len(headings)]]
        widest = max(map(len, column)) + COLUMN_GAP
        room -= widest
        if room < 0 and columns:
            break
        columns.append([text.rjust(widest) for text in column])
    return columns


def shortened(text: str, width: int) -> str:
    """The text, ended by an ellipsis where it is wider than so many characters."""
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…"


def first_metric(table: pd.DataFrame) -> str:
    """The first metric that is there, the time where none is."""
    return next(iter(metrics_of(table)), MILLISECONDS)


def _value(row: Mapping[Any, Any], metric: str, *, interval: bool) -> str:
    """A cell of the pivot."""
    if (outcome := outcome_of(row["status"])).has_failed:
        return outcome.status
    if metric == MILLISECONDS:
        value = row["seconds_per_image"]
        return f"{1000 * value:.3g}" if isinstance(value, float) and math.isfinite(value) else "-"
    numbers = [float("nan") if row[c] is None else float(row[c]) for c in metric_columns(metric)]
    text = with_interval(*numbers)
    return text if interval else text.split(" ")[0]


class View(Watch):
    """Watches a run on stderr; use it as a context."""

    def __init__(self, console: Console, labels: Labels, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._labels, self._clock = console, labels, clock
        self._bar = ProgressBar(total=1.0, width=BAR_WIDTH)
        self._draws_live = draws_live(console)
        self._table: pd.DataFrame | None = None
        self._across: tuple[str, tuple[int, ...]] = ("steps", ())
        self._left: dict[str, int] = {}
        self._failures: list[str] = []
        self._started = self._spoken = self._images_since = clock()
        self._done = self._todo = self._images = 0
        self._live = Live(get_renderable=self._frame, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> View:
        """Start to draw, on a terminal or in a notebook."""
        if self._draws_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal clean."""
        if self._draws_live:
            self._live.stop()

    def started(self, plan: Plan, todo: int) -> None:
        """Say what is to come."""
        self._todo = todo
        self._across = ("NFE", plan.config.nfe) if plan.config.nfe else ("steps", plan.config.steps)
        self._started = self._spoken = self._images_since = self._clock()
        if not self._draws_live:
            self._say(
                f"{counted(len(plan.cells), 'cell')} x {counted(plan.config.samples, 'sample')}, "
                f"{counted(todo, 'network evaluation')} to make"
            )

    def remaining(self, images: Mapping[str, int]) -> None:
        """Know when a cell is done; from now on there is something to show."""
        self._left = dict(images)
        if self._draws_live:
            self._live.refresh()

    def stored(self, cell: Cell, images: int) -> None:
        """Count images."""
        self._images += images
        self._left[cell.key] -= images

    def advanced(self, evaluations: int) -> None:
        """Move the bar on, or say so now and then."""
        self._done += evaluations
        now = self._clock()
        if not self._images:
            self._images_since = now  # the ODE reference comes first, and is no image of the run
        if not self._draws_live and now - self._spoken > LINE_EVERY_SECONDS:
            self._spoken = now
            self._say(self.state())

    def added(self, evaluations: int) -> None:
        """Expect more."""
        self._todo += evaluations

    def failed(self, cell: Cell, reason: str, evaluations: int) -> None:
        """Show which cell failed, and expect no more of it."""
        self._todo -= evaluations
        self._left.pop(cell.key, None)
        self._failures.append(printable(str(failed(f"{cell.sampler}, {cell.steps} steps: {reason}"))))
        if not self._draws_live:
            self._say(self._failures[-1])

    def table(self, table: pd.DataFrame) -> None:
        """Show the table so far above the bar."""
        self._table = table

    def state(self) -> str:
        """Cells done, images a second and time left. Rates are of what is made now, not of what was there before."""
        left_of_cells = list(self._left.values())  # a copy: the screen is drawn by a thread of its own
        cells = len(left_of_cells) + len(self._failures)
        parts = [f"{left_of_cells.count(0)} of {cells} cells"]
        parts += [f"{len(self._failures)} failed"] if self._failures else []
        now = self._clock()
        if self._images and now > self._images_since:
            rate = self._images / (now - self._images_since)
            parts.append(f"{rate:,.0f} images/s" if rate >= 100 else f"{rate:.3g} images/s")  # noqa: PLR2004  (three digits)
        if self._done and self._done < self._todo:
            parts.append(f"{duration((now - self._started) * (self._todo - self._done) / self._done)} left")
        return ", ".join(parts)

    def _frame(self) -> Group:
        """What is drawn: the pivot of the table so far, the cells that failed, the bar."""
        width, height = self._console.size
        shown = [shortened(line, width) for line in self._failures[:FAILURES_SHOWN]]
        if len(self._failures) > len(shown):
            shown.append(f"and {counted(len(self._failures) - len(shown), 'more cell')} failed")
        room = height - len(shown) - 2  # the bar, and the line that the cursor is on
        table = pivot(self._table, self._labels, *self._across, width, room) if self._table is not None else []
        self._bar.update(self._done / self._todo if self._todo else 1.0)
        share = Text(f"{100 * self._bar.completed:3.0f} %  {self.state()}", no_wrap=True, overflow="ellipsis")
        bar = Table.grid(padding=(0, 1))
        bar.add_row(self._bar, share)
        return Group(*map(Text, table), *(Text(line, style="red") for line in shown), bar)

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def notebook_view(labels: Labels) -> AbstractContextManager[View | None]:
    """A view in the notebook that this runs in, None elsewhere: a program has its own ways to say how far it is."""
    console = Console()
    return View(console, labels) if console.is_jupyter else nullcontext()


def duration(seconds: float) -> str:
    """ "1:05:07", "5:07" or "7 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


class CellBar:
    """How many cells of a grid of images are drawn, on a terminal; use it as a context."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not draws_live(console))

    def __enter__(self) -> CellBar:
        """Start to draw."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal clean."""
        self._progress.stop()

    def __call__(self, cells: int) -> Callable[[], None]:
        """What is to be called after each of so many cells."""
        task = self._progress.add_task("cells", total=cells)
        return lambda: self._progress.advance(task)


def draws_live(console: Console) -> bool:
    """Whether lines can be drawn over: on a terminal that knows how, or in a notebook that has the widgets for it."""
    if console.is_jupyter:
        return importlib.util.find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal

"""The live view of a run: progress, time left, the table so far; plain lines if there is no terminal."""

from __future__ import annotations

import importlib.util
import math
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import pandas as pd
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...samplers.text import count_of, printable
from ..draw.session import Watch
from ..judge.compare import SECONDS
from ..judge.status import failed_outcome
from ..judge.table import Labels
from ..plan.plan import Block, Cell, Plan
from . import doing
from .pace import Pace
from .pivot import Pivot, pivot_of
from .sheet import column_of, metrics_of

BAR_WIDTH = 12
COLUMN_GAP = 2
MOST_LEFT_OUT_LINES = 2
FAILURES_SHOWN = 3


def pivot_to_lines(pivot: Pivot, labels: Labels, across: str, width: int, height: int) -> list[str]:
    """A pivot in lines of text; `across` says in words what its counts are.

    There are at most `height` lines of at most `width` characters, but for a screen with no room for one sampler and
    one number; the last lines say what is left out.
    """
    # No name may take more than half of the line, or there would be no room for numbers.
    names = [printable(name_of(pivot, key)) for key in pivot.rows]
    name_width = min(max(map(cell_len, ["sampler", *names])), width // 2)
    room = width - name_width
    # Values of all counts are worth more than values and intervals of some.
    columns = value_columns(pivot, room, interval=True)
    if len(columns) < len(pivot.counts):
        columns = value_columns(pivot, room, interval=False)

    heading = column_of(pivot.metric, labels).heading
    title_lines = textwrap.wrap(f"{heading} by {across}, {int(pivot.table['samples'].max())} images a cell", width)
    # The room for the last lines is taken from the rows: without them a reader would not know that something is
    # missing.
    hidden = pivot.counts[len(columns) :]
    left_out = [f"{across} {', '.join(map(str, hidden))}"] if hidden else []
    rows = height - len(title_lines) - 1  # the heading
    if len(names) > rows - bool(left_out):
        rows = max(1, rows - MOST_LEFT_OUT_LINES)
        left_out.append(f"{len(names) - rows} more samplers")
    footer = textwrap.wrap(f"no room for {' and '.join(left_out)}", width) if left_out else []
    # Columns hold all rows; those beyond the names that are shown fall away.
    grid = zip(["sampler", *names[:rows]], zip(*columns, strict=True), strict=False)
    lines = [set_cell_size(shorten(name, name_width), name_width) + "".join(values) for name, values in grid]
    return [*title_lines, *lines, *footer[:MOST_LEFT_OUT_LINES]]


def name_of(pivot: Pivot, key: Sequence[Any]) -> str:
    """The name of a row: its sampler, with guidance and grid if rows differ in them; not a grid that the spec names."""
    told = dict(zip(pivot.names, key, strict=True))
    name = str(told["sampler"])
    name = name if "grid" not in told or "grid=" in name else f"{name} {told['grid']}"
    return f"{name}, guidance {told['guidance']:g}" if "guidance" in told else name


def value_columns(pivot: Pivot, room: int, *, interval: bool) -> list[list[str]]:
    """The columns of a pivot that fit, at least one: a heading, then a text for each row."""
    columns: list[list[str]] = []
    for count in pivot.counts:
        entries = [pivot.entry(row, count) for row in range(len(pivot.rows))]
        column = [str(count), *(entry.whole if interval else entry.text for entry in entries)]
        widest = max(map(len, column)) + COLUMN_GAP
        room -= widest
        if room < 0 and columns:
            break
        columns.append([text.rjust(widest) for text in column])
    return columns


def shorten(text: str, width: int) -> str:
    """The text, cut with an ellipsis if it is wider than this many characters."""
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…"


def first_metric(table: pd.DataFrame) -> str:
    """The first metric that has a value; the time if none has."""
    return next(iter(metrics_of(table)), SECONDS)


class View(Watch):
    """Watches a run on stderr; use it as a context."""

    def __init__(
        self, console: Console, labels: Labels, clock: Callable[[], float] = time.monotonic, *, workers: int = 0
    ) -> None:
        self._workers = workers
        self._console, self._labels, self._clock = console, labels, clock
        self._bar = ProgressBar(total=1.0, width=BAR_WIDTH)
        self._draws_live = draws_live(console)
        self._table: pd.DataFrame | None = None
        self._across = "steps"
        self._counts: list[int] = []
        """The step count or budget of each row of the table."""
        # Events of the run set these; a thread of rich draws the frames in between, and only reads them.
        self._left: dict[str, int] = {}
        self._pace: Pace | None = None
        self._block = self._blocks = self._samples = 1
        """Images of a chunk, chunks of a cell, images of a cell."""
        self._doing, self._doing_since = "", 0.0
        self._stored: Cell | None = None
        """The cell of a chunk whose evaluations are not told yet, with the chunk's images."""
        self._stored_images = 0
        self._failures: list[str] = []
        self._started = self._spoken = self._images_since = clock()
        self._done = self._todo = self._images = self._chunks = self._retries = 0
        # Transient: at the end the table is printed as data, and the view would show it twice.
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
        """Announce the work."""
        self._todo = todo
        self._across, self._counts = "NFE" if plan.config.nfe else "steps", [cell.budget for cell in plan.cells]
        self._block, self._blocks, self._samples = plan.blocks[0].n, len(plan.blocks), plan.blocks.images
        self._started = self._spoken = self._images_since = self._clock()
        self._pace = Pace(plan, todo, self._started, self._workers)
        if not self._draws_live:
            self._say(
                f"{count_of(len(plan.cells), 'cell')} x {count_of(plan.config.samples, 'sample')}, "
                f"{count_of(todo, 'network evaluation')} to make"
            )

    def remaining(self, images: Mapping[str, int]) -> None:
        """Note what each cell lacks, and show the first frame."""
        self._left = dict(images)
        if self._pace:
            self._pace.missing = dict(images)
        if self._draws_live:
            self._live.refresh()

    def doing(self, what: str) -> None:
        """Say so, until the next chunk."""
        self._doing, self._doing_since = what, self._clock()

    def stored(self, cell: Cell, block: Block) -> None:
        """Count images and chunks."""
        self._doing = ""
        # `advanced` follows with the evaluations: only both together say what an image costs.
        self._stored, self._stored_images = cell, block.n
        self._images += block.n
        self._chunks += 1
        self._left[cell.key] -= block.n

    def retried(self, cell: Cell, block: Block, reason: str) -> None:
        """Count what was drawn in vain."""
        self._retries += 1

    def advanced(self, evaluations: int) -> None:
        """Move the bar, or print a line now and then."""
        self._done += evaluations
        now = self._clock()
        if self._pace and self._stored:
            self._pace.chunk(self._stored.key, self._stored_images, evaluations, now)
        elif self._pace:
            self._pace.other(evaluations, now)
        self._stored = None
        if not self._images:
            self._images_since = now  # the ODE reference comes first, and is no image of the run
        if not self._draws_live and (doing.line_is_due(now, self._spoken, self._started) or self._keeps_waiting(now)):
            self._spoken = now
            self._say(", ".join([self.ahead(), self.state()]))

    def _keeps_waiting(self, now: float) -> bool:
        """Whether nothing was said since the start, no image is there, and a reader begins to wonder."""
        return bool(self._doing) and self._spoken == self._started and now - self._started >= doing.PATIENCE

    def added(self, evaluations: int) -> None:
        """Expect more."""
        self._todo += evaluations
        if self._pace:
            self._pace.todo += evaluations

    def failed(self, cell: Cell, reason: str, evaluations: int) -> None:
        """Show which cell failed, and expect no more of it."""
        # The bar counts what will be made, and still reaches its end.
        self._todo -= evaluations
        self._left.pop(cell.key, None)
        self._failures.append(printable(str(failed_outcome(f"{cell.shown}, {cell.steps} steps: {reason}"))))
        if self._pace:
            self._pace.todo -= evaluations
            self._pace.missing.pop(cell.key, None)
            # The time of an attempt that failed says nothing about the cells that do not.
            self._pace.skip(self._clock())
        if not self._draws_live:
            self._say(self._failures[-1])

    def table(self, table: pd.DataFrame) -> None:
        """Show the table so far above the bar."""
        self._table = table

    def ahead(self) -> str:
        """How much is done, how long the rest will take, and what goes on now, if that is not drawing."""
        share = 100 * self._share()
        parts = [f"{share:.0f} %"]
        now = self._clock()
        # Nothing is left to estimate when all is made, though table and report may still be.
        left = self._pace.left(now) if self._pace and self._done < self._todo else None
        if self._doing:
            # How long it has taken is of interest only as long as nothing says how long it will take.
            parts.append(self._doing if left is not None else f"{self._doing}, {duration(now - self._doing_since)}")
        parts += [f"{duration(left)} left"] if left is not None else []
        return ", ".join(parts)

    def state(self) -> str:
        """Chunks and images that are there, and images per second. Rates count what this run makes, not what was
        stored before."""
        missing = list(self._left.values())  # a copy: the screen is drawn by a thread of its own
        # A cell that failed has no entry: neither count expects anything of it.
        chunks, images = len(missing) * self._blocks, len(missing) * self._samples
        there = chunks - sum(math.ceil(left / self._block) for left in missing)
        parts = [
            f"{there:,} of {count_of(chunks, 'chunk')}",
            f"{images - sum(missing):,} of {count_of(images, 'image')}",
        ]
        now = self._clock()
        if self._images and now > self._images_since:
            seconds = now - self._images_since
            parts.append(f"{per_second(self._images, seconds)} images/s")
            if self._workers:
                parts.append(f"{per_second(self._chunks, seconds)} chunks/s by {count_of(self._workers, 'worker')}")
        parts += [f"{count_of(len(self._failures), 'cell')} failed"] if self._failures else []
        parts += [f"{count_of(self._retries, 'chunk')} drawn again"] if self._retries else []
        return ", ".join(parts)

    def _share(self) -> float:
        return self._done / self._todo if self._todo else 1.0

    def _frame(self) -> Group:
        """The frame: the pivot of the table so far, the cells that failed, the bar."""
        # Asked for at each frame, since a terminal changes its size. What is below the table is laid out first and the
        # table gets the rest: a frame higher than the screen would scroll.
        width, height = self._console.size
        shown = [shorten(line, width) for line in self._failures[:FAILURES_SHOWN]]
        if len(self._failures) > len(shown):
            shown.append(f"and {count_of(len(self._failures) - len(shown), 'more cell')} failed")
        state = textwrap.wrap(self.state(), width)
        room = height - len(shown) - len(state) - 2  # the bar, and the line that the cursor is on
        table = self._pivot(width, room)
        self._bar.update(self._share())
        bar = Table.grid(padding=(0, 1))
        bar.add_row(self._bar, Text(self.ahead(), no_wrap=True, overflow="ellipsis"))
        return Group(*map(Text, table), *(Text(line, style="red") for line in shown), bar, *map(Text, state))

    def _pivot(self, width: int, height: int) -> list[str]:
        """The first metric of the table so far, in lines of text."""
        if self._table is None:
            return []
        pivot = pivot_of(self._table, first_metric(self._table), self._counts)
        return pivot_to_lines(pivot, self._labels, self._across, width, height)

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def notebook_view(labels: Labels, workers: int = 0) -> AbstractContextManager[View | None]:
    """A view if this runs in a notebook; None elsewhere, since a program reports progress in its own way."""
    console = Console()
    return View(console, labels, workers=workers) if console.is_jupyter else nullcontext()


def per_second(number: int, seconds: float) -> str:
    """A rate in three digits."""
    rate = number / seconds
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"  # noqa: PLR2004  (three digits)


def duration(seconds: float) -> str:
    """ "1:05:07", "5:07" or "7 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


class CellBar:
    """Progress of the cells of a grid of images, in lines where there is no terminal; use it as a context.

    `before` is called when it takes over from what was shown before; quiet, it shows nothing.
    """

    def __init__(
        self,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
        *,
        quiet: bool = False,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        columns = (TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
        self._console, self._clock, self._quiet, self._before = console, clock, quiet, before
        # A terminal that cannot overwrite gets lines instead of a bar.
        self._is_live = draws_live(console) and not quiet
        self._progress = Progress(*columns, console=console, transient=True, disable=not self._is_live)

    def __enter__(self) -> CellBar:
        """Nothing is drawn before the cells are known."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal clean."""
        if self._progress.live.is_started:
            self._progress.stop()

    def __call__(self, cells: int) -> Callable[[], None]:
        """Announce the number of cells; returns the function to call after each of them."""
        self._before()
        if self._is_live:
            self._progress.start()
        # How many cells there are is known when all requests are checked, after the view has been opened.
        task = self._progress.add_task("cells", total=cells, left="")
        started = spoken = self._clock()
        done = 0

        def advance() -> None:
            nonlocal done, spoken
            done += 1
            now = self._clock()
            left = f"{duration((now - started) * (cells - done) / done)} left"
            self._progress.update(task, completed=done, left=left)
            if not self._is_live and not self._quiet and done < cells and doing.line_is_due(now, spoken, started):
                spoken = now
                self._console.print(Text(f"{done} of {count_of(cells, 'cell')}, {left}"), soft_wrap=True)

        return advance


def draws_live(console: Console) -> bool:
    """Whether lines can be overwritten: on a capable terminal, or in a notebook that has ipywidgets."""
    # Without ipywidgets each frame would be a new output of the cell.
    if console.is_jupyter:
        return importlib.util.find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal

"""A table on a terminal: whole at every width, with its columns in several parts where they do not fit side by side."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from .columns import LEAST_WIDTH, in_parts, shared
from .sheet import Sheet

LEAST = {"sampler": 16, "note": 20}
"""Characters that these columns keep where there is too little room; the others keep their numbers whole."""
LEAST_HEADING, LONGEST_WORD = 6, 16
"""Characters: what a heading always gets, and how long a word of it may be before it breaks."""


@dataclass(frozen=True)
class SheetOnTerminal:
    """A table with its caption below, as wide as the terminal allows; texts are never read as markup."""

    sheet: Sheet

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """The parts, one below the other, and the caption, which the console wraps."""
        width = max(options.max_width, LEAST_WIDTH)
        widths = [column_widths(self.sheet, i) for i in range(len(self.sheet.columns))]
        least, wanted = [one for one, _ in widths], [most for _, most in widths]
        keys = [i for i, column in enumerate(self.sheet.columns) if column.is_key]
        for k, part in enumerate(in_parts(least, keys, width)):
            if k:
                yield Text("")
            # Each part begins with the columns that tell the rows apart, so it can be read by itself.
            yield table_of(self.sheet, part, shared([least[i] for i in part], [wanted[i] for i in part], width))
        if self.sheet.caption:
            # A caption of rich's own is as wide as the table, and cut where that is too wide for the terminal.
            yield Text(self.sheet.caption, style="table.caption", overflow="fold")


def column_widths(sheet: Sheet, i: int) -> tuple[int, int]:
    """The least width of a column, at which no number and no word of its heading breaks, and its widest text's."""
    column = sheet.columns[i]
    widest = max((cell_len(row[i].whole) for row in sheet.rows), default=0)
    # Only names and notes may be broken; a number that goes on in the next line would be misread.
    fewest = min(widest, LEAST.get(column.heading, widest))
    return max(fewest, heading_width(column.heading, fewest)), max(widest, heading_width(column.heading, widest))


def heading_width(heading: str, widest: int) -> int:
    """How wide a heading is over fields of this width."""
    return max(map(cell_len, heading_lines(heading, widest)))


def heading_lines(heading: str, widest: int) -> list[str]:
    """A heading breaks sooner than it makes its column wider; a word of it does not."""
    longest = max(map(cell_len, re.split(r"(?<=-)|\s+", heading)))
    return textwrap.wrap(heading, max(widest, LEAST_HEADING, min(longest, LONGEST_WORD))) or [""]


def table_of(sheet: Sheet, part: Sequence[int], widths: Sequence[int]) -> Table:
    """Some columns of a sheet, with a blank line between samplers."""
    shown = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for i, width in zip(part, widths, strict=True):
        column = sheet.columns[i]
        justify: Literal["left", "right"] = "left" if column.is_text else "right"
        lines = "\n".join(heading_lines(column.heading, width))
        shown.add_column(Text(lines), justify=justify, width=width, overflow="fold")
    previous = None
    for row in sheet.rows:
        # By the first column, the sampler, as long as the table is in its own order.
        if previous is not None and row[0].text != previous:
            shown.add_section()
        previous = row[0].text
        shown.add_row(*(Text(row[i].whole, style="bold" if row[i].bold else "") for i in part))
    return shown

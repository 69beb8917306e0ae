"""Columns of text in a given width: which stand side by side, how wide each is; lines are wrapped and never cut."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

from rich.cells import cell_len, set_cell_size

GAP = 2
LEAST_TEXT = 24
"""Characters that a column keeps, where there is room for it beside those that tell the rows apart."""
LEAST_WIDTH = 20
"""A terminal that says it is narrower is written to as if it had this width."""


def in_parts(least: Sequence[int], keys: Collection[int], width: int) -> list[list[int]]:
    """Which columns stand side by side: all, or parts of as many as fit, with the `keys` again in each part.

    A part has at least one column beside the keys, even where that is too wide.
    """
    first = [i for i in range(len(least)) if i in keys]
    parts: list[list[int]] = []
    for i in (i for i in range(len(least)) if i not in keys):
        # By what each needs at least: with what it wants, there would be more parts than necessary.
        if not parts or total([least[k] for k in (*parts[-1], i)]) > width:
            parts.append([*first])
        parts[-1].append(i)
    return parts or [first]


def total(widths: Sequence[int]) -> int:
    """How wide columns are together, with the gaps between them."""
    return sum(widths) + GAP * (len(widths) - 1)


def shared(least: Sequence[int], wanted: Sequence[int], width: int) -> list[int]:
    """The width of each column: the least that it needs; what is left over goes to the columns from the left."""
    # From the left, where the names stand that a reader looks for first.
    free = max(0, width - total(least))
    widths = []
    for fewest, most in zip(least, wanted, strict=True):
        more = min(free, max(0, most - fewest))
        widths.append(fewest + more)
        free -= more
    return widths


def wrap(text: str, width: int, *, at_dashes: bool = False) -> list[str]:
    """Lines of at most `width` characters with every word of the text; a longer word goes on in the next line."""
    return textwrap.wrap(text, max(1, width), break_on_hyphens=at_dashes) or [""]


def rows_to_lines(lines: Sequence[Sequence[str]], width: int | None, keys: int = 1) -> list[str]:
    """Rows of fields as aligned columns, of which the first `keys` tell the rows apart; None = of any width."""
    if not lines:
        return []
    wanted = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    if width is None or total(wanted) <= width:
        return [align(line, wanted) for line in lines]
    # A terminal that reports no width, or almost none, would get a letter a line.
    width = max(width, LEAST_WIDTH)
    # The keys stand in each part again, so a key may take no more than its share of a line.
    limit = min(LEAST_TEXT, max(LEAST_WIDTH // 2, width // (keys + 1) - GAP))
    least = [min(most, limit) for most in wanted]
    made: list[str] = []
    for part in in_parts(least, range(keys), width):
        widths = shared([least[i] for i in part], [wanted[i] for i in part], width)
        made += [""] if made else []
        for line in lines:
            fields = [wrap(line[i], room, at_dashes=True) for i, room in zip(part, widths, strict=True)]
            made += [
                align([field[k] if k < len(field) else "" for field in fields], widths)
                for k in range(max(map(len, fields)))
            ]
    return made


def align(fields: Sequence[str], widths: Sequence[int]) -> str:
    """One line of fields, each in its column."""
    # Measured in cells of the terminal, of which a Chinese character takes two.
    texts = (set_cell_size(text, max(width, cell_len(text))) for text, width in zip(fields, widths, strict=True))
    return (" " * GAP).join(texts).rstrip()


def entries_to_lines(heading: tuple[str, str], entries: Sequence[tuple[str, Sequence[str]]], width: int) -> list[str]:
    """Names, and beside each its paragraphs, wrapped to a width."""
    width = max(width, LEAST_WIDTH)
    widest = min(max(cell_len(name) for name, _ in (*entries, (heading[0], ""))), width // 3)
    room = width - widest - GAP
    made = [align(heading, (widest, 0))]
    for name, paragraphs in entries:
        beside = [line for text in filter(None, paragraphs) for line in wrap(text, room)] or [""]
        # Long names are wrapped as well, beside the paragraphs.
        names = wrap(name, widest)
        for k in range(max(len(names), len(beside))):
            pair = (names[k] if k < len(names) else "", beside[k] if k < len(beside) else "")
            made.append(align(pair, (widest, 0)))
    return made

"""Text for people: printable lines, and numbers with their nouns."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text in one line; characters that control a terminal or reorder the text are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.splitlines()))


def count_of(number: int, noun: str) -> str:
    """ "1 cell", "2 cells", "1,000 cells"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def roughly(seconds: float) -> str:
    """ "40 s", "12 minutes", "3 hours": a time in the largest unit of which it has two."""
    for size, unit in ((3600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return count_of(round(seconds / size), unit)
    return f"{round(seconds)} s"

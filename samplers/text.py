"""Words for people: one printable line, and how many of a thing."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text in one line, with all escaped that a terminal would obey or that reorders it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.splitlines()))


def counted(number: int, noun: str) -> str:
    """ "1 cell", "2 cells", "1,000 cells"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

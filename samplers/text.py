"""Text for people: printable lines, and numbers with their nouns."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text in one line; characters that control a terminal or reorder the text are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.splitlines()))


def counted(number: int, noun: str) -> str:
    """ "1 cell", "2 cells", "1,000 cells"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

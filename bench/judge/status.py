"""The outcome of a cell: the one place where the text of the column `status` is written and parsed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How far a cell has come."""

    OK = "ok"
    """All of its samples are measured."""
    PARTIAL = "partial"
    """Some of its samples are measured."""
    PENDING = "pending"
    """None of its samples is measured."""
    FAILED = "failed"


UNFAILED = tuple(status for status in Status if status is not Status.FAILED)
REASON = ": "
"""Stands between "failed" and the reason."""


@dataclass(frozen=True)
class Outcome:
    """A status, with the reason if the cell failed."""

    status: Status
    reason: str = ""

    def __str__(self) -> str:
        """The text in table.csv: "ok", "failed: ZeroDivisionError"."""
        return f"{self.status}{REASON}{self.reason}" if self.has_failed else str(self.status)

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the cell is missing."""
        return self.status is Status.OK

    @property
    def has_failed(self) -> bool:
        """Whether the cell failed."""
        return self.status is Status.FAILED


def failed_outcome(reason: str) -> Outcome:
    """The outcome of a cell that failed."""
    return Outcome(Status.FAILED, reason)


def outcome_of(text: str) -> Outcome:
    """The outcome in the text of a table; ValueError for any other text."""
    # Only "failed" is followed by anything; a reason may itself hold a colon.
    word, separator, reason = text.partition(REASON)
    if word == Status.FAILED and separator:
        return failed_outcome(reason)
    if text in UNFAILED:
        return Outcome(Status(text))
    raise ValueError(f"status {text[:40]!r}: expected {', '.join(UNFAILED)} or {failed_outcome('a reason')}")

"""A pivot of a table: one metric, a row for each sampler, a column for each step count or budget of model calls."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from ..judge.statistics import metric_columns
from ..judge.status import outcome_of
from ..judge.table import AXES
from .sheet import Entry, entry_of, metrics_of

ENDINGS = ("", "_low", "_high")
"""What follows a count in the names of a frame's columns: the value, and the ends of its interval."""


@dataclass(frozen=True)
class Pivot:
    """A metric of a table with samplers down."""

    table: pd.DataFrame
    metric: str
    counts: Sequence[float]
    """Step counts, budgets or values of an option, in ascending order."""
    names: Sequence[str]
    """The columns of the table that tell the rows apart; the sampler is the first."""
    rows: Mapping[tuple[Any, ...], Mapping[float, int]]
    """For each row, by its values in these columns: count -> the row of the table that its number is from."""

    @cached_property
    def places(self) -> list[Mapping[float, int]]:
        """The rows by their number."""
        return list(self.rows.values())

    @cached_property
    def _records(self) -> list[dict[Hashable, Any]]:
        return self.table.to_dict("records")

    @cached_property
    def _metrics(self) -> list[str]:
        return metrics_of(self.table)

    def label(self, row: int, name: str) -> Entry:
        """What a row says in one of the columns that tell rows apart."""
        # Any place will do: these columns are the same in all places of a row.
        return entry_of(self._records[next(iter(self.places[row].values()))], name, ())

    @staticmethod
    def text_of(count: float) -> str:
        """What stands above a column: "10", or "0.5"."""
        # With all of its digits where six would show two values as one.
        return str(count) if isinstance(count, int) else f"{count:g}" if float(f"{count:g}") == count else repr(count)

    def entry(self, row: int, count: float, *, is_bold: bool = False) -> Entry:
        """The number of a row at a count, in words where there is none."""
        place = self.places[row].get(count)
        if place is None:
            return Entry("-")
        # "-" would look like a cell that nobody asked for.
        if (outcome := outcome_of(self._records[place]["status"])).has_failed:
            return Entry(outcome.status)
        return entry_of(self._records[place], self.metric, self._metrics, is_bold=is_bold)

    def frame(self) -> pd.DataFrame:
        """What tells the rows apart, then for each count the value and the ends of its interval, for programs."""
        # Some metrics have no interval, and their ends no columns.
        columns = [name for name in metric_columns(self.metric) if name in self.table]

        def numbers(places: Mapping[float, int]) -> dict[str, Any]:
            return {
                self.text_of(count) + ending: self._records[places[count]][name] if count in places else None
                for count in self.counts
                for name, ending in zip(columns, ENDINGS, strict=False)
            }

        return pd.DataFrame([
            dict(zip(self.names, key, strict=True)) | numbers(places) for key, places in self.rows.items()
        ])  # fmt: skip


def pivot_of(
    table: pd.DataFrame,
    metric: str,
    counts: Sequence[float | None],
    rows_by: Sequence[str] = ("sampler",),
    but: Collection[str] = (),
) -> Pivot:
    """A metric of a table by the counts of its rows: step counts, budgets of model calls, or values of an option; rows
    without one (None) are left out.

    Rows of a sampler may stand anywhere in the table: those that were added to a run stand at its end. `rows_by` are
    the columns by which there is a row, beside the axes in which the table differs, `but` those.
    """
    # A column in which all rows agree would only take room.
    axes = [name for name in AXES if name in table and name not in but and table[name].nunique(dropna=False) > 1]
    names = [*rows_by, *axes]
    rows: dict[tuple[Any, ...], dict[float, int]] = {}
    for place, (row, count) in enumerate(zip(table[names].itertuples(index=False, name=None), counts, strict=True)):
        if count is None:
            continue
        # An empty field, nan, is no key: it differs from itself.
        rows.setdefault(tuple(None if pd.isna(value) else value for value in row), {})[count] = place
    # Sorted, because counts that were added to a run come last in its table.
    return Pivot(table, metric, sorted({count for count in counts if count is not None}), names, rows)

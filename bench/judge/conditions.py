"""Conditions under which a run fails a check: "fid[ddim,steps=10] > 2" -> the rows of its table for which it holds."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ...samplers.errors import InputError, closest, quote
from .compare import cell_name
from .merge import Origin
from .table import SPEC, TEXTS

CONDITION = re.compile(r"\s*([^\s\[\]<>=]+)\s*(?:\[(.*)\])?\s*([<>]=?)\s*(\S+)\s*")
"""A column, the rows, a sign and a limit."""
COUNT = re.compile(r"\s*(steps|nfe|guidance)\s*=\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*")
SIGNS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
EXAMPLE = "expected a column, rows in brackets, a sign and a number, as in 'fid[ddim,steps=10] > 2'"


@dataclass(frozen=True)
class Condition:
    """What must hold for no row."""

    text: str
    """As given."""
    column: str
    sampler: str
    """The name or the spec of the rows that it is about; '' = every sampler."""
    counts: Mapping[str, float]
    """Their steps, model calls and guidance, as far as they are given."""
    sign: str
    limit: float

    def holds(self, value: float) -> bool:
        """Whether the value is beyond the limit."""
        return bool(SIGNS[self.sign](value, self.limit))

    @property
    def name(self) -> str:
        """What an error calls it."""
        return f"fail-if {quote(self.text)}"


def parse_condition(text: str) -> Condition:
    """ "fid[ddim,steps=10] > 2" -> its parts; without brackets it is about every row."""
    parts = CONDITION.fullmatch(text)
    if not parts:
        raise InputError(f"fail-if {quote(text)}: {EXAMPLE}")
    column, rows, sign, number = parts.groups()
    try:
        limit = float(number)
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise InputError(f"fail-if {quote(text)}: the limit {quote(number)} is no number; {EXAMPLE}")
    # A spec may hold commas of its own, as in ddim:eta=0.5,grid=karras: what is no count belongs to it.
    words = rows.split(",") if rows else []
    counts = [found for word in words if (found := COUNT.fullmatch(word))]
    sampler = ",".join(word for word in words if not COUNT.fullmatch(word)).strip()
    if len({found[1] for found in counts}) < len(counts):
        raise InputError(f"fail-if {quote(text)}: a number of the rows is given twice; {EXAMPLE}")
    return Condition(text, column, sampler, {found[1]: float(found[2]) for found in counts}, sign, limit)


def violations(conditions: Sequence[Condition], table: pd.DataFrame, origins: Sequence[Origin]) -> list[str]:
    """A line for each row and condition that holds for it; a row without a value cannot pass, and has a line too.

    InputError for a condition on a column or on rows that the table does not have.
    """
    return [line for condition in conditions for line in _violations(condition, table, origins)]


def _violations(condition: Condition, table: pd.DataFrame, origins: Sequence[Origin]) -> list[str]:
    # Columns of texts have no order, and a limit means nothing for them.
    numbers = [str(name) for name in table.columns if name not in TEXTS]
    if condition.column not in numbers:
        near = closest(condition.column, numbers)
        raise InputError(
            f"{condition.name}: the table has no numbers in a column {quote(condition.column)}{near}; "
            f"there are: {', '.join(numbers)}"
        )
    found = []
    for row, origin in zip(table.to_dict("records"), origins, strict=True):
        if is_about(condition, row):
            value = row[condition.column]
            what = f"{condition.column} of {cell_name(origin.run.record.cells[origin.place])}"
            # A cell that failed must not pass a check because it has no number to fail it with.
            if pd.isna(value):
                found.append(f"{what} has no value (status {row['status']}); {condition.name}")
            elif condition.holds(float(value)):
                found.append(f"{what} is {float(value):.6g}; {condition.name}")
            else:
                found.append("")
    # A condition about no row would always pass, for instance after a sampler was renamed.
    if not found:
        raise InputError(f"{condition.name}: {why_no_row(condition, table)}")
    return [line for line in found if line]


def is_about(condition: Condition, row: Mapping[Any, Any]) -> bool:
    """Whether a condition is about a row."""
    # A count that is not given holds for every row.
    # A row with a name is also known by its spec.
    is_of_sampler = condition.sampler in ("", row["sampler"], row.get(SPEC))
    return is_of_sampler and all(row[name] == count for name, count in condition.counts.items())


def why_no_row(condition: Condition, table: pd.DataFrame) -> str:
    """Why a condition is about no row, and which rows there are."""
    samplers = list(dict.fromkeys(table["sampler"]))
    rows = table[[is_about(replace(condition, counts={}), row) for row in table.to_dict("records")]]
    if rows.empty:
        near = closest(condition.sampler, samplers)
        return f"no row of sampler {quote(condition.sampler)}{near}; there are: {', '.join(samplers)}"
    there = [f"{name} {', '.join(f'{n:g}' for n in sorted(set(rows[name].dropna())))}" for name in condition.counts]
    asked = ", ".join(f"{name}={count:g}" for name, count in condition.counts.items())
    return f"no row with {asked}; there are: {'; '.join(there)}"

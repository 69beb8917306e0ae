"""A metric over an option of samplers, or over guidance: ddim:eta=0, ddim:eta=0.5 -> ddim at eta 0 and 0.5."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ...samplers.errors import InputError, closest
from ...samplers.options import parse_spec
from ...samplers.text import count_of
from ..judge.table import SPEC

GUIDANCE = "guidance"


@dataclass(frozen=True)
class Over:
    """An option, with its value in each row of a table."""

    option: str
    values: tuple[float | None, ...]
    """None for a row whose sampler is given without it."""
    samplers: tuple[str, ...]
    """The sampler of each row without the option."""

    def groups(self, table: pd.DataFrame) -> list[str | None]:
        """The curve that each row is a point of, "ddim, 10 steps"; None where a curve would have one point."""
        # Points at different guidance do not belong to one curve, unless guidance is what the curve is over.
        several = self.option != GUIDANCE and table[GUIDANCE].nunique() > 1
        rows = zip(self.samplers, self.values, table.to_dict("records"), strict=True)
        names = [None if value is None else curve_name(sampler, row, several=several) for sampler, value, row in rows]
        points: dict[str | None, set[float | None]] = {}
        for name, value in zip(names, self.values, strict=True):
            points.setdefault(name, set()).add(value)
        return [name if len(points[name]) > 1 else None for name in names]


def curve_name(sampler: str, row: Mapping[Hashable, Any], *, several: bool) -> str:
    """ "ddim, 10 steps", with the guidance where rows have several."""
    steps = f"{sampler}, {count_of(int(row['steps']), 'step')}"
    return f"{steps}, guidance {row[GUIDANCE]:g}" if several else steps


def options_in(table: pd.DataFrame) -> list[str]:
    """The options that are given as numbers in the specs of some rows, and guidance if there are several."""
    names = dict.fromkeys(name for row in specs_of(table) for name in numbers_in(row))
    return [*names, *([GUIDANCE] if table[GUIDANCE].nunique() > 1 else [])]


def over(table: pd.DataFrame, option: str) -> Over:
    """The rows of a table by an option. InputError if no row has it as a number."""
    specs = specs_of(table)
    if option == GUIDANCE:
        # Guidance is a column of every run, and no part of a spec.
        return Over(option, tuple(map(float, table[GUIDANCE])), tuple(table["sampler"]))
    values = tuple(numbers_in(spec).get(option) for spec in specs)
    if all(value is None for value in values):
        known = [*options_in(table), *([] if table[GUIDANCE].nunique() > 1 else [GUIDANCE])]
        raise InputError(
            f"over {option!r}: no row's sampler is given with a number for it{closest(option, known)}; expected one "
            f"of: {', '.join(known)}; run it as in -s ddim:eta=0 -s ddim:eta=0.5"
        )
    return Over(option, values, tuple(without(spec, option) for spec in specs))


def specs_of(table: pd.DataFrame) -> list[str]:
    """The sampler spec of each row, whatever the row is called."""
    # A row with a display name has its spec in a column of its own, which tables of earlier versions lack.
    return list(table[SPEC if SPEC in table else "sampler"])


def numbers_in(spec: str) -> dict[str, float]:
    """The options of a spec whose values are numbers."""
    try:
        given = parse_spec(spec)[1]
    except InputError:  # the spec of a stranger's folder may be anything
        return {}
    return {name: value for name, text in given.items() if math.isfinite(value := number_of(text))}


def number_of(text: str) -> float:
    """A number; nan for any other text."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def without(spec: str, option: str) -> str:
    """ "ddim:eta=0.5,grid=karras" -> "ddim:grid=karras"."""
    try:
        name, given = parse_spec(spec)
    except InputError:
        return spec
    # Rows that differ in this option alone then have one text, and are points of one curve.
    rest = ",".join(f"{key}={value}" for key, value in given.items() if key != option)
    return f"{name}:{rest}" if rest else name


def curves_in(table: pd.DataFrame) -> Sequence[tuple[Over, list[str | None]]]:
    """Each option over which some curve has two points or more, with the curve of each row."""
    found = [(one, one.groups(table)) for one in (over(table, option) for option in options_in(table))]
    return [(one, groups) for one, groups in found if any(groups)]

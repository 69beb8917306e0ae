"""Latency: how long one draw of a few images takes, apart from the clock of whole blocks.

State, noise and every network call have as many rows as there are images, where a block of the run pads its calls to
the batch size. A trial of that size goes before each draw, outside the clock.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from ...samplers.errors import InputError, quote
from ...samplers.options import check_count
from ..plan.config import parse_counts
from .clock import Repeat, machines

LEAST_DRAWS = 20
"""A cell has no latency from fewer draws."""
DRAWS_FOR_P99 = 500
"""The fewest draws for a 99th percentile: of fewer it would be one of the few slowest, which says little."""
MOST_ROWS = 10**6
COLUMN = re.compile("seconds_at_([1-9][0-9]*)(_p90|_p99)?")


@dataclass(frozen=True)
class Latency:
    """What is asked for."""

    rows: tuple[int, ...] = ()
    """How many images are drawn at a time."""
    draws: int = LEAST_DRAWS
    """How often a cell is drawn with each."""


def parse_rows(given: object) -> tuple[int, ...]:
    """The numbers of images that an option ("1,16,64") or an argument asks for, each once, in order."""
    if given is None:
        return ()
    if isinstance(given, str):
        numbers: Iterable[object] = parse_counts("latency", given)
    elif isinstance(given, int):
        numbers = (given,)
    elif isinstance(given, list | tuple | range):
        numbers = given
    else:
        raise InputError(f"latency {quote(given)}: expected a whole number, or several in a list")
    # Sorted, so that the same question in another order is the same run.
    return tuple(sorted({check_count("latency", number, MOST_ROWS) for number in numbers}))


def column_of(rows: int) -> str:
    """The column of the median."""
    return f"seconds_at_{rows}"


def rows_of(column: object) -> int | None:
    """How many images at a time the median in a column is of; None for any other column."""
    named = COLUMN.fullmatch(str(column))
    return int(named[1]) if named and not named[2] else None


def is_latency(column: object) -> bool:
    """Whether a column of the table is one of these."""
    return COLUMN.fullmatch(str(column)) is not None


def columns_among(names: Iterable[str]) -> list[str]:
    """Those of these columns that are latencies, from the fewest images up; each once."""
    # By number and not by letters, so that 16 comes before 128; the median before its percentiles.
    found = {name: (int(named[1]), named[2] or "") for name in names if (named := COLUMN.fullmatch(name))}
    return sorted(found, key=lambda name: found[name])


def latencies(draws: Mapping[int, Sequence[Repeat]]) -> dict[str, float]:
    """The columns of a cell, from its draws by their number of images.

    There are none from fewer than 20 draws, or where the draws are of several machines: their times have no common
    median.
    """
    columns = {}
    for rows, clocked in sorted(draws.items()):
        # As for the clock of blocks: what ran beside others, or on several machines, has no common time.
        alone = [repeat for repeat in clocked if repeat.timing.counts]
        if len(alone) < LEAST_DRAWS or len(machines(alone)) != 1:
            continue
        seconds = [repeat.timing.seconds for repeat in alone]
        # The median and the slow end: of a service that answers one request after another both are asked for.
        columns[column_of(rows)] = median(seconds)
        columns[f"{column_of(rows)}_p90"] = percentile(seconds, 90)
        if len(seconds) >= DRAWS_FOR_P99:
            columns[f"{column_of(rows)}_p99"] = percentile(seconds, 99)
    return columns


def percentile(values: Sequence[float], percent: int) -> float:
    """A percentile, interpolated linearly, as numpy does."""
    # "inclusive": the slowest draw that was seen is the most that can be said, and nothing is extrapolated.
    found = quantiles(values, n=100, method="inclusive")[percent - 1]
    assert math.isfinite(found)
    return found

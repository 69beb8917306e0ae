"""Runs that differ in their seed only -> one row for each cell: the mean over the seeds, and how far they lie apart.

Each seed draws every sample from other noise, so the values of a row are independent draws of one number: their mean
has the error of Student's t. What is common to all seeds, such as the bias of FID at few images, does not show in it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ...samplers.errors import InputError
from ...samplers.student import student_t
from ..draw import clock as timing
from .compare import SECONDS, cell_name
from .merge import (
    RUNS_NOTE,
    SECONDS_NOTE,
    Identity,
    Origin,
    check_comparable,
    have_comparable_seconds,
    identities_of,
    is_of_the_clock,
    names_in,
)
from .statistics import metric_columns
from .stored import StoredRun
from .table import GUIDED_COLUMNS, SEEDS, SPEC, Labels, deviation_of

COUNTED = ("nfe", "network_evaluations")
"""Columns whose mean has no interval: an adaptive sampler makes other numbers of calls for other noise."""


@dataclass(frozen=True)
class OverSeeds:
    """One table of several seeds."""

    table: pd.DataFrame
    """With the columns `seeds`, how many, and `<metric>_sd`, the standard deviation between them."""
    labels: Labels
    origins: tuple[Origin, ...]
    """The origin of each row in the first run."""
    seeds: tuple[int, ...]
    notes: tuple[str, ...]
    """What a reader of the table must know."""


def over_seeds(runs: Sequence[StoredRun]) -> OverSeeds:
    """The rows that all runs have finished, in the order of the first run.

    Raises InputError if the runs differ in more than their seeds, share a seed, or have no row in common.
    """
    check_comparable(runs, "seeds", but=("seed",))
    seeds = tuple(run.record.config.seed for run in runs)
    for place, seed in enumerate(seeds):
        if seed in seeds[:place]:
            twin = runs[seeds.index(seed)].path
            raise InputError(f"seeds {runs[place].path}: seed {seed}, as {twin}; expected runs of different seeds")
    known, first = [finished_rows(run) for run in runs], runs[0]
    names, found, origins, left_out = names_in(runs, "seeds"), [], [], []
    for place, identity in enumerate(identities_of(first)):
        cell = first.record.cells[place]
        if all(identity in rows for rows in known):
            row = mean_row([rows[identity] for rows in known])
            found.append({**row, "sampler": names[cell.sampler] or cell.sampler, SPEC: cell.sampler})
            origins.append(Origin(first, place))
        else:
            left_out.append(cell_name(cell))
    if not found:
        raise InputError(f"seeds {runs[-1].path}: no row is finished in all runs; expected runs of the same samplers")
    table = pd.DataFrame(found).drop(columns=[] if any(names.values()) else [SPEC])
    comparable = have_comparable_seconds(runs)
    if not comparable:
        table[[name for name in table.columns if is_of_the_clock(str(name))]] = math.nan
    notes = [RUNS_NOTE if comparable else SECONDS_NOTE]
    notes += [f"left out, because it is not finished in all runs: {'; '.join(left_out)}"] if left_out else []
    alone = [name for name in first.labels if any(name not in run.labels for run in runs)]
    notes += [f"left out, because not all runs measure it: {', '.join(alone)}"] if alone else []
    return OverSeeds(table, first.labels, tuple(origins), seeds, tuple(notes))


def finished_rows(run: StoredRun) -> dict[Identity, dict[str, Any]]:
    """The rows of a run that have all of their samples."""
    # A row of fewer samples has another bias, so it is no draw of the same number.
    rows = zip(identities_of(run), run.table.to_dict("records"), run.outcomes, strict=True)
    return {
        identity: {str(name): value for name, value in row.items()}
        for identity, row, outcome in rows
        if outcome.is_whole
    }


def mean_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of one cell's rows: with interval and deviation for each metric, without for counts and seconds."""
    mean = {**rows[0], SEEDS: len(rows)}
    mean |= {name: plain_mean([row[name] for row in rows]) for name in COUNTED}
    for name in averaged(rows[0]):
        values = [row.get(name, math.nan) for row in rows]
        mean |= dict(zip((*metric_columns(name), deviation_of(name)), mean_of(values), strict=True))
    clocked = {name for name in mean if is_of_the_clock(name) and isinstance(mean[name], float)}
    # The median of a run has quartiles; a mean of medians has none of its own.
    mean |= {name: plain_mean([row.get(name, math.nan) for row in rows]) for name in clocked}
    mean |= dict.fromkeys(metric_columns(SECONDS)[1:], math.nan)
    flags = [row["timing"] for row in rows if isinstance(row.get("timing"), str)]
    # One doubtful time makes the mean of all doubtful.
    return mean | ({"timing": next((flag for flag in flags if flag != timing.OK), flags[0])} if flags else {})


def averaged(row: dict[str, Any]) -> list[str]:
    """The metrics among a row's columns, and the ODE errors."""
    own = (*timing.COLUMNS, "guidance", *GUIDED_COLUMNS)
    return [name for name in row if metric_columns(name)[1] in row and name not in own]


def plain_mean(values: Sequence[float]) -> float:
    """The mean; a whole number where all values are one."""
    return values[0] if len(set(values)) == 1 else statistics.fmean(values)


def mean_of(values: Sequence[float]) -> tuple[float, float, float, float]:
    """The mean, both ends of its 95 % interval by Student's t, and the standard deviation; nan where a value is
    missing, and the last three of a single value."""
    if not all(map(math.isfinite, values)):
        return (math.nan,) * 4
    mean = statistics.fmean(values)
    if len(values) < 2:  # noqa: PLR2004  (a spread)
        return mean, math.nan, math.nan, math.nan
    deviation = statistics.stdev(values)
    half = student_t(len(values) - 1) * deviation / math.sqrt(len(values))
    return mean, mean - half, mean + half, deviation

"""The verdicts of `table --pareto` on every row of a run, kept with what they belong to, so that a page needs no model.

They are those of `pareto`: quality against seconds, with differences that are shown and seconds that are no more
beyond noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pandas as pd

from ...samplers.errors import SamplerbenchError
from ..draw.store import CHUNKS
from .answers import signature
from .compare import SECONDS
from .kept import keep, kept
from .measures import Measures
from .pareto import placed
from .scores import scores_by
from .statistics import metric_columns
from .stored import StoredRun

FRONTS = f"{CHUNKS}/fronts.json"
Fronts = dict[str, list[str]]
"""By metric the verdict of each row of the table."""


def fronts_of(run: StoredRun, metrics: Sequence[str], measures: Measures | None) -> Fronts:
    """The verdicts that a run folder has, or that its chunks and metrics give, which are then kept.

    {} if there are neither, or where seconds cannot be compared.
    """
    there = kept(run.path / FRONTS, clocked_signature(run))
    if is_fronts(there, len(run.table)):
        return dict(there)
    if measures is None:
        return {}
    try:
        ready = measures()
        found = {
            name: verdicts(placed(scores_by(run, ready, name, by="seconds"), "seconds"), run.table) for name in metrics
        }
    except SamplerbenchError:
        return {}
    keep(run.path / FRONTS, clocked_signature(run), found)
    return found


def is_fronts(value: Any, rows: int) -> bool:
    """Whether a value from a file, which may be a stranger's, is `Fronts` of a table of so many rows."""
    try:
        fronts = msgspec.convert(value, Fronts)
    except msgspec.ValidationError:
        return False
    return all(len(verdicts) == rows for verdicts in fronts.values())


def verdicts(ranked: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """The verdict of each row of the table; `ranked` has another order. Rows of one sampler and count are one cell."""
    names = ["sampler", "grid", "steps"]
    by_cell = dict(zip(ranked[names].itertuples(index=False, name=None), ranked["verdict"], strict=True))
    return [by_cell[cell] for cell in table[names].itertuples(index=False, name=None)]


def clocked_signature(run: StoredRun) -> list[list[Any]]:
    """What a table was made from, and the seconds in it: repeats for the clock change them alone."""
    clocked = run.table[[name for name in metric_columns(SECONDS) if name in run.table]]
    seconds = [[None if pd.isna(value) else float(value) for value in row] for row in clocked.to_numpy().tolist()]
    return [[*made_from, *row] for made_from, row in zip(signature(run), seconds, strict=True)]

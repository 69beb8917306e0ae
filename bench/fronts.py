"""The verdicts of `table --pareto` on every row of a run, kept with what they belong to, so that a page needs no model.

They are those of `pareto`: quality against seconds, with differences that are shown and seconds that are no more
beyond noise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..samplers.errors import SamplerbenchError
from ..samplers.files import write_atomically
from ..samplers.registry import Registry
from .answers import signature
from .compare import SECONDS
from .pareto import pareto
from .statistics import metric_columns
from .store import CHUNKS, disk_errors

FRONTS = f"{CHUNKS}/fronts.json"
Fronts = dict[str, list[str]]
"""By metric the verdict of each row of the table."""


def fronts_of(
    path: Path, about: Mapping[str, Any], table: pd.DataFrame, metrics: Sequence[str], registry: Registry | None
) -> Fronts:
    """The verdicts that a run folder has, or that its chunks and the registry's model give, which are then kept.

    {} if there are neither, or where seconds cannot be compared.
    """
    kept = read_fronts(path, about, table)
    if kept is not None or registry is None:
        return kept or {}
    try:
        found = {metric: verdicts(pareto(path, registry, metric), table) for metric in metrics}
    except SamplerbenchError:
        return {}
    write_fronts(path, about, table, found)
    return found


def verdicts(placed: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """The verdict of each row of the table; `placed` has another order. Rows of one sampler and count are one cell."""
    names = ["sampler", "grid", "steps"]
    by_cell = dict(zip(placed[names].itertuples(index=False, name=None), placed["verdict"], strict=True))
    return [by_cell[cell] for cell in table[names].itertuples(index=False, name=None)]


def write_fronts(path: Path, about: Mapping[str, Any], table: pd.DataFrame, fronts: Fronts) -> None:
    """Keep the verdicts."""
    content = json.dumps({"table": clocked_signature(about, table), "fronts": fronts}).encode()
    file = path / FRONTS
    with disk_errors(file):
        write_atomically(file, content)


def read_fronts(path: Path, about: Mapping[str, Any], table: pd.DataFrame) -> Fronts | None:
    """What `write_fronts` kept, None if there is nothing, or nothing that belongs to this table."""
    try:
        content = json.loads((path / FRONTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("table") != clocked_signature(about, table):
        return None
    fronts: Fronts = content["fronts"]
    return fronts


def clocked_signature(about: Mapping[str, Any], table: pd.DataFrame) -> list[list[Any]]:
    """What a table was made from, and the seconds in it: repeats for the clock change them alone."""
    clocked = table[[name for name in metric_columns(SECONDS) if name in table]]
    seconds = [[None if pd.isna(value) else float(value) for value in row] for row in clocked.to_numpy().tolist()]
    return [[*made_from, *row] for made_from, row in zip(signature(about, table), seconds, strict=True)]

"""The verdicts that a run keeps beside its chunks, so that a page needs neither model nor metric.

answers.json says who leads at each budget, fronts.json which rows are worth their seconds. Each also records what it
was computed from, and by which code: a file that belongs to another table or another version is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pandas as pd

from ...samplers.errors import SamplerbenchError
from ...samplers.files.atomic import write_beside_others
from ..draw.folder import CHUNKS
from ..draw.sealed_file import bytes_of, disk_errors, seal_json, unseal_json
from .compare import SECONDS
from .pareto import front_table
from .ranking import Answer, is_finished
from .run_metrics import LoadMetrics
from .scores import Scores, scores_by_each
from .statistics import metric_columns
from .stored import StoredRun

ANSWERS = f"{CHUNKS}/answers.json"
FRONTS = f"{CHUNKS}/fronts.json"
Fronts = dict[str, list[str]]
"""For each metric, the verdict of each row of the table."""
T = TypeVar("T")
PACKAGE = Path(__file__).parents[2]
JUDGED_BY = ("bench/judge/*.py", "plugins/metrics/*.py", "samplers/metric.py", "samplers/student.py")
"""The files of this package that decide about values, intervals and verdicts."""


@cache
def version_of_judging() -> str:
    """The hash of all code of this package that a verdict depends on."""
    files = sorted(file for pattern in JUDGED_BY for file in PACKAGE.glob(pattern))
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def keep(file: Path, belongs_to: Any, value: Any) -> None:
    """Write a value with what it belongs to, unless it is there already; a run and its reports may do so at once."""
    # Written only when it changes, so that to look at a report leaves the folder as it is.
    content = seal_json(json.dumps({"of": belongs_to, "by": version_of_judging(), "kept": msgspec.to_builtins(value)}))
    with disk_errors(file):
        if not file.exists() or bytes_of(file) != content:
            write_beside_others(file, content)


def read_kept(file: Path, belongs_to: Any, kind: type[T]) -> T | None:
    """What `keep` wrote; None if it is missing, of another kind or version, or belongs to something else."""
    try:
        value = unseal_json(bytes_of(file))
        is_valid = value.get("of") == belongs_to and value.get("by") == version_of_judging()
        return msgspec.convert(value.get("kept"), kind) if is_valid else None
    except (OSError, ValueError, RecursionError):
        return None


def signature(run: StoredRun) -> list[list[Any]]:
    """What a table was made from: the cell and the number of samples of each row."""
    return [[cell.key, int(n)] for cell, n in zip(run.record.cells, run.table["samples"], strict=True)]


def clocked_signature(run: StoredRun) -> list[list[Any]]:
    """What `signature` says, and the seconds, which repeats for the clock change without changing any sample."""
    clocked = run.table[[name for name in metric_columns(SECONDS) if name in run.table]]
    seconds = [[None if pd.isna(value) else float(value) for value in row] for row in clocked.to_numpy().tolist()]
    return [[*made_from, *row] for made_from, row in zip(signature(run), seconds, strict=True)]


def write_answers(run: StoredRun, answers: Sequence[Answer]) -> None:
    """Keep the answers of a run."""
    keep(run.path / ANSWERS, signature(run), answers)


def read_answers(run: StoredRun) -> list[Answer] | None:
    """The answers that `write_answers` kept; None if there are none for this table."""
    answers = read_kept(run.path / ANSWERS, signature(run), list[Answer])
    # A file that was edited may name a row that the table does not have, and the page would fail on it.
    named = (row for answer in answers or () for row in (answer.best, *(other.row for other in answer.others)))
    return answers if all(row < len(run.table) for row in named) else None


def fronts_of(run: StoredRun, names: Sequence[str], metrics: LoadMetrics | None) -> Fronts:
    """The verdicts of `table --pareto` on every row: quality in each named metric against seconds.

    They are read from the run, or computed from its chunks and metrics and then kept. {} if neither is possible, if
    seconds cannot be compared, or if the run is not finished: the page of one that was stopped is no look at it.
    """
    there = read_kept(run.path / FRONTS, clocked_signature(run), Fronts)
    # As above: one verdict for each row, or the file is of no use.
    if there is not None and all(len(rows) == len(run.table) for rows in there.values()):
        return there
    if metrics is None or not is_finished(run):
        return {}
    try:
        # To load the model may fail on this machine; then the page is shown without these verdicts.
        found = fronts_from(run, scores_by_each(run, metrics(), names, by="seconds"))
    except SamplerbenchError:
        return {}
    write_fronts(run, found)
    return found


def fronts_from(run: StoredRun, by_name: Mapping[str, Scores]) -> Fronts:
    """The verdicts on every row, from the rows by each metric."""
    return {name: verdicts(front_table(scores, "seconds"), run) for name, scores in by_name.items()}


def write_fronts(run: StoredRun, fronts: Fronts) -> None:
    """Keep the verdicts of a run against seconds."""
    keep(run.path / FRONTS, clocked_signature(run), fronts)


def verdicts(ranked: pd.DataFrame, run: StoredRun) -> list[str]:
    """The verdict of each row of the table; `ranked` has another order.

    Rows of one sampler, count and guidance are one cell.
    """
    names = ["sampler", "grid", "steps", "guidance"]
    by_cell = dict(zip(ranked[names].itertuples(index=False, name=None), ranked["verdict"], strict=True))
    return [by_cell[cell] for cell in run.table[names].itertuples(index=False, name=None)]

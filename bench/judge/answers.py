"""The answer of a run: at each budget of model calls, which sampler is best, and from which is it told apart?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import pandas as pd

from ...samplers.metric import Estimate
from ..draw.chunk_file import Place
from ..draw.store import CHUNKS
from ..plan.record import Count, Positive
from ..plan.yardstick import Yardstick
from .kept import keep, kept
from .races import Answer, Field, Race, answers_to, contenders, races_in
from .statistics import estimates, gather
from .stored import StoredRun

ANSWERS = f"{CHUNKS}/answers.json"
ODE_ERROR = "ode_error"


@dataclass(frozen=True)
class Source:
    """Where the samples of a row are, and what measures them."""

    run: StoredRun
    key: str
    ready: Mapping[str, Yardstick]


def answers_for(run: StoredRun, ready: Mapping[str, Yardstick]) -> list[Answer]:
    """The answers of a run from the chunks that its table is made from; [] where not all of those are there."""
    sources = {i: Source(run, key, ready) for i, key in keys_of(run).items()}
    if sum(n for _, n in common_places(list(sources.values()))) != run.table["samples"].max():
        return []
    return answers_from(run, estimates_of(sources), directions(ready))


def answers_from(
    run: StoredRun, found: Mapping[int, Mapping[str, Estimate]], lower: Mapping[str, bool]
) -> list[Answer]:
    """The answers of a run, given what was measured of each row that has samples."""
    field = Field(keys_of(run), found, lower)
    rows = {i: row for i, row in enumerate(run.table.to_dict("records")) if i in field.keys}
    return answers_to(own_races(rows, budgets_of(run), field), field)


def own_races(rows: Mapping[int, Mapping[Any, Any]], budgets: Sequence[int], field: Field) -> list[Race]:
    """The races that a run answers for, of its rows that have samples, at its budgets of model calls."""
    samplers, calls = ({i: row[name] for i, row in rows.items()} for name in ("sampler", "nfe"))
    fitting: dict[float, dict[str, int]] = {budget: contenders(samplers, calls, budget) for budget in budgets}
    return list(races_in(field, field.lower, fitting).values())


def keys_of(run: StoredRun) -> dict[int, str]:
    """The cell's key of each row that has samples."""
    return {i: run.record.cells[i].key for i, samples in enumerate(run.table["samples"]) if samples > 0}


def directions(ready: Mapping[str, Yardstick]) -> dict[str, bool]:
    """Of each metric, and the ODE error, whether lower is better."""
    return {name: yardstick.metric.better == "lower" for name, yardstick in ready.items()} | {ODE_ERROR: True}


def estimates_of(sources: Mapping[int, Source]) -> dict[int, dict[str, Estimate]]:
    """The estimates of each row, on the samples that all of them have; {} where there are none."""
    common = common_places(list(sources.values()))
    n = sum(samples for _, samples in common)
    if not common:
        return {}
    return {
        i: estimates(gather((s.run.folder.read_at(s.key, place) for place in common), n, s.ready), s.ready)
        for i, s in sources.items()
    }


def common_places(sources: Sequence[Source]) -> list[Place]:
    """Of the chunks that all rows have: first sample index, number of samples."""
    there = [set(source.run.folder.places_of(source.key)) for source in sources]
    return sorted(set.intersection(*there)) if there else []


def budgets_of(run: StoredRun) -> list[int]:
    """The budgets of model calls to answer for: the run's own counts, and the most calls that a row made."""
    counts = sorted(run.record.config.counts)
    most = pd.to_numeric(run.table["nfe"]).max()
    return [*counts, math.ceil(most)] if most > counts[-1] else counts


def write_answers(run: StoredRun, answers: Sequence[Answer]) -> None:
    """Keep the answers with what they belong to, so that a report needs neither model nor metric."""
    keep(run.path / ANSWERS, signature(run), [_without_nan(answer) for answer in answers])


def read_answers(run: StoredRun) -> list[Answer] | None:
    """What `write_answers` kept, None if there is nothing, or nothing that belongs to this table."""
    answers = kept(run.path / ANSWERS, signature(run))
    is_sound = isinstance(answers, list) and all(is_answer(answer, len(run.table)) for answer in answers)
    return answers if is_sound else None


class OtherRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row beside the best of an answer, as it is stored."""

    row: Count
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    verdict: str


class AnswerRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer, as it is stored."""

    metric: str
    better: Literal["lower", "higher"]
    budget: Positive
    best: Count
    others: list[OtherRecord]


def is_answer(value: Any, rows: int) -> bool:
    """Whether a value from a file, which may be a stranger's, is an answer on a table of so many rows."""
    try:
        answer = msgspec.convert(value, AnswerRecord)
    except msgspec.ValidationError:
        return False
    return all(row < rows for row in (answer.best, *(other.row for other in answer.others)))


def signature(run: StoredRun) -> list[list[Any]]:
    """What a table was made from: each row's cell and how many samples."""
    return [[cell.key, int(n)] for cell, n in zip(run.record.cells, run.table["samples"], strict=True)]


def _without_nan(value: Any) -> Any:
    """The same with None for what is no finite number."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""The answer of a run: at each budget of model calls, which sampler is best, and from which is it told apart?

The best is chosen by the same samples that it is then compared on, so the comparisons that are corrected for are all
pairs of samplers at every budget and in every metric (Holm 1979), not only those of the best.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from ..samplers.metric import Estimate
from .compare import BETTER, SAME, Comparison, holm
from .statistics import Yardstick, estimates, gather
from .store import CHUNKS, Place, RunFolder, disk_errors, write_atomically

ANSWERS = f"{CHUNKS}/answers.json"
ODE_ERROR = "ode_error"
Answer = dict[str, Any]
"""metric, better, budget, `best`: a row of the table, and `others`: each against the best, the next best first."""
Row = Mapping[Any, Any]


@dataclass(frozen=True)
class Source:
    """Where the samples of a row are, and what measures them."""

    folder: RunFolder
    key: str
    ready: Mapping[str, Yardstick]


@dataclass(frozen=True)
class Race:
    """Rows that are compared with each other in a metric."""

    metric: str
    budget: int
    places: Sequence[int]
    """Of the rows in the table."""


def answers_for(
    about: Mapping[str, Any], table: pd.DataFrame, folder: RunFolder, ready: Mapping[str, Yardstick]
) -> list[Answer]:
    """The answers of a run folder, whose run.json is `about`, from the chunks that its table is made from."""
    keys = {i: about["cells"][i]["key"] for i, samples in enumerate(table["samples"]) if samples > 0}
    found = estimates_of({i: Source(folder, key, ready) for i, key in keys.items()})
    lower = directions(ready)
    races = [
        Race(metric, budget, places)
        for metric in lower
        for budget in budgets_of(about, table)
        if (places := contenders(table, metric, budget, found))
    ]
    return answers_to(races, found, lower)


def directions(ready: Mapping[str, Yardstick]) -> dict[str, bool]:
    """Of each metric, and the ODE error, whether lower is better."""
    return {name: yardstick.metric.better == "lower" for name, yardstick in ready.items()} | {ODE_ERROR: True}


def answers_to(
    races: Sequence[Race], found: Mapping[int, Mapping[str, Estimate]], lower: Mapping[str, bool]
) -> list[Answer]:
    """Who leads each race, and what is shown of that; corrected for all pairs of all races."""

    def compared(metric: str, a: int, b: int) -> Comparison:
        return Comparison(metric, {}, {}, found[a][metric] - found[b][metric], lower[metric])

    pairs = {(race.metric, a, b) for race in races for a, b in combinations(sorted(race.places), 2)}
    p_values = corrected({pair: compared(*pair) for pair in sorted(pairs)})

    def against(metric: str, best: int, other: int) -> dict[str, Any]:
        comparison, p = compared(metric, best, other), p_values[metric, min(best, other), max(best, other)]
        difference = comparison.difference
        return {
            "row": other, "difference": difference.value, "low": difference.low, "high": difference.high, "p": p,
            "verdict": comparison.verdict(p),
        }  # fmt: skip

    answers = []
    for race in races:
        metric, sign = race.metric, 1 if lower[race.metric] else -1
        best, *rest = sorted(race.places, key=lambda row: sign * found[row][metric].value)
        answers.append({
            "metric": metric, "better": "lower" if lower[metric] else "higher", "budget": race.budget, "best": best,
            "others": [against(metric, best, other) for other in rest],
        })  # fmt: skip
    return answers


def shown_best(answers: Sequence[Answer]) -> set[tuple[int, str]]:
    """(row, metric) of each that is shown to be better than every other of its race."""
    return {
        (answer["best"], answer["metric"])
        for answer in answers
        if answer["others"] and all(other["verdict"] == BETTER for other in answer["others"])
    }


def corrected(pairs: Mapping[tuple[str, int, int], Comparison]) -> dict[tuple[str, int, int], float]:
    """p of each pair after Holm's correction; those with the same samples are no question and do not count."""
    asked = {key: pair for key, pair in pairs.items() if pair.verdict(1.0) != SAME}
    p_values = holm([pair.p for pair in asked.values()])
    return dict.fromkeys(pairs, 1.0) | dict(zip(asked, p_values, strict=True))


def estimates_of(sources: Mapping[int, Source]) -> dict[int, dict[str, Estimate]]:
    """The estimates of each row, on the samples that all of them have; {} where there are none."""
    common = common_places(list(sources.values()))
    n = sum(samples for _, samples in common)
    if not common:
        return {}
    return {
        i: estimates(gather((s.folder.read_at(s.key, place) for place in common), n, s.ready), s.ready)
        for i, s in sources.items()
    }


def common_places(sources: Sequence[Source]) -> list[Place]:
    """Of the chunks that all rows have: first sample index, number of samples."""
    there = [set(source.folder.places_of(source.key)) for source in sources]
    return sorted(set.intersection(*there)) if there else []


def budgets_of(about: Mapping[str, Any], table: pd.DataFrame) -> list[int]:
    """The budgets of model calls to answer for: the run's own counts, and the most calls that a row made."""
    counts = sorted(about["config"]["nfe"] or about["config"]["steps"])
    most = pd.to_numeric(table["nfe"]).max()
    return [*counts, math.ceil(most)] if most > counts[-1] else counts


def contenders(table: pd.DataFrame, metric: str, budget: int, found: Mapping[int, Mapping[str, Estimate]]) -> list[int]:
    """Of each sampler the row with the most calls within the budget, if the metric was estimated there."""
    within = ((i, row) for i, row in _rows(table) if i in found and row["nfe"] <= budget)
    most: dict[str, tuple[int, Row]] = {}
    for i, row in within:
        name = row["sampler"]
        if name not in most or row["nfe"] >= most[name][1]["nfe"]:
            most[name] = (i, row)
    return [i for i, _ in most.values() if metric in found[i] and math.isfinite(found[i][metric].value)]


def write_answers(folder: RunFolder, about: Mapping[str, Any], table: pd.DataFrame, answers: Sequence[Answer]) -> None:
    """Keep the answers with what they belong to, so that a report needs neither model nor metric."""
    path = folder.path / ANSWERS
    kept = {"table": signature(about, table), "answers": [_without_nan(answer) for answer in answers]}
    content = json.dumps(kept).encode()
    with disk_errors(path):
        if not path.exists() or path.read_bytes() != content:
            write_atomically(path, content)


def read_answers(folder: RunFolder, about: Mapping[str, Any], table: pd.DataFrame) -> list[Answer] | None:
    """What `write_answers` kept, None if there is nothing, or nothing that belongs to this table."""
    try:
        content = json.loads((folder.path / ANSWERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("table") != signature(about, table):
        return None
    answers: list[Answer] = content["answers"]
    return answers


def signature(about: Mapping[str, Any], table: pd.DataFrame) -> list[list[Any]]:
    """What a table was made from: each row's cell and how many samples."""
    return [[cell["key"], int(n)] for cell, n in zip(about["cells"], table["samples"], strict=True)]


def _rows(table: pd.DataFrame) -> Iterator[tuple[int, Row]]:
    return enumerate(table.to_dict("records"))


def _without_nan(value: Any) -> Any:
    """The same with None for what is no finite number."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""The answer of a run: at each budget of model calls, which sampler is best, and from which is it told apart?

The best is chosen by the same samples that it is then compared on, so the comparisons that are corrected for are all
pairs of samplers at every budget and in every metric (Holm 1979), not only those of the best.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from ..samplers.metric import Estimate
from .compare import SAME, Comparison, holm
from .statistics import Yardstick, estimates, gather
from .store import CHUNKS, RunFolder, disk_errors, write_atomically

ANSWERS = f"{CHUNKS}/answers.json"
ODE_ERROR = "ode_error"
Answer = dict[str, Any]
"""metric, better, budget, `best`: a row of the table, and `others`: each against the best, the next best first."""
Row = Mapping[Any, Any]


def answers_for(
    about: Mapping[str, Any], table: pd.DataFrame, folder: RunFolder, ready: Mapping[str, Yardstick]
) -> list[Answer]:
    """The answers of a run folder, whose run.json is `about`, from the chunks that its table is made from."""
    found = estimates_of(about, table, folder, ready)
    lower = {name: yardstick.metric.better == "lower" for name, yardstick in ready.items()} | {ODE_ERROR: True}

    def compared(metric: str, a: int, b: int) -> Comparison:
        return Comparison(metric, {}, {}, found[a][metric] - found[b][metric], lower[metric])

    races = [
        (metric, budget, places)
        for metric in lower
        for budget in budgets_of(about, table)
        if (places := contenders(table, metric, budget, found))
    ]
    pairs = {(metric, a, b) for metric, _, places in races for a, b in combinations(sorted(places), 2)}
    p_values = corrected({pair: compared(*pair) for pair in sorted(pairs)})

    def against(metric: str, best: int, other: int) -> dict[str, Any]:
        comparison, p = compared(metric, best, other), p_values[metric, min(best, other), max(best, other)]
        difference = comparison.difference
        return {
            "row": other, "difference": difference.value, "low": difference.low, "high": difference.high, "p": p,
            "verdict": comparison.verdict(p),
        }  # fmt: skip

    answers = []
    for metric, budget, places in races:
        sign = 1 if lower[metric] else -1
        best, *rest = sorted(places, key=lambda row: sign * found[row][metric].value)
        answers.append({
            "metric": metric, "better": "lower" if lower[metric] else "higher", "budget": budget, "best": best,
            "others": [against(metric, best, other) for other in rest],
        })  # fmt: skip
    return answers


def corrected(pairs: Mapping[tuple[str, int, int], Comparison]) -> dict[tuple[str, int, int], float]:
    """p of each pair after Holm's correction; those with the same samples are no question and do not count."""
    asked = {key: pair for key, pair in pairs.items() if pair.verdict(1.0) != SAME}
    p_values = holm([pair.p for pair in asked.values()])
    return dict.fromkeys(pairs, 1.0) | dict(zip(asked, p_values, strict=True))


def estimates_of(
    about: Mapping[str, Any], table: pd.DataFrame, folder: RunFolder, ready: Mapping[str, Yardstick]
) -> dict[int, dict[str, Estimate]]:
    """The estimates of each row that has numbers, on the samples that all of them have."""
    keys = {i: about["cells"][i]["key"] for i, samples in enumerate(table["samples"]) if samples > 0}
    if not keys:
        return {}
    common = sorted(set.intersection(*(set(folder.places_of(key)) for key in keys.values())))
    n = sum(samples for _, samples in common)
    if not common:
        return {}
    return {
        i: estimates(gather((folder.read_at(key, place) for place in common), n, ready), ready)
        for i, key in keys.items()
    }


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

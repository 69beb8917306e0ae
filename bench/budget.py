"""What a budget buys: of each sampler the row that makes the most of it, ranked, and what is shown of the ranks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..samplers.errors import InputError
from ..samplers.registry import Registry
from .compare import SAME, p_to_text
from .scores import NOT_MEASURED, Cost, Score, Scores, flag_to_text, number_to_text, scores_of
from .sheet import heading_of, with_interval
from .table import Labels

COLUMNS = (
    "by", "budget", "rank", "sampler", "grid", "steps", "nfe", "seconds_per_image", "timing",
    "metric", "value", "low", "high", "difference", "difference_low", "difference_high", "p", "verdict",
)  # fmt: skip
BEST, NO_ROW = "best", "no row within the budget"


def budgets(path: Path, registry: Registry, by: Cost, amounts: Sequence[float], metric: str | None) -> pd.DataFrame:
    """For each budget a row for each sampler of a run, best first; those that have nothing within it come last.

    A row fits if its calls, or the upper quartile of its seconds an image (the median where there are no quartiles),
    are not above the budget. `difference` is the metric less that of the best, with its 95 % interval. The best is
    picked by looking, so p is corrected for all pairs that fit a budget, over all budgets, as any of them could have
    become one with the best. Raises InputError as `scores_of`.
    """
    scores = scores_of(path, registry, metric, by=by)
    fitting = {amount: _fitting(scores, by, amount) for amount in amounts}
    measured = [[score for score in fit.values() if score and score.estimate] for fit in fitting.values()]
    corrected = scores.corrected(pair for rows in measured for pair in itertools.combinations(rows, 2))
    rows = [
        {"by": by, "budget": amount, "metric": scores.metric, **row}
        for amount, fit in fitting.items()
        for row in _ranked(scores, fit, corrected)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _fitting(scores: Scores, by: Cost, amount: float) -> dict[str, Score | None]:
    """For each sampler the row that costs the most within the budget; None if there is none."""
    best: dict[str, Score | None] = {str(score.cell["sampler"]): None for score in scores.rows}
    for score in scores.rows:
        name, cost = str(score.cell["sampler"]), score.upper_cost(by)
        before = best[name]
        if score.row["samples"] and cost <= amount and (before is None or before.upper_cost(by) <= cost):
            best[name] = score
    return best


def _ranked(
    scores: Scores, fit: Mapping[str, Score | None], corrected: Mapping[frozenset[str], float]
) -> list[dict[str, Any]]:
    """The rows of one budget."""
    ranked = scores.best_first(score for score in fit.values() if score and score.estimate)
    rows = [_row(scores, score, rank, ranked[0], corrected) for rank, score in enumerate(ranked, 1)]
    rows += [_identity(score) | {"verdict": NOT_MEASURED} for score in fit.values() if score and not score.estimate]
    drawn = {score.cell["sampler"] for score in scores.rows if score.row["samples"]}
    return rows + [
        {"sampler": name, "verdict": NO_ROW if name in drawn else NOT_MEASURED}
        for name, score in fit.items()
        if score is None
    ]


def _identity(score: Score) -> dict[str, Any]:
    names = ("sampler", "grid", "steps", "nfe", "seconds_per_image", "timing")
    return {name: score.row.get(name) for name in names}


def _row(
    scores: Scores, score: Score, rank: int, best: Score, corrected: Mapping[frozenset[str], float]
) -> dict[str, Any]:
    """What is known of a row that fits, and what is shown of it beside the best."""
    assert score.estimate is not None
    estimate = score.estimate
    known = {"rank": rank, **_identity(score), "value": estimate.value, "low": estimate.low, "high": estimate.high}
    if score is best:
        return known | {"verdict": BEST}
    comparison, p = scores.comparison(score, best), corrected.get(frozenset((score.key, best.key)), 1.0)
    return known | {
        "difference": comparison.difference.value, "difference_low": comparison.low,
        "difference_high": comparison.high, "p": p, "verdict": comparison.verdict(p),
    }  # fmt: skip


def budgets_to_rows(found: pd.DataFrame, labels: Labels) -> list[dict[str, str]]:
    """The ranks as people read them, with no more digits than the intervals support."""
    return [
        {
            "budget": f"{row['budget']:g} {'calls' if row['by'] == 'nfe' else 's an image'}",
            "rank": number_to_text(row["rank"], "g"), "sampler": row["sampler"],
            "steps": number_to_text(row["steps"], "g"), "NFE": number_to_text(row["nfe"], "g"),
            "ms/image": number_to_text(row["seconds_per_image"], ".3g", 1000), "clock": flag_to_text(row["timing"]),
            heading_of(row["metric"], labels): with_interval(row["value"], row["low"], row["high"]),
            "less the best": with_interval(
                row["difference"], row["difference_low"], row["difference_high"]
            ) if row["verdict"] != SAME else "0",
            "p": p_to_text(row["p"]) if row["verdict"] != SAME else "-", "verdict": row["verdict"],
        }
        for row in found.to_dict("records")
    ]  # fmt: skip


def parse_seconds(text: str) -> tuple[float, ...]:
    """ "0.01,0.02" -> (0.01, 0.02)."""
    try:
        amounts = tuple(float(part) for part in text.split(","))
    except ValueError:
        amounts = ()
    if not amounts or not all(0 < amount < math.inf for amount in amounts):
        raise InputError(f"seconds {text[:80]!r}: expected positive numbers, seconds an image, as in 0.01,0.02")
    return amounts

"""What a budget buys: for each sampler its dearest row within it, ranked, and which ranks are shown to be real."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ...samplers.errors import InputError
from ...samplers.registry import Registry
from .compare import BETTER, WORSE
from .ranking import (
    Answer,
    Field,
    Other,
    answers_to,
    contenders,
    contestant,
    contestants,
    correct_pairs,
    own_races,
    races_in,
)
from .scores import NOT_MEASURED, Cost, Score, Scores, all_scores_of
from .stored import StoredRun

COLUMNS = (
    "by", "budget", "rank", "sampler", "grid", "steps", "guidance", "nfe", "seconds_per_image", "timing",
    "metric", "value", "low", "high", "difference", "difference_low", "difference_high", "p", "verdict",
    "family", "look",
)  # fmt: skip
BEST, NO_ROW = "best", "no row within the budget"


def budgets(run: StoredRun, registry: Registry, by: Cost, amounts: Sequence[float], metric: str | None) -> pd.DataFrame:
    """For each budget a row for each sampler of a run, best first; samplers without a row within it come last.

    A row fits if its calls, or the upper quartile of its seconds an image (the median where there are no quartiles),
    are not above the budget. `difference` is the metric less that of the best, with its 95 % interval. The best is
    chosen by its result, so p is corrected for all pairs of rows that compete at a budget, over all budgets: any of
    them could have been one with the best. The budgets that the run's report answers for count too, so that both give
    the same p, and so do the looks that were taken (`look`). Raises InputError as `scores_of`.
    """
    scores = all_scores_of(run, registry, metric, by=by)
    # Rows without samples compete for nothing, and are listed at the end.
    drawn = {i: score for i, score in enumerate(scores.rows) if score.row["samples"]}
    field = Field(
        {i: score.key for i, score in drawn.items()}, {i: score.found for i, score in drawn.items()}, scores.lower,
        scores.look.weight,
    )  # fmt: skip
    samplers = contestants({i: score.row for i, score in drawn.items()})
    # By the upper quartile, since a row whose time is often above the budget does not fit into it.
    costs = {i: score.upper_cost(by) for i, score in drawn.items()}
    fitting = {amount: contenders(samplers, costs, amount) for amount in amounts}
    races = races_in(field, [scores.metric], fitting)
    # The races of the run's own report are corrected for too: the reader has seen that report.
    own = own_races({i: score.row for i, score in drawn.items()}, scores.budgets, field)
    answers = dict(zip(races, answers_to(races.values(), field, own), strict=True))
    family = sum(metric == scores.metric for metric, *_ in correct_pairs(field, [*races.values(), *own]))
    rows = [
        {"by": by, "budget": amount, "metric": scores.metric, "family": family, "look": scores.look.number, **row}
        for amount, fit in fitting.items()
        for row in _rank_rows(scores, fit, answers.get((scores.metric, amount)))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rank_rows(scores: Scores, fit: Mapping[str, int], answer: Answer | None) -> list[dict[str, Any]]:
    """The rows of one budget: first those of the answer, then those that were not measured, then other samplers."""
    # First the race, in the order of its result.
    rows = [_value(scores.rows[answer.best], 1) | {"verdict": BEST}] if answer else []
    rows += [_beside_best(scores, other, rank) for rank, other in enumerate(answer.others, 2)] if answer else []
    names = contestants({i: score.row for i, score in enumerate(scores.rows)})
    several = len({score.row["guidance"] for score in scores.rows}) > 1
    # Then what fits into the budget and has no value of this metric.
    ranked = {contestant(row, several=several) for row in rows}
    rows += [_identity(scores.rows[i]) | {"verdict": NOT_MEASURED} for name, i in fit.items() if name not in ranked]
    # Last the samplers without a row within the budget: all their rows may cost too much, or none may be drawn.
    drawn: dict[str, tuple[bool, Score]] = {}
    for name, score in zip(names.values(), scores.rows, strict=True):
        drawn[name] = bool(score.row["samples"]) or drawn.get(name, (False, score))[0], score
    return rows + [
        {
            "sampler": score.row["sampler"], "guidance": score.row["guidance"],
            "verdict": NO_ROW if is_drawn else NOT_MEASURED,
        }
        for name, (is_drawn, score) in drawn.items()
        if name not in fit
    ]  # fmt: skip


def _identity(score: Score) -> dict[str, Any]:
    names = ("sampler", "grid", "steps", "guidance", "nfe", "seconds_per_image", "timing")
    return {name: score.row.get(name) for name in names}


def _value(score: Score, rank: int) -> dict[str, Any]:
    """The columns of a ranked row."""
    assert score.estimate is not None
    estimate = score.estimate
    return {"rank": rank, **_identity(score), "value": estimate.value, "low": estimate.low, "high": estimate.high}


def _beside_best(scores: Scores, other: Other, rank: int) -> dict[str, Any]:
    """The columns of a row that is not the best. An answer compares the best with it, so signs are turned here."""

    # Best less other becomes other less best: the sign changes, and the ends of the interval change places.
    def turned(value: float | None) -> float:
        return math.nan if value is None else -value

    return _value(scores.rows[other.row], rank) | {
        "difference": turned(other.difference), "difference_low": turned(other.high),
        "difference_high": turned(other.low), "p": other.p,
        "verdict": WORSE if other.verdict == BETTER else other.verdict,
    }  # fmt: skip


def parse_seconds(text: str) -> tuple[float, ...]:
    """ "0.01,0.02" -> (0.01, 0.02)."""
    try:
        amounts = tuple(float(part) for part in text.split(","))
    except ValueError:
        amounts = ()
    # Infinity and NaN are floats too: no row would compete for the one, and all for the other.
    if not amounts or not all(0 < amount < math.inf for amount in amounts):
        raise InputError(f"seconds {text[:80]!r}: expected positive numbers, seconds an image, as in 0.01,0.02")
    return amounts

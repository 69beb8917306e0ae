"""Quality against cost: which rows of a run are worth their cost, and which are shown to be worse."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ...samplers.registry import Registry
from ..draw import clock as timing
from .compare import BETTER, seconds_compared
from .scores import NOT_MEASURED, Cost, Score, Scores, scores_of
from .stored import StoredRun

COLUMNS = (
    "sampler", "grid", "steps", "guidance", "nfe", "seconds_per_image", "timing", "metric", "value", "low", "high",
    "against", "cost", "verdict", "dominated_by", "family", "look",
)  # fmt: skip
ON_FRONT, DOMINATED, CLOSE = "on the front", "dominated", "not told apart from the front"


def pareto(run: StoredRun, registry: Registry, metric: str | None = None, against: Cost = "seconds") -> pd.DataFrame:
    """A row for each cell of a run, the cheapest first, with a verdict.

    - "dominated": `dominated_by` is better in the metric, shown with p corrected for all pairs of rows (`family`) and
      for looks, and costs no more beyond noise: no more calls (one after the other, against depth); or a median of
      seconds no larger, or one up to this row's upper quartile that repeats side by side do not show to be larger;
    - "on the front": no row has a better value at no more cost;
    - "not told apart from the front": a row has, but that is not shown;
    - "not measured": failed, pending, without this metric or without seconds.

    `metric` is by default the run's first. Raises InputError as `scores_of`.
    """
    return front_table(scores_of(run, registry, metric, by=against), against)


def front_table(scores: Scores, against: Cost) -> pd.DataFrame:
    """The rows of `pareto`."""
    there = [score for score in scores.rows if score.estimate and math.isfinite(score.cost(against))]
    measured = with_shared_times(there)
    # All pairs, because any row may turn out to dominate any other.
    corrected = scores.correct_pairs(itertools.combinations(measured, 2))
    rows = [_row_with_verdict(scores, score, measured, corrected, against) for score in measured]
    rows += [_identity(scores, s, against) | {"verdict": NOT_MEASURED} for s in scores.rows if s not in there]
    known = {"family": len(corrected), "look": scores.look.number}
    table = pd.DataFrame([row | known for row in rows], columns=list(COLUMNS))
    return table.sort_values("cost", kind="stable", ignore_index=True)


def with_shared_times(scores: Sequence[Score]) -> list[Score]:
    """The rows, with the time of the first for all that have the same samples from as many calls: they are one method,
    and what their times differ by is noise."""
    firsts: list[Score] = []
    found = []
    for score in scores:
        first = next((first for first in firsts if is_one_method(first, score)), None)
        if first is None:
            firsts.append(score)
            found.append(score)
            continue
        times = {name: first.row[name] for name in timing.COLUMNS if name in first.row}
        found.append(replace(score, row={**score.row, **times}, clocked=first.clocked))
    return found


def is_one_method(a: Score, b: Score) -> bool:
    """Whether two rows have the same samples from as many model calls."""
    assert a.estimate is not None
    assert b.estimate is not None
    return a.estimate.has_samples_of(b.estimate) and bool(a.row["nfe"] == b.row["nfe"])


def _identity(scores: Scores, score: Score, against: Cost) -> dict[str, Any]:
    named = {name: score.row.get(name) for name in COLUMNS[:7]}
    return named | {"metric": scores.metric, "against": against, "cost": score.cost(against)}


def _row_with_verdict(
    scores: Scores, score: Score, measured: Sequence[Score], corrected: Mapping[frozenset[str], float], against: Cost
) -> dict[str, Any]:
    """A measured row with its verdict."""
    assert score.estimate is not None
    estimate = score.estimate
    known = {"value": estimate.value, "low": estimate.low, "high": estimate.high}

    def is_shown_better(other: Score) -> bool:
        p = corrected.get(frozenset((other.key, score.key)), 1.0)
        return scores.comparison(other, score).verdict(p) == BETTER

    # Both halves of dominance have to be shown: better beyond chance, and no more costly beyond noise.
    above = [other for other in measured if is_shown_better(other) and costs_no_more(other, score, against)]
    # The front itself is by the plain numbers; whether a row is off it for certain is the test above.
    verdict = ON_FRONT if _is_undominated(scores, score, measured, against) else CLOSE
    return _identity(scores, score, against) | known | {
        "verdict": DOMINATED if above else verdict,
        "dominated_by": scores.best_first(above)[0].name if above else None,
    }  # fmt: skip


def _is_undominated(scores: Scores, score: Score, measured: Sequence[Score], against: Cost) -> bool:
    """Whether no other row is at least as good in both numbers and better in one."""

    def place(one: Score) -> tuple[float, float]:
        return scores.loss(one), one.cost(against)

    mine = place(score)
    return not any(theirs != mine and theirs[0] <= mine[0] and theirs[1] <= mine[1] for theirs in map(place, measured))


def costs_no_more(a: Score, b: Score, against: Cost) -> bool:
    """Whether the cost of a is at most that of b, apart from noise."""
    if a.cost(against) <= b.cost(against):
        return True
    # Clearly more costly. Between the median and the upper quartile, only repeats side by side can tell.
    if a.cost(against) > b.upper_cost(against):
        return False
    return seconds_compared(a.cell, b.cell, a.clocked, b.clocked).low <= 0  # nan, if they cannot be compared

"""Rows that compete: of each sampler the one that makes the most of a budget, who leads, and by what that is shown.

The best is chosen by the same samples that it is then compared on, so the comparisons that are corrected for are all
pairs of rows that compete, at every budget and in every metric (Holm 1979), not only those of the best.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from ...samplers.metric import Estimate
from .compare import BETTER, SAME, Comparison, holm

Answer = dict[str, Any]
"""metric, better, budget, `best`: a row of the table, and `others`: each against the best, the next best first."""
Found = Mapping[int, Mapping[str, Estimate]]
"""What was measured of each row, by metric."""
Pair = tuple[str, int, int]
"""A metric and two rows in the order of the table."""


@dataclass(frozen=True)
class Field:
    """The rows of a table that can compete."""

    keys: Mapping[int, str]
    """Of each row its cell's: two rows of one cell are no question, and a third is compared with them once."""
    found: Found
    """On the same samples of each."""
    lower: Mapping[str, bool]
    """Of each metric whether lower is better."""

    def measured(self, metric: str, rows: Iterable[int]) -> list[int]:
        """Those of some rows that have a value of the metric."""
        return [i for i in rows if metric in self.found[i] and math.isfinite(self.found[i][metric].value)]

    def best_first(self, metric: str, rows: Iterable[int]) -> list[int]:
        """Measured rows by the metric's value."""
        sign = 1 if self.lower[metric] else -1
        return sorted(rows, key=lambda row: sign * self.found[row][metric].value)

    def pair(self, metric: str, a: int, b: int) -> Pair:
        """What a comparison of two rows is known by: the first rows of their cells."""
        first, second = sorted((self._firsts[a], self._firsts[b]))
        return metric, first, second

    @cached_property
    def _firsts(self) -> dict[int, int]:
        """Of each row the first of its cell."""
        seen: dict[str, int] = {}
        return {row: seen.setdefault(key, row) for row, key in sorted(self.keys.items())}

    def comparison(self, metric: str, a: int, b: int) -> Comparison:
        """The metric of a less that of b."""
        return Comparison(metric, None, None, self.found[a][metric] - self.found[b][metric], self.lower[metric])


@dataclass(frozen=True)
class Race:
    """Rows that are compared with each other in a metric."""

    metric: str
    budget: float
    places: Sequence[int]
    """Of the rows in the table."""


def contenders(samplers: Mapping[int, str], costs: Mapping[int, float], budget: float) -> dict[str, int]:
    """Of each sampler the row that costs the most within the budget, of several the last; none, if nothing fits."""
    most: dict[str, int] = {}
    for i, name in samplers.items():
        if costs[i] <= budget and (name not in most or costs[i] >= costs[most[name]]):
            most[name] = i
    return most


def races_in(
    field: Field, metrics: Collection[str], fitting: Mapping[float, Mapping[str, int]]
) -> dict[tuple[str, float], Race]:
    """By metric and budget the race of the rows that fit the budget; none where nothing was measured."""
    return {
        (metric, budget): Race(metric, budget, places)
        for metric in metrics
        for budget, fit in fitting.items()
        if (places := field.measured(metric, fit.values()))
    }


def answers_to(races: Iterable[Race], field: Field, beside: Iterable[Race] = ()) -> list[Answer]:
    """Who leads each race, and what is shown of that; corrected for all pairs of all races, and of those beside."""
    races = list(races)
    p_values = corrected(field, [*races, *beside])

    def against(metric: str, best: int, other: int) -> dict[str, Any]:
        comparison = field.comparison(metric, best, other)
        p = p_values.get(field.pair(metric, best, other), 1.0)
        return {
            "row": other, "difference": comparison.difference.value, "low": comparison.low, "high": comparison.high,
            "p": p, "verdict": comparison.verdict(p),
        }  # fmt: skip

    answers = []
    for race in races:
        best, *rest = field.best_first(race.metric, race.places)
        answers.append({
            "metric": race.metric, "better": "lower" if field.lower[race.metric] else "higher", "budget": race.budget,
            "best": best, "others": [against(race.metric, best, other) for other in rest],
        })  # fmt: skip
    return answers


def shown_best(answers: Sequence[Answer]) -> set[tuple[int, str]]:
    """(row, metric) of each that is shown to be better than every other of its race."""
    return {
        (answer["best"], answer["metric"])
        for answer in answers
        if answer["others"] and all(other["verdict"] == BETTER for other in answer["others"])
    }


def corrected(field: Field, races: Iterable[Race]) -> dict[Pair, float]:
    """p of each pair of the races after Holm's correction; those with the same samples are no question, and left out.

    A pair that competes in several races counts once.
    """
    pairs = {field.pair(race.metric, *two) for race in races for two in combinations(race.places, 2)}
    asked = {pair: comparison for pair in sorted(pairs) if (comparison := field.comparison(*pair)).verdict(1.0) != SAME}
    return dict(zip(asked, holm([comparison.p for comparison in asked.values()]), strict=True))

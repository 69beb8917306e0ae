"""Which sampler leads at each budget, and from which others is the leader told apart?

Each sampler competes with its dearest row within a budget. The best is chosen by the same samples that it is then
compared on, so p is corrected for all pairs of rows that compete, at every budget (Holm 1979), not only for those with
the best. Each metric is a separate question.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Annotated, Any, Literal

import pandas as pd
from msgspec import Meta, Struct

from ...samplers.metric import Estimate
from ..draw.chunk_file import Place
from ..plan.record import Count, Positive
from ..plan.yardstick import Yardstick
from .compare import BETTER, Comparison, comparison_of, corrected_p
from .looks import look_at
from .statistics import ODE_DISTANCE, ODE_ERROR, estimates, for_verdicts, gather
from .stored import StoredRun
from .table import rows_in

Found = Mapping[int, Mapping[str, Estimate]]
"""The estimates of each row, by metric."""
Pair = tuple[str, int, int]
"""A metric and two rows in the order of the table."""
Budget = Positive | Annotated[float, Meta(gt=0)]
"""Model calls, or seconds an image."""


class Other(Struct, frozen=True, forbid_unknown_fields=True):
    """A row that the best of its race is compared with, and what is shown about the best."""

    row: Count
    """Its place in the table."""
    difference: float | None
    """The metric of the best less that of this row; None if it is not finite."""
    low: float | None
    """Lower end of its 95 % interval."""
    high: float | None
    p: float
    """Corrected for all pairs that compete, and for looks."""
    verdict: str
    """The verdict on the best, in the words of `compare`."""


class Answer(Struct, frozen=True, forbid_unknown_fields=True):
    """The result of a race: its leader, and the others."""

    metric: str
    better: Literal["lower", "higher"]
    budget: Budget
    best: Count
    """The leader's place in the table."""
    others: tuple[Other, ...]
    """The next best first."""


@dataclass(frozen=True)
class Field:
    """The rows of a table that can compete."""

    keys: Mapping[int, str]
    """The key of each row's cell: two rows of one cell are not compared, and a third is compared with them once."""
    found: Found
    """Estimates on the same samples for all rows."""
    lower: Mapping[str, bool]
    """For each metric, whether lower is better."""
    weight: float = 1.0
    """The factor of p for the looks that were taken."""

    def rows_with(self, metric: str, rows: Iterable[int]) -> list[int]:
        """The rows that have a value of the metric."""
        return [i for i in rows if metric in self.found[i] and math.isfinite(self.found[i][metric].value)]

    def best_first(self, metric: str, rows: Iterable[int]) -> list[int]:
        """Measured rows by the metric's value."""
        # By value and not by p: which is best is decided first, and tested after.
        sign = 1 if self.lower[metric] else -1
        return sorted(rows, key=lambda row: sign * self.found[row][metric].value)

    def pair(self, metric: str, a: int, b: int) -> Pair:
        """The key of a comparison of two rows: the first rows of their cells."""
        # Sorted, so that a pair counts once in whichever order two races have it.
        first, second = sorted((self._firsts[a], self._firsts[b]))
        return metric, first, second

    @cached_property
    def _firsts(self) -> dict[int, int]:
        """For each row, the first row of its cell."""
        seen: dict[str, int] = {}
        return {row: seen.setdefault(key, row) for row, key in sorted(self.keys.items())}

    def comparison(self, metric: str, a: int, b: int) -> Comparison:
        """The metric of a less that of b."""
        return comparison_of(metric, None, None, self.found[a][metric], self.found[b][metric], self.lower[metric])


@dataclass(frozen=True)
class Race:
    """Rows that are compared with each other in a metric."""

    metric: str
    budget: float
    places: Sequence[int]
    """The places of the rows in the table."""


def contenders(samplers: Mapping[int, str], costs: Mapping[int, float], budget: float) -> dict[str, int]:
    """For each sampler its dearest row within the budget, the last of several; samplers without one are left out."""
    most: dict[str, int] = {}
    for i, name in samplers.items():
        # An unknown cost is NaN, which no comparison holds for.
        if costs[i] <= budget and (name not in most or costs[i] >= costs[most[name]]):
            most[name] = i
    return most


def races_in(
    field: Field, metrics: Collection[str], fitting: Mapping[float, Mapping[str, int]]
) -> dict[tuple[str, float], Race]:
    """The race of the rows within each budget, by metric and budget; none if nothing was measured."""
    return {
        (metric, budget): Race(metric, budget, places)
        for metric in metrics
        for budget, fit in fitting.items()
        if (places := field.rows_with(metric, fit.values()))
    }


def answers_to(races: Iterable[Race], field: Field, beside: Iterable[Race] = ()) -> list[Answer]:
    """The answer to each race, corrected for all pairs of the races in its metric, those in `beside` included."""
    races = list(races)
    # One correction for all races: the reader sees all of them at once.
    p_values = correct_pairs(field, [*races, *beside])

    def against(metric: str, best: int, other: int) -> Other:
        comparison = field.comparison(metric, best, other)
        # Pairs that are no question have no p: equal samples, or too few.
        p = p_values.get(field.pair(metric, best, other), 1.0)
        difference, low, high = map(finite, (comparison.difference.value, comparison.low, comparison.high))
        return Other(other, difference, low, high, p, comparison.verdict(p))

    def answer(race: Race) -> Answer:
        best, *rest = field.best_first(race.metric, race.places)
        others = tuple(against(race.metric, best, other) for other in rest)
        return Answer(race.metric, "lower" if field.lower[race.metric] else "higher", race.budget, best, others)

    return [answer(race) for race in races]


def finite(value: float) -> float | None:
    """A number for JSON: None if it is not finite."""
    return value if math.isfinite(value) else None


def clear_leaders(answers: Sequence[Answer]) -> set[tuple[int, str]]:
    """(row, metric) of each leader that is shown to be better than every other row of its race."""
    return {
        (answer.best, answer.metric)
        for answer in answers
        # A race of one has no leader: nothing was compared.
        if answer.others and all(other.verdict == BETTER for other in answer.others)
    }


def correct_pairs(field: Field, races: Iterable[Race]) -> dict[Pair, float]:
    """p of each pair in the races, after Holm's correction within its metric and that for looks.

    Two cells with the same samples are no question and are left out. A pair in several races counts once.
    """
    pairs: dict[str, set[Pair]] = {}
    for race in races:
        # All pairs, not only those with the best: which row is best was decided by the same numbers.
        pairs.setdefault(race.metric, set()).update(
            field.pair(race.metric, *two) for two in combinations(race.places, 2)
        )
    p_values: dict[Pair, float] = {}
    for family in pairs.values():
        asked = {pair: comparison for pair in sorted(family) if (comparison := field.comparison(*pair)).is_question}
        p_values |= zip(asked, corrected_p(list(asked.values()), field.weight), strict=True)
    return p_values


# ---- The answers of a run ----


@dataclass(frozen=True)
class Source:
    """The run and the cell that hold a row's samples, and the metrics that measure them."""

    run: StoredRun
    key: str
    ready: Mapping[str, Yardstick]


def answers_for(run: StoredRun, ready: Mapping[str, Yardstick]) -> list[Answer]:
    """The answers of a run, from the chunks that its table was made from; [] if some of them are missing."""
    sources = {i: Source(run, key, ready) for i, key in keys_of(run).items()}
    # The table was made of more than is there now; verdicts on fewer samples would contradict its numbers.
    if sum(n for _, n in common_places(list(sources.values()))) != run.table["samples"].max():
        return []
    return answers_from(run, estimates_of(sources), directions(ready))


def is_finished(run: StoredRun) -> bool:
    """Whether every cell of a run has all of its samples, or has failed."""
    return all(outcome.is_whole or outcome.has_failed for outcome in run.outcomes)


def answers_from(run: StoredRun, found: Found, lower: Mapping[str, bool]) -> list[Answer]:
    """The answers of a run, from the estimates of each row that has samples; giving them counts as a look.

    A run that is not finished has no answers.
    """
    if not is_finished(run):
        return []
    # Only a run that is finished is looked at, so that a view of a running one costs no error rate.
    look = look_at(run, int(run.table["samples"].max()))
    field = Field(keys_of(run), found, lower, look.weight)
    rows = {i: row for i, row in enumerate(rows_in(run.table)) if i in field.keys}
    return answers_to(own_races(rows, budgets_of(run), field), field)


def own_races(rows: Mapping[int, Mapping[Any, Any]], budgets: Sequence[int], field: Field) -> list[Race]:
    """The races that a run answers for, of its rows that have samples, at its budgets of model calls."""
    # By calls and not by seconds: everyone who draws the run again gets the same races.
    samplers, calls = contestants(rows), {i: row["nfe"] for i, row in rows.items()}
    fitting: dict[float, dict[str, int]] = {budget: contenders(samplers, calls, budget) for budget in budgets}
    return list(races_in(field, field.lower, fitting).values())


def contestants(rows: Mapping[int, Mapping[Any, Any]]) -> dict[int, str]:
    """What each row competes as: its sampler, with its guidance where rows have several."""
    # At another guidance a sampler is another method, which its own rows compete with.
    several = len({row["guidance"] for row in rows.values()}) > 1
    return {i: contestant(row, several=several) for i, row in rows.items()}


def contestant(row: Mapping[Any, Any], *, several: bool) -> str:
    """ "ddim", or "ddim, guidance 2" where there are several."""
    return f"{row['sampler']}, guidance {row['guidance']:g}" if several else str(row["sampler"])


def keys_of(run: StoredRun) -> dict[int, str]:
    """The key of the cell of each row that has samples."""
    return {i: run.record.cells[i].key for i, samples in enumerate(run.table["samples"]) if samples > 0}


def budgets_of(run: StoredRun) -> list[int]:
    """The budgets of model calls in a run's report: the run's own counts, and the most calls of any row."""
    counts = sorted(run.record.config.counts)
    # Heun makes more calls than steps: without the last budget its rows of the most steps would never compete.
    most = pd.to_numeric(run.table["nfe"]).max()
    return [*counts, math.ceil(most)] if most > counts[-1] else counts


def directions(ready: Mapping[str, Yardstick]) -> dict[str, bool]:
    """For each metric, and for the ODE error, whether lower is better."""
    known = {name: yardstick.metric.better == "lower" for name, yardstick in ready.items()}
    return known | {ODE_ERROR: True, ODE_DISTANCE: True}


def estimates_of(sources: Mapping[int, Source]) -> dict[int, dict[str, Estimate]]:
    """The estimates that verdicts on each row use, on the samples that all rows have; {} if there are none."""
    common = common_places(list(sources.values()))
    n = sum(samples for _, samples in common)
    if not common:
        return {}

    def found(source: Source) -> dict[str, Estimate]:
        # A generator: of all rows only one chunk is whole in memory at a time.
        chunks = (source.run.folder.read_at(source.key, place) for place in common)
        return estimates(gather(chunks, n, source.ready, source.run.record.prompts), source.ready)

    return {i: for_verdicts(found(source), source.ready) for i, source in sources.items()}


def common_places(sources: Sequence[Source]) -> list[Place]:
    """The places of the chunks that all rows have."""
    # A difference is of the same samples, so a sample that one row lacks counts for none.
    there = [set(source.run.folder.places_of(source.key)) for source in sources]
    return sorted(set.intersection(*there)) if there else []

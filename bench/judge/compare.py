"""Two samplers of a run, sample by sample: by how much does a metric differ, and is the difference shown?

Sample i of every cell starts from the same noise, so the influence of a sample on the difference is the difference of
its influences: what moves both cells alike cancels. For the same reason seconds are compared in pairs of repeats that
are neighbours in time. Intervals and p are those of Student's t, which for an ODE error allow for its skewness. A user
who asks about two samplers has seen the table of all, so verdicts are corrected for all pairs of samplers at all
counts, metric by metric (Holm 1979), and for looks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from ...samplers.errors import InputError, closest
from ...samplers.metric import LEAST_IMAGES, Estimate, mean_estimate
from ...samplers.registry import Registry
from ...samplers.student import LEVEL, skewed_ends, skewed_p, student_t
from ...samplers.text import count_of
from ..draw.chunk_file import Place
from ..draw.clock import LEAST_REPEATS, Repeat, machines, neighbours
from ..plan.record import CellRecord
from ..plan.yardstick import Yardstick
from .looks import look_at
from .run_metrics import ready_metrics
from .statistics import estimates, gather, without_bias
from .stored import StoredRun

SECONDS = "seconds_per_image"
SAME, BETTER, WORSE, NOT_SHOWN = "same samples", "better", "worse", "no difference shown"
NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Comparison:
    """One metric of two cells on the same seeds."""

    metric: str
    a: CellRecord | None
    """The cell in run.json; None if only the numbers of two rows are compared."""
    b: CellRecord | None
    difference: Estimate
    """The metric of a less that of b."""
    lower_is_better: bool
    hindrance: str = ""
    """Why the two cannot be compared; '' if they can. If not, the difference has no value."""
    is_same: bool = False
    """Whether both have exactly the same samples."""

    @property
    def why_not(self) -> str:
        """Why nothing can be shown; '' if something can."""
        images = len(self.difference.influence)
        if self.hindrance:
            return self.hindrance
        # Of seconds the "samples" are pairs of repeats, which have a least number of their own.
        if self.metric != SECONDS and images < LEAST_IMAGES:
            return f"{count_of(images, 'image')}, fewer than {LEAST_IMAGES}"
        return "" if math.isfinite(self.difference.value) else "a value is missing"

    @property
    def is_question(self) -> bool:
        """Whether there is anything to test; if not, the pair belongs to no family."""
        return not self.why_not and not self.is_same

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval of the difference."""
        return self.difference.value + self._ends[0] * self.error

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval of the difference."""
        return self.difference.value + self._ends[1] * self.error

    @cached_property
    def _ends(self) -> tuple[float, float]:
        if self.why_not:
            return math.nan, math.nan
        # Student's t and not the normal: the error is itself an estimate, and of few repeats a rough one.
        return skewed_ends(student_t(self.difference.freedom), self.difference.skewness)

    @cached_property
    def error(self) -> float:
        """The standard error of the difference. For two shares, half an image is added to each side (Agresti & Min
        2005), so that it is never 0."""
        error = self.difference.standard_error
        if not self.difference.is_share:
            return error
        # Two equal shares would have an error of 0, and any difference would then count as shown.
        return math.hypot(error, 1 / ((self.difference.counted or len(self.difference.influence)) + 2))

    @property
    def p(self) -> float:
        """The probability of a difference this large by mere chance, before correction."""
        # Without any spread a difference is certain, and so is its absence.
        if not self.error:
            return 1.0 if self.difference.value == 0 else 0.0
        return skewed_p(self.difference.value / self.error, self.difference.freedom, self.difference.skewness)

    def verdict(self, corrected: float) -> str:
        """What is shown about a, given the corrected p."""
        # Equal samples have equal values, whatever chance did: there is nothing to show.
        if self.is_same:
            return SAME
        if self.why_not:
            return f"{NOT_COMPARED}: {self.why_not}"
        if not corrected < LEVEL:
            return NOT_SHOWN
        # `difference` is a less b, so below 0 a has the lower value.
        return BETTER if (self.difference.value < 0) == self.lower_is_better else WORSE


def comparison_of(  # noqa: PLR0913  (two sides of a question)
    metric: str, a: CellRecord | None, b: CellRecord | None, of_a: Estimate, of_b: Estimate, lower_is_better: bool
) -> Comparison:
    """The comparison of a metric of two cells."""
    return Comparison(metric, a, b, of_a - of_b, lower_is_better, is_same=of_a.has_samples_of(of_b))


@dataclass(frozen=True)
class Side:
    """A cell that is compared with others."""

    cell: CellRecord
    found: Mapping[str, Estimate]
    clocked: Sequence[Repeat]
    samples: int


def compare(run: StoredRun, a: str, b: str, registry: Registry) -> pd.DataFrame:
    """Each metric of sampler spec a, less that of b, at every step count (or NFE budget) of a run.

    `family` is the number of comparisons that p is corrected for, `look` the number of looks at the run so far.
    """
    record, ready = run.record, ready_metrics(run, registry)
    pairs = zip(cells_of(run, a), cells_of(run, b), strict=True)
    asked: list[Comparison] = []
    others: list[Comparison] = []
    samples = 0
    for count, pair in enumerate(pairs):
        # The user asks about two samplers but has seen all of this count, so all their pairs are in the family.
        at_count = [cell for cell, place in zip(record.cells, record.places, strict=True) if place == count]
        a_side, b_side, *rest = sides_of(run, pair, at_count, ready)
        samples = max(samples, a_side.samples)
        asked += comparisons_of(a_side, b_side, ready)
        for one, other in combinations((a_side, b_side, *rest), 2):
            # The pair (a, b) itself is in `asked` already; every other pair is new.
            others += comparisons_of(one, other, ready) if other is not b_side else ()
    # Recorded once for the whole question: it is one look, whatever number of counts it covers.
    look = look_at(run, samples)
    known = correct_among(asked, others, look.weight)
    table = comparisons_to_table(asked, [p for p, _ in known])
    return table.assign(family=[size for _, size in known], look=look.number)


def correct_among(asked: Sequence[Comparison], others: Sequence[Comparison], weight: float) -> list[tuple[float, int]]:
    """For each comparison asked for: p, corrected for all possible comparisons in its metric, and their number."""
    found: dict[str, Iterator[tuple[float, int]]] = {}
    for metric in {one.metric for one in asked}:
        # Metric by metric: each is a separate question.
        family = [one for one in (*asked, *others) if one.metric == metric]
        size = sum(one.is_question for one in family)
        found[metric] = iter([(p, size) for p in corrected_p(family, weight)])
    return [next(found[one.metric]) for one in asked]


def sides_of(
    run: StoredRun, pair: tuple[CellRecord, CellRecord], cells: Sequence[CellRecord], ready: Mapping[str, Yardstick]
) -> list[Side]:
    """Two cells, followed by all others that have the samples of both; each restricted to these samples."""
    a, b = pair
    common = sorted(set(run.folder.places_of(a.key)) & set(run.folder.places_of(b.key)))
    if not common:
        raise InputError(
            f"compare {cell_name(a)!r}, {cell_name(b)!r}: the run has no samples of both; give its command to make them"
        )
    # By key: two specs of one cell have the same samples, and would be in the family twice.
    others = {cell.key: cell for cell in cells if cell.key not in (a.key, b.key)}
    # A cell that lacks some of these samples cannot be compared on the same noise, and takes no part.
    with_all = [cell for cell in others.values() if set(common) <= set(run.folder.places_of(cell.key))]
    return [side_of(run, cell, common, ready) for cell in (a, b, *with_all)]


def side_of(run: StoredRun, cell: CellRecord, common: Sequence[Place], ready: Mapping[str, Yardstick]) -> Side:
    """A cell restricted to some of its chunks; its timings are those of all chunks."""
    chunks = run.chunks(cell)
    # Times are taken from all chunks: they need no common samples, and more of them tell more.
    clocked = [*(chunk.repeat for chunk in chunks.values()), *run.repeats(cell)]
    n = sum(samples for _, samples in common)
    found = estimates(gather((chunks.pop(place) for place in common), n, ready, run.record.prompts), ready)
    return Side(cell, found, clocked, n)


def comparisons_of(a: Side, b: Side, ready: Mapping[str, Yardstick]) -> Iterator[Comparison]:
    """Every metric of two cells; a metric with bias is replaced by the one without it, if that was measured."""
    # A metric and its unbiased form lead to one comparison.
    for name in dict.fromkeys(without_bias(name, a.found, ready) for name in a.found):
        if name in b.found:
            lower = name not in ready or ready[name].metric.better == "lower"
            yield comparison_of(name, a.cell, b.cell, a.found[name], b.found[name], lower)
    yield seconds_compared(a.cell, b.cell, a.clocked, b.clocked)


def cells_of(run: StoredRun, spec: str) -> list[CellRecord]:
    """The cells of a sampler, by its name or its spec, in the order of the run's step counts."""
    cells = [cell for cell in run.record.cells if spec in (cell.shown, cell.sampler)]
    if not cells:
        known = list(dict.fromkeys(cell.shown for cell in run.record.cells))
        raise InputError(f"compare {spec!r}: not in {run.path}{closest(spec, known)}; there are: {', '.join(known)}")
    return cells


def seconds_compared(
    a: CellRecord, b: CellRecord, clocked_a: Sequence[Repeat], clocked_b: Sequence[Repeat]
) -> Comparison:
    """The comparison of seconds per image of two cells, by pairs of repeats that are neighbours in time."""
    # Differences of neighbours: what slows the machine for a while cancels.
    differences = [x.seconds_per_image - y.seconds_per_image for x, y in neighbours(clocked_a, clocked_b)]
    hindrance = ""
    # On two machines the difference would be that of the machines.
    if len(machines([*clocked_a, *clocked_b])) > 1:
        hindrance = "machines differ"
    elif len(differences) < LEAST_REPEATS:
        hindrance = f"fewer than {LEAST_REPEATS} repeats side by side"
    difference = Estimate(math.nan, np.empty(0)) if hindrance else mean_estimate(np.array(differences))
    return Comparison(SECONDS, a, b, difference, True, hindrance)


def comparisons_to_table(comparisons: Sequence[Comparison], p_values: Sequence[float] | None = None) -> pd.DataFrame:
    """A row for each comparison: the cells, the difference with its 95 % interval, corrected p, the verdict.

    By default p is corrected only for these comparisons.
    """
    corrected = corrected_p(comparisons) if p_values is None else p_values
    return pd.DataFrame(
        {
            "metric": c.metric, "a": c.a and cell_name(c.a), "b": c.b and cell_name(c.b),
            "difference": c.difference.value, "low": c.low, "high": c.high, "p": p, "verdict": c.verdict(p),
        }
        for c, p in zip(comparisons, corrected, strict=True)
    )  # fmt: skip


def corrected_p(comparisons: Sequence[Comparison], weight: float = 1.0) -> list[float]:
    """p of each comparison, after Holm's correction for all that are a question and times the weight of a look; 1 for
    equal samples, nan if they cannot be compared."""
    # The corrected p come in the order of the questions; what is no question is filled in between.
    corrected = iter(holm([c.p for c in comparisons if c.is_question], weight))
    return [next(corrected) if c.is_question else 1.0 if c.is_same else math.nan for c in comparisons]


def cell_name(cell: CellRecord) -> str:
    """ "ddim, 10 steps, 10 calls"."""
    calls = "adaptive" if cell.nfe is None else f"{cell.nfe} calls"
    guidance = "" if cell.guidance is None else f", guidance {cell.guidance:g}"
    return f"{cell.shown}{guidance}, {cell.steps} steps, {calls}"


def holm(p_values: Sequence[float], weight: float = 1.0) -> list[float]:
    """p-values times a weight, corrected so that any false claim among them is as rare as for one only (Holm 1979)."""
    corrected, largest = [1.0] * len(p_values), 0.0
    # From the smallest p up: the k-th is multiplied by the number of claims still left, and never falls below an
    # earlier one, since Holm rejects in this order and stops at the first that it cannot.
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, weight * (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected

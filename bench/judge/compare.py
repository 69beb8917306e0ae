"""Two samplers of a run, sample by sample: by how much does a metric differ, and is that shown?

Sample i of every cell starts from the same noise, so the difference has the influence of the difference, sample by
sample: what moves both alike falls out. Seconds are compared pair by pair of repeats that are neighbours in time, for
the same reason. Intervals and p are those of Student's t; verdicts are corrected for how many there are (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...samplers.errors import InputError, closest
from ...samplers.metric import Estimate, mean_estimate
from ...samplers.registry import Registry
from ..draw.clock import LEAST_REPEATS, Repeat, machines, neighbours
from ..plan.record import CellRecord
from ..plan.yardstick import Yardstick
from .run_metrics import ready_metrics
from .statistics import LEVEL, estimates, gather, student_p, student_t
from .stored import StoredRun

SECONDS = "seconds_per_image"
SAME, BETTER, WORSE, NOT_SHOWN = "same samples", "better", "worse", "no difference shown"
NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Comparison:
    """One metric of two cells on the same seeds."""

    metric: str
    a: CellRecord | None
    """The cell as run.json has it; None where two rows compete without a name."""
    b: CellRecord | None
    difference: Estimate
    """That of a less that of b."""
    lower_is_better: bool
    hindrance: str = ""
    """Why the two cannot be compared, if they cannot; then the difference is none."""

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval of the difference."""
        return self.difference.value - self._half_width

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval of the difference."""
        return self.difference.value + self._half_width

    @property
    def _half_width(self) -> float:
        return student_t(self._freedom) * self.difference.standard_error if self._freedom > 0 else math.nan

    @property
    def _freedom(self) -> int:
        return len(self.difference.influence) - 1

    @property
    def p(self) -> float:
        """How often a difference this large would be seen if there were none, before correction."""
        error = self.difference.standard_error
        return student_p(self.difference.value / error, self._freedom) if error > 0 else 1.0

    def verdict(self, corrected: float) -> str:
        """What is shown of a, given the corrected p."""
        if self.hindrance:
            return f"{NOT_COMPARED}: {self.hindrance}"
        if not np.any(self.difference.influence) and self.difference.value == 0:
            return SAME
        if corrected >= LEVEL:
            return NOT_SHOWN
        return BETTER if (self.difference.value < 0) == self.lower_is_better else WORSE


def compare(run: StoredRun, a: str, b: str, registry: Registry) -> pd.DataFrame:
    """Each metric of sampler spec a less that of b, at every step count (or NFE budget) of a run."""
    ready = ready_metrics(run, registry)
    pairs = zip(cells_of(run, a), cells_of(run, b), strict=True)
    return comparisons_to_table([c for pair in pairs for c in compared(run, *pair, ready)])


def cells_of(run: StoredRun, spec: str) -> list[CellRecord]:
    """The cells of a sampler spec in the order of the run's step counts."""
    specs = run.record.config.sampler
    if spec not in specs:
        raise InputError(f"compare {spec!r}: not in {run.path}{closest(spec, specs)}; there are: {', '.join(specs)}")
    return [cell for cell in run.record.cells if cell.sampler == spec]


def compared(run: StoredRun, a: CellRecord, b: CellRecord, ready: Mapping[str, Yardstick]) -> list[Comparison]:
    """Every metric of two cells of a run, on the samples that both have."""
    chunks_a, chunks_b = (run.chunks(cell) for cell in (a, b))
    common = sorted(set(chunks_a) & set(chunks_b))
    if not common:
        raise InputError(
            f"compare {cell_name(a)!r}, {cell_name(b)!r}: the run has no samples of both; give its command to make them"
        )
    clocked = [
        [*(chunk.repeat for chunk in chunks.values()), *run.repeats(cell)]
        for cell, chunks in ((a, chunks_a), (b, chunks_b))
    ]
    n = sum(samples for _, samples in common)
    of_a, of_b = (
        estimates(gather((chunks.pop(place) for place in common), n, ready), ready) for chunks in (chunks_a, chunks_b)
    )
    of_metrics = [
        Comparison(name, a, b, of_a[name] - of_b[name], name not in ready or ready[name].metric.better == "lower")
        for name in of_a
        if name in of_b
    ]
    return [*of_metrics, seconds_compared(a, b, *clocked)]


def seconds_compared(
    a: CellRecord, b: CellRecord, clocked_a: Sequence[Repeat], clocked_b: Sequence[Repeat]
) -> Comparison:
    """Seconds an image of two cells, pair by pair of repeats that are neighbours in time."""
    differences = [x.seconds_per_image - y.seconds_per_image for x, y in neighbours(clocked_a, clocked_b)]
    hindrance = ""
    if len(machines([*clocked_a, *clocked_b])) > 1:
        hindrance = "machines differ"
    elif len(differences) < LEAST_REPEATS:
        hindrance = f"fewer than {LEAST_REPEATS} repeats side by side"
    difference = Estimate(math.nan, np.empty(0)) if hindrance else mean_estimate(np.array(differences))
    return Comparison(SECONDS, a, b, difference, True, hindrance)


def comparisons_to_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """A row each: the cells, the difference with its 95 % interval, p after Holm's correction, the verdict."""
    return pd.DataFrame(
        {
            "metric": c.metric, "a": c.a and cell_name(c.a), "b": c.b and cell_name(c.b),
            "difference": c.difference.value, "low": c.low, "high": c.high, "p": p, "verdict": c.verdict(p),
        }
        for c, p in zip(comparisons, corrected_p(comparisons), strict=True)
    )  # fmt: skip


def corrected_p(comparisons: Sequence[Comparison]) -> list[float]:
    """p of each after Holm's correction for all that could be compared; nan for the others."""
    corrected = iter(holm([c.p for c in comparisons if not c.hindrance]))
    return [math.nan if c.hindrance else next(corrected) for c in comparisons]


def cell_name(cell: CellRecord) -> str:
    """ "ddim, 10 steps, 10 calls"."""
    calls = "adaptive" if cell.nfe is None else f"{cell.nfe} calls"
    return f"{cell.sampler}, {cell.steps} steps, {calls}"


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected so that all claims together are wrong as rarely as one alone (Holm 1979)."""
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected

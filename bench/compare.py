"""Two samplers of a run, sample by sample: by how much does a metric differ, and is that shown?

Sample i of every cell starts from the same noise, so the difference has the influence of the difference, sample by
sample: what moves both alike falls out. Verdicts are corrected for how many there are (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..samplers.errors import InputError, closest
from ..samplers.metric import Estimate
from ..samplers.registry import Registry
from .statistics import Yardstick, estimates, gather, yardsticks
from .store import RunFolder, read_run
from .table import with_interval

LEVEL = 0.05
"""How often a family of comparisons may claim a difference where there is none."""
SAME, BETTER, WORSE, NOT_SHOWN = "same samples", "better", "worse", "no difference shown"


@dataclass(frozen=True)
class Comparison:
    """One metric of two cells on the same seeds."""

    metric: str
    a: Mapping[str, Any]
    """The cell as run.json has it: sampler, grid, steps, nfe."""
    b: Mapping[str, Any]
    difference: Estimate
    """That of a less that of b."""
    lower_is_better: bool

    @property
    def p(self) -> float:
        """How often a difference this large would be seen if there were none, before correction."""
        error = self.difference.standard_error
        if not error > 0:
            return 1.0
        return math.erfc(abs(self.difference.value) / error / math.sqrt(2))

    def verdict(self, corrected: float) -> str:
        """What is shown of a, given the corrected p."""
        if not np.any(self.difference.influence) and self.difference.value == 0:
            return SAME
        if corrected >= LEVEL:
            return NOT_SHOWN
        return BETTER if (self.difference.value < 0) == self.lower_is_better else WORSE


def compare(path: Path, a: str, b: str, registry: Registry) -> pd.DataFrame:
    """Each metric of sampler spec a less that of b, at every step count (or NFE budget) of a run folder."""
    about = read_run(path)
    ready = ready_for(about, registry)
    pairs = zip(cells_of(about, a, path), cells_of(about, b, path), strict=True)
    return comparisons_to_table([c for pair in pairs for c in compared(RunFolder(path), *pair, ready)])


def ready_for(about: Mapping[str, Any], registry: Registry) -> dict[str, Yardstick]:
    """The metrics of a run, made ready again for its model."""
    config = about["config"]
    return yardsticks(config["metric"], registry.metrics.things, registry.model(config["model"]))


def cells_of(about: Mapping[str, Any], spec: str, path: Path) -> list[Mapping[str, Any]]:
    """The cells of a sampler spec in the order of the run's step counts."""
    specs = list(dict.fromkeys(cell["sampler"] for cell in about["cells"]))
    if spec not in specs:
        raise InputError(f"compare {spec!r}: not in {path}{closest(spec, specs)}; there are: {', '.join(specs)}")
    return [cell for cell in about["cells"] if cell["sampler"] == spec]


def compared(
    folder: RunFolder, a: Mapping[str, Any], b: Mapping[str, Any], ready: Mapping[str, Yardstick]
) -> list[Comparison]:
    """Every metric of two cells, on the samples that both have."""
    chunks_a, chunks_b = (folder.chunks_of(cell["key"]) for cell in (a, b))
    common = sorted(set(chunks_a) & set(chunks_b))
    if not common:
        raise InputError(f"compare {cell_name(a)!r}, {cell_name(b)!r}: the run has no samples of both yet")
    n = sum(samples for _, samples in common)
    of_a, of_b = (
        estimates(gather((chunks.pop(place) for place in common), n, ready), ready) for chunks in (chunks_a, chunks_b)
    )
    return [
        Comparison(name, a, b, of_a[name] - of_b[name], name not in ready or ready[name].metric.better == "lower")
        for name in of_a
        if name in of_b
    ]


def comparisons_to_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """A row each: the cells, the difference with its 95 % interval, p after Holm's correction, the verdict."""
    corrected = holm([c.p for c in comparisons])
    return pd.DataFrame(
        {
            "metric": c.metric, "a": cell_name(c.a), "b": cell_name(c.b), "difference": c.difference.value,
            "low": c.difference.low, "high": c.difference.high, "p": p, "verdict": c.verdict(p),
        }
        for c, p in zip(comparisons, corrected, strict=True)
    )  # fmt: skip


def comparison_to_rows(found: pd.DataFrame) -> list[dict[str, str]]:
    """The comparisons as people read them, with no more digits than the intervals support."""
    return [
        {
            "metric": row["metric"], "A": row["a"], "B": row["b"],
            "A - B": with_interval(row["difference"], row["low"], row["high"]),
            "p": "-" if row["verdict"] == SAME else f"{row['p']:.2g}", "A is": row["verdict"],
        }
        for row in found.to_dict("records")
    ]  # fmt: skip


def cell_name(cell: Mapping[str, Any]) -> str:
    """ "ddim, 10 steps, 10 calls"."""
    calls = "adaptive" if cell["nfe"] is None else f"{cell['nfe']} calls"
    return f"{cell['sampler']}, {cell['steps']} steps, {calls}"


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected so that all claims together are wrong as rarely as one alone (Holm 1979)."""
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected

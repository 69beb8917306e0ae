"""Chunks -> numbers: each metric's value and interval, seconds, distance to the ODE solution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..samplers.metric import Metric
from ..samplers.model import Model
from ..samplers.noise import BLOCK
from ..samplers.registry import at_fault
from .store import Chunk

LOW_HIGH_PREFIX = {"clip_score": "clip"}
"""Metrics whose interval columns have a shorter name."""


@dataclass(frozen=True)
class Yardstick:
    """A metric made ready for a model: what it keeps of the reference rows."""

    metric: Metric
    prepared: Any


def yardsticks(names: Sequence[str], metrics: Mapping[str, type[Metric]], model: Model) -> dict[str, Yardstick]:
    """Those of the named metrics for which the model has an extractor, and reference rows where they are needed."""
    ready = {}
    for name in names:
        with at_fault(f"metric {name!r}"):
            metric = metrics[name]()
            extractor = model.extractors.get(metric.extractor)
            if extractor and (extractor.reference or not metric.needs_reference):
                reference = extractor.reference
                ready[name] = Yardstick(metric, metric.prepare(reference() if reference else None))
    return ready


def metric_columns(name: str) -> tuple[str, str, str]:
    """The columns of a metric's value and of both ends of its 95 % interval."""
    prefix = LOW_HIGH_PREFIX.get(name, name)
    return name, f"{prefix}_low", f"{prefix}_high"


def measured(chunks: Sequence[Chunk], ready: Mapping[str, Yardstick]) -> dict[str, float]:
    """Each metric's three columns, from all chunks of a cell; nan under the metric's least n."""
    n = sum(chunk.n for chunk in chunks)
    columns: dict[str, float] = {}
    for name, yardstick in ready.items():
        values = (math.nan, math.nan, math.nan)
        if n >= yardstick.metric.least:
            rows = np.concatenate([chunk.rows[yardstick.metric.extractor] for chunk in chunks])
            with at_fault(f"metric {name!r}"):
                estimate = yardstick.metric.estimate(rows, yardstick.prepared)
                values = (estimate.value, estimate.low, estimate.high)
        columns.update(zip(metric_columns(name), values, strict=True))
    return columns


def timed(chunks: Sequence[Chunk]) -> dict[str, float]:
    """Seconds an image: median and quartiles over whole chunks; the share outside the network."""
    whole = [c for c in chunks if c.n % BLOCK == 0] or list(chunks)
    seconds = np.array([c.timing.seconds / c.n for c in whole])
    model = np.array([c.timing.model_seconds / c.n for c in whole])
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return {
        "seconds_per_image": float(median),
        "seconds_low": float(low) if len(whole) > 1 else math.nan,
        "seconds_high": float(high) if len(whole) > 1 else math.nan,
        "model_seconds_per_image": float(np.median(model)),
        "overhead": float(1 - model.sum() / seconds.sum()),
    }


def ode_error(chunks: Sequence[Chunk]) -> float:
    """RMS distance to the converged ODE solution; nan where there is none."""
    squares = [c.ode_distance for c in chunks if c.ode_distance is not None]
    return math.sqrt(float(np.concatenate(squares).mean())) if squares else math.nan

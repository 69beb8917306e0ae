"""Chunks -> numbers: each metric's value and interval, distance to the ODE solution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..samplers.errors import PluginError
from ..samplers.metric import Estimate, Metric, root_mean_estimate
from ..samplers.model import Model
from ..samplers.options import at_fault
from .store import Chunk

LOW_HIGH_PREFIX = {"clip_score": "clip", "seconds_per_image": "seconds"}
"""Values whose interval columns have a shorter name."""


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


def estimates(chunks: Sequence[Chunk], ready: Mapping[str, Yardstick]) -> dict[str, Estimate]:
    """Each metric, and the ODE error where there is one, from all chunks of a cell; none under its least n."""
    n = sum(chunk.n for chunk in chunks)
    found: dict[str, Estimate] = {}
    for name, yardstick in ready.items():
        if n >= yardstick.metric.least:
            rows = np.concatenate([chunk.rows[yardstick.metric.extractor] for chunk in chunks])
            with at_fault(f"metric {name!r}"):
                found[name] = yardstick.metric.estimate(rows, yardstick.prepared)
            if not isinstance(found[name], Estimate):
                raise PluginError(f"metric {name!r}: returned a {type(found[name]).__name__}; expected an Estimate")
    squares = [chunk.ode_distance for chunk in chunks if chunk.ode_distance is not None]
    if squares:
        found["ode_error"] = root_mean_estimate(np.concatenate(squares))
    return found


def measured(found: Mapping[str, Estimate], ready: Mapping[str, Yardstick]) -> dict[str, float]:
    """Each metric's three columns and the ODE error; nan for what was not estimated."""
    columns = {"ode_error": found["ode_error"].value if "ode_error" in found else math.nan}
    for name in ready:
        estimate = found.get(name)
        values = (estimate.value, estimate.low, estimate.high) if estimate else (math.nan,) * 3
        columns.update(zip(metric_columns(name), values, strict=True))
    return columns

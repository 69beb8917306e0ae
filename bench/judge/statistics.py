"""Chunks -> numbers: each metric's value and interval, distance to the ODE solution; Student's t."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from ...samplers.errors import PluginError, StoreError, shown
from ...samplers.metric import Estimate, Rows, root_mean_estimate
from ...samplers.options import at_fault
from ...samplers.process import switches_kept
from ..draw.chunk_file import Chunk, chunk_name
from ..plan.yardstick import Yardstick

LOW_HIGH_PREFIX = {"clip_score": "clip", "seconds_per_image": "seconds"}
"""Values whose interval columns have a shorter name."""


def metric_columns(name: str) -> tuple[str, str, str]:
    """The columns of a metric's value and of both ends of its 95 % interval."""
    prefix = LOW_HIGH_PREFIX.get(name, name)
    return name, f"{prefix}_low", f"{prefix}_high"


@dataclass(frozen=True)
class Gathered:
    """The chunks of a cell put together, none of their rows held twice."""

    chunks: Sequence[Chunk]
    """Without rows and images."""
    rows: Mapping[str, Rows]
    """What each extractor said of all samples, (n, d)."""


def gather(chunks: Iterable[Chunk], n: int, ready: Mapping[str, Yardstick]) -> Gathered:
    """Chunks of n samples together -> the rows that the metrics read; each chunk is let go once it is copied."""
    rows: dict[str, Rows] = {}
    needed = {yardstick.metric.extractor for yardstick in ready.values()}
    bare: list[Chunk] = []
    first = 0
    for chunk in chunks:
        for name in needed:
            of_chunk = chunk.rows.get(name)
            if of_chunk is None or (name in rows and of_chunk.shape[1] != rows[name].shape[1]):
                raise StoreError(
                    f"chunk {chunk_name(chunk.first, chunk.n)}: "
                    f"{'no rows' if of_chunk is None else 'rows of another width'} of {name!r}, which the metrics "
                    "read; delete the file and give the run's command again"
                )
            if name not in rows:
                rows[name] = np.empty((n, of_chunk.shape[1]), dtype=np.float32)
            rows[name][first : first + chunk.n] = of_chunk
        first += chunk.n
        bare.append(replace(chunk, rows={}, images=None))
    return Gathered(bare, rows)


def estimates(gathered: Gathered, ready: Mapping[str, Yardstick]) -> dict[str, Estimate]:
    """Each metric, and the ODE error where there is one, of a cell; none under its least n."""
    found: dict[str, Estimate] = {}
    for name, yardstick in ready.items():
        rows = gathered.rows[yardstick.metric.extractor]
        with at_fault(f"metric {name!r}"), switches_kept(f"metric {name!r}"):
            if len(rows) < yardstick.metric.fewest(rows.shape[1]):
                continue
            found[name] = yardstick.metric.estimate(rows, yardstick.prepared)
        check_estimate(name, found[name], len(rows))
    squares = [chunk.ode_distance for chunk in gathered.chunks if chunk.ode_distance is not None]
    if squares:
        found["ode_error"] = root_mean_estimate(np.concatenate(squares))
    return found


def check_estimate(name: str, estimate: object, n: int) -> None:
    """PluginError unless a metric's estimate is a number with the influence of each of the n samples."""
    if not isinstance(estimate, Estimate):
        raise PluginError(f"metric {name!r}: returned a {type(estimate).__name__}; expected an Estimate")
    value, influence = estimate.value, estimate.influence
    if isinstance(value, bool) or not isinstance(value, float | int | np.floating | np.integer):
        raise PluginError(f"metric {name!r}: returned an Estimate of value {shown(value)}; expected a number")
    if not isinstance(influence, np.ndarray) or influence.shape != (n,) or influence.dtype.kind != "f":
        given = getattr(influence, "shape", None)
        kind = f"{type(influence).__name__} of shape {given}" if given is not None else type(influence).__name__
        raise PluginError(f"metric {name!r}: returned an influence that is a {kind}; expected an array of {n} floats")


def measured(found: Mapping[str, Estimate], ready: Mapping[str, Yardstick]) -> dict[str, float]:
    """The three columns of the ODE error and of each metric; nan for what was not estimated, or is not finite."""
    columns: dict[str, float] = {}
    for name in ("ode_error", *ready):
        estimate = found.get(name)
        values = (estimate.value, estimate.low, estimate.high) if estimate else (math.nan,) * 3
        finite = (value if math.isfinite(value) else math.nan for value in values)
        columns.update(zip(metric_columns(name), finite, strict=True))
    return columns


LEVEL = 0.05
"""How often an interval may miss, and a family of comparisons claim a difference where there is none."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)
"""Gauss-Legendre on [-1, 1]."""


def student_p(t: float, freedom: int) -> float:
    """Two-sided p of Student's t: c times the integral of cos(u)^(freedom - 1) from atan(t / sqrt(freedom)) to pi / 2.

    By t = sqrt(freedom) tan(u), with c = 2 Gamma((freedom + 1) / 2) / (sqrt(pi) Gamma(freedom / 2)).
    """
    start = math.atan(abs(t) / math.sqrt(freedom))
    width = min(math.pi / 2 - start, 40 / math.sqrt(freedom))  # beyond 40 standard deviations nothing is left
    u = start + width * (NODES + 1) / 2
    log_c = math.log(2) + math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(math.pi) / 2
    heights = np.exp(log_c + (freedom - 1) * np.log(np.cos(u)))
    return min(1.0, float(width / 2 * (WEIGHTS @ heights)))


@cache
def student_t(freedom: int) -> float:
    """The 97.5 % point of Student's t, by bisection."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_p(middle, freedom) > LEVEL else (low, middle)
    return (low + high) / 2

"""Chunks -> numbers: each metric's value and interval, and the distance to the ODE solution."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...samplers.errors import PluginError, StoreError, quote
from ...samplers.metric import Estimate, Rows, Strata, mean_estimate, root_mean_estimate
from ...samplers.options import at_fault
from ...samplers.process import switches_kept
from ..draw.chunk_file import Chunk, chunk_name
from ..plan.plan import ode_count
from ..plan.sources import came_with_samplerbench
from ..plan.yardstick import Yardstick

LOW_HIGH_PREFIX = {"clip_score": "clip", "seconds_per_image": "seconds"}
"""Metrics whose interval columns have a shorter name."""
ODE_ERROR, ODE_DISTANCE = "ode_error", "ode_distance"
"""The root mean square and the mean of the distances to the converged ODE solution."""
Numbers = npt.NDArray[np.int64]
"""Numbers of samples, from 0."""


def metric_columns(name: str) -> tuple[str, str, str]:
    """The columns of a metric's value and of both ends of its 95 % interval."""
    prefix = LOW_HIGH_PREFIX.get(name, name)
    return name, f"{prefix}_low", f"{prefix}_high"


@dataclass(frozen=True)
class Gathered:
    """The chunks of a cell put together; their rows are held once."""

    chunks: Sequence[Chunk]
    """Without rows and images."""
    rows: Mapping[str, Rows]
    """The rows of each extractor for all samples, (n, d)."""
    prompts: Sequence[str] = ()
    """Sample i has prompts[i mod len]; () = no prompts."""

    @property
    def strata(self) -> Strata | None:
        """Which samples share a prompt; None if that is no help."""
        return strata_of(self.prompts, concatenate([np.arange(c.first, c.first + c.n) for c in self.chunks]))


def gather(chunks: Iterable[Chunk], n: int, ready: Mapping[str, Yardstick], prompts: Sequence[str] = ()) -> Gathered:
    """Put chunks of n samples together; the rows of each chunk are freed once they are copied."""
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
                # Allocated once: lists of rows that are concatenated at the end would be held twice.
                rows[name] = np.empty((n, of_chunk.shape[1]), dtype=np.float32)
            rows[name][first : first + chunk.n] = of_chunk
        first += chunk.n
        # The generator yields the next chunk only now, so one chunk at a time is whole in memory.
        bare.append(replace(chunk, rows={}, images=None))
    return Gathered(bare, rows, prompts)


def concatenate(numbers: Sequence[Numbers]) -> Numbers:
    """The numbers of several chunks, concatenated."""
    return np.concatenate([np.empty(0, dtype=np.int64), *numbers])


def strata_of(prompts: Sequence[str], samples: Numbers) -> Strata | None:
    """The number of each sample's prompt; None for a single prompt, and if a prompt has fewer than 2 samples."""
    if len(prompts) < 2 or not len(samples):  # noqa: PLR2004  (one prompt is no stratum)
        return None
    # Texts that occur twice in the list are one prompt.
    numbers = {text: i for i, text in enumerate(dict.fromkeys(prompts))}
    cycle = np.array([numbers[text] for text in prompts])
    # Renumbered, because not every prompt need have a sample yet.
    strata = np.unique(cycle[samples % len(cycle)], return_inverse=True)[1].astype(np.int64)
    sizes = np.bincount(strata)
    # A prompt with one sample shows no spread of its own.
    return strata if len(sizes) > 1 and sizes.min() > 1 else None


def samples_hash(chunks: Sequence[Chunk]) -> bytes:
    """Hash of all samples of some chunks, in order."""
    return hashlib.sha256(b"".join(chunk.hashes.tobytes() for chunk in chunks)).digest()


def estimates(gathered: Gathered, ready: Mapping[str, Yardstick]) -> dict[str, Estimate]:
    """The estimates of each metric of a cell, and of the ODE error if there is one; none below a metric's least n."""
    found: dict[str, Estimate] = {}
    strata, digest = gathered.strata, samples_hash(gathered.chunks) if gathered.chunks else b""
    for name, yardstick in ready.items():
        rows = gathered.rows[yardstick.metric.extractor]
        # Huge rows overflow in a metric: its value is then left empty, and a warning would help nobody.
        with np.errstate(all="ignore"), at_fault(f"metric {name!r}"), switches_kept_from(name, yardstick):
            if len(rows) < yardstick.metric.fewest(rows.shape[1]):
                continue
            estimate = yardstick.metric.estimate_by_prompt(rows, yardstick.prepared, strata)
        check_estimate(name, estimate, len(rows))
        found[name] = replace(if_finite(estimate), strata=strata, digest=digest)
    return found | of_ode(gathered, digest)


def switches_kept_from(name: str, yardstick: Yardstick) -> AbstractContextManager[None]:
    """What keeps the state of the process while a metric is estimated; nothing where it came with samplerbench."""
    # To look through the state takes longer than most estimates, of which a large table has tens of thousands.
    return nullcontext() if came_with_samplerbench(yardstick.metric) else switches_kept(f"metric {name!r}")


def for_verdicts(found: Mapping[str, Estimate], ready: Mapping[str, Yardstick]) -> dict[str, Estimate]:
    """The estimates that verdicts on each metric use: those without bias, if they were measured."""
    return {name: found[without_bias(name, found, ready)] for name in found}


def without_bias(name: str, known: Container[str], ready: Mapping[str, Yardstick]) -> str:
    """The metric that verdicts on a metric use."""
    # FID of few images is biased upwards, and by another amount for each sampler, so verdicts go by the unbiased form
    # where it was measured.
    other = ready[name].metric.unbiased if name in ready else None
    return other if other is not None and other in known else name


def of_ode(gathered: Gathered, digest: bytes) -> dict[str, Estimate]:
    """The root mean square and the mean distance to the converged ODE solution; {} if there are no distances.

    Chunks of a formerly larger run may have more distances: only as many count as a run of this size has.
    """
    # Distances come by chunk, and only for the first samples of each; a dict by sample index puts them in one order.
    squares = {
        chunk.first + i: square
        for chunk in gathered.chunks
        if chunk.ode_distance is not None
        for i, square in enumerate(chunk.ode_distance.tolist())
    }
    counted = ode_count(sum(chunk.n for chunk in gathered.chunks))
    samples = np.array(sorted(sample for sample in squares if sample < counted), dtype=np.int64)
    if not len(samples):
        return {}
    strata, values = strata_of(gathered.prompts, samples), np.array([squares[sample] for sample in samples.tolist()])
    with np.errstate(over="ignore", invalid="ignore"):
        # The root of the mean square is what a paper reports; the mean of the roots is less moved by single samples.
        found = {ODE_ERROR: root_mean_estimate(values), ODE_DISTANCE: mean_estimate(np.sqrt(values))}
    return {name: replace(if_finite(estimate), strata=strata, digest=digest) for name, estimate in found.items()}


def if_finite(estimate: Estimate) -> Estimate:
    """The estimate; without a value if any of its numbers is not finite."""
    # One NaN in an influence would make every interval of the row NaN, and each difference with it.
    parts = (estimate.value, estimate.influence, 0.0 if estimate.common is None else estimate.common)
    if all(np.isfinite(part).all() for part in parts):
        return estimate
    return Estimate(math.nan, np.zeros(len(estimate.influence)))


def check_estimate(name: str, estimate: object, n: int) -> None:
    """PluginError unless a metric's estimate is a number with the influence of each of the n samples."""
    if not isinstance(estimate, Estimate):
        raise PluginError(f"metric {name!r}: returned a {type(estimate).__name__}; expected an Estimate")
    # A stranger's metric is held to its contract here, where the error can still name it.
    value, influence = estimate.value, estimate.influence
    # A bool is a number in Python, and would be printed as 1.
    if isinstance(value, bool) or not isinstance(value, float | int | np.floating | np.integer):
        raise PluginError(f"metric {name!r}: returned an Estimate of value {quote(value)}; expected a number")
    if not isinstance(influence, np.ndarray) or influence.shape != (n,) or influence.dtype.kind != "f":
        given = getattr(influence, "shape", None)
        kind = f"{type(influence).__name__} of shape {given}" if given is not None else type(influence).__name__
        raise PluginError(f"metric {name!r}: returned an influence that is a {kind}; expected an array of {n} floats")
    common = estimate.common
    if common is not None and (
        not isinstance(common, np.ndarray) or common.ndim != 1 or len(common) < 2 or common.dtype.kind != "f"  # noqa: PLR2004
    ):
        raise PluginError(f"metric {name!r}: returned {quote(common)} as `common`; expected an array (m,) of floats")


def metric_values(found: Mapping[str, Estimate], ready: Mapping[str, Yardstick]) -> dict[str, float]:
    """The three columns of each metric and of the ODE errors; nan for an estimate that is missing or not finite."""
    # The ODE errors stand around the metrics: the fixed column first, the further one at the end.
    columns: dict[str, float] = {}
    for name in (ODE_ERROR, *ready, ODE_DISTANCE):
        estimate = found.get(name)
        values = (estimate.value, estimate.low, estimate.high) if estimate else (math.nan,) * 3
        finite = (value if math.isfinite(value) else math.nan for value in values)
        columns.update(zip(metric_columns(name), finite, strict=True))
    return columns

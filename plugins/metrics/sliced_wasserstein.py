"""The sliced 2-Wasserstein distance (Bonneel et al. 2015) of states to exact samples of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...samplers.metric import Estimate, Floats, Metric, Moments, Rows, check_rows, rows_needed
from ...samplers.registry import hookimpl

EVEN, RANDOM = 64, 256
"""Directions: evenly spread in the plane, and drawn at random in other dimensions."""


@dataclass(frozen=True)
class Projections:
    """Directions (m, d) and the reference rows' sorted projections on them, (m, N)."""

    directions: Floats
    values: Floats

    @property
    def is_random(self) -> bool:
        """Whether other directions could have been drawn: in the plane they are even, on the line there is one."""
        return bool(self.directions.shape[1] > 2)  # noqa: PLR2004  (the plane)


class SlicedWasserstein(Metric):
    """The root of the mean, over directions u, of the squared 2-Wasserstein distance of the projections on u.

    In two dimensions 64 directions are evenly spread over the half-circle, in others 256 are random, the same in every
    run; what others would have given is part of the interval, and of that of a difference as far as both samplers
    differ in it. In the unit of the state. Of n exact samples it is not zero but of the order of n^(-1/2). The
    influence of a sample is the mean of its Kantorovich potentials, the derivatives of the squared distances, over 2
    times the distance; where the distance is no more than the noise of n samples, the interval says little.
    """

    extractor = "state"
    better = "lower"
    unit = ""
    least = 2
    needs_reference = True

    def prepare(self, reference: Rows | Moments | None) -> Projections | None:
        """The reference rows (N, d) seen from each direction."""
        if reference is None:
            return None
        rows = rows_needed("sliced_wasserstein", reference)
        check_rows(rows)
        u = directions(rows.shape[1])
        return Projections(u, np.stack([np.sort(rows @ one) for one in u]))

    def estimate(self, rows: Rows, prepared: Projections) -> Estimate:
        """States (n, d) -> the distance and influences."""
        check_rows(rows, prepared.directions.shape[1])
        # In one dimension the optimal transport pairs sorted with sorted.
        squares, potentials = zip(
            *(transport(rows @ u, there) for u, there in zip(prepared.directions, prepared.values, strict=True)),
            strict=True,
        )
        distance = math.sqrt(float(np.mean(squares)))
        # The derivative of the square root.
        slope = 1 / (2 * distance) if distance else 1.0
        # Random directions are a sample too, and the same for every cell: their error cancels in a difference.
        common = slope * (np.array(squares) - distance**2) if prepared.is_random else None
        return Estimate(distance, slope * np.mean(potentials, axis=0), common=common)


def transport(x: Floats, y: Floats) -> tuple[float, Floats]:
    """The squared 2-Wasserstein distance of numbers x (n,) to sorted y (N,), and its derivative in each weight of x.

    In one dimension quantiles are matched. Where the i-th and the next x meet, at the probability i / n, both touch the
    same y, so the potential there grows by (x' - y)^2 - (x - y)^2.
    """
    n, m = len(x), len(y)
    order = np.argsort(x, kind="stable")
    ordered = x[order]
    edges = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)  # probabilities times n m, where either goes on
    # Between two edges both quantile functions are constant.
    gaps = ordered[edges[:-1] // m] - y[edges[:-1] // n]
    square = float((np.diff(edges) * gaps**2).sum() / (n * m))
    meeting = np.arange(1, n) * m
    touched = (y[(meeting - 1) // n] + y[meeting // n]) / 2
    # The Kantorovich potential: its derivative at x is 2 (x - T(x)), summed up along the sorted samples.
    growth = np.diff(ordered) * (ordered[1:] + ordered[:-1] - 2 * touched)
    potential = np.empty(n)
    potential[order] = np.concatenate([[0], np.cumsum(growth)])
    return square, potential - potential.mean()


def directions(d: int) -> Floats:
    """Unit vectors, (m, d)."""
    if d == 1:
        return np.ones((1, 1))
    if d == 2:  # noqa: PLR2004  (only the plane has an even spread)
        angles = math.pi * (np.arange(EVEN) + 0.5) / EVEN
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # The same directions in every run, or two runs could not be compared.
    u = np.random.default_rng(0).standard_normal((RANDOM, d))
    result: Floats = u / np.linalg.norm(u, axis=1, keepdims=True)
    return result


@hookimpl
def samplerbench_metrics() -> dict[str, type[Metric]]:
    """The sliced Wasserstein distance of a model's states, where it has exact samples."""
    return {"sliced_wasserstein": SlicedWasserstein}

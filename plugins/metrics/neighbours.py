"""Distances between rows, block by block, and the nearest rows: what precision, recall and the like are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...samplers.metric import Floats, Metric, Moments, Rows, check_rows, in_blocks, rows_needed

Indices = npt.NDArray[np.int64]
ROUNDING = 1e-13
"""Relative to the squared lengths, a squared distance below this is rounding: equal rows must be at distance 0."""


@dataclass(frozen=True)
class Balls:
    """Reference rows (N, d) and the squared distance of each to its k-th nearest other row, (N,)."""

    rows: Rows
    squared_radii: Floats


class OfBalls(Metric):
    """Base of metrics on the balls around reference rows that reach to their k-th nearest other row."""

    name: str
    k: int
    extractor = "features"
    better = "higher"
    unit = ""
    least = 2
    needs_reference = True

    def prepare(self, reference: Rows | Moments | None) -> Balls | None:
        """The balls of the reference images."""
        if reference is None:
            return None
        rows = rows_needed(self.name, reference)
        check_rows(rows, least=self.k + 1)
        return Balls(rows, nearest(rows, self.k)[0][:, -1])


def distances(x: Rows, y: Rows) -> Iterator[tuple[slice, slice, Floats]]:
    """The squared distances of the rows of x to those of y: where a block is in x, where in y, and the block."""
    centre = y.mean(0, dtype=np.float64)  # a large common offset would take digits
    for part, block in in_blocks(x, centre):
        own = np.einsum("nd,nd->n", block, block)[:, None]
        for there, other in in_blocks(y, centre):
            lengths = own + np.einsum("nd,nd->n", other, other)
            # |x - y|^2 = |x|^2 + |y|^2 - 2 x y: one product of matrices in place of all differences.
            squares = lengths - 2 * (block @ other.T)
            squares[squares < ROUNDING * lengths] = 0
            yield part, there, squares


def nearest(x: Rows, k: int) -> tuple[Floats, Indices]:
    """The squared distances of each row's k nearest other rows, the nearest first, and which they are, (n, k) both."""
    best, which = np.full((len(x), k), np.inf), np.zeros((len(x), k), dtype=np.int64)
    for part, there, squares in distances(x, x):
        # An image is not its own neighbour.
        if part.start == there.start:
            np.fill_diagonal(squares, np.inf)
        numbers = np.broadcast_to(np.arange(there.start, there.start + squares.shape[1]), squares.shape)
        both = np.concatenate([best[part], squares], axis=1)
        # The k best so far, merged with those of this block; a full sort is left to the end.
        order = np.argpartition(both, k - 1, axis=1)[:, :k]
        which[part] = np.take_along_axis(np.concatenate([which[part], numbers], axis=1), order, axis=1)
        best[part] = np.take_along_axis(both, order, axis=1)
    order = np.argsort(best, axis=1)
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(which, order, axis=1)


def balls_around(x: Rows, balls: Balls) -> Floats:
    """In how many balls each row is, (n,)."""
    counts = np.zeros(len(x))
    for part, there, squares in distances(x, balls.rows):
        counts[part] += (squares <= balls.squared_radii[there]).sum(1)
    return counts


def jackknife_excess(single: float, double: float) -> float:
    """By how much the delete-one jackknife of coverage is too wide: a factor of the standard error, at least 1.

    What c samples do only together, the jackknife's variance counts c times (Efron & Stein 1981). A place held by a
    Poisson number of samples, x on average, has the variance e^-x (1 - e^-x) where the jackknife says x e^-x. As Chao
    (1984) has it, x is twice the places held by 2 samples over those held by 1. Half of that is taken here: the
    standard error rests on the few places held by 1, and is too often too small if it is right on average.
    """
    x = double / single if single else 0.0
    return math.sqrt(x / -math.expm1(-x)) if x else 1.0

"""The squared maximum mean discrepancy of two sets of rows (Gretton et al. 2012, its unbiased form), for any kernel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...samplers.metric import Estimate, Floats, Metric, Moments, Rows, Strata, check_rows, in_blocks, rows_needed

Kernel = Callable[[Floats, Floats], Floats]
"""Rows (n, d) and (m, d) -> the kernel of each with each, (n, m)."""


@dataclass(frozen=True)
class Reference:
    """Reference rows (N, d) and the mean of the kernel over their pairs."""

    rows: Rows
    pairs: float


class MMD(Metric):
    """mean k(x, x') + mean k(r, r') - 2 mean k(x, r) over pairs of different rows of samples x and reference r.

    Unbiased, so it may be negative. Where prompts take turns, too few of all pairs are of one prompt, as no image is
    paired with itself; so the mean within each pair of prompts counts as often as both have images. The influence of x
    is 2 (mean_j k(x, x_j) - mean k(x, r)), centred, and conditional on the reference.
    """

    name: str
    better = "lower"
    unit = ""
    least = 2
    needs_reference = True

    @staticmethod
    @abstractmethod
    def kernel(x: Floats, y: Floats) -> Floats:
        """The kernel of every row of x (n, d) with every row of y (m, d), (n, m)."""

    def prepare(self, reference: Rows | Moments | None) -> Reference | None:
        """Reference rows with what their pairs amount to."""
        if reference is None:
            return None
        rows = rows_needed(self.name, reference)
        check_rows(rows)
        return Reference(rows, float(mean_of_others(rows, self.kernel).mean()))

    def estimate(self, rows: Rows, prepared: Reference) -> Estimate:
        """Rows (n, d) of one prompt -> the squared discrepancy and influences."""
        return self.estimate_by_prompt(rows, prepared, None)

    def estimate_by_prompt(self, rows: Rows, prepared: Reference, strata: Strata | None) -> Estimate:
        """Rows (n, d) -> the squared discrepancy and influences."""
        check_rows(rows, prepared.rows.shape[1])
        # The unbiased estimate leaves out each sample's kernel with itself.
        among = mean_of_others(rows, self.kernel, strata)
        across = mean_with(rows, prepared.rows, self.kernel)
        value = float(among.mean() + prepared.pairs - 2 * across.mean())
        # Each sample takes part in the pairs twice, as the first and as the second.
        influence = 2 * (among - across)
        return Estimate(value, influence - influence.mean())


def mean_with(x: Rows, y: Rows, kernel: Kernel) -> Floats:
    """The kernel of each row of x with the rows of y, averaged, (n,)."""
    sums = np.zeros(len(x))
    for part, block in in_blocks(x):
        for _, other in in_blocks(y):
            sums[part] += kernel(block, other).sum(1)
    return sums / len(y)


def mean_of_others(x: Rows, kernel: Kernel, strata: Strata | None = None) -> Floats:
    """The kernel of each row with the other rows, averaged, (n,).

    Each stratum counts as its share of the rows: in its own a row has one partner fewer, and each counts for more.
    """
    if strata is None:
        return sum_of_others(x, kernel) / (len(x) - 1)
    # Samples of one prompt are fewer than their share of pairs would be at random: the pairs within a prompt count
    # more, by n_k / (n_k - 1), so that prompts in turn and at random have the same expectation.
    sums = sum_of_others(x, kernel)
    for place in places_by(strata):
        sums[place] += sum_of_others(x[place], kernel) / (len(place) - 1)
    return sums / len(x)


def places_by(strata: Strata) -> list[npt.NDArray[np.intp]]:
    """The places of the rows of each stratum."""
    return np.split(np.argsort(strata, kind="stable"), np.cumsum(np.bincount(strata))[:-1])


def sum_of_others(x: Rows, kernel: Kernel) -> Floats:
    """The kernel of each row with the other rows, added up, (n,); each pair of blocks is asked for once."""
    sums = np.zeros(len(x))
    for part, block in in_blocks(x):
        for before, other in in_blocks(x[: part.start]):
            # The kernel is symmetric: each pair of blocks is computed once and counted for both.
            values = kernel(block, other)
            sums[part] += values.sum(1)
            sums[before] += values.sum(0)
        values = kernel(block, block)
        np.fill_diagonal(values, 0)
        sums[part] += values.sum(1)
    return sums

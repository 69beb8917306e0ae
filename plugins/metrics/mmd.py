"""The squared maximum mean discrepancy of two sets of rows (Gretton et al. 2012, its unbiased form), for any kernel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...samplers.metric import (
    BLOCK,
    Estimate,
    Floats,
    Metric,
    Moments,
    Rows,
    Strata,
    check_rows,
    in_blocks,
    rows_needed,
)  # fmt: skip

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
    counts_pairs_once = False
    """Whether what the influences count twice is taken off the variance of a value."""

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
        return self.estimate_with(mean_with(rows, prepared.rows, self.kernel), rows, prepared, strata)

    def estimate_with(self, across: Floats, rows: Rows, prepared: Reference, strata: Strata | None) -> Estimate:
        """The estimate, given the mean kernel of each row with the reference, (n,)."""
        # The unbiased estimate leaves out each sample's kernel with itself.
        among = mean_of_others(rows, self.kernel, strata)
        value = float(among.mean() + prepared.pairs - 2 * across.mean())
        # Each sample takes part in the pairs twice, as the first and as the second.
        influence = 2 * (among - across)
        excess = excess_of_pairs(rows, self.kernel, strata) if self.counts_pairs_once else 0.0
        return Estimate(value, influence - influence.mean(), excess=excess)


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


def excess_of_pairs(x: Rows, kernel: Kernel, strata: Strata | None) -> float:
    """The variance of the mean over pairs that the influences of single rows count twice.

    The kernel of two rows is a mean, a part of each row, and a rest r of the pair (Hoeffding 1948). With W the weight
    of an ordered pair in the mean, the rests have the variance 2 sum W^2 r^2, and the squared influences hold twice
    that. It falls with n^2 where the variance falls with n, so beyond BLOCK rows it is left out; and where a stratum
    has fewer than 4 rows, since these show no rest.
    """
    places = [np.arange(len(x))] if strata is None else places_by(strata)
    if len(x) > BLOCK or min(map(len, places)) < 4:  # noqa: PLR2004  (the rest of a pair is what 4 rows have left)
        return 0.0
    values, n = kernel(x.astype(np.float64), x.astype(np.float64)), len(x)
    total = 0.0
    for number, mine in enumerate(places):
        size = len(mine)
        # Within a stratum no row is paired with itself, so each pair counts for n_k / (n_k - 1): `mean_of_others`.
        total += size * (size - 1) * (size / (size - 1)) ** 2 * rest_within(values[np.ix_(mine, mine)])
        for other in places[:number]:
            total += 2 * size * len(other) * rest_between(values[np.ix_(mine, other)])
    return 2 * total / n**4


def rest_within(values: Floats) -> float:
    """The mean square of what pairs of different rows of one stratum have beyond their rows, unbiased.

    Szekely & Rizzo (2014), equations 2.1 and 2.5: U-centred, with the divisor n (n - 3).
    """
    n = len(values)
    np.fill_diagonal(values, 0)
    sums = values.sum(0)
    rest = values - (sums[:, None] + sums) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(rest, 0)
    return float((rest**2).sum()) / (n * (n - 3))


def rest_between(values: Floats) -> float:
    """The mean square of what pairs of rows of two strata have beyond their rows, unbiased."""
    rest = values - values.mean(0) - values.mean(1)[:, None] + values.mean()
    return float((rest**2).sum()) / ((len(values) - 1) * (len(values.T) - 1))

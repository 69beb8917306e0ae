"""KID, the kernel distance of features: the unbiased squared MMD (Binkowski et al. 2018, equations 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...samplers.metric import Estimate, Floats, Metric
from ...samplers.registry import hookimpl

BLOCK = 1024
"""Rows whose kernel values are held at a time."""


@dataclass(frozen=True)
class Reference:
    """Reference features (N, d) and the mean of the kernel over its pairs."""

    rows: Floats
    pairs: float


class KID(Metric):
    """mean k(x, x') + mean k(r, r') - 2 mean k(x, r) over pairs of different images, k(x, y) = (x.y / d + 1)^3.

    On all samples at once, where tools that draw subsets add their randomness. Unbiased, so it may be negative. Its
    standard error comes from the influence of each sample, 2 (mean_j k(x, x_j) - mean k(x, r)), centred; it is
    conditional on the reference set.
    """

    extractor = "features"
    better = "lower"
    unit = ""
    least = 2
    needs_reference = True

    def prepare(self, reference: npt.NDArray[np.float32] | None) -> Reference | None:
        """The reference features with what their pairs amount to."""
        if reference is None:
            return None
        rows = reference.astype(np.float64)
        return Reference(rows, float(mean_of_others(rows).mean()))

    def estimate(self, rows: npt.NDArray[np.float32], prepared: Reference) -> Estimate:
        """Features (n, d) -> KID and influences."""
        exact = rows.astype(np.float64)
        among, across = mean_of_others(exact), mean_kernel(exact, prepared.rows)
        value = float(among.mean() + prepared.pairs - 2 * across.mean())
        influence = 2 * (among - across)
        return Estimate(value, influence - influence.mean())


def kernel(x: Floats, y: Floats) -> Floats:
    """(x.y / d + 1)^3 of every row of x (n, d) with every row of y (m, d)."""
    values: Floats = (x @ y.T / x.shape[1] + 1) ** 3
    return values


def mean_kernel(x: Floats, y: Floats) -> Floats:
    """The kernel of each row of x with the rows of y, averaged, (n,)."""
    return np.concatenate([kernel(x[i : i + BLOCK], y).mean(1) for i in range(0, len(x), BLOCK)])


def mean_of_others(x: Floats) -> Floats:
    """The kernel of each row with the other rows, averaged, (n,)."""
    own = (np.einsum("nd,nd->n", x, x) / x.shape[1] + 1) ** 3
    others: Floats = (mean_kernel(x, x) * len(x) - own) / (len(x) - 1)
    return others


@hookimpl
def samplerbench_metrics() -> dict[str, type[Metric]]:
    """KID under the model's own feature extractor."""
    return {"kid": KID}

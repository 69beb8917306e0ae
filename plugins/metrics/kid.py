"""KID, the kernel distance of features: the unbiased squared MMD (Binkowski et al. 2018, equations 3 and 4)."""

from __future__ import annotations

from ...samplers.metric import Estimate, Floats, Metric, Rows
from ...samplers.registry import hookimpl
from .mmd import Reference, mmd, rows_to_reference


class KID(Metric):
    """The unbiased squared MMD of features and reference features with the kernel (x.y / d + 1)^3.

    On all samples at once, where tools that draw subsets add their randomness. It may be negative.
    """

    extractor = "features"
    better = "lower"
    unit = ""
    least = 2
    needs_reference = True

    def prepare(self, reference: Rows | None) -> Reference | None:
        """The reference features with what their pairs amount to."""
        return None if reference is None else rows_to_reference(reference, kernel)

    def estimate(self, rows: Rows, prepared: Reference) -> Estimate:
        """Features (n, d) -> KID and influences."""
        return mmd(rows, prepared, kernel)


def kernel(x: Floats, y: Floats) -> Floats:
    """(x.y / d + 1)^3 of every row of x (n, d) with every row of y (m, d)."""
    base = x @ y.T
    base /= x.shape[1]
    base += 1
    cube: Floats = base * base
    cube *= base
    return cube


@hookimpl
def samplerbench_metrics() -> dict[str, type[Metric]]:
    """KID under the model's own feature extractor."""
    return {"kid": KID}

"""KID, the kernel distance of features: the unbiased squared MMD (Binkowski et al. 2018, equations 3 and 4)."""

from __future__ import annotations

from ...samplers.metric import Floats, Metric
from ...samplers.registry import hookimpl
from .mmd import MMD


class KID(MMD):
    """The unbiased squared MMD of features and reference features with the kernel (x.y / d + 1)^3.

    Over all samples at once; tools that draw subsets add the randomness of the draw. It may be negative. Its interval
    counts what pairs of images add once.
    """

    name = "kid"
    extractor = "features"
    counts_pairs_once = True

    @staticmethod
    def kernel(x: Floats, y: Floats) -> Floats:
        """(x.y / d + 1)^3."""
        # Binkowski et al. (2018): (x y / d + 1)^3, in place, since a block of it is large.
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

"""The Frechet distance under a CLIP's image embeddings (as Kynkaanniemi et al. 2023 use it beside FID)."""

from __future__ import annotations

from ...samplers.metric import Estimate, Metric, Rows
from ...samplers.registry import hookimpl
from .fid import Gaussian, frechet, rows_to_gaussian


class FrechetCLIP(Metric):
    """The distance that FID is, of image embeddings in place of a classifier's features."""

    extractor = "clip_image"
    better = "lower"
    unit = ""
    least = 2
    needs_reference = True

    def prepare(self, reference: Rows | None) -> Gaussian | None:
        """The Gaussian of the reference embeddings."""
        return None if reference is None else rows_to_gaussian(reference)

    def estimate(self, rows: Rows, prepared: Gaussian) -> Estimate:
        """Embeddings (n, d) -> the distance and influences."""
        return frechet(rows, prepared)


@hookimpl
def samplerbench_metrics() -> dict[str, type[Metric]]:
    """The Frechet distance under the model's own CLIP."""
    return {"fd_clip": FrechetCLIP}

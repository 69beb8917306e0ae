"""The Frechet distance under a CLIP's image embeddings (as Kynkaanniemi et al. 2023 use it beside FID)."""

from __future__ import annotations

from ...samplers.metric import Metric
from ...samplers.registry import hookimpl
from .fid import FID


class FrechetCLIP(FID):
    """The Frechet distance of image embeddings, where FID has features of a classifier."""

    extractor = "clip_image"
    unbiased = None


@hookimpl
def samplerbench_metrics() -> dict[str, type[Metric]]:
    """The Frechet distance under the model's own CLIP."""
    return {"fd_clip": FrechetCLIP}

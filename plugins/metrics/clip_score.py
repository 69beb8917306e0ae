"""CLIP score, the mean cosine between image and caption in per cent (Hessel et al. 2021, without their 2.5)."""

from __future__ import annotations

import numpy as np

from ...samplers.metric import Estimate, Metric, Rows, check_rows, mean_estimate
from ...samplers.registry import hookimpl


class CLIPScore(Metric):
    """100 cos(image, caption), averaged over the images; negative cosines count as they are."""

    extractor = "clip"
    better = "higher"
    unit = "%"
    least = 2

    def estimate(self, rows: Rows, prepared: None) -> Estimate:
        """Cosines (n, 1) -> the mean, in per cent."""
        check_rows(rows, least=1)
        return mean_estimate(100 * rows[:, 0].astype(np.float64))


@hookimpl
def samplerbench_metrics() -> dict[str, type[Metric]]:
    """The CLIP score under the model's own CLIP."""
    return {"clip_score": CLIPScore}

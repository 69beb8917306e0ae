"""my-metric, a metric for samplerbench. Say here which paper and which equation it is.

What stands below works: the distance of the mean features from those of the reference. Put your formula in its place.

    samplerbench run --metric my-metric --metric fid -s ddim --steps 5,10 -n 64 --plugin my_metric.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

from samplerbench import Estimate, Floats, Metric, Moments, Rows, check_rows, hookimpl

samplerbench_api = 1  # the version of the interface that this file is written for


class MyMetric(Metric):
    """||m - m_r||, with m the mean of the features of the generated images and m_r that of the reference images."""

    extractor = "features"  # which rows it reads: "features", "logits", "clip", "clip_image", "state" or one of yours
    better = "lower"  # or "higher"
    unit = ""
    least = 2  # the fewest samples for which the value means anything
    needs_reference = True  # without a reference the metric is left out

    def prepare(self, reference: Rows | Moments | None) -> Any:
        """What `estimate` needs of the reference, computed once a run: here its mean, (d,).

        `reference` is a row for each reference image, (N, d), or `Moments`, their mean and covariance without the rows.
        A metric that cannot do without the rows says so: `rows = rows_needed("my-metric", reference)`.
        """
        if reference is None:
            return None
        return reference.mean if isinstance(reference, Moments) else reference.mean(0, dtype=np.float64)

    def estimate(self, rows: Rows, prepared: Floats) -> Estimate:
        """Rows (n, d) in float32, one for each generated image -> the value, and each sample's influence on it."""
        check_rows(rows, len(prepared))
        mean = rows.mean(0, dtype=np.float64)
        shift = mean - prepared
        value = float(np.linalg.norm(shift))

        # The influence of a sample is the derivative of the value in its weight, minus the mean: to first order
        # the value is a constant plus the mean of the influences, and their spread gives the interval. A value that is
        # a plain mean over the samples has all of this from `mean_estimate(numbers)`.
        influence = (rows - mean) @ shift / value if value else np.zeros(len(rows))
        return Estimate(value, influence - influence.mean())


@hookimpl
def samplerbench_metrics() -> dict[str, type[Metric]]:
    """What this file adds, by name."""
    return {"my-metric": MyMetric}

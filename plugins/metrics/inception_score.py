"""Inception score, exp(mean KL(p(y|x) || p(y))) (Salimans et al. 2016, section 4), by the model's own classifier."""

from __future__ import annotations

import math

import numpy as np

from ...samplers.metric import Estimate, Metric, Rows, check_rows
from ...samplers.registry import hookimpl


class InceptionScore(Metric):
    """On all samples at once, without splits; from 1 to the number of classes, and without a reference.

    With p(y) the mean of p(y|x), the derivative of the score in a sample's weight is the score times that sample's own
    KL divergence, centred.
    """

    extractor = "logits"
    better = "higher"
    unit = ""
    least = 2

    def estimate(self, rows: Rows, prepared: None) -> Estimate:
        """Logits or log-probabilities (n, classes) -> the score and influences."""
        check_rows(rows)
        # The rows are logits; the largest is subtracted before exp, so that nothing overflows.
        log_p = rows.astype(np.float64)
        log_p -= log_p.max(1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
        p = np.exp(log_p)
        marginal = np.log(np.maximum(p.mean(0), np.finfo(np.float64).tiny))
        # Salimans et al. (2016): exp of the mean divergence of p(y|x) from the marginal p(y).
        divergence = (p * (log_p - marginal)).sum(1)
        score = math.exp(float(divergence.mean()))
        # The derivative through the marginal vanishes, since it minimises the mean divergence.
        return Estimate(score, score * (divergence - divergence.mean()))


@hookimpl
def samplerbench_metrics() -> dict[str, type[Metric]]:
    """The inception score under the model's own classifier."""
    return {"inception_score": InceptionScore}

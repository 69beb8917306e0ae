"""FID, the Frechet distance between Gaussians fitted to features (Heusel et al. 2017, equation 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...samplers.metric import Estimate, Floats, Metric
from ...samplers.registry import hookimpl


@dataclass(frozen=True)
class Gaussian:
    """Mean (d,), covariance (d, d) and its symmetric root."""

    mean: Floats
    covariance: Floats
    root: Floats


def features_to_gaussian(features: npt.NDArray[np.floating]) -> Gaussian:
    """Features (N, d) -> mean, covariance (divisor N - 1) and root, in float64."""
    exact = features.astype(np.float64)
    covariance = np.atleast_2d(np.cov(exact, rowvar=False))
    return Gaussian(exact.mean(0), covariance, _power(covariance, 0.5))


class FID(Metric):
    """||m - m_r||^2 + tr(S + S_r - 2 (R S R)^(1/2)) with R = S_r^(1/2), against reference features.

    Its standard error comes from the influence of each sample, 2 (x - m)(m - m_r) + (x - m)^T (I - T) (x - m)
    with T = R (R S R)^(-1/2) R, centred; it is conditional on the reference set.
    """

    extractor = "features"
    better = "lower"
    unit = ""
    least = 2
    needs_reference = True

    def prepare(self, reference: npt.NDArray[np.float32] | None) -> Gaussian | None:
        """The Gaussian of the reference features."""
        return None if reference is None else features_to_gaussian(reference)

    def estimate(self, rows: npt.NDArray[np.float32], prepared: Gaussian) -> Estimate:
        """Features (n, d) -> FID and influences."""
        exact = rows.astype(np.float64)
        mean = exact.mean(0)
        centred = exact - mean
        covariance = centred.T @ centred / (len(exact) - 1)
        sandwich = prepared.root @ covariance @ prepared.root
        shift = mean - prepared.mean
        cross = np.trace(_power(sandwich, 0.5))
        value = float(shift @ shift + np.trace(covariance) + np.trace(prepared.covariance) - 2 * cross)

        transport = prepared.root @ _power(sandwich, -0.5) @ prepared.root
        influence = 2 * centred @ shift + np.einsum("nd,nd->n", centred @ (np.eye(len(mean)) - transport), centred)
        return Estimate(value, influence - influence.mean())


def _power(symmetric: Floats, exponent: float) -> Floats:
    """A power of a positive semidefinite matrix; directions without variance stay zero (pseudo-inverse)."""
    values, vectors = np.linalg.eigh(symmetric)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    powers = np.where(kept, np.where(kept, values, 1.0) ** exponent, 0.0)
    result: Floats = (vectors * powers) @ vectors.T
    return result


@hookimpl
def samplerbench_metrics() -> dict[str, type[Metric]]:
    """FID under the model's own feature extractor."""
    return {"fid": FID}

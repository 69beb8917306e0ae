"""Models whose score is known in closed form: a point, a Gaussian, a mixture of Gaussians.

Against these a sampler can be proven right: the answer is exact at every level, and for the point and the
Gaussian the whole path of the ODE is known.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .errors import InputError, quote
from .extractor import Extractor
from .level import Level
from .metric import Floats
from .model import Model
from .predictor import Predicts
from .schedule import Schedule

EXACT_SAMPLES = 10_000
"""How many exact samples represent the data."""


@dataclass(frozen=True)
class GaussianMixture:
    """Data of shape (D,): x0 ~ sum_k weight_k N(mean_k, variance_k I)."""

    means: tuple[tuple[float, ...], ...]
    """The mean of each of the K components, D numbers."""
    variances: tuple[float, ...]
    """The variance of each component, equal in all directions."""
    weights: tuple[float, ...]
    """The weight of each component; the weights add up to 1."""

    def __post_init__(self) -> None:
        """Check the numbers, and convert any sequences to tuples."""
        try:
            means = tuple(tuple(map(float, mean)) for mean in self.means)
            variances, weights = tuple(map(float, self.variances)), tuple(map(float, self.weights))
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(
                "means, variances, weights: expected numbers, as in ((0.5, 0.5),), (0.1,), (1.0,)"
            ) from error
        # One mean, one variance and one weight for each component, and all means of one dimension.
        if not means or len({len(means), len(variances), len(weights)}) > 1 or len(set(map(len, means))) > 1:
            raise InputError("means, variances, weights: expected one of each a component, means of one length")
        if not (means[0] and all(map(math.isfinite, (*variances, *(m for mean in means for m in mean))))):
            raise InputError("means, variances: expected finite numbers")
        if min(variances) < 0:
            raise InputError(f"variances {variances}: expected numbers from 0")
        if not (min(weights) > 0 and math.isclose(sum(weights), 1, abs_tol=1e-6)):
            raise InputError(f"weights {weights}: expected numbers above 0 whose sum is 1")
        for name, value in (("means", means), ("variances", variances), ("weights", weights)):
            object.__setattr__(self, name, value)

    @property
    def dim(self) -> int:
        """D, how many numbers a sample has."""
        return len(self.means[0])

    def x0(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x] for x (B, D) with alpha, sigma (B, 1): each component's posterior mean, weighted.

        Given component k, x ~ N(alpha mean_k, s_k^2) with s_k^2 = alpha^2 variance_k + sigma^2.
        """
        means = x.new_tensor(self.means)
        variances = x.new_tensor(self.variances)
        # Which component x comes from (a softmax over log densities), then the posterior mean under each component.
        s2 = alpha**2 * variances + sigma**2
        residual = x[:, None, :] - alpha[:, :, None] * means
        # The factor (2 pi)^(-D/2) is common to all components, and the softmax drops it.
        log_density = -0.5 * residual.square().sum(-1) / s2 - 0.5 * self.dim * s2.log()
        responsibility = (log_density + x.new_tensor(self.weights).log()).softmax(dim=1)
        posterior = means + (alpha * variances / s2)[:, :, None] * residual
        return (responsibility[:, :, None] * posterior).sum(1)

    def draw(self, n: int, seed: int) -> Floats:
        """n samples of the data, (n, D)."""
        rng = np.random.default_rng(seed)
        # A component for each sample, then a normal around its mean.
        which = rng.choice(len(self.weights), size=n, p=self.weights)
        spread = np.sqrt(self.variances)[which, None] * rng.standard_normal((n, self.dim))
        drawn: Floats = np.asarray(self.means)[which] + spread
        return drawn


def exact_model(data: GaussianMixture, schedule: Schedule, predicts: Predicts = "eps", name: str = "exact") -> Model:
    """The perfect network for this data: it answers with the conditional expectation of what it predicts.

    It takes hints, and answers the same whatever they are.
    """
    if not isinstance(data, GaussianMixture):
        raise InputError(f"data {quote(data)}: expected a GaussianMixture")

    def network(x: Tensor, t: Tensor, hints: object = None) -> Tensor:
        # A batch usually has one time; each distinct time is looked up once. In float64, so that the answer is exact.
        times, which = torch.unique(t.double(), return_inverse=True)
        levels = [schedule.at_time(float(time)) for time in times]
        alpha = torch.tensor([level.alpha for level in levels], dtype=torch.float64, device=x.device)[which, None]
        sigma = torch.tensor([level.sigma for level in levels], dtype=torch.float64, device=x.device)[which, None]
        # sigma is above 0 here: no sampler asks about a clean state.
        x0 = data.x0(x.double(), alpha, sigma)
        if predicts == "x0":
            return x0.to(x.dtype)
        # All predictions follow from x0 and x = alpha x0 + sigma eps.
        eps = (x.double() - alpha * x0) / sigma
        answer = {"eps": eps, "v": alpha * eps - sigma * x0, "flow": eps - x0}[predicts]
        return answer.to(x.dtype)

    return Model(
        name=name, network=lambda device, dtype: network, schedule=schedule, shape=(data.dim,), predicts=predicts,
        extractors={"state": state_extractor(data)}, fingerprint=f"{data} {schedule} {predicts}",
    )  # fmt: skip


def state_extractor(data: GaussianMixture) -> Extractor:
    """The states unchanged; the reference rows are exact samples of the data."""
    return Extractor(
        f"{EXACT_SAMPLES:,} exact samples",
        lambda x, prompts: x.float().numpy(),
        lambda: data.draw(EXACT_SAMPLES, seed=0).astype(np.float32),
        fingerprint=f"{EXACT_SAMPLES} of {data}",
    )


def point(location: Sequence[float]) -> GaussianMixture:
    """Data at a single point: every first-order method is exact in one step."""
    return GaussianMixture((tuple(location),), (0.0,), (1.0,))


def gaussian(mean: Sequence[float], variance: float) -> GaussianMixture:
    """N(mean, variance I)."""
    return GaussianMixture((tuple(mean),), (variance,), (1.0,))


def gaussian_flow(mean: float, variance: float, x: Tensor, a: Level, b: Level) -> Tensor:
    """The exact ODE solution for data N(mean, variance I), which takes the state x from level a to level b.

    x_b = alpha_b mean + sqrt(alpha_b^2 v + sigma_b^2) / sqrt(alpha_a^2 v + sigma_a^2) (x_a - alpha_a mean)
    """
    # The ODE keeps the quantile of each state, so it maps deviations of one Gaussian to the other's.
    std_a = math.sqrt(a.alpha**2 * variance + a.sigma**2)
    std_b = math.sqrt(b.alpha**2 * variance + b.sigma**2)
    return b.alpha * mean + std_b / std_a * (x - a.alpha * mean)


def quantile_path(data: GaussianMixture, probabilities: tuple[float, ...], level: Level) -> Tensor:
    """The states (len(probabilities), 1) of the exact ODE solution at a level, for data of one dimension.

    In one dimension the solution keeps each state's quantile, so the distribution at the level is inverted. Bisection
    does so to the last digit of float64.
    """
    if data.dim != 1:
        raise ValueError(f"data of {data.dim} dimensions; the quantiles give the path in one")
    return torch.tensor(_quantiles(data, probabilities, level), dtype=torch.float64)[:, None]


@functools.lru_cache(maxsize=4096)
def _quantiles(data: GaussianMixture, probabilities: tuple[float, ...], level: Level) -> tuple[float, ...]:
    """The states at which the distribution at a level reaches the probabilities."""
    p = np.asarray(probabilities)
    # A thousand times the size of a state on either side: farther than any data that a test uses.
    low = np.full_like(p, -1e3 * (level.alpha + level.sigma))
    high = -low
    for _ in range(80):  # halvings: float64 has 53 binary digits, and the bounds are wide
        middle = (low + high) / 2
        below = _distribution(data, middle, level) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return tuple(((low + high) / 2).tolist())


def _distribution(data: GaussianMixture, x: Floats, level: Level) -> Floats:
    """P(state <= x) at a level."""
    means = level.alpha * np.asarray(data.means)[:, 0]
    variances = level.alpha**2 * np.asarray(data.variances) + level.sigma**2
    z = (x[:, None] - means) / np.sqrt(variances)
    # The distribution of a mixture is the weighted sum of those of its components.
    below: Floats = np.asarray(torch.special.ndtr(torch.from_numpy(z))) @ np.asarray(data.weights)
    return below

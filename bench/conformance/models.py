"""The models that the checks run on, and how their results are compared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ...samplers.exact import GaussianMixture, exact_model
from ...samplers.level import Level
from ...samplers.predictor import Predicts
from ...samplers.sample import sample
from ...samplers.sampler import Sampler
from ...samplers.schedule import EDM, VP, Flow, Schedule, edm, flow, vp_from_alphas_cumprod, vp_linear

EQUAL = 1e-10
"""Tolerance for samples that must be equal: roundings of 1e-16, times sigma / alpha = 160, times a few steps."""
PLANE = GaussianMixture(((-1.0, 0.5), (0.8, 1.0), (0.3, -1.2)), (0.02, 0.1, 0.3), (0.5, 0.3, 0.2))
"""Data of two dimensions."""
SCHEDULES: dict[str, VP | EDM | Flow] = {"VP": vp_linear(), "EDM": edm(), "flow": flow()}
UNEVEN = (999.0, 950.0, 600.0, 590.0, 200.0, 150.0, 20.0, 3.0)
"""Timesteps of the linear VP schedule, in steps of very different length."""
UNEVEN_ON = {"VP": UNEVEN, "EDM": (40.0, 9.0, 2.0, 0.8, 0.1, 0.01), "flow": (0.98, 0.8, 0.5, 0.3, 0.02)}
"""Levels in steps of very different length, by schedule."""
NO_SIGNAL = vp_from_alphas_cumprod([*vp_linear().alphas_cumprod[:-1], 0.0])
"""A VP schedule with alpha = 0 at its start (zero terminal SNR)."""


class Stream:
    """Unit normal noise, equal in every run; it records the intervals that a sampler asks for."""

    def __init__(self, like: Tensor) -> None:
        self.like, self.intervals = like, list[tuple[Level, Level]]()
        # A seed of its own, since the states to start from are drawn with seed 0.
        self.generator = torch.Generator().manual_seed(1)

    def __call__(self, a: Level, b: Level) -> Tensor:
        """Noise for the interval from a to b, (n, *shape) of float64."""
        self.intervals.append((a, b))
        return torch.randn(self.like.shape, generator=self.generator, dtype=torch.float64).to(self.like.dtype)


def noise_to_start_from(n: int = 4) -> Tensor:
    """(n, 2) of float64, unit normal."""
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def draw_samples(  # noqa: PLR0913  (a run's settings)
    sampler: Sampler,
    schedule: Schedule,
    grid: str | Sequence[float] | None = None,
    *,
    steps: int | None = None,
    data: GaussianMixture = PLANE,
    predicts: Predicts = "eps",
    x: Tensor | None = None,
) -> Tensor:
    """The clean samples of a run with the perfect network for the data."""
    # In float64: differences of 1e-10 would drown in the roundings of float32.
    x = noise_to_start_from() * schedule.prior_scale(schedule.first) if x is None else x
    model = exact_model(data, schedule, predicts)
    return sample(model, sampler, steps=steps, grid=grid, x_init=x, noise=Stream(x)).x


def intervals(times: Sequence[float], schedule: Schedule) -> list[tuple[Level, Level]]:
    """The pairs of neighbouring levels of a list of times, the clean end last."""
    return list(itertools.pairwise([*(schedule.at_time(t) for t in times), schedule.clean]))


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference of two results; infinite if a result is not finite or too small to be meaningful."""
    # Two results that are both zero would pass as equal.
    least = 0.1
    if not all(bool(x.isfinite().all()) and float(x.abs().max()) > least for x in (a, b)):
        return float("inf")
    return float((a - b).abs().max())

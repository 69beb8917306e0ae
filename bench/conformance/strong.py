"""The strong order of a sampler with noise: how fast each sample tends to that of the SDE on one Brownian path."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ...samplers.exact import quantile_path
from ...samplers.level import Level
from ...samplers.predictor import Promptless
from ...samplers.sampler import Sampler, StepContext, integrate
from .card import Effort, Finding
from .order import LINE, QUANTILES, SMOOTH, ExactEps, sigma_of

PATHS = 100
"""Brownian paths for each start; the slope is then right within 0.1."""
TOLERANCE = 0.2


class Path:
    """A Brownian motion in (alpha / sigma)^2, the time in which the noise of the model's SDE is even.

    Where it is asked for, it is made between the places that are known: so every run sees one path.
    """

    def __init__(self, rows: int) -> None:
        self.generator = torch.Generator().manual_seed(2)
        self.rows = rows
        self.times, self.places = [0.0], [torch.zeros(rows, 1, dtype=torch.float64)]

    def at(self, time: float) -> Tensor:
        """The place at a time, (rows, 1)."""
        i = bisect.bisect_left(self.times, time)
        if i < len(self.times) and self.times[i] == time:
            return self.places[i]
        z = torch.randn(self.rows, 1, generator=self.generator, dtype=torch.float64)
        before, t = self.places[i - 1], time - self.times[i - 1]
        if i == len(self.times):
            place = before + math.sqrt(t) * z
        else:  # a Brownian bridge
            share = t / (self.times[i] - self.times[i - 1])
            place = before + share * (self.places[i] - before) + math.sqrt(t * (1 - share)) * z
        self.times.insert(i, time)
        self.places.insert(i, place)
        return place

    def noise(self, a: Level, b: Level, *where: int) -> Tensor:
        """Unit normal: the way from a to b, over the root of the time between them."""
        start, end = a.sigma_ve**-2, b.sigma_ve**-2
        return (self.at(end) - self.at(start)) / math.sqrt(end - start)


def strong_order(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """The slope of the difference between runs of n and of 2 n steps, from one start along one path, for two n."""
    claimed = sampler.strong_order
    if claimed is None or sampler.convergence is not None:
        return
    _, schedule, at = SMOOTH[0]
    x = quantile_path(LINE, QUANTILES, at(0.0)).repeat(PATHS, 1)
    path = Path(len(x))

    def end_of(steps: int) -> Tensor:
        levels = tuple(at(i / steps) for i in range(steps + 1))
        return integrate(sampler, StepContext(levels, Promptless(ExactEps()), path.noise, schedule), x)

    # No exact path is needed: where the error falls as h^p, so does the difference between runs of n and 2 n steps.
    finest = 2 * effort.order_steps
    ends = [end_of(steps) for steps in (finest, finest // 2, finest // 4)]
    fine, coarse = (float((p - q).square().mean().sqrt()) for p, q in itertools.pairwise(ends))
    slope = math.log2(coarse / fine) if coarse and fine else math.nan
    yield Finding(
        f"strong order to {sigma_of(at(1.0))}", f"{claimed:g} ± {TOLERANCE}", f"{slope:.2f}",
        abs(slope - claimed) <= TOLERANCE,
    )  # fmt: skip

"""EPD-Solver before learning (Zhu et al. 2025, ensemble of parallel directions): the midpoint rule, its points at once.

Deterministic, order 2, NFE = 3 steps - 2, depth = 2 steps - 1. One call at the start of an interval; an Euler step
from there gives the states at the points, about which two calls are made at once. The points are a quarter and three
quarters of the interval in lambda, their slopes count by half: the midpoint rule over two halves. Where a network
knows whole timesteps only, the weights follow the places that the levels really have. The last interval, and a first
one that starts at alpha = 0, is an Euler step.

Same as: `epd:points=1` = `dpm2`; `epd` = `ddim` (in 1 step).

Use it as the yardstick of learned parallel solvers: it has the depth of `dpm2` and half as many calls again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext


@dataclass(frozen=True)
class EPD(Sampler):
    """In s = sigma / alpha: x_b / alpha_b = x_a / alpha_a + (s_b - s_a) sum_k w_k eps_k."""

    points: Literal[1, 2] = 2
    """Directions that are asked for at once."""

    convergence = 2
    aliases = {"EPD": "", "EPD-Solver": ""}

    def nfe(self, steps: int) -> int:
        """The start and the points of an interval; in the last the start."""
        return (1 + self.points) * (steps - 1) + 1

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """One interval; an Euler step where no levels lie in it."""
        at_a = run.predict(x, a)
        # All points lie on the Euler step from a, so they are asked about in one batch: depth 2, whatever their number.
        euler = at_a.combine(b.alpha, b.sigma)
        inner = run.between(a, b, 2 * self.points - 1)[::2]
        if not inner:
            return euler, None
        (first, *_), (last, *_) = inner[0], inner[-1]
        # Together they must be the slope at the middle: w_1 + w_2 = 1 and w_1 r_1 + w_2 r_2 = 1/2.
        share = (0.5 - first) / (last - first) if last > first else 0.0
        said = run.predict_many([(at_a.combine(level.alpha, level.sigma), level) for _, level in inner])
        slope = said[0].eps if len(said) == 1 else (1 - share) * said[0].eps + share * said[1].eps
        return euler + b.alpha * (b.sigma_ve - a.sigma_ve) * (slope - at_a.eps), None


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """EPD-Solver."""
    return {"epd": EPD}

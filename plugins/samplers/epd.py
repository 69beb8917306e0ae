"""EPD-Solver (Zhu et al. 2025, ensemble of parallel directions), its points from a file; else the midpoint rule.

Deterministic. A call at the start of an interval, then an Euler step to the points, about which all calls are made at
once. Without a file: order 2, NFE = 3 steps - 2, depth = 2 steps - 1; the points are a quarter and three quarters of
the interval in lambda and count by half, or as their levels on whole timesteps ask for. A
[file](learned-files.md#epd) has its own. The last interval, and one from alpha = 0, is Euler.

Same as: `epd:points=1` = `dpm2`; `epd` = `ddim` (in 1 step).

Use it with a file for your model, or as the yardstick of learned parallel solvers: `epd` has the depth of `dpm2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...samplers.learned import FromFile
from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext
from .epd_points import Points, points_in


@dataclass(frozen=True)
class EPD(FromFile[Points]):
    """In s = sigma / alpha: x_b / alpha_b = x_a / alpha_a + (s_b - s_a) sum_k w_k eps_k."""

    points: Literal[1, 2] = 2
    """Directions that are asked for at once, without a file."""

    content, by_default = Points, "no file of points: it is the midpoint rule"
    aliases = {"EPD": "", "EPD-Solver": ""}

    @property
    def convergence(self) -> int:  # type: ignore[override]
        """Second order without a file; the weights of one need not have it."""
        return 1 if self.known else 2

    def nfe(self, steps: int) -> int:
        """The start and the points of an interval; in the last the start."""
        return steps + (sum(map(len, self.known.places)) if self.known else self.points * (steps - 1))

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """One interval; an Euler step where no levels lie in it."""
        at_a = run.predict(x, a)
        # All points lie on the Euler step from a, so they are asked about in one batch: depth 2, whatever their number.
        euler = at_a.combine(b.alpha, b.sigma)
        asked = points_in(self.known, self.points, run, a, b, self.told)
        if not asked:
            return euler, None
        said = run.predict_many([(at_a.combine(level.alpha, level.sigma), level, told) for _, level, told in asked])
        slope = sum(weight * one.eps for (weight, *_), one in zip(asked, said, strict=True))
        return euler + b.alpha * (b.sigma_ve - a.sigma_ve) * (slope - at_a.eps), None


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """EPD-Solver."""
    return {"epd": EPD}

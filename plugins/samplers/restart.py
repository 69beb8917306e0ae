"""Restart (Xu et al. 2023, algorithm 1): Heun, with one restart interval that is repeated several times.

Stochastic. In s = sigma / alpha: once the run has reached the level nearest to s_min, noise takes the state up to
s_max and Heun's method takes it down again, k times, on `steps` levels that are even in s^(1/7) (Karras et al. 2022,
equation 5). NFE = 2 S - 1 + 2 k (steps - 1) for S > 1 steps of the run, 1 for S = 1. The defaults are the example of
the authors' code, which allows several restart intervals. Where the level nearest to s_min is above s_max, the restart
interval keeps its ratio s_max / s_min; it never goes above the level that the run starts from.

Same as: `restart:k=0` = `heun`.

Use it when you can spend several tens of calls. Its small steps make little error, and its noise contracts errors that
were made before. Xu et al. choose the restart interval for each model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ...samplers.errors import InputError
from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext
from .heun import heun_step

RHO = 7
"""Exponent of the levels of a restart."""


@dataclass(frozen=True)
class Restart(Sampler):
    """Noise contracts earlier errors; Heun with small steps makes few new ones."""

    k: int = 2
    """K: how often the restart interval is repeated; 0 = heun."""
    steps: int = 3
    """N_Restart: levels of a repetition, its two ends included."""
    s_min: float = 0.06
    """Clean end of the restart interval, in sigma / alpha."""
    s_max: float = 0.3
    """Noisy end of the restart interval, in sigma / alpha."""

    def __post_init__(self) -> None:
        """Check the options."""
        for name, low in (("k", 0), ("steps", 2)):
            if getattr(self, name) < low:
                value = getattr(self, name)
                raise InputError(f"sampler 'restart': option {name} {value}: expected a whole number from {low} up")
        if not 0 < self.s_min < self.s_max < math.inf:
            raise InputError(
                f"sampler 'restart': options s_min {self.s_min}, s_max {self.s_max}: expected 0 < s_min < s_max"
            )

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        """Second order without restarts."""
        return None if self.k else 2

    def nfe(self, steps: int) -> int:
        """Heun's calls, and two an interval of each restart."""
        return 2 * steps - 1 + (2 * self.k * (self.steps - 1) if steps > 1 else 0)

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """One step, then the restarts if b is the level nearest to s_min."""
        # Main loop of algorithm 1: an ordinary Heun step.
        x = heun_step(run, x, a, b)
        # Not at the first level nor at the clean end. A run from alpha = 0 counts from its second level, as `nfe` does.
        noisy = run.grid[1:-1] if run.grid[0].alpha else run.grid[2:-1]
        if not self.k or b not in noisy or b != min(noisy, key=lambda level: abs(level.sigma_ve - self.s_min)):
            return x, None

        levels = self._stretch(run, b)
        up = levels[0]
        added = math.sqrt(up.sigma_ve**2 - b.sigma_ve**2)
        for _ in range(self.k):
            # Up: forward noise from b to s_max; in x / alpha the variances of the two levels differ by what is added.
            x = up.alpha / b.alpha * x
            x = x + up.alpha * added * run.noise(a, b) if added else x
            # Down: Heun over the levels of the restart interval.
            for c, d in pairwise(levels):
                x = heun_step(run, x, c, d)
        return x, None

    def _stretch(self, run: StepContext, b: Level) -> list[Level]:
        """The levels of a restart, from the noisy end to b."""
        # Network calls must stay within the run's levels, so the top is at most the first of them.
        s, first = b.sigma_ve, run.grid[0]
        top = min(self.s_max if s < self.s_max else s * self.s_max / self.s_min, first.sigma_ve)
        # Equation 5 of Karras et al., from the noisy end of the restart interval to b.
        high, low = top ** (1 / RHO), s ** (1 / RHO)
        inner = [(high + i / (self.steps - 1) * (low - high)) ** RHO for i in range(1, self.steps - 1)]
        up = run.at(-math.log(top)) if top < first.sigma_ve else first
        return [up, *(run.at(-math.log(s_i)) for s_i in inner), b]


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """Restart."""
    return {"restart": Restart}

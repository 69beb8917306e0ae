"""Strategic stochastic sampling of trajectory consistency distillation (Zheng et al. 2024, algorithm 4).

Stochastic; first order without noise. NFE = steps. Each step goes down to the time s = (1 - eta) t_b, which is below b,
and adds fresh noise up to b: eta is the paper's gamma, and the time is the model's own (timestep, sigma or flow time).
That is right for a network distilled to jump along the path: with any other one, and eta above 0, the samples lose
variance, since the jump below b does not shrink with the steps.

Same as: `tcd:eta=0` = `ddim`; `tcd` = `ddim` (in 1 step).

Use it with a model distilled for it, in 2 to 20 steps; the authors raise eta with the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext
from .ancestral import check_share

CLAIMS = {
    "variance of Gaussian data": "made for distilled models: with the mean of x0 it loses variance",
    "VP = EDM = flow": "the level below b is placed in the time of the schedule",
}


@dataclass(frozen=True)
class TCD(Sampler):
    """x_b = alpha_b x0 + alpha_b (sigma_s / alpha_s) eps + noise up to sigma_b, with s at (1 - eta) t_b."""

    eta: float = 0.3
    """Share of the time t_b that each step goes below b; 0 = ddim, 1 = down to the end of the time."""

    aliases = {"TCD": "", "TCDScheduler": ""}

    def __post_init__(self) -> None:
        """Check the option: s lies between the clean end and b."""
        check_share("tcd", self.eta)

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        """First order without noise."""
        return None if self.eta else 1

    @property
    def claims(self) -> Mapping[str, str]:  # type: ignore[override]
        """The lines of the report card that do not apply with noise, and why."""
        return CLAIMS if self.eta else {}

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Down to s, then up to b."""
        # The time of a VP model ends at timestep 0, which has noise; those of EDM and flow end clean.
        below, clean = (1 - self.eta) * b.t, run.schedule.clean
        s = b if b.is_clean or not self.eta else clean if below == clean.t else run.schedule.at_time(below)
        x = run.predict(x, a).combine(b.alpha, b.alpha * s.sigma_ve)
        std = b.alpha * math.sqrt(b.sigma_ve**2 - s.sigma_ve**2)  # what is missing to sigma_b
        return x + std * run.noise(a, b) if std else x, None


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """TCD."""
    return {"tcd": TCD}

"""Heun's method (Karras et al. 2022, algorithm 1; the "Heun" of the image tools and of the flow libraries).

Deterministic, order 2, NFE = 2 steps - 1. The last interval, and a first one that starts at alpha = 0, is an Euler
step of one call. With variable=sigma the slope is eps, averaged over steps in sigma / alpha; with variable=t it is
eps - x0, averaged over steps in the flow time t = sigma / (alpha + sigma). Both variables are defined for every
schedule: x / (alpha + sigma) = (1 - t) x0 + t eps is the flow process at the same signal-to-noise ratio.

Same as: `heun` = `edm`; `heun` = `restart:k=0`.

Use it when you want an ODE solver of order 2 without memory and can spend two calls a step; Karras et al. find it a
good balance of error and calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext


@dataclass(frozen=True)
class Heun(Sampler):
    """An Euler step, then the same step with the mean of the slopes at its two ends."""

    variable: Literal["sigma", "t"] = "sigma"
    """What the slopes are averaged over: sigma = sigma / alpha, t = the flow time."""

    convergence = 2
    aliases = {"Heun": "", "k_heun": ""}

    def nfe(self, steps: int) -> int:
        """Two calls an interval, one in the last."""
        return 2 * steps - 1

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """One interval in the chosen variable."""
        return heun_step(run, x, a, b, self.variable), None


def heun_step(run: StepContext, x: Tensor, a: Level, b: Level, variable: Literal["sigma", "t"] = "sigma") -> Tensor:
    """Take x from a to b; only an Euler step where an end has no noise or no signal."""
    at_a = run.predict(x, a)
    euler = at_a.combine(b.alpha, b.sigma)
    # The network is never asked at the clean end, and sigma / alpha is infinite at alpha = 0.
    if b.is_clean or a.alpha == 0:
        return euler
    # The correction: half the change of slope, times the step.
    at_b = run.predict(euler, b)
    if variable == "sigma":
        return euler + 0.5 * b.alpha * (b.sigma_ve - a.sigma_ve) * (at_b.eps - at_a.eps)
    # The correction in y = x / (alpha + sigma), whose slope in the flow time t is eps - x0.
    scale_a, scale_b = a.alpha + a.sigma, b.alpha + b.sigma
    dt = b.sigma / scale_b - a.sigma / scale_a
    return euler + 0.5 * scale_b * dt * (at_b.combine(-1, 1) - at_a.combine(-1, 1))


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """Heun."""
    return {"heun": Heun}

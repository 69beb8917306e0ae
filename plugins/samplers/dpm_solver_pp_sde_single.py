"""DPM-Solver++ for the SDE, singlestep, "DPM++ SDE" of the image tools (Crowson, k-diffusion, sample_dpmpp_sde).

Stochastic; of order 2 without noise. NFE = 2 steps - 1. From a, first order leads to the middle of the interval in
lambda, for the second call, whose x0 then leads from a to b. Both ways go down without noise, and fresh noise leads
up to their level, as in `euler-a`; the two noises are of one Brownian path in sigma / alpha. The last interval, and one
that starts at alpha = 0, takes one call and first order.

Same as: `dpm-solver++-sde-single:eta=0` = `dpm-solver++-single`.

Use it to reproduce "DPM++ SDE" of the image tools. `seeds` is the same step at eta = 1, with the noise on the path of
the model's SDE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext
from .ancestral import check_share, down_and_up


@dataclass(frozen=True)
class DPMSolverPPSDESingle(Sampler):
    """x_b = alpha_b (s_down / s_a y_a + (1 - s_down / s_a) x0(middle) + s_up z), y = x / alpha, s = sigma / alpha."""

    eta: float = 1.0
    """Share of the posterior's deviation that is added as fresh noise; 0 = none."""

    strong_order = 1.0
    aliases = {
        "DPM++ SDE": "", "DPM++ SDE Karras": "grid=karras", "dpmpp_sde": "", "dpmpp_sde_gpu": "",
        "DPMSolverSDEScheduler": "",
    }  # fmt: skip

    def __post_init__(self) -> None:
        """Check the option: with more noise, s_down would not be real."""
        check_share("dpm-solver++-sde-single", self.eta)

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        """Second order without noise."""
        return None if self.eta else 2

    def nfe(self, steps: int) -> int:
        """Two calls an interval, one in the last."""
        return 2 * steps - 1

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """First order with its noise, to the middle and to b; then the change of x0 up to the middle."""
        at_a, (down, up) = run.predict(x, a), down_and_up(a, b, self.eta)
        x = at_a.combine(b.alpha, b.alpha * down)  # the noise of b comes on top
        if not (inner := run.between(a, b, 1)):  # lambda is infinite at an end, or no whole timestep is between
            return x + b.alpha * up * run.noise(a, b) if up else x, None
        ((r, s),) = inner
        down_s, up_s = down_and_up(a, s, self.eta)
        middle = at_a.combine(s.alpha, s.alpha * down_s)
        if up:
            # W(s) - W(a) and W(b) - W(s), of one Brownian path in sigma / alpha.
            part, z = math.sqrt((a.sigma_ve - s.sigma_ve) / (a.sigma_ve - b.sigma_ve)), run.noise(a, s)
            middle = middle + s.alpha * up_s * z
            x = x + b.alpha * up * (part * z + math.sqrt(1 - part**2) * run.noise(s, b))
        return x + b.alpha * (1 - down / a.sigma_ve) / (2 * r) * (run.predict(middle, s).x0 - at_a.x0), None


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """DPM++ SDE."""
    return {"dpm-solver++-sde-single": DPMSolverPPSDESingle}

"""DPM2 of the image tools (Crowson, k-diffusion, sample_dpm_2): DPM-Solver-2 as Karras et al. 2022 read it.

Deterministic, order 2, NFE = 2 steps - 1. The midpoint rule in sigma / alpha, with the point in the middle of
log sigma. Unlike dpm-solver:order=2, it weights eps at that point as the midpoint rule does. The last interval, and a
first one that starts at alpha = 0, is an Euler step of one call.

Same as: `dpm2` = `dpm2-a:eta=0`.

Use it to reproduce "DPM2" of the image tools. `dpm-solver` and `heun` have the same order at the same number of calls.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext


@dataclass(frozen=True)
class DPM2(Sampler):
    """x_b / alpha_b = x_a / alpha_a + (sigma_b / alpha_b - sigma_a / alpha_a) eps(midpoint)."""

    convergence = 2
    aliases = {"DPM2": "", "DPM2 Karras": "grid=karras", "k_dpm_2": "", "dpm_2": ""}

    def nfe(self, steps: int) -> int:
        """Two calls an interval, one in the last."""
        return 2 * steps - 1

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """One interval."""
        return midpoint_step(run, x, a, b), None


def midpoint_step(run: StepContext, x: Tensor, a: Level, b: Level) -> Tensor:
    """Take x from a to b; an Euler step where no level lies between them."""
    at_a = run.predict(x, a)
    euler = at_a.combine(b.alpha, b.sigma)
    inner = run.between(a, b, 1)
    if not inner:  # lambda is infinite at an end, or a network of whole timesteps has none between a and b
        return euler
    ((_, middle),) = inner
    # The slope at the middle replaces the slope at a over the whole interval.
    at_middle = run.predict(at_a.combine(middle.alpha, middle.sigma), middle)
    return euler + b.alpha * (b.sigma_ve - a.sigma_ve) * (at_middle.eps - at_a.eps)


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """DPM2."""
    return {"dpm2": DPM2}

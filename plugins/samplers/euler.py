"""Euler in sigma / alpha, "Euler" of the image tools (Karras et al. 2022, algorithm 1 without its correction).

Deterministic, order 1, NFE = steps.

Same as: `euler` = `ddim`; `euler` = `euler-a:eta=0`.

Use it under this name to match the image tools; it is DDIM with eta = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext


@dataclass(frozen=True)
class Euler(Sampler):
    """x_b / alpha_b = x_a / alpha_a + (sigma_b / alpha_b - sigma_a / alpha_a) eps, that is alpha_b x0 + sigma_b eps."""

    convergence = 1
    aliases = {"Euler": "", "k_euler": ""}

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Combine the same x0 and eps at the new level."""
        # On the straight line from x0 along eps a step of any length is a change of the level only.
        return run.predict(x, a).combine(b.alpha, b.sigma), None


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """Euler."""
    return {"euler": Euler}

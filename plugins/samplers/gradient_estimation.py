"""Gradient estimation (Permenter and Yuan 2024, algorithm 2), "gradient_estimation" of ComfyUI.

Deterministic, order 1, NFE = steps. An Euler step in sigma / alpha with eps moved beyond the newest prediction, away
from the one before: gamma is the paper's. It is 2 there; with 1.5 the step is that of Adams and Bashforth for equal
steps, and the order 2 on a grid whose steps vary smoothly. The first step, one that starts at alpha = 0, and the last
interval are Euler steps.

Same as: `gradient-estimation:gamma=1` = `ddim`; `gradient-estimation:gamma=1.5` = `ipndm:order=2`.

Use it to reproduce the paper. By the order of convergence `gamma=1.5` is the better choice.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext

SECOND_ORDER = 1.5
"""The gamma whose error of first order vanishes on equal steps."""


@dataclass(frozen=True)
class GradientEstimation(Sampler):
    """x_b / alpha_b = x_a / alpha_a + (sigma_b / alpha_b - sigma_a / alpha_a) (gamma eps + (1 - gamma) eps before)."""

    gamma: float = 2.0
    """How far eps is moved: 1 = ddim, 2 = as far again as it has changed since the step before."""

    step_convergence = 1
    aliases = {"Gradient Estimation": "", "gradient_estimation": ""}

    @property
    def convergence(self) -> int:  # type: ignore[override]
        """First order, second with gamma = 1.5."""
        return 2 if self.gamma == SECOND_ORDER else 1

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """An Euler step, then the correction by the last change of eps."""
        prediction = run.predict(x, a)
        euler, eps = prediction.combine(b.alpha, b.sigma), prediction.eps
        if b.is_clean or a.alpha == 0:  # at alpha = 0 sigma / alpha is infinite
            return euler, None
        if past is None:
            return euler, eps
        # The Euler step has eps once; gamma - 1 times its change since the last step is added.
        return euler + b.alpha * (b.sigma_ve - a.sigma_ve) * (self.gamma - 1) * (eps - past), eps


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """Gradient estimation."""
    return {"gradient-estimation": GradientEstimation}

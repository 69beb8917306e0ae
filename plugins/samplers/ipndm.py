"""iPNDM (Zhang and Chen 2022; after Liu et al. 2022): Adams-Bashforth in sigma / alpha.

Deterministic, NFE = steps. The coefficients are those of equal steps, whatever the steps are, so the order is at most
2 on a grid whose steps vary smoothly, and 1 where neighbouring steps differ by a fixed ratio; `lms` is this method with
coefficients that follow the grid. The first steps use lower orders, since there are not enough earlier predictions yet;
the last interval is an Euler step.

Same as: `ipndm:order=1` = `ddim`; `ipndm` = `lms` (on equal steps in sigma / alpha).

Use it to compare with Zhang and Chen, or where the steps are nearly equal. On other grids `lms` and `deis` keep their
order with as many calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext

ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
"""Number of predictions -> their weights, the newest first."""


@dataclass(frozen=True)
class IPNDM(Sampler):
    """An Euler step with a fixed combination of the last predictions of eps."""

    order: Literal[1, 2, 3, 4] = 4
    """Predictions that a step uses; not the order of convergence."""

    step_convergence = 1
    aliases = {"iPNDM": ""}

    @property
    def convergence(self) -> int:  # type: ignore[override]
        """At most 2, since the steps of a grid are not equal."""
        return min(self.order, 2)

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """An Euler step, then the correction from older predictions."""
        prediction = run.predict(x, a)
        euler = prediction.combine(b.alpha, b.sigma)
        # The last interval is first order, as in all samplers here; at alpha = 0 sigma / alpha is infinite.
        if b.is_clean or a.alpha == 0:
            return euler, None
        # At the start there are fewer predictions, and the order is lower.
        history = [prediction.eps, *(past or [])][: self.order]
        return euler + b.alpha * (b.sigma_ve - a.sigma_ve) * bend(history), history


def bend(history: list[Tensor]) -> Tensor:
    """The combination of the predictions of eps, the newest first, minus the newest."""
    newest, *older = history
    weights = ADAMS_BASHFORTH[len(history)]
    # The Euler step has counted the newest once already.
    total = newest * (weights[0] - 1)
    for eps, weight in zip(older, weights[1:], strict=True):
        total = total + weight * eps
    return total


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """iPNDM."""
    return {"ipndm": IPNDM}

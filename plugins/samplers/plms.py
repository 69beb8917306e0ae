"""PLMS, the pseudo linear multistep method (Liu et al. 2022), "PLMS" of the image tools.

Deterministic, order 2, NFE = steps + 1. A DDIM step with a fixed combination of the last four predictions of eps.
The coefficients are those of equal steps, so the order is at most 2 on a grid whose steps vary smoothly, and 1 where
neighbouring steps differ by a fixed ratio. It starts as latent diffusion does: the first interval is a pseudo improved
Euler step of two calls, the next two use two and three predictions. The paper starts with three pseudo Runge-Kutta
steps of four calls. The last interval, and a first one that starts at alpha = 0, is a DDIM step of one call.

Same as: `plms` = `ddim` (in 1 step).

Use it to reproduce images of latent diffusion and of the tools that followed it. `lms`, `deis` and `dpm-solver++` cost
no more, and their coefficients follow the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext
from .ipndm import bend


@dataclass(frozen=True)
class PLMS(Sampler):
    """A DDIM step with (55 eps_0 - 59 eps_1 + 37 eps_2 - 9 eps_3) / 24 in place of eps_0, the newest."""

    convergence = 2
    step_convergence = 1
    aliases = {"PLMS": "", "PNDM": ""}

    def nfe(self, steps: int) -> int:
        """One call a step, and one more in the first of several."""
        return steps + 1 if steps > 1 else 1

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """A DDIM step, then a correction from older predictions, or at the start from one at b."""
        prediction = run.predict(x, a)
        euler = prediction.combine(b.alpha, b.sigma)
        if b.is_clean or a.alpha == 0:
            return euler, None
        # Adams-Bashforth with as many predictions as there are, at most four.
        history = [prediction.eps, *(past or [])][:4]
        # At the start there is no past: the mean of eps at a and at b, as in improved Euler, costs the extra call.
        added = bend(history) if past else (run.predict(euler, b).eps - prediction.eps) / 2
        return euler + b.alpha * (b.sigma_ve - a.sigma_ve) * added, history


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """PLMS."""
    return {"plms": PLMS}

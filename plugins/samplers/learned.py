"""A solver whose coefficients were learned for one model, from a file (after Shaul et al. 2024, equation 9).

Each step is first order with a weighted sum of all predictions in place of the newest one, as in the solvers of Shaul
et al., S4S (Frankel et al. 2025), NeuralSolver (Wang et al. 2025) and DyWeight (2026), whose sums and searches differ.
NFE = steps. The file is [JSON](learned-files.md#learned). Another model, guidance or step count is refused.

Same as: `learned` = `ddim`.

Use it with a file for your model; without one it is `ddim`, and the table says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ...samplers.learned import FromFile
from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext
from .learned_weights import SUMMED, Coefficients, factor


@dataclass(frozen=True)
class Learned(FromFile[Coefficients]):
    """The first-order step with sum_j w_j p_j in place of the newest prediction p_0."""

    content, by_default = Coefficients, "no file of coefficients: it is ddim"

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        """First order, as its weights may be; none with noise."""
        return None if self.known and any(self.known.noise) else 1

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """First order, then what the weighted sum adds to it, then noise."""
        known, i = self.known, run.i
        prediction = run.predict(x, a, ask=self.told(run, known.asked[i]) if known and known.asked else None)
        # With noise the step goes to a level below b, as in `ddim` with eta.
        share = known.noise[i] if known and known.noise else 0.0
        up = share * b.sigma * math.sqrt(1 - (b.sigma_ve / a.sigma_ve) ** 2)
        down = math.sqrt(b.sigma**2 - up**2)
        x, said = prediction.combine(b.alpha, down), []
        if known:
            said = [prediction.combine(*SUMMED[known.of]), *(past or [])]
            # The first-order step has the newest prediction with weight 1 already, so only the rest is added.
            for weight, one in zip((known.weights[i][0] - 1, *known.weights[i][1:]), said, strict=True):
                x = x + factor(known.of, a, b.alpha, down) * weight * one if weight else x
        return x + up * run.noise(a, b) if up else x, said


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """The learned solver."""
    return {"learned": Learned}

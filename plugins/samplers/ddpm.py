"""Ancestral sampling, the reverse process of DDPM (Ho et al. 2020, algorithm 2 and equations 6 and 7).

Stochastic. NFE = steps. With fewer steps than timesteps, beta is computed between neighbouring levels of the grid
(Nichol and Dhariwal 2021, section 4).

Same as: `ddpm` = `ddim:eta=1`; `ddpm` = `euler-a`.

Use it as the baseline: it reverses the very process that the network was trained on. It needs hundreds of steps; with
few, the samples vary less than the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...samplers.ddpm import posterior
from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext


@dataclass(frozen=True)
class DDPM(Sampler):
    """x_b ~ q(x_b | x_a, x0 as predicted)."""

    variance: Literal["small", "large"] = "small"
    """small = the posterior's own variance, large = beta."""

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Draw from the posterior; the last step takes its mean."""
        q = posterior(a, b, self.variance)
        # The posterior's mean with the predicted x0 in place of the unknown one (equation 7).
        x = run.predict(x, a).mean(q.x_weight, q.x0_weight)
        return x + q.std * run.noise(a, b) if q.std else x, None


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """Ancestral DDPM."""
    return {"ddpm": DDPM}

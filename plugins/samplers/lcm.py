"""Multistep consistency sampling, "LCM" of the image tools (Song et al. 2023, algorithm 1; Luo et al. 2023).

Stochastic. NFE = steps. Each step goes to the predicted x0 and back up to the next level with only fresh noise. That
is right for a consistency model, whose answer is the end of the path: with any other network the samples lose variance
as the steps grow. The papers mix c_skip x into x0; on the published models c_skip is below 3e-5 from timestep 10 on,
and it is left out here.

Same as: `lcm` = `euler-a:eta=1e9`; `lcm` = `ddim` (in 1 step).

Use it with a model distilled to a consistency model, in 1 to 8 steps on the timesteps of its distillation.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext


@dataclass(frozen=True)
class LCM(Sampler):
    """x_b = alpha_b x0 + sigma_b z."""

    aliases = {"LCM": "", "LCMScheduler": ""}
    claims = {"variance of Gaussian data": "made for consistency models: with the mean of x0 it loses variance"}

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Down to x0, then up to b."""
        # The step keeps nothing of the old noise: a consistency model says x0 at every level, and the noise is drawn
        # again.
        x = run.predict(x, a).combine(b.alpha, 0.0)
        return x if b.is_clean else x + b.sigma * run.noise(a, b), None


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """LCM."""
    return {"lcm": LCM}

"""Euler with CFG++ (Chung et al. 2024, algorithm 2): guided x0, renoised without the prompt.

Deterministic, NFE = steps, with two network passes each for a model with prompts, at guidance 1 too. The guidance is
the paper's lambda, from 0 to 1: 0.6 acts about as 7.5 does elsewhere. There is no limit of many steps at one guidance:
each step adds it again. Without prompts it is DDIM, of order 1, except that eps is the network's own where x0 is
clipped.

Same as: `euler-cfg++` = `ddim`; `euler-cfg++` = `euler-a-cfg++:eta=0`.

Use it for guided samples that stay near the data, at a guidance below 1, where `ddim` needs several times as much.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext


@dataclass(frozen=True)
class EulerCFGpp(Sampler):
    """x_b = alpha_b x0 + sigma_b eps, with x0 guided and eps without the prompt."""

    convergence = 1
    needs_unconditional = True
    aliases = {"Euler CFG++": "", "DDIM CFG++": "", "euler_cfg_pp": ""}

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Lines 4 to 6 of algorithm 2."""
        guided = run.predict(x, a)
        assert guided.unconditional is not None
        # Guidance moves the x0 that the step goes to; the noise that it goes along is that without the prompt.
        return b.alpha * guided.x0 + guided.unconditional.combine(0.0, b.sigma), None


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """Euler CFG++."""
    return {"euler-cfg++": EulerCFGpp}

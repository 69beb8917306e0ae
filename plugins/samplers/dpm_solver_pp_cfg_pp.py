"""DPM-Solver++ 2M with CFG++ (Chung et al. 2024, appendix, on algorithm 2 of Lu et al. 2022b).

Deterministic, NFE = steps, with two network passes each for a model with prompts. The guidance is the paper's lambda,
from 0 to 1; see `euler-cfg++`. Only the first term is guided x0, and what carries the state on is without the prompt:
so is the older prediction of the difference. Without prompts it is `dpm-solver++`, of order 2. The first interval, one
that starts at alpha = 0, and the last are of first order.

Same as: `dpm-solver++-cfg++` = `dpm-solver++`.

Use it where "DPM++ 2M" is used, with a guidance below 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext


@dataclass(frozen=True)
class DPMSolverPPCFGpp(Sampler):
    """x_b = alpha_b x0 + sigma_b eps' + alpha_b (1 - e^-h) / 2r (x0 - x0'_before); a ' says: without the prompt."""

    convergence = 2
    needs_unconditional = True
    aliases = {"DPM++ 2M CFG++": "", "dpmpp_2m_cfg_pp": ""}

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """The first-order step with CFG++, then the difference to the prediction before."""
        guided = run.predict(x, a)
        assert guided.unconditional is not None
        # Chung et al. 2024: towards the guided x0, along the noise that the network sees without the prompt.
        x = b.alpha * guided.x0 + guided.unconditional.combine(0.0, b.sigma)
        h, now = b.lambda_ - a.lambda_, (a.lambda_, guided.unconditional.x0)
        # No difference to a prediction that is not there, or at a level whose lambda is infinite.
        if past is None or math.isinf(h) or math.isinf(past[0]):
            return x, now
        lambda_before, x0_before = past
        # The slope of x0 over the last step, taken half a step ahead, as in DPM-Solver++ 2M; r allows for unequal
        # steps.
        r = (a.lambda_ - lambda_before) / h
        return x - b.alpha * math.expm1(-h) / (2 * r) * (guided.x0 - x0_before), now


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """DPM-Solver++ 2M CFG++."""
    return {"dpm-solver++-cfg++": DPMSolverPPCFGpp}

"""RES, the refined exponential solver (Zhang et al. 2023), "res_multistep" of ComfyUI.

Deterministic, order 2. x0 is taken as linear in lambda and integrated exactly against the exponential, which keeps the
order conditions for stiff problems; DPM-Solver++ takes x0 at the middle of the step instead. With variant=multistep the
second x0 is that of the step before, NFE = steps; with variant=singlestep it comes from a call at the middle of the
interval in lambda, NFE = 2 steps - 1. The last interval, and one that starts at alpha = 0, takes one call and first
order; so does the first step of multistep.

Same as: `res` = `dpm-solver++-sde:variant=heun,eta=0`; `res` = `sa-solver:predictor=2,corrector=0,tau=0`;
`res` = `ddim` (in 1 step).

Use it as `dpm-solver++`, from which it differs where steps in lambda are long, as with few steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext


@dataclass(frozen=True)
class RES(Sampler):
    """x_b = first order + alpha_b h phi_2(-h) / c2 (x0 at lambda_a + c2 h - x0 at a)."""

    variant: Literal["multistep", "singlestep"] = "multistep"
    """multistep = with the prediction of the step before; singlestep = with a second call inside the interval."""

    convergence = 2
    aliases = {"RES": "", "res_multistep": "", "res_2m": "", "res_2s": "variant=singlestep"}

    def nfe(self, steps: int) -> int:
        """One call an interval, or two and one in the last."""
        return steps if self.variant == "multistep" else 2 * steps - 1

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """First order, then the term of the slope of x0."""
        at_a = run.predict(x, a)
        x, x0 = at_a.combine(b.alpha, b.sigma), at_a.x0
        h = b.lambda_ - a.lambda_
        if math.isinf(h):  # a prediction at alpha = 0 has no finite lambda, so no later step can use it
            return x, None
        if self.variant == "singlestep":
            points = [(c2, run.predict(at_a.combine(s.alpha, s.sigma), s).x0) for c2, s in run.between(a, b, 1)]
        else:
            points = [((lambda_ - a.lambda_) / h, earlier) for lambda_, earlier in past or []]
        # h phi_2(-h) = (e^-h - 1) / h + 1 is the integral of e^(s - h) s / h over the step.
        for c2, other in points:
            x = x + b.alpha * (math.expm1(-h) / h + 1) / c2 * (other - x0)
        return x, [(a.lambda_, x0)]


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """RES."""
    return {"res": RES}

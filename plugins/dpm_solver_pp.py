"""DPM-Solver++, multistep, in the data form (Lu et al. 2022b, algorithm 2; order 3 as in the authors' code).

Deterministic, order 1, 2 or 3; NFE = steps. The first steps have the lower orders for want of a past; the last
interval is first order, because lambda is infinite at the clean end. Order 1 is DDIM with eta = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..samplers.level import Level
from ..samplers.registry import hookimpl
from ..samplers.sampler import Past, Run, Sampler


@dataclass(frozen=True)
class DPMSolverPP(Sampler):
    """Taylor expansion of x0 in lambda, its derivatives from the predictions of earlier steps."""

    order: Literal[1, 2, 3] = 2
    """Predictions that a step uses, and order of convergence."""

    aliases = {"DPM++ 2M": "", "DPM++ 2M Karras": "grid=karras", "dpmpp_2m": ""}

    @property
    def convergence(self) -> int:  # type: ignore[override]
        """The order."""
        return self.order

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: Run, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """x_b = first order + alpha_b (phi_1 D1 - phi_2 D2), D1 and D2 the derivatives of x0 times h and h^2."""
        prediction = run.predict(x, a)
        history = [(a.lambda_, prediction.x0), *(past or [])][: self.order]
        x = prediction.combine(b.alpha, b.sigma)
        h = b.lambda_ - a.lambda_
        if math.isinf(h) or math.isinf(history[-1][0]) or len(history) == 1:
            return x, [entry for entry in history if math.isfinite(entry[0])]

        (lambda0, m0), (lambda1, m1), *older = history
        r0 = (lambda0 - lambda1) / h
        d1 = (m0 - m1) / r0
        if not older:
            return x - 0.5 * b.alpha * math.expm1(-h) * d1, history
        lambda2, m2 = older[0]
        r1 = (lambda1 - lambda2) / h
        bend = (d1 - (m1 - m2) / r1) / (r0 + r1)
        phi1 = math.expm1(-h) / h + 1
        phi2 = (math.expm1(-h) + h) / h**2 - 0.5
        return x + b.alpha * (phi1 * (d1 + r0 * bend) - phi2 * bend), history


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """DPM-Solver++."""
    return {"dpm-solver++": DPMSolverPP}

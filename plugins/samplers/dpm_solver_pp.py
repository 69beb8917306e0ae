"""DPM-Solver++, multistep, in the data form (Lu et al. 2022b, algorithm 2).

Deterministic, order 1, 2 or 3; NFE = steps. The first steps use lower orders, since there are not enough earlier
predictions yet; the last interval is first order, because lambda is infinite at the clean end. Order 3 (3M) is not in
the paper but in the authors' code. That code, and the tools that follow it, weight the second derivative of x0 by half
of what the Taylor expansion says, which converges with order 2 (coefficients=published). The default has the full
weight.

Same as: `dpm-solver++:order=1` = `ddim`; `dpm-solver++` = `unipc:corrector=false`;
`dpm-solver++` = `dpm-solver++-sde:eta=0`.

Use it with a budget of 15 to 20 calls, above all with guidance, for which the authors recommend order 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext


@dataclass(frozen=True)
class DPMSolverPP(Sampler):
    """Taylor expansion of x0 in lambda, its derivatives from the predictions of earlier steps."""

    order: Literal[1, 2, 3] = 2
    """Predictions that a step uses, and order of convergence."""
    coefficients: Literal["exact", "published"] = "exact"
    """published = the second derivative by half; matters only for order 3, which then converges with order 2."""

    aliases = {"DPM++ 2M": "", "DPM++ 2M Karras": "grid=karras", "dpmpp_2m": "", "dpmpp_3m": "order=3"}

    @property
    def convergence(self) -> int:  # type: ignore[override]
        """The order."""
        return self.order if self.coefficients == "exact" else min(self.order, 2)

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """x_b = first order + alpha_b (phi_2 D1 - phi_3 D2), D1 and D2 the derivatives of x0 times h and h^2."""
        prediction = run.predict(x, a)
        # Predictions are kept with their lambda, since the steps of a grid differ in length.
        history = [(a.lambda_, prediction.x0), *(past or [])][: self.order]
        x = prediction.combine(b.alpha, b.sigma)
        h = b.lambda_ - a.lambda_
        if math.isinf(h) or len(history) == 1:
            # A prediction made at alpha = 0 has no finite lambda, so no later step can use it.
            return x, [entry for entry in history if math.isfinite(entry[0])]

        d1, d2 = derivatives(history, h, published=self.coefficients == "published")
        if d2 is None:
            return x - 0.5 * b.alpha * math.expm1(-h) * d1, history
        # phi_2 and -phi_3 are the integrals of e^(s - h) s and e^(s - h) s^2 / 2 over the step, in units of h and h^2.
        phi2 = math.expm1(-h) / h + 1
        phi3 = phi2 / h - 0.5
        return x + b.alpha * (phi2 * d1 - phi3 * d2), history


def derivatives(history: Sequence[tuple[float, Tensor]], h: float, *, published: bool) -> tuple[Tensor, Tensor | None]:
    """D1 and D2, the derivatives of x0 in lambda times h and h^2, from two or three (lambda, x0), the newest first.

    Two give only D1. D2 is halved where `published`.
    """
    (lambda0, m0), (lambda1, m1), *older = history
    r0 = (lambda0 - lambda1) / h
    d1_0 = (m0 - m1) / r0
    if not older:
        return d1_0, None
    # Newton's divided differences through three points; the slope is moved from between the points to lambda0.
    lambda2, m2 = older[0]
    r1 = (lambda1 - lambda2) / h
    bend = (d1_0 - (m1 - m2) / r1) / (r0 + r1)
    return d1_0 + r0 * bend, bend if published else 2 * bend


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """DPM-Solver++."""
    return {"dpm-solver++": DPMSolverPP}

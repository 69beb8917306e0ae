"""DPM-Solver, singlestep, in the noise form (Lu et al. 2022a, algorithms 1 and 2 and equation 3.7).

Deterministic, order 1, 2 or 3; NFE = order (steps - 1) + 1. Each interval takes `order` calls, at evenly spaced
lambda; the last interval, and a first one that starts at alpha = 0, takes one call and first order, because lambda
is infinite there. Order 1 is DDIM with eta = 0.
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
class DPMSolver(Sampler):
    """Taylor expansion of eps in lambda, its derivatives from calls inside the interval."""

    order: Literal[1, 2, 3] = 2
    """Calls in an interval, and order of convergence."""

    @property
    def convergence(self) -> int:  # type: ignore[override]
        """The order."""
        return self.order

    def nfe(self, steps: int) -> int:
        """`order` calls an interval, one in the last."""
        return self.order * (steps - 1) + 1

    def step(self, run: Run, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """One interval: first order, then what the higher derivatives add."""
        at_a = run.predict(x, a)
        first_order = at_a.combine(b.alpha, b.sigma)
        h = b.lambda_ - a.lambda_
        if self.order == 1 or math.isinf(h):
            return first_order, None

        # Places inside the interval; a network that knows only whole timesteps may have none left there.
        inner = [run.at(a.lambda_ + h * k / self.order) for k in range(1, self.order)]
        r = [(level.lambda_ - a.lambda_) / h for level in inner]
        if not all(low < high for low, high in zip((0.0, *r), (*r, 1.0), strict=True)):
            return first_order, None

        d1 = run.predict(at_a.combine(inner[0].alpha, inner[0].sigma), inner[0]).eps - at_a.eps
        if self.order == 2:  # noqa: PLR2004  (the order itself)
            return first_order - b.sigma * math.expm1(h) / (2 * r[0]) * d1, None
        # Order 3: eps at the second place, reached with the help of d1.
        s2, h2 = inner[1], r[1] * h
        bend = s2.sigma * r[1] / r[0] * (math.expm1(h2) / h2 - 1)
        d2 = run.predict(at_a.combine(s2.alpha, s2.sigma) - bend * d1, s2).eps - at_a.eps
        return first_order - b.sigma / r[1] * (math.expm1(h) / h - 1) * d2, None


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """DPM-Solver."""
    return {"dpm-solver": DPMSolver}

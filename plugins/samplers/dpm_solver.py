"""DPM-Solver, singlestep, in the noise form (Lu et al. 2022a, algorithms 1 and 2 and equation 3.7).

Deterministic, order 1, 2 or 3; NFE = order (steps - 1) + 1. Each interval takes `order` calls, at evenly spaced
lambda; the last interval, and a first one that starts at alpha = 0, takes one call and first order, because lambda
is infinite there.

plan=fast is DPM-Solver-fast (section 3.4), which meets any NFE: third order except in the intervals at the end,
NFE = 3 (steps - 1) + 1 - saved. The orders are 3, ..., 3, 1 with saved=0 and 3, ..., 3, 2, 1 with saved=1, both as in
the paper. With saved=2 they are 3, ..., 3, 2, 2, 1: the paper has 3, ..., 3, 2, but an interval into the clean end
cannot have order 2. Up to that last interval the method has order 3, since there are never more than two intervals of
order 2.

Same as: `dpm-solver:order=1` = `ddim`; `dpm-solver:plan=fast,saved=0` = `dpm-solver:order=3`.

Use it with a budget of 10 to 20 calls and weak or no guidance; with strong guidance the authors of `dpm-solver++`
find the noise form unstable. Use plan=fast when a budget of calls must be met exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, cast

from torch import Tensor

from ...samplers.errors import InputError
from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext


@dataclass(frozen=True)
class DPMSolver(Sampler):
    """Taylor expansion of eps in lambda, its derivatives from calls inside the interval."""

    order: Literal[1, 2, 3] = 2
    """Calls in an interval, and order of convergence."""
    plan_: Literal["even", "fast"] = "even"
    """even = `order` everywhere; fast = the orders of DPM-Solver-fast, which meets any NFE."""
    saved: Literal[0, 1, 2] = 1
    """With plan=fast: how many calls fewer than with third order throughout; `--nfe` sets it."""

    aliases = {"DPM fast": "plan=fast,grid=logsnr"}

    def __post_init__(self) -> None:
        """Check the options."""
        if self.plan_ == "fast" and self.order != DPMSolver.order:
            raise InputError(
                f"sampler 'dpm-solver': option order {self.order}: plan=fast has its own orders; leave order out"
            )

    @property
    def convergence(self) -> int:  # type: ignore[override]
        """The order."""
        return self.order if self.plan_ == "even" else 3

    @property
    def step_convergence(self) -> int:
        """With plan=fast the last intervals with noise may be of order 2."""
        return self.convergence if not (self.plan_ == "fast" and self.saved) else 2

    def nfe(self, steps: int) -> int:
        """The orders of the intervals, and one for the last."""
        return sum(self._orders(steps - 1)) + 1

    def plan(self, nfe: int) -> tuple[Sampler, int]:
        """With plan=fast every budget is met: the calls by which third order throughout would exceed it are saved."""
        if self.plan_ == "even" or nfe < 1:
            return super().plan(nfe)
        noisy = math.ceil((nfe - 1) / 3)
        return replace(self, saved=cast(Literal[0, 1, 2], 3 * noisy + 1 - nfe)), noisy + 1

    def _orders(self, noisy: int) -> list[int]:
        """The order in each of the intervals before the last."""
        if self.plan_ == "even":
            return [self.order] * noisy
        return [3 - (self.saved + i) // noisy for i in range(noisy)]  # one less in each, the latest first

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """One interval: first order, then the terms of the higher derivatives."""
        at_a = run.predict(x, a)
        first_order = at_a.combine(b.alpha, b.sigma)
        h = b.lambda_ - a.lambda_
        if math.isinf(h):
            return first_order, None

        # `_orders` counts the intervals with a finite lambda at both ends: not a first one from alpha = 0, which takes
        # one call, and not the last one.
        blind = not run.grid[0].alpha
        order = self._orders(len(run.grid) - 1 - run.grid[-1].is_clean - blind)[run.i - blind]
        inner = run.between(a, b, order - 1)
        if not inner:  # order 1, or a network of whole timesteps that has too few in between
            return first_order, None

        # Order 2 (algorithm 1): the difference of eps at s1 from eps at a gives the first derivative.
        (r1, s1), *second = inner
        d1 = run.predict(at_a.combine(s1.alpha, s1.sigma), s1).eps - at_a.eps
        if not second:
            return first_order - b.sigma * math.expm1(h) / (2 * r1) * d1, None
        # Order 3 (algorithm 2): d1 makes the state at s2 accurate to second order, and eps there gives the step.
        ((r2, s2),) = second
        bend = s2.sigma * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1)
        d2 = run.predict(at_a.combine(s2.alpha, s2.sigma) - bend * d1, s2).eps - at_a.eps
        return first_order - b.sigma / r2 * (math.expm1(h) / h - 1) * d2, None


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """DPM-Solver."""
    return {"dpm-solver": DPMSolver}

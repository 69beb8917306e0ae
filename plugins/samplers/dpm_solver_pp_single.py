"""DPM-Solver++, singlestep, in the data form (Lu et al. 2022b, algorithm 1; order 3 as in the authors' code).

Deterministic with eta = 0: order 2 (2S) or 3 (3S); NFE = order (steps - 1) + 1. Each interval takes `order` calls, at
evenly spaced lambda; the last interval, and a first one that starts at alpha = 0, takes one call and first order.
With eta > 0 it is "DPM++ 2S a" of the image tools (Crowson, k-diffusion, sample_dpmpp_2s_ancestral): each step goes
down to a level below b and adds fresh noise up to b, as euler-a does.

Same as: `dpm-solver++-single` = `seeds:eta=0`; `dpm-solver++-single:order=3` = `seeds:order=3,eta=0`.

Use it when no step may depend on earlier ones; `dpm-solver++`, whose steps do, spends the same calls on more steps.
With eta=1, use it to reproduce "DPM++ 2S a" of the image tools.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...samplers.errors import InputError
from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext


@dataclass(frozen=True)
class DPMSolverPPSingle(Sampler):
    """Taylor expansion of x0 in lambda, its derivatives from calls inside the interval."""

    order: Literal[2, 3] = 2
    """Calls in an interval, and order of convergence."""
    eta: float = 0.0
    """Share of the posterior's deviation that is added as fresh noise; 0 = none. For order 2."""

    aliases = {"DPM++ 2S": "", "DPM++ 2S a": "eta=1", "DPM++ 2S a Karras": "eta=1,grid=karras"}

    def __post_init__(self) -> None:
        """Check the options: with more noise, or at order 3, a call would fall below the interval's end."""
        if not 0 <= self.eta <= 1:
            raise InputError(f"sampler 'dpm-solver++-single': option eta {self.eta}: expected a number from 0 to 1")
        if self.eta and self.order != 2:  # noqa: PLR2004  (the order itself)
            raise InputError(
                f"sampler 'dpm-solver++-single': option eta {self.eta}: expected 0 with order 3; use order=2"
            )

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        """The order without noise."""
        return None if self.eta else self.order

    def nfe(self, steps: int) -> int:
        """`order` calls an interval, one in the last."""
        return self.order * (steps - 1) + 1

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Down without noise, to b itself if eta = 0; then up to b with fresh noise."""
        # As in `euler-a`; without eta there is no noise, and `down` is b.
        s_up = self.eta * b.sigma_ve * math.sqrt(1 - (b.sigma_ve / a.sigma_ve) ** 2)
        down = Level(b.alpha, b.alpha * math.sqrt(b.sigma_ve**2 - s_up**2), b.t)
        x = self._down(run, x, a, down)
        return x + b.alpha * s_up * run.noise(a, b) if s_up else x, None

    def _down(self, run: StepContext, x: Tensor, a: Level, b: Level) -> Tensor:
        """One interval without noise: first order, then the terms of the higher derivatives."""
        at_a = run.predict(x, a)
        x = at_a.combine(b.alpha, b.sigma)
        inner = run.between(a, b, self.order - 1)
        if not inner:  # lambda is infinite at an end, or a network of whole timesteps has too few in between
            return x

        # Algorithm 1: the difference of x0 at s1 from x0 at a gives the first derivative.
        h = b.lambda_ - a.lambda_
        (r1, s1), *second = inner
        d1 = run.predict(at_a.combine(s1.alpha, s1.sigma), s1).x0 - at_a.x0
        if not second:
            return x - b.alpha * math.expm1(-h) / (2 * r1) * d1
        # Order 3: d1 makes the state at s2 accurate to second order, and x0 there gives the step.
        ((r2, s2),) = second
        u2 = at_a.combine(s2.alpha, s2.sigma) + s2.alpha * r2 / r1 * _phi2(r2 * h) * d1
        d2 = run.predict(u2, s2).x0 - at_a.x0
        return x + b.alpha / r2 * _phi2(h) * d2


def _phi2(h: float) -> float:
    """(e^-h - 1) / h + 1, the weight of a slope over a step of h."""
    return math.expm1(-h) / h + 1


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """Singlestep DPM-Solver++."""
    return {"dpm-solver++-single": DPMSolverPPSingle}

"""LMS of the image tools (Crowson, k-diffusion, sample_lms): linear multistep in sigma / alpha.

Deterministic, order 1 to 4, NFE = steps. Adams-Bashforth on the levels as they are: eps is interpolated through the
last `order` predictions and the polynomial integrated exactly, so unequal steps cost no order. The first steps have
the lower orders for want of a past. The last interval is Euler; k-diffusion integrates to zero with the full order.

Same as: `lms:order=1` = `ddim`; `lms` = `ipndm` (on equal steps in sigma / alpha).

Use it when one call a step must do and some tens of steps can be taken. The higher its order, the smaller the steps
that it is stable with, as with all explicit multistep methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from numpy.polynomial import Polynomial
from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext


@dataclass(frozen=True)
class LMS(Sampler):
    """x_b / alpha_b = x_a / alpha_a + sum_j c_j eps_j."""

    order: Literal[1, 2, 3, 4] = 4
    """Predictions that a step uses, and order of convergence."""

    aliases = {"LMS": "", "LMS Karras": "grid=karras", "k_lms": ""}

    @property
    def convergence(self) -> int:  # type: ignore[override]
        """The order."""
        return self.order

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Euler, then what the older predictions say of the bend."""
        prediction = run.predict(x, a)
        euler = prediction.combine(b.alpha, b.sigma)
        if b.is_clean or a.alpha == 0:
            return euler, None

        history = [(a.sigma_ve, prediction.eps), *(past or [])][: self.order]
        c = coefficients([s for s, _ in history], a.sigma_ve, b.sigma_ve)
        for (_, eps), c_j in zip(history[1:], c[1:], strict=True):
            euler = euler + b.alpha * c_j * (eps - prediction.eps)
        return euler, history


def coefficients(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """c_j = the integral from start to end of the Lagrange polynomial that is 1 at nodes[j], 0 at the others."""
    h = end - start
    u = [(node - start) / h for node in nodes]  # in units of the step, so that powers stay small
    c = []
    for u_j in u:
        others = [u_k for u_k in u if u_k != u_j]
        lagrange = Polynomial.fromroots(others) if others else Polynomial([1.0])
        c.append(h * float(lagrange.integ()(1.0) / lagrange(u_j)))
    return c


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """LMS."""
    return {"lms": LMS}

"""LMS of the image tools (Crowson, k-diffusion, sample_lms): linear multistep in sigma / alpha.

Deterministic, order 1 to 4, NFE = steps. Adams-Bashforth on unequal steps: eps is interpolated through the last `order`
predictions and the polynomial is integrated exactly, so unequal steps do not lower the order. The first steps use lower
orders, since there are not enough earlier predictions yet. The last interval is an Euler step; k-diffusion integrates
to zero with the full order.

Same as: `lms:order=1` = `ddim`; `lms` = `ipndm` (on equal steps in sigma / alpha).

Use it at one call a step, with some tens of steps. As with all explicit multistep methods, a higher order is stable
only with smaller steps.
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
        """An Euler step, then the correction from older predictions."""
        prediction = run.predict(x, a)
        euler = prediction.combine(b.alpha, b.sigma)
        # The last interval is first order, as in all samplers here; at alpha = 0 sigma / alpha is infinite.
        if b.is_clean or a.alpha == 0:
            return euler, None

        history = [(a.sigma_ve, prediction.eps), *(past or [])][: self.order]
        c = coefficients([s for s, _ in history], a.sigma_ve, b.sigma_ve)
        # The c_j add up to the Euler step's length, so each older eps enters as a difference from the newest.
        for (_, eps), c_j in zip(history[1:], c[1:], strict=True):
            euler = euler + b.alpha * c_j * (eps - prediction.eps)
        return euler, history


def coefficients(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """c_j = the integral from start to end of the Lagrange polynomial that is 1 at nodes[j], 0 at the others."""
    h = end - start
    u = [(node - start) / h for node in nodes]  # in units of the step, to keep powers small
    c = []
    for u_j in u:
        # The basis polynomial of node j vanishes at all other nodes; it is scaled to 1 at its own.
        others = [u_k for u_k in u if u_k != u_j]
        lagrange = Polynomial.fromroots(others) if others else Polynomial([1.0])
        c.append(h * float(lagrange.integ()(1.0) / lagrange(u_j)))
    return c


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """LMS."""
    return {"lms": LMS}

"""DEIS, the Adams-Bashforth form AB-DEIS (Zhang and Chen 2022).

Deterministic; NFE = steps. `order` is the paper's r, the degree of the polynomial through the last r + 1 predictions
of eps, and the order of convergence is r + 1. The first steps use lower degrees, since there are not enough earlier
predictions yet; started this way, a run converges with order 2. The last interval, and one that starts at alpha = 0,
uses degree 0. The polynomial is in lambda and is integrated exactly against the exponential. The paper's tAB uses a
polynomial in the time t, which would give each schedule its own sampler; its rhoAB uses sigma / alpha, which is `lms`.
Tools that count the predictions call this order + 1.

Same as: `deis:order=0` = `ddim`.

Use it with a budget of about 5 to 20 calls, the range that the paper studies. As with all explicit multistep methods, a
higher order is stable only with smaller steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext

NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)
U, WEIGHTS = (1 + NODES) / 2, WEIGHTS / 2
"""Gauss-Legendre on [0, 1]: exact to rounding for these integrands up to h = 20, which no grid's step exceeds."""


@dataclass(frozen=True)
class DEIS(Sampler):
    """x_b = alpha_b / alpha_a x_a + sum_j C_j eps_j."""

    order: Literal[0, 1, 2, 3] = 3
    """r: the degree of the polynomial."""

    aliases = {"DEIS": ""}

    @property
    def convergence(self) -> int:  # type: ignore[override]
        """One more than the degree: the number of predictions."""
        return self.order + 1

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """First order, which is sum_j C_j times the newest eps, then the differences of the older ones from it."""
        prediction = run.predict(x, a)
        x = prediction.combine(b.alpha, b.sigma)
        # The step in lambda, in which eps is smooth; first order so far, exact for a constant eps.
        h = b.lambda_ - a.lambda_
        if math.isinf(h):  # the polynomial in lambda has no finite place for such an end
            return x, None

        # The polynomial through the last r + 1 predictions, in units of the step: a is at 0, b at 1.
        eps = prediction.eps
        history = [(a.lambda_, eps), *(past or [])][: self.order + 1]
        weights = adams_weights([(lambda_ - a.lambda_) / h for lambda_, _ in history], h)
        # The weights of all predictions add up to the first-order step, so each older eps enters as a difference.
        for w_j, (_, eps_j) in zip(weights[1:], history[1:], strict=True):
            x = x - b.sigma * w_j * (eps_j - eps)
        return x, history


def adams_weights(nodes: Sequence[float], h: float) -> list[float]:
    """Integral of h e^(h (1 - u)) l_j(u) over u from 0 to 1, l_j being 1 at nodes[j] and 0 at the others.

    -sigma_b times it is C_j; with -h for h, -alpha_b times it is the weight of x0_j in the data form.
    """
    kernel = WEIGHTS * h * np.exp(h * (1 - U))
    # l_j at the points of the quadrature; with one node the empty product is 1, which is degree 0.
    lagrange = [np.prod([(U - k) / (j - k) for k in nodes if k != j], axis=0) for j in nodes]
    return [float((kernel * l_j).sum()) for l_j in lagrange]


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """DEIS."""
    return {"deis": DEIS}

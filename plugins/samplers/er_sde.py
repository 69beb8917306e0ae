"""ER-SDE-Solver, order 1, 2 or 3, in the data form (Cui et al. 2023, ER-SDE-Solver-1 to -3 for VP).

Stochastic. NFE = steps. rho = sigma / alpha; the noise scale function phi(rho) chooses the SDE. x0 is expanded in rho
with derivatives by finite differences of earlier predictions, as in the paper: the first derivative is one-sided at
order 3 too, so that without noise (phi=ode) order 3 still converges with order 2. The integrals of 1 / phi are exact to
rounding; the authors' code sums 100 rectangles. The first steps use lower orders, since there are not enough earlier
predictions yet; the last interval, and one that starts at alpha = 0, is first order.

Same as: `er-sde:order=1,phi=ode` = `ddim`; `er-sde:order=1,phi=sde` = `ddpm`.

Use it for stochastic samples at one call a step, with less noise than the model's own SDE adds: phi=sde5 adds less up
to about sigma / alpha = 99.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext
from ...samplers.schedule import Float64s

NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)
"""Gauss-Legendre on [-1, 1]: in log rho, where 1 / phi is smooth, exact to rounding for any grid's step."""


@dataclass(frozen=True)
class ERSDE(Sampler):
    """y_b = phi_b / phi_a y_a + (1 - phi_b / phi_a) x0 + sqrt(rho_b^2 - rho_a^2 (phi_b / phi_a)^2) z, y = x / alpha."""

    order: Literal[1, 2, 3] = 3
    """Predictions that a step uses."""
    phi: Literal["ode", "sde", "sde5"] = "sde5"
    """phi(rho): ode = rho, no noise; sde = rho^2, as the model; sde5 = rho (e^(rho^0.3) + 10), the authors' default."""

    aliases = {"ER-SDE-Solver-3": "", "er_sde": ""}

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        """At most 2 without noise."""
        return min(self.order, 2) if self.phi == "ode" else None

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """First order, the terms of the derivatives of x0, then the noise."""
        prediction = run.predict(x, a)
        # phi_b / phi_a divided by rho_b / rho_a, which is defined at alpha = 0 too, where rho is infinite.
        decay = float(self._scale(b.sigma_ve) / self._scale(a.sigma_ve))
        kept = decay * b.sigma / a.sigma
        x = prediction.mean(kept, b.alpha - a.alpha * kept)
        history = [(a.sigma_ve, prediction.x0), *(past or [])][: self.order]
        if len(history) > 1 and not b.is_clean:
            x = x + b.alpha * self._bend(history, b.sigma_ve)
        if std := b.sigma * math.sqrt(1 - decay**2):
            x = x + std * run.noise(a, b)
        # A prediction made at alpha = 0 has no finite rho, so no later step can use it.
        return x, history if a.alpha else None

    def _scale(self, rho: float | Float64s) -> Float64s:
        """phi(rho) / rho."""
        rho = np.asarray(rho, dtype=np.float64)
        if self.phi == "ode":
            return np.ones_like(rho)
        return rho if self.phi == "sde" else np.exp(rho**0.3) + 10

    def _bend(self, history: list[tuple[float, Tensor]], rho_b: float) -> Tensor:
        """The terms of the first two derivatives, each of them with its integral over the step."""
        (rho_a, m0), (rho1, m1), *older = history
        # The points of the quadrature lie evenly in log rho, where 1 / phi is smooth.
        half = math.log(rho_a / rho_b) / 2
        rho = rho_b * np.exp(half * (1 + NODES))
        measure = WEIGHTS * half * rho_b * self._scale(rho_b) / self._scale(rho)  # phi_b d rho / phi(rho)
        d1 = (m0 - m1) / (rho_a - rho1)
        bend = (rho_b - rho_a + float(measure.sum())) * d1
        if not older:
            return bend
        # The second derivative, by a divided difference of the two slopes.
        rho2, m2 = older[0]
        d2 = 2 * (d1 - (m1 - m2) / (rho1 - rho2)) / (rho_a - rho2)
        return bend + ((rho_b - rho_a) ** 2 / 2 + float((measure * (rho - rho_a)).sum())) * d2


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """ER-SDE-Solver."""
    return {"er-sde": ERSDE}

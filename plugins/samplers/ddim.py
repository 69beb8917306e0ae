"""DDIM (Song et al. 2021a, equation 12).

Order 1, NFE = steps. eta = 0 is deterministic. Where the model clips x0, eps is derived from the clipped x0;
implementations that keep the raw eps give other samples.

Same as: `ddim` = `euler`; `ddim:eta=1` = `ddpm`; `ddim:eta=E` = `euler-a:eta=E` (E from 0 to 1).

Use it when one noise must always give one image, as for interpolation or a fair comparison, and as the first-order
yardstick of the deterministic samplers. Song et al. (table 1) find eta = 0 best at few steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ...samplers.errors import InputError
from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext


@dataclass(frozen=True)
class DDIM(Sampler):
    """x_b = alpha_b x0 + sqrt(sigma_b^2 - s^2) eps + s z, with s = eta times the posterior's deviation."""

    eta: float = 0.0
    """0 = deterministic ... 1 = DDPM."""

    aliases = {"DDIM": ""}

    def __post_init__(self) -> None:
        """Check the option: above 1 the variance of eps would be negative."""
        if not 0 <= self.eta <= 1:
            raise InputError(f"sampler 'ddim': option eta {self.eta}: expected a number from 0 to 1")

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        """First order without noise."""
        return None if self.eta else 1

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Equation 12, in alpha and sigma."""
        # Equation 16: eta times the posterior's deviation. At the clean end sigma_b = 0, so no noise is drawn there.
        s = self.eta * b.sigma * math.sqrt(1 - (b.sigma_ve / a.sigma_ve) ** 2)
        # The noise of level b is eps in part and fresh noise in part: their variances add up to sigma_b^2.
        x = run.predict(x, a).combine(b.alpha, math.sqrt(b.sigma**2 - s**2))
        return x + s * run.noise(a, b) if s else x, None


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """DDIM."""
    return {"ddim": DDIM}

"""Euler ancestral, "Euler a" of the image tools (Crowson, k-diffusion, sample_euler_ancestral).

Stochastic. NFE = steps. Each step goes down to a level below b and adds fresh noise up to b. With eta above 1 no
other sampler here equals it.

Same as: `euler-a` = `ddpm`; `euler-a:eta=E` = `ddim:eta=E` (E from 0 to 1); `euler-a:eta=0` = `euler`.

Use it to reproduce "Euler a" of the image tools. As with any sampler that adds fresh noise, its samples keep changing
with the number of steps.
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
class EulerAncestral(Sampler):
    """In s = sigma / alpha: an Euler step to s_down, then noise s_up, with s_down^2 + s_up^2 = s_b^2."""

    eta: float = 1.0
    """Share of the posterior's deviation that is added as fresh noise; 0 = Euler."""

    aliases = {"Euler a": "", "euler_ancestral": "", "k_euler_a": ""}

    def __post_init__(self) -> None:
        """Check the option."""
        if not 0 <= self.eta < math.inf:
            raise InputError(f"sampler 'euler-a': option eta {self.eta}: expected a number from 0 up")

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        """First order without noise."""
        return None if self.eta else 1

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """get_ancestral_step and the Euler step of k-diffusion, for any alpha."""
        # The posterior's deviation times eta, at most what level b holds, so that s_down is real.
        s = b.sigma_ve
        s_up = min(s, self.eta * s * math.sqrt(1 - (s / a.sigma_ve) ** 2))
        s_down = math.sqrt(s**2 - s_up**2)
        # sigma / alpha is the variable of k-diffusion; times alpha_b it is the state of any process.
        x = run.predict(x, a).combine(b.alpha, b.alpha * s_down)
        return x + b.alpha * s_up * run.noise(a, b) if s_up else x, None


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """Euler ancestral."""
    return {"euler-a": EulerAncestral}

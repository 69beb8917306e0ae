"""Euler ancestral with CFG++ (Chung et al. 2024, appendix; Crowson, k-diffusion, sample_euler_ancestral).

Stochastic. NFE = steps; passes and guidance are as in `euler-cfg++`. Each step renoises the guided x0 with eps without
the prompt up to a level below b, then with fresh noise up to b.

Same as: `euler-a-cfg++:eta=E` = `euler-a:eta=E` (E from 0 up); `euler-a-cfg++:eta=0` = `euler-cfg++`.

Use it where "Euler a" is used, with a guidance below 1.
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
class EulerAncestralCFGpp(Sampler):
    """In s = sigma / alpha: x0 + s_down eps + s_up z, x0 guided, eps without the prompt, s_down^2 + s_up^2 = s_b^2."""

    eta: float = 1.0
    """Share of the posterior's deviation that is added as fresh noise; 0 = Euler."""

    needs_unconditional = True
    aliases = {"Euler a CFG++": "", "euler_ancestral_cfg_pp": ""}

    def __post_init__(self) -> None:
        """Check the option."""
        if not 0 <= self.eta < math.inf:
            raise InputError(f"sampler 'euler-a-cfg++': option eta {self.eta}: expected a number from 0 up")

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        """First order without noise."""
        return None if self.eta else 1

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """The step of k-diffusion, for any alpha, with the paper's renoising."""
        guided, s = run.predict(x, a), b.sigma_ve
        # As in `euler-a`: fresh noise s_up on top of s_down, whose variances add up to that of level b.
        s_up = min(s, self.eta * s * math.sqrt(1 - (s / a.sigma_ve) ** 2))
        assert guided.unconditional is not None
        # Towards the guided x0, but renoised with what the network says without the prompt.
        x = b.alpha * guided.x0 + guided.unconditional.combine(0.0, b.alpha * math.sqrt(s**2 - s_up**2))
        return x + b.alpha * s_up * run.noise(a, b) if s_up else x, None


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """Euler ancestral CFG++."""
    return {"euler-a-cfg++": EulerAncestralCFGpp}

"""DPM2 ancestral, "DPM2 a" of the image tools (Crowson, k-diffusion, sample_dpm_2_ancestral).

Stochastic; of order 2 without noise. NFE = 2 steps - 1. Each step goes by dpm2 to a level below b and adds fresh noise
up to b, as euler-a does. The last interval, and one that starts at alpha = 0, is an Euler step.

Same as: `dpm2-a:eta=0` = `dpm2`.

Use it to reproduce "DPM2 a" of the image tools.
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
class DPM2Ancestral(Sampler):
    """In s = sigma / alpha: the midpoint rule to s_down, then noise s_up, with s_down^2 + s_up^2 = s_b^2."""

    eta: float = 1.0
    """Share of the posterior's deviation that is added as fresh noise; 0 = dpm2."""

    aliases = {"DPM2 a": "", "DPM2 a Karras": "grid=karras", "k_dpm_2_a": "", "dpm_2_ancestral": ""}

    def __post_init__(self) -> None:
        """Check the option: above 1, s_up could reach s_b, and log sigma has no middle where s_down = 0."""
        if not 0 <= self.eta <= 1:
            raise InputError(f"sampler 'dpm2-a': option eta {self.eta}: expected a number from 0 to 1")

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        """Second order without noise."""
        return None if self.eta else 2

    def nfe(self, steps: int) -> int:
        """Two calls an interval, one in the last."""
        return 2 * steps - 1

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Down without noise, then up."""
        # k-diffusion's get_ancestral_step: how far to go down, and how much fresh noise leads back up to b.
        s = b.sigma_ve
        s_up = self.eta * s * math.sqrt(1 - (s / a.sigma_ve) ** 2)
        s_down = math.sqrt(s**2 - s_up**2)
        at_a = run.predict(x, a)
        x = at_a.combine(b.alpha, b.alpha * s_down)
        if s_down and a.alpha:
            middle = run.at((a.lambda_ - math.log(s_down)) / 2)
            # A network that knows only whole timesteps may have none in between.
            if s_down < middle.sigma_ve < a.sigma_ve:
                # An Euler step to the middle, whose eps replaces that of a over the whole interval.
                at_middle = run.predict(at_a.combine(middle.alpha, middle.sigma), middle)
                x = x + b.alpha * (s_down - a.sigma_ve) * (at_middle.eps - at_a.eps)
        return x + b.alpha * s_up * run.noise(a, b) if s_up else x, None


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """DPM2 ancestral."""
    return {"dpm2-a": DPM2Ancestral}

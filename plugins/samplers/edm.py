"""The stochastic sampler of EDM (Karras et al. 2022, algorithm 2): churn, then Heun.

churn = 0 is deterministic, of order 2; otherwise stochastic. NFE = 2 steps - 1. In s = sigma / alpha,
each step first adds noise, from s to (1 + gamma) s with gamma = min(churn / steps, sqrt(2) - 1), where s lies in
[s_tmin, s_tmax]. Two things differ from the paper: noise is never raised above the level that the run starts from,
which is the noisiest that the network knows, and never before the last step, which is an Euler step.

Same as: `edm` = `heun`; `edm:churn=0,s_noise=E` = `heun` (E from 0 up).

Use it with churn when you can spend many calls and the network's errors, not the solver's, limit the samples. Karras et
al. find that the best settings differ from model to model, and that churn gains less the better the network is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ...samplers.errors import InputError
from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext
from .heun import heun_step


@dataclass(frozen=True)
class EDM(Sampler):
    """Raise the noise a little, then take Heun's step from there."""

    churn: float = 0.0
    """S_churn: the growth factors 1 + gamma of a run add up to `churn`, spread evenly; 0 = heun."""
    s_tmin: float = 0.0
    """S_tmin: no churn where sigma / alpha is below it."""
    s_tmax: float = math.inf
    """S_tmax: no churn where sigma / alpha is above it."""
    s_noise: float = 1.0
    """S_noise: deviation of the noise that is added."""

    aliases = {"EDM": ""}

    def __post_init__(self) -> None:
        """Check the options."""
        for name, low in (("churn", 0.0), ("s_tmin", 0.0), ("s_tmax", self.s_tmin), ("s_noise", 0.0)):
            value = getattr(self, name)
            if not low <= value or (name != "s_tmax" and math.isinf(value)):
                raise InputError(f"sampler 'edm': option {name} {value}: expected a number from {low:g} up")

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        """Second order without noise."""
        return None if self.churn else 2

    def nfe(self, steps: int) -> int:
        """Two calls an interval, one in the last."""
        return 2 * steps - 1

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Up from a to the noisier level `hat`, then down to b."""
        hat = self._raised(run, a, b)
        # Algorithm 2, lines 5 and 6: in x / alpha the added variance is the difference of the two levels' variances.
        if hat.sigma_ve > a.sigma_ve:
            added = self.s_noise * math.sqrt(hat.sigma_ve**2 - a.sigma_ve**2)
            x = hat.alpha / a.alpha * x
            x = x + hat.alpha * added * run.noise(a, b) if added else x
        # Lines 7 to 11: Heun's step, from the raised level.
        return heun_step(run, x, hat, b), None

    def _raised(self, run: StepContext, a: Level, b: Level) -> Level:
        """The level that churn raises a to, at a time that the network knows; a itself where there is no churn."""
        # The paper's bound of sqrt(2) - 1 keeps a step from adding more noise than the state has.
        gamma = min(self.churn / (len(run.grid) - 1), math.sqrt(2) - 1)
        first = run.grid[0]
        # No churn before the last step, at the first level, and outside of [s_tmin, s_tmax].
        if b.is_clean or a is first or not gamma or not self.s_tmin <= a.sigma_ve <= self.s_tmax:
            return a
        # `run.at` returns the nearest level that the network knows.
        raised = (1 + gamma) * a.sigma_ve
        return run.at(-math.log(raised)) if raised < first.sigma_ve else first


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """EDM."""
    return {"edm": EDM}

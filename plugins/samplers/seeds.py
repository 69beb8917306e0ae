"""SEEDS, stochastic exponential solvers, singlestep, in the data form (Gonzalez et al. 2023, SEEDS-1 to -3 for VP).

Stochastic; NFE = order (steps - 1) + 1. The reverse SDE is linear in x except for x0: its linear part and its noise are
solved exactly, and x0 is expanded in lambda with calls inside the interval, at evenly spaced lambda. The state of each
call holds the noise of the SDE up to there, and the rest of the interval continues from that noise: stages and result
follow one Brownian path. eta = 1 is the paper's; another eta scales the SDE as in `dpm-solver++-sde`, and eta = 0
leaves the ODE. The last interval, and one that starts at alpha = 0, takes one call and first order.

Same as: `seeds:order=1` = `ddpm`; `seeds:order=1,eta=0` = `ddim`; `seeds:eta=0` = `dpm-solver++-single`;
`seeds:order=3,eta=0` = `dpm-solver++-single:order=3`; `seeds:order=1,eta=E` = `dpm-solver++-sde:order=1,eta=E`
(E from 0 up).

Use it to draw from the reverse SDE when you can spend about a hundred calls or more, the range that the paper
studies.
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
class SEEDS(Sampler):
    """x_b = e^(-eta h) sigma_b / sigma_a x_a + alpha_b int (1 + eta) e^((1 + eta)(lambda - lambda_b)) x0 + noise."""

    order: Literal[1, 2, 3] = 2
    """Calls in an interval; without noise, order of convergence."""
    eta: float = 1.0
    """Strength of the noise: 0 = the ODE, 1 = the reverse SDE of the model."""

    aliases = {"SEEDS": "", "seeds_2": "", "seeds_3": "order=3"}

    def __post_init__(self) -> None:
        """Check the option."""
        if not 0 <= self.eta < math.inf:
            raise InputError(f"sampler 'seeds': option eta {self.eta}: expected a number from 0 up")

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        """The order without noise."""
        return None if self.eta else self.order

    def nfe(self, steps: int) -> int:
        """`order` calls an interval, one in the last."""
        return self.order * (steps - 1) + 1

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Go from stage to stage: first order from a, plus the term of the last change of x0, plus noise."""
        at_a = run.predict(x, a)
        # `place` is the stage before, `change` what x0 has changed by from a to there.
        place, change = a, None
        noise: Tensor | float = 0.0
        for s in (*(level for _, level in run.between(a, b, self.order - 1)), b):
            # First order from a, with x0 constant, then the slope of x0 as the stage before has shown it.
            kept, _ = self._linear(a, s)
            x = at_a.mean(kept, s.alpha - a.alpha * kept)
            if change is not None:
                x = x + s.alpha * self._weight(s.lambda_ - a.lambda_, place.lambda_ - a.lambda_) * change
            # The noise up to the stage before shrinks as the state does; the noise since then is fresh.
            kept, std = self._linear(place, s)
            if std:
                noise = kept * noise + std * run.noise(place, s)
                x = x + noise
            # The last state is the result: the network is asked at it by the next step.
            if s is not b:
                change = run.predict(x, s).x0 - at_a.x0
            place = s
        return x, None

    def _linear(self, a: Level, s: Level) -> tuple[float, float]:
        """The factor of x_a in x_s, and the deviation of the noise from a to s."""
        decay = (s.sigma_ve / a.sigma_ve) ** self.eta  # e^(-eta h); 0 or, without noise, 1 where h is infinite
        return decay * s.sigma / a.sigma, s.sigma * math.sqrt(1 - decay**2)

    def _weight(self, h: float, h_before: float) -> float:
        """Weight of a change of x0 over h_before, in a state h after a.

        The slope of x0 is integrated exactly; order 2 takes the value at h / 2 for the whole step.
        """
        h_eta = (1 + self.eta) * h
        slope = -math.expm1(-h_eta) / 2 if self.order == 2 else math.expm1(-h_eta) / h_eta + 1  # noqa: PLR2004
        return h / h_before * slope


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """SEEDS."""
    return {"seeds": SEEDS}

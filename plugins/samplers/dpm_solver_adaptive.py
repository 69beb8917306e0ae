"""DPM-Solver-12 and DPM-Solver-23: DPM-Solver with adaptive steps (Lu et al. 2022a, appendix C).

Deterministic, order 2 or 3; NFE depends on the error allowed and differs from sample to sample. Meant for few levels:
with steps=2 they are the noisiest, the cleanest and the clean end. Each interval between noisy levels is divided into
steps of lambda, for each sample separately, so that two orders of the solver agree within max(atol, rtol |x|). It stops
at every level of the grid. The last interval, and a first one that starts at alpha = 0, takes one call and first order.

The controller is that of k-diffusion's sample_dpm_adaptive with its default coefficients, so states are compared as
x / alpha; the paper accepts a step whose error is at most 1. Each sample has its own steps, hence its own calls: with
batch_size=64 a call on one sample costs as much as a call on 64, so give batch_size=1.

Use it when you know the error that you allow and not the number of steps. It cannot be held to a budget of calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...samplers.errors import InputError
from ...samplers.level import Level
from ...samplers.predictor import Prediction
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext

ACCEPTED = 0.81
"""A step is accepted if the next one may be at least this fraction of it (k-diffusion's accept_safety)."""
LEAST = 1e-3
"""A step in lambda this short is accepted whatever its error: at a jump of the network two orders never agree."""


@dataclass(frozen=True)
class DPMSolverAdaptive(Sampler):
    """Two orders of DPM-Solver on each step: the higher gives the state, their difference controls the step."""

    order: Literal[2, 3] = 3
    """The higher order."""
    rtol: float = 0.05
    """Error allowed in a step, relative to the state."""
    atol: float = 0.0078
    """Error allowed in a step where the state is small; 0.0078 = one grey level of 256."""
    h: float = 0.05
    """The first step tried, in lambda."""

    aliases = {"DPM adaptive": "", "dpm_adaptive": "", "k_dpm_ad": ""}

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("rtol", "atol", "h"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise InputError(f"sampler 'dpm-solver-adaptive': option {name} {value}: expected a positive number")

    @property
    def convergence(self) -> int:  # type: ignore[override]
        """The order, on grids so fine that no interval is divided."""
        return self.order

    def nfe(self, steps: int) -> None:
        """None: the error decides, so calls are only counted."""
        return

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Solve each sample separately; `past` holds the step in lambda that each tries next."""
        # lambda is infinite there, so no step in lambda could be tried: one call, first order.
        if b.is_clean or a.alpha == 0:
            return run.predict(x, a).combine(b.alpha, b.sigma), past
        # A network call may hold one sample only, because the next step of each depends on its own error.
        tries = past or [self.h] * len(x)
        ends = [self._solve(run, x[k : k + 1], a, b, slice(k, k + 1), tries[k]) for k in range(len(x))]
        return torch.cat([x_b for x_b, _ in ends]), [h for _, h in ends]

    def _solve(  # noqa: PLR0913  (an interval, and whose)
        self, run: StepContext, x: Tensor, a: Level, b: Level, rows: slice, h: float
    ) -> tuple[Tensor, float]:
        """One sample from a to b, starting with a step h; the sample at b and the step to try next."""
        s, at_s, previous = a, run.predict(x, a, rows), x / a.alpha
        while True:
            # Try a step to t with both orders; `at_s` is reused if it is rejected.
            t = _after(run, s, h, b)
            low, high = self._two_orders(run, at_s, s, t, rows)
            # Appendix C: the difference of the two orders, relative to what is allowed, as a root mean square.
            delta = torch.maximum(low.abs(), previous.abs()).mul(self.rtol).clamp(min=self.atol)
            error = float(((low - high) / delta).double().square().mean().sqrt())
            if not math.isfinite(error):  # the driver names the step at which a state stops being finite
                return t.alpha * high, h
            # The PID controller of k-diffusion with its default coefficients (0, 1, 0), limited by an arc tangent.
            taken = t.lambda_ - s.lambda_
            factor = 1 + math.atan((error + 1e-8) ** (-1 / self.order) - 1)
            h = max(taken * factor, LEAST)
            # Rejected: try again from s with the smaller step; the prediction at s is still valid.
            if factor < ACCEPTED and taken > LEAST:
                continue
            if t is b:
                return b.alpha * high, h
            # Accepted: the higher order is the new state; the lower one scales the next error, as in k-diffusion.
            s, at_s, previous = t, run.predict(t.alpha * high, t, rows), low

    def _two_orders(self, run: StepContext, at_s: Prediction, s: Level, t: Level, rows: slice) -> tuple[Tensor, Tensor]:
        """x / alpha at t with the lower and the higher order; both are first order where no level fits in between."""
        first = at_s.combine(1.0, t.sigma_ve)
        inner = run.between(s, t, self.order - 1)
        if not inner:
            return first, first

        # As in `dpm-solver`, in x / alpha; orders 2 and 3 share the call at s1.
        h = t.lambda_ - s.lambda_
        (r1, s1), *more = inner
        d1 = run.predict(at_s.combine(s1.alpha, s1.sigma), s1, rows).eps - at_s.eps
        second = first - t.sigma_ve * math.expm1(h) / (2 * r1) * d1
        if not more:
            return first, second
        ((r2, s2),) = more
        bend = r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1)
        d2 = run.predict(at_s.combine(s2.alpha, s2.sigma) - s2.sigma * bend * d1, s2, rows).eps - at_s.eps
        return second, first - t.sigma_ve / r2 * (math.expm1(h) / h - 1) * d2


def _after(run: StepContext, s: Level, h: float, b: Level) -> Level:
    """The level h further in lambda, or b if that is nearer; a whole timestep within h, or else the next one."""
    if s.lambda_ + h > b.lambda_ - 1e-5:
        return b
    t = run.at(s.lambda_ + h)
    if run.integer:
        t = run.schedule.at_time(min(t.t if t.lambda_ <= s.lambda_ + h else t.t + 1, s.t - 1))
    return t if t.lambda_ < b.lambda_ else b


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """Adaptive DPM-Solver."""
    return {"dpm-solver-adaptive": DPMSolverAdaptive}

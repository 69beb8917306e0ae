"""SA-Solver, stochastic Adams, in the data form (Xue et al. 2023, SA-Predictor and SA-Corrector, algorithm 1).

Stochastic with tau > 0. NFE = steps. The predictor goes to b with a polynomial in lambda through the last predictions
of x0, integrated exactly under the kernel of the SDE. The corrector repeats the step with the same noise and one more
prediction, made at b; the next step uses that prediction too, so it costs no call (PEC). With tau = 0 the order of
convergence is one more than the smaller of the two numbers of predictions, or the predictor's number without a
corrector. The first steps use lower orders, since there are not enough earlier predictions yet: order 4 becomes 3. The
last interval, and one that starts at alpha = 0, is first order. tau is constant here; the authors' settings switch it
off at both ends. Their code also changes the two-step coefficients by a term of third order in h, which is not in the
paper.

Same as: `sa-solver:predictor=1,corrector=0,tau=0` = `ddim`; `sa-solver:predictor=1,corrector=0` = `ddpm`;
`sa-solver:predictor=3,corrector=0` = `dpm-solver++-sde:order=3,variant=heun`.

Use it for stochastic samples at one call a step when you want to choose the strength of the noise: tau near 0 with few
steps, where noise costs accuracy, and nearer 1 with more.
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
from .deis import adams_weights


@dataclass(frozen=True)
class SASolver(Sampler):
    """x_b = e^(-tau^2 h) sigma_b / sigma_a x_a + sum_j b_j x0_j + sigma_b sqrt(1 - e^(-2 tau^2 h)) z."""

    predictor: Literal[1, 2, 3] = 2
    """s: predictions that the predictor uses."""
    corrector: Literal[0, 1, 2, 3] = 1
    """s hat: predictions that the corrector uses beside the one at b; 0 = no corrector."""
    tau: float = 1.0
    """Strength of the noise: 0 = the ODE, 1 = the reverse SDE of the model."""

    aliases = {"SA-Solver": ""}

    def __post_init__(self) -> None:
        """Check the option."""
        if not 0 <= self.tau < math.inf:
            raise InputError(f"sampler 'sa-solver': option tau {self.tau}: expected a number from 0 up")

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        """The order of an Adams method, without noise."""
        if self.tau:
            return None
        return min(self.predictor, self.corrector) + 1 if self.corrector else self.predictor

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Predict, evaluate, correct. The corrector of the step before has made the prediction at a already."""
        history = past or []
        if not history or history[0][0] != a.lambda_:
            history = [(a.lambda_, run.predict(x, a).x0), *history]
        # First order: the linear part and the noise of the SDE, exactly, with x0 constant over the step.
        m0 = history[0][1]
        decay = (b.sigma_ve / a.sigma_ve) ** self.tau**2  # e^(-tau^2 h); 0 or, without noise, 1 where h is infinite
        kept = decay * b.sigma / a.sigma
        x = kept * x + (b.alpha - a.alpha * kept) * m0
        # One draw for predictor and corrector: both solve the same path of the SDE.
        if std := b.sigma * math.sqrt(1 - decay**2):
            x = x + std * run.noise(a, b)
        if b.is_clean or a.alpha == 0:
            return x, None

        # Predictor: the polynomial through the last s predictions (s-step Adams-Bashforth).
        predicted = self._add(x, a, b, history[: self.predictor])
        if not self.corrector:
            return predicted, history[: self.predictor]
        # Corrector: the same step with the prediction at b as one more point (Adams-Moulton).
        at_b = (b.lambda_, run.predict(predicted, b).x0)
        x = self._add(x, a, b, [*history[: self.corrector], at_b])
        return x, [at_b, *history][: max(self.predictor, self.corrector)]

    def _add(self, x: Tensor, a: Level, b: Level, points: list[tuple[float, Tensor]]) -> Tensor:
        """x, taken by first order, with the correction from the points (lambda, x0); the first point is at a."""
        h = b.lambda_ - a.lambda_
        # With -h for h these are the weights of the data form; the noise makes the state decay by tau^2 h more.
        weights = adams_weights([(lambda_ - a.lambda_) / h for lambda_, _ in points], -(1 + self.tau**2) * h)
        for w_j, (_, m_j) in zip(weights[1:], points[1:], strict=True):
            x = x - b.alpha * w_j * (m_j - points[0][1])
        return x


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """SA-Solver."""
    return {"sa-solver": SASolver}

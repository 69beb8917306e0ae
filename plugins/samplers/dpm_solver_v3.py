"""DPM-Solver-v3 (Zheng et al. 2023), multistep, with the empirical model statistics l, s and b of a file.

Deterministic, order 1, 2 or 3; NFE = steps. With f = (sigma eps - l x) / alpha the ODE is solved for g, the part of f
that s and b do not predict: their integrals A, E and B are those of the [file](learned-files.md#dpm-solver-v3), exact,
and g is the polynomial in lambda through the last predictions. A corrector repeats the step with the prediction at b,
which the next step uses too. First steps have lower orders; the last interval, and one from alpha = 0, is first order.
Without a file l = 1 and s = b = 0, so that f is -x0.

Same as: `dpm-solver-v3` = `sa-solver:predictor=3,corrector=2,tau=0`;
`dpm-solver-v3:order=2` = `sa-solver:predictor=2,corrector=1,tau=0`;
`dpm-solver-v3:corrector=false` = `sa-solver:predictor=3,corrector=0,tau=0`;
`dpm-solver-v3:order=2,corrector=false` = `res`; `dpm-solver-v3:order=1` = `ddim`.

Use it with a file for your model and 5 to 10 calls, the range that the paper aims at; order 2 with guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...samplers.learned import FromFile
from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext
from .model_statistics import PLAIN, Statistics, claims_of, take_step


@dataclass(frozen=True)
class DPMSolverV3(FromFile[Statistics]):
    """x_b = alpha_b A (x_a / alpha_a - int E B - sum_i g_i int E L_i), L_i the polynomial of prediction i."""

    order: Literal[1, 2, 3] = 3
    """Predictions that a step uses, and order of convergence."""
    corrector: bool = True
    """Whether the step is repeated with the prediction at b in place of the oldest."""

    content, by_default = Statistics, "no file of statistics: it is sa-solver with tau=0"
    aliases = {"DPM-Solver-v3": ""}

    @property
    def convergence(self) -> int:  # type: ignore[override]
        """The order."""
        return self.order

    @property
    def claims(self) -> Mapping[str, str]:  # type: ignore[override]
        """Lines on the order, where it cannot be measured."""
        return claims_of(self.known, corrected=self.corrector and self.order == 3)  # noqa: PLR2004  (the order)

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Predict, evaluate, correct. The corrector of the step before has made the prediction at a already."""
        history = past or []
        if not history or history[0].level != a:
            history = [run.predict(x, a), *history][: self.order]
        if b.is_clean or a.alpha == 0:  # lambda is infinite there
            return history[0].combine(b.alpha, b.sigma), None
        predicted = take_step(self.known or PLAIN, x, b, history)
        if not self.corrector or self.order == 1:
            return predicted, history
        at_b = run.predict(predicted, b)
        x = take_step(self.known or PLAIN, x, b, [history[0], at_b, *history[1:]][: self.order])
        return x, [at_b, *history][: self.order]


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """DPM-Solver-v3."""
    return {"dpm-solver-v3": DPMSolverV3}

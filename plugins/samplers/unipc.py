"""UniPC, multistep, in the data form (Zhao et al. 2023, UniP and UniC with B(h)).

Deterministic, order p = 1, 2 or 3; NFE = steps. A predictor of order p (UniP-p) goes to b. A corrector (UniC-p) repeats
the step with one more prediction, made at b; the next step uses that prediction too, so it costs no call, and the order
is p + 1. The first steps use lower orders, since there are not enough earlier predictions yet, so p = 3 reaches order 4
only after an exact start, and 3 otherwise. The last interval, and one that starts at alpha = 0, is first order. With
several rho_m the paper's equations have one solution whatever B(h) is: the weights of the polynomial through the
predictions. UniP-2 and UniC-1 have one rho, which the paper sets to 1/2; only there the variants differ.

Same as: `unipc:order=1,corrector=false` = `ddim`; `unipc:corrector=false` = `dpm-solver++`.

Use it with a budget of about 5 to 10 calls, the range that the paper aims at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext
from .deis import adams_weights


@dataclass(frozen=True)
class UniPC(Sampler):
    """x_b = first order + alpha_b B(h) sum_m rho_m D_m / r_m, D_m = x0 at a + r_m h minus x0 at a."""

    order: Literal[1, 2, 3] = 2
    """p: predictions that the predictor uses; the corrector uses one more."""
    variant: Literal["bh1", "bh2"] = "bh2"
    """B(h): bh1 = h, bh2 = 1 - e^-h."""
    corrector: bool = True
    """Whether to correct; without it the order of convergence is p."""

    aliases = {"UniPC": "", "uni_pc_bh2": "", "uni_pc_bh1": "variant=bh1"}

    @property
    def convergence(self) -> int:  # type: ignore[override]
        """p, and one more with the corrector."""
        return self.order + self.corrector

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Predict, evaluate, correct. The corrector of the step before has made the prediction at a already."""
        history = past or []
        if not history or history[0][0] != a.lambda_:
            history = [(a.lambda_, run.predict(x, a).x0), *history][: self.order]
        # First order: the linear part exactly, with x0 constant over the step.
        m0 = history[0][1]
        kept = b.sigma / a.sigma
        x = kept * x + (b.alpha - a.alpha * kept) * m0
        h = b.lambda_ - a.lambda_
        # At alpha = 0, and into the clean end, lambda is infinite: the first-order step is the result.
        if math.isinf(h):
            return x, None

        # UniP: r_m and D_m of the earlier predictions, in units of the step.
        r = [(lambda_ - a.lambda_) / h for lambda_, _ in history[1:]]
        d = [m - m0 for _, m in history[1:]]
        predicted = self._add(x, b, h, r, d)
        if not self.corrector:
            return predicted, history
        # UniC: the step again from x, with the prediction at b as the point r = 1.
        m_b = run.predict(predicted, b).x0
        x = self._add(x, b, h, [*r, 1.0], [*d, m_b - m0])
        return x, [(b.lambda_, m_b), *history][: self.order]

    def _add(self, x: Tensor, b: Level, h: float, r: Sequence[float], d: Sequence[Tensor]) -> Tensor:
        """x, taken by first order, with the correction from predictions at a + r h that differ from that at a by d."""
        weights = [-w for w in adams_weights([0.0, *r], -h)[1:]]
        if len(r) == 1:  # rho = 1/2 in place of the solution, as in the paper
            weights = [0.5 * (h if self.variant == "bh1" else -math.expm1(-h)) / r[0]]
        for w_m, d_m in zip(weights, d, strict=True):
            x = x + b.alpha * w_m * d_m
        return x


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """UniPC."""
    return {"unipc": UniPC}

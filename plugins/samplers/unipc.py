"""UniPC, multistep, in the data form (Zhao et al. 2023, UniP and UniC with B(h)).

Deterministic, order p = 1, 2 or 3; NFE = steps. A predictor of order p (UniP-p) goes to b, and a corrector (UniC-p)
goes there again with the prediction made at b, which is also the next step's: it costs no call and the order is p + 1,
with p = 3 only after an exact start, 3 from its own, where the first steps have the lower orders for want of a past.
The last interval, and one that starts at alpha = 0, is first order. With several rho_m their equations have
one solution whatever B(h) is: the weights of the polynomial through the predictions. UniP-2 and UniC-1 have one rho,
which the paper sets to 1/2, and there the variants differ.

Same as: `unipc:order=1,corrector=false` = `ddim`; `unipc:corrector=false` = `dpm-solver++`.

Use it when about 5 to 10 calls must do, the range that the paper aims at.
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
    """x_b = first order + alpha_b B(h) sum_m rho_m D_m / r_m, D_m = x0 at a + r_m h less x0 at a."""

    order: Literal[1, 2, 3] = 2
    """p: predictions that the predictor uses; the corrector uses one more."""
    variant: Literal["bh1", "bh2"] = "bh2"
    """B(h): bh1 = h, bh2 = 1 - e^-h."""
    corrector: bool = True
    """Whether to correct; the order of convergence is p without."""

    aliases = {"UniPC": "", "uni_pc_bh2": "", "uni_pc_bh1": "variant=bh1"}

    @property
    def convergence(self) -> int:  # type: ignore[override]
        """p, and one more with the corrector."""
        return self.order + self.corrector

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Predict, evaluate, correct; the newest prediction is at a already where the last step corrected with it."""
        history = past or []
        if not history or history[0][0] != a.lambda_:
            history = [(a.lambda_, run.predict(x, a).x0), *history][: self.order]
        m0 = history[0][1]
        kept = b.sigma / a.sigma
        x = kept * x + (b.alpha - a.alpha * kept) * m0
        h = b.lambda_ - a.lambda_
        if math.isinf(h):
            return x, None

        r = [(lambda_ - a.lambda_) / h for lambda_, _ in history[1:]]
        d = [m - m0 for _, m in history[1:]]
        predicted = self._add(x, b, h, r, d)
        if not self.corrector:
            return predicted, history
        m_b = run.predict(predicted, b).x0
        x = self._add(x, b, h, [*r, 1.0], [*d, m_b - m0])
        return x, [(b.lambda_, m_b), *history][: self.order]

    def _add(self, x: Tensor, b: Level, h: float, r: Sequence[float], d: Sequence[Tensor]) -> Tensor:
        """What the predictions at a + r h, which differ from that at a by d, add to the first order."""
        weights = [-w for w in adams_weights([0.0, *r], -h)[1:]]
        if len(r) == 1:
            weights = [0.5 * (h if self.variant == "bh1" else -math.expm1(-h)) / r[0]]
        for w_m, d_m in zip(weights, d, strict=True):
            x = x + b.alpha * w_m * d_m
        return x


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """UniPC."""
    return {"unipc": UniPC}

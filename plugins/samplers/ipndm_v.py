"""iPNDM_v, iPNDM for variable steps ("ipndm_v" of ComfyUI): Adams-Bashforth on unequal steps in sigma / alpha.

Deterministic, order 1 to 4, NFE = steps; exact, it is `lms`. coefficients=published has the slips of the published
code, which many papers' tables are made with. They matter on unequal steps: a single step of order 3 then has order 2,
and a run still has order 3 where neighbouring steps tend to be equal; the weights of order 4 do not add up to 1, and a
run has order 2, or 3 where all steps have one ratio. First steps have lower orders, the last is Euler.

Same as: `ipndm-v` = `lms:order=3`; `ipndm-v:order=1` = `ddim`; `ipndm-v:coefficients=published` = `ipndm:order=3`
(on equal steps in sigma / alpha).

Use it with coefficients=published to reproduce numbers that were published as iPNDM_v; else use `lms`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext
from .lms import coefficients
from .published_weights import published


@dataclass(frozen=True)
class IPNDMV(Sampler):
    """x_b / alpha_b = x_a / alpha_a + sum_j c_j eps_j."""

    order: Literal[1, 2, 3, 4] = 3
    """Predictions that a step uses, and order of convergence of coefficients=exact."""
    coefficients: Literal["exact", "published"] = "exact"
    """published = with the slips of the published code; matters from order 3 on."""

    aliases = {"iPNDM_v": ""}

    @property
    def convergence(self) -> int:  # type: ignore[override]
        """The order; 2 for the published order 4."""
        return 2 if (self.order, self.coefficients) == (4, "published") else self.order

    @property
    def step_convergence(self) -> int | None:
        """The published order 4 has none: where steps have different ratios its weights do not add up to 1."""
        less = {3: 2, 4: None} if self.coefficients == "published" else {}
        return less.get(self.order, self.order)

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """An Euler step, then the correction from older predictions."""
        prediction = run.predict(x, a)
        x = prediction.combine(b.alpha, b.sigma)
        if b.is_clean or a.alpha == 0:  # at alpha = 0 sigma / alpha is infinite
            return x, None
        history = [(a.sigma_ve, prediction.eps), *(past or [])][: self.order]
        weights = coefficients(nodes := [s for s, _ in history], a.sigma_ve, b.sigma_ve)
        if self.coefficients == "published":
            weights = published(weights, [b.sigma_ve, *nodes])
        weights[0] -= b.sigma_ve - a.sigma_ve  # the Euler step has it already
        for weight, (_, eps) in zip(weights, history, strict=True):
            x = x + b.alpha * weight * eps
        return x, history


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """iPNDM_v."""
    return {"ipndm-v": IPNDMV}

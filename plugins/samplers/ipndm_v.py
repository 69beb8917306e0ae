"""iPNDM_v, iPNDM for variable steps ("ipndm_v" of ComfyUI): Adams-Bashforth on unequal steps in sigma / alpha.

Deterministic, order 1 to 4, NFE = steps. With exact coefficients it is `lms`. coefficients=published has the slips of
the published code, which many papers' tables are made with: from order 3 on, a parenthesis in the weight of the second
difference of eps; at order 4 a sign in that of the third, and h1 / h2 for h2 / h3 in the last weight (h1, h2, h3: the
steps before this one). With the first, a single step of order 3 has order 2, and a run still has order 3 where
neighbouring steps tend to be equal; on equal steps it does not matter. With the others, the weights of order 4 do not
add up to 1, and a run has order 2 on such a grid, or 3 where all neighbouring steps have one ratio. The first steps use
lower orders, since there are not enough earlier predictions yet; the last interval is an Euler step.

Same as: `ipndm-v` = `lms:order=3`; `ipndm-v:order=1` = `ddim`; `ipndm-v:coefficients=published` = `ipndm:order=3`
(on equal steps in sigma / alpha).

Use it with coefficients=published to reproduce numbers that were published as iPNDM_v; else use `lms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext
from .lms import coefficients


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
        if self.coefficients == "exact":
            return self.order
        return None if self.order == 4 else min(self.order, 2)  # noqa: PLR2004  (the order itself)

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
        nodes = [s for s, _ in history]
        weights = coefficients(nodes, a.sigma_ve, b.sigma_ve)
        if self.coefficients == "published":
            weights = published(weights, [b.sigma_ve, *nodes])
        weights[0] -= b.sigma_ve - a.sigma_ve  # the Euler step has it already
        for weight, (_, eps) in zip(weights, history, strict=True):
            x = x + b.alpha * weight * eps
        return x, history


def published(exact: Sequence[float], places: Sequence[float]) -> list[float]:
    """The exact weights with the slips; `places` are those of the end, the start and the older predictions."""
    weights, (h, *before) = list(exact), [end - start for end, start in pairwise(places)]
    if len(before) < 2:  # noqa: PLR2004  (the second difference needs two older predictions)
        return weights
    h1, h2, *older = before
    # What the weight of a difference of eps is, less what it should be.
    share, ratio = h / (3 * (h + h1)), h * (h + h1) / (h1 * (h1 + h2))
    excess = h * ((1 - share * ratio) / 2 - (1 - share) / 2 * ratio)
    _add(weights, excess, (1, -1 - h1 / h2, h1 / h2))
    for h3 in older:  # order 4
        excess = h * (1 - h / (2 * (h + h1))) * ratio * h / (3 * (h1 + h2 + h3))
        q = h1 * (h1 + h2) / (h2 * (h2 + h3))
        _add(weights, excess, (1, -1 - h1 / h2 - q, h1 / h2 + q * (1 + h2 / h3), -q * h2 / h3))
        weights[3] *= h1 / h2 / (h2 / h3)
    return weights


def _add(weights: list[float], excess: float, difference: Sequence[float]) -> None:
    for j, part in enumerate(difference):
        weights[j] += excess * part


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """iPNDM_v."""
    return {"ipndm-v": IPNDMV}

"""The weights of iPNDM_v as the published code computes them, with its slips (h1, h2, h3: the steps before this one).

From order 3 on, a parenthesis in the weight of the second difference of eps; at order 4 a sign in that of the third,
and h1 / h2 for h2 / h3 in the last weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


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
        # The last slip: h1 / h2 in place of h2 / h3.
        weights[3] *= h1 / h2 / (h2 / h3)
    return weights


def _add(weights: list[float], excess: float, difference: Sequence[float]) -> None:
    for j, part in enumerate(difference):
        weights[j] += excess * part

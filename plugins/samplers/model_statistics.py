"""The file of `dpm-solver-v3`: l, s and b over lambda, and their integrals."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.polynomial import legendre
from torch import Tensor

from ...samplers.learned import MadeFor
from ...samplers.level import Level
from ...samplers.predictor import Prediction
from ...samplers.schedule import Float64s

NODES = 12
"""Gauss-Legendre points of a piece."""
LONGEST = 0.5
"""Longest piece in lambda: the integrands are polynomials there to rounding."""
POINTS, WEIGHTS = legendre.leggauss(NODES)
_ANTIDERIVATIVES = [legendre.legval(POINTS, legendre.legint(row, lbnd=-1)) for row in np.eye(NODES)]
CUMULATIVE = np.stack(_ANTIDERIVATIVES, axis=1) @ np.linalg.inv(legendre.legvander(POINTS, NODES - 1))
"""Row i takes the values at the points of [-1, 1] to the integral from -1 to point i."""
Values = tuple[float | tuple[float, ...], ...]


class Statistics(MadeFor, frozen=True, kw_only=True):
    """The content of a file. Between the knots l, s and b are linear in lambda, beyond them constant."""

    lambdas: tuple[float, ...]
    """The knots, ascending."""
    l: Values  # noqa: E741  (the paper's letter)
    """At each knot a number, or one for each element of a sample; so are s and b."""
    s: Values
    b: Values

    def __post_init__(self) -> None:
        """ValueError where the parts do not belong together."""
        self.check_lengths()
        if not self.lambdas or not (np.diff(self.lambdas) > 0).all():
            raise ValueError("lambdas: expected an ascending list of numbers")
        for name in ("l", "s", "b"):
            rows: Values = getattr(self, name)
            if len(rows) != len(self.lambdas):
                raise ValueError(f"{name}: {len(rows)} entries; expected {len(self.lambdas)}, one for each lambda")
            if len({len(row) if isinstance(row, tuple) else 0 for row in rows}) > 1:
                raise ValueError(f"{name}: expected rows of one length")

    def at(self, lambdas: Float64s) -> tuple[Float64s, Float64s, Float64s]:
        """l, s and b at some lambdas, (len(lambdas), elements or 1) each."""
        table, knots = table_of(self), self.lambdas
        if len(knots) == 1:
            rows = table[:, :1].repeat(len(lambdas), axis=1)
        else:
            low = np.clip(np.searchsorted(knots, lambdas), 1, len(knots) - 1) - 1
            steps = np.diff(knots)
            # Cut to [0, 1]: beyond the knots the values of the outermost one hold.
            share = np.clip((lambdas - np.take(knots, low)) / steps[low], 0, 1)[:, None]
            rows = table[:, low] * (1 - share) + table[:, low + 1] * share
        return rows[0], rows[1], rows[2]

    @property
    def foretells(self) -> bool:
        """Whether s or b say anything of f."""
        return bool(table_of(self)[1:].any())


@functools.lru_cache(maxsize=16)
def table_of(known: Statistics) -> Float64s:
    """l, s and b, (3, knots, elements or 1)."""
    rows = [
        np.asarray(values, dtype=np.float64).reshape(len(known.lambdas), -1) for values in (known.l, known.s, known.b)
    ]
    return np.stack(np.broadcast_arrays(*rows))


PLAIN = Statistics(fingerprint="", guidance=1.0, lambdas=(0.0,), l=(1.0,), s=(0.0,), b=(0.0,))
"""l = 1, s = b = 0: f is -x0."""
BENDS = "between the knots of its file; l, s and b bend at them"


def claims_of(known: Statistics | None, *, corrected: bool) -> dict[str, str]:
    """The lines of the report card that do not apply, and why; `corrected`: of order 3, with the corrector."""
    if known and len(known.lambdas) > 2:  # noqa: PLR2004  (both ends)
        return dict.fromkeys(("order", "local order", "last jump"), BENDS)
    return {"local order": "for one of the patterns the leading terms cancel until rounding shows"} if corrected else {}


class Stretch(NamedTuple):
    """A stretch of lambda in pieces, and the points of its integrals."""

    lambdas: Float64s
    """(points,)"""
    half: Float64s
    """Half the length of each piece, (pieces, 1); negative where the stretch goes back."""

    @classmethod
    def of(cls, known: Statistics, start: float, end: float) -> Stretch:
        """From start to end; l, s and b have no bend within a piece."""
        low, high = min(start, end), max(start, end)
        # First at the knots, where the integrands bend, then so short that the quadrature is exact to rounding.
        bends = [low, *(knot for knot in known.lambdas if low < knot < high), high]
        cuts = [low]
        for p, q in itertools.pairwise(bends):
            parts = math.ceil((q - p) / LONGEST)
            cuts += [p + (q - p) * k / parts for k in range(1, parts)] + [q]
        ends = np.array(cuts if start < end else cuts[::-1])
        half = (ends[1:] - ends[:-1])[:, None] / 2
        return cls((ends[:-1, None] + half * (1 + POINTS)).ravel(), half)

    def total(self, values: Float64s) -> Float64s:
        """The integral of (points, elements) from start to end, (elements,)."""
        weights: Float64s = (self.half * WEIGHTS).ravel()
        return weights @ values

    def up_to(self, values: Float64s) -> Float64s:
        """The integral of (points, elements) from the start to each point."""
        pieces = values.reshape(len(self.half), NODES, -1)
        # Within its own piece a point has the integral from the start of that piece; whole pieces before it come on
        # top.
        inside = self.half[:, :, None] * (CUMULATIVE @ pieces)
        whole = self.half * (WEIGHTS @ pieces)
        points: Float64s = inside + (np.cumsum(whole, axis=0) - whole)[:, None]
        return points.reshape(values.shape)


@functools.lru_cache(maxsize=16)
def integrals(known: Statistics, start: float, end: float) -> tuple[Stretch, Float64s, Float64s, Float64s]:
    """The stretch, E at its points, A and the integral of E B; the corrector asks for those of the predictor again."""
    stretch = Stretch.of(known, start, end)
    l, s, b = known.at(stretch.lambdas)  # noqa: E741
    e, a = np.exp(stretch.up_to(l + s)), np.exp(-stretch.total(l))
    # Without s and b nothing is foretold, and the inner integrals vanish.
    if not known.foretells:
        return stretch, e, a, np.zeros_like(a)
    return stretch, e, a, stretch.total(e * stretch.up_to(np.exp(-stretch.up_to(s)) * b))


@functools.lru_cache(maxsize=16)
def from_start(known: Statistics, start: float, place: float) -> tuple[Float64s, Float64s]:
    """(factor, less) with g = factor f - less at a place: exp(-int s) and int exp(-int s) b, from the start to it."""
    if place == start or not known.foretells:
        return np.ones(1), np.zeros(1)
    stretch = Stretch.of(known, start, place)
    _, s, b = known.at(stretch.lambdas)
    return np.exp(-stretch.total(s)), stretch.total(np.exp(-stretch.up_to(s)) * b)


class StepWeights(NamedTuple):
    """x_b = x times the state + constant + the sum over predictions of (x0 weight, eps weight); (elements,) each."""

    x: Float64s
    constant: Float64s
    predictions: list[tuple[Float64s, Float64s]]


def step_weights(known: Statistics, levels: Sequence[Level], b: Level) -> StepWeights:
    """The step from levels[0] to b with a prediction at each of the levels.

    x_b / alpha_b = A (x_a / alpha_a - int E B - sum_i g_i int E L_i) with A = exp(-int l), E = exp(int l + s), and
    L_i(lambda) the polynomial that is 1 at level i and 0 at the others.
    """
    places = [level.lambda_ for level in levels]
    stretch, e, a, constant = integrals(known, places[0], b.lambda_)
    front = b.alpha * a
    constant, weights = -front * constant, []
    shares, _, _ = known.at(np.array(places))
    for i, (level, place, share) in enumerate(zip(levels, places, shares, strict=True)):
        # E times the polynomial that is 1 at this level and 0 at the others.
        lagrange = e
        for other in (*places[:i], *places[i + 1 :]):
            lagrange = lagrange * ((stretch.lambdas - other) / (place - other))[:, None]
        weight = front * stretch.total(lagrange)
        factor, less = from_start(known, places[0], place)
        constant = constant + weight * less
        # f = (sigma eps - l x) / alpha = (1 - l) sigma / alpha eps - l x0.
        weights.append((weight * factor * share, -weight * factor * (1 - share) * level.sigma_ve))
    return StepWeights(front / levels[0].alpha, constant, weights)


def take_step(known: Statistics, x: Tensor, b: Level, predictions: Sequence[Prediction]) -> Tensor:
    """x, taken to b from the level of the first prediction."""
    weights = step_weights(known, [said.level for said in predictions], b)

    def like_x(values: Float64s) -> Tensor | float:
        # One number for the whole state, or one for each of its elements.
        return float(values[0]) if len(values) == 1 else x.new_tensor(values).reshape(x.shape[1:])

    x = like_x(weights.x) * x + like_x(weights.constant)
    for said, (of_x0, of_eps) in zip(predictions, weights.predictions, strict=True):
        x = x + like_x(of_x0) * said.x0 + (like_x(of_eps) * said.eps if of_eps.any() else 0.0)
    return x

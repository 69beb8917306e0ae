"""The file of `epd`: where in each interval the network is asked, what it is told, and what each answer weighs."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...samplers.learned import MadeFor
from ...samplers.level import Level
from ...samplers.sampler import StepContext

Rows = tuple[tuple[float, ...], ...]


class Points(MadeFor, frozen=True, kw_only=True):
    """The content of a file: a row for each interval but the last, which is an Euler step."""

    steps: int
    places: Rows
    """Where the points lie: 0 = the start of the interval, 1 = its end, even in lambda."""
    weights: Rows
    """The weights of the answers; their sum times the interval's length is how far the step goes along their mean."""
    asked: Rows = ()
    """The times that the network is told in place of those of the points."""

    def __post_init__(self) -> None:
        """ValueError where the parts do not belong together."""
        rows = {"places": self.places, "weights": self.weights, "asked": self.asked}
        self.check_lengths(per_step=-1, **rows)
        if len(self.places) != len(self.weights):
            raise ValueError(f"weights: {len(self.weights)} rows; expected {len(self.places)}, as of places")
        for name, entries in rows.items():
            if any(len(row) != len(place) or not row for row, place in zip(entries, self.places, strict=False)):
                raise ValueError(f"{name}: expected as many numbers in a row as there are points, at least one")
        if not all(0 < place < 1 for row in self.places for place in row):
            raise ValueError("places: expected numbers between 0 and 1")


def points_in(  # noqa: PLR0913  (a step's, and two of the sampler)
    known: Points | None, count: int, run: StepContext, a: Level, b: Level, told: Callable[[StepContext, float], Level]
) -> list[tuple[float, Level, Level | None]]:
    """(weight, level, level that the network is told) of each point in an interval; [] where there is none."""
    h = b.lambda_ - a.lambda_
    if known and math.isfinite(h):
        i = run.i
        asked = [told(run, t) for t in known.asked[i]] if known.asked else [None] * len(known.places[i])
        levels = [run.at(a.lambda_ + h * place) for place in known.places[i]]
        return list(zip(known.weights[i], levels, asked, strict=True))
    # Of 2 count - 1 even places every other one: for two points a quarter and three quarters of the interval.
    inner = run.between(a, b, 2 * count - 1)[::2]
    if not inner:
        return []
    (first, *_), (last, *_) = inner[0], inner[-1]
    # Together they must be the slope at the middle: w_1 + w_2 = 1 and w_1 r_1 + w_2 r_2 = 1/2.
    share = (0.5 - first) / (last - first) if last > first else 0.0
    return [(weight, level, None) for weight, (_, level) in zip((1 - share, share), inner, strict=False)]

"""Grids: schedule + number of steps -> the noise levels of a run.

A run of S steps has S noisy levels, strictly cleaner one after the other, and the clean end: S intervals.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from .errors import InputError
from .level import Level
from .schedule import VP, Float64s, Schedule

Levels = tuple[Level, ...]
"""The levels of a run, noisiest first, the clean end last."""
NEAR = 0.05
"""How far, relative to sigma / alpha, rounding to whole timesteps may move a level before a note says so."""
LOW_START = 0.02
"""A list of levels may start from pure noise up to this alpha / sigma. On the embedded model a start at 0.016 moves
neither FID nor CLIP score of 512 images beyond its interval; at 0.04 FID is a third higher."""
LOWER_START = 2.0
"""Where it is more, a list may start up to this many times the alpha / sigma at which its schedule starts: published
tools start Stable Diffusion anywhere between timesteps 999 and 901, at 0.068 to 0.119."""


@dataclass(frozen=True)
class Grid(ABC):
    """A named way to place the levels; its options are its fields."""

    @abstractmethod
    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """`steps` >= 2 descending times of the schedule, the clean end left out.

        Whole timesteps may repeat: a repeated one moves to the nearest free timestep. A grid that asks about the model
        has a third argument, `model=None`, and gets the model of the run; its network evaluations are reported apart.
        """

    def level(self, schedule: Schedule, t: float) -> Level:
        """The level at one of these times."""
        return schedule.at_time(t)


@dataclass(frozen=True)
class SigmaGrid(Grid):
    """A grid that is laid out in sigma / alpha, from the schedule's noisiest level to its last noisy one.

    On a schedule that starts at alpha = 0 (zero terminal SNR) it starts at sigma / alpha = 4096, as published samplers
    do: see `schedule.LEAST_ALPHA`.
    """

    name: ClassVar[str]

    @abstractmethod
    def sigmas_ve(self, first: float, last: float, steps: int) -> Float64s:
        """(steps,) descending values of sigma / alpha, from `first` to `last` or somewhat above it."""

    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """Descending times; where the grid reaches an end of the schedule, exactly the schedule's own time.

        InputError where sigma / alpha is infinite at the start, as in a flow.
        """
        # No value is a given share of the way from infinity, so these grids cannot place a second level there.
        noisiest, last = schedule.noisiest, schedule.last
        if math.isinf(noisiest.sigma_ve):
            raise InputError(
                f"grid {self.name!r}: sigma / alpha is infinite where this schedule starts (alpha = 0); "
                "use the grid 'uniform' or a list of levels"
            )

        def time(sigma_ve: float) -> float:
            # Through exp and log the last time would differ in its last digits, and could lie outside the schedule.
            is_last = math.isclose(sigma_ve, last.sigma_ve, rel_tol=1e-9)
            return last.t if is_last else schedule.at_sigma_ve(sigma_ve).t

        # The first value is not converted but replaced by the schedule's own first level.
        below = self.sigmas_ve(noisiest.sigma_ve, last.sigma_ve, steps)[1:]
        return [noisiest.t, *(time(float(sigma_ve)) for sigma_ve in below)]

    def level(self, schedule: Schedule, t: float) -> Level:
        """The level at one of these times, with a finite sigma / alpha."""
        return schedule.finite_at(t)


def asks_model(grid: Grid) -> bool:
    """Whether `times` takes the model."""
    # By its parameter: a grid with two arguments works as it stands.
    return "model" in inspect.signature(grid.times).parameters


def levels_on(
    grid: Grid, schedule: Schedule, steps: int, *, integer: bool = False, model: object | None = None
) -> Levels:
    """The levels of `steps` intervals on a named grid; one step starts at the noisiest level on every grid.

    With `integer` the times are rounded to whole timesteps, for a network that knows no others. `model` is for a grid
    that asks about it.
    """
    asked = {"model": model} if asks_model(grid) else {}
    # `Grid.times` places two levels or more: with one, most grids would not know which end to take.
    times = [schedule.first.t] if steps == 1 else [float(t) for t in grid.times(schedule, steps, **asked)]
    # Rounding may make two times equal, and a step needs two different levels.
    if isinstance(schedule, VP):
        if integer:
            times = [float(round(t)) for t in times]
        # For a network that knows fractions too: a grid of whole timesteps has the same levels for both.
        if all(t.is_integer() for t in times):
            times = spread_duplicates([int(t) for t in times], schedule.timesteps)
    # A single level is the schedule's own, also where a grid would make its sigma / alpha finite.
    return levels_at(times, schedule, grid if steps > 1 else None)


def levels_at(times: Iterable[float], schedule: Schedule, grid: Grid | None = None) -> Levels:
    """The levels at a descending list of times (VP: timesteps; EDM and flow: sigmas), then the clean end.

    `grid` placed the times; None = the user listed them.
    """
    try:
        noisy = [grid.level(schedule, t) if grid else schedule.at_time(t) for t in times]
    except ValueError as error:
        raise InputError(f"grid: {error}") from error
    if not noisy:
        raise InputError("grid []: expected at least one level")
    for a, b in pairwise(noisy):  # equal levels too are refused: a step between them would divide by 0
        if not b.sigma_ve < a.sigma_ve:
            raise InputError(f"grid: {b.t:g} after {a.t:g}; expected strictly descending levels")
    return (*noisy, schedule.clean)


def lists_levels(spec: str) -> bool:
    """Whether a text is a list of levels, "900/500/20"; a path may stand among the options of "name:option=path"."""
    return "/" in spec and ":" not in spec


def spread_duplicates(timesteps: Sequence[int], total: int) -> list[float]:
    """Move each repeated timestep to the nearest free one in 0 ... total-1, of two to the noisier; descending."""
    if len(timesteps) > total:
        raise InputError(f"steps {len(timesteps)}: the model has {total} timesteps; expected at most that many")
    # One of each repeated timestep stays; `spare` are the others, the cleanest first.
    taken = set(timesteps)
    spare = sorted(timesteps)
    for t in taken:
        spare.remove(t)
    for t in spare:
        # The nearest first, and of two equally near the noisier.
        near = (place for d in range(1, total) for place in (t + d, t - d))
        taken.add(next(place for place in near if 0 <= place < total and place not in taken))
    return [float(t) for t in sorted(taken, reverse=True)]


def listed_times(grid: str | Iterable[float] | None) -> Sequence[str | float] | None:
    """The times of a grid that is given as a list or as a text such as "900/500/20"; None for a name."""
    if isinstance(grid, str):
        return grid.split("/") if lists_levels(grid) else None
    return None if grid is None else list(grid)


def rounding_note(levels: Levels, exact: Levels) -> str:
    """How far rounding to whole timesteps moved a grid, by its farthest level; '' where all are within `NEAR`.

    `exact` are the levels of the grid for a network that knows fractional timesteps. sigma / alpha is compared, because
    the steps of a solver depend on it.
    """

    def apart(pair: tuple[Level, Level]) -> float:
        return abs(pair[0].lambda_ - pair[1].lambda_)

    # A ratio of sigma / alpha is a difference in lambda.
    pairs = [(a, b) for a, b in zip(levels, exact, strict=True) if a.lambda_ != b.lambda_]
    if not pairs or apart(farthest := max(pairs, key=apart)) <= math.log1p(NEAR):
        return ""
    has, wanted = (level.sigma_ve for level in farthest)
    return f"was moved to whole timesteps: sigma/alpha {has:.5g} where the grid has {wanted:.5g}"


def start_note(levels: Levels, schedule: Schedule) -> str:
    """What is missing where a list starts from pure noise at a level that has signal; '' where little is missing.

    A run starts from sigma eps, but the state at a level is alpha x0 + sigma eps: alpha x0 is missing. alpha / sigma is
    its size, in deviations of the noise for each deviation of the data. It matters above `LOW_START`, and above
    `LOWER_START` times what the schedule's own start leaves out.
    """
    # exp(lambda) = alpha / sigma.
    first, own = levels[0], schedule.first
    missing, accepted = math.exp(first.lambda_), max(LOW_START, LOWER_START * math.exp(own.lambda_))
    if missing <= accepted:
        return ""
    return f"starts from noise only, where a sample has alpha/sigma {missing:.2g} (up to {accepted:.2g} goes unnoticed)"


def start_fix(levels: Levels, schedule: Schedule) -> str:
    """What to do about a `start_note`."""
    first = levels[0]
    return (
        f"start near {schedule.first.t:g}, or from Python give x_init = alpha x0 + sigma eps, with alpha "
        f"{first.alpha:.4g} and sigma {first.sigma:.4g}"
    )

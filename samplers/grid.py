"""Grids: schedule + number of steps -> the noise levels of a run.

A run of S steps has S noisy levels, strictly cleaner one after the other, and the clean end: S intervals.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .errors import InputError
from .level import Level
from .schedule import VP, Schedule

Levels = tuple[Level, ...]
"""The levels of a run, noisiest first, the clean end last."""


@dataclass(frozen=True)
class Grid(ABC):
    """A named way to place the levels; its options are its fields."""

    @abstractmethod
    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """`steps` >= 2 descending times of the schedule, the clean end left out.

        Whole timesteps may repeat: a repeated one moves to the nearest free timestep.
        """


def levels_on(grid: Grid, schedule: Schedule, steps: int, *, integer: bool = False) -> Levels:
    """The levels of `steps` intervals on a named grid; one step starts at the noisiest level on every grid.

    With `integer` the times are rounded to whole timesteps, for a network that knows no others.
    """
    times = [schedule.first.t] if steps == 1 else [float(t) for t in grid.times(schedule, steps)]
    if isinstance(schedule, VP):
        if integer:
            times = [float(round(t)) for t in times]
        if all(t.is_integer() for t in times):
            times = spread_duplicates([int(t) for t in times], schedule.timesteps)
    return levels_at(times, schedule)


def levels_at(times: Iterable[float], schedule: Schedule) -> Levels:
    """The levels at a descending list of times (VP: timesteps; EDM and flow: sigmas), then the clean end."""
    try:
        noisy = [schedule.at_time(t) for t in times]
    except ValueError as error:
        raise InputError(f"grid: {error}") from error
    if not noisy:
        raise InputError("grid []: expected at least one level")
    for a, b in pairwise(noisy):
        if not b.sigma_ve < a.sigma_ve:
            raise InputError(f"grid: {b.t:g} after {a.t:g}; expected strictly descending levels")
    return (*noisy, schedule.clean)


def spread_duplicates(timesteps: Sequence[int], total: int) -> list[float]:
    """Descending timesteps in 0 ... total-1, each repeated one moved to the nearest free, the noisier if two are."""
    if len(timesteps) > total:
        raise InputError(f"steps {len(timesteps)}: the model has {total} timesteps; expected at most that many")
    taken = set(timesteps)
    spare = sorted(timesteps)
    for t in taken:
        spare.remove(t)
    for t in spare:
        near = (place for d in range(1, total) for place in (t + d, t - d))
        taken.add(next(place for place in near if 0 <= place < total and place not in taken))
    return [float(t) for t in sorted(taken, reverse=True)]


def finite_sigma_ve(schedule: Schedule, name: str) -> tuple[float, float]:
    """sigma / alpha of the noisiest and of the cleanest level, for grids that are laid out in it."""
    first, last = schedule.first.sigma_ve, schedule.last.sigma_ve
    if math.isinf(first):
        raise InputError(
            f"grid {name!r}: sigma / alpha is infinite where this schedule starts (alpha = 0); "
            "use the grid 'uniform' or a list of levels"
        )
    return first, last

"""The times of Stable Diffusion 3 as they are often published: its shift applied twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...samplers.errors import InputError
from ...samplers.grid import Grid
from ...samplers.registry import hookimpl
from ...samplers.schedule import Flow, Schedule
from .grids import Shift


@dataclass(frozen=True)
class ShiftTwice(Grid):
    """Flow only: evenly spaced from 1 to the last trained time, which is shifted already; then all are shifted again.

    diffusers' FlowMatchEulerDiscreteScheduler places its times so if its `shift` does not depend on the image's size:
    it divides the range of its shifted table evenly, and shifts the result. With factor 3 and 1000 timesteps the
    last noisy time is 0.00893, where `shift:factor=3,last=0.001`, which shifts once, has 0.00299. Use it to
    reproduce numbers that were published with it.
    """

    factor: float = 3.0
    """The factor by which each of the two shifts multiplies sigma / alpha."""
    timesteps: int = 1000
    """Timesteps of the training: the last noisy time, before both shifts, is 1 / timesteps."""

    def __post_init__(self) -> None:
        """Check the options."""
        if not 0 < self.factor < math.inf:
            raise InputError(f"grid option factor {self.factor}: expected a positive number")
        if self.timesteps < 2:  # noqa: PLR2004  (1 / 1 would be where the times begin)
            raise InputError(f"grid option timesteps {self.timesteps}: expected a whole number from 2 up")

    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """Descending times."""
        if not isinstance(schedule, Flow):
            raise InputError(
                f"grid 'shift-twice': for flow times, and this schedule has none; use {schedule.default_grid!r}, its "
                "default"
            )
        # The last time of the table, shifted once; the even times down to it are then shifted as a whole.
        _, shifted_last = Shift(self.factor, last=1 / self.timesteps).times(schedule, 2)
        return Shift(self.factor, last=shifted_last).times(schedule, steps)


@hookimpl
def samplerbench_grids() -> dict[str, type[Grid]]:
    """The grid of this file."""
    return {"shift-twice": ShiftTwice}

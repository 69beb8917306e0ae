"""my-grid, a grid for samplerbench: where the noise levels of a run lie. Say here which paper and which equation it is.

What stands below works: a power of time, which crowds the levels at the clean end. Put your formula in its place.

    samplerbench run --grid my-grid -s ddim -s dpm-solver++ --steps 5,10,20 --model mixture --plugin my_grid.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from samplerbench import Grid, Schedule, hookimpl

samplerbench_api = 1  # the version of the interface that this file is written for


@dataclass(frozen=True)
class MyGrid(Grid):
    """t_i = w_i t_first + (1 - w_i) t_last with w_i = (1 - i / (S - 1))^power, for i = 0 ... S - 1."""

    # An option is a field with a type (int, float, bool, str or Literal) and a default; this one is given as
    # `--grid my-grid:power=3`. Raise ValueError in __post_init__ for an invalid value, and say what is valid.
    power: float = 2.0
    """How strongly the levels crowd at the clean end; 1 = even in time."""

    def __post_init__(self) -> None:
        """Check the option."""
        if self.power <= 0:
            raise ValueError(f"power {self.power}: expected a positive number")

    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """The `steps` noisy times, at least 2, strictly descending. The clean end is added after the last.

        A time is a timestep from T-1 down to 0 for a VP schedule, sigma for EDM, the flow time (1 = noise) for flow.
        """
        # `schedule.first` and `schedule.last` are levels: besides t they have alpha, sigma, sigma_ve = sigma / alpha
        # and lambda_ = log(alpha / sigma). A formula in one of these asks the schedule for the time that belongs to a
        # value: `schedule.at_sigma_ve(...).t`, `schedule.at_lambda(...).t`.
        first, last = schedule.first.t, schedule.last.t
        weights = [(1 - i / (steps - 1)) ** self.power for i in range(steps)]

        # Timesteps need not be whole: for a network that knows only whole ones they are rounded afterwards.
        return [w * first + (1 - w) * last for w in weights]


@hookimpl
def samplerbench_grids() -> dict[str, type[Grid]]:
    """What this file adds, by name."""
    return {"my-grid": MyGrid}

"""The grids that need no table. T is the number of timesteps of a VP schedule, S the number of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..samplers.errors import InputError
from ..samplers.grid import Grid, finite_sigma_ve
from ..samplers.registry import hookimpl
from ..samplers.schedule import VP, Flow, Schedule


def _timesteps(schedule: Schedule, name: str) -> int:
    """T, or an error that names a grid for the other schedules."""
    if not isinstance(schedule, VP):
        raise InputError(
            f"grid {name!r}: counts timesteps, and this schedule has none; use {schedule.default_grid!r}, its default"
        )
    return schedule.timesteps


@dataclass(frozen=True)
class Uniform(Grid):
    """Even in time: round(linspace(T-1, 0, S)); even in sigma for EDM; 1 - i/S for flow, whose end is clean."""

    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """Descending times."""
        if isinstance(schedule, Flow):
            return [1 - i / steps for i in range(steps)]
        times = np.linspace(schedule.first.t, schedule.last.t, steps)
        return [float(t) for t in (times.round() if isinstance(schedule, VP) else times)]


@dataclass(frozen=True)
class Leading(Grid):
    """floor((S-1-i) T/S): each interval's own start, so the noisiest timesteps are left out."""

    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """Descending timesteps."""
        total = _timesteps(schedule, "leading")
        return [(steps - 1 - i) * total // steps for i in range(steps)]


@dataclass(frozen=True)
class Trailing(Grid):
    """round(T - i T/S) - 1: starts at the noisiest timestep and stops short of the cleanest (Lin et al. 2024)."""

    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """Descending timesteps."""
        total = _timesteps(schedule, "trailing")
        return [round(total - i * total / steps) - 1 for i in range(steps)]


@dataclass(frozen=True)
class Quadratic(Grid):
    """floor(linspace(sqrt(0.8 T), 0, S)^2): dense at the clean end (Song et al. 2021a, appendix D.2)."""

    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """Descending timesteps."""
        total = _timesteps(schedule, "quadratic")
        return [float(t) for t in np.floor(np.linspace(math.sqrt(0.8 * total), 0, steps) ** 2)]


@dataclass(frozen=True)
class LogSNR(Grid):
    """Even in lambda = log(alpha / sigma), with fractional timesteps (Lu et al. 2022a, section 3.4)."""

    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """Descending times."""
        first, last = finite_sigma_ve(schedule, "logsnr")
        return _times_at(schedule, np.exp(np.linspace(math.log(first), math.log(last), steps)))


@dataclass(frozen=True)
class Karras(Grid):
    """Even in (sigma / alpha)^(1 / rho) (Karras et al. 2022, equation 5)."""

    rho: float = 7.0

    def __post_init__(self) -> None:
        """Check the option."""
        if not 0 < self.rho < math.inf:
            raise InputError(f"grid option rho {self.rho}: expected a positive number")

    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """Descending times."""
        first, last = finite_sigma_ve(schedule, "karras")
        roots = np.linspace(first ** (1 / self.rho), last ** (1 / self.rho), steps)
        return _times_at(schedule, roots**self.rho)


def _times_at(schedule: Schedule, sigmas_ve: npt.NDArray[np.float64]) -> list[float]:
    """The times of these sigma / alpha, with both ends the schedule's own to the last digit."""
    inner = [schedule.at_sigma_ve(float(s)).t for s in sigmas_ve[1:-1]]
    return [schedule.first.t, *inner, schedule.last.t]


@hookimpl
def samplerbench_grids() -> dict[str, type[Grid]]:
    """The grids of this file; linspace is another name of uniform, exponential of logsnr."""
    return {
        "uniform": Uniform,
        "linspace": Uniform,
        "leading": Leading,
        "trailing": Trailing,
        "quadratic": Quadratic,
        "logsnr": LogSNR,
        "exponential": LogSNR,
        "karras": Karras,
    }

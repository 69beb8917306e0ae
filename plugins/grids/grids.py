"""The grids. T is the number of timesteps of a VP schedule, S the number of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ...samplers.errors import InputError
from ...samplers.grid import Grid, SigmaGrid
from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.schedule import VP, Float64s, Flow, Schedule


def _timesteps(schedule: Schedule, name: str) -> int:
    """T; for other schedules an error that names their grid."""
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
        # To 1/S, since t = 0 is clean already and is appended.
        if isinstance(schedule, Flow):
            return [1 - i / steps for i in range(steps)]
        times = np.linspace(schedule.first.t, schedule.last.t, steps)
        return [float(t) for t in (times.round() if isinstance(schedule, VP) else times)]


@dataclass(frozen=True)
class Shift(Grid):
    """Flow only: even in time, then t -> factor t / (1 + (factor - 1) t) (Esser et al. 2024, equation 23)."""

    factor: float = 3.0
    """The factor of sigma / alpha; models of large images use large factors, 1 = even in time."""
    last: float = 0.0
    """The last noisy time, before the shift; 0 = 1/S, so that all intervals are equal."""

    def __post_init__(self) -> None:
        """Check the options."""
        if not 0 < self.factor < math.inf:
            raise InputError(f"grid option factor {self.factor}: expected a positive number")
        if not 0 <= self.last < 1:
            raise InputError(f"grid option last {self.last}: expected a number from 0 up and below 1")

    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """Descending times."""
        if not isinstance(schedule, Flow):
            raise InputError(
                f"grid 'shift': for flow times, and this schedule has none; use {schedule.default_grid!r}, its default"
            )
        # To 1/S and not to 0, which is the clean end itself.
        even = np.linspace(1, self.last or 1 / steps, steps)
        # Esser et al. (2024): t' = s t / (1 + (s - 1) t), which keeps 0 and 1 in place.
        return [float(t) for t in self.factor * even / (1 + (self.factor - 1) * even)]


@dataclass(frozen=True)
class Leading(Grid):
    """floor((S-1-i) T/S): each interval's own start, so the noisiest timesteps are left out."""

    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """Descending timesteps."""
        # In whole numbers: a quotient of floats could fall below the whole number that it is.
        total = _timesteps(schedule, "leading")
        return [(steps - 1 - i) * total // steps for i in range(steps)]


@dataclass(frozen=True)
class Trailing(Grid):
    """round(T - i T/S) - 1: starts at the noisiest timestep and stops short of the cleanest (Lin et al. 2024)."""

    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """Descending timesteps."""
        total = _timesteps(schedule, "trailing")
        # Counted back from T, so that the noisiest timestep is always among them.
        return [round(total - i * total / steps) - 1 for i in range(steps)]


@dataclass(frozen=True)
class Quadratic(Grid):
    """floor(linspace(sqrt(0.8 T), 0, S)^2): dense at the clean end (Song et al. 2021a, appendix D.2)."""

    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """Descending timesteps."""
        total = _timesteps(schedule, "quadratic")
        # 0.8 is the authors': the noisiest fifth of the timesteps is left out.
        return [float(t) for t in np.floor(np.linspace(math.sqrt(0.8 * total), 0, steps) ** 2)]


@dataclass(frozen=True)
class LogSNR(SigmaGrid):
    """Even in lambda = log(alpha / sigma), with fractional timesteps (Lu et al. 2022a, section 3.4)."""

    name: ClassVar[str] = "logsnr"

    def sigmas_ve(self, first: float, last: float, steps: int) -> Float64s:
        """Descending values of sigma / alpha."""
        # Even in lambda = -log sigma, as in DPM-Solver.
        return np.exp(np.linspace(math.log(first), math.log(last), steps))


@dataclass(frozen=True)
class Karras(SigmaGrid):
    """Even in (sigma / alpha)^(1 / rho) (Karras et al. 2022, equation 5).

    From sigma / alpha of timestep T-1 to that of timestep 0. Some published samplers end at the cleanest timestep of an
    evenly spaced grid instead, which is noisier.
    """

    name: ClassVar[str] = "karras"
    rho: float = 7.0

    def __post_init__(self) -> None:
        """Check the option."""
        if not 0 < self.rho < math.inf:
            raise InputError(f"grid option rho {self.rho}: expected a positive number")

    def sigmas_ve(self, first: float, last: float, steps: int) -> Float64s:
        """Descending values of sigma / alpha."""
        # Karras et al. (2022), eq. 5.
        roots: Float64s = np.linspace(first ** (1 / self.rho), last ** (1 / self.rho), steps)
        return roots**self.rho


@dataclass(frozen=True)
class Polyexponential(SigmaGrid):
    """Even in log(sigma / alpha)^(1 / rho), from 0 at the clean end (Crowson, k-diffusion); rho = 1 is `logsnr`."""

    name: ClassVar[str] = "polyexponential"
    rho: float = 1.0

    def __post_init__(self) -> None:
        """Check the option."""
        if not 0 < self.rho < math.inf:
            raise InputError(f"grid option rho {self.rho}: expected a positive number")

    def sigmas_ve(self, first: float, last: float, steps: int) -> Float64s:
        """Descending values of sigma / alpha."""
        # log(sigma / alpha) from its last value up, at the shares 1 to 0.
        shares: Float64s = np.linspace(1, 0, steps) ** self.rho
        return last * (first / last) ** shares


@dataclass(frozen=True)
class Beta(SigmaGrid):
    """Quantiles of a Beta distribution: dense at both ends (Lee et al. 2024, "Beta Sampling is All You Need")."""

    name: ClassVar[str] = "beta"
    alpha: float = 0.6
    beta: float = 0.6
    variable: Literal["sigma", "t"] = "sigma"
    """What the quantiles divide: sigma / alpha, or time as in the paper."""

    most = 10  # the series of the distribution function converges up to here

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("alpha", "beta"):
            if not 0 < (value := getattr(self, name)) <= self.most:
                raise InputError(f"grid option {name} {value}: expected a number above 0, at most {self.most}")

    def times(self, schedule: Schedule, steps: int) -> Sequence[float]:
        """Descending times; with variable=t also on a schedule where sigma / alpha is infinite."""
        if self.variable == "sigma":
            return super().times(schedule, steps)
        share = self._shares(steps)
        return [float(t) for t in schedule.last.t + share * (schedule.first.t - schedule.last.t)]

    def sigmas_ve(self, first: float, last: float, steps: int) -> Float64s:
        """Descending values of sigma / alpha."""
        return last + self._shares(steps) * (first - last)

    def level(self, schedule: Schedule, t: float) -> Level:
        """The level at one of these times; with variable=t it may have alpha = 0."""
        return super().level(schedule, t) if self.variable == "sigma" else schedule.at_time(t)

    def _shares(self, steps: int) -> Float64s:
        return beta_quantiles(np.linspace(1, 0, steps), self.alpha, self.beta)


def beta_quantiles(p: Float64s, a: float, b: float) -> Float64s:
    """The x with I_x(a, b) = p, by bisection, where I is the distribution function of Beta(a, b)."""
    low, high = np.zeros_like(p), np.ones_like(p)
    for _ in range(60):  # halvings: float64 has 53 binary digits
        middle = (low + high) / 2
        below = beta_distribution(middle, a, b) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    # At 0 and 1 exactly: bisection would stop one unit short.
    return np.where((p > 0) & (p < 1), high, p)


def beta_distribution(x: Float64s, a: float, b: float) -> Float64s:
    """I_x(a, b), by the power series of the incomplete beta function at the end that is nearer."""

    def series(x: Float64s, a: float, b: float) -> Float64s:
        n = np.arange(100)
        # The binomial series of (1 - x)^(b - 1), integrated term by term.
        c = np.cumprod(np.concatenate([[1.0], (n[1:] - b) / n[1:]])) / (a + n)
        total: Float64s = x**a * (c * x[:, None] ** n).sum(1)
        return total

    whole = math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))
    # Each side from its own end: up to 1/2 a hundred terms are exact to float64.
    left, right = series(np.minimum(x, 0.5), a, b), series(np.minimum(1 - x, 0.5), b, a)
    return np.where(x <= 1 / 2, left, whole - right) / whole


@dataclass(frozen=True)
class Cosine(SigmaGrid):
    """Even in the angle phi with tan phi = sigma / alpha: even in time of a cosine schedule (Salimans and Ho 2022)."""

    name: ClassVar[str] = "cosine"

    def sigmas_ve(self, first: float, last: float, steps: int) -> Float64s:
        """Descending values of sigma / alpha."""
        # alpha = cos and sigma = sin of an even angle, whose ratio is the tangent.
        return np.tan(np.linspace(math.atan(first), math.atan(last), steps))


@dataclass(frozen=True)
class AlignYourSteps(SigmaGrid):
    """The published levels of ten steps, between them log-linear (Sabour et al. 2024, appendix B.3, table 3).

    The eleven levels are taken at S + 1 even places, of which the last is the clean end. They are moved so that
    log(sigma / alpha) covers the schedule's own range, which is no change on the schedule that they were made for.
    """

    name: ClassVar[str] = "ays"
    model: Literal["sd15", "sdxl", "if", "svd"] = "sd15"
    """What they were optimised for: Stable Diffusion 1.5, XL, DeepFloyd-IF (first stage), Stable Video Diffusion."""

    def sigmas_ve(self, first: float, last: float, steps: int) -> Float64s:
        """Descending values of sigma / alpha."""
        # Interpolated in log sigma, as the authors do, and stretched to the range of this schedule.
        published = np.log(ALIGNED[self.model])
        shares = (published - published[-1]) / (published[0] - published[-1])
        even = np.linspace(0, len(shares) - 1, steps + 1)[:-1]
        inner: Float64s = np.interp(even, np.arange(len(shares)), shares)
        return last * (first / last) ** inner


ALIGNED = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "if": (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""sigma / alpha of the eleven levels."""


@hookimpl
def samplerbench_grids() -> dict[str, type[Grid]]:
    """The grids of this file; linspace is another name of uniform, exponential of logsnr."""
    return {
        "uniform": Uniform,
        "shift": Shift,
        "linspace": Uniform,
        "leading": Leading,
        "trailing": Trailing,
        "quadratic": Quadratic,
        "logsnr": LogSNR,
        "exponential": LogSNR,
        "karras": Karras,
        "polyexponential": Polyexponential,
        "beta": Beta,
        "cosine": Cosine,
        "ays": AlignYourSteps,
    }

"""Noise schedules: alpha and sigma at a time t, and the time at a given lambda.

Each schedule converts both ways, in float64. Grids, samplers and models use nothing else of it.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .errors import InputError, quote
from .level import Level
from .options import check_count, is_number

Float64s = npt.NDArray[np.float64]
MOST_TIMESTEPS = 1_000_000
"""A table of more timesteps is a mistake."""
LEAST_ALPHA = 2.0**-12
"""The alpha at which grids laid out in sigma / alpha start on a schedule that starts at alpha = 0.

sigma / alpha is 4096 there. Published samplers replace abar = 0 by 2^-24, the least positive number of half
precision.
"""


class Schedule(ABC):
    """t -> Level and lambda -> Level."""

    default_grid: str
    """The grid that is commonly used with this schedule."""

    @property
    @abstractmethod
    def first(self) -> Level:
        """The noisiest level, where sampling starts."""

    @property
    def noisiest(self) -> Level:
        """The level where grids laid out in sigma / alpha start: `first`, unless alpha = 0 there (see `VP`)."""
        return self.first

    @property
    @abstractmethod
    def last(self) -> Level:
        """The cleanest level with noise, where most grids have their last network call."""

    @property
    @abstractmethod
    def clean(self) -> Level:
        """The end of every grid: sigma = 0."""

    @abstractmethod
    def at_time(self, t: float) -> Level:
        """The level at time t."""

    def finite_at(self, t: float) -> Level:
        """The level at time t; `VP` gives a small alpha in place of 0, so that sigma / alpha is finite."""
        return self.at_time(t)

    @abstractmethod
    def at_lambda(self, lambda_: float) -> Level:
        """The level with log(alpha / sigma) = lambda_."""

    def at_sigma_ve(self, sigma_ve: float) -> Level:
        """The level with sigma / alpha = sigma_ve > 0."""
        return self.at_lambda(-math.log(sigma_ve))

    def prior_scale(self, first: Level) -> float:
        """Standard deviation of the state with which sampling starts at the level `first`."""
        return 1.0


@dataclass(frozen=True)
class VP(Schedule):
    """Variance preserving, alpha^2 + sigma^2 = 1, over T discrete timesteps 0 ... T-1 (Ho et al. 2020).

    Between timesteps log alpha is linear in t (Lu et al. 2022a, appendix D). alpha = 0 is accepted at the last
    timestep only (zero terminal SNR). Between T-2 and T-1 alpha then falls to `LEAST_ALPHA`, or to half the alpha of
    T-2 if that is as small already, so that every time below T-1 has a finite sigma / alpha.
    """

    alphas_cumprod: tuple[float, ...]
    """abar_t = product of (1 - beta) up to t: strictly decreasing, in [0, 1)."""
    _log_alpha: Float64s = field(init=False, repr=False, compare=False)
    default_grid = "uniform"

    def __post_init__(self) -> None:
        """Check the table and store its logarithm."""
        abar = np.asarray(self.alphas_cumprod, dtype=np.float64)
        ok = abar.ndim == 1 and abar.size > 0 and np.isfinite(abar).all()
        # Strictly decreasing, so that lambda has one time; below 1, so that the last level has noise.
        if not (ok and abar[0] < 1 and abar[-1] >= 0 and (np.diff(abar) < 0).all()):
            raise ValueError("alphas_cumprod: expected a list of strictly decreasing numbers, below 1 and not negative")
        # The stored logarithm must be finite; `at_time` gives alpha = 0 back at T-1 itself.
        if abar[-1] == 0:
            before = abar[-2] if abar.size > 1 else 1.0
            abar[-1] = LEAST_ALPHA**2 if before > LEAST_ALPHA**2 else before / 4
        object.__setattr__(self, "_log_alpha", 0.5 * np.log(abar))

    # Kept, because samplers with levels between those of the grid search these tables in each step.
    @functools.cached_property
    def _times(self) -> Float64s:
        return np.arange(self.timesteps, dtype=np.float64)

    @functools.cached_property
    def _ascending(self) -> tuple[Float64s, Float64s]:
        """log alpha from the noisiest to the cleanest timestep, and their times."""
        return self._log_alpha[::-1].copy(), self._times[::-1].copy()

    @property
    def timesteps(self) -> int:
        """T, the number of timesteps that the model was trained on."""
        return len(self.alphas_cumprod)

    @property
    def first(self) -> Level:
        """Timestep T-1."""
        return self.at_time(self.timesteps - 1)

    @property
    def noisiest(self) -> Level:
        """`first`; if alpha = 0 there, the level with alpha = `LEAST_ALPHA`, at T-1 or just below it."""
        # Else the noisiest level at which lambda is still finite, for grids that are even in it.
        if self.alphas_cumprod[-1]:
            return self.first
        return self.finite_at(float(np.interp(math.log(LEAST_ALPHA), *self._ascending)))

    @property
    def last(self) -> Level:
        """Timestep 0."""
        return self.at_time(0)

    @property
    def clean(self) -> Level:
        """alpha = 1, sigma = 0; it has no timestep."""
        return Level(1.0, 0.0, math.nan)

    def at_time(self, t: float) -> Level:
        """The level at timestep t in [0, T-1], whole or fractional."""
        level = self.finite_at(t)
        # The stored logarithm belongs to a small alpha in place of 0; here T-1 gets its alpha = 0 back.
        is_capped = t == self.timesteps - 1 and self.alphas_cumprod[-1] == 0
        return Level(0.0, 1.0, level.t) if is_capped else level

    def finite_at(self, t: float) -> Level:
        """The level at timestep t, with a small alpha in place of 0 at T-1."""
        if not 0 <= t <= self.timesteps - 1:
            raise ValueError(f"timestep {t}: expected a number from 0 to {self.timesteps - 1}")
        # A whole timestep is looked up, so that its level is the table's to the last digit.
        whole = t == int(t)
        log_alpha = float(self._log_alpha[int(t)] if whole else np.interp(t, self._times, self._log_alpha))
        # sigma^2 = 1 - alpha^2 by expm1: near the clean end the difference itself would lose most of its digits.
        return Level(math.exp(log_alpha), math.sqrt(-math.expm1(2 * log_alpha)), float(t))

    def at_lambda(self, lambda_: float) -> Level:
        """The level with log(alpha / sigma) = lambda_, between timesteps T-1 and 0."""
        # alpha^2 = 1 / (1 + e^(-2 lambda)); np.interp needs the table ascending.
        log_alpha = -0.5 * float(np.logaddexp(0.0, -2 * lambda_))
        table, times = self._ascending
        t = float(np.interp(log_alpha, table, times))
        if not table[0] <= log_alpha <= table[-1]:
            # lambda of an end itself may fall outside by rounding; anything else is out of range.
            end = self.finite_at(t)
            if abs(end.lambda_ - lambda_) > 1e-9 * max(1.0, abs(lambda_)):
                low, high = self.finite_at(self.timesteps - 1).lambda_, self.last.lambda_
                raise ValueError(f"lambda {lambda_:.6g}: expected a number from {low:.6g} to {high:.6g}")
            return end
        return Level(math.exp(log_alpha), math.sqrt(-math.expm1(2 * log_alpha)), t)


@dataclass(frozen=True)
class EDM(Schedule):
    """Variance exploding as in Karras et al. 2022: x = x0 + sigma eps, and the time is sigma itself."""

    sigma_min: float = 0.002
    """The cleanest level of grids."""
    sigma_max: float = 80.0
    """The noisiest level, where sampling starts."""
    default_grid = "karras"

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma_min {self.sigma_min}, sigma_max {self.sigma_max}: expected 0 < sigma_min < sigma_max"
            )

    @property
    def first(self) -> Level:
        """sigma_max."""
        return self.at_time(self.sigma_max)

    @property
    def last(self) -> Level:
        """sigma_min."""
        return self.at_time(self.sigma_min)

    @property
    def clean(self) -> Level:
        """sigma = 0."""
        return Level(1.0, 0.0, 0.0)

    def prior_scale(self, first: Level) -> float:
        """The first level's sigma."""
        return first.sigma

    def at_time(self, t: float) -> Level:
        """The level with sigma = t > 0."""
        # The time of this schedule is sigma itself (Karras et al. 2022).
        if not 0 < t < math.inf:
            raise ValueError(f"sigma {t}: expected a positive number")
        return Level(1.0, float(t), float(t))

    def at_lambda(self, lambda_: float) -> Level:
        """The level with sigma = exp(-lambda_)."""
        return self.at_time(math.exp(-lambda_))


@dataclass(frozen=True)
class Flow(Schedule):
    """Rectified flow: x = (1 - t) x0 + t eps, t from 1 (noise) to 0 (clean). Lipman et al. 2023, Liu et al. 2023."""

    t_min: float = 1e-3
    """The last noisy time of grids that are laid out between the two ends of the schedule."""
    default_grid: str = "uniform"
    """Spec of the grid that the model was trained for, such as "shift:factor=3"."""

    @property
    def first(self) -> Level:
        """t = 1, where alpha = 0."""
        return self.at_time(1.0)

    @property
    def last(self) -> Level:
        """t_min."""
        return self.at_time(self.t_min)

    @property
    def clean(self) -> Level:
        """t = 0."""
        return Level(1.0, 0.0, 0.0)

    def at_time(self, t: float) -> Level:
        """The level at flow time t in (0, 1]."""
        if not 0 < t <= 1:
            raise ValueError(f"flow time {t}: expected a number above 0 and up to 1")
        return Level(1.0 - t, float(t), float(t))

    def at_lambda(self, lambda_: float) -> Level:
        """t = 1 / (1 + exp(lambda_))."""
        # alpha / sigma = (1 - t) / t; logaddexp neither overflows nor loses the digits of a small t.
        t = math.exp(-float(np.logaddexp(0.0, lambda_)))
        return Level(math.exp(-float(np.logaddexp(0.0, -lambda_))), t, t)


def vp_from_alphas_cumprod(alphas_cumprod: Sequence[float]) -> VP:
    """A VP schedule from its table abar_0 ... abar_{T-1}, strictly decreasing."""
    try:
        # Python floats, because a schedule is hashed and compared as part of a key.
        table = tuple(float(a) for a in alphas_cumprod)
    except (TypeError, ValueError) as error:
        raise InputError(f"alphas_cumprod {quote(alphas_cumprod)}: expected numbers, one a timestep") from error
    return VP(table)


def rescale_zero_terminal_snr(schedule: VP) -> VP:
    """The schedule with alpha = 0 at T-1, the same alpha at 0, and all alphas between shifted and scaled linearly.

    Lin et al. 2024, algorithm 1. For networks that were trained with it and predict v, x0 or flow.
    """
    if schedule.timesteps == 1:
        raise ValueError("schedule: has a single timestep; expected at least two")
    # Shift so that the last alpha is 0, and scale so that the first one stays.
    alpha = np.sqrt(np.asarray(schedule.alphas_cumprod, dtype=np.float64))
    # abar is alpha squared, and the paper moves alpha: sqrt(abar) becomes linear between its first value and 0.
    share = (alpha - alpha[-1]) / (alpha[0] - alpha[-1])
    return vp_from_alphas_cumprod((schedule.alphas_cumprod[0] * share**2).tolist())


def _vp_from_betas(betas: Float64s) -> VP:
    return vp_from_alphas_cumprod(np.cumprod(1.0 - betas).tolist())


def _check_betas(timesteps: int, **betas: float) -> None:
    """InputError for a count of timesteps, or a number for betas, that no schedule has."""
    check_count("timesteps", timesteps, MOST_TIMESTEPS)
    for name, beta in betas.items():
        if not is_number(beta) or not 0 < beta < 1:
            raise InputError(f"{name} {quote(beta)}: expected a number above 0 and below 1")


def vp_linear(timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> VP:
    """Betas linear in t: Ho et al. 2020, section 4."""
    _check_betas(timesteps, beta_start=beta_start, beta_end=beta_end)
    return _vp_from_betas(np.linspace(beta_start, beta_end, timesteps, dtype=np.float64))


def vp_scaled_linear(timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> VP:
    """Square roots of beta linear in t: the schedule of latent diffusion (Rombach et al. 2022)."""
    _check_betas(timesteps, beta_start=beta_start, beta_end=beta_end)
    # Stable Diffusion's: even in the root of beta.
    return _vp_from_betas(np.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=np.float64) ** 2)


def vp_cosine(timesteps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> VP:
    """abar a squared cosine, each beta at most max_beta: Nichol and Dhariwal 2021, equation 17."""
    _check_betas(timesteps, s=s, max_beta=max_beta)
    # Beta is the relative loss of abar in a step, bounded where abar comes near 0.
    u = np.arange(timesteps + 1, dtype=np.float64) / timesteps
    abar = np.cos((u + s) / (1 + s) * np.pi / 2) ** 2
    return _vp_from_betas(np.minimum(1 - abar[1:] / abar[:-1], max_beta))


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> EDM:
    """The schedule of Karras et al. 2022, table 1: alpha = 1, sigma = t."""
    for name, sigma in {"sigma_min": sigma_min, "sigma_max": sigma_max}.items():
        if not is_number(sigma):
            raise InputError(f"{name} {quote(sigma)}: expected a number above 0")
    return EDM(float(sigma_min), float(sigma_max))


def flow() -> Flow:
    """Rectified flow: alpha = 1 - t, sigma = t, with t = 1 the noise."""
    return Flow()

"""The noise-predictor interface: network(x, t, condition) -> Prediction.

What a network answers with (eps, x0, v or flow) is converted here, once. Guidance, clipping and counting are
wrappers around a predictor; no sampler knows of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from .errors import InputError, ModelError, SamplerbenchError, told
from .level import Level

Predicts = Literal["eps", "x0", "v", "flow"]
Timesteps = Literal["fractional", "integer"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a network said of the state x at a level. x and answer are (n, *shape)."""

    x: Tensor
    level: Level
    answer: Tensor
    predicts: Predicts

    @property
    def x0(self) -> Tensor:
        """The clean sample as the network sees it."""
        return self.combine(1.0, 0.0)

    @property
    def eps(self) -> Tensor:
        """The noise as the network sees it."""
        return self.combine(0.0, 1.0)

    def combine(self, p: float, q: float) -> Tensor:
        """p x0 + q eps, as one linear combination of the state and the network's answer."""
        (x0_x, x0_f), (eps_x, eps_f) = conversion(self.predicts, self.level)
        x_weight, f_weight = p * x0_x + q * eps_x, p * x0_f + q * eps_f
        if x_weight == 0:
            return self.answer * f_weight
        return torch.add(self.x * x_weight, self.answer, alpha=f_weight)

    def mean(self, x_weight: float, x0_weight: float) -> Tensor:
        """x_weight x + x0_weight x0, by x = alpha x0 + sigma eps."""
        return self.combine(x_weight * self.level.alpha + x0_weight, x_weight * self.level.sigma)


def conversion(predicts: Predicts, level: Level) -> tuple[tuple[float, float], tuple[float, float]]:
    """((a, b), (c, d)) with x0 = a x + b f and eps = c x + d f, f being the network's answer at the level.

    From x = alpha x0 + sigma eps and v = alpha eps - sigma x0 (Salimans and Ho 2022) or f = eps - x0 (flow).
    """
    alpha, sigma = level.alpha, level.sigma
    if predicts == "eps":
        if alpha == 0:
            raise InputError(
                "predicts 'eps': the noise says nothing of x0 where alpha = 0 (zero terminal SNR, flow at t = 1); "
                "use a model that predicts v, x0 or flow, or a grid that starts at a cleaner level"
            )
        return (1 / alpha, -sigma / alpha), (0.0, 1.0)
    if predicts == "x0":
        return (0.0, 1.0), (1 / sigma, -alpha / sigma)
    if predicts == "v":
        norm = alpha**2 + sigma**2
        return (alpha / norm, -sigma / norm), (sigma / norm, alpha / norm)
    norm = alpha + sigma
    return (1 / norm, -sigma / norm), (1 / norm, alpha / norm)


ALL = slice(None)
"""The rows of a call on the whole state."""


class Predictor(Protocol):
    """(x, level) -> Prediction; one call = one evaluation."""

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """x is the state (n, *shape) at `level`, unscaled, or that of these rows of it alone."""
        ...


Network = Callable[..., Tensor]
"""network(x, t) or network(x, t, condition): x (B, *shape), t (B,) -> (B, *shape)."""
ARGUMENTS = ("x", "t", "condition")


@dataclass(frozen=True)
class NetworkPredictor:
    """Ask the network, `batch_size` rows at a time, the last rows padded.

    The padding makes the bytes of each sample's result independent of how many samples there are.
    """

    network: Network
    predicts: Predicts
    timesteps: Timesteps
    batch_size: int
    condition: Tensor | None = None
    """(n, ...): a row for each sample; None = the network takes (x, t) alone."""
    dtype: torch.dtype | None = None
    """What the network computes in; None = the state's own dtype."""

    def __post_init__(self) -> None:
        """Check the names."""
        if self.predicts not in get_args(Predicts):
            raise InputError(f"predicts {self.predicts!r}: expected one of {', '.join(get_args(Predicts))}")
        if self.timesteps not in get_args(Timesteps):
            raise InputError(f"timesteps {self.timesteps!r}: expected one of {', '.join(get_args(Timesteps))}")

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """One evaluation of all rows of x."""
        if self.timesteps == "integer" and not level.t.is_integer():
            raise InputError(
                f"network: asked about timestep {level.t:g}, and it knows whole ones only; a sampler gets levels that "
                "the network knows from run.grid and run.at"
            )
        t_dtype = torch.int64 if self.timesteps == "integer" else x.dtype
        t = torch.full((self.batch_size,), level.t, dtype=t_dtype, device=x.device)
        inputs = x if self.dtype is None else x.to(self.dtype)
        condition = None if self.condition is None else self.condition[rows]
        answers = []
        for start in range(0, len(x), self.batch_size):
            batch = slice(start, start + self.batch_size)
            args = [inputs[batch]] if condition is None else [inputs[batch], condition[batch]]
            real = len(args[0])
            padded = [_pad(arg, self.batch_size) for arg in args]
            answers.append(answer_of(self.network, padded[0], t, *padded[1:])[:real])
        return Prediction(x, level, torch.cat(answers).to(x.dtype), self.predicts)


def answer_of(network: Network, x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
    """What a network says of a batch. ModelError where it raises, InputError for an answer of another shape than x."""
    try:
        answer = network(x, t, *condition)
    except (SamplerbenchError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        shapes = ", ".join(f"{name} {tuple(a.shape)}" for name, a in zip(ARGUMENTS, (x, t, *condition), strict=False))
        raise ModelError(f"network: {' '.join(told(error).split())[:300]}; it was asked with {shapes}") from error
    if not isinstance(answer, Tensor) or answer.shape != x.shape:
        given = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        raise InputError(f"network: answered with {given} for a state {tuple(x.shape)}; expected the same shape")
    return answer


def _pad(rows: Tensor, size: int) -> Tensor:
    """Repeat the last row until there are `size` rows."""
    missing = size - len(rows)
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance: f = f_negative + guidance (f_condition - f_negative) (Ho and Salimans 2022).

    Written for the network's answer, whatever it predicts: the conversions are linear at a given x.
    """

    conditional: Predictor
    unconditional: Predictor
    guidance: float
    rescale: float = 0.0
    """phi: how far the guided x0 goes back to the deviation of the conditional one; 0 = not at all."""

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """Two evaluations of the network, one prediction."""
        positive, negative = self.conditional(x, level, rows), self.unconditional(x, level, rows)
        answer = torch.lerp(negative.answer, positive.answer, self.guidance)
        guided = Prediction(x, level, answer, positive.predicts)
        return rescaled(guided, positive.x0, self.rescale) if self.rescale else guided


def rescaled(guided: Prediction, conditional: Tensor, phi: float) -> Prediction:
    """Guidance with rescale (Lin et al. 2024, section 3.4): x0 times phi std(conditional) / std(x0) + 1 - phi.

    The deviations are each sample's own. Written for x0, so that it does not matter what the network predicts; the
    paper and the tools that follow it scale the network's answer instead, v or eps. The two agree at alpha = 0.
    """
    x0 = guided.x0
    has, wanted = _deviation(x0), _deviation(conditional)
    ratio = torch.where(has > 0, wanted / has, 1.0)
    return Prediction(guided.x, guided.level, x0 * (phi * ratio + (1 - phi)), "x0")


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation within each sample, (n, 1, ...)."""
    return _by_sample(x.flatten(1).std(1, correction=0), x)


def _by_sample(values: Tensor, x: Tensor) -> Tensor:
    """(n,) -> (n, 1, ...), to go with x (n, *shape)."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True)
class DynamicThreshold:
    """How far x0 may go: to the quantile of its own absolute values, at least to `bound`."""

    quantile: float
    """p, above 0 and up to 1."""
    bound: float
    """The largest absolute value of the data."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.quantile <= 1:
            raise InputError(f"quantile {self.quantile!r}: expected a number above 0 and up to 1")
        if not 0 < self.bound < math.inf:
            raise InputError(f"bound {self.bound!r}: expected a positive number")


def dynamic_threshold(quantile: float = 0.995, bound: float = 1.0) -> DynamicThreshold:
    """Dynamic thresholding of x0 (Saharia et al. 2022, section 2.3), for `wrap_network(..., clip=...)`.

    Of each sample, s is that quantile of |x0| or `bound`, whichever is larger; x0 is clipped to [-s, s] and divided by
    s / bound. For data in [-bound, bound]; meant for strong guidance. Raises InputError for a quantile outside (0, 1]
    and for a bound that is not positive.
    """
    return DynamicThreshold(quantile, bound)


Clip = tuple[float, float] | DynamicThreshold
"""Fixed bounds of x0, or bounds that follow it."""


def clipped(predictor: Predictor, clip: Clip | None) -> Predictor:
    """The predictor with its x0 held within the bounds; None = as it is."""
    if clip is None:
        return predictor
    return Thresholded(predictor, clip) if isinstance(clip, DynamicThreshold) else Clipped(predictor, *clip)


def check_clip(clip: object) -> None:
    """Refuse what is no Clip and not None."""
    if clip is None or isinstance(clip, DynamicThreshold):
        return
    if isinstance(clip, tuple | list) and len(clip) == 2 and all(isinstance(c, int | float) for c in clip):  # noqa: PLR2004
        low, high = clip
        if low < high:
            return
    raise InputError(f"clip {clip!r}: expected (low, high) with low < high, or dynamic_threshold(...)")


@dataclass(frozen=True)
class Clipped:
    """Clip x0 to [low, high]; eps is derived from the clipped x0 (as in guided-diffusion)."""

    inner: Predictor
    low: float
    high: float

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """The inner prediction with x0 clipped."""
        return Prediction(x, level, self.inner(x, level, rows).x0.clamp(self.low, self.high), "x0")


@dataclass(frozen=True)
class Thresholded:
    """Clip x0 to a bound of each sample's own and scale it back; eps is derived from the result."""

    inner: Predictor
    threshold: DynamicThreshold

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """The inner prediction with x0 thresholded."""
        x0, bound = self.inner(x, level, rows).x0, self.threshold.bound
        s = x0.flatten(1).abs().quantile(self.threshold.quantile, dim=1).clamp(min=bound)
        s = _by_sample(s, x0)
        return Prediction(x, level, x0.clamp(-s, s) * (bound / s), "x0")


@dataclass
class Counted:
    """Count the calls and the seconds spent in them."""

    inner: Predictor
    nfe: int = 0
    samples: int = 0
    """Rows of all calls together: calls of a sample times samples."""
    seconds: float = 0.0

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """The inner prediction, counted."""
        self.nfe += 1
        self.samples += len(x)
        started = clock(x.device)
        prediction = self.inner(x, level, rows)
        self.seconds += clock(x.device) - started
        return prediction


def clock(device: torch.device) -> float:
    """Monotonic seconds, once the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

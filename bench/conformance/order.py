"""The order of convergence of a deterministic sampler: global, from its own start, local; the limit; the last jump.

All but the last jump are measured down to a level that still has noise, which their names state. The step from there to
the clean end is first order for every sampler and would hide the other errors, so it is measured separately.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...samplers.exact import GaussianMixture, quantile_path
from ...samplers.level import Level
from ...samplers.predictor import ALL, Prediction, Promptless, Question
from ...samplers.sampler import Sampler, StepContext, integrate
from ...samplers.schedule import Schedule, edm, vp_linear
from .card import Effort, Finding

LINE = GaussianMixture(((-1.0,), (0.3,), (1.4,)), (0.2, 0.1, 0.3), (0.3, 0.4, 0.3))
"""Data in one dimension, where the exact path is known."""
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
WARM_UP = 6
"""Steps of exact past: the corrected states of a predictor-corrector need more than its predictions."""
PATTERNS = tuple(pattern * 2 for pattern in ((1, 3, 1, 3), (3, 1, 3, 1), (1, 1, 1, 3), (3, 3, 3, 1)))
"""Lengths of neighbouring steps, the last one measured."""
HIGH = 3
"""From this order on the global order has a wider tolerance, and above it the local order too: rounding sets in before
steps are fine enough to show the full slope."""
DOUBLINGS, ROUNDING = 4, 1e-11
"""Limits of refining a grid to find a slope: the number of refinements, and the error."""
LEEWAY = 0.01
"""The part by which an error may exceed another: a corrector moves the state that the last jump starts from."""
VP_LINEAR, VARIANCE_EXPLODING = vp_linear(), edm()


def _karras_level(u: float) -> Level:
    """sigma from 7 to 0.05 as u goes from 0 to 1; smooth, unequal in lambda."""
    # Karras et al. (2022), eq. 5, with rho = 7.
    root = 7 ** (1 / 7) + u * (0.05 ** (1 / 7) - 7 ** (1 / 7))
    return VARIANCE_EXPLODING.at_time(root**7)


SMOOTH: tuple[tuple[str, Schedule, Callable[[float], Level]], ...] = (
    ("VP, even in lambda", VP_LINEAR, lambda u: VP_LINEAR.at_lambda(-2 + 5 * u)),
    ("EDM, Karras' levels", VARIANCE_EXPLODING, _karras_level),
)


def order_of_convergence(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """The slope of the error over the step size, to a level that still has noise, from an exact past."""
    order = sampler.convergence
    if order is None:
        return
    # Above second order the next term of the error is still visible at step counts that rounding allows.
    tolerance = 0.15 if order < HIGH else 0.3
    for name, schedule, at in SMOOTH:

        def error(steps: int, schedule: Schedule = schedule, at: Callable[[float], Level] = at) -> float:
            # Exact states before u = 0 give a multistep method its past, so its start does not limit the slope.
            levels = [at(i / steps) for i in range(-WARM_UP, steps + 1)]
            return _error_after_exact_past(sampler, levels, WARM_UP, schedule)

        slope = _slope(error, effort.order_steps, order - tolerance, order + tolerance)
        holds = abs(slope - order) <= tolerance
        yield Finding(f"order to {sigma_of(at(1.0))}, {name}", f"{order} ± {tolerance}", f"{slope:.2f}", holds)


def order_from_the_start(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """The slope of the error from the sampler's own start: a first-order start may lower an order above 2."""
    order = sampler.convergence
    if order is None:
        return
    _, schedule, at = SMOOTH[0]

    def error(steps: int) -> float:
        return _error(_run_over(sampler, [at(i / steps) for i in range(steps + 1)], schedule), at(1.0))

    # A first-order first step has a local error of second order, which stays in the result.
    kept = min(order, 2)
    slope = _slope(error, effort.order_steps, kept - 0.15, math.inf)
    name = f"order to {sigma_of(at(1.0))}, from its own start"
    yield Finding(name, f"at least {kept - 0.15}", f"{slope:.2f}", slope >= kept - 0.15)


def local_order(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """One step after an exact past, neighbouring steps in ratio 3 or 1/3: the error falls with order + 1.

    This sees the coefficients of a multistep method, which a global order on an even grid cannot.
    """
    order = sampler.step_convergence
    if sampler.convergence is None or order is None:
        return
    tolerance = 0.2 if order <= HIGH else 0.55
    slopes = []
    for pattern in PATTERNS:

        def error(per_unit: int, pattern: tuple[int, ...] = pattern) -> float:
            # The last step starts at lambda = 0.2.
            # The measured step is the same in place for all patterns; only the past before it differs.
            lambdas = [0.2 - sum(pattern[i:-1]) / per_unit for i in range(len(pattern))]
            levels = [VARIANCE_EXPLODING.at_lambda(lambda_) for lambda_ in [*lambdas, 0.2 + pattern[-1] / per_unit]]
            return _error_after_exact_past(sampler, levels, len(pattern) - 1, VARIANCE_EXPLODING)

        slopes.append(_slope(error, 50, order + 1 - tolerance, order + 1 + tolerance))
    measured = " ".join(f"{slope:.2f}" for slope in slopes)
    holds = all(abs(slope - order - 1) <= tolerance for slope in slopes)
    yield Finding("local order, uneven steps", f"{order + 1} ± {tolerance}", measured, holds)


def limit(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """With many steps the exact solution results; extrapolation removes the first-order error."""
    order = sampler.convergence
    if order is None:
        return
    _, schedule, at = SMOOTH[0]
    coarse, fine = (
        _run_over(sampler, [at(i / n) for i in range(n + 1)], schedule)
        for n in (effort.limit_steps // 2, effort.limit_steps)
    )
    # Richardson extrapolation: a first-order error halves with the step, so 2 x fine - coarse is free of it.
    error = _error(2 * fine - coarse if order == 1 else fine, at(1.0))
    yield Finding(
        f"limit at {sigma_of(at(1.0))}, {effort.limit_steps} steps", f"exact within {effort.limit_error:g}",
        f"{error:.1e}", error <= effort.limit_error,
    )  # fmt: skip


def last_jump(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """The step to the clean end, after an exact past: its error remains, however many steps are taken.

    There the model's prediction of x0 is the first-order step, and no sampler may be worse.
    """
    if sampler.convergence is None:
        return
    _, schedule, at = SMOOTH[0]
    steps, end = effort.order_steps, at(1.0)
    levels = [*(at(i / steps) for i in range(steps - WARM_UP, steps + 1)), schedule.clean]
    error = _error_after_exact_past(sampler, levels, WARM_UP, schedule)
    x = quantile_path(LINE, QUANTILES, end)
    # The first-order step to the clean end returns the predicted x0.
    guess = _error(_noisy_run([end], schedule).predict(x, end).x0, schedule.clean)
    yield Finding(
        f"last jump, {sigma_of(end)} to 0", f"at most {guess:.1e}, of the predicted x0", f"{error:.1e}",
        error <= guess * (1 + LEEWAY),
    )  # fmt: skip


def sigma_of(level: Level) -> str:
    """The name of a level in a finding."""
    return f"sigma {level.sigma_ve:.2g}"


def _slope(error: Callable[[int], float], steps: int, low: float, high: float) -> float:
    """The slope of the error from `steps` to twice as many; on finer grids while it is outside `low` to `high`.

    Terms of neighbouring orders may cancel on a coarse grid. Refinement ends before rounding shows.
    """
    coarse = error(steps)
    for doublings in itertools.count(1):
        fine = error(steps * 2**doublings)
        # An error that falls with h^p falls by 2^p when the step is halved.
        slope = math.log2(coarse / fine) if coarse and fine else math.nan
        if low <= slope <= high or doublings == DOUBLINGS or not fine > ROUNDING:
            return slope
        coarse = fine
    raise AssertionError


def _error_after_exact_past(sampler: Sampler, levels: Sequence[Level], warm_up: int, schedule: Schedule) -> float:
    """From the exact state at levels[warm_up] to the last level; the steps before start from exact states.

    So a multistep method has the past that its order assumes, and a one-step method is not affected.
    """
    run, past = _noisy_run(levels, schedule), None
    x = quantile_path(LINE, QUANTILES, levels[0])
    for i, (a, b) in enumerate(itertools.pairwise(levels)):
        run.enter(i)
        # The past is made by steps from exact states: their errors do not add up.
        if i <= warm_up:
            x = quantile_path(LINE, QUANTILES, a)
        x, past = sampler.step(run, x, a, b, past)
    return _error(x, levels[-1])


def _run_over(sampler: Sampler, levels: Sequence[Level], schedule: Schedule) -> Tensor:
    """The sampler's own run over noisy levels, from the exact state at the first."""
    return integrate(sampler, _noisy_run(levels, schedule), quantile_path(LINE, QUANTILES, levels[0]))


def _error(x: Tensor, level: Level) -> float:
    """Root mean square over the quantiles."""
    return float((x - quantile_path(LINE, QUANTILES, level)).square().mean().sqrt())


def _noisy_run(levels: Sequence[Level], schedule: Schedule) -> StepContext:
    """A run over only noisy levels, with the exact eps of LINE, that refuses to draw noise."""

    def no_noise(*where: object) -> Tensor:
        raise ValueError("noise was drawn, though the sampler claims an order of convergence")

    return StepContext(tuple(levels), Promptless(ExactEps()), no_noise, schedule)


class ExactEps:
    """The exact eps of LINE."""

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """For the state x at a level."""
        alpha, sigma = (torch.full((len(x), 1), part, dtype=x.dtype) for part in (level.alpha, level.sigma))
        return Prediction(x, level, (x - level.alpha * LINE.x0(x, alpha, sigma)) / level.sigma, "eps")

    def many(
        self, asked: Sequence[Question], rows: slice = ALL, hints: Mapping[str, Any] | None = None
    ) -> list[Prediction]:
        """For each state at its level, told as the level that is asked about."""
        return [replace(self(x, ask or level), level=level) for x, level, ask in asked]

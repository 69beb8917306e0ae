"""Noise: where a sampler draws it, that the last step has none, and that its size is right."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ...samplers.exact import exact_model, gaussian
from ...samplers.level import Level
from ...samplers.noise import BLOCK
from ...samplers.process import state_kept
from ...samplers.sample import sample
from ...samplers.sampler import Sampler
from .card import Effort, Finding
from .models import PLANE, SCHEDULES, UNEVEN, Stream, apart, intervals, noise_to_start_from

MEAN, DEVIATION = 0.4, 0.55
"""Mean and standard deviation of the Gaussian data."""


def draws(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """A sampler takes noise from the run, in the grid's order, not in the last interval and not without need."""
    schedule, x = SCHEDULES["VP"], noise_to_start_from()
    noise = Stream(x)
    with state_kept() as changed:
        sample(exact_model(PLANE, schedule), sampler, grid=UNEVEN, x_init=x, noise=noise)
    places = intervals(UNEVEN, schedule)
    # A sampler may ask for a part of an interval, but not across two.
    asked = [next((i for i, place in enumerate(places) if lies_within(part, place)), -1) for part in noise.intervals]
    measured = f"{len(asked)} draws" if asked else "none"
    if sampler.convergence is not None:
        yield Finding("noise", "none", measured, not asked)
    else:
        # Noise in the last interval would stay in the clean sample.
        right = bool(asked) and asked == sorted(asked) and asked[0] >= 0 and asked[-1] < len(places) - 1
        yield Finding("noise", "in order, none in the last step", measured if right else f"intervals {asked}", right)
    yield Finding("the process", "untouched", f"changed {', '.join(changed)}" if changed else "untouched", not changed)


def lies_within(part: tuple[Level, Level], whole: tuple[Level, Level]) -> bool:
    """Whether one interval lies within another."""
    return whole[0].sigma_ve >= part[0].sigma_ve > part[1].sigma_ve >= whole[1].sigma_ve


def last_step(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """Two seeds give one result from the same state before the last step; whole runs differ, or are deterministic."""
    model, x = exact_model(PLANE, SCHEDULES["VP"]), noise_to_start_from()

    def difference(grid: tuple[float, ...]) -> float:
        return apart(*(sample(model, sampler, grid=grid, x_init=x, seed=seed).x for seed in (1, 2)))

    # A grid of one level has only the last step.
    at_the_end, before = difference((30.0,)), difference(UNEVEN)
    yield Finding("last step, two seeds", "equal", f"apart by {at_the_end:.1e}", at_the_end == 0)
    if sampler.convergence is None:
        yield Finding("whole run, two seeds", "apart", f"apart by {before:.1e}", 1e-3 < before < float("inf"))  # noqa: PLR2004
    else:
        yield Finding("whole run, two seeds", "equal", f"apart by {before:.1e}", before == 0)


def mean_and_variance(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """On Gaussian data a step is linear in the state and the noise, so both follow exactly from its response.

    With more steps they tend to those of the data; the error of first order is extrapolated away.
    """
    if sampler.convergence is not None:
        return
    coarse, fine = (_moments(sampler, steps) for steps in (effort.moment_steps // 2, effort.moment_steps))
    for name, true, half, whole in zip(("mean", "variance"), (MEAN, DEVIATION**2), coarse, fine, strict=True):
        # A first-order error halves when the steps double.
        extrapolated = 2 * whole - half
        yield Finding(
            f"{name} of Gaussian data", f"{true:.4g} within {effort.moment_error:.1%}", f"{extrapolated:.4f}",
            abs(extrapolated - true) <= effort.moment_error * true,
        )  # fmt: skip


def _moments(sampler: Sampler, steps: int) -> tuple[float, float]:
    """Mean and variance of the result for a start with the exact mean and variance, from the linear response."""
    schedule = SCHEDULES["VP"]
    model = exact_model(gaussian((MEAN,), DEVIATION**2), schedule, "v")
    # The first run only counts the draws; the second gives each draw a row.
    count = Pulses(0)
    sample(model, sampler, steps=steps, grid="karras", x_init=count.rows, noise=count)
    pulses = Pulses(count.drawn)
    # One call of the network for all rows, which are as many as the draws.
    size = BLOCK * math.ceil(len(pulses.rows) / BLOCK)
    x = sample(model, sampler, steps=steps, grid="karras", x_init=pulses.rows, noise=pulses, batch_size=size).x
    first = schedule.first
    return moments(x, first.alpha * MEAN, first.alpha**2 * DEVIATION**2 + first.sigma**2)


class Pulses:
    """Noise that shows a linear run's response: row 2 + k gets one unit at draw number k, other rows nothing."""

    def __init__(self, draws: int) -> None:
        self.rows = torch.zeros(2 + draws, 1, dtype=torch.float64)
        """The initial states: 0, then 1, then 0 for each draw."""
        self.rows[1] = 1
        self.drawn = 0

    def __call__(self, a: Level, b: Level) -> Tensor:
        """The next pulse, (n, 1)."""
        z = torch.zeros_like(self.rows)
        z[2 + self.drawn : 3 + self.drawn] = 1
        self.drawn += 1
        return z


def moments(x: Tensor, mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance of the result, from those of the start and the rows of `Pulses` after a run, (2 + k, 1)."""
    # The map is affine: x = offset + slope x_T + sum of response_k z_k, with independent unit normal z_k.
    offset, slope, response = float(x[0]), float(x[1] - x[0]), x[2:] - x[0]
    return offset + slope * mean, slope**2 * variance + float(response.square().sum())

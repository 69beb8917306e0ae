"""Whole runs: any number of steps, the calls they take, their first and their last interval."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ...samplers.exact import exact_model, point
from ...samplers.model import wrap_network
from ...samplers.predictor import Predicts
from ...samplers.registry import default_registry
from ...samplers.sample import sample
from ...samplers.sampler import Sampler, declared_calls, nfe_rule
from ...samplers.schedule import Schedule, vp_linear
from .card import Effort, Finding
from .models import EQUAL, NO_SIGNAL, PLANE, SCHEDULES, UNEVEN_ON, Stream, apart, draw_samples, noise_to_start_from

FEW = (2, 3, 4, 9)
"""Step counts of the runs that start at alpha = 0."""
BOUND = 100.0
"""A high order may overshoot with few steps; beyond this the state has diverged."""
FORMS_WITHOUT_SIGNAL: tuple[Predicts, ...] = ("x0", "v", "flow")
"""The predictions that a network can make where alpha = 0."""


def steps_and_calls(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """Any number of steps gives finite states with the declared model calls, and stays within a budget of calls."""
    infinite, other = [], []
    # Flow starts at alpha = 0, where a division by alpha or an infinite lambda would show.
    for schedule, counts in ((vp_linear(80, 1e-3, 0.2), effort.counts), (SCHEDULES["flow"], FEW)):
        for steps in counts:
            # Counted by the predictor; what the sampler declares is compared with it below.
            finite, calls = _try_run(sampler, schedule, steps)
            if not finite:
                infinite.append(str(steps))
            levels = default_registry().levels(None, schedule, steps, integer=False)
            declared = declared_calls(sampler, levels)
            if not calls or declared not in (calls, None):
                other.append(f"{calls} for {declared} at {steps} steps")
    tried = f"steps {effort.counts[0]} to {effort.counts[-1]}"
    yield Finding(tried, "finite", f"not at {', '.join(infinite)}" if infinite else "finite", not infinite)
    yield Finding("model calls", nfe_rule(sampler), "; ".join(other[:3]) or "as declared", not other)
    if sampler.nfe(1) is None:
        return
    # The smallest budget is that of one step.
    over = [nfe for nfe in range(sampler.nfe(1) or 1, 40) if _calls_for(sampler, nfe) > nfe]
    yield Finding("budget of calls", "never exceeded", f"exceeded at {over[:3]}" if over else "kept", not over)


def _try_run(sampler: Sampler, schedule: Schedule, steps: int) -> tuple[bool, int]:
    """Whether a run on a smooth network ends in a finite state, and how many model calls it made."""

    def network(x: Tensor, t: Tensor, hints: object = None) -> Tensor:
        # Bounded and smooth, and no exact model: nothing cancels by chance.
        return 0.9 * x.tanh()

    drawn = sample(wrap_network(network, schedule, (2,), "v"), sampler, steps=steps, n=1)
    return bool(drawn.x.isfinite().all()), int(drawn.nfe)


def _calls_for(sampler: Sampler, nfe: int) -> int:
    planned, steps = sampler.plan(nfe)
    return planned.nfe(steps) or 0


def one_step(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """One step from the first level returns the model's prediction of x0: the first-order x0 form."""
    errors = []
    for schedule in SCHEDULES.values():
        first = schedule.first
        x = noise_to_start_from() * schedule.prior_scale(first)
        alpha, sigma = (torch.full((len(x), 1), part, dtype=x.dtype) for part in (first.alpha, first.sigma))
        # The exact model's x0 is the mean of the posterior, E[x0 | x].
        errors.append(apart(draw_samples(sampler, schedule, steps=1, predicts="x0", x=x), PLANE.x0(x, alpha, sigma)))
    yield Finding("one step", "the predicted x0", f"off by {max(errors):.1e}", max(errors) <= EQUAL)


def clean_end(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """Data in a single point are reached exactly, whatever came before: no noise is left and none is added."""
    # The posterior of a point is the point, whatever the state: a deviation is the sampler's.
    data = point((0.7, -0.4))
    expected = torch.tensor(data.means, dtype=torch.float64).expand(4, 2)
    error = max(
        apart(draw_samples(sampler, schedule, steps=steps, data=data, predicts="x0"), expected)
        for schedule in SCHEDULES.values()
        for steps in (1, 2, 7)
    )
    yield Finding("clean end", "point data reached", f"off by {error:.1e}", error <= EQUAL)


def last_interval(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """The last interval goes to the x0 that the model predicts last: nothing is extrapolated beyond it."""
    error = max(off_the_last_answer(sampler, schedule, UNEVEN_ON[name]) for name, schedule in SCHEDULES.items())
    yield Finding("last interval", "the predicted x0", f"off by {error:.1e}", error <= EQUAL)


def off_the_last_answer(sampler: Sampler, schedule: Schedule, grid: tuple[float, ...]) -> float:
    """How far the result is from the x0 that the network answered last."""
    exact = exact_model(PLANE, schedule, "x0").network(torch.device("cpu"), torch.float64)
    answers = list[Tensor]()

    def network(x: Tensor, t: Tensor, hints: object = None) -> Tensor:
        # The rows of the last call, which are those of all samples: the batch holds them all.
        answers.append(exact(x, t))
        return answers[-1]

    x = noise_to_start_from() * schedule.prior_scale(schedule.first)
    model = wrap_network(network, schedule, (2,), "x0", batch_size=len(x))
    got = sample(model, sampler, grid=grid, x_init=x, noise=Stream(x)).x
    return apart(got, answers[-1][-len(x) :])


def start_without_signal(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """From alpha = 0 (flow at t = 1, zero terminal SNR), where lambda is infinite: finite, the first step first order.

    There the best guess of x0 is the data's mean, so the first-order x0 form goes to alpha mean + sigma x.
    """
    x = noise_to_start_from()
    weights = torch.tensor(PLANE.weights, dtype=torch.float64)
    mean = (weights[:, None] * torch.tensor(PLANE.means, dtype=torch.float64)).sum(0)
    largest, error = 0.0, 0.0
    for schedule, predicts in itertools.product((SCHEDULES["flow"], NO_SIGNAL), FORMS_WITHOUT_SIGNAL):
        model = exact_model(PLANE, schedule, predicts)
        for steps in (2, 3, 12):
            got = sample(model, sampler, steps=steps, x_init=x, noise=Stream(x), trajectory=True)
            # NaN would lose every comparison, and pass as small.
            largest = max(largest, float(got.x.abs().nan_to_num(math.inf).max()))
            # With alpha = 0 the state says nothing about the data: the predicted x0 is its mean, and eps is x itself.
            b = default_registry().levels(None, schedule, steps, integer=False)[1]
            if got.trajectory and sampler.convergence is not None:
                error = max(error, apart(got.trajectory[1], b.alpha * mean + b.sigma * x))
    yield Finding("start at alpha = 0", f"below {BOUND:g}", f"{largest:.1f}", largest < BOUND)
    if sampler.convergence is not None:
        yield Finding("first step from alpha = 0", "first order in x0", f"off by {error:.1e}", error <= EQUAL)


def whole_timesteps(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """A network that knows whole timesteps only is called at no others, even with a step for each of them."""
    table = vp_linear(40, 1e-3, 0.3)
    exact = exact_model(PLANE, table).network(torch.device("cpu"), torch.float64)
    largest = 0.0

    # The predictor refuses a time that is not whole, so a sampler that asks for one fails this run.
    model = wrap_network(lambda x, t, hints=None: exact(x, t.to(x.dtype)), table, (2,), timesteps="integer")
    x = noise_to_start_from()
    for steps in (1, 2, 5, 13, 40):
        got = sample(model, sampler, steps=steps, x_init=x, noise=Stream(x)).x
        largest = max(largest, float(got.abs().nan_to_num(math.inf).max()))
    yield Finding("whole timesteps only", f"below {BOUND:g}", f"{largest:.1f}", largest < BOUND)

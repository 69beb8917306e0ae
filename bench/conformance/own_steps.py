"""A sampler that is made for one number of steps, as one with learned coefficients is.

Orders and limits cannot be measured at one number of steps. What must hold at that number is measured, on its own
levels or else on those of the schedule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor

from ...samplers.errors import InputError
from ...samplers.exact import exact_model, point
from ...samplers.predictor import Predicts
from ...samplers.registry import default_registry
from ...samplers.sample import sample
from ...samplers.sampler import Sampler
from .card import Effort, Finding
from .equivalence import GREY_LEVEL, SINGLE
from .models import EQUAL, PLANE, SCHEDULES, Stream, apart, draw_samples, noise_to_start_from
from .runs import off_the_last_answer

Place = tuple[str, tuple[float, ...]]
"""The name of a schedule, and the noisy levels of a run."""


def place_of(sampler: Sampler) -> Place:
    """The schedule that the times of a sampler are of, and the levels of its run; InputError if there is none."""
    for name, schedule in SCHEDULES.items():
        try:
            grid = sampler.own_grid
            levels = default_registry().levels(grid, schedule, sampler.own_steps or 1, integer=False)
            times = tuple(level.t for level in levels[:-1])
            # A sampler may refuse levels only when it meets them, so one sample is drawn.
            draw_samples(sampler, schedule, times, predicts="v", x=noise_to_start_from(1))
        except InputError:
            continue
        return name, times
    raise InputError(f"{sampler.own_steps} steps on {sampler.own_grid}: no levels of VP, EDM or flow")


def whole_run(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """The run is finite, with the declared calls, ends in the predicted x0 and reaches point data."""
    name, times = place_of(sampler)
    schedule, x = SCHEDULES[name], noise_to_start_from()
    noise = Stream(x)
    got = sample(exact_model(PLANE, schedule, "v"), sampler, grid=times, x_init=x, noise=noise)
    declared, finite = sampler.nfe(len(times)), bool(got.x.isfinite().all())
    yield Finding(f"{len(times)} steps on {name}", "finite", "finite" if finite else "not finite", finite)
    yield Finding("model calls", str(declared), str(got.nfe), declared in (got.nfe, None))
    error = off_the_last_answer(sampler, schedule, times)
    yield Finding("last interval", "the predicted x0", f"off by {error:.1e}", error <= EQUAL)
    data = point((0.7, -0.4))
    error = apart(
        draw_samples(sampler, schedule, times, data=data, predicts="x0"),
        torch.tensor(data.means, dtype=torch.float64).expand(4, 2),
    )
    yield Finding("clean end", "point data reached", f"off by {error:.1e}", error <= EQUAL)
    wanted = sampler.convergence is None
    yield Finding(
        "noise", "some" if wanted else "none", f"{len(noise.intervals)} draws", bool(noise.intervals) == wanted
    )


def no_difference(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """The form of the prediction, n, the batch, earlier use and float32 make no difference."""
    name, times = place_of(sampler)
    schedule = SCHEDULES[name]
    eps, *others = (draw_samples(sampler, schedule, times, predicts=form) for form in get_args(Predicts)[1:])
    error = max(apart(other, eps) for other in others)
    yield Finding("x0 = v = flow", "equal", f"apart by {error:.1e}", error <= EQUAL)
    model = exact_model(PLANE, schedule, "v")

    def first_of(n: int, batch_size: int = 64) -> Tensor:
        return sample(model, sampler, grid=times, n=n, batch_size=batch_size).x[:5]

    same = torch.equal(first_of(5), first_of(66)[:5])
    yield Finding("n = 5 and 66", "byte-identical", "byte-identical" if same else "others", same)
    error = max(apart(first_of(5, size), first_of(5)) for size in (1, 8))
    yield Finding("batch sizes 1 to 64", "within a grey level", f"apart by {error:.1e}", error < GREY_LEVEL)
    once = draw_samples(sampler, schedule, times)
    # A copy that nobody has used: what a sampler keeps to itself would show as a difference.
    again = draw_samples(dataclasses.replace(sampler), schedule, times)
    same = torch.equal(once, again) and torch.equal(once, draw_samples(sampler, schedule, times))
    yield Finding("used again", "as a fresh one", "the same" if same else f"apart by {apart(once, again):.1e}", same)
    x = noise_to_start_from()
    single = sample(model, sampler, grid=times, x_init=x.float(), noise=Stream(x.float())).x
    error = apart(single.double(), draw_samples(sampler, schedule, times, predicts="v", x=x))
    yield Finding("float32", f"float64 within {SINGLE:g}", f"apart by {error:.1e}", error < SINGLE)

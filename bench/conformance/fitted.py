"""What a file is for: with it, samples on its own model are nearer to the ODE solution than without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from ...samplers.model import Model
from ...samplers.options import File, options_of
from ...samplers.sample import sample
from ...samplers.sampler import Sampler
from .card import Check, Effort, Finding

STEPS = 6
"""The steps of a sampler that takes any number of them."""
SAMPLES, SEED = 64, 1
SOLUTION = ("dpm-solver++:order=2", 200, "logsnr")
"""Sampler, steps and grid that stand for the ODE solution."""


def nearer_with_its_file(model: Model) -> Check:
    """The check on a model; it says nothing of a sampler without a file, or with one for another model."""

    def nearer(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
        known = [o.field for o in options_of(type(sampler)).values() if o.kind is File and getattr(sampler, o.field)]
        steps = sampler.own_steps or STEPS
        if not known or sampler.convergence is None or sampler.misfit(model.fingerprint, 1.0, steps, plain=True):
            return
        solution = draw_from(model, SOLUTION[0], SOLUTION[1], SOLUTION[2])

        def error(one: Sampler) -> float:
            return float((draw_from(model, one, steps, sampler.own_grid) - solution).square().mean().sqrt())

        # Without its file the sampler is the one that `by_default` names: that is what the file has to beat.
        without = error(replace(sampler, **dict.fromkeys(known)))
        measured = error(sampler)
        yield Finding(
            f"ODE error on {model.name}, {steps} steps", f"below {without:.2g}, without the file", f"{measured:.2g}",
            measured < without,
        )  # fmt: skip

    return nearer


def draw_from(model: Model, sampler: Sampler | str, steps: int, grid: str | None) -> Tensor:
    """Samples from one starting noise."""
    return sample(model, sampler, steps, n=SAMPLES, seed=SEED, grid=grid).x.double()

"""What a file is for: with it, samples on its own model are nearer to the ODE solution than without."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ...samplers.learned import FromFile
from ...samplers.model import Model
from ...samplers.options import File, options_of
from ...samplers.registry import Registry
from ...samplers.sample import sample
from ...samplers.sampler import Sampler
from .card import Check, Effort, Finding

STEPS = 6
"""The steps of a sampler that takes any number of them."""
SAMPLES, SEED = 8, 1
SOLUTION = ("unipc:order=3", 40, "logsnr")
"""Sampler, steps and grid that stand for the ODE solution."""
AGREES = 1e-3
"""The largest difference from the error that a file states, relative to it: another processor rounds otherwise."""


def nearer_with_its_file(model: Model) -> Check:
    """The check on a model; it says nothing of a sampler without a file, or with one for another model."""

    def nearer(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
        known = [o.field for o in options_of(type(sampler)).values() if o.kind is File and getattr(sampler, o.field)]
        steps = sampler.own_steps or STEPS
        if not known or sampler.convergence is None or sampler.misfit(model.fingerprint, 1.0, steps, plain=True):
            return
        solution = solution_of(model)
        # Without its file the sampler is the one that `by_default` names: that is what the file has to beat.
        without = error_of(replace(sampler, **dict.fromkeys(known)), model, sampler.own_grid, steps, solution)
        measured = error_of(sampler, model, sampler.own_grid, steps, solution)
        stated = stated_error(sampler)
        claims = [f"below {without:.2g}, without the file", *([f"{stated:.4g}, as in the file"] if stated else [])]
        # A file with one wrong number may still be better than none, but its error is another.
        agrees = stated is None or math.isclose(measured, stated, rel_tol=AGREES)
        yield Finding(
            f"ODE error on {model.name}, {steps} steps", "; ".join(claims), f"{measured:.4g}",
            measured < without and agrees,
        )  # fmt: skip

    return nearer


def stated_error(sampler: Sampler) -> float | None:
    """The error that the file of a sampler states; None where it states none."""
    known = sampler.known if isinstance(sampler, FromFile) else None
    return known.error if known else None


class Shipped(NamedTuple):
    """A file that came with a sampler: files/SAMPLER-MODEL.json beside its module."""

    sampler: str
    option: str
    path: Path

    @property
    def spec(self) -> str:
        """The sampler with the file."""
        return f'{self.sampler}:{self.option}="{self.path}"'

    @property
    def model(self) -> str:
        """The model that it was made for, by its name."""
        return self.path.stem.removeprefix(f"{self.sampler}-")


def shipped_with(name: str, registry: Registry) -> list[Shipped]:
    """The files that came with a registered sampler; [] for one without an option of type `File`."""
    cls, samplers = registry.samplers.things[name], registry.samplers.things
    home = getattr(sys.modules.get(cls.__module__), "__file__", None)
    keys = [key for key, option in options_of(cls).items() if option.kind is File]
    # foo-bar-mixture.json is of the sampler foo-bar, if there is one, and not of foo.
    longer = tuple(f"{other}-" for other in samplers if other.startswith(f"{name}-"))
    paths = sorted(Path(str(home)).with_name("files").glob(f"{name}-*.json")) if home and keys else []
    return [Shipped(name, key, path) for key in keys for path in paths if not path.name.startswith(longer)]


def as_it_came(sampler: Sampler, registry: Registry) -> list[Check]:
    """The checks of a sampler at its defaults with each of the files that came with it, on the model of each file."""
    names = [name for name, cls in registry.samplers.things.items() if cls is type(sampler)]
    shipped = [one for name in names for one in shipped_with(name, registry)]
    return [with_shipped_file(one, registry) for one in shipped] if shipped and sampler == type(sampler)() else []


def with_shipped_file(shipped: Shipped, registry: Registry) -> Check:
    """The check with one file; a model that is not registered, and a file that does not fit it, do not hold."""

    def shipped_file(_: Sampler, effort: Effort) -> Iterator[Finding]:
        findings = list(nearer_with_its_file(registry.model(shipped.model))(registry.sampler(shipped.spec), effort))
        if not findings:
            yield Finding(shipped.path.name, f"made for {shipped.model}", "made for another model or guidance", False)
        yield from (replace(finding, name=f"{finding.name}, {shipped.path.name}") for finding in findings)

    return shipped_file


def solution_of(model: Model) -> Tensor:
    """What stands for the ODE solution, from the noise of `error_of`."""
    sampler, steps, grid = SOLUTION
    return draw_from(model, sampler, steps, grid)


def error_of(sampler: Sampler | str, model: Model, grid: str | None, steps: int, solution: Tensor) -> float:
    """The root mean square distance of a sampler's samples from the ODE solution."""
    return float((draw_from(model, sampler, steps, grid) - solution).square().mean().sqrt())


def draw_from(model: Model, sampler: Sampler | str, steps: int, grid: str | None) -> Tensor:
    """Samples from one starting noise."""
    return sample(model, sampler, steps, n=SAMPLES, seed=SEED, grid=grid, batch_size=SAMPLES).x.double()

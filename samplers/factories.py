"""Factories of models, extractors and image data: which one a spec means, and whether it returned what it should."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from .catalogue import Catalogue
from .errors import InputError, ModelError, PluginError, closest
from .extractor import Extractor
from .image_data import ImageData
from .model import NAMELESS, Model
from .plugin import function_from_code

T = TypeVar("T")
PACKAGED = {
    "scenes": ("samplerbench_scenes", "pip install ./models/scenes"),
    "scenes-flow": ("samplerbench_scenes_flow", "pip install ./models/scenes ./models/scenes-flow"),
}
"""Models with a package of their own in the repository: its module, and what installs it."""


@runtime_checkable
class ReadsPaths(Protocol):
    """A factory that recognises its own files, so that a path alone is a spec, without "name:"."""

    def reads(self, path: Path) -> bool:
        """Whether it reads this file or folder, which exists."""
        ...


def factory_for(catalogue: Catalogue[T], spec: str) -> tuple[T, str]:
    """The factory that "name:argument" names or that reads the path given as the spec, with its argument.

    InputError for an unknown name, and for an existing path that no factory reads.
    """
    name, _, argument = spec.partition(":")
    path = Path(spec)
    # A registered name comes first: a file of that name in the current folder must not change what it means.
    if name not in catalogue.things and is_there(path):
        for thing in catalogue.things.values():
            if isinstance(thing, ReadsPaths) and thing.reads(path):
                return thing, spec
        what = "folder" if path.is_dir() else "file"
        raise InputError(
            f"{catalogue.kind} {spec!r}: a {what} that none of {', '.join(sorted(catalogue.things))} reads"
        )
    if name not in catalogue.things:
        raise catalogue.unknown(name, closest(name, catalogue.things) or " (and no such file or folder)")
    return catalogue[name], argument


def check_installed(catalogue: Catalogue[T], spec: str) -> None:
    """ModelError for a model whose package is not installed; one that is there and broken is told as others are."""
    name = spec.partition(":")[0]
    module, install = PACKAGED.get(name, ("", ""))
    if not install or name in catalogue.things or is_there(Path(spec)):
        return
    if any(module in str(broken.origin) for broken in catalogue.broken):
        return
    raise ModelError(f"model {name!r}: is not installed; `{install}` in the repository of samplerbench installs it")


def is_there(path: Path) -> bool:
    """Whether a path exists; False for an invalid one, such as one that is too long."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def accepted_settings(factory: Callable[..., object]) -> tuple[str, ...]:
    """The settings that the factory of a model or an engine accepts, in addition to its argument."""
    # Settings are keyword-only, so that the argument behind the colon is never taken for one.
    return tuple(p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY)


def refuse_settings(what: str, given: Iterable[str], accepted: Sequence[str]) -> None:
    """InputError for a setting that the model does not accept."""
    for name in given:
        if name not in accepted:
            raise InputError(f"{what}: has no {name}; settings of this model: {', '.join(accepted) or 'none'}")


def as_extractors(made: object, spec: str) -> Mapping[str, Extractor]:
    """The extractors that a factory returned; PluginError if it returned anything else."""
    if not isinstance(made, Mapping):
        raise PluginError(
            f"extractor {spec!r}: returned a {type(made).__name__}; expected a dict of Extractors by role"
        )
    for role, extractor in made.items():
        if not isinstance(extractor, Extractor):
            raise PluginError(
                f"extractor {spec!r}: returned a {type(extractor).__name__} as {role!r}; expected an Extractor"
            )
    return made


def as_data(made: object, spec: str) -> ImageData:
    """The image data that a factory returned; PluginError if it returned anything else."""
    if not isinstance(made, ImageData):
        raise PluginError(f"data {spec!r}: returned a {type(made).__name__}; expected an ImageData")
    # An annotation in the class makes no attribute, so its absence shows only here.
    if not hasattr(made, "name"):
        raise PluginError(f"data {spec!r}: {type(made).__name__} does not say its name; expected an attribute `name`")
    return made


def as_model(made: object, spec: str) -> Model:
    """The model that a function or a factory returned; ModelError if it returned anything else."""
    if not isinstance(made, Model):
        raise ModelError(
            f"model {spec!r}: returned a {type(made).__name__}; expected a Model, as samplerbench.wrap_network returns"
        )
    return made


def name_model(model: Model, spec: str) -> Model:
    """The model, named after its spec if its author gave it no name."""
    return dataclasses.replace(model, name=spec) if model.name == NAMELESS else model


def model_from_code(spec: str) -> Model | None:
    """What the function of "file.py:function" or "module:function" returns; None if there is no such module."""
    make = function_from_code(spec, f"model {spec!r}")
    if make is None:
        return None
    # Named as on the command line, so that a table says which code made the row.
    return dataclasses.replace(as_model(make(), spec), name=spec)

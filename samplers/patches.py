"""Undo monkey patches: a plugin that replaces a function of torch, NumPy or this package would change all results."""

from __future__ import annotations

import builtins
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

PREFIX = f"{__name__.partition('.')[0]}."
TORCH = f"{Path(torch.__file__).parent}/"
WATCHED: tuple[ModuleType, ...] = (
    torch, torch.nn, torch.nn.functional, torch.linalg, torch.fft, torch.special, np, np.linalg, math, random, time,
    builtins,
)  # fmt: skip
"""Modules that are watched, in addition to the loaded modules of this package."""
Owner = ModuleType | type


@dataclass(frozen=True)
class Place:
    """A module or a class, with what its names stood for at one moment."""

    owner: Owner
    name: str
    was: dict[str, Any]
    """Each name with what it stood for."""

    def replaced(self) -> list[str]:
        """The names that now stand for another function, method or class, or that now hide an inherited one."""
        now = vars(self.owner)
        others = [name for name, thing in self.was.items() if now.get(name) is not thing and _is_code(thing)]
        if isinstance(self.owner, type) and len(now) > len(self.was):
            # A method added to a class hides the inherited one, although nothing was replaced.
            new = [name for name in now if name not in self.was and _is_code(now[name])]
            others += [name for name in new if hasattr(self.owner.__base__, name)]
        return [name for name in others if not _is_of_torch(now.get(name))]

    def put_back(self, name: str) -> None:
        """Let a name stand again for what it stood for."""
        if name in self.was:
            setattr(self.owner, name, self.was[name])
        else:
            delattr(self.owner, name)


def functions_now() -> list[Place]:
    """Each watched module and class, with what its names stand for now."""
    return [Place(owner, name, dict(vars(owner))) for name, owner in _owners()]


def put_back_functions(before: list[Place]) -> list[str]:
    """Put back whatever was replaced since; return its names, such as "torch.add"."""
    found = [(place, name) for place in before for name in place.replaced()]
    for place, name in found:
        place.put_back(name)
    return [f"{place.name}.{name}" for place, name in found]


def _owners() -> Iterator[tuple[str, Owner]]:
    own = [module for name, module in list(sys.modules.items()) if name.startswith(PREFIX)]
    for module in (*WATCHED, *own):
        yield module.__name__, module
    # Classes too, because a plugin may replace a method such as `forward`.
    for module in (torch.nn, *own):
        for name, thing in list(vars(module).items()):  # another thread may import meanwhile
            if isinstance(thing, type) and (module is torch.nn or thing.__module__ == module.__name__):
                yield f"{module.__name__}.{name}", thing
    yield "torch.Tensor", torch.Tensor


def _is_code(thing: object) -> bool:
    return callable(thing) or isinstance(thing, property | classmethod)


def _is_of_torch(thing: object) -> bool:
    """Whether a function or a class is torch's own. torch itself replaces some names when more of it is imported, and
    the default dtype decides what torch.Storage is."""
    if isinstance(thing, type):
        return f"{thing.__module__}.".startswith("torch.")
    return isinstance(thing, FunctionType) and thing.__code__.co_filename.startswith(TORCH)

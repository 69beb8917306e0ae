"""Undo monkey patches: a plugin that replaces a function of torch, NumPy or this package would change all results."""

from __future__ import annotations

import builtins
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
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

    def replaced_names(self) -> list[str]:
        """The names that now stand for another function, method or class, or that now hide an inherited one."""
        now = vars(self.owner)
        # By identity: a replaced function may compare equal to the old one.
        others = [name for name, thing in self.was.items() if now.get(name) is not thing and _is_code(thing)]
        if isinstance(self.owner, type) and len(now) > len(self.was):
            # A method added to a class hides the inherited one, although nothing was replaced.
            new = [name for name in now if name not in self.was and _is_code(now[name])]
            others += [name for name in new if hasattr(self.owner.__base__, name)]
        # torch replaces names of its own when more of it is imported, which is no plugin's doing.
        return [name for name in others if not _is_of_torch(now.get(name))]

    def put_back(self, name: str) -> None:
        """Let a name stand again for what it stood for."""
        if name in self.was:
            setattr(self.owner, name, self.was[name])
        else:
            delattr(self.owner, name)


class Functions:
    """What every name of the watched modules and classes stands for at one moment."""

    def __init__(self) -> None:
        self.modules = _own_modules()
        self.places = [Place(owner, name, dict(vars(owner))) for name, owner in _owners(self.modules)]
        # Both stay in step with what a module or a class holds.
        self.spaces = [vars(place.owner) for place in self.places]
        self.values = [space.values() for space in self.spaces]
        self.names = list(chain.from_iterable(place.was for place in self.places))
        self.things = list(chain.from_iterable(place.was.values() for place in self.places))

    def are_unchanged(self) -> bool:
        """Whether each name stands for the same thing still.

        There are 18,000, and this is asked around each call of a plugin: so no line of Python runs for each.
        """
        if list(chain.from_iterable(self.spaces)) != self.names:
            return False
        try:
            # Comparing lists is three times as fast as asking `is` of each pair: equal pointers are not looked into.
            return list(chain.from_iterable(self.values)) == self.things
        except Exception:  # another thing, as an array, that cannot be compared
            return False


_seen: list[Functions] = []
"""What `functions_now` saw last: to see that nothing has changed since is faster than to look at everything again."""


def functions_now() -> Functions:
    """What every name of the watched modules and classes stands for now."""
    if not _seen or _seen[0].modules != _own_modules() or not _seen[0].are_unchanged():
        _seen[:] = [Functions()]
    return _seen[0]


def put_back_functions(before: Functions) -> list[str]:
    """Put back whatever was replaced since; return its names, such as "torch.add"."""
    if before.are_unchanged():
        return []
    # All are found first: to put one back changes what the next class inherits.
    found = [(place, name) for place in before.places for name in place.replaced_names()]
    for place, name in found:
        place.put_back(name)
    return [f"{place.name}.{name}" for place, name in found]


_loaded: list[str] = []
"""The names of all modules when `_own_modules` last looked through them; there may be thousands."""
_own: list[str] = []
"""Those of this package among them."""


def _own_modules() -> list[ModuleType]:
    names = list(sys.modules)
    if names != _loaded:
        _loaded[:] = names
        _own[:] = [name for name in names if name.startswith(PREFIX)]
    return [module for name in _own if (module := sys.modules.get(name))]


def _owners(own: list[ModuleType]) -> Iterator[tuple[str, Owner]]:
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

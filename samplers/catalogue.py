"""A catalogue: the things of one kind that plugins registered, by name, each checked as it comes in."""

from __future__ import annotations

import dataclasses
import inspect
import re
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .errors import InputError, PluginError, SamplerbenchError, closest
from .options import option_fault
from .plugin import Broken, Origin

T = TypeVar("T")
NAME = re.compile(r"[a-z0-9][a-z0-9+._-]{0,63}")


@dataclass
class Catalogue(Generic[T]):
    """The registered things of one kind, such as samplers, by name."""

    kind: str
    base: type = object
    """The base class of every thing; object = any callable will do."""
    things: dict[str, T] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)
    """Broken plugins, which may hold a name that is missing here."""

    def add(self, name: str, thing: T, origin: Origin) -> None:
        """Register a thing under a name; PluginError if the name is taken or invalid, or the thing does not fit."""
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise PluginError(
                f"{self.kind} name {str(name)[:80]!r} from {origin}: expected lower-case letters, digits and + . _ -, "
                "at most 64 characters"
            )
        if fault := why_unfit(thing, self.base):
            raise PluginError(f"{self.kind} {name!r} from {origin}: {fault}")
        # The last one to come must not win: which one that is would depend on what else is installed.
        if name in self.things:
            raise PluginError(f"{self.kind} {name!r} is registered twice: by {self.origins[name]} and by {origin}")
        self.things[name], self.origins[name] = thing, origin

    def __getitem__(self, name: str) -> T:
        """The thing of that name; the error of `unknown` if it is missing."""
        if name not in self.things:
            raise self.unknown(name)
        return self.things[name]

    def spelt_like(self, name: str) -> str:
        """The registered name that differs from this one in case, spaces, underscores and dashes only; else ''."""
        return next((taken for taken in self.things if loosely(taken) == loosely(name)), "")

    def unknown(self, name: str, near: str | None = None) -> SamplerbenchError:
        """The error for an unknown name, with the closest name, the list, and the plugins that failed to load.

        `near` replaces the hint at the closest registered name.
        """
        if near is None:
            near = " (one name, not a list)" if "," in name else closest(name, self.things)
        unknown = f"unknown {self.kind} {name!r}{near}"
        listed = f"there are: {', '.join(sorted(self.things))}"
        # A name may be missing because its plugin is broken: then the error says that.
        if not self.broken:
            return InputError(f"{unknown}; {listed}")
        reasons = "; ".join(f"{b.origin} ({b.reason})" for b in self.broken)
        return PluginError(f"{unknown}; it may be of a plugin that is broken: {reasons}; {listed}")


def why_unfit(thing: object, base: type) -> str:
    """Why a plugin's hook may not return this thing, '' if it may; `base` object = any callable will do."""
    if base is object:
        return "" if callable(thing) else f"{str(thing)[:80]!r}; expected a callable"
    if not (isinstance(thing, type) and issubclass(thing, base)):
        return f"{str(thing)[:80]!r}; expected a concrete subclass of {base.__name__}"
    if inspect.isabstract(thing):
        missing = ", ".join(sorted(getattr(thing, "__abstractmethods__")))  # noqa: B009
        return f"{thing.__name__} lacks {missing}; expected a concrete subclass of {base.__name__}"
    # Annotations without a value in the base class are attributes that a subclass must set.
    if unsaid := [name for name in inspect.get_annotations(base) if not hasattr(thing, name)]:
        return f"{thing.__name__} does not say its {', '.join(unsaid)}; expected class attributes of these names"
    # Called with the arguments of the base class, the plugin's method must accept them.
    for method in sorted(getattr(base, "__abstractmethods__", ())):
        expected, given = (inspect.signature(getattr(cls, method)) for cls in (base, thing))
        try:
            given.bind(*expected.parameters)
        except TypeError:
            return f"{method}({', '.join(given.parameters)}); expected {method}({', '.join(expected.parameters)})"
    return option_fault(thing) if dataclasses.is_dataclass(thing) else ""


def loosely(name: str) -> str:
    """A name without case, spaces, underscores and dashes, by which spellings of one name are equal."""
    return re.sub(r"[\s_-]+", "", name.lower())

"""The arguments of `samplerbench.run`: their checks, and the settings that they give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from ...samplers.arguments import check_texts
from ...samplers.errors import InputError, quote
from ...samplers.model import Model
from .config import Config
from .settings import CONDUCT, SETTINGS, Kind

T = TypeVar("T", str, int)
ACCEPTED: Mapping[Kind, tuple[tuple[type, ...], str]] = {
    "name": ((str,), "a name"),
    "text": ((str, NoneType), "a text"),
    "path": ((str, Path, NoneType), "a text or a path"),
    "flag": ((bool,), "True or False"),
    "switch": ((bool, NoneType), "True, False or None"),
    "amount": ((int, float, NoneType), "a number above 0"),
    "workers": ((int, str, NoneType), "a whole number from 1, or 'gpus'"),
    "interval": ((list, tuple, NoneType), "low and high in a pair"),
    "counts": ((int, list, tuple, range), "a whole number, or several in a list"),
}
"""The types that an argument of each kind accepts, and their name in errors. Numbers are checked by Config."""
MODEL = ((str, Model), "a name or a Model")
PLACES: dict[str, Kind] = {"output": "path", "plugins": "list"}
"""The arguments that are not settings: where a run is stored, and what is loaded for it."""


def check_arguments(given: Mapping[str, object]) -> None:
    """InputError for an argument of a wrong type; its value is checked by Config."""
    # A list of texts is checked text by text, all else by its type.
    kinds = {one.keyword: one.kind for one in (*SETTINGS, *CONDUCT) if one.keyword} | PLACES
    for name, kind in kinds.items():
        value = given[name]
        if kind in ("list", "file"):
            if not isinstance(value, str) and not (kind == "file" and value is None):
                check_texts(name, value)
            continue
        accepted, expected = MODEL if name == "model" else ACCEPTED.get(kind, ((object,), ""))
        is_left_out = name == "nfe" and value is None
        if not (isinstance(value, accepted) or is_left_out) or (kind == "amount" and isinstance(value, bool)):
            raise InputError(f"{name} {quote(value)}: expected {expected}")


def config_of(given: Mapping[str, Any]) -> Config:
    """The settings in the arguments."""
    settings = {one.name: value_of(one.kind, given[one.keyword]) for one in SETTINGS if one.keyword}
    # Budgets replace the step counts, whose default would otherwise stand beside them and be refused.
    if settings["nfe"] is None:
        settings["nfe"] = ()
    elif settings["steps"] == Config.steps:  # left out; others are refused beside budgets
        settings["steps"] = ()
    return Config(**settings)


def value_of(kind: Kind, given: Any) -> Any:
    """The value of a setting from an argument: a Model's name, a path as text, a single thing as a tuple of one."""
    if given is None:
        return None
    if kind in ("list", "counts", "file"):
        return several(given)
    return given.name if isinstance(given, Model) else str(given) if kind == "path" else given


def conduct_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that say how to carry out the run, by the names of the settings."""
    return {one.name: given[one.keyword] for one in CONDUCT if one.keyword}


def several(given: T | Iterable[T]) -> tuple[T, ...]:
    """One text or number, or several of them, as a tuple."""
    return (given,) if isinstance(given, (str, int)) else tuple(given)

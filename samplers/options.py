"""Options: the fields of a dataclass, given by name as text or as values; "name:option=value" specs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeGuard, TypeVar, get_args, get_origin, get_type_hints

from .errors import InputError, PluginError, SamplerbenchError, closest, shown, text_of, told

T = TypeVar("T")
OPTION_TYPES = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """ "name:option=value,option=value" -> the name and the options as text."""
    name, _, rest = spec.strip().partition(":")
    options: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InputError(f"{spec!r}: {part!r}; expected name:option=value,option=value")
        if key in options:
            raise InputError(f"{spec!r}: option {key!r} is given twice")
        options[key] = value.strip()
    if not name:
        raise InputError(f"{spec!r}: expected a name, as in ddim:eta=0.5")
    return name, options


def construct(cls: type[T], what: str, options: Mapping[str, object]) -> T:
    """An object of a dataclass from its options, given as text or as values."""
    known = options_of(cls)
    for key in options:
        if key not in known:
            accepted = ", ".join(f"{name} ({accepts(o.kind)})" for name, o in known.items()) or "none"
            raise InputError(f"{what}: unknown option {key!r}{closest(key, known)}; options: {accepted}")
    values = {
        known[key].field: _value(value, known[key].kind, f"{what}: option {key}") for key, value in options.items()
    }
    try:
        return cls(**values)
    except SamplerbenchError:
        raise
    except ValueError as error:  # how a dataclass of anyone's refuses its options
        raise InputError(f"{what}: {text_of(error)}") from error
    except (Exception, SystemExit) as error:
        raise PluginError(f"{what}: {told(error)}") from error


@contextmanager
def at_fault(what: str) -> Iterator[None]:
    """What a plugin's method raises, but for errors that are meant for the user, is its fault, by name."""
    try:
        yield
    except SamplerbenchError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{what} raised {told(error)}") from error


class Option(NamedTuple):
    """An option of a sampler, grid or metric: a field of its dataclass."""

    field: str
    """The field's name: the option's, with an underscore after it where a method or Python has the name already."""
    kind: Any
    """The type of its values."""
    default: object


def options_of(cls: type) -> dict[str, Option]:
    """The options of a dataclass by name."""
    hints = get_type_hints(cls)
    return {f.name.removesuffix("_"): Option(f.name, hints[f.name], f.default) for f in dataclasses.fields(cls)}


def check_count(name: str, value: object, most: int = 10**9) -> int:
    """A whole number from 1 to `most`, or an error that names the field."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InputError(f"{name} {shown(value)}: expected a whole number from 1 to {most}")
    return value


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number that a float can hold, infinity included; true, false and NaN are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return not math.isnan(float(value))
    except OverflowError:  # a whole number of more than 308 digits
        return False


def accepts(kind: Any) -> str:
    """What an option of this type may be, in words."""
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    return OPTION_TYPES.get(kind, getattr(kind, "__name__", str(kind)))


def _value(given: object, kind: Any, what: str) -> object:
    """The option's value, converted from text where it is text."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        match = next((c for c in choices if str(c) == str(given)), None)
        if match is None:
            raise InputError(f"{what} {given!r}: expected one of {', '.join(map(str, choices))}")
        return match
    try:
        if kind is bool and isinstance(given, str):
            return {"true": True, "false": False}[given.lower()]
        if isinstance(given, kind) and not (isinstance(given, bool) and kind is not bool):
            return given
        if isinstance(given, bool) or (kind is int and isinstance(given, float)):
            raise ValueError
        value = kind(given)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what} {shown(given)}: expected {accepts(kind)}") from error
    return value


def describe_options(cls: type) -> str:
    """ "eta=0.0 variance=small|large", the defaults first, for listings."""
    parts = []
    for name, option in options_of(cls).items():
        choices = [str(c) for c in get_args(option.kind)] if get_origin(option.kind) is Literal else []
        default = str(option.default)
        parts.append(f"{name}={'|'.join([default, *(c for c in choices if c != default)])}")
    return " ".join(parts)


def option_fault(cls: type) -> str:
    """Why the options of a dataclass cannot be given on a command line, '' if they can."""
    own = [name for name in vars(cls).get("__annotations__", {}) if name in get_type_hints(cls)]
    if own and "__dataclass_params__" not in vars(cls):
        return f"{cls.__name__} has options ({', '.join(own)}); expected @dataclass(frozen=True) above it"
    for name, option in options_of(cls).items():
        if get_origin(option.kind) is not Literal and option.kind not in OPTION_TYPES:
            return f"option {name} is of type {option.kind}; expected int, float, bool, str or Literal"
        if option.default is dataclasses.MISSING:
            return f"option {name} has no default; expected one"
    return ""

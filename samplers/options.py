"""Options: the fields of a dataclass, given by name as text or as values; "name:option=value" specs."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from io import BufferedReader
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, TypeGuard, TypeVar, get_args, get_origin, get_type_hints

from .errors import InputError, PluginError, SamplerbenchError, closest, describe_error, pass_on, quote, text_of

T = TypeVar("T")
MOST_BYTES = 1 << 30
"""Most bytes of a file that an option names, since it is held in memory."""
COMMA = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*$)')
"""A comma outside of quotes: an even number of quotes follows it."""


class File:
    """A file that an option names, read once: the bytes whose SHA-256 belongs to a result are those that are used.

    An option of this type is a field `table: File | None = None`, given as `-s name:table=weights.json` or as a path.
    InputError for a path that is no file, cannot be read or holds more than 1 GiB. Two are equal if their bytes are.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not os.fspath(path):
            raise InputError("file '': is empty; expected the path of a file")
        self.path = Path(path)
        self._content = content_of(self.path)

    def read_bytes(self) -> bytes:
        """The content, as it was when the option was read."""
        return self._content

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the content, in hexadecimal."""
        return hashlib.sha256(self._content).hexdigest()

    def __eq__(self, other: object) -> bool:
        """Whether the bytes are the same, wherever they were read."""
        return isinstance(other, File) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        """The hash of the bytes."""
        return hash(self.sha256)

    def __repr__(self) -> str:
        """File('weights.json')."""
        return f"File({str(self.path)!r})"

    def __str__(self) -> str:
        """The path, as a spec gives it."""
        return str(self.path)


OPTION_TYPES = {
    int: "a whole number", float: "a finite number", bool: "true or false", str: "a text", File: "a file",
}  # fmt: skip


def content_of(path: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a file. InputError at once for a pipe or a device, an unreadable file, and one over `most` bytes."""
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = b"" if size > most else file.read(most + 1)
    except (OSError, ValueError) as error:  # a path with a zero byte in it is a ValueError
        reason = (error.strerror or error) if isinstance(error, OSError) else error
        raise InputError(f"file {str(path)!r}: cannot be read ({reason}); expected the path of a file") from error
    # A file may grow after its size was read, so the bytes that were read count too.
    if size > most or len(content) > most:
        raise InputError(f"file {str(path)!r}: holds more than {most:,} bytes; expected a smaller file")
    return content


def open_file(path: Path) -> BufferedReader:
    """A file, open for reading; an OSError at once for a folder, a pipe or a device."""
    # Without O_NONBLOCK the opening of a pipe waits for a writer.
    # And O_NOCTTY keeps a terminal from becoming that of this process.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError("a folder, pipe or device")


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """ "name:option=value,option=value" -> the name and the options as text; a value with a comma stands in quotes."""
    name, _, rest = spec.strip().partition(":")
    options: dict[str, str] = {}
    # Quotes protect commas below, so an odd one would swallow the rest.
    if rest.count('"') % 2:
        raise InputError(f'{spec!r}: a " without its other; expected name:option="value"')
    # Empty parts, as of a comma at the end, are ignored.
    for part in filter(None, (p.strip() for p in COMMA.split(rest))):
        key, equals, value = (text.strip() for text in part.partition("="))
        if not equals or not key:
            quoted = f'; a value that has a comma stands in quotes: {list(options)[-1]}="A,B"' if options else ""
            raise InputError(f"{spec!r}: {part!r}; expected name:option=value,option=value{quoted}")
        if key in options:
            raise InputError(f"{spec!r}: option {key!r} is given twice")
        options[key] = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    if not name:
        raise InputError(f"{spec!r}: expected a name, as in ddim:eta=0.5")
    return name, options


def construct(cls: type[T], what: str, options: Mapping[str, object]) -> T:
    """An object of a dataclass from its options, given as text or as values."""
    # Unknown names first: the message lists all options with what they accept.
    known = options_of(cls)
    for key in options:
        if key not in known:
            accepted = ", ".join(f"{name} ({accepts(o.kind)})" for name, o in known.items()) or "none"
            raise InputError(f"{what}: unknown option {key!r}{closest(key, known)}; options: {accepted}")
    # An option and its field differ by an underscore where Python or a method has the name.
    values = {
        known[key].field: _value(value, known[key].kind, f"{what}: option {key}") for key, value in options.items()
    }
    try:
        return cls(**values)
    except SamplerbenchError:
        raise
    except ValueError as error:  # a stranger's dataclass refuses its options so
        raise InputError(f"{what}: {text_of(error)}") from error
    except BaseException as error:
        pass_on(error)
        raise PluginError(f"{what}: {describe_error(error)}") from error


@contextmanager
def at_fault(what: str) -> Iterator[None]:
    """Turn what a plugin's method raises into a PluginError that names it, except errors meant for the user."""
    try:
        yield
    except SamplerbenchError:
        raise
    except BaseException as error:
        pass_on(error)
        raise PluginError(f"{what} raised {describe_error(error)}") from error


class Option(NamedTuple):
    """An option of a sampler, grid or metric: a field of its dataclass."""

    field: str
    """The name of the field: that of the option, with an underscore after it where a method or Python uses the name."""
    kind: Any
    """The type of its values."""
    default: object


def options_of(cls: type) -> dict[str, Option]:
    """The options of a dataclass by name."""
    hints = hints_of(cls)
    return {
        f.name.removesuffix("_"): Option(f.name, _without_none(hints[f.name]), f.default)
        for f in dataclasses.fields(cls)
    }


def _without_none(kind: Any) -> Any:
    """File for File | None, the only type of option that may be None."""
    return File if set(get_args(kind)) == {File, NoneType} else kind


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """The types of a class's fields, cached because each cell of a plan asks for them."""
    return get_type_hints(cls)


def check_count(name: str, value: object, most: int = 10**9) -> int:
    """The value if it is a whole number from 1 to `most`, else an error that names the field."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InputError(f"{name} {quote(value)}: expected a whole number from 1 to {most}")
    return value


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number that a float can hold, infinity included; a boolean or NaN is not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return not math.isnan(float(value))
    except OverflowError:  # a whole number of more than 308 digits
        return False


def accepts(kind: Any) -> str:
    """The values that an option of this type accepts, in words."""
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    # A type that is in no list is a plugin's mistake, which `option_fault` names; here it only must not fail.
    return OPTION_TYPES.get(kind, getattr(kind, "__name__", str(kind)))


def _value(given: object, kind: Any, what: str) -> object:
    """The value of an option; a text is converted."""
    # Choices may be numbers; a command line gives them as text.
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        match = next((c for c in choices if str(c) == str(given)), None)
        if match is None:
            raise InputError(f"{what} {given!r}: expected one of {', '.join(map(str, choices))}")
        return match
    if kind is File:
        return _file(given, what)
    try:
        if kind is bool and isinstance(given, str):
            return {"true": True, "false": False}[given.lower()]
        if isinstance(given, kind) and not (isinstance(given, bool) and kind is not bool):
            return given
        # A boolean is an int in Python, and int(2.5) would drop a part: neither is converted.
        if isinstance(given, bool) or (kind is int and isinstance(given, float)):
            raise ValueError
        value = kind(given)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what} {quote(given)}: expected {accepts(kind)}") from error
    return value


def _file(given: object, what: str) -> File | None:
    """The file at a path; None stays None."""
    if given is None or isinstance(given, File):
        return given
    if not isinstance(given, str | os.PathLike):
        raise InputError(f"{what} {given!r}: expected the path of a file")
    try:
        return File(given)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error


def describe_options(cls: type) -> str:
    """ "eta=0.0 variance=small|large", the defaults first, for listings."""
    parts = []
    for name, option in options_of(cls).items():
        choices = [str(c) for c in get_args(option.kind)] if get_origin(option.kind) is Literal else []
        default = str(option.default)
        parts.append(f"{name}={'|'.join([default, *(c for c in choices if c != default)])}")
    return " ".join(parts)


def option_fault(cls: type) -> str:
    """Why the options of a dataclass cannot be given on a command line; '' if they can."""
    # Without the decorator the annotations would silently be no options.
    own = [name for name in vars(cls).get("__annotations__", {}) if name in hints_of(cls)]
    if own and "__dataclass_params__" not in vars(cls):
        return f"{cls.__name__} has options ({', '.join(own)}); expected @dataclass(frozen=True) above it"
    for name, option in options_of(cls).items():
        if get_origin(option.kind) is not Literal and option.kind not in OPTION_TYPES:
            return f"option {name} is of type {option.kind}; expected int, float, bool, str, Literal or File | None"
        if option.default is dataclasses.MISSING:
            return f"option {name} has no default; expected one"
    return ""

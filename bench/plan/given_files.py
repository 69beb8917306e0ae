"""Files that a user gives to a command: prompts, and settings in TOML."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...samplers.errors import InputError, closest
from .settings import Kind

SHOWN = 80
"""Characters of a wrong value that an error repeats."""
FLAGS: tuple[Kind, ...] = ("flag", "switch")
IN_TOML: Mapping[Kind, str] = {
    **dict.fromkeys(FLAGS, "true or false"), "whole": "a whole number", "number": "a number", "amount": "a number",
    "list": "a text or a list of texts", "counts": "a number or a list of numbers",
    "numbers": "a number or a list of numbers", "interval": "a list of two numbers",
}  # fmt: skip
"""What a TOML file may give for a setting of each kind; a setting of any other kind is a text."""


def read_prompts(path: Path) -> tuple[str, ...]:
    """One prompt a line; blank lines are left out."""
    prompts = tuple(line.strip() for line in read_text("prompts", path).splitlines() if line.strip())
    if not prompts:
        raise InputError(f"prompts {path}: no prompt in it; expected one a line")
    return prompts


def read_text(what: str, path: Path) -> str:
    """The text of a UTF-8 file, a pipe or a terminal, with or without a byte order mark."""
    try:
        content = read_bytes(what, path)
        return content.removeprefix(BOM_UTF8).decode()
    except (OSError, ValueError) as error:  # a path with a zero byte in it is a ValueError
        if isinstance(error, UnicodeDecodeError):
            text = content.removeprefix(BOM_UTF8)
            line, byte = text.count(b"\n", 0, error.start) + 1, text[error.start]
            raise InputError(
                f"{what} {path}, line {line}: byte {byte:#04x} is not UTF-8; save the file as UTF-8"
            ) from error
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{what} {path}: cannot be read ({reason})") from error


def read_bytes(what: str, path: Path) -> bytes:
    """All bytes of a file, a pipe with a writer, or a terminal; InputError for anything that may never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)  # else it would wait for a pipe's writer
    try:
        # By the open file, which nobody can exchange any more.
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or os.isatty(descriptor)):
            raise InputError(f"{what} {path}: a folder or device; expected a file or a pipe")
        with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
            start = file.read(1)  # None = nothing yet, from a writer that is there; nothing at all = no writer
            if start == b"" and stat.S_ISFIFO(mode):
                raise InputError(
                    f"{what} {path}: a pipe with nothing in it that nobody writes to; expected a file, or a pipe with "
                    "a writer"
                )
            os.set_blocking(descriptor, True)
            return (start or b"") + file.read()
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class ConfigFile:
    """The settings in a TOML file."""

    path: Path
    settings: dict[str, Any]
    """The values as the command line would give them, by the names of its long options, with _ for -."""

    def __str__(self) -> str:
        """How an error names the file."""
        return f"config {self.path}"


def read_toml(path: Path, accepted: Mapping[str, Kind]) -> ConfigFile:
    """The settings in a TOML file; keys are the long options, with - or _, and `accepted` says the kind of each."""
    text = read_text("config", path)
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError too of a number that Python does not read
        raise InputError(f"config {path}: cannot be read as TOML: {error}") from error
    settings = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in accepted:
            known = sorted(accepted)
            raise InputError(
                f"config {path}: unknown setting {key!r}{closest(name, known)}; settings: {', '.join(known)}"
            )
        try:
            settings[name] = _as_option(key, value, accepted[name])
        except (ValueError, RecursionError) as error:  # what Python does not write has no words of its own
            reason = error if isinstance(error, InputError) else f"{key}: {error}"
            raise InputError(f"config {path}: {reason}") from error
    return ConfigFile(path, settings)


def _as_option(key: str, value: object, kind: Kind) -> bool | str | list[str]:
    """A TOML value as the command line would give it; InputError for a value of another kind."""

    def is_scalar(thing: object) -> bool:
        return isinstance(thing, (int, float, str)) and not isinstance(thing, bool)

    # true and false are for flags only: as a number, true would be read as 1.
    if kind in FLAGS and isinstance(value, bool):
        return value
    if kind not in FLAGS and is_scalar(value):
        return [str(value)] if kind == "list" else str(value)
    if (
        kind in ("list", "counts", "numbers", "interval")
        and isinstance(value, list)
        and all(is_scalar(v) for v in value)
    ):
        return [str(v) for v in value] if kind == "list" else ",".join(map(str, value))
    raise InputError(f"{key} = {_as_toml(value)}; expected {IN_TOML.get(kind, 'a text')}")


def _as_toml(value: object) -> str:
    """A value about as the file writes it."""
    shown = json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, (bool, list, dict)) else str(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."

"""The settings of a run, checked for themselves; what needs the registry is checked by the plan."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from codecs import BOM_UTF8
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from ...samplers.errors import InputError, closest
from ...samplers.model import parse_size
from ...samplers.options import check_count
from ...samplers.predictor import check_batch_size
from ...samplers.sample import check_guidance_calls
from ...samplers.sampler import MAX_STEPS

LATER = ("size", "clip_skip", "extractor", "reference", "guidance_calls")
"""Settings that runs of the first versions did not have."""
ADDABLE = ("sampler", "steps", "nfe")
"""Settings to which a run that is there may be given more."""
MOST_LAYERS = 100
SHOWN = 80
"""Characters of a wrong value that an error repeats."""
LONG_NUMBER = 4096
"""Bits of a number that is written in hexadecimal: decimal takes time that grows with the square."""
LARGEST_WHOLE = 2**53
"""Up to this a whole number is a float too."""
DEFAULT_SAMPLERS = ("ddpm", "ddim", "dpm-solver", "euler-a")


@dataclass(frozen=True)
class Config:
    """What to compare, on what, how."""

    model: str = "fashion-mnist"
    sampler: tuple[str, ...] = DEFAULT_SAMPLERS
    """Spec strings, in the order of the table."""
    steps: tuple[int, ...] = (5, 10, 20)
    """Step counts; empty if `nfe` is given."""
    nfe: tuple[int, ...] = ()
    """Budgets of predictor calls; each sampler takes the most steps that fit."""
    samples: int = 512
    """Images of each cell."""
    seed: int = 0
    batch_size: int | None = None
    """Rows of a network call; None = the model's own."""
    grid: str | None = None
    """None = the schedule's default; a sampler's spec may name its own."""
    guidance: float = 1.0
    guidance_rescale: float = 0.0
    guidance_calls: int = 1
    """Network calls of a guided evaluation: 1 for the rows with the prompt and without together, 2 in turn."""
    prompts: tuple[str, ...] | None = None
    """None = the model's own balanced captions."""
    negative: str | None = None
    metric: tuple[str, ...] = ("fid", "clip_score")
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    """CPU threads of torch; None = as many as torch takes by itself."""
    keep_images: bool | None = None
    """Keep every image, not only the first 16 of each cell; None = if they are at most 64 x 64."""
    size: str | None = None
    """Of the images, "512" or "512x768" (width x height); None = the model's own."""
    clip_skip: int | None = None
    """Layers left out at the end of the text encoder; None = the model's own."""
    extractor: tuple[str, ...] = ()
    """What metrics read, in place of the model's own; a later one takes the place of an earlier one."""
    reference: str | None = None
    """What the metrics compare with, in place of the model's own."""

    def __post_init__(self) -> None:
        """Check what can be checked without a model; guidance 3 is guidance 3.0, to the plan's key too."""
        for name in ("guidance", "guidance_rescale"):
            if type(value := getattr(self, name)) is int and abs(value) <= LARGEST_WHOLE:
                object.__setattr__(self, name, float(value))
        if not self.sampler:
            raise InputError("sampler: none given; expected at least one, as in -s ddim")
        for name, numbers in (("steps", self.steps), ("nfe", self.nfe)):
            for number in numbers:
                check_count(name, number, MAX_STEPS)
            if len(set(numbers)) < len(numbers):
                raise InputError(f"{name} {','.join(map(str, numbers))}: a number is given twice")
        if bool(self.steps) == bool(self.nfe):
            raise InputError("steps and nfe: expected one of them, as in --steps 5,10,20 or --nfe 10,20")
        if len(set(self.sampler)) < len(self.sampler):
            raise InputError(f"sampler {', '.join(self.sampler)}: one is given twice")
        check_count("samples", self.samples)
        if self.batch_size is not None:
            check_batch_size(self.batch_size)
        check_guidance_calls(self.guidance_calls)
        if self.threads is not None:
            check_count("threads", self.threads, 4096)
        settings_of_model(self.size, self.clip_skip)

    @property
    def counts(self) -> tuple[int, ...]:
        """The budgets of model calls, or the step counts."""
        return self.nfe or self.steps

    @property
    def model_settings(self) -> dict[str, object]:
        """What is given of the settings that are the model's own."""
        return settings_of_model(self.size, self.clip_skip)


def settings_of_model(size: str | None, clip_skip: int | None) -> dict[str, object]:
    """What is given of the settings that are a model's own, checked."""
    if size is not None:
        parse_size(size)
    if clip_skip is not None:
        check_count("clip_skip", clip_skip, MOST_LAYERS)
    return {name: value for name, value in (("size", size), ("clip_skip", clip_skip)) if value is not None}


def parse_counts(name: str, text: str) -> tuple[int, ...]:
    """ "5,10,20" -> (5, 10, 20); plain decimal whole numbers alone."""
    counts = []
    for part in text.split(","):
        number = part.strip()
        if not number.isascii() or not number.isdigit() or (len(number) > 1 and number[0] == "0") or len(number) > 12:  # noqa: PLR2004
            which = f"{part[:SHOWN]!r}; " if part != text else ""
            expected = f"expected whole numbers from 1 to {MAX_STEPS}, as in 5,10,20"
            raise InputError(f"{name} {text[:SHOWN]!r}: {which}{expected}")
        counts.append(check_count(name, int(number), MAX_STEPS))
    return tuple(counts)


def read_prompts(path: Path) -> tuple[str, ...]:
    """One prompt a line; blank lines are left out."""
    prompts = tuple(line.strip() for line in read_text("prompts", path).splitlines() if line.strip())
    if not prompts:
        raise InputError(f"prompts {path}: no prompt in it; expected one a line")
    return prompts


def read_text(what: str, path: Path) -> str:
    """The text of a UTF-8 file, of a pipe or of what is typed, with or without a byte order mark."""
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
    """All of a file, of a pipe that somebody writes to, or of what is typed; InputError for what may never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)  # else it would wait for a pipe's writer
    try:
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


Kind = Literal["flag", "text", "whole", "number", "list", "counts"]
EXPECTED: dict[Kind, str] = {
    "flag": "true or false", "text": "a text", "whole": "a whole number", "number": "a number",
    "list": "a text or a list of texts", "counts": "a number or a list of numbers",
}  # fmt: skip


@dataclass(frozen=True)
class ConfigFile:
    """The settings in a TOML file."""

    path: Path
    text: str
    settings: dict[str, Any] = field(default_factory=dict)
    """As the command line would give them, by the names of its long options with _."""
    keys: dict[str, str] = field(default_factory=dict)
    """How the file spells each name."""

    def where(self, name: str) -> str:
        """ "config c.toml, line 3", without the line where it cannot be told."""
        line = line_of(self.text, self.keys.get(name, name))
        return f"config {self.path}" + (f", line {line}" if line else "")


def read_toml(path: Path, accepted: Mapping[str, Kind]) -> ConfigFile:
    """The settings in a TOML file, keys as the command line's long options, with - or _.

    `accepted` says of each what it may be: true or false, one value, a list of values, or a list of counts.
    """
    file = ConfigFile(path, read_text("config", path))
    try:
        content = tomllib.loads(file.text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"config {path}: cannot be read as TOML: {error}") from error
    except RecursionError as error:
        raise InputError(f"config {path}: nested too deeply; expected settings as in steps = [5, 10]") from error
    except ValueError as error:
        long = re.search(r"[0-9][0-9_]{4000,}", file.text)  # Python reads no more digits than 4300
        line = f", line {file.text.count(chr(10), 0, long.start()) + 1}" if long else ""
        raise InputError(f"config {path}{line}: a number of more digits than can be read") from error
    for key, value in content.items():
        name = key.replace("-", "_")
        file.keys[name] = key
        if name not in accepted:
            known = sorted(accepted)
            raise InputError(
                f"{file.where(name)}: unknown setting {key!r}{closest(name, known)}; settings: {', '.join(known)}"
            )
        option = _as_option(value, accepted[name])
        if option is None:
            raise InputError(f"{file.where(name)}: {key} = {_as_toml(value)}; expected {EXPECTED[accepted[name]]}")
        file.settings[name] = option
    return file


def line_of(text: str, key: str) -> int | None:
    """The line of TOML that sets a key at the top, or opens its table; None where it is spelt in another way."""
    for found in re.finditer(rf"^[ \t]*\[*[ \t]*([\"']?){re.escape(key)}\1[ \t]*[=.\]]", text, re.MULTILINE):
        with suppress(ValueError):  # of what is in the midst of a longer value
            tomllib.loads(text[: found.start()])
            return text.count("\n", 0, found.start()) + 1
    return None


def _as_option(value: object, kind: Kind) -> bool | str | list[str] | None:
    """A TOML value as the command line would give it; None where it would not."""

    def is_scalar(thing: object) -> bool:
        return isinstance(thing, (int, float, str)) and not isinstance(thing, bool)

    if kind == "flag" and isinstance(value, bool):
        return value
    if kind != "flag" and is_scalar(value):
        return [_as_text(value)] if kind == "list" else _as_text(value)
    if kind in ("list", "counts") and isinstance(value, list) and all(is_scalar(v) for v in value):
        return [_as_text(v) for v in value] if kind == "list" else ",".join(map(_as_text, value))
    return None


def _as_text(value: object) -> str:
    """A number or text as it is typed; one that Python writes in no decimal digits is still told from others."""
    return hex(value) if isinstance(value, int) and value.bit_length() > LONG_NUMBER else str(value)


def _as_toml(value: object) -> str:
    """About how a value stands in the file."""
    shown = json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, (bool, list, dict)) else str(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."


def differences(old: Config, new: Config) -> dict[str, str]:
    """ "field: old -> new" for each setting in which two configurations differ, by its name."""
    before, now = as_json(old), as_json(new)
    return {
        name: f"{name}: {before.get(name)!r} -> {now.get(name)!r}"
        for name in (f.name for f in fields(new))
        if before.get(name) != now.get(name)
    }


def enlarged(old: Config, given: Mapping[str, Any]) -> Config:
    """The settings of a run with more samplers, step counts or budgets behind its own.

    InputError where another setting that is given differs, or the run counts by the other of steps and budgets.
    """
    others = {name: value for name, value in given.items() if name not in ADDABLE}
    if changed := differences(old, replace(old, **others)):
        raise InputError(
            f"add: the run has other settings ({'; '.join(changed.values())}); samplers, steps or budgets can be "
            "added: leave out the others, or give another -o without --add"
        )
    across, other = ("nfe", "steps") if old.nfe else ("steps", "nfe")
    if given.get(other):
        raise InputError(
            f"add: {other} {','.join(map(str, given[other]))}; the run counts by {across}: give --{across}"
        )
    more: dict[str, Any] = {
        name: tuple(dict.fromkeys([*getattr(old, name), *given.get(name, ())])) for name in ("sampler", across)
    }
    return replace(old, **more)


def as_json(config: Config) -> dict[str, Any]:
    """The settings as JSON values; those of LATER only where they are given, so that older runs stay the same runs."""
    values = {
        f.name: getattr(config, f.name)
        for f in fields(config)
        if f.name not in LATER or getattr(config, f.name) not in (f.default, "")
    }
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def from_json(values: Mapping[str, Any]) -> Config:
    """The configuration that `as_json` took apart."""
    settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Config(**settings)

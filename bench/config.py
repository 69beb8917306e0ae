"""The settings of a run, checked for themselves; what needs the registry is checked by the plan."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..samplers.errors import InputError, closest
from ..samplers.model import parse_size
from ..samplers.sample import check_batch_size, check_count
from ..samplers.sampler import MAX_STEPS

LATER = ("size", "clip_skip", "extractor", "reference")
"""Settings that runs of the first versions did not have."""
MOST_LAYERS = 100
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
        """Check what can be checked without a model."""
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
        if self.threads is not None:
            check_count("threads", self.threads, 4096)
        settings_of_model(self.size, self.clip_skip)

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
            raise InputError(f"{name} {text!r}: {part!r}; expected whole numbers from 1 to {MAX_STEPS}, as in 5,10,20")
        counts.append(check_count(name, int(number), MAX_STEPS))
    return tuple(counts)


def read_prompts(path: Path) -> tuple[str, ...]:
    """One prompt a line; blank lines are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts {path}: cannot be read as UTF-8 text ({error})") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise InputError(f"prompts {path}: no prompt in it; expected one a line")
    return prompts


Kind = Literal["flag", "text", "list", "counts"]


def read_toml(path: Path, accepted: Mapping[str, Kind]) -> dict[str, Any]:
    """The settings in a TOML file, keys as the command line's long options, with - or _.

    `accepted` says of each what it may be: true or false, one value, a list of values, or a list of counts.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"config {path}: cannot be read as TOML: {error}") from error
    settings = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in accepted:
            known = sorted(accepted)
            raise InputError(
                f"config {path}: unknown setting {key!r}{closest(name, known)}; settings: {', '.join(known)}"
            )
        settings[name] = _as_option(path, key, value, accepted[name])
    return settings


def _as_option(path: Path, key: str, value: object, kind: Kind) -> object:
    """A TOML value as the command line would give it."""

    def is_scalar(thing: object) -> bool:
        return isinstance(thing, (int, float, str)) and not isinstance(thing, bool)

    if kind == "flag" and isinstance(value, bool):
        return value
    if kind != "flag" and is_scalar(value):
        return [str(value)] if kind == "list" else str(value)
    if kind in ("list", "counts") and isinstance(value, list) and all(is_scalar(v) for v in value):
        return [str(v) for v in value] if kind == "list" else ",".join(map(str, value))
    expected = {
        "flag": "true or false", "text": "a text or a number",
        "list": "a text or a list of texts", "counts": "a number or a list of numbers",
    }  # fmt: skip
    raise InputError(f"config {path}: {key} = {str(value)[:80]!r}, a {type(value).__name__}; expected {expected[kind]}")


def differences(old: dict[str, Any], new: Config) -> list[str]:
    """ "field: old -> new" for each setting in which a stored configuration differs."""
    now = as_json(new)
    names = [f.name for f in fields(new) if f.name in old or f.name in now]
    return [f"{name}: {old.get(name)!r} -> {now.get(name)!r}" for name in names if old.get(name) != now.get(name)]


def as_json(config: Config) -> dict[str, Any]:
    """The settings as JSON values; those of LATER only where they are given, so that older runs stay the same runs."""
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in LATER or getattr(config, f.name)}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def from_json(values: Mapping[str, Any]) -> Config:
    """The configuration that `as_json` took apart."""
    settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Config(**settings)

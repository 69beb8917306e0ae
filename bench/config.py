"""The settings of a run, checked for themselves; what needs the registry is checked by the plan."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..samplers.errors import InputError, closest
from ..samplers.sample import MAX_STEPS, check_batch_size, check_count

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


def read_toml(path: Path, accepted: Iterable[str]) -> dict[str, Any]:
    """The settings in a TOML file, keys as the command line's long options, with - or _."""
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
        settings[name] = _as_option(path, key, value)
    return settings


def _as_option(path: Path, key: str, value: object) -> object:
    """A TOML value as the command line would give it."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float, str)):
        return str(value)
    if isinstance(value, list) and all(isinstance(v, (int, float, str)) and not isinstance(v, bool) for v in value):
        return ",".join(map(str, value)) if key in ("steps", "nfe") else [str(v) for v in value]
    raise InputError(f"config {path}: {key} is a {type(value).__name__}; expected a text, a number or a list of them")


def differences(old: dict[str, Any], new: Config) -> list[str]:
    """ "field: old -> new" for each setting in which a stored configuration differs."""
    now = as_json(new)
    return [f"{name}: {old.get(name)!r} -> {now[name]!r}" for name in now if old.get(name) != now[name]]


def as_json(config: Config) -> dict[str, Any]:
    """The settings as JSON values."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

"""The settings of a run, with the checks that need no registry; the plan makes all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ...samplers.acceleration import Acceleration
from ...samplers.arguments import check_guidance_calls, check_interval
from ...samplers.errors import InputError
from ...samplers.model import parse_size
from ...samplers.options import check_count, is_number
from ...samplers.predictor import check_batch_size
from ...samplers.sampler import MAX_STEPS
from .given_files import SHOWN
from .names import names_by_spec, texts_of
from .settings import SETTINGS, Settings, names_of

LATER = names_of(lambda one: one.later)
"""Settings that runs of the first versions lack."""
ADDABLE = names_of(lambda one: one.can_grow)
"""Settings that `run --add` may enlarge."""
NUMBERS = names_of(lambda one: one.kind == "number")
OF_MODEL = names_of(lambda one: one.section == "model")
FASTER = tuple(one.name for one in fields(Acceleration))
OF_REQUEST = names_of(lambda one: one.for_request)
NO_METRIC = "none"
"""The name in the place of metrics that leaves all of them out."""
OF_GUIDED = ("negative", "guidance_rescale", "guidance_interval")
"""Settings that have no effect at guidance 1; the negative prompt has one for samplers that need the part without the
prompt. Where guidance 1 is one of several, its cells go without them."""
MOST_LAYERS = 100
MOST_THREADS = 4096
LARGEST_WHOLE = 2**53
"""Up to this, every whole number has an exact float."""


@dataclass(frozen=True)
class Config(Settings):
    """Checked settings; checks that need the model or the registry come later."""

    def __post_init__(self) -> None:
        """Check what needs no model. Guidance 3 becomes 3.0, so that both have the same key."""
        # The record is frozen; this is how it can put its own fields into one form.
        object.__setattr__(self, "metric", metrics_named(self.metric))
        for name in NUMBERS:
            if type(value := getattr(self, name)) is int and abs(value) <= LARGEST_WHOLE:
                object.__setattr__(self, name, float(value))
        object.__setattr__(self, "guidance", one_or_several("guidance", self.guidance))
        object.__setattr__(self, "guidance_interval", check_interval(self.guidance_interval))
        if not self.sampler:
            raise InputError("sampler: none given; expected at least one, as in -s ddim")
        for name, numbers in (("steps", self.steps), ("nfe", self.nfe)):
            for number in numbers:
                check_count(name, number, MAX_STEPS)
            if len(set(numbers)) < len(numbers):
                raise InputError(f"{name} {','.join(map(str, numbers))}: a number is given twice")
        # Both or none: a cell has one count.
        if bool(self.steps) == bool(self.nfe):
            raise InputError("steps and nfe: expected one of them, as in --steps 5,10,20 or --nfe 10,20")
        # Twice the same spec would be two rows of one cell, told apart by nothing: names_by_spec refuses that.
        object.__setattr__(self, "sampler", texts_of(names_by_spec(self.sampler)))
        check_count("samples", self.samples)
        if self.batch_size is not None:
            check_batch_size(self.batch_size)
        check_guidance_calls(self.guidance_calls)
        if self.threads is not None:
            check_count("threads", self.threads, MOST_THREADS)
        if self.size is not None:
            parse_size(self.size)
        if self.clip_skip is not None:
            check_count("clip_skip", self.clip_skip, MOST_LAYERS)

    @property
    def acceleration(self) -> Acceleration:
        """What makes the network faster."""
        return Acceleration(**{name: getattr(self, name) for name in FASTER})

    @property
    def names(self) -> dict[str, str]:
        """The display name of each sampler spec, "" where it has none, in the order of the table."""
        return names_by_spec(self.sampler)

    @property
    def specs(self) -> tuple[str, ...]:
        """The sampler specs without their display names, which are no part of any key."""
        return tuple(self.names)

    @property
    def counts(self) -> tuple[int, ...]:
        """The budgets of model calls, or the step counts."""
        return self.nfe or self.steps

    @property
    def guidances(self) -> tuple[float, ...]:
        """The guidance, or the several."""
        return self.guidance if isinstance(self.guidance, tuple) else (self.guidance,)

    @property
    def model_settings(self) -> dict[str, object]:
        """The settings that are passed to the model, as far as they are given."""
        return {name: value for name in OF_MODEL if (value := getattr(self, name)) is not None}

    def request_settings(self, guidance: float, *, unconditional: bool) -> dict[str, Any]:
        """What a request to draw at a guidance of the run takes by the names of the settings.

        `unconditional`: whether the sampler needs the part without the prompt, and so the negative one, at guidance 1.
        """
        values = {name: getattr(self, name) for name in OF_REQUEST} | {"guidance": guidance}
        # What has no effect is refused at a single guidance 1; among several, only the cells at 1 go without it.
        if guidance != 1 or len(self.guidances) == 1:
            return values
        left_out = [name for name in OF_GUIDED if not (unconditional and name == "negative")]
        return values | {one.name: one.default for one in SETTINGS if one.name in left_out}


def one_or_several(name: str, given: Any) -> Any:
    """One number as it is, also from a list of one; several as a tuple. Whole numbers become floats, guidance 3 is 3.0,
    to the plan's key too."""
    if not isinstance(given, tuple | list):
        return float(given) if type(given) is int and abs(given) <= LARGEST_WHOLE else given
    numbers = tuple(one_or_several(name, number) for number in given)
    if not numbers:
        raise InputError(f"{name}: none given; expected at least one number")
    # Rows are named by six digits of it.
    if len({f"{number:g}" if is_number(number) else number for number in numbers}) < len(numbers):
        raise InputError(f"{name} {','.join(map(str, given))}: a number is given twice, in its first six digits")
    return numbers if len(numbers) > 1 else numbers[0]


def parse_numbers(name: str, text: str, expected: str) -> tuple[float, ...]:
    """ "1,2.5" -> (1.0, 2.5)."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{name} {text[:SHOWN]!r}: expected {expected}") from error


def metrics_named(names: tuple[str, ...]) -> tuple[str, ...]:
    """The metrics with these names; () for "none", which is refused beside others."""
    if NO_METRIC in names and len(names) > 1:
        raise InputError(f"metric {', '.join(names)}: {NO_METRIC} leaves all metrics out; give it alone")
    return () if NO_METRIC in names else names


def parse_counts(name: str, text: str) -> tuple[int, ...]:
    """ "5,10,20" -> (5, 10, 20); only plain decimal whole numbers are accepted."""
    counts = []
    for part in text.split(","):
        number = part.strip()
        # int() would also take "1_000", " 5" and digits of other scripts.
        if not number.isascii() or not number.isdigit() or (len(number) > 1 and number[0] == "0") or len(number) > 12:  # noqa: PLR2004
            which = f"{part[:SHOWN]!r}; " if part != text else ""
            expected = f"expected whole numbers from 1 to {MAX_STEPS}, as in 5,10,20"
            raise InputError(f"{name} {text[:SHOWN]!r}: {which}{expected}")
        counts.append(check_count(name, int(number), MAX_STEPS))
    return tuple(counts)


def differences(old: Config, new: Config) -> dict[str, str]:
    """For each setting in which two configurations differ, by its name: "name: old -> new"."""
    before, now = as_json(old), as_json(new)
    return {
        name: f"{name}: {before.get(name)!r} -> {now.get(name)!r}"
        for name in (f.name for f in fields(new))
        if before.get(name) != now.get(name)
    }


def without_defaults(config: Config) -> dict[str, Any]:
    """The settings that are not at their defaults."""
    return {one.name: value for one in SETTINGS if (value := getattr(config, one.name)) != one.default}


def enlarge(old: Config, given: Mapping[str, Any]) -> Config:
    """The settings of a run, enlarged by more samplers, step counts or budgets, or by more images.

    InputError where another setting that is given differs, the run counts by the other of steps and budgets, or it has
    more images than are given.
    """
    # Only what may grow is added; every other setting that is given must be that of the run.
    others = {name: value for name, value in given.items() if name not in ADDABLE}
    if unlike := differences(old, replace(old, **others)):
        raise InputError(
            f"add: the run has other settings ({'; '.join(unlike.values())}); samplers, steps, budgets or images can "
            "be added: leave out the others, or give another -o without --add"
        )
    across, other = ("nfe", "steps") if old.nfe else ("steps", "nfe")
    if given.get(other):
        raise InputError(
            f"add: {other} {','.join(map(str, given[other]))}; the run counts by {across}: give --{across}"
        )
    # A spec that is there already may get a name, or another one, and keeps its own where none is given.
    there, asked = old.names, names_by_spec(given.get("sampler", ()))
    # What is there comes first, so that rows keep their places.
    more: dict[str, Any] = {
        "sampler": texts_of(there | {spec: name for spec, name in asked.items() if name or spec not in there}),
        across: tuple(dict.fromkeys([*getattr(old, across), *given.get(across, ())])),
    }
    samples = given.get("samples", old.samples)
    if samples < old.samples:
        raise InputError(f"add: samples {samples}; the run has {old.samples} images a cell: give more, or leave -n out")
    return replace(old, samples=samples, **more)


def as_json(config: Config) -> dict[str, Any]:
    """The settings as JSON values; those of LATER only if given, so that older runs keep their keys."""
    values = {
        f.name: getattr(config, f.name)
        for f in fields(config)
        if f.name not in LATER or getattr(config, f.name) not in (f.default, "")
    }
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def from_json(values: Mapping[str, Any]) -> Config:
    """The configuration that `as_json` wrote."""
    # JSON has lists only; the record is hashed, and holds tuples.
    settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Config(**settings)

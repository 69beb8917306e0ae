"""The axes of a grid of images: "steps=5,10,20" -> which setting changes, and its values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ...samplers.arguments import check_guidance
from ...samplers.errors import InputError, closest
from ...samplers.grid import lists_levels as grid_lists_levels
from ...samplers.noise import check_seed
from ..plan.config import parse_counts, parse_numbers
from ..plan.names import name_and_spec
from ..plan.settings import AXES, DEFAULT_SAMPLERS, SETTINGS, Kind, Setting, bare, called_elsewhere

DEFAULT_COUNTS = (5, 10, 20, 40)
MOST_CELLS = 10_000
"""The most cells of all pages: each is checked before the first is drawn."""
PROMPT = "prompt"
OF_WORDS = (PROMPT, "negative")
"""The axes whose values may contain commas, so that only ";" stands between them."""
ALL_LEVELS = ("all", "none")
"""A value of the axis of guidance intervals: guidance at every level."""
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
# A minus sign may stand before a number as well as between two: "-1-1" is the range from -1 to 1.
RANGE = re.compile(rf"({NUMBER})\s*-\s*({NUMBER})(?:\s*\(\s*({NUMBER})\s*\)|\s*\[\s*(\d{{1,9}})\s*\])?")
RANGE_BEGUN = re.compile(rf"{NUMBER}\s*-\s*{NUMBER}\s*[(\[+]")
RANGES = "1-5, 5-25 (+5) or 0-1 [5]"
"""Ranges as they may be written: with step 1, with another step, with a number of values."""
MOST_VALUES = 256
"""The most values of a range."""
MOST_TOLD = 10**12
"""The largest number of values that an error tells."""
DIGITS = 6
"""The digits of a value between the ends of a range that is given by its number of values."""
FIXED = {one.name: one for one in SETTINGS if one.grid and not one.grid.axis}
"""The settings that are no axis."""
OPTION = re.compile(r"[a-z_][a-z0-9_]*", re.IGNORECASE)


@dataclass(frozen=True)
class Axis:
    """A setting, or an option of the samplers, and its values along one side of the picture."""

    name: str
    texts: tuple[str, ...]
    """The values as given, a range as its values."""
    values: tuple[Any, ...]

    @property
    def is_option(self) -> bool:
        """Whether it is no setting but an option of samplers."""
        return self.name not in AXES

    @property
    def field(self) -> str:
        """The name of the setting that it changes, or of the option."""
        # An axis is called by what people say, "prompt", and changes a setting of another name, "prompts".
        return self.name if self.is_option else AXES[self.name].name

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each row, column or page."""
        if self.name == "sampler":
            # A sampler or a prompt speaks for itself; "5" would not say what it counts.
            return tuple(name or spec for name, spec in map(name_and_spec, self.texts))
        if self.name == PROMPT:
            return self.texts
        return tuple(f"{self.name.replace('_', ' ')} {text}" for text in self.texts)

    @property
    def spec(self) -> str:
        """ "steps=5,10": the text that `parse_axis` reads."""
        if self.name in OF_WORDS:
            return f"{self.name}={';'.join(self.texts)}"
        # The spec goes into the command that draws the picture again, so it must be read as it was: with ";" where a
        # comma belongs to a value, and at its end where there is one value only.
        if not any("," in text or (self.name == "sampler" and is_named(text)) for text in self.texts):
            return f"{self.name}={','.join(self.texts)}"
        return f"{self.name}={';'.join(self.texts)}{';' if len(self.texts) == 1 else ''}"


def is_named(text: str) -> bool:
    """Whether a sampler is given with a display name, or a piece of a spec that looks like one."""
    return "=" in text.partition(":")[0]


def whole(one: Setting, text: str) -> int:
    """A seed, or which layer of the text encoder."""
    # Twenty digits hold every seed. Of a text of thousands, int() would raise an error of its own.
    if not re.fullmatch(r"-?[0-9]{1,20}", text):
        raise InputError(f"{one.name} {text!r}: expected {one.numbers or 'a whole number'}")
    if one.name == "seed":
        check_seed(int(text))
    return int(text)


def number(one: Setting, text: str) -> float:
    """A guidance, or how far it is rescaled."""
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{one.name} {text!r}: expected {one.expected}") from error
    return check_guidance(value) if one.name == "guidance" else value


def interval(one: Setting, text: str) -> tuple[float, ...] | None:
    """The levels with guidance; None = all."""
    if text in ALL_LEVELS:
        return None
    return parse_numbers(one.name, text, f"{one.expected}, or all; several are separated by ;")


READERS: dict[Kind, Callable[[Setting, str], Any]] = {
    "list": lambda _, text: text,
    "text": lambda _, text: text,
    "file": lambda _, text: (text,),
    "counts": lambda one, text: parse_counts(one.name, text)[0],
    "whole": whole,
    "numbers": number,
    "number": number,
    "interval": interval,
}
"""The function that reads a value of an axis, by the kind of its setting."""
WHOLE: tuple[Kind, ...] = ("counts", "whole")
WITH_RANGES: tuple[Kind, ...] = (*WHOLE, "numbers", "number")
"""The kinds of settings that take ranges; options of samplers do too."""


def parse_axis(side: str, text: str) -> Axis:
    """ "steps=5,10,20" -> the axis. Values are separated by ";" if there is one, else by ","; texts only by ";"."""
    given, equals, rest = text.partition("=")
    if not equals:
        raise InputError(f"{side} {text!r}: expected NAME=VALUE,VALUE,..., as in steps=5,10,20 or steps=1-5")
    # A refusal tells apart what is misspelt from what is a setting, but no axis.
    name = axis_name(given.strip())
    if not name:
        raise unknown_axis(side, text, given.strip())
    if fixed := FIXED.get(name):
        raise InputError(
            f"{side} {text!r}: {name} is the same in all of a picture; give {fixed.option}, and draw a picture for "
            f"each value; axes: {', '.join(AXES)}, or an option of a sampler"
        )
    parts = values_in(name, rest)
    if not all(parts):
        between = ";" if name in OF_WORDS else ","
        raise InputError(f"{side} {text!r}: a value is empty; expected {name}=A{between}B")
    # "ddim,variant=heun" may be meant as one spec, so no name is guessed there.
    if name == "sampler" and len(parts) > 1 and ";" not in rest and any(map(is_named, parts)):
        raise InputError(
            f"{side} {text!r}: options follow a colon, as in ddim:eta=0.5,grid=karras, and samplers with names are "
            "separated by ;, as in ours=ddim:eta=0.5;euler"
        )
    one = AXES.get(name)
    texts = parts
    # An option of a sampler may be a number too: what looks like a range is one, any other text stays as it is.
    if one is None or one.kind in WITH_RANGES:
        is_whole = one is not None and one.kind in WHOLE
        texts = [value for part in parts for value in values_of_range(f"{side} {name}", part, is_whole=is_whole)]
        if texts != parts:  # ranges may meet in a value: 1-5,5-25 (+5)
            texts = list(dict.fromkeys(texts))
    # Options stay texts, because they become part of a spec.
    values = tuple(READERS[one.kind](one, text) if one else text for text in texts)
    # The values of an option are texts, of which 1 and 1.0 would be one cell twice.
    if len(set(values if one else map(number_or_text, values))) < len(values):
        raise InputError(f"{side} {text!r}: a value is given twice")
    return Axis(name, tuple(texts), values)


def number_or_text(text: str) -> float | str:
    """What a value of an option is: 1 and 1.0 are one number."""
    try:
        return float(text)
    except ValueError:
        return text


def axis_name(given: str) -> str:
    """What an axis is called here: a setting in any spelling or by another tool's name, else an option's name.

    '' where the text can be neither.
    """
    # In any spelling, since other tools write "CFG Scale" where this is "guidance".
    by_setting = {one.name: name for name, one in AXES.items()}
    spelt = {bare(name): axis for axis, one in AXES.items() for name in (axis, one.name)}
    here = called_elsewhere(given)
    known = spelt.get(bare(given)) or by_setting.get(here)
    if known:
        return known
    return (here or given).lower() if OPTION.fullmatch(here or given) else ""


def unknown_axis(side: str, text: str, name: str, options: Sequence[str] = ()) -> InputError:
    """The error for an axis that is neither a setting nor an option of any sampler."""
    listed = f", or an option of a sampler: {', '.join(options)}" if options else ", or an option of a sampler"
    near = closest(name, [*AXES, *options])
    return InputError(f"{side} {text!r}: unknown axis {name!r}{near}; axes: {', '.join(AXES)}{listed}")


def values_in(name: str, text: str) -> list[str]:
    """The values of an axis as given.

    A prompt may contain commas, so only ";" ends it, and an interval is two numbers. Among samplers and grids,
    "option=value" belongs to the spec before it: "ddim:eta=1,grid=karras,ddpm" is two specs.
    """
    if ";" in text or name in OF_WORDS:
        parts = [part.strip() for part in text.split(";")]
        return parts[:-1] if len(parts) > 1 and not parts[-1] else parts  # the last may end with it as well
    if name in AXES and AXES[name].kind == "interval":
        return [text.strip()]
    parts = []
    for part in (piece.strip() for piece in text.split(",")):
        # A piece with "=" belongs to the spec before it, if that has begun its options.
        if parts and ":" in parts[-1] and "=" in part.partition(":")[0]:
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts


def values_of_range(what: str, text: str, *, is_whole: bool) -> list[str]:
    """ "1-5", "5-25 (+5)" and "0-1 [5]" -> their values as texts; any other text -> itself.

    `is_whole`: whether the values between the ends are cut to whole numbers.
    """
    match = RANGE.fullmatch(text)
    if not match:
        if RANGE_BEGUN.match(text):
            raise InputError(f"{what} {text!r}: expected a range as in {RANGES}")
        return [text]
    # Decimal numbers, because labels are made of them: as floats, 0.1 + 0.2 would be 0.30000000000000004.
    first, last = Decimal(match[1]), Decimal(match[2])
    if match[4]:
        return range_of_count(f"{what} {text!r}", first, last, int(match[4]), is_whole=is_whole)
    step = Decimal(match[3] or 1)
    if not step:
        raise InputError(f"{what} {text!r}: the step is 0; expected a range as in {RANGES}")
    # A range that leads away would have no value; its sign is suggested and not guessed.
    if (last - first) * step < 0:
        down = f"{match[1]}-{match[2]} (-1)" if last < first else f"{match[1]}-{match[2]} (+1)"
        raise InputError(f"{what} {text!r}: the step leads away from {match[2]}; expected one towards it: {down}")
    # The number is checked before the values are made, which might fill the memory.
    count = int((last - first) / step) + 1
    check_range(f"{what} {text!r}", count)
    return [plain(first + i * step) for i in range(count)]


def range_of_count(what: str, first: Decimal, last: Decimal, count: int, *, is_whole: bool) -> list[str]:
    """That many values from the first to the last, evenly spaced."""
    if count < 2:  # noqa: PLR2004  (its two ends)
        raise InputError(f"{what}: expected at least [2], both ends, as in 0-1 [5]")
    check_range(what, count)
    values = [first + (last - first) * i / (count - 1) for i in range(count)]
    if is_whole:
        return list(dict.fromkeys(str(int(value)) for value in values))
    # The ends stay as they were given; only what lies between them is rounded.
    return [plain(first), *(plain(Decimal(f"{value:.{DIGITS}g}")) for value in values[1:-1]), plain(last)]


def check_range(what: str, count: int) -> None:
    """Refuse a range of too many values."""
    if count > MOST_VALUES:
        # Of a number of thousands of digits Python makes no text.
        number = f"{count:,}" if count < MOST_TOLD else "far too many"
        raise InputError(f"{what}: {number} values; expected at most {MOST_VALUES}: take a longer step, or a number "
                         "of values as in 0-1 [5]")  # fmt: skip


def plain(value: Decimal) -> str:
    """A number without an exponent and without zeros at its end."""
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


Axes = tuple[Axis | None, Axis | None, Axis | None]
"""Across, down, and from page to page."""


def axes_for(sides: Sequence[str | None], given: Sequence[str], grid: str | None) -> Axes:
    """The axes asked for with -x, -y and -z.

    With neither -x nor -y, steps go across and the default samplers down, unless `given` elsewhere or from page to
    page.
    """
    named = dict(zip(("-x", "-y", "-z"), sides, strict=True))
    across, down, pages = (parse_axis(side, text) if text is not None else None for side, text in named.items())
    # -z alone says what changes from page to page, and a page still needs its two sides.
    if not (across or down):
        across, down = default_axes(pages, given, grid)
    axes = dict(zip(named, (across, down, pages), strict=True))
    places: dict[str, list[str]] = {}
    for side, axis in axes.items():
        if axis:
            places.setdefault(axis.name, []).append(side)
            if axis.field in given:
                raise InputError(f"{axis.name}: is an axis and given as an option too; expected one of them")
    for name, both in places.items():
        # One setting cannot have two values in a cell.
        if len(both) > 1:
            raise InputError(f"{' and '.join(both)}: both are {name}; expected different ones of {', '.join(AXES)}")
    cells = math.prod(len(axis.values) for axis in (across, down, pages) if axis)
    if cells > MOST_CELLS:
        raise InputError(f"{', '.join(side for side, axis in axes.items() if axis)}: {cells:,} cells; expected at most "
                         f"{MOST_CELLS:,}: take fewer values")  # fmt: skip
    return across, down, pages


def default_axes(pages: Axis | None, given: Sequence[str], grid: str | None) -> tuple[Axis | None, Axis | None]:
    """Steps across and the default samplers down, as far as nothing else says them."""
    said = {*given, *([pages.field] if pages else [])}
    # Counts of steps would contradict a list of levels.
    listed = "steps" in said or lists_levels(grid)
    counts = None if listed else Axis("steps", tuple(map(str, DEFAULT_COUNTS)), DEFAULT_COUNTS)
    # Not every sampler has the option of an axis, so one sampler has to be named.
    samplers = None if "sampler" in said or (pages and pages.is_option) else DEFAULT_SAMPLERS
    return counts, Axis("sampler", samplers, samplers) if samplers else None


def lists_levels(grid: str | None) -> bool:
    """Whether a grid is a list of levels, which fixes the number of steps."""
    return grid is not None and grid_lists_levels(grid)

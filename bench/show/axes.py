"""The axes of a grid of images: "steps=5,10,20" -> which setting changes, and its values."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...samplers.arguments import check_guidance
from ...samplers.errors import InputError, closest
from ...samplers.grid import lists_levels as grid_lists_levels
from ...samplers.noise import check_seed
from ..plan.config import parse_counts, parse_numbers
from ..plan.settings import DEFAULT_SAMPLERS

DEFAULT_COUNTS = (5, 10, 20, 40)
PROMPT = "prompt"


@dataclass(frozen=True)
class Axis:
    """A setting and its values along one side of the picture."""

    name: str
    texts: tuple[str, ...]
    """The values as given."""
    values: tuple[Any, ...]

    @property
    def field(self) -> str:
        """The name of the setting that it changes."""
        return AXES[self.name][0]

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each row or column."""
        return self.texts if self.name in ("sampler", PROMPT) else tuple(f"{self.name} {text}" for text in self.texts)

    @property
    def spec(self) -> str:
        """ "steps=5,10": the text that `parse_axis` reads."""
        if self.name == PROMPT:
            return f"{self.name}={';'.join(self.texts)}"
        if not any("," in text for text in self.texts):
            return f"{self.name}={','.join(self.texts)}"
        return f"{self.name}={';'.join(self.texts)}{';' if len(self.texts) == 1 else ''}"


def whole(text: str) -> int:
    """A seed."""
    if not re.fullmatch(r"-?[0-9]{1,20}", text):
        raise InputError(f"seed {text!r}: expected a whole number")
    check_seed(int(text))
    return int(text)


def number(text: str) -> float:
    """A guidance."""
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"guidance {text!r}: expected a number above 0, as in 2.5") from error
    return check_guidance(value)


AXES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "sampler": ("sampler", str),
    "steps": ("steps", lambda text: parse_counts("steps", text)[0]),
    "guidance": ("guidance", number),
    "guidance_interval": ("guidance_interval", lambda text: parse_numbers("guidance_interval", text, "two numbers")),
    "grid": ("grid", str),
    "seed": ("seed", whole),
    PROMPT: ("prompts", lambda text: (text,)),
}
"""What may be an axis, with the setting that it changes and the function that reads a value."""


def parse_axis(side: str, text: str) -> Axis:
    """ "steps=5,10" -> the axis. Values are separated by ";" if there is one, else by ","; prompts only by ";"."""
    name, equals, rest = text.partition("=")
    name = name.strip()
    if not equals:
        raise InputError(f"{side} {text!r}: expected NAME=VALUE,VALUE,..., as in steps=5,10,20")
    if name not in AXES:
        raise InputError(f"{side} {text!r}: unknown axis {name!r}{closest(name, AXES)}; axes: {', '.join(AXES)}")
    parts = values_in(name, rest)
    if not all(parts):
        between = ";" if name == PROMPT else ","
        raise InputError(f"{side} {text!r}: a value is empty; expected {name}=A{between}B")
    values = tuple(AXES[name][1](part) for part in parts)
    if len(set(values)) < len(values):
        raise InputError(f"{side} {text!r}: a value is given twice")
    return Axis(name, tuple(parts), values)


def values_in(name: str, text: str) -> list[str]:
    """The values of an axis as given.

    A prompt may contain commas, so only ";" ends it. Among samplers and grids, "option=value" belongs to the spec
    before it: "ddim:eta=1,grid=karras,ddpm" is two specs.
    """
    if ";" in text or name == PROMPT:
        parts = [part.strip() for part in text.split(";")]
        return parts[:-1] if len(parts) > 1 and not parts[-1] else parts  # the last may end with it as well
    parts = []
    for part in (piece.strip() for piece in text.split(",")):
        if parts and ":" in parts[-1] and "=" in part.partition(":")[0]:
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts


def axes_for(x: str | None, y: str | None, given: Sequence[str], grid: str | None) -> tuple[Axis | None, Axis | None]:
    """The axes asked for; if there are none, steps across and the default samplers down, unless `given` elsewhere."""
    if x is None and y is None:
        listed = "steps" in given or lists_levels(grid)
        counts = None if listed else Axis("steps", tuple(map(str, DEFAULT_COUNTS)), DEFAULT_COUNTS)
        return counts, None if "sampler" in given else Axis("sampler", DEFAULT_SAMPLERS, DEFAULT_SAMPLERS)
    across, down = (parse_axis(side, text) if text is not None else None for side, text in (("-x", x), ("-y", y)))
    if across and down and across.name == down.name:
        raise InputError(f"-x and -y: both are {across.name}; expected two of {', '.join(AXES)}")
    for axis in (across, down):
        if axis and axis.field in given:
            raise InputError(f"{axis.name}: is an axis and given as an option too; expected one of them")
    return across, down


def lists_levels(grid: str | None) -> bool:
    """Whether a grid is a list of levels, which fixes the number of steps."""
    return grid is not None and grid_lists_levels(grid)

"""A record in a JSON file: its types check it as it is read, and errors name file, field and what is expected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from ..errors import ModelError, closest

SHOWN = 80
"""Characters of a wrong value that an error repeats."""
MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
T = TypeVar("T")


def record_from(content: Mapping[str, Any], kind: type[T], path: Path) -> T:
    """The record in the object of a JSON file.

    Fields are Annotated with a Meta, whose description says what is expected. A ModelError names the first field that
    is something else: "model.json: unet blocks is 'many'; expected a number from 1 to 16".
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        # msgspec says what and where in one text: "Expected `int`, got `str` - at `$.unet.blocks`".
        text, _, place = str(error).partition(" - at `$")
        names = re.findall(r"\.(\w+)", place)
        if unknown := UNKNOWN.fullmatch(text):
            known = list(get_type_hints(kind))
            name = unknown[1]
            told = f"unknown field {name[:SHOWN]!r}{closest(name, known)}; fields: {', '.join(known)}"
            raise ModelError(f"{path}: {told}") from error
        if missing := MISSING.fullmatch(text):
            names.append(missing[1])
        if not names:  # what a record says of itself as a whole
            raise ModelError(f"{path}: {text}") from error
        # The value that is wrong, and not only its type: a reader finds it in the file.
        value = str(value_at(content, names))[:SHOWN]
        expected = expected_at(kind, names) or text.removeprefix("Expected ").replace("`", "")
        raise ModelError(f"{path}: {' '.join(names)} is {value!r}; expected {expected}") from error


def value_at(content: Any, names: list[str]) -> object:
    """What stands at a place of an object; None where nothing does."""
    for name in names:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def expected_at(kind: Any, names: list[str]) -> str:
    """What the type of a field says is expected of it, '' if it does not say."""
    description = ""
    for name in names:
        hint = get_type_hints(kind, include_extras=True).get(name)
        if get_origin(hint) is not Annotated:
            return ""
        kind, *notes = get_args(hint)
        description = next((note.description for note in notes if isinstance(note, Meta) and note.description), "")
    return description

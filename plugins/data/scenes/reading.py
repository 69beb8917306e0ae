"""What a caption says of a scene, read back by the grammar that composes captions."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from .composing import COUNTS, MOST_THINGS, OPPOSITES, PLACES, WORDINGS, Group
from .things import COLOURS, PATTERNS, THINGS


class Told(NamedTuple):
    """What a caption says."""

    groups: tuple[Group, ...]
    relation: str
    """How the first group lies to the second, else where a single picture lies, or "": what a scene calls so."""
    colour: str
    """The colour of the ground; "" = not said."""


def _either(words: object) -> str:
    return "|".join(map(re.escape, words))  # type: ignore[call-overload]  # any texts


GROUND = rf"an? (?:(?:{_either(PATTERNS)}) )?(?P<colour>{_either(COLOURS)})"
WHOLE = tuple(
    re.compile(re.escape(wording).replace(r"\{things\}", "(?P<things>.+)").replace(r"\{ground\}", GROUND))
    for wording in WORDINGS
)
"""A caption in each wording."""
RELATIVE = re.compile(rf"(.+?) (?:to the )?({_either((*OPPOSITES, *OPPOSITES.values()))}) (.+)")
PLACED = re.compile(rf"(.+) ({_either(PLACES)})")
REVERSED = {opposite: relation for relation, opposite in OPPOSITES.items()}


def read(caption: str) -> Told | None:
    """The content of a caption, which may leave out the ground; None for a caption that no scene has."""
    # Case, spaces and a full stop are a writer's own; all else has to be as the grammar says.
    text = " ".join(caption.lower().split()).rstrip(" .")
    for pattern in WHOLE:
        match = pattern.fullmatch(text)
        if match and (shown := _arrangement(match["things"])):
            return Told(*shown, match["colour"])
    shown = _arrangement(text)
    return Told(*shown, "") if shown else None


def _arrangement(text: str) -> tuple[tuple[Group, ...], str] | None:
    """The groups that a text names, and how they lie."""
    known = phrases()
    if text in known:
        return (known[text],), ""
    if match := RELATIVE.fullmatch(text):
        first, relation, second = known.get(match[1]), match[2], known.get(match[3])
        if first and second and first.thing != second.thing:
            groups = (first, second)
            # "a cat right of a car" says what "a car left of a cat" says, and is read as that.
            return (groups[::-1], REVERSED[relation]) if relation in REVERSED else (groups, relation)
    elif (match := PLACED.fullmatch(text)) and (group := known.get(match[1])) and group.copies == 1:
        return (group,), match[2]
    return None


@functools.cache
def phrases() -> dict[str, Group]:
    """Words of a group -> the group: "a cat", "one cat", "two cats"."""
    groups = [Group(thing, copies) for thing in THINGS for copies in range(1, MOST_THINGS + 1)]
    return {**{f"{COUNTS[1]} {thing.name}": Group(thing, 1) for thing in THINGS}, **{g.words: g for g in groups}}

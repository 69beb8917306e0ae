"""Whether an image shows what its caption says: the things, how many, the colour of the ground, and the places."""

from __future__ import annotations

import math
from collections import Counter

from ...data.scenes.composing import PLACES
from ...data.scenes.reading import Told
from .network import Found

PARTS = ("object", "count", "colour", "place")
RIGHT, WRONG, UNTOLD = 1.0, 0.0, -1.0
"""What is said of a part; the last where the caption does not tell it."""
LEAST_APART = 0.15
"""How far left of or above another a thing has to lie, as a share of the side; in scenes it is 0.4 and more."""


def verdicts(found: Found, told: Told | None) -> tuple[float, ...]:
    """RIGHT, WRONG or UNTOLD for each of PARTS; all are untold for a caption that is not of scenes."""
    if told is None:
        return (UNTOLD,) * len(PARTS)
    shown = Counter(one.thing for one in found.seen)
    asked = {group.thing: group.copies for group in told.groups}
    right = [
        set(shown) == set(asked),
        all(shown[thing] == copies for thing, copies in asked.items()),
        found.colour == told.colour if told.colour else None,
        is_placed(found, told) if told.relation else None,
    ]
    return tuple(UNTOLD if one is None else RIGHT if one else WRONG for one in right)


def is_placed(found: Found, told: Told) -> bool:
    """Whether the things lie as a caption says that tells a place; never where one of them is missing."""
    centres: list[tuple[float, float]] = []
    for group in told.groups:
        places = [(one.x, one.y) for one in found.seen if one.thing == group.thing]
        if not places:
            return False
        xs, ys = zip(*places, strict=True)
        # Of several of a kind their middle counts: "two cats left of a car" says no more.
        centres.append((sum(xs) / len(xs), sum(ys) / len(ys)))
    if told.relation in PLACES:
        return min(PLACES, key=lambda place: math.dist(PLACES[place], centres[0])) == told.relation
    (x, y), (other_x, other_y) = centres
    return (other_x - x if told.relation == "left of" else other_y - y) > LEAST_APART

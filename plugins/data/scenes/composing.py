"""Which scene has which number: its things, where they lie, the ground, and a caption that says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from .things import COLOURS, PATTERNS, THINGS, Thing

T = TypeVar("T")
Point = tuple[float, float]
"""x and y of a centre, as shares of the side, from the left and from the top."""

COUNTS = ("no", "one", "two", "three")
MOST_THINGS = 3
SIZES = {1: (0.40, 0.60), 2: (0.32, 0.42), 3: (0.28, 0.36)}
"""Least and most side of a picture as a share of the scene's, by how many pictures there are."""
JITTER = 0.03
NEAR, MIDDLE, FAR = 0.27, 0.5, 0.73
PLACES: dict[str, Point] = {
    "on the left": (NEAR, MIDDLE), "on the right": (FAR, MIDDLE), "at the top": (MIDDLE, NEAR),
    "at the bottom": (MIDDLE, FAR), "in the middle": (MIDDLE, MIDDLE),
}  # fmt: skip
"""Where a single picture lies."""
OPPOSITES = {"left of": "right of", "above": "below"}
WORDINGS = (
    "{things} on {ground} ground", "{things}, on {ground} ground", "{things} in front of {ground} background",
    "{ground} ground with {things}", "{ground} background with {things}",
)  # fmt: skip


class Draws:
    """Random numbers that are the same on every machine and with every version of NumPy: the words of a counter."""

    def __init__(self, seed: int, split: int, number: int) -> None:
        # NumPy promises the stream of a bit generator, not what its Generator makes of it.
        self.words = np.random.Philox(key=np.array([seed, split], np.uint64), counter=[0, 0, number, 0])

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1. Its bias is below n / 2^64."""
        return int(self.words.random_raw()) % n

    def between(self, low: float, high: float) -> float:
        """A number of [low, high), of 53 random bits."""
        return low + (high - low) * (int(self.words.random_raw()) >> 11) / 2**53

    def one_of(self, choices: Sequence[T]) -> T:
        """One of some choices, each as likely."""
        return choices[self.below(len(choices))]


class Group(NamedTuple):
    """One or more of the same thing."""

    thing: Thing
    copies: int

    @property
    def words(self) -> str:
        """ "a cat", "two cats"."""
        return with_article(self.thing.name) if self.copies == 1 else f"{COUNTS[self.copies]} {self.thing.many}"


class Ground(NamedTuple):
    """What lies behind the pictures."""

    colour: str
    pattern: str
    turn: int
    """The direction, one of four, in which a shade grows or stripes run."""
    width: float
    """The width of a stripe, as a share of the side."""
    shift: tuple[float, float, float]
    """What is added to its red, green and blue."""


class Picture(NamedTuple):
    """A thing at its place."""

    thing: Thing
    centre: Point
    side: float


class Scene(NamedTuple):
    """One or two groups of things on a ground."""

    groups: tuple[Group, ...]
    relation: str
    """How the first group lies to the second, "left of" or "above"; else where a single picture lies, or ""."""
    ground: Ground
    pictures: tuple[Picture, ...]
    caption: str


def scene(seed: int, held_out: bool, number: int, things: int = len(THINGS)) -> Scene:
    """Scene `number` of a seed, with the first `things` of THINGS.

    A held-out scene has a pair of thing and colour that no other scene has.
    """
    draws = Draws(seed, int(held_out), number)
    groups, relation = arrange(draws, THINGS[:things])
    colour = draws.one_of(tuple(COLOURS))
    # Rejection keeps all pairs that a split may have equally likely.
    while any(is_held_out(group.thing, colour) for group in groups) != held_out:
        groups, relation = arrange(draws, THINGS[:things])
        colour = draws.one_of(tuple(COLOURS))
    ground = Ground(
        colour, draws.one_of(PATTERNS), draws.below(4), draws.between(0.07, 0.16),
        (draws.between(-9, 9), draws.between(-9, 9), draws.between(-9, 9)),
    )  # fmt: skip
    # Draws are taken in the order of the arguments: another order would make other scenes of the same numbers.
    pictures = lay_out(draws, groups, relation)
    return Scene(groups, relation, ground, pictures, caption_of(draws, groups, relation, ground))


def is_held_out(thing: Thing, colour: str) -> bool:
    """Whether no scene that a model learns from shows this thing on this colour: one colour for each thing, in turn."""
    return tuple(COLOURS)[THINGS.index(thing) % len(COLOURS)] == colour


def arrange(draws: Draws, things: Sequence[Thing]) -> tuple[tuple[Group, ...], str]:
    """One group of one to three, or two groups of three at most, and how they lie."""
    first = draws.one_of(things)
    if draws.below(2):
        group = Group(first, 1 + draws.below(MOST_THINGS))
        return (group,), draws.one_of(tuple(PLACES)) if group.copies == 1 else ""
    second = draws.one_of([thing for thing in things if thing is not first])
    counts = draws.one_of(((1, 1), (1, 2), (2, 1)))
    return (Group(first, counts[0]), Group(second, counts[1])), draws.one_of(tuple(OPPOSITES))


def lay_out(draws: Draws, groups: tuple[Group, ...], relation: str) -> tuple[Picture, ...]:
    """Where the pictures of a scene lie, without overlap."""
    if len(groups) == 1 and groups[0].copies == 1:
        centres = [PLACES[relation]]
    elif len(groups) == 1:
        corners = [(x, y) for x in (NEAR, FAR) for y in (NEAR, FAR)]
        centres = [corners.pop(draws.below(len(corners))) for _ in range(groups[0].copies)]
    else:
        centres = [along(relation, at, place) for at, group in zip((NEAR, FAR), groups, strict=True)
                   for place in ((NEAR, FAR) if group.copies > 1 else (draws.between(NEAR, FAR),))]  # fmt: skip
    things = [group.thing for group in groups for _ in range(group.copies)]
    low, high = SIZES[len(things)]
    return tuple(picture(draws, *one, draws.between(low, high)) for one in zip(things, centres, strict=True))


def along(relation: str, at: float, across: float) -> Point:
    """A centre that is `at` in the direction of a relation, `across` in the other."""
    return (at, across) if relation == "left of" else (across, at)


def picture(draws: Draws, thing: Thing, centre: Point, side: float) -> Picture:
    """A picture near a centre, whole in the scene."""
    # Moved a little, but never over the edge: a thing that is cut could not be told.
    x, y = (min(max(at + draws.between(-JITTER, JITTER), side / 2), 1 - side / 2) for at in centre)
    return Picture(thing, (x, y), side)


def caption_of(draws: Draws, groups: tuple[Group, ...], relation: str, ground: Ground) -> str:
    """One of the wordings of a scene."""
    words = [group.words for group in groups]
    if len(groups) > 1:
        # Who stands first in a caption says nothing about who stands where.
        told = (words[0], relation, words[1]) if draws.below(2) else (words[1], OPPOSITES[relation], words[0])
        words = [f"{told[0]} {draws.one_of(('to the ', '')) if told[1].endswith('of') else ''}{told[1]} {told[2]}"]
    elif relation:
        words = [f"{words[0]} {relation}"]
    with_pattern = ground.pattern != "plain" and draws.below(2)
    painted = with_article(f"{ground.pattern} {ground.colour}" if with_pattern else ground.colour)
    return draws.one_of(WORDINGS).format(things=words[0], ground=painted)


def with_article(noun: str) -> str:
    """ "a cat", "an owl"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# ---- What is false of a scene ----


def contraries(draws: Draws, of: Scene, things: Sequence[Thing]) -> tuple[str, ...]:
    """Captions that are wrong of a scene in one respect each: the thing, the colour, the count, and how things lie."""
    shown = [group.thing for group in of.groups]
    other = of.groups[0]._replace(thing=draws.one_of([thing for thing in things if thing not in shown]))
    colour = draws.one_of([name for name in COLOURS if name != of.ground.colour])
    wrong = [
        ((other, *of.groups[1:]), of.relation, of.ground),
        (of.groups, of.relation, of.ground._replace(colour=colour)),
        (*miscount(draws, of), of.ground),
    ]
    if of.relation in PLACES:
        wrong.append((of.groups, draws.one_of([place for place in PLACES if place != of.relation]), of.ground))
    elif of.relation:
        wrong.append((of.groups[::-1], of.relation, of.ground))
    return tuple(caption_of(draws, *one) for one in wrong)


def miscount(draws: Draws, of: Scene) -> tuple[tuple[Group, ...], str]:
    """The groups of a scene with another count of the first, and how they lie."""
    first = of.groups[0]
    first = first._replace(copies=draws.one_of([n for n in range(1, MOST_THINGS + 1) if n != first.copies]))
    if len(of.groups) > 1:
        return (first, *of.groups[1:]), of.relation
    return (first,), draws.one_of(tuple(PLACES)) if first.copies == 1 else ""

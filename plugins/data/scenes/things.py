"""What scenes show: things with their names and characters, and the colours of grounds."""

from __future__ import annotations

from typing import NamedTuple


class Thing(NamedTuple):
    """Something that has a picture in the font."""

    name: str
    character: str
    plural: str = ""
    """Where it is not the name with an s."""

    @property
    def many(self) -> str:
        """The name of two or three of them."""
        return self.plural or f"{self.name}s"


THINGS = (
    # The first twelve differ in shape and colour even at 32 x 32 pixels.
    Thing("apple", "\U0001f34e"), Thing("cat", "\U0001f431"), Thing("car", "\U0001f697"),
    Thing("tree", "\U0001f333"), Thing("star", "\u2b50"), Thing("fish", "\U0001f41f", "fish"),
    Thing("house", "\U0001f3e0"), Thing("sunflower", "\U0001f33b"), Thing("football", "\u26bd"),
    Thing("heart", "\u2764"), Thing("frog", "\U0001f438"), Thing("mushroom", "\U0001f344"),
    Thing("dog", "\U0001f436"), Thing("pig", "\U0001f437"), Thing("panda", "\U0001f43c"),
    Thing("fox", "\U0001f98a", "foxes"), Thing("lion", "\U0001f981"), Thing("bear", "\U0001f43b"),
    Thing("rabbit", "\U0001f430"), Thing("monkey", "\U0001f435"), Thing("penguin", "\U0001f427"),
    Thing("owl", "\U0001f989"), Thing("bee", "\U0001f41d"), Thing("butterfly", "\U0001f98b", "butterflies"),
    Thing("snail", "\U0001f40c"), Thing("turtle", "\U0001f422"), Thing("octopus", "\U0001f419", "octopuses"),
    Thing("crab", "\U0001f980"), Thing("whale", "\U0001f433"), Thing("banana", "\U0001f34c"),
    Thing("lemon", "\U0001f34b"), Thing("pear", "\U0001f350"), Thing("pineapple", "\U0001f34d"),
    Thing("strawberry", "\U0001f353", "strawberries"), Thing("tomato", "\U0001f345", "tomatoes"),
    Thing("carrot", "\U0001f955"), Thing("hamburger", "\U0001f354"), Thing("pizza", "\U0001f355"),
    Thing("doughnut", "\U0001f369"), Thing("bus", "\U0001f68c", "buses"), Thing("tractor", "\U0001f69c"),
    Thing("rocket", "\U0001f680"), Thing("sailboat", "\u26f5"), Thing("moon", "\U0001f319"),
    Thing("cloud", "\u2601"), Thing("umbrella", "\u2614"), Thing("snowman", "\u26c4", "snowmen"),
    Thing("cactus", "\U0001f335", "cacti"), Thing("tulip", "\U0001f337"), Thing("balloon", "\U0001f388"),
    Thing("bell", "\U0001f514"), Thing("key", "\U0001f511"), Thing("book", "\U0001f4d5"),
    Thing("alarm clock", "\u23f0"), Thing("light bulb", "\U0001f4a1"), Thing("gift", "\U0001f381"),
    Thing("guitar", "\U0001f3b8"), Thing("top hat", "\U0001f3a9"), Thing("crown", "\U0001f451"),
    Thing("robot", "\U0001f916"),
)  # fmt: skip

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (206, 66, 60), "orange": (240, 146, 52), "yellow": (246, 217, 84), "green": (92, 172, 88),
    "blue": (74, 128, 214), "purple": (146, 94, 190), "pink": (246, 166, 192), "brown": (138, 98, 68),
    "grey": (152, 152, 154), "white": (244, 244, 242),
}  # fmt: skip
"""Colours of grounds, sRGB."""
PATTERNS = ("plain", "shaded", "striped", "dotted", "chequered")
"""What a ground is painted with, in two shades of its colour."""

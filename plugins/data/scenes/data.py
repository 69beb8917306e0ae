"""The data set "scenes": captioned pictures that code draws, in any number.

A scene shows one to three pictures of an emoji font at places on a coloured ground, and its caption says which, how
many, where and on what: "two apples left of a cat, on a blue ground". The same seed gives the same scenes everywhere
where the font is of the same version; the fingerprint holds what was drawn.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass
from typing import Literal

import torch
from torch import Tensor

from ....samplers.errors import InputError
from ....samplers.image_data import ImageData, ImageDataFactory
from ....samplers.options import File, check_count, construct, parse_spec
from ....samplers.plugin import hookimpl
from .composing import Draws, Scene, contraries, scene
from .drawing import FontSprites, Sprite, draw_scene, font_bytes, font_of
from .things import THINGS

NAME = "scenes"
FORMAT = 1
"""The format of scenes: other pictures for the same options are another data set."""
FINGERPRINTED = 64
"""Scenes whose pixels and captions stand for all."""
CONTRARIES = 2
"""The number of the stream behind those of the two splits."""
LEAST_THINGS, SMALLEST, LARGEST, MOST_SEED = 3, 16, 512, 2**63 - 1


@dataclass(frozen=True)
class Options:
    """What follows the colon: which scenes, and how large."""

    split: Literal["train", "held-out", "all"] = "train"
    """`train` has no thing on the colour that is held out for it; in each scene of `held-out` at least one is; `all`
    takes turns: every second scene is a held-out one."""
    images: int = 100_000
    size: int = 64
    """Pixels of a side."""
    things: int = len(THINGS)
    """How many things there are, of 60."""
    seed: int = 0
    font: File | None = None

    def __post_init__(self) -> None:
        """Refuse what no scene has."""
        check_count("images", self.images)
        bounds = {"size": (SMALLEST, LARGEST), "things": (LEAST_THINGS, len(THINGS)), "seed": (0, MOST_SEED)}
        for name, (least, most) in bounds.items():
            if not least <= (value := getattr(self, name)) <= most:
                raise InputError(f"data {NAME!r}: {name} {value}: expected a whole number from {least} to {most}")


class Scenes(ImageData):
    """Scenes by number; each is composed and drawn when it is asked for."""

    def __init__(self, options: Options, sprite: Sprite, source: str) -> None:
        self.options, self.sprite = options, sprite
        self.name = f"{NAME} {options.split} {options.size}x{options.size}"
        self.notes = (f"drawn from {source}, whose versions differ",)

    @property
    def fingerprint(self) -> str:
        """Hash of the options and of the first scenes, which hold the font's pictures."""
        # Without the path of the font, which differs between machines: its pictures are in the first scenes.
        digest = hashlib.sha256(repr((FORMAT, *astuple(self.options)[:-1])).encode())
        for i in range(min(FINGERPRINTED, len(self))):
            digest.update(self.caption(i).encode() + self.image(i).numpy().tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        """How many were asked for."""
        return self.options.images

    def scene(self, i: int) -> Scene:
        """What scene i shows, where, and its caption."""
        held_out = self.options.split == "held-out" or (self.options.split == "all" and i % 2 == 1)
        return scene(self.options.seed, held_out, i, self.options.things)

    def image(self, i: int) -> Tensor:
        """Scene i: uint8 (3, size, size)."""
        return torch.from_numpy(draw_scene(self.scene(i), self.options.size, self.sprite)).permute(2, 0, 1)

    def caption(self, i: int) -> str:
        """What scene i shows, in one of several wordings."""
        return self.scene(i).caption

    def contraries(self, i: int) -> tuple[str, ...]:
        """Captions that are wrong of scene i in one respect each."""
        # A stream of its own: a scene is the same whether or not anyone asks what is false of it.
        draws = Draws(self.options.seed, CONTRARIES, i)
        return contraries(draws, self.scene(i), THINGS[: self.options.things])


def load(argument: str) -> Scenes:
    """Captioned scenes of emoji that code draws: scenes:size=32,things=12,images=20000."""
    options = construct(Options, f"data {NAME!r}", parse_spec(f"{NAME}:{argument}")[1])
    content = font_bytes() if options.font is None else options.font.read_bytes()
    source = f"a font with SHA-256 {hashlib.sha256(content).hexdigest()[:12]}"
    return Scenes(options, FontSprites(font_of(content)), source)


@hookimpl
def samplerbench_data() -> dict[str, ImageDataFactory]:
    """Register it as "scenes"."""
    return {NAME: load}

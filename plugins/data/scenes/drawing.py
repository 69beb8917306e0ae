"""A scene as pixels: pictures of the font, made small and laid on the ground."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ....samplers.errors import ModelError
from .composing import Ground, Picture, Scene
from .things import COLOURS, THINGS, Thing

Pixels = NDArray[np.floating[Any]]
Sprite = Callable[[Thing, int], Pixels]
"""A thing and a side in pixels -> its picture (side, side, 4): red, green and blue times alpha, and alpha, to 255."""

FONT = "NotoColorEmoji.ttf"
FOLDERS = (
    "/usr/share/fonts/truetype/noto", "/usr/share/fonts/noto", "/usr/share/fonts/google-noto-emoji",
    "/usr/share/fonts/google-noto-color-emoji-fonts",
)  # fmt: skip
"""Where Debian, Arch and Fedora put it."""
STRIKE = 109
"""The one size of the font's bitmaps."""
DARKER = 0.82
"""The second shade of a ground as a share of the first."""
DOT = 0.6
"""Radius of a dot as a share of a stripe's width."""
SMALLEST = 4
"""Pixels of a picture's side, at least."""


def font_bytes() -> bytes:
    """The installed font. ModelError that says how to get it."""
    for folder in FOLDERS:
        path = Path(folder, FONT)
        if path.is_file():
            return path.read_bytes()
    raise ModelError(
        f"data 'scenes': the font {FONT} is missing; install the package fonts-noto-color-emoji, or give its file as "
        "scenes:font=FILE; a folder of your own images is --data FOLDER"
    )


def font_of(content: bytes) -> ImageFont.FreeTypeFont:
    """The font in a file. ModelError if it is not one, or has no bitmaps of that size."""
    try:
        # The other layout engine may be missing from Pillow, and would place a picture elsewhere.
        return ImageFont.truetype(io.BytesIO(content), STRIKE, layout_engine=ImageFont.Layout.BASIC)
    except (OSError, ValueError) as error:
        raise ModelError(f"data 'scenes': the font cannot be read ({error}); expected the file {FONT}") from error


class FontSprites:
    """The pictures of a font."""

    def __init__(self, font: ImageFont.FreeTypeFont) -> None:
        self.font = font
        self.whole = lru_cache(maxsize=len(THINGS))(self._whole)
        self.small = lru_cache(maxsize=4096)(self._small)

    def __call__(self, thing: Thing, side: int) -> Pixels:
        """A thing's picture of that side."""
        return self.small(thing, side)

    def _small(self, thing: Thing, side: int) -> Pixels:
        """The picture, averaged with its alpha, so that what is transparent lends its colour to nothing."""
        # Pillow multiplies by alpha itself before it resizes RGBA, and divides again.
        resized = self.whole(thing).resize((side, side), Image.Resampling.LANCZOS)
        pixels = np.asarray(resized, dtype=np.float32)
        return np.concatenate([pixels[..., :3] * pixels[..., 3:] / 255, pixels[..., 3:]], axis=2)

    def _whole(self, thing: Thing) -> Image.Image:
        """The picture as the font has it, in the middle of a square."""
        canvas = Image.new("RGBA", (2 * STRIKE, 2 * STRIKE))
        ImageDraw.Draw(canvas).text((STRIKE // 4, STRIKE // 4), thing.character, font=self.font, embedded_color=True)
        box = canvas.getbbox()
        if box is None:
            raise ModelError(f"data 'scenes': the font has no picture of {thing.name!r}; expected the file {FONT}")
        side = max(box[2] - box[0], box[3] - box[1])
        square = Image.new("RGBA", (side, side))
        square.paste(canvas.crop(box), ((side - box[2] + box[0]) // 2, (side - box[3] + box[1]) // 2))
        return square


def draw_scene(scene: Scene, side: int, sprite: Sprite) -> NDArray[np.uint8]:
    """A scene as uint8 (side, side, 3)."""
    pixels = paint(scene.ground, side)
    for picture in scene.pictures:
        lay(pixels, picture, side, sprite)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def paint(ground: Ground, side: int) -> Pixels:
    """A ground: its colour times a shade between DARKER and 1."""
    colour = np.array(COLOURS[ground.colour], np.float32) + np.array(ground.shift, np.float32)
    # A pattern is a function of the place, not of the pixel, so that it is the same at every size.
    middles = (np.arange(side, dtype=np.float32) + 0.5) / side
    along, across = np.meshgrid(middles, middles)
    for _ in range(ground.turn):
        along, across = 1 - across, along
    shade = DARKER + (1 - DARKER) * light_of(ground, along, across)
    return np.asarray(colour * shade[..., None], dtype=np.float32)


def light_of(ground: Ground, along: Pixels, across: Pixels) -> Pixels:
    """How light the pattern is at each pixel, 0 to 1."""
    if ground.pattern == "plain":
        return np.ones_like(along)
    if ground.pattern == "shaded":
        return 1 - along
    column, row = along / ground.width, across / ground.width
    if ground.pattern == "striped":
        return np.asarray(np.floor(column) % 2, dtype=np.float32)
    if ground.pattern == "dotted":
        # A dot in the middle of each square of two widths.
        return np.asarray(np.hypot(column % 2 - 1, row % 2 - 1) > DOT, dtype=np.float32)
    return np.asarray((np.floor(column) + np.floor(row)) % 2, dtype=np.float32)


def lay(pixels: Pixels, picture: Picture, side: int, sprite: Sprite) -> None:
    """Lay a picture on the pixels behind it, in place."""
    size = max(SMALLEST, round(picture.side * side))
    left, top = (min(max(round(at * side - size / 2), 0), side - size) for at in picture.centre)
    part = pixels[top : top + size, left : left + size]
    of_thing = sprite(picture.thing, size)
    # The picture is multiplied by its alpha already, so it is added as it is.
    part *= 1 - of_thing[..., 3:] / 255
    part += of_thing[..., :3]

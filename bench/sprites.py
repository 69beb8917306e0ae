"""Images -> PNG sheets small enough to stand in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Images = npt.NDArray[np.uint8]
BUDGET = 1_500_000
"""Characters that all sheets of a page may have together."""
LONGEST = 64
"""Pixels of the longest side that an image may have in a page."""
SIZES = ((16, LONGEST), (8, LONGEST), (8, 48), (4, 48), (4, 32), (2, 32), (1, 32), (1, 16))
"""Images a sheet and their longest side, from the best to the smallest."""
ACROSS = 8
GREY = 2
"""Dimensions of a picture without colour."""


@dataclass(frozen=True)
class Sheet:
    """Images side by side, eight in a row."""

    uri: str
    width: int
    height: int
    images: int


def sheets(
    cells: Mapping[int, Images], sizes: Sequence[tuple[int, int]] = SIZES, budget: int = BUDGET
) -> dict[int, Sheet]:
    """A sheet of the first images of each cell, (n, C, H, W): as many and as large as the budget allows."""
    made: dict[int, Sheet] = {}
    for most, side in sizes:
        made, left = {}, budget
        for key, images in cells.items():
            made[key] = sheet(images[:most], side)
            left -= len(made[key].uri)
            if left < 0 and (most, side) != sizes[-1]:
                break  # too large before the last one is made
        else:
            break
    return made


def sheet(images: Images, side: int = LONGEST) -> Sheet:
    """One PNG as a data URI; images longer than `side` are made smaller."""
    tiles = shrunk(images, side)
    n, channels, height, width = tiles.shape
    across, down = min(n, ACROSS), -(-n // ACROSS)
    picture = Image.new("L" if channels == 1 else "RGB", (across * width, down * height), "white")
    for i, tile in enumerate(tiles):
        y, x = divmod(i, ACROSS)
        picture.paste(as_picture(tile), (x * width, y * height))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Sheet(uri, picture.width, picture.height, n)


def shrunk(images: Images, side: int = LONGEST) -> Images:
    """Images (n, C, H, W), the longer side of each at most `side` pixels."""
    height, width = images.shape[2:]
    scale = side / max(height, width)
    if scale >= 1:
        return images
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = [np.asarray(as_picture(image).resize(size, Image.Resampling.BOX)) for image in images]
    return np.stack([image[None] if image.ndim == GREY else np.moveaxis(image, -1, 0) for image in small])


def as_picture(image: Images) -> Image.Image:
    """(1|3, H, W) as a picture."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(np.moveaxis(image, 0, -1)))

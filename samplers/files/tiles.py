"""Pictures made of many images, for people to look at."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

LEAST_SIDE = 112
"""A picture whose shorter side is below this is enlarged by a whole factor."""

FRAMES = 5
"""Dimensions of several samples of frames."""
Images = npt.NDArray[np.uint8]


def as_shown(images: Images) -> Images:
    """Images (n, C, H, W) as they are; of frames (n, F, C, H, W) the first, the middle and the last side by side."""
    if images.ndim < FRAMES:
        return images
    last = images.shape[1] - 1
    return np.concatenate([images[:, i] for i in sorted({0, (last + 1) // 2, last})], axis=-1)


def side_by_side(pictures: Sequence[Image.Image], across: int, size: tuple[int, int] | None = None) -> Image.Image:
    """Pictures in rows of `across`, from the top left, each in a cell of `size` (width, height), on white.

    `size` is by default that of the first picture, which also gives the sheet its mode.
    """
    width, height = size or pictures[0].size
    across = min(len(pictures), across)
    # White behind the last row, which may be short.
    sheet = Image.new(pictures[0].mode, (across * width, -(-len(pictures) // across) * height), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % across * width, i // across * height))
    return sheet


def mosaic(images: Images, across: int | None = None) -> Image.Image:
    """Images (n, 1|3, H, W) in a grid, `across` in a row (None = nearly square); a small picture is enlarged."""
    across = across or math.ceil(math.sqrt(len(images)))
    sheet = side_by_side([as_picture(image).convert("RGB") for image in images], across)
    # A whole factor without interpolation, so that every pixel stays a sharp square.
    scale = max(1, math.ceil(LEAST_SIDE / min(sheet.size)))
    return sheet.resize((scale * sheet.width, scale * sheet.height), Image.Resampling.NEAREST)


def png(picture: Image.Image, *, optimize: bool = True) -> bytes:
    """The picture as a PNG file; to optimize makes it smaller and takes longer."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=optimize)
    return buffer.getvalue()


LONGEST = 64
"""Most pixels on the longer side of an image in a page."""


GREY = 2
"""Dimensions of a picture without colour."""


def shrunk(images: Images, side: int = LONGEST) -> Images:
    """Images (n, C, H, W), shrunk until their longer side has at most `side` pixels."""
    height, width = images.shape[2:]
    scale = side / max(height, width)
    if scale >= 1:
        return images
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # The mean of the pixels under each new one, which neither rings nor skips any.
    small = [np.asarray(as_picture(image).resize(size, Image.Resampling.BOX)) for image in images]
    return np.stack([image[None] if image.ndim == GREY else np.moveaxis(image, -1, 0) for image in small])


def as_picture(image: Images) -> Image.Image:
    """An image (1|3, H, W) as a picture of Pillow."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(np.moveaxis(image, 0, -1)))

"""Images as one picture for people to look at."""

from __future__ import annotations

import io
import math

import numpy as np
import numpy.typing as npt
from PIL import Image

LEAST_SIDE = 112
"""Pictures with a shorter side than this are enlarged by a whole number."""
RGB = 3
PAPER = 255

Images = npt.NDArray[np.uint8]


def mosaic(images: Images, across: int | None = None) -> Image.Image:
    """Images (n, 1|3, H, W), `across` in a row (None = as near to a square as it goes); small ones enlarged."""
    n, channels, height, width = images.shape
    across = min(n, across or math.ceil(math.sqrt(n)))
    down = -(-n // across)
    sheet = np.full((down * height, across * width, RGB), PAPER, dtype=np.uint8)
    for i, image in enumerate(images):
        y, x = divmod(i, across)
        pixels = np.moveaxis(image if channels == RGB else np.repeat(image, RGB, axis=0), 0, -1)
        sheet[y * height : (y + 1) * height, x * width : (x + 1) * width] = pixels
    scale = max(1, math.ceil(LEAST_SIDE / min(sheet.shape[:2])))
    return Image.fromarray(sheet.repeat(scale, axis=0).repeat(scale, axis=1))


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


LONGEST = 64
"""Pixels of the longest side that an image may have in a page."""


GREY = 2
"""Dimensions of a picture without colour."""


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

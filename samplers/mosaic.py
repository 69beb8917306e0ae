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

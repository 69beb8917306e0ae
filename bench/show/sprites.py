"""Images -> PNG sheets that are small enough to embed in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...samplers.files.tiles import LONGEST, as_picture, shrunk, side_by_side

Images = npt.NDArray[np.uint8]
BUDGET = 1_500_000
"""The most characters of all sheets of a page together."""
SIZES = ((16, LONGEST), (8, LONGEST), (8, 48), (4, 48), (4, 32), (2, 32), (1, 32), (1, 16))
"""The images in a sheet and their longest side, from the best to the smallest."""
ACROSS = 8


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
    # From the best size down until all fit. The smallest is taken, however much that comes to.
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
    """One PNG as a data URI; images with a side longer than `side` are shrunk."""
    # PNG and not JPEG, because the images are there to be compared, and its artefacts would look like those of a
    # sampler.
    picture = side_by_side([as_picture(tile) for tile in shrunk(images, side)], ACROSS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Sheet(uri, picture.width, picture.height, len(images))

"""The images of a data set, cut to one size and kept in one file that every process maps into its memory."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ....samplers.errors import ModelError
from ....samplers.files.images import COLOUR, crop, to_channels
from ....samplers.image_data import ImageData, image_of
from ....samplers.model import Progress
from ....samplers.nets.training import Report

PHASE = "images"


def prepare(
    data: ImageData, size: int, path: Path, report: Report, channels: int | None = None
) -> tuple[int, int, int]:
    """Write all images to `path` as uint8 (N, C, size, size) and return (C, size, size).

    Without `channels`, grey where every image is stored grey, else colour. ModelError if one is smaller than `size`:
    nothing is enlarged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    channels = channels or len(image_of(data, 0))
    try:
        # With the channels of the first image; at one that has more, all are written again, in colour.
        if not _write(data, size, channels, temporary, report):
            channels = COLOUR
            _write(data, size, channels, temporary, report)
        os.replace(temporary, path)  # noqa: PTH105  (the atomic call itself)
    finally:
        temporary.unlink(missing_ok=True)
    return channels, size, size


def map_pixels(path: Path, n: int, shape: tuple[int, int, int]) -> Tensor:
    """The prepared images, uint8 (n, *shape); ModelError if the file is of another size."""
    expected = n * math.prod(shape)
    if not path.is_file() or path.stat().st_size != expected:
        raise ModelError(f"{path}: not the {n:,} prepared images; delete it, and they are prepared again")
    return torch.from_file(str(path), shared=False, size=expected, dtype=torch.uint8).view(n, *shape)


def _write(data: ImageData, size: int, channels: int, path: Path, report: Report) -> bool:
    """Write the images one after the other; False, with an unfinished file, if one has more channels."""
    started = time.monotonic()
    with path.open("wb") as file:
        for i, image in _large_enough(data, size):
            if len(image) > channels:
                return False
            file.write(to_channels(crop(image, (size, size)), channels).contiguous().numpy().tobytes())
            report(Progress(PHASE, i + 1, len(data), math.nan, time.monotonic() - started, 0))
    return True


def _large_enough(data: ImageData, size: int) -> Iterator[tuple[int, Tensor]]:
    """The images by number; ModelError at the first that is smaller than `size` on a side."""
    for i in range(len(data)):
        image = image_of(data, i)
        height, width = image.shape[-2:]
        if min(height, width) < size:
            raise ModelError(
                f"data {data.name!r}: image {i} is {width} x {height} pixels, smaller than size {size}; images are "
                f"never enlarged: give a size of at most {min(height, width)}, or leave small images out"
            )
        yield i, image

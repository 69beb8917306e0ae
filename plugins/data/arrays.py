"""Images that lie in one array, in memory or mapped from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...samplers.image_data import ImageData
from .encoded import duplicates_note, fingerprint_of


class ArrayImages(ImageData):
    """Images in an array uint8 (N, 1 or 3, H, W), in any memory layout."""

    def __init__(self, name: str, images: NDArray[np.uint8], captions: Sequence[str | None]) -> None:
        self.name, self.images, self.captions = name, images, captions
        digests = [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]
        self.notes = tuple(duplicates_note(digests))
        self._fingerprint = fingerprint_of([str(images.shape[1:])] * len(images), digests, captions)

    @property
    def fingerprint(self) -> str:
        """Hash of the pixels and captions."""
        return self._fingerprint

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.images)

    def image(self, i: int) -> Tensor:
        """Image i: uint8 (1 or 3, H, W), a copy."""
        return torch.from_numpy(np.array(self.images[i], order="C"))

    def caption(self, i: int) -> str | None:
        """The caption of image i."""
        return self.captions[i]


def channels_first(images: NDArray[Any]) -> NDArray[Any] | None:
    """(N, H, W, 1 or 3) or (N, 1 or 3, H, W) -> (N, 1 or 3, H, W); None for other and for ambiguous shapes."""
    if images.ndim != 4:  # noqa: PLR2004  (number, channels, height, width)
        return None
    # Where both may be the channels nothing is guessed: images would come out on their sides, in false colours.
    last, first = images.shape[3] in (1, 3), images.shape[1] in (1, 3)
    if last == first:
        return None
    return np.moveaxis(images, 3, 1) if last else images

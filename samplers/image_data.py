"""ImageData: real images with their captions, to train on and to compare with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from .errors import ModelError, PluginError
from .options import at_fault

IMAGE_DIMS = 3
IMAGE_CHANNELS = (1, 3)


class ImageData(ABC):
    """Images by number, in an order that is the same on every machine."""

    name: str
    """Its name wherever its images are used, e.g. "cifar10 train"."""
    notes: tuple[str, ...] = ()
    """What a reader of numbers made with the images must know, as sentences, e.g. that the files are JPEG."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of everything that the images and captions depend on."""

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    @abstractmethod
    def image(self, i: int) -> Tensor:
        """Image i as it is stored: uint8 (1 or 3, H, W)."""

    def caption(self, i: int) -> str | None:
        """The caption of image i; None if it has no caption."""
        return None

    def contraries(self, i: int) -> tuple[str, ...]:
        """Captions that are false of image i, each in one respect: a text encoder learns to tell them from its own."""
        return ()


def image_of(data: ImageData, i: int) -> Tensor:
    """Image i after a check: uint8 (1 or 3, H, W). PluginError for anything else, and if `image` raises."""
    with at_fault(f"data {data.name!r}: image {i}"):
        image = data.image(i)
    # Checked for each image: a data set of strangers may have one that is not like the others.
    if not isinstance(image, Tensor):
        raise PluginError(f"data {data.name!r}: image {i} is a {type(image).__name__}; expected a tensor")
    if image.dtype != torch.uint8 or image.ndim != IMAGE_DIMS or image.shape[0] not in IMAGE_CHANNELS:
        found = f"{str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
        raise PluginError(f"data {data.name!r}: image {i} is {found}; expected uint8 (1 or 3, H, W), from 0 to 255")
    return image


def check_count(data: ImageData, asked: int) -> None:
    """ModelError if there are fewer images than are asked for."""
    if len(data) < asked:
        raise ModelError(f"data {data.name!r}: {len(data):,} images, {asked:,} asked for; add images or ask for fewer")


ImageDataFactory = Callable[[str], ImageData]
"""What follows the colon in "name:argument" ('' if nothing) -> the images."""

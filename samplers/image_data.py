"""ImageData: real images with their captions, to train on and to compare with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from .errors import ModelError


class ImageData(ABC):
    """Images by number, in an order that is the same on every machine."""

    name: str
    """What it is called where its images are used, e.g. "cifar10 train"."""
    notes: tuple[str, ...] = ()
    """What a reader of numbers made with it must know, a sentence each, e.g. that its files are JPEG."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of everything that its images and captions depend on."""

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    @abstractmethod
    def image(self, i: int) -> Tensor:
        """Image i as it is stored: uint8 (1 or 3, H, W)."""

    def caption(self, i: int) -> str | None:
        """The caption of image i; None where there is none."""
        return None


def check_count(data: ImageData, asked: int) -> None:
    """ModelError if there are fewer images than are asked for."""
    if len(data) < asked:
        raise ModelError(f"data {data.name!r}: {len(data):,} images, {asked:,} asked for; add images or ask for fewer")


ImageDataFactory = Callable[[str], ImageData]
"""What follows the colon in "name:argument" ('' if nothing) -> the images."""

"""Extractor: rows of numbers for metrics, made from images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from .metric import Moments, Rows

T = TypeVar("T")


@dataclass(frozen=True)
class Extractor:
    """A function from images and prompts to rows of numbers, which metrics read, with what a reader must know of it."""

    label: str
    """Shown beside every number that is made with it, e.g. "fashion-mnist CNN"."""
    extract: Callable[[Tensor, Sequence[str]], Rows]
    """Images, uint8 (n, C, H, W), and n prompts -> rows (n, d). For a model without images it gets the clean states,
    (n, *shape), instead."""
    reference: Callable[[], Rows | Moments] | None = None
    """Returns the rows (N, d) of the real images that the model imitates, or only their moments; None = none."""
    note: str = ""
    """What a reader of its numbers must know, as one line under every table."""
    fingerprint: str = ""
    """Hash of everything that its rows and its reference depend on. Rows are stored under it, and numbers with
    different fingerprints are never compared."""
    frechet: str = ""
    """The name of the Frechet distance of its rows, e.g. "FD-DINOv2"; '' = FID with the label beside it."""
    data: str = ""
    """What the reference consists of, e.g. "10,000 test images of Fashion-MNIST"; '' = none, or see the note."""
    check: Callable[[Sequence[str]], Sequence[str] | None] | None = None
    """Called with the prompts before a run; raises InputError if it cannot read one, and returns what a user should
    know of the others, as sentences. None = reads any."""
    on_device: bool = False
    """Whether `extract` takes images on any device and computes there, in float32; else it gets them on the CPU."""


@dataclass(frozen=True)
class OnDevice:
    """An extractor's function, which gets its images on a device."""

    extract: Callable[[Tensor, Sequence[str]], Rows]
    device: torch.device
    send: Callable[[Tensor], Tensor] = field(repr=False, compare=False)
    """Images -> the same images there. Extractors that share a network compare images by identity, and share this."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Rows:
        """The rows."""
        return self.extract(self.send(images), prompts)


def on_device(extractors: Mapping[str, Extractor], device: torch.device) -> dict[str, Extractor]:
    """The extractors, of which those that can compute on the device; on the CPU they stay as they are."""
    # One copy to the device for all extractors.
    send = Once(lambda images: images.to(device))

    def placed(extractor: Extractor) -> Extractor:
        extract = extractor.extract
        if device.type == "cpu" or not extractor.on_device or isinstance(extract, OnDevice):
            return extractor
        return replace(extractor, extract=OnDevice(extract, device, send))

    return {role: placed(extractor) for role, extractor in extractors.items()}


class Once(Generic[T]):
    """A function of images that several extractors call in turn; its result for the last images is cached."""

    def __init__(self, function: Callable[[Tensor], T]) -> None:
        self._function = function
        self._last: tuple[Tensor, int, T] | None = None

    def __call__(self, images: Tensor) -> T:
        """function(images)."""
        # By identity and by torch's count of changes in place: to compare the numbers would cost a pass over them.
        # Read once: another thread may ask about other images meanwhile.
        last = self._last
        if last is None or last[0] is not images or last[1] != images._version:
            last = self._last = images, images._version, self._function(images)
        return last[2]


class HasExtractors(Protocol):
    """Whose images are read: a model, or a set of images."""

    @property
    def name(self) -> str:
        """Its name in errors."""
        ...

    @property
    def extractors(self) -> Mapping[str, Extractor]:
        """Its extractors by role, the names that metrics read."""
        ...


ExtractorFactory = Callable[[str], Mapping[str, Extractor]]
"""What follows the colon in "name:argument" ('' if nothing) -> extractors by role, the names that metrics read."""

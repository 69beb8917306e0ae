"""Extractor: rows of numbers for metrics, made from images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .metric import Moments, Rows


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
    check: Callable[[Sequence[str]], None] | None = None
    """Called with the prompts before a run; raises InputError if it cannot read one. None = reads any."""


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

"""Extractor: what metrics see of a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .metric import Moments, Rows


@dataclass(frozen=True)
class Extractor:
    """What metrics see of a sample: images (or states that are none) and their prompts -> a row of numbers each."""

    label: str
    """Shown wherever its numbers are shown, e.g. "fashion-mnist CNN"."""
    extract: Callable[[Tensor, Sequence[str]], Rows]
    """uint8 (n, C, H, W), or the clean states (n, *shape) where `Model.images` has none, and n prompts -> (n, d)."""
    reference: Callable[[], Rows | Moments] | None = None
    """Rows of the real images that the model was made to imitate, (N, d), or their moments alone."""
    note: str = ""
    """What a reader of its numbers must know, shown under every table."""
    fingerprint: str = ""
    """Hash of its weights and reference: numbers of two fingerprints are never compared."""
    frechet: str = ""
    """What the Frechet distance of its rows is called, e.g. "FD-DINOv2"; '' = FID with the label beside it."""
    data: str = ""
    """What the reference is of, e.g. "10,000 test images of Fashion-MNIST"; '' where the note says it, or none is."""
    check: Callable[[Sequence[str]], None] | None = None
    """Asked before a run: raises InputError for prompts that it cannot read; None = it reads any."""


ExtractorFactory = Callable[[str], Mapping[str, Extractor]]
"""What follows the colon in "name:argument" ('' if nothing) -> extractors by what metrics read, as `Model.extractors`;
without reference."""

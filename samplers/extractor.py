"""Extractor: what metrics see of a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .metric import Moments, Rows


@dataclass(frozen=True)
class Extractor:
    """What metrics see of a sample: a function from images and prompts to rows of numbers, and what to know of it."""

    label: str
    """Shown beside every number that is made with it, e.g. "fashion-mnist CNN"."""
    extract: Callable[[Tensor, Sequence[str]], Rows]
    """Images, uint8 (n, C, H, W), and n prompts -> rows (n, d). Of a model without images it gets the clean states,
    (n, *shape)."""
    reference: Callable[[], Rows | Moments] | None = None
    """Returns the rows (N, d) of the real images that the model imitates, or only their moments; None = it has none."""
    note: str = ""
    """What a reader of its numbers must know, one line under every table."""
    fingerprint: str = ""
    """Hash of everything that its rows and its reference depend on. Rows are stored under it, and numbers of two
    fingerprints are never compared."""
    frechet: str = ""
    """What the Frechet distance of its rows is called, e.g. "FD-DINOv2"; '' = FID with the label beside it."""
    data: str = ""
    """What the reference is of, e.g. "10,000 test images of Fashion-MNIST"; '' = none, or the note says it."""
    check: Callable[[Sequence[str]], None] | None = None
    """Called with the prompts before a run: raises InputError for those that it cannot read. None = it reads any."""


ExtractorFactory = Callable[[str], Mapping[str, Extractor]]
"""What follows the colon in "name:argument" ('' if nothing) -> extractors by role, the names that metrics read."""

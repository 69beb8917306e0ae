"""Pixels themselves, for a distance between images that needs no network: sliced Wasserstein."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name that every torch program uses)

from ...samplers.errors import InputError
from ...samplers.extractor import Extractor, ExtractorFactory
from ...samplers.metric import Rows
from ...samplers.registry import hookimpl

SIDE = 32
"""The most pixels on a side: rows of whole photographs would be longer than any number of images."""


def extract(images: Tensor, prompts: Sequence[str]) -> Rows:
    """uint8 (n, C, H, W) -> pixels from -1 to 1, (n, d); a larger image is averaged over areas, in its proportions."""
    height, width = images.shape[-2:]
    scale = min(1, SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    rows: Rows = (F.adaptive_avg_pool2d(images.cpu().float(), size) / 127.5 - 1).flatten(1).numpy()
    return rows


def pixels(argument: str = "") -> Mapping[str, Extractor]:
    """The pixels of an image, at most 32 x 32 of them; needs no weights."""
    if argument:
        raise InputError(f"extractor 'pixels:{argument}': takes no argument; expected pixels")
    note = f"on pixels scaled to -1 (black) to 1 (white), of images shrunk to {SIDE} x {SIDE} where they are larger"
    return {"state": Extractor("pixels", extract, note=note, fingerprint=f"pixels 1, {SIDE}")}


@hookimpl
def samplerbench_extractors() -> dict[str, ExtractorFactory]:
    """The extractor that needs no weights."""
    return {"pixels": pixels}

"""my-extractor, an extractor for samplerbench: what metrics see of an image. Say here which network and weights it is.

What stands below works: brightness, contrast and sharpness. Put your network in its place.

    samplerbench list extractors --plugin my_extractor.py
    samplerbench run --extractor my-extractor --reference PHOTOS --metric fid -s ddim -n 64 --plugin my_extractor.py

PHOTOS is a folder of real images, to compare with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from samplerbench import Extractor, ExtractorFactory, InputError, Rows, hookimpl

samplerbench_api = 1  # the version of the interface that this file is written for


def numbers(images: Tensor, prompts: Sequence[str]) -> Rows:
    """uint8 images (n, 1 or 3, H, W) and the prompt of each -> a row of numbers each, (n, d): finite, float32, NumPy.

    The row of an image must not depend on the images beside it, nor on how many there are.
    """
    grey = images.double().mean(1) / 255
    sharpness = grey.diff(dim=1).abs().mean((1, 2)) + grey.diff(dim=2).abs().mean((1, 2))
    rows: Rows = torch.stack([grey.mean((1, 2)), grey.std((1, 2)), sharpness], dim=1).float().numpy()
    return rows


def my_extractor(argument: str) -> Mapping[str, Extractor]:
    """Extractors by what metrics read; `argument` is what follows the colon in "my-extractor:argument", else ''.

    "features" serves FID, KID, precision ..., "logits" the inception score, "clip" the CLIP score, "clip_image" CMMD.
    """
    if argument:
        raise InputError(f"extractor 'my-extractor:{argument}': takes no argument; expected my-extractor")
    extractor = Extractor(
        label="brightness, contrast, sharpness",  # shown beside every number made with it
        extract=numbers,
        frechet="FD-my-extractor",  # the name of the Frechet distance of its rows: FID means Inception's
        note="three numbers an image, no network",  # shown under every table; '' = no note
        fingerprint="1",  # a hash of its weights and settings: rows of a reference are stored under it
    )
    return {"features": extractor}


@hookimpl
def samplerbench_extractors() -> dict[str, ExtractorFactory]:
    """What this file adds, by name."""
    return {"my-extractor": my_extractor}

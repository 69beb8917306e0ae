"""my-data, image data for samplerbench: real images, to compare with and to train on. Say here where they come from.

What stands below works: discs of all sizes, drawn by number. Read your images in their place.

    samplerbench run --reference my-data --metric fid -s ddim --steps 5,10 -n 64 --plugin my_data.py
"""

from __future__ import annotations

import torch
from torch import Tensor

from samplerbench import ImageData, ImageDataFactory, InputError, hookimpl

samplerbench_api = 1  # the version of the interface that this file is written for

SIDE = 32


class MyData(ImageData):
    """Images by number. Everything below depends on the number only, and is the same on every machine."""

    name = "my-data"  # shown with every number made with the images
    notes = ("drawn, not photographed",)  # what a reader of those numbers must know, as sentences

    def __init__(self, count: int) -> None:
        self.count = count

    @property
    def fingerprint(self) -> str:
        """A hash of everything that the images and the captions depend on: of the bytes of the files, for files."""
        return f"discs 1 {self.count}"

    def __len__(self) -> int:
        """How many images there are."""
        return self.count

    def image(self, i: int) -> Tensor:
        """Image i, uint8 (1 or 3, H, W), of any size: where another is needed, it is cropped and resized."""
        axis = torch.linspace(-1, 1, SIDE)
        disc = axis[:, None] ** 2 + axis**2 < self.radius(i) ** 2
        return (255 * disc[None]).to(torch.uint8)

    def caption(self, i: int) -> str | None:
        """The caption of image i, a prompt to train on; None = there is none."""
        return "a large disc" if self.radius(i) > 0.5 else "a small disc"

    def radius(self, i: int) -> float:
        """Of the disc in image i, from 0.1 to 0.9."""
        return 0.1 + 0.8 * ((i * 0.618034) % 1)


def my_data(argument: str) -> ImageData:
    """The images; `argument` is what follows the colon in "my-data:argument", '' if nothing does.

    For images in files it is the path. Raise ModelError for a file that is missing or damaged.
    """
    if not (argument or "1000").isdigit() or argument == "0":
        raise InputError(f"data 'my-data:{argument}': expected a number of images, as in my-data:500")
    return MyData(int(argument or "1000"))


@hookimpl
def samplerbench_data() -> dict[str, ImageDataFactory]:
    """What this file adds, by name."""
    return {"my-data": my_data}

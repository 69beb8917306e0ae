"""Shared by all extractors of images: uint8 images -> rows of a network, where no image affects another one's row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from ...samplers.errors import InputError
from ...samplers.metric import Rows
from ...samplers.model import is_image_shape

Made = TypeVar("Made")
BATCH = 16
BATCH_THERE = 64
"""Images of a batch on an accelerator, which smaller ones leave idle. It does not depend on the memory: rows differ by
it in the last digits."""
GREY, COLOUR = 1, 3
GREY_NOTE = "grey images count as three equal channels"


def as_colour(images: Tensor) -> Tensor:
    """uint8 (n, 1 or 3, H, W) -> (n, 3, H, W), where it is; a grey one has three equal channels.

    InputError for anything else, with what was seen.
    """
    if images.dtype != torch.uint8 or not is_image_shape(tuple(images.shape[1:])):
        span = f" from {float(images.min()):g} to {float(images.max()):g}" if images.numel() else ""
        raise InputError(
            f"images {images.dtype} {tuple(images.shape)}{span}: "
            "expected torch.uint8 (n, 1 or 3, H, W) from 0 to 255; see to_images"
        )
    return images.expand(-1, COLOUR, -1, -1)


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Tensor], images: Tensor) -> Rows:
    """function(images) as float32 rows, in batches of one size, the last one padded."""
    size = BATCH if images.device.type == "cpu" else BATCH_THERE
    rows = []
    for batch in torch.split(images, size):
        # Of one size throughout: a network may round differently in a batch of another size.
        padding = batch[-1:].expand(size - len(batch), *batch.shape[1:])
        rows.append(function(torch.cat([batch, padding]))[: len(batch)].float())
    return torch.cat(rows).cpu().numpy()


def move_to(network: Made, device: torch.device) -> Made:
    """A network, moved to where it is to compute; what is no module computes where its images are."""
    if isinstance(network, nn.Module):
        network.to(device)
    return network


def to_pil(image: Tensor) -> Image.Image:
    """uint8 (1 or 3, H, W) -> the picture."""
    array = image.cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == GREY else array)


def from_pil(picture: Image.Image) -> Tensor:
    """A grey or a colour picture -> uint8 (1 or 3, H, W)."""
    # A copy, because a tensor must not share memory that Pillow may free or change.
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(picture.height, picture.width, -1).permute(2, 0, 1)


def resize(images: Tensor, width: int, height: int) -> Tensor:
    """uint8 (n, 3, H, W) -> uint8 (n, 3, height, width), each by PIL's bicubic filter."""
    size = (width, height)
    return torch.stack([from_pil(to_pil(image).resize(size, Image.Resampling.BICUBIC)) for image in images])

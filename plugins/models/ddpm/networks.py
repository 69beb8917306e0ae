"""The networks of a DDPM on the user's images, in three sizes, and the classifier whose features FID compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypedDict

import torch
from msgspec import Meta
from torch import Tensor, nn

from ....samplers.errors import InputError
from ....samplers.nets.clip import ImageEncoder
from ....samplers.nets.unet import UNet

FEATURE_DIM = 64
CONDITION_DIM = 64
ENCODER_WIDTHS = (32, 64, 128)
HEADS = 4
COARSE = 16
"""The coarsest feature map has attention up to this side, whatever the preset."""
SIZES = (8, 512)
"""The smallest and the largest side of an image: the encoders halve it three times."""
MOST = 4_096
"""Largest number in the arguments of a network: a stranger's file must not fill the memory."""
MOST_LEVELS = 8
Few = Annotated[int, Meta(ge=1, le=16, description="a number from 1 to 16")]


class UNetSettings(TypedDict):
    """The arguments of a U-Net, as they may stand in a file."""

    channels: Annotated[int, Meta(ge=1, le=3, description="1 or 3")]
    widths: Annotated[
        tuple[Annotated[int, Meta(ge=8, le=MOST)], ...],
        Meta(min_length=1, max_length=MOST_LEVELS, description=f"1 to {MOST_LEVELS} numbers from 8 to {MOST}"),
    ]
    heads: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=MOST)], ...],
        Meta(min_length=1, max_length=MOST_LEVELS, description="a number for each level"),
    ]
    blocks: Few
    patch: Few
    condition_dim: Annotated[int, Meta(ge=0, le=MOST, description="a number")]
    embedding_dim: Annotated[int, Meta(ge=1, le=MOST, description=f"a number from 1 to {MOST}")]


@dataclass(frozen=True)
class Preset:
    """A U-Net and how it is trained."""

    widths: tuple[int, ...]
    """Channels of each level."""
    blocks: int
    patch: int
    """Side of the patches that enter as channels."""
    attention: int
    """Feature maps of at most this side have attention."""
    embedding_dim: int
    lr: float
    ema: float
    steps: int

    @property
    def multiple(self) -> int:
        """The number of which the side of an image must be a multiple."""
        return int(self.patch * 2 ** (len(self.widths) - 1))

    def unet_settings(self, channels: int, size: int, condition_dim: int) -> UNetSettings:
        """The arguments of its UNet for images of this kind."""
        sides = [size // self.patch // 2**level for level in range(len(self.widths))]
        limits = [self.attention] * (len(sides) - 1) + [max(self.attention, COARSE)]
        return {
            "channels": channels, "widths": self.widths,
            "heads": tuple(HEADS if side <= limit else 0 for side, limit in zip(sides, limits, strict=True)),
            "blocks": self.blocks, "patch": self.patch, "condition_dim": condition_dim,
            "embedding_dim": self.embedding_dim,
        }  # fmt: skip


PRESETS: Mapping[str, Preset] = {
    "tiny": Preset((48, 96), 1, 2, attention=8, embedding_dim=192, lr=1e-3, ema=0.9995, steps=10_000),
    "small": Preset((64, 128, 192), 2, 2, attention=8, embedding_dim=256, lr=5e-4, ema=0.9995, steps=40_000),
    "base": Preset((128, 256, 256, 256), 2, 1, attention=16, embedding_dim=512, lr=2e-4, ema=0.9999, steps=200_000),
}


def check_side(size: object, preset: str) -> int:
    """The side if the preset's levels divide it, else an error with the nearest sides that they divide."""
    least, most = SIZES
    if isinstance(size, bool) or not isinstance(size, int) or not least <= size <= most:
        raise InputError(f"size {size!r}: expected the side of the images in pixels, from {least} to {most}, as in 32")
    if remainder := size % (multiple := PRESETS[preset].multiple):
        below, above = size - remainder, size - remainder + multiple
        nearest = [str(side) for side in (below, above) if least <= side <= most]
        raise InputError(
            f"size {size}: expected a multiple of {multiple} for preset {preset!r}; the nearest: {', '.join(nearest)}"
        )
    return size


def unet_of(settings: UNetSettings) -> UNet:
    """An untrained U-Net."""
    return UNet(**settings).to(memory_format=torch.channels_last)


class FeatureNet(nn.Module):
    """A classifier whose 64 hidden units are the features for FID; sampling does not use it."""

    def __init__(self, channels: int, classes: int, widths: tuple[int, ...] = ENCODER_WIDTHS) -> None:
        super().__init__()
        self.encoder = ImageEncoder(channels, widths)
        self.project = nn.Linear(widths[-1], FEATURE_DIM)
        self.head = nn.Linear(FEATURE_DIM, classes)

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) uint8, or float in [-1, 1] -> (B, 64)."""
        if images.dtype == torch.uint8:
            images = images.to(self.head.weight.dtype) / 127.5 - 1
        out: Tensor = self.project(self.encoder(images))
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Images -> class logits (B, classes)."""
        out: Tensor = self.head(nn.functional.silu(self.features(images)))
        return out

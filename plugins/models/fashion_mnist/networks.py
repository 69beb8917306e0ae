"""The three networks of the embedded model and the files that hold them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ....samplers.clip import CLIP, ImageEncoder
from ....samplers.unet import UNet
from .captions import vocabulary
from .data import CLASSES

FOLDER = Path(__file__).parent
CONDITION_DIM = 64
FEATURE_DIM = 64


class FeatureNet(nn.Module):
    """A classifier whose 64 inner numbers are the features for FID; it has no part in sampling."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        self.encoder = ImageEncoder(1, widths)
        self.project = nn.Linear(widths[-1], FEATURE_DIM)
        self.head = nn.Linear(FEATURE_DIM, len(CLASSES))

    def features(self, images: Tensor) -> Tensor:
        """Images (B, 1, 28, 28) uint8, or float in [-1, 1] -> (B, 64)."""
        if images.dtype == torch.uint8:
            images = images.to(self.head.weight.dtype) / 127.5 - 1
        out: Tensor = self.project(self.encoder(images))
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Images -> class logits (B, 10)."""
        out: Tensor = self.head(nn.functional.silu(self.features(images)))
        return out


def new_clip() -> CLIP:
    """An untrained CLIP for Fashion-MNIST and its captions."""
    return CLIP(vocabulary=vocabulary(), dim=CONDITION_DIM)


def new_unet() -> UNet:
    """An untrained U-Net: 14 x 14 patches of 2 x 2, attention at 7 x 7, conditioned on the CLIP's text."""
    return UNet(channels=1, widths=(56, 112), heads=(0, 4), blocks=1, patch=2, condition_dim=CONDITION_DIM)

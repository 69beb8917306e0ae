"""The three networks of the embedded model and the files that hold them."""

from __future__ import annotations

from pathlib import Path

from ....samplers.nets.clip import CLIP
from ....samplers.nets.unet import UNet
from ..ddpm import networks as ddpm
from .captions import vocabulary
from .data import CLASSES

FOLDER = Path(__file__).parent
CONDITION_DIM = 64


class FeatureNet(ddpm.FeatureNet):
    """The classifier of the ten classes."""

    def __init__(self) -> None:
        super().__init__(1, len(CLASSES))


def new_clip() -> CLIP:
    """An untrained CLIP for Fashion-MNIST and its captions."""
    return CLIP(vocabulary=vocabulary(), dim=CONDITION_DIM)


def new_unet() -> UNet:
    """An untrained U-Net: 14 x 14 patches of 2 x 2, attention at 7 x 7, conditioned on the CLIP's text."""
    return UNet(channels=1, widths=(56, 112), heads=(0, 4), blocks=1, patch=2, condition_dim=CONDITION_DIM)

"""The network of DINOv2 (Oquab et al. 2023): a vision transformer without registers; its answer is the class token.

Implemented here because its authors release it as code that torch hub downloads and executes; only the weights of that
release are read.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name that every torch program uses)

PATCH = 14
TRAINED_SIDE = 37
"""Patches on a side of the images that it was trained on, 518 x 518."""
ENLARGED = 0.1
"""Added to the number of patches before positions are interpolated, as in its release: its features depend on it."""
HEAD = 64
"""Width of each attention head."""
EPS = 1e-6


class Size(NamedTuple):
    """One of the released sizes."""

    letter: str
    width: int
    depth: int
    megabytes: int


SIZES = {
    "vit-s-14": Size("s", 384, 12, 88),
    "vit-b-14": Size("b", 768, 12, 346),
    "vit-l-14": Size("l", 1024, 24, 1218),
}


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same."""
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, -1, HEAD).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Scale(nn.Module):
    """A learnt factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same."""
        return x * self.gamma


class Layer(nn.Module):
    """Attention, then the MLP, each normalised before and scaled after."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(width, EPS), Attention(width), Scale(width)
        self.norm2, self.mlp, self.ls2 = nn.LayerNorm(width, EPS), Mlp(width), Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class Patches(nn.Module):
    """Images cut into patches, with a vector for each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H W / 14^2, width)."""
        out: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return out


class DinoV2(nn.Module):
    """The transformer; parameters are named as in the released files."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.cls_token, self.mask_token = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_SIDE**2, width))
        self.patch_embed = Patches(width)
        self.blocks = nn.ModuleList(Layer(width) for _ in range(size.depth))
        self.norm = nn.LayerNorm(width, EPS)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W), sides multiples of 14 -> the class token, (B, width)."""
        height, width = (side // PATCH for side in images.shape[-2:])
        patches = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1) + self.positions(height, width)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x[:, 0])
        return out

    def positions(self, height: int, width: int) -> Tensor:
        """The learnt positions for these patches, (1, 1 + height width, channels), by bicubic interpolation."""
        if height == width == TRAINED_SIDE:
            return self.pos_embed
        of_class, of_patches = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = of_patches.reshape(1, TRAINED_SIDE, TRAINED_SIDE, -1).permute(0, 3, 1, 2)
        # By a factor and not by a size: the release interpolates at the slightly larger factor.
        factors = tuple((side + ENLARGED) / math.sqrt(of_patches.shape[1]) for side in (height, width))
        grid = F.interpolate(grid, scale_factor=factors, mode="bicubic")
        return torch.cat([of_class, grid.flatten(2).transpose(1, 2)], dim=1)

"""The network of the core DDPM: a U-Net of residual blocks and multi-head attention.

Ho et al. 2020, appendix B, with two changes that make it small enough for two CPU cores: patches of the image are
folded into channels (space to depth), and each level has as many up blocks as down blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name that every torch program uses)

GROUPS = 8


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sines and cosines of t, (B,) -> (B, dim); t may be fractional. Vaswani et al. 2017, section 3.5."""
    frequencies = torch.exp(torch.arange(dim // 2, device=t.device) * (-2 * math.log(max_period) / dim))
    # At least float32: in bfloat16 the timestep 999 would be 1000.
    angles = t[:, None].to(torch.promote_types(t.dtype, torch.float32)) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions; the embedding of time and condition is added between them."""

    def __init__(self, channels_in: int, channels_out: int, embedding_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.embedding = nn.Linear(embedding_dim, channels_out)
        self.norm2 = nn.GroupNorm(GROUPS, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)
        nn.init.zeros_(self.conv2.weight)  # each block starts as the identity, so depth costs no stability

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, channels_in, H, W), (B, embedding_dim) -> (B, channels_out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x))) + self.embedding(embedding)[:, :, None, None]
        out: Tensor = self.skip(x) + self.conv2(F.silu(self.norm2(h)))
        return out


class SelfAttention(nn.Module):
    """Multi-head self-attention over all places of a feature map, with a residual connection."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        # Attention starts as the identity, as the residual blocks do.
        nn.init.zeros_(self.project.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        b, c, height, width = x.shape
        places = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(places).view(b, height * width, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        # Written out: on a CPU the fused kernel's backward pass is several times slower at so few places.
        weights = (q @ k.transpose(-1, -2) / math.sqrt(c // self.heads)).softmax(dim=-1)
        attended = (weights @ v).transpose(1, 2).reshape(b, height * width, c)
        out: Tensor = x + self.project(attended).transpose(1, 2).view(b, c, height, width)
        return out


class Stage(nn.Module):
    """One residual block, then attention where the level has it."""

    def __init__(self, channels_in: int, channels_out: int, embedding_dim: int, heads: int) -> None:
        super().__init__()
        self.block = ResidualBlock(channels_in, channels_out, embedding_dim)
        self.attention = SelfAttention(channels_out, heads) if heads else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, channels_in, H, W), (B, embedding_dim) -> (B, channels_out, H, W)."""
        out: Tensor = self.attention(self.block(x, embedding))
        return out


class Down(nn.Module):
    """The encoder at one level: halve the side (not at the first level), then stages."""

    def __init__(self, finer: int | None, stages: list[Stage], width: int) -> None:
        super().__init__()
        self.shrink = nn.Identity() if finer is None else nn.Conv2d(finer, width, 3, stride=2, padding=1)
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        """Push the output of each stage onto `skips`."""
        h: Tensor = self.shrink(x)
        for stage in self.stages:
            h = stage(h, embedding)
            skips.append(h)
        return h


class Up(nn.Module):
    """The decoder at one level: double the side (not at the coarsest level), then stages with skip connections."""

    def __init__(self, coarser: int | None, stages: list[Stage], width: int) -> None:
        super().__init__()
        # The deepest level has nothing below it to grow from.
        self.grow = None if coarser is None else nn.Conv2d(coarser, width, 1)
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        """Pop one entry of `skips` for each stage."""
        # The convolution comes before the interpolation, where it has a quarter of the places.
        h = x if self.grow is None else F.interpolate(self.grow(x), scale_factor=2.0, mode="nearest")
        for stage in self.stages:
            h = stage(torch.cat([h, skips.pop()], dim=1), embedding)
        return h


class UNet(nn.Module):
    """(x, t, condition) -> the network's answer, of x's shape.

    `widths` are the channels of each level, `heads` the attention heads of each (0 = none), `blocks` the
    stages of each level on either side. H and W must be multiples of `patch` * 2^(levels - 1).
    """

    def __init__(  # noqa: PLR0913  (the hyperparameters of a U-Net, each by keyword)
        self,
        *,
        channels: int,
        widths: Sequence[int] = (48, 96),
        heads: Sequence[int] = (0, 4),
        blocks: int = 2,
        patch: int = 2,
        condition_dim: int = 0,
        embedding_dim: int = 192,
    ) -> None:
        super().__init__()
        if len(heads) != len(widths):
            raise ValueError(f"heads {tuple(heads)}: expected one number for each level of widths {tuple(widths)}")
        self.time_dim = widths[0]
        self.time = embedder(widths[0], embedding_dim)
        self.condition = embedder(condition_dim, embedding_dim) if condition_dim else None
        self.fold = nn.PixelUnshuffle(patch)
        self.enter = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for i, (width, level_heads) in enumerate(zip(widths, heads, strict=True)):
            finer = widths[i - 1] if i else None
            coarser = widths[i + 1] if i + 1 < len(widths) else None
            inward = [Stage(width, width, embedding_dim, level_heads) for _ in range(blocks)]
            # Twice the width comes in: what comes from below, and the encoder's output of the same stage.
            outward = [Stage(2 * width, width, embedding_dim, level_heads) for _ in range(blocks)]
            self.down.append(Down(finer, inward, width))
            self.up.insert(0, Up(coarser, outward, width))
        self.middle = Stage(widths[-1], widths[-1], embedding_dim, heads[-1])
        last = nn.Conv2d(widths[0], channels * patch**2, 3, padding=1)
        # An untrained network answers 0, the mean of what it predicts.
        nn.init.zeros_(last.weight)
        self.leave = nn.Sequential(nn.GroupNorm(GROUPS, widths[0]), nn.SiLU(), last)
        self.unfold = nn.PixelShuffle(patch)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), t (B,), condition (B, condition_dim) or None -> (B, C, H, W).

        A zero row of `condition` stands for "no condition".
        """
        # One embedding of time and condition, which every residual block adds.
        embedding = self.time(timestep_embedding(t, self.time_dim).to(x.dtype))
        if self.condition is not None and condition is not None:
            embedding = embedding + self.condition(condition)
        embedding = F.silu(embedding)

        # Space to depth: the network works at a fraction of the side, with more channels.
        # Convolutions hand on the layout of their input, and channels last is the fastest on a CPU.
        h = self.enter(self.fold(x).contiguous(memory_format=torch.channels_last))
        # The encoder pushes the output of every stage; the decoder pops them in reverse order.
        skips: list[Tensor] = []
        for down in self.down:
            h = down(h, embedding, skips)
        h = self.middle(h, embedding)
        for up in self.up:
            h = up(h, embedding, skips)
        out: Tensor = self.unfold(self.leave(h))
        return out


def embedder(dim: int, embedding_dim: int) -> nn.Sequential:
    """A network that turns (B, dim) into an embedding (B, embedding_dim)."""
    return nn.Sequential(nn.Linear(dim, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim))

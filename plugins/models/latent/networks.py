"""The networks of a latent model, of diffusers and transformers, and the image tower that teaches text."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name that every torch program uses)

from ....samplers.nets.clip import MAX_LOGIT_SCALE
from ..diffusers.libraries import library, quietly
from .settings import FACTOR, Preset
from .tokens import PLACES

LATENT_CHANNELS = 4
GROUPS = 16
HEAD = 32
"""Channels of a head of attention."""
TOWER = (48, 96, 128)
TOWER_SIDE = 4
"""Side of the map that the image tower keeps: a mean over all places would not know left from right."""


def vae_of(preset: Preset, size: int) -> nn.Module:
    """The autoencoder: an eighth of an image's numbers, at a fourth of its side."""
    with quietly():
        made: nn.Module = library("diffusers").AutoencoderKL(
            sample_size=size, latent_channels=LATENT_CHANNELS, block_out_channels=preset.vae, layers_per_block=1,
            norm_num_groups=GROUPS, down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3, mid_block_add_attention=False,
        )  # fmt: skip
    return made


def text_of(preset: Preset, tokenizer: Any) -> nn.Module:
    """The text encoder of Stable Diffusion, small."""
    transformers = library("transformers")
    with quietly():
        made: nn.Module = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=preset.text, intermediate_size=4 * preset.text,
                num_hidden_layers=preset.text_layers, num_attention_heads=max(1, preset.text // HEAD),
                max_position_embeddings=PLACES, projection_dim=preset.text, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            )
        )  # fmt: skip
    return made


def unet_of(preset: Preset, size: int) -> nn.Module:
    """The U-Net, which attends to all states of the text encoder at every side."""
    sides = len(preset.unet)
    with quietly():
        made: nn.Module = library("diffusers").UNet2DConditionModel(
            sample_size=size // FACTOR, in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS,
            layers_per_block=preset.unet_layers, block_out_channels=preset.unet, norm_num_groups=GROUPS,
            down_block_types=("CrossAttnDownBlock2D",) * sides, up_block_types=("CrossAttnUpBlock2D",) * sides,
            cross_attention_dim=preset.text,
            # Despite its name it is the number of heads, one for each side.
            attention_head_dim=tuple(max(1, channels // HEAD) for channels in preset.unet),
        )  # fmt: skip
    return made


class Decoder(nn.Module):
    """The part of an autoencoder that turns latents into images; its modules are those of the autoencoder itself."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.first, self.rest = vae.post_quant_conv, vae.decoder

    def forward(self, latents: Tensor) -> Tensor:
        """Latents -> images in [-1, 1]."""
        images: Tensor = self.rest(self.first(latents))
        return images


class Pairs(nn.Module):
    """The text encoder beside an image tower, both into unit vectors of the same space (Radford et al. 2021)."""

    def __init__(self, text: nn.Module, width: int) -> None:
        super().__init__()
        self.text = text
        layers: list[nn.Module] = []
        for c_in, c_out in zip((3, *TOWER), TOWER, strict=False):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1, stride=2), nn.GroupNorm(GROUPS, c_out), nn.SiLU(),
                       nn.Conv2d(c_out, c_out, 3, padding=1), nn.GroupNorm(GROUPS, c_out), nn.SiLU()]  # fmt: skip
        self.tower = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(TOWER_SIDE), nn.Flatten())
        self.of_image = nn.Linear(TOWER[-1] * TOWER_SIDE**2, width, bias=False)
        self.of_text = nn.Linear(width, width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def images(self, x: Tensor) -> Tensor:
        """Images in [-1, 1] -> unit vectors (B, D)."""
        return F.normalize(self.of_image(self.tower(x)).float(), dim=-1)

    def texts(self, tokens: Tensor) -> Tensor:
        """Tokens (B, PLACES) -> unit vectors (B, D), of the state at the end of each text."""
        return F.normalize(self.of_text(self.text(input_ids=tokens).pooler_output).float(), dim=-1)

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by, bounded as in the paper."""
        return self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()

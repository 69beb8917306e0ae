"""How the embedded model is trained: features, then CLIP, then the DDPM that the CLIP's text conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ....samplers.nets.clip import CLIP
from ....samplers.nets.ranks import ALONE, Ranks
from ....samplers.nets.training import Recipe, Report, fit
from ..ddpm.losses import classifying, contrasting, denoising
from ..ddpm.parts import condition_of
from .captions import brightness_of, captions_for
from .data import Split
from .networks import FeatureNet, new_clip, new_unet

BATCH = 128
CLIP_BATCH = 256
FEATURES = Recipe("features", steps=2_800, lr=2e-3, weight_decay=0.02)
CLIP_RECIPE = Recipe("clip", steps=1_900, lr=1e-3, weight_decay=0.05, ema=0.995)
DDPM = Recipe("ddpm", steps=9_000, lr=1e-3, weight_decay=0.01, ema=0.9995)


def train_features(data: Split, seed: int, checkpoint: Path, report: Report, ranks: Ranks = ALONE) -> FeatureNet:
    """Train the classifier whose features FID compares."""
    torch.manual_seed(seed)
    network = FeatureNet().to(ranks.device)
    loss = classifying(data.images, data.labels, batch=BATCH, seed=seed, device=ranks.device)
    network.load_state_dict(fit(network, loss, FEATURES, checkpoint=checkpoint, report=report, ranks=ranks))
    return network.cpu()


def train_clip(data: Split, seed: int, checkpoint: Path, report: Report, ranks: Ranks = ALONE) -> CLIP:
    """Train the CLIP on images and captions, a new wording of each caption in each epoch."""
    torch.manual_seed(seed)
    network = new_clip().to(ranks.device)
    brightness = brightness_of(data)

    def texts_of(rows: Tensor, seed: int) -> list[str]:
        return captions_for(data.labels[rows], brightness[rows.numpy()], seed)

    loss = contrasting(data.images, texts_of, network.tokenizer, batch=CLIP_BATCH, seed=seed, device=ranks.device)
    network.load_state_dict(fit(network, loss, CLIP_RECIPE, checkpoint=checkpoint, report=report, ranks=ranks))
    return network.cpu()


def train_ddpm(  # noqa: PLR0913  (data, condition, and where the training goes)
    data: Split,
    clip: CLIP,
    seed: int,
    checkpoint: Path,
    report: Report,
    steps: int | None = None,
    ranks: Ranks = ALONE,
    *,
    is_compiled: bool = False,
) -> nn.Module:
    """Train the U-Net to denoise images given the CLIP embedding of their captions."""
    torch.manual_seed(seed)
    network = new_unet().to(ranks.device).to(memory_format=torch.channels_last)
    loss = denoising(data.images, caption_embedder(data, clip), batch=BATCH, seed=seed, ranks=ranks)
    recipe = replace(DDPM, steps=steps or DDPM.steps, compile=is_compiled)
    network.load_state_dict(fit(network, loss, recipe, checkpoint=checkpoint, report=report, ranks=ranks))
    return network.cpu()


def caption_embedder(data: Split, clip: CLIP) -> Callable[[Tensor, int], Tensor]:
    """The function (sample numbers, seed) -> condition (B, D) of newly worded captions."""
    brightness = brightness_of(data)

    @torch.no_grad()
    def embed(rows: Tensor, seed: int) -> Tensor:
        texts = captions_for(data.labels[rows], brightness[rows.numpy()], seed)
        # The CLIP is finished and only read: no gradient goes into it.
        return condition_of(clip, texts).float()

    return embed

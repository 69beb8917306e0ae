"""How the embedded model is trained: features, then CLIP, then the DDPM that the CLIP's text conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name that every torch program uses)

from ....samplers.clip import CLIP
from ....samplers.ddpm import ddpm_loss
from ....samplers.predictor import Predicts
from ....samplers.schedule import vp_linear
from ....samplers.training import Recipe, Report, batch_of, fit, step_generator
from .captions import brightness_of, captions_for
from .data import Split
from .networks import FeatureNet, new_clip, new_unet

BATCH = 128
CLIP_BATCH = 256
CONDITION_DROP = 0.1
"""Share of training images without a condition, which makes classifier-free guidance possible."""
PREDICTS: Predicts = "v"
"""The U-Net answers with v: near t = T the noise is almost the input itself, and x0 = (x - sigma eps) / alpha
would magnify the error of a small network up to 150 times."""
FEATURES = Recipe("features", steps=2_800, lr=2e-3, weight_decay=0.02)
CLIP_RECIPE = Recipe("clip", steps=1_900, lr=1e-3, weight_decay=0.05, ema=0.995)
DDPM = Recipe("ddpm", steps=9_000, lr=1e-3, weight_decay=0.01, ema=0.9995)


def as_input(images: Tensor) -> Tensor:
    """uint8 -> float in [-1, 1]."""
    return images.float() / 127.5 - 1


def train_features(data: Split, seed: int, checkpoint: Path, report: Report) -> FeatureNet:
    """Train the classifier whose features FID compares."""
    torch.manual_seed(seed)
    network = FeatureNet()

    def loss(net: nn.Module, step: int) -> Tensor:
        rows = batch_of(seed, step, len(data.images), BATCH)
        return F.cross_entropy(net(as_input(data.images[rows])).float(), data.labels[rows], label_smoothing=0.05)

    network.load_state_dict(fit(network, loss, FEATURES, checkpoint=checkpoint, report=report))
    return network


def train_clip(data: Split, seed: int, checkpoint: Path, report: Report) -> CLIP:
    """Train the CLIP on images and captions, a new wording of each caption in each epoch."""
    torch.manual_seed(seed)
    network = new_clip()
    brightness = brightness_of(data)

    def loss(net: nn.Module, step: int) -> Tensor:
        assert isinstance(net, CLIP)
        rows = batch_of(seed, step, len(data.images), CLIP_BATCH)
        texts = captions_for(data.labels[rows], brightness[rows.numpy()], seed + step)
        return net.loss(as_input(data.images[rows]), net.tokenizer.encode(texts))

    network.load_state_dict(fit(network, loss, CLIP_RECIPE, checkpoint=checkpoint, report=report))
    return network


def train_ddpm(  # noqa: PLR0913  (data, condition, and where the training goes)
    data: Split,
    clip: CLIP,
    seed: int,
    checkpoint: Path,
    report: Report,
    steps: int | None = None,
) -> nn.Module:
    """Train the U-Net to denoise images given the CLIP embedding of their captions."""
    torch.manual_seed(seed)
    network = new_unet().to(memory_format=torch.channels_last)
    embed = caption_embedder(data, clip)
    schedule = vp_linear()
    recipe = DDPM if steps is None else Recipe(**{**DDPM.__dict__, "steps": steps})

    def loss(net: nn.Module, step: int) -> Tensor:
        generator = step_generator(seed, step)
        rows = batch_of(seed, step, len(data.images), BATCH)
        condition = embed(rows, seed + step)
        kept = torch.rand(len(rows), 1, generator=generator) >= CONDITION_DROP
        x0 = as_input(data.images[rows])
        return ddpm_loss(net, schedule, x0, condition * kept, generator=generator, predicts=PREDICTS)

    network.load_state_dict(fit(network, loss, recipe, checkpoint=checkpoint, report=report))
    return network


def caption_embedder(data: Split, clip: CLIP) -> Callable[[Tensor, int], Tensor]:
    """The function (sample numbers, seed) -> condition (B, D) of newly worded captions."""
    brightness = brightness_of(data)

    @torch.no_grad()
    def embed(rows: Tensor, seed: int) -> Tensor:
        texts = captions_for(data.labels[rows], brightness[rows.numpy()], seed)
        return condition_of(clip, texts).float()

    return embed


def condition_of(clip: CLIP, texts: list[str]) -> Tensor:
    """Texts -> the U-Net's condition: the unit embedding, scaled to unit variance in each dimension, (B, D)."""
    return clip.embed_texts(texts) * math.sqrt(clip.dim)

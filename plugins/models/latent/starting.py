"""The model that a training starts from: a folder of an earlier `train --latent`, or of a model that was shipped."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ....samplers.errors import InputError, ModelError
from ....samplers.schedule import VP, Schedule
from ..diffusers.folder import Pipeline, read_pipeline
from ..diffusers.model import Diffusers
from ..diffusers.weights import load_part
from .losses import FLOW_TIMES
from .networks import LATENT_CHANNELS
from .settings import FACTOR, FLOW, TEXT, Settings
from .tokens import PLACES

CARRIED_TIMES, CARRYING_STEPS, CARRYING_RATE = 250, 300, 2e-3
SUPPORTED = "StableDiffusionPipeline"
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
UNETS = ("UNet2DConditionModel",)


@dataclass(frozen=True)
class Start:
    """A latent model, with its parts as they are in its folder."""

    pipeline: Pipeline
    size: int
    fingerprint: str
    """SHA-256 of all its files, by which a resumed training knows it again."""
    schedule: Schedule

    @classmethod
    def of(cls, folder: Path, settings: Settings) -> Start:
        """The model in a folder. InputError unless its images have the size of the settings and its latents a fourth of
        that, ModelError for files that are not as they should be."""
        if not folder.is_dir():
            raise InputError(f"start_from {folder}: no such folder; expected what `train --latent -o DIR` wrote")
        pipeline = read_pipeline(str(folder))
        if pipeline.cls != SUPPORTED:
            raise ModelError(f"start_from {folder}: a {pipeline.cls}; expected what `train --latent -o DIR` wrote")
        model = Diffusers()(str(folder), size=settings.size)
        side = settings.size // FACTOR
        places = pipeline.part("tokenizer", TOKENIZERS).config.get("model_max_length")
        if model.shape != (LATENT_CHANNELS, side, side) or places != PLACES:
            raise ModelError(
                f"start_from {folder}: latents of shape {model.shape} and texts of {places} tokens; expected "
                f"{(LATENT_CHANNELS, side, side)} and {PLACES}, as of what `train --latent -o DIR` wrote"
            )
        width = pipeline.part("unet", UNETS).config.get("cross_attention_dim")
        if settings.relearns(TEXT) and width != settings.of_preset.text:
            raise InputError(
                f"start_from {folder}: its U-Net reads states of width {width}, and the text encoder of preset "
                f"{settings.preset!r} gives {settings.of_preset.text}; expected the preset of that model"
            )
        return cls(pipeline, settings.size, model.fingerprint, model.schedule)

    def vae(self, device: torch.device) -> Any:
        """Its autoencoder, which can learn on."""
        vae: Any = load_part(self.pipeline.part("vae", ("AutoencoderKL",)), device, torch.float32)
        vae.register_to_config(sample_size=self.size)
        return vae.requires_grad_(True)

    def text(self, device: torch.device) -> Any:
        """Its text encoder."""
        return load_part(self.pipeline.part("text_encoder", ("CLIPTextModel",)), device, torch.float32)

    def unet(self, prediction: str) -> Any:
        """Its U-Net, which can learn on; where it turns from betas to a flow, with its sense of time carried over."""
        unet: Any = load_part(self.pipeline.part("unet", UNETS), torch.device("cpu"), torch.float32)
        unet.register_to_config(sample_size=self.size // FACTOR)
        unet.requires_grad_(True)
        if prediction == FLOW and isinstance(self.schedule, VP):
            carry_over(unet, self.schedule)
        return unet

    def copy_tokenizer(self, folder: Path) -> None:
        """Copy its tokenizer to a folder."""
        shutil.copytree(self.pipeline.folder / "tokenizer", folder)


def carry_over(unet: Any, schedule: VP) -> None:
    """Have a U-Net hear a time of a flow as it heard the timestep with the same signal-to-noise ratio.

    Only its embedding of time learns, from no image: 300 steps by all times together. The state at such a time is, but
    for its scale, what the network knows from that timestep.
    """
    t = torch.arange(1, CARRIED_TIMES + 1, dtype=torch.float64) / CARRIED_TIMES
    known = torch.logit(1 - t).clamp(schedule.first.lambda_, schedule.last.lambda_)
    before = torch.tensor([schedule.at_lambda(lambda_).t for lambda_ in known.tolist()], dtype=torch.float32)
    embedding, after = unet.time_embedding, (FLOW_TIMES * t).float()
    with torch.no_grad():
        wanted = embedding(unet.time_proj(before))
    optimizer = torch.optim.Adam(embedding.parameters())
    for step in range(CARRYING_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = CARRYING_RATE * (1 + math.cos(math.pi * step / CARRYING_STEPS)) / 2
        optimizer.zero_grad()
        (embedding(unet.time_proj(after)) - wanted).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()

"""Latent diffusion on the user's own images: `samplerbench train --latent` trains it, `--model DIR` loads it."""

from __future__ import annotations

import os
from pathlib import Path

from ....samplers.arguments import resolve_device
from ....samplers.errors import InputError
from ....samplers.image_data import ImageData
from ....samplers.model import Model
from ....samplers.nets.ranks import rank_of
from ....samplers.nets.training import Report
from ....samplers.registry import ModelFactory, hookimpl
from ..diffusers.model import Diffusers
from .settings import Settings
from .training import train_in


class Latent:
    """Trains a latent diffusion model with text; what it writes is a folder of diffusers, and loaded as one."""

    def __call__(self, argument: str = "") -> Model:
        """The model in a folder."""
        return Diffusers()(argument)

    def train_on(  # noqa: PLR0913  (a setting each)
        self,
        images: ImageData,
        *,
        output: Path,
        report: Report,
        seed: int = 0,
        size: int = 64,
        preset: str = "tiny",
        steps: int | None = None,
        batch_size: int = 64,
        lr: float | None = None,
        precision: str = "bf16",
        device: str = "cpu",
        decoder_data: ImageData | None = None,
        prediction: str = "v",
        start_from: str | Path | None = None,
        compile: bool = False,  # noqa: A002  (the name of the option)
        relearn: str = "",
    ) -> list[str]:
        """Train on images and their captions and write the model to `output`; an unfinished training there is resumed.

        `decoder_data` are the images of the phase in which only the decoder learns; by default those of all phases.
        `prediction`: what the U-Net answers with, v or flow. `start_from`: the folder of such a model, whose U-Net
        learns on; its autoencoder and its text encoder are taken as they are, unless `relearn` names them: "vae", the
        autoencoder from its weights; "text", a new text encoder from these captions; "both". With `compile` the U-Net
        is compiled, which makes its steps faster and moves their last digits.
        Returns what the user should know about it, as sentences.
        """
        if rank_of(os.environ)[1] > 1:
            raise InputError("model 'latent': is trained by one process; start it without torchrun")
        settings = Settings(size, preset, steps, batch_size, lr, precision, seed, prediction, compile, relearn)
        start = None if start_from is None else Path(start_from)
        return train_in(output, images, decoder_data, settings, resolve_device(device), report, start)


@hookimpl
def samplerbench_models() -> dict[str, ModelFactory]:
    """Latent diffusion models on the user's own images."""
    return {"latent": Latent()}

"""DiT, a transformer on latent states, of classes (Peebles and Xie 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....samplers.errors import ModelError
from ....samplers.model import Model
from .building import Parts, classes_in, latents, per_place
from .canvas import VAE, Canvas, Size, usual_size
from .folder import Pipeline
from .process import predicts_of, schedule_of


def dit(pipeline: Pipeline, parts: Parts, size: Size | None, clip_skip: int | None) -> Model:
    """A transformer on latent states, of classes (Peebles and Xie 2023)."""
    transformer, scheduler, vae = parts["transformer"], parts["scheduler"], VAE(parts["vae"])
    channels = int(transformer.need("in_channels", int))
    transformer.expect("in_channels", channels, vae.latent_channels, "the latent channels of its VAE")
    answers = int(transformer.get("out_channels", channels, int))
    if answers not in (channels, 2 * channels):
        raise ModelError(
            f"{transformer.file}: in_channels {channels}, out_channels {answers}: expected as many, or twice"
        )
    patch = int(transformer.need("patch_size", int))
    canvas = Canvas(
        vae.factor * patch, "its VAE and patches divide them", usual_size(transformer, vae.factor), square=True
    )
    classes = classes_in(pipeline, transformer, "num_embeds_ada_norm")

    def ask(network: Any, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        answer: Tensor = network(x, timestep=t, class_labels=condition, return_dict=False)[0]
        return answer[:, :channels]

    return Model(
        name="",
        network=per_place(transformer, ask),
        schedule=schedule_of(scheduler),
        predicts=predicts_of(scheduler),
        encode=classes.encode,
        unconditional=lambda texts: torch.full((len(texts),), classes.count),  # the class that training dropped out to
        prompts=classes.prompts,
        **latents(vae, canvas.choose(size)),
    )

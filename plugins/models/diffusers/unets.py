"""U-Nets without text, on pixels or on the latent states of an autoencoder, of classes if they have them."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

from ....samplers.errors import ModelError
from ....samplers.model import Model
from .building import Parts, classes_in, latents, per_place, refuse_unusual
from .canvas import CHANNELS, VAE, Canvas, Size, halvings_of, usual_size
from .folder import Part, Pipeline
from .process import clip_of, predicts_of, schedule_of

SMALL_SIDE = 64
"""Images of pixels up to this side go through the network together."""


def pixels(pipeline: Pipeline, parts: Parts, size: Size | None, clip_skip: int | None) -> Model:
    """A U-Net on pixels, of classes if it has them."""
    unet, scheduler = parts["unet"], parts["scheduler"]
    channels = channels_of_unet(unet)
    if channels not in CHANNELS:
        raise ModelError(f"{unet.file}: in_channels {channels}: expected 1 or 3, grey or colour")
    width, height = unet_canvas(unet, 1, "its U-Net divides them").choose(size)
    return Model(
        name="",
        network=per_place(unet, functools.partial(unet_answer, channels)),
        schedule=schedule_of(scheduler),
        shape=(channels, height, width),
        predicts=predicts_of(scheduler),
        clip=clip_of(scheduler),
        batch_size=64 if max(width, height) <= SMALL_SIDE else 1,
        image_shape=(channels, height, width),
        **classes_of(pipeline, unet),
    )


def latent_unet(pipeline: Pipeline, parts: Parts, size: Size | None, clip_skip: int | None) -> Model:
    """A U-Net on the latent states of an autoencoder."""
    unet, scheduler, vae = parts["unet"], parts["scheduler"], VAE(parts["vqvae"])
    channels = channels_of_unet(unet)
    unet.expect("in_channels", channels, vae.latent_channels, "the latent channels of its autoencoder")
    chosen = unet_canvas(unet, vae.factor, "its autoencoder and U-Net divide them").choose(size)
    return Model(
        name="",
        network=per_place(unet, functools.partial(unet_answer, channels)),
        schedule=schedule_of(scheduler),
        predicts=predicts_of(scheduler),
        **latents(vae, chosen),
        **classes_of(pipeline, unet),
    )


def channels_of_unet(unet: Part) -> int:
    """Channels of the state of a U-Net without text."""
    channels, answers = int(unet.need("in_channels", int)), int(unet.need("out_channels", int))
    if answers not in (channels, 2 * channels):  # twice: with a learned variance
        raise ModelError(f"{unet.file}: in_channels {channels}, out_channels {answers}: expected as many, or twice")
    refuse_unusual(unet, time_embedding_type="positional", class_embed_type=None)
    return channels


def unet_canvas(unet: Part, factor: int, why: str) -> Canvas:
    """Sizes of a U-Net without text, whose halves have to meet again; `factor`: pixels a place of its state."""
    return Canvas(factor * 2 ** halvings_of(unet), why, usual_size(unet, factor))


def unet_answer(channels: int, unet: Any, x: Tensor, t: Tensor, *classes: Tensor) -> Tensor:
    """What a U-Net without text predicts; a learned variance is left out."""
    answer: Tensor = unet(x, t, *classes, return_dict=False)[0]
    # The second half is the variance, for which every sampler here has a rule of its own.
    return answer[:, :channels]


def classes_of(pipeline: Pipeline, unet: Part) -> dict[str, Any]:
    """The fields of a model of classes that a model without classes lacks."""
    if unet.config.get("num_class_embeds") is None:
        return {}
    classes = classes_in(pipeline, unet, "num_class_embeds")
    return {"encode": classes.encode, "prompts": classes.prompts}

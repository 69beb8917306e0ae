"""Functions that build the models of all pipelines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ....samplers.errors import ModelError
from ....samplers.model import NetworkLoader
from ....samplers.predictor import Network
from .canvas import VAE, Size
from .folder import Part, Pipeline
from .text import Classes
from .weights import load_part

MOST_CLASSES = 1_000_000
Parts = Mapping[str, Part]
"""The parts of a pipeline by name."""


def per_place(part: Part, ask: Callable[..., Tensor]) -> NetworkLoader:
    """(device, dtype) -> the network there, read once for each; `ask(network, x, t, *condition)` calls it."""

    @functools.cache
    def on(device: torch.device, dtype: torch.dtype) -> Network:
        return functools.partial(ask, load_part(part, device, dtype))

    return on


def refuse_unusual(network: Part, **usual: object) -> None:
    """ModelError for a network that needs more inputs than its pipeline gives."""
    for name, value in usual.items():
        network.expect(name, network.config.get(name, value), value, "as of the pipelines that are supported")


def classes_in(pipeline: Pipeline, network: Part, count_field: str) -> Classes:
    """The classes of a network, with their names where the index has them."""
    count = int(network.need(count_field, int))
    if not 1 <= count <= MOST_CLASSES:
        raise ModelError(f"{network.file}: {count_field} {count}: expected 1 to {MOST_CLASSES}")
    labels = pipeline.index.get("id2label")
    return Classes(count, labels if isinstance(labels, dict) else {})


def latents(vae: VAE, size: Size) -> dict[str, Any]:
    """The fields that every model of latent states shares."""
    width, height = size
    return {
        "shape": vae.shape(size),
        "batch_size": 1,
        "decode": vae.decoder(),
        "image_shape": (vae.channels, height, width),
    }


def patches_of(vae: VAE, size: Size, patch: int) -> int:
    """Tokens of an image."""
    _, height, width = vae.shape(size)
    return (height // patch) * (width // patch)

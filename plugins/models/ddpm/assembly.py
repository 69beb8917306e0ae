"""A model from its trained parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ....samplers.extractor import Extractor
from ....samplers.files.weights import network_from_file
from ....samplers.model import Model
from ....samplers.nets.clip import CLIP
from ....samplers.nets.unet import UNet
from ....samplers.schedule import vp_linear
from ..rows import rows_of_a_call
from .card import Card
from .losses import PREDICTS
from .networks import FEATURE_DIM
from .parts import clip_extractor, encoder, per_place, rows_extractor


def assemble(  # noqa: PLR0913  (the parts of a model)
    name: str,
    card: Card,
    unet: UNet,
    clip: CLIP | None,
    extractors: Mapping[str, Extractor] | None = None,
    fingerprint: str = "",
) -> Model:
    """The model that is made of these parts."""
    dim = card.unet["condition_dim"]
    return Model(
        name=name,
        network=per_place(unet),
        schedule=vp_linear(),
        shape=card.shape,
        predicts=PREDICTS,
        clip=(-1.0, 1.0),  # images end there, and at high noise the error of x0 is many times that of v
        encode=encoder(clip) if clip else None,
        unconditional=(lambda texts: torch.zeros(len(texts), dim)) if clip else None,
        prompts=card.prompts,
        extractors=extractors or {},
        fingerprint=fingerprint,
        batch_size=rows_of_a_call(card.shape),
    )


def extractors_of(card: Card, clip: CLIP | None, files: Mapping[str, Path]) -> dict[str, Extractor]:
    """The extractors of the model: features of the classifier, and the CLIP, if they exist."""
    trained = "; ".join([f"trained on {card.data}, which is also its reference", *(n.rstrip(".") for n in card.notes)])
    found: dict[str, Extractor] = {}
    if card.classes:
        label, note, weights = f"{card.data} CNN", f"the {card.data} CNN was {trained}", files["features"]
        net = network_from_file(card.new_features, weights)
        reference = (files["reference"], FEATURE_DIM)
        found["features"] = rows_extractor(label, net.features, card.shape, weights, reference, note)
        found["logits"] = rows_extractor(label, net, card.shape, weights, note=note)
    if clip:
        label, note = f"{card.data} CLIP", f"the {card.data} CLIP, which also conditions the model, was {trained}"
        reference = (files["clip_reference"], clip.dim)
        found["clip"] = clip_extractor(label, clip, card.shape, files["clip"], note)
        found["clip_image"] = rows_extractor(label, clip.embed_images, card.shape, files["clip"], reference, note)
    return found

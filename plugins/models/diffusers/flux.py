"""Flux: flow matching on packed latent states; where the guidance is distilled, the network is told it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....samplers.errors import InputError, ModelError
from ....samplers.model import Model
from .building import Parts, latents, patches_of, per_place
from .canvas import VAE, Canvas, Size
from .folder import Part, Pipeline, short
from .process import flow_of, timesteps_of_flow
from .text import Packing, TextEncoder, checks
from .text_rows import rows_of

T5_TOKENS = 512
"""Places of the T5 encoder, those of the pipeline of diffusers."""
AXES = 3
"""The numbers of a token's place: text, row, column."""
PACKED = 2
"""Places of the latent state that go into one token, each way."""


def flux(pipeline: Pipeline, parts: Parts, size: Size | None, clip_skip: int | None) -> Model:
    """Flux: flow matching on packed latent states; where the guidance is distilled, the network is told it."""
    transformer, scheduler, vae = parts["transformer"], parts["scheduler"], VAE(parts["vae"])
    if clip_skip is not None:
        raise InputError(f"clip_skip {clip_skip}: model {pipeline.spec!r} reads no layer but the last; leave it out")
    clip = TextEncoder(parts["tokenizer"], parts["text_encoder"])
    t5 = TextEncoder(parts["tokenizer_2"], parts["text_encoder_2"], most_tokens=T5_TOKENS)
    transformer.expect(
        "joint_attention_dim", transformer.need("joint_attention_dim", int), t5.width, "as of text encoder 2"
    )
    transformer.expect(
        "pooled_projection_dim", transformer.need("pooled_projection_dim", int), clip.width, "as of its CLIP"
    )
    channels = vae.latent_channels * PACKED**2
    transformer.expect("in_channels", transformer.need("in_channels", int), channels, "four times those of its VAE")
    check_rotation(transformer)
    usual = (128 * vae.factor, 128 * vae.factor)  # its config names none; the pipeline of diffusers has this
    chosen = Canvas(vae.factor * PACKED, "its VAE and packing divide them", usual).choose(size)
    packing = Packing(((t5.length, t5.width), (clip.width,), (1,)))

    def one(prompt: str) -> Tensor:
        return packing.pack(t5.says(prompt)[0][0], clip.says(prompt).pooler_output[0], torch.ones(1))

    def guide(condition: Tensor, guidance: float) -> Tensor:
        # The guidance is the last number of a row: the network is told it, and no second pass is made.
        return torch.cat([condition[:, :-1], torch.full_like(condition[:, -1:], guidance)], 1)

    distilled = transformer.get("guidance_embeds", False, bool)
    thousand = timesteps_of_flow(scheduler)

    def ask(network: Any, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        states, pooled, guidance = packing.unpack(condition)
        height, width = x.shape[-2] // PACKED, x.shape[-1] // PACKED
        answer = network(
            hidden_states=packed_latents(x), timestep=(t * thousand).to(x.dtype) / 1000,  # rounded as the pipeline does
            guidance=guidance[:, 0] if distilled else None, pooled_projections=pooled, encoder_hidden_states=states,
            txt_ids=states.new_zeros(states.shape[1], 3), img_ids=places_of(height, width).to(x), return_dict=False,
        )[0]  # fmt: skip
        return unpacked_latents(answer, height, width)

    return Model(
        name="",
        network=per_place(transformer, ask),
        schedule=flow_of(scheduler, patches_of(vae, chosen, PACKED), to_the_last=False),
        predicts="flow",
        encode=rows_of(one, [clip, t5]),
        guide=guide if distilled else None,
        check_texts=checks([clip, t5]),
        **latents(vae, chosen),
    )


def check_rotation(transformer: Part) -> None:
    """ModelError unless the numbers that turn with each axis of a token's place are those of a head, together."""
    axes, head = transformer.get("axes_dims_rope", [16, 56, 56], list), transformer.get("attention_head_dim", 128, int)
    if len(axes) != AXES or not all(type(n) is int and n > 0 for n in axes) or sum(axes) != head:
        raise ModelError(
            f"{transformer.file}: axes_dims_rope {short(axes)}: expected {AXES} numbers that are {head} together, its "
            "attention_head_dim"
        )


def packed_latents(x: Tensor) -> Tensor:
    """(B, C, 2h, 2w) -> a token for each two by two places, (B, h w, 4 C)."""
    b, c, height, width = x.shape
    # The order of a token's numbers is that of the training: channel, then row, then column.
    blocks = x.reshape(b, c, height // PACKED, PACKED, width // PACKED, PACKED).permute(0, 2, 4, 1, 3, 5)
    return blocks.reshape(b, (height // PACKED) * (width // PACKED), c * PACKED**2)


def unpacked_latents(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, h w, 4 C) -> (B, C, 2h, 2w)."""
    b, _, c = tokens.shape
    blocks = tokens.reshape(b, height, width, c // PACKED**2, PACKED, PACKED).permute(0, 3, 1, 4, 2, 5)
    return blocks.reshape(b, c // PACKED**2, height * PACKED, width * PACKED)


def places_of(height: int, width: int) -> Tensor:
    """Row and column of each token, after a zero, (h w, 3)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3)

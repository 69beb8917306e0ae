"""Stable Diffusion 3 (Esser et al. 2024): flow matching, two CLIP encoders and, if it is there, T5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ....samplers.errors import ModelError
from ....samplers.model import Model
from .building import Parts, latents, patches_of, per_place
from .canvas import VAE, Canvas, Size, usual_size
from .folder import Part, Pipeline
from .process import flow_of, timesteps_of_flow
from .text import PENULTIMATE, Packing, TextEncoder, checks, encoders_side_by_side, skip_of
from .text_rows import rows_of

T5_TOKENS = 256
"""Places of the T5 encoder, those of the pipeline of diffusers."""


def stable_diffusion_3(pipeline: Pipeline, parts: Parts, size: Size | None, clip_skip: int | None) -> Model:
    """Stable Diffusion 3 (Esser et al. 2024): flow matching, two CLIP encoders and, if it is there, T5."""
    transformer, scheduler, vae = parts["transformer"], parts["scheduler"], VAE(parts["vae"])
    clips = encoders_side_by_side([(parts[f"tokenizer{i}"], parts[f"text_encoder{i}"]) for i in ("", "_2")])
    skip = skip_of(clip_skip, PENULTIMATE, clips)
    places = T5_TOKENS
    t5 = None
    if "text_encoder_3" in parts and "tokenizer_3" in parts:
        t5 = TextEncoder(parts["tokenizer_3"], parts["text_encoder_3"], most_tokens=places)
    encoders = [*clips, *([t5] if t5 else [])]
    width, summary = widths_of(transformer, clips, t5)
    transformer.expect("in_channels", transformer.need("in_channels", int), vae.latent_channels, "as of its VAE")
    patch = int(transformer.need("patch_size", int))
    most = int(transformer.get("pos_embed_max_size", 96, int)) * patch * vae.factor
    canvas = Canvas(
        vae.factor * patch, "its VAE and patches divide them", usual_size(transformer, vae.factor), most=most
    )
    chosen = canvas.choose(size)
    packing = Packing(((clips[0].length + places, width), (summary,)))

    def one(prompt: str) -> Tensor:
        (first, said), (second, said_2) = (text.states(prompt, skip) for text in clips)
        clip = torch.cat([first, second], -1)
        # Both CLIPs side by side are narrower than T5, and are filled up with zeros, as in training.
        padded = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
        long = t5.says(prompt)[0][0] if t5 else clip.new_zeros(places, width)
        pooled = torch.cat([said.text_embeds[0], said_2.text_embeds[0]])
        return packing.pack(torch.cat([padded, long]), pooled)

    def ask(network: Any, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        states, pooled = packing.unpack(condition)
        answer: Tensor = network(
            hidden_states=x, timestep=t * thousand, encoder_hidden_states=states, pooled_projections=pooled,
            return_dict=False,
        )[0]  # fmt: skip
        return answer

    thousand = timesteps_of_flow(scheduler)
    return Model(
        name="",
        network=per_place(transformer, ask),
        schedule=flow_of(scheduler, patches_of(vae, chosen, patch), to_the_last=True),
        predicts="flow",
        encode=rows_of(one, encoders, skip, width),
        check_texts=checks(encoders),
        **latents(vae, chosen),
    )


def widths_of(transformer: Part, clips: Sequence[TextEncoder], t5: TextEncoder | None) -> tuple[int, int]:
    """How wide a token's state is, and all summaries of a text together; ModelError where encoders do not fit."""
    width = int(transformer.need("joint_attention_dim", int))
    if t5:
        transformer.expect("joint_attention_dim", width, t5.width, "the d_model of text encoder 3")
    if sum(text.width for text in clips) > width:
        raise ModelError(
            f"{transformer.file}: joint_attention_dim {width}: expected at least the text encoders' widths"
        )
    summary = sum(int(text.encoder.need("projection_dim", int)) for text in clips)
    transformer.expect(
        "pooled_projection_dim", transformer.need("pooled_projection_dim", int), summary,
        "the text encoders' projection_dim, added",
    )  # fmt: skip
    return width, summary

"""Stable Diffusion 1, 2 and XL: U-Nets on latent states that read text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....samplers.model import Model
from .building import Parts, latents, per_place, refuse_unusual
from .canvas import VAE, Canvas, Size, usual_size
from .folder import Pipeline
from .process import FLOW_SCHEDULERS, even_flow_of, predicts_of, schedule_of, timesteps_of_flow
from .text import PENULTIMATE, Packing, TextEncoder, checks, encoders_side_by_side, skip_of
from .text_rows import rows_of


def stable_diffusion(pipeline: Pipeline, parts: Parts, size: Size | None, clip_skip: int | None) -> Model:
    """Stable Diffusion 1.x and 2.x (Rombach et al. 2022), and U-Nets of the same kind that predict a flow."""
    text = TextEncoder(parts["tokenizer"], parts["text_encoder"])
    skip = skip_of(clip_skip, 1, [text])
    parts["unet"].expect(
        "cross_attention_dim", parts["unet"].config.get("cross_attention_dim"), text.width,
        "the hidden_size of its text encoder",
    )  # fmt: skip
    refuse_unusual(parts["unet"], addition_embed_type=None)

    told, _ = text_unet(parts, size)
    # The network of a flow hears its time times the count of timesteps, one with betas the timestep itself.
    times = timesteps_of_flow(parts["scheduler"]) if told["predicts"] == "flow" else 1

    def ask(unet: Any, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        answer: Tensor = unet(x, t * times, encoder_hidden_states=condition, return_dict=False)[0]
        return answer

    return Model(
        name="",
        network=per_place(parts["unet"], ask),
        encode=rows_of(lambda prompt: text.normed_states(prompt, skip), [text], skip),
        check_texts=checks([text]),
        **told,
    )


def stable_diffusion_xl(pipeline: Pipeline, parts: Parts, size: Size | None, clip_skip: int | None) -> Model:
    """Stable Diffusion XL (Podell et al. 2024): two encoders, the second one's summary, and the size of the image."""
    unet = parts["unet"]
    texts = encoders_side_by_side([(parts[f"tokenizer{i}"], parts[f"text_encoder{i}"]) for i in ("", "_2")])
    skip = skip_of(clip_skip, PENULTIMATE, texts)
    width = sum(text.width for text in texts)
    unet.expect(
        "cross_attention_dim", unet.config.get("cross_attention_dim"), width, "the text encoders' hidden_size, added"
    )
    refuse_unusual(unet, addition_embed_type="text_time")
    summary = int(parts["text_encoder_2"].need("projection_dim", int))
    told, (wide, high) = text_unet(parts, size)
    sizes = torch.tensor([high, wide, 0, 0, high, wide], dtype=torch.float32)  # of the original, the crop, the image
    unet.expect(
        "projection_class_embeddings_input_dim", unet.config.get("projection_class_embeddings_input_dim"),
        summary + len(sizes) * int(unet.need("addition_time_embed_dim", int)),
        "the projection_dim of text encoder 2 and six addition_time_embed_dim",
    )  # fmt: skip
    packing = Packing(((texts[0].length, width), (summary,), (len(sizes),)))

    def one(prompt: str) -> Tensor:
        (first, _), (second, said) = (text.states(prompt, skip) for text in texts)
        return packing.pack(torch.cat([first, second], -1), said.text_embeds[0], sizes)

    def nothing(prompts: Any) -> Tensor:
        # What the network was trained to hear where there is no prompt: zeros, but the true size of the image.
        zeros = [torch.zeros(shape) for shape in packing.shapes[:-1]]
        return packing.pack(*zeros, sizes).expand(len(prompts), -1)

    def ask(network: Any, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        states, pooled, ids = packing.unpack(condition)
        added = {"text_embeds": pooled, "time_ids": ids}
        answer: Tensor = network(x, t, encoder_hidden_states=states, added_cond_kwargs=added, return_dict=False)[0]
        return answer

    return Model(
        name="",
        network=per_place(unet, ask),
        encode=rows_of(one, texts, skip, (wide, high)),
        unconditional=nothing if pipeline.index.get("force_zeros_for_empty_prompt", True) else None,
        check_texts=checks(texts),
        **told,
    )


def text_unet(parts: Parts, size: Size | None) -> tuple[dict[str, Any], Size]:
    """What every U-Net that reads text has, and the size."""
    unet, scheduler, vae = parts["unet"], parts["scheduler"], VAE(parts["vae"])
    for name in ("in_channels", "out_channels"):
        what = "the latent channels of its VAE; others are told of an image too, such as one to paint into"
        unet.expect(name, unet.need(name, int), vae.latent_channels, what)
    refuse_unusual(unet, class_embed_type=None, encoder_hid_dim_type=None, time_cond_proj_dim=None)
    chosen = Canvas(vae.factor, "its VAE divides them", usual_size(unet, vae.factor)).choose(size)
    is_flow = scheduler.cls in FLOW_SCHEDULERS
    return {
        "schedule": even_flow_of(scheduler) if is_flow else schedule_of(scheduler),
        "predicts": "flow" if is_flow else predicts_of(scheduler),
        **latents(vae, chosen),
    }, chosen

"""Models of diffusers: a folder that `save_pretrained` wrote, or an identifier whose files are on this machine.

The networks are asked as the pipelines of diffusers ask them; levels, steps, guidance and noise are samplerbench's.
Those with a table of betas are asked at whole timesteps: that is what they were trained on and what published tools
use, though their embedding of time would take any number.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....samplers.errors import InputError, ModelError, closest
from ....samplers.model import Model, NetworkLoader, parse_size
from ....samplers.predictor import Network
from ....samplers.registry import ModelFactory, hookimpl
from .canvas import CHANNELS, VAE, Canvas, Size, usual_size
from .folder import BARE, CONFIG, INDEX, Part, Pipeline, read_config, read_pipeline
from .process import FLOW_SCHEDULERS, VP_SCHEDULERS, clip_of, flow_of, predicts_of, schedule_of
from .text import PENULTIMATE, Classes, Packing, TextEncoder, checks, rows_of, skip_of
from .weights import check_weights, fingerprint, home_of, loaded

SMALL_SIDE = 64
"""Images of pixels up to this side go through the network together."""
T5_TOKENS = {"StableDiffusion3Pipeline": 256, "FluxPipeline": 512}
"""Places of the T5 encoder, those of the pipelines of diffusers."""
MOST_CLASSES = 1_000_000
PACKED = 2
"""Places of Flux's latent state that go into one token, each way."""

Parts = Mapping[str, Part]
Ask = Callable[..., Tensor]


@dataclass(frozen=True)
class Kind:
    """A kind of pipeline."""

    parts: Mapping[str, tuple[str, ...]]
    """What it is made of: name -> classes."""
    build: Callable[[Pipeline, Parts, Size | None, int | None], Model]
    may_lack: frozenset[str] = field(default_factory=frozenset)


class Diffusers:
    """Loads "diffusers:PATH_OR_ID"; configs and tokenizers are read at once, weights when they are first needed."""

    def __call__(self, argument: str, *, size: object = None, clip_skip: int | None = None) -> Model:
        """The model of a folder or identifier.

        `size`: of the images, width x height; `clip_skip`: which layer of the text encoder is read, 1 = the last.
        InputError for a setting that the model cannot have, ModelError for files that are not as they should be.
        """
        pipeline = read_pipeline(argument)
        if pipeline.cls not in KINDS:
            raise ModelError(
                f"model {pipeline.spec!r}: {pipeline.cls!r} is no pipeline that is supported"
                f"{closest(pipeline.cls, KINDS)}; expected one of {', '.join(KINDS)}"
            )
        kind = KINDS[pipeline.cls]
        parts = {
            name: pipeline.part(name, classes)
            for name, classes in kind.parts.items()
            if name not in kind.may_lack or pipeline.has(name)
        }
        for part in parts.values():
            if home_of(part):
                check_weights(part)
        wanted = None if size is None else parse_size(size)
        if clip_skip is not None and "text_encoder" not in kind.parts:
            raise InputError(f"clip_skip {clip_skip!r}: model {pipeline.spec!r} has no text encoder; leave it out")
        model = kind.build(pipeline, parts, wanted, clip_skip)
        return dataclasses.replace(
            model, name=pipeline.spec, fingerprint=fingerprint(parts.values(), model.image_shape, clip_skip)
        )

    def reads(self, path: Path) -> bool:
        """Whether a folder holds a pipeline, or a lone U-Net with its scheduler."""
        if (path / INDEX).is_file():
            return True
        try:
            return (path / CONFIG).is_file() and read_config(path / CONFIG).get("_class_name") == BARE
        except ModelError:
            return False


def per_place(part: Part, ask: Callable[..., Tensor]) -> NetworkLoader:
    """(device, dtype) -> the network there, read once for each; `ask(network, x, t, *condition)` is how it is asked."""

    @functools.cache
    def on(device: torch.device, dtype: torch.dtype) -> Network:
        return functools.partial(ask, loaded(part, device, dtype))

    return on


def refuse_unusual(network: Part, **usual: object) -> None:
    """ModelError for a network that wants to be told more than its pipeline tells it."""
    for name, value in usual.items():
        network.expect(name, network.config.get(name, value), value, "as of the pipelines that are supported")


# ---- Pixels ----


def pixels(pipeline: Pipeline, parts: Parts, size: Size | None, clip_skip: int | None) -> Model:
    """A U-Net on pixels, of classes if it has them."""
    unet, scheduler = parts["unet"], parts["scheduler"]
    channels = channels_of_unet(unet)
    if channels not in CHANNELS:
        raise ModelError(f"{unet.file}: in_channels {channels}: expected 1 or 3, grey or colour")
    width, height = unet_canvas(unet, 1, "its U-Net divides them").checked(size)
    return Model(
        name="",
        network=per_place(unet, functools.partial(unet_answer, channels)),
        schedule=schedule_of(scheduler),
        shape=(channels, height, width),
        predicts=predicts_of(scheduler),
        timesteps="integer",
        clip=clip_of(scheduler),
        batch_size=64 if max(width, height) <= SMALL_SIDE else 1,
        image_shape=(channels, height, width),
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
    halvings = len(unet.need("block_out_channels", list)) - 1
    return Canvas(factor * 2**halvings, why, usual_size(unet, factor))


def unet_answer(channels: int, unet: Any, x: Tensor, t: Tensor, *classes: Tensor) -> Tensor:
    """What a U-Net without text predicts; a learned variance is left out."""
    answer: Tensor = unet(x, t, *classes, return_dict=False)[0]
    return answer[:, :channels]


def classes_of(pipeline: Pipeline, unet: Part) -> dict[str, Any]:
    """What a model of classes has beyond one without."""
    if unet.config.get("num_class_embeds") is None:
        return {}
    classes = classes_in(pipeline, unet, "num_class_embeds")
    return {"encode": classes.encode, "prompts": classes.prompts}


def classes_in(pipeline: Pipeline, network: Part, count_field: str) -> Classes:
    """The classes of a network, with their names where the index has them."""
    count = int(network.need(count_field, int))
    if not 1 <= count <= MOST_CLASSES:
        raise ModelError(f"{network.file}: {count_field} {count}: expected 1 to {MOST_CLASSES}")
    labels = pipeline.index.get("id2label")
    return Classes(count, labels if isinstance(labels, dict) else {})


# ---- Latent states without text ----


def latent_unet(pipeline: Pipeline, parts: Parts, size: Size | None, clip_skip: int | None) -> Model:
    """A U-Net on the latent states of an autoencoder."""
    unet, scheduler, vae = parts["unet"], parts["scheduler"], VAE(parts["vqvae"])
    channels = channels_of_unet(unet)
    unet.expect("in_channels", channels, vae.latent_channels, "the latent channels of its autoencoder")
    chosen = unet_canvas(unet, vae.factor, "its autoencoder and U-Net divide them").checked(size)
    return Model(
        name="",
        network=per_place(unet, functools.partial(unet_answer, channels)),
        schedule=schedule_of(scheduler),
        predicts=predicts_of(scheduler),
        timesteps="integer",
        **latents(vae, chosen),
        **classes_of(pipeline, unet),
    )


def latents(vae: VAE, size: Size) -> dict[str, Any]:
    """What every model of latent states has."""
    width, height = size
    return {
        "shape": vae.shape(size),
        "batch_size": 1,
        "decode": vae.decoder(),
        "image_shape": (vae.channels, height, width),
    }


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
        timesteps="integer",
        encode=classes.encode,
        unconditional=lambda texts: torch.full((len(texts),), classes.count),  # the class that training dropped out to
        prompts=classes.prompts,
        **latents(vae, canvas.checked(size)),
    )


# ---- Text to image ----


def stable_diffusion(pipeline: Pipeline, parts: Parts, size: Size | None, clip_skip: int | None) -> Model:
    """Stable Diffusion 1.x and 2.x (Rombach et al. 2022)."""
    text = TextEncoder(parts["tokenizer"], parts["text_encoder"])
    skip = skip_of(clip_skip, 1, [text])
    parts["unet"].expect(
        "cross_attention_dim", parts["unet"].config.get("cross_attention_dim"), text.width,
        "the hidden_size of its text encoder",
    )  # fmt: skip
    refuse_unusual(parts["unet"], addition_embed_type=None)

    def ask(unet: Any, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        answer: Tensor = unet(x, t, encoder_hidden_states=condition, return_dict=False)[0]
        return answer

    return Model(
        name="",
        network=per_place(parts["unet"], ask),
        encode=rows_of(lambda prompt: text.normed_states(prompt, skip)),
        check_texts=checks([text]),
        **text_unet(parts, size)[0],
    )


def text_unet(parts: Parts, size: Size | None) -> tuple[dict[str, Any], Size]:
    """What every U-Net that reads text has, and the size."""
    unet, scheduler, vae = parts["unet"], parts["scheduler"], VAE(parts["vae"])
    for name in ("in_channels", "out_channels"):
        what = "the latent channels of its VAE; others are told of an image too, such as one to paint into"
        unet.expect(name, unet.need(name, int), vae.latent_channels, what)
    refuse_unusual(unet, class_embed_type=None, encoder_hid_dim_type=None, time_cond_proj_dim=None)
    chosen = Canvas(vae.factor, "its VAE divides them", usual_size(unet, vae.factor)).checked(size)
    return {
        "schedule": schedule_of(scheduler),
        "predicts": predicts_of(scheduler),
        "timesteps": "integer",
        **latents(vae, chosen),
    }, chosen


def stable_diffusion_xl(pipeline: Pipeline, parts: Parts, size: Size | None, clip_skip: int | None) -> Model:
    """Stable Diffusion XL (Podell et al. 2024): two encoders, the second one's summary, and the size of the image."""
    unet = parts["unet"]
    texts = [TextEncoder(parts[f"tokenizer{i}"], parts[f"text_encoder{i}"]) for i in ("", "_2")]
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
        return packing.packed(torch.cat([first, second], -1), said.text_embeds[0], sizes)

    def nothing(prompts: Any) -> Tensor:
        zeros = [torch.zeros(shape) for shape in packing.shapes[:-1]]
        return packing.packed(*zeros, sizes).expand(len(prompts), -1)

    def ask(network: Any, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        states, pooled, ids = packing.unpacked(condition)
        added = {"text_embeds": pooled, "time_ids": ids}
        answer: Tensor = network(x, t, encoder_hidden_states=states, added_cond_kwargs=added, return_dict=False)[0]
        return answer

    return Model(
        name="",
        network=per_place(unet, ask),
        encode=rows_of(one),
        unconditional=nothing if pipeline.index.get("force_zeros_for_empty_prompt", True) else None,
        check_texts=checks(texts),
        **told,
    )


def stable_diffusion_3(pipeline: Pipeline, parts: Parts, size: Size | None, clip_skip: int | None) -> Model:
    """Stable Diffusion 3 (Esser et al. 2024): flow matching, two CLIP encoders and, if it is there, T5."""
    transformer, scheduler, vae = parts["transformer"], parts["scheduler"], VAE(parts["vae"])
    clips = [TextEncoder(parts[f"tokenizer{i}"], parts[f"text_encoder{i}"]) for i in ("", "_2")]
    skip = skip_of(clip_skip, PENULTIMATE, clips)
    places = T5_TOKENS[pipeline.cls]
    t5 = None
    if "text_encoder_3" in parts and "tokenizer_3" in parts:
        t5 = TextEncoder(parts["tokenizer_3"], parts["text_encoder_3"], most_tokens=places)
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
    transformer.expect("in_channels", transformer.need("in_channels", int), vae.latent_channels, "as of its VAE")
    patch = int(transformer.need("patch_size", int))
    most = int(transformer.get("pos_embed_max_size", 96, int)) * patch * vae.factor
    canvas = Canvas(
        vae.factor * patch, "its VAE and patches divide them", usual_size(transformer, vae.factor), most=most
    )
    chosen = canvas.checked(size)
    packing = Packing(((clips[0].length + places, width), (summary,)))

    def one(prompt: str) -> Tensor:
        (first, said), (second, said_2) = (text.states(prompt, skip) for text in clips)
        clip = torch.cat([first, second], -1)
        padded = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
        long = t5.says(prompt)[0][0] if t5 else torch.zeros(places, width)
        pooled = torch.cat([said.text_embeds[0], said_2.text_embeds[0]])
        return packing.packed(torch.cat([padded, long]), pooled)

    def ask(network: Any, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        states, pooled = packing.unpacked(condition)
        answer: Tensor = network(
            hidden_states=x, timestep=t * thousand, encoder_hidden_states=states, pooled_projections=pooled,
            return_dict=False,
        )[0]  # fmt: skip
        return answer

    thousand = scheduler.get("num_train_timesteps", 1000, int)
    return Model(
        name="",
        network=per_place(transformer, ask),
        schedule=flow_of(scheduler, patches_of(vae, chosen, patch), to_the_last=True),
        predicts="flow",
        encode=rows_of(one),
        check_texts=checks([*clips, *([t5] if t5 else [])]),
        **latents(vae, chosen),
    )


def patches_of(vae: VAE, size: Size, patch: int) -> int:
    """Tokens of an image."""
    _, height, width = vae.shape(size)
    return (height // patch) * (width // patch)


def flux(pipeline: Pipeline, parts: Parts, size: Size | None, clip_skip: int | None) -> Model:
    """Flux: flow matching on packed latent states; where the guidance is distilled, the network is told it."""
    transformer, scheduler, vae = parts["transformer"], parts["scheduler"], VAE(parts["vae"])
    if clip_skip is not None:
        raise InputError(f"clip_skip {clip_skip}: model {pipeline.spec!r} reads no layer but the last; leave it out")
    clip = TextEncoder(parts["tokenizer"], parts["text_encoder"])
    t5 = TextEncoder(parts["tokenizer_2"], parts["text_encoder_2"], most_tokens=T5_TOKENS[pipeline.cls])
    transformer.expect(
        "joint_attention_dim", transformer.need("joint_attention_dim", int), t5.width, "as of text encoder 2"
    )
    transformer.expect(
        "pooled_projection_dim", transformer.need("pooled_projection_dim", int), clip.width, "as of its CLIP"
    )
    channels = vae.latent_channels * PACKED**2
    transformer.expect("in_channels", transformer.need("in_channels", int), channels, "four times those of its VAE")
    usual = (128 * vae.factor, 128 * vae.factor)  # its config names none; the pipeline of diffusers has this
    chosen = Canvas(vae.factor * PACKED, "its VAE and packing divide them", usual).checked(size)
    packing = Packing(((t5.length, t5.width), (clip.width,), (1,)))

    def one(prompt: str) -> Tensor:
        return packing.packed(t5.says(prompt)[0][0], clip.says(prompt).pooler_output[0], torch.ones(1))

    def guide(condition: Tensor, guidance: float) -> Tensor:
        return torch.cat([condition[:, :-1], torch.full_like(condition[:, -1:], guidance)], 1)

    distilled = transformer.get("guidance_embeds", False, bool)
    thousand = scheduler.get("num_train_timesteps", 1000, int)

    def ask(network: Any, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        states, pooled, guidance = packing.unpacked(condition)
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
        encode=rows_of(one),
        guide=guide if distilled else None,
        check_texts=checks([clip, t5]),
        **latents(vae, chosen),
    )


def packed_latents(x: Tensor) -> Tensor:
    """(B, C, 2h, 2w) -> a token for each two by two places, (B, h w, 4 C)."""
    b, c, height, width = x.shape
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


CLIP, PROJECTED = ("CLIPTextModel",), ("CLIPTextModelWithProjection",)
WORDS, T5, T5_WORDS = ("CLIPTokenizer", "CLIPTokenizerFast"), ("T5EncoderModel",), ("T5Tokenizer", "T5TokenizerFast")
ON_PIXELS = Kind({"unet": (BARE,), "scheduler": VP_SCHEDULERS}, pixels)
KINDS = {
    "DDPMPipeline": ON_PIXELS,
    "DDIMPipeline": ON_PIXELS,
    BARE: ON_PIXELS,
    "LDMPipeline": Kind(
        {"unet": (BARE,), "vqvae": ("VQModel", "AutoencoderKL"), "scheduler": VP_SCHEDULERS}, latent_unet
    ),
    "DiTPipeline": Kind(
        {
            "transformer": ("DiTTransformer2DModel", "Transformer2DModel"), "vae": ("AutoencoderKL",),
            "scheduler": VP_SCHEDULERS,
        },
        dit,
    ),
    "StableDiffusionPipeline": Kind(
        {
            "unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL",), "scheduler": VP_SCHEDULERS,
            "text_encoder": CLIP, "tokenizer": WORDS,
        },
        stable_diffusion,
    ),
    "StableDiffusionXLPipeline": Kind(
        {
            "unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL",), "scheduler": VP_SCHEDULERS,
            "text_encoder": CLIP, "tokenizer": WORDS, "text_encoder_2": PROJECTED, "tokenizer_2": WORDS,
        },
        stable_diffusion_xl,
    ),
    "StableDiffusion3Pipeline": Kind(
        {
            "transformer": ("SD3Transformer2DModel",), "vae": ("AutoencoderKL",), "scheduler": FLOW_SCHEDULERS,
            "text_encoder": PROJECTED, "tokenizer": WORDS, "text_encoder_2": PROJECTED, "tokenizer_2": WORDS,
            "text_encoder_3": T5, "tokenizer_3": T5_WORDS,
        },
        stable_diffusion_3,
        frozenset({"text_encoder_3", "tokenizer_3"}),
    ),
    "FluxPipeline": Kind(
        {
            "transformer": ("FluxTransformer2DModel",), "vae": ("AutoencoderKL",), "scheduler": FLOW_SCHEDULERS,
            "text_encoder": CLIP, "tokenizer": WORDS, "text_encoder_2": T5, "tokenizer_2": T5_WORDS,
        },
        flux,
    ),
}  # fmt: skip
"""What `_class_name` in an index may be; a folder with a lone U-Net has that class."""


@hookimpl
def samplerbench_models() -> dict[str, ModelFactory]:
    """Models of diffusers."""
    return {"diffusers": Diffusers()}

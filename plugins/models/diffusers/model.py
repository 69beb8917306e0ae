"""Models of diffusers: a folder that `save_pretrained` wrote, or an identifier whose files are on this machine.

The networks are asked as the pipelines of diffusers ask them; levels, steps, guidance and noise are samplerbench's.
Those with a table of betas were trained on whole timesteps, and are asked between them too where a grid has its levels
there: their embedding of time is made of sines, which take any number, and published tools ask so as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ....samplers.errors import InputError, ModelError, closest
from ....samplers.model import Model, parse_size
from ....samplers.registry import ModelFactory, hookimpl
from .building import Parts
from .canvas import Size
from .dit import dit
from .flux import flux
from .folder import BARE, CONFIG, INDEX, Pipeline, read_config, read_pipeline, short
from .hints import is_single_file, on_pipeline
from .process import FLOW_SCHEDULERS, VP_SCHEDULERS, notes_on
from .stable_diffusion import stable_diffusion, stable_diffusion_xl
from .stable_diffusion_3 import stable_diffusion_3
from .unets import latent_unet, pixels
from .weights import check_network, check_weights, fingerprint, home_of


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
        return self.assemble(read_pipeline(argument), size=size, clip_skip=clip_skip)

    def assemble(self, pipeline: Pipeline, *, size: object = None, clip_skip: int | None = None) -> Model:
        """The model of a pipeline whose parts may lie in two folders; settings and errors as above."""
        if pipeline.cls not in KINDS:
            raise ModelError(
                f"model {pipeline.spec!r}: {short(pipeline.cls)} is no pipeline that is supported"
                f"{closest(pipeline.cls, KINDS)}; expected one of {', '.join(KINDS)}{on_pipeline(pipeline.cls)}"
            )
        kind = KINDS[pipeline.cls]
        parts = {
            name: pipeline.part(name, classes)
            for name, classes in kind.parts.items()
            if name not in kind.may_lack or pipeline.has(name)
        }
        for part in parts.values():
            if home_of(part):
                # Headers first: a file that is missing or no safetensors is named before a network is built.
                check_weights(part)
        wanted = None if size is None else parse_size(size)
        if clip_skip is not None and "text_encoder" not in kind.parts:
            raise InputError(f"clip_skip {clip_skip!r}: model {pipeline.spec!r} has no text encoder; leave it out")
        model = kind.build(pipeline, parts, wanted, clip_skip)
        for part in parts.values():
            if home_of(part):
                # Last, when the configs are known to fit each other; nothing has been loaded yet.
                check_network(part)
        return dataclasses.replace(
            model, name=pipeline.spec, fingerprint=fingerprint(parts.values(), model.image_shape, clip_skip),
            notes=notes_on(parts["scheduler"]),
        )  # fmt: skip

    def reads(self, path: Path) -> bool:
        """Whether a folder holds a pipeline, or a lone U-Net with its scheduler.

        Files of weights are taken too, and refused when they are loaded: there it is said what makes a folder of one.
        """
        if (path / INDEX).is_file() or is_single_file(path):
            return True
        try:
            return (path / CONFIG).is_file() and read_config(path / CONFIG).get("_class_name") == BARE
        except ModelError:
            return False


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
            "unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL",),
            "scheduler": (*VP_SCHEDULERS, *FLOW_SCHEDULERS), "text_encoder": CLIP, "tokenizer": WORDS,
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

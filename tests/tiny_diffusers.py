"""Tiny models with random weights, in folders as diffusers writes them, for the tests of diffusers models."""

import contextlib
import io
import json
import string

import torch

from samplerbench.plugins.models.diffusers.libraries import library, quietly

VP = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SIDE = 16
"""Pixels of the latent models, whose autoencoders halve once."""
PLACES = 77
T5_WIDTH = 24


def diffusers():
    return library("diffusers")


def save(thing, folder):
    """Write a part without a word."""
    with quietly(), contextlib.redirect_stderr(io.StringIO()):
        thing.save_pretrained(str(folder))


def made(cls, seed=0, **options):
    """A module with random weights of its own, none of them zero."""
    with quietly():
        torch.manual_seed(seed)
        module = cls(**options)
        for parameter in module.parameters():
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.05)
    return module.eval()


def index(folder, cls, **entries):
    (folder / "model_index.json").write_text(json.dumps({"_class_name": cls, **entries}))


def scheduler(folder, cls="DDIMScheduler", **config):
    given = config if cls.startswith("Flow") else {**VP, "clip_sample": False, "steps_offset": 0, **config}
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": cls, **given}))
    return ["diffusers", cls]


def unet(folder, channels=3, seed=0, **options):
    """A U-Net without text, that halves once."""
    module = made(
        diffusers().UNet2DModel, seed, sample_size=8, in_channels=channels,
        out_channels=options.pop("answers", channels), layers_per_block=1,
        block_out_channels=(8, 16), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), norm_num_groups=4, attention_head_dim=4, **options,
    )  # fmt: skip
    save(module, folder)
    return ["diffusers", "UNet2DModel"]


def text_unet(folder, width, seed=0, **options):
    module = made(
        diffusers().UNet2DConditionModel, seed, sample_size=SIDE // 2, in_channels=options.pop("channels", 4),
        out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=4, cross_attention_dim=width, **options,
    )  # fmt: skip
    save(module, folder)
    return ["diffusers", "UNet2DConditionModel"]


def vae(folder, channels=4, **options):
    module = made(
        diffusers().AutoencoderKL, 3, sample_size=SIDE, latent_channels=channels, block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4,
        **options,
    )  # fmt: skip
    save(module, folder)
    return ["diffusers", "AutoencoderKL"]


def words(folder):
    """A tokenizer of CLIP that knows letters, and "cat" and "dog" as words."""
    letters = list(string.ascii_lowercase)
    merges = ["c a", "ca t</w>", "d o", "do g</w>"]
    known = [*letters, *(f"{c}</w>" for c in letters), "ca", "cat</w>", "do", "dog</w>"]
    vocabulary = {word: i for i, word in enumerate([*known, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": PLACES, "tokenizer_class": "CLIPTokenizer"})
    )
    return ["transformers", "CLIPTokenizer"]


def clip(folder, width=16, seed=0, *, projected=False, layers=3):
    transformers = library("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=58, hidden_size=width, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=PLACES, projection_dim=width, bos_token_id=56, eos_token_id=57, pad_token_id=57,
    )  # fmt: skip
    cls = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
    save(made(getattr(transformers, cls), seed, config=config), folder)
    return ["transformers", cls]


def t5(folder):
    transformers = library("transformers")
    config = transformers.T5Config(
        vocab_size=40, d_model=T5_WIDTH, d_kv=4, d_ff=32, num_layers=2, num_heads=2, relative_attention_num_buckets=8
    )
    save(made(transformers.T5EncoderModel, 5, config=config), folder)
    return ["transformers", "T5EncoderModel"]


def t5_words(folder):
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    vocabulary += [(c, -2.0) for c in string.ascii_lowercase]
    tokenizer = library("transformers").T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512)
    save(tokenizer, folder)
    return ["transformers", "T5TokenizerFast"]


# ---- Pipelines ----


def pixels(folder, cls="DDIMPipeline", channels=3, scheduler_config=None, **options):
    config = {"clip_sample": True, **(scheduler_config or {})}
    parts = {"unet": unet(folder / "unet", channels, **options), "scheduler": scheduler(folder, **config)}
    index(folder, cls, **parts)
    return folder


def ldm(folder):
    vq = made(
        diffusers().VQModel, 4, block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, num_vq_embeddings=16, sample_size=SIDE,
    )  # fmt: skip
    save(vq, folder / "vqvae")
    parts = {"unet": unet(folder / "unet"), "vqvae": ["diffusers", "VQModel"], "scheduler": scheduler(folder)}
    index(folder, "LDMPipeline", **parts)
    return folder


def dit(folder):
    module = made(
        diffusers().DiTTransformer2DModel, num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8,
        num_layers=2, sample_size=SIDE // 2, patch_size=2, num_embeds_ada_norm=1000, norm_num_groups=4,
    )  # fmt: skip
    save(module, folder / "transformer")
    parts = {
        "transformer": ["diffusers", "DiTTransformer2DModel"], "vae": vae(folder / "vae"),
        "scheduler": scheduler(folder),
    }  # fmt: skip
    index(folder, "DiTPipeline", **parts, id2label={"0": "tench, Tinca tinca", "1": "crane", "2": "crane"})
    return folder


def stable_diffusion(folder, *of_scheduler, **config):
    parts = {
        "unet": text_unet(folder / "unet", 16), "vae": vae(folder / "vae"),
        "scheduler": scheduler(folder, *of_scheduler, **config),
        "text_encoder": clip(folder / "text_encoder"), "tokenizer": words(folder / "tokenizer"),
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "feature_extractor": [None, None],
    }  # fmt: skip
    index(folder, "StableDiffusionPipeline", **parts, requires_safety_checker=True)
    return folder


def stable_diffusion_xl(folder):
    parts = {
        "unet": text_unet(
            folder / "unet", 40, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8, transformer_layers_per_block=1,
        ),
        "vae": vae(folder / "vae"), "scheduler": scheduler(folder),
        "text_encoder": clip(folder / "text_encoder"), "tokenizer": words(folder / "tokenizer"),
        "text_encoder_2": clip(folder / "text_encoder_2", 24, 1, projected=True),
        "tokenizer_2": words(folder / "tokenizer_2"),
    }  # fmt: skip
    index(folder, "StableDiffusionXLPipeline", **parts, force_zeros_for_empty_prompt=True)
    return folder


def stable_diffusion_3(folder, *, with_t5=True, **config):
    module = made(
        diffusers().SD3Transformer2DModel, sample_size=SIDE // 2, patch_size=2, in_channels=4, out_channels=4,
        num_layers=2, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=T5_WIDTH,
        caption_projection_dim=16, pooled_projection_dim=16, pos_embed_max_size=16,
    )  # fmt: skip
    save(module, folder / "transformer")
    parts = {
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": vae(folder / "vae", shift_factor=0.06),
        "scheduler": scheduler(folder, "FlowMatchEulerDiscreteScheduler", num_train_timesteps=1000, **config),
        "text_encoder": clip(folder / "text_encoder", 8, projected=True), "tokenizer": words(folder / "tokenizer"),
        "text_encoder_2": clip(folder / "text_encoder_2", 8, 1, projected=True),
        "tokenizer_2": words(folder / "tokenizer_2"),
        "text_encoder_3": t5(folder / "text_encoder_3") if with_t5 else [None, None],
        "tokenizer_3": t5_words(folder / "tokenizer_3") if with_t5 else [None, None],
    }  # fmt: skip
    index(folder, "StableDiffusion3Pipeline", **parts)
    return folder


def flux(folder, *, distilled=True, **config):
    module = made(
        diffusers().FluxTransformer2DModel, patch_size=1, in_channels=16, num_layers=1, num_single_layers=1,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=T5_WIDTH, pooled_projection_dim=16,
        guidance_embeds=distilled, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    save(module, folder / "transformer")
    dynamic = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 4096}
    parts = {
        "transformer": ["diffusers", "FluxTransformer2DModel"], "vae": vae(folder / "vae", shift_factor=0.1),
        "scheduler": scheduler(folder, "FlowMatchEulerDiscreteScheduler", **{**dynamic, **config}),
        "text_encoder": clip(folder / "text_encoder"), "tokenizer": words(folder / "tokenizer"),
        "text_encoder_2": t5(folder / "text_encoder_2"), "tokenizer_2": t5_words(folder / "tokenizer_2"),
    }  # fmt: skip
    index(folder, "FluxPipeline", **parts)
    return folder


KINDS = {
    "pixels": pixels,
    "classes": lambda folder: pixels(folder, num_class_embeds=5),
    "ldm": ldm,
    "dit": dit,
    "sd": stable_diffusion,
    "sdxl": stable_diffusion_xl,
    "sd3": lambda folder: stable_diffusion_3(folder, shift=3.0),
    "flux": flux,
}


SIBLINGS = {"sd-flow": lambda folder: stable_diffusion(folder, "FlowMatchEulerDiscreteScheduler", shift=2.0)}
"""Kinds that differ from another only in their scheduler."""


def made_on_demand(root):
    """Kind -> the folder of its model below `root`, made when it is first asked for."""
    there = {}

    def folder(kind):
        if kind not in there:
            there[kind] = {**KINDS, **SIBLINGS}[kind](root / kind)
        return there[kind]

    return folder

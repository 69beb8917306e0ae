"""The model "scenes": a small Stable Diffusion of captioned scenes in colour, with its own CLIP and its detector."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from samplerbench import Extractor, Model, ModelError, ModelFactory, hookimpl
from samplerbench.plugins.extractors.images import in_batches
from samplerbench.plugins.extractors.scenes_detector.extractor import extractors_of
from samplerbench.plugins.models.diffusers.libraries import library, quietly
from samplerbench.plugins.models.diffusers.model import Diffusers
from samplerbench.plugins.models.latent.networks import Pairs
from samplerbench.plugins.models.latent.tokens import encoded, load_tokenizer
from samplerbench.samplers.files.weights import file_hash, read_weights
from samplerbench.samplers.metric import Rows

samplerbench_api = 1

HOME = Path(__file__).parent
MODEL, DETECTOR = "model", "detector"
CLIP, PROMPTS, INDEX = "clip.safetensors", "prompts.txt", "model_index.json"
BATCH = 16
"""Images of a network call: a call of one leaves a core half idle."""
CLIP_LABEL, CLIP_NOTE = "scenes CLIP", "this CLIP also conditions the model"


class Scenes:
    """Loads the weights of this package; "scenes:DIR" those that `fill.py` put into another folder."""

    def __call__(self, argument: str = "", *, size: object = None, clip_skip: int | None = None) -> Model:
        """The model; `size` of the images, `clip_skip`: which layer of the text encoder is read, 1 = the last."""
        home = Path(argument) if argument else HOME
        if not (home / MODEL / INDEX).is_file():
            raise ModelError(
                f"model 'scenes{':' if argument else ''}{argument}': no weights in {home}; expected what `python "
                "models/scenes/fill.py TRAINING DETECTOR` writes"
            )
        model = Diffusers()(str(home / MODEL), size=size, clip_skip=clip_skip)
        return replace(
            model,
            name=f"scenes:{argument}" if argument else "scenes",
            batch_size=BATCH,
            prompts=tuple((home / MODEL / PROMPTS).read_text(encoding="utf-8").splitlines()),
            extractors={**extractors_of(home / DETECTOR), "clip": clip_extractor(home / MODEL)},
        )


def clip_extractor(folder: Path) -> Extractor:
    """The cosine of each image and its prompt by the model's own CLIP, (n, 1)."""
    clip = functools.cache(lambda: load_clip(folder))
    tokenizer = functools.cache(lambda: load_tokenizer(folder / "tokenizer"))

    @functools.lru_cache(maxsize=4096)
    @torch.no_grad()
    def text(prompt: str) -> Tensor:
        return clip().texts(encoded(tokenizer(), [prompt]))[0]

    def extract(images: Tensor, prompts: Sequence[str]) -> Rows:
        seen = in_batches(lambda batch: clip().images(batch.expand(-1, 3, -1, -1).float() / 127.5 - 1), images)
        cosines: Rows = (seen * torch.stack([text(prompt) for prompt in prompts]).numpy()).sum(1, keepdims=True)
        return cosines

    return Extractor(CLIP_LABEL, extract, note=CLIP_NOTE, fingerprint=file_hash(folder / CLIP))


def load_clip(folder: Path) -> Pairs:
    """The text encoder of a folder beside the image tower that taught it."""
    with quietly():
        text = library("transformers").CLIPTextModel.from_pretrained(
            str(folder / "text_encoder"), local_files_only=True, use_safetensors=True
        )
    pairs = Pairs(text.float(), text.config.hidden_size)
    # All but the text encoder, which has a file of its own.
    pairs.load_state_dict({**read_weights(folder / CLIP), **{f"text.{k}": v for k, v in text.state_dict().items()}})
    return pairs.eval().requires_grad_(False)


@hookimpl
def samplerbench_models() -> dict[str, ModelFactory]:
    """The model of this package."""
    return {"scenes": Scenes()}

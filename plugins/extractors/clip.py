"""A CLIP in the format of transformers (Radford et al. 2021): cosines of image and prompt, and embeddings of images.

It reads a folder's config, tokenizer, preprocessor and safetensors weights, and executes none of its code. Images are
resized, cropped and normalised as the preprocessor's file says, each by itself, with PIL; a text is embedded by itself.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name that every torch program uses)

from ...samplers.errors import InputError, ModelError, in_line, quote
from ...samplers.extractor import Extractor, ExtractorFactory, Once
from ...samplers.files.weights import check_shapes, no_larger_than, read_json, read_stored, read_weights
from ...samplers.metric import Rows
from ...samplers.registry import hookimpl
from ...samplers.variables import ALLOW_DOWNLOAD, is_on
from ..models.diffusers.configs import CLIP_TEXT, CLIP_VISION, fields_of
from ..models.diffusers.tokenizers import readable
from .files import check_hash, fill
from .images import COLOUR, GREY_NOTE, as_colour, from_pil, in_batches, move_to, to_pil

if TYPE_CHECKING:
    from transformers import CLIPModel

DEFAULT = "openai/clip-vit-large-patch14"
CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
FILES = (CONFIG, PREPROCESSOR, WEIGHTS, *TOKENIZER)
"""All files that are downloaded and read."""
BUFFERS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
"""Tensors of old files that are left out; positions are counted, not learnt."""
MOST_SIDE = 4096
"""Most pixels on a side to which an image is resized or cut."""
MOST_NUMBER = 1e30
"""Bound of the absolute value of a number in the preprocessor's file."""
USUAL_SIDE = 224
"""The side of the images of a tower whose config does not say it."""
LONGEST, MOST_TOKENS = 77, 65_536
"""Tokens of a text: where a config does not say it, and the most that one may say."""
USUAL_WORDS, MOST_WORDS = 49_408, 10_000_000
"""Tokens that are known."""
TEXTS = 4096
"""How many embeddings of prompts are cached."""
SHOWN = 40
"""Most letters of a prompt that an error shows."""


@dataclass(frozen=True)
class Preprocessing:
    """The steps that a preprocessor_config.json applies to an image; a step that is None is left out."""

    size: int | tuple[int, int] | None
    """The size of the shorter side, or (height, width)."""
    resample: Image.Resampling
    crop: tuple[int, int] | None
    """(height, width) of the central part to which it is cropped."""
    scale: float
    mean: Tensor
    deviation: Tensor

    @property
    def makes(self) -> tuple[int, int] | None:
        """(height, width) of what comes of a square image; None = that of the image itself."""
        return self.crop or ((self.size, self.size) if isinstance(self.size, int) else self.size)

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 (3, H, W) -> float32 (3, h, w)."""
        picture = to_pil(image)
        if self.size is not None:
            picture = picture.resize(size_of(picture, self.size), self.resample)
        if self.crop is not None:
            height, width = self.crop
            left, top = (picture.width - width) // 2, (picture.height - height) // 2
            picture = picture.crop((left, top, left + width, top + height))  # beyond the picture is black
        return (from_pil(picture).float() * self.scale - self.mean) / self.deviation


def size_of(picture: Image.Image, size: int | tuple[int, int]) -> tuple[int, int]:
    """The (width, height) to resize to."""
    # Pillow counts width first, the file height.
    if isinstance(size, tuple):
        return size[1], size[0]
    short, long = sorted(picture.size)
    # Cut to a whole number and not rounded, as transformers does it: one row of pixels would change every feature.
    other = int(size * long / short)
    return (size, other) if picture.width <= picture.height else (other, size)


def preprocessing_of(path: Path) -> Preprocessing:
    """What the file says; ModelError where it is not understood."""
    said = read_json(path)

    def side(value: object) -> int:
        if type(value) is not int or not 1 <= value <= MOST_SIDE:
            raise ValueError(f"a side of {str(value)[:SHOWN]}, where 1 to {MOST_SIDE} is expected")
        return value

    def sides(name: str) -> int | tuple[int, int]:
        value = said[name]
        if isinstance(value, Mapping):
            return (
                side(value["shortest_edge"])
                if "shortest_edge" in value
                else (side(value["height"]), side(value["width"]))
            )
        return side(value)

    def number(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MOST_NUMBER:
            raise ValueError(f"{str(value)[:SHOWN]}, where a finite number is expected")
        return float(value)

    def channels(name: str, default: float) -> Tensor:
        # What is switched off stays in the file, so the switch is asked before the numbers.
        values = said[name] if said.get("do_normalize", True) else [default] * COLOUR
        if len(values) != COLOUR:
            raise ValueError(f"{name} of {len(values)} numbers, where {COLOUR} are expected")
        return torch.tensor([number(value) for value in values])[:, None, None]

    try:
        crop = sides("crop_size") if said.get("do_center_crop", True) else None
        return Preprocessing(
            sides("size") if said.get("do_resize", True) else None,
            Image.Resampling(int(said.get("resample", Image.Resampling.BICUBIC))),
            (crop, crop) if isinstance(crop, int) else crop,
            number(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0,
            channels("image_mean", 0.0),
            channels("image_std", 1.0),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{path}: is not how a CLIP's images are prepared ({in_line(error)})") from error


class Clip:
    """The two towers of a folder, read when they are first needed."""

    def __init__(self, folder: Path, label: str) -> None:
        self._folder, self._label = folder, label
        self.prepare = preprocessing_of(folder / PREPROCESSOR)
        self._tokenizer, self._longest, self._words = tokenizer_of(folder), longest_text(folder), words_of(folder)
        self._model = functools.cache(lambda: model_of(folder))
        self.images = Once(self._images)
        self._text = functools.lru_cache(TEXTS)(self._embed_text)

    def check(self, prompts: Sequence[str]) -> None:
        """InputError for prompts that it would truncate."""
        for prompt in prompts:
            self._tokens(prompt)

    def cosines(self, images: Tensor, prompts: Sequence[str]) -> Rows:
        """uint8 (n, 1 or 3, H, W) and n prompts -> their cosines, (n, 1)."""
        if len(prompts) != len(images):
            raise InputError(
                f"{self._label}: {len(images)} images with {len(prompts)} prompts; the CLIP score needs one for each, "
                "as a model that takes prompts has them"
            )
        texts = torch.stack([self._text(prompt, images.device) for prompt in prompts])
        cosines: Rows = F.cosine_similarity(torch.from_numpy(self.images(images)), texts).numpy()[:, None]
        return cosines

    def _images(self, images: Tensor) -> Rows:
        """The embeddings of images, (n, d)."""
        model = move_to(self._model(), images.device)

        def embed(batch: Tensor) -> Tensor:
            pixels = torch.stack([self.prepare(image) for image in batch.cpu()]).to(batch.device)
            out: Tensor = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
            return out

        return in_batches(embed, as_colour(images))

    @torch.no_grad()
    def _embed_text(self, prompt: str, device: torch.device) -> Tensor:
        """The embedding of a text, (d,), which the device makes."""
        model = move_to(self._model(), device)
        tokens = torch.tensor([self._tokens(prompt)], device=device)
        out: Tensor = model.text_projection(model.text_model(input_ids=tokens).pooler_output)[0]
        return out.cpu()

    def _tokens(self, prompt: str) -> list[int]:
        """The numbers of a text's tokens, its beginning and its end included."""
        with reading(self._folder):
            tokens: list[int] = self._tokenizer(prompt, truncation=False)["input_ids"]
        if max(tokens, default=0) >= self._words:
            raise ModelError(
                f"{self._folder}: its tokenizer has a token {max(tokens)}, its {CONFIG} {self._words} of them"
            )
        if len(tokens) > self._longest:
            start = prompt if len(prompt) <= SHOWN else f"{prompt[:SHOWN]}..."
            raise InputError(
                f"prompt {start!r}: {len(tokens)} tokens, {self._label} reads {self._longest}; shorten it, or leave "
                "out the CLIP score"
            )
        return tokens


def longest_text(folder: Path) -> int:
    """How many tokens the text tower reads."""
    return of_text_tower(folder, "max_position_embeddings", LONGEST, MOST_TOKENS)


def words_of(folder: Path) -> int:
    """How many tokens the text tower knows."""
    return of_text_tower(folder, "vocab_size", USUAL_WORDS, MOST_WORDS)


def of_text_tower(folder: Path, field: str, usual: int, most: int) -> int:
    """A whole number in the config of the text tower; ModelError for one below 1 or above `most`."""
    value = tower_of(read_json(folder / CONFIG), "text_config", CLIP_TEXT).get(field, usual)
    if type(value) is not int or not 1 <= value <= most:
        raise ModelError(f"{folder / CONFIG}: {field} {quote(value)}: expected 1 to {most}")
    return value


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a folder."""
    from transformers import CLIPTokenizer

    with readable(folder) as files, quiet(), reading(folder):
        tokenizer = CLIPTokenizer.from_pretrained(str(files), local_files_only=True)
        tokenizer.model_max_length = 10**9  # the length is checked here, and by an error
        return tokenizer


def check_model(folder: Path, prepare: Preprocessing) -> None:
    """ModelError for a config that describes other towers than the weights are of; nothing takes memory.

    The images that are prepared must be as large as the tower's.
    """
    side = tower_of(read_json(folder / CONFIG), "vision_config", CLIP_VISION).get("image_size", USUAL_SIDE)
    expected = tuple(side) if isinstance(side, list) else (side, side)
    if prepare.makes not in (None, expected):
        raise ModelError(
            f"{folder / PREPROCESSOR}: makes images of {prepare.makes}; expected {quote(expected)}, the image_size in "
            f"{CONFIG}"
        )
    stored = read_stored(folder / WEIGHTS)
    shapes = {name: shape for name, shape in stored.shapes.items() if name not in BUFFERS}
    with no_larger_than(stored, folder / CONFIG):
        check_shapes(new_model(folder), shapes, folder / WEIGHTS)


def model_of(folder: Path) -> CLIPModel:
    """The towers with the weights of a folder, whose names and shapes match."""
    model = new_model(folder)
    tensors = read_weights(folder / WEIGHTS)
    fill(model, {name: tensor for name, tensor in tensors.items() if name not in BUFFERS}, folder / WEIGHTS)
    return model


def new_model(folder: Path) -> CLIPModel:
    """The untrained towers that the config of a folder describes."""
    from transformers import CLIPConfig, CLIPModel

    config = read_json(folder / CONFIG)
    known: dict[str, Any] = {
        **fields_of(config, ("projection_dim",)),
        "text_config": tower_of(config, "text_config", CLIP_TEXT),
        "vision_config": tower_of(config, "vision_config", CLIP_VISION),
    }
    with quiet(), reading(folder):
        return CLIPModel(CLIPConfig(**known))


def tower_of(config: Mapping[str, Any], name: str, fields: Sequence[str]) -> dict[str, Any]:
    """What a config says of one of the towers; what old files say under another name too stands for all of it."""
    said = next((part for key in (f"{name}_dict", name) if isinstance(part := config.get(key), Mapping)), {})
    return fields_of(said, fields)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Blame the folder for what transformers raises inside the block."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{folder}: no CLIP that can be read ({in_line(error)})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the log of transformers inside the block, except for errors."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def folder_of(name: str) -> Path:
    """The folder of a CLIP: a path, or the files of a model's name on the hub, fetched where that is allowed."""
    what = f"extractor 'clip:{name}'"
    try:
        import transformers  # noqa: F401
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelError(f"{what}: needs transformers; expected pip install 'samplerbench[metrics]'") from error
    folder = Path(name)
    if not folder.is_dir():
        may_fetch = is_on(ALLOW_DOWNLOAD, os.environ)
        try:
            folder = Path(snapshot_download(name, allow_patterns=list(FILES), local_files_only=not may_fetch))
        except Exception as error:  # whatever the transport raises
            usual = "try again" if may_fetch else "--allow-download fetches it (1.7 GB for ViT-L/14)"
            why = f"cannot be fetched ({in_line(error)})" if may_fetch else "is not on this machine"
            raise ModelError(f"{what}: {why}; {usual}, or give a folder with its files") from error
    missing = [file for file in (CONFIG, PREPROCESSOR, WEIGHTS) if not (folder / file).exists()]
    if not any((folder / file).exists() for file in ("tokenizer.json", "vocab.json")):
        missing.append("tokenizer.json")
    if missing:
        raise ModelError(f"{what}: {folder} has no {', '.join(missing)}; expected what save_pretrained wrote of a CLIP")
    if (kind := read_json(folder / CONFIG).get("model_type")) != "clip":
        raise ModelError(f"{what}: {folder / CONFIG} says model_type {kind!r}; expected 'clip'")
    return folder


def hash_of(folder: Path) -> str:
    """SHA-256 over all files that it reads."""
    parts = [f"{name} {check_hash(folder / name)}" for name in FILES if (folder / name).exists()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def clip(argument: str = "") -> Mapping[str, Extractor]:
    """The extractors of "clip", and of "clip:NAME" or "clip:FOLDER"."""
    name = argument or DEFAULT
    folder = folder_of(name)
    short = name.rstrip("/").rpartition("/")[2]
    label = f"CLIP {short}"
    towers = Clip(folder, label)
    check_model(folder, towers.prepare)

    def embeddings(images: Tensor, prompts: Sequence[str]) -> Rows:
        return towers.images(images)

    fingerprint = hash_of(folder)
    note = f"the CLIP is {short if Path(name).is_dir() else name}; {GREY_NOTE}"
    return {
        "clip": Extractor(
            label, towers.cosines, note=note, fingerprint=fingerprint, check=towers.check, on_device=True
        ),
        "clip_image": Extractor(label, embeddings, note=note, fingerprint=fingerprint, on_device=True),
    }


@hookimpl
def samplerbench_extractors() -> dict[str, ExtractorFactory]:
    """Any CLIP, by default that of most papers on text-to-image models."""
    return {"clip": clip}

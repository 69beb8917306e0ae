"""The parts of a Model around its U-Net: copies for devices, text condition, extractors and their references."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ....samplers.errors import InputError, ModelError
from ....samplers.extractor import Extractor
from ....samplers.files.weights import file_hash, read_weights, save_weights
from ....samplers.nets.clip import CLIP
from ....samplers.predictor import Network

EXTRACT_BATCH = 64

Rows = npt.NDArray[np.float32]


def per_place(unet: nn.Module) -> Callable[[torch.device, torch.dtype], Network]:
    """The network on each requested device and in each requested dtype, copied once."""

    @functools.cache
    def on(device: torch.device, dtype: torch.dtype) -> Network:
        if (device.type, dtype) == ("cpu", torch.float32):
            return unet
        return copy.deepcopy(unet).to(device=device, dtype=dtype)

    return on


def condition_of(clip: CLIP, texts: Sequence[str]) -> Tensor:
    """Texts -> the U-Net's condition: the unit embedding, scaled to unit variance in each dimension, (B, D)."""
    return clip.embed_texts(texts) * math.sqrt(clip.dim)


def encoder(clip: CLIP) -> Callable[[Sequence[str]], Tensor]:
    """Prompts -> condition; each text is embedded by itself, so that no text changes another's bytes."""

    @functools.lru_cache(maxsize=4096)
    @torch.no_grad()
    def one(text: str) -> Tensor:
        return condition_of(clip, [text])[0]

    return lambda texts: torch.stack([one(text) for text in texts])


def save_reference(
    function: Callable[[Tensor], Tensor], images: Tensor, path: Path, shape: tuple[int, int, int]
) -> None:
    """Write the rows of a network for the reference images, one for each."""
    save_weights({"features": torch.from_numpy(in_batches(function, images, shape))}, path)


def rows_extractor(  # noqa: PLR0913  (a network, its images, its files and what is said of them)
    label: str,
    function: Callable[[Tensor], Tensor],
    shape: tuple[int, int, int],
    weights: Path,
    reference: tuple[Path, int] | None = None,
    note: str = "",
) -> Extractor:
    """An extractor of a network for images of this shape, with reference rows if there is (file, columns)."""

    def extract(images: Tensor, prompts: Sequence[str]) -> Rows:
        return in_batches(function, images, shape)

    if reference is None:
        return Extractor(label, extract, note=note, fingerprint=file_hash(weights), on_device=True)
    path, columns = reference
    stored = read_weights(path)
    if set(stored) != {"features"} or stored["features"].shape[1:] != (columns,):
        raise ModelError(f"{path}: expected one tensor, 'features', of {columns} columns; install it again")

    def of_reference() -> Rows:
        return stored["features"].numpy()

    return Extractor(label, extract, of_reference, note, file_hash(weights, path), on_device=True)


def clip_extractor(label: str, clip: CLIP, shape: tuple[int, int, int], weights: Path, note: str) -> Extractor:
    """The cosine of each image and its prompt, (n, 1)."""
    encode = encoder(clip)

    def extract(images: Tensor, prompts: Sequence[str]) -> Rows:
        texts = encode(prompts).numpy() / math.sqrt(clip.dim)
        cosines: Rows = (in_batches(clip.embed_images, images, shape) * texts).sum(1, keepdims=True)
        return cosines

    return Extractor(label, extract, note=note, fingerprint=file_hash(weights), on_device=True)


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Tensor], images: Tensor, shape: tuple[int, int, int]) -> Rows:
    """function(images) in batches of one size, the last one padded: no image affects another one's row.

    A network's function computes where the images are. InputError unless the images are uint8 (n, *shape).
    """
    if images.dtype != torch.uint8 or images.shape[1:] != shape:
        seen = f"{images.dtype} {tuple(images.shape)} from {float(images.min()):g} to {float(images.max()):g}"
        expected = f"(n, {', '.join(map(str, shape))})"
        raise InputError(f"images {seen}: expected torch.uint8 {expected} from 0 to 255; see to_images")
    there = function if images.device.type == "cpu" else function_on(function, images.device)
    rows = []
    for batch in torch.split(images, EXTRACT_BATCH):
        padding = batch[-1:].expand(EXTRACT_BATCH - len(batch), *batch.shape[1:])
        rows.append(there(torch.cat([batch, padding]))[: len(batch)].float())
    return torch.cat(rows).cpu().numpy()


@functools.lru_cache(maxsize=16)
def function_on(function: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    """A network, or a method of one, on a device, where it is a copy: the one on the CPU has other work to do."""
    network = getattr(function, "__self__", function)
    if not isinstance(network, nn.Module):
        return function
    there = copy.deepcopy(network).to(device)
    named: Callable[[Tensor], Tensor] = there if network is function else getattr(there, function.__name__)
    return named

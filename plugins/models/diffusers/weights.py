"""Weights of the parts of a pipeline: safetensors alone, checked before they are used, and their fingerprint."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from ....samplers.errors import ModelError, in_line
from ....samplers.weights import SHOWN_KEYS, check_regular, file_hash, kind_of
from .folder import HOMES, Part, read_config
from .libraries import library, quietly

STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
HALF = "fp16"
"""The variant that is taken where a folder has no other."""
NEVER_READ = (".bin", ".ckpt", ".h5", ".msgpack", ".pickle", ".pkl", ".pt", ".pth")
OF_TOKENIZERS = (
    "added_tokens.json", "merges.txt", "special_tokens_map.json", "spiece.model", "tokenizer.json",
    "tokenizer_config.json", "vocab.json",
)  # fmt: skip


def home_of(part: Part) -> str | None:
    """The library of a part that has weights; None for schedulers and tokenizers."""
    if part.is_tokenizer:
        return None
    return next((home for home, classes in HOMES.items() if part.cls in classes), None)


def weight_files(part: Part) -> tuple[tuple[Path, ...], str | None]:
    """The files of a part's weights, and their variant; ModelError if there are none that are ever read."""
    stem = STEMS[home_of(part) or ""]
    single, index = part.folder / f"{stem}.safetensors", part.folder / f"{stem}.safetensors.index.json"
    half = part.folder / f"{stem}.{HALF}.safetensors"
    if single.exists():
        return (single,), None
    if index.exists():
        return shards(index), None
    if half.exists():
        return (half,), HALF
    others = sorted(f.name for f in part.folder.iterdir() if f.suffix in NEVER_READ)
    if others:
        raise ModelError(
            f"{part.folder}: weights in {', '.join(others[:SHOWN_KEYS])} alone, which can run code and are never read; "
            f"expected {single.name}; fetch it, or write it where you trust the file, with save_pretrained of diffusers"
        )
    raise ModelError(f"{part.folder}: no {single.name}; fetch the folder again, with its weights")


def shards(index: Path) -> tuple[Path, ...]:
    """The files that an index of shards names."""
    weight_map = read_config(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index}: no weight_map; fetch the file again")
    names = sorted({str(name) for name in weight_map.values()})
    if outside := next((name for name in names if Path(name).name != name), None):
        raise ModelError(f"{index}: names the file {outside!r}; expected files of its own folder")
    return tuple(index.with_name(name) for name in names)


def check_weights(part: Part) -> None:
    """ModelError for weights that are not there, or whose header is not that of a safetensors file."""
    for path in weight_files(part)[0]:
        check_regular(path)
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                file.keys()
        except Exception as error:  # a stranger's bytes may end in any exception of the reader
            raise ModelError(
                f"{path}: looks like {kind_of(path)}; expected a safetensors file ({error}); fetch it again"
            ) from error


def loaded(part: Part, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network of a part with its weights, in evaluation mode; ModelError if a weight is missing or does not fit."""
    home = home_of(part) or ""
    check_weights(part)
    # With accelerate diffusers would have a second way of loading, which names no tensor that does not fit.
    in_diffusers: dict[str, Any] = {"torch_dtype": dtype, "low_cpu_mem_usage": False}
    options = in_diffusers if home == "diffusers" else {"dtype": dtype}
    with quietly():
        cls = getattr(library(home), CURRENT.get(part.cls, part.cls))
        try:
            module, info = cls.from_pretrained(
                str(part.folder), variant=weight_files(part)[1], use_safetensors=True, local_files_only=True,
                output_loading_info=True, ignore_mismatched_sizes=True, **options,
            )  # fmt: skip
        except Exception as error:  # a config that no network can be made of ends in any exception
            raise ModelError(
                f"{part.folder}: no {part.cls} can be made of it ({in_line(error)}); fetch it again"
            ) from error
    wrong = [f"no {name}" for name in sorted(info["missing_keys"])]
    wrong += [f"{name} is {list(has)}, expected {list(wants)}" for name, has, wants in sorted(info["mismatched_keys"])]
    if wrong:
        shown = "; ".join(wrong[:SHOWN_KEYS]) + ("; ..." if len(wrong) > SHOWN_KEYS else "")
        raise ModelError(
            f"{part.folder}: {len(wrong)} weights do not fit its {part.file.name}: {shown}; fetch it again"
        )
    for name, tensor in module.named_parameters():
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"{part.folder}: tensor {name!r} holds NaN or infinity; fetch it again")
    placed: nn.Module = module.to(device).eval().requires_grad_(False)
    return placed


CURRENT = {"Transformer2DModel": "DiTTransformer2DModel"}
"""The present names of classes that indices still have under an old one."""


def fingerprint(parts: Iterable[Part], *settings: object) -> str:
    """SHA-256 of all files that images depend on, and of the settings; where the files are does not matter."""
    digest = hashlib.sha256(json.dumps(settings, default=str).encode())
    for part in parts:
        if home_of(part):
            files = [part.file, *weight_files(part)[0]]
        elif part.is_tokenizer:
            files = [f for name in OF_TOKENIZERS if (f := part.folder / name).is_file()]
        else:
            files = [part.file]
        for file in files:
            stat = file.stat()
            digest.update(f"{part.name}/{file.name}\n{_sha256(file, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed: int) -> str:
    """Of the bytes of a file, read once in a process while it stays as it is."""
    return file_hash(path)

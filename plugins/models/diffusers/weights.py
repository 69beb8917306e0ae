"""Weights of the parts of a pipeline: only safetensors, checked before they are used, and their fingerprint."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from ....samplers.errors import ModelError
from ....samplers.files.weights import SHOWN_KEYS, Stored, file_hash, no_larger_than, read_stored
from .configs import ENCODERS, fields_of
from .folder import CONFIG, HOMES, Part, at_fault, read_config
from .libraries import library, quietly
from .tokenizers import FILES as TOKENIZER_FILES

NUMBER = re.compile(r"\d+")
STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
HALF = "fp16"
"""The variant that is read if a folder has no other."""
NEVER_READ = (".bin", ".ckpt", ".h5", ".msgpack", ".pickle", ".pkl", ".pt", ".pth")


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
    # In the order in which the library looks; the half precision is read only where there is nothing else.
    if single.exists():
        return (single,), None
    if index.exists():
        return shards(index), None
    if half.exists():
        return (half,), HALF
    others = sorted(f.name for f in part.folder.iterdir() if f.suffix in NEVER_READ)
    if others:
        raise ModelError(
            f"{part.folder}: weights only in {', '.join(others[:SHOWN_KEYS])}, which can run code and are never read; "
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


def check_weights(part: Part) -> Stored:
    """What the headers of its weights say; ModelError for weights that are not there, or are no safetensors files."""
    return read_stored(*weight_files(part)[0])


def check_network(part: Part) -> None:
    """ModelError for a config that describes a larger network than its weights are of; nothing takes memory."""
    with quietly(), no_larger_than(check_weights(part), part.file), _making(part):
        network_class(part)(encoder_config(part)) if is_encoder(part) else network_class(part).from_config(
            dict(part.config)
        )


def load_part(part: Part, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network of a part with its weights, all in one dtype, in evaluation mode.

    ModelError if a weight is missing, does not fit, or is of a layer that the config does not have.
    """
    # With accelerate diffusers would have a second way of loading, which names no tensor that does not fit.
    in_diffusers: dict[str, Any] = {"torch_dtype": dtype, "low_cpu_mem_usage": False}
    with lay_out(part) as folder, quietly(), _making(part):
        options = {"dtype": dtype, "config": encoder_config(part)} if is_encoder(part) else in_diffusers
        module, info = network_class(part).from_pretrained(
            str(folder), variant=weight_files(part)[1], use_safetensors=True, local_files_only=True,
            output_loading_info=True, ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
        module.to(device=device, dtype=dtype)  # the libraries leave some networks in the dtype of their files
    wrong = [f"no {name}" for name in sorted(info["missing_keys"])]
    wrong += [f"{name} is {list(has)}, expected {list(wants)}" for name, has, wants in sorted(info["mismatched_keys"])]
    wrong += [f"{name}, which the config has no place for" for name in left_over(module, info["unexpected_keys"])]
    if wrong:
        shown = "; ".join(wrong[:SHOWN_KEYS]) + ("; ..." if len(wrong) > SHOWN_KEYS else "")
        raise ModelError(
            f"{part.folder}: {len(wrong)} weights do not fit its {part.file.name}: {shown}; fetch it again"
        )
    for name, tensor in module.named_parameters():
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"{part.folder}: tensor {name!r} holds NaN or infinity; fetch it again")
    network: nn.Module = module.eval().requires_grad_(False)
    return network


@contextmanager
def lay_out(part: Part) -> Iterator[Path]:
    """A folder with the config of a part as it was read and checked, its weights, and nothing else of its folder."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        # The config that was checked, and not the file again: it could have been exchanged meanwhile.
        (folder / CONFIG).write_text(json.dumps(dict(part.config)))
        for file in weight_files(part)[0]:
            (folder / file.name).symlink_to(file.absolute())
        if (index := part.folder / f"{STEMS[home_of(part) or '']}.safetensors.index.json").exists():
            (folder / index.name).write_text(json.dumps(read_config(index)))
        yield folder


def network_class(part: Part) -> Any:
    """The class of a part's network."""
    return getattr(library(home_of(part) or ""), CURRENT.get(part.cls, part.cls))


def is_encoder(part: Part) -> bool:
    """Whether a part is a text encoder of transformers."""
    return part.cls in ENCODERS


def encoder_config(part: Part) -> Any:
    """The config of a text encoder, of the fields that are read."""
    return network_class(part).config_class(**fields_of(part.config, ENCODERS[part.cls]))


def _making(part: Part) -> AbstractContextManager[None]:
    """Blame the part's files for what a library raises inside the block."""
    return at_fault(part.folder, f"no {part.cls} can be made of it")


def left_over(module: nn.Module, names: Iterable[str]) -> list[str]:
    """Weights without a place that are of a layer as the network has others: its config has been cut.

    Weights of other parts that were stored along, such as a decoder beside an encoder, are left alone.
    """

    def kind(name: str) -> str:
        return NUMBER.sub("#", name)

    kinds = {kind(name) for name in module.state_dict()}
    return sorted(name for name in names if kind(name) in kinds and NUMBER.search(name))


CURRENT = {"Transformer2DModel": "DiTTransformer2DModel"}
"""The present names of classes that indices still have under an old one."""


def fingerprint(parts: Iterable[Part], *settings: object) -> str:
    """SHA-256 of all files that images depend on, and of the settings; where the files are does not matter."""
    digest = hashlib.sha256(json.dumps(settings, default=str).encode())
    for part in parts:
        if home_of(part):
            files = [part.file, *weight_files(part)[0]]
        elif part.is_tokenizer:
            files = [f for name in TOKENIZER_FILES if (f := part.folder / name).is_file()]
        else:
            files = [part.file]
        for file in files:
            stat = file.stat()
            digest.update(f"{part.name}/{file.name}\n{_sha256(file, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed: int) -> str:
    """The SHA-256 of a file, read once in a process unless the file changes."""
    return file_hash(path)

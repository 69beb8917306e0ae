"""Weights on disk: safetensors alone, so that reading a stranger's file runs nothing of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .errors import ModelError

SHOWN_KEYS = 5
N = TypeVar("N", bound=nn.Module)


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors, floating ones as float16."""
    halves = {k: (t.half() if t.is_floating_point() else t).cpu().contiguous() for k, t in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(halves, path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, floating ones as float32. ModelError if it is missing, damaged or not finite."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: damaged or not a safetensors file ({error}); install it again") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(f"{path}: tensor {name!r} holds NaN or infinity; install the file again")
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def load_weights(network: N, path: Path) -> N:
    """Fill a network from a file whose names and shapes match, and set it to evaluation."""
    tensors, expected = read_weights(path), network.state_dict()
    wrong = [k for k in expected if k not in tensors or tensors[k].shape != expected[k].shape]
    wrong += [k for k in tensors if k not in expected]
    if wrong:
        shown = ", ".join(wrong[:SHOWN_KEYS]) + (" ..." if len(wrong) > SHOWN_KEYS else "")
        raise ModelError(f"{path}: {len(wrong)} tensors do not fit {type(network).__name__}: {shown}")
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)


def file_hash(*paths: Path) -> str:
    """SHA-256 over the bytes of some files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def channels_last(network: N) -> N:
    """The memory layout in which convolutions are fastest on a CPU."""
    return network.to(memory_format=torch.channels_last)

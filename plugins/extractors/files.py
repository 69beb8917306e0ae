"""Files of weights that others publish: find them, download them if allowed, read them without executing anything."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...samplers.errors import ModelError, in_line
from ...samplers.files.torch_file import read_torch_file
from ...samplers.files.weights import SHOWN_KEYS, check_regular, file_hash
from ...samplers.variables import ALLOW_DOWNLOAD, is_on


@dataclass(frozen=True)
class Published:
    """A file as its authors publish it."""

    url: str
    name: str
    """Its name in the folder of torch hub."""
    megabytes: int
    sha256: str = ""
    """The beginning of its SHA-256, as far as its authors publish it."""


def checkpoints() -> Path:
    """The folder in which torch hub, and all that use it, keep weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_file(file: Published, what: str) -> Path:
    """The path of the file, downloaded if it is missing and that is allowed; `what` needs it. ModelError without it."""
    path = checkpoints() / file.name
    if path.exists():
        return path
    by_hand = f"or put {file.url} there"
    if not is_on(ALLOW_DOWNLOAD, os.environ):
        raise ModelError(f"{what}: no file {path}, {file.megabytes} MB; --allow-download fetches it, {by_hand}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(file.url, str(path), file.sha256 or None, progress=sys.stderr.isatty())
    except Exception as error:  # whatever the transport raises
        raise ModelError(f"{what}: {file.url} could not be fetched ({in_line(error)}); try again, {by_hand}") from error
    return path


def check_hash(path: Path, sha256: str = "") -> str:
    """SHA-256 of a file; ModelError if it does not begin as its authors publish."""
    check_regular(path)
    try:
        digest = file_hash(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not digest.startswith(sha256):
        raise ModelError(
            f"{path}: its SHA-256 begins with {digest[:12]}, its authors' with {sha256[:12]}; "
            "delete it and fetch it again"
        )
    return digest


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of torch.save, read without executing anything; ModelError if it holds anything else."""
    check_regular(path)
    try:
        content: Any = read_torch_file(path)
    except Exception as error:  # a stranger's bytes may end in any exception of the reader
        raise ModelError(f"{path}: no file of weights ({in_line(error)}); delete it and fetch it again") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path}: holds more than tensors by name; delete it and fetch it again")
    return {str(name): value for name, value in content.items()}


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load finite tensors whose names and shapes match, and set evaluation mode; ModelError if they do not match."""
    expected = network.state_dict()
    # Names and shapes are compared here, because torch lists hundreds of them in its own error.
    wrong = [name for name in expected if name not in tensors or tensors[name].shape != expected[name].shape]
    wrong += [name for name in tensors if name not in expected]
    if wrong:
        shown = ", ".join(wrong[:SHOWN_KEYS]) + (" ..." if len(wrong) > SHOWN_KEYS else "")
        raise ModelError(f"{path}: {len(wrong)} tensors do not fit {type(network).__name__}: {shown}")
    check_finite(tensors, path)
    network.load_state_dict(dict(tensors))
    network.eval().requires_grad_(False)


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """ModelError for weights with NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(f"{path}: tensor {name!r} holds NaN or infinity; delete the file and fetch it again")

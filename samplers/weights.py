"""Weights on disk: safetensors alone, so that reading a stranger's file runs nothing of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from .errors import ModelError, in_line
from .files import make_folder, write_atomically

SHOWN_KEYS = 5
MATRIX = 2
"""Tensors of fewer dimensions, such as biases, may be zero."""
SUMS = "SHA256SUMS"
BEGINNINGS = {
    b"<!doctype": "an HTML page, as of a failed download",
    b"<html": "an HTML page, as of a failed download",
    b"<?xml": "an XML page, as of a failed download",
    b"version https://git-lfs": "a git-lfs pointer, whose file `git lfs pull` fetches",
    b"\x80": "a pickle, which is never read",
    b"pk\x03\x04": "a zip archive, as torch.save writes, which is never read",
    b"\x93numpy": "a NumPy array",
    b"\x89hdf": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive",
}
"""First bytes, in lower case -> what they are of."""
N = TypeVar("N", bound=nn.Module)


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors, floating ones as float16, whole or not at all; OSError where the disk is full."""
    halves = {k: (t.half() if t.is_floating_point() else t).cpu().contiguous() for k, t in tensors.items()}
    make_folder(path.parent)
    write_atomically(path, save(halves))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, floating ones as float32.

    ModelError if it is missing, damaged, not what SHA256SUMS beside it says, not finite, or has weights of zeros alone.
    """
    with _reading(path):
        tensors = load_file(path)
    check_sum(path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(f"{path}: tensor {name!r} holds NaN or infinity; install the file again")
        if tensor.ndim >= MATRIX and not bool(tensor.any()):
            raise ModelError(f"{path}: tensor {name!r} is all zeros; install the file again")
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a file, as its header says; ModelError if it is missing or damaged."""
    with _reading(path), safe_open(path, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  (no mapping)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever the reader of safetensors raises is the fault of the file."""
    check_regular(path)
    try:
        yield
    except Exception as error:  # a stranger's bytes may end in any exception of the reader
        raise ModelError(
            f"{path}: looks like {kind_of(path)}; expected a safetensors file ({error}); install it again"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ModelError if it is missing, damaged or holds anything else."""
    check_regular(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({in_line(error)}); fetch the file again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds a {type(content).__name__}; expected a JSON object; fetch the file again")
    return content


def check_regular(path: Path) -> None:
    """Refuse what is not there, and what would keep a reader waiting."""
    if not path.exists():
        raise ModelError(f"{path}: no such file")
    if not path.is_file():
        raise ModelError(f"{path}: a folder, pipe or device; expected a file")


def kind_of(path: Path) -> str:
    """What a file that is not as it should be seems to be, from its first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        return f"a file that cannot be read, {error.strerror}"
    return beginning_of(start)


def beginning_of(start: bytes) -> str:
    """What begins with these bytes."""
    if not start:
        return "an empty file"
    text = start.lstrip().lower()
    if start[8:9] == b"{":  # behind the length of the header
        return "a safetensors file that is damaged or cut short"
    return next((kind for beginning, kind in BEGINNINGS.items() if text.startswith(beginning)), "something else")


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """SHA256SUMS of these files of a folder, as `sha256sum -c` reads it."""
    lines = [f"{file_hash(folder / name)}  {name}\n" for name in names]
    write_atomically(folder / SUMS, "".join(lines).encode())


def check_sum(path: Path) -> None:
    """Refuse a file that is not what SHA256SUMS beside it says; a file that is not listed there is as it may be."""
    sums = path.with_name(SUMS)
    if not sums.is_file():
        return
    try:
        lines = [line.split(maxsplit=1) for line in sums.read_text(encoding="utf-8").splitlines()]
        known = {name.strip().removeprefix("*"): digest.lower() for digest, name in lines}
    except (OSError, ValueError) as error:
        raise ModelError(f"{sums}: cannot be read ({error}); install it again, or delete it") from error
    expected = known.get(path.name)
    if expected is not None and (found := file_hash(path)) != expected:
        raise ModelError(f"{path}: its SHA-256 begins with {found[:12]}, {SUMS} says {expected[:12]}; install it again")


def load_weights(network: N, path: Path) -> N:
    """Fill a network from a file whose names and shapes match, and set it to evaluation."""
    tensors, expected = read_weights(path), network.state_dict()
    wrong = [k for k in expected if k not in tensors or not _fits(tensors[k], expected[k])]
    _refuse_misfits(network, [*wrong, *(k for k in tensors if k not in expected)], path)
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)


def check_shapes(network: nn.Module, path: Path) -> None:
    """ModelError unless a file's header has the names and shapes of a network's tensors.

    The network may be on the device "meta": neither it nor the file takes any memory.
    """
    stored, expected = read_shapes(path), {k: tuple(t.shape) for k, t in network.state_dict().items()}
    wrong = [k for k in expected if stored.get(k) != expected[k]]
    _refuse_misfits(network, [*wrong, *(k for k in stored if k not in expected)], path)


def _refuse_misfits(network: nn.Module, wrong: Sequence[str], path: Path) -> None:
    if wrong:
        shown = ", ".join(wrong[:SHOWN_KEYS]) + (" ..." if len(wrong) > SHOWN_KEYS else "")
        raise ModelError(f"{path}: {len(wrong)} tensors do not fit {type(network).__name__}: {shown}")


def _fits(tensor: Tensor, expected: Tensor) -> bool:
    return tensor.shape == expected.shape and tensor.is_floating_point() == expected.is_floating_point()


def file_hash(*paths: Path) -> str:
    """SHA-256 over the bytes of some files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # a part at a time: weights may be larger than the memory
    return digest.hexdigest()


def channels_last(network: N) -> N:
    """The memory layout in which convolutions are fastest on a CPU."""
    return network.to(memory_format=torch.channels_last)

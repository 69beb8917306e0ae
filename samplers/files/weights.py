"""Weights on disk, as safetensors only, so that reading a stranger's file executes nothing.

A stranger's JSON that describes a network is compared with the header of its weights before anything is built, so that
a network takes no more memory and time than the file justifies.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from ..errors import ModelError, in_line
from .atomic import make_folder, write_atomically

SHOWN_KEYS = 5
SHOWN_LETTERS = 80
"""Most letters of a tensor's name in a message."""
MATRIX = 2
"""Tensors of fewer dimensions, such as biases, may be zero."""
SUMS = "SHA256SUMS"
MOST_HEADER = 2**22
"""Most bytes of the header of a file of weights, which holds names and shapes: room for some 40,000 tensors."""
MOST_JSON = 2**23
"""Most bytes of a JSON file, and of SHA256SUMS."""
MOST_DEPTH = 64
"""Most levels of nesting in a JSON file."""
ROOM = 2
"""A network may have this many times the tensors and numbers of its files, which store shared weights once."""
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
"""First bytes, in lower case -> the kind of file that begins so."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Accepted types of floating weights."""
DRAWING = {
    getattr(home, name) for home in (nn.init, Tensor) for name in dir(home) if name.endswith(("normal_", "uniform_"))
}
"""The functions of torch that modules draw their first numbers with."""
N = TypeVar("N", bound=nn.Module)


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors atomically, floating ones as float16; OSError if the disk is full."""
    # Half the size on disk; every run reads these weights, so no result depends on the digits that are dropped.
    halves = {k: (t.half() if t.is_floating_point() else t).cpu().contiguous() for k, t in tensors.items()}
    make_folder(path.parent)
    write_atomically(path, save(halves))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, floating ones as float32.

    ModelError if it is missing or damaged, differs from SHA256SUMS beside it, or has weights that are not finite, or
    all 0.
    """
    with _reading(path):
        check_header(path)
        tensors = load_file(path)
    check_sum(path)
    return {name: _check_tensor(tensor, name, path) for name, tensor in tensors.items()}


def _check_tensor(tensor: Tensor, name: str, path: Path) -> Tensor:
    """A tensor of a file after a check; a floating one as float32."""
    if tensor.is_floating_point():
        if tensor.dtype not in FLOATS:
            kinds = ", ".join(str(kind).removeprefix("torch.") for kind in FLOATS)
            raise ModelError(f"{path}: tensor {name!r} is {tensor.dtype}; expected {kinds}: store it so")
        tensor = tensor.float()
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"{path}: tensor {name!r} holds NaN or infinity; install the file again")
    # A file cut short and padded by a file system reads as zeros.
    if tensor.ndim >= MATRIX and not bool(tensor.any()):
        raise ModelError(f"{path}: tensor {name!r} is all zeros; install the file again")
    return tensor


@dataclass(frozen=True)
class Stored:
    """The tensors in some files, according to the headers."""

    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def numbers(self) -> int:
        """How many numbers all tensors hold together."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def rows(self) -> int:
        """The longest first dimension of a tensor."""
        return max((shape[0] for shape in self.shapes.values() if shape), default=0)


def read_stored(*paths: Path) -> Stored:
    """Read the headers of some files, and no weights. ModelError if a file is missing or damaged."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        with _reading(path):
            check_header(path)
            with safe_open(path, "pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  (no mapping)
    return Stored(shapes)


def check_header(path: Path) -> None:
    """ValueError if the header is so large that reading it would take long."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")  # what a safetensors file begins with
    # A length beyond the file's end is left to the reader of safetensors, which names it well.
    if MOST_HEADER < size <= path.stat().st_size:
        raise ValueError(f"a header of {size:,} bytes, where at most {MOST_HEADER:,} are read")


class Unfilled(TorchFunctionMode):
    """Modules that are built inside the block draw no first numbers for their tensors.

    On the device "meta" there are none, and torch loads its compiler to find that out, which takes two seconds.
    """

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        """What torch calls in place of each of its functions."""
        named = named or {}
        if function in DRAWING:
            return arguments[0] if arguments else named["tensor"]
        return function(*arguments, **named)


@contextmanager
def no_larger_than(stored: Stored, where: object) -> Iterator[None]:
    """Build modules inside the block on the device "meta", which takes no memory, and no larger than some files.

    ModelError, naming the description at `where`, as soon as the modules have more than ROOM times the tensors or
    numbers of the files: whatever a stranger's JSON asks for stops there.
    """
    # torch calls these hooks for every tensor that a module registers, so a huge network stops while it is built.
    tensors = numbers = 0

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal tensors, numbers
        if tensor is None:
            return
        tensors, numbers = tensors + 1, numbers + tensor.numel()
        if tensors > ROOM * len(stored.shapes) or numbers > ROOM * stored.numbers:
            raise ModelError(
                f"{where}: describes a larger network than the weights beside it, {len(stored.shapes):,} "
                f"tensors of {stored.numbers:,} numbers; fetch both again"
            )

    # Hooks of the whole process, so they are removed whatever happens.
    hooks = [
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    ]
    try:
        # On this device tensors have shapes and no memory.
        with torch.device("meta"), Unfilled():
            yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever the reader of safetensors raises into a ModelError about the file."""
    check_regular(path)
    try:
        yield
    except Exception as error:  # a stranger's bytes may end in any exception of the reader
        raise ModelError(
            f"{path}: looks like {kind_of(path)}; expected a safetensors file ({error}); install it again"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ModelError if it is missing, damaged, very large or holds anything else."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({in_line(error)}); fetch the file again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds a {type(content).__name__}; expected a JSON object; fetch the file again")
    # Later steps recurse over the content, and would overflow the stack.
    if is_deeper(content, MOST_DEPTH):
        raise ModelError(f"{path}: nested more than {MOST_DEPTH} deep; expected a plain object; fetch the file again")
    return content


def read_text(path: Path) -> str:
    """The UTF-8 text of a file of at most MOST_JSON bytes, with or without a byte order mark.

    ModelError if it is missing or larger, ValueError if it is no UTF-8.
    """
    check_size(path, MOST_JSON)
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error}); fetch the file again") from error


def is_deeper(value: object, depth: int) -> bool:
    """Whether lists and objects are nested more than `depth` deep."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(inner) and (depth == 0 or any(is_deeper(item, depth - 1) for item in inner))


def check_size(path: Path, most: int) -> None:
    """ModelError unless the path is a file of at most `most` bytes."""
    check_regular(path)
    if (size := path.stat().st_size) > most:
        raise ModelError(f"{path}: {size:,} bytes; expected at most {most:,}; fetch the file again")


def check_regular(path: Path) -> None:
    """ModelError if the path is missing or no file: a pipe would keep the reader waiting."""
    if not path.exists():
        raise ModelError(f"{path}: no such file")
    if not path.is_file():
        raise ModelError(f"{path}: a folder, pipe or device; expected a file")


def kind_of(path: Path) -> str:
    """What kind of file an unreadable one seems to be, from its first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        return f"a file that cannot be read, {error.strerror}"
    return beginning_of(start)


def beginning_of(start: bytes) -> str:
    """What kind of file begins with these bytes."""
    if not start:
        return "an empty file"
    text = start.lstrip().lower()
    if start[8:9] == b"{":  # after the length of the header
        return "a safetensors file that is damaged or cut short"
    return next((kind for beginning, kind in BEGINNINGS.items() if text.startswith(beginning)), "something else")


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write SHA256SUMS for these files of a folder, in the format of `sha256sum -c`."""
    lines = [f"{file_hash(folder / name)}  {name}\n" for name in names]
    write_atomically(folder / SUMS, "".join(lines).encode())


def check_sum(path: Path) -> None:
    """ModelError for a file that differs from SHA256SUMS beside it; a file that is not listed passes."""
    sums = path.with_name(SUMS)
    if not sums.is_file():
        return
    try:
        # `sha256sum` writes the digest, two spaces or a space and an asterisk, and the name.
        lines = [line.split(maxsplit=1) for line in read_text(sums).splitlines()]
        known = {name.strip().removeprefix("*"): digest.lower() for digest, name in lines}
    except ValueError as error:
        raise ModelError(f"{sums}: cannot be read ({in_line(error)}); install it again, or delete it") from error
    expected = known.get(path.name)
    if expected is not None and (found := file_hash(path)) != expected:
        raise ModelError(f"{path}: its SHA-256 begins with {found[:12]}, {SUMS} says {expected[:12]}; install it again")


def network_from_file(make: Callable[[], N], path: Path, where: object = "") -> N:
    """The network that `make` builds, with the weights of a file, in evaluation mode.

    It is built twice, first on the device "meta": a network that is larger than the file or has other tensors is a
    ModelError before it takes any memory. `where` is the file that describes it.
    """
    stored = read_stored(path)
    with no_larger_than(stored, where or path):
        # First without memory, so that a file that describes a huge network costs none.
        check_shapes(make(), stored.shapes, path)
    return load_weights(make(), path)


def load_weights(network: N, path: Path) -> N:
    """Load weights whose names and shapes match into a network, and set it to evaluation mode."""
    check_shapes(network, read_stored(path).shapes, path)  # before weights that do not fit are read
    tensors, expected = read_weights(path), network.state_dict()
    # Whole numbers in place of floating ones would be converted silently.
    wrong = [k for k in expected if tensors[k].is_floating_point() != expected[k].is_floating_point()]
    _refuse_misfits(network, wrong, path)
    network.load_state_dict(tensors)
    # For sampling only: no dropout, no gradients.
    return network.eval().requires_grad_(False)


def check_shapes(network: nn.Module, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """ModelError unless the tensors of a file have the names and shapes of those of a network.

    The network may be on the device "meta": neither it nor the file takes any memory.
    """
    expected = {k: tuple(t.shape) for k, t in network.state_dict().items()}
    wrong = [k for k in expected if shapes.get(k) != expected[k]]
    _refuse_misfits(network, [*wrong, *(k for k in shapes if k not in expected)], path)


def _refuse_misfits(network: nn.Module, wrong: Sequence[str], path: Path) -> None:
    if wrong:
        shown = ", ".join(map(_printable, wrong[:SHOWN_KEYS])) + (" ..." if len(wrong) > SHOWN_KEYS else "")
        raise ModelError(f"{path}: {len(wrong)} tensors do not fit {type(network).__name__}: {shown}")


def _printable(name: str) -> str:
    """A tensor's name for a message: short, and with no character that controls a terminal."""
    return name[:SHOWN_LETTERS] if name.isprintable() else ascii(name)[:SHOWN_LETTERS]


def file_hash(*paths: Path) -> str:
    """SHA-256 over the bytes of some files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # piece by piece: weights may be larger than memory
    return digest.hexdigest()


def channels_last(network: N) -> N:
    """The network in the memory layout in which convolutions are fastest on a CPU."""
    return network.to(memory_format=torch.channels_last)

"""A chunk: what is kept of one block of a cell's samples, and the file that holds it."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from .clock import Repeat, Timing

CHUNK_SUFFIX = ".safetensors"
CHUNK_NAME = re.compile(rf"([0-9]{{8,18}})-([0-9]{{4,18}}){re.escape(CHUNK_SUFFIX)}")
HASH_BYTES = 16
CHANNELS = (1, 3)
LENGTH = struct.Struct("<Q")
"""A safetensors file begins with the length of its header, which is JSON."""
Arrays = dict[str, npt.NDArray[Any]]
Place = tuple[int, int]
"""The place of a chunk: its first sample index and its number of samples."""


@dataclass(frozen=True)
class Chunk:
    """One cell's samples of one block, as the metrics need them."""

    first: int
    n: int
    timing: Timing
    rows: Arrays
    """The rows of each extractor, (n, d), by the extractor's name."""
    hashes: npt.NDArray[np.uint8]
    """(n, 16): a hash of each image."""
    images: npt.NDArray[np.uint8] | None
    """uint8 (k, C, H, W), the first k images that are kept."""
    ode_distance: npt.NDArray[np.float64] | None
    """Mean squared distance of each sample to its converged ODE solution, where there is one, (k,)."""
    cell: str = ""
    """The key of its cell, while an engine hands it over; a stored chunk is in the folder of its cell instead."""

    @property
    def repeat(self) -> Repeat:
        """Its timing, as a repeat of the cell."""
        return Repeat(self.n, self.timing)


def chunk_to_arrays(chunk: Chunk) -> tuple[Arrays, str]:
    """The arrays of a chunk by name, and its timing as JSON."""
    # Names with a prefix, so that an extractor may be called "hashes" or "images".
    arrays: Arrays = {f"rows.{name}": values for name, values in chunk.rows.items()}
    arrays["hashes"] = chunk.hashes
    if chunk.images is not None:
        arrays["images"] = chunk.images
    if chunk.ode_distance is not None:
        arrays["ode_distance"] = chunk.ode_distance
    return arrays, json.dumps(asdict(chunk.timing))


def chunk_from_arrays(first: int, n: int, arrays: Arrays, timing: str) -> Chunk:
    """The chunk of samples first ... first + n - 1, from what `chunk_to_arrays` returned.

    A ValueError or KeyError names what is missing, or is not of n samples.
    """
    rows = {name.removeprefix("rows."): a for name, a in arrays.items() if name.startswith("rows.")}
    # The seal says that nothing was damaged since it was written; this, that it is what a chunk holds.
    check_array("hashes", arrays["hashes"], "u1", (n, HASH_BYTES))
    for name, values in rows.items():
        check_array(f"rows of {name}", values, "fiub", (n, None))
        if not np.isfinite(values).all():
            raise ValueError(f"its rows of {name} are not finite")
    if (images := arrays.get("images")) is not None:
        check_array("images", images, "u1", (range(1, n + 1), CHANNELS, None, None))
    if (distance := arrays.get("ode_distance")) is not None:
        check_array("ODE distances", distance, "f8", (range(n + 1),))
        if not (np.isfinite(distance) & (distance >= 0)).all():
            raise ValueError("its ODE distances are not all finite and from 0 up")
    return Chunk(first, n, timing_from_json(timing), rows, arrays["hashes"], images, distance)


def check_array(name: str, array: npt.NDArray[Any], kinds: str, shape: Sequence[int | Collection[int] | None]) -> None:
    """ValueError unless the array is of one of these kinds ("f8", or one letter for each kind) and of this shape, in
    which None is any length from 1."""
    # A file from a disk or from a child may hold anything, and NumPy would broadcast what does not fit.
    fits = array.dtype.str[1:] == kinds or array.dtype.kind in kinds
    for have, want in zip(array.shape, shape, strict=False):
        fits &= have > 0 if want is None else have == want if isinstance(want, int) else have in want
    if not fits or array.ndim != len(shape):
        raise ValueError(f"its {name} are {array.dtype} {array.shape}")


def timing_from_json(text: str) -> Timing:
    """The timing; a ValueError names the field that is missing or invalid."""
    try:
        return msgspec.json.decode(text, type=Timing)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"its timing: {error}") from error


@cache
def chunk_name(first: int, n: int) -> str:
    """The name of a chunk's file. It holds the number of samples, so that a cut block never passes for a whole one."""
    return f"{first:08d}-{n:04d}{CHUNK_SUFFIX}"


def place_of(name: str) -> Place | None:
    """The place that the name of a chunk's file says; None for any other name."""
    if not (named := CHUNK_NAME.fullmatch(name)):
        return None
    # "00000064-0064" and "000000064-0064" are one place, of which only the first is ever written.
    place = int(named[1]), int(named[2])
    return place if chunk_name(*place) == name else None  # of two spellings one is a copy


def arrays_to_bytes(arrays: Arrays, about: Mapping[str, str]) -> bytes:
    """Arrays and texts as a safetensors file that knows the hash of its content."""
    contiguous = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    return save(contiguous, metadata={**about, "sha256": content_hash(contiguous, about)})


def bytes_to_arrays(content: bytes) -> tuple[Arrays, dict[str, str]]:
    """The arrays and texts that `arrays_to_bytes` wrote; SafetensorError, ValueError, TypeError, KeyError or
    RecursionError for other bytes."""
    arrays = load(content)
    # The header is read again by hand, because safetensors gives arrays from bytes, and no texts.
    head = LENGTH.size + LENGTH.unpack_from(content)[0]
    about: dict[str, str] = json.loads(content[LENGTH.size : head])["__metadata__"]
    if about.pop("sha256", None) != content_hash(arrays, about):
        raise ValueError("its content is not what was written")
    return arrays, about


@cache
def text_of(dtype: np.dtype[Any]) -> str:
    """ "float32", cached: a chunk has few kinds, and numpy takes long to name one."""
    return str(dtype)


def content_hash(arrays: Arrays, about: Mapping[str, str]) -> str:
    """SHA-256 of arrays and texts, whatever their order."""
    # Type and shape too: the same bytes may be other numbers.
    whole = hashlib.sha256(json.dumps(sorted(about.items())).encode())
    for name, array in sorted(arrays.items()):
        whole.update(f"{name} {text_of(array.dtype)} {array.shape}".encode())
        whole.update(array.reshape(-1).view(np.uint8).data)  # no copy of it, where its rows follow each other
    return whole.hexdigest()

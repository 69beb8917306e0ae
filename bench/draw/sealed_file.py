"""The files of a run folder as they are read and written: seals, regular files only, errors that name the file."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...samplers.errors import StoreError
from .chunk_file import LENGTH

LONGEST_HEADER = 1 << 20
"""The most bytes of a chunk's header that are read; a damaged file may announce any length."""
SEAL = ',\n "sha256": "'


def seal_json(text: str) -> bytes:
    """A JSON object with one more entry at its end: the SHA-256 of all before it."""
    # The seal is an entry of the object itself, so that the file stays plain JSON for other programs.
    body = text.removesuffix("}").rstrip()
    return f'{body}{SEAL}{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'.encode()


def unseal_json(content: bytes) -> dict[str, Any]:
    """The JSON object; ValueError for other JSON, and where the seal is missing or that of another content."""
    value = json_object(content)
    if not has_seal(content):
        raise ValueError("its seal is missing")
    return value


def json_object(content: bytes) -> dict[str, Any]:
    """The JSON object; ValueError or RecursionError for anything else."""
    value = json.loads(content.decode("utf-8"))
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def has_seal(content: bytes) -> bool:
    """Whether there is a seal; ValueError if it is that of another content."""
    body, seal, end = content.rpartition(SEAL.encode())
    if seal and end != f'{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode():
        raise ValueError("its content is not what was written")
    return bool(seal)


def bytes_of(path: Path) -> bytes:
    """The bytes of a regular file; an OSError for anything else, such as a pipe, which would keep a reader waiting."""
    with open(path, "rb", buffering=0, opener=open_regular) as file:
        return file.read()


def texts_in(path: Path) -> dict[str, str]:
    """The texts of a safetensors file, unchecked; its arrays are not read."""
    with open(path, "rb", buffering=0, opener=open_regular) as file:
        (length,) = LENGTH.unpack(file.read(LENGTH.size))
        # The header only: the texts of many chunks are asked for, and their arrays may be large.
        texts: dict[str, str] = json.loads(file.read(min(length, LONGEST_HEADER)))["__metadata__"]
    return texts


def open_regular(path: str, flags: int) -> int:
    """The descriptor of a regular file, for `open`; an OSError at once for anything else."""
    # Opened first and looked at then: between a look at the path and the opening the file could be exchanged.
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError("a folder, pipe or device; expected a file")


def damage_error(path: Path, why: object) -> StoreError:
    """The error of a file that can be made again."""
    return StoreError(f"{path}: damaged ({why}); delete the file and give the same command again")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a StoreError that names the path."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror or error}); what was stored before is intact: make room, or "
            "give another -o"
        ) from error

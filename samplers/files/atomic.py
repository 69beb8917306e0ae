"""Atomic writes: a file is written completely or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from ..errors import StoreError


def make_folder(path: Path, *, parents: bool = True) -> None:
    """Make a folder if it is missing, and wait until the disk has it."""
    if path.is_dir():
        return
    if parents:
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a complete file or leave the old one in place, and wait until the disk has it.

    For files with a single writer: it overwrites the temporary file that a killed process left behind.
    """
    write_by_way_of(path.with_name(f".{path.name}.tmp"), path, content)


def write_beside_others(path: Path, content: bytes | memoryview) -> None:
    """`write_atomically` for a file that other processes may write at the same time."""
    write_by_way_of(path.with_name(f".{path.name[:32]}.{secrets.token_hex(8)}.tmp"), path, content)


def write_named(path: Path, content: bytes | memoryview) -> None:
    """`write_beside_others` for a file that the user names: a link stays a link, and its target is written.

    StoreError for a path that exists and is no file; OSError if the disk refuses.
    """
    target = Path(os.path.realpath(path))
    try:
        is_file = stat.S_ISREG(target.stat().st_mode)
    except FileNotFoundError:
        is_file = True  # there is nothing yet that could be anything else
    if not is_file:
        raise StoreError(f"output {path}: is no file; expected the name of one to write")
    write_beside_others(target, content)


def write_by_way_of(temporary: Path, path: Path, content: bytes | memoryview) -> None:
    """Write a file under a temporary name, then rename it."""
    try:
        write_synced(temporary, content)
        os.replace(temporary, path)  # noqa: PTH105  (beside the other steps on the disk)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()  # half a file is of no use
        raise
    sync_folder(path.parent)  # else the rename itself may be lost when the power fails


def write_synced(path: Path, content: bytes | memoryview) -> None:
    """Write a file and wait until the disk has it."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        # os.write may write a part only.
        left = memoryview(content)
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
    finally:
        os.close(file)


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from ..errors import StoreError


def make_folder(path: Path, *, parents: bool = True) -> None:
    """Make a folder where there is none, and have it on disk before returning."""
    if path.is_dir():
        return
    if parents:
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Put a file in place whole, or leave what was there, and have it on disk before returning.

    One process writes it: what one that was killed left half done is overwritten by the next.
    """
    write_by_way_of(path.with_name(f".{path.name}.tmp"), path, content)


def write_beside_others(path: Path, content: bytes | memoryview) -> None:
    """`write_atomically` where other processes may write the same file at the same time."""
    write_by_way_of(path.with_name(f".{path.name[:32]}.{secrets.token_hex(8)}.tmp"), path, content)


def write_named(path: Path, content: bytes | memoryview) -> None:
    """`write_beside_others` for a file that the user names: a link stays a link, and what it leads to is written.

    StoreError for what is there and is no file; OSError where the disk refuses.
    """
    target = Path(os.path.realpath(path))
    try:
        is_file = stat.S_ISREG(target.stat().st_mode)
    except FileNotFoundError:
        is_file = True  # it will be
    if not is_file:
        raise StoreError(f"output {path}: is no file; expected the name of one to write")
    write_beside_others(target, content)


def write_by_way_of(temporary: Path, path: Path, content: bytes | memoryview) -> None:
    """Write a file of another name, then give it its own."""
    try:
        write_synced(temporary, content)
        os.replace(temporary, path)  # noqa: PTH105  (beside the other steps on the disk)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()  # a part of a file would only fill the disk further
        raise
    sync_folder(path.parent)


def write_synced(path: Path, content: bytes | memoryview) -> None:
    """Write a file and wait until the disk has it."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
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

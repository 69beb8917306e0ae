"""Names of files that are the same text on every machine: their bytes as UTF-8, whatever the machine's language."""

from __future__ import annotations

import os
from pathlib import Path


def portable(name: str) -> str:
    """A name as the file system's functions give it -> the same on every machine."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def byte_order(name: str) -> bytes:
    """The key by which portable names are sorted."""
    return name.encode("utf-8", "surrogateescape")


def path_of(folder: Path, name: str) -> Path:
    """The file of a portable name in a folder."""
    return folder / os.fsdecode(byte_order(name))

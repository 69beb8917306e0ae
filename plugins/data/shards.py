"""Which files a data set of several files is made of: one file, a folder of them, or a pattern such as data/train-*."""

from __future__ import annotations

import re
from pathlib import Path

from ...samplers.errors import ModelError
from ...samplers.files.weights import check_regular
from .names import byte_order, portable

OF_A_SPLIT = re.compile(r"(.+)-\d{5}-of-\d{5}\..+")
"""The names of files that are parts of one split, as in train-00000-of-00002.parquet."""
SHOWN = 3


def shards(argument: str, suffix: str, what: str) -> list[Path]:
    """The files with this suffix that an argument names, in byte order; ModelError if there is none."""
    if not argument:
        raise ModelError(f"data {what!r}: which file? expected {what}:FILE{suffix}, or a folder of them")
    path = Path(argument)
    if path.is_dir():
        found = [file for file in path.iterdir() if is_shard(file, suffix)]
    elif "*" in path.name and not path.exists():
        found = [file for file in path.parent.glob(path.name) if is_shard(file, suffix)]
    else:
        check_regular(path)
        return [path]
    if not found:
        raise ModelError(f"{path}: holds no {suffix} file; expected one or more")
    # Train and test in one set would be measured against each other.
    splits = sorted({match[1] for file in found if (match := OF_A_SPLIT.fullmatch(file.name))})
    if len(splits) > 1:
        one = (path if path.is_dir() else path.parent) / f"{splits[0]}-*"
        raise ModelError(f"{path}: holds the splits {', '.join(splits[:SHOWN])}; take one, as in '{what}:{one}'")
    for file in found:
        check_regular(file)
    return sorted(found, key=lambda file: byte_order(portable(file.name)))


def is_shard(file: Path, suffix: str) -> bool:
    """Whether a file is not hidden and has the suffix."""
    return file.suffix.lower() == suffix and not file.name.startswith(".")


def name_of(argument: str) -> str:
    """The name of the data set that an argument describes."""
    path = Path(argument)
    return portable(path.resolve().name if path.is_dir() else path.name)


def are_shards(path: Path, suffix: str) -> bool:
    """Whether a path is such a file, or a folder with one in it."""
    return any(is_shard(file, suffix) for file in path.iterdir()) if path.is_dir() else is_shard(path, suffix)

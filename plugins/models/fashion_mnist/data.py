"""Fashion-MNIST (Xiao et al. 2017, MIT licence): where its files are, and how they are read."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ....samplers.errors import ModelError, in_line
from ....samplers.variables import ALLOW_DOWNLOAD, is_on

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
SIDE = 28
IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049
MOST_BYTES = 2**26
"""Most bytes of an unpacked file; the training images have 47 million."""


class Split(NamedTuple):
    """Images uint8 (N, 1, 28, 28) and class numbers int64 (N,)."""

    images: Tensor
    labels: Tensor


def load_split(train: bool, folder: Path | None = None) -> Split:
    """The 60,000 training or the 10,000 test images.

    Looks in `folder` if given, else where they may be on this machine; downloads through torchvision where allowed.
    """
    return read_split(folder or find_folder(), train)


def folder_there() -> Path | None:
    """The folder on this machine that holds the four files; None if they have to be downloaded."""
    candidates = (DEBIAN_FOLDER, download_root() / "FashionMNIST" / "raw")
    return next((folder for folder in candidates if (folder / "train-images-idx3-ubyte.gz").exists()), None)


def download_root() -> Path:
    """The folder for data sets of torchvision."""
    return Path.home() / ".cache" / "samplerbench"


def find_folder() -> Path:
    """The folder that holds the four files, downloading them if need be, and allowed."""
    if there := folder_there():
        return there
    ways = "install the Debian package dataset-fashion-mnist, or give --data DIR with its four .gz files"
    if not is_on(ALLOW_DOWNLOAD, os.environ):
        raise ModelError(
            f"Fashion-MNIST not found: {ways}, or let torchvision download it with --allow-download or "
            f"{ALLOW_DOWNLOAD}=1 (31 MB)"
        )
    root = download_root()
    try:
        from torchvision.datasets import FashionMNIST

        for train in (True, False):
            FashionMNIST(str(root), train=train, download=True)
    except Exception as error:  # torchvision raises whatever its transport raises
        raise ModelError(f"Fashion-MNIST: its download failed ({in_line(error)}); try again, or {ways}") from error
    return root / "FashionMNIST" / "raw"


def read_split(folder: Path, train: bool) -> Split:
    """Read one split from the two IDX files in `folder`, gzipped or not."""
    prefix = "train" if train else "t10k"
    images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", IMAGES_MAGIC, (SIDE, SIDE))
    labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", LABELS_MAGIC, ())
    if len(images) != len(labels):
        raise ModelError(f"{folder}: {len(images)} images but {len(labels)} labels in the {prefix} files")
    if labels.size and labels.max() >= len(CLASSES):
        raise ModelError(f"{folder}: label {labels.max()} in the {prefix} file; expected 0 to {len(CLASSES) - 1}")
    return Split(torch.from_numpy(images.copy())[:, None], torch.from_numpy(labels.astype(np.int64)))


def _read_idx(folder: Path, name: str, magic: int, item: tuple[int, ...]) -> np.ndarray:
    """One IDX file: a big-endian header (magic, count, sizes), then bytes."""
    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)
    if path is None:
        raise ModelError(f"{folder}: no file {name}.gz; expected the four files of Fashion-MNIST there")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ModelError(f"{path}: damaged or cut short ({error}); fetch the file again") from error
    if len(data) > MOST_BYTES:
        raise ModelError(f"{path}: more than {MOST_BYTES:,} bytes, unpacked; not the IDX file {name}; fetch it again")
    length = 4 * (2 + len(item))
    # Filled up with zeros, so that a file that ends in its header fails the checks below, in one line.
    header = np.frombuffer(data[:length].ljust(length, b"\0"), dtype=">u4")
    body = np.frombuffer(data, np.uint8)[length:]
    if header[0] != magic or tuple(header[2:]) != item:
        raise ModelError(f"{path}: not the IDX file {name}; fetch the file again")
    if body.size != header[1] * np.prod(item, dtype=int):
        raise ModelError(f"{path}: {body.size} bytes of data, {header[1]} items announced; fetch the file again")
    return body.reshape(int(header[1]), *item)

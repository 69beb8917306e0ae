"""An .npz file of images, as guided-diffusion and np.savez write: uint8 in one array, labels in another.

The images are arr_0, images or data, (N, H, W, 1 or 3) or (N, 1 or 3, H, W); labels, if any, are arr_1, labels or
label: N whole numbers or texts, which become the captions. Nothing in the file is run: an array of Python objects is
refused, and what the directory and the headers announce is checked before anything is unpacked. An array that is not
compressed is mapped, not read, so it may be larger than the memory; a compressed one has at most `MOST_UNPACKED` bytes.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...samplers.errors import ModelError
from ...samplers.files.npz import read_header
from ...samplers.files.weights import check_regular, kind_of
from ...samplers.files.zip_file import open_zip
from ...samplers.image_data import ImageData, ImageDataFactory
from ...samplers.plugin import hookimpl
from .arrays import ArrayImages, channels_first
from .captions import one_line

IMAGES = ("arr_0", "images", "data")
LABELS = ("arr_1", "labels", "label")
STATISTICS = {"mu", "sigma"}
MOST_UNPACKED = 2**32
"""Most bytes of a compressed array; arrays of np.savez are not compressed and have no limit."""
MOST_LABELS = 2**28
"""Most bytes of the labels."""
MOST_ARRAYS = 1024
CHUNK = 2**20
LOCAL_HEADER = struct.Struct("<26xHH")
"""The header of a member of a zip archive; it ends in the lengths of the name and of the extra field after it."""


def read_npz(path: Path) -> ArrayImages:
    """The images and captions in a file; ModelError if it is not as described above."""
    check_regular(path)
    try:
        with open_zip(path, MOST_ARRAYS) as archive:
            images, captions = _read(archive, path)
    except ModelError:
        raise
    except Exception as error:  # a stranger's bytes may end in any exception of the reader
        raise ModelError(
            f"{path}: looks like {kind_of(path)}; expected an .npz file of images "
            f"({error or type(error).__name__}); fetch it again"
        ) from error
    return ArrayImages(path.name, images, captions)


def _read(archive: zipfile.ZipFile, path: Path) -> tuple[NDArray[np.uint8], list[str | None]]:
    names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
    members = dict(zip(names, archive.infolist(), strict=True))
    if len(members) < len(names):
        raise ModelError(f"{path}: an array is there twice; expected every name once")
    found = [name for name in IMAGES if name in members]
    if not found and members.keys() >= STATISTICS:
        raise ModelError(f"{path}: holds statistics (mu, sigma), no images; give it as --reference {path}")
    if len(found) != 1:
        raise ModelError(f"{path}: holds {', '.join(names)[:200] or 'nothing'}; expected one of {', '.join(IMAGES)}")
    stored = _array(archive, members[found[0]], path)
    if stored.dtype != np.uint8:
        raise ModelError(
            f"{path}: {found[0]} is {stored.dtype}{_range(stored)}; expected uint8 from 0 to 255, so convert it first"
        )
    images = channels_first(stored)
    if images is None or not images.size:
        raise ModelError(
            f"{path}: {found[0]} has the shape {stored.shape}; expected (N, H, W, 3 or 1) or (N, 3 or 1, H, W)"
        )
    labels = [name for name in LABELS if name in members]
    if len(labels) > 1:
        raise ModelError(f"{path}: holds {' and '.join(labels)}; expected labels once")
    if not labels:
        return images, [None] * len(images)
    label = members[labels[0]]
    if label.file_size > MOST_LABELS:
        raise ModelError(f"{path}: {labels[0]} of {label.file_size:,} bytes; expected at most {MOST_LABELS:,}")
    return images, _captions(_array(archive, label, path), len(images), f"{path}: {labels[0]}")


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> NDArray[Any]:
    """The array of a member, mapped if it is not compressed; its checksum is checked in either case."""
    what = f"{path}: {info.filename}"
    # What is stored as it is can be mapped where it lies in the archive; what is compressed has to be unpacked.
    compressed = info.compress_type != zipfile.ZIP_STORED
    if compressed and (info.compress_type != zipfile.ZIP_DEFLATED or info.file_size > MOST_UNPACKED):
        raise ModelError(
            f"{what}: {info.file_size:,} bytes, compressed; expected at most {MOST_UNPACKED:,}, deflated; store it "
            "with np.savez"
        )
    with archive.open(info) as file:
        shape, fortran, dtype = read_header(file, info, what)
        start = file.tell()
        unpacked = bytearray(info.file_size - start if compressed else 0)
        position = 0
        for chunk in iter(lambda: file.read(CHUNK), b""):  # to the end, where the checksum is compared
            if compressed:
                unpacked[position : position + len(chunk)] = chunk
                position += len(chunk)
    order: Literal["F", "C"] = "F" if fortran else "C"
    if compressed:
        return np.ndarray(shape, dtype, unpacked, order=order)
    return np.memmap(path, dtype, "r", _start_of(archive, info) + start, shape, order)


def _start_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """The position in the archive at which the bytes of a member begin."""
    file = archive.fp
    assert file is not None
    # The lengths in the directory may differ from those in the header before the bytes, which count.
    file.seek(info.header_offset)
    lengths: tuple[int, int] = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    return info.header_offset + LOCAL_HEADER.size + sum(lengths)


def _range(array: NDArray[Any]) -> str:
    """ " from -1 to 1": the range of the numbers in an array, '' if they have none."""
    return f" from {array.min():.4g} to {array.max():.4g}" if array.size and array.dtype.kind in "fiu" else ""


def _captions(labels: NDArray[Any], count: int, what: str) -> list[str | None]:
    """The labels as texts."""
    if labels.shape != (count,) or labels.dtype.kind not in "iuU":
        raise ModelError(f"{what}: {labels.dtype} {labels.shape}; expected {count:,} whole numbers or texts")
    return [one_line(str(label), f"{what}, number {i}") for i, label in enumerate(labels)]


class Npz:
    """Images in one array of an .npz file, as guided-diffusion writes, with labels if any: npz:FILE."""

    def __call__(self, argument: str) -> ImageData:
        """The images in the file `argument`."""
        if not argument:
            raise ModelError("data 'npz': which file? expected npz:FILE")
        return read_npz(Path(argument))

    def reads(self, path: Path) -> bool:
        """Whether this is an .npz file."""
        return path.suffix.lower() == ".npz" and not path.is_dir()


@hookimpl
def samplerbench_data() -> dict[str, ImageDataFactory]:
    """Images in an array."""
    return {"npz": Npz()}

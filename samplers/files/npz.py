"""Arrays in an .npz file of a stranger: the header of a member is checked before anything is unpacked or allocated."""

from __future__ import annotations

import math
import zipfile
from typing import IO, Any, NamedTuple

import numpy as np

from ..errors import ModelError

READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Header(NamedTuple):
    """The header of an array: shape, order and type."""

    shape: tuple[int, ...]
    fortran: bool
    """Whether its first index runs fastest."""
    dtype: np.dtype[Any]


def read_header(file: IO[bytes], info: zipfile.ZipInfo, what: str) -> Header:
    """Read the header of a member from its beginning; the file is then at the first number.

    ModelError if it holds Python objects, or if the rest of the member has another size than the header announces.
    """
    version = np.lib.format.read_magic(file)
    if version not in READERS:
        raise ModelError(f"{what}: version {version} of NumPy's format; expected 1.0 or 2.0: store it with np.savez")
    header = Header(*READERS[version](file))
    # Reading objects means unpickling them, which executes code.
    if header.dtype.hasobject:
        raise ModelError(f"{what}: holds Python objects, which are never read; store numbers")
    # Python integers: a product of announced sides may exceed 64 bits.
    expected, there = math.prod(header.shape) * header.dtype.itemsize, info.file_size - file.tell()
    if min(header.shape, default=0) < 0 or expected != there:
        raise ModelError(
            f"{what}: {header.shape} of {header.dtype} is {expected:,} bytes, {there:,} are there; fetch it again"
        )
    return header

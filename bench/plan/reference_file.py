"""The file of a reference: rows, or their mean and covariance, and what identifies them.

The file was exported by `samplerbench reference`, or is an .npz of mu and sigma as the field publishes it. Nothing in
it is executed, and its sizes are checked before anything is unpacked.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.numpy import save

from ...samplers.errors import InputError, ModelError, StoreError, in_line
from ...samplers.extractor import Extractor
from ...samplers.files.atomic import make_folder, write_named
from ...samplers.files.npz import Header, read_header
from ...samplers.files.weights import check_header, check_regular, file_hash
from ...samplers.files.zip_file import open_zip
from ...samplers.metric import Moments, Rows
from ...samplers.text import count_of
from .record import Positive, violation_text

FORMAT = 1
"""Version of the files that are written here."""
ROWS = "rows"
MEAN, COVARIANCE = "mu", "sigma"
"""Names in an .npz, the field's own."""
MOMENTS_SUFFIX, ROWS_SUFFIX = ".npz", ".safetensors"
MOST_COLUMNS = 8192
"""The widest moments that are read: a covariance of this width takes 512 MB."""
MOST_HEADER = 1 << 20
"""Bytes that a member of an .npz may have beside its numbers."""
MOST_ARRAYS = 1024
"""The most arrays in an .npz."""
MOST_TEXT = 4096
"""Letters of each text that is read from a file."""
ELSEWHERE = "made elsewhere: with which extractor is not recorded"
Shape = tuple[int, int, int]
"""(channels, height, width)."""


@dataclass(frozen=True)
class About:
    """What identifies a reference."""

    extractor: str
    """Its label."""
    extractor_hash: str
    data: str
    data_hash: str
    size: str
    """ "32x32", width x height."""
    channels: Positive
    samples: Positive
    notes: tuple[str, ...] = ()
    """Notes on the data, a sentence each."""

    @property
    def key(self) -> str:
        """Hash of all that the rows depend on."""
        # Not the notes and labels: a name that is written in another way leaves the rows as they are.
        parts = [FORMAT, self.extractor_hash, self.data_hash, self.size, self.channels, self.samples]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def as_texts(self) -> dict[str, str]:
        """The entries of a file."""
        return {
            "format": str(FORMAT), "extractor": self.extractor, "extractor_hash": self.extractor_hash,
            "data": self.data, "data_hash": self.data_hash, "size": self.size, "channels": str(self.channels),
            "samples": str(self.samples), "notes": json.dumps(self.notes),
        }  # fmt: skip


def about_of(texts: Mapping[str, str], path: Path) -> About | None:
    """What a file says about itself; None if samplerbench did not write it."""
    if "extractor_hash" not in texts:
        return None
    try:
        notes = msgspec.json.decode(texts.get("notes", ""), type=tuple[str, ...])
        return msgspec.convert({**texts, "notes": notes}, About, strict=False)  # its numbers are texts too
    except (msgspec.MsgspecError, RecursionError) as error:
        why = violation_text(error) if isinstance(error, msgspec.ValidationError) else f"notes: {error}"
        raise ModelError(f"reference {path}: what it says of itself is damaged ({why}); make it again") from error


def note_on(images: str, notes: tuple[str, ...]) -> str:
    """The note on a reference for readers of its numbers."""
    return "; ".join([f"compared with {images}", *(note.rstrip(".") for note in notes)])


@dataclass(frozen=True)
class ReferenceFile:
    """A file of rows or moments that `reference_file` has checked for images of this shape."""

    path: Path
    shape: Shape
    about: About | None
    """What it says about itself; None if samplerbench did not write it."""

    @property
    def note(self) -> str:
        """What a reader of numbers made with it must know."""
        if self.about is None:
            return f"compared with {self.path.name}, {ELSEWHERE}"
        images = count_of(self.about.samples, "image")
        return note_on(f"{images} of {self.about.data} at {self.about.size}", self.about.notes)

    def fingerprint(self, extractor: Extractor) -> str:
        """Hash of the file; ModelError if another extractor made it."""
        about = self.about
        if about and about.extractor_hash != extractor.fingerprint:
            raise ModelError(
                f"reference {self.path}: made by {about.extractor} ({about.extractor_hash[:12]}), this run reads "
                f"{extractor.label} ({extractor.fingerprint[:12]}); make it again, or give --extractor"
            )
        return file_hash(self.path)

    def read(self, extractor: Extractor) -> Rows | Moments:
        """Its content, checked against the width of the extractor's rows; read each time, to save memory in a run."""
        content, about = content_of(self.path)
        width = content.mean.size if isinstance(content, Moments) else content.shape[1]
        # Made elsewhere: nothing in the file says by which extractor, so the width has to do.
        if about is None and (own := width_of(extractor, self.shape)) != width:
            raise ModelError(
                f"reference {self.path}: of {width} features, and which extractor made it is not recorded; "
                f"{extractor.label} has {own}; give the extractor that made it, or images"
            )
        return content


def reference_file(path: Path, shape: Shape) -> ReferenceFile:
    """The reference in a file; ModelError if it is damaged or made of images of another shape."""
    content, about = content_of(path)
    size = f"{shape[2]}x{shape[1]}"
    if about and about.size != size:
        raise ModelError(
            f"reference {path}: made at {about.size}, this run makes images of {size}; make it again with --size {size}"
        )
    # Moments do not show how many images they are of; rows do, so a cut file is noticed.
    if about and not isinstance(content, Moments) and len(content) != about.samples:
        raise ModelError(f"reference {path}: {len(content)} rows, not what it says; make it again")
    return ReferenceFile(path, shape, about)


def content_of(path: Path) -> tuple[Rows | Moments, About | None]:
    """Rows or moments, with what the file says about itself, if samplerbench wrote it."""
    return read_rows(path) if path.suffix.lower() == ROWS_SUFFIX else read_moments(path)


def width_of(extractor: Extractor, shape: Shape) -> int:
    """The width of an extractor's rows: how many numbers it gives for an image."""
    # An extractor does not declare its width, so it is put to one image.
    blank = torch.zeros(1, *shape, dtype=torch.uint8)
    return int(np.asarray(extractor.extract(blank, [""])).shape[1])


def read_rows(path: Path) -> tuple[Rows, About]:
    """What `samplerbench reference -o FILE.safetensors` wrote."""
    check_regular(path)
    try:
        check_header(path)
        with safe_open(path, "np") as file:
            texts, names = file.metadata() or {}, set(file.keys())
            # Only this one array is read; another may be of any size.
            rows: Rows = file.get_tensor(ROWS) if names == {ROWS} else np.empty(0, dtype=np.float32)
    except Exception as error:  # a stranger's bytes may end in any exception of the reader
        raise ModelError(f"reference {path}: is damaged or no safetensors file ({in_line(error)})") from error
    about = about_of(texts, path)
    if about is None or rows.ndim != 2:  # noqa: PLR2004  (rows and columns)
        raise ModelError(f"reference {path}: not what `samplerbench reference -o FILE{ROWS_SUFFIX}` writes")
    # One NaN among the rows would make every number that is compared with them NaN.
    if rows.dtype != np.float32 or not bool(np.isfinite(rows).all()):
        raise ModelError(f"reference {path}: rows that are no finite numbers of float32; make it again")
    return rows, about


def is_moments(path: Path) -> bool:
    """Whether a file is an .npz of mu and sigma, and not of images."""
    if path.suffix.lower() != MOMENTS_SUFFIX or not path.is_file():
        return False
    try:
        with open_zip(path, MOST_ARRAYS) as archive:
            return {f"{MEAN}.npy", f"{COVARIANCE}.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return False


def read_moments(path: Path) -> tuple[Moments, About | None]:
    """Mean and covariance of an .npz, with what it says about itself, if samplerbench wrote it."""
    check_regular(path)
    try:
        with open_zip(path, MOST_ARRAYS) as archive:
            mean = numbers_in(archive, MEAN, 1)
            covariance = numbers_in(archive, COVARIANCE, 2)
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            # Members of other names are left unread: other tools may store more than the two arrays.
            facts = [name for name in names if name in About.__dataclass_fields__]
            about = about_of({name: text_in(archive, name) for name in facts}, path)
        return Moments(mean, covariance, about.samples if about else None), about
    except (ModelError, InputError) as error:
        text = str(error)
        raise ModelError(text if text.startswith("reference ") else f"reference {path}: {text}") from error
    except Exception as error:  # as in `read_rows`
        raise ModelError(f"reference {path}: is damaged or no .npz file ({in_line(error)})") from error


def numbers_in(archive: zipfile.ZipFile, name: str, dims: int) -> npt.NDArray[np.float64]:
    """An array of floats of an .npz, whose announced shape is checked before it is unpacked."""
    (shape, _, dtype), body = member(archive, name, 8 * MOST_COLUMNS**dims)
    if dtype.kind != "f" or len(shape) != dims or not 0 < max(shape, default=0) <= MOST_COLUMNS:
        raise ModelError(f"{name} is {dtype} {shape}; expected floats of {dims} dimensions, up to {MOST_COLUMNS} each")
    return np.frombuffer(body, dtype).reshape(shape).astype(np.float64)  # symmetric: either order of memory will do


def text_in(archive: zipfile.ZipFile, name: str) -> str:
    """A text of an .npz, an array of no dimensions."""
    (shape, _, dtype), body = member(archive, name, 4 * MOST_TEXT)
    if dtype.kind != "U" or shape != ():
        raise ModelError(f"{name} is {dtype} {shape}; expected a text")
    return str(np.frombuffer(body, dtype)[0]) if body else ""


def member(archive: zipfile.ZipFile, name: str, most: int) -> tuple[Header, bytes]:
    """The header and the bytes of an array in an .npz; ModelError if it is too long or its header is invalid."""
    info = archive.getinfo(f"{name}.npy")
    # By the announced size, before a byte is unpacked.
    if info.file_size > most + MOST_HEADER:
        raise ModelError(f"{name} announces {info.file_size:,} bytes; expected at most {most:,}")
    with archive.open(info) as file:
        return read_header(file, info, name), file.read()


def content_to_bytes(rows: Rows, about: About, suffix: str) -> bytes:
    """The bytes of a file of rows (.safetensors), or of their mean and covariance (.npz), with what identifies them."""
    if suffix == ROWS_SUFFIX:
        return save({ROWS: rows}, about.as_texts())
    if len(rows) < 2:  # noqa: PLR2004  (a covariance)
        raise InputError(f"{len(rows)} image: has no covariance; expected at least 2")
    # In float64: a covariance in float32 of many rows loses the digits that FID needs.
    exact = rows.astype(np.float64)
    buffer = io.BytesIO()
    # Texts beside the field's own two arrays, which other tools ignore.
    arrays: dict[str, Any] = {name: np.array(text) for name, text in about.as_texts().items()}
    arrays |= {MEAN: exact.mean(0), COVARIANCE: np.atleast_2d(np.cov(exact, rowvar=False))}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def export(rows: Rows, about: About, path: Path) -> None:
    """Write rows, or their moments, depending on the file's suffix."""
    try:
        make_folder(path.parent)
        write_named(path, content_to_bytes(rows, about, check_suffix(path)))
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error


def check_suffix(path: Path) -> str:
    """The suffix of a file, if that kind of file can be written; else InputError."""
    suffix = path.suffix.lower()
    if suffix not in (MOMENTS_SUFFIX, ROWS_SUFFIX):
        raise InputError(
            f"output {path}: expected FILE{MOMENTS_SUFFIX} for mean and covariance, or FILE{ROWS_SUFFIX} for the rows"
        )
    return suffix

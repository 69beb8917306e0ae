"""What generated images are compared with: rows of real images, extracted once and kept, or a file of them.

A file is what `samplerbench reference` exported, or an .npz of mu and sigma as the field publishes it. Nothing in it
is run, and its sizes are checked before anything is unpacked.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.numpy import save
from torch import Tensor

from ..samplers.errors import InputError, ModelError, StoreError, told
from ..samplers.extractor import Extractor
from ..samplers.files import make_folder, write_beside_others
from ..samplers.image_data import ImageData, check_count
from ..samplers.images import cropped, to_channels
from ..samplers.metric import Moments, Rows
from ..samplers.model import parse_size
from ..samplers.registry import Registry
from ..samplers.weights import check_regular, file_hash

FORMAT = 1
"""Version of the files that are written here."""
BLOCK = 64
"""Images that are extracted at a time."""
ROWS = "rows"
MEAN, COVARIANCE = "mu", "sigma"
"""Names in an .npz, the field's own."""
MOMENTS_SUFFIX, ROWS_SUFFIX = ".npz", ".safetensors"
MOST_COLUMNS = 8192
"""Of moments that are read: a covariance of so many takes 512 MB."""
MOST_HEADER = 1 << 20
"""Bytes by which a member of an .npz may be longer than its numbers."""
MOST_TEXT = 4096
"""Letters of each fact that is read from a file."""
DECIDING = ("samplerbench", "torch", "pillow", "torch-fidelity", "transformers")
"""Packages whose version may change the last digits of a row."""
COMPARED = ("features", "clip_image")
"""What metrics compare of an extractor's, the first that it has."""
ELSEWHERE = "made elsewhere: with which extractor is not recorded"
Report = Callable[[int, int], None]
"""(images that are done, all images)."""
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
    channels: int
    samples: int
    notes: tuple[str, ...] = ()
    """On the data, a sentence each."""

    @property
    def key(self) -> str:
        """Hash of all that the rows depend on."""
        parts = [FORMAT, self.extractor_hash, self.data_hash, self.size, self.channels, self.samples]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def as_texts(self) -> dict[str, str]:
        """As a file says it."""
        return {
            "format": str(FORMAT), "extractor": self.extractor, "extractor_hash": self.extractor_hash,
            "data": self.data, "data_hash": self.data_hash, "size": self.size, "channels": str(self.channels),
            "samples": str(self.samples), "notes": json.dumps(self.notes),
        }  # fmt: skip


def about_of(texts: Mapping[str, str], path: Path) -> About | None:
    """What a file says of itself; None where it does not come from here."""
    if "extractor_hash" not in texts:
        return None
    try:
        return About(
            texts["extractor"], texts["extractor_hash"], texts["data"], texts["data_hash"], texts["size"],
            int(texts["channels"]), int(texts["samples"]), tuple(map(str, json.loads(texts["notes"]))),
        )  # fmt: skip
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"reference {path}: what it says of itself is damaged; make it anew") from error


class Source(Protocol):
    """Where a reference comes from."""

    @property
    def note(self) -> str:
        """What a reader of numbers made with it must know."""
        ...

    def fingerprint(self, extractor: Extractor) -> str:
        """Hash of what the extractor says of it; known before that is asked."""
        ...

    def read(self, extractor: Extractor) -> Rows | Moments:
        """What the extractor says of it."""
        ...


@dataclass(frozen=True)
class Referred:
    """The reference of an extractor: what it says of a source."""

    extractor: Extractor
    """As it is without this reference."""
    source: Source

    def __call__(self) -> Rows | Moments:
        """The rows, or their moments."""
        return self.source.read(self.extractor)


def referring(extractor: Extractor, source: Source) -> Extractor:
    """The extractor with a source in place of its own reference."""
    bare = without_reference(extractor)
    notes = [note for note in (bare.note, source.note) if note]
    fingerprint = hashlib.sha256(f"{bare.fingerprint} {source.fingerprint(bare)}".encode()).hexdigest()
    return replace(bare, reference=Referred(bare, source), note="; ".join(notes), fingerprint=fingerprint)


def without_reference(extractor: Extractor) -> Extractor:
    """The extractor as it was before `referring`."""
    return extractor.reference.extractor if isinstance(extractor.reference, Referred) else extractor


def source_of(spec: str, shape: Shape, registry: Registry) -> Source:
    """The source that a folder, a file or the name of a data set is, for images of this shape."""
    path = Path(spec)
    if path.suffix.lower() in (MOMENTS_SUFFIX, ROWS_SUFFIX) and not path.exists():
        raise ModelError(f"reference {spec!r}: no such file")
    if path.suffix.lower() == ROWS_SUFFIX or is_moments(path):
        return ReferenceFile(path, shape)
    return Images(data_of(spec, registry), shape)


def data_of(spec: str, registry: Registry) -> ImageData:
    """The images that a folder, a file or a name is."""
    if spec.partition(":")[0] not in registry.data.things and not Path(spec).exists():
        names = ", ".join(sorted(registry.data.things))
        raise InputError(
            f"reference {spec!r}: no such file or folder, and no data set of that name; there are: {names}"
        )
    return registry.image_data(spec)


# ---- Images -> rows ----


@dataclass(frozen=True)
class Images:
    """The first images of a data set, or all."""

    data: ImageData
    shape: Shape
    samples: int | None = None
    """How many; None = all."""
    as_they_are: bool = False
    """Whether an image of another size is refused, where it would be cropped and resized."""

    def about(self, extractor: Extractor) -> About:
        """What identifies its rows."""
        channels, height, width = self.shape
        return About(
            extractor.label, extractor.fingerprint, self.data.name, self.data.fingerprint, f"{width}x{height}",
            channels, self.count, tuple(self.data.notes),
        )  # fmt: skip

    @property
    def count(self) -> int:
        """How many images."""
        if self.samples is not None:
            check_count(self.data, self.samples)
        return len(self.data) if self.samples is None else self.samples

    @property
    def note(self) -> str:
        """What it is, how many, and what the data set says of itself."""
        _, height, width = self.shape
        return note_on(f"{self.count:,} images of {self.data.name} at {width}x{height}", self.data.notes)

    def fingerprint(self, extractor: Extractor) -> str:
        """Hash of extractor, images, size and number."""
        return self.about(extractor).key

    def read(self, extractor: Extractor) -> Rows:
        """The rows, with a bar on a terminal where they have to be made."""
        with bar_on_terminal(f"reference {self.data.name}") as report:
            return self.rows(extractor, report)

    def rows(self, extractor: Extractor, report: Report) -> Rows:
        """The rows (n, d): those that are kept, or made and kept; not kept where the extractor has no fingerprint."""
        about = self.about(extractor)
        path = references_folder() / f"{about.key}-{made_with()}{ROWS_SUFFIX}"
        if extractor.fingerprint and (kept := kept_rows(path, about)) is not None:
            return kept
        rows = self._extracted(extractor, report)
        if extractor.fingerprint:
            with suppress(OSError):  # a cache that cannot be written makes a run slower, not wrong
                make_folder(path.parent)
                write_beside_others(path, save({ROWS: rows}, about.as_texts()))
        return rows

    def _extracted(self, extractor: Extractor, report: Report) -> Rows:
        blocks = []
        for first in range(0, self.count, BLOCK):
            numbers = range(first, min(first + BLOCK, self.count))
            images = torch.stack([self._image(i) for i in numbers])
            rows = np.asarray(extractor.extract(images, [""] * len(images)), dtype=np.float32)
            check_extracted(rows, numbers, f"{extractor.label}, reference {self.data.name}")
            blocks.append(rows)
            report(numbers.stop, self.count)
        if not blocks:
            raise InputError(f"reference {self.data.name}: no images in it")
        return np.concatenate(blocks)

    def _image(self, i: int) -> Tensor:
        """Image i, cropped at its centre and resized by PIL's bicubic filter; grey or colour as the shape is."""
        image = self.data.image(i)
        channels, *size = self.shape
        if self.as_they_are and list(image.shape[1:]) != size:
            found, first = (f"{width}x{height}" for height, width in (image.shape[1:], size))
            raise InputError(
                f"reference {self.data.name}: image {i} is {found}, the first {first}; expected one size, or --size"
            )
        return to_channels(cropped(image, (size[0], size[1])), channels)


def check_extracted(rows: npt.NDArray[Any], numbers: range, what: str) -> None:
    """Refuse what an extractor cannot mean, naming the image."""
    if rows.ndim != 2 or len(rows) != len(numbers):  # noqa: PLR2004  (rows and columns)
        raise InputError(f"{what}: returned shape {rows.shape}; expected ({len(numbers)}, d)")
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        raise ModelError(f"{what}: returned NaN or infinity for image {numbers[int(finite.argmin())]}")


def note_on(images: str, notes: tuple[str, ...]) -> str:
    """What a reader must know of a reference."""
    return "; ".join([f"compared with {images}", *(note.rstrip(".") for note in notes)])


def references_folder() -> Path:
    """Where rows of references are kept."""
    return Path.home() / ".cache" / "samplerbench" / "references"


def made_with() -> str:
    """Hash of the versions that rows were made with: with others, they are made anew."""
    versions = [version_of(package) for package in DECIDING]
    return hashlib.sha256(json.dumps(versions).encode()).hexdigest()[:8]


def version_of(package: str) -> str:
    """The version of an installed package, '' if it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def kept_rows(path: Path, about: About) -> Rows | None:
    """The rows of a file that is what it should be, else None: it is made anew."""
    try:
        with safe_open(path, "np") as file:
            if file.metadata() != about.as_texts():
                return None
            rows: Rows = file.get_tensor(ROWS)
    except Exception:  # a damaged file may end in any exception of its reader
        return None
    is_whole = rows.dtype == np.float32 and rows.ndim == 2 and len(rows) == about.samples  # noqa: PLR2004
    return rows if is_whole and bool(np.isfinite(rows).all()) else None


@contextmanager
def bar_on_terminal(what: str) -> Iterator[Report]:
    """A bar on standard error while images are extracted, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# ---- What `samplerbench reference` asks for ----


def one_extractor(registry: Registry, spec: str) -> Extractor:
    """The extractor of a spec by whose rows images are compared."""
    roles = registry.extractors_of(spec)
    for role in COMPARED:
        if role in roles:
            return roles[role]
    raise InputError(f"extractor {spec!r}: reads {', '.join(roles)}; expected one of {', '.join(COMPARED)}")


def images_at(data: ImageData, size: str | None, samples: int | None) -> Images:
    """The first images of a data set, or all, at a size; by default as they are, which is refused if they differ."""
    if not len(data):
        raise InputError(f"reference {data.name}: no images in it")
    channels, height, width = data.image(0).shape
    if size is not None:
        width, height = parse_size(size)
    return Images(data, (channels, height, width), samples, as_they_are=size is None)


# ---- Files ----


@dataclass(frozen=True)
class ReferenceFile:
    """A file of rows or of moments, whole and fit for images of this shape, or it is refused here."""

    path: Path
    shape: Shape

    def __post_init__(self) -> None:
        """Read it once before anything is written."""
        content, about = self._content()[0], self._about
        _, height, width = self.shape
        if about and about.size != f"{width}x{height}":
            raise ModelError(
                f"reference {self.path}: made at {about.size}, this run makes images of {width}x{height}; make it anew "
                f"with --size {width}x{height}"
            )
        if isinstance(content, np.ndarray) and (about is None or len(content) != about.samples):
            raise ModelError(f"reference {self.path}: {len(content)} rows, not what it says; make it anew")

    @property
    def note(self) -> str:
        """What it says of itself."""
        about = self._about
        if about is None:
            return f"compared with {self.path.name}, {ELSEWHERE}"
        return note_on(f"{about.samples:,} images of {about.data} at {about.size}", about.notes)

    def fingerprint(self, extractor: Extractor) -> str:
        """Hash of the file; ModelError if another extractor made it."""
        about = self._about
        if about and about.extractor_hash != extractor.fingerprint:
            raise ModelError(
                f"reference {self.path}: made by {about.extractor} ({about.extractor_hash[:12]}), this run reads "
                f"{extractor.label} ({extractor.fingerprint[:12]}); make it anew, or give --extractor"
            )
        return file_hash(self.path)

    def read(self, extractor: Extractor) -> Rows | Moments:
        """What is in it, of the width of the extractor's rows."""
        content, about = self._content()
        width = content.mean.size if isinstance(content, Moments) else content.shape[1]
        if about is None and (own := width_of(extractor, self.shape)) != width:
            raise ModelError(
                f"reference {self.path}: of {width} features, and which extractor made it is not recorded; "
                f"{extractor.label} has {own}; give the extractor that made it, or images"
            )
        return content

    @cached_property
    def _about(self) -> About | None:
        return self._content()[1]

    def _content(self) -> tuple[Rows | Moments, About | None]:
        if self.path.suffix.lower() == ROWS_SUFFIX:
            return read_rows(self.path)
        return read_moments(self.path)


def width_of(extractor: Extractor, shape: Shape) -> int:
    """How many numbers an extractor says of an image."""
    blank = torch.zeros(1, *shape, dtype=torch.uint8)
    return int(np.asarray(extractor.extract(blank, [""])).shape[1])


def read_rows(path: Path) -> tuple[Rows, About]:
    """What `samplerbench reference -o FILE.safetensors` wrote."""
    check_regular(path)
    try:
        with safe_open(path, "np") as file:
            texts, names = file.metadata() or {}, set(file.keys())
            rows: Rows = file.get_tensor(ROWS) if names == {ROWS} else np.empty(0, dtype=np.float32)
    except Exception as error:  # a stranger's bytes may end in any exception of the reader
        raise ModelError(f"reference {path}: is damaged or no safetensors file ({one_line(error)})") from error
    about = about_of(texts, path)
    if about is None or rows.ndim != 2:  # noqa: PLR2004  (rows and columns)
        raise ModelError(f"reference {path}: not what `samplerbench reference -o FILE{ROWS_SUFFIX}` writes")
    if rows.dtype != np.float32 or not bool(np.isfinite(rows).all()):
        raise ModelError(f"reference {path}: rows that are no finite numbers of float32; make it anew")
    return rows, about


def is_moments(path: Path) -> bool:
    """Whether a file is an .npz of mu and sigma, and not of images."""
    if path.suffix.lower() != MOMENTS_SUFFIX or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return {f"{MEAN}.npy", f"{COVARIANCE}.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return False


def read_moments(path: Path) -> tuple[Moments, About | None]:
    """Mean and covariance of an .npz, with what it says of itself, if it does."""
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            mean = numbers_in(archive, MEAN, 1)
            covariance = numbers_in(archive, COVARIANCE, 2)
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            facts = [name for name in names if name in About.__dataclass_fields__]
            about = about_of({name: text_in(archive, name) for name in facts}, path)
        return Moments(mean, covariance, about.samples if about else None), about
    except (ModelError, InputError) as error:
        text = str(error)
        raise ModelError(text if text.startswith("reference ") else f"reference {path}: {text}") from error
    except Exception as error:  # as in `read_rows`
        raise ModelError(f"reference {path}: is damaged or no .npz file ({one_line(error)})") from error


def numbers_in(archive: zipfile.ZipFile, name: str, dims: int) -> npt.NDArray[np.float64]:
    """An array of floats of an .npz; what it announces is checked before it is unpacked."""
    shape, dtype, body = member(archive, name, 8 * MOST_COLUMNS**dims)
    if dtype.kind != "f" or len(shape) != dims or not 0 < max(shape, default=0) <= MOST_COLUMNS:
        raise ModelError(f"{name} is {dtype} {shape}; expected floats of {dims} dimensions, up to {MOST_COLUMNS} each")
    if len(body) != dtype.itemsize * int(np.prod(shape)):
        raise ModelError(f"{name} announces {shape} and holds {len(body):,} bytes")
    return np.frombuffer(body, dtype).reshape(shape).astype(np.float64)  # symmetric: either order of memory will do


def text_in(archive: zipfile.ZipFile, name: str) -> str:
    """A text of an .npz, an array of no dimensions."""
    shape, dtype, body = member(archive, name, 4 * MOST_TEXT)
    if dtype.kind != "U" or shape != () or len(body) != dtype.itemsize:
        raise ModelError(f"{name} is {dtype} {shape}; expected a text")
    return str(np.frombuffer(body, dtype)[0]) if body else ""


def member(archive: zipfile.ZipFile, name: str, most: int) -> tuple[tuple[int, ...], np.dtype[Any], bytes]:
    """(shape, type, bytes) of an array of an .npz; ModelError if it is longer than it may be, or holds objects."""
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > most + MOST_HEADER:
        raise ModelError(f"{name} announces {info.file_size:,} bytes; expected at most {most:,}")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise ModelError(f"{name} is of version {version} of its format; expected 1.0 or 2.0")
        shape, _, dtype = read[version](file)
        if dtype.hasobject:
            raise ModelError(f"{name} holds Python objects, which are never read; expected numbers")
        return shape, dtype, file.read()


def exported(rows: Rows, about: About, suffix: str) -> bytes:
    """A file of rows (.safetensors), or of their mean and covariance (.npz), with what identifies them."""
    if suffix == ROWS_SUFFIX:
        return save({ROWS: rows}, about.as_texts())
    if len(rows) < 2:  # noqa: PLR2004  (a covariance)
        raise InputError(f"{len(rows)} image: has no covariance; expected at least 2")
    exact = rows.astype(np.float64)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.array(text) for name, text in about.as_texts().items()}
    arrays |= {MEAN: exact.mean(0), COVARIANCE: np.atleast_2d(np.cov(exact, rowvar=False))}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def export(rows: Rows, about: About, path: Path) -> None:
    """Write rows, or their moments, as the file's suffix says."""
    try:
        make_folder(path.parent)
        write_beside_others(path, exported(rows, about, check_suffix(path)))
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error


def check_suffix(path: Path) -> str:
    """The suffix of a file that can be written; InputError for another."""
    suffix = path.suffix.lower()
    if suffix not in (MOMENTS_SUFFIX, ROWS_SUFFIX):
        raise InputError(
            f"output {path}: expected FILE{MOMENTS_SUFFIX} for mean and covariance, or FILE{ROWS_SUFFIX} for the rows"
        )
    return suffix


def one_line(error: BaseException) -> str:
    """Another library's exception, short and in one line."""
    return " ".join(told(error).split())[:200]

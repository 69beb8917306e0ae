"""What generated images are compared with: rows of real images, extracted once and kept, or a file of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
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

from ...samplers.errors import InputError, ModelError
from ...samplers.extractor import Extractor
from ...samplers.files.atomic import make_folder, write_beside_others
from ...samplers.files.images import crop, to_channels
from ...samplers.image_data import ImageData, check_count, image_of
from ...samplers.metric import Moments, Rows
from ...samplers.model import parse_size
from ...samplers.options import at_fault
from ...samplers.process import switches
from ...samplers.registry import Registry
from ...samplers.text import count_of
from .environment import version_of
from .keys import digest, text_of
from .reference_file import (
    MOMENTS_SUFFIX,
    ROWS,
    ROWS_SUFFIX,
    About,
    Shape,
    is_moments,
    note_on,
    reference_file,
)

BLOCK = 64
"""Images that are extracted at a time."""
DECIDING = ("samplerbench", "torch", "pillow", "torch-fidelity", "transformers")
"""Packages whose version may change the last digits of a row."""
COMPARED = ("features", "clip_image", "state")
"""The roles whose rows metrics compare; of an extractor, the first that it fills."""
Report = Callable[[int, int], None]
"""Called with (images done, all images)."""


class Source(Protocol):
    """Where a reference comes from."""

    @property
    def note(self) -> str:
        """What a reader of numbers that it gives must know."""
        ...

    def fingerprint(self, extractor: Extractor) -> str:
        """Hash that identifies the extractor's rows for it, known before they are extracted."""
        ...

    def read(self, extractor: Extractor) -> Rows | Moments:
        """The extractor's rows for it, or their moments."""
        ...


@dataclass(frozen=True)
class Referred:
    """The reference of an extractor that comes from a source."""

    extractor: Extractor
    """The extractor without this reference."""
    source: Source

    def __call__(self) -> Rows | Moments:
        """The rows, or their moments."""
        return self.source.read(self.extractor)


def referring(extractor: Extractor, source: Source) -> Extractor:
    """The extractor with a source in place of its own reference."""
    # A second reference takes the place of the first, whose note and hash must go with it.
    bare = without_reference(extractor)
    notes = [note for note in (bare.note, source.note) if note]
    fingerprint = hashlib.sha256(f"{bare.fingerprint} {source.fingerprint(bare)}".encode()).hexdigest()
    return replace(bare, reference=Referred(bare, source), note="; ".join(notes), fingerprint=fingerprint)


def without_reference(extractor: Extractor) -> Extractor:
    """The extractor as it was before `referring`."""
    return extractor.reference.extractor if isinstance(extractor.reference, Referred) else extractor


def source_of(spec: str, shape: Shape, registry: Registry) -> Source:
    """The source for images of this shape that a folder, a file or the name of a data set describes."""
    path = Path(spec)
    # A file name that was mistyped is no name of a data set.
    if path.suffix.lower() in (MOMENTS_SUFFIX, ROWS_SUFFIX) and not path.exists():
        raise ModelError(f"reference {spec!r}: no such file")
    if path.suffix.lower() == ROWS_SUFFIX or is_moments(path):
        return reference_file(path, shape)
    return Images(data_of(spec, registry), shape)


def data_of(spec: str, registry: Registry, called: str = "reference") -> ImageData:
    """The images that a folder, a file or the name of a data set describes; errors call them as `called` says."""
    if spec.partition(":")[0] not in registry.data.things and not Path(spec).exists():
        names = ", ".join(sorted(registry.data.things))
        raise InputError(f"{called} {spec!r}: no such file or folder, and no data set of that name; there are: {names}")
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
    """Whether an image of another size is refused, instead of cropped and resized."""
    called: str = "reference"
    """What errors call them."""

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
    def told(self) -> str:
        """ "40 images of photos at 32x32"."""
        _, height, width = self.shape
        return f"{count_of(self.count, 'image')} of {self.data.name} at {width}x{height}"

    @property
    def note(self) -> str:
        """The data set, the number of images, and the notes of the data set."""
        return note_on(self.told, self.data.notes)

    def fingerprint(self, extractor: Extractor) -> str:
        """Hash of extractor, images, size and number."""
        return self.about(extractor).key

    def read(self, extractor: Extractor) -> Rows:
        """The rows, with a bar on a terminal while they are extracted."""
        with bar_on_terminal(f"reference {self.data.name}") as report:
            return self.rows(extractor, report)

    def rows(self, extractor: Extractor, report: Report) -> Rows:
        """The rows (n, d), from the cache or extracted; they are cached if the extractor has a fingerprint."""
        about = self.about(extractor)
        # The name holds all that rows depend on: images, extractor, versions, switches. Nothing else has to be checked.
        path = references_folder() / f"{about.key}-{conditions_hash(extractor)}{ROWS_SUFFIX}"
        if extractor.fingerprint and (kept := kept_rows(path, about)) is not None:
            return kept
        rows = self._extract(extractor, report)
        if extractor.fingerprint:
            with suppress(OSError):  # a cache that cannot be written makes a run slower, not wrong
                make_folder(path.parent)
                write_beside_others(path, save({ROWS: rows}, about.as_texts()))
        return rows

    def _extract(self, extractor: Extractor, report: Report) -> Rows:
        blocks = []
        for numbers, images in self.blocks():
            what = f"extractor {extractor.label}, reference {self.data.name}"
            with at_fault(what):
                # Extractors of prompts get empty ones: rows that are compared depend on images only.
                rows = np.asarray(extractor.extract(images, [""] * len(images)), dtype=np.float32)
            check_extract(rows, numbers, what)
            blocks.append(rows)
            report(numbers.stop, self.count)
        if not blocks:
            raise InputError(f"reference {self.data.name}: no images in it")
        return np.concatenate(blocks)

    def blocks(self) -> Iterator[tuple[range, Tensor]]:
        """The images in blocks, uint8 (n, *shape), each with the numbers of its images."""
        for first in range(0, self.count, BLOCK):
            numbers = range(first, min(first + BLOCK, self.count))
            yield numbers, torch.stack([self._image(i) for i in numbers])

    def _image(self, i: int) -> Tensor:
        """Image i, cropped at its centre and resized by PIL's bicubic filter; grey or colour as the shape is."""
        image = image_of(self.data, i)
        channels, *size = self.shape
        if self.as_they_are and list(image.shape[1:]) != size:
            found, first = (f"{width}x{height}" for height, width in (image.shape[1:], size))
            raise InputError(
                f"{self.called} {self.data.name}: image {i} is {found}, the first {first}; expected one size, or --size"
            )
        return to_channels(crop(image, (size[0], size[1])), channels)


def check_extract(rows: npt.NDArray[Any], numbers: range, what: str) -> None:
    """Refuse rows that are no finite numbers, one for each image; the error names the image."""
    if rows.ndim != 2 or len(rows) != len(numbers):  # noqa: PLR2004  (rows and columns)
        raise InputError(f"{what}: returned shape {rows.shape}; expected ({len(numbers)}, d)")
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        raise ModelError(f"{what}: returned NaN or infinity for image {numbers[int(finite.argmin())]}")


def references_folder() -> Path:
    """Where rows of references are kept."""
    return Path.home() / ".cache" / "samplerbench" / "references"


def conditions_hash(extractor: Extractor) -> str:
    """Hash of what else decides rows: versions, the code of a plugin's extractor, switches of torch. If any of these
    changes, the rows are extracted again."""
    versions = [version_of(package) for package in DECIDING]
    return digest([versions, text_of(extractor.extract), switches()])[:8]


def kept_rows(path: Path, about: About) -> Rows | None:
    """The rows in a file; None if it is damaged or missing, and must be made again."""
    try:
        with safe_open(path, "np") as file:
            # The file may be damaged or edited, so what it says of itself has to agree.
            if file.metadata() != about.as_texts():
                return None
            rows: Rows = file.get_tensor(ROWS)
    except Exception:  # a damaged file may end in any exception of its reader
        return None
    # As if it came from a stranger: rows that are cut off or not finite are made again.
    is_whole = rows.dtype == np.float32 and rows.ndim == 2 and len(rows) == about.samples  # noqa: PLR2004
    return rows if is_whole and bool(np.isfinite(rows).all()) else None


@contextmanager
def bar_on_terminal(what: str) -> Iterator[Report]:
    """A bar on standard error while images are extracted, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        # How many images there are is known only when the first block is done.
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


def images_at(data: ImageData, size: str | None, samples: int | None, called: str = "reference") -> Images:
    """The first images of a data set, or all, at a size; by default as they are, which is refused if they differ."""
    if not len(data):
        raise InputError(f"{called} {data.name}: no images in it")
    # The first image stands for all; one of another size is refused when it is read.
    channels, height, width = image_of(data, 0).shape
    if size is not None:
        width, height = parse_size(size)
    return Images(data, (channels, height, width), samples, as_they_are=size is None, called=called)

"""Tar archives of images, as webdataset writes them: one file, a folder of them, or shards/train-*.

Members that share the name up to the first dot are one sample: cat.jpg, cat.txt. Its image is the member with the
suffix of an image; its caption is the text of .txt, or "text" or "caption" of .json, or what .cls says: the first of
these kinds that there is in the set, and then every sample has it. Members are read where they lie in the archive;
nothing is unpacked to disk, and their names never become paths. Members whose name begins with a dot are left out.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...samplers.errors import ModelError
from ...samplers.files.images import MOST_BYTES, SUFFIXES
from ...samplers.files.weights import kind_of
from ...samplers.image_data import ImageData, ImageDataFactory
from ...samplers.plugin import hookimpl
from .captions import TEXT_COLUMNS, one_line, some_of
from .encoded import EncodedImages
from .names import portable
from .shards import are_shards, name_of, shards

SUFFIX = ".tar"
CAPTIONS = ("txt", "json", "cls")
MOST_HEADER = 2**16
"""Most bytes of the headers before a member; an archive that announces more is damaged."""
MOST_IDLE, MOST_OF_IMAGE = 10_000, 32
"""Members of an archive, beside this number for each image in it: even headers are read slowly."""
MOST_TEXT = 2**20
"""Most bytes of a member with a caption."""
END = bytes(tarfile.BLOCKSIZE)
COMPRESSED = rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd"
NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
"""Sample and kind of a member."""


class Member(NamedTuple):
    """The place of a member's bytes."""

    path: Path
    start: int
    size: int

    def read(self, what: str, most: int) -> bytes:
        """The bytes; ModelError if they are too many or not all there."""
        if self.size > most:
            raise ModelError(f"{what}: {self.size:,} bytes; expected at most {most:,}")
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                data = file.read(self.size)
        except OSError as error:
            raise ModelError(f"{what}: cannot be read ({error.strerror})") from error
        if len(data) < self.size:
            raise ModelError(f"{what}: is cut short; fetch the file again")
        return data


class TarImages(EncodedImages):
    """The images in some archives."""

    def __init__(self, name: str, files: Sequence[Path]) -> None:
        samples: dict[str, dict[str, Member]] = {}
        for path in files:
            samples |= {f"{portable(path.name)}/{key}": parts for key, parts in samples_of(path).items()}
        with_image = {key: kind for key, parts in samples.items() if (kind := image_kind(parts, key))}
        if not with_image:
            raise ModelError(f"{files[0]}: no image among {len(samples):,} samples; expected {', '.join(SUFFIXES)}")
        self.members = [samples[key][kind] for key, kind in with_image.items()]
        self.suffixes = [f".{kind}" for kind in with_image.values()]
        captions = captions_of([samples[key] for key in with_image], list(with_image))
        super().__init__(name, [f"{key}.{kind}" for key, kind in with_image.items()], captions)

    def read_bytes(self, i: int) -> bytes:
        """The bytes of member i."""
        return self.members[i].read(self.what(i), MOST_BYTES)

    def suffix(self, i: int) -> str:
        """The suffix of member i."""
        return self.suffixes[i]


class Headers(io.FileIO):
    """An archive of which only headers are read, forwards: one that leads further or backwards is damaged."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read that many bytes."""
        if size is None or not 0 <= size <= MOST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size) or b""


def samples_of(path: Path) -> dict[str, dict[str, Member]]:
    """The samples of an archive, in its order: kind -> member."""
    found: dict[str, dict[str, Member]] = {}
    images = 0
    try:
        with Headers(path) as file:
            for count, info in enumerate(_members(file)):
                if count > MOST_IDLE + MOST_OF_IMAGE * images:
                    raise ModelError(
                        f"{path}: {images:,} images among its first {count:,} members; expected one in every "
                        f"{MOST_OF_IMAGE}"
                    )
                if info.isdir() or not (match := NAME.fullmatch(info.name.removeprefix("./"))):
                    continue
                # A link could lead anywhere, and a sparse file be of any size.
                if not info.isreg() or info.issparse():
                    raise ModelError(f"{path}: member {info.name!r} is a link or no plain file; expected files")
                sample, kind = match[1], match[2].lower()
                parts = found.setdefault(sample, {})
                if kind in parts:
                    raise ModelError(f"{path}: member {info.name!r} is there twice; expected every name once")
                parts[kind] = Member(path, info.offset_data, info.size)
                images += f".{kind}" in SUFFIXES
    except ModelError:
        raise
    except Exception as error:  # a stranger's bytes may end in any exception of the reader
        with path.open("rb") as start:
            # Looked at only now: a plain archive is what most files are.
            packed = re.match(COMPRESSED, start.read(8))
        if packed:
            raise ModelError(
                f"{path}: a compressed archive; expected a plain .tar, so unpack it with gunzip"
            ) from error
        raise ModelError(
            f"{path}: looks like {kind_of(path)}; expected a whole tar archive ({error or type(error).__name__}); "
            "fetch it again"
        ) from error
    return found


def _members(file: Headers) -> Iterator[tarfile.TarInfo]:
    """The members of an archive, each behind the one before, up to the end mark."""
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
        end = -1
        while info := archive.next():
            if info.size < 0 or archive.offset <= end:
                raise tarfile.ReadError("a member of a negative size")
            end = archive.offset
            archive.members = []  # type: ignore[attr-defined]  # else every header stays in memory
            yield info
        # Reading ends at the first invalid header; only the end mark says that nothing is missing.
        file.seek(archive.offset)
        if file.read(len(END)) != END:
            raise tarfile.ReadError(f"no end mark at byte {archive.offset}")


def image_kind(parts: Mapping[str, Member], key: str) -> str:
    """The kind of the member that is the image of a sample, '' if it has none."""
    kinds = [kind for kind in parts if f".{kind}" in SUFFIXES]
    if len(kinds) > 1:
        raise ModelError(f"{key}: is there as {' and '.join(kinds)}; expected one image in a sample")
    return kinds[0] if kinds else ""


def captions_of(samples: Sequence[Mapping[str, Member]], keys: Sequence[str]) -> list[str | None]:
    """A caption for each sample, or None for each."""
    for kind in CAPTIONS:
        missing = [key for key, parts in zip(keys, samples, strict=True) if kind not in parts]
        if len(missing) == len(keys):
            continue
        if missing:
            raise ModelError(f"no .{kind} for {some_of(missing, len(keys))}; expected one for each image or none")
        texts = [caption_in(parts[kind], kind, f"{key}.{kind}") for key, parts in zip(keys, samples, strict=True)]
        if kind != "json" or any(text is not None for text in texts):
            return texts
    return [None] * len(keys)


def caption_in(member: Member, kind: str, what: str) -> str | None:
    """The caption that a member holds; None for JSON without one."""
    data = member.read(what, MOST_TEXT)
    try:
        text = data.decode("utf-8-sig")
        if kind != "json":
            return one_line(text, what)
        said = json.loads(text)
        found = [said[name] for name in TEXT_COLUMNS if name in said] if isinstance(said, dict) else []
    except UnicodeDecodeError as error:
        raise ModelError(f"{what}: byte {error.start} is not UTF-8; save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{what}: is no JSON ({error}); expected an object with {' or '.join(TEXT_COLUMNS)}"
        ) from error
    if not found:
        return None
    if not isinstance(found[0], str):
        raise ModelError(f"{what}: its caption is {type(found[0]).__name__}; expected a text")
    return one_line(found[0], what)


class WebDataset:
    """Images in tar archives, as webdataset writes them: webdataset:FILE, a folder, or 'webdataset:FOLDER/train-*'."""

    def __call__(self, argument: str) -> ImageData:
        """The images in the archives that `argument` means."""
        return TarImages(name_of(argument), shards(argument, SUFFIX, "webdataset"))

    def reads(self, path: Path) -> bool:
        """Whether this is a tar archive, or a folder with one in it."""
        return are_shards(path, SUFFIX)


@hookimpl
def samplerbench_data() -> dict[str, ImageDataFactory]:
    """Images in archives."""
    return {"webdataset": WebDataset()}

"""A folder of images: every PNG, JPEG, WebP, BMP and PPM below it, in the byte order of the relative names.

Hidden files and folders (a dot in front) are left out, and so are files that are no images by their suffix. Files of
kinds of image that are not read (GIF, TIFF, AVIF ...) are an error, since a set without them is another set. A link
counts as a file where it leads to a file in the same folder; any other link is an error, for a set without the image or
the captions that it leads to is another set too.
Captions: see `captions`. Modes, transparency, orientation: see `samplers/images.py`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

from ...samplers.errors import ModelError
from ...samplers.files.images import READ, SUFFIXES, file_bytes
from ...samplers.image_data import ImageData, ImageDataFactory
from ...samplers.plugin import hookimpl
from .captions import captions_of
from .encoded import EncodedImages
from .names import byte_order, path_of, portable

UNREAD = (
    ".apng", ".avif", ".dng", ".exr", ".gif", ".hdr", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jxl", ".psd", ".raw",
    ".svg", ".tga", ".tif", ".tiff",
)  # fmt: skip
"""Suffixes of image formats that are refused."""
MOST_DEPTH, MOST_FILES = 64, 5_000_000
PACKED = (".parquet", ".tar")
"""Suffixes of files that hold many images; another reader takes a folder of those."""


class FolderImages(EncodedImages):
    """The images below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = files_below(folder)
        images = [name for name in files if suffix_of(name) in SUFFIXES]
        unread = [name for name in files if suffix_of(name) in UNREAD]
        if unread:
            raise ModelError(
                f"{folder}: {len(unread):,} images of kinds that are not read, such as {unread[0]}; expected {READ}"
            )
        if not images:
            raise ModelError(f"{folder}: no image among its {len(files):,} files; expected {', '.join(SUFFIXES)}")
        others = [name for name in files if suffix_of(name) not in SUFFIXES]
        super().__init__(portable(folder.resolve().name) or "folder", images, captions_of(folder, images, others))

    def read_bytes(self, i: int) -> bytes:
        """The bytes of file i."""
        return file_bytes(path_of(self.folder, self.keys[i]), self.what(i))

    def suffix(self, i: int) -> str:
        """The suffix of file i."""
        return suffix_of(self.keys[i])


def suffix_of(name: str) -> str:
    """The suffix of a file's name, in lower case."""
    return PurePosixPath(name).suffix.lower()


def files_below(folder: Path) -> list[str]:
    """Relative names of the files below a folder, with /, in byte order, whatever the language of the machine."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder")
    found = list(islice(_files_below(folder, folder.resolve(), "", MOST_DEPTH), MOST_FILES + 1))
    if len(found) > MOST_FILES:
        raise ModelError(f"{folder}: more than {MOST_FILES:,} files; expected fewer, so take a part of them")
    return sorted(map(portable, found), key=byte_order)


def _files_below(folder: Path, root: Path, prefix: str, depth: int) -> Iterator[str]:
    if not depth:
        raise ModelError(f"{folder}: folders in folders, more than {MOST_DEPTH} deep; expected fewer")
    try:
        with os.scandir(folder) as found:
            # Listed whole before any folder below is opened: a deep tree would keep a descriptor open for each level.
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in entries:
        name, path = f"{prefix}{entry.name}", Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(path, root, f"{name}/", depth - 1)
        elif entry.is_symlink():
            yield _check_link(path, name, root)
        elif entry.is_file(follow_symlinks=False) or suffix_of(name) in SUFFIXES:  # a pipe is refused when it is read
            yield name


def _check_link(path: Path, name: str, root: Path) -> str:
    """The name of a link; ModelError unless it leads to a file below the root."""
    try:
        # Strict, so that a link to nothing or in a circle raises, and leads nowhere.
        target = path.resolve(strict=True)
        leads_in = target.is_relative_to(root) and stat.S_ISREG(target.stat().st_mode)
    except (OSError, RuntimeError):
        leads_in = False
    if not leads_in:
        raise ModelError(f"{path}: a link that does not lead to a file in this folder; put the files themselves there")
    return name


class Folder:
    """Images below a folder, with captions from a table, text files or class folders: folder:PATH."""

    def __call__(self, argument: str) -> ImageData:
        """The images below the folder `argument`."""
        if not argument:
            raise ModelError("data 'folder': which folder? expected folder:PATH")
        return FolderImages(Path(argument))

    def reads(self, path: Path) -> bool:
        """Whether this is a folder, but not one of files that hold many images."""
        return path.is_dir() and not any(file.suffix.lower() in PACKED for file in path.iterdir())


@hookimpl
def samplerbench_data() -> dict[str, ImageDataFactory]:
    """Images in separate files."""
    return {"folder": Folder()}

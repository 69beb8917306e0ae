"""Images and their captions as a folder of PNG files, which the data `folder` and other tools read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError, StoreError
from .atomic import make_folder, write_atomically
from .tiles import Images, as_picture, png

CAPTIONS_FILE = "metadata.csv"
FILE_COLUMN, TEXT_COLUMN = "file_name", "text"
"""The columns of `CAPTIONS_FILE`."""


def write_images(folder: Path, images: Iterable[tuple[int, Images]], prompts: Sequence[str]) -> int:
    """Write numbered images, 000000.png and so on, into a new or empty folder; returns how many.

    Image i has the caption prompts[i mod len]; with prompts a table of captions is written too. InputError for a folder
    that holds anything, StoreError where the disk refuses.
    """
    check_is_empty(folder)
    captions = io.StringIO()
    table = csv.writer(captions, lineterminator="\n")
    table.writerow([FILE_COLUMN, TEXT_COLUMN])
    written = 0
    try:
        make_folder(folder.absolute())
        for number, image in images:
            name = f"{number:06d}.png"
            write_atomically(folder / name, png(as_picture(image), optimize=False))
            if prompts:
                # White space as one blank: a caption is one line, whatever reads it.
                table.writerow([name, " ".join(prompts[number % len(prompts)].split())])
            written += 1
        if prompts:
            write_atomically(folder / CAPTIONS_FILE, captions.getvalue().encode())
    except OSError as error:
        raise StoreError(f"output {folder}: cannot be written ({error.strerror or error}); give another") from error
    return written


def check_is_empty(folder: Path) -> None:
    """Refuse a folder that holds anything, since a set of images with others among them is another set."""
    try:
        # Any file counts, hidden ones too: the data `folder` would read some and skip others.
        is_free = not any(folder.iterdir())
    except FileNotFoundError:
        is_free = True
    except OSError as error:
        raise InputError(f"output {folder}: {error.strerror or error}; expected a new or empty folder") from error
    if not is_free:
        raise InputError(f"output {folder}: is not empty; expected a new or empty folder")

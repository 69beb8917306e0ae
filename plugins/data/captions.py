"""Where the captions of a folder of images come from; the first of these that is there:

1. `metadata.csv` or `captions.csv` in the folder, with the columns file_name and text (or caption), every image once;
2. a text file beside each image, cat.txt for cat.png;
3. the name of the folder that an image lies in, where there are at least two such names and no image lies outside one;
4. none.

A caption is one line: white space of any kind and length becomes one blank.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ...samplers.errors import ModelError
from ...samplers.files.image_folder import CAPTIONS_FILE, FILE_COLUMN, TEXT_COLUMN
from ...samplers.files.weights import check_size
from .names import path_of

TABLES = (CAPTIONS_FILE, "captions.csv")
UNREAD_TABLE = "metadata.jsonl"
TEXT_COLUMNS = (TEXT_COLUMN, "caption")
LONGEST = 10_000
"""Most characters of a caption."""
MOST_TEXT, MOST_TABLE = 2**20, 2**28
"""Most bytes of a text beside an image, and of a table of captions."""
SHOWN = 3


def captions_of(folder: Path, images: Sequence[str], others: Sequence[str]) -> list[str | None]:
    """A caption for each image, or None for each. `images` and `others` are the relative names of all files."""
    tables = [name for name in TABLES if name in others]
    if len(tables) > 1:
        raise ModelError(f"{folder}: has {' and '.join(tables)}; expected one table of captions")
    if UNREAD_TABLE in others and not tables:
        raise ModelError(f"{folder / UNREAD_TABLE}: is not read; expected {TABLES[0]} with {FILE_COLUMN},text")
    if tables:
        return list(from_table(folder / tables[0], images))
    captions = from_text_files(folder, images, others) or from_class_folders(images)
    return list(captions) if captions else [None] * len(images)


def one_line(text: str, what: str) -> str:
    """A caption in its final form; ModelError if it is empty or far too long."""
    # A caption becomes one line of a file of prompts, so it can hold no line break.
    line = " ".join(text.split())
    if not 0 < len(line) <= LONGEST:
        raise ModelError(f"{what}: a caption of {len(line):,} characters; expected 1 to {LONGEST:,}")
    try:
        # Bytes that are no UTF-8 may have come in as surrogates, which no file takes again.
        line.encode()
    except UnicodeEncodeError as error:
        raise ModelError(f"{what}: a caption that is not UTF-8; expected UTF-8") from error
    return line


def read_text(path: Path, most: int) -> str:
    """The text of a file in UTF-8 of at most `most` bytes, with or without a byte order mark."""
    check_size(path, most)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error


def from_table(path: Path, images: Sequence[str]) -> list[str]:
    """The captions of the images from a table with file_name and text, which must name each image once."""
    reader = csv.DictReader(read_text(path, MOST_TABLE).splitlines(keepends=True), strict=True)
    found: dict[str, str] = {}
    known = set(images)
    try:
        columns = reader.fieldnames or []
        text_columns = [name for name in TEXT_COLUMNS if name in columns]
        if FILE_COLUMN not in columns or len(text_columns) != 1:
            raise ModelError(
                f"{path}: has the columns {', '.join(columns)[:200] or 'none'}; expected {FILE_COLUMN} and one of "
                f"{', '.join(TEXT_COLUMNS)}"
            )
        for row in reader:
            where = f"{path}: line {reader.line_num}"
            name, text = row[FILE_COLUMN], row[text_columns[0]]
            # DictReader puts surplus fields under None, and None into fields that a row lacks.
            if None in row or name is None or text is None:
                raise ModelError(f"{where}: not as many fields as columns; expected {len(columns)}")
            if name not in known:
                raise ModelError(f"{where}: there is no image {name!r}; expected its path from this folder, with /")
            if name in found:
                raise ModelError(f"{where}: {name!r} for the second time; expected every image once")
            found[name] = one_line(text, where)
    except csv.Error as error:
        raise ModelError(f"{path}: line {reader.reader.line_num}: {error}; expected comma-separated values") from error
    if missing := [name for name in images if name not in found]:
        raise ModelError(f"{path}: has no row for {some_of(missing, len(images))}; expected every image once")
    return [found[name] for name in images]


def from_text_files(folder: Path, images: Sequence[str], others: Sequence[str]) -> list[str]:
    """The text beside each image; [] if none has one."""
    there = set(others)
    beside = [str(PurePosixPath(name).with_suffix(".txt")) for name in images]
    missing = [name for name, text in zip(images, beside, strict=True) if text not in there]
    if len(missing) == len(images):
        return []
    if missing:
        some = some_of(missing, len(images))
        raise ModelError(f"{folder}: no .txt beside {some}; expected one for each image or none")
    return [one_line(read_text(path, MOST_TEXT), str(path)) for path in (path_of(folder, text) for text in beside)]


def from_class_folders(images: Sequence[str]) -> list[str]:
    """The name of the folder of each image; [] if the folders are no classes."""
    classes = [PurePosixPath(name).parent.name for name in images]
    if "" in classes or len(set(classes)) < 2:  # noqa: PLR2004  (one class says nothing)
        return []
    return [one_line(name, f"folder {name!r}") for name in classes]


def some_of(names: Sequence[str], total: int) -> str:
    """Some of many names, and how many there are."""
    more = " ..." if len(names) > SHOWN else ""
    return f"{len(names):,} of {total:,} images: {', '.join(names[:SHOWN])}{more}"

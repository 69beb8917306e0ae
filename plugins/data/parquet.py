"""Parquet files with images, as the hub serves data sets: one file, a folder of them, or data/train-*.

The images are the one column that holds image files: structs with a field bytes, or bytes. The captions are the one
column of texts that is called text or caption; without one, the one column whose numbers have class names in the
file's own description of its features, or else the one that is called label. Where that leaves a choice, it is an
error. The columns are held in memory; other columns are not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...samplers.errors import ModelError, in_line
from ...samplers.files.images import MOST_BYTES
from ...samplers.files.weights import MOST_JSON, kind_of
from ...samplers.image_data import ImageData, ImageDataFactory
from ...samplers.plugin import hookimpl
from .captions import one_line
from .encoded import EncodedImages
from .names import portable
from .shards import are_shards, name_of, shards

SUFFIX = ".parquet"
TEXTS = ("text", "caption")
LABEL = "label"
MOST_HELD = 2**33
"""Most unpacked bytes of the columns that are read, over all files."""
MOST_IN_PAGE = 2**31
ROWS_AT_ONCE = MOST_HELD // MOST_IN_PAGE
"""A value lies in one page, and rows may share it: this many are no more than may be held, before they are counted."""
MOST_COLUMNS, MOST_GROUPS = 10_000, 100_000
SMALLEST, SHARED, FEWEST_SHARED = 64, 4, 10_000
"""Bytes of the smallest image file, how many rows may share one, and rows that may in any file."""
HELD_A_ROW = 256
"""Bytes of a row's key, place and caption, in addition to its columns."""


class ParquetImages(EncodedImages):
    """The images in some files with the same columns."""

    def __init__(self, name: str, files: Sequence[Path]) -> None:
        self.columns: list[Any] = []
        self.places: list[tuple[int, int]] = []
        keys: list[str] = []
        captions: list[str | None] = []
        held = 0
        for path in files:
            rows = 0
            for images, texts, size in _batches_of(path, MOST_HELD - held):
                held += size
                check_held(held, f"{path}: its columns and those before it")
                self.places += [(len(self.columns), place) for place in range(len(images))]
                self.columns.append(images)
                keys += [f"{portable(path.name)} row {row}" for row in range(rows, rows + len(images))]
                captions += texts
                rows += len(images)
        if not keys:
            raise ModelError(f"{files[0]}: no rows; expected images")
        super().__init__(name, keys, captions)

    def read_bytes(self, i: int) -> bytes:
        """The bytes in row i."""
        batch, place = self.places[i]
        data: bytes | None = self.columns[batch][place].as_py()
        if data is None or len(data) > MOST_BYTES:
            size = "no bytes" if data is None else f"{len(data):,} bytes"
            raise ModelError(f"{self.what(i)}: {size}; expected an image file of at most {MOST_BYTES:,} in each row")
        return data


def _batches_of(path: Path, left: int) -> Iterator[tuple[Any, list[str | None], int]]:
    """The bytes and captions of a few rows of a file at a time, and the memory that they need; so much is left."""
    try:
        from pyarrow.compute import struct_field
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ModelError("data 'parquet': pyarrow is missing; pip install 'samplerbench[parquet]'") from error
    try:
        with ParquetFile(path, page_checksum_verification=True) as file:
            check_counts(file.metadata, path)
            image, field = image_column(file.schema_arrow, path)
            label, classes = caption_column(file.schema_arrow, path)
            leaves = [f"{image}.{field}" if field else image, *([label] if label else [])]
            # By what the file announces, before anything is read; what is read is then counted again.
            held = HELD_A_ROW * file.metadata.num_rows + _unpacked_size(file.metadata, leaves)
            check_held(MOST_HELD - left + held, f"{path}: {', '.join(leaves)}")
            rows = 0
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=leaves):
                images = struct_field(batch[image], field) if field else batch[image]
                if images.null_count:
                    row = rows + images.is_null().index(True).as_py()
                    raise ModelError(f"{path} row {row}: no bytes; expected an image file in each row")
                values = batch[label].to_pylist() if label else [None] * len(batch)
                texts = [caption_of(v, classes, f"{path}: row {rows + k}, {label}") for k, v in enumerate(values)]
                rows += len(batch)
                yield images, texts, batch.nbytes + HELD_A_ROW * len(batch)
    except ModelError:
        raise
    except Exception as error:  # a stranger's bytes may end in any exception of the reader
        raise ModelError(f"{path}: looks like {kind_of(path)}; expected a Parquet file ({in_line(error)})") from error


def check_counts(metadata: Any, path: Path) -> None:
    """Refuse a file whose parts would be counted for long, or whose rows are more than it has room for."""
    for what, count, most in (
        ("columns", metadata.num_columns, MOST_COLUMNS),
        ("groups of rows", metadata.num_row_groups, MOST_GROUPS),
        ("rows", metadata.num_rows, FEWEST_SHARED + SHARED * path.stat().st_size // SMALLEST),
    ):
        if count > most:
            raise ModelError(f"{path}: {count:,} {what}; expected at most {most:,} in a file of its size")


def check_held(size: int, what: str) -> None:
    """ModelError for more than may be held in memory."""
    if size > MOST_HELD:
        raise ModelError(
            f"{what} are {size:,} bytes; expected at most {MOST_HELD:,} over all files, so take fewer of them, or a "
            "webdataset"
        )


def image_column(schema: Any, path: Path) -> tuple[str, str]:
    """Name of the column of image files, and of the field of its structs that holds the bytes ('' = no structs)."""
    import pyarrow.types as kinds

    def holds_bytes(kind: Any) -> bool:
        return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind))

    structs = [c.name for c in schema if kinds.is_struct(c.type) and any(
        f.name == "bytes" and holds_bytes(f.type) for f in c.type)]  # fmt: skip
    found = structs or [c.name for c in schema if holds_bytes(c.type)]
    if len(found) != 1:
        raise ModelError(
            f"{path}: {len(found)} columns hold image files; expected one, of structs with bytes or of bytes; there "
            f"are: {describe_columns(schema)}"
        )
    return found[0], "bytes" if structs else ""


def caption_column(schema: Any, path: Path) -> tuple[str, Sequence[str]]:
    """Name of the column of captions ('' = none), and the names of its classes ([] = it holds what it says)."""
    import pyarrow.types as kinds

    # Texts before classes: a set with both has captions, and classes beside them.
    texts = [c.name for c in schema if c.name in TEXTS]
    classes = class_names(schema)
    found = texts or [name for name in classes if name in schema.names]
    found = found or [c.name for c in schema if c.name == LABEL]
    if LABEL in found:
        found = [LABEL]
    if len(found) > 1:
        raise ModelError(
            f"{path}: {', '.join(found)} may be the captions; expected one of them; write a file without the others"
        )
    if not found:
        return "", []
    kind = schema.field(found[0]).type
    if not (kinds.is_string(kind) or kinds.is_large_string(kind) or (found != texts and kinds.is_integer(kind))):
        raise ModelError(f"{path}: column {found[0]} holds {kind}; expected texts, or numbers of classes")
    return found[0], classes.get(found[0], [])


def class_names(schema: Any) -> Mapping[str, Sequence[str]]:
    """The columns of classes and their names, as the hub's library describes its features in the file."""
    try:
        said = (schema.metadata or {})[b"huggingface"]
        features = json.loads(said if len(said) <= MOST_JSON else b"{}")["info"]["features"]
        return {
            name: [str(text) for text in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return {}


def caption_of(value: Any, classes: Sequence[str], what: str) -> str | None:
    """The caption for a text or a class number; None without one, which is -1 among class numbers."""
    if value is None or (classes and value == -1):
        return None
    if classes and not 0 <= value < len(classes):
        raise ModelError(f"{what}: class {value}; expected 0 to {len(classes) - 1}")
    return one_line(classes[value] if classes else str(value), what)


def describe_columns(schema: Any) -> str:
    """The columns with their types, on one line."""
    return ", ".join(f"{column.name} ({column.type})" for column in schema)[:300] or "none"


def _unpacked_size(metadata: Any, leaves: Sequence[str]) -> int:
    """Bytes that some columns have at least when they are unpacked, as the file's directory says; values that rows
    share are in it once."""
    places = [c for c in range(metadata.num_columns) if metadata.schema.column(c).path in leaves]
    groups = (metadata.row_group(g) for g in range(metadata.num_row_groups))
    return sum(group.column(c).total_uncompressed_size for group in groups for c in places)


class Parquet:
    """Images in Parquet files, as the hub serves data sets: parquet:FILE, a folder, or 'parquet:FOLDER/train-*'."""

    def __call__(self, argument: str) -> ImageData:
        """The images in the files that `argument` means."""
        return ParquetImages(name_of(argument), shards(argument, SUFFIX, "parquet"))

    def reads(self, path: Path) -> bool:
        """Whether this is a Parquet file, or a folder with one in it."""
        return are_shards(path, SUFFIX)


@hookimpl
def samplerbench_data() -> dict[str, ImageDataFactory]:
    """Images in tables."""
    return {"parquet": Parquet()}

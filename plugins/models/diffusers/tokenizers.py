"""Folders of tokenizers: checked before transformers reads them, which is given them without byte order marks.

Of a tokenizer.json the library takes only the words for the classes that are used here, not its rules.
"""

from __future__ import annotations

import shutil
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ....samplers.errors import ModelError
from ....samplers.files.weights import check_size, read_json
from .folder import WORDS, short

FILES = (
    "added_tokens.json", "merges.txt", "special_tokens_map.json", "spiece.model", "tokenizer.json", WORDS, "vocab.json",
)  # fmt: skip
"""All that is read."""
BINARY = ("spiece.model",)
MOST_BYTES = 2**24
"""The largest size of a file."""
MOST_ADDED = 4096
"""Tokens that a config adds to the words, one by one or as a number."""
KNOWN = "known_words"
"""The entry of a config in which `samplerbench train` lists the words of its captions."""
LENGTH = "model_max_length"
"""The one number of a config that may be of any size: very many stands for any length."""


def files_in(folder: Path) -> list[Path]:
    """The files of a tokenizer that are there; ModelError for one that is too large, or asks for too many tokens."""
    there = [file for name in FILES if (file := folder / name).exists()]
    for file in there:
        check_size(file, MOST_BYTES)
        if file.name in (WORDS, "added_tokens.json", "special_tokens_map.json"):
            _check_added({key: value for key, value in read_json(file).items() if key != LENGTH}, file)
    return there


def _check_added(value: Any, file: Path) -> None:
    """ModelError for a number above MOST_ADDED, and for a list or an object of more entries."""
    numbers_of_tokens = file.name == "added_tokens.json"  # token -> its place among all
    if isinstance(value, dict | list):
        if len(value) > MOST_ADDED:
            raise ModelError(f"{file}: adds {len(value):,} tokens; expected at most {MOST_ADDED}")
        for item in value.values() if isinstance(value, dict) else value:
            _check_added(item, file)
    elif isinstance(value, int | float) and not numbers_of_tokens and not abs(value) <= MOST_ADDED:
        raise ModelError(f"{file}: {short(value)} of something; expected at most {MOST_ADDED}")


@contextmanager
def readable(folder: Path) -> Iterator[Path]:
    """A folder that holds the files of a tokenizer as the library reads them: the folder itself, or a copy of them.

    ModelError as of `files_in`.
    """
    files = files_in(folder)
    # The library reads plain UTF-8, in which a byte order mark is a character of the text.
    marked = {file for file in files if file.name not in BINARY and _begins_with_a_mark(file)}
    # Most folders have no mark, and are read in place.
    if not marked:
        yield folder
        return
    with TemporaryDirectory() as copy:
        for file in files:
            if file in marked:
                (Path(copy) / file.name).write_bytes(file.read_bytes().removeprefix(BOM_UTF8))
            else:
                shutil.copyfile(file, Path(copy) / file.name)
        yield Path(copy)


def _begins_with_a_mark(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(BOM_UTF8)) == BOM_UTF8


def longest_of(tokenizer: Any, folder: Path) -> float:
    """Tokens of the longest text that a tokenizer is for; ModelError unless that is at least one."""
    most = tokenizer.model_max_length
    # Written so that NaN, which compares with nothing, is refused too.
    if isinstance(most, bool) or not isinstance(most, int | float) or not most >= 1:
        raise ModelError(f"{folder / WORDS}: {LENGTH} {short(most)}: expected a number of tokens, at least 1")
    return most

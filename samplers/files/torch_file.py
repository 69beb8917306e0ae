"""Files that torch.save wrote: tensors, numbers and texts, inspected before torch reads them.

torch reads them without executing anything (`weights_only`), but a small file may still ask for any amount of memory: a
member that is compressed a thousandfold, an array of bytes of any length, a tensor that repeats one number.
"""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from .zip_file import open_zip

MOST_MEMBERS = 20_000
MOST_PROGRAM = 2**21
"""Most bytes of the pickle that says how the tensors are put together."""
PROGRAMS = 5
"""Pickles in a file from before torch 1.6: three numbers of its format, the content, and which tensors follow."""
ROOM = 2
"""Tensors may take this many times the size of the file: it stores shared parameters once."""
MEMBER = "data.pkl"
TENSORS = re.compile(
    r"collections OrderedDict|torch \w+|torch\.storage \w+|torch\._utils _rebuild_(tensor(_v\d)?|parameter)"
    r"|torch\.nn\.parameter Parameter"
)
"""Python names that a dict of tensors needs; others that torch allows turn a number into memory."""


def read_torch_file(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read what torch.save wrote, with its tensors on `device`; nothing in the file is executed.

    ValueError if it holds more than tensors, numbers and texts, or asks for far more memory than it has bytes; else
    whatever the reader raises.
    """
    size = path.stat().st_size
    # torch's own check (weights_only) comes second: it runs the pickle's program, while this reads its opcodes only.
    for name in _names(path, size):
        if not TENSORS.fullmatch(name):
            raise ValueError("the file holds more than tensors and numbers; it was not read")
    with warnings.catch_warnings(action="ignore"):
        content = torch.load(path, weights_only=True, map_location=device)
    # A tensor may repeat one stored number by strides of 0, so sizes are counted, not storage.
    held = 0
    for tensor in _tensors(content):
        held += tensor.numel() * tensor.element_size()
        if held > ROOM * size:
            raise ValueError(f"tensors of at least {held:,} bytes in a file of {size:,}")
    return content


def _names(path: Path, size: int) -> Iterator[str]:
    """The Python names that a file refers to; ValueError for an archive that unpacks to much more than its size."""
    # Before version 1.6 torch wrote several pickles one after the other.
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            for _ in range(PROGRAMS):
                yield from _names_in(file)
        return
    with open_zip(path, MOST_MEMBERS) as archive:
        members = archive.infolist()
        if (unpacked := sum(member.file_size for member in members)) > ROOM * size:
            raise ValueError(f"an archive of {size:,} bytes that unpacks to {unpacked:,}")
        for member in members:
            if member.filename.endswith(MEMBER):
                if member.file_size > MOST_PROGRAM:
                    raise ValueError(f"{MEMBER} of {member.file_size:,} bytes, where at most {MOST_PROGRAM:,} are read")
                with archive.open(member) as file:
                    yield from _names_in(file)


def _names_in(file: IO[bytes]) -> Iterator[str]:
    """The names in the pickle that begins here; it is parsed, not executed."""
    for opcode, argument, place in pickletools.genops(file):
        if (place or 0) > MOST_PROGRAM:
            raise ValueError(f"a pickle of more than {MOST_PROGRAM:,} bytes")
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif opcode.name == "STACK_GLOBAL":
            yield opcode.name  # the name is known only at run time, so it is refused


def _tensors(content: object) -> Iterator[Tensor]:
    """All tensors inside a value, however deeply nested, repeated ones included; each container is visited once."""
    # A list in place of recursion, because a stranger's lists may be nested deeper than Python can recurse.
    left, seen = [content], set()
    while left:
        thing = left.pop()
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, Mapping | list | tuple) and id(thing) not in seen:
            seen.add(id(thing))
            left.extend(thing.values() if isinstance(thing, Mapping) else thing)

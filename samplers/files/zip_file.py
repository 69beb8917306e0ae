"""Zip archives of strangers: the announced number of members is checked before their list is read."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

END = struct.Struct("<4s4xHHLLH")
"""The end of the central directory: its mark, (disks,) members here, members, bytes, offset, length of the comment."""
END_MARK, LOCATOR_MARK, LARGE_MARK = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
LONGEST_COMMENT = 2**16
LOCATOR = struct.Struct("<4s4xQ4x")
LARGE_END = struct.Struct("<4s20x8xQ")
"""The end in Zip64: its mark and, after skipped bytes, its number of members."""
FULL = 0xFFFF
"""The number of members by which the end refers to the Zip64 end, which holds the real one."""


@contextmanager
def open_zip(path: Path, most: int) -> Iterator[zipfile.ZipFile]:
    """Open an archive with at most `most` members; ValueError for more, before their list is made."""
    if (members := members_of(path)) > most:
        raise ValueError(f"an archive of {members:,} members, where at most {most:,} are read")
    with zipfile.ZipFile(path) as archive:
        yield archive


def members_of(path: Path) -> int:
    """How many members an archive announces; 0 for a file that is no archive."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        # The end stands last, before a comment of at most 64 KiB.
        start = max(size - END.size - LONGEST_COMMENT, 0)
        file.seek(start)
        tail = file.read()
        place = tail.rfind(END_MARK)
        if place < 0 or place + END.size > len(tail):
            return 0
        members: int = END.unpack_from(tail, place)[2]
        if members < FULL or place < LOCATOR.size:
            return members
        # A count of 0xFFFF refers to the Zip64 end, whose place the locator before this end tells.
        mark, offset = LOCATOR.unpack_from(tail, place - LOCATOR.size)
        # Without a locator the archive has exactly 65,535 members, which needs no Zip64.
        if mark != LOCATOR_MARK or offset > size:
            return members
        file.seek(offset)
        end = file.read(LARGE_END.size)
        if len(end) < LARGE_END.size or not end.startswith(LARGE_MARK):
            return members
        return int(LARGE_END.unpack(end)[1])

"""Count the parts of an image file before Pillow reads them: a few megabytes may hold a million parts.

Pillow limits the size to which the parts unpack, but not their number.
"""

from __future__ import annotations

import re

import numpy as np

MOST_CHUNKS = 65_536
"""Most chunks of a PNG: a quarter of a gigabyte in parts of 4 KB."""
MOST_SEGMENTS = 4096
"""Most segments of a JPEG, including scans."""
MOST_SCANS = 100
"""Most scans of a JPEG, each of which is a pass over the whole image; progressive files have about ten."""
MOST_FILL = 64
"""Fewest bytes of 255 before a marker of a JPEG that are refused."""
LONGEST_HEADER = 4096
"""Most bytes of a PPM before its pixels, including comments."""
MOST_COMMENTS = 64
"""Most comments among the numbers of a PPM in text form."""
PLAIN = b"123"
"""Kinds of PPM in text form."""
SIZES = {b"1": 2, b"4": 2}
"""Kind of bitmap -> numbers in its header; all other kinds of PPM have three, with the brightest level."""
PNG_START, CHUNK = 8, 12
"""Bytes of the signature, and of a chunk without its content."""
SEGMENT = re.compile(rb"\xff+([\x01-\xfe])")
NEXT = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""The marker after the data of a scan. Inside, a byte of 255 is followed by 0, and restart markers may occur."""
SCAN, END = 0xDA, 0xD9
ALONE = (0x01, *range(0xD0, 0xD9))
"""Markers of a JPEG without content."""
NUMBER = re.compile(rb"(?:\s|#[^\n\r]*[\n\r])*([0-9]+)")


def fault_of_png(data: bytes) -> str:
    """Why a PNG is refused for its chunks; '' if it is not, also if a reader will find it damaged."""
    # Each chunk begins with its length, so counting reads 4 bytes of each.
    place = PNG_START
    for _ in range(MOST_CHUNKS):
        if place + CHUNK > len(data):
            return ""
        place += CHUNK + int.from_bytes(data[place : place + 4], "big")
    return f"more than {MOST_CHUNKS:,} chunks"


def fault_of_jpeg(data: bytes) -> str:
    """Why a JPEG is refused for its segments; '' as for a PNG."""
    place, scans = 2, 0
    for _ in range(MOST_SEGMENTS):
        # Any number of bytes of 255 may stand before a marker, and Pillow reads them one by one.
        if data[place : place + MOST_FILL] == b"\xff" * MOST_FILL:
            return f"{MOST_FILL} bytes or more of 255 before a marker"
        found = SEGMENT.match(data, place)
        if found is None or found[1][0] == END:
            return ""
        place, marker = found.end(), found[1][0]
        if marker not in ALONE:
            place += int.from_bytes(data[place : place + 2], "big")
        # The length of a scan is nowhere stated: its data ends at the next marker.
        if marker == SCAN:
            scans += 1
            if scans > MOST_SCANS:
                return f"more than {MOST_SCANS} scans"
            behind = NEXT.search(data, place)
            place = behind.start() if behind else len(data)
    return f"more than {MOST_SEGMENTS:,} segments"


def fault_of_ppm(data: bytes) -> str:
    """Why a PPM is refused; '' as for a PNG."""
    _, place = header_of_ppm(data)
    if not place:
        return f"no sizes in its first {LONGEST_HEADER:,} bytes"
    if data[1:2] in PLAIN and (comments := data.count(b"#", place)) > MOST_COMMENTS:
        return f"{comments:,} comments among its numbers; expected at most {MOST_COMMENTS}"
    return ""


def header_of_ppm(data: bytes) -> tuple[list[int], int]:
    """Width, height and the brightest level if there is one, and the position after them; 0 if they are missing."""
    numbers: list[int] = []
    place = 2
    for _ in range(SIZES.get(data[1:2], 3)):
        found = NUMBER.match(data, place, LONGEST_HEADER)
        # A number that ends where the search had to end may be cut off.
        if found is None or found.end() == min(len(data), LONGEST_HEADER):
            return numbers, 0
        # Nine digits are more than any side has, and Python takes long over a number of thousands.
        numbers.append(int(found[1][:9]))
        place = found.end()
    return numbers, place


def is_deep_ppm(data: bytes) -> bool:
    """Whether a PPM has more than 8 bits a channel."""
    numbers, _ = header_of_ppm(data)
    return len(numbers) > 2 and numbers[2] > np.iinfo(np.uint8).max  # noqa: PLR2004  (after width and height)


FAULTS = {"PNG": fault_of_png, "JPEG": fault_of_jpeg, "PPM": fault_of_ppm}
"""Format -> the function that says why a file is refused for its parts."""

"""What an image file is made of, counted before Pillow reads it part by part: a few megabytes may hold a million parts.

Pillow bounds what the parts unpack to; how many there are, it does not.
"""

from __future__ import annotations

import re

import numpy as np

MOST_CHUNKS = 65_536
"""Of a PNG: a quarter of a gigabyte in parts of 4 KB."""
MOST_SEGMENTS = 4096
"""Of a JPEG, scans among them."""
MOST_SCANS = 100
"""Of a JPEG, each of which is a pass over the whole image; progressive ones have about ten."""
MOST_FILL = 64
"""Bytes of 255 in front of a JPEG's marker."""
LONGEST_HEADER = 4096
"""Bytes of a PPM before its pixels, comments among them."""
MOST_COMMENTS = 64
"""Of a PPM whose numbers are written out, among them."""
PLAIN = b"123"
"""Kinds of PPM whose numbers are written out."""
SIZES = {b"1": 2, b"4": 2}
"""Numbers in the header of a bitmap; the other kinds of PPM have the brightest level too."""
PNG_START, CHUNK = 8, 12
"""Bytes of the signature; of a chunk, without its content."""
SEGMENT = re.compile(rb"\xff+([\x01-\xfe])")
NEXT = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""A marker behind the numbers of a scan, in which 255 is followed by 0, and restarts are no end."""
SCAN, END = 0xDA, 0xD9
ALONE = (0x01, *range(0xD0, 0xD9))
"""Markers of a JPEG without content."""
NUMBER = re.compile(rb"(?:\s|#[^\n\r]*[\n\r])*([0-9]+)")


def fault_of_png(data: bytes) -> str:
    """Why the chunks of a PNG are not read; '' where they are, or where a reader finds its own fault with them."""
    place = PNG_START
    for _ in range(MOST_CHUNKS):
        if place + CHUNK > len(data):
            return ""
        place += CHUNK + int.from_bytes(data[place : place + 4], "big")
    return f"more than {MOST_CHUNKS:,} chunks"


def fault_of_jpeg(data: bytes) -> str:
    """Why the segments of a JPEG are not read; '' as of a PNG."""
    place, scans = 2, 0
    for _ in range(MOST_SEGMENTS):
        if data[place : place + MOST_FILL] == b"\xff" * MOST_FILL:
            return f"{MOST_FILL} bytes or more of 255 before a marker"
        found = SEGMENT.match(data, place)
        if found is None or found[1][0] == END:
            return ""
        place, marker = found.end(), found[1][0]
        if marker not in ALONE:
            place += int.from_bytes(data[place : place + 2], "big")
        if marker == SCAN:
            scans += 1
            if scans > MOST_SCANS:
                return f"more than {MOST_SCANS} scans"
            behind = NEXT.search(data, place)
            place = behind.start() if behind else len(data)
    return f"more than {MOST_SEGMENTS:,} segments"


def fault_of_ppm(data: bytes) -> str:
    """Why a PPM is not read; '' as of a PNG."""
    _, place = header_of_ppm(data)
    if not place:
        return f"no sizes in its first {LONGEST_HEADER:,} bytes"
    if data[1:2] in PLAIN and (comments := data.count(b"#", place)) > MOST_COMMENTS:
        return f"{comments:,} comments among its numbers; expected at most {MOST_COMMENTS}"
    return ""


def header_of_ppm(data: bytes) -> tuple[list[int], int]:
    """Width, height and the brightest level, if it says that, and where they end; 0 where they are not there."""
    numbers: list[int] = []
    place = 2
    for _ in range(SIZES.get(data[1:2], 3)):
        found = NUMBER.match(data, place, LONGEST_HEADER)
        if found is None or found.end() == min(len(data), LONGEST_HEADER):
            return numbers, 0
        numbers.append(int(found[1][:9]))
        place = found.end()
    return numbers, place


def is_deep_ppm(data: bytes) -> bool:
    """Whether a PPM has more than 8 bits a channel."""
    numbers, _ = header_of_ppm(data)
    return len(numbers) > 2 and numbers[2] > np.iinfo(np.uint8).max  # noqa: PLR2004  (behind width and height)


FAULTS = {"PNG": fault_of_png, "JPEG": fault_of_jpeg, "PPM": fault_of_ppm}
"""Format -> the function that says what is wrong with the parts of such a file."""

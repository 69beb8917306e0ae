"""The texts in a PNG file, such as the settings that an image tool stored: read chunk by chunk, within limits."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import ModelError
from .images import file_bytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_CHUNKS = 100_000
MOST_TEXT = 2**20
"""Bytes of one text, unpacked; a prompt has some hundred, a workflow of ComfyUI some ten thousand."""


def png_texts(path: Path) -> dict[str, str]:
    """The texts of a PNG file by keyword, the first of each; ModelError for a damaged file or too long a text."""
    data = file_bytes(path)
    if not data.startswith(SIGNATURE):
        raise ModelError(f"{path}: no PNG file; expected one that an image tool wrote, or the caption as text")
    texts: dict[str, str] = {}
    for kind, body in chunks_of(data, path):
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, text = text_in(kind, body, path)
            texts.setdefault(keyword, text)
    return texts


def chunks_of(data: bytes, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """(kind, body) of each chunk up to the end, with its checksum held."""
    place = len(SIGNATURE)
    for _ in range(MOST_CHUNKS):
        if len(data) < place + 12:
            raise ModelError(f"{path}: a PNG file that is cut off at byte {len(data):,}")
        # A chunk is its length, its kind, its body and a checksum of kind and body: twelve bytes beside the body.
        length, kind = struct.unpack_from(">I4s", data, place)
        body = data[place + 8 : place + 8 + length]
        place += 12 + length
        if len(data) < place:
            raise ModelError(f"{path}: a PNG file that is cut off at byte {len(data):,}")
        if zlib.crc32(kind + body) != struct.unpack_from(">I", data, place - 4)[0]:
            raise ModelError(f"{path}: a damaged PNG file: the checksum before byte {place:,} is wrong")
        if kind == b"IEND":
            return
        yield kind, body
    raise ModelError(f"{path}: a PNG file of more than {MOST_CHUNKS:,} chunks; expected fewer")


def text_in(kind: bytes, body: bytes, path: Path) -> tuple[str, str]:
    """The keyword and the text of a chunk: tEXt plain, zTXt packed, iTXt either, in UTF-8."""
    keyword, _, rest = body.partition(b"\0")
    packed, encoding = kind == b"zTXt", "latin-1"
    if kind == b"zTXt":
        rest = rest[1:]
    elif kind == b"iTXt":
        # Whether it is packed and how, a language and the keyword in it.
        packed, encoding, rest = rest[:1] == b"\1", "utf-8", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    if packed:
        # One byte more than is accepted is unpacked, so that a small chunk of a huge text costs no memory.
        unpacker = zlib.decompressobj()
        try:
            rest = unpacker.decompress(rest, MOST_TEXT + 1)
        except zlib.error as error:
            raise ModelError(f"{path}: a damaged PNG file: a text that cannot be unpacked") from error
    if len(rest) > MOST_TEXT:
        raise ModelError(f"{path}: a text of more than {MOST_TEXT:,} bytes; expected a shorter one")
    return keyword.decode("latin-1"), rest.decode(encoding, errors="replace")

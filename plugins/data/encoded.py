"""Images that are stored as image files, wherever those lie: read once when the set is opened, decoded when asked for.

What is read once is every byte, for the fingerprint and the duplicates, and the header of every image, for the
channels. Where grey and colour are mixed, all become colour, so that the images of a set have the same channels.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from ...samplers.errors import ModelError
from ...samplers.files.images import COLOUR, RULES, Header, decode_image, header, to_channels
from ...samplers.image_data import ImageData


class EncodedImages(ImageData):
    """Image files by number. A subclass says where their bytes are, and is ready for that before it is opened."""

    def __init__(self, name: str, keys: Sequence[str], captions: Sequence[str | None]) -> None:
        """`keys` are the names of the images in the set, the same on every machine."""
        self.name, self.keys, self.captions = name, keys, captions
        self.digests: list[bytes] = []
        headers = []
        for i in range(len(keys)):
            data = self.read_bytes(i)
            headers.append(header(data, self.what(i), self.suffix(i)))
            self.digests.append(hashlib.sha256(data).digest())
        # All images get the most channels that one has, since a set has one shape.
        self.channels = max(head.channels for head in headers)
        self.notes = tuple(notes_on(headers, self.digests))
        self._fingerprint = fingerprint_of(self.keys, self.digests, self.captions)

    @abstractmethod
    def read_bytes(self, i: int) -> bytes:
        """The bytes of image file i."""

    def what(self, i: int) -> str:
        """How errors name image i."""
        return f"{self.name}: image {i}, {self.keys[i]}"

    def suffix(self, i: int) -> str:
        """The suffix in the name of image i, such as ".png"; '' = no suffix."""
        return ""

    @property
    def fingerprint(self) -> str:
        """Hash of the names, bytes and captions, and of the version of the rules of decoding."""
        return self._fingerprint

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.keys)

    def image(self, i: int) -> Tensor:
        """Image i: uint8 (channels, H, W)."""
        data = self.read_bytes(i)
        # A file that was exchanged would be compared under the fingerprint of the old one.
        if hashlib.sha256(data).digest() != self.digests[i]:
            raise ModelError(f"{self.what(i)}: has changed since the data set was opened; start again")
        return to_channels(decode_image(data, self.what(i), self.suffix(i)), self.channels)

    def caption(self, i: int) -> str | None:
        """The caption of image i."""
        return self.captions[i]


def notes_on(headers: Sequence[Header], digests: Sequence[bytes]) -> list[str]:
    """What a reader must know about these images, as sentences."""
    notes = duplicates_note(digests)
    if lossy := sum(head.lossy for head in headers):
        notes.append(
            f"{lossy:,} of {len(headers):,} files are JPEG or lossy WebP: compression moves FID, so numbers against "
            "them and against lossless files are not comparable."
        )
    grey = sum(head.channels < COLOUR for head in headers)
    if 0 < grey < len(headers):
        notes.append(f"{grey:,} of {len(headers):,} images are grey; they count as colour, as the others are.")
    return notes


def duplicates_note(digests: Sequence[bytes]) -> list[str]:
    """A sentence on images that occur more than once; [] if none does."""
    again = len(digests) - len(set(digests))
    return [f"{again:,} of {len(digests):,} images are byte for byte one of the others."] if again else []


def fingerprint_of(keys: Sequence[str], digests: Sequence[bytes], captions: Sequence[str | None]) -> str:
    """Hash of names, bytes and captions, in order."""
    digest = hashlib.sha256(f"image data, rules {RULES}\n".encode())
    for key, of_bytes, caption in zip(keys, digests, captions, strict=True):
        # As an ASCII literal, so that no name or caption can look like the border between two entries.
        digest.update(f"{key!a} {of_bytes.hex()} {caption!a}\n".encode("ascii"))
    return digest.hexdigest()

"""Images in files -> uint8, by the same rules for every data set, for references as for training.

Accepted: PNG, JPEG, WebP, BMP and PPM of 8 bits a channel. Grey and colour stay as they are; 1 bit becomes grey;
a palette, CMYK and YCbCr become colour by Pillow's conversion; an alpha channel is dropped where the whole image is
opaque. EXIF orientation is applied, colour profiles are not.

Refused: transparency, 16 bits and floats, animations, more than `MOST_PIXELS`, a suffix of another format, and files
that are damaged or cut short as far as their format shows it (PNG has checksums; the others have none).
"""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from ..errors import ModelError
from .image_parts import FAULTS, is_deep_ppm
from .weights import beginning_of, check_regular

RULES = "1"
"""Version of the rules above, which is part of a data set's fingerprint, since its pixels depend on them."""
MOST_PIXELS = 2**26
"""Most pixels of an image, 8192 x 8192; one that announces more is not decoded."""
MOST_BYTES = 2**28
"""Most bytes of an image file."""
MOST_EXIF = 2**16
"""Most bytes of EXIF; a JPEG has no room for more."""
COLOUR = 3
DEEP = 16
"""Bits per channel of a PNG that is refused."""
GREY_MODES = ("1", "L", "LA")
# ITU-R 601-2 luma in units of 1/65536, rounded as in Pillow's mode L.
LUMA, LUMA_SHIFT = (19595, 38470, 7471), 16


class Format(NamedTuple):
    """One kind of image file."""

    name: str
    suffixes: tuple[str, ...]
    start: bytes
    """Its first bytes, a regular expression."""
    read: type[ImageFile]


FORMATS = (
    Format("PNG", (".png",), rb"\x89PNG\r\n\x1a\n", PngImageFile),
    Format("JPEG", (".jpg", ".jpeg"), rb"\xff\xd8\xff", JpegImageFile),
    Format("WebP", (".webp",), rb"(?s:RIFF....WEBP)", WebPImageFile),
    Format("BMP", (".bmp",), rb"BM", BmpImageFile),
    Format("PPM", (".ppm", ".pgm", ".pbm", ".pnm"), rb"P[1-6]\s", PpmImageFile),
)
SUFFIXES = {suffix: form for form in FORMATS for suffix in form.suffixes}
READ = ", ".join(form.name for form in FORMATS)


class Header(NamedTuple):
    """What the bytes of an image tell before it is decoded."""

    format: str
    channels: int
    """1 = grey, 3 = colour."""
    lossy: bool
    """Whether its compression changed the pixels."""


def header(data: bytes, what: str, suffix: str = "") -> Header:
    """The header of an image file; ModelError, beginning with `what`, if the file is refused."""
    form, image = _open(data, what, suffix)
    lossy = form.name == "JPEG" or (form.name == "WebP" and b"VP8L" not in data)
    return Header(form.name, 1 if image.mode in GREY_MODES else COLOUR, lossy)


def decode_image(source: bytes | Path, what: str = "", suffix: str = "") -> Tensor:
    """The image in a file or in its bytes: uint8 (1 or 3, H, W). ModelError, beginning with `what`, if it is refused.

    `suffix`, such as ".png", is that of its name and must agree with the bytes; '' = any accepted format.
    """
    if isinstance(source, Path):
        what, suffix = what or str(source), suffix or source.suffix
        source = file_bytes(source, what)
    _, image = _open(source, what, suffix)
    if image.format == "PNG":
        try:
            image.verify()  # the checksums, which decoding skips; afterwards the image must be opened again
        except Exception as error:
            raise _damage(what, "PNG", error) from error
        _, image = _open(source, what, suffix)
    if (length := len(image.info.get("exif", b""))) > MOST_EXIF:
        raise ModelError(f"{what}: EXIF of {length:,} bytes; expected at most {MOST_EXIF:,}; store it without")
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow warns of each damaged entry of the EXIF
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # a stranger's bytes may end in any exception of the decoder
        raise _damage(what, image.format or "image", error) from error
    return _tensor(_to_opaque(image, what))


def file_bytes(path: Path, what: str = "") -> bytes:
    """The bytes of a file of at most MOST_BYTES; ModelError if it cannot be read or is larger."""
    check_regular(path)
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ModelError(f"{what or path}: {size:,} bytes; an image has at most {MOST_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{what or path}: cannot be read ({error.strerror})") from error


def _open(data: bytes, what: str, suffix: str) -> tuple[Format, ImageFile]:
    """The format of an image, and the image, whose header is read and checked, not yet decoded."""
    # By content, never by name: Pillow would try readers for dozens of formats, each with faults of its own.
    form = next((form for form in FORMATS if re.match(form.start, data)), None)
    if form is None:
        raise ModelError(f"{what}: looks like {_looks_like(data)}; expected an image of {READ}")
    if suffix and suffix.lower() not in form.suffixes:
        raise ModelError(f"{what}: is a {form.name}, whatever its name says; rename it to {form.suffixes[0]}")
    # Structures that make Pillow slow are found by counting, before it reads any.
    if form.name in FAULTS and (fault := FAULTS[form.name](data)):
        raise ModelError(f"{what}: a {form.name} with {fault}; store it again")
    try:
        image = form.read(io.BytesIO(data))  # not Image.open, which only warns beyond its limit of pixels
        frames = getattr(image, "n_frames", 1)
    except Exception as error:
        raise _damage(what, form.name, error) from error
    width, height = image.size
    if not 0 < width * height <= MOST_PIXELS:
        raise ModelError(f"{what}: announces {width} x {height} pixels; expected 1 to {MOST_PIXELS:,}")
    if frames > 1:
        raise ModelError(f"{what}: an animation of {frames} frames; expected one image, so store its frames apart")
    if image.mode[0] in "IF" or _is_deep(form.name, data):
        raise ModelError(
            f"{what}: more than 8 bits a channel (mode {image.mode}); expected 8, so convert it first: which grey is "
            "white only you know"
        )
    return form, image


def _is_deep(name: str, data: bytes) -> bool:
    """Whether a file has more than 8 bits per channel although its mode does not tell; Pillow would cut them off."""
    if name == "PNG":
        return data[24:25] == bytes([DEEP])  # after signature, length, "IHDR", width and height
    return name == "PPM" and is_deep_ppm(data)


def _to_opaque(image: Image.Image, what: str) -> Image.Image:
    """The image in mode L or RGB; ModelError if any pixel is transparent."""
    if "A" in image.getbands() or "transparency" in image.info:
        # An alpha channel that is opaque everywhere says nothing; any other needs a background, which is the user's to
        # choose.
        least = image.convert("RGBA").getchannel("A").getextrema()[0]
        if least != np.iinfo(np.uint8).max:
            raise ModelError(
                f"{what}: is transparent in places; expected an opaque image, so put it on a background first"
            )
        image.info.pop("transparency", None)
    return image.convert("L" if image.mode in GREY_MODES else "RGB")


def _tensor(image: Image.Image) -> Tensor:
    """An image in mode L or RGB -> uint8 (1 or 3, H, W)."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if image.mode == "L" else pixels.permute(2, 0, 1).contiguous()


def _damage(what: str, name: str, error: Exception) -> ModelError:
    """The error for an image that its decoder cannot read."""
    return ModelError(f"{what}: a {name} that is damaged or cut short ({error or type(error).__name__}); replace it")


def _looks_like(data: bytes) -> str:
    """What the bytes seem to be if they are no image of an accepted format."""
    kinds = {rb"GIF8": "a GIF", rb"II\*\0|MM\0\*": "a TIFF", rb"(?s:....ftyp)": "an AVIF, HEIC or film"}
    return next((kind for start, kind in kinds.items() if re.match(start, data)), "") or beginning_of(data[:512])


def crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (C, H, W) -> (C, *size): the largest centred part of the same proportions, resized by Pillow's bicubic.

    Pillow's filter widens as an image shrinks (antialiasing). FID depends on the filter, so there is only this one.
    """
    height, width = image.shape[-2:]
    rows, columns = size
    if (height, width) == size:
        return image
    # The largest centred part with the proportions of the result: nothing is stretched.
    part_height = min(height, max(1, round(width * rows / columns)))
    part_width = min(width, max(1, round(height * columns / rows)))
    top, left = (height - part_height) // 2, (width - part_width) // 2
    part = image[:, top : top + part_height, left : left + part_width]
    # Resizing by 1 would still filter.
    if (part_height, part_width) == size:
        return part
    flat = part[0] if len(part) == 1 else part.permute(1, 2, 0)
    resized = Image.fromarray(flat.contiguous().numpy()).resize((columns, rows), Image.Resampling.BICUBIC)
    return _tensor(resized)


def to_channels(image: Tensor, channels: int) -> Tensor:
    """uint8 (1 or 3, H, W) -> (channels, H, W): grey three times, or the luma of ITU-R 601-2, as Pillow's mode L."""
    if len(image) == channels:
        return image
    if channels == COLOUR:
        return image.expand(COLOUR, -1, -1)
    weights = torch.tensor(LUMA, dtype=torch.int32)[:, None, None]
    # As Pillow does: whole numbers, with half a unit added before the shift, so that it rounds.
    sums = (image.to(torch.int32) * weights).sum(0, keepdim=True) + (1 << (LUMA_SHIFT - 1))
    return (sums >> LUMA_SHIFT).to(torch.uint8)

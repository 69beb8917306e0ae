"""Image files -> uint8: the rule for every mode, what is refused, cropping and channels."""

import io
import os
import random
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import samplerbench as sb
from samplerbench.samplers.files import image_parts, images
from samplerbench.samplers.files.images import FORMATS, MOST_PIXELS, crop, decode_image, header, to_channels

RNG = np.random.default_rng(5)
COLOUR = RNG.integers(0, 256, (6, 8, 3), np.uint8)
GREY = RNG.integers(0, 256, (6, 8), np.uint8)


def encoded(image, kind="PNG", **options):
    """The bytes of an image file."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def planes(array):
    """(H, W) or (H, W, C) -> (C, H, W), as a tensor."""
    return torch.from_numpy(np.atleast_3d(array).transpose(2, 0, 1).copy())


def png(*chunks):
    """A PNG file of these chunks, with right checksums."""
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def size_chunk(width, height, depth=8, colour=2):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


# ---- What is read ----


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("PPM", {})])
@pytest.mark.parametrize("pixels", [COLOUR, GREY], ids=["colour", "grey"])
def test_lossless_files_come_back_as_they_are(kind, options, pixels):
    data = encoded(pixels, kind, **options)
    expected = planes(pixels)
    if kind == "WEBP" and pixels is GREY:
        expected = expected.expand(3, -1, -1)  # WebP has no grey
    image = decode_image(data, "x")
    assert image.dtype == torch.uint8
    assert image.is_contiguous() or image.stride()[0] == 0
    assert torch.equal(image, expected)
    assert header(data, "x").channels == len(image)
    assert not header(data, "x").lossy


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95, "subsampling": 0}), ("WEBP", {"quality": 95})])
def test_lossy_files_are_near_and_said_to_be_lossy(kind, options):
    smooth = np.add.outer(np.arange(32), np.arange(24) * 3).astype(np.uint8)[..., None].repeat(3, 2)
    data = encoded(smooth, kind, **options)
    assert (decode_image(data, "x").int() - planes(smooth).int()).abs().max() < 8
    assert header(data, "x").lossy


def test_a_palette_becomes_colour_and_one_bit_becomes_grey():
    palette = Image.fromarray(COLOUR).quantize(16)
    assert torch.equal(decode_image(encoded(palette), "x"), planes(np.array(palette.convert("RGB"))))
    bits = Image.fromarray(GREY).convert("1", dither=Image.Dither.NONE)
    for kind in ("PNG", "PPM"):
        assert torch.equal(
            decode_image(encoded(bits, kind), "x"), planes(np.where(GREY > 127, 255, 0).astype(np.uint8))
        )


def test_cmyk_becomes_colour_as_pillow_has_it():
    cmyk = Image.fromarray(COLOUR).convert("CMYK")
    data = encoded(cmyk, "JPEG", quality=100)
    assert torch.equal(decode_image(data, "x"), planes(np.array(Image.open(io.BytesIO(data)).convert("RGB"))))
    assert header(data, "x").channels == 3


@pytest.mark.parametrize(("mode", "pixels"), [("RGBA", COLOUR), ("LA", GREY)])
def test_an_opaque_alpha_channel_is_dropped_and_any_other_refused(mode, pixels):
    image = Image.fromarray(pixels).convert(mode)
    assert torch.equal(decode_image(encoded(image), "x"), planes(pixels))
    assert header(encoded(image), "x").channels == len(planes(pixels))
    image.putpixel((7, 5), (*image.getpixel((7, 5))[:-1], 254))
    with pytest.raises(sb.ModelError, match=r"^a/x.png: is transparent in places; expected an opaque image"):
        decode_image(encoded(image), "a/x.png")


@pytest.mark.parametrize("pixels", [COLOUR, GREY], ids=["colour", "grey"])
def test_a_transparent_colour_is_refused_where_it_is_used(pixels):
    image = Image.fromarray(pixels)
    used = image.getpixel((0, 0))
    unused = (1, 2, 3) if pixels is COLOUR else next(v for v in range(256) if v not in GREY)
    assert torch.equal(decode_image(encoded(image, transparency=unused), "x"), planes(pixels))
    with pytest.raises(sb.ModelError, match="transparent"):
        decode_image(encoded(image, transparency=used), "x")


def test_a_palette_with_a_transparent_entry_is_refused_where_it_is_used():
    palette = Image.fromarray(COLOUR).quantize(16)
    with pytest.raises(sb.ModelError, match="transparent"):
        decode_image(encoded(palette, transparency=palette.getpixel((0, 0))), "x")


def test_the_orientation_in_exif_is_applied():
    for orientation, expected in {
        1: COLOUR,
        3: COLOUR[::-1, ::-1],
        6: np.rot90(COLOUR, -1),
        8: np.rot90(COLOUR),
    }.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert torch.equal(decode_image(encoded(COLOUR, exif=exif), "x"), planes(np.ascontiguousarray(expected)))


# ---- What is refused ----


def chunk(kind, content=b""):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(*chunks):
    """A PNG with more chunks before its pixels."""
    whole = encoded(COLOUR)
    place = whole.index(b"IDAT") - 4
    return whole[:place] + b"".join(chunks) + whole[place:]


def jpeg_with(parts, **options):
    """A JPEG with more before its first segment."""
    whole = encoded(COLOUR, "JPEG", **options)
    return whole[:2] + parts + whole[2:]


def jpeg_of_scans(scans):
    """A progressive JPEG whose last scan is there more often."""
    whole = encoded(COLOUR, "JPEG", progressive=True)
    last, own = whole.rindex(b"\xff\xda"), whole.count(b"\xff\xda")
    return whole[:last] + whole[last:-2] * (scans - own) + whole[last:]


def ppm(header, body=b"", kind=b"P6"):
    return kind + header + body


RGB = bytes(range(12))
EXIF = b"MM\0*\0\0\0\x08\0\0" + bytes(4)
MANY = {
    "chunks": lambda n: png_with(chunk(b"teSt") * (n - 3)),
    "texts": lambda n: png_with(chunk(b"tEXt", b"k\0v") * (n - 3)),
    "segments": lambda n: jpeg_with(b"\xff\xe5\0\2" * n),
    "fill": lambda n: jpeg_with(b"\xff" * (n - 1)),
    "scans": jpeg_of_scans,
    "comment in the header": lambda n: ppm(b"\n#" + b"c" * n + b"\n2 2\n255\n", RGB),
    "blanks in the header": lambda n: ppm(b" " * n + b"2 2\n255\n", RGB),
    "comments in the header": lambda n: ppm(b"\n" + b"#c\n" * (n // 3) + b"2 2\n255\n", RGB),
    "comments among numbers": lambda n: ppm(b"\n2 2\n255\n", b"#c\n" * n + b"1 2 3 " * 4, b"P3"),
    "exif": lambda n: png_with(chunk(b"eXIf", EXIF + bytes(n - len(EXIF)))),
}
LIMITS = {
    "chunks": (50, "a PNG with more than 50 chunks"), "texts": (50, "a PNG with more than 50 chunks"),
    "segments": (60, "a JPEG with more than 60 segments"), "fill": (64, "a JPEG with 64 bytes or more of 255 before a"),
    "scans": (30, "a JPEG with more than 30 scans"),
    "comment in the header": (4096, "a PPM with no sizes in its first 4,096 bytes"),
    "blanks in the header": (4096, "a PPM with no sizes in its first 4,096 bytes"),
    "comments in the header": (4096, "a PPM with no sizes in its first 4,096 bytes"),
    "comments among numbers": (64, "comments among its numbers; expected at most 64"),
    "exif": (2**16, "EXIF of 65,546 bytes; expected at most 65,536; store it without"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MANY)
def test_parts_without_number_are_refused_before_pillow_reads_them(monkeypatch, kind):
    most, words = LIMITS[kind]
    for name, least in {"MOST_CHUNKS": 50, "MOST_SEGMENTS": 60, "MOST_SCANS": 30}.items():
        monkeypatch.setattr(image_parts, name, least)
    assert decode_image(MANY[kind](most // 2), "x").shape[0] == 3
    if kind != "exif":  # which is a length, and known only when the rest is
        for form in images.FORMATS:
            monkeypatch.setattr(form.read, "_open", lambda self: pytest.fail("read"))
    with pytest.raises(sb.ModelError, match=f"^a/x: .*{re.escape(words)}") as caught:
        decode_image(MANY[kind](most + 4), "a/x")
    assert "\n" not in str(caught.value)


def test_a_film_behind_a_jpeg_counts_for_nothing():
    data = encoded(COLOUR, "JPEG")
    assert torch.equal(decode_image(data + b"\xff\xda\0\2" * 500, "x"), decode_image(data, "x"))


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP"])
def test_what_unpacks_to_very_much_is_refused(kind):
    packed = zlib.compress(bytes(2**22))
    before = {"zTXt": b"k\0\0", "iTXt": b"k\0\1\0\0\0", "iCCP": b"k\0\0"}[kind]
    with pytest.raises(sb.ModelError, match="Decompressed data too large"):
        decode_image(png_with(chunk(kind.encode(), before + packed)), "x")


def test_an_exif_that_is_damaged_warns_of_nothing():
    entries = b"".join(struct.pack(">HHII", tag, 7, 10**6, 8) for tag in range(50))
    data = png_with(chunk(b"eXIf", b"MM\0*\0\0\0\x08" + struct.pack(">H", 50) + entries + bytes(4)))
    with warnings.catch_warnings(action="error"):
        assert torch.equal(decode_image(data, "x"), planes(COLOUR))


@pytest.mark.parametrize("header", [b"\n2 2 65535\n", b"\n#1 2 3\n2 2\n#255\n65535\n", b" 2\t2\r\n256\n"])
def test_deep_ppms_are_known_whatever_their_comments_say(header):
    with pytest.raises(sb.ModelError, match="more than 8 bits a channel"):
        decode_image(ppm(header, bytes(24)), "x")


def test_16_bits_are_refused_where_pillow_would_cut_them():
    grey = encoded(Image.fromarray(GREY.astype(np.uint16) * 257))
    row = b"\0" + bytes(6)
    colour = png(size_chunk(1, 1, depth=16), (b"IDAT", zlib.compress(row)), (b"IEND", b""))
    for data in (grey, colour, b"P6 1 1 65535 " + bytes(6), b"P2 # deep\n1 1\n# deep\n300\n 7 ", b"P5 1 1 1023 ab"):
        with pytest.raises(sb.ModelError, match=r"^x: more than 8 bits a channel .*; expected 8, so convert it first"):
            decode_image(data, "x")
        with pytest.raises(sb.ModelError, match="more than 8 bits"):
            header(data, "x")
    assert decode_image(b"P6 1 1 255 abc", "x").flatten().tolist() == [97, 98, 99]


def test_more_pixels_than_the_limit_are_not_decoded():
    side = int(MOST_PIXELS**0.5)
    for data in (
        png(size_chunk(side + 1, side), (b"IDAT", b"")),
        b"P6 %d %d 255 " % (side + 1, side),
        b"P6 %d 1 255 " % 2**31,
    ):
        with pytest.raises(sb.ModelError, match=r"^x: announces \d+ x \d+ pixels; expected 1 to 67,108,864"):
            decode_image(data, "x")


def test_animations_are_refused():
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    for kind in ("PNG", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        with pytest.raises(sb.ModelError, match=r"^x: an animation of 2 frames; expected one image"):
            decode_image(data, "x")


@pytest.mark.parametrize(
    ("data", "seems"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1", "a git-lfs pointer"),
        (encoded(COLOUR, "GIF"), "a GIF"),
        (encoded(COLOUR, "TIFF"), "a TIFF"),
        (b"\0\0\0\x20ftypavif", "an AVIF"),
        (b"\x80\x04.", "a pickle, which is never read"),
        (b"hello", "something else"),
    ],
)
def test_what_is_no_image_is_named_by_what_it_looks_like(data, seems):
    with pytest.raises(sb.ModelError, match=f"^x: looks like {seems}.*; expected an image of PNG, JPEG, WebP"):
        decode_image(data, "x")


def test_a_suffix_says_what_the_bytes_are():
    assert len(decode_image(encoded(COLOUR, "JPEG"), "x", ".JPEG")) == 3
    with pytest.raises(sb.ModelError, match=r"^x: is a JPEG, whatever its name says; rename it to .jpg"):
        decode_image(encoded(COLOUR, "JPEG"), "x", ".png")


@pytest.mark.parametrize("kind", [form.name for form in FORMATS])
def test_a_file_cut_anywhere_is_refused_unless_all_its_pixels_are_there(kind):
    data = encoded(COLOUR[:3, :3], kind)
    for length in range(0, len(data), max(1, len(data) // 200)):
        if length < len(data) - 4:  # the last bytes are the end mark of a format, or padding
            with pytest.raises(sb.ModelError):
                print(length, decode_image(data[:length], "x"))
        else:
            try:
                assert torch.equal(decode_image(data[:length], "x"), decode_image(data, "x"))
            except sb.ModelError:
                continue


def test_a_wrong_checksum_is_refused_though_the_pixels_can_be_read():
    data = bytearray(encoded(COLOUR))
    position = data.index(b"IEND") - 5  # the last byte of the checksum of the pixels
    data[position] ^= 1
    with Image.open(io.BytesIO(bytes(data))) as image:
        image.load()  # Pillow alone does not mind
    with pytest.raises(sb.ModelError, match=r"^x: a PNG that is damaged or cut short"):
        decode_image(bytes(data), "x")


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it then reads or refuses
def test_damaged_files_end_in_an_image_or_one_line_and_nothing_else():
    random.seed(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [
        encoded(COLOUR, exif=exif), encoded(COLOUR, "JPEG", exif=exif), encoded(COLOUR, "WEBP"), encoded(COLOUR, "BMP"),
        encoded(GREY, "PPM"),
    ]  # fmt: skip
    refused = 0
    for turn in range(1000):
        data = bytearray(files[turn % len(files)])
        for _ in range(random.choice((1, 1, 4))):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        if turn % 3 == 0:
            del data[random.randrange(len(data)) :]
        try:
            assert decode_image(bytes(data), "x").dtype == torch.uint8
        except sb.ModelError:
            refused += 1
    assert refused > 400


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "x.png").mkdir()
    os.mkfifo(tmp_path / "y.png")
    for name, said in {"x.png": "a folder, pipe", "y.png": "a folder, pipe", "z.png": "no such file"}.items():
        with pytest.raises(sb.ModelError, match=f"{name}: {said}"):
            decode_image(tmp_path / name)
    (tmp_path / "a.png").write_bytes(encoded(COLOUR, "BMP"))
    with pytest.raises(sb.ModelError, match=r"a\.png: is a BMP"):
        decode_image(tmp_path / "a.png")


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(sb.ModelError, match=r"a\.png: 268,435,457 bytes; an image has at most 268,435,456"):
        decode_image(tmp_path / "a.png")


# ---- Cropping and channels ----


def test_cropping_takes_the_centre():
    image = torch.arange(5 * 9, dtype=torch.uint8).reshape(1, 5, 9)
    assert torch.equal(crop(image, (5, 5)), image[:, :, 2:7])
    assert torch.equal(crop(image.mT, (5, 5)), image.mT[:, 2:7])
    assert torch.equal(crop(image, (5, 9)), image)
    assert torch.equal(crop(image, (4, 2)), torch.from_numpy(
        np.array(Image.fromarray(image[0, :, 3:5].numpy()).resize((2, 4), Image.Resampling.BICUBIC)))[None]
    )  # fmt: skip


@pytest.mark.parametrize("side", [3, 7, 16, 40])
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_is_pillow_s_bicubic(side, channels):
    image = torch.from_numpy(RNG.integers(64, 192, (channels, 16, 20), np.uint8))  # no overshoot is clipped
    found = crop(image, (side, side))
    square = image[:, :, 2:18]
    for plane, expected in zip(found, square, strict=True):
        # In floats. 8 bits round after either pass: 0.5, and 0.5 times the sum of the absolute weights, at most 1.25.
        exact = Image.fromarray(expected.numpy().astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
        assert np.abs(plane.numpy() - np.array(exact)).max() <= 1.13
    # The filter itself, without rounding: bicubic with a = -0.5, as wide as the image shrinks.
    smooth = torch.nn.functional.interpolate(square[None].double(), (side, side), mode="bicubic", antialias=True)
    assert (found.double() - smooth[0]).abs().max() <= 1.13
    assert found.shape == (channels, side, side)
    assert found.dtype == torch.uint8


def test_grey_from_colour_is_pillow_s_luma():
    pixels = RNG.integers(0, 256, (300, 300, 3), np.uint8)
    pixels[0, :8] = [[v & 255, (v >> 1 & 1) * 255, (v >> 2 & 1) * 255] for v in range(8)]
    expected = torch.from_numpy(np.array(Image.fromarray(pixels).convert("L")))
    assert torch.equal(to_channels(planes(pixels), 1)[0], expected)


def test_channels_that_fit_are_left_and_grey_is_repeated():
    assert torch.equal(to_channels(planes(GREY), 3), planes(GREY).repeat(3, 1, 1))
    for pixels in (GREY, COLOUR):
        image = planes(pixels)
        assert to_channels(image, len(image)) is image
    assert torch.equal(to_channels(to_channels(planes(GREY), 3), 1), planes(GREY))

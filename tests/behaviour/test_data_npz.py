"""The data set "npz": layouts, labels, and files that want something else than to be read."""

import io
import random
import struct
import zipfile

import numpy as np
import pytest
import torch

import samplerbench as sb
from samplerbench.plugins.data import npz
from samplerbench.samplers.registry import default_registry

PIXELS = np.random.default_rng(3).integers(0, 256, (5, 6, 7, 3), np.uint8)


def opened(path):
    return default_registry().image_data(str(path))


def saved(path, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "set.npz"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["arr_0", "images", "data"])
@pytest.mark.parametrize(
    "array",
    [PIXELS, PIXELS.transpose(0, 3, 1, 2).copy(), np.asfortranarray(PIXELS)],
    ids=["last", "first", "fortran"],
)
def test_every_layout_gives_the_same_images(file, compressed, name, array):
    data = opened(saved(file, compressed, **{name: array}))
    assert len(data) == 5
    assert data.name == "set.npz"
    assert data.notes == ()
    for i in range(5):
        assert torch.equal(data.image(i), torch.from_numpy(PIXELS[i]).permute(2, 0, 1))
        assert data.caption(i) is None
    assert data.fingerprint == opened(saved(file, arr_0=PIXELS)).fingerprint


def test_grey_images_and_labels(file):
    grey = PIXELS[..., :1]
    data = opened(saved(file, arr_0=grey, arr_1=np.array([3, 1, 4, 1, 5])))
    assert data.image(4).shape == (1, 6, 7)
    assert [data.caption(i) for i in range(5)] == ["3", "1", "4", "1", "5"]
    named = opened(saved(file, images=grey, labels=np.array(["a  cat", "b", "c", "d", "é"])))
    assert [named.caption(i) for i in range(5)] == ["a cat", "b", "c", "d", "é"]
    assert len({data.fingerprint, named.fingerprint, opened(saved(file, data=grey)).fingerprint}) == 3


def test_an_image_is_a_copy_that_may_be_changed(file):
    data = opened(saved(file, arr_0=PIXELS))
    data.image(0).zero_()
    assert torch.equal(data.image(0), torch.from_numpy(PIXELS[0]).permute(2, 0, 1))


def test_duplicates_are_said(file):
    assert opened(saved(file, arr_0=PIXELS[[0, 1, 0, 0]])).notes == (
        "2 of 4 images are byte for byte one of the others.",
    )


def test_a_reference_batch_with_images_is_images_and_one_without_is_a_reference(file):
    statistics = {"mu": np.zeros(4), "sigma": np.eye(4)}
    assert len(opened(saved(file, arr_0=PIXELS, **statistics))) == 5
    with pytest.raises(sb.ModelError, match=r"holds statistics \(mu, sigma\), no images; give it as --reference .*npz"):
        opened(saved(file, **statistics))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": PIXELS}, "holds x; expected one of arr_0, images, data"),
        ({}, "holds nothing; expected one of"),
        ({"arr_0": PIXELS, "images": PIXELS}, "holds arr_0, images; expected one of"),
        ({"arr_0": PIXELS / 127.5 - 1}, r"arr_0 is float64 from -1 to 1; expected uint8 from 0 to 255"),
        ({"arr_0": np.int64([[-3, 300]])}, "arr_0 is int64 from -3 to 300; expected uint8"),
        ({"arr_0": PIXELS > 9}, "arr_0 is bool; expected uint8"),
        ({"arr_0": PIXELS[..., 0]}, r"has the shape \(5, 6, 7\); expected \(N, H, W, 3 or 1\)"),
        ({"arr_0": PIXELS[..., :2]}, r"has the shape \(5, 6, 7, 2\)"),
        ({"arr_0": PIXELS[:, :3]}, r"has the shape \(5, 3, 7, 3\)"),
        ({"arr_0": PIXELS[:0]}, r"has the shape \(0, 6, 7, 3\)"),
        ({"arr_0": PIXELS, "arr_1": np.zeros(4, int)}, r"arr_1: int64 \(4,\); expected 5 whole numbers or texts"),
        ({"arr_0": PIXELS, "arr_1": np.eye(5)}, r"arr_1: float64 \(5, 5\); expected 5 whole"),
        ({"arr_0": PIXELS, "arr_1": np.zeros(5, int), "labels": np.zeros(5, int)}, "expected labels once"),
        ({"arr_0": PIXELS, "label": np.array([""] * 5)}, "label, number 0: a caption of 0 characters"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(file, arrays, said):
    with pytest.raises(sb.ModelError, match=rf"set\.npz: .*{said}"):
        opened(saved(file, **arrays))


# ---- Files that want something else ----


class Mischief:
    """A pickle that leaves a trace where it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["arr_0", "arr_1"])
def test_objects_are_never_read(file, tmp_path, name):
    trace = tmp_path / "trace"
    arrays = {"arr_0": PIXELS} | {name: np.array([Mischief(trace)] * 5, dtype=object)}
    with pytest.raises(sb.ModelError, match=rf"{name}\.npy: holds Python objects, which are never read"):
        opened(saved(file, **arrays))
    assert not trace.exists()


def header_of(shape, kind="|u1"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def test_what_the_header_announces_is_checked_before_anything_is_unpacked(file, monkeypatch):
    for shape in ((10**6, 10**4, 10**4, 3), (-1, 2, 2, 3), (1, 2, 2, 3)):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("arr_0.npy", header_of(shape) + bytes(24))
        with pytest.raises(sb.ModelError, match=r"arr_0\.npy: .* bytes, 24 are there; fetch it again"):
            opened(file)
    monkeypatch.setattr(npz, "MOST_UNPACKED", 1000)
    saved(file, compressed=True, arr_0=np.zeros((100, 8, 8, 3), np.uint8))
    assert file.stat().st_size < 1000
    with pytest.raises(sb.ModelError, match=r"arr_0\.npy: 19,328 bytes, compressed; expected at most 1,000, deflated"):
        opened(file)
    assert len(opened(saved(file, arr_0=np.zeros((100, 8, 8, 3), np.uint8)))) == 100


def test_a_directory_that_lies_about_the_size_is_refused(file):
    saved(file, compressed=True, arr_0=np.zeros((4, 8, 8, 3), np.uint8))
    data = bytearray(file.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    size = struct.unpack_from("<I", data, entry + 24)[0]
    for wrong in (size - 192, size + 192, 2**32 - 2):
        struct.pack_into("<I", data, entry + 24, wrong)
        file.write_bytes(data)
        with pytest.raises(sb.ModelError):
            opened(file)


def test_other_compressions_and_versions_are_refused(file):
    whole = header_of((1, 2, 2, 3)) + bytes(12)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("arr_0.npy", whole)
    with pytest.raises(sb.ModelError, match="compressed; expected at most 4,294,967,296, deflated; store it with np"):
        opened(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("arr_0.npy", whole.replace(b"\x01\x00", b"\x03\x00", 1))
    with pytest.raises(sb.ModelError, match=r"version \(3, 0\) of NumPy's format; expected 1\.0 or 2\.0"):
        opened(file)


def test_members_without_number_are_not_listed(file, monkeypatch):
    saved(file, arr_0=PIXELS, **{f"x{i}": np.zeros(1) for i in range(9)})
    assert len(opened(file)) == len(PIXELS)
    monkeypatch.setattr(npz, "MOST_ARRAYS", 9)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("listed"))
    with pytest.raises(sb.ModelError, match="an archive of 10 members, where at most 9 are read"):
        opened(file)


def test_labels_that_unpack_to_very_much_are_refused(file, monkeypatch):
    labels = np.array(["a" * 1000] * len(PIXELS))
    saved(file, compressed=True, arr_0=PIXELS, arr_1=labels)
    assert opened(file).caption(0) == labels[0]
    monkeypatch.setattr(npz, "MOST_LABELS", 10_000)
    with pytest.raises(sb.ModelError, match=r"arr_1 of 20,\d+ bytes; expected at most 10,000"):
        opened(file)


def test_an_array_of_version_2_is_read(file):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3), version=(2, 0))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("arr_0.npy", buffer.getvalue())
    assert opened(file).image(0).flatten().tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]


def test_a_name_that_is_there_twice_is_refused(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("arr_0", "")
        archive.writestr("arr_0.npy", "")
    with pytest.raises(sb.ModelError, match="an array is there twice"):
        opened(file)


@pytest.mark.parametrize(
    ("data", "seems"), [(b"", "an empty file"), (b"<html>", "an HTML page"), (b"\x80\x04N.", "a pickle")]
)
def test_what_is_no_archive_is_named(file, data, seems):
    file.write_bytes(data)
    with pytest.raises(sb.ModelError, match=rf"set\.npz: looks like {seems}.*; expected an \.npz file of images"):
        opened(file)


def test_a_missing_file_is_said(tmp_path):
    for spec, said in {"npz": "which file", f"npz:{tmp_path}/x.npz": "no such file"}.items():
        with pytest.raises(sb.ModelError, match=said):
            opened(spec)


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files_are_read_as_they_were_or_refused(file, compressed):
    random.seed(2)
    whole = saved(file, compressed, arr_0=PIXELS[:2, :4, :4], arr_1=np.array([1, 2])).read_bytes()
    expected = [planes.clone() for planes in map(npz.read_npz(file).image, range(2))]
    refused = 0
    for turn in range(300):
        data = bytearray(whole)
        if turn % 3:
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        else:
            del data[random.randrange(len(data)) :]
        file.write_bytes(data)
        try:
            found = npz.read_npz(file)
            assert all(map(torch.equal, map(found.image, range(len(found))), expected))
            assert len(found) == 2
        except sb.ModelError:
            refused += 1
    assert refused > 200

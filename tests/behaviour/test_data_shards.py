"""The data sets "parquet" and "webdataset": which files, columns and members, and what is refused."""

import io
import json
import random
import struct
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

import samplerbench as sb
from samplerbench.plugins.data import parquet as plugin
from samplerbench.plugins.data import webdataset as archives
from samplerbench.plugins.data.webdataset import TarImages
from samplerbench.samplers.registry import default_registry


def picture(value, kind="PNG"):
    """The bytes of an image of one colour."""
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, kind)
    return file.getvalue()


def opened(spec):
    return default_registry().image_data(str(spec))


def captions(data):
    return [data.caption(i) for i in range(len(data))]


def values(data):
    return [int(data.image(i)[0, 0, 0]) for i in range(len(data))]


# ---- Which files ----


def table_file(path, first=0, count=2, **columns):
    """A Parquet file with images of the colours first, first + 1, ..."""
    images = [{"bytes": picture(first + k), "path": f"{k}.png"} for k in range(count)]
    path.parent.mkdir(exist_ok=True, parents=True)
    parquet.write_table(pa.table({"image": images, **columns}), path)
    return path


def tar_file(path, members, **options):
    """An archive with these members: name -> bytes."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".tar"])
def test_a_folder_is_read_in_byte_order(tmp_path, suffix):
    def write(name, first):
        path = tmp_path / "set" / f"{name}{suffix}"
        if suffix == ".tar":
            return tar_file(path, {"b.png": picture(first), "a.png": picture(first + 1)})
        return table_file(path, first)

    for name, first in {"b": 30, "a": 20, "B": 10, ".hidden": 90}.items():
        write(name, first)
    (tmp_path / "set" / "README.md").write_text("a set")
    data = opened(tmp_path / "set")
    assert values(data) == [10, 11, 20, 21, 30, 31]
    assert data.name == "set"
    assert data.notes == ()
    one = opened(tmp_path / "set" / f"a{suffix}")
    assert one.name == f"a{suffix}"
    assert values(one) == [20, 21]
    kind = "webdataset" if suffix == ".tar" else "parquet"
    assert opened(f"{kind}:{tmp_path}/set").fingerprint == data.fingerprint != one.fingerprint


@pytest.mark.parametrize(("kind", "suffix"), [("parquet", ".parquet"), ("webdataset", ".tar")])
def test_two_splits_are_never_one_set(tmp_path, kind, suffix):
    for k, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
        path = tmp_path / f"{name}{suffix}"
        tar_file(path, {"a.png": picture(k)}) if suffix == ".tar" else table_file(path, k, 1)
    with pytest.raises(sb.ModelError, match=rf"holds the splits test, train; take one, as in '{kind}:.*/test-\*'"):
        opened(tmp_path)
    assert values(opened(f"{kind}:{tmp_path}/train-*")) == [0, 1]
    assert values(opened(f"{kind}:{tmp_path}/test-*")) == [2]


@pytest.mark.parametrize(("kind", "suffix"), [("parquet", ".parquet"), ("webdataset", ".tar")])
def test_no_files_are_said(tmp_path, kind, suffix):
    said = {
        kind: rf"which file\? expected {kind}:FILE\{suffix}",
        f"{kind}:{tmp_path}": rf"holds no \{suffix} file",
        f"{kind}:{tmp_path}/x*": rf"holds no \{suffix} file",
        f"{kind}:{tmp_path}/x": "no such file",
    }
    for spec, text in said.items():
        with pytest.raises(sb.ModelError, match=text):
            opened(spec)


# ---- Parquet ----


def test_columns_groups_and_rows_are_counted_before_they_are_looked_at(tmp_path, monkeypatch):
    path = table_file(tmp_path / "a.parquet", count=4, a=range(4), b=range(4))
    table = parquet.read_table(path)
    parquet.write_table(table, path, row_group_size=1)
    assert values(opened(path)) == [0, 1, 2, 3]
    monkeypatch.setattr(plugin, "image_column", lambda *_: pytest.fail("looked at"))
    for name, most, said in (
        ("MOST_COLUMNS", 3, "4 columns; expected at most 3"),
        ("MOST_GROUPS", 3, "4 groups of rows; expected at most 3"),
        ("FEWEST_SHARED", -(10**6), "4 rows; expected at most -"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(plugin, name, most)
            with pytest.raises(sb.ModelError, match=rf"a\.parquet: {said}"):
                opened(path)


def test_a_billion_rows_in_a_small_file_are_refused_at_once(tmp_path, monkeypatch):
    """Rows without a value are stored as their number."""
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"image": pa.nulls(10**6, pa.binary())}), path)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(sb.ModelError, match=r"1,000,000 rows; expected at most 1\d,\d+ in a file of its size"):
        opened(path)


def described(table, **features):
    """A table with what the hub's library says of its features."""
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_images_of_structs_or_bytes_with_texts(tmp_path):
    structs = opened(table_file(tmp_path / "a.parquet", text=["a  cat", "a dog"], id=[1, 2]))
    assert captions(structs) == ["a cat", "a dog"]
    raw = pa.table({"jpg": pa.array([picture(7), picture(8)], pa.large_binary()), "caption": ["x", None]})
    parquet.write_table(raw, tmp_path / "b.parquet")
    plain = opened(tmp_path / "b.parquet")
    assert values(plain) == [7, 8]
    assert captions(plain) == ["x", None]


def test_numbers_of_classes_become_their_names(tmp_path):
    table = pa.table({"img": [{"bytes": picture(k), "path": None} for k in range(3)], "label": [1, -1, 0]})
    names = {"_type": "ClassLabel", "names": ["cat", "sea  lion"]}
    parquet.write_table(described(table, label=names, img={"_type": "Image"}), tmp_path / "a.parquet")
    assert captions(opened(tmp_path / "a.parquet")) == ["sea lion", None, "cat"]
    parquet.write_table(table, tmp_path / "a.parquet")
    assert captions(opened(tmp_path / "a.parquet")) == ["1", "-1", "0"]
    renamed = table.rename_columns(["img", "fine"])
    parquet.write_table(described(renamed, fine=names), tmp_path / "a.parquet")
    assert captions(opened(tmp_path / "a.parquet")) == ["sea lion", None, "cat"]
    parquet.write_table(described(table, label={"_type": "ClassLabel", "names": ["cat"]}), tmp_path / "a.parquet")
    with pytest.raises(sb.ModelError, match=r"a\.parquet: row 0, label: class 1; expected 0 to 0"):
        opened(tmp_path / "a.parquet")


def test_many_row_groups_are_one_order(tmp_path):
    images = pa.array([{"bytes": picture(k)} for k in range(7)])
    parquet.write_table(pa.table({"image": images}), tmp_path / "a.parquet", row_group_size=3)
    data = opened(tmp_path / "a.parquet")
    assert values(data) == list(range(7))
    assert data.keys[6] == "a.parquet row 6"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"x": [1], "text": ["a"]}, r"0 columns hold image files; .*there are: x \(int64\), text \(string\)"),
        ({"image": [b"a"], "mask": [b"a"]}, r"2 columns hold image files; .*there are: image \(binary\), mask \(bin"),
        ({"image": [b"a"], "text": ["a"], "caption": ["b"]}, "text, caption may be the captions; expected one of them"),
        ({"image": [b"a"], "text": [["a", "b"]]}, "column text holds list<.*>; expected texts"),
        ({"image": [b"a"], "caption": [3]}, "column caption holds int64; expected texts"),
        ({"image": [b"a"], "label": [0.5]}, "column label holds double; expected texts, or numbers of classes"),
        ({"image": [b"a"], "text": [" "]}, r"a\.parquet: row 0, text: a caption of 0 characters"),
        ({"image": [b"hello"]}, r"image 0, a\.parquet row 0: looks like something else; expected an image"),
        ({"image": [{"bytes": None, "path": "/etc/passwd"}]}, "0 columns hold image files"),
        ({"image": pa.array([None], pa.binary())}, "a.parquet row 0: no bytes; expected an image file"),
        ({"image": pa.array([], pa.binary())}, r"a\.parquet: no rows; expected images"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, columns, said):
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(sb.ModelError, match=said):
        opened(tmp_path / "a.parquet")


def test_two_columns_of_classes_are_a_choice_unless_one_is_the_label(tmp_path):
    table = pa.table({"image": [picture(1)], "fine": [0], "coarse": [0]})
    names = {"_type": "ClassLabel", "names": ["cat"]}
    parquet.write_table(described(table, fine=names, coarse=names), tmp_path / "a.parquet")
    with pytest.raises(sb.ModelError, match="fine, coarse may be the captions"):
        opened(tmp_path / "a.parquet")
    table = table.rename_columns(["image", "label", "coarse"])
    parquet.write_table(described(table, label=names, coarse=names), tmp_path / "a.parquet")
    assert captions(opened(tmp_path / "a.parquet")) == ["cat"]


def test_columns_that_are_too_large_are_not_read(tmp_path, monkeypatch):
    images = [bytes(10**6)] * 3  # a few bytes, packed
    parquet.write_table(pa.table({"image": images}), tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    monkeypatch.setattr(plugin, "MOST_HELD", 10**6)
    with pytest.raises(
        sb.ModelError, match=r"image are 3,0\d\d,\d\d\d bytes; expected at most 1,000,000 over all files"
    ):
        opened(tmp_path / "a.parquet")


def test_values_that_rows_share_are_counted_once_for_each(tmp_path, monkeypatch):
    table = pa.table({"image": [bytes(range(250)) * 40] * 300})
    encodings = {"a": {"use_dictionary": True}, "b": {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}}
    monkeypatch.setattr(plugin, "MOST_HELD", 10**6)
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    for name, encoding in encodings.items():
        parquet.write_table(table, tmp_path / f"{name}.parquet", **encoding)
        assert plugin._unpacked_size(parquet.read_metadata(tmp_path / f"{name}.parquet"), ["image"]) < 20_000
        pa.set_memory_pool(pool)
        try:
            with pytest.raises(sb.ModelError, match=r"1,0\d\d,\d\d\d bytes; expected at most 1,000,000 over all files"):
                opened(tmp_path / f"{name}.parquet")
        finally:
            pa.set_memory_pool(before)
        assert pool.max_memory() < 1_500_000  # all rows would be 3 MB


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    path = table_file(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        sb.ModelError, match=r"^data 'parquet': pyarrow is missing; pip install 'samplerbench\[parquet\]'"
    ):
        opened(path)


def test_damaged_tables_are_read_or_refused(tmp_path):
    random.seed(4)
    path = table_file(tmp_path / "a.parquet", text=["a", "b"])
    whole = path.read_bytes()
    refused = 0
    for turn in range(100):
        data = bytearray(whole)
        if turn % 3:
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        else:
            del data[random.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            found = opened(path)
            assert all(found.image(i).shape == (3, 4, 4) for i in range(len(found)))
        except sb.ModelError:
            refused += 1
    assert refused > 50


# ---- WebDataset ----


def test_members_of_one_name_are_a_sample(tmp_path):
    path = tar_file(
        tmp_path / "a.tar",
        {
            "x/1.png": picture(1), "x/1.txt": b" a\n cat ", "x/1.json": b'{"caption": "not this"}',
            "x/2.seg.png": picture(9), "x/2.JPG": picture(2, "JPEG"), "x/2.txt": "über".encode(),
            "._x.png": b"left out", "y/.hidden.png": b"left out", "README": b"left out", "notes.txt": b"of no image",
        },
    )  # fmt: skip
    data = opened(path)
    assert data.keys == ["a.tar/x/1.png", "a.tar/x/2.jpg"]
    assert captions(data) == ["a cat", "über"]
    assert values(data) == [1, 2]
    assert data.notes[0].startswith("1 of 2 files are JPEG")


@pytest.mark.parametrize(
    ("kind", "first", "second", "expected"),
    [
        ("json", b'{"caption": "a", "width": 4}', b'{"text": "b"}', ["a", "b"]),
        ("json", b'{"text": "a"}', b"{}", ["a", None]),
        ("json", b"{}", b"[1]", [None, None]),
        ("cls", b"0", b"12", ["0", "12"]),
        ("xyz", b"0", b"12", [None, None]),
    ],
)
def test_captions_of_every_kind(tmp_path, kind, first, second, expected):
    members = {"1.png": picture(1), f"1.{kind}": first, "2.png": picture(2), f"2.{kind}": second}
    assert captions(opened(tar_file(tmp_path / "a.tar", members))) == expected


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_folders_are_read(tmp_path, style):
    name = "ä" * 60 + "/" + "b" * 90 + "/c.png"
    path = tar_file(tmp_path / "a.tar", {name: picture(5)}, format=style)
    with tarfile.open(path, "a") as archive:
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert opened(path).keys == [f"a.tar/{name}"]


def test_names_never_become_paths(tmp_path):
    data = opened(tar_file(tmp_path / "in" / "a.tar", {"../../up.png": picture(1), "/etc/x.png": picture(2)}))
    assert values(data) == [1, 2]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "in"]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({}, "no image among 0 samples; expected .png"),
        ({"a.txt": b"x"}, "no image among 1 samples"),
        ({"a.png": picture(1), "a.jpg": picture(1, "JPEG")}, r"a\.tar/a: is there as png and jpg; expected one image"),
        ({"a.png": picture(1), "b.png": picture(2), "b.txt": b"x"}, r"no \.txt for 1 of 2 images: a\.tar/a; expected"),
        ({"a.png": picture(1), "a.txt": b"\xff"}, r"a\.tar/a\.txt: byte 0 is not UTF-8"),
        ({"a.png": picture(1), "a.txt": b""}, r"a\.tar/a\.txt: a caption of 0 characters"),
        ({"a.png": picture(1), "a.json": b"{"}, r"a\.tar/a\.json: is no JSON"),
        ({"a.png": picture(1), "a.json": b"[" * 100_000}, r"a\.tar/a\.json: is no JSON"),
        ({"a.png": picture(1), "a.json": b'{"text": 3}'}, r"a\.json: its caption is int; expected a text"),
        ({"a.png": picture(1), "a.txt": bytes(2**20 + 1)}, r"a\.txt: 1,048,577 bytes; expected at most 1,048,576"),
        ({"a.jpg": picture(1)}, r"image 0, a\.tar/a\.jpg: is a PNG, whatever its name says"),
        ({"a.png": b""}, r"a\.tar/a\.png: looks like an empty file"),
    ],
)
def test_archives_that_do_not_fit_are_refused(tmp_path, members, said):
    with pytest.raises(sb.ModelError, match=said):
        opened(tar_file(tmp_path / "a.tar", members))


def test_a_name_that_is_there_twice_and_links_are_refused(tmp_path):
    path = tar_file(tmp_path / "a.tar", {"a.png": picture(1)})
    with tarfile.open(path, "a") as archive:
        archive.addfile(tarfile.TarInfo("./a.png"))
    with pytest.raises(sb.ModelError, match=r"member '\./a\.png' is there twice"):
        opened(path)
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        tar_file(path, {"a.png": picture(1)})
        with tarfile.open(path, "a") as archive:
            link = tarfile.TarInfo("b.png")
            link.type, link.linkname = kind, "a.png"
            archive.addfile(link)
        with pytest.raises(sb.ModelError, match=r"member 'b\.png' is a link or no plain file"):
            opened(path)


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_compressed_archives_are_refused_with_the_fix(tmp_path, mode):
    with tarfile.open(tmp_path / "a.tar", f"w:{mode}") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(sb.ModelError, match=r"a\.tar: a compressed archive; expected a plain \.tar"):
        opened(tmp_path / "a.tar")


def test_an_archive_cut_between_members_is_refused(tmp_path):
    path = tar_file(tmp_path / "a.tar", {"a.png": picture(1), "b.png": picture(2)})
    whole = path.read_bytes()
    for length in (0, 512, 1024, 1536, 2000):
        path.write_bytes(whole[:length])
        with pytest.raises(sb.ModelError, match=r"a\.tar: looks like"):
            opened(path)
    header_of_b = whole.index(b"b.png")
    path.write_bytes(whole[:header_of_b] + b"c" + whole[header_of_b + 1 :])
    with pytest.raises(sb.ModelError, match=r"a\.tar: looks like .*no end mark at byte 1024"):
        opened(path)


def header_with(size, name=b"a.png", kind=b"0"):
    """A header whose size is given as 12 bytes, with its right checksum."""
    info = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    info[:100] = name.ljust(100, b"\0")
    info[124:136], info[156:157] = size, kind
    info[148:156] = b" " * 8
    info[148:156] = b"%06o\0 " % sum(info)
    return bytes(info)


NEGATIVE = b"\xff" * 10 + struct.pack(">h", -512)


@pytest.mark.parametrize("kind", [b"0", b"L", b"x", b"g", b"S"])
@pytest.mark.parametrize(
    "size", [NEGATIVE, b"\x80" + b"\0" * 3 + b"\x7f" * 8, b"77777777777\0"], ids=["neg", "huge", "8G"]
)
def test_sizes_that_lie_neither_hang_nor_fill_the_memory(tmp_path, kind, size):
    path = tmp_path / "a.tar"
    name = b"README"  # left out, so that nothing else ends a circle of headers
    path.write_bytes(header_with(b"%011o\0" % 0, name) + header_with(size, name, kind) + bytes(4096))
    with pytest.raises(sb.ModelError, match=r"a\.tar"):
        opened(path)


def test_a_header_as_large_as_a_file_is_refused(tmp_path):
    for length, refused in ((2**10, False), (2**17, True)):
        path = tmp_path / f"{length}.tar"
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            info = tarfile.TarInfo("a.png")
            info.size, info.pax_headers = len(picture(1)), {"comment": "x" * length}
            archive.addfile(info, io.BytesIO(picture(1)))
        if refused:
            with pytest.raises(sb.ModelError, match=r"expected a whole tar archive \(a header of \d+ bytes\)"):
                opened(path)
        else:
            assert values(opened(path)) == [1]


def test_members_without_images_are_not_read_to_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_IDLE", 20)
    path = tar_file(tmp_path / "a.tar", {f"{i}.txt": b"" for i in range(500)})
    headers = []
    inner = tarfile.TarFile.next
    monkeypatch.setattr(tarfile.TarFile, "next", lambda archive: headers.append(1) or inner(archive))
    with pytest.raises(sb.ModelError, match=r"a\.tar: 0 images among its first 21 members; expected one in every 32"):
        opened(path)
    assert len(headers) < 30
    many = {
        f"{i}.{kind}": picture(i) if kind == "png" else b"" for i in range(9) for kind in ("a", "b", "c", "d", "png")
    }
    assert values(opened(tar_file(path, many))) == list(range(9))


def test_an_archive_that_changes_meanwhile_is_refused(tmp_path):
    path = tar_file(tmp_path / "a.tar", {"a.png": picture(1), "b.png": picture(2)})
    data = opened(path)
    tar_file(path, {"a.png": picture(1), "b.png": picture(3)})
    assert torch.equal(data.image(0), torch.full((3, 4, 4), 1, dtype=torch.uint8))
    with pytest.raises(sb.ModelError, match="has changed since the data set was opened"):
        data.image(1)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(sb.ModelError, match="is cut short"):
        data.image(1)


def test_damaged_archives_are_read_or_refused(tmp_path):
    random.seed(6)
    path = tar_file(tmp_path / "a.tar", {"a.png": picture(1), "a.txt": b"x", "b.png": picture(2), "b.txt": b"y"})
    whole = path.read_bytes()
    used = whole.rindex(b"y") + 1024
    refused = 0
    for turn in range(300):
        data = bytearray(whole)
        if turn % 3:
            data[random.randrange(used)] ^= 1 << random.randrange(8)
        else:
            del data[random.randrange(used) :]
        path.write_bytes(data)
        try:
            found = TarImages("a", [path])
            assert values(found) == [1, 2]
        except sb.ModelError:
            refused += 1
    assert refused > 150

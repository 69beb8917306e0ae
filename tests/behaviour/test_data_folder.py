"""The data set "folder": which files, in which order, with which captions, and what is refused."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import samplerbench as sb
from samplerbench.plugins.data import captions as captions_plugin
from samplerbench.plugins.data import folder as plugin
from samplerbench.samplers.image_data import check_count
from samplerbench.samplers.registry import default_registry


def write(folder, name, value=None, mode="RGB", side=4):
    """Store an image of one colour, by default of its own."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    fill = sum(os.fsencode(name)) % 251 if value is None else value
    pixels = np.full((side, side) if mode == "L" else (side, side, 3), fill, np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def keys(data):
    return list(data.keys)


def captions(data):
    return [data.caption(i) for i in range(len(data))]


def opened(folder):
    return default_registry().image_data(str(folder))


@pytest.fixture
def cats(tmp_path):
    """Three images, without captions."""
    folder = tmp_path / "cats"
    for name in ("a.png", "b.png", "c.png"):
        write(folder, name)
    return folder


# ---- Which files ----


def test_images_come_in_the_byte_order_of_their_names(tmp_path):
    names = ["Z.png", "a.png", "a/b.png", "ab.png", "b.PNG", "é.png", "ä/1.png", "10.png", "9.png"]
    for name in names:
        write(tmp_path, name)
    data = opened(tmp_path)
    assert keys(data) == sorted(names, key=os.fsencode)
    assert keys(data)[:3] == ["10.png", "9.png", "Z.png"]
    for i, name in enumerate(keys(data)):
        with Image.open(tmp_path / name) as image:
            assert torch.equal(data.image(i), torch.from_numpy(np.array(image)).permute(2, 0, 1))


@pytest.mark.slow
def test_neither_order_nor_names_hang_on_the_language(tmp_path):
    for name in ("z.png", "ä.png", "B.png", "a.png", "é/a.png"):
        write(tmp_path, name)
        (tmp_path / name).with_suffix(".txt").write_text("x")
    code = (
        "import sys; from pathlib import Path; from samplerbench.plugins.data.folder import FolderImages as F; "
        "assert sys.getfilesystemencoding() == 'ascii'; "
        "d = F(Path(sys.argv[1])); print(ascii(d.keys), d.fingerprint); d.image(2)"
    )
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=plain, capture_output=True, check=True)
    data = opened(tmp_path)
    assert done.stdout.decode() == f"{data.keys!a} {data.fingerprint}\n"


def test_hidden_files_and_other_files_are_left_out(cats):
    before = opened(cats).fingerprint
    write(cats, ".d.png")
    write(cats, ".cache/e.png")
    (cats / "README.md").write_text("cats")
    (cats / "Thumbs.db").write_bytes(b"\0")
    assert keys(opened(cats)) == ["a.png", "b.png", "c.png"]
    assert opened(cats).fingerprint == before


def test_names_that_are_not_utf8_are_read(tmp_path):
    write(tmp_path, os.fsdecode(b"\xff.png"))
    write(tmp_path, "a.png")
    data = opened(tmp_path)
    assert [os.fsencode(name) for name in keys(data)] == [b"a.png", b"\xff.png"]
    assert data.image(1).shape == (3, 4, 4)


def test_sizes_may_differ_and_a_folder_needs_no_prefix(cats):
    write(cats, "d.png", side=9)
    data = opened(f"folder:{cats}")
    assert [data.image(i).shape[-1] for i in range(4)] == [4, 4, 4, 9]
    assert data.fingerprint == opened(cats).fingerprint
    assert data.name == "cats"
    assert data.notes == ()


def test_grey_and_colour_together_are_all_colour(cats):
    write(cats, "d.png", 77, mode="L")
    data = opened(cats)
    assert [len(data.image(i)) for i in range(4)] == [3] * 4
    assert torch.equal(data.image(3), torch.full((3, 4, 4), 77, dtype=torch.uint8))
    assert data.notes == ("1 of 4 images are grey; they count as colour, as the others are.",)


def test_grey_alone_stays_grey(tmp_path):
    write(tmp_path, "a.png", mode="L")
    data = opened(tmp_path)
    assert data.image(0).shape == (1, 4, 4)
    assert data.notes == ()


def test_lossy_files_and_duplicates_are_said(cats):
    write(cats, "d.jpg")
    write(cats, "e.png", sum(b"a.png") % 251)
    lossy, twice = sorted(opened(cats).notes)
    assert lossy.startswith("1 of 5 files are JPEG or lossy WebP: compression moves FID, so numbers against")
    assert "not comparable" in lossy
    assert twice == "1 of 5 images are byte for byte one of the others."


def test_the_fingerprint_hangs_on_names_bytes_and_captions_alone(cats, tmp_path):
    def now():
        return opened(cats).fingerprint

    seen = [now()]
    os.utime(cats / "a.png", (0, 0))
    cats.rename(tmp_path / "dogs")
    (tmp_path / "dogs").rename(cats)
    assert now() == seen[0]
    (cats / "c.png").rename(cats / "d.png")
    seen.append(now())
    write(cats, "d.png", 3)
    seen.append(now())
    (cats / "metadata.csv").write_text("file_name,text\na.png,x\nb.png,x\nd.png,x\n")
    seen.append(now())
    (cats / "metadata.csv").write_text("file_name,text\na.png,x\nb.png,x\nd.png,y\n")
    seen.append(now())
    assert len(set(seen)) == len(seen)


def test_a_file_that_changes_meanwhile_is_refused(cats):
    data = opened(cats)
    write(cats, "b.png", 1)
    data.image(0)
    with pytest.raises(sb.ModelError, match=r"^cats: image 1, b\.png: has changed since the data set was opened"):
        data.image(1)
    (cats / "c.png").unlink()
    with pytest.raises(sb.ModelError, match=r"c\.png: no such file"):
        data.image(2)


# ---- Links ----


def test_links_are_followed_within_the_folder_alone(cats, tmp_path):
    (cats / "d.png").symlink_to("a.png")
    data = opened(cats)
    assert torch.equal(data.image(3), data.image(0))
    assert "1 of 4 images are byte for byte" in data.notes[0]
    (cats / ".hidden").symlink_to("/dev/zero")  # left out
    link = tmp_path / "link"
    link.symlink_to(cats)
    assert opened(link).fingerprint == data.fingerprint


@pytest.mark.parametrize("name", ["d.png", "sub", "README"])
def test_links_out_of_the_folder_are_refused(cats, tmp_path, name):
    write(tmp_path, "elsewhere/x.png")
    target = "../elsewhere/x.png" if name == "d.png" else "../elsewhere"
    (cats / name).symlink_to(target)
    with pytest.raises(sb.ModelError, match="a link that does not lead to a file in this folder; put the files"):
        opened(cats)


@pytest.mark.parametrize(("name", "target"), [("sub", "."), ("d.png", "d.png"), ("d.png", "gone.png")])
def test_links_that_go_in_circles_or_nowhere_are_refused(cats, name, target):
    (cats / name).symlink_to(target)
    with pytest.raises(sb.ModelError, match="a link that does not lead to a file"):
        opened(cats)


# ---- What is refused ----


def test_a_folder_without_images_names_its_count(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(sb.ModelError, match=r"empty: no image among its 0 files; expected \.png, \.jpg"):
        opened(folder)
    (folder / "a.txt").write_text("x")
    with pytest.raises(sb.ModelError, match="no image among its 1 files"):
        opened(folder)
    for spec, said in {"folder:gone": "gone: no such folder", "folder": "expected folder:PATH"}.items():
        with pytest.raises(sb.ModelError, match=said):
            opened(spec)


def test_fewer_than_are_asked_for_names_both_counts(cats):
    data = opened(cats)
    check_count(data, 3)
    with pytest.raises(sb.ModelError, match=r"^data 'cats': 3 images, 2,048 asked for; add images or ask for fewer"):
        check_count(data, 2048)


def test_images_of_kinds_that_are_not_read_are_not_left_out_silently(cats):
    (cats / "d.GIF").write_bytes(b"GIF89a")
    with pytest.raises(sb.ModelError, match=r"1 images of kinds that are not read, such as d\.GIF; expected PNG, JPEG"):
        opened(cats)


def test_a_renamed_or_empty_file_is_named_when_the_folder_is_opened(cats):
    path = write(cats, "d.jpg")
    path.rename(cats / "d.png")
    with pytest.raises(sb.ModelError, match=r"^cats: image 3, d\.png: is a JPEG, whatever its name says"):
        opened(cats)
    (cats / "d.png").write_bytes(b"")
    with pytest.raises(sb.ModelError, match=r"d\.png: looks like an empty file"):
        opened(cats)


def test_damage_behind_the_header_is_named_when_the_image_is_asked_for(cats):
    path = cats / "b.png"
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1
    path.write_bytes(data)
    opened_data = opened(cats)
    with pytest.raises(sb.ModelError, match=r"^cats: image 1, b\.png: a PNG that is damaged or cut short"):
        opened_data.image(1)


def test_folders_in_folders_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(plugin, "MOST_DEPTH", 5)
    write(tmp_path, "a/b/c/d/x.png")
    assert keys(opened(tmp_path)) == ["a/b/c/d/x.png"]
    write(tmp_path, "a/b/c/d/e/f/g/x.png")
    with pytest.raises(sb.ModelError, match=r"a/b/c/d/e: folders in folders, more than 5 deep; expected fewer"):
        opened(tmp_path)


def test_1500_folders_in_each_other_are_one_line(tmp_path):
    """More than Python calls functions within each other."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    with pytest.raises(sb.ModelError, match="folders in folders, more than 64 deep"):
        opened(f"folder:{tmp_path}")
    subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)  # pytest would clear it by calls within each other


def test_files_are_counted_before_all_are_listed(cats, monkeypatch):
    monkeypatch.setattr(plugin, "MOST_FILES", 3)
    assert len(opened(cats)) == 3
    write(cats, "d.png")
    with pytest.raises(sb.ModelError, match="cats: more than 3 files; expected fewer, so take a part of them"):
        opened(cats)


@pytest.mark.parametrize(("name", "most"), [("a.txt", "MOST_TEXT"), ("captions.csv", "MOST_TABLE")])
def test_texts_are_not_read_whatever_their_size(cats, monkeypatch, name, most):
    monkeypatch.setattr(captions_plugin, most, 1000)
    with (cats / name).open("wb") as file:
        file.truncate(10**12)  # bytes that are nowhere
    for other in ("b.txt", "c.txt"):
        (cats / other).write_text("x")
    with pytest.raises(sb.ModelError, match=rf"{name}: 1,000,000,000,000 bytes; expected at most 1,000"):
        opened(cats)


def test_a_pipe_does_not_keep_it_waiting(cats):
    os.mkfifo(cats / "d.png")
    with pytest.raises(sb.ModelError, match=r"d\.png: a folder, pipe or device"):
        opened(cats)


# ---- Captions ----


@pytest.mark.parametrize("caption", ["a.txt", "metadata.csv", "captions.csv"])
def test_captions_may_be_linked_within_the_folder_and_are_never_dropped(tmp_path, caption):
    folder = tmp_path / "folder"
    write(folder, "a.png")
    text = "file_name,text\na.png,a cat\n" if caption.endswith(".csv") else "a cat"
    (folder / "texts").mkdir()
    (folder / "texts" / "kept").write_text(text)
    (folder / caption).symlink_to("texts/kept")
    assert captions(opened(folder)) == ["a cat"]
    (folder / "texts" / "kept").rename(tmp_path / "outside")
    (folder / caption).unlink()
    (folder / caption).symlink_to("../outside")
    with pytest.raises(sb.ModelError, match=rf"{caption}: a link that does not lead to a file in this folder"):
        opened(folder)


def test_class_folders_are_captions(tmp_path):
    for name in ("cat/1.png", "cat/2.png", "a  dog/1.png"):
        write(tmp_path, name)
    assert captions(opened(tmp_path)) == ["a dog", "cat", "cat"]


@pytest.mark.parametrize("names", [("cat/1.png", "cat/2.png"), ("cat/1.png", "dog/2.png", "3.png")])
def test_one_class_or_images_outside_are_no_classes(tmp_path, names):
    for name in names:
        write(tmp_path, name)
    assert captions(opened(tmp_path)) == [None] * len(names)


def test_splits_of_the_same_classes_share_their_captions(tmp_path):
    for name in ("train/cat/1.png", "train/dog/1.png", "val/cat/1.png"):
        write(tmp_path, name)
    assert captions(opened(tmp_path)) == ["cat", "dog", "cat"]


def test_text_files_go_before_class_folders(tmp_path):
    for name in ("cat/1.png", "dog/1.v2.png"):
        write(tmp_path, name)
    (tmp_path / "cat" / "1.txt").write_text(" a black\n\tcat \n", encoding="utf-8-sig")
    (tmp_path / "notes.txt").write_text("of no image")
    with pytest.raises(sb.ModelError, match=r"no \.txt beside 1 of 2 images: dog/1\.v2\.png; expected one for each"):
        opened(tmp_path)
    (tmp_path / "dog" / "1.v2.txt").write_text("ein Hündchen", encoding="utf-8")
    assert captions(opened(tmp_path)) == ["a black cat", "ein Hündchen"]


@pytest.mark.parametrize(("table", "column"), [("metadata.csv", "text"), ("captions.csv", "caption")])
def test_a_table_goes_before_all(tmp_path, table, column):
    for name in ("cat/1.png", "dog/1.png"):
        write(tmp_path, name)
        (tmp_path / name).with_suffix(".txt").write_text("not this")
    text = f'{column},note,file_name\r\n"a dog, with a ""hat""",,dog/1.png\r\n"two\nlines",x,cat/1.png\r\n'
    (tmp_path / table).write_text(text, encoding="utf-8-sig", newline="")
    assert captions(opened(tmp_path)) == ["two lines", 'a dog, with a "hat"']


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "has the columns none; expected file_name and one of text, caption"),
        (b"file,text\n", "has the columns file, text; expected file_name"),
        (b"file_name,text,caption\n", "has the columns file_name, text, caption; expected file_name and one of"),
        (b"file_name,text\na.png,x\nb.png,y\n", r"has no row for 1 of 3 images: c\.png; expected every image once"),
        (b"file_name,text\na.png,x\na.png,y\n", r"line 3: 'a\.png' for the second time"),
        (b"file_name,text\nd.png,x\n", r"line 2: there is no image 'd\.png'"),
        (b"file_name,text\n../../etc/passwd,x\n", "line 2: there is no image '../../etc/passwd'"),
        (b"file_name,text\na.png\n", "line 2: not as many fields as columns; expected 2"),
        (b"file_name,text\na.png,x,y\n", "line 2: not as many fields as columns; expected 2"),
        (b"file_name,text\na.png, \n", "line 2: a caption of 0 characters; expected 1 to 10,000"),
        (b"file_name,text\na.png," + b"x" * 10_001 + b"\n", "line 2: a caption of 10,001 characters"),
        (b'file_name,text\na.png,"x\n', "line 2: unexpected end of data; expected comma-separated values"),
        (b"file_name,text\na.png,\xff\n", "byte 21 is not UTF-8; save it as UTF-8"),
    ],
)
def test_tables_that_do_not_fit_are_refused(cats, text, said):
    (cats / "metadata.csv").write_bytes(text)
    with pytest.raises(sb.ModelError, match=r"metadata\.csv.*" + said):
        opened(cats)


def test_two_tables_and_one_of_another_kind_are_refused(cats):
    (cats / "metadata.jsonl").write_text("{}")
    with pytest.raises(sb.ModelError, match=r"metadata\.jsonl: is not read; expected metadata\.csv"):
        opened(cats)
    for name in ("metadata.csv", "captions.csv"):
        (cats / name).write_text("file_name,text\n")
    with pytest.raises(sb.ModelError, match=r"has metadata\.csv and captions\.csv; expected one"):
        opened(cats)


def test_text_files_that_say_nothing_or_are_not_text_are_named(cats):
    for name in "abc":
        (cats / f"{name}.txt").write_text(name)
    (cats / "b.txt").write_bytes(b"\xff")
    with pytest.raises(sb.ModelError, match=r"b\.txt: byte 0 is not UTF-8"):
        opened(cats)
    (cats / "b.txt").write_bytes(b" \n")
    with pytest.raises(sb.ModelError, match=r"b\.txt: a caption of 0 characters"):
        opened(cats)

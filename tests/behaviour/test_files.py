"""Files that the user names: written whole, with the rights of a new file, through a link that is there."""

import errno
import os
import stat

import numpy as np
import pytest

import samplerbench as sb
from samplerbench.bench.plan.reference_file import About, export
from samplerbench.bench.show.formats import write_output
from samplerbench.bench.show.grid_plot import write_file
from samplerbench.samplers.files import atomic as files
from samplerbench.samplers.files.atomic import write_beside_others, write_named


def write_reference(path, content):
    """A file of rows, whatever the content."""
    about = About("an extractor", "0" * 64, "data", "1" * 64, "8x8", 1, 2)
    export(np.eye(2, dtype=np.float32), about, path)


WRITERS = {"plain": write_named, "table": write_output, "grid": write_file, "reference": write_reference}


@pytest.fixture(params=WRITERS)
def write(request):
    """What writes a file that the user names."""
    return WRITERS[request.param]


@pytest.fixture
def private():
    """New files are their owner's alone."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def rights(path):
    return stat.S_IMODE(path.stat().st_mode)


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_a_link_stays_a_link_and_what_it_leads_to_is_written(write, tmp_path):
    (tmp_path / "far").mkdir()
    link, target = tmp_path / "link.npz", tmp_path / "far" / "there.npz"
    link.symlink_to("far/there.npz")
    write(link, b"first")  # the target is not there yet
    assert link.readlink().as_posix() == "far/there.npz"
    assert target.stat().st_size > 0
    target.write_bytes(b"")
    write(link, b"second")
    assert link.is_symlink()
    assert target.stat().st_size > 0
    assert names(tmp_path) == ["far", "link.npz", "there.npz"]


def test_the_mask_of_the_process_says_who_may_read(write, tmp_path, private):
    write(tmp_path / "a.npz", b"content")
    assert rights(tmp_path / "a.npz") == 0o600
    os.umask(0o027)
    write(tmp_path / "b.npz", b"content")
    assert rights(tmp_path / "b.npz") == 0o640


def test_the_mask_holds_where_several_processes_write(tmp_path, private):
    write_beside_others(tmp_path / "a", b"content")
    assert rights(tmp_path / "a") == 0o600
    assert names(tmp_path) == ["a"]


def test_what_is_no_file_is_refused_and_stays(write, tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "link.npz").symlink_to("pipe.npz")
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    before = names(tmp_path)
    for name in ("pipe.npz", "folder.npz", "link.npz"):
        with pytest.raises(sb.StoreError, match=rf"output .*{name}: is no file; expected the name of one"):
            write(tmp_path / name, b"content")
    with pytest.raises((sb.StoreError, OSError), match=os.strerror(errno.ELOOP)):
        write(tmp_path / "loop.npz", b"content")
    assert names(tmp_path) == before
    assert (tmp_path / "pipe.npz").is_fifo()
    assert (tmp_path / "loop.npz").is_symlink()


def test_a_disk_that_is_full_leaves_what_was_there(write, tmp_path, monkeypatch):
    (tmp_path / "a.npz").write_bytes(b"before")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises((sb.StoreError, OSError), match=os.strerror(errno.ENOSPC)):
        write(tmp_path / "a.npz", b"after")
    assert names(tmp_path) == ["a.npz"]
    assert (tmp_path / "a.npz").read_bytes() == b"before"


def test_the_longest_name_that_a_folder_takes_can_be_written(write, tmp_path):
    name = "x" * 251 + ".npz"
    write(tmp_path / name, b"content")
    assert names(tmp_path) == [name]

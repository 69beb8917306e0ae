"""Files that torch.save wrote: what is read of a stranger's, and how little a small one can ask for."""

import pickle
import struct
import zipfile

import pytest
import torch
from torch import nn

import samplerbench as sb
from samplerbench.plugins.extractors.files import read_pickled
from samplerbench.samplers.files import torch_file, zip_file
from samplerbench.samplers.files.torch_file import read_torch_file
from samplerbench.samplers.files.zip_file import members_of, open_zip
from samplerbench.samplers.nets.training import Recipe, fit

RECIPE = Recipe("phase", steps=4, lr=0.1, warmup=1, ema=0.5, bf16=False)


class Made:
    """Is unpickled as function(*arguments)."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.pt"


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_numbers_and_texts_are_read(path, zipped):
    shared = torch.arange(6.0)
    content = {
        "whole": torch.arange(3), "half": torch.ones(2, dtype=torch.bfloat16), "parameter": nn.Parameter(torch.ones(1)),
        "view": shared[::2], "all": shared, "step": 3, "rate": 0.5, "name": "x", "nested": [{"a": (torch.ones(1),)}],
    }  # fmt: skip
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    read = read_torch_file(path)
    assert torch.equal(read.pop("half"), content.pop("half"))
    assert str(read) == str(content)


MEMORY = {
    "bytes": Made(bytearray, 10**12),
    "sparse": torch.ones(2).to_sparse(),
    "meta": torch.empty(10**12, device="meta"),
}


@pytest.mark.parametrize("thing", MEMORY)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_makes_memory_out_of_a_number_is_refused_before_it_is_read(path, monkeypatch, thing, zipped):
    torch.save({"w": torch.ones(1), "other": MEMORY[thing]}, path, _use_new_zipfile_serialization=zipped)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(ValueError, match="holds more than tensors and numbers"):
        read_torch_file(path)
    with pytest.raises(sb.ModelError, match=r"no file of weights .*more than tensors"):
        read_pickled(path)


def test_a_name_that_is_put_together_when_it_is_run_is_refused(path):
    path.write_bytes(pickle.dumps({"b": Made(bytearray, 10**12)}, protocol=4))
    with pytest.raises(ValueError, match="holds more than tensors and numbers"):
        read_torch_file(path)


@pytest.mark.parametrize(
    "content",
    [
        {"w": torch.zeros(1).expand(10**12)},
        dict.fromkeys("abcdefgh", torch.zeros(4096)),
        [torch.zeros(4096)] * 9,
    ],
    ids=["a number repeated", "one tensor of many names", "one tensor many times"],
)
def test_tensors_that_are_larger_than_their_file_are_refused(path, content):
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"^tensors of at least [\d,]+ bytes in a file of [\d,]+$"):
        read_torch_file(path)


def test_lists_of_themselves_are_looked_through_once(path):
    within = [torch.ones(1)]
    for _ in range(60):
        within = [within, within]  # 2^60 ways to the tensor
    torch.save(within, path)
    assert read_torch_file(path)


def test_an_archive_that_unpacks_to_more_is_refused_before_it_is_read(path, monkeypatch):
    torch.save({"w": torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(sb.ModelError, match=r"an archive of [\d,]+ bytes that unpacks to 4,0[\d,]+\); delete it"):
        read_pickled(path)


def test_programs_and_members_are_bounded(path, monkeypatch):
    torch.save([1] * 200, path)
    monkeypatch.setattr(torch_file, "MOST_PROGRAM", 100)
    with pytest.raises(ValueError, match=r"data.pkl of [\d,]+ bytes, where at most 100 are read"):
        read_torch_file(path)
    torch.save([1] * 200, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="a pickle of more than 100 bytes"):
        read_torch_file(path)


# ---- Archives ----


def archive_of(path, members, comment=b""):
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = comment
        for i in range(members):
            archive.writestr(str(i), b"")


@pytest.mark.parametrize("comment", [b"", b"a comment", b"c" * 65_535])
def test_members_are_counted_without_a_list_of_them(path, monkeypatch, comment):
    archive_of(path, 30, comment)
    assert members_of(path) == 30
    with open_zip(path, 30) as archive:
        assert len(archive.infolist()) == 30
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("listed"))
    with pytest.raises(ValueError, match="an archive of 30 members, where at most 29 are read"), open_zip(path, 29):
        pass


def test_members_are_counted_in_zip64_too(path):
    archive_of(path, 2)
    whole = path.read_bytes()
    place = whole.rfind(zip_file.END_MARK)
    large = b"PK\x06\x06" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, 70_000, 70_000, 100, 0)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, place, 1)
    end = whole[place : place + 8] + struct.pack("<HH", 0xFFFF, 0xFFFF) + whole[place + 12 :]
    path.write_bytes(whole[:place] + large + locator + end)
    assert members_of(path) == 70_000


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"x" * 100, b"PK\x05\x06" + bytes(17)])
def test_what_is_no_archive_has_no_members(path, content):
    path.write_bytes(content)
    assert members_of(path) == 0


# ---- Checkpoints ----


@pytest.fixture
def checkpoint(path):
    """A checkpoint after two of four steps, and what goes on from it."""

    def fitted(*, stop_at=None):
        torch.manual_seed(0)

        def report(progress):
            if progress.step == stop_at:
                raise KeyboardInterrupt

        return fit(
            nn.Linear(3, 2), lambda net, step: net(torch.ones(1, 3)).square().sum(), RECIPE, checkpoint=path,
            report=report, every_seconds=0.0,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        fitted(stop_at=3)
    return fitted


def test_a_checkpoint_goes_on_with_the_rates_of_its_recipe(path, checkpoint):
    state = read_torch_file(path)
    assert state["step"] == 2
    expected = checkpoint()
    state["optimizer"]["param_groups"][0] |= {"weight_decay": "x", "betas": None, "eps": 1e9}
    torch.save(state, path)
    assert all(torch.equal(a, b) for a, b in zip(expected.values(), checkpoint().values(), strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"step": float("inf")}, {"step": 10**9}, {"step": -1}, {"step": "x"}, {"loss": []}, {"ema": {}}, {"ema": 3},
        {"ema": {"weight": torch.ones(2, 2), "bias": torch.ones(2)}}, {"network": {"weight": torch.ones(9)}},
        {"optimizer": {}}, {"optimizer": {"state": {0: {"exp_avg": torch.ones(7)}}}},
        {"optimizer": {"state": {0: {"exp_avg": "x"}}}}, {"optimizer": {"state": 3}},
    ],
    ids=str,
)  # fmt: skip
def test_a_checkpoint_that_cannot_be_is_refused_in_one_line(path, checkpoint, change):
    torch.save(read_torch_file(path) | change, path)
    with pytest.raises(sb.ModelError, match=r"of another training; delete it to start this phase again$"):
        checkpoint()


def test_a_checkpoint_that_asks_for_memory_is_refused(path, checkpoint):
    state = read_torch_file(path)
    state["network"]["weight"] = torch.zeros(1).expand(10**6, 10**6)
    torch.save(state, path)
    with pytest.raises(sb.ModelError, match="not a checkpoint, or damaged"):
        checkpoint()

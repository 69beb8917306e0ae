"""Rows of prompts: where they are made, in which precision, what is on disk, and when encoders leave the memory."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch

import samplerbench as sb
from samplerbench.plugins.models.diffusers import text_rows
from samplerbench.plugins.models.diffusers.text_rows import HERE, LARGE, TextRows, beyond, remove_oldest
from samplerbench.samplers.model import EncodesAnywhere, encode_on
from samplerbench.samplers.predictor import NetworkFault
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
CARD = torch.device("cuda", 0), torch.float16
"""A device that this machine need not have: the encoder below computes nowhere."""


class Encoder:
    """Stands in for a text encoder."""

    fingerprint = "weights"

    def __init__(self, weights_bytes=LARGE):
        self.weights_bytes, self.place, self.asked, self.released = weights_bytes, HERE, [], 0

    def row(self, text):
        self.asked.append((text, *self.place))
        if text == "nothing":
            return torch.full((3,), torch.nan)
        if text == "everything":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
        return torch.full((3,), float(len(text)), dtype=self.place[1])

    def release(self):
        self.released += 1


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where rows are kept."""
    monkeypatch.setattr(text_rows, "rows_folder", lambda: tmp_path / "texts")
    return tmp_path / "texts"


def rows_by(encoder, *settings):
    return TextRows(encoder.row, (encoder,), settings)


def test_a_row_is_made_where_the_network_is_and_once(folder):
    encoder = Encoder()
    rows = rows_by(encoder)
    there = rows.on(*CARD)
    assert there.on(*CARD) is rows.on(*CARD) is there
    made = there(["a", "bb", "a"])
    assert encoder.asked == [("a", *CARD), ("bb", *CARD)]
    assert made.tolist() == [[1] * 3, [2] * 3, [1] * 3]
    assert (made.dtype, made.device.type) == (torch.float32, "cpu")


def test_on_the_cpu_the_precision_of_the_network_changes_no_row(folder):
    encoder = Encoder()
    rows = rows_by(encoder)
    assert rows.on(torch.device("cpu"), torch.float64) is rows.on(torch.device("cpu"), torch.bfloat16) is rows
    rows(["a"])
    assert encoder.asked == [("a", *HERE)]


def test_large_encoders_are_asked_ahead_and_let_go(folder):
    encoder = Encoder()
    there = rows_by(encoder).on(*CARD)
    there.ready(["a", "bb", "a", ""])
    assert [text for text, *_ in encoder.asked] == ["a", "bb", ""]
    assert encoder.released == 1
    again = Encoder()  # of another process
    assert torch.equal(rows_by(again).on(*CARD)(["bb", ""]), torch.tensor([[2.0] * 3, [0.0] * 3]))
    assert not again.asked


@pytest.mark.parametrize(
    "other",
    [
        lambda e: rows_by(e).on(CARD[0], torch.bfloat16), rows_by, lambda e: rows_by(e, 2).on(*CARD),
        lambda e: setattr(e, "fingerprint", "others") or rows_by(e).on(*CARD),
    ],
)  # fmt: skip
def test_a_row_on_disk_is_of_one_encoder_place_and_setting(folder, other):
    rows_by(Encoder()).on(*CARD).ready(["a"])
    encoder = Encoder()
    other(encoder)(["a"])
    assert len(encoder.asked) == 1


def test_small_encoders_stay_and_write_nothing(folder):
    encoder = Encoder(LARGE - 1)
    there = rows_by(encoder).on(*CARD)
    there.ready(["a"])
    there(["a"])
    assert encoder.released == 0
    assert not folder.exists()


def test_a_damaged_row_is_made_again(folder):
    rows_by(Encoder()).ready(["a"])
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-4])
    encoder = Encoder()
    assert rows_by(encoder)(["a"]).tolist() == [[1.0] * 3]
    assert len(encoder.asked) == 1


def test_a_row_with_another_number_is_made_again(folder):
    rows_by(Encoder()).ready(["a"])
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-4] + bytes(4))
    assert rows_by(Encoder())(["a"]).tolist() == [[1.0] * 3]
    assert rows_by(unasked := Encoder())(["a"]).tolist() == [[1.0] * 3]
    assert not unasked.asked


@pytest.mark.parametrize("name", ["switches", "code_hash"])
def test_a_row_of_another_code_or_of_other_switches_of_torch_is_made_again(folder, monkeypatch, name):
    rows_by(Encoder()).on(*CARD).ready(["a"])
    monkeypatch.setattr(text_rows, name, lambda: "other")
    rows_by(encoder := Encoder()).on(*CARD)(["a"])
    assert len(encoder.asked) == 1


def test_rows_that_are_asked_for_are_not_the_oldest(folder):
    rows_by(Encoder()).ready(["a"])
    (file,) = folder.iterdir()
    os.utime(file, (1, 1))
    rows_by(Encoder())(["a"])
    assert file.stat().st_mtime > 1


def test_where_rows_find_no_place_on_the_disk_the_encoders_stay(folder, monkeypatch):
    encoder = Encoder()
    with monkeypatch.context() as patched:
        patched.setattr(text_rows, "MOST_ON_DISK", 20)
        rows_by(encoder).ready(["a", "bb"])
    assert encoder.released == 0
    folder.parent.joinpath("a file").touch()
    monkeypatch.setattr(text_rows, "rows_folder", lambda: folder.parent / "a file")
    rows_by(encoder).ready(["a", "bb"])
    assert encoder.released == 0


def test_the_oldest_rows_go_first(tmp_path):
    assert beyond([(3.0, 5, "c"), (2.0, 5, "b"), (1.0, 5, "a")], 11) == ["a"]
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(5))
    remove_oldest(tmp_path, 10)
    assert len(list(tmp_path.iterdir())) == 2
    remove_oldest(tmp_path, 0)
    assert not list(tmp_path.iterdir())
    remove_oldest(tmp_path / "none", 0)


def test_what_an_encoder_cannot_do_is_said_in_one_line(folder):
    there = rows_by(Encoder(8 * 10**9)).on(*CARD)
    with pytest.raises(
        NetworkFault, match=r"NaN or infinity for prompt 'nothing', in float16 on cuda:0; try --dtype b"
    ):
        there(["nothing"])
    with pytest.raises(NetworkFault, match=r"no memory on cuda:0 for its weights of 8 GB and a text; try a smaller"):
        there(["everything"])
    with pytest.raises(NetworkFault, match="try --dtype bfloat16, which takes half"):
        rows_by(Encoder()).on(CARD[0], torch.float32)(["everything"])


def test_a_run_encodes_before_it_loads_its_network(tmp_path):
    toy = load_registry([TOY]).model("toy")
    events = []

    class Encode:
        """An `encode` that can compute anywhere."""

        def __call__(self, texts):
            return toy.encode(texts)

        def on(self, device, dtype):
            events.append(("on", device.type, dtype))
            return self

        def ready(self, texts):
            events.append(("ready", *texts))

    def network(device, dtype):
        events.append("network")
        return toy.network(device, dtype)

    assert isinstance(Encode(), EncodesAnywhere)
    assert encode_on(toy.encode, *CARD) is toy.encode
    model = dataclasses.replace(toy, encode=Encode(), network=network)
    settings = {"steps": 2, "n": 64, "metrics": [], "plugins": [TOY], "dtype": "float64", "output": tmp_path / "run"}
    sb.run(model, ["ddim"], guidance=2.0, **settings)
    ready = ("ready", *toy.prompts, "")
    assert ready in events
    assert events.index(ready) < events.index("network")
    assert ("on", "cpu", torch.float64) in events

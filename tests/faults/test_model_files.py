"""Model files that are not what they should be: nothing in them runs, nothing hangs, one line says what they are."""

import ast
import hashlib
import json
import os
import pickle
import re
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import nn

import samplerbench as sb_
from cases import thinned
from samplerbench.plugins.models.fashion_mnist.model import WEIGHTS
from samplerbench.plugins.models.fashion_mnist.networks import FOLDER
from samplerbench.samplers.errors import describe_error
from samplerbench.samplers.files import weights
from samplerbench.samplers.files.weights import SUMS, file_hash, load_weights, read_weights, write_sums
from samplerbench.samplers.nets.training import Recipe, fit, read_checkpoint

ROOT = Path(__file__).parents[2]
PLUGIN = """
import torch
from samplerbench import Model, hookimpl, vp_linear
from samplerbench.samplers.files.weights import load_weights

def small(path):
    network = load_weights(torch.nn.Conv2d(1, 1, 3, padding=1), __import__("pathlib").Path(path))
    return Model("small", lambda device, dtype: lambda x, t: network(x), vp_linear(), (1, 4, 4))

def careless(path):
    torch.load(path)

@hookimpl
def samplerbench_models():
    return {"small": small, "careless": careless}
"""


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, trap):
        self.trap = str(trap)

    def __reduce__(self):
        return os.mkdir, (self.trap,)


@pytest.fixture
def trap(tmp_path):
    """A folder that is there if something was run."""
    yield tmp_path / "was-run"
    assert not (tmp_path / "was-run").exists()


@pytest.fixture
def network():
    """A small network to fill."""
    return nn.Conv2d(1, 1, 3, padding=1)


@pytest.fixture
def file(tmp_path, network):
    """Its weights, well stored."""
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path)
    return path


@pytest.fixture
def folder(tmp_path):
    """The embedded model's files as links, without their sums."""
    path = tmp_path / "model"
    path.mkdir()
    for name in WEIGHTS:
        (path / f"{name}.safetensors").symlink_to(FOLDER / f"{name}.safetensors")
    return path


def refusal(act):
    """The one line that refuses a file."""
    with pytest.raises(sb_.ModelError) as caught:
        act()
    assert caught.value.exit_code == 4
    text = str(caught.value)
    assert "weights_only" not in text
    return text


# Not what it should be


def torch_file(thing, tmp_path):
    """What torch.save writes."""
    torch.save(thing, tmp_path / "thing.pt")
    return (tmp_path / "thing.pt").read_bytes()


KINDS = {
    "pickle": (lambda path, trap: pickle.dumps(Evil(trap)), "looks like a pickle, which is never read"),
    "torch.save": (lambda path, trap: torch_file({"w": Evil(trap)}, path), "looks like a zip archive, as torch.save"),
    "empty": (lambda path, trap: b"", "looks like an empty file"),
    "cut": (
        lambda path, trap: save({"a": torch.ones(99)})[:-8],
        "looks like a safetensors file that is damaged",
    ),
    "HTML": (lambda path, trap: b"\n <!DOCTYPE html><html>404</html>" * 9, "looks like an HTML page"),
    "html": (lambda path, trap: b"<html>404</html>", "looks like an HTML page"),
    "XML": (lambda path, trap: b'<?xml version="1.0"?><Error/>', "looks like an XML page"),
    "LFS": (lambda path, trap: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "looks like a git-lfs"),
    "NumPy": (lambda path, trap: b"\x93NUMPY\x01\x00" + b"x" * 99, "looks like a NumPy array"),
    "gzip": (lambda path, trap: b"\x1f\x8b" + b"x" * 99, "looks like a gzip archive"),
    "noise": (lambda path, trap: bytes(range(99, 199)), "looks like something else"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_refused_by_what_it_looks_like(tmp_path, trap, network, kind):
    make, words = KINDS[kind]
    path = tmp_path / "weights.safetensors"
    path.write_bytes(make(tmp_path, trap))
    text = refusal(lambda: load_weights(network, path))
    assert text.startswith(f"{path}: {words}")


def test_a_file_is_hashed_without_being_held_and_only_where_a_sum_is_known(tmp_path, file, monkeypatch):
    other = tmp_path / "other.bin"
    other.write_bytes(bytes(range(256)) * 999)
    expected = hashlib.sha256(file.read_bytes() + other.read_bytes()).hexdigest()
    write_sums(tmp_path, ["other.bin"])
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("read whole"))
    assert file_hash(file, other) == expected
    monkeypatch.setattr(weights, "file_hash", lambda *paths: pytest.fail("hashed though it is not listed"))
    assert set(read_weights(file)) == {"weight", "bias"}


@pytest.mark.parametrize("kind", ["pickle", "torch.save", "HTML"])
def test_the_program_says_so_in_one_line(sb, tmp_path, trap, folder, kind):
    make, words = KINDS[kind]
    (tmp_path / "plugin.py").write_text(PLUGIN)
    bad = make(tmp_path, trap)
    (folder / "clip.safetensors").unlink()
    (folder / "clip.safetensors").write_bytes(bad)
    (tmp_path / "bad.safetensors").write_bytes(bad)
    sb("run", "--model", "fashion-mnist:model").refused(4, "clip.safetensors", words)
    sb("run", "--plugin", "plugin.py", "--model", "small:bad.safetensors").refused(4, "bad.safetensors", words)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_pipe_is_refused_and_nobody_waits_for_it(folder, name):
    (folder / f"{name}.safetensors").unlink()
    os.mkfifo(folder / f"{name}.safetensors")
    text = refusal(lambda: sb_.load_model(f"fashion-mnist:{folder}"))
    assert f"{name}.safetensors: a folder, pipe or device; expected a file" in text


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    assert "a folder, pipe or device" in refusal(lambda: read_weights(tmp_path / "folder"))
    assert "no such file" in refusal(lambda: read_weights(tmp_path / "nothing"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "loop" in refusal(lambda: read_weights(tmp_path / "loop"))


def test_a_model_of_a_plugin_that_reads_carelessly_runs_nothing_and_nothing_unsafe_is_advised(sb, tmp_path, trap):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    torch.save({"w": Evil(trap)}, tmp_path / "evil.pt")
    done = sb("run", "--plugin", "plugin.py", "--model", "careless:evil.pt")
    done.refused(4, "model 'careless:evil.pt'", "holds more than tensors and numbers; it was not read")
    assert "weights_only" not in done.err
    assert "weights_only" not in describe_error(pickle.UnpicklingError("set `weights_only` to `False`"))
    assert describe_error(ValueError("as it is")) == "ValueError: as it is"


# Headers


def headed(header, data=b"\0" * 64):
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape=(2, 3), at=(0, 24), dtype="F32"):
    """One tensor of a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(at)}


HEADERS = {
    "length of 2^63": struct.pack("<Q", 2**63) + b"{}",
    "length beyond the end": struct.pack("<Q", 1000) + b"{}",
    "length 0": struct.pack("<Q", 0),
    "no JSON": headed(b"{nothing"),
    "no UTF-8": headed(b'{"\xff": 1}'),
    "a list": headed([]),
    "nested without end": headed(b'{"a":' * 5000),
    "an unknown type": headed({"a": entry(dtype="F31")}, b"\0" * 24),
    "a type of no name": headed({"a": entry(dtype=3)}, b"\0" * 24),
    "negative sizes": headed({"a": entry((-2, -3))}, b"\0" * 24),
    "more than the data": headed({"a": entry((2, 3), (0, 2400))}, b"\0" * 24),
    "less than the data": headed({"a": entry((2, 2), (0, 16))}, b"\0" * 24),
    "offsets backwards": headed({"a": entry((2, 3), (24, 0))}, b"\0" * 24),
    "offsets that overlap": headed({"a": entry((2, 2), (0, 16)), "b": entry((2, 2), (8, 24))}, b"\0" * 24),
    "a hole": headed({"a": entry((1,), (0, 4)), "b": entry((1,), (20, 24))}, b"\0" * 24),
    "a size that overflows": headed({"a": entry((2**62, 4), (0, 24))}, b"\0" * 24),
    "10^15 numbers": headed({"a": entry((10**15,), (0, 4 * 10**15))}, b"\0" * 24),
    "no shape": headed({"a": {"dtype": "F32", "data_offsets": [0, 24]}}, b"\0" * 24),
    "metadata of another kind": headed({"__metadata__": {"a": 5}, "a": entry()}, b"\0" * 24),
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_that_cannot_be_is_refused(tmp_path, network, header):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(HEADERS[header])
    assert "looks like" in refusal(lambda: read_weights(path))


def test_500_flipped_bits_open_with_finite_values_or_are_refused(file, network):
    whole = file.read_bytes()
    assert load_weights(network, file)
    rng = np.random.default_rng(4)
    refused = 0
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        try:
            load_weights(network, file)
        except sb_.ModelError as error:
            assert str(file) in str(error)  # noqa: PT017  (in a loop)
            refused += 1
        else:
            assert all(bool(t.isfinite().all()) for t in network.state_dict().values())
    assert 250 < refused < 500  # the header is three quarters of this file


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool])
def test_numbers_of_another_kind_do_not_fit(file, network, dtype):
    save_file({k: torch.ones_like(v).to(dtype) for k, v in network.state_dict().items()}, file)
    assert "2 tensors do not fit Conv2d: weight, bias" in refusal(lambda: load_weights(network, file))


# Well-formed, and wrong


def test_of_tensors_that_do_not_fit_the_first_five_are_named(tmp_path):
    network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    tensors = network.state_dict()
    path = tmp_path / "weights.safetensors"
    shapes = {name: t[:1].clone() if name < "3" else t for name, t in tensors.items()}
    save_file(shapes, path)
    text = refusal(lambda: load_weights(network, path))
    assert "6 tensors do not fit Sequential: 0.weight, 0.bias, 1.weight, 1.bias, 2.weight ..." in text
    save_file({f"other.{name}": t for name, t in list(tensors.items())[:1]}, path)
    text = refusal(lambda: load_weights(network, path))
    assert "9 tensors do not fit" in text
    assert text.count(".weight") + text.count(".bias") == 5


@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "NaN or infinity"), (float("inf"), "NaN or infinity"), (0.0, "all zeros")]
)
def test_weights_that_no_training_gives_are_named(folder, network, file, value, words):
    tensors = load_file(file)
    save_file({**tensors, "weight": torch.full_like(tensors["weight"], value)}, file)
    assert f"tensor 'weight' {'is' if value == 0 else 'holds'} {words}" in refusal(lambda: load_weights(network, file))
    own = folder / "unet.safetensors"
    tensors = load_file(own)
    name = next(name for name in sorted(tensors) if tensors[name].ndim > 1)
    own.unlink()
    save_file({**tensors, name: torch.full_like(tensors[name], value)}, own)
    assert repr(name) in refusal(lambda: sb_.load_model(f"fashion-mnist:{folder}"))


def test_biases_may_be_zero(network, file):
    save_file({**load_file(file), "bias": torch.zeros(1)}, file)
    assert float(load_weights(network, file).bias) == 0


# Sums


def test_the_package_s_own_weights_are_those_that_its_sums_say():
    listed = dict(reversed(line.split()) for line in (FOLDER / SUMS).read_text().splitlines())
    assert listed == {f"{name}.safetensors": file_hash(FOLDER / f"{name}.safetensors") for name in WEIGHTS}


@pytest.mark.parametrize("name", thinned(WEIGHTS, "unet", "reference"))
def test_weights_that_are_not_those_of_the_sums_are_refused(folder, name):
    shutil.copy(FOLDER / SUMS, folder)
    sb_.load_model(f"fashion-mnist:{folder}")
    file = folder / f"{name}.safetensors"
    content = bytearray(file.read_bytes())
    file.unlink()
    content[-5] ^= 1  # the last bits of a number: as finite as before
    file.write_bytes(content)
    text = refusal(lambda: sb_.load_model(f"fashion-mnist:{folder}"))
    assert re.search(rf"{name}.safetensors: its SHA-256 begins with [0-9a-f]{{12}}, {SUMS} says [0-9a-f]{{12}};", text)
    (folder / SUMS).unlink()  # where no sum is known there is none to be held to
    sb_.load_model(f"fashion-mnist:{folder}")


def test_sums_are_those_of_sha256sum_and_say_nothing_of_other_files(tmp_path, file):
    (tmp_path / "other").write_bytes(b"other")
    write_sums(tmp_path, ["other"])
    assert (tmp_path / SUMS).read_text() == "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa  other\n"
    assert read_weights(file)
    (tmp_path / SUMS).write_text(f"{file_hash(file).upper()} *{file.name}\n")
    assert read_weights(file)
    (tmp_path / SUMS).write_text(f"{'0' * 64} *{file.name}\n")
    assert "SHA-256" in refusal(lambda: read_weights(file))


@pytest.mark.parametrize("right", [True, False])
def test_sums_with_a_byte_order_mark_are_held_to(tmp_path, file, right):
    digest = file_hash(file) if right else "0" * 64
    (tmp_path / SUMS).write_bytes(b"\xef\xbb\xbf" + f"{digest}  {file.name}\n".encode())
    if right:
        assert read_weights(file)
    else:
        assert "SHA-256" in refusal(lambda: read_weights(file))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"one\n", b"\n"])
def test_sums_that_cannot_be_read_are_refused(tmp_path, file, content):
    (tmp_path / SUMS).write_bytes(content)
    assert f"{SUMS}: cannot be read" in refusal(lambda: read_weights(file))


# Checkpoints


def test_a_checkpoint_runs_nothing(tmp_path, trap):
    torch.save({"network": Evil(trap)}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(trap)))
    os.mkfifo(tmp_path / "fifo.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("evil", "plain", "fifo", "list"):
        text = refusal(lambda name=name: read_checkpoint(tmp_path / f"{name}.pt", "cpu"))
        assert f"{name}.pt: not a checkpoint, or damaged" in text


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    recipe = Recipe("phase", steps=1, lr=1e-3, bf16=False)
    path = tmp_path / "phase.pt"
    fit(nn.Linear(2, 2), lambda net, step: net(torch.ones(1, 2)).sum(), recipe, checkpoint=path)
    wider = nn.Linear(3, 2)
    loss = lambda net, step: net(torch.ones(1, 3)).sum()  # noqa: E731
    assert "of another training" in refusal(lambda: fit(wider, loss, recipe, checkpoint=path))


# The package


def test_nothing_in_the_package_unpickles():
    """torch.load alone, and only with weights_only=True; no pickle, no NumPy file that may hold objects."""
    calls = 0
    for path in [p for part in ("samplers", "plugins", "bench", "templates") for p in (ROOT / part).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]} if not node.level else set()
            else:
                names = set()
            assert not names & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
                called = ast.unparse(node.func)
                assert called not in {"np.load", "numpy.load", "torch.jit.load", "torch.hub.load"}, path
                if called == "torch.load":
                    calls += 1
                    assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path
    assert calls == 1  # samplers/files/torch_file.py


def test_the_oldest_torch_that_is_allowed_is_one_whose_weights_only_holds():
    (line,) = re.findall(r'"torch>=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert tuple(map(int, line)) >= (2, 10)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_fewer_bits_are_named(file, network, dtype):
    save_file({k: v.to(dtype) for k, v in network.state_dict().items()}, file)
    text = refusal(lambda: load_weights(network, file))
    assert f"is {dtype}; expected float16, bfloat16, float32, float64: store it so" in text


def test_double_weights_beyond_float32_are_refused(file, network):
    save_file({k: torch.full_like(v, 1e300, dtype=torch.float64) for k, v in network.state_dict().items()}, file)
    assert "NaN or infinity" in refusal(lambda: load_weights(network, file))


def test_headers_and_json_are_bounded(tmp_path, file, network, monkeypatch):
    file.write_bytes(headed({"__metadata__": {"a": "x" * 2**22}}))
    assert re.search(
        r"a header of 4,194,\d+ bytes, where at most 4,194,304 are read", refusal(lambda: read_weights(file))
    )
    monkeypatch.setattr(weights, "load_file", lambda *_: pytest.fail("read"))
    save_file({"weight": torch.ones(1, 1, 3, 3), "bias": torch.ones(2)}, file)  # refused by its header
    assert "1 tensors do not fit Conv2d: bias" in refusal(lambda: load_weights(network, file))
    for name, content, words in (
        ("large", b" " * (2**23 + 1), "8,388,609 bytes; expected at most 8,388,608"),
        ("deep", b'{"a":' * 65 + b"{}" + b"}" * 65, "nested more than 64 deep"),
        ("number", b'{"a": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
        ("infinitely", b"[" * 10**6, "cannot be read as JSON"),
    ):
        (tmp_path / name).write_bytes(content)
        assert words in refusal(lambda name=name: weights.read_json(tmp_path / name))
    (tmp_path / "right").write_bytes(b"\xef\xbb\xbf" + b'{"a":' * 63 + b"[[]]" + b"}" * 63)
    assert weights.read_json(tmp_path / "right")


def test_names_of_tensors_stay_on_their_line(file, network):
    save_file({"a\nb\x1b[31m": torch.ones(1), "c" * 5000: torch.ones(1)}, file)
    text = refusal(lambda: load_weights(network, file))
    assert text.isprintable()
    assert len(text) < 500


def test_reading_damaged_files_warns_of_nothing(file, network):
    with warnings.catch_warnings(action="error"):
        load_weights(network, file)

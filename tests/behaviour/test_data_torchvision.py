"""The data sets of torchvision: read from its own files, checked before they are, downloaded only where allowed."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch

import samplerbench as sb
from cases import Lazily
from samplerbench.plugins.data.torchvision import KNOWN
from samplerbench.plugins.models.fashion_mnist import data as fashion_mnist
from samplerbench.samplers.registry import default_registry
from samplerbench.samplers.variables import ALLOW_DOWNLOAD

RNG = np.random.default_rng(9)
datasets = Lazily("torchvision.datasets")


def opened(spec):
    return default_registry().image_data(spec)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Where the files are looked for."""
    monkeypatch.setattr(fashion_mnist, "download_root", lambda: tmp_path)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.delenv(ALLOW_DOWNLOAD, raising=False)
    return tmp_path


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def cifar(root, monkeypatch, kind="CIFAR10", label_key="labels"):
    """A CIFAR of two batches to train on and one to test with, two images each; rows of all their pixels."""
    cls = getattr(datasets, kind)
    folder = root / cls.base_folder
    folder.mkdir()
    rows = RNG.integers(0, 256, (6, 3072), np.uint8)
    names = ["b1", "b2", "t"]
    for k, name in enumerate(names):
        batch = {"data": rows[2 * k : 2 * k + 2], label_key: [k, 1]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({"names": ["air_plane", "car", "bird"]}, protocol=2))
    sums = [[name, md5(folder / name)] for name in names]
    monkeypatch.setattr(cls, "train_list", sums[:2])
    monkeypatch.setattr(cls, "test_list", sums[2:])
    monkeypatch.setattr(cls, "meta", {"filename": "meta", "key": "names", "md5": md5(folder / "meta")})
    return torch.from_numpy(rows).reshape(-1, 3, 32, 32)


@pytest.mark.parametrize(
    ("name", "kind", "label_key"),
    [("cifar10", "CIFAR10", "labels"), ("cifar100", "CIFAR100", "fine_labels")],
)
def test_cifar_is_read_from_its_batches(root, monkeypatch, name, kind, label_key):
    pixels = cifar(root, monkeypatch, kind, label_key)
    train, test = opened(name), opened(f"{name}:test")
    assert train.name == f"{name} train"
    assert test.name == f"{name} test"
    assert all(torch.equal(train.image(i), pixels[i]) for i in range(4))
    assert all(torch.equal(test.image(i), pixels[4 + i]) for i in range(2))
    assert [train.caption(i) for i in range(4)] == ["air plane", "car", "car", "car"]
    assert [test.caption(i) for i in range(2)] == ["bird", "car"]
    assert train.fingerprint == opened(f"{name}:train").fingerprint != test.fingerprint


class Mischief:
    """A pickle that leaves a trace where it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["b1", "t", "meta"])
def test_a_changed_pickle_is_refused_and_does_not_run(root, monkeypatch, name):
    cifar(root, monkeypatch)
    trace = root / "trace"
    (root / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Mischief(trace)))
    for split in ("train", "test"):
        with pytest.raises(sb.ModelError, match="not as it was published; allow its download"):
            opened(f"cifar10:{split}")
    assert not trace.exists()


def test_the_published_sums_are_those_that_are_compared(root):
    """Without a change to torchvision's own list, no file that is made here is read."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    trace = root / "trace"
    for name, _ in [*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list, ["batches.meta", ""]]:
        (folder / name).write_bytes(pickle.dumps(Mischief(trace)))
    with pytest.raises(sb.ModelError, match="not as it was published"):
        opened("cifar10")
    assert not trace.exists()


def idx(folder, prefix, images, labels, packed):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, head, array in (
        ("images-idx3", struct.pack(">4I", 2051, *images.shape), images),
        ("labels-idx1", struct.pack(">2I", 2049, len(labels)), labels),
    ):
        data = head + array.tobytes()
        name = f"{prefix}-{kind}-ubyte"
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)


@pytest.mark.parametrize(
    ("name", "folder", "packed", "captions"),
    [
        ("mnist", "MNIST/raw", False, ["three", "seven"]),
        ("fashion-mnist", "FashionMNIST/raw", True, ["dress", "sneaker"]),
        ("fashion-mnist", "debian", True, ["dress", "sneaker"]),
    ],
)
def test_idx_files_are_read(root, name, folder, packed, captions):
    images = RNG.integers(0, 256, (4, 28, 28), np.uint8)
    labels = np.uint8([3, 7])
    idx(root / folder, "train", images[:2], labels, packed)
    idx(root / folder, "t10k", images[2:], labels, packed)
    for split, first in (("train", 0), ("test", 2)):
        data = opened(f"{name}:{split}")
        assert [data.caption(i) for i in range(2)] == captions
        assert all(torch.equal(data.image(i)[0], torch.from_numpy(images[first + i])) for i in range(2))


def test_stl10_has_images_without_captions(root, monkeypatch):
    folder = root / "stl10_binary"
    folder.mkdir()
    pixels = RNG.integers(0, 256, (2, 3, 96, 96), np.uint8)
    for name in ("train_X.bin", "test_X.bin", "unlabeled_X.bin"):
        (folder / name).write_bytes(pixels.transpose(0, 1, 3, 2).tobytes())
    for name in ("train_y.bin", "test_y.bin"):
        (folder / name).write_bytes(bytes([1, 3]))
    (folder / "class_names.txt").write_text("airplane\nbird\ncar\n")
    for attribute in ("train_list", "test_list"):
        files = [[name, md5(folder / name)] for name, _ in getattr(datasets.STL10, attribute)]
        monkeypatch.setattr(datasets.STL10, attribute, files)
    for spec, captions in {"stl10": ["airplane", "car"], "stl10:unlabeled": [None, None]}.items():
        data = opened(spec)
        assert [data.caption(i) for i in range(2)] == captions
        assert torch.equal(data.image(1), torch.from_numpy(pixels[1]))


def test_svhn_is_read_from_its_file(root, monkeypatch):
    io = pytest.importorskip("scipy.io")
    pixels = RNG.integers(0, 256, (32, 32, 3, 2), np.uint8)
    io.savemat(root / "test_32x32.mat", {"X": pixels, "y": np.uint8([[10], [4]])})
    files = {"test": ["", "test_32x32.mat", md5(root / "test_32x32.mat")], "train": ["", "none", ""]}
    monkeypatch.setattr(datasets.SVHN, "split_list", files)
    data = opened("svhn:test")
    assert [data.caption(i) for i in range(2)] == ["0", "4"]
    assert torch.equal(data.image(1), torch.from_numpy(pixels[..., 1]).permute(2, 0, 1))
    with pytest.raises(sb.ModelError, match="data 'svhn': not in"):
        opened("svhn")


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_what_is_not_there_is_said_with_its_size_and_nothing_is_fetched(root, monkeypatch, known):
    def fetch(*_args, **_kwargs):
        pytest.fail("it asked the network")

    monkeypatch.setattr("urllib.request.urlopen", fetch)
    with pytest.raises(sb.ModelError, match=rf"^data '{known.name}': not in .*\({known.size}\) with --allow-download"):
        opened(known.name)
    assert not list(root.iterdir())


def test_a_download_that_was_allowed_is_tried_and_its_failure_is_one_line(root, monkeypatch):
    asked = []

    def fetch(url, *_args, **_kwargs):
        asked.append(url)
        raise OSError("no route")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    monkeypatch.setenv(ALLOW_DOWNLOAD, "1")
    with pytest.raises(sb.ModelError, match=r"^data 'cifar10': its download \(170 MB\) failed \(OSError: no route\)"):
        opened("cifar10")
    assert asked == [datasets.CIFAR10.url]


def test_an_unknown_split_is_refused(root):
    with pytest.raises(sb.InputError, match=r"unknown split 'tst' \(did you mean 'test'\?\); expected one of train"):
        opened("mnist:tst")


def test_damaged_numbers_are_refused(root):
    idx(root / "MNIST/raw", "train", np.zeros((2, 28, 28), np.uint8), np.uint8([1, 2]), False)
    idx(root / "MNIST/raw", "t10k", np.zeros((2, 28, 28), np.uint8), np.uint8([1, 2]), False)
    path = root / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(sb.ModelError, match="mnist"):
        opened("mnist")

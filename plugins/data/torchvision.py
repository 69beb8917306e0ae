"""Data sets that torchvision knows, read by its own classes from ~/.cache/samplerbench: "cifar10", "cifar10:test".

Captions are the names of the classes. A set that is not there is downloaded only where that was allowed. torchvision
compares the files of CIFAR, STL-10 and SVHN with the MD5 sums of the originals before it reads them, which matters for
CIFAR: its files are pickles, and a stranger's would run. MNIST and Fashion-MNIST are plain numbers.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...samplers.errors import InputError, ModelError, closest, describe_error
from ...samplers.image_data import ImageData, ImageDataFactory
from ...samplers.plugin import hookimpl
from ...samplers.variables import ALLOW_DOWNLOAD, is_on
from ..models.fashion_mnist import data as fashion_mnist
from .arrays import ArrayImages


class Loaded(NamedTuple):
    """uint8 (N, 1 or 3, H, W), the class number of each image (negative = none) and the names of the classes."""

    images: NDArray[np.uint8]
    labels: Sequence[int]
    classes: Sequence[str]


Load = Callable[[Path, str, bool], Loaded]
"""Root folder, split and whether to download -> the images; RuntimeError if they are not there as they should be."""


def load_cifar10(root: Path, split: str, download: bool) -> Loaded:
    """CIFAR-10 (Krizhevsky 2009)."""
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, root, split, download)


def load_cifar100(root: Path, split: str, download: bool) -> Loaded:
    """CIFAR-100 (Krizhevsky 2009), its fine classes."""
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, root, split, download)


def _cifar(cls: Callable[..., Any], root: Path, split: str, download: bool) -> Loaded:
    with warnings.catch_warnings():
        # The originals were pickled by a NumPy whose way to name a type a newer one warns of.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        stored = cls(str(root), train=split == "train", download=download)
    return Loaded(np.moveaxis(stored.data, 3, 1), stored.targets, [name.replace("_", " ") for name in stored.classes])


def load_mnist(root: Path, split: str, download: bool) -> Loaded:
    """MNIST (LeCun et al. 1998)."""
    from torchvision.datasets import MNIST

    stored = MNIST(str(root), train=split == "train", download=download)
    names = [name.rpartition(" ")[2] for name in stored.classes]  # of "7 - seven"
    return Loaded(stored.data[:, None].numpy(), stored.targets.tolist(), names)


def load_fashion_mnist(root: Path, split: str, download: bool) -> Loaded:
    """Fashion-MNIST (Xiao et al. 2017), from the Debian package's folder too."""
    if not fashion_mnist.folder_there() and not download:
        raise RuntimeError("not found")
    stored = fashion_mnist.load_split(split == "train")
    return Loaded(stored.images.numpy(), stored.labels.tolist(), fashion_mnist.CLASSES)


def load_stl10(root: Path, split: str, download: bool) -> Loaded:
    """STL-10 (Coates et al. 2011)."""
    from torchvision.datasets import STL10

    stored = STL10(str(root), split=split, download=download)
    return Loaded(stored.data, np.asarray(stored.labels, dtype=int).tolist(), stored.classes)


def load_svhn(root: Path, split: str, download: bool) -> Loaded:
    """Street View House Numbers (Netzer et al. 2011), the cropped digits."""
    try:
        import scipy.io  # noqa: F401  (torchvision reads the files with it)
    except ImportError as error:
        raise ModelError("data 'svhn': its files are read with SciPy; pip install scipy") from error
    from torchvision.datasets import SVHN

    stored = SVHN(str(root), split=split, download=download)
    return Loaded(stored.data, stored.labels.tolist(), [str(digit) for digit in range(10)])


class Known:
    """One of the data sets: "name" or "name:split"."""

    def __init__(self, name: str, splits: Sequence[str], size: str, load: Load) -> None:
        self.name, self.splits, self.size, self.load = name, splits, size, load
        self.__doc__ = f"{load.__doc__} {name}:SPLIT, one of {', '.join(splits)}; {size}."

    def __call__(self, argument: str) -> ImageData:
        """The images of a split, the first one if none is named."""
        split = argument or self.splits[0]
        if split not in self.splits:
            raise InputError(
                f"data {self.name!r}: unknown split {split!r}{closest(split, self.splits)}; expected one of "
                f"{', '.join(self.splits)}"
            )
        images, labels, classes = self._load(split)
        captions = [classes[label] if label >= 0 else None for label in labels]
        return ArrayImages(f"{self.name} {split}", images, captions)

    def _load(self, split: str) -> Loaded:
        root = fashion_mnist.download_root()
        try:
            # First as it is there: only where it is not does it matter whether a download is allowed.
            return self.load(root, split, False)
        except RuntimeError as error:
            if not is_on(ALLOW_DOWNLOAD, os.environ):
                raise ModelError(
                    f"data {self.name!r}: not in {root}, or not as it was published; allow its download ({self.size}) "
                    f"with --allow-download or {ALLOW_DOWNLOAD}=1, or put the files that torchvision fetches there"
                ) from error
        try:
            return self.load(root, split, True)
        except Exception as error:  # torchvision raises whatever its transport raises
            raise ModelError(
                f"data {self.name!r}: its download ({self.size}) failed ({describe_error(error)}); try again, or put "
                f"the files that torchvision fetches into {root}"
            ) from error


KNOWN = (
    Known("cifar10", ("train", "test"), "170 MB", load_cifar10),
    Known("cifar100", ("train", "test"), "170 MB", load_cifar100),
    Known("mnist", ("train", "test"), "12 MB", load_mnist),
    Known("fashion-mnist", ("train", "test"), "31 MB", load_fashion_mnist),
    Known("stl10", ("train", "test", "unlabeled"), "2.6 GB", load_stl10),
    Known("svhn", ("train", "test", "extra"), "64 MB to 1.3 GB", load_svhn),
)


@hookimpl
def samplerbench_data() -> dict[str, ImageDataFactory]:
    """The data sets of torchvision whose files its classes check and read."""
    return {known.name: known for known in KNOWN}

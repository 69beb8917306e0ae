"""The extractors that papers use, by torch-fidelity: Inception (FID, inception score), VGG16, DINOv2, CLIP's images.

torch-fidelity resizes and normalises as each network's numbers are published. By itself it would download weights
and read any pickle; here it gets weights that were read without executing anything in the file.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...samplers.errors import InputError, ModelError, closest, in_line
from ...samplers.extractor import Extractor, ExtractorFactory, Once
from ...samplers.metric import Rows
from ...samplers.registry import hookimpl
from .dinov2 import SIZES, DinoV2
from .files import Published, check_finite, check_hash, fill, find_file, read_pickled
from .images import GREY_NOTE, as_colour, in_batches, move_to

Outputs = Callable[[Tensor], tuple[Tensor, ...]]
"""uint8 (B, 3, H, W) -> one tensor (B, d) a role."""


@dataclass(frozen=True)
class Fidelity:
    """A network of torch-fidelity."""

    registered: str
    """Its name in torch-fidelity."""
    roles: Mapping[str, str]
    """Role that metrics read -> its name in torch-fidelity."""
    label: str
    frechet: str
    file: Published
    note: str = GREY_NOTE


INCEPTION = Fidelity(
    "inception-v3-compat", {"features": "2048", "logits": "logits_unbiased"}, "Inception", "FID",
    Published(
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "weights-inception-2015-12-05-6726825d.pth", 96, "6726825d",
    ),
)  # fmt: skip
VGG16 = Fidelity(
    "vgg16", {"features": "fc2_relu"}, "VGG16", "FD-VGG",
    Published("https://download.pytorch.org/models/vgg16-397923af.pth", "vgg16-397923af.pth", 553, "397923af"),
)  # fmt: skip
CLIP_HASH = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
CLIP = Fidelity(
    "clip-vit-b-32", {"features": "clip"}, "CLIP ViT-B/32", "FD-CLIP",
    Published(
        f"https://openaipublic.azureedge.net/clip/models/{CLIP_HASH}/ViT-B-32.pt",
        f"clip-vit-b-32-{CLIP_HASH}.pt", 354, CLIP_HASH,
    ),
)  # fmt: skip


def dinov2_of(size: str) -> Fidelity:
    """DINOv2 in one of its sizes, "vit-b-14"."""
    letter = SIZES[size].letter
    stem = f"dinov2_vit{letter}14"
    note = f"papers' FD-DINOv2 is of ViT-L/14, resized by another filter; {GREY_NOTE}"
    return Fidelity(
        f"dinov2-{size}", {"features": "dinov2"}, f"DINOv2 ViT-{letter.upper()}/14", "FD-DINOv2",
        Published(
            f"https://dl.fbaipublicfiles.com/dinov2/{stem}/{stem}_pretrain.pth", f"{stem}_pretrain.pth",
            SIZES[size].megabytes,
        ),
        note,
    )  # fmt: skip


def rows_of(outputs: Outputs, images: Tensor) -> tuple[Rows, ...]:
    """The outputs of a network of torch-fidelity for images, an array (n, d) for each role, from one pass."""
    widths: list[int] = []

    def together(batch: Tensor) -> Tensor:
        parts = outputs(batch)
        widths[:] = [part.shape[1] for part in parts]
        return torch.cat([part.float() for part in parts], dim=1)

    # One pass for all outputs: features and logits come from the same network.
    rows = in_batches(together, as_colour(images))
    ends = [sum(widths[: i + 1]) for i in range(len(widths))]
    return tuple(rows[:, end - width : end] for width, end in zip(widths, ends, strict=True))


def extractors(network: Fidelity, path: Path, fingerprint: str, build: Callable[[], Outputs]) -> dict[str, Extractor]:
    """Its extractors by role; the weights are read when they are first needed."""
    outputs = functools.cache(build)
    seen = Once(lambda images: rows_of(move_to(outputs(), images.device), images))

    def reading(i: int) -> Callable[[Tensor, Sequence[str]], Rows]:
        return lambda images, prompts: seen(images)[i]

    is_published = fingerprint.startswith(network.file.sha256)
    label = network.label if is_published else f"{network.label} of {path.name}"
    return {
        role: Extractor(
            label, reading(i), note=network.note, fingerprint=fingerprint,
            frechet=network.frechet if is_published and role == "features" else "", on_device=network is not CLIP,
        )
        for i, role in enumerate(network.roles)
    }  # fmt: skip


def build_network(network: Fidelity, **settings: Any) -> Outputs:
    """The network, which torch-fidelity builds with the weights given to it."""
    from torch_fidelity.utils import create_feature_extractor

    try:
        built: Outputs = create_feature_extractor(
            network.registered, list(network.roles.values()), cuda=False, verbose=False, **settings
        )
    except Exception as error:  # torch-fidelity raises whatever torch does
        raise ModelError(f"{network.file.name}: does not fit {network.label} ({in_line(error)})") from error
    return built


def from_pickle(network: Fidelity, path: Path) -> Outputs:
    """The network with the tensors of a file, which torch-fidelity reads from our own copy of them."""
    tensors = read_pickled(path)
    check_finite(tensors, path)
    # torch-fidelity unpickles what it is given, so it gets a file that we wrote.
    copy = io.BytesIO()
    torch.save(tensors, copy)
    copy.seek(0)
    return build_network(network, feature_extractor_weights_path=copy)


def from_archive(network: Fidelity, path: Path) -> Outputs:
    """The network of a TorchScript archive, which is a program: read only if it is byte by byte what was published."""
    content = path.read_bytes()
    # The bytes that were hashed are those that are read: a file could be exchanged in between.
    if hashlib.sha256(content).hexdigest() != network.file.sha256:
        raise ModelError(f"{path}: is not what its authors published; delete it and fetch it again")
    return build_network(network, feature_extractor_weights_path=io.BytesIO(content))


def factory_of(network: Fidelity, name: str) -> ExtractorFactory:
    """Factory of "name" and of "name:FILE", with the user's own weights."""

    def factory(argument: str = "") -> Mapping[str, Extractor]:
        path = Path(argument) if argument else find_file(network.file, f"extractor {name!r}")
        fingerprint = check_hash(path, "" if argument else network.file.sha256)
        return extractors(network, path, fingerprint, lambda: from_pickle(network, path))

    factory.__doc__ = f"{network.label}, by torch-fidelity; {name}:FILE reads weights of your own."
    return factory


def clip_images(argument: str = "") -> Mapping[str, Extractor]:
    """The image tower of OpenAI's CLIP ViT-B/32."""
    if argument:
        raise InputError(f"extractor 'clip-vit-b-32:{argument}': takes no argument; clip:{argument} reads another CLIP")
    path = find_file(CLIP.file, "extractor 'clip-vit-b-32'")
    return extractors(CLIP, path, check_hash(path, CLIP.file.sha256), lambda: from_archive(CLIP, path))


def dinov2(argument: str = "") -> Mapping[str, Extractor]:
    """DINOv2, by default "vit-b-14"; torch-fidelity's resizing, our network, as its own is code that it downloads."""
    size = argument or "vit-b-14"
    if size not in SIZES:
        raise InputError(
            f"extractor 'dinov2:{argument}': unknown size{closest(argument, SIZES)}; expected {', '.join(SIZES)}"
        )
    network = dinov2_of(size)
    path = find_file(network.file, f"extractor 'dinov2:{size}'")

    def build() -> Outputs:
        transformer = DinoV2(SIZES[size])
        fill(transformer, read_pickled(path), path)
        return with_preparation(transformer)

    return extractors(network, path, check_hash(path), build)


def with_preparation(transformer: nn.Module, side: int = 224) -> Outputs:
    """Grey levels resized and normalised as torch-fidelity does for DINOv2, then the network."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as resize

    mean, deviation = (255 * torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def outputs(images: Tensor) -> tuple[Tensor, ...]:
        resized = resize(images.float(), size=(side, side), align_corners=False)
        normal = (resized - mean.to(images.device)) / deviation.to(images.device)
        return (move_to(transformer, images.device)(normal),)

    return outputs


@hookimpl
def samplerbench_extractors() -> dict[str, ExtractorFactory]:
    """Inception, VGG16, DINOv2 and CLIP's image tower."""
    return {
        "inception": factory_of(INCEPTION, "inception"),
        "vgg16": factory_of(VGG16, "vgg16"),
        "dinov2": dinov2,
        "clip-vit-b-32": clip_images,
    }

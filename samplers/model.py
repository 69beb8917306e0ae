"""Model: everything that a run needs to know of what it samples from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

from .errors import InputError
from .extractor import Extractor
from .image_data import ImageData
from .predictor import (
    Clip,
    Guided,
    Network,
    NetworkPredictor,
    Predictor,
    Predicts,
    Timesteps,
    check_clip,
    clipped,
)
from .schedule import Schedule
from .training import Report

NetworkLoader = Callable[[torch.device, torch.dtype], Network]
Encode = Callable[[Sequence[str]], Tensor]
IMAGE_DIMS = 3
IMAGE_CHANNELS = (1, 3)
GREY_LEVELS_FROM = 16
"""States none of which is negative and some of which are above this are grey levels, not a sampler gone astray."""


@dataclass(frozen=True)
class Model:
    """A network with its schedule and all that surrounds it."""

    name: str
    network: NetworkLoader
    """(device, dtype) -> the network there."""
    schedule: Schedule
    shape: tuple[int, ...]
    """Of one state, without the batch."""
    predicts: Predicts = "eps"
    timesteps: Timesteps = "fractional"
    """What the network knows: any t, or whole ones alone."""
    clip: Clip | None = None
    """Bounds of x0, (low, high) or `dynamic_threshold()`; None = not clipped."""
    batch_size: int = 64
    """Rows of one network call, unless the user says otherwise."""
    encode: Encode | None = None
    """Prompts -> condition (n, ...); None = unconditional."""
    unconditional: Encode | None = None
    """As `encode`, for "no prompt" (the texts are only counted)."""
    check_texts: Callable[[Sequence[str]], object] | None = None
    """Raises what `encode` would raise at texts that the model cannot read, without the work; None = `encode` does."""
    guide: Callable[[Tensor, float], Tensor] | None = None
    """(condition, guidance) -> condition, for a network that is told the guidance and asked once (distilled guidance);
    None = the answers with and without the prompt are mixed."""
    prompts: tuple[str, ...] = ()
    """The model's own balanced captions: sample i takes prompts[i mod len]."""
    decode: Callable[[Tensor], Tensor] | None = None
    """Clean states -> uint8 images; None = `to_images`."""
    image_shape: tuple[int, int, int] | None = None
    """(C, H, W) of the images that `decode` makes."""
    extractors: Mapping[str, Extractor] = field(default_factory=dict)
    """What each metric may read, by name: "features" for FID, "clip" for the CLIP score."""
    fingerprint: str = ""
    """Hash of the weights: part of what identifies a result."""

    @property
    def shown_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the images; None where the states are no images."""
        if self.decode:
            return self.image_shape
        return self.shape if is_image_shape(self.shape) else None

    def mixes(self, guidance: float) -> bool:
        """Whether guidance of this strength asks the network twice: with the prompt and without."""
        return self.encode is not None and self.guide is None and guidance != 1

    def images(self, x: Tensor) -> Tensor | None:
        """Clean states (n, *shape) -> uint8 (n, C, H, W), None where the states are no images."""
        return self.decode(x) if self.decode else to_images(x)


MOST_PIXELS_ASIDE = 16_384


def parse_size(size: object) -> tuple[int, int]:
    """512, "512", "512x768" or (512, 768) -> (width, height)."""
    sides = size.lower().split("x") if isinstance(size, str) else size if isinstance(size, tuple | list) else [size]
    whole = [int(str(side)) for side in sides if str(side).isascii() and str(side).isdigit()]
    if (
        len(whole) != len(sides)
        or len(whole) not in (1, 2)
        or not all(1 <= side <= MOST_PIXELS_ASIDE for side in whole)
    ):
        raise InputError(
            f"size {size!r}: expected width x height, each from 1 to {MOST_PIXELS_ASIDE} pixels, as in 512 or 512x768"
        )
    return whole[0], whole[-1]


def is_image_shape(shape: tuple[int, ...]) -> TypeGuard[tuple[int, int, int]]:
    """Whether states of this shape are images as they are: (1 or 3, H, W)."""
    return len(shape) == IMAGE_DIMS and shape[0] in IMAGE_CHANNELS


def to_images(x: Tensor) -> Tensor | None:
    """[-1, 1] -> uint8, rounded to the nearest grey level; None unless the shape is (n, 1|3, H, W).

    What is beyond -1 or 1 is cut off there. InputError for what was never meant to be in [-1, 1].
    """
    if not is_image_shape(tuple(x.shape[1:])):
        return None
    if not x.is_floating_point() or (x.numel() and bool(x.min() >= 0) and bool(x.max() > GREY_LEVELS_FROM)):
        seen = f"{x.dtype} from {float(x.min()):g} to {float(x.max()):g}"
        raise InputError(
            f"states of {seen}: expected floating numbers from -1 to 1; give grey levels g as g / 127.5 - 1"
        )
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def predictor_for(  # noqa: PLR0913  (what a prediction depends on)
    model: Model,
    *,
    prompts: Sequence[str],
    negative: str | None,
    guidance: float,
    guidance_rescale: float = 0.0,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Predictor:
    """The model's network as a predictor for these prompts, guided and clipped as asked."""
    network = model.network(device, dtype)

    def ask(condition: Tensor | None) -> NetworkPredictor:
        if condition is not None:  # whole numbers, such as those of classes, stay what they are
            condition = condition.to(device, dtype if condition.is_floating_point() else condition.dtype)
        return NetworkPredictor(network, model.predicts, model.timesteps, batch_size, condition, dtype)

    predictor: Predictor
    if model.encode is None:
        predictor = ask(None)
    else:
        condition = model.encode(prompts)
        predictor = ask(model.guide(condition, guidance) if model.guide else condition)
        if model.mixes(guidance):
            against = model.encode if negative is not None else model.unconditional or model.encode
            texts = [negative or ""] * len(prompts)
            predictor = Guided(predictor, ask(against(texts)), guidance, guidance_rescale)
    return clipped(predictor, model.clip)


def wrap_network(  # noqa: PLR0913  (what a network needs to be a model)
    network: Network,
    schedule: Schedule,
    shape: Sequence[int],
    predicts: Predicts = "eps",
    clip: Clip | None = None,
    timesteps: Timesteps = "fractional",
    *,
    encode: Encode | None = None,
    batch_size: int = 64,
    name: str = "network",
) -> Model:
    """A model from any callable.

    `network(x, t)`, or `network(x, t, condition)` if `encode` (prompts -> condition (n, ...)) is given: x is the
    state (B, *shape), unscaled; t (B,) of x's dtype (int64 with timesteps="integer"): the training timestep for VP
    (0 ... T-1), sigma for EDM, the flow time for flow. The answer has x's shape and is what `predicts` says:
    eps | x0 | v = alpha eps - sigma x0 | flow = eps - x0. `clip=(-1, 1)` clips x0 and derives eps from it;
    `clip=dynamic_threshold()` does so with bounds that follow each sample.

    A torch module is copied where the run needs it in another dtype, on another device or out of training mode.
    """
    if not callable(network):
        raise InputError(
            f"network: got a {type(network).__name__}; expected a callable network(x, t) or a torch module"
        )
    NetworkPredictor(network, predicts, timesteps, batch_size)  # refuses wrong names
    check_clip(clip)

    def on(device: torch.device, dtype: torch.dtype) -> Network:
        return module_on(network, device, dtype) if isinstance(network, nn.Module) else network

    return Model(
        name=name, network=on, schedule=schedule, shape=tuple(shape), predicts=predicts, clip=clip,
        timesteps=timesteps, encode=encode, batch_size=batch_size,
    )  # fmt: skip


def module_on(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The module itself if it is there in evaluation mode, else a copy that is."""
    first = next(module.parameters(), None)
    there = first is None or (first.device == device and first.dtype == dtype)
    if there and not module.training:
        return module
    return copy.deepcopy(module).to(device=device, dtype=dtype).eval().requires_grad_(False)


@runtime_checkable
class TrainableModel(Protocol):
    """What `samplerbench train NAME` asks of a registered model beyond loading it."""

    def __call__(self, argument: str) -> Model:
        """Load the model; `argument` is what follows the colon in "name:argument", or ''."""
        ...

    def train(self, *, data: Path | None, output: Path, seed: int, report: Report) -> None:
        """Train it on `data` (None = wherever it finds its data) and write its files to `output`, resuming there."""
        ...


@runtime_checkable
class TrainableOnImages(Protocol):
    """What `samplerbench train NAME --data DATA` asks of a registered model that learns any images."""

    def __call__(self, argument: str) -> Model:
        """Load the model; `argument` is what follows the colon in "name:argument", or ''."""
        ...

    def train_on(self, images: ImageData, *, output: Path, seed: int, report: Report, **settings: Any) -> Sequence[str]:
        """Train it on `images` and write its files to `output`, resuming there; returns what the user should know.

        Its other keyword-only parameters are the settings of its training, which the command line gives by name.
        """
        ...


@runtime_checkable
class ModelWithData(Protocol):
    """What `samplerbench doctor` asks of a registered model that is trained on a data set."""

    def data_folder(self) -> Path | None:
        """Where the data set is on this machine; None if it is not there. Nothing is fetched to find out."""
        ...

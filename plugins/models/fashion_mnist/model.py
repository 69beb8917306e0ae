"""The embedded model: a text-conditioned DDPM on Fashion-MNIST, with the CLIP that conditions it."""

from __future__ import annotations

import copy
import csv
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ....samplers.clip import CLIP
from ....samplers.errors import InputError, ModelError
from ....samplers.extractor import Extractor
from ....samplers.model import Model
from ....samplers.noise import check_seed
from ....samplers.predictor import Network
from ....samplers.registry import ModelFactory, hookimpl
from ....samplers.schedule import vp_linear
from ....samplers.training import Progress, Report
from ....samplers.weights import (
    SUMS,
    channels_last,
    file_hash,
    load_weights,
    read_weights,
    save_weights,
    write_sums,
)
from .data import CLASSES, SIDE, folder_there, load_split
from .networks import CONDITION_DIM, FEATURE_DIM, FOLDER, FeatureNet, new_clip, new_unet
from .recipe import PREDICTS, condition_of, train_clip, train_ddpm, train_features

EXTRACT_BATCH = 64
LOG_EVERY_SECONDS = 20.0
WEIGHTS = ("unet", "clip", "features", "reference", "clip_reference")
"""What `train` writes, each a safetensors file."""
CNN = "fashion-mnist CNN"
CLIP_LABEL, CLIP_NOTE = "fashion-mnist CLIP", "this CLIP also conditions the model"

Rows = npt.NDArray[np.float32]


class FashionMNIST:
    """Loads and trains the embedded model; "fashion-mnist:DIR" loads what `train` wrote to DIR."""

    def __call__(self, argument: str = "") -> Model:
        """The model, from the package's own weights or from a folder."""
        folder = Path(argument) if argument else FOLDER
        if not folder.is_dir():
            raise ModelError(
                f"model 'fashion-mnist:{argument}': no such folder; expected what `samplerbench train` wrote"
            )
        files = {name: folder / f"{name}.safetensors" for name in WEIGHTS}
        unet = channels_last(load_weights(new_unet(), files["unet"]))
        clip = load_clip(folder)
        classifier = load_weights(FeatureNet(), files["features"])
        return Model(
            name="fashion-mnist" if not argument else f"fashion-mnist:{argument}",
            network=_per_place(unet),
            schedule=vp_linear(),
            shape=(1, SIDE, SIDE),
            predicts=PREDICTS,
            clip=(-1.0, 1.0),
            encode=_encoder(clip),
            unconditional=lambda texts: torch.zeros(len(texts), CONDITION_DIM),
            prompts=CLASSES,
            extractors={
                "features": _rows_extractor(CNN, classifier.features, files["features"], files["reference"]),
                "logits": _rows_extractor(CNN, classifier, files["features"]),
                "clip": _clip_extractor(clip, files["clip"]),
                "clip_image": _rows_extractor(
                    CLIP_LABEL, clip.embed_images, files["clip"], files["clip_reference"], note=CLIP_NOTE
                ),
            },
            fingerprint=file_hash(files["unet"], files["clip"]),
        )

    def data_folder(self) -> Path | None:
        """Where Fashion-MNIST is on this machine; needed for training alone."""
        return folder_there()

    def train(self, *, data: Path | None, output: Path, seed: int, report: Report) -> None:
        """Train features, CLIP and DDPM; each phase resumes from its checkpoint in `output`/checkpoints."""
        check_seed(seed)
        train_split, test_split = load_split(True, data), load_split(False, data)
        output.mkdir(parents=True, exist_ok=True)
        (output / SUMS).unlink(missing_ok=True)  # what it says of is about to change
        checkpoints = output / "checkpoints"
        logged = _logged(output / "training.csv", report)

        features = train_features(train_split, seed, checkpoints / "features.pt", logged)
        save_weights(features.state_dict(), output / "features.safetensors")
        save_reference(features.features, test_split.images, output / "reference.safetensors")

        clip = train_clip(train_split, seed, checkpoints / "clip.pt", logged)
        save_weights(clip.state_dict(), output / "clip.safetensors")
        save_reference(clip.embed_images, test_split.images, output / "clip_reference.safetensors")

        unet = train_ddpm(train_split, clip, seed, checkpoints / "ddpm.pt", logged)
        save_weights(unet.state_dict(), output / "unet.safetensors")
        write_sums(output, [f"{name}.safetensors" for name in WEIGHTS])


def load_clip(folder: Path = FOLDER) -> CLIP:
    """The CLIP of the embedded model: `embed_images`, `embed_texts`, `zero_shot`, `search`."""
    return load_weights(new_clip(), folder / "clip.safetensors")


def _per_place(unet: nn.Module) -> Callable[[torch.device, torch.dtype], Network]:
    """The network on each device and in each dtype that is asked for, copied once."""

    @functools.cache
    def on(device: torch.device, dtype: torch.dtype) -> Network:
        if (device.type, dtype) == ("cpu", torch.float32):
            return unet
        return copy.deepcopy(unet).to(device=device, dtype=dtype)

    return on


def _encoder(clip: CLIP) -> Callable[[Sequence[str]], Tensor]:
    """Prompts -> condition; each text is embedded by itself, so that no text changes another's bytes."""

    @functools.lru_cache(maxsize=4096)
    @torch.no_grad()
    def one(text: str) -> Tensor:
        return condition_of(clip, [text])[0]

    return lambda texts: torch.stack([one(text) for text in texts])


def save_reference(function: Callable[[Tensor], Tensor], images: Tensor, path: Path) -> None:
    """Write what a network says of the reference images, one row each."""
    save_weights({"features": torch.from_numpy(_in_batches(function, images))}, path)


def _rows_extractor(
    label: str, function: Callable[[Tensor], Tensor], weights: Path, reference: Path | None = None, note: str = ""
) -> Extractor:
    """What a network says of images, and, if there is a file of it, of the 10,000 test images."""

    def extract(images: Tensor, prompts: Sequence[str]) -> Rows:
        return _in_batches(function, images)

    if reference is None:
        return Extractor(label, extract, note=note, fingerprint=file_hash(weights))
    stored = read_weights(reference)
    if set(stored) != {"features"} or stored["features"].shape[1:] != (FEATURE_DIM,):
        raise ModelError(f"{reference}: expected one tensor, 'features', of {FEATURE_DIM} columns; install it again")

    def of_test_images() -> Rows:
        return stored["features"].numpy()

    return Extractor(label, extract, of_test_images, note, file_hash(weights, reference))


def _clip_extractor(clip: CLIP, weights: Path) -> Extractor:
    """The cosine of each image and its prompt, (n, 1)."""
    encode = _encoder(clip)

    def extract(images: Tensor, prompts: Sequence[str]) -> Rows:
        texts = encode(prompts).numpy() / math.sqrt(clip.dim)
        cosines: Rows = (_in_batches(clip.embed_images, images) * texts).sum(1, keepdims=True)
        return cosines

    return Extractor(CLIP_LABEL, extract, note=CLIP_NOTE, fingerprint=file_hash(weights))


@torch.no_grad()
def _in_batches(function: Callable[[Tensor], Tensor], images: Tensor) -> Rows:
    """function(images) in batches of one size, the last one padded: a row does not depend on its company.

    InputError unless the images are uint8 (n, 1, 28, 28).
    """
    if images.dtype != torch.uint8 or images.shape[1:] != (1, SIDE, SIDE):
        seen = f"{images.dtype} {tuple(images.shape)} from {float(images.min()):g} to {float(images.max()):g}"
        raise InputError(f"images {seen}: expected torch.uint8 (n, 1, {SIDE}, {SIDE}) from 0 to 255; see to_images")
    rows = []
    for batch in torch.split(images.cpu(), EXTRACT_BATCH):
        padding = batch[-1:].expand(EXTRACT_BATCH - len(batch), *batch.shape[1:])
        rows.append(function(torch.cat([batch, padding]))[: len(batch)].float())
    return torch.cat(rows).numpy()


def _logged(path: Path, report: Report) -> Report:
    """`report`, and a line of the training log every 20 seconds and at the end of a phase."""
    last = -LOG_EVERY_SECONDS

    def both(progress: Progress) -> None:
        nonlocal last
        report(progress)
        finished = progress.step == progress.steps
        if progress.seconds - last < LOG_EVERY_SECONDS and not finished:
            return
        last = -LOG_EVERY_SECONDS if finished else progress.seconds
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if is_new:
                writer.writerow(["phase", "step", "steps", "loss", "seconds"])
            writer.writerow(
                [progress.phase, progress.step, progress.steps, f"{progress.loss:.5f}", f"{progress.seconds:.0f}"]
            )

    return both


@hookimpl
def samplerbench_models() -> dict[str, ModelFactory]:
    """The embedded model."""
    return {"fashion-mnist": FashionMNIST()}

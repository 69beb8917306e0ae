"""The embedded model: a text-conditioned DDPM on Fashion-MNIST, with the CLIP that conditions it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ....samplers.arguments import resolve_device
from ....samplers.errors import ModelError
from ....samplers.files.lock import sole_writer
from ....samplers.files.weights import SUMS, channels_last, file_hash, network_from_file, save_weights, write_sums
from ....samplers.model import Model
from ....samplers.nets.clip import CLIP
from ....samplers.nets.ranks import Ranks
from ....samplers.nets.training import Report, with_log
from ....samplers.noise import check_seed
from ....samplers.registry import ModelFactory, hookimpl
from ....samplers.schedule import vp_linear
from ..ddpm.losses import PREDICTS
from ..ddpm.networks import FEATURE_DIM
from ..ddpm.parts import clip_extractor, encoder, per_place, rows_extractor, save_reference
from .data import CLASSES, SIDE, folder_there, load_split
from .networks import CONDITION_DIM, FOLDER, FeatureNet, new_clip, new_unet
from .recipe import train_clip, train_ddpm, train_features

SHAPE = (1, SIDE, SIDE)
WEIGHTS = ("unet", "clip", "features", "reference", "clip_reference")
"""What `train` writes, each a safetensors file."""
CNN = "fashion-mnist CNN"
DATA = "the 10,000 test images of Fashion-MNIST"
CLIP_LABEL, CLIP_NOTE = "fashion-mnist CLIP", "this CLIP also conditions the model"


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
        unet = channels_last(network_from_file(new_unet, files["unet"]))
        clip = load_clip(folder)
        classifier = network_from_file(FeatureNet, files["features"])
        return Model(
            name="fashion-mnist" if not argument else f"fashion-mnist:{argument}",
            network=per_place(unet),
            schedule=vp_linear(),
            shape=SHAPE,
            predicts=PREDICTS,
            clip=(-1.0, 1.0),
            encode=encoder(clip),
            unconditional=lambda texts: torch.zeros(len(texts), CONDITION_DIM),
            prompts=CLASSES,
            extractors={
                "features": replace(
                    rows_extractor(
                        CNN, classifier.features, SHAPE, files["features"], (files["reference"], FEATURE_DIM)
                    ),
                    data=DATA,
                ),
                "logits": rows_extractor(CNN, classifier, SHAPE, files["features"]),
                "clip": clip_extractor(CLIP_LABEL, clip, SHAPE, files["clip"], CLIP_NOTE),
                "clip_image": replace(
                    rows_extractor(
                        CLIP_LABEL,
                        clip.embed_images,
                        SHAPE,
                        files["clip"],
                        (files["clip_reference"], clip.dim),
                        CLIP_NOTE,
                    ),
                    data=DATA,
                ),
            },
            fingerprint=file_hash(files["unet"], files["clip"]),
        )

    def data_folder(self) -> Path | None:
        """Where Fashion-MNIST is on this machine; needed only for training."""
        return folder_there()

    def train(  # noqa: PLR0913  (a setting each)
        self, *, data: Path | None, output: Path, seed: int, report: Report, device: str = "cpu",
        compile: bool = False,  # noqa: A002  (the name of the option)
    ) -> None:  # fmt: skip
        """Train features, CLIP and DDPM; each phase resumes from its checkpoint in `output`/checkpoints.

        With `compile` the U-Net is compiled, which makes its steps faster and moves their last digits.
        """
        check_seed(seed)
        ranks = Ranks(device=resolve_device(device))
        train_split, test_split = load_split(True, data), load_split(False, data)
        with sole_writer(output):
            (output / SUMS).unlink(missing_ok=True)  # what it says of is about to change
            checkpoints = output / "checkpoints"
            log = with_log(output / "training.csv", report, ranks.device)

            features = train_features(train_split, seed, checkpoints / "features.pt", log, ranks)
            save_weights(features.state_dict(), output / "features.safetensors")
            save_reference(features.features, test_split.images, output / "reference.safetensors", SHAPE)

            clip = train_clip(train_split, seed, checkpoints / "clip.pt", log, ranks)
            save_weights(clip.state_dict(), output / "clip.safetensors")
            save_reference(clip.embed_images, test_split.images, output / "clip_reference.safetensors", SHAPE)

            unet = train_ddpm(train_split, clip, seed, checkpoints / "ddpm.pt", log, ranks=ranks, is_compiled=compile)
            save_weights(unet.state_dict(), output / "unet.safetensors")
            write_sums(output, [f"{name}.safetensors" for name in WEIGHTS])


def load_clip(folder: Path = FOLDER) -> CLIP:
    """The CLIP of the embedded model: `embed_images`, `embed_texts`, `zero_shot`, `search`."""
    return network_from_file(new_clip, folder / "clip.safetensors")


@hookimpl
def samplerbench_models() -> dict[str, ModelFactory]:
    """The embedded model."""
    return {"fashion-mnist": FashionMNIST()}

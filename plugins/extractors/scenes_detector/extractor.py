"""The extractor "scenes-detector": whether images are as their captions say, and features of scenes."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ....samplers.arguments import resolve_device
from ....samplers.errors import ModelError
from ....samplers.extractor import Extractor, ExtractorFactory
from ....samplers.files.weights import file_hash, load_weights, read_stored, read_weights
from ....samplers.image_data import ImageData
from ....samplers.metric import Rows
from ....samplers.nets.training import Report
from ....samplers.registry import hookimpl
from ...data.scenes.reading import Told, read
from ...data.scenes.things import THINGS
from ..images import in_batches, move_to
from .judging import verdicts
from .network import Detector, shape_of
from .training import REFERENCE, REFERENCES, WEIGHTS, Settings, train_in

NAME, LABEL = "scenes-detector", "scenes detector"
PACKAGE = "samplerbench_scenes"
INSTALL = "pip install ./models/scenes"
AT_ONCE = 64
NOTE = "a caption that is not of scenes has no score"
SHOWN = 3
"""Captions that a note names."""


class ScenesDetector:
    """Loads what `train` wrote: "scenes-detector:DIR", or by its bare name that of the package of the model scenes."""

    def __call__(self, argument: str = "") -> Mapping[str, Extractor]:
        """Its extractors, "composition" and "features"."""
        folder = Path(argument) if argument else folder_there()
        if not (folder / WEIGHTS).is_file():
            raise ModelError(
                f"extractor '{NAME}:{argument}': no {WEIGHTS} there; expected what `samplerbench train {NAME} --data "
                "scenes -o DIR` wrote"
            )
        return extractors_of(folder)

    def train_on(  # noqa: PLR0913  (a setting each)
        self,
        images: ImageData,
        *,
        output: Path,
        report: Report,
        seed: int = 0,
        steps: int = Settings.steps,
        batch_size: int = Settings.batch_size,
        precision: str = Settings.precision,
        device: str = "cpu",
    ) -> list[str]:
        """Train on scenes and write the detector to `output`; an unfinished training there is resumed.

        Returns how many held-out scenes it sees right, as a sentence.
        """
        return train_in(output, images, Settings(steps, batch_size, precision, seed), resolve_device(device), report)


def folder_there() -> Path:
    """The folder of the detector in the package of the model. ModelError if that is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"extractor {NAME!r}: its weights come with the model scenes, which is not installed; expected `{INSTALL}` "
            f"in the repository of samplerbench, or the folder of a trained one, as in {NAME}:DIR"
        )
    return Path(spec.origin).parent / "detector"


def extractors_of(folder: Path) -> dict[str, Extractor]:
    """The extractors of a folder; the weights are read when they are first needed."""
    weights, reference = folder / WEIGHTS, folder / REFERENCE
    detector = functools.cache(lambda: load(weights))
    things = shape_of(read_stored(weights).shapes)[0]

    def judge(images: Tensor, prompts: Sequence[str]) -> Rows:
        network = move_to(detector(), images.device)
        with torch.no_grad():
            found = [one for part in torch.split(images, AT_ONCE) for one in network.find(part)]
        asked = (read_known(prompt, things) for prompt in prompts)
        return np.array([verdicts(*pair) for pair in zip(found, asked, strict=True)], dtype=np.float32)

    def describe(images: Tensor, prompts: Sequence[str]) -> Rows:
        return in_batches(move_to(detector(), images.device).features, images)

    of_reference = functools.partial(rows_in, reference)
    check = functools.partial(remark_on_unscored, things=things)
    return {
        "composition": Extractor(
            LABEL, judge, note=NOTE, fingerprint=file_hash(weights), check=check, on_device=True
        ),
        "features": Extractor(
            LABEL, describe, of_reference, fingerprint=file_hash(weights, reference),
            data=f"{REFERENCES:,} held-out scenes", on_device=True,
        ),
    }  # fmt: skip


def rows_in(path: Path) -> Rows:
    """The rows in a file of reference features."""
    rows: Rows = read_weights(path)["features"].numpy()
    return rows


def load(path: Path) -> Detector:
    """The detector in a file, for as many things and of the size that its tensors are for."""
    return load_weights(Detector(*shape_of(read_stored(path).shapes)), path)


def read_known(prompt: str, things: int) -> Told | None:
    """What a prompt says, if it is a caption of scenes with things that the detector knows."""
    said = read(prompt)
    return said if said and all(group.thing in THINGS[:things] for group in said.groups) else None


def remark_on_unscored(prompts: Sequence[str], things: int) -> list[str]:
    """One sentence about the prompts that have no score, if there are any."""
    strange = [prompt for prompt in dict.fromkeys(prompts) if not read_known(prompt, things)]
    if not strange:
        return []
    shown = ", ".join(map(repr, strange[:SHOWN])) + (", ..." if len(strange) > SHOWN else "")
    known_things = ", ".join(thing.name for thing in THINGS[:SHOWN])
    return [
        f"composition: no score for {shown}; expected captions such as 'two cats on a green ground' or 'an apple left "
        f"of a car', of {known_things} and the others of {things} things"
    ]


@hookimpl
def samplerbench_extractors() -> dict[str, ExtractorFactory]:
    """The extractor of scenes."""
    return {NAME: ScenesDetector()}

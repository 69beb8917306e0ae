"""The model "scenes-flow": the sibling of "scenes" whose U-Net predicts the velocity of a flow.

Autoencoder, text encoder, captions and extractors are those of the package of "scenes".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import samplerbench_scenes as scenes

from samplerbench import Model, ModelError, ModelFactory, hookimpl
from samplerbench.plugins.models.diffusers.folder import read_pipeline
from samplerbench.plugins.models.diffusers.model import Diffusers

samplerbench_api = 1

HOME = Path(__file__).parent


class ScenesFlow:
    """Loads the U-Net of this package beside the other parts of "scenes"; "scenes-flow:DIR" the U-Net that `fill.py`
    put into another folder."""

    def __call__(self, argument: str = "", *, size: object = None, clip_skip: int | None = None) -> Model:
        """The model; `size` of the images, `clip_skip`: which layer of the text encoder is read, 1 = the last."""
        home = Path(argument) if argument else HOME
        if not (home / scenes.MODEL / scenes.INDEX).is_file():
            raise ModelError(
                f"model 'scenes-flow{':' if argument else ''}{argument}': no weights in {home}; expected what `python "
                "models/scenes-flow/fill.py TRAINING` writes"
            )
        sibling = scenes.Scenes()()
        pipeline = replace(read_pipeline(str(home / scenes.MODEL)), shared=scenes.HOME / scenes.MODEL)
        return replace(
            Diffusers().assemble(pipeline, size=size, clip_skip=clip_skip),
            name=f"scenes-flow:{argument}" if argument else "scenes-flow",
            batch_size=sibling.batch_size,
            prompts=sibling.prompts,
            extractors=sibling.extractors,
        )


@hookimpl
def samplerbench_models() -> dict[str, ModelFactory]:
    """The model of this package."""
    return {"scenes-flow": ScenesFlow()}

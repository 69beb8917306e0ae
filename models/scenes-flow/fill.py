"""Fill the package of the model scenes-flow from a finished training.

    python models/scenes-flow/fill.py TRAINING [HOME]

TRAINING is what `samplerbench train --latent --prediction flow --start-from models/scenes/samplerbench_scenes/model -o
TRAINING` wrote. Its U-Net goes to HOME, by default the package beside this file, and the training's log and its last
sheet of samples beside it. It prints the size of the weights.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import samplerbench_scenes as scenes
import torch

from samplerbench.samplers.errors import InputError, SamplerbenchError
from samplerbench.samplers.files.weights import read_weights

BESIDE = Path(__file__).parent
OWN = ("unet", "scheduler")
SHARED = ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")
GIVEN = 1
"""Folders that have to be named."""


def fill(training: Path, home: Path, beside: Path) -> int:
    """Copy what the package holds; returns the bytes of its weights. InputError for a folder that lacks something, or
    whose autoencoder or text encoder is not that of scenes."""
    wanted = [training / name for name in ("model_index.json", *OWN, *SHARED)]
    if missing := [str(path) for path in wanted if not path.exists()]:
        raise InputError(f"{missing[0]}: is missing; expected a finished training")
    for name in SHARED:
        check_same(training / name, scenes.HOME / scenes.MODEL / name)
    model = home / scenes.MODEL
    for part in OWN:
        shutil.copytree(training / part, model / part, dirs_exist_ok=True)
    shutil.copy(training / "model_index.json", model)
    for name in ("training.csv", "training.json", "samples.png"):
        shutil.copy(training / name, beside)
    weights = sorted(home.rglob("*.safetensors"))
    for path in weights:
        path.chmod(0o644)  # diffusers writes them for their owner alone
    return sum(path.stat().st_size for path in weights)


def check_same(found: Path, expected: Path) -> None:
    """InputError unless two files hold the same tensors."""
    ours, theirs = read_weights(found), read_weights(expected)
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        raise InputError(f"{found}: other weights than {expected}; expected a training that started from scenes")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    if len(given) not in (GIVEN, GIVEN + 1):
        sys.exit(__doc__)
    training, *home = given
    try:
        size = fill(training, *(home or [BESIDE / "samplerbench_scenes_flow"]), *(home or [BESIDE]))
    except (SamplerbenchError, OSError) as error:
        sys.exit(f"Error: {error}")
    print(f"{size:,} bytes of weights")

"""Fill the package of the model scenes from a finished training and its detector.

    python models/scenes/fill.py TRAINING DETECTOR                  what --model scenes loads
    python models/scenes/fill.py TRAINING DETECTOR HOME [BESIDE]    what --model scenes:HOME loads

TRAINING is what `samplerbench train --latent --data scenes:... -o TRAINING` wrote, DETECTOR what `samplerbench train
scenes-detector -o DETECTOR` did. The weights go to HOME, by default the package beside this file. The training's log
and its last sheet of samples go to BESIDE, by default HOME or, without HOME, the folder of this file. It prints the
size of the weights, which may be 20 MB at most.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from samplerbench.plugins.data.scenes.composing import scene
from samplerbench.plugins.data.scenes.reading import read
from samplerbench.plugins.data.scenes.things import THINGS
from samplerbench.plugins.models.diffusers.tokenizers import KNOWN
from samplerbench.samplers.errors import InputError, SamplerbenchError
from samplerbench.samplers.files.weights import read_weights, save_weights
from samplerbench.samplers.nets.clip import words_of
from samplerbench.samplers.nets.training import read_checkpoint

BESIDE = Path(__file__).parent
PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
OF_DETECTOR = ("detector.safetensors", "reference.safetensors", "SHA256SUMS", "training.csv")
GIVEN = (2, 3, 4)
"""How many folders can be named."""
MOST_BYTES = 20_000_000
CAPTIONS = 128
"""Held-out captions, which the model draws where the user names none."""


def fill(training: Path, detector: Path, home: Path, beside: Path) -> int:
    """Copy what the package holds; returns the bytes of its weights. InputError for folders that lack something."""
    model, taught = home / "model", training / "checkpoints" / "text.pt"
    wanted = [training / name for name in ("model_index.json", *PARTS)] + [detector / name for name in OF_DETECTOR]
    # A training that started from what the package holds, and kept its text encoder, has no image tower of its own.
    keeps = not taught.exists() and have_equal_texts(training, model)
    if not keeps:
        wanted.append(taught)
    if missing := [str(path) for path in wanted if not path.exists()]:
        raise InputError(f"{missing[0]}: is missing; expected a finished training and its detector")
    beside.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        shutil.copytree(training / part, model / part, dirs_exist_ok=True)
    shutil.copy(training / "model_index.json", model)
    (home / "detector").mkdir(exist_ok=True)
    for name in OF_DETECTOR:
        shutil.copy(detector / name, home / "detector")
    if not keeps:
        write_clip(taught, model)
    things = things_of(training)
    captions = [scene(0, True, i, things).caption for i in range(CAPTIONS)]
    (model / "prompts.txt").write_text("\n".join([*captions, ""]), encoding="utf-8")
    name_words(training, model / "tokenizer" / "tokenizer_config.json")
    for name in ("training.csv", "training.json", "samples.png"):
        shutil.copy(training / name, beside)
    weights = sorted(home.rglob("*.safetensors"))
    for path in weights:
        path.chmod(0o644)  # diffusers writes them for their owner alone
    total = sum(path.stat().st_size for path in weights)
    if total > MOST_BYTES:
        raise InputError(f"{home}: weights of {total:,} bytes; expected at most {MOST_BYTES:,}")
    return total


def have_equal_texts(training: Path, model: Path) -> bool:
    """Whether both folders hold the same text encoder."""
    files = [folder / "text_encoder" / "model.safetensors" for folder in (training, model)]
    if not all(file.is_file() for file in files):
        return False
    ours, theirs = map(read_weights, files)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def write_clip(taught: Path, model: Path) -> None:
    """The image tower that taught the text encoder, for the CLIP score."""
    state = read_checkpoint(taught, "cpu")
    weights = state["ema"] or state["network"]
    tower = {name: tensor for name, tensor in weights.items() if not name.startswith("text.")}
    save_weights(tower, model / "clip.safetensors")


def things_of(training: Path) -> int:
    """How many things the captions of a training name: the first that the scenes were composed of."""
    told = filter(None, map(read, captions_in(training)))
    return max(THINGS.index(group.thing) for one in told for group in one.groups) + 1


def captions_in(training: Path) -> list[str]:
    """Captions of a training, as many as stand there."""
    return (training / "prompts.txt").read_text(encoding="utf-8").splitlines()


def name_words(training: Path, config: Path) -> None:
    """List the words of the captions in the tokenizer's config, if the training did not."""
    content = json.loads(config.read_text(encoding="utf-8"))
    words = sorted({word for text in captions_in(training) for word in words_of(text)})
    config.write_text(json.dumps({**content, KNOWN: content.get(KNOWN, words)}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    if len(given) not in GIVEN:
        sys.exit(__doc__)
    training, detector, *places = given
    home, beside = places[0] if places else BESIDE / "samplerbench_scenes", places[-1] if places else BESIDE
    try:
        size = fill(training, detector, home, beside)
    except (SamplerbenchError, OSError) as error:
        sys.exit(f"Error: {error}")
    print(f"{size:,} bytes of weights")

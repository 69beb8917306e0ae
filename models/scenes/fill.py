"""Fill the package of the model scenes from a finished training and its detector.

    python models/scenes/fill.py TRAINING DETECTOR                  what --model scenes loads
    python models/scenes/fill.py TRAINING DETECTOR HOME [BESIDE]    what --model scenes:HOME loads

TRAINING is what `samplerbench train --latent --data scenes:... -o TRAINING` wrote, DETECTOR what `samplerbench train
scenes-detector -o DETECTOR` did. The weights go to HOME, by default the package beside this file. The training's log
and its last sheet of samples go to BESIDE, by default HOME or, without HOME, the folder of this file. It prints the
size of the weights, which may be 20 MB at most.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from samplerbench.plugins.data.scenes.composing import scene
from samplerbench.plugins.data.scenes.reading import read
from samplerbench.plugins.data.scenes.things import THINGS
from samplerbench.plugins.extractors.scenes_detector.network import CELLS, shape_of
from samplerbench.plugins.models.diffusers.tokenizers import KNOWN
from samplerbench.samplers.errors import InputError, SamplerbenchError
from samplerbench.samplers.files.weights import read_json, read_stored, read_weights, save_weights
from samplerbench.samplers.nets.clip import words_of
from samplerbench.samplers.nets.training import read_checkpoint

BESIDE = Path(__file__).parent
TEXT = "text_encoder/model.safetensors"
WEIGHTS = ("vae/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors", TEXT)
PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
OF_DETECTOR = ("detector.safetensors", "reference.safetensors", "SHA256SUMS", "training.csv")
OF_TRAINING = ("training.csv", "training.json", "samples.png")
CLIP = "clip.safetensors"
GIVEN = (2, 3, 4)
"""How many folders can be named."""
MOST_BYTES = 20_000_000
CAPTIONS = 128
"""Held-out captions, which the model draws where the user names none."""


def fill(training: Path, detector: Path, home: Path, beside: Path) -> int:
    """Copy what the package holds; returns the bytes of its weights. InputError or ModelError for folders that lack
    something or do not belong together; nothing is changed then."""
    model, taught = home / "model", training / "checkpoints" / "text.pt"
    check(training, detector)
    # A training that started from what the package holds, and kept its text encoder, has no image tower of its own.
    keeps = not taught.exists() and (model / CLIP).is_file() and have_equal_texts(training, model)
    if not keeps and not taught.exists():
        raise InputError(f"{taught}: is missing; expected it, or a training that kept the text encoder in {model}")
    home.mkdir(parents=True, exist_ok=True)
    # All of it beside its place first: what is refused or stopped on the way leaves the package as it was.
    with TemporaryDirectory(dir=home, suffix=".tmp") as scratch:
        made = Path(scratch)
        for part in PARTS:
            shutil.copytree(training / part, made / "model" / part)
        shutil.copy(training / "model_index.json", made / "model")
        (made / "detector").mkdir()
        for name in OF_DETECTOR:
            shutil.copy(detector / name, made / "detector")
        if keeps:
            shutil.copy(model / CLIP, made / "model")
        else:
            write_clip(taught, made / "model" / CLIP)
        things = things_of(training)
        captions = [scene(0, True, i, things).caption for i in range(CAPTIONS)]
        (made / "model" / "prompts.txt").write_text("\n".join([*captions, ""]), encoding="utf-8")
        name_words(training, made / "model" / "tokenizer" / "tokenizer_config.json")
        weights = sorted(made.rglob("*.safetensors"))
        for path in weights:
            path.chmod(0o644)  # diffusers writes them for their owner alone
        total = sum(path.stat().st_size for path in weights)
        if total > MOST_BYTES:
            raise InputError(f"{training}: weights of {total:,} bytes; expected at most {MOST_BYTES:,}")
        for name in ("model", "detector"):
            shutil.rmtree(home / name, ignore_errors=True)
            (made / name).rename(home / name)
    beside.mkdir(parents=True, exist_ok=True)
    for name in OF_TRAINING:
        if (training / name).resolve() != (beside / name).resolve():
            shutil.copy(training / name, beside)
    return total


def check(training: Path, detector: Path) -> None:
    """InputError or ModelError unless a training is finished and whole, and the detector is of its scenes."""
    weights = [training / name for name in WEIGHTS]
    wanted = [training / name for name in ("model_index.json", "prompts.txt", *OF_TRAINING, *PARTS)]
    wanted += [*weights, *(detector / name for name in OF_DETECTOR)]
    if missing := [str(path) for path in wanted if not path.exists()]:
        raise InputError(f"{missing[0]}: is missing; expected a finished training and its detector")
    for path in weights:
        read_stored(path)
    with (training / "training.csv").open(newline="") as log:
        of_unet = [row for row in csv.DictReader(log) if row.get("phase") == "unet"]
    if not of_unet or of_unet[-1]["step"] != of_unet[-1]["steps"]:
        raise InputError(f"{training}: is not finished; give the command of its training again")
    things, size = things_of(training), read_json(training / "training.json").get("size")
    known, halvings = shape_of(read_stored(detector / "detector.safetensors").shapes)
    if things > known or size != CELLS << halvings:
        raise InputError(
            f"{detector}: a detector of {known} things at {CELLS << halvings} pixels; expected one of {things} or more "
            f"at {size}, as of the training"
        )


def have_equal_texts(training: Path, model: Path) -> bool:
    """Whether both folders hold the same text encoder."""
    files = [folder / TEXT for folder in (training, model)]
    if not all(file.is_file() for file in files):
        return False
    ours, theirs = map(read_weights, files)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def write_clip(taught: Path, file: Path) -> None:
    """Write the image tower that taught the text encoder, for the CLIP score."""
    state = read_checkpoint(taught, "cpu")
    weights = state["ema"] or state["network"]
    tower = {name: tensor for name, tensor in weights.items() if not name.startswith("text.")}
    save_weights(tower, file)


def things_of(training: Path) -> int:
    """How many things the captions of a training name: the first that the scenes were composed of. InputError for
    captions that are not of scenes."""
    told = filter(None, map(read, captions_in(training)))
    if not (named := {THINGS.index(group.thing) for one in told for group in one.groups}):
        raise InputError(f"{training / 'prompts.txt'}: no captions of scenes; expected a training on --data scenes")
    return max(named) + 1


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

"""Train the model scenes by a recipe file, measure what it learned, and say how long each part took.

    python benchmarks/scenes_recipe.py benchmarks/scenes-64.toml -o DIR           on a GPU; the same command resumes
    python benchmarks/scenes_recipe.py benchmarks/scenes-64.toml --estimate       the arithmetic of its length
    python benchmarks/scenes_recipe.py benchmarks/scenes-64.toml -o DIR --share 0.0004 --device cpu       a tiny trial

Four commands run one after the other: `samplerbench train --latent`, `samplerbench train scenes-detector`,
`models/scenes/fill.py`, which puts the weights into DIR/package, and `benchmarks/scenes.py`. Each is shown before it
runs, and one that is done is not run again. At the end stands the time of each phase, as the logs of the trainings
have it.
"""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from samplerbench.plugins.extractors.scenes_detector.network import Detector
from samplerbench.plugins.extractors.scenes_detector.training import OTHERS, SIDES
from samplerbench.plugins.models.latent.networks import Decoder, Pairs, text_of, unet_of, vae_of
from samplerbench.plugins.models.latent.settings import FACTOR, Settings
from samplerbench.plugins.models.latent.tokens import PLACES
from samplerbench.plugins.models.latent.training import PAIRS_PER_IMAGE

HERE = Path(__file__).parent
TIMES = "times.json"
LEAST_SAMPLES = 24
MEASURED_AT_ONCE, STEPS = 16, 20
"""Of benchmarks/scenes.py: images of a call, and calls."""
COUNTED = 2
"""Images of the batch whose operations are counted."""
CONTRARIES = 3.64
"""Texts that are false of an image, on average."""
WORDS = 700
DRAWN, READ, GATHERED = 1.4e-3, 0.35e-3, 20e-6
"""Seconds of one CPU core, which the GPU waits for: to draw a scene of 64 x 64 pixels; to compose the captions of an
image and make tokens of them, once; to gather an image for a step. Measured on one core with AVX-512."""
PEAK, UTILISED, OPERATION = 989e12, 0.05, 10e-6
"""Of an H100: operations a second in bfloat16, dense (data sheet); the share that small networks make use of, and the
seconds until the processor has asked for one more kernel: assumptions."""


@dataclass(frozen=True)
class Recipe:
    """What a recipe file says, with every count times `share`."""

    content: dict[str, Any]
    device: str
    share: float

    def count(self, part: str, name: str, least: int = 1) -> int:
        """A count of a section."""
        return max(round(self.content[part][name] * self.share), least)

    @property
    def batches(self) -> tuple[int, int]:
        """Images of a step: of the model, and of the detector."""
        # A share of the images has to hold a batch, and each step costs its images.
        model, detector = (
            self.count(part, "batch_size", 8) if self.share < 1 else self.content[part]["batch_size"]
            for part in ("model", "detector")
        )
        return model, detector

    def data(self, images: int, more: str = "") -> str:
        """Scenes of the recipe."""
        return f"scenes:size={self.content['size']},things={self.content['things']},images={images}{more}"

    def commands(self, output: Path) -> Iterator[tuple[str, list[str]]]:
        """Each part with its command."""
        sampler = [sys.executable, "-m", "samplerbench", "train"]
        on = ["--device", self.device, "--precision", "bf16"]
        batch, detected = self.batches
        yield "model", [
            *sampler, "--latent", "--data", self.data(self.count("model", "images", 2 * batch)),
            "--decoder-data", self.data(self.count("model", "decoder_images", batch), ",split=all,seed=1"),
            "--size", str(self.content["size"]), "--preset", self.content["model"]["preset"],
            "--batch-size", str(batch), "--steps", str(self.count("model", "steps")), *on,
            "-o", str(output / "training"),
        ]  # fmt: skip
        yield "detector", [
            *sampler, "scenes-detector", "--data", self.data(self.count("detector", "images", detected)),
            "--batch-size", str(detected), "--steps", str(self.count("detector", "steps")), *on,
            "-o", str(output / "detector"),
        ]  # fmt: skip
        package = output / "package"
        yield "package", [
            sys.executable, str(HERE.parent / "models" / "scenes" / "fill.py"), str(output / "training"),
            str(output / "detector"), str(package),
        ]  # fmt: skip
        yield "measured", [
            sys.executable, str(HERE / "scenes.py"), str(package / "model"), "--detector", str(package / "detector"),
            "-n", str(self.count("measured", "samples", LEAST_SAMPLES)), "--things", str(self.content["things"]),
            "--sheet", str(output / "sheet.png"), "--device", self.device,
        ]  # fmt: skip


# ---- Running ----


def run(recipe: Recipe, output: Path) -> None:
    """Run every command that is not done yet, and print the times of all."""
    output.mkdir(parents=True, exist_ok=True)
    file = output / TIMES
    times: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    done = {part for part in times if not part.endswith("...")}
    for part, command in recipe.commands(output):
        if part in done:
            continue
        click.echo(shlex.join(command), err=True)
        if part == "package":
            (output / "package").mkdir(exist_ok=True)
        started = time.monotonic()
        try:
            code = subprocess.run(command, check=False).returncode
        except KeyboardInterrupt:
            code = 130
        # What earlier calls of this command took counts too; a part that was stopped is not done.
        spent = times.pop(f"{part}...", 0.0) + time.monotonic() - started
        times[part if code == 0 else f"{part}..."] = spent
        file.write_text(json.dumps(times, indent=2))
        if code:
            sys.exit(code)
    click.echo(table_of_times(recipe, output, times))


def table_of_times(recipe: Recipe, output: Path, times: dict[str, float]) -> str:
    """The minutes of each phase and command, in Markdown."""
    rows = []
    for part in ("training", "detector"):
        for phase, (steps, seconds) in phases(output / part / "training.csv").items():
            rows.append(f"| {phase} | {steps:,} | {seconds / 60:.1f} | {1e3 * seconds / steps:.3g} |")
    rows += [f"| all of `{part}` | | {seconds / 60:.1f} | |" for part, seconds in times.items()]
    total = sum(times.values()) / 60
    asked = f"; the aim is {recipe.content['minutes']}" if recipe.share == 1 else f"; a share of {recipe.share:g}"
    head = ["| phase | steps | minutes | ms a step |", "|---|---:|---:|---:|"]
    return "\n".join([*head, *rows, f"\n{total:.1f} minutes on {device_name(recipe.device)}{asked}"])


def phases(log: Path) -> dict[str, tuple[int, float]]:
    """Phase -> its steps and the seconds that they took, of every call that resumed it."""
    found: dict[str, tuple[int, float]] = {}
    last = 0.0
    with log.open(newline="") as file:
        for row in csv.DictReader(file):
            phase, seconds = row["phase"], float(row["seconds"])
            steps, total = found.get(phase, (0, 0.0))
            # The clock starts anew in each call, and in each phase.
            more = seconds - last if phase in found and seconds >= last else seconds
            found[phase], last = (max(steps, int(row["step"])), total + more), seconds
    return found


def device_name(device: str) -> str:
    """What a device is called."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


# ---- Estimating ----


@dataclass(frozen=True)
class Phase:
    """A phase of a training, as far as its length can be computed."""

    name: str
    steps: int
    batch: int
    flops: float
    """Of one image: forward, and backward where the phase learns."""
    operations: int
    """Kernels of a step."""
    waiting: float
    """Seconds of a step in which the GPU waits for the processor's own work."""

    @property
    def seconds(self) -> float:
        """What a step takes: arithmetic or asking for it, whichever is longer, and waiting."""
        return max(self.batch * self.flops / (UTILISED * PEAK), self.operations * OPERATION) + self.waiting


class Operations(TorchDispatchMode):
    """Counts the operations inside it: on a GPU nearly each is a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count an operation, and let it be done."""
        # Views compute nothing.
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def counted(net: nn.Module, answer: Any, *, learns: bool = True) -> tuple[float, int]:
    """(operations of arithmetic for an image, kernels of a step) of a network's pass, and of the way back."""
    parameters = sum(1 for _ in net.parameters())
    with FlopCounterMode(display=False) as flops, Operations() as operations, torch.set_grad_enabled(learns):
        found = answer()
        if learns:
            found.float().square().mean().backward()
    # Clipping, the fused optimizer and the moving average: a few kernels for lists of weights, in parts of some 30.
    own = 20 + 8 * parameters // 30 if learns else 0
    return flops.get_total_flops() / COUNTED, operations.count + own


def estimate(recipe: Recipe) -> list[Phase]:
    """The phases of a recipe."""
    size, (batch, detected) = recipe.content["size"], recipe.batches
    settings = Settings(
        size=size, preset=recipe.content["model"]["preset"], batch_size=batch, steps=recipe.count("model", "steps")
    )
    preset, lengths = settings.of_preset, settings.lengths
    vae: Any = vae_of(preset, size)
    words = SimpleNamespace(bos_token_id=0, eos_token_id=1, pad_token_id=1, __len__=lambda: WORDS)
    text = text_of(preset, type("Words", (), {**vars(words), "__len__": lambda _: WORDS})())
    pairs, unet, detector = (
        Pairs(text, preset.text),
        unet_of(preset, size),
        Detector(recipe.content["things"], SIDES.index(size) + 1),
    )
    images, latents = torch.rand(COUNTED, 3, size, size), torch.randn(COUNTED, 4, size // FACTOR, size // FACTOR)
    tokens = torch.zeros(COUNTED, PLACES, dtype=torch.int64)
    states = torch.randn(COUNTED, PLACES, preset.text)

    def reconstructed() -> Tensor:
        decoded: Tensor = vae.decode(vae.encode(images).latent_dist.mean).sample
        return decoded

    encoded = counted(vae, lambda: vae.encode(images).latent_dist.mean, learns=False)
    both = counted(vae, reconstructed)
    decoder = counted(vae, lambda: Decoder(vae)(latents))
    shown, told = counted(pairs, lambda: pairs.images(images)), counted(pairs, lambda: pairs.texts(tokens))
    heard = counted(pairs, lambda: pairs.texts(tokens), learns=False)
    asked: Any = unet
    denoised = counted(unet, lambda: asked(latents, torch.tensor([500, 500]), encoder_hidden_states=states).sample)
    seen = counted(detector, lambda: torch.cat([part.flatten() for part in tensors(detector(images))]))
    answered = counted(
        unet, lambda: asked(latents, torch.tensor([500, 500]), encoder_hidden_states=states).sample, learns=False
    )  # fmt: skip
    samples = recipe.count("measured", "samples", LEAST_SAMPLES)
    pairs_batch, count = PAIRS_PER_IMAGE * batch, recipe.count("model", "images", 2 * batch)
    texts = 1 + CONTRARIES
    told_apart = {"model": count + recipe.count("model", "decoder_images", batch),
                  "detector": recipe.count("detector", "images", detected) * (1 + 1 / OTHERS) + 5_000}  # fmt: skip
    read = READ * count / lengths["text"]
    return [
        Phase("drawing images", round(sum(told_apart.values())), 1, 0, 0, DRAWN),
        Phase("vae", lengths["vae"], batch, *both, batch * GATHERED),
        Phase("decoder", lengths["decoder"], batch, decoder[0] + encoded[0], decoder[1] + encoded[1], batch * GATHERED),
        Phase("latents", -(-count // 64), 64, *encoded, 64 * GATHERED),
        Phase("text", lengths["text"], pairs_batch, shown[0] + texts * told[0], shown[1] + told[1],
              pairs_batch * GATHERED + read),
        Phase("unet", lengths["unet"], batch, denoised[0] + heard[0], denoised[1] + heard[1], batch * GATHERED),
        Phase("detector", recipe.count("detector", "steps"), detected, *seen, detected * 2 * GATHERED),
        # With guidance a batch has a row more for each image; real scenes of the same captions are drawn beside them.
        Phase("measuring", -(-samples // MEASURED_AT_ONCE) * STEPS, 2 * MEASURED_AT_ONCE, *answered,
              3 * MEASURED_AT_ONCE * DRAWN / STEPS),
    ]  # fmt: skip


def tensors(answer: Any) -> Sequence[Tensor]:
    """What a network answers with, as a sequence."""
    return [answer] if isinstance(answer, Tensor) else list(answer)


def table_of_estimate(recipe: Recipe) -> str:
    """The arithmetic in Markdown."""
    phases = estimate(recipe)
    rows = [
        f"| {p.name} | {p.steps:,} | {p.batch} | {p.flops / 1e9:.3g} | {p.operations:,} | {1e3 * p.waiting:.2g} | "
        f"{1e3 * p.seconds:.3g} | {p.steps * p.seconds / 60:.1f} |"
        for p in phases
    ]
    head = [
        "| phase | steps | batch | GFLOP an image | kernels a step | waiting, ms | ms a step | minutes |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    total = sum(p.steps * p.seconds for p in phases) / 60
    return "\n".join(
        [*head, *rows, f"\n{total:.1f} minutes, computed and not timed; the aim is {recipe.content['minutes']}"]
    )


@click.command(help=__doc__)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-o", "--output", type=click.Path(path_type=Path))
@click.option("--device", help="Another device than the recipe's.")
@click.option("--share", default=1.0, show_default=True, help="A share of every count, to try the recipe.")
@click.option("--estimate", "only_estimate", is_flag=True, help="Print how its length is estimated.")
def main(file: Path, output: Path | None, device: str | None, share: float, *, only_estimate: bool) -> None:
    """Run a recipe, or estimate its length."""
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    recipe = Recipe(content, device or content["device"], share)
    if only_estimate:
        click.echo(table_of_estimate(recipe))
    elif output is None:
        raise click.UsageError("-o DIR: not given; expected the folder of the trainings, or --estimate")
    else:
        run(recipe, output)


if __name__ == "__main__":
    main()

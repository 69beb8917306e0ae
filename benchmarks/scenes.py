"""Measure a latent model of scenes: what its images show, its autoencoder, and the distance of its images to scenes.

    python benchmarks/scenes.py                               the installed package of the model scenes
    python benchmarks/scenes.py scenes-flow --sampler euler   that of its sibling
    python benchmarks/scenes.py MODEL --detector DETECTOR     a folder of `train --latent` and one of a trained detector

Samples are drawn from held-out captions at guidance 3 by dpm-solver++ in 20 calls; the detector judges them, and scenes
of the same captions, which are what it can be right about at best. The distances are Frechet distances of the
detector's features without bias: of samples, and of reconstructions of held-out scenes, to other held-out scenes. They
are left out for fewer than 384 samples. It prints a table in Markdown.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import samplerbench as sb
from samplerbench.plugins.data.scenes.data import Scenes, load
from samplerbench.plugins.extractors.scenes_detector.extractor import extractors_of
from samplerbench.plugins.extractors.scenes_detector.judging import PARTS
from samplerbench.plugins.extractors.scenes_detector.network import shape_of
from samplerbench.plugins.extractors.scenes_detector.training import WEIGHTS
from samplerbench.plugins.metrics.composition import samplerbench_metrics
from samplerbench.plugins.metrics.fid import UnbiasedFID
from samplerbench.plugins.models.diffusers.libraries import library, quietly
from samplerbench.plugins.models.latent.training import psnr
from samplerbench.samplers.factories import PACKAGED
from samplerbench.samplers.files.weights import read_stored
from samplerbench.samplers.metric import Estimate, Rows

SAMPLER, STEPS, GUIDANCE = "dpm-solver++", 20, 3.0
ASKED = {"object": 0.90, "count": 0.75, "colour": 0.90, "place": 0.75}
"""The least share of samples that are to be right."""
OF_SCENES = 0.97
"""The least share of real scenes that the detector is to see right."""
LEAST_PSNR = 28.0
TIMES, SHARE = 3.0, 0.02
"""A distance may be so many times that of reconstructions, plus this share of that between scenes of one picture and of
three."""
SEED = 3
"""Of the captions: the detector was trained on scenes of other seeds."""
SHOWN = 48
FEWEST = 384
"""Samples that have a distance: four for each feature."""
MEASURED = 1_000
"""Scenes whose reconstructions have their error measured."""


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    what: str
    found: str
    asked: str
    holds: bool | None


def of_share(what: str, found: Estimate, least: float) -> Line:
    """A share with its interval."""
    return Line(
        what, f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})", f">= {least:.0%}", found.value >= least
    )


def shares(what: str, rows: Rows, least: dict[str, float]) -> Iterator[Line]:
    """A line for each part of what a caption tells, and one for all of it."""
    metrics = samplerbench_metrics()
    for part in PARTS:
        yield of_share(f"{what}: {part}", metrics[f"composition_{part}"]().estimate(rows, None), least[part])
    whole = metrics["composition"]().estimate(rows, None)
    yield Line(f"{what}: all of it", f"{whole.value:.1%} ({whole.low:.1%} to {whole.high:.1%})", "", None)


def images_of(scenes: Scenes) -> torch.Tensor:
    """All images of some scenes, uint8 (n, 3, H, W)."""
    return torch.stack([scenes.image(i) for i in range(len(scenes))])


@torch.inference_mode()
def reconstructed(vae: Any, images: torch.Tensor) -> torch.Tensor:
    """What the autoencoder makes of uint8 images."""
    parts = []
    for part in torch.split(images, 64):
        decoded = vae.decode(vae.encode(part.float() / 127.5 - 1).latent_dist.mean).sample
        parts.append(((decoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)


def distance(rows: Rows, reference: Rows) -> Estimate:
    """The Frechet distance of features without its bias."""
    metric = UnbiasedFID()
    return metric.estimate(rows, metric.prepare(reference))


def distances(
    features: Callable[[torch.Tensor], Rows], drawn: torch.Tensor, vae: Any, scenes: Scenes
) -> Iterator[Line]:
    """How far samples are from scenes, and how far they may be."""
    real = scenes_like(scenes, len(drawn), SEED + 1)
    reference = features(images_of(real))
    counts = np.array([len(real.scene(i).pictures) for i in range(len(real))])
    apart = distance(reference[counts == 1], reference[counts == 3])  # noqa: PLR2004  (as the names say)
    rebuilt = distance(features(reconstructed(vae, images_of(scenes))), reference)
    found, bound = distance(features(drawn), reference), TIMES * rebuilt.value + SHARE * apart.value
    yield Line("distance of scenes with one picture to those with three", f"{apart.value:.4g}", "", None)
    yield Line(
        "distance of reconstructions", f"{rebuilt.value:.4g} ({rebuilt.low:.4g} to {rebuilt.high:.4g})", "", None
    )
    said = f"{found.value:.4g} ({found.low:.4g} to {found.high:.4g})"
    yield Line("distance of samples", said, f"<= {bound:.4g}", found.value <= bound)


def scenes_like(scenes: Scenes, images: int, seed: int) -> Scenes:
    """Held-out scenes of the same size and things."""
    options = scenes.options
    return load(f"split=held-out,size={options.size},things={options.things},images={images},seed={seed}")


def installed() -> Path:
    """The folder of the package of the model."""
    spec = importlib.util.find_spec("samplerbench_scenes")
    if spec is None or spec.origin is None:
        raise click.UsageError(
            "the model scenes is not installed; pip install ./models/scenes, or give MODEL and --detector"
        )
    return Path(spec.origin).parent


def table(lines: list[Line]) -> str:
    """The lines in Markdown."""
    said = {True: "yes", False: "NO", None: ""}
    rows = [f"| {line.what} | {line.found} | {line.asked} | {said[line.holds]} |" for line in lines]
    return "\n".join(["| | found | asked | holds |", "|---|---|---|---|", *rows])


@click.command(help=__doc__)
@click.argument("model", default="scenes")
@click.option("--detector", type=click.Path(path_type=Path, exists=True))
@click.option("-n", "samples", default=5_000, show_default=True)
@click.option(
    "--things", type=click.IntRange(min=1), help="How many there are. [default: those that the detector knows]"
)
@click.option("--sampler", default=SAMPLER, show_default=True, help="Of one call a step.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--sheet", type=click.Path(path_type=Path), help="Write the first 48 samples as a picture.")
def main(  # noqa: PLR0913  (the options of the command)
    model: str, detector: Path | None, samples: int, things: int | None, sampler: str, device: str, sheet: Path | None
) -> None:
    """Measure, and print the table."""
    detector = detector or installed() / "detector"
    home = installed() / "model" if model in PACKAGED else Path(model)
    # Diffusers' own loader, as the package of the other reads no folder of a training.
    loaded, read = sb.load_model(model if model in PACKAGED else f"diffusers:{model}"), extractors_of(detector)
    assert loaded.shown_shape
    things = things or shape_of(read_stored(detector / WEIGHTS).shapes)[0]
    scenes = scenes_like(load(f"size={loaded.shown_shape[-1]},things={things}"), samples, SEED)
    captions = [scenes.caption(i) for i in range(samples)]
    with quietly():
        vae = (
            library("diffusers").AutoencoderKL.from_pretrained(str(home / "vae"), local_files_only=True).float().eval()
        )
    drawn = sb.sample(
        loaded, sampler, steps=STEPS, n=samples, prompts=captions, guidance=GUIDANCE, batch_size=16, device=device
    )  # fmt: skip
    assert drawn.images is not None
    images = drawn.images.cpu()
    if sheet:
        replace(drawn, images=images[:SHOWN]).grid(8).save(sheet)

    def features(images: torch.Tensor) -> Rows:
        return read["features"].extract(images, ())

    lines = [
        *shares("samples", read["composition"].extract(images, captions), ASKED),
        *shares("scenes", read["composition"].extract(images_of(scenes), captions), dict.fromkeys(PARTS, OF_SCENES)),
    ]
    error = psnr(vae, images_of(scenes)[:MEASURED], torch.device("cpu"))
    lines += [Line("PSNR of the autoencoder", f"{error:.1f} dB", f">= {LEAST_PSNR:g} dB", error >= LEAST_PSNR)]
    if samples >= FEWEST:
        lines += distances(features, images, vae, scenes)
    click.echo(
        f"{samples:,} samples of {sampler}, {STEPS} calls, guidance {GUIDANCE:g}; {model}, {detector / WEIGHTS}\n"
    )
    click.echo(table(lines))


if __name__ == "__main__":
    main()

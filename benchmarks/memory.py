"""How much memory a run takes beyond its model, and how that grows with its images.

    python benchmarks/memory.py                               # 12 cells, a minute or two
    python benchmarks/memory.py --images 512,2048,8192 --of 50000

Each run is a process of its own: 12 cells of a model in closed form with images of 28 x 28 and 64 features, with FID
and a CLIP score. Shown is the largest memory that was resident, once all is drawn and once table, pictures and report
are made, less that of a run of one block: what stays is what the images take. The line through the runs says what
`--of` images take.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile

import numpy as np
import torch
from torch import Tensor

import samplerbench as sb
from samplerbench.bench.run import Benchmark

SIDE, FEATURES, BLOCK = 28, 64, 256
SAMPLERS = ("ddim", "ddpm", "euler", "dpm-solver++")
STEPS = (1, 2, 3)
LIMIT = 2e9
"""Bytes beyond the model that 50,000 images of 12 cells may take."""


def model() -> sb.Model:
    """A Gaussian in closed form, with images, prompts and two extractors."""
    weights = torch.randn(SIDE * SIDE, FEATURES, generator=torch.Generator().manual_seed(0)) / SIDE

    def features(images: Tensor, prompts: object) -> np.ndarray:
        return (images.flatten(1).float() / 127.5 - 1).matmul(weights).numpy()

    def reference() -> np.ndarray:
        noise = torch.randn(10_000, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
        return features(sb.to_images(0.3 * noise), None)

    def network(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return 0.1 * x

    return sb.Model(
        name="in closed form",
        network=lambda device, dtype: network,
        schedule=sb.vp_linear(),
        shape=(1, SIDE, SIDE),
        predicts="v",
        clip=(-1.0, 1.0),
        batch_size=BLOCK,
        encode=lambda prompts: torch.zeros(len(prompts), 1),
        prompts=("left", "right"),
        extractors={
            "features": sb.Extractor("64 features", features, reference, fingerprint="1"),
            "clip": sb.Extractor("a CLIP", lambda images, prompts: features(images, prompts)[:, :1], fingerprint="1"),
        },
        fingerprint="1",
    )


def measured(images: int, folder: str) -> dict[str, float]:
    """Bytes at the peak of a run in this process: once all is drawn, and in the end."""
    torch.set_num_threads(1)
    found = {}
    conclude = Benchmark.conclude

    def noted(begun: Benchmark) -> object:
        found["drawn"] = peak()
        return conclude(begun)

    Benchmark.conclude = noted  # type: ignore[method-assign,assignment]
    sb.run(model(), SAMPLERS, steps=STEPS, n=images, metrics=["fid", "clip_score"], output=folder)
    return found | {"done": peak()}


def peak() -> float:
    """Bytes of this process that were resident at the most."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_a_process(images: int) -> dict[str, float]:
    """What `measured` finds in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--measure", str(images), f"{folder}/run"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print a line for each number of images, and what more of them would take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="1024,4096")
    parser.add_argument("--of", type=int, default=50_000)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measured(int(given.measure[0]), given.measure[1])))
        return
    cells = len(SAMPLERS) * len(STEPS)
    least = in_a_process(BLOCK)
    print(f"{cells} cells; {BLOCK} images: {least['done'] / 1e6:.0f} MB, of which libraries and the model")
    points = []
    for images in map(int, given.images.split(",")):
        found = in_a_process(images)
        beyond = {name: (found[name] - least[name]) / 1e6 for name in found}
        points.append((images - BLOCK, beyond["done"]))
        print(f"{images} images: {beyond['drawn']:.0f} MB more once drawn, {beyond['done']:.0f} MB more in the end")
    slope = float(np.polyfit([0, *(n for n, _ in points)], [0, *(mb for _, mb in points)], 1)[0])
    total = slope * given.of
    verdict = "under" if total * 1e6 < LIMIT else "over"
    print(
        f"{1000 * slope:.1f} kB an image of all cells; {given.of} images: {total / 1000:.2f} GB, "
        f"{verdict} {LIMIT / 1e9:.0f} GB"
    )


if __name__ == "__main__":
    main()

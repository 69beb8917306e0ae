"""How fast each preset trains, as docs/training.md tells it: `python tests/tools/speed_training.py`.

On the CPU one thread is clocked by the processor's own time, so that what else the machine does counts little; on a GPU
(`--device cuda`) by the wall.
"""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

import torch

from samplerbench.plugins.models.ddpm.losses import denoising
from samplerbench.plugins.models.ddpm.networks import CONDITION_DIM, PRESETS, unet_of
from samplerbench.plugins.models.ddpm.settings import BATCH, PRECISIONS, Settings
from samplerbench.plugins.models.ddpm.training import UNET, recipe_of
from samplerbench.samplers.nets.ranks import Ranks
from samplerbench.samplers.nets.training import fit

SIDE, IMAGES = 32, 512


def images_a_second(preset, precision, device, seconds, *, is_compiled=False):
    """Training images a second at 32 x 32 in colour, with captions, in whole steps after the first."""
    torch.manual_seed(0)
    data = torch.randint(256, (IMAGES, 3, SIDE, SIDE), dtype=torch.uint8)
    table = torch.randn(IMAGES, CONDITION_DIM)
    ranks = Ranks(device=device)
    batch = BATCH if preset != "base" or device.type == "cuda" else 16
    loss = denoising(data, lambda rows, seed: table[rows], batch=batch, seed=0, ranks=ranks)
    clock = time.process_time if device.type == "cpu" else time.monotonic
    stamps = []

    def report(progress):
        stamps.append(clock())
        if stamps[-1] - stamps[0] > seconds and len(stamps) > 3:
            raise StopIteration

    unet = unet_of(PRESETS[preset].unet_settings(3, SIDE, CONDITION_DIM)).to(device)
    recipe = recipe_of(Settings(preset=preset, precision=precision, compile=is_compiled), UNET, 10**6)
    with tempfile.TemporaryDirectory() as scratch, contextlib.suppress(StopIteration):
        fit(unet, loss, recipe, checkpoint=Path(scratch) / "x.pt", report=report, ranks=ranks, every_seconds=1e9)
    return (len(stamps) - 1) * batch / (stamps[-1] - stamps[0])


def main():
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--preset", action="append", choices=PRESETS)
    parser.add_argument("--compile", action="store_true", help="as `train --compile` does")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(chosen.device)
    print("preset  parameters  " + "  ".join(f"{p:>8} images/s" for p in PRECISIONS))
    for preset in chosen.preset or PRESETS:
        with torch.device("meta"):
            unet = unet_of(PRESETS[preset].unet_settings(3, SIDE, CONDITION_DIM))
        millions = sum(p.numel() for p in unet.parameters()) / 1e6
        speeds = [
            images_a_second(preset, precision, device, chosen.seconds, is_compiled=chosen.compile)
            for precision in PRECISIONS
        ]
        print(f"{preset:7} {millions:8.1f} M  " + "  ".join(f"{speed:>17.1f}" for speed in speeds), flush=True)


if __name__ == "__main__":
    main()

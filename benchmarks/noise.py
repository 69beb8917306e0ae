"""What a draw of noise costs, against NumPy's own normals in blocks of 64 samples.

    python benchmarks/noise.py [--rounds 15]

For each shape the ways take turns in one process with one thread; the medians of the rounds are printed with their
ratio to the blocks. Where there is a CUDA device, it is timed too: torch's operations, and the Triton kernel.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from samplerbench.samplers import philox_torch
from samplerbench.samplers.noise import Noise, Stream
from samplerbench.samplers.philox import Draw

BLOCK = 64
DRAWS = ((64, (1, 28, 28)), (1024, (3, 32, 32)), (1, (16, 21, 60, 104)))
"""Samples and their shape: the embedded model's, small images, a video's latent."""
BLOCKS = "blocks of 64, NumPy"


def blocks(n: int, shape: tuple[int, ...], interval: int) -> Tensor:
    """The first n samples of whole blocks of NumPy's Philox 4x64 and its ziggurat."""
    drawn = []
    for block in range(-(-n // BLOCK)):
        key = np.random.SeedSequence([0, Stream.STEP, block, interval, 0])
        rng = np.random.Generator(np.random.Philox(key))
        drawn.append(rng.standard_normal((BLOCK, *shape), dtype=np.float32))
    return torch.from_numpy(np.concatenate(drawn)[:n])


def ways_of(n: int, shape: tuple[int, ...]) -> dict[str, Callable[[int], Tensor]]:
    """Name -> a draw for an interval."""
    noise, cuda = Noise(0, shape, n), torch.device("cuda")
    ways = {BLOCKS: lambda i: blocks(n, shape, i), "counters, CPU": lambda i: noise.step(i, 0)}
    if not torch.cuda.is_available():
        return ways

    def draw(interval: int) -> Draw:
        return Draw(0, range(n), math.prod(shape), interval, Stream.STEP << 24)

    ways["blocks of 64, to the GPU"] = lambda i: finished(blocks(n, shape, i).to(cuda))
    ways["counters, GPU, torch"] = lambda i: finished(philox_torch.normals(cuda, draw(i)))
    if kernel := philox_torch.kernel_for(cuda):
        ways["counters, GPU, Triton"] = lambda i: finished(kernel(cuda, draw(i)))
    return ways


def finished(drawn: Tensor) -> Tensor:
    """What a GPU has drawn, when it has."""
    torch.cuda.synchronize()
    return drawn


def medians(ways: Mapping[str, Callable[[int], Tensor]], rounds: int) -> dict[str, float]:
    """Milliseconds of each way; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, draw in ways.items():
            started = time.perf_counter()
            draw(i)
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(of_way[1:]) for name, of_way in times.items()}


def main() -> None:
    """Print a table for each draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for n, shape in DRAWS:
        found = medians(ways_of(n, shape), rounds)
        print(f"{n} x {' x '.join(map(str, shape))}")
        for name, time_ in found.items():
            print(f"  {name:25}{time_:10.2f} ms{time_ / found[BLOCKS]:8.2f}")


if __name__ == "__main__":
    main()

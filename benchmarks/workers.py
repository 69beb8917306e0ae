"""What workers cost and gain: time of the scheduler for each chunk, and speed-up over one worker.

    python benchmarks/workers.py [--rounds 5] [--chunks 128] [--steps 40] [--engine local|ray]
    python benchmarks/workers.py --wall fashion-mnist [--images 512] [--rounds 3]

One worker and two, of one thread each, draw the same chunks of the model `mixture` in turn, round by round, so that
drift of the machine falls on both alike. Printed are, as medians with quartiles over the rounds: the time of a
processor that the engine takes for a chunk in the process that writes (`time.process_time` around the engine alone,
so neither drawing nor the disk is in it); seconds from the first stored chunk to the last; and their ratio. With
`--wall` it is the whole command that one worker and two carry out in turn, on this model with its default samplers and
steps: from the start of Python to the end, with the ODE solution, the table and the report. Ratios say something on a
quiet machine with two free cores only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from samplerbench.bench.draw.engines.base import Solves
from samplerbench.bench.draw.session import Watch
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import Block, Cell, plan_for
from samplerbench.bench.run import Manner, begin
from samplerbench.samplers.engine import Done, Engine, Job
from samplerbench.samplers.registry import load_registry

BLOCK = 64


@dataclass
class Metered:
    """An engine, with the time of a processor that it takes here."""

    inner: Engine
    seconds: float = 0.0

    def draw(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """The answers."""
        answers = iter(self.inner.draw(jobs))
        while True:
            started = time.process_time()
            done = next(answers, None)
            self.seconds += time.process_time() - started
            if done is None:
                return
            yield done

    def solve(self, first: int, n: int, advanced: Callable[[int], object]) -> torch.Tensor | None:
        """The ODE solution, where the engine draws it."""
        return self.inner.solve(first, n, advanced) if isinstance(self.inner, Solves) else None

    def close(self) -> None:
        """Leave nothing running."""
        self.inner.close()


@dataclass
class Stored(Watch):
    """When chunks were stored."""

    at: list[float] = field(default_factory=list)

    def stored(self, cell: Cell, block: Block) -> None:
        """One is."""
        self.at.append(time.perf_counter())


def measured(workers: int, chunks: int, steps: int, engine: str) -> tuple[float, float]:
    """(processor seconds of the engine for a chunk, seconds for a chunk once all workers are at work)."""
    registry = load_registry()
    config = Config(model="mixture", sampler=("ddim", "ddpm"), steps=(steps,), samples=BLOCK * chunks // 2)
    with tempfile.TemporaryDirectory() as folder:
        run = begin(plan_for(config, registry), registry, Path(folder) / "run", Manner(engine=engine, workers=workers))
        metered, stored = Metered(run.session.engine), Stored()
        run.session.engine = metered
        run.work(stored)
        run.folder.close()
    warm = 4 * workers  # the first chunks wait for the start of their workers
    return metered.seconds / len(stored.at), (stored.at[-1] - stored.at[warm]) / (len(stored.at) - 1 - warm)


def wall(workers: int, model: str, images: int, engine: str) -> float:
    """Seconds of the whole command."""
    program = [sys.executable, "-c", "from samplerbench.bench.cli import main; main()", "run", "--quiet"]
    options = ["--model", model, "-n", images, "--threads", 1, "--engine", engine, "--workers", workers]
    with tempfile.TemporaryDirectory() as folder:
        command = [*program, *map(str, options), "-o", f"{folder}/run"]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return time.perf_counter() - started


def told(values: list[float], scale: float, unit: str) -> str:
    """ "1.20 ms (1.10-1.35)"."""
    low, middle, high = (scale * value for value in statistics.quantiles(values, n=4, method="inclusive"))
    return f"{middle:.2f} {unit} ({low:.2f}-{high:.2f})"


def in_turn(number: int) -> tuple[int, int]:
    """How many workers come first and second in a round, so that drift of the machine falls on both alike."""
    return (1, 2) if number % 2 == 0 else (2, 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 5), ("chunks", 128), ("steps", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--wall", metavar="MODEL")
    parser.add_argument("--images", type=int, default=512)
    given = parser.parse_args()
    if given.rounds < 2:  # noqa: PLR2004  (else there is no spread to say)
        parser.error("--rounds: expected at least 2")
    if given.wall:
        walls: dict[int, list[float]] = {1: [], 2: []}
        for number in range(given.rounds):
            for workers in in_turn(number):
                walls[workers].append(wall(workers, given.wall, given.images, given.engine))
        for workers, seconds in walls.items():
            print(f"{workers} worker(s): the whole command takes {told(seconds, 1, 's')}")
        ratios = [one / two for one, two in zip(walls[1], walls[2], strict=True)]
        print(f"with two workers it is {told(ratios, 1, 'times')} as fast as with one")
        return
    torch.set_num_threads(1)
    rounds: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for number in range(given.rounds):
        for workers in in_turn(number):
            rounds[workers].append(measured(workers, given.chunks, given.steps, given.engine))
    for workers, found in rounds.items():
        engine, chunk = ([one[i] for one in found] for i in (0, 1))
        print(f"{workers} worker(s): engine {told(engine, 1e3, 'ms')} a chunk, {told(chunk, 1e3, 'ms')} between chunks")
    gains = [one[1] / two[1] for one, two in zip(rounds[1], rounds[2], strict=True)]
    print(f"two workers draw {told(gains, 1, 'times')} as fast as one")


if __name__ == "__main__":
    main()

"""A run of very many chunks: when the first one is handed out, what the driver needs, and what a chunk costs it.

    python benchmarks/large_plan.py [--chunks 100000] [--cells 10] [--stored 2000]

Nothing is drawn: an engine hands the same chunk back for every job. Of the plan's chunks only `--stored` are written,
since the files of all would only fill the disk; the last ones show whether a chunk costs more where many are there.
Prints one line for each number.
"""

from __future__ import annotations

import itertools
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

import samplerbench as sb
from samplerbench.bench.draw.chunk_file import Chunk
from samplerbench.bench.draw.clock import Timing
from samplerbench.bench.draw.session import Watch
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.run import Manner, begin
from samplerbench.samplers.registry import load_registry

BLOCK = 64
SAMPLERS = ("ddim", "ddpm", "euler", "euler-a", "dpm-solver++", "deis", "unipc", "lms", "ipndm", "sa-solver")


class Enough(KeyboardInterrupt):
    """All chunks that are to be stored are there.

    A stop by the user passes through an engine as it is; any other exception would be the engine's fault.
    """


@dataclass
class Canned:
    """An engine that draws nothing."""

    stored: int
    handed: list[float] = field(default_factory=list)
    """When each chunk was handed over, by the clock of the process."""

    def draw(self, jobs: Iterable[sb.Job]) -> Iterator[sb.Done]:
        """The same images for every job, under hashes of their own."""
        random = np.random.default_rng(0)
        timing = Timing(nfe=2, network_evaluations=2, seconds=0.01, model_seconds=0.005, started=time.time())
        for job in jobs:
            self.handed.append(time.perf_counter())
            if len(self.handed) > self.stored:
                raise Enough
            hashes = random.integers(0, 256, (job.n, 16), dtype=np.uint8)
            yield sb.Drawn(job, Chunk(job.first, job.n, timing, {}, hashes, None, None, job.cell))

    def close(self) -> None:
        """Nothing runs."""


def carry_out(chunks: int, cells: int, stored: int, folder: Path) -> tuple[Canned, float, float]:
    """Begin a run of so many chunks and go on with it; the engine, and the seconds of plan and of beginning."""
    engine = Canned(stored)
    registry = load_registry([])
    config = Config(
        model="mixture", sampler=SAMPLERS[:cells], steps=(2,), samples=chunks // cells * BLOCK, metric=("none",),
        keep_images=False,
    )  # fmt: skip
    started = time.perf_counter()
    plan = replace(plan_for(config, registry), references=())
    planned = time.perf_counter()
    begun = begin(plan, registry, folder / "run", Manner())
    begun.session.engine = engine
    with closing(begun.folder), suppress(Enough):
        begun.session.work(Watch())
    return engine, planned - started, started


@click.command()
@click.option("--chunks", default=100_000, show_default=True, help="Chunks of the plan.")
@click.option("--cells", default=10, show_default=True, type=click.IntRange(1, len(SAMPLERS)))
@click.option("--stored", default=2_000, show_default=True, help="Of which so many are written.")
def main(chunks: int, cells: int, stored: int) -> None:
    """Measure."""
    with tempfile.TemporaryDirectory() as folder:
        engine, planned, started = carry_out(chunks, cells, stored, Path(folder))
    between = [1000 * (b - a) for a, b in itertools.pairwise(engine.handed)]
    tenth = max(1, len(between) // 10)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    numbers: dict[str, Any] = {
        f"a plan of {chunks:,} chunks is made in": f"{planned:.2f} s",
        "its first chunk is handed out after": f"{engine.handed[0] - started:.2f} s",
        "a chunk costs the driver, median of the first tenth": f"{np.median(between[:tenth]):.2f} ms",
        "median of the last tenth": f"{np.median(between[-tenth:]):.2f} ms",
        "most memory of the process": f"{peak:.0f} MB",
    }
    for name, value in numbers.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()

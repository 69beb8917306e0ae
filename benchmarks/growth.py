"""How long a start takes, and how the time of a run grows with images, cells, steps and features.

    python benchmarks/growth.py > benchmarks/results/growth-cpu.md
    python benchmarks/growth.py --only steps,d --rounds 1

Each size is twice the one before. A run has parts that do not grow, such as its report, so first the least size is
measured, and then what each size takes beyond it. The exponent is the slope of a line through the logarithms of both: 1
where twice as much more takes twice as much longer. Clocked is the processor's time of this process, or of the one that
is started, which other programs disturb least.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

import samplerbench as sb
from samplerbench.bench.plan.environment import environment
from samplerbench.samplers.registry import default_registry

STARTS = {
    "import samplerbench": ("-c", "import samplerbench"),
    "samplerbench --help": ("-m", "samplerbench", "--help"),
    "samplerbench list samplers": ("-m", "samplerbench", "list", "samplers"),
    "samplerbench run --dry-run": ("-m", "samplerbench", "run", "--dry-run"),
}
DOUBLINGS = 4
ROWS = 2048
"""Images whose features FID compares while d grows."""


def run_of(n: int = 256, cells: int = 4, steps: int = 4) -> float:
    """Seconds of a run on a mixture of Gaussians: all of `sb.run`, from the plan to the report."""
    counts = [steps + i for i in range(cells)]
    with tempfile.TemporaryDirectory() as folder:
        return clocked(lambda: sb.run("mixture", ["ddim"], steps=counts, n=n, metrics=(), output=f"{folder}/run"))


def fid_of(d: int) -> float:
    """Seconds of one FID with its interval, of rows of d numbers."""
    random = np.random.default_rng(0)
    rows, reference = random.standard_normal((2, ROWS, d)).astype(np.float32)
    metric = default_registry().metrics.things["fid"]()
    prepared = metric.prepare(reference)
    return clocked(lambda: metric.estimate(rows, prepared))


class Axis(NamedTuple):
    """Something that grows."""

    about: str
    least: int
    """The size that others are measured beyond."""
    first: int
    """The size that is doubled."""
    seconds: Callable[[int], float]


AXES: Mapping[str, Axis] = {
    "n": Axis("images of a run of 4 cells", 64, 512, lambda size: run_of(n=size)),
    "cells": Axis("cells of a run of 256 images", 1, 4, lambda size: run_of(cells=size)),
    "steps": Axis("steps of a run of 1 cell", 1, 50, lambda size: run_of(cells=1, steps=size)),
    "d": Axis(f"features of a FID of {ROWS} images", 1, 64, fid_of),
}


def clocked(work: Callable[[], object]) -> float:
    """Seconds of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def start_of(arguments: tuple[str, ...]) -> float:
    """Seconds of a process that runs Python with these arguments."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def median(rounds: int, measure: Callable[..., float], *arguments: object) -> float:
    """The median of several measurements."""
    return statistics.median(measure(*arguments) for _ in range(rounds))


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of the line through the logarithms; NaN where a time is not above 0."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) if min(seconds) > 0 else math.nan


def row_of(axis: Axis, rounds: int) -> str:
    """A row of Markdown: sizes, their seconds beyond the least one, and the exponent."""
    axis.seconds(axis.least)  # the first of a process is slower than all others
    sizes = [axis.first * 2**i for i in range(DOUBLINGS)]
    least = median(rounds, axis.seconds, axis.least)
    beyond = [median(rounds, axis.seconds, size) - least for size in sizes]
    slope = exponent([size - axis.least for size in sizes], beyond)
    told = ", ".join(f"{one:.2g}" for one in beyond)
    return f"| {axis.about} | {axis.least}: {least:.2g} s | {', '.join(map(str, sizes))} | {told} | {slope:.2f} |"


def main() -> None:
    """Print a table of starts and one of growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="as in n,steps, or start")
    given = parser.parse_args()
    torch.set_num_threads(1)
    wanted = given.only.split(",") if given.only else ["start", *AXES]
    about = environment("cpu")
    print(f"{about['cpu']}, {about['cores']} cores, {about['threads']} thread; medians of {given.rounds} rounds\n")
    if "start" in wanted:
        print("| start | s |\n|---|---:|")
        for name, arguments in STARTS.items():
            print(f"| {name} | {median(given.rounds, start_of, arguments):.2f} |", flush=True)
        print()
    if axes := [name for name in AXES if name in wanted]:
        print("| grows | least | sizes | s beyond the least | exponent |\n|---|---|---|---|---:|")
        for name in axes:
            print(row_of(AXES[name], given.rounds), flush=True)


if __name__ == "__main__":
    main()

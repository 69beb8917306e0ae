"""How long a start takes, and how the time of a run grows with images, cells, steps and features.

    python benchmarks/growth.py                       # two or three minutes on a quiet core
    python benchmarks/growth.py --only steps,d --rounds 1

Each size is twice the one before. The exponent is the slope of a line through the logarithms of size and time: 1 where
twice as much takes twice as long. A part that does not grow, as the report of a run, keeps it below. Clocked is the
processor's time of this process, or of the one that is started, which other programs disturb least.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

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


AXES: Mapping[str, tuple[int, Callable[[int], float]]] = {
    "n": (256, lambda size: run_of(n=size)),
    "cells": (4, lambda size: run_of(cells=size)),
    "steps": (10, lambda size: run_of(cells=1, steps=size)),
    "d": (64, fid_of),
}
"""By name: the smallest size, and the seconds of any."""


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


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """The slope of the line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


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
        print("| grows | sizes | s | exponent |\n|---|---|---|---:|")
        for name in axes:
            least, measure = AXES[name]
            sizes = [least * 2**i for i in range(DOUBLINGS)]
            measure(least)  # the first of a process is slower than all others
            seconds = [median(given.rounds, measure, size) for size in sizes]
            told = ", ".join(f"{one:.2g}" for one in seconds)
            print(f"| {name} | {', '.join(map(str, sizes))} | {told} | {exponent(sizes, seconds):.2f} |", flush=True)


if __name__ == "__main__":
    main()

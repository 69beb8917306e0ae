"""FID, KID, precision and recall of rows that are there, against torch-fidelity: the values, and what they take.

    python benchmarks/metrics.py > benchmarks/results/metrics-cpu.md
    python benchmarks/metrics.py --shape 2048,64 --rounds 1

Both get the same random rows, as many of the images as of the reference, and take turns. Ours find the interval of
each value too; torch-fidelity's give the value alone, and KID as the mean over random subsets. For the comparison of
values its KID has one subset, of all rows; for that of times it has its default of 100 subsets of 1,000 too. Clocked is
the processor's time of this process. Exits with 1 where a value differs.
"""

from __future__ import annotations

import argparse
import importlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from samplerbench.bench.plan.environment import environment
from samplerbench.samplers.metric import Rows
from samplerbench.samplers.registry import default_registry

SHAPES = "2048,64", "10000,64", "2048,2048"
SUBSETS, SUBSET = 100, 1000
"""Of torch-fidelity's KID, by default."""
NEIGHBOURS = 3
TOLERANCE, LEAST = 1e-4, 1e-6
"""Of differences, relative and absolute. torch-fidelity finds KID and distances in float32; a KID near 0 is a
difference of means near 1, of which float32 keeps seven digits."""
Values = tuple[float, ...]


@dataclass(frozen=True)
class Problem:
    """Rows of images and of the reference, (n, d) each."""

    rows: Rows
    reference: Rows

    def ours(self, *names: str) -> Values:
        """The values of some metrics, each found with its interval."""
        metrics = [default_registry().metrics[name]() for name in names]
        return tuple(one.estimate(self.rows, one.prepare(self.reference)).value for one in metrics)

    def fid(self) -> Values:
        """torch-fidelity's FID."""
        part = importlib.import_module("torch_fidelity.metric_fid")
        moments = [part.fid_features_to_statistics(torch.from_numpy(one)) for one in (self.rows, self.reference)]
        return (part.fid_statistics_to_metric(*moments, verbose=False)["frechet_inception_distance"],)

    def kid(self, subsets: int, size: int) -> Values:
        """torch-fidelity's KID."""
        part = importlib.import_module("torch_fidelity.metric_kid")
        found = part.kid_features_to_metric(
            *map(torch.from_numpy, (self.rows, self.reference)), kid_subsets=subsets, kid_subset_size=size,
            verbose=False,
        )  # fmt: skip
        return (found["kernel_inception_distance_mean"],)

    def precision_and_recall(self) -> Values:
        """torch-fidelity's precision and recall."""
        found = importlib.import_module("torch_fidelity.metric_prc").prc_features_to_metric(
            *map(torch.from_numpy, (self.rows, self.reference)), prc_neighborhood=NEIGHBOURS, prc_batch_size=10_000,
            save_cpu_ram=False, verbose=False,
        )  # fmt: skip
        return found["precision"], found["recall"]


def problem_of(n: int, d: int) -> Problem:
    """Random rows whose two distributions overlap in part, whatever d is."""
    random = np.random.default_rng(0)
    rows, reference = random.standard_normal((2, n, d)).astype(np.float32)
    # As the features of a network: of a steep spectrum, so that few directions count.
    scale = (1 / np.sqrt(1 + np.arange(d))).astype(np.float32)
    return Problem(rows * scale + 0.5 * scale[0] * (np.arange(d) == 0).astype(np.float32), reference * scale)


def ways_of(problem: Problem) -> dict[str, tuple[Callable[[], Values], Callable[[], Values], bool]]:
    """For each comparison ours, torch-fidelity's, and whether both say the same."""
    n = len(problem.rows)
    ways: dict[str, tuple[Callable[[], Values], Callable[[], Values], bool]] = {
        "FID": (lambda: problem.ours("fid"), problem.fid, True),
        "KID, of all rows": (lambda: problem.ours("kid"), lambda: problem.kid(1, n), True),
        "precision and recall": (lambda: problem.ours("precision", "recall"), problem.precision_and_recall, True),
    }  # fmt: skip
    if n >= SUBSET:
        ways[f"KID, against {SUBSETS} subsets of {SUBSET:,}"] = (
            lambda: problem.ours("kid"), lambda: problem.kid(SUBSETS, SUBSET), False,
        )  # fmt: skip
    return ways


def clocked(way: Callable[[], Values]) -> tuple[Values, float]:
    """The values, and seconds of this process."""
    started = time.process_time()
    return way(), time.process_time() - started


def rows_of_table(problem: Problem, rounds: int) -> tuple[list[str], bool]:
    """A row of Markdown for each comparison, and whether all values are equal that should be."""
    rows, all_equal = [], True
    for name, (mine, theirs, is_same) in ways_of(problem).items():
        seconds: Mapping[str, list[float]] = {"ours": [], "theirs": []}
        values: dict[str, Values] = {}
        for i in range(rounds + 1):
            for who, way in list(zip(seconds, (mine, theirs), strict=True))[:: -1 if i % 2 else 1]:
                values[who], took = clocked(way)
                if i:  # the first round imports and warms up
                    seconds[who].append(took)
        equal = not is_same or are_equal(*values.values())
        all_equal &= equal
        ours, other = (statistics.median(seconds[who]) for who in seconds)
        told = [", ".join(f"{one:.6g}" for one in values[who]) for who in values]
        rows.append(
            f"| {name} | {told[0]} | {told[1]}{'' if equal else ' **differs**'} | {ours:.3g} | {other:.3g} | "
            f"{ours / other:.2f} |"
        )
    return rows, all_equal


def are_equal(mine: Values, theirs: Values) -> bool:
    """Whether values differ by less than the tolerance."""
    return all(math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=LEAST) for a, b in zip(mine, theirs, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each shape; 1 where a value differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", metavar="N,D", help="rows and features; repeatable")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    about: Any = environment("cpu")
    versions = f"samplerbench {version('samplerbench')}, torch-fidelity {version('torch-fidelity')}"
    print(f"{about['cpu']}, {about['threads']} thread; {versions}; medians of {given.rounds} rounds\n")
    equal = True
    for shape in given.shape or SHAPES:
        n, d = map(int, shape.split(","))
        print(f"### {n:,} rows of {d:,} features\n")
        print("| | samplerbench | torch-fidelity | s | its s | our time over its |\n|---|---|---|---:|---:|---:|")
        rows, is_equal = rows_of_table(problem_of(n, d), given.rounds)
        print("\n".join([*rows, ""]), flush=True)
        equal &= is_equal
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())

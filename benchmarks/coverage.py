"""How often intervals hold what they should, families claim what is not there, and differences are found.

    python benchmarks/coverage.py --pool ~/pool --images 200000 -n 128 -n 512 -n 2048

draws a pool of images of three samplers on the embedded model, in the order in which every run draws, and takes runs of
n images out of it: disjoint ones as far as they go, then random ones with as many images of each prompt. What an
interval should hold is the mean of all those runs. The pool is kept outside the repository, and the same command goes
on with it; what was measured is kept beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import samplerbench as sb
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.judge.compare import comparison_of, corrected_p
from samplerbench.bench.judge.looks import Look
from samplerbench.bench.judge.statistics import LEVEL, strata_of
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import Plan, plan_for
from samplerbench.bench.plan.yardstick import Yardstick, yardsticks
from samplerbench.samplers.files.atomic import write_atomically
from samplerbench.samplers.metric import Estimate, Rows, Strata, mean_estimate, root_mean_estimate
from samplerbench.samplers.registry import load_registry
from samplerbench.samplers.sample import draw, no_images

SAMPLERS, STEPS = ("ddpm", "ddim", "dpm-solver++"), 5
DETERMINISTIC = SAMPLERS[1:]
READ = ("fid", "clip_score", "inception_score", "fd_clip")
"""Metrics that are fast on any number of images, and have the rows of all extractors kept."""
METRICS = (
    "fid", "fid_unbiased", "kid", "clip_score", "inception_score", "precision", "recall", "density", "coverage", "cmmd",
    "fd_clip",
)  # fmt: skip
EQUAL, LOOKS = 12, 3
"""Equal samplers in a family, and how often it is looked at: at n images, 2 n, 4 n."""
ODE_COUNTS = (16, 32, 64, 128, 256)
ODE_BLOCK = 64
Places = np.ndarray[Any, np.dtype[np.int64]]


# ---- The pool ----


@dataclasses.dataclass(frozen=True)
class Pool:
    """Images that runs are taken from."""

    rows: dict[str, dict[str, Rows]]
    """By sampler and extractor, in drawing order."""
    prompts: Sequence[str]
    """Which take turns."""

    def strata(self, n: int) -> Strata | None:
        """Which of the samples of a run of n share a prompt."""
        return strata_of(self.prompts, np.arange(n))


def pool_of(folder: Path, images: int) -> Path:
    """The run folder with so many images of each sampler, drawn as far as they are not there."""
    run = folder / "run"
    is_there = (run / "run.json").exists()
    if is_there and read_run(run).config.samples >= images:
        images = read_run(run).config.samples
    add = is_there and read_run(run).config.samples < images
    names = {"model": "fashion-mnist", "samplers": SAMPLERS, "steps": STEPS, "n": images, "metrics": READ}
    sb.run(**names, keep_images=False, output=run, add=add)
    return run


def rows_of(run: Path) -> dict[str, dict[str, Rows]]:
    """By sampler and extractor the rows of all images."""
    found = {}
    for cell in read_run(run).cells:
        chunks = [chunk for _, chunk in sorted(RunFolder(run).chunks_of(cell.key).items())]
        names = chunks[0].rows
        found[cell.sampler] = {name: np.concatenate([chunk.rows[name] for chunk in chunks]) for name in names}
    return found


def replicates(images: int, n: int, runs: int, cycle: int, seed: int = 0) -> Iterator[Places]:
    """Which images of the pool are a run of n: disjoint blocks that begin with the first prompt, then random ones."""
    stride = cycle * math.ceil(n / cycle)
    starts = range(0, images - n + 1, stride)[:runs]
    for start in starts:
        yield np.arange(start, start + n)
    rng = np.random.default_rng(seed)
    for _ in range(runs - len(starts)):
        yield random_run(images, n, cycle, rng)


def random_run(images: int, n: int, cycle: int, rng: np.random.Generator) -> Places:
    """A random run of n images, of which sample i has the prompt i mod `cycle`; no image twice."""
    places = np.empty(n, dtype=np.int64)
    for prompt in range(min(cycle, n)):
        mine = slice(prompt, n, cycle)
        places[mine] = prompt + cycle * rng.choice((images - prompt - 1) // cycle + 1, len(places[mine]), replace=False)
    return places


# ---- What intervals, families and tests do ----


def estimated(yardstick: Yardstick, rows: Rows, strata: Strata | None) -> Estimate:
    """A metric as a table has it."""
    estimate = yardstick.metric.estimate_by_prompt(rows, yardstick.prepared, strata)
    return dataclasses.replace(estimate, strata=strata)


def share_text(hits: Sequence[bool]) -> dict[str, float]:
    """A share in per cent with its Monte Carlo error."""
    share = float(np.mean(hits))
    return {"percent": 100 * share, "error": 100 * math.sqrt(share * (1 - share) / len(hits))}


def coverage_of(values: Sequence[float], lows: Sequence[float], highs: Sequence[float], errors: Sequence[float]) -> Any:
    """How often the interval holds the mean of all runs, and the printed error beside the spread of the runs."""
    mean = float(np.mean(values))
    held = [low <= mean <= high for low, high in zip(lows, highs, strict=True)]
    ratio = math.sqrt(float(np.mean(np.square(errors)))) / float(np.std(values, ddof=1))
    return {"mean": mean, "covers": share_text(held), "error_to_spread": ratio, "runs": len(held)}


def of_values(found: Sequence[Estimate]) -> Any:
    """The coverage of a metric's own interval."""
    return coverage_of(*zip(*((e.value, e.low, e.high, e.standard_error) for e in found), strict=True))


def of_differences(name: str, a: Sequence[Estimate], b: Sequence[Estimate]) -> Any:
    """The coverage of the interval of a difference, and how often one of two deviations is found."""
    pairs = [comparison_of(name, None, None, x, y, lower_is_better=True) for x, y in zip(a, b, strict=True)]
    values = np.array([pair.difference.value for pair in pairs])
    shift = 2 * values.std(ddof=1) - values.mean()
    moved = [
        dataclasses.replace(pair, difference=dataclasses.replace(pair.difference, value=float(value + shift)))
        for pair, value in zip(pairs, values, strict=True)
    ]
    many = EQUAL * (EQUAL - 1) // 2
    return coverage_of(
        values.tolist(), [pair.low for pair in pairs], [pair.high for pair in pairs], [pair.error for pair in pairs]
    ) | {
        "power_of_one_pair": share_text([pair.p * Look().weight < LEVEL for pair in moved]),
        f"power_of_{many}_pairs": share_text([pair.p * many * Look().weight < LEVEL for pair in moved]),
    }  # fmt: skip


def has_false_claim(name: str, samplers: Sequence[Estimate], look: Look) -> bool:
    """Whether a family of all pairs of equal samplers claims a difference."""
    pairs = [
        comparison_of(name, None, None, a, b, lower_is_better=True)
        for i, a in enumerate(samplers)
        for b in samplers[:i]
    ]
    return any(p < LEVEL for p in corrected_p(pairs, look.weight))


def false_claims(name: str, yardstick: Yardstick, pool: Pool, n: int, families: int) -> Any:
    """How often families of equal samplers hold a false claim: at the first look, and at any of LOOKS."""
    rows = pool.rows["ddim"][yardstick.metric.extractor]
    rng, cycle, most = np.random.default_rng(1), len(pool.prompts), n * 2 ** (LOOKS - 1)
    stride = cycle * math.ceil(most / cycle)
    first, ever = [], []
    for _ in range(families if len(rows) >= EQUAL * stride else 0):
        places = random_run(len(rows) // cycle * cycle, EQUAL * stride, cycle, rng).reshape(EQUAL, stride)
        claims = []
        for look in range(LOOKS):
            samples = n * 2**look
            of_each = [estimated(yardstick, rows[one[:samples]], pool.strata(samples)) for one in places]
            claims.append(has_false_claim(name, of_each, Look(look + 1, samples)))
        first.append(claims[0])
        ever.append(any(claims))
    return {"first_look": share_text(first), "any_look": share_text(ever), "families": families} if first else None


# ---- The ODE error ----


def squares_of(run: Path, folder: Path, images: int) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """By deterministic sampler the squared distances of the first images to the converged solution.

    A run has those of its first blocks; those behind are drawn, and kept in the folder block by block.
    """
    plan: Plan | None = None
    found = of_run(run)
    there = min(map(len, found.values())) // ODE_BLOCK * ODE_BLOCK
    found = {name: values[:there] for name, values in found.items()}
    for first in range(there, images, ODE_BLOCK):
        file = folder / f"ode-{first:08d}.json"
        if not file.exists():
            plan = plan or plan_for(Config(sampler=DETERMINISTIC, steps=(STEPS,)), load_registry())
            assert plan.reference is not None
            solved = draw(plan.reference, first, ODE_BLOCK, images=no_images).x.double()
            squares = {
                cell.sampler: (draw(cell.request, first, ODE_BLOCK, images=no_images).x.double() - solved)
                .square().flatten(1).mean(1).tolist()
                for cell in plan.cells
            }  # fmt: skip
            write_atomically(file, json.dumps(squares).encode())
        for name, values in json.loads(file.read_text()).items():
            found[name] += values
    return {name: np.array(values[:images]) for name, values in found.items() if values}


def of_run(run: Path) -> dict[str, list[float]]:
    """By deterministic sampler the squared distances that a run has."""
    chunks = {cell.sampler: sorted(RunFolder(run).chunks_of(cell.key).items()) for cell in read_run(run).cells}
    return {
        name: [float(d) for _, chunk in chunks[name] if chunk.ode_distance is not None for d in chunk.ode_distance]
        for name in DETERMINISTIC
    }


def of_ode(squares: np.ndarray[Any, np.dtype[np.float64]], prompts: Sequence[str], count: int, runs: int) -> Any:
    """The coverage of the ODE error and of the mean distance; images of each prompt are drawn with replacement."""
    rng, cycle = np.random.default_rng(2), len(prompts)
    strata = strata_of(prompts, np.arange(count))
    per_prompt = len(squares) // cycle
    prompt = np.arange(count) % cycle
    weights = np.bincount(prompt, minlength=cycle) / count
    by_prompt = squares[: per_prompt * cycle].reshape(per_prompt, cycle)
    truth = {
        "ode_error": math.sqrt(float(by_prompt.mean(0) @ weights)),
        "ode_distance": float(np.sqrt(by_prompt).mean(0) @ weights),
    }
    held: dict[str, list[bool]] = {name: [] for name in truth}
    for _ in range(runs):
        values = by_prompt[rng.integers(per_prompt, size=count), prompt]
        made = {"ode_error": root_mean_estimate(values), "ode_distance": mean_estimate(np.sqrt(values))}
        for name, estimate in made.items():
            e = dataclasses.replace(estimate, strata=strata)
            held[name].append(abs(e.value - truth[name]) <= 1.96 * e.standard_error)
    return {name: share_text(hits) for name, hits in held.items()}


# ---- The command ----


class Results:
    """What was measured, in a file; what is there is not measured again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def of(self, key: str, measure: Any) -> Any:
        """What is known under a key, else what `measure` makes."""
        if key not in self.known:
            self.known[key] = measure()
            write_atomically(self.file, json.dumps(self.known, indent=1).encode())
        return self.known[key]


def measure_metric(name: str, yardstick: Yardstick, pool: Pool, n: int, arguments: argparse.Namespace) -> Any:
    """All that is measured of a metric at n images."""
    rows, strata = {sampler: pool.rows[sampler][yardstick.metric.extractor] for sampler in SAMPLERS}, pool.strata(n)
    places = list(replicates(len(rows[SAMPLERS[0]]), n, arguments.runs, len(pool.prompts)))
    found = {sampler: [estimated(yardstick, rows[sampler][place], strata) for place in places] for sampler in SAMPLERS}
    pairs = [(a, b) for i, b in enumerate(SAMPLERS) for a in SAMPLERS[:i]]
    return {
        "values": {sampler: of_values(estimates) for sampler, estimates in found.items()},
        "differences": {f"{a} - {b}": of_differences(name, found[a], found[b]) for a, b in pairs},
        "false_claims": false_claims(name, yardstick, pool, n, arguments.families),
    }


def told(name: str, n: int, found: Any) -> Iterator[str]:
    """What was measured of a metric, a line each."""
    for kind in ("values", "differences"):
        for what, one in found[kind].items():
            line = f"{name:16} n={n:<6} {what:22} {share(one['covers'])}  error/spread {one['error_to_spread']:.2f}"
            power = [f"  power {share(value)}" for key, value in one.items() if key.startswith("power")]
            yield line + "".join(power)
    if claims := found["false_claims"]:
        ever = share(claims["any_look"])
        yield f"{name:16} n={n:<6} false claims: {share(claims['first_look'])}, at {LOOKS} looks {ever}"


def share(one: dict[str, float]) -> str:
    """ "95.1 +- 0.6 %"."""
    return f"{one['percent']:5.1f} +- {one['error']:.1f} %"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help="folder of the pool, outside the repository")
    parser.add_argument("--images", type=int, default=200_000, help="images of each sampler")
    parser.add_argument("-n", type=int, action="append", help="images of a run; repeatable [default: 128, 512, 2048]")
    parser.add_argument("--runs", type=int, default=1500, help="runs of n images that are taken from the pool")
    parser.add_argument("--families", type=int, default=500, help="families of 12 equal samplers")
    parser.add_argument("--metric", action="append", help=f"repeatable [default: {', '.join(METRICS)}]")
    parser.add_argument("--ode", type=int, default=20_000, help="images with a converged solution")
    arguments = parser.parse_args()
    arguments.pool.mkdir(parents=True, exist_ok=True)
    run = pool_of(arguments.pool, arguments.images)
    record = read_run(run)
    pool = Pool(rows_of(run), record.prompts)
    results = Results(arguments.pool / "coverage.json")
    names = tuple(arguments.metric or METRICS)
    ready = yardsticks(names, load_registry().metrics.things, sb.load_model("fashion-mnist"))
    for n in arguments.n or (128, 512, 2048):
        for name, yardstick in ready.items():
            if n < yardstick.fewest(name):
                continue
            key = f"{name} n={n} pool={record.config.samples} runs={arguments.runs} families={arguments.families}"
            found = results.of(key, lambda: measure_metric(name, yardstick, pool, n, arguments))  # noqa: B023
            print("\n".join(told(name, n, found)), flush=True)
    squares = squares_of(run, arguments.pool, arguments.ode)
    for sampler, of_sampler in squares.items():
        for count in ODE_COUNTS:
            key = f"ode {sampler} count={count} images={arguments.ode}"
            found = results.of(key, lambda: of_ode(of_sampler, record.prompts, count, 4000))  # noqa: B023
            print(f"{sampler:16} {count} images  " + ", ".join(f"{name} {share(one)}" for name, one in found.items()))


if __name__ == "__main__":
    main()

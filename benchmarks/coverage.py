"""How often intervals hold what they should, families claim what is not there, and differences are found.

    python benchmarks/coverage.py --pool ~/pool --images 200000 -n 128 -n 512 -n 2048

draws a pool of images of three samplers on the embedded model, in the order in which every run draws, and takes runs of
n images out of it: disjoint ones as far as they go, then random ones with as many images of each prompt. What an
interval should hold is the mean of all those runs. The pool is kept outside the repository, and the same command goes
on with it; what was measured is kept beside it. `--drawn` measures what is there, of a pool that is still being drawn
too, and

    python benchmarks/coverage.py --pool ~/pool --drawn --markdown > docs/coverage.md

writes the page of the documentation.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

import samplerbench as sb
from samplerbench.bench.draw.chunk_file import Chunk
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.judge.compare import comparison_of, corrected_p
from samplerbench.bench.judge.looks import Look
from samplerbench.bench.judge.statistics import strata_of
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import ODE_SAMPLES, Plan, plan_for
from samplerbench.bench.plan.yardstick import Yardstick, yardsticks
from samplerbench.plugins.metrics.density_coverage import Coverage, Guests
from samplerbench.plugins.metrics.mmd import MMD, mean_with
from samplerbench.plugins.metrics.neighbours import distances
from samplerbench.samplers.files.atomic import write_atomically
from samplerbench.samplers.metric import Estimate, Floats, Rows, Strata, mean_estimate, root_mean_estimate
from samplerbench.samplers.registry import load_registry
from samplerbench.samplers.sample import draw, no_images
from samplerbench.samplers.student import LEVEL

SAMPLERS, STEPS = ("ddpm", "ddim", "dpm-solver++"), 5
DETERMINISTIC = SAMPLERS[1:]
READ = ("fid", "clip_score", "inception_score", "fd_clip")
"""Metrics that are fast on any number of images, and have the rows of all extractors kept."""
METRICS = (
    "fid", "fid_unbiased", "kid", "clip_score", "inception_score", "precision", "recall", "density", "coverage", "cmmd",
    "fd_clip",
)  # fmt: skip
MEANS = ("clip_score", "precision", "density")
"""Metrics that are the mean of a number of each image, which is the same in every run."""
COUNTS = (128, 512, 2048)
EQUAL, LOOKS = 12, 3
"""Equal samplers in a family, and how often it is looked at: at n images, 2 n, 4 n."""
ALL_PAIRS = EQUAL * (EQUAL - 1) // 2
ODE_ERRORS = ("ode_error", "ode_distance")
PRINTED = "`ode_error`, as printed"
ODE_COUNTS = (20, 32, 64, 128, 256)
ODE_BLOCK, ODE_RUNS = 64, 4000
LEAST = 100
"""Runs that are measured, however long they take; fewer families say nothing and are left out."""
Places = np.ndarray[Any, np.dtype[np.int64]]


# ---- The pool ----


@dataclasses.dataclass(frozen=True)
class Pool:
    """Images that runs are taken from, as many of each sampler."""

    rows: Mapping[str, Mapping[str, Rows]]
    """By sampler and extractor, in drawing order."""
    squares: Mapping[str, Sequence[float]]
    """By deterministic sampler the squared distances of the first images to the converged solution."""
    prompts: Sequence[str]
    """Which take turns."""

    @property
    def images(self) -> int:
        """Of each sampler."""
        return len(next(iter(self.rows[SAMPLERS[0]].values())))

    def strata(self, n: int) -> Strata | None:
        """Which of the samples of a run of n share a prompt."""
        return strata_of(self.prompts, np.arange(n))


def draw_pool(run: Path, images: int) -> None:
    """Draw a run folder with a number of images of each sampler, as far as they are not there."""
    there = read_run(run).config.samples if (run / "run.json").exists() else 0
    names = {"model": "fashion-mnist", "samplers": SAMPLERS, "steps": STEPS, "metrics": READ}
    sb.run(**names, n=max(images, there), keep_images=False, output=run, add=0 < there < images)


def read_pool(run: Path) -> Pool:
    """What a run folder has, finished or not: as many images of each sampler as all have, from the first on."""
    record, folder = read_run(run), RunFolder(run)
    chunks = {cell.sampler: unbroken(folder.chunks_of(cell.key).values()) for cell in record.cells}
    shared = min(sum(chunk.n for chunk in of_cell) for of_cell in chunks.values())
    if not shared:
        sys.exit(f"{run}: a sampler has no images yet; give the command again later, or without --drawn")
    rows = {
        sampler: {name: np.concatenate([chunk.rows[name] for chunk in of_cell])[:shared] for name in of_cell[0].rows}
        for sampler, of_cell in chunks.items()
    }
    squares = {sampler: distances_of(chunks[sampler]) for sampler in DETERMINISTIC}
    return Pool(rows, squares, record.prompts)


def unbroken(chunks: Iterable[Chunk]) -> list[Chunk]:
    """The chunks from the first sample on, up to the first that is not there."""
    found: list[Chunk] = []
    for chunk in sorted(chunks, key=lambda one: one.first):
        if chunk.first != sum(one.n for one in found[-1:]) + (found[-1].first if found else 0):
            break
        found.append(chunk)
    return found


def distances_of(chunks: Sequence[Chunk]) -> list[float]:
    """The squared distances to the converged solution that chunks have."""
    return [float(d) for chunk in chunks if chunk.ode_distance is not None for d in chunk.ode_distance]


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


# ---- A metric on runs of the pool ----


class OnRuns:
    """A metric on runs that are taken out of the rows of a sampler."""

    def __init__(self, yardstick: Yardstick, rows: Rows) -> None:
        self.metric, self.prepared, self.rows = yardstick.metric, yardstick.prepared, rows

    def of(self, places: Places, strata: Strata | None) -> Estimate:
        """The estimate of a run, as a table has it."""
        return dataclasses.replace(self.estimate(places, strata), strata=strata)

    def estimate(self, places: Places, strata: Strata | None) -> Estimate:
        """The metric's own."""
        return self.metric.estimate_by_prompt(self.rows[places], self.prepared, strata)


class MeanOnRuns(OnRuns):
    """One that is a mean over images: the number of each is computed once."""

    def __init__(self, yardstick: Yardstick, rows: Rows) -> None:
        super().__init__(yardstick, rows)
        whole = self.metric.estimate(rows, self.prepared)
        self.numbers, self.is_share = whole.value + whole.influence, whole.is_share

    def estimate(self, places: Places, strata: Strata | None) -> Estimate:
        """The metric's own, but for rounding."""
        return dataclasses.replace(mean_estimate(self.numbers[places]), is_share=self.is_share)


class PairsOnRuns(OnRuns):
    """A mean over pairs: the mean of those of each image with the reference is computed once."""

    def __init__(self, yardstick: Yardstick, rows: Rows) -> None:
        super().__init__(yardstick, rows)
        assert isinstance(self.metric, MMD)
        self.pairs = self.metric
        self.across: Floats = mean_with(rows, self.prepared.rows, self.metric.kernel)

    def estimate(self, places: Places, strata: Strata | None) -> Estimate:
        """The metric's own, but for rounding."""
        return self.pairs.estimate_with(self.across[places], self.rows[places], self.prepared, strata)


class BallsOnRuns(OnRuns):
    """Coverage: the balls that each image is in are found once."""

    def __init__(self, yardstick: Yardstick, rows: Rows) -> None:
        super().__init__(yardstick, rows)
        assert isinstance(self.metric, Coverage)
        self.coverage = self.metric
        found = [
            np.nonzero(squares <= self.prepared.squared_radii[there]) + np.array([[part.start], [there.start]])
            for part, there, squares in distances(rows, self.prepared.rows)
        ]
        image, ball = np.concatenate(found, axis=1)
        order = np.argsort(image, kind="stable")
        self.balls, self.ends = ball[order], np.searchsorted(image[order], np.arange(len(rows) + 1))

    def estimate(self, places: Places, strata: Strata | None) -> Estimate:
        """The metric's own, to the last bit."""
        ball = np.concatenate([self.balls[self.ends[i] : self.ends[i + 1]] for i in places])
        guest = np.repeat(np.arange(len(places)), self.ends[places + 1] - self.ends[places])
        count = np.bincount(ball, minlength=len(self.prepared.rows))
        first, last = np.zeros((2, len(count)), dtype=np.int64)
        # Of several guests of a ball the one that is written last stays.
        last[ball], first[ball[::-1]] = guest, guest[::-1]
        return self.coverage.estimate_of(Guests(count, first, last), len(places))


def on_runs(name: str, yardstick: Yardstick, rows: Rows) -> OnRuns:
    """A metric on runs, in the way that costs least."""
    if name in MEANS:
        return MeanOnRuns(yardstick, rows)
    if name == "coverage":
        return BallsOnRuns(yardstick, rows)
    return (PairsOnRuns if isinstance(yardstick.metric, MMD) else OnRuns)(yardstick, rows)


def affordable(seconds: float, asked: int, once: Callable[[], object]) -> int:
    """How many of the asked measurements fit into so many seconds of the processor."""
    start = time.process_time()
    once()
    return min(asked, int(seconds / max(time.process_time() - start, 1e-9)))


# ---- What intervals, families and tests do ----


def share_of(hits: Sequence[bool]) -> dict[str, float]:
    """A share in per cent with its Monte Carlo error, which is not 0 where all agree (Agresti & Coull 1998)."""
    runs, count = len(hits), int(np.sum(hits))
    near = (count + 1) / (runs + 2)
    return {"percent": 100 * count / runs, "error": 100 * math.sqrt(near * (1 - near) / runs), "of": runs}


def coverage_of(values: Sequence[float], lows: Sequence[float], highs: Sequence[float], errors: Sequence[float]) -> Any:
    """How often the interval holds the mean of all runs, and the printed error beside the spread of the runs."""
    mean, runs = float(np.mean(values)), len(values)
    held = [low <= mean <= high for low, high in zip(lows, highs, strict=True)]
    ratio = math.sqrt(float(np.mean(np.square(errors)))) / float(np.std(values, ddof=1))
    # The spread of runs is known to a share of 1 / sqrt(2 (runs - 1)).
    ratio_error = ratio / math.sqrt(2 * (runs - 1))
    return {"mean": mean, "covers": share_of(held), "error_to_spread": ratio, "ratio_error": ratio_error, "runs": runs}


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
    return coverage_of(
        values.tolist(), [pair.low for pair in pairs], [pair.high for pair in pairs], [pair.error for pair in pairs]
    ) | {
        "power_of_one": share_of([pair.p * Look().weight < LEVEL for pair in moved]),
        "power_of_all": share_of([pair.p * ALL_PAIRS * Look().weight < LEVEL for pair in moved]),
    }  # fmt: skip


def has_false_claim(name: str, samplers: Sequence[Estimate], look: Look) -> bool:
    """Whether a family of all pairs of equal samplers claims a difference."""
    pairs = [
        comparison_of(name, None, None, a, b, lower_is_better=True)
        for i, a in enumerate(samplers)
        for b in samplers[:i]
    ]
    return any(p < LEVEL for p in corrected_p(pairs, look.weight))


def false_claims(name: str, one: OnRuns, pool: Pool, n: int, asked: argparse.Namespace) -> Any:
    """How often families of equal samplers hold a false claim: at the first look, and at any of LOOKS.

    None where the pool has too few images for one family, or the seconds allow too few families.
    """
    cycle, most = len(pool.prompts), n * 2 ** (LOOKS - 1)
    stride = cycle * math.ceil(most / cycle)
    images = pool.images // cycle * cycle
    if images < EQUAL * stride:
        return None
    rng = np.random.default_rng(1)

    def claims() -> list[bool]:
        """Whether a family makes a false claim, look by look."""
        of_each = random_run(images, EQUAL * stride, cycle, rng).reshape(EQUAL, stride)
        counts = [n * 2**look for look in range(LOOKS)]
        looks = [([one.of(places[:count], pool.strata(count)) for places in of_each], count) for count in counts]
        return [has_false_claim(name, found, Look(i + 1, count)) for i, (found, count) in enumerate(looks)]

    families = affordable(asked.family_seconds, asked.families, claims)
    if families < min(LEAST, asked.families):
        return None
    found = [claims() for _ in range(families)]
    return {"first_look": share_of([looks[0] for looks in found]), "any_look": share_of([any(one) for one in found])}


# ---- The ODE error ----


def squares_of(pool: Pool, folder: Path, images: int, is_drawn: bool) -> dict[str, Floats]:
    """By deterministic sampler the squared distances of the first images to the converged solution.

    A run has those of its first blocks; those behind are kept in the folder block by block, and drawn where they are
    missing, unless all that is drawn is there.
    """
    plan: Plan | None = None
    there = min(map(len, pool.squares.values())) // ODE_BLOCK * ODE_BLOCK
    found = {name: list(values[:there]) for name, values in pool.squares.items()}
    for first in range(there, images, ODE_BLOCK):
        file = folder / f"ode-{first:08d}.json"
        if is_drawn and not file.exists():
            break
        if not file.exists():
            plan = plan or plan_for(Config(sampler=DETERMINISTIC, steps=(STEPS,)), load_registry())
            write_atomically(file, json.dumps(squares_drawn(plan, first)).encode())
        for name, values in json.loads(file.read_text()).items():
            found[name] += values
    return {name: np.array(values[:images]) for name, values in found.items() if values}


def squares_drawn(plan: Plan, first: int) -> dict[str, list[float]]:
    """By deterministic sampler the squared distances of a block of images to the converged solution."""
    (reference,) = plan.references
    solved = draw(reference, first, ODE_BLOCK, images=no_images).x.double()
    drawn = {cell.sampler: draw(cell.request, first, ODE_BLOCK, images=no_images).x.double() for cell in plan.cells}
    return {sampler: (x - solved).square().flatten(1).mean(1).tolist() for sampler, x in drawn.items()}


@dataclasses.dataclass(frozen=True)
class Distances:
    """The squared distances of a sampler, of which runs are drawn with replacement, prompt by prompt."""

    by_prompt: Floats
    """(images of each prompt, prompts)."""
    strata: Strata | None
    """Of a run."""
    prompt: Places
    """Of each image of a run."""

    @property
    def truth(self) -> dict[str, float]:
        """What the intervals should hold."""
        weights = np.bincount(self.prompt, minlength=self.by_prompt.shape[1]) / len(self.prompt)
        squares, distances = (float(of.mean(0) @ weights) for of in (self.by_prompt, np.sqrt(self.by_prompt)))
        return {"ode_error": math.sqrt(squares), "ode_distance": distances}

    def of(self, places: Places) -> dict[str, Estimate]:
        """The ODE errors of a run, as a table has them."""
        values = self.by_prompt[places, self.prompt]
        made = {"ode_error": root_mean_estimate(values), "ode_distance": mean_estimate(np.sqrt(values))}
        return {name: dataclasses.replace(one, strata=self.strata) for name, one in made.items()}


def of_ode(squares: Mapping[str, Floats], prompts: Sequence[str], count: int, runs: int, families: int) -> Any:
    """How often intervals of the ODE errors of `count` images hold, of each sampler and of the differences of two, and
    how often families of equal samplers hold a false claim."""
    rng, cycle = np.random.default_rng(2), len(prompts)
    most = min(map(len, squares.values())) // cycle
    prompt, strata = np.arange(count) % cycle, strata_of(prompts, np.arange(count))
    of = {name: Distances(one[: most * cycle].reshape(most, cycle), strata, prompt) for name, one in squares.items()}
    truth = {sampler: one.truth for sampler, one in of.items()}
    held: dict[str, dict[str, list[bool]]] = {}

    def note(what: str, name: str, is_held: bool) -> None:
        held.setdefault(what, {}).setdefault(name, []).append(is_held)

    for _ in range(runs):
        places = rng.integers(most, size=count)
        found = {sampler: one.of(places) for sampler, one in of.items()}
        for sampler, estimates in found.items():
            for name, e in estimates.items():
                note(sampler, name, e.low <= truth[sampler][name] <= e.high)
            e = estimates["ode_error"]
            note(sampler, PRINTED, abs(e.value - truth[sampler]["ode_error"]) <= (e.high - e.low) / 2)
        for a, b in combinations(found, 2):
            for name in ODE_ERRORS:
                pair = comparison_of(name, None, None, found[a][name], found[b][name], lower_is_better=True)
                note(f"{a} - {b}", name, pair.low <= truth[a][name] - truth[b][name] <= pair.high)

    def claims(one: Distances) -> bool:
        equal = [one.of(rng.integers(most, size=count))["ode_error"] for _ in range(EQUAL)]
        return has_false_claim("ode_error", equal, Look())

    return {
        "covers": {what: {name: share_of(hits) for name, hits in of.items()} for what, of in held.items()},
        "false_claims": {sampler: share_of([claims(one) for _ in range(families)]) for sampler, one in of.items()},
        "images": most * cycle,
    }


# ---- What is measured ----


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


def measure_metric(name: str, of: Mapping[str, OnRuns], pool: Pool, n: int, asked: argparse.Namespace) -> Any:
    """All that is measured of a metric at n images."""
    strata = pool.strata(n)
    places = list(replicates(pool.images, n, asked.runs, len(pool.prompts)))
    of[SAMPLERS[0]].of(places[0], strata)  # the first takes longer
    fitting = affordable(asked.seconds / len(of), len(places), lambda: of[SAMPLERS[0]].of(places[0], strata))
    runs = min(len(places), max(LEAST, fitting))
    found = {sampler: [one.of(place, strata) for place in places[:runs]] for sampler, one in of.items()}
    pairs = [(a, b) for i, b in enumerate(SAMPLERS) for a in SAMPLERS[:i]]
    return {
        "values": {sampler: of_values(estimates) for sampler, estimates in found.items()},
        "differences": {f"{a} - {b}": of_differences(name, found[a], found[b]) for a, b in pairs},
        "false_claims": false_claims(name, of["ddim"], pool, n, asked),
    }


def measured(pool: Pool, results: Results, asked: argparse.Namespace) -> Iterator[tuple[str, int, Any]]:
    """Each metric, number of images, and what was measured of it."""
    names = tuple(asked.metric or METRICS)
    ready = yardsticks(names, load_registry().metrics.things, sb.load_model("fashion-mnist"))
    for name, yardstick in ready.items():
        rows = {sampler: pool.rows[sampler][yardstick.metric.extractor] for sampler in SAMPLERS}
        ready_runs = cache(lambda: {sampler: on_runs(name, yardstick, of) for sampler, of in rows.items()})  # noqa: B023
        for n in asked.n or COUNTS:
            if yardstick.fewest(name) <= n <= pool.images:
                limits = f"runs={asked.runs}/{asked.seconds:g}s families={asked.families}/{asked.family_seconds:g}s"
                key = f"{name} n={n} pool={pool.images} {limits}"
                yield name, n, results.of(key, lambda: measure_metric(name, ready_runs(), pool, n, asked))  # noqa: B023


def measured_ode(pool: Pool, results: Results, asked: argparse.Namespace) -> Iterator[tuple[int, Any]]:
    """Each number of images, and what was measured of their ODE errors."""
    squares = squares_of(pool, asked.pool, asked.ode, asked.drawn)
    images = min(map(len, squares.values()))
    for count in ODE_COUNTS:
        key = f"ode errors count={count} images={images} runs={ODE_RUNS} families={asked.families}"
        yield (
            count,
            results.of(key, lambda: of_ode(squares, pool.prompts, count, ODE_RUNS, asked.families)),  # noqa: B023
        )


# ---- What is printed ----


def told(name: str, n: int, found: Any) -> Iterator[str]:
    """What was measured of a metric, a line each."""
    for kind in ("values", "differences"):
        for what, one in found[kind].items():
            power = [f"  power {share(value)}" for key, value in one.items() if key.startswith("power")]
            yield f"{name:16} n={n:<6} {what:22} {share(one['covers'])} of {one['runs']}  error/spread {ratio(one)}" + (
                "".join(power)
            )
    if claims := found["false_claims"]:
        ever = share(claims["any_look"])
        yield f"{name:16} n={n:<6} false claims: {share(claims['first_look'])}, at {LOOKS} looks {ever}"


def share(one: Mapping[str, float]) -> str:
    """ "95.1 ± 0.6"; where that would leave 0 to 100 %, the bound that it has left: "100.0 (≥ 99.9)"."""
    percent, error = one["percent"], one["error"]
    if percent + error > 100:  # noqa: PLR2004  (per cent)
        return f"{percent:.1f} (≥ {percent - error:.1f})"
    return f"{percent:.1f} (≤ {percent + error:.1f})" if percent < error else f"{percent:.1f} ± {error:.1f}"


def ratio(one: Mapping[str, float]) -> str:
    """ "0.98 ± 0.02"."""
    return f"{one['error_to_spread']:.2f} ± {one['ratio_error']:.2f}"


PAGE = """# How often intervals hold

The intervals in a table are 95 % intervals. This page counts how often they hold what they should, how often a true
difference is found, and how often a difference is claimed that is not there.

For that a pool of {images:,} images each of {samplers} was drawn, at {steps} steps on the embedded model and in
the order in which every run draws. Runs are taken out of the pool: disjoint ones first, then random ones with as many
images of each prompt. What an interval should hold is the mean of all these runs; [method.md](method.md) says what it
means. Two commands make the page. The first draws the pool into the folder DIR, and goes on where it was stopped: its
{evaluations:,} network calls take about 2 ms each on one core. The second measures:

```bash
python benchmarks/coverage.py --pool DIR --images {images}
python benchmarks/coverage.py --pool DIR --drawn --markdown > docs/coverage.md
```

Behind each ± stands the Monte Carlo error, one standard deviation: what another set of runs would change. Where it
would lead below 0 or above 100 %, the bound inside stands in brackets. A number is consistent with what it should be
where it is within two of these errors. A run of {largest:,} images is {part:.1f} % of the pool, so the spread of such
runs is {less:.1f} % less than that of new ones.
"""
VALUES = """
## Values

*How to read it:* in how many per cent of runs the printed 95 % interval held the mean; it should be 95. Behind it, the
printed standard error over the actual spread of the runs; it should be 1. Above 1 the interval is wider than it has to
be. In brackets the number of runs.
"""
DIFFERENCES = """
## Differences

*How to read it:* the same for the interval of a difference of two samplers, as `table --compare` prints it.
"""
POWER = """
## Power

*How to read it:* how often a true difference of two standard deviations of the difference is shown, at the first look,
averaged over the three pairs: where two samplers were compared, and where the pair is one of {pairs}, those of {equal}
samplers, and all are tested.
"""
CLAIMS = """
## False claims

*How to read it:* {equal} equal samplers are compared, each with each. In how many per cent of such families is any
difference claimed, at the first look at n images, and at any of {looks} looks, at n, 2 n and 4 n. At most 5 should be,
and at the first look at most 4. In brackets the number of families. Families share images of the pool. Without an
entry the pool is too small, or the metric too slow for {least} families.
"""
ODE = """
## ODE error

*How to read it:* in how many per cent of {runs:,} simulated runs the interval held the root mean square, and the mean,
of the distances of {images:,} images of each sampler to the converged solution, and the differences of these; it should
be 95. "As printed" is the value ± half the length of the interval, as tables show it. A run draws images of each prompt
with replacement. Of few images one decides; the caption of a table says how often the interval then holds.
"""
ODE_CLAIMS = """
{equal} equal samplers are compared, each with each, at the first look: in how many per cent of {families:,} families
any difference in `ode_error` is claimed. At most 4 should be.
"""


Entries = Iterator[tuple[tuple[str, ...], str]]
"""Words at the head of a row, and what stands in it."""


def table_of(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first column is of words."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def by_count(found: Mapping[tuple[str, int], Any], heads: Sequence[str], entries: Callable[[Any], Entries]) -> str:
    """A table of a row for what `entries` names of each metric, and a column for each number of images."""
    counts = sorted({n for _, n in found})
    cells: dict[tuple[str, ...], dict[int, str]] = {}
    for (name, n), one in found.items():
        for words, text in entries(one):
            cells.setdefault((f"`{name}`", *words), {})[n] = text
    rows = ([*words, *(of_row.get(n, "") for n in counts)] for words, of_row in cells.items())
    return table_of([*heads, *(f"n = {n:,}" for n in counts)], rows)


def of_kind(kind: str) -> Callable[[Any], Entries]:
    """The coverage of "values" or "differences"."""

    def entries(one: Any) -> Entries:
        for what, found in one[kind].items():
            yield (what,), f"{share(found['covers'])}; {ratio(found)} ({found['runs']:,})"

    return entries


def of_power(one: Any) -> Entries:
    """The mean power of the pairs."""
    for key, words in (("power_of_one", "one pair"), ("power_of_all", f"all {ALL_PAIRS} pairs")):
        of_pairs = [found[key] for found in one["differences"].values()]
        yield (
            (words,),
            share({part: float(np.mean([power[part] for power in of_pairs])) for part in ("percent", "error")}),
        )


def of_claims(one: Any) -> Entries:
    """The false claims of families, where the pool has enough images."""
    for key, words in (("first_look", "first look"), ("any_look", f"any of {LOOKS} looks")):
        if claims := one["false_claims"]:
            yield (words,), f"{share(claims[key])} ({claims[key]['of']:,})"


def of_odes(found: Mapping[int, Any]) -> str:
    """The tables of the ODE error."""
    heads = [f"{count} images" for count in found]
    first = next(iter(found.values()))
    rows = (
        [
            what,
            f"`{name}`" if name != PRINTED else PRINTED,
            *(share(one["covers"][what][name]) for one in found.values()),
        ]
        for what, of_what in first["covers"].items()
        for name in of_what
    )
    claims = ([what, *(share(one["false_claims"][what]) for one in found.values())] for what in first["false_claims"])
    families = next(iter(first["false_claims"].values()))["of"]
    return (
        ODE.format(runs=ODE_RUNS, images=first["images"])
        + table_of(["sampler", "value", *heads], rows)
        + ODE_CLAIMS.format(equal=EQUAL, families=families)
        + table_of(["sampler", *heads], claims)
    )


def for_captions(found: Mapping[int, Any]) -> str:
    """The line of bench/show/sheet.py that says how often the interval of an ODE error of few images holds."""
    lowest = {
        count: round(min(of["ode_error"]["percent"] for what, of in one["covers"].items() if what in DETERMINISTIC))
        for count, one in found.items()
        if count < ODE_SAMPLES
    }
    return f"ODE_COVERAGE = {lowest}"


def page(images: int, found: Mapping[tuple[str, int], Any], ode: Mapping[int, Any]) -> str:
    """The page of the documentation."""
    largest = max(n for _, n in found)
    head = PAGE.format(
        images=images, samplers=", ".join(SAMPLERS), steps=STEPS, evaluations=images * len(SAMPLERS) * STEPS,
        largest=largest, part=100 * largest / images, less=100 * (1 - math.sqrt(1 - largest / images)),
    )  # fmt: skip
    return "".join([
        head, VALUES, by_count(found, ["metric", "sampler"], of_kind("values")),
        DIFFERENCES, by_count(found, ["metric", "difference"], of_kind("differences")),
        POWER.format(pairs=ALL_PAIRS, equal=EQUAL), by_count(found, ["metric", "tested"], of_power),
        CLAIMS.format(equal=EQUAL, looks=LOOKS, least=LEAST), by_count(found, ["metric", "asked"], of_claims),
        of_odes(ode),
    ])  # fmt: skip


# ---- The command ----


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help="folder of the pool, outside the repository")
    parser.add_argument("--images", type=int, default=200_000, help="images of each sampler")
    parser.add_argument("--drawn", action="store_true", help="measure the images that are there, and draw none")
    parser.add_argument("-n", type=int, action="append", help="images of a run; repeatable [default: 128, 512, 2048]")
    parser.add_argument("--runs", type=int, default=2000, help="most runs of n images that are taken from the pool")
    parser.add_argument("--families", type=int, default=500, help="most families of 12 equal samplers")
    parser.add_argument("--seconds", type=float, default=300, help="most seconds of the processor for runs of a metric")
    parser.add_argument("--family-seconds", type=float, default=200, help="the same for its families")
    parser.add_argument("--metric", action="append", help=f"repeatable [default: {', '.join(METRICS)}]")
    parser.add_argument("--ode", type=int, default=20_000, help="images with a converged solution")
    parser.add_argument("--markdown", action="store_true", help="print the page of the documentation")
    asked = parser.parse_args()
    asked.pool.mkdir(parents=True, exist_ok=True)
    if not asked.drawn:
        draw_pool(asked.pool / "run", asked.images)
    pool, results = read_pool(asked.pool / "run"), Results(asked.pool / "coverage.json")
    lines = sys.stderr if asked.markdown else sys.stdout
    found: dict[tuple[str, int], Any] = {}
    ode: dict[int, Any] = {}
    for name, n, one in measured(pool, results, asked):
        print("\n".join(told(name, n, one)), file=lines, flush=True)
        found[name, n] = one
    for count, one in measured_ode(pool, results, asked):
        for what, of_what in one["covers"].items():
            held = ", ".join(f"{name} {share(hits)}" for name, hits in of_what.items())
            print(f"{what:22} {count} images  {held}", file=lines, flush=True)
        ode[count] = one
    print(for_captions(ode), file=lines)
    if asked.markdown:
        print(page(pool.images, found, ode), end="")


if __name__ == "__main__":
    main()

"""The measurement of intervals: what it takes from a pool, and the page that it writes."""

import argparse
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import samplerbench as sb
from samplerbench.bench.draw.chunk_file import Chunk
from samplerbench.bench.draw.clock import Timing
from samplerbench.bench.judge.statistics import strata_of
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import ODE_SAMPLES, plan_for
from samplerbench.bench.plan.yardstick import Yardstick
from samplerbench.bench.show.sheet import ODE_COVERAGE
from samplerbench.plugins.metrics.clip_score import CLIPScore
from samplerbench.plugins.metrics.cmmd import CMMD
from samplerbench.plugins.metrics.density_coverage import Coverage, Density
from samplerbench.plugins.metrics.fid import FID
from samplerbench.plugins.metrics.kid import KID
from samplerbench.plugins.metrics.precision_recall import Precision
from samplerbench.samplers.registry import load_registry

FILE = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
NAME = "coverage_of_intervals"  # "coverage" is a package of others
PROMPTS = tuple("abcde")


@pytest.fixture(scope="module")
def coverage():
    """benchmarks/coverage.py."""
    spec = importlib.util.spec_from_file_location(NAME, FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module


def chunk_of(first, n, squares=None):
    """A chunk of samples whose features are their numbers."""
    rows = {"features": np.arange(first, first + n, dtype=np.float32)[:, None]}
    distances = None if squares is None else np.array(squares)
    return Chunk(first, n, Timing(1, 1, 1.0, 1.0), rows, np.zeros((n, 16), np.uint8), None, distances)


def test_a_pool_that_is_being_drawn_is_read_as_far_as_all_samplers_have_it(coverage, monkeypatch, tmp_path):
    """And no further than to the first block that is missing."""
    chunks = {
        "ddpm": [chunk_of(0, 4), chunk_of(4, 4), chunk_of(12, 4)],
        "ddim": [chunk_of(0, 4, [1.0, 2.0, 3.0, 4.0]), chunk_of(4, 4), chunk_of(8, 4)],
        "dpm-solver++": [chunk_of(4, 4), chunk_of(0, 4, [5.0, 6.0, 7.0, 8.0])],
    }
    cells = [argparse.Namespace(sampler=name, key=name) for name in chunks]
    monkeypatch.setattr(coverage, "read_run", lambda _: argparse.Namespace(cells=cells, prompts=PROMPTS))
    of_folder = argparse.Namespace(chunks_of=lambda key: {one.first: one for one in chunks[key]})
    monkeypatch.setattr(coverage, "RunFolder", lambda _: of_folder)
    pool = coverage.read_pool(tmp_path)
    assert pool.images == 8
    assert all(rows["features"].ravel().tolist() == list(range(8)) for rows in pool.rows.values())
    assert pool.squares == {"ddim": [1.0, 2.0, 3.0, 4.0], "dpm-solver++": [5.0, 6.0, 7.0, 8.0]}
    chunks["ddim"] = []
    with pytest.raises(SystemExit, match="has no images yet"):
        coverage.read_pool(tmp_path)


@pytest.mark.parametrize("metric", [KID, CMMD, Precision, Density, Coverage, FID])
def test_what_is_computed_once_for_the_pool_gives_a_run_what_the_metric_gives_it(coverage, metric):
    name = metric.__name__.lower()
    rng = np.random.default_rng(0)
    reference, rows = (rng.standard_normal((n, 4)).astype(np.float32) for n in (80, 200))
    yardstick = Yardstick(metric(), metric().prepare(reference))
    places = np.arange(35) + 50
    strata = strata_of(PROMPTS, np.arange(35))
    found = coverage.on_runs(name, yardstick, rows).of(places, strata)
    expected = coverage.OnRuns(yardstick, rows).of(places, strata)
    assert (found.value, found.is_share) == (pytest.approx(expected.value, abs=1e-9), expected.is_share)
    assert found.influence == pytest.approx(expected.influence, abs=1e-9)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-9)


def test_runs_are_disjoint_as_far_as_the_pool_goes_and_begin_with_the_first_prompt(coverage):
    runs = list(coverage.replicates(100, 12, 8, 5))
    assert [run[0] for run in runs[:6]] == [0, 15, 30, 45, 60, 75]
    assert all((run % 5 == np.arange(12) % 5).all() and len(set(run.tolist())) == 12 for run in runs)


def test_a_share_that_is_never_missed_is_not_known_exactly(coverage):
    assert coverage.share_of([True] * 98) == {"percent": 100.0, "error": pytest.approx(1.005, abs=0.01), "of": 98}


def test_the_page_has_every_measurement_with_its_monte_carlo_error(coverage):
    """Pools of normal numbers, whose intervals hold the mean as often as they say."""
    rng = np.random.default_rng(1)
    rows = {name: {"clip": rng.standard_normal((6000, 1)).astype(np.float32) + 5} for name in coverage.SAMPLERS}
    pool = coverage.Pool(rows, {}, PROMPTS)
    asked = argparse.Namespace(runs=200, families=20, seconds=1e9, family_seconds=1e9)
    of = {name: coverage.on_runs("clip_score", Yardstick(CLIPScore(), None), one["clip"]) for name, one in rows.items()}
    found = {("clip_score", n): coverage.measure_metric("clip_score", of, pool, n, asked) for n in (40, 200)}
    small = found["clip_score", 40]
    for kind in ("values", "differences"):
        assert all(one["covers"]["percent"] == pytest.approx(95, abs=7) for one in small[kind].values())
    assert small["false_claims"]["first_look"]["percent"] < 30
    assert found["clip_score", 200]["false_claims"] is None  # 12 x 800 images are more than there are
    squares = {"ddim": rng.random(100), "dpm-solver++": rng.random(103)}
    ode = {count: coverage.of_ode(squares, PROMPTS, count, 50, 3) for count in (20, 32)}
    text = coverage.page(6000, found, ode)
    words = " ".join(text.split())
    assert "6,000 images each of ddpm, ddim, dpm-solver++ was drawn, at 5 steps" in words
    assert "--images 6000" in words
    assert "its 90,000 network calls" in words
    assert "A run of 200 images is 3.3 % of the pool" in words
    power = small["differences"]["ddpm - ddim"]["power_of_one"]
    assert power["of"] == 200
    for line in ("| `clip_score` | ddpm | ", "| `clip_score` | ddpm - ddim | ", "| `clip_score` | one pair | ",
                 "| `clip_score` | any of 3 looks | ", "| ddim | `ode_distance` | ",
                 "| ddim | `ode_error`, as printed | ", "| ddim - dpm-solver++ | `ode_error` | "):  # fmt: skip
        assert text.count(f"\n{line}") == 1
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(widths) == {4, 5}
    assert "of 100 images of each sampler" in words
    assert "of 3 families any difference in `ode_error` is claimed" in words
    assert "of each sampler to the converged solution" in words
    assert coverage.for_captions(ode).startswith("ODE_COVERAGE = {20: ")


def test_the_interval_of_an_ode_error_holds_as_often_as_it_says(coverage):
    """Squared distances whose prompts differ: what runs are drawn from is known, and so is the value to be held."""
    rng = np.random.default_rng(3)
    squares = {
        name: rng.gamma(4, size=1000) * scale * (1 + np.arange(1000) % 5)
        for name, scale in zip(coverage.DETERMINISTIC, (1, 2), strict=True)
    }
    one = coverage.of_ode(squares, PROMPTS, 60, 300, 1)
    assert {what: set(of) for what, of in one["covers"].items()} == {
        "ddim": {"ode_error", "ode_distance", coverage.PRINTED},
        "dpm-solver++": {"ode_error", "ode_distance", coverage.PRINTED},
        "ddim - dpm-solver++": {"ode_error", "ode_distance"},
    }
    assert all(90 < hits["percent"] <= 99 for of in one["covers"].values() for hits in of.values())
    by_prompt = squares["ddim"].reshape(200, 5)
    truth = coverage.Distances(by_prompt, None, np.array([0, 1, 2, 3, 4, 0])).truth
    assert truth["ode_error"] == pytest.approx(np.sqrt((by_prompt.mean(0) @ [2, 1, 1, 1, 1]) / 6), rel=1e-12)


@pytest.mark.slow
def test_the_interval_of_the_ode_error_holds_on_real_distances(coverage, figure):
    """256 images each of two samplers on the embedded model, with their squared distances to the converged solution."""
    plan = plan_for(Config(sampler=coverage.DETERMINISTIC, steps=(coverage.STEPS,)), load_registry())
    blocks = [coverage.squares_drawn(plan, first) for first in range(0, 256, coverage.ODE_BLOCK)]
    squares = {name: np.concatenate([block[name] for block in blocks]) for name in coverage.DETERMINISTIC}
    for count in (64, 256):
        found = coverage.of_ode(squares, sb.load_model("fashion-mnist").prompts, count, 1000, 50)
        for what, of in found["covers"].items():
            figure(
                f"coverage of the 95 % interval of the ODE error, {count} images, {what}",
                f"{coverage.share(of['ode_error'])} %",
            )
            assert (93 if count == 256 else 90) - 1.4 < of["ode_error"]["percent"] < 98.4  # two Monte Carlo errors
        assert all(of["percent"] <= 8 for of in found["false_claims"].values())


def test_the_caption_says_what_the_page_has_measured(coverage):
    text = (FILE.parents[1] / "docs" / "coverage.md").read_text(encoding="utf-8").partition("## ODE error")[2]
    heads, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    )
    counts = [int(head.removesuffix(" images")) for head in heads[2:]]
    of_samplers = [row[2:] for row in rows if row[0] in coverage.DETERMINISTIC and row[1] == "`ode_error`"]
    lowest = {n: min(float(row[i].split()[0]) for row in of_samplers) for i, n in enumerate(counts)}
    assert set(ODE_COVERAGE) == {n for n in counts if n < ODE_SAMPLES}
    # A percentage that ends in .5 may round either way: the page has one digit, the caption none.
    assert all(abs(lowest[n] - percent) <= 0.55 for n, percent in ODE_COVERAGE.items())


@pytest.mark.parametrize(
    ("percent", "error", "text"),
    [
        (95.12, 0.44, "95.1 ± 0.4"),
        (100.0, 0.1, "100.0 (≥ 99.9)"),
        (99.0, 1.4, "99.0 (≥ 97.6)"),
        (0.0, 1.0, "0.0 (≤ 1.0)"),
        (0.7, 0.7, "0.7 ± 0.7"),
    ],
)
def test_no_share_is_said_to_leave_0_to_100_per_cent(coverage, percent, error, text):
    assert coverage.share({"percent": percent, "error": error}) == text


def test_the_page_has_the_words_and_the_entries_that_the_program_writes(coverage):
    stored = (FILE.parents[1] / "docs" / "coverage.md").read_text(encoding="utf-8")
    for part in (coverage.VALUES, coverage.DIFFERENCES):
        assert part in stored
    shares = re.findall(r"[|] (\d+\.\d) ± (\d+\.\d)", stored)
    assert len(shares) > 100
    assert all(float(error) <= float(percent) <= 100 - float(error) for percent, error in shares)


def test_the_simulation_of_workers_says_in_one_line_what_it_lacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "simpy", None)
    spec = importlib.util.spec_from_file_location("scaling", FILE.with_name("scaling.py"))
    with pytest.raises(SystemExit, match=r"^simpy is missing: pip install '\.\[simulation\]' in the folder"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

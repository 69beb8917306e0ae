"""The measurement of intervals: what it takes from a pool, and the page that it writes."""

import argparse
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from samplerbench.bench.draw.chunk_file import Chunk
from samplerbench.bench.draw.clock import Timing
from samplerbench.bench.judge.statistics import strata_of
from samplerbench.bench.plan.yardstick import Yardstick
from samplerbench.plugins.metrics.clip_score import CLIPScore
from samplerbench.plugins.metrics.cmmd import CMMD
from samplerbench.plugins.metrics.density_coverage import Coverage, Density
from samplerbench.plugins.metrics.fid import FID
from samplerbench.plugins.metrics.kid import KID
from samplerbench.plugins.metrics.precision_recall import Precision

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
    ode = {("ddim", 16): coverage.of_ode(rng.random(100), PROMPTS, 16, 50)}
    text = coverage.page(6000, found, ode)
    words = " ".join(text.split())
    assert "6,000 images each of ddpm, ddim, dpm-solver++ was drawn, at 5 steps" in words
    assert "--images 6000" in words
    assert "its 90,000 network calls" in words
    assert "A run of 200 images is 3.3 % of the pool" in words
    power = small["differences"]["ddpm - ddim"]["power_of_one"]
    assert power["of"] == 200
    for line in ("| `clip_score` | ddpm | ", "| `clip_score` | ddpm - ddim | ", "| `clip_score` | one pair | ",
                 "| `clip_score` | any of 3 looks | ", "| ddim | `ode_distance` | "):  # fmt: skip
        assert text.count(f"\n{line}") == 1
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(widths) == {4, 5}


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

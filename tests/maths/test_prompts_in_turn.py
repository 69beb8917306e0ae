"""Intervals for the way samples are drawn: prompts take turns, so what differs between them is no error."""

import dataclasses

import numpy as np
import pytest

import samplerbench as sb
from samplerbench.bench.draw.chunk_file import Chunk
from samplerbench.bench.draw.clock import Timing
from samplerbench.bench.judge.compare import comparison_of
from samplerbench.bench.judge.statistics import Gathered, estimates, strata_of
from samplerbench.bench.plan.yardstick import Yardstick, yardsticks
from samplerbench.bench.show.sheet import notes_on_prompts
from samplerbench.plugins.metrics.clip_score import CLIPScore
from samplerbench.plugins.metrics.fid import FID, UnbiasedFID
from samplerbench.plugins.metrics.kid import KID
from samplerbench.plugins.metrics.sliced_wasserstein import SlicedWasserstein
from samplerbench.samplers.metric import Estimate, mean_estimate, share_interval, variance_of_mean
from samplerbench.samplers.registry import load_registry

PROMPTS = tuple("abcde")
N, RUNS = 100, 300


def labels(n=N):
    """Of n samples that take turns with PROMPTS."""
    return strata_of(PROMPTS, np.arange(n))


# Which samples share a prompt


@pytest.mark.parametrize(
    ("prompts", "samples", "strata"),
    [
        (("a", "b"), range(5), [0, 1, 0, 1, 0]),
        (("a", "b", "a"), range(6), [0, 1, 0, 0, 1, 0]),  # a prompt that is given twice is one
        (("a", "b", "c"), [3, 4, 6, 7], [0, 1, 0, 1]),  # blocks that others lack: by the number of the sample
        (("a", "b"), range(3), None),  # one image of b
        (("a", "a"), range(4), None), (("a",), range(4), None), ((), range(4), None), (("a", "b"), [], None),
    ],
)  # fmt: skip
def test_samples_share_a_prompt_by_their_number(prompts, samples, strata):
    found = strata_of(prompts, np.array(samples, dtype=np.int64))
    assert (found if found is None else found.tolist()) == strata


def test_a_caption_says_where_prompts_count_as_error():
    assert notes_on_prompts(("a", "b"), 4) == notes_on_prompts(("a",), 1) == notes_on_prompts((), 5) == ()
    (note,) = notes_on_prompts(("a", "b"), 3)
    assert note == "some of the 2 prompts have fewer than 2 images, so what differs between prompts counts as error"


# The standard error


def test_the_variance_is_that_of_a_stratified_mean():
    """The sum over strata of (n_p / n)^2 s_p^2 / n_p (Cochran 1977, equation 5.6)."""
    rng = np.random.default_rng(0)
    strata = np.array([0] * 4 + [1] * 2 + [2] * 6)
    values = rng.standard_normal(12) + 10 * strata
    parts = [values[strata == i] for i in range(3)]
    expected = sum((len(part) / 12) ** 2 * part.var(ddof=1) / len(part) for part in parts)
    assert variance_of_mean(values, strata) == pytest.approx(expected, rel=1e-12)
    assert variance_of_mean(values) == pytest.approx(values.var(ddof=1) / 12, rel=1e-12)
    equal = rng.standard_normal(12)
    within = equal - equal.reshape(3, 4).mean(1).repeat(4)
    pooled = (within**2).sum() / (12 - 3) / 12  # the divisor n - prompts, where all have as many images
    assert variance_of_mean(equal, np.arange(3).repeat(4)) == pytest.approx(pooled, rel=1e-12)


def test_a_difference_has_the_error_within_prompts_and_their_degrees_of_freedom():
    rng = np.random.default_rng(1)
    a, b = (
        dataclasses.replace(mean_estimate(rng.standard_normal(N) + 5 * labels()), strata=labels()) for _ in range(2)
    )
    plain = dataclasses.replace(a, strata=None)
    assert a.standard_error < plain.standard_error / 5
    assert (a.freedom, plain.freedom, (a - b).freedom) == (95, 99, 95)
    assert 1.2 < (a - b).standard_error / a.standard_error < 1.7
    found = comparison_of("m", None, None, a, b, lower_is_better=True)
    assert found.high - found.low == pytest.approx(2 * 1.98525 * (a - b).standard_error, rel=1e-5)  # t of 95


def in_turn(i, n=N, d=3):
    """Rows of samples whose mean and spread differ from prompt to prompt."""
    rng = np.random.default_rng(i)
    prompt = np.arange(n) % len(PROMPTS)
    rows = rng.standard_normal((n, d)) * (0.5 + 0.1 * prompt[:, None]) + np.eye(len(PROMPTS), d)[prompt] * 3
    return rows.astype(np.float32)


def chunk_of(n):
    """A chunk of n samples of which nothing else is known."""
    return Chunk(0, n, Timing(1, 1, 1.0, 1.0), {}, np.zeros((n, 16), np.uint8), None, None)


def estimated(metric, prepared, rows, prompts=PROMPTS):
    """What the table has of a metric on these rows."""
    gathered = Gathered([chunk_of(len(rows))], {metric.extractor: rows}, prompts)
    return estimates(gathered, {"m": Yardstick(metric, prepared)})["m"]


@pytest.mark.parametrize(
    ("metric", "n", "most"), [(FID, N, 1.15), (UnbiasedFID, N, 1.15), (KID, N, 1.25), (CLIPScore, 30, 1.15)]
)
def test_the_printed_error_is_the_spread_of_runs_whose_prompts_take_turns(metric, n, most):
    """Drawn as if at random it is far too large."""
    made = metric()
    prepared = made.prepare(in_turn(10_000, 400) + 0.1)
    found = [estimated(made, prepared, in_turn(i, n)) for i in range(RUNS)]
    spread = np.std([one.value for one in found], ddof=1)
    ratio = np.sqrt(np.mean([one.standard_error**2 for one in found])) / spread
    plain = np.sqrt(np.mean([dataclasses.replace(one, strata=None).standard_error ** 2 for one in found])) / spread
    assert 0.85 < ratio < most  # the spread of 300 is known to 4 %
    assert plain > 1.3


def test_the_unbiased_fid_counts_the_product_of_its_halves_errors_once():
    """Each half's own derivative would count it once more, and what differs between prompts in it."""
    metric = UnbiasedFID()
    prepared = metric.prepare(in_turn(10_000, 400) + 0.1)
    values, once, twice = [], [], []
    for i in range(RUNS):
        rows = in_turn(i, 60)
        found = estimated(metric, prepared, rows)
        of_halves = [FID().estimate(half, prepared).influence for half in (rows[:30], rows[30:])]
        derivative = dataclasses.replace(found, influence=2 * found.influence - np.concatenate(of_halves))
        values.append(found.value)
        once.append(found.standard_error**2)
        twice.append(derivative.standard_error**2)
    spread = np.std(values, ddof=1)
    assert 0.85 < np.sqrt(np.mean(once)) / spread < 1.2
    assert np.sqrt(np.mean(twice)) / spread > 1.2


def test_kid_has_no_bias_where_prompts_take_turns():
    """Too few of its pairs are of one prompt, as no image is paired with itself."""
    metric = KID()
    reference = in_turn(10_000, 400)
    prepared = metric.prepare(reference)
    whole = metric.estimate(in_turn(20_000, 4000), prepared).value
    weighted = [estimated(metric, prepared, in_turn(i, 20)).value for i in range(RUNS)]
    plain = [estimated(metric, prepared, in_turn(i, 20), prompts=()).value for i in range(RUNS)]
    error = np.std(weighted) / np.sqrt(RUNS)
    assert abs(np.mean(weighted) - whole) < 4 * error
    assert np.mean(plain) < whole - 10 * error


def test_pairs_are_weighted_by_the_images_of_their_prompts():
    rows = in_turn(3, 23)
    strata, prepared = strata_of(PROMPTS, np.arange(23)), KID().prepare(in_turn(4, 50))
    kernel = KID.kernel(rows.astype(float), rows.astype(float))
    sizes = np.bincount(strata)
    among = 0.0
    for p in range(5):
        for q in range(5):
            block = kernel[strata == p][:, strata == q]
            mean = (block.sum() - np.trace(block)) / (sizes[p] * (sizes[p] - 1)) if p == q else block.mean()
            among += sizes[p] / 23 * sizes[q] / 23 * mean
    across = KID.kernel(rows.astype(float), prepared.rows.astype(float)).mean()
    found = KID().estimate_by_prompt(rows, prepared, strata)
    assert found.value == pytest.approx(among + prepared.pairs - 2 * across, rel=1e-9)
    assert KID().estimate(rows, prepared).value == KID().estimate_by_prompt(rows, prepared, None).value


# On real features


SEEDS, IMAGES = 96, 128
"""With 24 seeds the measured spread of the inception score can be half its true size: its values have a heavy tail."""


@pytest.fixture(scope="module")
def drawn():
    """By extractor what the embedded model's ddim at 5 steps gives, for each seed as a run draws it."""
    model = sb.load_model("fashion-mnist")
    runs = [sb.sample(model, "ddim", steps=5, n=IMAGES, seed=seed) for seed in range(SEEDS)]
    rows = {
        name: [np.asarray(model.extractors[name].extract(run.images, run.prompts), np.float32) for run in runs]
        for name in ("features", "logits", "clip", "clip_image")
    }
    return model, rows


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["fid", "kid", "clip_score", "inception_score", "precision", "density", "coverage", "cmmd", "recall"]
)
def test_the_printed_error_is_the_spread_of_real_runs(name, drawn, figure):
    model, rows = drawn
    yardstick = yardsticks((name,), load_registry().metrics.things, model)[name]
    found = [
        estimated(yardstick.metric, yardstick.prepared, of_seed, model.prompts)
        for of_seed in rows[yardstick.metric.extractor]
    ]
    ratio = np.sqrt(np.mean([one.standard_error**2 for one in found])) / np.std([one.value for one in found], ddof=1)
    figure(f"printed standard error over the spread of {SEEDS} runs of {IMAGES} images, {name}", f"{ratio:.2f}")
    assert 0.8 < ratio < (2.5 if name == "recall" else 1.3)  # the spread of 96 is known to 7 %, of a heavy tail to 12 %


@pytest.mark.slow
def test_the_printed_error_of_the_unbiased_fid_is_the_spread_of_real_runs(drawn, figure):
    """It needs 256 images: each run is of two seeds."""
    model, rows = drawn
    yardstick = yardsticks(("fid_unbiased",), load_registry().metrics.things, model)["fid_unbiased"]
    features = [one[:120] for one in rows["features"]]  # so that the prompts go on in turn
    runs = [np.concatenate([*features[i : i + 2], features[i - 1][:20]]) for i in range(0, SEEDS, 2)]
    found = [estimated(yardstick.metric, yardstick.prepared, run, model.prompts) for run in runs]
    ratio = np.sqrt(np.mean([one.standard_error**2 for one in found])) / np.std([one.value for one in found], ddof=1)
    figure(f"printed standard error over the spread of {len(runs)} runs of {len(runs[0])} images", f"{ratio:.2f}")
    assert 0.7 < ratio < 1.45  # the spread of 48 is known to 10 %


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kid", "cmmd"])
def test_pairs_of_real_images_have_no_bias(name, drawn, figure):
    model, rows = drawn
    yardstick = yardsticks((name,), load_registry().metrics.things, model)[name]
    of_seeds = rows[yardstick.metric.extractor]
    few = [estimated(yardstick.metric, yardstick.prepared, one[:60], model.prompts).value for one in of_seeds]
    whole = yardstick.metric.estimate(np.concatenate(of_seeds), yardstick.prepared).value
    error = np.std(few, ddof=1) / np.sqrt(SEEDS)
    figure(f"{name} of 60 images less that of {SEEDS * IMAGES}", f"{np.mean(few) - whole:.4f} ± {2 * error:.4f}")
    assert abs(np.mean(few) - whole) < 4 * error


# Shares


def test_the_interval_of_a_share_is_wilson_s():
    """Wilson 1927: 1 of 10 is from 0.0179 to 0.4042, 10 of 10 from 0.7225 to 1."""
    error = np.sqrt(0.1 * 0.9 / 10)
    assert share_interval(0.1, error, 10) == (pytest.approx(0.01788, abs=1e-4), pytest.approx(0.40415, abs=1e-4))
    assert share_interval(1.0, 0.0, 10) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0))
    assert share_interval(0.0, 0.0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    half = share_interval(0.1, error / 2, 10)
    assert half == share_interval(0.1, error / 2, 40)  # 40 images have half the error
    assert mean_estimate(np.ones(20, dtype=bool)).low == pytest.approx(0.8389, abs=1e-4)
    assert mean_estimate(np.ones(20)).low == 1.0  # numbers that happen to be 1 are no share


# What is drawn at random once for all cells


def test_random_directions_are_part_of_the_interval_and_fall_out_of_a_difference():
    rng = np.random.default_rng(5)
    reference, rows = rng.standard_normal((300, 8)), rng.standard_normal((60, 8)) + 0.5
    metric = SlicedWasserstein()
    prepared = metric.prepare(reference.astype(np.float32))
    a = metric.estimate(rows.astype(np.float32), prepared)
    b = metric.estimate((rows + 0.01).astype(np.float32), prepared)
    alone = dataclasses.replace(a, common=None)
    directions = variance_of_mean(a.common)
    assert a.standard_error**2 == pytest.approx(alone.standard_error**2 + directions, rel=1e-12)
    assert directions > 0.01 * alone.standard_error**2
    assert variance_of_mean((a - b).common) < directions / 10
    plane = metric.estimate(rows[:, :2].astype(np.float32), metric.prepare(reference[:, :2].astype(np.float32)))
    assert plane.common is None
    assert (a - Estimate(0.0, np.zeros(60))).common is None


# The ODE error


def ode(first, squares, n):
    return dataclasses.replace(chunk_of(n), first=first, ode_distance=np.array(squares))


def test_as_many_distances_count_as_a_run_of_so_many_images_has():
    """Chunks of a larger run have more of them."""
    squares = np.arange(1.0, 129.0)
    chunks = [ode(0, squares[:64], 64), ode(64, squares[64:], 64)]
    found = estimates(Gathered(chunks, {}, ("a", "b")), {})
    assert found["ode_error"].value == pytest.approx(np.sqrt(squares[:32].mean()))
    assert found["ode_distance"].value == pytest.approx(np.sqrt(squares[:32]).mean())
    assert found["ode_distance"].strata.tolist() == [0, 1] * 16
    second = estimates(Gathered(chunks[1:], {}), {})
    assert second == {}  # what both rows have are samples from 64 on, and none of the first 16

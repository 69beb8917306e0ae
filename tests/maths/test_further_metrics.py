"""Metrics beside FID, KID and the CLIP score: their reference implementations, known answers, influences, intervals."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import samplerbench as sb
from cases import thinned
from samplerbench.bench.judge.compare import comparison_of
from samplerbench.plugins.metrics import (
    density_coverage,
    fd_clip,
    fid,
    neighbours,
    precision_recall,
    sliced_wasserstein,
)
from samplerbench.plugins.metrics.cmmd import CMMD
from samplerbench.plugins.metrics.density_coverage import Coverage, Density
from samplerbench.plugins.metrics.fd_clip import FrechetCLIP
from samplerbench.plugins.metrics.inception_score import InceptionScore
from samplerbench.plugins.metrics.kid import KID
from samplerbench.plugins.metrics.mmd import MMD, excess_of_pairs
from samplerbench.plugins.metrics.precision_recall import Precision, Recall
from samplerbench.plugins.metrics.sliced_wasserstein import SlicedWasserstein, directions, transport
from samplerbench.samplers.registry import load_registry

REFERRING = {
    "precision": Precision, "recall": Recall, "density": Density, "coverage": Coverage, "cmmd": CMMD,
    "fd_clip": FrechetCLIP, "sliced_wasserstein": SlicedWasserstein,
}  # fmt: skip


def rows_of(seed, n, d=4, shift=0.0):
    return (np.random.default_rng(seed).standard_normal((n, d)) + shift).astype(np.float32)


def measured(metric, rows, reference=None):
    """The estimate of a metric class."""
    made = metric()
    return made.estimate(rows, made.prepare(reference))


def leave_one_out(metric, rows, prepared):
    """(n - 1) times what the value loses without each row, centred: the jackknife's influence."""
    whole = metric.estimate(rows, prepared).value
    values = [metric.estimate(np.delete(rows, i, axis=0), prepared).value for i in range(len(rows))]
    changes = (len(rows) - 1) * (whole - np.array(values))
    return changes - changes.mean()


def coverage_of(metric, reference, draw, runs):
    """How often the interval has in it what the value is on average at this number of samples."""
    prepared = metric.prepare(reference)
    estimates = [metric.estimate(draw(i), prepared) for i in range(runs)]
    truth = np.mean([estimate.value for estimate in estimates])
    return np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])


# What holds of all


@pytest.mark.parametrize("name", REFERRING)
def test_a_metric_is_registered_and_refuses_what_it_cannot_measure(name):
    metric, rows = REFERRING[name](), rows_of(1, 40)
    assert load_registry().metrics[name] is REFERRING[name]
    prepared = metric.prepare(rows_of(2, 50))
    with pytest.raises(sb.InputError, match=r"\(40, 3\): expected \(n, 4\)"):
        metric.estimate(rows[:, :3], prepared)
    with pytest.raises(sb.InputError, match="expected at least"):
        metric.estimate(rows[: metric.fewest(4) - 1], prepared)
    rows[7, 1] = np.nan
    with pytest.raises(sb.InputError, match="sample 7 is not finite"):
        metric.estimate(rows, prepared)
    with pytest.raises(sb.InputError, match="sample 7 is not finite"):
        metric.prepare(rows)


@pytest.mark.parametrize("name", REFERRING)
def test_blocks_have_no_seam(name, monkeypatch):
    rows, reference = rows_of(3, 61, shift=0.3), rows_of(4, 47)
    whole = measured(REFERRING[name], rows, reference)
    monkeypatch.setattr("samplerbench.samplers.metric.BLOCK", 7)
    found = measured(REFERRING[name], rows, reference)
    assert found.value == pytest.approx(whole.value, rel=1e-9)
    np.testing.assert_allclose(found.influence, whole.influence, atol=1e-9)
    assert np.abs(whole.influence).max() > 1e-3
    assert abs(whole.value) > 1e-3


@pytest.mark.parametrize("name", REFERRING)
def test_at_its_least_n_and_on_images_that_are_all_the_same_a_value_is_finite(name):
    metric, same = REFERRING[name], np.full((9, 4), 0.3, dtype=np.float32)
    few = rows_of(5, metric().fewest(4))
    for rows, reference in ((few, rows_of(6, 50)), (same, rows_of(6, 50)), (few, same), (same, same)):
        found = measured(metric, rows, reference)
        assert np.isfinite([found.value, found.standard_error]).all()
    perfect = {"precision": 1, "recall": 1, "coverage": 1, "density": 9 / 5}.get(name, 0)
    assert found.value == pytest.approx(perfect, abs=1e-6)


@pytest.mark.parametrize("name", thinned(REFERRING, lambda name: name != "sliced_wasserstein"))
def test_the_influence_is_that_of_leaving_a_sample_out(name):
    metric, rows = REFERRING[name](), rows_of(7, 120, d=2, shift=[0.6, 0])
    prepared = metric.prepare(rows_of(8, 150, d=2))
    found = metric.estimate(rows, prepared).influence
    expected = leave_one_out(metric, rows, prepared)
    assert expected.std() > 0.01
    if name in {"precision", "density", "recall"}:
        np.testing.assert_allclose(found, expected, atol=1e-9)
    elif name == "coverage":  # less by one factor
        excess = expected.std() / found.std()
        np.testing.assert_allclose(found, expected / excess, atol=1e-9)
        assert 1.02 < excess < 1.8
    else:  # but for what is of the order of 1 / n
        assert np.corrcoef(found, expected)[0, 1] > 0.99
        assert found.std() == pytest.approx(expected.std(), rel=0.06)
    assert found.mean() == pytest.approx(0, abs=1e-12)


# Precision, recall, density, coverage


@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 3), (300, 150, 8)])
def test_precision_and_recall_equal_those_of_torch_fidelity(n, m, d):
    from torch_fidelity.metric_prc import prc_features_to_metric

    rows, reference = rows_of(9, n, d, shift=1.0), rows_of(10, m, d)
    theirs = prc_features_to_metric(
        *map(torch.from_numpy, (rows, reference)),
        prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=False, verbose=False,
    )  # fmt: skip
    assert measured(Precision, rows, reference).value == pytest.approx(theirs["precision"], rel=1e-6)
    assert measured(Recall, rows, reference).value == pytest.approx(theirs["recall"], rel=1e-6)
    assert 0.1 < theirs["precision"] < 0.9
    assert 0.1 < theirs["recall"] < 0.9


def test_density_and_coverage_by_their_definitions():
    rows, reference = rows_of(11, 40, shift=0.7).astype(np.float64), rows_of(12, 50).astype(np.float64)
    among = np.linalg.norm(reference[:, None] - reference, axis=2)
    radii = np.sort(among, axis=1)[:, 5]
    inside = np.linalg.norm(rows[:, None] - reference, axis=2) <= radii
    assert measured(Density, rows, reference).value == pytest.approx(inside.sum() / (5 * 40), rel=1e-12)
    assert measured(Coverage, rows, reference).value == pytest.approx(inside.any(0).mean(), rel=1e-12)
    assert 0.1 < inside.any(0).mean() < 0.9


def test_the_nearest_rows_are_those_of_a_sort():
    rows = rows_of(13, 30).astype(np.float64)
    apart = np.linalg.norm(rows[:, None] - rows, axis=2) ** 2
    np.fill_diagonal(apart, np.inf)
    squares, which = neighbours.nearest(rows, 4)
    np.testing.assert_allclose(squares, np.sort(apart, axis=1)[:, :4], rtol=1e-10)
    np.testing.assert_array_equal(which, np.argsort(apart, axis=1)[:, :4])


def test_a_sample_far_away_has_neither_precision_nor_recall():
    reference = rows_of(14, 60)
    for metric in (Precision, Recall, Density, Coverage):
        assert measured(metric, rows_of(15, 50, shift=1000), reference).value == 0
        assert measured(metric, reference, reference).value >= 1


def occupied(n, boxes):
    """The exact mean and variance of the share of boxes that n balls thrown at random are in."""
    one, two = (1 - 1 / boxes) ** n, (1 - 2 / boxes) ** n
    return 1 - one, ((boxes - 1) * two + one) / boxes - one**2


@pytest.mark.parametrize(("n", "boxes"), [(60, 100), (150, 100), (300, 100)])
def test_the_standard_error_of_coverage_is_between_the_exact_one_and_the_jackknife_s(n, boxes, monkeypatch):
    """Six reference images at a place have one ball; so each place is a box, and samples are thrown at them."""
    rng = np.random.default_rng(n)
    reference = (np.arange(boxes)[:, None] + 0.1 * rng.random((boxes, 6))).astype(np.float32)
    metric = Coverage()
    prepared = metric.prepare(reference.reshape(-1, 1))
    draws = [reference.mean(1, keepdims=True)[rng.integers(boxes, size=n)] for _ in range(80)]
    found = [metric.estimate(draw, prepared) for draw in draws]
    monkeypatch.setattr(density_coverage, "jackknife_excess", lambda single, double: 1.0)
    jackknife = [metric.estimate(draw, prepared) for draw in draws]
    mean, variance = occupied(n, boxes)
    assert np.mean([one.value for one in found]) == pytest.approx(mean, abs=4 * math.sqrt(variance / 80))
    own, plain = (np.mean([one.standard_error**2 for one in of]) for of in (found, jackknife))
    assert variance < own < 0.92 * plain


def test_coverage_counts_what_goes_with_one_sample_and_with_two_alone(monkeypatch):
    """Squares of first and second differences of coverage, by leaving each sample and each pair out."""
    rows, reference, counts = rows_of(27, 26, d=2), rows_of(28, 60, d=2), []
    prepared = Coverage().prepare(reference)

    def covered(*gone):
        return 60 * Coverage().estimate(np.delete(rows, gone, axis=0), prepared).value

    whole, without = covered(), [covered(i) for i in range(26)]
    pairs = [whole - without[i] - without[j] + covered(i, j) for i in range(26) for j in range(i)]
    monkeypatch.setattr(density_coverage, "jackknife_excess", lambda *given: counts.append(given) or 1.0)
    Coverage().estimate(rows, prepared)
    expected = (((whole - np.array(without)) ** 2).sum(), (np.array(pairs) ** 2).sum())
    assert counts == [pytest.approx(expected, abs=1e-6)]
    assert min(expected) > 10


def test_the_excess_of_the_jackknife():
    assert neighbours.jackknife_excess(0, 5) == neighbours.jackknife_excess(5, 0) == 1
    assert neighbours.jackknife_excess(1e9, 1) == pytest.approx(1, abs=1e-6)
    assert neighbours.jackknife_excess(3, 6) == pytest.approx(math.sqrt(2 / (1 - math.exp(-2))), rel=1e-12)


INTERVALS = {
    KID: (0.90, 0.98), CMMD: (0.90, 0.98), Precision: (0.90, 0.98), Density: (0.90, 0.98), Coverage: (0.92, 0.99),
    Recall: (0.94, 1),
}  # fmt: skip
"""How often an interval has in it what the value is on average."""


@pytest.mark.parametrize("metric", INTERVALS)
def test_the_interval_covers_what_the_value_is_on_average(metric):
    found = coverage_of(metric(), rows_of(16, 300, d=3), lambda i: rows_of(100 + i, 200, d=3, shift=0.5), runs=100)
    low, high = INTERVALS[metric]
    assert low - 0.04 <= found <= high + 0.02  # 100 runs are that good


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 400, 1600])
@pytest.mark.parametrize("metric", INTERVALS)
def test_how_often_the_interval_covers(metric, n, figure):
    found = coverage_of(metric(), rows_of(16, 1000, d=8), lambda i: rows_of(100 + i, n, d=8, shift=0.3), runs=300)
    figure(f"coverage of the 95 % interval of {metric.__name__}, {n} samples", f"{found:.1%} of 300")
    low, high = INTERVALS[metric]
    assert low <= found <= high


DISTRIBUTIONS = {
    "equal": lambda rows: rows,
    "shifted": lambda rows: rows + np.float32([1] + [0] * (rows.shape[1] - 1)),
    "half missing": lambda rows: np.concatenate([abs(rows[:, :1]), rows[:, 1:]], axis=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(("metric", "n", "d", "runs"), [
    (Coverage, 100, 2, 2000), (Coverage, 500, 8, 2000), (Coverage, 500, 64, 2000), (Coverage, 1000, 2, 1000),
    (Recall, 100, 8, 2000), (Recall, 100, 64, 2000),
])  # fmt: skip
def test_how_often_the_interval_of_a_share_of_the_reference_covers(metric, n, d, runs, name, figure):
    """Wider than 95 % where nearly all of the reference is covered, or where balls shrink with n, as in recall."""
    made = DISTRIBUTIONS[name]
    found = coverage_of(metric(), rows_of(16, 1000, d=d), lambda i: made(rows_of(100 + i, n, d=d)), runs=runs)
    figure(f"coverage of the 95 % interval of {metric.__name__}, {n} of {d} features, {name}", f"{found:.1%} of {runs}")
    assert 0.925 <= found <= (0.985 if metric is Coverage else 1)


# Inception score


def test_the_inception_score_equals_that_of_torch_fidelity():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 4 * rows_of(17, 300, d=10)
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=1)["inception_score_mean"]
    assert theirs > 2
    assert measured(InceptionScore, logits).value == pytest.approx(theirs, rel=1e-6)
    log_p = torch.from_numpy(logits).double().log_softmax(1).numpy()
    assert measured(InceptionScore, log_p).value == pytest.approx(theirs, rel=1e-6)


def test_the_inception_score_of_known_answers():
    certain = 1000 * np.eye(5, dtype=np.float32)[np.arange(50) % 5]
    assert measured(InceptionScore, certain).value == pytest.approx(5, rel=1e-12)
    assert measured(InceptionScore, certain[:1].repeat(9, axis=0)).value == pytest.approx(1, rel=1e-12)
    assert measured(InceptionScore, np.zeros((9, 5), np.float32)).value == pytest.approx(1, rel=1e-12)
    with pytest.raises(sb.InputError, match="sample 3 is not finite"):
        measured(InceptionScore, np.where(np.arange(50)[:, None] == 3, np.inf, certain))


def test_the_influence_on_the_inception_score_is_its_derivative_in_a_weight():
    logits, epsilon = 3 * rows_of(18, 80, d=6).astype(np.float64), 1e-6
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = measured(InceptionScore, logits)

    def at(step, i):
        weights = np.full(80, (1 - step) / 80)
        weights[i] += step
        return math.exp(weights @ (p * (np.log(p) - np.log(weights @ p))).sum(1))

    assert at(0, 0) == pytest.approx(found.value, rel=1e-10)
    for i in (0, 41):
        derivative = (at(epsilon, i) - at(-epsilon, i)) / (2 * epsilon)
        assert found.influence[i] == pytest.approx(derivative, rel=1e-5)
        assert abs(derivative) > 0.05


# Distances of CLIP embeddings


class Product(MMD):
    """The squared length of the difference of means: all of its variance is of pairs where both means are 0."""

    name, extractor, counts_pairs_once = "product", "features", True

    @staticmethod
    def kernel(x, y):
        return x @ y.T


@pytest.mark.parametrize("prompts", [1, 3])
def test_what_pairs_of_samples_add_to_a_mean_over_pairs_is_counted_once(prompts):
    rng, n, d = np.random.default_rng(5), 24, 12
    strata = np.arange(n) % prompts if prompts > 1 else None
    reference = np.zeros((8, d), np.float32)
    runs = [
        dataclasses.replace(
            Product().estimate_by_prompt(
                rng.standard_normal((n, d)).astype(np.float32), Product().prepare(reference), strata
            ),
            strata=strata,
        )
        for _ in range(400)
    ]
    # Of normals without a mean the variance is that of the pairs: 2 d sum W^2, with W the weight of an ordered pair.
    weight = 1 / (n - 1) if strata is None else 1 / n * (1 + 1 / (n // prompts - 1))
    weights = (n // prompts - 1) * weight**2 + (n - n // prompts) / n**2
    expected = 2 * d * weights / n
    assert 0.8 * expected < np.var([one.value for one in runs]) < 1.25 * expected  # 3 deviations of 400 runs
    assert np.mean([one.excess for one in runs]) == pytest.approx(expected, rel=0.06)
    # The influences alone say twice as much. Where the estimate of the excess is above a half of that, a half stays.
    assert 0.97 * expected < np.mean([one.standard_error**2 for one in runs]) < 1.15 * expected
    assert all((one.standard_error / dataclasses.replace(one, excess=0.0).standard_error) ** 2 > 0.49 for one in runs)


def test_the_excess_of_pairs_leaves_out_what_it_cannot_know():
    rows = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
    assert excess_of_pairs(rows, Product.kernel, np.arange(12) % 4) == 0.0  # 3 rows of a prompt
    assert excess_of_pairs(rows, Product.kernel, np.arange(12) % 3) > 0.0
    one = Product().estimate(rows, Product().prepare(rows[:5]))
    assert (one - one).excess == 0.0


def test_a_share_of_the_reference_is_one_of_its_images():
    rng = np.random.default_rng(1)
    rows, reference = (rng.standard_normal((n, 3)).astype(np.float32) for n in (30, 400))
    for metric in (Coverage, Recall):
        found = measured(metric, rows, reference)
        assert found.counted == 400
        # Half an image of the reference, and not of the samples, is the least error of a difference.
        assert comparison_of("x", None, None, found, found, lower_is_better=False).error == pytest.approx(1 / 402)
        few = measured(metric, rows[:15], reference)  # however large the reference, few images have no interval
        assert np.isnan(few.low)


def test_cmmd_by_its_definition():
    rows, reference = rows_of(19, 12, shift=0.5).astype(np.float64), rows_of(20, 15).astype(np.float64)
    x, y = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (rows, reference))

    def mean_kernel(a, b, *, others):
        values = np.exp(-(np.linalg.norm(a[:, None] - b, axis=2) ** 2) / 200)
        return (values.sum() - len(a)) / (len(a) * (len(a) - 1)) if others else values.mean()

    expected = mean_kernel(x, x, others=True) + mean_kernel(y, y, others=True) - 2 * mean_kernel(x, y, others=False)
    assert measured(CMMD, rows, reference).value == pytest.approx(1000 * expected, rel=1e-9)
    assert abs(1000 * expected) > 0.1
    assert measured(CMMD, 7 * rows, reference / 3).value == pytest.approx(1000 * expected, rel=1e-9)
    assert CMMD.kernel(rows[:1], np.vstack([rows[0], -rows[0]]))[0] == pytest.approx(
        [1000, 1000 * math.exp(-4 / 200)], rel=1e-12
    )


def test_the_frechet_distance_of_embeddings_is_that_of_features():
    rows, reference = rows_of(21, 40, shift=0.3), rows_of(22, 50)
    found, of_features = measured(FrechetCLIP, rows, reference), measured(fid.FID, rows, reference)
    assert found.value == of_features.value > 0.1
    np.testing.assert_array_equal(found.influence, of_features.influence)
    assert FrechetCLIP.extractor == "clip_image"
    assert "fid" not in fd_clip.samplerbench_metrics()


# Sliced Wasserstein distance


def test_transport_of_as_many_numbers_pairs_them_in_order():
    rng = np.random.default_rng(23)
    x, y = rng.standard_normal(30), np.sort(2 * rng.standard_normal(30) + 1)
    square, potential = transport(x, y)
    assert square == pytest.approx(((np.sort(x) - y) ** 2).mean(), rel=1e-12)
    assert potential.mean() == pytest.approx(0, abs=1e-12)


def weighted_square(x, weights, y):
    """The squared distance of weighted x to y, by the quantile functions of both."""
    order = np.argsort(x)
    ends, steps = np.cumsum(weights[order]), np.arange(1, len(y) + 1) / len(y)
    edges = np.union1d(ends.clip(0, 1), steps)
    middle = (np.concatenate([[0], edges[:-1]]) + edges) / 2
    of_x = x[order][np.searchsorted(ends, middle).clip(max=len(x) - 1)]
    of_y = y[np.searchsorted(steps, middle).clip(max=len(y) - 1)]
    return np.diff(edges, prepend=0) @ (of_x - of_y) ** 2


@pytest.mark.parametrize("m", [37, 24, 12])
def test_the_potential_is_the_derivative_of_the_squared_distance_in_a_weight(m):
    rng = np.random.default_rng(24)
    n, epsilon = 24, 1e-7
    x, y = rng.standard_normal(n), np.sort(2 * rng.standard_normal(m) + 1)
    square, potential = transport(x, y)
    assert square == pytest.approx(weighted_square(x, np.full(n, 1 / n), y), rel=1e-9)
    for i in (0, 11):
        at = []
        for step in (epsilon, -epsilon):
            weights = np.full(n, (1 - step) / n)
            weights[i] += step
            at.append(weighted_square(x, weights, y))
        derivative = (at[0] - at[1]) / (2 * epsilon)
        assert abs(derivative) > 0.1
        assert potential[i] == pytest.approx(derivative, rel=1e-5)


def test_the_distance_of_a_shift_is_its_length_over_the_root_of_the_dimension():
    rows = rows_of(25, 500, d=2)
    found = measured(SlicedWasserstein, rows + np.float32([0.3, 0.4]), rows)
    assert found.value == pytest.approx(0.5 / math.sqrt(2), rel=1e-5)
    assert np.linalg.norm(directions(7), axis=1) == pytest.approx(np.ones(256), rel=1e-12)
    plane = directions(2)
    np.testing.assert_allclose(plane.T @ plane, 32 * np.eye(2), atol=1e-9)
    one_dimension = measured(SlicedWasserstein, rows[:, :1] + 2, rows[:, :1])
    assert one_dimension.value == pytest.approx(2, rel=1e-5)


def test_the_interval_of_the_distance_covers_what_it_is_on_average(monkeypatch):
    monkeypatch.setattr(sliced_wasserstein, "EVEN", 8)
    found = coverage_of(
        SlicedWasserstein(), rows_of(26, 500, d=2), lambda i: rows_of(100 + i, 200, d=2, shift=0.5), runs=200
    )
    assert 0.90 <= found <= 0.985


# In runs


def test_exact_samples_are_those_of_the_data():
    data = sb.GaussianMixture(((-1.0, 0.5), (2.0, 1.0)), (0.04, 0.25), (0.25, 0.75))
    rows = data.draw(40_000, seed=1)
    left = rows[rows[:, 0] < 0.3]
    assert len(left) / 40_000 == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(left.mean(0), [-1, 0.5], atol=0.01)
    np.testing.assert_allclose(left.std(0), [0.2, 0.2], atol=0.01)
    np.testing.assert_array_equal(rows[:10], data.draw(40_000, seed=1)[:10])


def test_a_run_of_an_exact_model_has_its_distance_to_exact_samples(tmp_path):
    result = sb.run(
        "mixture", ["ddim", "dpm-solver++"], steps=[3, 30], n=256, metrics=["sliced_wasserstein"], output=tmp_path / "r"
    )
    table = result.table.set_index(["sampler", "steps"])["sliced_wasserstein"]
    assert table["ddim", 3] > 2 * table["ddim", 30] > 0.01
    assert table["dpm-solver++", 30] < 0.2  # 256 exact samples are 0.07 ± 0.03 away: the largest of 200 draws 0.16
    text = (tmp_path / "r" / "table.md").read_text()
    assert "sliced_wasserstein [10,000 exact samples]" in text


@pytest.mark.slow
def test_the_embedded_model_has_all_extractors_and_their_labels_are_shown(tmp_path):
    names = ["inception_score", "cmmd", "fd_clip"]
    output = tmp_path / "r"
    result = sb.run("fashion-mnist", ["ddpm"], steps=[2], n=16, batch_size=16, metrics=names, output=output)
    found = result.table.iloc[0]
    for name in names:
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    text = (tmp_path / "r" / "table.md").read_text()
    assert "cmmd [fashion-mnist CLIP]" in text
    assert "inception_score [fashion-mnist CNN]" in text
    assert "fd_clip: this CLIP also conditions the model" in text


def test_the_extractors_of_the_embedded_model_on_images():
    model = sb.load_model("fashion-mnist")
    images = torch.randint(0, 256, (3, 1, 28, 28), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    logits = model.extractors["logits"].extract(images, ["bag"] * 3)
    embedded = model.extractors["clip_image"].extract(images, ["bag"] * 3)
    assert logits.shape == (3, 10)
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-5)
    reference = model.extractors["clip_image"].reference()
    assert reference.shape == (10_000, 64)
    np.testing.assert_allclose(np.linalg.norm(reference, axis=1), 1, atol=1e-2)
    cosine = model.extractors["clip"].extract(images, ["bag"] * 3)
    assert cosine.shape == (3, 1)
    assert precision_recall.K == 3

"""KID: the reference implementation, known answers, its interval."""

import numpy as np
import pytest
import torch

from samplerbench.plugins.metrics.kid import KID


def kid(rows, reference):
    metric = KID()
    return metric.estimate(rows, metric.prepare(reference))


def features(seed, n, d=8, shift=0.0):
    return (np.random.default_rng(seed).standard_normal((n, d)) + shift).astype(np.float32)


@pytest.mark.parametrize(("n", "d"), [(200, 8), (1100, 5)])
def test_kid_equals_that_of_torch_fidelity_on_all_samples(n, d):
    from torch_fidelity.metric_kid import kid_features_to_metric

    rows, reference = features(1, n, d, 0.3), features(2, n, d)
    theirs = kid_features_to_metric(
        torch.from_numpy(rows), torch.from_numpy(reference), kid_subsets=1, kid_subset_size=n, verbose=False
    )["kernel_inception_distance_mean"]
    assert abs(theirs) > 1e-2
    assert kid(rows, reference).value == pytest.approx(theirs, rel=1e-6)


def test_kid_by_its_definition():
    rows, reference = features(3, 4).astype(np.float64), features(4, 5).astype(np.float64)
    among = np.mean([KID.kernel(rows[i : i + 1], rows[j : j + 1]) for i in range(4) for j in range(4) if i != j])
    pairs = np.mean(
        [KID.kernel(reference[i : i + 1], reference[j : j + 1]) for i in range(5) for j in range(5) if i != j]
    )
    assert kid(rows, reference).value == pytest.approx(
        among + pairs - 2 * KID.kernel(rows, reference).mean(), rel=1e-12
    )


def test_kid_is_unbiased_and_signed():
    """For equal distributions KID is zero on average, so about half of its values are negative."""
    values = [kid(features(10 + i, 60), features(500 + i, 80)).value for i in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    assert 60 < sum(value < 0 for value in values) < 160


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Truth, given the reference: the mean over many samples."""
    reference, metric = features(5, 300), KID()
    prepared = metric.prepare(reference)
    estimates = [metric.estimate(features(1000 + i, 150, shift=0.3), prepared) for i in range(300)]
    truth = np.mean([estimate.value for estimate in estimates])
    assert 0.91 <= np.mean([estimate.low <= truth <= estimate.high for estimate in estimates]) <= 0.985


def test_rows_are_taken_in_blocks_without_a_seam(monkeypatch):
    rows, reference = features(6, 50), features(7, 70)
    whole = kid(rows, reference)
    monkeypatch.setattr("samplerbench.samplers.metric.BLOCK", 7)
    assert kid(rows, reference).value == pytest.approx(whole.value, rel=1e-12)
    assert abs(whole.value) > 1e-3

"""my-metric gives the right value, and an interval that covers: these tests serve any metric with few changes."""

import numpy as np
import pytest
from my_metric import MyMetric

from samplerbench import InputError, Moments, Rows

WIDTH = 5
TRUTH = 0.5
"""The value for the two distributions that `draw` draws from."""


def draw(n: int, shift: float, seed: int) -> Rows:
    """Normal rows whose first number is moved by `shift`."""
    rows = np.random.default_rng(seed).standard_normal((n, WIDTH))
    rows[:, 0] += shift
    return rows.astype(np.float32)


REFERENCE = draw(100_000, 0.0, seed=0)
PREPARED = MyMetric().prepare(REFERENCE)


def test_the_value_is_right() -> None:
    assert MyMetric().estimate(draw(100_000, TRUTH, seed=1), PREPARED).value == pytest.approx(TRUTH, abs=0.02)


def test_moments_serve_as_the_rows_do() -> None:
    moments = Moments(REFERENCE.mean(0, dtype=np.float64), np.cov(REFERENCE.T))
    assert np.allclose(MyMetric().prepare(moments), PREPARED)


def test_the_influence_is_what_leaving_a_sample_out_does() -> None:
    rows = draw(400, TRUTH, seed=2)
    estimate = MyMetric().estimate(rows, PREPARED)
    assert estimate.influence.shape == (400,)
    assert abs(estimate.influence.mean()) < 1e-9
    without = [MyMetric().estimate(np.delete(rows, i, axis=0), PREPARED).value for i in range(40)]
    jackknife = (len(rows) - 1) * (estimate.value - np.array(without))
    assert np.allclose(jackknife, estimate.influence[:40], atol=0.05)  # of second order in 1 / 400


def test_the_interval_covers_the_truth_19_times_in_20() -> None:
    estimates = [MyMetric().estimate(draw(400, TRUTH, seed), PREPARED) for seed in range(3, 403)]
    covered = np.mean([estimate.low <= TRUTH <= estimate.high for estimate in estimates])
    assert covered > 0.91


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match="expected"):
        MyMetric().estimate(draw(10, 0, seed=1)[:, :2], PREPARED)

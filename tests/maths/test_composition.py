"""Composition: shares of images that are right, of those whose captions tell it, with their intervals."""

import numpy as np
import pytest

from samplerbench.plugins.metrics.composition import Composition, samplerbench_metrics
from samplerbench.samplers.errors import InputError
from samplerbench.samplers.metric import share_interval, variance_of_mean

METRICS = samplerbench_metrics()
ROWS = np.array([[1, 1, 1, 1], [1, 1, 1, -1], [1, 0, 1, -1], [0, 0, 1, 0], [-1, -1, -1, -1], [1, 1, 0, 1]], np.float32)


@pytest.mark.parametrize(
    ("part", "share", "counted"),
    [("composition", 2 / 5, 5), ("composition_object", 4 / 5, 5), ("composition_count", 3 / 5, 5),
     ("composition_colour", 4 / 5, 5), ("composition_place", 2 / 3, 3)],
)  # fmt: skip
def test_shares_are_of_the_images_whose_captions_tell(part, share, counted):
    found = METRICS[part]().estimate(ROWS, None)
    assert (found.value, found.counted) == (pytest.approx(share), counted)
    assert found.influence.mean() == pytest.approx(0, abs=1e-12)


def test_an_interval_is_that_of_the_counted_images_alone():
    rng = np.random.default_rng(0)
    rows = np.where(rng.random((400, 4)) < 0.7, 1.0, 0.0).astype(np.float32)
    rows[::2, 3] = -1
    found, alone = METRICS["composition_place"]().estimate(rows, None), rows[1::2, 3]
    assert found.value == pytest.approx(alone.mean())
    assert found.standard_error == pytest.approx(np.sqrt(alone.var() / 200), rel=0.01)
    rows[:, 3] = np.abs(rows[:, 3])
    rows[::2, 3] = -1
    rows[1::2, 3] = 1
    all_right = METRICS["composition_place"]().estimate(rows, None)
    assert (all_right.low, all_right.high) == share_interval(1.0, 0.0, 200)


def test_no_caption_of_scenes_gives_no_value():
    found = Composition().estimate(np.full((30, 4), -1, np.float32), None)
    assert np.isnan([found.value, found.low, found.high]).all()


def test_the_difference_of_two_shares_is_paired():
    rng = np.random.default_rng(1)
    first = np.where(rng.random((100, 4)) < 0.8, 1.0, 0.0).astype(np.float32)
    second = first.copy()
    second[:10, 0] = 1 - second[:10, 0]
    a, b = (METRICS["composition_object"]().estimate(rows, None) for rows in (first, second))
    apart = first[:, 0] - second[:, 0]
    assert (a - b).value == pytest.approx(apart.mean())
    assert (a - b).standard_error == pytest.approx(np.sqrt(variance_of_mean(apart.astype(float))))


def test_rows_of_another_extractor_are_refused():
    with pytest.raises(InputError, match="expected \\(n, 4\\)"):
        Composition().estimate(np.zeros((30, 3), np.float32), None)

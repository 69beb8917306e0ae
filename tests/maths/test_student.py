"""Student's t, and what becomes of it where the numbers are skewed."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from samplerbench.bench.judge.compare import comparison_of, corrected_p
from samplerbench.samplers.metric import Estimate, mean_estimate, root_mean_estimate, skewness_of_mean, variance_of_mean
from samplerbench.samplers.student import (
    skewed_ends,
    skewed_p,
    student_p,
    student_t,
    with_skewness,
    without_skewness,
)

SKEWNESSES = (-1.0, -0.3, -1e-9, 1e-9, 0.05, 0.3, 1.0)

# Student's t


@pytest.mark.parametrize(("freedom", "point"), [(1, 12.7062), (4, 2.77645), (7, 2.36462), (30, 2.04227)])
def test_the_points_of_student_s_t_are_those_of_the_tables(freedom, point):
    assert student_t(freedom) == pytest.approx(point, rel=1e-5)
    assert student_p(point, freedom) == pytest.approx(0.05, rel=1e-4)
    assert student_p(-point, freedom) == student_p(point, freedom)
    assert student_p(0.0, freedom) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("t", [0.1, 1.0, 3.0, 12.0, 1000.0])
def test_student_s_t_with_one_and_two_degrees_has_a_closed_form(t):
    assert student_p(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t) if t < 100 else 2 / (math.pi * t), rel=1e-6)
    assert student_p(t, 2) == pytest.approx(2 / (t**2 + 2 + t * math.sqrt(t**2 + 2)), rel=1e-9)


@pytest.mark.parametrize("z", [0.5, 1.96, 5.0, 8.0])
def test_with_many_samples_student_s_t_is_normal(z):
    assert student_p(z, 10**7) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)


# Hall's transformation


@pytest.mark.parametrize("skewness", [0.0, *SKEWNESSES])
def test_hall_s_transformation_rises_everywhere_and_can_be_undone(skewness):
    points = np.linspace(-12, 12, 97)
    mapped = [without_skewness(t, skewness) for t in points]
    assert (np.diff(mapped) > -1e-12).all()
    # Where the cubic is level, at t = -3 / g, the t is known only to the cube root of what float64 can tell apart.
    assert [with_skewness(point, skewness) for point in mapped] == pytest.approx(points.tolist(), abs=1e-4)
    closed = ((1 + skewness * points / 3) ** 3 - 1) / skewness + skewness / 6 if abs(skewness) > 0.01 else points
    assert mapped == pytest.approx(closed.tolist(), abs=1e-6)


def test_numbers_without_skewness_have_the_interval_and_the_p_of_student_s_t():
    assert skewed_ends(2.0, 0.0) == (-2.0, 2.0)
    assert all(skewed_p(t, 30, 0.0) == student_p(t, 30) for t in (-3.0, 0.0, 1.7))


@pytest.mark.parametrize("skewness", SKEWNESSES)
def test_skewness_lengthens_one_side_and_shortens_none(skewness):
    point = student_t(40)
    below, above = skewed_ends(point, skewness)
    assert below <= -point
    assert above >= point
    assert (above > -below) == (skewness > 0)
    assert skewed_ends(point, -skewness) == pytest.approx((-above, -below), rel=1e-12)


@pytest.mark.parametrize(
    ("skewness", "t"), list(itertools.product(SKEWNESSES, (-6.0, -2.5, -2.03, -1.9, 0.0, 1.9, 2.2, 5.0)))
)
def test_a_difference_is_shown_where_its_interval_lacks_0(skewness, t):
    below, above = skewed_ends(student_t(40), skewness)
    assert (skewed_p(t, 40, skewness) < 0.05) == (not below < -t < above)
    assert skewed_p(t, 40, skewness) >= student_p(t, 40)


# The skewness of a mean


def test_the_skewness_is_that_of_a_stratified_mean():
    """The third moment of each stratum's mean, by its share cubed, over the cube of the standard error."""
    rng = np.random.default_rng(0)
    strata = np.array([0] * 5 + [1] * 3 + [2] * 7)
    values = rng.exponential(size=15) + 10 * strata
    third = 0.0
    for i in range(3):
        part = values[strata == i]
        n = len(part)
        moment = n * ((part - part.mean()) ** 3).sum() / (n - 1) / (n - 2)  # unbiased
        third += (n / 15) ** 3 * moment / n**2
    assert skewness_of_mean(values, strata) == pytest.approx(third / variance_of_mean(values, strata) ** 1.5, rel=1e-12)


@pytest.mark.parametrize("strata", [None, np.arange(30) % 5, np.arange(30) % 10])
def test_a_mean_to_which_one_number_alone_adds_has_skewness_1(strata):
    """Whatever the sizes of the strata: none has a larger skewness, so no side grows without bound."""
    values = np.zeros(30)
    values[7] = 4.0
    assert skewness_of_mean(values, strata) == pytest.approx(1.0, rel=1e-9)
    assert max(map(abs, skewed_ends(student_t(20), 1.0))) < 7


def test_pairs_show_no_skewness_so_all_numbers_do():
    values = np.random.default_rng(1).exponential(size=20)
    assert skewness_of_mean(values, np.arange(20) % 10) == skewness_of_mean(values)
    assert skewness_of_mean(np.ones(20)) == skewness_of_mean(np.ones(20), np.arange(20) % 5) == 0.0


@pytest.mark.parametrize("scale", [1e-300, 1e-110, 1e110, 1e150])
def test_the_skewness_does_not_depend_on_the_size_of_the_numbers(scale):
    values = np.random.default_rng(1).exponential(size=64)
    for strata in (None, np.arange(64) % 8):
        expected = skewness_of_mean(values, strata) if scale > 1e-150 else 0.0  # squares are 0 below
        assert skewness_of_mean(scale * values, strata) == pytest.approx(expected, rel=1e-9)
    assert skewness_of_mean(1e300 * values) == 0.0  # whose error is infinite


def test_the_skewness_of_a_mean_of_exponential_numbers_is_2_over_the_root_of_n():
    """Cubes are rough, so of a thousand runs of 400 the median is a little below."""
    rng = np.random.default_rng(2)
    found = [skewness_of_mean(rng.exponential(size=400)) for _ in range(300)]
    assert np.median(found) == pytest.approx(2 / math.sqrt(400), rel=0.09)


# Estimates


def test_an_interval_of_a_root_mean_square_scales_with_the_numbers():
    squares = np.random.default_rng(3).exponential(size=60) ** 2
    one, other = root_mean_estimate(squares), root_mean_estimate(9 * squares)
    assert (other.low, other.high) == (pytest.approx(3 * one.low, rel=1e-12), pytest.approx(3 * one.high, rel=1e-12))
    assert one.high - one.value > one.value - one.low > 0
    assert one.value - one.low == pytest.approx(student_t(59) * one.standard_error, rel=1e-12)


def test_only_what_says_so_is_skewed():
    squares = np.random.default_rng(4).exponential(size=60) ** 2
    root, mean = root_mean_estimate(squares), mean_estimate(squares)
    assert (root.skewness > 0.1, mean.skewness) == (True, 0.0)
    assert (root - mean).skewed
    assert (mean - root).skewness == pytest.approx(-(root - mean).skewness, rel=1e-12)
    assert dataclasses.replace(mean, skewed=True).skewness == pytest.approx(root.skewness, rel=1e-9)
    assert mean.high - mean.value == pytest.approx(mean.value - mean.low, rel=1e-9)


def test_the_side_of_the_tail_is_missed_less_often():
    """Squares as heavy as those of distances to a converged solution: their mean lies above most runs' means."""
    rng = np.random.default_rng(5)
    truth = math.exp(0.9**2 / 4)  # of exp(0.9 z), whose mean is exp(0.9^2 / 2)
    runs = [root_mean_estimate(np.exp(0.9 * rng.standard_normal(64))) for _ in range(500)]
    plain = [abs(one.value - truth) <= 1.96 * one.standard_error for one in runs]
    held = [one.low <= truth <= one.high for one in runs]
    assert np.mean(plain) < 0.92 < np.mean(held) < 0.985


def test_equal_samplers_with_heavy_tails_are_seldom_told_apart():
    """By Hall's transformation alone, a difference is claimed in a quarter of such families."""
    rng = np.random.default_rng(6)
    claims, alone = 0, 0
    for _ in range(8):
        equal = [root_mean_estimate(np.exp(1.2 * rng.standard_normal(64))) for _ in range(12)]
        pairs = [comparison_of("m", None, None, a, b, True) for a, b in itertools.combinations(equal, 2)]
        claims += min(corrected_p(pairs)) < 0.05
        alone += min(
            student_p(without_skewness(one.difference.value / one.error, one.difference.skewness), 63) for one in pairs
        ) < 0.05 / len(pairs)
    assert claims <= 1
    assert alone > claims


def test_a_difference_and_its_verdict_have_the_skewness_of_the_difference():
    rng = np.random.default_rng(7)
    a, b = root_mean_estimate(np.exp(rng.standard_normal(80))), root_mean_estimate(rng.uniform(1, 2, 80))
    found = comparison_of("m", None, None, a, b, lower_is_better=True)
    below, above = skewed_ends(student_t(79), found.difference.skewness)
    assert above > -below
    assert (found.low, found.high) == (
        found.difference.value + below * found.error,
        found.difference.value + above * found.error,
    )
    assert found.p == skewed_p(found.difference.value / found.error, 79, found.difference.skewness)


def test_numbers_without_any_spread_have_an_interval_of_no_length():
    found = root_mean_estimate(np.full(30, 4.0))
    assert (found.low, found.value, found.high) == (2.0, 2.0, 2.0)
    assert isinstance(found, Estimate)

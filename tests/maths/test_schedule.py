"""Schedules answer the same both ways: t -> (alpha, sigma) and lambda -> t."""

import math

import numpy as np
import pytest

import samplerbench as sb
from cases import thinned

VP_SCHEDULES = {"linear": sb.vp_linear(), "scaled-linear": sb.vp_scaled_linear(), "cosine": sb.vp_cosine()}
SCHEDULES = {**VP_SCHEDULES, "edm": sb.edm(), "flow": sb.flow()}
# Half-way through a VP table, and to within a step of both ends; the fractions lie between whole timesteps.
VP_TIMES = [0, 1, 17, 499, 998, 999, 0.25, 17.5, 499.999, 998.75]
TIMES = {
    "edm": [0.002, 0.3, 1.0, 80.0],
    "flow": [1e-3, 0.25, 0.5, 0.9, 0.999],
    **dict.fromkeys(VP_SCHEDULES, VP_TIMES),
}


@pytest.mark.parametrize("schedule", VP_SCHEDULES.values(), ids=VP_SCHEDULES)
@pytest.mark.parametrize("t", VP_TIMES)
def test_vp_keeps_the_variance(schedule, t):
    level = schedule.at_time(t)
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1, abs=1e-14)  # a few roundings


@pytest.mark.parametrize(("first", "last", "total"), [(1e-4, 0.02, 1000), (1e-3, 0.5, 10)])
def test_vp_linear_is_the_product_of_linear_betas(first, last, total):
    schedule = sb.vp_linear(total, first, last)
    abar = 1.0
    for t in range(total):
        abar *= 1 - (first + (last - first) * t / (total - 1))
        assert schedule.at_time(t).alpha ** 2 == pytest.approx(abar, rel=1e-11)  # 1000 roundings of 1e-16


def test_vp_scaled_linear_has_linear_roots_of_beta():
    abar = np.array(sb.vp_scaled_linear(5, 0.01, 0.09).alphas_cumprod)
    betas = 1 - abar / np.array([1.0, *abar[:-1]])
    assert np.sqrt(betas) == pytest.approx([0.1, 0.15, 0.2, 0.25, 0.3], rel=1e-12)


def test_vp_cosine_follows_the_squared_cosine_until_the_largest_beta():
    schedule = sb.vp_cosine(1000)
    u = np.arange(1, 900) / 1000
    expected = (np.cos((u + 0.008) / 1.008 * np.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    assert schedule.alphas_cumprod[:899] == pytest.approx(expected, rel=1e-9)
    assert 1 - schedule.alphas_cumprod[-1] / schedule.alphas_cumprod[-2] == pytest.approx(0.999, rel=1e-9)


@pytest.mark.parametrize(("name", "t"), [(name, t) for name in SCHEDULES for t in TIMES[name]])
def test_lambda_leads_back_to_the_time(name, t):
    level = SCHEDULES[name].at_time(t)
    back = SCHEDULES[name].at_lambda(level.lambda_)
    assert back.t == pytest.approx(t, rel=1e-9, abs=1e-9)  # lambda's rounding, through the flattest stretch
    assert (back.alpha, back.sigma) == pytest.approx((level.alpha, level.sigma), rel=1e-12)


@pytest.mark.parametrize(("name", "t"), [(name, t) for name in SCHEDULES for t in TIMES[name]])
def test_lambda_and_sigma_ve_are_the_ratio_of_alpha_and_sigma(name, t):
    level = SCHEDULES[name].at_time(t)
    assert math.exp(level.lambda_) == pytest.approx(level.alpha / level.sigma, rel=1e-12)
    assert level.sigma_ve == pytest.approx(level.sigma / level.alpha, rel=1e-12)
    assert SCHEDULES[name].at_sigma_ve(level.sigma_ve).t == pytest.approx(t, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("schedule", VP_SCHEDULES.values(), ids=VP_SCHEDULES)
@pytest.mark.parametrize("t", [0, 30, 500, 998])
def test_log_alpha_is_linear_between_timesteps(schedule, t):
    start, end = (math.log(schedule.at_time(s).alpha) for s in (t, t + 1))
    for share in (0.25, 0.5, 0.9):
        expected = start + share * (end - start)
        assert math.log(schedule.at_time(t + share).alpha) == pytest.approx(expected, rel=1e-9)


def test_edm_and_flow_follow_their_definitions():
    edm, flow = sb.edm().at_time(3.5), sb.flow().at_time(0.3)
    assert (edm.alpha, edm.sigma, edm.t) == (1, 3.5, 3.5)
    assert (flow.alpha, flow.sigma, flow.t) == (0.7, 0.3, 0.3)


@pytest.mark.parametrize(
    ("schedule", "first", "last"),
    [(sb.vp_linear(), 999, 0), (sb.vp_linear(10), 9, 0), (sb.edm(), 80, 0.002), (sb.flow(), 1, 1e-3)],
)
def test_ends(schedule, first, last):
    assert (schedule.first.t, schedule.last.t) == (first, last)
    assert schedule.first.sigma_ve > schedule.last.sigma_ve > 0
    clean = schedule.clean
    assert (clean.alpha, clean.sigma, clean.sigma_ve, clean.lambda_) == (1, 0, 0, math.inf)
    assert clean.is_clean
    assert not schedule.last.is_clean


def test_sampling_starts_from_the_first_levels_own_scale():
    assert sb.vp_linear().prior_scale(sb.vp_linear().at_time(500)) == 1
    assert sb.flow().prior_scale(sb.flow().first) == 1
    assert sb.edm().prior_scale(sb.edm().at_time(7.0)) == 7


@pytest.mark.parametrize("t", [-1, -1e-9, 999.001, 1000, math.nan, math.inf])
def test_timestep_out_of_range_is_refused(t):
    with pytest.raises(ValueError, match="expected a number from 0 to 999"):
        sb.vp_linear().at_time(t)


@pytest.mark.parametrize(
    ("schedule", "t"),
    [(sb.edm(), 0), (sb.edm(), -1), (sb.edm(), math.inf), (sb.flow(), 0), (sb.flow(), 1.01)],
)
def test_sigma_or_flow_time_out_of_range_is_refused(schedule, t):
    with pytest.raises(ValueError, match="expected a"):
        schedule.at_time(t)


@pytest.mark.parametrize("beyond", [-0.1, 0.1])
def test_lambda_out_of_range_is_refused(beyond):
    schedule = sb.vp_linear()
    end = schedule.first if beyond < 0 else schedule.last
    assert schedule.at_lambda(end.lambda_ + 1e-12 * beyond).t == end.t  # rounding is forgiven
    with pytest.raises(ValueError, match="lambda"):
        schedule.at_lambda(end.lambda_ + beyond)


@pytest.mark.parametrize(
    "table",
    [[], [1.0, 0.5], [0.9, 0.9], [0.5, 0.9], [0.9, -0.1], [0.9, math.nan], [math.inf, 0.5]],
    ids=["empty", "no noise at 0", "flat", "rising", "negative", "nan", "inf"],
)
def test_bad_alphas_cumprod_are_refused(table):
    with pytest.raises(ValueError, match="alphas_cumprod"):
        sb.vp_from_alphas_cumprod(table)


@pytest.mark.parametrize(("low", "high"), [(0, 80), (-1, 80), (80, 0.002), (1, 1), (1, math.inf)])
def test_bad_edm_range_is_refused(low, high):
    with pytest.raises(ValueError, match="sigma_min"):
        sb.edm(low, high)


@pytest.mark.parametrize("schedule", VP_SCHEDULES.values(), ids=VP_SCHEDULES)
def test_zero_terminal_snr_rescale_moves_the_end_to_pure_noise_and_leaves_the_start(schedule):
    abar = np.array(sb.rescale_zero_terminal_snr(schedule).alphas_cumprod)
    before = np.array(schedule.alphas_cumprod)
    assert (abar[0], abar[-1]) == (before[0], 0)
    assert (np.diff(abar) < 0).all()
    assert (abar[1:] < before[1:]).all()
    # alpha is an affine function of what it was
    alpha, old = np.sqrt(abar), np.sqrt(before)
    slope = alpha[0] / (old[0] - old[-1])
    assert alpha == pytest.approx(slope * (old - old[-1]), abs=1e-14)
    first = sb.rescale_zero_terminal_snr(schedule).first
    assert (first.alpha, first.sigma, first.t) == (0, 1, 999)


def test_zero_terminal_snr_rescale_follows_the_published_algorithm():
    betas = np.linspace(0.1, 0.4, 5)
    roots = np.sqrt(np.cumprod(1 - betas))
    first, last = roots[0], roots[-1]
    roots = (roots - last) * first / (first - last)
    got = sb.rescale_zero_terminal_snr(sb.vp_linear(5, 0.1, 0.4)).alphas_cumprod
    assert got == pytest.approx(roots**2, rel=1e-12)


def test_zero_terminal_snr_rescale_twice_is_once():
    once = sb.rescale_zero_terminal_snr(sb.vp_scaled_linear())
    assert sb.rescale_zero_terminal_snr(once).alphas_cumprod == pytest.approx(once.alphas_cumprod, rel=1e-12)


def test_zero_terminal_snr_rescale_of_a_single_timestep_is_refused():
    with pytest.raises(ValueError, match="a single timestep; expected at least two"):
        sb.rescale_zero_terminal_snr(sb.vp_from_alphas_cumprod([0.5]))


@pytest.mark.parametrize("sampler", thinned(["ddim", "ddpm", "dpm-solver++", "heun"], "ddim", "ddpm"))
def test_sampling_starts_from_pure_noise_on_a_rescaled_schedule(sampler):
    """The first step goes to the data's mean, with predictions of x0, v or flow; eps says nothing there."""
    schedule = sb.rescale_zero_terminal_snr(sb.vp_linear())
    data = sb.GaussianMixture(((0.7, -0.4),), (0.01,), (1.0,))
    for predicts in ("x0", "v", "flow"):
        model = sb.exact_model(data, schedule, predicts)
        x = sb.sample(model, sampler, steps=50, n=200, dtype="float64").x
        assert x.mean(0).numpy() == pytest.approx([0.7, -0.4], abs=0.03)  # 4 deviations of the mean of 200
    with pytest.raises(sb.InputError, match=r"predicts 'eps'.*alpha = 0"):
        sb.sample(sb.exact_model(data, schedule, "eps"), sampler, steps=5, n=2)


def test_zero_terminal_snr_starts_at_lambda_minus_infinity():
    schedule = sb.vp_from_alphas_cumprod([0.9, 0.4, 0.0])
    first = schedule.first
    assert (first.alpha, first.sigma, first.t) == (0, 1, 2)
    assert (first.lambda_, first.sigma_ve) == (-math.inf, math.inf)
    assert schedule.at_lambda(schedule.at_time(0.5).lambda_).t == pytest.approx(0.5)
    flow = sb.flow().first
    assert (flow.alpha, flow.sigma, flow.lambda_) == (0, 1, -math.inf)
    assert sb.flow().at_lambda(-math.inf) == flow

"""The core DDPM: forward process, posterior by Bayes' rule, training loss, moving average."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import samplerbench as sb
from samplerbench.samplers.ddpm import EMA, beta_between, diffuse, draw_examples, loss_of_draw, posterior

VP = sb.vp_linear()
VP_PAIRS = [(999, 998), (999, 500), (500, 499), (100, 3), (1, 0)]
PAIRS = [
    *[(VP.at_time(a), VP.at_time(b)) for a, b in VP_PAIRS],
    (sb.edm().at_time(80.0), sb.edm().at_time(3.0)),
    (sb.flow().at_time(0.9), sb.flow().at_time(0.4)),
]


def bayes(a, b):
    """(x weight, x0 weight, variance) of p(x_b | x_a, x0): the product of two Gaussians in x_b.

    x_a = k x_b + noise of variance c2, and x_b = alpha_b x0 + noise of variance sigma_b^2.
    """
    k = a.alpha / b.alpha
    c2 = a.sigma**2 - k**2 * b.sigma**2
    precision = k**2 / c2 + 1 / b.sigma**2
    return k / c2 / precision, b.alpha / b.sigma**2 / precision, 1 / precision


def test_iterating_one_step_at_a_time_equals_the_jump():
    schedule = sb.vp_linear(50, 1e-3, 0.3)
    abar = [1.0, *schedule.alphas_cumprod]
    one_step = [sb.Level(math.sqrt(q / p), math.sqrt(1 - q / p), t) for t, (p, q) in enumerate(pairwise(abar))]
    # Linear response: row 0 starts at x0 = 1 without noise, row 1 + s has one unit of noise, at timestep s.
    rows = torch.eye(51, dtype=torch.float64)
    x = rows[:, 0]
    for t, level in enumerate(one_step):
        x = diffuse(x, rows[:, 1 + t], level.alpha, level.sigma)
        jump = schedule.at_time(t)
        assert float(x[0]) == pytest.approx(jump.alpha, rel=1e-12)
        assert float(x[1:].norm()) == pytest.approx(jump.sigma, rel=1e-12)
        assert float(x[1 + t]) == pytest.approx(level.sigma, rel=1e-12)  # the newest noise, with its sign


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_posterior_is_bayes_rule(a, b):
    q = posterior(a, b, "small")
    # 1e-9: neighbouring levels differ in the fourth digit, so the differences above keep twelve
    assert (q.x_weight, q.x0_weight, q.std**2) == pytest.approx(bayes(a, b), rel=1e-9)


@pytest.mark.parametrize(("a", "b"), PAIRS[: len(VP_PAIRS)])
def test_large_variance_is_beta(a, b):
    small, large = posterior(a, b, "small"), posterior(a, b, "large")
    beta = 1 - a.alpha**2 / b.alpha**2
    assert beta_between(a, b) == pytest.approx(beta, rel=1e-12)
    assert large.std**2 == pytest.approx(beta, rel=1e-12)
    assert large[:2] == small[:2]
    assert large.std > small.std


def test_posterior_is_the_papers_formula_and_not_the_common_slip():
    abar = VP.alphas_cumprod
    for t in (999, 500, 200):
        alpha_t, beta_t = abar[t] / abar[t - 1], 1 - abar[t] / abar[t - 1]
        q = posterior(VP.at_time(t), VP.at_time(t - 1))
        right = math.sqrt(alpha_t) * (1 - abar[t - 1]) / (1 - abar[t])
        slip = math.sqrt(abar[t]) * (1 - abar[t - 1]) / (1 - abar[t])  # sqrt(abar_t) for sqrt(alpha_t)
        assert q.x_weight == pytest.approx(right, rel=1e-12)
        assert abs(slip - right) > 0.1 * right
        assert abs(q.x_weight - slip) > 0.1 * right
        assert q.x0_weight == pytest.approx(math.sqrt(abar[t - 1]) * beta_t / (1 - abar[t]), rel=1e-9)
        assert q.std**2 == pytest.approx((1 - abar[t - 1]) / (1 - abar[t]) * beta_t, rel=1e-9)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_step_into_the_clean_end_is_x0_without_noise(variance):
    for schedule in (VP, sb.edm(), sb.flow()):
        assert posterior(schedule.last, schedule.clean, variance) == (0, 1, 0)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_step_from_pure_noise_forgets_the_state(variance):
    b = sb.vp_linear().at_time(700)
    q = posterior(sb.flow().first, b, variance)
    assert q.x_weight == 0
    assert (q.x0_weight, q.std) == pytest.approx((b.alpha, b.sigma if variance == "small" else 1), rel=1e-12)


def test_sub_grid_posterior_composes():
    """Two small steps given x0 have the mean and the variance of one large step given x0."""
    a, b, c = (VP.at_time(t) for t in (800, 500, 200))
    whole, first, second = posterior(a, c), posterior(a, b), posterior(b, c)
    assert second.x_weight * first.x_weight == pytest.approx(whole.x_weight, rel=1e-12)
    assert second.x_weight * first.x0_weight + second.x0_weight == pytest.approx(whole.x0_weight, rel=1e-12)
    assert math.hypot(second.x_weight * first.std, second.std) == pytest.approx(whole.std, rel=1e-12)


class Knowing(nn.Module):
    """Knows x0, so it can answer with the true eps or v, plus an error; keeps what it was asked."""

    def __init__(self, x0, schedule, predicts, error):
        super().__init__()
        self.x0, self.predicts, self.error, self.asked = x0, predicts, error, []
        self.abar = torch.tensor(schedule.alphas_cumprod, dtype=x0.dtype)

    def forward(self, x, t, condition):
        abar = self.abar[t.long()].view(-1, 1, 1, 1)
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        eps = (x - alpha * self.x0) / sigma
        self.asked.append((t, eps, condition))
        return (eps if self.predicts == "eps" else alpha * eps - sigma * self.x0) + self.error


def draw_of(schedule, x0, seed):
    """Timesteps and noise for a batch."""
    return draw_examples(schedule, x0.shape, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("predicts", ["eps", "v"])
def test_loss_is_the_mean_squared_error_of_what_is_predicted(predicts):
    schedule = sb.vp_linear(20, 0.01, 0.2)
    x0 = torch.linspace(-1, 1, 64 * 12).reshape(64, 3, 2, 2)
    for error, expected in ((0.0, 0.0), (0.5, 0.25)):
        network = Knowing(x0, schedule, predicts, error)
        loss = loss_of_draw(network, schedule, x0, None, draw_of(schedule, x0, 3), predicts=predicts)
        assert float(loss) == pytest.approx(expected, abs=1e-5)  # float32


def test_loss_draws_every_timestep_and_unit_noise():
    schedule = sb.vp_linear(10, 0.01, 0.2)
    network = Knowing(torch.full((2000, 1, 2, 2), 0.7), schedule, "eps", 0.0)
    condition = torch.ones(2000, 4)
    loss_of_draw(network, schedule, network.x0, condition, draw_of(schedule, network.x0, 0), predicts="eps")
    ((t, eps, given),) = network.asked
    assert given is condition
    counts = torch.bincount(t.long(), minlength=10)
    assert len(counts) == 10
    assert 140 < int(counts.min()) <= int(counts.max()) < 260  # 200 each, 4.5 standard deviations
    assert abs(float(eps.mean())) < 0.05
    assert float(eps.std()) == pytest.approx(1, abs=0.04)  # 8000 draws: 5 standard errors


def test_loss_depends_on_its_generator_alone():
    schedule, x0 = sb.vp_linear(10, 0.01, 0.2), torch.ones(8, 1, 2, 2)

    def loss(seed):
        network = Knowing(torch.zeros_like(x0), schedule, "eps", 0.0)
        return float(loss_of_draw(network, schedule, x0, None, draw_of(schedule, x0, seed), predicts="eps"))

    assert loss(1) == loss(1) != loss(2)


def test_loss_refuses_what_it_has_no_target_for():
    schedule, x0 = sb.vp_linear(10, 0.01, 0.2), torch.ones(2, 1, 2, 2)
    network = Knowing(x0, schedule, "v", 0.0)
    with pytest.raises(ValueError, match="predicts"):
        loss_of_draw(network, schedule, x0, None, draw_of(schedule, x0, 1), predicts="flow")


def test_ema_follows_its_recursion():
    network = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        network.weight.fill_(1.0)
        ema = EMA(network, 0.8)
        expected = 1.0
        for step, weight in enumerate(np.linspace(2, 40, 40)):
            network.weight.fill_(weight)
            ema.update(network, step)
            decay = min(0.8, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * weight
            assert float(ema.average["weight"]) == pytest.approx(expected, rel=1e-12)
    assert float(network.weight.detach()) == 40  # the network itself is left alone


def test_ema_on_a_device_is_that_of_the_plain_form_and_can_be_left_alone():
    torch.manual_seed(0)
    network = nn.Linear(3, 2, dtype=torch.float64)
    plain, fused = EMA(network, 0.8), EMA(network, 0.8)
    for step in range(20):
        with torch.no_grad():
            network.weight.add_(torch.randn(2, 3, dtype=torch.float64))
        plain.update(network, step)
        fused.update_on_device(network, step, torch.ones((), dtype=torch.float64))
        before = {name: value.clone() for name, value in fused.average.items()}
        fused.update_on_device(network, step, torch.zeros((), dtype=torch.float64))  # a step that was left out
        for name, value in plain.average.items():
            torch.testing.assert_close(fused.average[name], value, rtol=1e-12, atol=1e-14)
            assert torch.equal(fused.average[name], before[name])

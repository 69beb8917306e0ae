"""Levels of almost pure noise in float32: what rounding the state and the network's answer makes of x0 there."""

import functools

import numpy as np
import pytest
import torch

import samplerbench as sb
from cases import thinned
from samplerbench.samplers.exact import exact_model
from samplerbench.samplers.predictor import LEAST_ALPHA_OF_EPS, WIDE_STATE_BELOW

DATA = sb.GaussianMixture(((-0.7, -0.5), (0.6, -0.3)), (0.01, 0.04), (0.4, 0.6))
ALPHAS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8)
SAMPLERS = (
    "ddim", "ddpm", "euler-a", "heun", "heun:variable=t", "ipndm", "plms", "lms", "deis", "dpm-solver",
    "dpm-solver++", "dpm-solver++-sde", "unipc",
)  # fmt: skip
STEPS = 20
X = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(STEPS * 2, 16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def schedule_from(alpha):
    """From almost clean to an alpha, evenly in its logarithm."""
    log_alpha = np.linspace(np.log(0.9999), np.log(alpha), 200)
    return sb.vp_from_alphas_cumprod(np.exp(2 * log_alpha).tolist())


def drawn(sampler, alpha, predicts, dtype, compute=None):
    numbers = iter(NOISE)
    return sb.sample(
        exact_model(DATA, schedule_from(alpha), predicts), sampler, steps=STEPS, x_init=X.to(dtype), dtype=compute,
        noise=lambda a, b: next(numbers),
    ).x  # fmt: skip


@functools.cache
def reference(sampler, alpha, predicts):
    """In float64 throughout."""
    return drawn(sampler, alpha, predicts, torch.float64)


@pytest.mark.parametrize("alpha", thinned(ALPHAS, 1e-8))
@pytest.mark.parametrize("predicts", thinned(["v", "x0", "flow"], "v"))
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_float32_agrees_with_float64_from_any_alpha(sampler, predicts, alpha):
    got, expected = drawn(sampler, alpha, predicts, torch.float32), reference(sampler, alpha, predicts)
    assert got.dtype == torch.float32
    assert float(expected.abs().max()) > 0.3
    # deis extrapolates far over such steps: what it makes of a float32 state at 1e-3, where the state is not yet wide
    assert float((got - expected).abs().max()) < (1e-3 if sampler == "deis" and alpha == WIDE_STATE_BELOW else 5e-5)


@pytest.mark.parametrize("alpha", thinned([1e-3, 1e-4, 2e-5], 2e-5))
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_eps_is_as_exact_as_its_rounded_answer_allows(sampler, alpha):
    """x0 = (x - sigma eps) / alpha, and explicit multistep methods carry the error of the first steps to the end."""
    got, expected = drawn(sampler, alpha, "eps", torch.float32), reference(sampler, alpha, "eps")
    carries = sampler in ("ipndm", "plms", "deis")
    assert float((got - expected).abs().max()) < (10 * 6e-8 / alpha if carries else 2e-5)


@pytest.mark.parametrize("sampler", thinned(SAMPLERS, *list(SAMPLERS)[::3]))
def test_eps_is_refused_where_its_rounding_is_more_than_a_grey_level(sampler):
    with pytest.raises(sb.InputError, match=r"^predicts 'eps': at alpha = 1e-06 .* float32 .*1e\+06 times.*float64$"):
        drawn(sampler, 1e-6, "eps", torch.float32)
    exact = drawn(sampler, 1e-8, "eps", torch.float32, compute=torch.float64)
    assert exact.dtype == torch.float32
    assert float((exact - reference(sampler, 1e-8, "eps")).abs().max()) < 1e-5


def test_the_published_cosine_schedules_stay_above_the_bound():
    for timesteps in (1000, 4000):
        assert sb.vp_cosine(timesteps).first.alpha > LEAST_ALPHA_OF_EPS


@pytest.mark.parametrize(("alpha", "wide"), [(0.9e-3, True), (1.1e-3, False)])
def test_the_state_is_wide_within_the_run_alone(alpha, wide):
    """What the sampler sees is float64; the network, the samples and the trajectory are as they were asked for."""
    assert (alpha < WIDE_STATE_BELOW) == wide
    seen, asked = [], []

    class Spy(type(sb.make_sampler("ddpm"))):
        def step(self, run, x, a, b, past):
            x, past = super().step(run, x, a, b, past)
            seen.append(x.dtype)
            return x, past

    model = sb.wrap_network(lambda x, t: asked.append(x.dtype) or x * 0.5, schedule_from(alpha), (2,), "v")
    samples = sb.sample(model, Spy(), steps=3, n=2, trajectory=True)
    assert set(seen) == {torch.float64 if wide else torch.float32}
    assert set(asked) == {torch.float32}
    assert {state.dtype for state in (samples.x, *samples.trajectory)} == {torch.float32}


def test_alpha_0_by_itself_widens_nothing():
    seen = []
    model = sb.wrap_network(lambda x, t: x * 0.5, sb.flow(), (2,), "flow")

    class Spy(type(sb.make_sampler("ddim"))):
        def step(self, run, x, a, b, past):
            seen.append(x.dtype)
            return super().step(run, x, a, b, past)

    sb.sample(model, Spy(), steps=3, n=2)
    assert set(seen) == {torch.float32}

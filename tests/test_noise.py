"""Noise is a function of (seed, sample index, interval, draw), whatever else changes."""

import dataclasses
import itertools
import random

import numpy as np
import pytest
import torch

import samplerbench as sb
from samplerbench.samplers.exact import gaussian
from samplerbench.samplers.noise import Noise

SHAPE = (2, 3)
MIXTURE = sb.GaussianMixture(((-1.0, 0.5), (0.8, 1.0), (0.3, -1.2)), (0.02, 0.1, 0.3), (0.5, 0.3, 0.2))
MODELS = {
    "mixture": sb.exact_model(MIXTURE, sb.vp_linear(100, 1e-3, 0.2)),
    "gaussian, edm": sb.exact_model(gaussian((0.3, -0.4, 0.1), 0.2), sb.edm(), "v"),
    "mixture, flow": sb.exact_model(MIXTURE, sb.flow(), "flow"),
}
STOCHASTIC = [name for name, cls in sb.list_samplers().items() if cls().convergence is None]


def draw(noise, interval=2, ordinal=1):
    return torch.stack([noise.prior(), noise.step(interval, ordinal)], dim=1)


@pytest.mark.parametrize("first", [0, 1, 63, 64, 65, 128, 190])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 66])
def test_any_split_gives_the_same_rows(first, n):
    whole = draw(Noise(7, SHAPE, 256))
    part = draw(Noise(7, SHAPE, n, first=first))
    assert torch.equal(part, whole[first : first + n])


def test_every_part_of_the_key_changes_the_draw():
    draws = [
        Noise(seed, SHAPE, 1, first=first).step(interval, ordinal)
        for seed, first, interval, ordinal in itertools.product((0, 1, 2**32, 2**63 - 1), (0, 1, 64), (0, 1, 9), (0, 1))
    ]
    draws += [Noise(seed, SHAPE, 1, first=first).prior() for seed in (0, 1, 2**32) for first in (0, 1, 64)]
    assert len({tuple(d.flatten().tolist()) for d in draws}) == len(draws)


def test_the_same_key_gives_the_same_draw_in_any_order():
    noise = Noise(5, SHAPE, 70)
    late = noise.step(3, 0)
    noise.step(0, 0)
    assert torch.equal(noise.step(3, 0), late)
    assert torch.equal(Noise(5, SHAPE, 70).step(3, 0), late)


def test_moments():
    """80,000 draws: 5 standard errors are 0.018 (mean), 0.025 (variance) and 0.18 (fourth moment)."""
    z = torch.cat([Noise(1, (25,), 320).step(i, 0).double() for i in range(10)])
    assert abs(float(z.mean())) < 0.018
    assert float(z.var()) == pytest.approx(1, abs=0.025)
    assert float(z.pow(4).mean()) == pytest.approx(3, abs=0.18)
    assert abs(float((z[:, 1:] * z[:, :-1]).mean())) < 0.018  # within a sample
    assert abs(float((z[1:] * z[:-1]).mean())) < 0.018  # between samples
    assert abs(float((z[320:] * z[:-320]).mean())) < 0.019  # between intervals


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_a_sample_does_not_depend_on_how_many_there_are(model, sampler):
    whole = sb.sample(model, sampler, steps=3, n=130, seed=4, batch_size=64).x
    assert len(torch.unique(whole, dim=0)) == 130
    for n in (1, 2, 7, 31, 63, 64, 65, 100, 127, 128, 129):
        assert torch.equal(sb.sample(model, sampler, steps=3, n=n, seed=4, batch_size=64).x, whole[:n])


def test_a_sample_does_not_depend_on_any_n_up_to_130():
    model, sampler = MODELS["mixture"], sb.make_sampler("ddim:eta=0.7")
    whole = sb.sample(model, sampler, steps=2, n=130, seed=4, batch_size=64).x
    for n in range(1, 131):
        assert torch.equal(sb.sample(model, sampler, steps=2, n=n, seed=4, batch_size=64).x, whole[:n])


@pytest.mark.parametrize("batch_size", [1, 8, 128])
def test_batch_sizes_agree_to_rounding(batch_size):
    one = sb.sample(MODELS["mixture"], "ddpm", steps=5, n=130, batch_size=64).x
    other = sb.sample(MODELS["mixture"], "ddpm", steps=5, n=130, batch_size=batch_size).x
    assert float((one - other).abs().max()) < 1e-5  # float32, values of about 1


@pytest.mark.parametrize("batch_size", [0, -1, 3, 65, 96, True, 2.0])
def test_batch_sizes_that_do_not_fit_the_noise_blocks_are_refused(batch_size):
    with pytest.raises(sb.InputError, match="batch_size"):
        sb.sample(MODELS["mixture"], "ddim", steps=2, n=2, batch_size=batch_size)


@pytest.mark.parametrize("name", sb.list_samplers())
def test_a_used_sampler_is_as_good_as_a_fresh_one(name):
    model, used = MODELS["mixture"], sb.make_sampler(name)
    sb.sample(model, used, steps=4, n=3, seed=9)
    fresh = sb.sample(model, sb.make_sampler(name), steps=6, n=3, seed=1).x
    assert torch.equal(sb.sample(model, used, steps=6, n=3, seed=1).x, fresh)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_follow_their_seed(name):
    model = MODELS["mixture"]
    a, b, c = (sb.sample(model, name, steps=4, n=3, seed=seed).x for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_sampling_leaves_the_global_generators_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    sb.sample(MODELS["mixture"], "ddpm", steps=3, n=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, "0"])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(sb.InputError, match="seed"):
        sb.sample(MODELS["mixture"], "ddim", steps=1, n=1, seed=seed)


@dataclasses.dataclass(frozen=True)
class Twice(sb.Sampler):
    """Draws twice in a step; ends with the last step's draws."""

    def nfe(self, steps):
        return 0

    def step(self, run, x, a, b, past):
        return run.noise(a, b) + 10 * run.noise(a, b), None


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_draws_are_numbered_anew_in_each_interval(steps):
    x = sb.sample(MODELS["mixture"], Twice(), steps=steps, n=3, seed=8).x
    noise = Noise(8, (2,), 3)
    assert torch.equal(x, noise.step(steps - 1, 0) + 10 * noise.step(steps - 1, 1))


def test_edm_starts_from_noise_times_the_first_sigma():
    start = sb.sample(MODELS["gaussian, edm"], "ddim", steps=2, n=3, seed=6, trajectory=True).trajectory[0]
    assert torch.equal(start, Noise(6, (3,), 3).prior() * 80)
    start = sb.sample(MODELS["mixture"], "ddim", steps=2, n=3, seed=6, trajectory=True).trajectory[0]
    assert torch.equal(start, Noise(6, (2,), 3).prior())

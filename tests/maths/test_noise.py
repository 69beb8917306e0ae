"""Noise is a function of (seed, stream, sample index, interval, draw), whatever else changes."""

import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
import torch

import samplerbench as sb
from cases import thinned
from samplerbench.samplers import philox
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


KNOWN = {
    "zeros": ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    "ones": ((2**32 - 1,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0_A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}
"""Counter, key (its low word is the first) and words of Philox 4x32-10, as published with Salmon et al. 2011."""

EDGES = (0, 1, 2, 3, 2**16 - 1, 2**16, 2**24 - 1, 2**24, 2**31, 2**32 - 1)


def words_by_hand(key, counter):
    """Philox 4x32-10 in whole numbers, as the paper's section 3 writes it."""
    a, b, c, d = counter
    low, high = key % 2**32, key >> 32
    for _ in range(10):
        left, right = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = right >> 32 ^ b ^ low, right % 2**32, left >> 32 ^ d ^ high, left % 2**32
        low, high = (low + 0x9E3779B9) % 2**32, (high + 0xBB67AE85) % 2**32
    return a, b, c, d


def normals_by_hand(words):
    found = []
    for even, odd in (words[:2], words[2:]):
        radius, angle = math.sqrt(-2 * math.log((even + 0.5) / 2**32)), 2 * math.pi * (odd + 0.5) / 2**32
        found += [radius * math.cos(angle), radius * math.sin(angle)]
    return found


def draw(noise, interval=2, ordinal=1):
    return torch.stack([noise.prior(), noise.step(interval, ordinal), noise.brownian(interval, ordinal)], dim=1)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN.values(), ids=KNOWN)
def test_the_words_are_those_published(counter, key, words):
    assert words_by_hand(key, counter) == words
    assert philox.words(key, np.array([counter], dtype=np.uint32)).tolist() == [list(words)]


def test_many_counters_at_once_give_the_words_of_each():
    counters = np.array(list(itertools.product(EDGES[::3], repeat=4)), dtype=np.uint32)
    for key in (0, 1, 2**32, 2**63 - 1):
        expected = [list(words_by_hand(key, counter)) for counter in counters.tolist()]
        assert philox.words(key, counters).tolist() == expected


@pytest.mark.parametrize("seed", [0, 1, 2**32, 0x299F31D0_A4093822, 2**63 - 1])
def test_a_draw_is_the_normals_of_its_own_counters(seed):
    noise = Noise(seed, (2, 5), 2, first=2**32 - 2)
    draws = {
        (0, 0, 0): noise.prior(),
        (1, 2**32 - 1, 2**24 - 1): noise.step(2**32 - 1, 2**24 - 1),
        (1, 3, 0): noise.step(3, 0),
        (2, 2**32 - 1, 2**24 - 1): noise.brownian(2**32 - 1, 2**24 - 1),
        (2, 3, 2): noise.brownian(3, 2),
    }
    for (stream, place, part), drawn in draws.items():
        for sample, row in zip((2**32 - 2, 2**32 - 1), drawn, strict=True):
            words = [words_by_hand(seed, (block, sample, place, stream << 24 | part)) for block in range(3)]
            expected = np.array([normals_by_hand(four) for four in words]).flatten()[:10].reshape(2, 5)
            assert np.abs(row.numpy() - expected).max() < 1e-6
        assert drawn.dtype == torch.float32
        assert drawn.is_contiguous()


def test_the_first_normals_of_seed_0():
    """From the published words of the counter 0, 0, 0, 0 under the key 0, 0."""
    expected = torch.tensor([0.9911377, -0.9246626, -0.6176090, -0.4820686])
    assert torch.allclose(Noise(0, (4,), 1).prior()[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("first", [0, 1, 63, 64, 65, 128, 190])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 66])
def test_any_split_gives_the_same_rows(first, n):
    whole = draw(Noise(7, SHAPE, 256))
    part = draw(Noise(7, SHAPE, n, first=first))
    assert torch.equal(part, whole[first : first + n])


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (1, 28, 28)], ids=str)
def test_any_number_of_samples_of_an_odd_shape_gives_the_same_rows(shape, first):
    whole = Noise(7, shape, 140).step(4, 2)
    for n in range(1, 131):
        assert torch.equal(Noise(7, shape, n, first=first).step(4, 2), whole[first : first + n])


@pytest.mark.parametrize("piece", thinned([1, 2, 7, 100, 3000], 7, 100, 3000))
@pytest.mark.parametrize(("shape", "n"), [((1,), 130), ((37,), 130), ((3, 401), 5), ((9001,), 1)], ids=str)
def test_no_byte_depends_on_the_size_of_a_piece(shape, n, piece, monkeypatch):
    whole = draw(Noise(7, shape, n, first=5))
    monkeypatch.setattr(philox, "PIECE", piece)
    assert torch.equal(draw(Noise(7, shape, n, first=5)), whole)


def test_a_longer_shape_begins_with_the_elements_of_a_shorter_one():
    longest = Noise(7, (40_000,), 2).prior()
    for size in (1, 2, 3, 4, 5, 784, 16_384 * 2 + 1):
        assert torch.equal(Noise(7, (size,), 2).prior(), longest[:, :size])


def test_no_two_draws_share_a_block():
    """Every stream, and every field of a counter at the edges of its bits and of its neighbours' bits."""
    samples, places, parts = EDGES, EDGES, [part for part in EDGES if part < 2**24]
    drawn = []
    for first in samples:
        noise = Noise(3, (8,), 1, first=first)
        drawn.append(noise.prior())
        drawn += [draw(place, part) for draw in (noise.step, noise.brownian) for place in places for part in parts]
    blocks = torch.cat(drawn).reshape(-1, 4)
    assert len(blocks) == 2 * len(samples) * (1 + 2 * len(places) * len(parts))
    assert len(torch.unique(blocks, dim=0)) == len(blocks)


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


@pytest.mark.parametrize(
    ("field", "asked"),
    {
        "interval -1": ("interval", lambda noise: noise.step(-1, 0)),
        "interval 2^32": ("interval", lambda noise: noise.step(2**32, 0)),
        "interval 1.0": ("interval", lambda noise: noise.step(1.0, 0)),
        "draw -1": ("draw", lambda noise: noise.step(0, -1)),
        "draw 2^24": ("draw", lambda noise: noise.step(0, 2**24)),
        "node -1": ("node index", lambda noise: noise.brownian(-1, 0)),
        "node 2^32": ("node index", lambda noise: noise.brownian(2**32, 0)),
        "depth -1": ("depth", lambda noise: noise.brownian(0, -1)),
        "depth 2^24": ("depth", lambda noise: noise.brownian(0, 2**24)),
        "sample -1": ("sample", lambda _: Noise(0, SHAPE, 1, first=-1)),
        "sample 2^32": ("sample", lambda _: Noise(0, SHAPE, 2, first=2**32 - 1)),
        "element 2^34": ("element", lambda _: Noise(0, (2**17, 2**17 + 1), 1)),
        "seed -1": ("seed", lambda _: Noise(-1, SHAPE, 1)),
        "seed 2^63": ("seed", lambda _: Noise(2**63, SHAPE, 1)),
    }.values(),
)
def test_a_field_that_its_bits_do_not_hold_is_refused_by_its_name(field, asked, monkeypatch):
    monkeypatch.setattr("samplerbench.samplers.noise.normals", None)  # nothing is drawn first
    with pytest.raises(sb.InputError, match=f"^{field} "):
        asked(Noise(0, SHAPE, 1))


def test_the_last_element_that_a_counter_names_is_accepted():
    Noise(0, (2**17, 2**17), 1)


def test_extreme_words_give_finite_normals():
    words = np.array(list(itertools.product((0, 1, 2**30, 2**31, 3 * 2**30, 2**32 - 1), repeat=4)), dtype=np.uint32)
    found = philox.box_muller(words)
    expected = np.array([normals_by_hand(four) for four in words.tolist()])
    assert np.isfinite(found).all()
    assert (np.abs(found - expected) < 1e-5 * np.abs(expected)).all()  # cosines at right angles too, of 1e-9
    assert found.max() == pytest.approx(math.sqrt(66 * math.log(2)), abs=1e-6)  # 6.76, from the word 0


def test_moments_and_tails():
    """A million draws, at 5 standard errors each."""
    z = torch.cat([Noise(1, (125,), 400).step(i, 0).double() for i in range(20)]).flatten()
    n = len(z)
    assert n == 10**6
    assert abs(float(z.mean())) < 5 * n**-0.5
    assert float(z.var()) == pytest.approx(1, abs=5 * (2 / n) ** 0.5)
    assert float(z.pow(3).mean()) == pytest.approx(0, abs=5 * (15 / n) ** 0.5)
    assert float(z.pow(4).mean()) == pytest.approx(3, abs=5 * (96 / n) ** 0.5)
    for bound in (-4, -3, -2, -1, -0.1, 0, 0.1, 1, 2, 3, 4):
        share = math.erfc(-bound / 2**0.5) / 2
        assert float((z < bound).double().mean()) == pytest.approx(share, abs=5 * (share * (1 - share) / n) ** 0.5)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("distance", thinned([1, 2, 3, 4, 64], 1, 64))
def test_neighbours_are_independent(distance, power):
    """Correlations of draws and of their squares at 5 standard errors, which is 0.005 for a million pairs."""
    seeds, shape, n = range(40, 42), (128,), 128
    whole = torch.stack(
        [torch.stack([torch.stack([Noise(s, shape, n).step(i, d) for d in range(8)]) for i in range(8)]) for s in seeds]
    ).double()
    values = (whole**power - whole.pow(power).mean()) / whole.pow(power).std()
    for axis in (dim for dim in range(5) if values.shape[dim] > distance):  # seed, interval, draw, sample, element
        length = values.shape[axis] - distance
        product = values.narrow(axis, distance, length) * values.narrow(axis, 0, length)
        assert abs(float(product.mean())) < 5 * product.numel() ** -0.5
    prior = Noise(40, shape, n).prior().double()
    assert abs(float((prior * whole[0, 0, 0]).mean())) < 5 * prior.numel() ** -0.5


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("sampler", thinned(STOCHASTIC, "ddpm", "sa-solver"))
def test_a_sample_does_not_depend_on_how_many_there_are(model, sampler):
    whole = sb.sample(model, sampler, steps=3, n=130, seed=4, batch_size=64).x
    assert len(torch.unique(whole, dim=0)) == 130
    for n in (1, 2, 7, 31, 63, 64, 65, 100, 127, 128, 129):
        assert torch.equal(sb.sample(model, sampler, steps=3, n=n, seed=4, batch_size=64).x, whole[:n])


@pytest.mark.slow
@pytest.mark.further
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
def test_batch_sizes_that_do_not_fit_the_blocks_of_samples_are_refused(batch_size):
    with pytest.raises(sb.InputError, match="batch_size"):
        sb.sample(MODELS["mixture"], "ddim", steps=2, n=2, batch_size=batch_size)


@pytest.mark.parametrize("name", thinned(sb.list_samplers(), *list(sb.list_samplers())[::3]))
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
def test_draws_are_numbered_from_0_in_each_interval(steps):
    x = sb.sample(MODELS["mixture"], Twice(), steps=steps, n=3, seed=8).x
    noise = Noise(8, (2,), 3)
    assert torch.equal(x, noise.step(steps - 1, 0) + 10 * noise.step(steps - 1, 1))


def test_edm_starts_from_noise_times_the_first_sigma():
    start = sb.sample(MODELS["gaussian, edm"], "ddim", steps=2, n=3, seed=6, trajectory=True).trajectory[0]
    assert torch.equal(start, Noise(6, (3,), 3).prior() * 80)
    start = sb.sample(MODELS["mixture"], "ddim", steps=2, n=3, seed=6, trajectory=True).trajectory[0]
    assert torch.equal(start, Noise(6, (2,), 3).prior())

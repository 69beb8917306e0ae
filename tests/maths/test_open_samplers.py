"""CFG++, ParaDiGMS and EPD against plain NumPy, each written from its paper in another form than the sampler's."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

import parity
import samplerbench as sb
from samplerbench.bench.conformance.guidance import mixed_model
from samplerbench.samplers.exact import exact_model
from samplerbench.samplers.registry import default_registry

VP, EDM, FLOW = sb.vp_linear(), sb.edm(), sb.flow()
RNG = np.random.default_rng(7)
X, NOISE = RNG.standard_normal((4, 2)), RNG.standard_normal((20, 4, 2))
GRIDS = {
    "VP": (VP, [990.5, 950.0, 600.25, 590.0, 200.0, 150.5, 20.0, 3.0]),
    "EDM": (EDM, [40.0, 31.0, 8.0, 7.0, 2.5, 0.9, 0.31, 0.07]),
    "flow": (FLOW, [1.0, 0.9, 0.6, 0.55, 0.2, 0.01]),
}
MEANS, VARIANCES, WEIGHTS = (
    np.array([[-1.0, 0.5], [0.8, 1.0], [0.3, -1.2]]), np.array([0.02, 0.1, 0.3]), np.array([0.5, 0.3, 0.2])
)  # fmt: skip
PLANE = sb.GaussianMixture(tuple(map(tuple, MEANS.tolist())), tuple(VARIANCES.tolist()), tuple(WEIGHTS.tolist()))


def with_prompt(x, level):
    """E[x0 | x] of the mixture by Bayes' rule."""
    s2 = level.alpha**2 * VARIANCES + level.sigma**2
    residual = x[:, None, :] - level.alpha * MEANS
    log_likelihood = -0.5 * (residual**2).sum(-1) / s2 - np.log(s2) + np.log(WEIGHTS)
    likelihood = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
    posterior = likelihood / likelihood.sum(1, keepdims=True)
    return (posterior[:, :, None] * (MEANS + (level.alpha * VARIANCES / s2)[:, None] * residual)).sum(1)


def without_prompt(x, level):
    """E[x0 | x] of N((0.2, 0.1), 0.6)."""
    mean = np.array([0.2, 0.1])
    return mean + level.alpha * 0.6 / (level.alpha**2 * 0.6 + level.sigma**2) * (x - level.alpha * mean)


def levels_of(schedule, times):
    return [*(schedule.at_time(t) for t in times), schedule.clean]


def drawn(spec, name, guidance=None, **settings):
    schedule, times = GRIDS[name]
    stream = iter(torch.from_numpy(NOISE))
    model = mixed_model(schedule) if guidance else exact_model(PLANE, schedule, "v")
    more = {"prompts": ["1"], "guidance": guidance} if guidance else {}
    got = sb.sample(
        model, spec, grid=times, x_init=torch.from_numpy(X), noise=lambda a, b: next(stream), **more, **settings
    )
    return got.x.numpy()


# ---- CFG++ ----


def cfg_pp(x, levels, guidance, eta=0.0):
    """Algorithm 2, with k-diffusion's ancestral levels: everything in the units of x, step by step."""
    noise = iter(NOISE)
    for a, b in itertools.pairwise(levels):
        none = without_prompt(x, a)
        x0 = none + guidance * (with_prompt(x, a) - none)
        eps = (x - a.alpha * none) / a.sigma
        s_a, s_b = (math.inf if not level.alpha else level.sigma / level.alpha for level in (a, b))
        up = min(s_b, eta * math.sqrt(s_b**2 * (1 - s_b**2 / s_a**2)))
        x = b.alpha * (x0 + math.sqrt(s_b**2 - up**2) * eps)
        if up:
            x = x + b.alpha * up * next(noise)
    return x


def cfg_pp_2m(x, levels, guidance):
    """In y = x / alpha: y_b = D + e^-h (y - D') + (1 - e^-h) / 2r (D - D'_before)."""
    before = None
    for a, b in itertools.pairwise(levels):
        none = without_prompt(x, a)
        guided = none + guidance * (with_prompt(x, a) - none)
        if not a.alpha:
            x, before = b.alpha * guided + b.sigma * x, None
            continue
        kept = (b.sigma / b.alpha) / (a.sigma / a.alpha)
        y = guided + kept * (x / a.alpha - none)
        lambda_a = math.log(a.alpha / a.sigma)
        if before and b.sigma:
            r = (lambda_a - before[0]) / (math.log(b.alpha / b.sigma) - lambda_a)
            y = y + (1 - kept) / (2 * r) * (guided - before[1])
        x, before = b.alpha * y, (lambda_a, none)
    return x


@pytest.mark.parametrize("guidance", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("name", GRIDS)
def test_cfg_plus_plus_is_what_the_paper_says(name, guidance):
    levels = levels_of(*GRIDS[name])
    close = {"rtol": 0, "atol": 1e-10}
    for spec, eta in (("euler-cfg++", 0.0), ("euler-a-cfg++", 1.0), ("euler-a-cfg++:eta=0.4", 0.4)):
        assert np.allclose(drawn(spec, name, guidance), cfg_pp(X, levels, guidance, eta), **close), spec
    assert np.allclose(drawn("dpm-solver++-cfg++", name, guidance), cfg_pp_2m(X, levels, guidance), **close)


@pytest.mark.parametrize("spec", ["euler-cfg++", "euler-a-cfg++", "dpm-solver++-cfg++"])
def test_it_is_not_the_guidance_of_others(spec):
    plain = spec.replace("-cfg++", "")
    assert np.abs(drawn(spec, "VP", 0.6) - drawn(plain, "VP", 0.6)).max() > 0.1
    # Without the prompt's data they are one.
    settings = {"grid": [900, 500, 40], "x_init": torch.from_numpy(X), "guidance": 0.6, "prompts": ["0"]}
    one, two = (
        sb.sample(mixed_model(VP), s, noise=lambda a, b: torch.zeros(4, 2), **settings).x for s in (spec, plain)
    )
    assert torch.allclose(one, two, rtol=0, atol=1e-12)


def test_the_first_order_form_is_guidance_of_another_strength():
    """A step of CFG++ at lambda is one of CFG at w = lambda s_a / (s_a - s_b), with s = sigma / alpha."""
    a, b = VP.at_time(700), VP.at_time(400)
    strength = 0.5 * a.sigma_ve / (a.sigma_ve - b.sigma_ve)
    settings = {"grid": [700, 400], "x_init": torch.from_numpy(X), "prompts": ["1"], "trajectory": True}
    one = sb.sample(mixed_model(VP), "euler-cfg++", guidance=0.5, **settings).trajectory[1]
    two = sb.sample(mixed_model(VP), "euler", guidance=strength, **settings).trajectory[1]
    assert torch.allclose(one, two, rtol=0, atol=1e-12)


# ---- ParaDiGMS ----


def picard(x, levels, window, sweeps):
    """Algorithm 1 with a fixed number of sweeps: each asks about the whole window anew and adds up the drifts."""
    i = 0
    noisy = len(levels) - 1
    while i < noisy:
        a = levels[i]
        width = 1 if not a.alpha else min(window, noisy - 1 - i)
        if width < 1 or not a.alpha:  # the last interval, or no signal: one step
            b = levels[i + 1]
            x0 = with_prompt(x, a)
            x = b.alpha * x0 + b.sigma * (x - a.alpha * x0) / a.sigma
            i += 1
            continue
        part = levels[i : i + width + 1]
        size = [math.hypot(level.alpha, level.sigma) for level in part]
        z = [x / size[0]] * (width + 1)
        for _ in range(sweeps):
            drifts = []
            for (a, r), (b, r_b), one in zip(
                *[list(zip(part, size, strict=True))[k:] for k in (0, 1)], z, strict=False
            ):
                x0 = with_prompt(r * one, a)
                drifts.append((b.alpha * x0 + b.sigma * (r * one - a.alpha * x0) / a.sigma) / r_b - one)
            z = [z[0] + sum(drifts[:j]) for j in range(width + 1)]
        x = size[-1] * z[-1]
        i += width
    return x


@pytest.mark.parametrize(("window", "sweeps"), [(1, 1), (3, 1), (3, 2), (4, 3), (8, 4), (20, 5), (3, 9)])
@pytest.mark.parametrize("name", GRIDS)
def test_picard_sweeps_are_those_of_the_paper(name, window, sweeps):
    got = drawn(f"paradigms:window={window},sweeps={sweeps}", name)
    assert np.allclose(got, picard(X, levels_of(*GRIDS[name]), window, sweeps), rtol=1e-10, atol=1e-10)
    if sweeps >= window:
        assert np.allclose(got, drawn("euler", name), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("window", "sweeps"), [(4, 2), (5, 3), (9, 1), (3, 3)])
def test_sweeps_with_the_drift_of_diffusers_are_the_same(window, sweeps):
    """The parallel steps are those of DDIMParallelScheduler, whose tables are made in float64 here."""
    diffusers = pytest.importorskip("diffusers")
    model, x = exact_model(PLANE, VP, "eps"), torch.from_numpy(X)
    network = model.network(torch.device("cpu"), torch.float64)
    with parity.computing_in(torch.float64):
        peer = diffusers.DDIMParallelScheduler(clip_sample=False)
        peer.set_timesteps(10)  # 900 ... 0: leading, on which it steps to the next timestep
        times = peer.timesteps.tolist()

        def after(states, first):
            """Each state one step on, all in one batch."""
            told = times[first : first + len(states)]
            x = torch.cat(states)
            t = torch.tensor(told, dtype=torch.float64).repeat_interleave(len(X))
            return peer.batch_step_no_noise(network(x, t), t.long(), x).split(len(X))

        for start in range(0, 9, window):
            width = min(window, 9 - start)
            states = [x] * (width + 1)
            for _ in range(sweeps):
                drifts = [b - a for a, b in zip(states, after(states[:-1], start), strict=False)]
                states = [x + sum(drifts[:j]) for j in range(width + 1)]
            x = states[-1]
        (x,) = after([x], 9)
    got = sb.sample(model, f"paradigms:window={window},sweeps={sweeps}", grid=times, x_init=torch.from_numpy(X)).x
    assert torch.allclose(got, x, rtol=1e-10, atol=1e-10)


def test_sweeps_bring_the_samples_to_those_of_euler_and_save_depth():
    euler = sb.sample("mixture", "euler", 33, n=8).x
    errors, depths = [], []
    for sweeps in (2, 4, 6, 8):
        got = sb.sample("mixture", f"paradigms:sweeps={sweeps}", 33, n=8)
        errors.append(float((got.x - euler).abs().max()))
        depths.append(got.depth)
        assert got.nfe == sb.make_sampler("paradigms", sweeps=sweeps).nfe(33)
    assert depths == [4 * sweeps + 1 for sweeps in (2, 4, 6, 8)]
    assert errors[-1] < 1e-5
    assert sorted(errors, reverse=True) == errors


@pytest.mark.parametrize("option", ["window=0", "sweeps=0", "window=-1"])
def test_a_window_and_sweeps_are_whole_numbers_from_1(option):
    with pytest.raises(sb.InputError, match="options window and sweeps: expected whole numbers from 1"):
        sb.make_sampler(f"paradigms:{option}")


# ---- EPD ----


def midpoints(x, levels):
    """Euler to a quarter and three quarters of each interval in log(sigma / alpha), then the mean of the two slopes."""
    for a, b in itertools.pairwise(levels):
        x0 = with_prompt(x, a)
        eps = (x - a.alpha * x0) / a.sigma
        if not a.alpha or not b.sigma:
            x = b.alpha * x0 + b.sigma * eps
            continue
        s_a, s_b = a.sigma / a.alpha, b.sigma / b.alpha
        slopes = []
        for r in (0.25, 0.75):
            s = s_a ** (1 - r) * s_b**r
            level = EDM.at_time(s)
            y = x / a.alpha + (s - s_a) * eps
            slopes.append((y - with_prompt(y, level)) / s)
        x = b.alpha * (x / a.alpha + (s_b - s_a) * np.mean(slopes, axis=0))
    return x


@pytest.mark.parametrize("name", GRIDS)
def test_epd_before_learning_is_the_midpoint_rule_over_two_halves(name):
    assert np.allclose(drawn("epd", name), midpoints(X, levels_of(*GRIDS[name])), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("spec", "nfe"), [("epd", 13), ("epd:points=1", 9)])
def test_epd_asks_for_its_points_at_once(spec, nfe):
    got = sb.sample("mixture", spec, 5, n=3)
    assert (got.nfe, got.depth) == (nfe, 9)


def test_weights_of_epd_follow_the_levels_that_a_table_has():
    """Where points are rounded to whole timesteps the slope at the middle is still right: a local error of h^3."""
    errors = []
    for t in (1000, 2000, 4000):
        table = sb.vp_linear(t, 0.1 / t, 20 / t)
        exact = exact_model(sb.GaussianMixture(((0.4,),), (0.3,), (1.0,)), table, "v")
        model = dataclasses.replace(exact, timesteps="integer")
        start = t // 2
        grid, x = [start, start - 7], torch.tensor([[1.7]], dtype=torch.float64)
        got = sb.sample(model, "epd", grid=grid, x_init=x, trajectory=True).trajectory[1]
        a, b = (table.at_time(one) for one in grid)
        std = [math.sqrt(level.alpha**2 * 0.3 + level.sigma**2) for level in (a, b)]
        errors.append(float((got - (b.alpha * 0.4 + std[1] / std[0] * (x - a.alpha * 0.4))).abs()))
    assert math.log2(errors[1] / errors[2]) == pytest.approx(3, abs=0.25)
    assert default_registry().alias("EPD-Solver")

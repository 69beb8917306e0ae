"""What must make no difference to the samples: their number, the batch size, the order of work, stops, threads.

And what must: a state that is not finite fails its cell, names the step and is never scored.
"""

import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import samplerbench as sb
from samplerbench.bench.draw import clock as timing
from samplerbench.bench.draw.chunk import make_chunk
from samplerbench.bench.draw.session import Watch
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.run import begin
from samplerbench.samplers.noise import Noise
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
REGISTRY = load_registry([TOY])
CLOCKED = list(timing.COLUMNS)


@pytest.fixture(scope="module")
def model():
    """The embedded model."""
    return sb.load_model("fashion-mnist")


@pytest.fixture
def threads():
    """Set the number of threads; put back at the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def session_of(output, n=150, samplers=("ddpm", "ddim", "euler-a")):
    """A run of the toy model that has not begun to work."""
    plan = plan_for(Config(model="toy", sampler=samplers, steps=(2, 3), samples=n), REGISTRY)
    return begin(plan, REGISTRY, output)


# Not finite


@dataclass(frozen=True)
class Spoils(sb.Sampler):
    """First order; puts `value` into the last number of the last sample in one step."""

    at: int
    value: float

    def nfe(self, steps):
        return steps

    def step(self, run, x, a, b, past):
        x = run.predict(x, a).combine(b.alpha, b.sigma)
        if run.i == self.at and len(x) != 64:  # neither the trial nor the first block
            x[-1].view(-1)[-1] = self.value
        return x, None


@pytest.mark.parametrize(
    ("at", "value"), [(0, float("nan")), (1, float("inf")), pytest.param(3, float("nan"), marks=pytest.mark.slow)]
)
def test_a_state_that_is_not_finite_fails_its_cell_names_the_step_and_is_never_scored(tmp_path, at, value):
    session = session_of(tmp_path / "run", n=70)
    spoilt = replace(session.plan.cells[0], request=replace(session.plan.cells[0].request, sampler=Spoils(at, value)))
    levels = plan_for(Config(model="toy", steps=(4,)), REGISTRY).cells[0].request.levels
    spoilt = replace(spoilt, steps=4, nfe=4, request=replace(spoilt.request, levels=levels))
    plan = replace(session.plan, cells=(spoilt, *session.plan.cells[1:]))
    session.session.ledger.plan = session.session.engine.here.plan = plan
    session.work(Watch())
    table = session.conclude().table
    assert table["status"][0] == f"failed: sampler Spoils, step {at}: the state is not finite (NaN or infinity)"
    assert table.loc[0, ["fid", "clip_score", "seconds_per_image"]].isna().all()
    assert table["same_as"].isna()[0]
    assert set(table["status"][1:]) == {"ok"}
    assert table.loc[1:, ["fid", "clip_score", "seconds_per_image"]].notna().all(axis=None)


# Number and batch size


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_images_of_the_embedded_model_do_not_depend_on_any_number_up_to_130(model, sampler, figure):
    whole = sb.sample(model, sampler, steps=2, n=130, batch_size=8).images
    assert len(torch.unique(whole.flatten(1), dim=0)) == 130
    for n in range(1, 130):
        assert torch.equal(sb.sample(model, sampler, steps=2, n=n, batch_size=8).images, whole[:n])
    figure(f"{sampler}: images that differ in a byte, for n = 1 to 130 at one batch size", "0")


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm-solver", "euler-a"])
def test_batch_sizes_agree_within_one_grey_level_from_the_same_noise(model, sampler):
    at = {
        size: sb.sample(model, sampler, steps=5, n=130, batch_size=size, trajectory=True)
        for size in (1, 8, 64, 128, 256)
    }
    for samples in at.values():
        assert torch.equal(samples.trajectory[0], at[64].trajectory[0])
        assert (samples.images.int() - at[64].images.int()).abs().max() <= 1
    assert at[64].images.float().flatten(1).std(1).min() > 1


# Order of work, and stops


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The table of a run that goes through in one."""
    session = session_of(tmp_path_factory.mktemp("unbroken") / "run")
    session.work(Watch())
    return session.conclude().table.drop(columns=CLOCKED)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_chunks_made_in_any_order_and_over_many_sessions_give_the_same_table(tmp_path, unbroken, seed):
    rng = random.Random(seed)
    first = session_of(tmp_path / "run")
    pairs = [(c, b) for c in range(len(first.plan.cells)) for b in range(len(first.plan.blocks))]
    rng.shuffle(pairs)
    reference = first.session._ode_solution(Watch())
    first.folder.close()
    for c, b in pairs[: rng.randrange(len(pairs))]:  # the rest is for a run that resumes
        session = session_of(tmp_path / "run")
        cell, block = session.plan.cells[c], session.plan.blocks[b]
        extractors = session.session.offered.extractors
        session.folder.write(cell, block, make_chunk(session.plan, cell, block, extractors, reference))
        session.folder.close()
    last = session_of(tmp_path / "run")
    last.work(Watch())
    pd.testing.assert_frame_equal(last.conclude().table.drop(columns=CLOCKED), unbroken, check_exact=True)


# Noise


def test_the_noise_depends_on_no_state_of_the_process(threads, monkeypatch):
    def drawn():
        noise, many = Noise(5, (3,), 70, first=60), Noise(5, (40_001,), 3)
        return torch.cat([part.flatten() for part in (noise.prior(), noise.step(2, 1), many.step(0, 0))])

    before = drawn()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        monkeypatch.setattr(np.random.mtrand, "_rand", np.random.RandomState(3))
        threads(2)
        torch.set_default_dtype(torch.float64)
        try:
            again = drawn()
        finally:
            torch.set_default_dtype(torch.float32)
    assert again.dtype == torch.float32
    assert torch.equal(again, before)


@pytest.mark.parametrize("sampler", ["ddpm", "euler-a"])
def test_the_noise_does_not_depend_on_what_the_network_computes_in_or_how_it_is_asked(sampler):
    model = sb.load_model("mixture")
    asked = []
    for settings in ({}, {"batch_size": 8}, {"dtype": "float64"}, {"dtype": "bfloat16"}):
        drawn = []
        inner = Noise.step
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Noise, "step", lambda *key, inner=inner, drawn=drawn: drawn.append(inner(*key)) or drawn[-1])
            sb.sample(model, sampler, steps=4, n=70, seed=3, **settings)
        asked.append(torch.stack(drawn))
    assert len(asked[0]) == 3
    assert all(torch.equal(noise, asked[0]) for noise in asked)


# Threads


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_one_and_two_threads_agree_within_one_grey_level(model, threads, sampler):
    """Sums are taken in another order, so float32 rounds otherwise: up to 7e-6 in 5 steps of three samplers.

    That is why the number of threads is part of a cell's key.
    """
    found = []
    for count in (1, 2):
        threads(count)
        found.append(sb.sample(model, sampler, steps=3, n=4, batch_size=4))
    one, two = found
    assert (one.images.int() - two.images.int()).abs().max() <= 1
    assert float((one.x - two.x).abs().max()) < 1e-4
    assert one.images.float().flatten(1).std(1).min() > 1


def test_the_number_of_threads_is_recorded_and_part_of_the_key(tmp_path, threads):
    def key_with(count):
        threads(count)
        session = session_of(tmp_path / str(count), n=4)
        assert f'"threads": {count}' in (session.folder.path / "run.json").read_text()
        return session.plan.cells[0].key

    assert key_with(1) != key_with(2)

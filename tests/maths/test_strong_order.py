"""The strong order of samplers with noise, along one Brownian path: held where it is claimed; the mistakes it sees."""

import dataclasses
import math

import pytest
import torch

import samplerbench as sb
from samplerbench.bench.conformance.card import FULL, QUICK, Effort
from samplerbench.bench.conformance.strong import Path, strong_order

COARSE = dataclasses.replace(QUICK, order_steps=40)


@dataclasses.dataclass(frozen=True)
class Ancestral(sb.Sampler):
    """Euler and Maruyama in (alpha / sigma)^2, where the model's SDE has a constant noise."""

    strong_order = 1.0

    def nfe(self, steps):
        return steps

    def std(self, a, b):
        return b.sigma * math.sqrt(1 - (b.sigma_ve / a.sigma_ve) ** 2)

    def noise(self, run, a, b):
        return run.noise(a, b)

    def step(self, run, x, a, b, past):
        up = self.std(a, b)
        x = run.predict(x, a).combine(b.alpha, math.sqrt(b.sigma**2 - up**2))
        return x + up * self.noise(run, a, b) if up else x, None


class Claims2(Ancestral):
    strong_order = 2.0


class NoiseOfAnotherInterval(Ancestral):
    """Of the right size, and of no path."""

    def noise(self, run, a, b):
        between = run.at((a.lambda_ + b.lambda_) / 2)
        return (run.noise(a, between) - run.noise(between, b)) / math.sqrt(2)


class TooLittle(Ancestral):
    """The noise of a step shrinks with its length, not with the root of it: no SDE is left, and its error is ODE's."""

    def std(self, a, b):
        return 0.3 * b.sigma * (1 - (b.sigma_ve / a.sigma_ve) ** 2) ** 0.25


class ForgetsWhereNoiseWas(sb.list_samplers()["dpm-solver++-sde-single"]):
    """Has the noise of the whole interval in the middle too."""

    def step(self, run, x, a, b, past):
        other = dataclasses.replace(run, draw=lambda p, q, *where: run.draw(a, b, *where))
        return super().step(other, x, a, b, past)


def line(sampler, effort: Effort = COARSE):
    (finding,) = strong_order(sampler, effort)
    return finding


@pytest.mark.parametrize("sampler", [Ancestral(), sb.make_sampler("dpm-solver++-sde-single", eta=0.5)], ids=repr)
def test_a_right_sampler_keeps_its_order(sampler):
    assert line(sampler).holds, line(sampler)


@pytest.mark.parametrize("cls", [Claims2, NoiseOfAnotherInterval, TooLittle, ForgetsWhereNoiseWas])
def test_a_wrong_one_does_not(cls):
    assert not line(cls()).holds


def test_who_claims_none_or_has_no_noise_is_not_measured():
    assert not list(strong_order(sb.make_sampler("ddpm"), QUICK))
    assert not list(strong_order(sb.make_sampler("dpm-solver++-sde-single", eta=0.0), QUICK))


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    ["ddpm", "euler-a", "euler-a:eta=0.5", "ddim:eta=0.5", "dpm2-a", "dpm-solver++-sde", "dpm-solver++-sde:order=3",
     "dpm-solver++-single:eta=1", "seeds", "seeds:order=3", "sa-solver", "sa-solver:tau=0.5", "er-sde",
     "er-sde:phi=sde", "dpm-solver++-sde-single"],
)  # fmt: skip
def test_samplers_of_the_sde_have_strong_order_1(spec, figure):
    cls = type(sampler := sb.make_sampler(spec))
    claiming = type(cls.__name__, (cls,), {"strong_order": 1.0})
    found = line(claiming(**{f.name: getattr(sampler, f.name) for f in dataclasses.fields(sampler)}), FULL)
    figure(f"{spec}: strong order", f"{found.measured} ({found.claim})")
    assert found.holds, found


def test_a_path_is_one_path_in_whatever_order_it_is_asked_for():
    path = Path(20_000)
    ends = [path.at(time) for time in (4.0, 1.0, 2.5, 0.5)]
    assert torch.equal(path.at(1.0), ends[1])
    assert path.times == [0.0, 0.5, 1.0, 2.5, 4.0]
    increments = [b - a for a, b in zip(path.places, path.places[1:], strict=False)]
    for increment, length in zip(increments, (0.5, 0.5, 1.5, 1.5), strict=True):
        assert float(increment.var()) == pytest.approx(length, rel=0.05)
    together = torch.corrcoef(torch.cat(increments, 1).T) - torch.eye(4)
    assert float(together.abs().max()) < 0.04

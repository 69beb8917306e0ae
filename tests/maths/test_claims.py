"""The report card of samplers with claims of their own: what is exact, what is waived; the mistakes it must see."""

import dataclasses
import math

import pytest
import torch

import samplerbench as sb
from cases import thinned
from samplerbench.bench import cli
from samplerbench.bench.conformance import equivalence, exactness, guidance, order, runs
from samplerbench.bench.conformance.card import QUICK, Finding
from samplerbench.bench.conformance.check import check, waive

VP = sb.vp_linear()


@dataclasses.dataclass(frozen=True)
class Multistep(sb.Sampler):
    """RES 2M: the integral of e^lambda x0, for x0 linear in lambda through the last two predictions."""

    damping: float = 0.0
    """Share of the slope that is left out."""

    exact_for = ("x0 constant in lambda", "x0 linear in lambda")

    @property
    def convergence(self):
        return 1 if self.damping else 2

    def nfe(self, steps):
        return steps

    def weight(self, h):
        """h phi_2(-h)."""
        return 1 + math.expm1(-h) / h

    def share(self):
        return 1 - self.damping

    def slope(self, x0, before, r):
        return self.share() * (x0 - before) / r

    def last(self, x0, past):
        return x0

    def step(self, run, x, a, b, past):
        said = run.predict(x, a)
        if b.is_clean:
            return self.last(said.x0, past), None
        x, now = said.combine(b.alpha, b.sigma), (a.lambda_, said.x0)
        h = b.lambda_ - a.lambda_
        if past is None or math.isinf(h) or math.isinf(past[0]):
            return x, now
        return x + b.alpha * self.weight(h) * self.slope(said.x0, past[1], (a.lambda_ - past[0]) / h), now


@dataclasses.dataclass(frozen=True)
class Singlestep(sb.Sampler):
    """RES 2S: its intervals, with a prediction in the middle, at the place that its level really has."""

    convergence = 2
    exact_for = ("x0 linear in lambda",)

    def nfe(self, steps):
        return 2 * steps - 1

    def place(self, r):
        return r

    def step(self, run, x, a, b, past):
        said = run.predict(x, a)
        x, inner = said.combine(b.alpha, b.sigma), run.between(a, b, 1)
        if not inner:
            return x, None
        ((r, middle),) = inner
        there = run.predict(said.combine(middle.alpha, middle.sigma), middle)
        h = b.lambda_ - a.lambda_
        return x + b.alpha * (1 + math.expm1(-h) / h) * (there.x0 - said.x0) / self.place(r), None


class FlippedSign(Multistep):
    def slope(self, x0, before, r):
        return -super().slope(x0, before, r)


class PhiOfH(Multistep):
    def weight(self, h):
        return (math.expm1(h) - h) / h


class Half(Multistep):
    def weight(self, h):
        return -math.expm1(-h) / 2


class HalfWithoutClaims(Half):
    exact_for = ()


class FixedPlace(Singlestep):
    def place(self, r):
        return 0.5


class IgnoresItsOption(Multistep):
    convergence = 2

    def share(self):
        return 1.0


class ExtrapolatesAtTheEnd(Multistep):
    def last(self, x0, past):
        return x0 + 0.3 * (x0 - past[1]) if past else x0


class RenoisesWithThePrompt(sb.list_samplers()["euler-cfg++"]):
    def step(self, run, x, a, b, past):
        said = run.predict(x, a)
        return said.combine(b.alpha, b.sigma), None


EXACT_UNEVEN, EXACT_WHOLE = (f"exact for x0 linear in lambda, {where}" for where in ("uneven steps", "whole timesteps"))
BUGS = {
    FlippedSign: (order.order_of_convergence, "order to sigma 0.05, VP, even in lambda"),
    PhiOfH: (exactness.exactness, EXACT_UNEVEN),
    Half: (exactness.exactness, EXACT_UNEVEN),
    FixedPlace: (exactness.exactness, EXACT_WHOLE),
    IgnoresItsOption: (equivalence.options, "options, each changed"),
    ExtrapolatesAtTheEnd: (runs.last_interval, "last interval"),
    RenoisesWithThePrompt: (guidance.mixed_guidance, "CFG++, first step"),
}
"""Mistake -> the check that must see it, and the line."""


def failing(sampler, *measures):
    return {finding.name for measure in measures for finding in measure(sampler, QUICK) if not finding.holds}


# That the card of conformance sees a wrong sign is a test of the fast suite.
@pytest.mark.parametrize("cls", thinned(BUGS, lambda cls: cls is not FlippedSign))
def test_a_mistake_is_seen_by_its_line(cls):
    measure, line = BUGS[cls]
    assert line in failing(cls(), measure)
    right = cls.__mro__[1]
    assert not failing(right(), measure)


def test_an_order_alone_does_not_see_a_wrong_weight():
    """Which is why a method says what it is exact for."""
    assert not failing(HalfWithoutClaims(), order.order_of_convergence, order.local_order, exactness.exactness)
    assert EXACT_WHOLE not in failing(FixedPlace(), order.local_order)


@pytest.mark.parametrize("cls", thinned([Multistep, Singlestep], lambda cls: cls is Multistep))
def test_what_the_mistakes_vary_is_right(cls):
    findings = check(cls(), quick=True)
    assert [finding for finding in findings if not finding.holds] == []
    assert {EXACT_UNEVEN, EXACT_WHOLE, "last interval", "guidance 0.6 and 2"} <= {finding.name for finding in findings}


@pytest.mark.parametrize("statement", ["x0 linear", "x linear in lambda", "x0 quartic in lambda", "", 3])
def test_what_exact_for_may_say(statement):
    sampler = type("Said", (Multistep,), {"exact_for": (statement,)})()
    with pytest.raises(sb.InputError, match=r"exact_for .*: expected a text as 'x0 linear in lambda'"):
        list(exactness.exactness(sampler, QUICK))


@pytest.mark.parametrize(
    ("spec", "statement", "exact"),
    [
        ("ddim", "x0 constant in lambda", True), ("ddim", "eps constant in sigma/alpha", True),
        ("ddim", "x0 linear in lambda", False), ("lms:order=2", "eps linear in sigma/alpha", True),
        ("lms", "eps cubic in sigma/alpha", True), ("lms:order=3", "eps cubic in sigma/alpha", False),
        ("dpm-solver++:order=3", "x0 quadratic in lambda", True), ("dpm-solver++", "x0 linear in lambda", False),
        ("dpm-solver++:order=3,coefficients=published", "x0 quadratic in lambda", False),
    ],
)  # fmt: skip
def test_what_samplers_are_exact_for(spec, statement, exact):
    sampler = sb.make_sampler(spec)
    errors = [
        exactness.error_of(
            sampler, exactness.Prescribed.of(statement), schedule, [schedule.at_time(t) for t in times], integer=integer
        )
        for _, schedule, integer, times in exactness.GRIDS
    ]
    assert (max(errors) <= exactness.TOLERANCE) == exact
    assert exact or max(errors) > 1e-4


# ---- Options ----


@pytest.mark.parametrize(
    "spec",
    thinned(
        ["dpm-solver:order=3", "edm", "restart", "paradigms", "heun", "dpm-solver++"], "restart", "heun", "dpm-solver++"
    ),
)
def test_options_that_matter_only_beside_others_are_not_called_ignored(spec):
    assert not failing(sb.make_sampler(spec), equivalence.options)


def test_an_ignored_option_is_named():
    (_, line) = equivalence.options(IgnoresItsOption(), QUICK)
    assert (line.claim, line.measured) == ("other samples", "ignored: damping")


# ---- Waivers ----

CARD = [Finding("last jump, sigma 0.05 to 0", "at most 1", "2", False), Finding("noise", "none", "none", True)]


def claiming(claims):
    return type("Claiming", (Multistep,), {"claims": claims})()


def test_a_claim_waives_a_line_and_keeps_what_was_measured():
    first, second = waive(CARD, claiming({"last jump": "extrapolates on purpose", "noise": "any"}))
    assert first == dataclasses.replace(CARD[0], holds=True, waived="extrapolates on purpose")
    assert second == CARD[1]  # a line that holds needs no waiver
    assert waive(CARD, claiming({})) == CARD


@pytest.mark.parametrize(
    ("claims", "words"),
    [({"last jmp": "x"}, "no line begins with 'last jmp'"), ({"noise": ""}, "'noise': ''"), (["noise"], "['noise']"),
     ({"": "all of it"}, "'': 'all of it'"), ({"noise": 3}, "'noise': 3")],
)  # fmt: skip
def test_a_claim_must_name_a_line_and_a_reason(claims, words):
    *_, last = waive(CARD, claiming(claims))
    assert (last.name, last.holds) == ("claims", False)
    assert words in last.measured


PLUGIN = """
from dataclasses import dataclass
from samplerbench import Sampler, hookimpl

@dataclass(frozen=True)
class Mine(Sampler):
    convergence = 1
    claims = {"last interval": "stops a little early", "clean end": "as above", "one step": "as above",
              "last jump": "as above"}
    def nfe(self, steps):
        return steps
    def step(self, run, x, a, b, past):
        return run.predict(x, a).combine(b.alpha, b.sigma) * (0.9999 if b.is_clean else 1), None

@hookimpl
def samplerbench_samplers():
    return {"mine": Mine}
"""


def test_the_card_prints_the_reason_and_a_model_is_held_too(monkeypatch, capsys, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)

    def checked(*arguments):
        monkeypatch.setattr("sys.argv", ["samplerbench", "check", "--quick", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, *capsys.readouterr()

    code, out, _ = checked("--plugin", "mine.py", "--model", "mixture")
    lines = out.splitlines()
    assert code == 0
    assert any(line.startswith("last interval") and line.endswith("waived: stops a little early") for line in lines)
    assert any(line.startswith("mixture, batch sizes 1 to 8") for line in lines)
    assert lines[-1] == f"mine: {len(lines) - 6} of {len(lines) - 6} claims hold, 4 waived"
    code, _, err = checked("ddim:first=analytic")
    assert code == 2
    assert "first=analytic belongs to a run; expected the sampler without it" in err


# ---- Networks that keep something ----


class Caches:
    """A network that answers as before where it is told to; it keeps answers by itself, or in `hints.state`."""

    def __init__(self, by_rows):
        self.by_rows, self.own = by_rows, {}

    def __call__(self, x, t, hints):
        kept = hints.state if self.by_rows else self.own
        if not (hints.given.get("reuse") and "answer" in kept and len(kept["answer"]) == len(x)):
            kept["answer"] = (x * 0.5).tanh()
        return kept["answer"]


@dataclasses.dataclass(frozen=True)
class Reuses(sb.Sampler):
    """Euler that has every second answer reused."""

    convergence = 1

    def nfe(self, steps):
        return steps

    def step(self, run, x, a, b, past):
        return run.predict(x, a, hints={"reuse": run.i % 2 == 1}).combine(b.alpha, b.sigma), None


def test_a_cache_that_crosses_batches_is_seen_on_the_model():
    def lines(network):
        return list(equivalence.any_batch_size(Reuses(), sb.wrap_network(network, VP, (2,), "v", name="cached")))

    assert [line.holds for line in lines(Caches(by_rows=True))] == [True, True]
    crossing, _ = lines(Caches(by_rows=False))
    assert (crossing.name, crossing.holds) == ("cached, batch sizes 1 to 8", False)


def test_a_network_that_remembers_an_earlier_run_is_seen():
    _, again = equivalence.any_batch_size(FixedPlace(), sb.wrap_network(Counts(), VP, (2,), "v", name="counts"))
    assert (again.name, again.holds) == ("counts, a second run", False)


class Counts:
    """A network that answers otherwise with every call."""

    calls = 0

    def __call__(self, x, t):
        self.calls += 1
        return x * 0.5 + self.calls / 100


# ---- Past the counter ----


def past_the_counter(ask):
    def step(self, run, x, a, b, past):
        ask(run, x, a)
        return run.predict(x, a).combine(b.alpha, b.sigma), None

    return type("Past", (Singlestep,), {"step": step, "convergence": 1, "nfe": lambda self, steps: steps})()


def network_of(run):
    found = run.predictor
    while not hasattr(found, "network"):
        found = found.inner if hasattr(found, "inner") else found.both.__self__
    return found


WAYS = {
    "inside the counter": lambda run, x, a: run.predictor.inner(x, a),
    "the predictor": lambda run, x, a: network_of(run)(x, a),
    "the network": lambda run, x, a: network_of(run).network(x, torch.full((len(x),), a.t)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("clip", [None, (-1, 1)])
def test_calls_past_the_counter_fail(way, clip):
    model = sb.wrap_network(lambda x, t: x * 0.5, VP, (2,), "v", clip=clip)
    with pytest.raises(
        sb.SamplerFault, match=r"^sampler Past: asked the network 3 times past the counter; expected all"
    ):
        sb.sample(model, past_the_counter(WAYS[way]), 3, n=2)
    assert sb.sample(model, past_the_counter(lambda run, x, a: None), 3, n=2).nfe == 3


def test_a_cell_fails_for_calls_past_the_counter(tmp_path):
    model = sb.wrap_network(lambda x, t: x * 0.5, VP, (1, 4, 4), "v", fingerprint="1")
    plugin = tmp_path / "past.py"
    plugin.write_text(PLUGIN.replace('"mine"', '"past"').replace(
        "        return run.predict", "        run.predictor.inner(x, a)\n        return run.predict"
    ))  # fmt: skip
    table = sb.run(
        model, ["past", "ddim"], steps=2, n=4, metrics=[], plugins=[str(plugin)], output=tmp_path / "run"
    ).table
    assert table["status"][0].startswith("failed: sampler Mine: asked the network 2 times past the counter")
    assert table["status"][1] == "ok"

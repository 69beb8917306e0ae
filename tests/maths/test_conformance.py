"""The conformance kit: every registered sampler passes it, and each planted fault is found by the check it is for."""

import dataclasses
import functools
import json
import math

import pytest
import torch

import samplerbench as sb
from cases import is_default, thinned
from samplerbench.bench import cli
from samplerbench.bench.conformance import equivalence, exactness, fitted, order, randomness, runs, strong
from samplerbench.bench.conformance.card import QUICK
from samplerbench.bench.conformance.check import CHECKS, check, variants
from samplerbench.bench.conformance.order import LINE, QUANTILES, SMOOTH
from samplerbench.samplers.exact import gaussian, gaussian_flow, quantile_path
from samplerbench.samplers.registry import default_registry

OTHER_OPTIONS = [
    "ddim:eta=0.5", "euler-a:eta=1.3", "edm:churn=5", "unipc:corrector=false", "sa-solver:tau=0", "seeds:eta=0",
]  # fmt: skip
"""Beside the defaults and each value of enumerated options: what changes a sampler's claims."""
MORE_OPTIONS = [
    "ddim:eta=1", "euler-a:eta=0", "dpm2-a:eta=0", "restart:k=0", "restart:steps=6", "dpm-solver++-sde:eta=0",
    "dpm-solver++-sde:order=3,eta=0.5", "dpm-solver++-single:eta=1", "unipc:order=3,corrector=false",
    "sa-solver:predictor=3,corrector=3,tau=0", "er-sde:order=1,phi=ode", "er-sde:order=2,phi=ode",
    "tcd:eta=0", "dpm-solver++-sde-single:eta=0", "gradient-estimation:gamma=1.5", "ipndm-v:order=4",
    "dpm-solver:plan=fast,saved=0", "dpm-solver:plan=fast,saved=2", "seeds:order=3,eta=0", "seeds:eta=0.5",
]  # fmt: skip
"""As many more for the slow suite."""
WHOLE_CARDS = ["ddim", "ddim:eta=0.5", "heun", "sa-solver"]
"""One sampler of each kind: of one step, with noise, with calls between, with noise and several steps."""
WHOLE_AND_FAST = ["heun", "sa-solver"]
"""Those whose cards the fast suite makes for themselves; that of ddim it prints: `test_the_report_card_says_...`."""
SOON = (
    order.order_of_convergence, order.local_order, order.last_jump, strong.strong_order, exactness.exactness,
    runs.one_step, runs.clean_end, runs.last_interval, randomness.draws, randomness.last_step, equivalence.scales,
    equivalence.precision, equivalence.options,
)  # fmt: skip
"""Checks that take a third of the time of a whole card."""
TAKING_LONG = [
    "deis", "dpm-solver", "dpm-solver++-sde", "dpm-solver++-sde-single", "dpm-solver++-single", "dpm-solver-v3", "dpm2",
    "dpm2-a", "edm", "epd", "euler-a", "euler-a-cfg++", "ipndm", "ipndm-v", "learned", "lms", "paradigms", "res",
    "restart", "seeds", "unipc",
]  # fmt: skip
"""Samplers whose checks take a third of a second and more; each has another of its kind among the others, or a whole
card above."""
FEW = (order.limit, randomness.draws, randomness.last_step, runs.one_step, equivalence.options)
"""Checks that take little, for what is about cards and not about samplers."""
CHECKED = [s for s in [*variants(default_registry()), *OTHER_OPTIONS] if not s.startswith("dpm-solver-adaptive")]


@pytest.fixture
def only(monkeypatch):
    """Make the card of nothing but these checks."""
    return lambda *checks: monkeypatch.setattr("samplerbench.bench.conformance.check.CHECKS", checks)


@pytest.mark.parametrize("spec", thinned(CHECKED, *WHOLE_AND_FAST))
def test_every_sampler_keeps_its_claims(spec, monkeypatch):
    monkeypatch.setattr(fitted, "as_it_came", lambda *_: [])  # files have tests of their own
    findings = check(spec, quick=True)
    assert not [finding for finding in findings if not finding.holds]
    assert len(findings) >= 20


@pytest.mark.parametrize(
    "spec",
    thinned(
        [spec for spec in CHECKED if is_default(spec) and spec not in WHOLE_CARDS],
        lambda spec: spec not in TAKING_LONG,
    ),
)
def test_every_sampler_keeps_the_claims_that_are_soon_measured(only, spec, monkeypatch):
    monkeypatch.setattr(fitted, "as_it_came", lambda *_: [])
    only(*SOON)
    # A claim may name a line of the checks that are left out.
    findings = [finding for finding in check(spec, quick=True) if finding.name != "claims"]
    assert not [finding for finding in findings if not finding.holds]
    assert len(findings) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("spec", [*variants(default_registry()), *OTHER_OPTIONS, *MORE_OPTIONS])
def test_every_sampler_keeps_its_claims_when_measured_in_full(spec, figure):
    findings = check(spec)
    for finding in findings:
        if finding.name.startswith("order to sigma 0.05, VP"):
            figure(f"{spec}: order of convergence (claimed)", f"{finding.measured} ({finding.claim})")
    assert not [finding for finding in findings if not finding.holds]


# ---- What the kit measures against ----


def test_the_quantiles_of_a_gaussian_follow_its_closed_form():
    data, a, b = gaussian((0.4,), 0.3), sb.vp_linear().at_time(800), sb.vp_linear().at_time(50)
    probabilities = (0.1, 0.5, 0.9)
    expected = gaussian_flow(0.4, 0.3, quantile_path(data, probabilities, a), a, b)
    assert float(expected.abs().max()) > 0.5
    assert torch.allclose(quantile_path(data, probabilities, b), expected, rtol=0, atol=1e-12)


def test_quantiles_need_data_of_one_dimension():
    with pytest.raises(ValueError, match="2 dimensions"):
        quantile_path(gaussian((0.4, 0.4), 0.3), (0.5,), sb.edm().at_time(1))


def test_who_changes_the_states_of_the_exact_path_does_not_change_them_for_others():
    ask = functools.partial(quantile_path, gaussian((0.4,), 0.3), (0.1, 0.5), sb.edm().at_time(1))
    first = ask()
    first.mul_(0)
    assert ask().abs().min() > 0


# ---- Planted faults ----


@dataclasses.dataclass(frozen=True)
class Euler(sb.Sampler):
    """A right sampler, of which each fault is a variation."""

    convergence = 1

    def nfe(self, steps):
        return steps

    def step(self, run, x, a, b, past):
        return run.predict(x, a).combine(b.alpha, b.sigma), past


@dataclasses.dataclass(frozen=True)
class Ancestral(Euler):
    convergence = None

    def step(self, run, x, a, b, past):
        std = self.deviation(a, b)
        x = run.predict(x, a).combine(b.alpha, math.sqrt(max(b.sigma**2 - std**2, 0)))
        return x + std * run.noise(a, b) if std else x, None

    def deviation(self, a, b):
        return b.sigma * math.sqrt(1 - (b.sigma_ve / a.sigma_ve) ** 2)


FAULTS = {}


def fault(*names, base=Euler):
    """Register a faulty sampler under the names of the findings that must fail."""

    def add(step_or_class):
        if isinstance(step_or_class, type):
            cls = step_or_class
        else:
            cls = dataclasses.dataclass(frozen=True)(type(step_or_class.__name__, (base,), {"step": step_or_class}))
        FAULTS[cls.__name__] = (cls, names)
        return cls

    return add


@fault(
    "order to sigma 0.05, VP, even in lambda", "order to sigma 0.05, EDM, Karras' levels", "local order, uneven steps"
)
class ClaimsTwo(Euler):
    convergence = 2


@fault("order to sigma 0.05, VP, even in lambda", "limit at sigma 0.05, 320 steps")
def wrong_sign(self, run, x, a, b, past):
    return run.predict(x, a).combine(b.alpha, -b.sigma), None


@fault("order to sigma 0.05, VP, even in lambda", "clean end")
def no_op(self, run, x, a, b, past):
    run.predict(x, a)
    return x, None


@fault("clean end", "one step")
def last_step_left_out(self, run, x, a, b, past):
    prediction = run.predict(x, a)
    return x if b.is_clean else prediction.combine(b.alpha, b.sigma), None


@fault("last jump, sigma 0.05 to 0")
def last_step_too_long(self, run, x, a, b, past):
    prediction = run.predict(x, a)
    return 2 * prediction.x0 - x / a.alpha if b.is_clean else prediction.combine(b.alpha, b.sigma), None


@fault("model calls")
def never_asks(self, run, x, a, b, past):
    return x * b.alpha, None


@fault("local order, uneven steps")
def coefficients_of_equal_steps(self, run, x, a, b, past):
    prediction = run.predict(x, a)
    x, m0, h = prediction.combine(b.alpha, b.sigma), prediction.x0, b.lambda_ - a.lambda_
    if math.isinf(h) or past is None:
        return x, m0 if math.isfinite(a.lambda_) else None
    return x - 0.5 * b.alpha * math.expm1(-h) * (m0 - past), m0


FAULTS["coefficients_of_equal_steps"][0].convergence = 2


@fault("model calls")
def asks_twice(self, run, x, a, b, past):
    run.predict(x, a)
    return Euler.step(self, run, x, a, b, past)


@fault("model calls")
class DeclaresOneMore(Euler):
    def nfe(self, steps):
        return steps + 1


@fault("budget of calls")
class OverBudget(Euler):
    def plan(self, nfe):
        return self, nfe + 1


@fault("steps and calls")
def no_third_step(self, run, x, a, b, past):
    return Euler.step(self, run, x * math.nan if run.i == 2 else x, a, b, past)


@fault("start without signal")
def divides_by_alpha(self, run, x, a, b, past):
    return run.predict(x, a).combine(b.alpha, b.sigma) * (a.alpha / a.alpha if a.alpha else math.inf), None


@fault("first step from alpha = 0")
def first_step_too_short(self, run, x, a, b, past):
    return Euler.step(self, run, x, a, b, past)[0] * (1 if a.alpha else 0.9), None


@fault("whole timesteps")
def asks_in_between(self, run, x, a, b, past):
    return run.predict(x, a if b.is_clean else run.schedule.at_time(a.t - 0.5)).combine(b.alpha, b.sigma), None


@fault("last step, two seeds", "clean end", base=Ancestral)
def noise_at_the_end(self, run, x, a, b, past):
    return Ancestral.step(self, run, x, a, b, past)[0] + (0.1 * run.noise(a, b) if b.is_clean else 0), None


@fault("noise", "whole run, two seeds")
def noise_though_it_claims_an_order(self, run, x, a, b, past):
    x, _ = Euler.step(self, run, x, a, b, past)
    return x if b.is_clean else x + 0.1 * b.sigma * run.noise(a, b), None


@fault("noise", "whole run, two seeds")
class ClaimsToBeStochastic(Euler):
    convergence = None


@fault("noise", base=Ancestral)
def noise_without_need(self, run, x, a, b, past):
    run.noise(a, b)
    return Ancestral.step(self, run, x, a, b, past)


@fault("variance of Gaussian data")
class TooMuchNoise(Ancestral):
    def step(self, run, x, a, b, past):
        x, _ = super().step(run, x, a, b, past)
        return x + 0.3 * self.deviation(a, b) * run.noise(a, b) if not b.is_clean else x, None


@fault("mean of Gaussian data", "clean end")
class Shifted(Ancestral):
    def step(self, run, x, a, b, past):
        return super().step(run, x, a, b, past)[0] + 0.05 * b.is_clean, None


@fault("the process", "noise")
def global_noise(self, run, x, a, b, past):
    x, _ = Euler.step(self, run, x, a, b, past)
    return x if b.is_clean else x + 0.1 * b.sigma * torch.randn_like(x), None


FAULTS["global_noise"][0].convergence = None


@fault("eps = x0 = v = flow")
def reads_the_answer(self, run, x, a, b, past):
    prediction = run.predict(x, a)
    return prediction.x0 * b.alpha + b.sigma * prediction.answer, None


@fault("VP = EDM = flow")
def only_for_vp(self, run, x, a, b, past):
    prediction = run.predict(x, a)
    return prediction.combine(b.alpha, math.sqrt(abs(1 - b.alpha**2))), None


@fault("n = 1 to 66")
def normalises_over_the_batch(self, run, x, a, b, past):
    x, _ = Euler.step(self, run, x, a, b, past)
    return x + 1e-3 * b.sigma * x.mean(), None


@fault("used again")
class Remembers(Euler):
    calls = []

    def step(self, run, x, a, b, past):
        self.calls.append(a)
        return super().step(run, x * (1 + 1e-6 * len(self.calls)), a, b, past)


@fault("float32 on cpu")
def half_precision(self, run, x, a, b, past):
    x, _ = Euler.step(self, run, x, a, b, past)
    return x.bfloat16().to(x.dtype) if x.dtype == torch.float32 else x, None


@fault("options, written and read")
@dataclasses.dataclass(frozen=True)
class ChangesItsOption(Euler):
    scale: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "scale", 2 * self.scale)


@fault()
def raises(self, run, x, a, b, past):
    raise RuntimeError("out of cheese")


@pytest.fixture(scope="module")
def right():
    """For each right sampler the findings of each check."""
    return [{measure: list(measure(sampler, QUICK)) for measure in CHECKS} for sampler in (Euler(), Ancestral())]


@pytest.mark.parametrize("place", [0, 1], ids=["euler", "ancestral"])
def test_what_the_faults_vary_is_right(right, place):
    assert [finding for findings in right[place].values() for finding in findings if not finding.holds] == []


def failing_in(measure, sampler):
    """The names of the findings of a check that do not hold; its own name if the sampler makes it raise."""
    failing = set()
    try:
        failing.update(finding.name for finding in measure(sampler, QUICK) if not finding.holds)
    except Exception:
        failing.add(measure.__name__.replace("_", " "))
    return failing


# Other tests of the fast suite see a wrong order and a wrong end; to find who asks in between takes longest.
@pytest.mark.parametrize(
    "name",
    thinned(
        [name for name in FAULTS if name != "raises"],
        lambda name: name not in ("ClaimsTwo", "no_op", "wrong_sign", "asks_in_between"),
    ),
)
def test_a_planted_fault_is_found(right, name):
    cls, expected = FAULTS[name]
    failing = set()
    # First what makes these lines of a right sampler's card.
    its_own = {m for card in right for m, lines in card.items() if any(line.name in expected for line in lines)}
    for measure in sorted(CHECKS, key=lambda measure: measure not in its_own):
        failing |= failing_in(measure, cls())
        if set(expected) <= failing:  # the rest of the card is for the tests of right samplers
            break
    assert set(expected) <= failing


def test_a_sampler_that_raises_fails_the_checks_that_it_raises_in():
    findings = check(FAULTS["raises"][0](), quick=True)
    failing = {finding.name for finding in findings if not finding.holds}
    assert len(failing) >= 15
    assert all("out of cheese" in finding.measured for finding in findings if finding.claim == "can be measured")


def test_the_card_says_where_orders_end_and_shows_the_last_jump_apart(only):
    """An order that is lost in the last jump alone shows there, and not in the orders."""
    only(order.order_of_convergence, order.order_from_the_start, order.local_order, order.limit, order.last_jump)
    card = {finding.name: finding for finding in check("heun", quick=True)}
    orders = [name for name in card if name.startswith(("order", "limit"))]
    assert len(orders) == 4
    assert all("sigma 0.05" in name for name in orders)
    jump = float(card["last jump, sigma 0.05 to 0"].measured)
    assert jump > 10 * float(card["limit at sigma 0.05, 320 steps"].measured)
    _, schedule, at = SMOOTH[0]
    x = quantile_path(LINE, QUANTILES, at(1.0))
    alpha, sigma = (torch.full((len(x), 1), part, dtype=x.dtype) for part in (at(1.0).alpha, at(1.0).sigma))
    lost = LINE.x0(x, alpha, sigma) - quantile_path(LINE, QUANTILES, schedule.clean)
    assert jump == pytest.approx(lost.square().mean().sqrt().item(), rel=0.05)
    planted = {f.name: f for f in check(FAULTS["last_step_too_long"][0](), quick=True)}
    assert all(planted[name].holds for name in orders)


@pytest.mark.parametrize("checks", thinned(["few", "all"], "few"))
def test_the_same_sampler_always_has_the_same_card(only, checks):
    if checks == "few":
        only(*FEW)
    assert check("ddim:eta=1", quick=True) == check("ddim:eta=1", quick=True)


# ---- At the command line ----

PLUGIN = """
from dataclasses import dataclass
from samplerbench import Sampler, hookimpl

@dataclass(frozen=True)
class Mine(Sampler):
    convergence = ORDER
    def nfe(self, steps):
        return steps
    def step(self, run, x, a, b, past):
        print("stepping")
        return run.predict(x, a).combine(b.alpha, b.sigma), None

@hookimpl
def samplerbench_samplers():
    return {"mine": Mine}
"""


@pytest.fixture
def checked(monkeypatch, capsys):
    """Run `samplerbench check` in this process; returns (exit code, stdout, stderr)."""

    def invoke(*arguments):
        monkeypatch.setattr("sys.argv", ["samplerbench", "check", "--quick", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, *capsys.readouterr()

    return invoke


def test_the_report_card_says_claim_measurement_and_verdict(checked):
    code, out, _ = checked("ddim")
    assert code == 0
    assert out.splitlines()[0].split() == ["check", "claim", "measured", "verdict"]
    assert out.splitlines()[-1] == "ddim: 31 of 31 claims hold"
    assert "FAILS" not in out


@pytest.mark.parametrize(("claimed", "code"), [(1, 0), (2, 1)])
def test_a_plugin_is_checked_and_a_claim_that_fails_is_exit_code_1(checked, only, tmp_path, claimed, code):
    only(order.order_of_convergence, runs.one_step, equivalence.options)
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN.replace("ORDER", str(claimed)))
    got, out, err = checked("--plugin", path)
    assert got == code
    assert ("FAILS" in out) == bool(code)
    assert "mine: " in out
    assert "stepping" not in out
    assert "stepping" in err


@pytest.mark.parametrize(("checks", "counts"), thinned([("few", (11, 7)), ("all", (31, 23))], ("few", (11, 7))))
def test_several_cards_show_what_fails_and_json_shows_all(checked, only, checks, counts):
    if checks == "few":
        only(*FEW)
    code, out, _ = checked("ddim", "ddim:eta=0.5")
    assert code == 0
    assert out.splitlines() == [
        f"ddim: {counts[0]} of {counts[0]} claims hold",
        f"ddim:eta=0.5: {counts[1]} of {counts[1]} claims hold",
    ]
    only(order.limit, runs.one_step, equivalence.options)
    _, out, _ = checked("ddim", "--json")
    assert json.loads(out)["cards"]["ddim"] == [dataclasses.asdict(finding) for finding in check("ddim", quick=True)]


@pytest.mark.parametrize(("arguments", "words"), [((), "--all"), (("dimd",), "did you mean 'ddim'")])
def test_nothing_to_check_is_said_in_one_line(checked, arguments, words):
    code, out, err = checked(*arguments)
    assert code == 2
    assert not out
    assert words in err
    assert err.count("\n") == 1

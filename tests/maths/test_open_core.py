"""What a step may ask for: the part without the prompt, another level, many states at once, hints, no call at all."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import samplerbench as sb
from samplerbench.bench.conformance.guidance import WITHOUT, mixed_model, parts_of
from samplerbench.bench.conformance.models import PLANE
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.samplers.predictor import Question, analytic, takes_hints
from samplerbench.samplers.registry import default_registry, load_registry
from samplerbench.samplers.sampler import SamplerFault, declared_calls

VP, EDM, FLOW = sb.vp_linear(), sb.edm(), sb.flow()
X = torch.randn(5, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
LEVELS = [VP.at_time(500), VP.at_time(120.5), EDM.at_time(3.0), FLOW.at_time(0.7)]
NO_SIGNAL = [FLOW.at_time(1.0), sb.vp_from_alphas_cumprod([0.9, 0.5, 0.0]).first]


@dataclasses.dataclass(frozen=True)
class Asks(sb.Sampler):
    """Euler, which hands its StepContext and predictions to `look`."""

    look = None
    needs_unconditional = False

    def nfe(self, steps):
        return None

    def step(self, run, x, a, b, past):
        return self.look(run, x, a, b).combine(b.alpha, b.sigma), None


def asking(look, **attributes):
    """A sampler whose step asks as `look(run, x, a, b)` does."""
    return type("Asking", (Asks,), {"look": staticmethod(look), **attributes})()


class Spy:
    """A network that answers 0.5 x + t / 1000 and keeps what it was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t):
        self.calls.append((x.clone(), t.clone()))
        return 0.5 * x + t[:, None] / 1000


# ---- unconditional ----


@pytest.mark.parametrize("clip", [None, (-0.3, 0.3), sb.dynamic_threshold(0.5, 0.2)])
@pytest.mark.parametrize(("guidance", "rescale"), [(0.6, 0.0), (1.0, 0.0), (3.0, 0.0), (3.0, 0.7)])
@pytest.mark.parametrize("calls", [1, 2])
def test_the_part_without_the_prompt_is_the_networks_own_answer(clip, guidance, rescale, calls):
    seen = []

    def look(run, x, a, b):
        seen.append((run.predict(x, a), x, a))
        return seen[-1][0]

    model = dataclasses.replace(mixed_model(VP), clip=clip)
    sampler = asking(look, needs_unconditional=True)
    got = sb.sample(
        model, sampler, grid=[700, 300], x_init=X, prompts=["1"], guidance=guidance, guidance_rescale=rescale,
        guidance_calls=calls,
    )  # fmt: skip
    assert (got.nfe, got.network_evaluations) == (2, 4)
    for said, x, a in seen:
        x0, eps = parts_of(WITHOUT, x, a)
        assert torch.allclose(said.unconditional.x0, x0, rtol=0, atol=1e-12)
        assert torch.allclose(said.unconditional.eps, eps, rtol=0, atol=1e-12)
        assert said.unconditional.unconditional is None
        if clip is None and not rescale:
            mixed = torch.lerp(x0, parts_of(PLANE, x, a)[0], guidance)
            assert torch.allclose(said.x0, mixed, rtol=0, atol=1e-12)
        elif clip:
            assert float((said.x0 - said.unconditional.x0).abs().max()) > 0.01


def test_who_does_not_need_the_part_is_not_given_a_second_pass():
    seen = []
    look = lambda run, x, a, b: seen.append(run.predict(x, a)) or seen[-1]  # noqa: E731
    plain, needs = asking(look), asking(look, needs_unconditional=True)
    got = sb.sample(mixed_model(VP), plain, grid=[700], x_init=X, prompts=["1"])
    assert got.network_evaluations == got.nfe == 1
    assert seen.pop().unconditional is None
    sb.sample(mixed_model(VP), plain, grid=[700], x_init=X, prompts=["1"], guidance=2.0)
    assert seen.pop().unconditional is not None  # asked anyway
    # Guidance 1 with the part draws what it draws without.
    a, b = (sb.sample(mixed_model(VP), one, grid=[700, 90], x_init=X, prompts=["1"]).x for one in (plain, needs))
    assert torch.equal(a, b)


def test_a_model_without_prompts_has_its_own_answer_as_that_part():
    seen = []
    sampler = asking(lambda run, x, a, b: seen.append(run.predict(x, a)) or seen[-1], needs_unconditional=True)
    model = dataclasses.replace(sb.exact_model(PLANE, VP, "v"), clip=(-0.2, 0.2))
    got = sb.sample(model, sampler, grid=[700], x_init=X)
    assert got.network_evaluations == 1
    assert torch.allclose(seen[0].unconditional.x0, parts_of(PLANE, X, VP.at_time(700))[0], rtol=0, atol=1e-12)
    assert float(seen[0].x0.abs().max()) <= 0.2


def test_a_model_that_is_told_its_guidance_refuses_by_name():
    told = dataclasses.replace(mixed_model(VP), guide=lambda condition, guidance: condition * guidance)
    words = (
        r"^sampler 'euler-cfg\+\+': needs the answer without the prompt, and model 'guided', which is told its guidance"
    )
    with pytest.raises(sb.InputError, match=words):
        sb.sample(told, "euler-cfg++", 2, n=1, prompts=["1"])
    assert sb.sample(told, "euler", 2, n=1, prompts=["1"]).nfe == 2


def test_a_negative_prompt_has_an_effect_at_guidance_1_where_the_part_is_needed():
    drawn = [
        sb.sample(mixed_model(VP), "euler-cfg++", grid=[700, 90], x_init=X, prompts=["1"], negative=text).x
        for text in (None, "0.5")
    ]
    assert float((drawn[0] - drawn[1]).abs().max()) > 0.01
    with pytest.raises(sb.InputError, match="has no effect at guidance 1"):
        sb.sample(mixed_model(VP), "euler", 2, n=1, prompts=["1"], negative="0.5")


def test_needs_unconditional_is_true_or_false():
    with pytest.raises(sb.PluginError, match="needs_unconditional is 'yes'; expected True or False"):
        sb.sample("mixture", asking(None, needs_unconditional="yes"), 2, n=1)


# ---- ask ----


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "flow"])
def test_the_network_is_asked_at_one_level_and_converted_at_another(predicts):
    network, level, other, seen = Spy(), VP.at_time(600), VP.at_time(450.25), []
    model = sb.wrap_network(network, VP, (2,), predicts, batch_size=4)
    look = lambda run, x, a, b: seen.append(run.predict(x, a, ask=other)) or seen[-1]  # noqa: E731
    assert sb.sample(model, asking(look), grid=[600], x_init=X).nfe == 1
    assert {float(t) for _, times in network.calls for t in times} == {450.25}
    expected = sb.Prediction(X, level, 0.5 * X + 0.45025, predicts)
    assert torch.equal(seen[0].x0, expected.x0)
    assert seen[0].level == level


def test_whole_timesteps_hold_for_the_level_that_is_asked():
    model = sb.wrap_network(lambda x, t: x, VP, (2,), timesteps="integer")
    with pytest.raises(sb.InputError, match=r"asked about timestep 450\.5, and it knows whole ones only"):
        sb.sample(model, asking(lambda run, x, a, b: run.predict(x, a, ask=VP.at_time(450.5))), grid=[999], n=2)


# ---- predict_many ----


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("rows", [slice(None), slice(1, 3)])
def test_many_states_at_once_are_answered_as_one_by_one(guidance, calls, rows):
    levels = [VP.at_time(t) for t in (800.0, 500.5, 20.0)]
    states = [(k + 1) * X[rows] for k in range(3)]
    seen = []

    def look(run, x, a, b):
        one_by_one = [run.predict(state, level, rows) for state, level in zip(states, levels, strict=True)]
        seen.append((run.predict_many(zip(states, levels, strict=True), rows), one_by_one))
        return run.predict(x, a)

    model = dataclasses.replace(mixed_model(VP), batch_size=2, clip=(-1.5, 1.5))
    prompts = ["1", "0.3", "-0.5"]  # each row has its own
    sb.sample(model, asking(look), grid=[600], x_init=X, prompts=prompts, guidance=guidance, guidance_calls=calls)
    for together, apart in zip(*seen[0], strict=True):
        assert torch.allclose(together.x0, apart.x0, rtol=0, atol=1e-13)
        assert together.level == apart.level
        assert (together.unconditional is None) == (guidance == 1)
        if guidance != 1:
            assert torch.allclose(together.unconditional.x0, apart.unconditional.x0, rtol=0, atol=1e-13)


def test_many_states_are_one_batch_in_which_each_row_has_its_own_t():
    network = Spy()
    model = sb.wrap_network(network, VP, (2,), "v", batch_size=4)
    levels = [VP.at_time(t) for t in (800.0, 500.0, 20.0)]
    look = lambda run, x, a, b: run.predict_many([(x * k, level) for k, level in enumerate(levels)])[0]  # noqa: E731
    got = sb.sample(model, asking(look), grid=[600], x_init=X)
    assert (got.nfe, got.depth, got.network_evaluations) == (3, 1, 3)
    first, second = network.calls  # 5 samples are two batches of 4
    assert first[1].tolist() == [800.0] * 4 + [500.0] * 4 + [20.0] * 4
    assert torch.equal(first[0], torch.cat([X[:4] * 0, X[:4], X[:4] * 2]))
    assert torch.equal(second[0][4:8], X[4:].expand(4, 2))


def test_samples_of_many_states_do_not_depend_on_their_number():
    whole = sb.sample("mixture", "paradigms", 6, n=70).x
    for n in (1, 5, 65):
        assert torch.equal(sb.sample("mixture", "paradigms", 6, n=n).x, whole[:n])


def test_what_many_states_may_be():
    levels, seen = [VP.at_time(800.0), VP.at_time(500.0)], []

    def look(run, x, a, b):
        seen.append(run.predict_many([]))
        (asked,) = run.predict_many([(x, levels[0], levels[1])])
        plain = run.predict(x, levels[0], ask=levels[1])
        assert torch.equal(asked.answer, plain.answer)
        with pytest.raises(sb.InputError, match=r"states of \(5, 2\) and \(6, 2\); expected one shape"):
            run.predict_many([(x, levels[0]), (torch.cat([x, x[:1]]), levels[1])])
        return plain

    assert sb.sample("mixture", asking(look), grid=[600], x_init=X).nfe == 2
    assert seen == [[]]


@pytest.mark.parametrize("spec", ["ddim", "heun", "dpm-solver-adaptive", "unipc"])
def test_depth_is_nfe_where_nothing_is_asked_at_once(spec):
    got = sb.sample("mixture", spec, 4, n=5)
    assert got.depth == got.nfe


# ---- hints ----


class Caches:
    """A network that reuses its last answer where it is told to; `rule` says where it keeps it."""

    def __init__(self, rule):
        self.rule, self.kept, self.rows, self.empty = rule, {}, [], []

    def __call__(self, x, t, condition, hints):
        kept = hints.state if self.rule == "state" else self.kept
        self.rows.append((hints.rows.start, hints.rows.stop))
        self.empty.append(not kept)
        if not (hints.given.get("reuse") and "answer" in kept):
            kept["answer"] = (x * 0.5 + condition * t[:, None] / 500).clone()
        return kept["answer"]


@dataclasses.dataclass(frozen=True)
class Reuses(sb.Sampler):
    """Euler that has every second answer reused."""

    convergence = 1
    claims = {"order": "half of the answers are old", "local order": "half of the answers are old"}

    def nfe(self, steps):
        return steps

    def step(self, run, x, a, b, past):
        return run.predict(x, a, hints={"reuse": run.i % 2 == 1}).combine(b.alpha, b.sigma), None


def cached(rule):
    network = Caches(rule)
    return network, sb.Model(
        name="cached", network=lambda device, dtype: network, schedule=VP, shape=(2,), predicts="v", batch_size=4,
        encode=lambda texts: torch.tensor([[float(text)] for text in texts]), prompts=("1", "2", "3"),
        unconditional=lambda texts: torch.zeros(len(texts), 1),
    )  # fmt: skip


def test_a_network_that_takes_hints_is_told_them_and_the_rows():
    network, model = cached("state")
    sb.sample(model, Reuses(), 3, n=6)
    assert network.rows == [(0, 4), (4, 6)] * 3
    assert network.empty == [True, True, False, False, False, False]
    sb.sample(model, Reuses(), 1, n=6)
    assert network.empty[-2:] == [True, True]  # cleared at the start of a run


@pytest.mark.parametrize("calls", [1, 2])
def test_notes_about_rows_never_mix(calls):
    """A cache by `hints.state` gives the same samples at any batch size, with guidance in one call or two."""
    drawn = [
        sb.sample(cached("state")[1], Reuses(), 4, n=6, batch_size=size, guidance=2.0, guidance_calls=calls).x
        for size in (1, 2, 4, 8)
    ]
    assert all(torch.allclose(x, drawn[0], atol=1e-6) for x in drawn)
    always = sb.sample(cached("state")[1], "euler", 4, n=6, guidance=2.0).x
    assert float((drawn[0] - always).abs().max()) > 0.01


def test_notes_tell_calls_about_other_states_apart():
    notes = []
    network = lambda x, t, hints: notes.append(hints.state) or x * 0.5  # noqa: E731
    model = sb.wrap_network(network, VP, (2,), "v", batch_size=8)

    def look(run, x, a, b):
        run.predict_many([(x, a), (x, b)], hints={"k": 1})
        return run.predict(x, a)

    sb.sample(model, asking(look), grid=[600, 30], x_init=X)
    assert notes[0] is notes[2]
    assert notes[1] is notes[3]
    assert notes[0] is not notes[1]


@pytest.mark.parametrize("model", ["mine", "module"])
def test_a_network_that_takes_no_hints_refuses_them_by_name(model):
    network = (lambda x, t: x) if model == "mine" else torch.nn.Identity()
    made = sb.wrap_network(network, VP, (2,)) if model == "mine" else sb.load_model("fashion-mnist")
    sampler = asking(lambda run, x, a, b: run.predict(x, a, hints={"reuse": True, "depth": 2}))
    with pytest.raises(
        sb.InputError, match=rf"^hints 'reuse', 'depth': the network of model '{made.name}' takes none; "
    ):
        sb.sample(made, sampler, 1, n=1)


def test_which_networks_take_hints():
    class Module(torch.nn.Module):
        def forward(self, x, t, hints=None):
            return x

    assert takes_hints(lambda x, t, hints: x)
    assert takes_hints(lambda x, t, *, hints=None: x)
    assert takes_hints(Module())
    assert takes_hints(Caches("state"))
    assert not takes_hints(lambda x, t, **more: x)
    assert not takes_hints(torch.nn.Identity())
    assert not takes_hints(torch.add)


# ---- first=analytic ----


@pytest.mark.parametrize("level", [*LEVELS, *NO_SIGNAL])
def test_the_analytic_prediction_splits_the_state(level):
    said = analytic(X, level)
    r = np.hypot(level.alpha, level.sigma)
    assert torch.allclose(said.eps, X / r, rtol=1e-12, atol=1e-14)
    assert torch.allclose(said.x0, X * level.alpha / (r * (r + level.sigma)), rtol=1e-12, atol=1e-14)
    assert torch.allclose(said.combine(level.alpha, level.sigma), X, rtol=1e-12, atol=1e-13)
    assert bool(said.x0.isfinite().all())
    assert torch.equal(said.unconditional.x0, said.x0)


@pytest.mark.parametrize("schedule", [VP, EDM, FLOW], ids=["vp", "edm", "flow"])
def test_the_first_step_is_that_of_the_analytic_prediction(schedule):
    model = dataclasses.replace(mixed_model(schedule), clip=(-0.1, 0.1))  # neither bounds nor guidance touch it
    settings = {"steps": 4, "x_init": X, "prompts": ["1"], "guidance": 3.0, "trajectory": True}
    got = sb.sample(model, "euler:first=analytic", **settings)
    a, b = default_registry().levels(None, schedule, 4, integer=False)[:2]
    assert torch.allclose(got.trajectory[1], analytic(X, a).combine(b.alpha, b.sigma), rtol=1e-12, atol=1e-13)
    assert (got.nfe, got.depth, got.network_evaluations) == (3, 3, 6)
    if schedule is not EDM:
        rest = {**settings, "steps": None, "x_init": got.trajectory[1]}
        rest["grid"] = [level.t for level in default_registry().levels(None, schedule, 4, integer=False)[1:-1]]
        assert torch.equal(got.x, sb.sample(model, "euler", **rest).x)


SPECS = sorted(name for name in default_registry().samplers.things if name != "dpm-solver-adaptive")


@pytest.mark.parametrize("spec", SPECS)
def test_one_call_less_is_declared_and_made(spec):
    first = f"{spec}:first=analytic"
    sampler = sb.make_sampler(spec)
    for schedule, steps in itertools.product((VP, FLOW), (1, 4)):
        levels = default_registry().levels(None, schedule, steps, integer=False)
        declared = declared_calls(sampler, levels, analytic_first=True)
        assert declared == declared_calls(sampler, levels) - 1
        assert sb.sample(sb.exact_model(PLANE, schedule, "v"), first, steps, n=2).nfe == declared


def test_an_adaptive_sampler_has_one_call_less_for_each_sample():
    plain, first = (
        sb.sample("mixture", f"dpm-solver-adaptive:order=2{more}", 3, n=3) for more in ("", ",first=analytic")
    )
    assert bool(first.x.isfinite().all())
    assert float((first.x - plain.x).abs().max()) > 1e-6


def test_a_call_of_several_states_replaces_the_first_alone():
    network = Spy()
    model = sb.wrap_network(network, VP, (2,), "v", batch_size=8)
    seen = []
    low = VP.at_time(30)
    sampler = asking(lambda run, x, a, b: seen.append(run.predict_many([(x, a), (x, low)])) or seen[-1][0])
    registry = load_registry()
    registry.samplers.things["asking"] = type(sampler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("samplerbench.samplers.sample.default_registry", lambda: registry)
        got = sb.sample(model, "asking:first=analytic", grid=[600, 400], x_init=X)
    assert got.nfe == 3
    assert [times.unique().tolist() for _, times in network.calls] == [[30.0], [30.0, 400.0]]
    assert torch.equal(seen[0][0].x0, analytic(X, VP.at_time(600)).x0)


def test_eps_at_alpha_0_needs_no_answer_of_the_network():
    model = sb.wrap_network(lambda x, t: x * 0.1, sb.vp_from_alphas_cumprod([0.99, 0.7, 0.3, 0.0]), (2,))
    with pytest.raises(sb.InputError, match="predicts 'eps'"):
        sb.sample(model, "ddim", 3, n=2)
    assert bool(sb.sample(model, "ddim:first=analytic", 3, n=2).x.isfinite().all())


def test_the_words_of_a_spec():
    registry = default_registry()
    assert registry.parse_sampler("Euler a:first=analytic,eta=0.5,grid=karras") == (
        sb.make_sampler("euler-a:eta=0.5"), "karras", True,
    )  # fmt: skip
    assert not registry.parse_sampler("euler-a").analytic_first
    with pytest.raises(sb.InputError, match=r"^sampler 'ddim': first 'x': expected analytic"):
        registry.parse_sampler("ddim:first=x")
    with pytest.warns(UserWarning, match="first=analytic is of a run"):
        sb.make_sampler("ddim:first=analytic")


def test_a_first_step_without_a_call_is_part_of_the_key_and_of_a_budget():
    def cells(*specs, **settings):
        return plan_for(Config(model="mixture", sampler=specs, samples=4, **settings), load_registry()).cells

    plain, first = cells("heun", "heun:first=analytic", steps=(4,))
    assert (plain.nfe, first.nfe) == (7, 6)
    assert plain.key != first.key
    assert plain.key == cells("heun", steps=(4,))[0].key
    assert [cell.steps for cell in cells("heun", "heun:first=analytic", nfe=(6,), steps=())] == [3, 4]


def test_a_question_is_told_its_own_level_unless_another_is_named():
    assert Question(X, LEVELS[0]).t == 500
    assert Question(X, LEVELS[0], LEVELS[1]).t == 120.5


def test_a_call_about_some_rows_is_analytic_only_if_it_is_their_first():
    """Rows that were asked about, in whatever slice, are asked of the network the next time."""
    seen, parts = [], [slice(0, 2), slice(2, None), slice(0, None), slice(1, 2), slice(0, 5)]

    def look(run, x, a, b):
        if not run.i:
            seen.extend(run.predict(x[rows], a, rows) for rows in parts)
        return run.predict(x, a)

    registry = load_registry()
    registry.samplers.things["asking"] = type(asking(look))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("samplerbench.samplers.sample.default_registry", lambda: registry)
        model = sb.wrap_network(Spy(), VP, (2,), "v", batch_size=8)
        sb.sample(model, "asking:first=analytic", grid=[600, 400], x_init=X)
    assert [said.predicts for said in seen] == ["x0", "x0", "v", "v", "v"]


@pytest.mark.parametrize("rows", [slice(0, 2), slice(-5, None), slice(0, 5, 2)])
def test_rows_that_are_not_those_of_the_state_are_refused(rows):
    """Else a sample would be drawn with the prompt of another."""
    sampler = asking(lambda run, x, a, b: run.predict(x, a, rows))
    with pytest.raises(sb.InputError, match="of a call about 5 rows of the state; expected a slice of as many"):
        sb.sample(mixed_model(VP), sampler, grid=[700, 300], x_init=X, prompts=["1"])


@pytest.mark.parametrize("one", [3, (1, 2, 3, 4), "x", ("x", "level")])
def test_what_is_no_question_is_refused_in_one_line(one):
    sampler = asking(lambda run, x, a, b: run.predict_many([one])[0])
    with pytest.raises(sb.InputError, match=r"predict_many: \w+; expected \(x, level\) or \(x, level, ask\)"):
        sb.sample("mixture", sampler, 2, n=2)


class Breaks(sb.Sampler):
    """As it is given, and not finite from its third step on."""

    def nfe(self, steps):
        return 0

    def step(self, run, x, a, b, past):
        made = 0 if past is None else past
        return (x * float("nan") if made == 2 else x), made + 1


def test_the_step_that_is_not_finite_is_named_by_its_number():
    with pytest.raises(SamplerFault, match="step 2: the state is not finite"):
        sb.sample(sb.load_model("gaussian"), Breaks(), steps=5, n=2)

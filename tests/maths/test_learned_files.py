"""epd and dpm-solver-v3 with files: held to NumPy written from the papers, and each misfit ends in one line; the files
that come with them do what they are for."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import samplerbench as sb
from cases import Lazily
from samplerbench.bench.conformance import fitted, order, own_steps
from samplerbench.bench.conformance.card import QUICK
from samplerbench.bench.conformance.check import check, for_any_model, waive, with_files
from samplerbench.bench.conformance.fitted import Shipped, nearer_with_its_file, shipped_with, with_shipped_file
from samplerbench.plugins.samplers.model_statistics import PLAIN, Statistics, Stretch, step_weights
from samplerbench.samplers.exact import exact_model
from samplerbench.samplers.registry import default_registry, load_registry

integrate = Lazily("scipy.integrate")
MIXTURE = sb.GaussianMixture(((-1.0, 0.5), (0.8, 1.0), (0.3, -1.2)), (0.1, 0.2, 0.4), (0.5, 0.3, 0.2))
VP, EDM, FLOW = sb.vp_linear(), sb.edm(), sb.flow()
TIMES = {VP: [990.0, 700.0, 420.0, 200.0, 31.0], EDM: [40.0, 9.0, 2.0, 0.5, 0.06], FLOW: [0.98, 0.8, 0.5, 0.3, 0.05]}
X = torch.randn(4, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
FILES = Path(sb.__file__).parent / "plugins" / "samplers" / "files"
SHIPPED = sorted(FILES.glob("*-mixture.json"))
LEARNED = ("dpm-solver-v3", "epd", "learned")
POINTS = {"places": [[0.2, 0.7], [0.5], [0.1, 0.4, 0.9], [0.6, 0.3]],
          "weights": [[0.3, 0.6], [1.1], [0.2, 0.5, 0.3], [0.4, 0.7]]}  # fmt: skip
BENT = {"lambdas": [-6.0, -1.0, 0.5, 2.0, 6.0], "l": [1.0, 0.9, 0.6, 0.3, 0.1], "s": [0.1, 0.4, 0.9, -0.3, -1.0],
        "b": [0.0, 0.2, -0.1, 0.3, 0.0]}  # fmt: skip


@pytest.fixture
def made(tmp_path):
    """Write a file and return the sampler that reads it."""

    def sampler(name, options=None, **content):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps({"fingerprint": "", "guidance": 1, **content}))
        return sb.make_sampler(name, file=str(path), **(options or {}))

    return sampler


def draw(sampler, schedule, **settings):
    x = X * TIMES[EDM][0] if schedule is EDM else X
    settings = {"grid": TIMES[schedule], "any_model": True, **settings}
    return sb.sample(exact_model(MIXTURE, schedule, "v"), sampler, x_init=x, **settings)


def x0_of(x, level):
    one = torch.ones(len(x), 1, dtype=torch.float64)
    return MIXTURE.x0(torch.from_numpy(x), level.alpha * one, level.sigma * one).numpy()


# ---- epd ----


@pytest.mark.parametrize("schedule", TIMES, ids=["vp", "edm", "flow"])
@pytest.mark.parametrize("is_asked", [False, True])
def test_points_of_a_file_agree_with_the_numpy_reference(made, schedule, is_asked):
    levels = [*(schedule.at_time(t) for t in TIMES[schedule]), schedule.clean]
    asked = [[t * 0.9 + 0.02 for _ in row] for t, row in zip(TIMES[schedule], POINTS["places"], strict=False)]
    x = (X * TIMES[EDM][0] if schedule is EDM else X).numpy()
    for i, (a, b) in enumerate(itertools.pairwise(levels)):
        s_a, s_b, y = a.sigma / a.alpha, b.sigma / b.alpha, x / a.alpha
        eps = (x - a.alpha * x0_of(x, a)) / a.sigma
        slope = eps
        if i < 4:
            slope = 0
            for k, (r, w) in enumerate(zip(POINTS["places"][i], POINTS["weights"][i], strict=True)):
                s = s_a ** (1 - r) * s_b**r
                level = schedule.at_sigma_ve(s)
                state = level.alpha * (y + (s - s_a) * eps)
                # The network answers v for the level that it is told; it counts at the level of the state.
                told = schedule.at_time(asked[i][k]) if is_asked else level
                x0 = x0_of(state, told)
                v = told.alpha * (state - told.alpha * x0) / told.sigma - told.sigma * x0
                slope = slope + w * (level.sigma * state + level.alpha * v) / (level.alpha**2 + level.sigma**2)
        x = b.alpha * (y + (s_b - s_a) * slope)
    got = draw(made("epd", steps=5, **POINTS, **({"asked": asked} if is_asked else {})), schedule)
    assert np.abs(x).max() > 0.3
    assert np.abs(got.x.numpy() - x).max() < 1e-10
    assert (got.nfe, got.depth) == (13, 9)


def test_the_points_of_the_midpoint_rule_make_it_the_default(made):
    places, weights = [[0.25, 0.75]] * 4, [[0.5, 0.5]] * 4
    assert (
        float((draw(made("epd", steps=5, places=places, weights=weights), EDM).x - draw("epd", EDM).x).abs().max())
        < 1e-12
    )
    one = made("epd", steps=5, places=[[0.5]] * 4, weights=[[1.0]] * 4)
    assert float((draw(one, VP).x - draw("dpm2", VP).x).abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"places": POINTS["places"][:3]}, "places: 3 entries; expected 4, one for each step"),
        ({"weights": [[1.0]] * 4}, "weights: expected as many numbers in a row as there are points"),
        ({"weights": []}, "weights: 0 rows; expected 4"),
        ({"places": [[0.2, 1.0], *POINTS["places"][1:]]}, "places: expected numbers between 0 and 1"),
        ({"places": [[], *POINTS["places"][1:]], "weights": [[], *POINTS["weights"][1:]]}, "at least one"),
        ({"asked": [[1.0]] * 4}, "asked: expected as many numbers"),
        ({"times": [3.0]}, "times: 1 entries; expected 5"),
        ({"steps": 0}, "steps: 0; expected a whole number from 1"),
    ],
)
def test_points_that_do_not_belong_together_are_refused_by_their_field(made, change, message):
    with pytest.raises(sb.InputError) as caught:
        made("epd", **{"steps": 5, **POINTS, **change})
    assert message in str(caught.value)
    assert str(caught.value).startswith("sampler 'epd': file ")


# ---- dpm-solver-v3 ----


def v3(x, levels, order, corrector, known):
    """Zheng et al. 2023, with l, s and b as functions of lambda and every integral as the solution of an ODE."""

    def of(name):
        return lambda value: np.interp(value, known["lambdas"], known[name])

    l, s, b = of("l"), of("s"), of("b")  # noqa: E741

    def integrals(start, end, places):
        """int l, int s, int e^-S b, int E B, and int E L_i for each place, from start to end."""

        def slopes(value, so_far):
            e = math.exp(so_far[0] + so_far[1])
            bases = [math.prod((value - q) / (p - q) for q in places if q != p) for p in places]
            return [l(value), s(value), math.exp(-so_far[1]) * b(value), e * so_far[2], *(e * one for one in bases)]

        knots = [knot for knot in known["lambdas"] if min(start, end) < knot < max(start, end)]
        found = np.zeros(4 + len(places))
        for p, q in itertools.pairwise([start, *sorted(knots, reverse=end < start), end]):
            found = integrate.solve_ivp(slopes, (p, q), found, method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
        return found

    def taken(x, start, end, said):
        lambda_a, places = start.lambda_, [level.lambda_ for level, _, _ in said]
        whole = integrals(lambda_a, end.lambda_, places)
        total = x / start.alpha - whole[3]
        for i, (level, state, x0) in enumerate(said):
            eps = (state - level.alpha * x0) / level.sigma
            f = (level.sigma * eps - l(level.lambda_) * state) / level.alpha
            _, s_i, b_i, _ = integrals(lambda_a, level.lambda_, []) if i else (0.0, 0.0, 0.0, 0.0)
            total = total - whole[4 + i] * (math.exp(-s_i) * f - b_i)
        return end.alpha * math.exp(-whole[0]) * total

    past = []
    for a, to in itertools.pairwise(levels):
        if not past or past[0][0] != a:
            past = [(a, x, x0_of(x, a)), *past][:order]
        if to.sigma == 0:
            return to.alpha * past[0][2]
        guess = taken(x, a, to, past)
        if not corrector or order == 1:
            x = guess
            continue
        new = (to, guess, x0_of(guess, to))
        x = taken(x, a, to, [past[0], new, *past[1:]][:order])
        past = [new, *past][:order]
    raise AssertionError


CASES = [("vp", 3, True), ("edm", 2, False), ("flow", 1, True)]


@pytest.mark.parametrize(("schedule", "order", "corrector"), CASES)
def test_statistics_of_a_file_agree_with_the_numpy_reference(made, schedule, order, corrector):
    chosen = {"vp": VP, "edm": EDM, "flow": FLOW}[schedule]
    times = TIMES[chosen][1:]
    sampler = made("dpm-solver-v3", {"order": order, "corrector": corrector}, **BENT)
    levels = [*(chosen.at_time(t) for t in times), chosen.clean]
    x = X[:1].numpy()
    got = sb.sample(exact_model(MIXTURE, chosen, "v"), sampler, grid=times, x_init=X[:1], any_model=True).x.numpy()
    assert np.abs(got - v3(x, levels, order, corrector, BENT)).max() < 1e-10
    plain = sb.sample(
        exact_model(MIXTURE, chosen, "v"), dataclasses.replace(sampler, file=None), grid=times, x_init=X[:1]
    )
    assert np.abs(got - plain.x.numpy()).max() > 1e-3


@pytest.mark.parametrize("schedule", TIMES, ids=["vp", "edm", "flow"])
def test_a_number_for_each_element_is_taken_to_its_own(made, schedule):
    """Two elements with their own statistics, of a model whose elements know nothing of each other."""
    both = {name: [[low, 0.5 * low] for low in BENT[name]] for name in ("l", "s", "b")}
    alone = sb.GaussianMixture(((0.3, 0.3),), (0.2,), (1.0,))

    def drawn(**content):
        model = exact_model(alone, schedule, "v")
        sampler = made("dpm-solver-v3", lambdas=BENT["lambdas"], **content)
        return sb.sample(model, sampler, grid=TIMES[schedule], x_init=X, any_model=True).x

    got = drawn(**both)
    for i, factor in ((0, 1.0), (1, 0.5)):
        one = drawn(**{name: [factor * value for value in BENT[name]] for name in both})
        assert torch.allclose(got[:, i], one[:, i], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(got[:, 1], drawn(**{name: BENT[name] for name in both})[:, 1])


COARSE = dataclasses.replace(QUICK, order_steps=40)
LINEAR = {"lambdas": [-8.0, 8.0], "l": [1.0, 0.2], "s": [0.6, -0.4], "b": [0.3, -0.1]}


@pytest.mark.parametrize(
    ("number", "corrector"),
    [
        (2, True),
        (3, False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, True), (3, True), (2, False))),
    ],
)
def test_the_order_is_claimed_and_kept_whatever_the_statistics_are(made, number, corrector):
    sampler = for_any_model(made("dpm-solver-v3", {"order": number, "corrector": corrector}, **LINEAR))
    findings = [*order.order_of_convergence(sampler, COARSE), *order.local_order(sampler, COARSE)]
    assert [finding for finding in waive(findings, sampler) if not finding.holds] == []
    assert len(findings) == 3


class TakesOneForAnother(sb.list_samplers()["dpm-solver-v3"]):
    """The prediction of the step before stands a little beside its place."""

    def step(self, run, x, a, b, past):
        if past:
            level = past[0].level
            moved = sb.Level(level.alpha, 1.02 * level.sigma, level.t)
            past = [dataclasses.replace(past[0], level=moved), *past[1:]]
        return super().step(run, x, a, b, past)


def test_a_wrong_past_is_seen():
    findings = list(order.local_order(TakesOneForAnother(order=2, corrector=False), COARSE))
    assert not all(finding.holds for finding in findings)


@pytest.mark.parametrize(("start", "end"), [(-1.7, 2.9), (3.3, -0.4), (-9.0, 9.0), (0.5, 0.6)])
def test_integrals_are_exact_to_rounding(start, end):
    known = Statistics(fingerprint="", guidance=1.0, **BENT)
    stretch = Stretch.of(known, start, end)
    values = np.exp(-0.7 * stretch.lambdas)[:, None]
    points, total = stretch.up_to(values), stretch.total(values)
    exact = (np.exp(-0.7 * start) - np.exp(-0.7 * np.append(stretch.lambdas, end))) / 0.7
    assert np.abs(points[:, 0] - exact[:-1]).max() < 1e-12 * max(1, np.abs(exact).max())
    assert abs(total[0] - exact[-1]) < 1e-12 * max(1, abs(exact[-1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lambdas": BENT["lambdas"][::-1]}, "lambdas: expected an ascending list of numbers"),
        ({"lambdas": []}, "lambdas: expected an ascending list"),
        ({"l": [1.0]}, "l: 1 entries; expected 5, one for each lambda"),
        ({"s": [[1.0, 2.0], [1.0], [1.0], [1.0], [1.0]]}, "s: expected rows of one length"),
        ({"b": "none"}, "b"),
        ({"q": 1}, "unknown field `q`"),
    ],
)
def test_statistics_that_do_not_belong_together_are_refused_by_their_field(made, change, message):
    with pytest.raises(sb.InputError) as caught:
        made("dpm-solver-v3", **{**BENT, **change})
    assert message in str(caught.value)
    assert str(caught.value).startswith("sampler 'dpm-solver-v3': file ")


# ---- What a file is for ----


def test_statistics_are_for_a_model_and_a_guidance_at_any_number_of_steps_unless_they_name_one(made):
    model = sb.load_model("gaussian")
    with pytest.raises(sb.InputError, match="is for another model"):
        sb.sample(model, made("dpm-solver-v3", **{**BENT, "fingerprint": "f"}), 5, n=2)
    own = {**BENT, "fingerprint": model.fingerprint}
    assert {sb.sample(model, made("dpm-solver-v3", **own), steps, n=2).nfe for steps in (4, 7)} == {4, 7}
    with pytest.raises(sb.InputError, match=r"steps 4: file .* is for 6 steps; give --steps 6"):
        sb.sample(model, made("dpm-solver-v3", steps=6, **own), 4, n=2)


def test_a_long_fingerprint_may_be_named_by_its_hash(made):
    model = sb.load_model("mixture")
    assert len(model.fingerprint) > 10_000
    assert all(path.stat().st_size < 4096 for path in SHIPPED)
    for path in SHIPPED:
        name = path.stem.removesuffix("-mixture")
        sampler = sb.make_sampler(name, file=str(path))
        assert sampler.misfit(model.fingerprint, 1.0, sampler.own_steps or 5, plain=True) == ""
        assert "another model" in sampler.misfit("another", 1.0, sampler.own_steps or 5, plain=True)


@pytest.mark.parametrize(
    ("name", "remark"),
    [("epd", "no file of points: it is the midpoint rule"), ("learned", "no file of coefficients: it is ddim"),
     ("dpm-solver-v3", "no file of statistics: it is sa-solver with tau=0")],
)  # fmt: skip
def test_a_row_on_the_default_is_marked_and_one_with_a_file_is_not(name, remark):
    (path,) = (path for path in SHIPPED if path.name == f"{name}-mixture.json")
    assert sb.make_sampler(name).remark == remark
    assert sb.make_sampler(name, file=str(path)).remark == ""


# ---- The files that are there ----


def test_each_learned_sampler_comes_with_a_file_for_the_embedded_model_and_one_for_the_mixture():
    registry = default_registry()
    for name in LEARNED:
        shipped = shipped_with(name, registry)
        assert [one.path for one in shipped] == [
            FILES / f"{name}-{model}.json" for model in ("fashion-mnist", "mixture")
        ]
        assert [one.model for one in shipped] == ["fashion-mnist", "mixture"]
        assert all(one.path.stat().st_size < 50_000 for one in shipped)
        assert [one.spec for one in shipped[:1]] == [spec for spec in with_files(registry) if spec.startswith(name)]
    assert len(with_files(registry)) == len(LEARNED)
    assert shipped_with("ddim", registry) == []
    assert registry.sampler(f'learned:file="{SHIPPED[2]}"').own_steps == 5


def test_a_file_belongs_to_the_sampler_whose_name_is_longest(tmp_path):
    source = "class Mine(sb.list_samplers()['learned']):\n    pass\n\n\n"
    names = '{"mine": Mine, "mine-too": type("Too", (Mine,), {"__module__": __name__})}'
    hook = f"@sb.hookimpl\ndef samplerbench_samplers():\n    return {names}\n"
    (tmp_path / "mine.py").write_text(f"import samplerbench as sb\n\n\n{source}{hook}")
    (tmp_path / "files").mkdir()
    for name in ("mine-mixture", "mine-too-mixture", "mine-too-other"):
        (tmp_path / "files" / f"{name}.json").write_text("{}")
    registry = load_registry([str(tmp_path / "mine.py")])
    assert [one.path.stem for one in shipped_with("mine", registry)] == ["mine-mixture"]
    assert [one.model for one in shipped_with("mine-too", registry)] == ["mixture", "other"]


@pytest.mark.parametrize("name", LEARNED)
def test_a_sampler_at_its_defaults_is_held_to_the_files_that_came_with_it(name, monkeypatch):
    registry = default_registry()
    models = []

    def on_the_mixture(shipped, registry):
        models.append(shipped.model)
        return with_shipped_file(shipped._replace(path=FILES / f"{name}-mixture.json"), registry)

    monkeypatch.setattr(fitted, "with_shipped_file", on_the_mixture)
    checks = fitted.as_it_came(registry.sampler(name), registry)
    assert models == ["fashion-mnist", "mixture"]
    (line,) = checks[1](registry.sampler(name), QUICK)
    assert line.holds, line
    assert line.name.startswith("ODE error on mixture")
    assert line.name.endswith(f" steps, {name}-mixture.json")
    assert "as in the file" in line.claim
    assert fitted.as_it_came(registry.sampler(f'{name}:file="{FILES / name}-mixture.json"'), registry) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_the_file_for_the_embedded_model_helps_and_a_changed_number_in_it_is_seen(name, tmp_path):
    registry = default_registry()
    shipped = shipped_with(name, registry)[0]
    (line,) = with_shipped_file(shipped, registry)(registry.sampler(name), QUICK)
    assert line.holds, line
    assert line.name.startswith("ODE error on fashion-mnist")
    content = json.loads(shipped.path.read_text())
    rows = content["l" if name == "dpm-solver-v3" else "weights"]
    place = rows if name == "dpm-solver-v3" else rows[1]
    i = len(place) // 2 if name == "dpm-solver-v3" else 0
    place[i] *= 0.9
    path = tmp_path / shipped.path.name
    path.write_text(json.dumps(content))
    (line,) = with_shipped_file(Shipped(name, shipped.option, path), registry)(registry.sampler(name), QUICK)
    assert not line.holds, line


WEIGHTS = [
    ("learned", "weights", 0, 0), ("learned", "weights", 2, 1), ("learned", "weights", 3, 3), ("epd", "weights", 0, 1),
    ("epd", "places", 1, 1), ("dpm-solver-v3", "l", 24, None), ("dpm-solver-v3", "s", 26, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "field", "row", "column"), WEIGHTS)
def test_one_number_that_is_a_tenth_off_in_a_file_is_seen(name, field, row, column, tmp_path):
    content = json.loads((FILES / f"{name}-mixture.json").read_text())
    if column is None:
        content[field][row] += 0.1
    else:
        content[field][row][column] *= 0.9
    path = tmp_path / f"{name}-mixture.json"
    path.write_text(json.dumps(content))
    (line,) = with_shipped_file(Shipped(name, "file", path), default_registry())(sb.make_sampler(name), QUICK)
    assert not line.holds, line


def test_a_file_that_is_not_for_the_model_of_its_name_is_seen(tmp_path):
    path = tmp_path / "learned-gaussian.json"
    path.write_text((FILES / "learned-mixture.json").read_text())
    (line,) = with_shipped_file(Shipped("learned", "file", path), default_registry())(sb.make_sampler("learned"), QUICK)
    assert (line.name, line.claim, line.holds) == ("learned-gaussian.json", "made for gaussian", False)


@pytest.mark.parametrize("path", SHIPPED[1:], ids=lambda path: path.stem)
def test_a_shipped_file_has_a_card_of_its_own_and_all_of_it_holds(path):
    findings = check(f'{path.stem.removesuffix("-mixture")}:file="{path}"', quick=True, model="mixture")
    assert [finding for finding in findings if not finding.holds] == []
    assert {"model calls", "x0 = v = flow", "mixture, batch sizes 1 to 8"} <= {finding.name for finding in findings}
    steps = json.loads(path.read_text())["steps"]
    assert findings[-1].name == f"ODE error on mixture, {steps} steps"


@pytest.mark.slow
def test_the_statistics_pass_the_whole_card():
    findings = check(f'dpm-solver-v3:file="{SHIPPED[0]}"', quick=True, model="mixture")
    assert [finding for finding in findings if not finding.holds] == []
    assert {f.name.partition(" ")[0] for f in findings if f.waived} <= {"order", "local", "last"}
    assert findings[-1].name == "ODE error on mixture, 6 steps"


def test_a_file_that_does_not_help_is_seen(made):
    model = sb.load_model("mixture")
    file = json.loads(SHIPPED[2].read_text())
    file["weights"][1][0] += 3
    (line,) = nearer_with_its_file(model)(made("learned", **{**file, "error": None}), QUICK)
    assert not line.holds
    assert "as in the file" not in line.claim
    file["weights"][1][0] -= 3
    assert [line.holds for line in nearer_with_its_file(model)(made("learned", **file), QUICK)] == [True]
    assert list(nearer_with_its_file(model)(made("learned", **{**file, "fingerprint": "x"}), QUICK)) == []
    assert list(nearer_with_its_file(model)(sb.make_sampler("learned"), QUICK)) == []


class KeepsSomething(sb.list_samplers()["learned"]):
    """Takes what it kept from the run before for this one's past."""

    kept = []

    def step(self, run, x, a, b, past):
        x, past = super().step(run, x, a, b, past)
        self.kept.append(x)
        return x + 0.01 * (len(self.kept) % 7), past


def test_a_mistake_at_its_own_steps_is_seen(made):
    file = json.loads(SHIPPED[2].read_text())
    sampler = made("learned", **file)
    wrong = for_any_model(KeepsSomething(file=sampler.file))
    names = {
        f.name for f in (*own_steps.whole_run(wrong, QUICK), *own_steps.no_difference(wrong, QUICK)) if not f.holds
    }
    assert {"last interval", "clean end", "used again"} <= names


def test_plain_statistics_are_the_data_form():
    levels = [VP.at_time(t) for t in (700.0, 420.0)]
    weights = step_weights(PLAIN, levels[:1], levels[1])
    kept = levels[1].sigma / levels[0].sigma
    assert weights.x[0] == pytest.approx(kept, rel=1e-12)
    assert weights.predictions[0][0][0] == pytest.approx(levels[1].alpha - levels[0].alpha * kept, rel=1e-12)
    assert weights.predictions[0][1][0] == weights.constant[0] == 0

"""learned: coefficients from a file. Files that say what a known solver does give its samples, and each misfit ends in
one line."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import samplerbench as sb
from samplerbench.plugins.samplers.lms import coefficients
from samplerbench.samplers.exact import exact_model

MIXTURE = sb.GaussianMixture(((-1.0, 0.5), (0.8, 1.0), (0.3, -1.2)), (0.1, 0.2, 0.4), (0.5, 0.3, 0.2))
VP, EDM, FLOW = sb.vp_linear(), sb.edm(), sb.flow()
TIMES = {VP: [990.0, 700.0, 420.0, 200.0, 31.0], EDM: [40.0, 9.0, 2.0, 0.5, 0.06], FLOW: [0.98, 0.8, 0.5, 0.3, 0.05]}
X = torch.randn(4, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
NOISE = torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
TOY = str(Path(__file__).parents[1] / "toy.py")
IDENTITY = [[1.0, *[0.0] * i] for i in range(5)]


@pytest.fixture
def learned(tmp_path):
    """Write a file and return the sampler that reads it."""

    def made(**content):
        content = {"fingerprint": "", "guidance": 1, "steps": 5, "weights": IDENTITY, **content}
        (tmp_path / "w.json").write_text(json.dumps(content))
        return sb.make_sampler("learned", file=str(tmp_path / "w.json"))

    return made


def draw(sampler, schedule, **settings):
    noise = iter(NOISE)
    model = exact_model(MIXTURE, schedule, "v")
    x = X * TIMES[EDM][0] if schedule is EDM else X
    settings = {"grid": TIMES[schedule], "any_model": True, **settings}
    return sb.sample(model, sampler, x_init=x, noise=lambda a, b: next(noise), **settings).x


def apart(a, b):
    assert float(a.abs().max()) > 0.1
    return float((a - b).abs().max())


# ---- What a file says ----


@pytest.mark.parametrize("schedule", TIMES, ids=["vp", "edm", "flow"])
@pytest.mark.parametrize("of", ["eps", "x0", "flow"])
def test_with_the_newest_prediction_alone_it_is_ddim_whatever_is_summed(learned, schedule, of):
    assert apart(draw(learned(of=of), schedule), draw("ddim", schedule)) == 0
    assert apart(draw(learned(of=of, noise=[0.4] * 5), schedule), draw("ddim:eta=0.4", schedule)) < 1e-12
    assert apart(draw("learned", schedule), draw("ddim", schedule)) == 0


@pytest.mark.parametrize("schedule", TIMES, ids=["vp", "edm", "flow"])
def test_the_weights_of_adams_and_bashforth_make_it_lms(learned, schedule):
    s = [schedule.at_time(t).sigma_ve for t in TIMES[schedule]]
    weights = []
    for i in range(4):
        nodes = s[max(0, i - 3) : i + 1][::-1]
        c = coefficients(nodes, s[i], s[i + 1])
        weights.append([*(c_j / (s[i + 1] - s[i]) for c_j in c), *[0.0] * (i + 1 - len(c))])
    sampler = learned(weights=[*weights, IDENTITY[4]])
    assert apart(draw(sampler, schedule), draw("lms", schedule)) < 1e-10
    assert apart(draw(sampler, schedule), draw("ddim", schedule)) > 1e-3


@pytest.mark.parametrize("schedule", TIMES, ids=["vp", "edm", "flow"])
def test_the_weights_of_dpm_solver_pp_make_it_2m(learned, schedule):
    levels, weights = [schedule.at_time(t) for t in TIMES[schedule]], [[1.0]]
    for i in range(1, 4):
        before, a, b = levels[i - 1 : i + 2]
        half = (b.lambda_ - a.lambda_) / (a.lambda_ - before.lambda_) / 2
        weights.append([1 + half, -half, *[0.0] * (i - 1)])
    sampler = learned(weights=[*weights, IDENTITY[4]], of="x0")
    assert apart(draw(sampler, schedule), draw("dpm-solver++", schedule)) < 1e-10


@pytest.mark.parametrize("of", ["eps", "x0", "flow"])
def test_any_weights_agree_with_the_numpy_reference(learned, of):
    """In y = x / alpha, s = sigma / alpha for eps and x0; in y = x / (alpha + sigma) and the flow time for flow."""
    rng = np.random.default_rng(2)
    weights = [np.append(1.0, np.zeros(i)) + 0.2 * rng.standard_normal(i + 1) for i in range(5)]
    said, x = [], X.numpy()
    for i, (t, t_next) in enumerate(itertools.pairwise([*TIMES[FLOW], 0.0])):
        m = MIXTURE.x0(torch.from_numpy(x), *(torch.full((4, 1), v, dtype=torch.float64) for v in (1 - t, t))).numpy()
        eps = (x - (1 - t) * m) / t
        said = [{"eps": eps, "x0": m, "flow": eps - m}[of], *said]
        p = sum(w * one for w, one in zip(weights[i], said, strict=True))
        if of == "flow":
            x = x + (t_next - t) * p
        elif of == "eps":
            x = (1 - t_next) * (x / (1 - t) + (t_next / (1 - t_next) - t / (1 - t)) * p)
        else:
            x = t_next / t * x + (1 - t_next - (1 - t) * t_next / t) * p
    got = draw(learned(weights=[row.tolist() for row in weights], of=of), FLOW).numpy()
    assert np.abs(x).max() > 0.3
    assert np.abs(got - x).max() < 1e-10


def test_its_times_are_its_grid_unless_the_spec_names_another(learned):
    sampler = learned(times=TIMES[VP])
    assert sampler.own_grid == "990.0/700.0/420.0/200.0/31.0"
    assert apart(draw(sampler, VP, grid=None), draw("ddim", VP)) == 0
    path = str(sampler.file)
    made = sb.sample(exact_model(MIXTURE, VP), f"learned:file={path}", n=2, any_model=True, batch_size=2).x
    there = sb.sample(exact_model(MIXTURE, VP), "ddim", grid=TIMES[VP], n=2, batch_size=2).x
    assert torch.equal(made, there)
    other = sb.sample(exact_model(MIXTURE, VP), f"learned:file={path},grid=karras", 5, n=2, any_model=True).x
    assert not torch.equal(made, other)


def test_the_network_is_told_the_times_asked_and_the_answer_counts_at_the_level_of_the_state(learned):
    told = []

    def network(x, t):
        told.append(float(t[0]))
        return x * 0 + 1 / (1 + t[0])

    model = sb.wrap_network(network, FLOW, (2,), predicts="x0", name="told", fingerprint="told", batch_size=4)
    asked, levels = [0.9, 0.7, 0.55, 0.2, 0.1], TIMES[FLOW]
    sampler = learned(asked=asked, times=levels)
    got = sb.sample(model, sampler, 5, x_init=X, any_model=True).x
    x = X
    for t, s, s_next in zip(asked, levels, [*levels[1:], 0.0], strict=True):
        x0 = 1 / (1 + t)
        x = (1 - s_next) * x0 + s_next * (x - (1 - s) * x0) / s
    assert told == pytest.approx(asked)
    assert apart(got, x) < 1e-12
    with pytest.raises(sb.SamplerbenchError, match=r"sampler 'learned': asked: flow time 1\.5"):
        sb.sample(model, learned(asked=[1.5, *asked[1:]], times=levels), 5, x_init=X, any_model=True)


def test_noise_makes_it_stochastic_and_weights_alone_do_not(learned):
    assert learned(noise=[0.0] * 5).convergence == 1
    assert learned(noise=[0.0, 0.1, 0.0, 0.0, 0.0]).convergence is None
    a, b = (
        sb.sample(exact_model(MIXTURE, VP), learned(noise=[0.5] * 5), 5, n=2, seed=s, any_model=True) for s in (1, 2)
    )
    assert a.nfe == 5
    assert not torch.equal(a.x, b.x)


def test_where_alpha_is_0_weights_of_eps_are_refused_and_those_of_the_flow_are_not(learned):
    weights = [[1.2], *IDENTITY[1:]]
    grid = [1.0, *TIMES[FLOW][1:]]
    with pytest.raises(sb.InputError, match="at alpha = 0; use of x0 or flow"):
        draw(learned(weights=weights), FLOW, grid=grid)
    assert math.isfinite(float(draw(learned(weights=weights, of="flow"), FLOW, grid=grid).sum()))


# ---- What it is for ----


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": [[1.0]]}, "weights: expected rows of 1 to 5 numbers, one for each step"),
        ({"weights": IDENTITY[::-1]}, "weights: expected rows"),
        ({"times": [3.0, 2.0]}, "times: 2 entries; expected 5"),
        ({"noise": [0.0, 2.0, 0.0, 0.0, 0.0]}, "noise: expected numbers from 0 to 1"),
        ({"of": "v"}, "of"),
        ({"steps": "five"}, "steps"),
        ({"asked": [1.0]}, "asked: 1 entries; expected 5"),
        ({"levels": [1.0] * 5}, "unknown field `levels`"),
    ],
)
def test_a_file_that_says_something_else_is_refused_by_its_field(learned, content, message):
    with pytest.raises(sb.InputError) as caught:
        learned(**content)
    assert message in str(caught.value)
    assert str(caught.value).startswith("sampler 'learned'")


def test_a_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "w.json").write_text("{")
    with pytest.raises(sb.InputError, match=r"sampler 'learned': file '.*w.json': "):
        sb.make_sampler("learned", file=str(tmp_path / "w.json"))


def test_another_model_guidance_or_count_is_refused_with_what_the_file_is_for(learned):
    model = sb.load_model("gaussian")
    with pytest.raises(sb.InputError, match="is for another model, with fingerprint 'f'; give --any-model"):
        sb.sample(model, learned(fingerprint="f"), 5, n=2)
    assert sb.sample(model, learned(fingerprint="f"), 5, n=2, any_model=True).nfe == 5
    assert sb.sample(model, learned(fingerprint=model.fingerprint), 5, n=2).nfe == 5
    with pytest.raises(sb.InputError, match="is for guidance 2; give --any-model"):
        sb.sample(model, learned(fingerprint=model.fingerprint, guidance=2), 5, n=2)
    for any_model in (False, True):
        with pytest.raises(sb.InputError, match=r"steps 4: file .* is for 5 steps; give --steps 5"):
            sb.sample(model, learned(fingerprint=model.fingerprint), 4, n=2, any_model=any_model)


def test_the_table_marks_the_default_and_what_was_learned_for_another_model(learned, tmp_path):
    def specs_of(**content):
        path = tmp_path / f"{content['fingerprint'].replace(' ', '')}.json"
        path.write_text(json.dumps({"guidance": 1, "steps": 5, "weights": IDENTITY, **content}))
        return f"learned:file={path}"

    own, other = specs_of(fingerprint="toy 1"), specs_of(fingerprint="another")
    run = {"plugins": [TOY], "steps": 5, "n": 4, "metrics": []}
    with pytest.raises(sb.InputError, match="another model"):
        sb.run("toy", ["ddim", other], output=tmp_path / "no", **run)
    assert not (tmp_path / "no").exists()
    table = sb.run("toy", ["ddim", "learned", own, other], output=tmp_path / "run", any_model=True, **run).table
    assert table["warning"].isna().tolist() == [True, False, True, False]
    assert table["warning"][1] == "no file of coefficients: it is ddim"
    assert "is for another model" in table["warning"][3]
    assert table["same_as"].tolist()[1:] == ["ddim"] * 3


@pytest.mark.parametrize("settings", [{"guidance_interval": (0.1, 1.0)}, {"guidance_rescale": 0.5}])
def test_a_file_for_a_guidance_is_not_for_one_at_some_levels_or_with_rescale(learned, settings):
    model = sb.load_model("fashion-mnist")
    fitting = learned(guidance=2, steps=1, weights=[[1.0]], fingerprint=model.fingerprint)
    assert fitting.misfit(model.fingerprint, 2.0, 1, plain=True) == ""
    with pytest.raises(sb.InputError, match="is for guidance at all levels, without rescale; give --any-model"):
        sb.sample(model, fitting, 1, n=1, guidance=2.0, **settings)


@pytest.mark.parametrize("steps", [0, -1, 4, 10**12])
def test_a_file_with_another_number_of_rows_is_refused_before_anything_is_made_of_it(learned, steps):
    with pytest.raises(sb.InputError, match="weights: expected rows"):
        learned(steps=steps)

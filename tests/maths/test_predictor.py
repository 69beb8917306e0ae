"""One conversion of eps, x0, v and flow; clipping, guidance, counting and padding around it."""

import dataclasses

import numpy as np
import pytest
import torch

import samplerbench as sb
from samplerbench.samplers.predictor import Bounded, CallLog, Counted, Guided, NetworkPredictor, Thresholded
from samplerbench.samplers.registry import default_registry
from samplerbench.samplers.sample import request_for

PREDICTS = ("eps", "x0", "v", "flow")
LEVELS = {
    "vp": sb.vp_linear().at_time(300),
    "vp, noisy": sb.vp_linear().at_time(999),
    "vp, clean": sb.vp_linear().at_time(0.5),
    "edm": sb.edm().at_time(7.0),
    "flow": sb.flow().at_time(0.35),
}
PURE_NOISE = {
    "flow, t = 1": sb.flow().first,
    "zero terminal SNR": sb.vp_from_alphas_cumprod([0.9, 0.0]).first,
}
GENERATOR = torch.Generator().manual_seed(0)
X0, EPS = (torch.randn(5, 3, generator=GENERATOR, dtype=torch.float64) for _ in range(2))


def state(level):
    return level.alpha * X0 + level.sigma * EPS


def answer(predicts, level):
    """What a network that knows x0 and eps says."""
    return {"eps": EPS, "x0": X0, "v": level.alpha * EPS - level.sigma * X0, "flow": EPS - X0}[predicts]


def prediction(predicts, level):
    return sb.Prediction(state(level), level, answer(predicts, level), predicts)


def close(a, b, tolerance=1e-12):
    """Equal within the tolerance, and large enough for that to mean something."""
    assert float(b.abs().max()) > 10 * tolerance
    assert a.shape == b.shape
    return float((a - b).abs().max()) < tolerance


def always(said):
    """A predictor that says this whatever it is asked."""
    return lambda x, level, rows: said


def predictor(network, predicts="eps", batch_size=4, **options):
    return NetworkPredictor(network, predicts, "fractional", batch_size, **options)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("predicts", PREDICTS)
def test_every_parametrisation_says_the_same(predicts, level):
    p = prediction(predicts, level)
    # eps from x0 is divided by sigma, x0 from eps by alpha: rounding grows by the larger of the two
    tolerance = 1e-14 / min(level.alpha, level.sigma, 0.01)
    assert close(p.x0, X0, tolerance)
    assert close(p.eps, EPS, tolerance)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("predicts", PREDICTS)
def test_combine_is_linear_in_x0_and_eps(predicts, level):
    p = prediction(predicts, level)
    tolerance = 1e-13 / min(level.alpha, level.sigma, 0.1)
    for a, b in ((1, 0), (0, 1), (0.3, -1.7), (2.0, 0.5)):
        assert close(p.combine(a, b), a * X0 + b * EPS, tolerance)
    assert close(p.combine(level.alpha, level.sigma), state(level), tolerance)
    assert close(p.mean(0.7, -0.2), 0.7 * state(level) - 0.2 * X0, tolerance)


@pytest.mark.parametrize("level", PURE_NOISE.values(), ids=PURE_NOISE)
def test_pure_noise_says_nothing_of_x0_to_an_eps_network(level):
    p = prediction("eps", level)
    with pytest.raises(sb.InputError, match=r"predicts 'eps'.*alpha = 0.*predicts v, x0 or flow"):
        _ = p.x0
    for predicts in ("x0", "v", "flow"):
        assert close(prediction(predicts, level).x0, X0)
        assert close(prediction(predicts, level).eps, EPS)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("predicts", PREDICTS)
def test_clipping_derives_eps_from_the_clipped_x0(predicts, level):
    p = Bounded(always(prediction(predicts, level)), -0.5, 0.5)(state(level), level)
    clipped = X0.clamp(-0.5, 0.5)
    assert not torch.equal(clipped, X0)
    tolerance = 1e-13 / min(level.alpha, level.sigma, 0.01) / min(level.sigma, 1)
    assert close(p.x0, clipped, tolerance)
    assert close(p.eps, (state(level) - level.alpha * clipped) / level.sigma, tolerance)
    assert close(p.combine(level.alpha, level.sigma), state(level), tolerance)


@pytest.mark.parametrize("level", [LEVELS["vp"], LEVELS["edm"], LEVELS["flow"]], ids=["vp", "edm", "flow"])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.0, 7.5])
def test_guidance_is_linear_and_the_same_in_every_parametrisation(guidance, level):
    """The negative prompt's x0 is 0 at the same state."""
    for predicts in PREDICTS:
        positive = prediction(predicts, level)
        eps = state(level) / level.sigma
        none = {"eps": eps, "x0": 0 * X0, "v": level.alpha * eps, "flow": eps}[predicts]
        negative = sb.Prediction(state(level), level, none, predicts)
        guided = Guided(always((positive, negative)), guidance)(state(level), level)
        assert float((guided.x0 - guidance * X0).abs().max()) < 1e-11  # g = 0 gives 0
        assert close(guided.eps, (state(level) - level.alpha * guidance * X0) / level.sigma, 1e-11)
        if guidance == 1:
            assert torch.equal(guided.answer, positive.answer)
        if guidance == 0:
            assert torch.equal(guided.answer, negative.answer)


# ---- Dynamic thresholding ----


WIDE = torch.randn(5, 2, 20, generator=GENERATOR, dtype=torch.float64)


def states_of(x0, level):
    return level.alpha * x0 + level.sigma * EPS[:, :1, None].expand_as(x0)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.995, 1.0])
@pytest.mark.parametrize("bound", [0.3, 1.0, 2.0])
def test_dynamic_thresholding_clips_each_sample_to_its_own_quantile(quantile, bound):
    level = LEVELS["vp"]
    scaled = WIDE * torch.tensor([0.1, 0.5, 1.0, 3.0, 50.0], dtype=torch.float64)[:, None, None]
    x = states_of(scaled, level)
    threshold = sb.dynamic_threshold(quantile, bound)
    got = Thresholded(always(sb.Prediction(x, level, scaled, "x0")), threshold)(x, level)
    for row, x0 in zip(got.x0.numpy(), scaled.numpy(), strict=True):
        s = max(np.quantile(np.abs(x0), quantile), bound)
        assert np.abs(row - np.clip(x0, -s, s) / (s / bound)).max() < 1e-12
    assert float(got.x0.abs().max()) == pytest.approx(bound, rel=1e-12)  # of the last sample, the quantile and above
    assert close(got.eps, (x - level.alpha * got.x0) / level.sigma)
    assert close(got.combine(level.alpha, level.sigma), x)


def test_dynamic_thresholding_leaves_what_is_within_the_bound_alone():
    small = WIDE / WIDE.abs().amax() * 0.99
    level = LEVELS["edm"]
    inner = sb.Prediction(states_of(small, level), level, small, "x0")
    for quantile in (0.1, 0.995):
        got = Thresholded(always(inner), sb.dynamic_threshold(quantile))(inner.x, level)
        assert torch.equal(got.x0, small)


def test_a_network_can_be_wrapped_with_dynamic_thresholding():
    """A network that sees values of up to 8 everywhere: the samples end within the bound, and not flat at it."""
    pattern = torch.linspace(-8, 8, 12).reshape(1, 3, 4)

    def network(x, t):
        return pattern.expand_as(x) + 0 * x

    model = sb.wrap_network(network, sb.vp_linear(), (1, 3, 4), "x0", clip=sb.dynamic_threshold(0.9, 1.0))
    s = float(pattern.abs().flatten().quantile(0.9))
    expected = pattern.clamp(-s, s) / s
    assert close(sb.sample(model, "ddim", steps=5, n=3).x, expected.expand(3, 1, 3, 4), 1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantile": 0.0}, "quantile 0.0: expected a number above 0 and up to 1"),
        ({"quantile": 1.1}, "quantile 1.1: expected"),
        ({"quantile": float("nan")}, "quantile nan: expected"),
        ({"bound": 0.0}, "bound 0.0: expected a positive number"),
        ({"bound": float("inf")}, "bound inf: expected"),
    ],
)
def test_bad_thresholds_are_refused(options, message):
    with pytest.raises(sb.InputError, match=message):
        sb.dynamic_threshold(**options)


@pytest.mark.parametrize("clip", [(1, -1), (0, 0), (1,), "1", 3.0, (float("nan"), 1), ("a", "b"), 0])
def test_a_clip_that_is_none_is_refused(clip):
    with pytest.raises(sb.InputError, match=r"clip .*: expected \(low, high\) with low < high, or dynamic_threshold"):
        sb.wrap_network(lambda x, t: x, sb.vp_linear(), (2,), clip=clip)


# ---- Guidance rescale ----


def guided(guidance, phi, predicts="eps", level=LEVELS["vp"]):
    """(guided, conditional) for a network that sees WIDE with the condition and half of it, turned, without."""
    x = states_of(WIDE, level)

    def said(x0):
        eps = (x - level.alpha * x0) / level.sigma
        answers = {"eps": eps, "x0": x0, "v": level.alpha * eps - level.sigma * x0, "flow": eps - x0}
        return sb.Prediction(x, level, answers[predicts], predicts)

    positive, negative = said(WIDE), said(WIDE.flip(2) / 2)
    return Guided(always((positive, negative)), guidance, phi)(x, level), positive


def deviations(x0):
    return x0.flatten(1).numpy().std(1)


@pytest.mark.parametrize("guidance", [0.0, 2.0, 7.5])
def test_without_rescale_guidance_is_as_it_was(guidance):
    plain, _ = guided(guidance, 0.0)
    assert close(plain.x0, guidance * WIDE + (1 - guidance) * WIDE.flip(2) / 2, 1e-11)
    assert plain.predicts == "eps"


@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("guidance", [0.0, 2.0, 7.5])
def test_full_rescale_gives_each_sample_the_deviation_of_the_conditional_x0(guidance, predicts):
    plain, conditional = guided(guidance, 0.0, predicts)
    got, _ = guided(guidance, 1.0, predicts)
    assert deviations(got.x0) == pytest.approx(deviations(conditional.x0), rel=1e-10)
    assert not np.allclose(deviations(plain.x0), deviations(conditional.x0), rtol=0.05)
    assert torch.nn.functional.cosine_similarity(got.x0, plain.x0, dim=2).min() > 1 - 1e-12  # a scale, no more
    assert close(got.combine(got.level.alpha, got.level.sigma), plain.x, 1e-11)


@pytest.mark.parametrize("phi", [0.25, 0.7])
def test_rescale_mixes_the_two_and_does_not_depend_on_what_the_network_predicts(phi):
    for predicts in PREDICTS:
        plain, full, mixed = (guided(5.0, share, predicts)[0].x0 for share in (0.0, 1.0, phi))
        assert close(mixed, phi * full + (1 - phi) * plain, 1e-11)


def test_rescale_leaves_an_x0_without_deviation_alone():
    """A single number has none; neither has a flat image."""
    x, level = torch.tensor([[0.3], [2.0]], dtype=torch.float64), LEVELS["flow"]
    both = [sb.Prediction(x, level, factor * x, "x0") for factor in (2, 1)]
    flat = Guided(always(both), 3.0, 1.0)(x, level)
    assert close(flat.x0, 4 * x)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 9])
def test_the_network_sees_full_batches_and_each_row_once(n):
    seen = []

    def network(x, t):
        seen.append((x, t))
        return 2 * x

    level = LEVELS["edm"]
    x = torch.arange(2.0 * n, dtype=torch.float64).reshape(n, 2)
    p = predictor(network)(x, level)
    assert torch.equal(p.answer, 2 * x)
    assert [tuple(rows.shape) for rows, _ in seen] == [(4, 2)] * -(-n // 4)
    rows, padding = torch.cat([rows for rows, _ in seen]).split([n, -n % 4])
    assert torch.equal(rows, x)
    assert torch.equal(padding, x[-1:].expand(-n % 4, 2))
    for _, t in seen:
        assert torch.equal(t, torch.full((4,), 7.0, dtype=torch.float64))


def test_conditions_are_cut_and_padded_with_their_rows():
    condition = torch.arange(6.0, dtype=torch.float64).reshape(6, 1)
    p = predictor(lambda x, t, c: x * c, condition=condition)(torch.ones(6, 2, dtype=torch.float64), LEVELS["vp"])
    assert torch.equal(p.answer, condition.expand(6, 2))


@pytest.mark.parametrize(("timesteps", "dtype"), [("integer", torch.int64), ("fractional", torch.float32)])
def test_the_network_is_told_the_training_timestep(timesteps, dtype):
    asked = []

    def network(x, t):
        asked.append(t)
        return x

    NetworkPredictor(network, "eps", timesteps, 2)(torch.ones(1, 1), sb.vp_linear().at_time(321))
    assert asked[0].tolist() == [321, 321]
    assert asked[0].dtype == dtype


def test_a_network_of_whole_timesteps_is_not_asked_about_others():
    with pytest.raises(sb.InputError, match=r"asked about timestep 320\.5, and it knows whole ones only"):
        NetworkPredictor(lambda x, t: x, "eps", "integer", 2)(torch.ones(1, 1), sb.vp_linear().at_time(320.5))


def test_rows_of_the_state_are_asked_with_their_condition():
    condition = torch.arange(6.0, dtype=torch.float64).reshape(6, 1)
    p = predictor(lambda x, t, c: x * c, condition=condition)(X0[:2], LEVELS["vp"], slice(3, 5))
    assert torch.equal(p.answer, X0[:2] * condition[3:5])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_low_precision_network_leaves_the_state_alone(dtype):
    x = torch.full((3, 2), 1.0001)
    p = predictor(lambda x, t: x, dtype=dtype)(x, LEVELS["edm"])
    assert p.x is x
    assert p.answer.dtype == torch.float32
    assert torch.equal(p.answer, torch.ones(3, 2))  # 1.0001 in half precision


def test_counted_counts_calls_not_rows():
    counted = Counted(predictor(lambda x, t: x, batch_size=1))
    for calls in (1, 2, 3):
        p = counted(torch.ones(5, 2), LEVELS["vp"])
        assert counted.nfe == calls
    assert torch.equal(p.answer, torch.ones(5, 2))
    assert counted.seconds > 0


def in_a_buffer(network):
    """The network with its answers in one buffer, which the next call overwrites."""
    kept = {}

    def answer(x, t, *condition):
        said = network(x, t, *condition)
        return kept.setdefault((said.shape, said.dtype), torch.empty_like(said)).copy_(said)

    return answer


NETWORKS = {
    "plain": lambda x, t: 0.3 * x - t.view(-1, 1, 1, 1) / 1000,
    "its own state": lambda x, t: x,
    "half precision": lambda x, t: (0.3 * x).half(),
    "float64": lambda x, t: 0.3 * x.double(),
    "channels last": lambda x, t: (0.3 * x).to(memory_format=torch.channels_last),
    "expanded": lambda x, t: x[:, :1, :1, :1].expand_as(x),
    "a buffer": in_a_buffer(lambda x, t: 0.3 * x),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("dtype", [None, torch.float64, torch.bfloat16])
def test_a_whole_batch_is_answered_as_one_of_several(network, dtype):
    x, level = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)), LEVELS["vp"]
    ask, log = predictor(network, "v", dtype=dtype), CallLog()
    # Six rows are two batches of four, the second one padded; four rows are one whole batch.
    several = ask(torch.cat([x, x[:2]]), level).answer
    whole = predictor(network, "v", dtype=dtype, log=log)(x, level)
    assert torch.equal(whole.answer, several[:4])
    assert whole.answer.dtype == x.dtype
    assert whole.answer.is_contiguous()
    assert whole.x is x
    assert (log.evaluations, log.asked) == (1, 1)


def test_no_later_call_overwrites_the_answer_of_a_whole_batch():
    ask = predictor(in_a_buffer(lambda x, t: 2 * x))
    first = ask(torch.ones(4, 2), LEVELS["vp"])
    ask(torch.zeros(4, 2), LEVELS["vp"])
    assert torch.equal(first.answer, torch.full((4, 2), 2.0))


def test_a_whole_batch_has_the_conditions_of_its_rows():
    asked = []

    def network(x, t, condition):
        asked.append((t, condition))
        return x

    ask = predictor(network, condition=torch.arange(8.0).view(8, 1))
    ask(torch.ones(4, 2), LEVELS["vp"], slice(4, 8))
    ((t, condition),) = asked
    assert torch.equal(t, torch.full((4,), LEVELS["vp"].t))
    assert torch.equal(condition, torch.arange(4.0, 8.0).view(4, 1))
    with pytest.raises(sb.InputError, match="rows 6:10"):
        ask(torch.ones(4, 2), LEVELS["vp"], slice(6, 10))


@pytest.mark.parametrize("wrong", [lambda x, t: x[:, :1], lambda x, t: x[0], lambda x, t: x[..., None]])
def test_an_answer_of_another_shape_is_refused(wrong):
    with pytest.raises(sb.InputError, match=r"network: answered with shape .* for a state \(4, 3\)"):
        predictor(wrong)(X0, LEVELS["vp"])


def test_an_answer_that_is_no_tensor_is_refused():
    with pytest.raises(sb.InputError, match=r"network: answered with a tuple for a state \(4, 3\)"):
        predictor(lambda x, t: (x,))(X0, LEVELS["vp"])


def test_a_network_that_raises_is_named_with_what_it_was_asked():
    with pytest.raises(
        sb.ModelError, match=r"^network: TypeError: .*; it was asked with x \(4, 3\) float64, t \(4,\) float64$"
    ):
        predictor(lambda x: x)(X0, LEVELS["vp"])


def test_an_error_that_a_network_words_itself_passes_as_it_is():
    def network(x, t):
        raise sb.InputError("mine")

    with pytest.raises(sb.InputError, match=r"^mine$"):
        predictor(network)(X0, LEVELS["vp"])


def test_wrong_names_are_refused():
    with pytest.raises(sb.InputError, match="predicts 'noise': expected one of eps, x0, v, flow"):
        predictor(lambda x, t: x, predicts="noise")
    with pytest.raises(sb.InputError, match="timesteps 'int': expected one of fractional, integer"):
        NetworkPredictor(lambda x, t: x, "eps", "int", 4)


# ---- What a model says of its condition ----


def spoken(**settings):
    """A model whose network answers with its condition, and the conditions that it was asked with."""
    seen = []

    def network(x, t, condition):
        seen.append(condition)
        return x * 0 + condition.to(x.dtype)[:, None]

    model = sb.Model(
        name="spoken", network=lambda device, dtype: network, schedule=sb.vp_linear(), shape=(3,), batch_size=2,
        encode=lambda texts: torch.tensor([float(len(text)) for text in texts]), **settings,
    )  # fmt: skip
    return model, seen


def test_a_network_that_is_told_its_guidance_is_asked_once():
    model, seen = spoken(guide=lambda condition, guidance: condition * 10 + guidance)
    made = sb.sample(model, "ddim", 3, n=2, prompts=["a", "bb"], guidance=3.5)
    assert made.network_evaluations == made.nfe == len(seen) == 3
    assert seen[0].tolist() == [13.5, 23.5]
    sb.sample(model, "ddim", 1, n=2, prompts=["a", "bb"])
    assert seen[-1].tolist() == [11, 21]
    with pytest.raises(sb.InputError, match="negative 'c': model 'spoken' is told its guidance"):
        sb.sample(model, "ddim", 1, prompts=["a"], guidance=3, negative="c")
    with pytest.raises(sb.InputError, match=r"guidance_rescale 0\.5: model 'spoken' is told its guidance"):
        sb.sample(model, "ddim", 1, prompts=["a"], guidance=3, guidance_rescale=0.5)


def test_whole_conditions_stay_whole():
    model, seen = spoken()
    classes = dataclasses.replace(model, encode=lambda texts: torch.tensor([999 for _ in texts]))
    sb.sample(classes, "ddim", 1, n=1, prompts=["a"], dtype="bfloat16")
    assert seen[-1].dtype == torch.int64
    assert seen[-1].tolist() == [999, 999]
    sb.sample(model, "ddim", 1, n=1, prompts=["a"], dtype="bfloat16")
    assert seen[-1].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, ["a", "bb"]),
        ({"guidance": 2}, ["a", "bb", ""]),
        ({"guidance": 2, "negative": "c"}, ["a", "bb", "c"]),
    ],
)
def test_texts_are_checked_without_being_encoded(settings, asked):
    checked = []

    def encode(texts):
        raise AssertionError("encoded")

    model = dataclasses.replace(spoken()[0], encode=encode, check_texts=checked.extend)
    request_for(default_registry(), model, "ddim", steps=2, prompts=["a", "bb"], **settings)
    assert checked == asked
    checked.clear()
    own = dataclasses.replace(model, unconditional=encode)  # "no prompt" is no text that is encoded
    request_for(default_registry(), own, "ddim", steps=2, prompts=["a", "bb"], **settings)
    assert checked == [text for text in asked if text]


def test_prompts_that_a_model_has_not():
    with pytest.raises(sb.InputError, match="prompts: not given, and model 'spoken' has none of its own"):
        sb.sample(spoken()[0], "ddim", 1)
    with pytest.raises(sb.InputError, match="prompts: the list is empty"):
        sb.sample(spoken()[0], "ddim", 1, prompts=[])

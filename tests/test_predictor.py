"""One conversion of eps, x0, v and flow; clipping, guidance, counting and padding around it."""

import pytest
import torch

import samplerbench as sb
from samplerbench.samplers.predictor import Clipped, Counted, Guided, NetworkPredictor

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
    p = Clipped(lambda x, level, rows: prediction(predicts, level), -0.5, 0.5)(state(level), level)
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
        guided = Guided(lambda x, level, rows, p=positive: p, lambda x, level, rows, p=negative: p, guidance)(
            state(level), level
        )
        assert float((guided.x0 - guidance * X0).abs().max()) < 1e-11  # g = 0 gives 0
        assert close(guided.eps, (state(level) - level.alpha * guidance * X0) / level.sigma, 1e-11)
        if guidance == 1:
            assert torch.equal(guided.answer, positive.answer)
        if guidance == 0:
            assert torch.equal(guided.answer, negative.answer)


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


@pytest.mark.parametrize("wrong", [lambda x, t: x[:, :1], lambda x, t: x[0], lambda x, t: x[..., None]])
def test_an_answer_of_another_shape_is_refused(wrong):
    with pytest.raises(sb.InputError, match=r"network: answered with shape .* for a state \(4, 3\)"):
        predictor(wrong)(X0, LEVELS["vp"])


def test_wrong_names_are_refused():
    with pytest.raises(sb.InputError, match="predicts 'noise': expected one of eps, x0, v, flow"):
        predictor(lambda x, t: x, predicts="noise")
    with pytest.raises(sb.InputError, match="timesteps 'int': expected one of fractional, integer"):
        NetworkPredictor(lambda x, t: x, "eps", "int", 4)

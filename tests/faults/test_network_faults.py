"""What a network may not do is told of the network, not of the sampler: NaN, changes in place, wrong answers."""

import math
from dataclasses import dataclass

import pytest
import torch

import samplerbench as sb
from cases import thinned
from samplerbench.samplers import predictor as predictors
from samplerbench.samplers.predictor import CallLog, NetworkPredictor

# The models here are made for a test: that their runs do not resume is as it should be.
pytestmark = pytest.mark.filterwarnings("ignore:model .* has no fingerprint:UserWarning")

VP = sb.vp_linear()
SHAPE = (1, 4, 4)


def model_of(network, schedule=VP, **settings):
    return sb.wrap_network(network, schedule, SHAPE, **settings)


def drawn(network, sampler="ddim", schedule=VP, settings=None, **more):
    return sb.sample(model_of(network, schedule, **(settings or {})), sampler, **{"steps": 4, "n": 3, **more})


# ---- NaN and infinity ----


def from_on(t0, value):
    """A network that answers with a value from a time on."""
    return lambda x, t: torch.where(t.reshape(-1, 1, 1, 1) <= t0, value, 0.0) + 0 * x


@pytest.mark.parametrize("clip", [None, (-1, 1), sb.dynamic_threshold()], ids=["free", "clipped", "thresholded"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "sampler", thinned(["ddim", "heun", "ddpm", "dpm-solver++", "dpm-solver-adaptive"], "ddim", "heun")
)
def test_an_answer_that_is_not_finite_names_the_network_and_the_timestep(sampler, clip, value):
    with pytest.raises(sb.NetworkFault, match=r"^network: answered with NaN or infinity at timestep \d+.*--dtype"):
        drawn(from_on(999, value), sampler, settings={"clip": clip})
    if sampler != "dpm-solver-adaptive":
        with pytest.raises(sb.NetworkFault, match="at timestep 400, "):
            drawn(from_on(500, value), sampler, grid=[999, 600, 400, 200], settings={"clip": clip})


def test_overflow_inside_a_network_is_seen_behind_the_clip():
    """65504 is the largest number in half precision."""
    with pytest.raises(sb.NetworkFault, match="look for half precision inside the network, or try --dtype float64"):
        drawn(lambda x, t: (x.half() * 1e6).to(x.dtype), settings={"clip": (-1, 1)})
    with pytest.raises(sb.NetworkFault, match="with --dtype float16; try --dtype float32"):
        drawn(lambda x, t: x * 1e6, settings={"clip": (-1, 1)}, dtype="float16")
    with pytest.raises(sb.NetworkFault, match="with --dtype float64; look into the network"):
        drawn(lambda x, t: x / 0, dtype="float64")


@pytest.mark.parametrize(("schedule", "t"), [(sb.edm(), "80"), (sb.flow(), "1")])
def test_the_time_is_that_of_the_schedule(schedule, t):
    with pytest.raises(sb.NetworkFault, match=f"at timestep {t}, "):
        drawn(lambda x, t: x * math.nan, schedule=schedule, settings={"predicts": "x0"})


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("calls", [1, 2])
def test_either_part_of_a_guided_answer_is_looked_at(part, calls):
    def network(x, t, condition):
        return torch.where(condition.reshape(-1, 1, 1, 1) == part, math.inf, 0.0) + 0 * x

    model = sb.Model(
        name="m", network=lambda *_: network, schedule=VP, shape=SHAPE, clip=(-1, 1),
        encode=lambda texts: torch.ones(len(texts)), unconditional=lambda texts: torch.zeros(len(texts)),
    )  # fmt: skip
    with pytest.raises(sb.NetworkFault, match="at timestep 999, "):
        sb.sample(model, "ddim", 2, n=1, prompts=["a"], guidance=2.0, guidance_calls=calls)


@dataclass(frozen=True)
class Spoils(sb.Sampler):
    """First order, with NaN in the state after its second step."""

    def nfe(self, steps):
        return steps

    def step(self, run, x, a, b, past):
        x = run.predict(x, a).combine(b.alpha, b.sigma)
        return (x * math.nan if run.i == 1 else x), None


def test_a_sampler_that_spoils_the_state_is_still_blamed_though_the_network_answers_with_nan():
    with pytest.raises(sb.SamplerFault, match=r"^sampler Spoils, step 1: the state is not finite"):
        drawn(lambda x, t: 0.5 * x, Spoils())


def test_a_network_that_is_asked_about_finite_states_is_blamed_before_the_sampler():
    with pytest.raises(sb.NetworkFault, match="at timestep 666, "):
        drawn(from_on(700, math.nan), Spoils(), grid=[999, 666, 333, 0])


def test_the_padding_is_nobodys_answer():
    """Rows beyond the samples are thrown away unseen."""

    def network(x, t):
        return torch.where(torch.arange(len(x)).reshape(-1, 1, 1, 1) < 3, 0.0, math.nan) + 0 * x

    assert bool(drawn(network, n=3).x.isfinite().all())
    with pytest.raises(sb.NetworkFault):
        drawn(network, n=4)


def test_no_call_waits_for_the_device(monkeypatch):
    """What would have to wait is asked once, at the end."""

    def waits(self, *_):
        raise AssertionError("a number was read off a tensor")

    log = CallLog()
    x, c, level = torch.ones(9, 2), torch.ones(9, 1), VP.at_time(300)
    predictor = NetworkPredictor(lambda x, t, c: x * 0.5, "eps", "fractional", 4, c, without=c, log=log)
    monkeypatch.setattr(predictors, "waits", lambda x: True)
    with monkeypatch.context() as patch:
        for name in ("__bool__", "__int__", "__float__", "item", "tolist", "nonzero", "cpu", "numpy"):
            patch.setattr(torch.Tensor, name, waits)
        predictor.both(x, level)
        predictor(x, level)
    assert log.times == [300.0] * 3
    assert log.first_fault() is None
    log.saw(200.0, x, x * math.nan)
    assert log.first_fault() == 200.0


def test_on_the_cpu_only_calls_that_may_be_at_fault_are_recorded():
    log, x = CallLog(), torch.ones(9, 2)
    log.saw(300.0, x, x)
    log.saw(300.0, x * math.nan, x)
    assert log.times == []
    log.saw(200.0, x, torch.full_like(x, 3e38))  # the sum overflows, and no number is at fault
    assert log.times == [200.0]
    assert log.first_fault() is None
    log.saw(100.0, x, torch.tensor([math.inf, -math.inf]))
    assert log.first_fault() == 100.0


def test_a_run_goes_on_where_a_network_is_not_finite(tmp_path):
    model = model_of(from_on(400, math.nan))
    result = sb.run(model, ["ddim", "ddpm"], steps=[1, 4], n=4, metrics=[], output=tmp_path / "run")
    line = "failed: network: answered with NaN or infinity at timestep 333, with --dtype float32; look for half"
    assert [status[: len(line)] for status in result.table["status"]] == ["ok", line, "ok", line]
    assert (result.folder / "report.html").exists()


# ---- Changes in place ----

IN_PLACE = {
    "x": lambda x, t, c: x.mul_(0.5),
    "x, of a part": lambda x, t, c: x * x[1:].zero_().sum(),
    "x, and answers with another": lambda x, t, c: x.add_(1) * 0.5,
    "t": lambda x, t, c: x * t.div_(1000)[0],
    "condition": lambda x, t, c: x * c.clamp_(0, 0.5).reshape(-1, 1, 1, 1),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("n", thinned([3, 64, 65], 65))
@pytest.mark.parametrize("what", IN_PLACE)
def test_a_network_that_changes_what_it_is_given_is_named(what, n, guidance, inference):
    model = model_of(IN_PLACE[what], encode=lambda texts: torch.ones(len(texts)))
    name = what.partition(",")[0]
    with torch.inference_mode(inference), pytest.raises(sb.NetworkFault, match=f"^network: changed {name} in place; "):
        sb.sample(model, "ddim", 2, n=n, prompts=["a"], guidance=guidance)


def test_inference_mode_changes_nothing():
    def network(x, t):
        return 0.3 * x

    settings = {"predicts": "x0"}
    noisy, ones = drawn(network, "ddpm", settings=settings).x, torch.ones(2, *SHAPE)
    calm = drawn(network, settings=settings, x_init=ones).x
    with torch.inference_mode():
        start = torch.ones(2, *SHAPE)
        assert torch.equal(drawn(network, "ddpm", settings=settings).x, noisy)
        assert torch.equal(drawn(network, settings=settings, x_init=start).x, calm)
        assert torch.equal(start, ones)


def test_a_network_may_give_all_its_answers_in_one_buffer():
    """A network that overwrites its last answer at the next call, as compiled networks do."""
    buffer = torch.empty(2, *SHAPE)

    def reusing(x, t):
        return torch.mul(x, 0.5, out=buffer)

    settings = {"n": 5, "batch_size": 2}
    assert torch.equal(drawn(reusing, "heun", **settings).x, drawn(lambda x, t: x * 0.5, "heun", **settings).x)


def test_a_network_may_answer_with_what_it_was_given():
    assert torch.equal(drawn(lambda x, t: x).x, drawn(lambda x, t: x.clone()).x)


# ---- Precision ----


class Linear(torch.nn.Module):
    """A network that puts x, t and condition side by side, as many do: they must be of one dtype."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, x, t, condition):
        return self.layer(torch.cat([x, t[:, None], condition], dim=1))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("start", [None, torch.float16, torch.float64])
def test_a_network_is_told_time_and_condition_in_the_dtype_of_its_state(dtype, start):
    seen = []

    def network(x, t, condition):
        seen.append((x.dtype, t.dtype, condition.dtype))
        return x * 0.5

    model = sb.wrap_network(network, VP, (2,), encode=lambda texts: torch.ones(len(texts), 1))
    x_init = None if start is None else torch.ones(2, 2, dtype=start)
    sb.sample(model, "ddim", 2, n=2, prompts=["a"], dtype=dtype, x_init=x_init)
    assert set(seen) == {(getattr(torch, dtype),) * 3}
    torch.manual_seed(0)
    made = sb.sample(
        sb.wrap_network(Linear(), sb.flow(), (2,), "flow", encode=model.encode),
        "ddim",
        2,
        n=2,
        prompts=["a"],
        dtype=dtype,
    )
    assert made.x.shape == (2, 2)


def test_whole_timesteps_stay_whole_numbers():
    seen = []
    model = sb.wrap_network(lambda x, t: seen.append(t) or x * 0.5, VP, (2,), timesteps="integer")
    sb.sample(model, "ddim", 1, n=1, dtype="bfloat16")
    assert seen[0].dtype == torch.int64
    assert set(seen[0].tolist()) == {999}


def test_timesteps_that_bfloat16_cannot_tell_are_warned_of():
    seen = []
    model = sb.wrap_network(lambda x, t: seen.append(t) or x * 0.5, VP, (2,))
    with pytest.warns(
        UserWarning, match='in bfloat16 it is told timestep 1000 for 999; use float16 or timesteps="integer"'
    ):
        sb.sample(model, "ddim", 1, n=1, dtype="bfloat16")
    assert seen[0].dtype == torch.bfloat16
    sb.sample(sb.wrap_network(lambda x, t: x * 0.5, sb.edm(), (2,)), "ddim", 1, n=1, dtype="bfloat16")


def test_a_model_that_brings_its_own_network_is_told_exact_times_in_low_precision():
    seen = []

    def network(x, t):
        seen.append((x.dtype, t))
        return x * 0.5

    model = sb.Model(name="m", network=lambda *_: network, schedule=VP, shape=(2,))
    sb.sample(model, "ddim", grid=[531.7], x_init=torch.ones(1, 2), dtype="bfloat16")
    ((dtype, t),) = seen
    assert (dtype, t.dtype) == (torch.bfloat16, torch.float32)
    assert float(t[0]) == pytest.approx(531.7, rel=1e-7)


def test_the_error_of_a_network_names_the_dtypes_that_it_was_asked_with():
    model = sb.Model(
        name="m", network=lambda device, dtype: Linear().to(dtype), schedule=VP, shape=(2,),
        encode=lambda texts: torch.ones(len(texts), 1),
    )  # fmt: skip
    asked = r"x \(64, 2\) float16, t \(64,\) float32, condition \(64, 1\) float16"
    with pytest.raises(sb.ModelError, match=rf"^network: RuntimeError: .*; it was asked with {asked}$"):
        sb.sample(model, "ddim", 1, n=1, prompts=["a"], dtype="float16")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x, t: x.long(), "a strided tensor int64 on cpu; expected floating numbers on cpu"),
        (lambda x, t: x.to(torch.complex64), "a strided tensor complex64"),
        (lambda x, t: x.to("meta"), "a strided tensor float32 on meta"),
        (lambda x, t: x.to_sparse(), "a sparse_coo tensor float32"),
    ],
)
def test_an_answer_of_another_kind_is_refused(answer, said):
    with pytest.raises(sb.InputError, match=f"^network: answered with {said}"):
        drawn(answer)

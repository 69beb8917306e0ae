"""Guidance: rows with the prompt and without in one network call, what it counts, its memory, and what 0 means."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import samplerbench as sb
from samplerbench.bench.plan.config import Config, as_json
from samplerbench.bench.plan.plan import plan_for
from samplerbench.samplers.predictor import Guided, GuidedWithin, NetworkPredictor, Prediction, Question
from samplerbench.samplers.registry import load_registry

# The models here are made for a test: that their runs do not resume is as it should be.
pytestmark = pytest.mark.filterwarnings("ignore:model .* has no fingerprint:UserWarning")

TOY = str(Path(__file__).parents[1] / "toy.py")
LEVEL = sb.vp_linear().at_time(300)
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WITH, WITHOUT = torch.arange(5.0, dtype=torch.float64)[:, None], torch.full((5, 1), -2.0, dtype=torch.float64)
TOY_RUN = ("run", "--model", "toy", "--plugin", TOY, "--steps", 2, "-s", "ddim", "-n", 4, "-o", "here")


class Asked:
    """A network that answers with x times its condition and keeps what it was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, condition):
        self.calls.append((x.clone(), t.clone(), condition.clone()))
        return x * condition


def guided(network, guidance=3.0, calls=1, condition=WITH, without=WITHOUT):
    predictor = NetworkPredictor(network, "eps", "fractional", 4, condition, None, without, calls)
    return Guided(predictor.both, guidance)


def told(network=None, encode=None, unconditional=None, batch_size=4, **settings):
    """A model that is told the length of its prompt, and -2 for none."""
    network = network or Asked()
    return sb.Model(
        name="told", network=lambda device, dtype: network, schedule=sb.vp_linear(), shape=(3,), predicts="x0",
        batch_size=batch_size, encode=encode or (lambda texts: torch.tensor([[float(len(text))] for text in texts])),
        unconditional=unconditional or (lambda texts: torch.full((len(texts), 1), -2.0)), **settings,
    ), network  # fmt: skip


# ---- One call ----


def test_rows_without_the_prompt_stand_behind_those_with_it_in_one_call():
    network = Asked()
    answer = guided(network)(X, LEVEL).answer
    assert torch.allclose(answer, X * (WITHOUT + 3 * (WITH - WITHOUT)), rtol=0, atol=1e-14)
    (x, t, condition), (last_x, _, last_condition) = network.calls
    assert torch.equal(x, torch.cat([X[:4], X[:4]]))
    assert torch.equal(condition, torch.cat([WITH[:4], WITHOUT[:4]]))
    assert torch.equal(t, torch.full((8,), 300.0, dtype=torch.float64))
    assert torch.equal(last_x, X[4:].expand(8, 3))  # both halves are padded to the batch by themselves
    assert torch.equal(last_condition, torch.cat([WITH[4:].expand(4, 1), WITHOUT[4:].expand(4, 1)]))


@pytest.mark.parametrize("rows", [slice(None), slice(1, 2), slice(2, 5)])
def test_two_calls_give_the_answer_of_one(rows):
    one, two = Asked(), Asked()
    together = guided(one)(X[rows], LEVEL, rows).answer
    in_turn = guided(two, calls=2)(X[rows], LEVEL, rows).answer
    assert torch.equal(together, in_turn)
    assert torch.allclose(together, X[rows] * (WITHOUT + 3 * (WITH - WITHOUT))[rows], rtol=0, atol=1e-14)
    assert {len(x) for x, _, _ in one.calls} == {8}
    assert {len(x) for x, _, _ in two.calls} == {4}
    assert len(two.calls) == 2 * len(one.calls)


@pytest.mark.parametrize(
    ("settings", "calls", "rows"),
    [({}, 6, 4), ({"guidance": 2.0}, 6, 8), ({"guidance": 2.0, "guidance_calls": 2}, 12, 4), ({"guidance": 0.5}, 6, 8)],
)
def test_a_guided_evaluation_counts_two_in_one_call(settings, calls, rows):
    model, network = told()
    samples = sb.sample(model, "ddim", 3, n=7, prompts=["a", "bbb"], **settings)  # two batches a step
    assert [len(x) for x, _, _ in network.calls] == [rows] * calls
    assert samples.nfe == 3
    assert samples.network_evaluations == (6 if settings else 3)


@pytest.mark.parametrize("guidance", [0.5, 1.0, 2.0, 7.5])
def test_guided_samples_are_those_of_the_mixed_network(guidance):
    """The mix of two linear networks is a linear network."""
    model, _ = told()
    mixed, _ = told(encode=lambda texts: torch.tensor([[-2 + guidance * (len(text) + 2.0)] for text in texts]))
    settings = {"steps": 4, "prompts": ["", "bbb"], "x_init": X}
    got = sb.sample(model, "heun", guidance=guidance, **settings).x
    expected = sb.sample(mixed, "heun", **settings).x
    assert float(expected.abs().max()) > 0.1
    assert torch.allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_numbers_of_classes_stay_whole_in_the_joined_rows():
    model, network = told(
        lambda x, t, c: x + c[:, None] % 7,
        encode=lambda texts: torch.tensor([len(text) for text in texts]),
        unconditional=lambda texts: torch.full((len(texts),), 1000),
    )
    seen = []
    spying = dataclasses.replace(model, network=lambda *_: lambda x, t, c: seen.append(c) or network(x, t, c))
    sb.sample(spying, "ddim", 1, n=2, prompts=["a", "bb"], guidance=2.0, dtype="float16")
    assert seen[0].dtype == torch.int64
    assert seen[0].tolist() == [1, 2, 2, 2, 1000, 1000, 1000, 1000]


UNEQUAL = {
    "lengths": (lambda texts: torch.zeros(len(texts), 5), r"\(5,\) float32 and \(1,\) float32"),
    "dtypes": (lambda texts: torch.zeros(len(texts), 1, dtype=torch.int64), r"\(1,\) int64 and \(1,\) float32"),
    "dimensions": (lambda texts: torch.zeros(len(texts)), r"\(\) float32 and \(1,\) float32"),
}


@pytest.mark.parametrize(("encode", "kinds"), UNEQUAL.values(), ids=UNEQUAL)
def test_conditions_of_two_kinds_are_never_joined(encode, kinds):
    model, _ = told(lambda x, t, c: x * 0.5, encode=encode)
    with pytest.raises(sb.InputError, match=f"^guidance: the conditions .* {kinds}; .* use --guidance-calls 2$"):
        sb.sample(model, "ddim", 2, n=2, prompts=["a"], guidance=2.0)
    assert sb.sample(model, "ddim", 2, n=2, prompts=["a"], guidance=2.0, guidance_calls=2).network_evaluations == 4


def test_distilled_guidance_is_one_row_a_sample_whatever_the_calls():
    model, network = told(guide=lambda condition, guidance: condition * guidance)
    for calls in (1, 2):
        network.calls.clear()
        assert (
            sb.sample(model, "ddim", 1, n=4, prompts=["a"], guidance=3, guidance_calls=calls).network_evaluations == 1
        )
        ((x, _, condition),) = network.calls
        assert len(x) == 4
        assert condition.unique().tolist() == [3.0]


def test_guided_images_of_the_embedded_model_do_not_depend_on_their_number():
    model = sb.load_model("fashion-mnist")
    whole = sb.sample(model, "ddpm", 2, n=6, batch_size=4, guidance=3.0, prompts=["bag", "coat", "a dark dress"])
    for n in (1, 4, 5):
        part = sb.sample(model, "ddpm", 2, n=n, batch_size=4, guidance=3.0, prompts=["bag", "coat", "a dark dress"])
        assert torch.equal(part.x, whole.x[:n])
    in_turn = sb.sample(
        model, "ddpm", 2, n=6, batch_size=4, guidance=3.0, prompts=["bag", "coat", "a dark dress"], guidance_calls=2
    )
    assert float((in_turn.x - whole.x).abs().max()) < 1e-4
    assert float(whole.x.std()) > 0.1


# ---- Memory ----

NO_MEMORY = {
    "a device": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB"),
    "the processor": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 9000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "Windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9000000000 bytes."),
    "a library": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "Python": MemoryError(),
}


class Narrow:
    """A network with memory for so many rows."""

    def __init__(self, rows, error):
        self.rows, self.error = rows, error

    def __call__(self, x, t, *condition):
        if len(x) > self.rows:
            raise self.error
        return x * 0.5


@pytest.mark.parametrize("error", NO_MEMORY.values(), ids=NO_MEMORY)
def test_where_memory_does_not_reach_the_line_says_what_would(error):
    model, _ = told(Narrow(4, error))
    settings = {"steps": 2, "n": 3, "prompts": ["a"]}
    lacked = r"(, which lacked 9(\.00)? Gi?B)" if "allocate 9" in str(error) else ""
    with pytest.raises(
        sb.NetworkFault, match=rf"^network: no memory for 8 rows of \(3,\){lacked}; try --guidance-calls 2, "
    ):
        sb.sample(model, "ddim", guidance=2.0, **settings)
    assert sb.sample(model, "ddim", guidance=2.0, guidance_calls=2, **settings).network_evaluations == 4
    small, _ = told(Narrow(2, error))
    for more in ({}, {"guidance": 2.0, "guidance_calls": 2}):
        with pytest.raises(sb.NetworkFault, match=r"no memory for 4 rows .* try a smaller --batch-size$"):
            sb.sample(small, "ddim", **settings, **more)
    none, _ = told(Narrow(0, error), batch_size=1)
    with pytest.raises(sb.NetworkFault, match=r"no memory for 1 rows .* try --dtype float16, or a smaller model"):
        sb.sample(none, "ddim", **settings)


def test_another_error_of_a_network_is_no_want_of_memory():
    model, _ = told(Narrow(0, RuntimeError("sizes do not match")))
    with pytest.raises(sb.ModelError, match="sizes do not match"):
        sb.sample(model, "ddim", 1, n=1, prompts=["a"], guidance=2.0)


def test_a_cell_without_memory_fails_alone_and_two_calls_run_it(tmp_path):
    network = Narrow(4, torch.OutOfMemoryError("CUDA out of memory"))
    model = sb.wrap_network(
        network, sb.vp_linear(), (1, 4, 4), batch_size=4, encode=lambda texts: torch.zeros(len(texts), 1)
    )
    told = {"steps": 2, "n": 4, "prompts": "a", "guidance": 2.0, "metrics": []}
    failed = sb.run(model, ["ddim", "ddpm"], output=tmp_path / "one", **told)
    line = "failed: network: no memory for 8 rows of (1, 4, 4); try --guidance-calls 2"
    assert all(status.startswith(line) for status in failed.table["status"])
    assert {"table.csv", "report.html"} <= {path.name for path in failed.folder.iterdir()}
    table = sb.run(model, "ddim", guidance_calls=2, output=tmp_path / "two", **told).table
    assert table[["status", "nfe", "network_evaluations"]].values.tolist() == [["ok", 2, 4]]


# ---- The setting ----


def cell(**settings):
    config = Config(model="toy", sampler=("ddim",), steps=(3,), samples=4, **settings)
    return plan_for(config, load_registry([TOY])).cells[0]


def test_two_calls_are_part_of_a_cells_key_and_one_is_not():
    assert "guidance_calls" not in as_json(Config())
    assert as_json(Config(guidance_calls=2))["guidance_calls"] == 2
    plain, one, two = cell(guidance=2.0), cell(guidance=2.0, guidance_calls=1), cell(guidance=2.0, guidance_calls=2)
    assert plain.key == one.key != two.key
    assert cell().key == cell(guidance_calls=2).key  # no call without the prompt is made


@pytest.mark.parametrize("source", ["option", "config", "environment"])
def test_the_calls_can_be_given_like_every_other_setting(sb, tmp_path, source):
    more, env = (), {}
    if source == "option":
        more = ("--guidance-calls", 2)
    elif source == "config":
        (tmp_path / "c.toml").write_text("guidance-calls = 2\n")
        more = ("--config", "c.toml")
    else:
        env = {"SAMPLERBENCH_RUN_GUIDANCE_CALLS": "2"}
    assert sb(*TOY_RUN, "--guidance", 2, *more, env=env).code == 0
    assert json.loads((tmp_path / "here" / "run.json").read_text())["config"]["guidance_calls"] == 2


def test_a_run_from_python_takes_the_calls(tmp_path):
    told = {"steps": 2, "n": 4, "guidance": 2.0, "plugins": [TOY], "metrics": []}
    one = sb.run("toy", "ddim", output=tmp_path / "one", **told).table
    two = sb.run("toy", "ddim", guidance_calls=2, output=tmp_path / "two", **told)
    assert two.table["network_evaluations"].tolist() == one["network_evaluations"].tolist() == [4]
    assert "guidance_calls=2" in (two.folder / "report.html").read_text()


def test_a_grid_takes_the_calls_and_says_them_in_its_command(sb):
    grid = ("grid", "--model", "toy", "--plugin", TOY, "-x", "guidance=1,2", "-s", "ddim", "--steps", 2, "-o", "g.png")
    done = sb(*grid, "--guidance-calls", 2)
    assert done.code == 0
    assert "--guidance-calls 2" in done.err
    assert "--guidance-calls" not in sb(*grid).err


@pytest.mark.parametrize("calls", ["0", "3", "'1.5'", "'x'", "-1"])
def test_other_numbers_of_calls_are_refused(sb, tmp_path, calls):
    refused = sb(*TOY_RUN, "--guidance", 2, "--guidance-calls", calls.strip("'"))
    refused.refused(2, f"guidance_calls {calls}: expected 1")
    assert not list(tmp_path.iterdir())


# ---- What 0 means ----


@pytest.mark.parametrize("guidance", ["0", "0.0", "-0", "1e-400"])
def test_guidance_0_is_refused_with_what_it_may_have_meant(sb, tmp_path, guidance):
    words = ("guidance 0: expected a number above 0", "no guidance, which is 1 here", "give an empty prompt")
    sb(*TOY_RUN, "--guidance", guidance).refused(2, *words)
    sb("grid", "--model", "toy", "--plugin", TOY, "--guidance", guidance).refused(2, *words)
    sb("grid", "--model", "toy", "--plugin", TOY, "-x", f"guidance={guidance},2").refused(2, *words)
    (tmp_path / "c.toml").write_text("guidance = 0\n")
    sb(*TOY_RUN, "--config", "c.toml").refused(2, "config c.toml: guidance 0")
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]


@pytest.mark.parametrize("model", [told()[0], told(guide=lambda condition, guidance: condition)[0]])
def test_guidance_0_is_refused_from_python_too(model):
    with pytest.raises(sb.InputError, match=r"^guidance 0: .* 1 here; .* give an empty prompt$"):
        sb.sample(model, "ddim", 2, n=1, prompts=["a"], guidance=0)


@pytest.mark.parametrize("guidance", ["1e300", "1e7", "1e400", "-1", "nan"])
def test_guidance_out_of_range_is_one_line(sb, tmp_path, guidance):
    sb(*TOY_RUN, "--guidance", guidance).refused(2, "guidance ", "expected a number above 0, up to 1e+06")
    sb("grid", "--model", "toy", "--plugin", TOY, "-x", f"guidance={guidance},2").refused(2, "guidance ")
    assert not list(tmp_path.iterdir())


def test_weak_and_strong_guidance_are_what_they_were():
    model, _ = told()
    for guidance in (1e-6, 0.5, 1e6):
        assert sb.sample(model, "ddim", 2, n=1, prompts=["a"], guidance=guidance).network_evaluations == 4


# ---- An interval of levels ----


LEVELS = [20.0, 5.0, 1.0, 0.3, 0.1]
"""sigma / alpha of a run on EDM."""


def within(interval, guidance=3.0, sampler="euler", **settings):
    """A run of the told model on EDM with guidance in an interval."""
    model, _ = told(lambda x, t, condition: x * 0 + condition.to(x) / (1 + t[0]))
    model = dataclasses.replace(model, schedule=sb.edm())
    return sb.sample(
        model, sampler, grid=LEVELS, prompts=["four"], guidance=guidance, guidance_interval=interval, n=3,
        x_init=20 * X[:3], **settings,
    )  # fmt: skip


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("interval", [(0.0, 100.0), (0.1, 5.0), (0.3, 4.9), (5.0, 20.0), (30.0, 40.0)])
def test_guidance_in_an_interval_is_euler_with_it_at_those_levels_alone(interval, calls):
    """The network says c / (1 + sigma) of x0: 4 with the prompt, -2 without."""
    low, high = interval
    x = 20 * X[:3].numpy()
    guided_at = [s for s in LEVELS if low < s <= high]
    for s, s_next in zip(LEVELS, [*LEVELS[1:], 0.0], strict=True):
        x0 = (-2 + 3 * (4 + 2) if s in guided_at else 4) / (1 + s)
        x = x0 + s_next / s * (x - x0)
    got = within(interval, guidance_calls=calls)
    assert float(abs(x).max()) > 0.3
    assert float(abs(got.x.numpy() - x).max()) < 1e-12
    assert (got.nfe, got.network_evaluations) == (5, 5 + len(guided_at))


def test_an_interval_that_holds_every_level_changes_no_byte_and_one_that_holds_none_is_guidance_1():
    assert torch.equal(within((0.0, 1e6)).x, within(None).x)
    assert torch.equal(within((30.0, 40.0)).x, within(None, 1.0).x)
    assert not torch.equal(within((0.3, 4.9)).x, within(None).x)


def test_the_passes_of_samplers_with_inner_levels_are_counted_where_they_are_made():
    asked = []
    model, _ = told(lambda x, t, condition: asked.append(float(t[0])) or x * 0 + condition.to(x))
    model = dataclasses.replace(model, schedule=sb.edm(), batch_size=64)
    got = sb.sample(
        model, "dpm2", grid=[80.0, *LEVELS], prompts=["four"], guidance=2.0, n=3, guidance_interval=(0.5, 3.0)
    )
    assert got.nfe == len(asked) == 11
    assert got.network_evaluations == 11 + sum(0.5 < t <= 3.0 for t in asked)
    adaptive = sb.sample(
        model, "dpm-solver-adaptive", grid=[80.0, 0.1], prompts=["a", "four"], guidance=2.0, n=4,
        guidance_interval=(0.5, 3.0),
    )  # fmt: skip
    assert adaptive.nfe < adaptive.network_evaluations < 2 * adaptive.nfe


class AllLevels(sb.Sampler):
    """Euler in one interval, that asks about the state at each of LEVELS and keeps what is said."""

    def __init__(self, *, at_once, unconditional):
        self.at_once, self.needs_unconditional, self.said = at_once, unconditional, []

    def nfe(self, steps):
        return len(LEVELS) * steps

    def step(self, run, x, a, b, past):
        asked = [(x, run.schedule.at_time(t)) for t in LEVELS]
        self.said = run.predict_many(asked) if self.at_once else [run.predict(*one) for one in asked]
        return self.said[0].combine(b.alpha, b.sigma), None


@pytest.mark.parametrize("unconditional", [False, True])
@pytest.mark.parametrize("calls", [1, 2])
def test_states_on_both_sides_of_an_interval_are_asked_about_at_once_as_one_by_one(unconditional, calls):
    network = Asked()
    model = dataclasses.replace(told(network)[0], schedule=sb.edm())

    def drawn(at_once):
        network.calls.clear()
        sampler = AllLevels(at_once=at_once, unconditional=unconditional)
        found = sb.sample(
            model, sampler, 1, prompts=["four"], guidance=3.0, guidance_interval=(0.3, 5.0), n=3, dtype="float64",
            guidance_calls=calls,
        )  # fmt: skip
        assert (found.nfe, found.network_evaluations) == (5, 10 if unconditional else 7)
        return sampler.said, len(network.calls)

    (singly, _), (at_once, made) = drawn(False), drawn(True)
    assert made == (calls if unconditional else 1) + calls
    for t, one, other in zip(LEVELS, singly, at_once, strict=True):
        # The network says x c: 4 with the prompt, -2 without.
        assert torch.allclose(other.answer, one.x * (-2 + 3 * 6 if t in (5.0, 1.0) else 4), rtol=1e-12)
        assert torch.equal(one.answer, other.answer)
        assert other.level.t == t
        if unconditional:
            assert torch.allclose(other.unconditional.answer, -2 * one.x, rtol=1e-12)


def test_an_interval_tells_both_sides_the_rows_and_the_hints():
    seen = []

    class Told:
        def __init__(self, side):
            self.side = side

        def many(self, asked, rows, hints):
            seen.append((self.side, [question.level.t for question in asked], rows, hints))
            return [Prediction(question.x, question.level, question.x, "eps") for question in asked]

    levels = [sb.edm().at_time(t) for t in LEVELS]
    asked = [Question(torch.ones(3, 1), level) for level in levels]
    within = GuidedWithin(Told("guided"), Told("outside"), (0.3, 5.0))
    found = within.many(asked, slice(2, 5), {"reuse": True})
    assert [said.level for said in found] == levels
    assert seen == [
        ("guided", [t for t in LEVELS if 0.3 < t <= 5], slice(2, 5), {"reuse": True}),
        ("outside", [t for t in LEVELS if not 0.3 < t <= 5], slice(2, 5), {"reuse": True}),
    ]


def test_a_call_past_the_counter_is_found_where_an_interval_spares_passes():
    class Past(AllLevels):
        def step(self, run, x, a, b, past):
            run.predictor.inner(x, a)
            return super().step(run, x, a, b, past)

    model = dataclasses.replace(told(Asked())[0], schedule=sb.edm())
    with pytest.raises(sb.SamplerbenchError, match="asked the network 1 times past the counter"):
        sb.sample(
            model, Past(at_once=True, unconditional=False), 1, prompts=["four"], guidance=3.0, n=3,
            guidance_interval=(0.3, 5.0),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": (5.0, 1.0)}, "guidance_interval .*0 <= low < high"),
        ({"interval": (-1.0, 1.0)}, "0 <= low < high"),
        ({"interval": (1.0,)}, "expected low and high"),
        ({"interval": 3.0}, "expected low and high"),
        ({"interval": (1.0, float("inf"))}, "0 <= low < high"),
        ({"interval": (0.2, 5.0), "guidance": 1.0}, "guidance_interval .*has no effect at guidance 1"),
    ],
)
def test_an_interval_without_an_effect_or_a_sense_is_refused(settings, message):
    with pytest.raises(sb.InputError, match=message):
        within(**settings)


def test_a_model_that_is_told_its_guidance_takes_no_interval():
    model, _ = told(guide=lambda condition, guidance: condition * guidance)
    with pytest.raises(sb.InputError, match="is told its guidance"):
        sb.sample(model, "ddim", 2, prompts=["four"], guidance=3.0, guidance_interval=(0.2, 5.0))


def test_an_interval_is_part_of_a_cells_key_and_its_absence_is_not():
    registry = load_registry([TOY])

    def key_of(**settings):
        return (
            plan_for(Config(model="toy", sampler=("ddim",), steps=(2,), samples=4, **settings), registry).cells[0].key
        )

    assert key_of(guidance=3.0, guidance_interval=None) == key_of(guidance=3.0)
    assert len({key_of(guidance=3.0), *(key_of(guidance=3.0, guidance_interval=i) for i in ((0, 5), (0, 6)))}) == 3

"""Faster networks: what is handed to the compiler, what its time is, what the key of a cell knows of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import samplerbench as sb
from samplerbench.bench.draw.chunk import make_chunk, warm_up
from samplerbench.bench.draw.clock import Repeat, clock_columns, repeats_among
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.show.provenance import stages_to_text
from samplerbench.samplers import acceleration
from samplerbench.samplers.acceleration import Acceleration, accelerate, turned
from samplerbench.samplers.errors import InputError, ModelError
from samplerbench.samplers.model import wrap_network
from samplerbench.samplers.process import switches
from samplerbench.samplers.registry import load_registry
from samplerbench.samplers.sample import draw, request_for

TOY = str(Path(__file__).parents[1] / "toy.py")
REGISTRY = load_registry([TOY])
CPU = torch.device("cpu")


def network(x, t):
    return x * 0.1


def model_of(network=network, **settings):
    return wrap_network(network, shape=(3, 4, 4), schedule=sb.vp_linear(), fingerprint="mine", **settings)


def compiled(model, compiler, **how):
    """The model, compiled by a stand-in."""
    made = accelerate(model, Acceleration(compile=True, **how), "cpu")
    return replace(made, network=replace(made.network, compiler=compiler))


class Compiler:
    """Counts what it compiles, and what its programs are called with."""

    def __init__(self):
        self.compiled, self.called = [], []

    def __call__(self, network, **how):
        self.compiled.append(how)

        def program(x, *others):
            self.called.append(len(x))
            return network(x, *others)

        return program


@pytest.fixture
def clocked(monkeypatch):
    """A clock that advances by a second whenever it is read."""
    now = iter(range(10**6))
    monkeypatch.setattr(acceleration, "clock", lambda device: float(next(now)))


def test_a_network_is_compiled_once_and_each_number_of_rows_is_asked_once_more_for_that(clocked):
    compiler = Compiler()
    model = compiled(model_of(), compiler)
    request = request_for(REGISTRY, model, "ddim", steps=3, batch_size=2)
    first = draw(request, 0, 2)
    again = draw(request, 2, 2)
    assert compiler.compiled == [{"dynamic": False, "mode": "default"}]
    # One call compiles, the others are those of the sampler.
    assert compiler.called == [2] * (1 + 3 + 3)
    assert (first.compile_seconds, again.compile_seconds) == (1.0, 0.0)
    other = draw(replace(request, batch_size=4), 0, 4)
    assert other.compile_seconds == 1.0
    assert len(compiler.compiled) == 1


def test_a_compiled_network_draws_the_same_samples_where_it_answers_the_same():
    plain, faster = (
        sb.sample(m, "ddim", steps=4, n=3, batch_size=4) for m in (model_of(), compiled(model_of(), Compiler()))
    )
    assert torch.equal(plain.x, faster.x)
    assert plain.nfe == faster.nfe == 4


def test_what_the_compiler_cannot_do_is_one_line_that_names_the_option():
    def fails(network, **how):
        def program(*given):
            raise RuntimeError("graph break\nin line 7")

        return program

    with pytest.raises(
        ModelError,
        match=r"^model 'network': the network cannot be compiled \(RuntimeError: graph break"
        r".*\); leave out --compile$",
    ):
        sb.sample(compiled(model_of(), fails), "ddim", steps=2, n=1)


def test_a_network_that_fails_by_itself_is_not_the_compilers_fault():
    def broken(x, t):
        raise ValueError("no such layer")

    with pytest.raises(ModelError, match="no such layer") as caught:
        sb.sample(compiled(model_of(broken), Compiler()), "ddim", steps=2, n=1)
    assert "compile" not in str(caught.value)


def test_a_network_that_takes_hints_is_refused_by_name():
    def hinted(x, t, hints):
        return x

    with pytest.raises(InputError, match="--compile: the network of model 'network' takes hints"):
        sb.sample(compiled(model_of(hinted), Compiler()), "ddim", steps=2, n=1)


def test_hints_pass_where_nothing_is_compiled():
    def hinted(x, t, hints):
        return x * len(hints.given)

    model = accelerate(model_of(hinted), Acceleration(channels_last=True), "cpu")
    assert sb.sample(model, "ddim", steps=2, n=1).nfe == 2


def test_channels_last_hands_over_that_layout():
    seen = []

    def layout(x, t):
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return x * 0.1

    sb.sample(accelerate(model_of(layout), Acceleration(channels_last=True), "cpu"), "ddim", steps=2, n=2, batch_size=2)
    assert seen == [True, True]
    flat = replace(model_of(), shape=(5,))
    with pytest.raises(InputError, match=r"--channels-last: is of states \(C, H, W\)"):
        accelerate(flat, Acceleration(channels_last=True), "cpu")


@pytest.mark.parametrize("name", ["tf32", "cudnn_benchmark"])
def test_what_is_of_cuda_is_refused_elsewhere(name):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')}: is of CUDA, and the device is cpu"):
        accelerate(model_of(), Acceleration(**{name: True}), "cpu")


@pytest.mark.parametrize(
    ("name", "switch", "value"),
    [("tf32", "torch.backends.cuda.matmul.fp32_precision", "tf32"),
     ("cudnn_benchmark", "torch.backends.cudnn.benchmark", True)],
)  # fmt: skip
def test_switches_are_turned_for_a_call_and_all_are_as_they_were_behind_it(name, switch, value):
    seen = []

    def looks(x, t):
        seen.append(switches().get(switch))
        return x

    model = accelerate(model_of(looks), Acceleration(**{name: True}), "cuda")
    ask = replace(model.network, load=lambda device, dtype: looks)(CPU, torch.float32)
    was = switches()
    ask(torch.ones(1, 3, 4, 4), torch.ones(1))
    assert seen == [value]
    assert switches() == was
    with pytest.raises(ValueError, match="inside"), turned(acceleration.TURNED[name]):
        raise ValueError("inside")
    assert switches() == was


class Again(Compiler):
    """Compiles again at some calls, as torch does where a call lies otherwise in memory."""

    def __init__(self, monkeypatch, calls):
        super().__init__()
        monkeypatch.setattr(acceleration, "programs_made", lambda: sum(call <= len(self.called) for call in calls))


def test_a_draw_in_which_the_network_is_compiled_again_is_none_of_a_ready_network(monkeypatch):
    model = compiled(model_of(), Again(monkeypatch, [1, 6]))
    request = request_for(REGISTRY, model, "ddim", steps=3, batch_size=2)
    compiling = [draw(request, first, 2).compile_seconds > 0 for first in (0, 2, 4)]
    assert compiling == [True, True, False]


def test_a_network_that_is_compiled_at_every_call_is_refused(monkeypatch):
    model = compiled(model_of(), Again(monkeypatch, range(100)))
    with pytest.raises(ModelError, match=r"the network is compiled again and again .*; leave out --compile$"):
        sb.sample(model, "ddim", steps=10, n=1)


@pytest.mark.slow
def test_torch_compiles_as_many_kinds_of_calls_as_there_are(monkeypatch):
    made = []

    def counting(graph, _):
        made.append(graph)
        return graph.forward

    def compiler(network, **how):
        return torch.compile(network, dynamic=how["dynamic"], backend=counting)

    ask = compiled(model_of(), compiler).network(CPU, torch.float32)
    with torch.no_grad():
        for rows in range(1, 12):
            ask(torch.ones(rows, 3, 4, 4), torch.ones(rows))
    assert len(made) == 11


# In a run


def plan_with(**settings):
    given = {"model": "toy", "sampler": ("ddim", "ddpm"), "steps": (2,), "samples": 64, "metric": ("none",)}
    return plan_for(Config(**given | settings), REGISTRY)


def test_each_acceleration_is_part_of_a_cell_and_its_absence_of_none():
    plain, faster, other = plan_with(), plan_with(compile=True), plan_with(channels_last=True)
    assert len({plan.cells[0].key for plan in (plain, faster, other)}) == 3
    assert plan_with(compile=False).cells[0].key == plain.cells[0].key
    # Of a network that came as an object, the user's own code stays part of the key.
    keys = set()
    for own in (network, lambda x, t: x * 0.2):
        model = replace(model_of(own), fingerprint="")
        keys.add(plan_for(plan_with(compile=True).config, REGISTRY, model).cells[0].key)
    assert len(keys) == 2


def by_stand_in(plan):
    """The plan, whose network a stand-in compiles."""
    network = replace(plan.model.network, compiler=Compiler())
    model = replace(plan.model, network=network)
    cells = tuple(replace(cell, request=replace(cell.request, model=model)) for cell in plan.cells)
    return replace(plan, model=model, cells=cells, trial=replace(plan.trial, model=model))


def test_a_trial_compiles_what_the_cells_ask_before_the_clock_runs(clocked):
    plan = by_stand_in(plan_with(compile=True, guidance=(1.0, 2.0)))
    warm_up(plan)
    chunks = [make_chunk(plan, cell, plan.blocks[0], (), None) for cell in plan.cells]
    assert all(chunk.timing.ready for chunk in chunks)
    # Rows with the prompt, and twice as many with guidance: two programs, told once.
    assert [chunk.timing.compile_seconds for chunk in chunks] == [2.0, 0.0, 0.0, 0.0]


def test_a_time_in_which_the_network_was_compiled_enters_no_column(clocked):
    plan = by_stand_in(plan_with(compile=True))
    cold, warm = (make_chunk(plan, plan.cells[0], plan.blocks[0], (), None) for _ in range(2))
    assert (cold.timing.ready, warm.timing.ready) == (False, True)
    assert repeats_among([cold.repeat, warm.repeat]) == [warm.repeat]
    columns = clock_columns([cold.repeat, warm.repeat])
    assert columns["repeats"] == 1
    assert columns["compile_seconds"] == 1.0
    assert "compile_seconds" not in clock_columns([Repeat(64, replace(warm.timing, compile_seconds=None))])


@pytest.mark.slow
def test_a_run_with_the_real_compiler_gives_the_numbers_of_one_without(tmp_path):
    pytest.importorskip("torch._inductor")
    how = {"steps": [3], "n": 64, "metrics": ["fid"]}
    plain = sb.run("fashion-mnist", ["ddim"], output=tmp_path / "plain", **how)
    faster = sb.run("fashion-mnist", ["ddim"], output=tmp_path / "faster", compile=True, **how)
    assert faster.table["fid"][0] == pytest.approx(plain.table["fid"][0], rel=1e-4)
    assert faster.table["compile_seconds"][0] > 0
    assert "the network was compiled in" in stages_to_text(faster.table, range(len(faster.table)))
    assert json.loads((tmp_path / "faster" / "run.json").read_text())["config"]["compile"] is True

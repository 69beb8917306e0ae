"""The user's own network: how it is recognised, and the message for one that cannot be."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import samplerbench as sb_
from cases import FURTHER
from samplerbench.bench.draw import chunk
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.judge.run_metrics import ready_metrics
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.plan import identity
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.plan.record import ModelRecord
from samplerbench.samplers.model import Model
from samplerbench.samplers.registry import load_registry

REGISTRY = load_registry()
MODULE = """
import torch
import samplerbench as sb

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))
        self.register_buffer("shift", torch.tensor(0.0), persistent=False)
        self.scale = 1.0
    def forward(self, x, t):
        return self.scale * self.weight * x + self.shift

def make():
    return sb.wrap_network(Net(), sb.vp_linear(), shape=(1, 4, 4), clip=(-1, 1))
"""
FUNCTION = """
import samplerbench as sb
FACTOR = 0.5

def network(x, t):
    return FACTOR * x

def make():
    return sb.wrap_network(network, sb.vp_linear(), shape=(1, 4, 4), clip=(-1, 1){})
"""
RUN = ("run", "--model", "mine.py:make", "-s", "ddim", "--steps", "2", "-n", "8", "-o", "run", "--json")
NOTE = "has no fingerprint and is no torch module to be known by: this run will not resume; give wrap_network("
THEIRS = """
from samplerbench import hookimpl
from samplerbench.plugins.samplers.ddim import DDIM

class Theirs(DDIM):
    pass

@hookimpl
def samplerbench_samplers():
    return {"theirs": Theirs}
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Write the file of a model into the current folder."""
    monkeypatch.chdir(tmp_path)
    return (tmp_path / "mine.py").write_text


def go(sb):
    """Run the model of the file; the outcome."""
    done = sb(*RUN)
    assert done.code == 0, done.err
    return done


def test_a_function_does_not_resume_and_one_line_says_so_before_it_is_drawn(sb, mine):
    mine(FUNCTION.format(""))
    for _ in range(2):
        done = go(sb)
        said = done.err.splitlines()
        (told,) = (
            number for number, line in enumerate(said) if line.startswith(f"Warning: model 'mine.py:make' {NOTE}")
        )
        assert "fingerprint=" in said[told]
        assert any("network evaluations to make" in line and " 0 network" not in line for line in said[told:])
    assert json.loads(done.out)["table"][0]["status"] == "ok"


def test_a_function_with_a_fingerprint_resumes_until_it_or_its_code_changes(sb, mine):
    mine(FUNCTION.format(', fingerprint="a"'))
    assert " 0 network evaluations" not in go(sb).err
    assert read_run(Path("run")).model == ModelRecord("mine.py:make", "a")
    again = go(sb)
    assert " 0 network evaluations to make" in again.err
    assert NOTE not in again.err
    for changed in (FUNCTION.format(', fingerprint="b"'), FUNCTION.format(', fingerprint="a"').replace("0.5", "0.6")):
        mine(changed)
        sb(*RUN).refused(2, "belongs to another run", "the model, its code")


def test_a_torch_module_resumes_by_itself(sb, mine):
    mine(MODULE)
    first = go(sb)
    assert NOTE not in first.err
    again = go(sb)
    assert " 0 network evaluations to make" in again.err
    assert json.loads(again.out)["table"] == json.loads(first.out)["table"]
    assert sb("verify", "run", "--model", "mine.py:make").code == 0
    assert ready_metrics(StoredRun(Path("run")), load_registry(models=["mine.py:make"])) == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.tensor(0.5)", "torch.tensor(0.25)"),
        pytest.param("torch.tensor(0.0), persistent", "torch.tensor(0.1), persistent", marks=FURTHER),
        ("self.scale = 1.0", "self.scale = 2.0"),
        pytest.param("self.weight * x", "self.weight * x.tanh()", marks=FURTHER),
        ("import samplerbench as sb", "import samplerbench as sb  # edited"),
    ],
)
def test_another_torch_module_is_another_model(sb, mine, old, new):
    mine(MODULE)
    go(sb)
    assert old in MODULE
    mine(MODULE.replace(old, new))
    sb(*RUN).refused(2, "belongs to another run")
    sb("verify", "run", "--model", "mine.py:make").refused(4, "has the fingerprint 'module:")
    if "scale" not in old:  # which only a sample tells
        with pytest.raises(sb_.ModelError, match="has the fingerprint 'module:"):
            ready_metrics(StoredRun(Path("run")), load_registry(models=["mine.py:make"]))


class Net(torch.nn.Module):
    """A network with a weight, and a number that is no weight."""

    def __init__(self, weight=0.5, scale=1.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight))
        self.scale = scale

    def forward(self, x, t):
        """Scaled."""
        return self.scale * self.weight * x


class PromptedNet(Net):
    """A network that is told a number."""

    def forward(self, x, t, condition):
        """Shifted by it."""
        return super().forward(x, t) + condition.to(x)


def fingerprint_of(network, **settings):
    """What a plan knows the network by."""
    model = sb_.wrap_network(network, sb_.vp_linear(), (2,), **settings)
    config = Config(model=model.name, sampler=("ddim",), steps=(2,), samples=8)
    return plan_for(config, REGISTRY, model).model.fingerprint


def differ(one, other):
    """Which parts of two fingerprints are not the same: weights, code, sample."""
    return [a != b for a, b in zip(one.split(":")[1:], other.split(":")[1:], strict=True)]


def test_a_fingerprint_is_of_weights_code_and_a_sample():
    before = fingerprint_of(Net())
    kind, *parts = before.split(":")
    assert (kind, [len(part) for part in parts]) == ("module", [16, 16, 16])
    assert fingerprint_of(Net()) == before
    assert differ(before, fingerprint_of(Net(weight=0.6))) == [True, False, True]
    assert differ(before, fingerprint_of(Net(scale=2.0))) == [False, False, True]
    heir = type("Net", (Net,), {"__module__": "samplerbench.samplers.nets.unet", "__qualname__": "Net"})
    assert differ(before, fingerprint_of(heir())) == [False, True, False]
    assert fingerprint_of(Net(), fingerprint="mine") == "mine"


def test_a_module_is_looked_at_when_a_run_is_planned_and_not_before():
    network = Net()
    model = sb_.wrap_network(network, sb_.vp_linear(), (2,))
    assert model.fingerprint == ""
    first = identity.identify(model, REGISTRY, Config()).fingerprint
    with torch.no_grad():
        network.weight += 0.5  # trained on
    assert identity.identify(model, REGISTRY, Config()).fingerprint != first


def test_to_be_known_leaves_the_process_and_the_module_as_they_were():
    network = Net().train()
    before = torch.get_rng_state()
    fingerprint_of(network)
    assert torch.equal(torch.get_rng_state(), before)
    assert network.training


def test_the_decoded_image_is_seen_too():
    model = sb_.wrap_network(Net(), sb_.vp_linear(), (2,))

    def black(x):
        return torch.zeros(len(x), 1, 4, 4, dtype=torch.uint8)

    def white(x):
        return black(x) + 255

    shown = [dataclasses.replace(model, decode=decode, image_shape=(1, 4, 4)) for decode in (black, white)]
    one, other = (identity.identify(shown_, REGISTRY, Config()).fingerprint for shown_ in shown)
    assert differ(one, other) == [False, False, True]


def test_a_module_that_takes_prompts_is_asked_about_one_of_them():
    model = sb_.wrap_network(
        PromptedNet(), sb_.vp_linear(), (2,), encode=lambda texts: torch.tensor([[float(len(t))] for t in texts])
    )
    config = Config(model="network", prompts=("a", "bb"))
    one = identity.identify(model, REGISTRY, config).fingerprint
    assert one != identity.identify(model, REGISTRY, dataclasses.replace(config, prompts=("bbb",))).fingerprint
    assert identity.identify(model, REGISTRY, Config(model="network")).fingerprint


def test_a_module_that_cannot_be_drawn_from_is_not_known():
    class Broken(Net):
        def forward(self, x, t):
            raise RuntimeError

    assert fingerprint_of(Broken()) == ""


def test_what_a_run_says_of_a_module_is_the_same_model_without_a_sample():
    whole = fingerprint_of(Net())
    part = identity.add_fingerprint(sb_.wrap_network(Net(), sb_.vp_linear(), (2,))).fingerprint
    assert identity.is_same(whole, part)
    assert identity.is_same(whole, whole)
    other = identity.add_fingerprint(sb_.wrap_network(Net(weight=0.6), sb_.vp_linear(), (2,))).fingerprint
    assert not identity.is_same(whole, other)
    assert not identity.is_same("toy 10", "toy 1")
    assert identity.is_same("toy 1", "toy 1")


def test_the_child_is_told_from_the_parent_by_what_is_seen():
    model = sb_.wrap_network(Net(), sb_.vp_linear(), (2,))
    config = Config(model=model.name, sampler=("ddim",), steps=(2,), samples=8)
    plan = plan_for(config, REGISTRY, model)
    assert chunk.answer_of(plan) == plan.model.fingerprint
    given = plan_for(config, REGISTRY, dataclasses.replace(model, fingerprint="mine"))
    assert chunk.answer_of(given) is None
    nameless = plan_for(config, REGISTRY, sb_.wrap_network(lambda x, t: 0.5 * x, sb_.vp_linear(), (2,)))
    assert chunk.answer_of(nameless)


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "code"), [("torch.tensor(0.5)", 0), ("torch.randn(())", 1)])
def test_a_module_is_the_same_in_a_child_unless_it_is_made_at_random(sb, mine, monkeypatch, tmp_path, weight, code):
    monkeypatch.setenv("SAMPLERBENCH_IN_PROCESS", "0")
    mine(MODULE.replace("torch.tensor(0.5)", weight))
    (tmp_path / "theirs.py").write_text(THEIRS)
    done = sb("run", "--model", "mine.py:make", "-s", "theirs", "--steps", "2", "-n", "8", "--plugin", "theirs.py")
    assert done.code == code, done.err
    assert ("made at random; fix its seed" in done.out) is bool(code)


def test_python_is_warned_where_a_run_will_not_resume(tmp_path):
    model = sb_.wrap_network(lambda x, t: 0.5 * x, sb_.vp_linear(), (2,))
    with pytest.warns(UserWarning, match="model 'network' has no fingerprint") as caught:
        sb_.run(model, "ddim", 2, 8, metrics=[], output=tmp_path / "run")
    assert caught[0].filename == __file__
    sb_.run(sb_.wrap_network(Net(), sb_.vp_linear(), (2,)), "ddim", 2, 8, metrics=[], output=tmp_path / "module")


# Names


REGISTERED = """
import samplerbench as sb

def nameless(argument):
    return sb.wrap_network(lambda x, t: 0.5 * x, sb.vp_linear(), (2,), fingerprint="1")

def named(argument):
    return sb.wrap_network(lambda x, t: 0.5 * x, sb.vp_linear(), (2,), fingerprint="1", name="Half of it")

def no_model(argument):
    return 7

@sb.hookimpl
def samplerbench_models():
    return {"half": nameless, "named": named, "no-model": no_model}
"""


@pytest.mark.parametrize(("spec", "name"), [("half", "half"), ("half:large", "half:large"), ("named", "Half of it")])
def test_a_registered_model_without_a_name_has_that_of_its_spec(sb, mine, spec, name):
    mine(REGISTERED)
    done = sb("run", "--model", spec, "-s", "ddim", "--steps", "2", "-n", "8", "--plugin", "mine.py", "--json")
    assert [row["model"] for row in json.loads(done.out)["table"]] == [name]


def test_a_registered_factory_that_returns_no_model_is_named(sb, mine):
    mine(REGISTERED)
    sb("run", "--model", "no-model", "-s", "ddim", "--plugin", "mine.py").refused(
        4, "model 'no-model': returned a int; expected a Model"
    )


def test_a_model_by_hand_is_not_known_without_a_fingerprint():
    model = Model("half", lambda device, dtype: lambda x, t: 0.5 * x, sb_.vp_linear(), (2,))
    assert identity.identify(model, REGISTRY, Config()) is model
    assert "'half' has no fingerprint" in identity.unknown(model)
    assert identity.unknown(dataclasses.replace(model, fingerprint="1")) == ""

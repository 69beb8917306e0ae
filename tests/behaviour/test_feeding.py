"""A training that feeds its device: batches made ahead, and losses read every so often."""

import csv
import math
import threading
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import samplerbench as sb_
from captioned import Captioned
from samplerbench.plugins.extractors.scenes_detector.training import Settings as Detection
from samplerbench.plugins.extractors.scenes_detector.training import detecting
from samplerbench.plugins.models.ddpm.losses import denoising
from samplerbench.plugins.models.latent import losses as latent
from samplerbench.samplers.model import Progress
from samplerbench.samplers.nets import training
from samplerbench.samplers.nets.feeding import AHEAD, Ahead, FedLoss
from samplerbench.samplers.nets.training import READ_EVERY, Recipe, fit, read_checkpoint, with_log
from samplerbench.samplers.nets.utilisation import Utilisation

STEPS = 2 * READ_EVERY + 5
IMAGES = torch.randint(256, (20, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TABLE = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Answers with a mixture of state, time and condition."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, 0.1, 0.2]))

    def forward(self, x, t, condition):
        """The answer."""
        w = self.weight
        return w[0] * x + w[1] * t.view(-1, 1, 1, 1) / 1000 + w[2] * condition.mean(1).view(-1, 1, 1, 1)


def fitted(path, loss=None, steps=STEPS, *, compile=False, **more):  # noqa: A002
    """Fit the network; returns it and the weights to keep."""
    network = Net()
    loss = loss or denoising(IMAGES, lambda rows, seed: TABLE[rows], batch=8, seed=3)
    recipe = Recipe("phase", steps, lr=0.05, warmup=1, ema=0.9, compile=compile)
    return network, fit(network, loss, recipe, checkpoint=path, **more)


class Stop(Exception):
    """The end."""


def stop_at(step):
    """What ends a training when it reports a step."""

    def report(progress):
        if progress.step == step:
            raise Stop

    return report


@pytest.fixture
def accelerator(monkeypatch):
    """Take the CPU for a device that works by itself."""
    monkeypatch.setattr(training, "is_accelerator", lambda device: True)


@pytest.fixture
def fused(accelerator, monkeypatch):
    """Take it for one that has the fused optimizer too, which the CPU has."""
    monkeypatch.setattr(training, "fused_on", lambda device: True)


def test_batches_are_made_ahead_by_a_thread_and_are_the_same():
    made, here = [], threading.current_thread()

    def make(step):
        made.append((step, threading.current_thread() is here))
        return {"step": torch.tensor(step)}

    batches = Ahead(make, steps=6)
    assert [int(batches(step)["step"]) for step in range(6)] == list(range(6))
    assert made == [(step, False) for step in range(6)]
    assert int(batches(2)["step"]) == 2  # another step than the next is made when it is asked for
    assert int(batches(9)["step"]) == 9  # and one past the last too
    batches.close()
    assert AHEAD < 6


def test_a_batch_that_cannot_be_made_raises_where_its_step_is():
    batches = Ahead(lambda step: {"x": torch.tensor(1 / (step - 1))}, steps=3)
    assert float(batches(0)["x"]) == -1
    with pytest.raises(ZeroDivisionError):
        batches(1)
    batches.close()


def test_a_training_that_is_fed_has_the_same_weights_to_the_bit(tmp_path, accelerator, monkeypatch):
    fed, _ = fitted(tmp_path / "fed.pt")
    monkeypatch.undo()
    plain, _ = fitted(tmp_path / "plain.pt")
    assert torch.equal(fed.weight, plain.weight)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("samplerbench-batches")]


def test_a_step_does_not_wait_for_the_device(tmp_path, fused, monkeypatch):
    read = []

    def refuse(*_):
        raise AssertionError("a number was read from the device in a step")

    tolist = torch.Tensor.tolist
    for name in ("item", "__float__", "__bool__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: read.append(len(tensor)) or tolist(tensor))
    fitted(tmp_path / "x.pt", every_seconds=1e9)
    assert read == [READ_EVERY, READ_EVERY, 5]


def test_losses_that_are_read_late_are_the_same(tmp_path, fused, monkeypatch):
    seen = {}
    network, kept = fitted(tmp_path / "late.pt", report=lambda p: seen.update({p.step: p.loss}))
    monkeypatch.undo()
    plain = {}
    other, wanted = fitted(tmp_path / "plain.pt", report=lambda p: plain.update({p.step: p.loss}))
    assert math.isnan(seen[1])
    assert [seen[step] for step in (READ_EVERY, STEPS)] == pytest.approx([plain[READ_EVERY], plain[STEPS]], rel=1e-4)
    torch.testing.assert_close(network.weight, other.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(kept["weight"], wanted["weight"], rtol=1e-4, atol=1e-5)


def test_with_at_once_a_step_is_reported_when_it_is_done(tmp_path, fused):
    seen = []
    fitted(tmp_path / "x.pt", steps=3, report=lambda p: seen.append(p.loss), at_once=True)
    assert all(map(math.isfinite, seen))


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_counts_for_no_step_however_late_it_is_read(tmp_path, fused, bad):
    def loss(network, step):
        value = network.weight.square().sum()
        if step != 7:
            return value
        return value * math.nan if bad == "loss" else value + 0 * (value - value.detach()).sqrt()

    with pytest.raises(sb_.ModelError, match=r"phase: in step 8 the loss is .*the 7 steps before"):
        fitted(tmp_path / "bad.pt", loss)
    with pytest.raises(Stop):  # in step 8, after the seventh was saved
        fitted(tmp_path / "good.pt", lambda net, step: net.weight.square().sum(), report=stop_at(8), every_seconds=-1)
    state, wanted = (read_checkpoint(tmp_path / f"{name}.pt", "cpu") for name in ("bad", "good"))
    assert state["step"] == wanted["step"] == 7
    assert state["loss"] == wanted["loss"]
    assert torch.equal(state["network"]["weight"], wanted["network"]["weight"])
    assert torch.equal(state["ema"]["weight"], wanted["ema"]["weight"])
    for name, value in state["optimizer"]["state"][0].items():
        assert torch.equal(value, wanted["optimizer"]["state"][0][name]), name


def test_a_training_goes_on_where_its_device_was_another(tmp_path, monkeypatch):
    with pytest.raises(Stop):
        fitted(tmp_path / "x.pt", report=stop_at(10), every_seconds=-1)
    monkeypatch.setattr(training, "is_accelerator", lambda device: True)
    monkeypatch.setattr(training, "fused_on", lambda device: True)
    network, _ = fitted(tmp_path / "x.pt")
    monkeypatch.undo()
    whole, _ = fitted(tmp_path / "whole.pt")
    torch.testing.assert_close(network.weight, whole.weight, rtol=1e-4, atol=1e-5)


# The log


def test_the_log_says_how_long_a_step_takes_and_how_busy_the_device_is(tmp_path, monkeypatch):
    monkeypatch.setattr(Utilisation, "__call__", lambda self: 0.75)
    log = with_log(tmp_path / "training.csv", lambda progress: None)
    for step, seconds in ((4, 1.0), (10, 31.0), (12, 41.0)):
        log(Progress("phase", step, 12, 0.5, seconds, 2))
    with (tmp_path / "training.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["seconds_a_step"] for row in rows] == ["0.5", "5", "5"]
    assert {row["utilisation"] for row in rows} == {"0.75"}


def test_a_log_of_an_earlier_version_goes_on_with_its_columns(tmp_path):
    path = tmp_path / "training.csv"
    path.write_text("phase,step,steps,loss,seconds\n")
    with_log(path, lambda progress: None)(Progress("phase", 12, 12, 0.5, 3.0, 0))
    assert path.read_text().splitlines()[1] == "phase,12,12,0.50000,3"


def test_the_cpu_is_busy_as_far_as_its_threads_are():
    busy = Utilisation(torch.device("cpu"))
    busy._before = (busy._before[0] - 3.0, busy._before[1] - 4.0)
    assert busy() == pytest.approx(0.75 / torch.get_num_threads(), abs=0.1)
    assert Utilisation(torch.device("meta"))() is None


def test_the_embedded_model_trains_on_a_device(sb):
    outcome = sb("train", "fashion-mnist", "--device", "cuda:99", "-o", "model")
    assert outcome.code == 2
    assert "cuda:99" in outcome.err
    assert "has no" not in outcome.err


def compiled_by(backend, monkeypatch):
    """Have networks compiled by a backend that takes no time; returns the graphs that it was given."""
    graphs = []

    def noted(graph, examples):
        graphs.append(graph)
        return backend(graph)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=noted))
    return graphs


def test_a_compiled_network_learns_the_same_and_is_kept_as_itself(tmp_path, monkeypatch):
    graphs = compiled_by(lambda graph: graph.forward, monkeypatch)
    plain, kept = fitted(tmp_path / "plain.pt")
    assert graphs == []
    network, weights = fitted(tmp_path / "compiled.pt", compile=True)
    assert len(graphs) == 1  # one program serves all steps
    assert torch.equal(network.weight, plain.weight)
    assert weights.keys() == kept.keys() == {"weight"}
    assert torch.equal(weights["weight"], kept["weight"])
    assert read_checkpoint(tmp_path / "compiled.pt", "cpu")["network"].keys() == {"weight"}


@pytest.mark.parametrize("first", [True, False])
def test_what_was_compiled_goes_on_where_nothing_is_and_the_other_way_round(tmp_path, monkeypatch, first):
    compiled_by(lambda graph: graph.forward, monkeypatch)
    whole, _ = fitted(tmp_path / "whole.pt")
    with pytest.raises(Stop):
        fitted(tmp_path / "x.pt", report=stop_at(9), every_seconds=0.0, compile=first)
    assert 0 < read_checkpoint(tmp_path / "x.pt", "cpu")["step"] < STEPS
    network, _ = fitted(tmp_path / "x.pt", compile=not first)
    assert torch.equal(network.weight, whole.weight)


COLOURS = torch.randint(256, (32, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
LATENTS = torch.randn(32, 4, 4, 4, generator=torch.Generator().manual_seed(3)).half()
USUAL = {"batch": 8, "seed": 3, "device": torch.device("cpu")}
FED = {
    "ddpm": lambda: denoising(IMAGES, lambda rows, seed: TABLE[rows], batch=8, seed=3),
    "vae": lambda: latent.reconstructing(COLOURS, **USUAL),
    "decoder": lambda: latent.decoding(COLOURS, None, **USUAL),
    "text": lambda: latent.contrasting(
        COLOURS,
        Captioned([i % 3 for i in range(32)]),
        lambda texts: torch.tensor([[len(text)] for text in texts]),
        **USUAL,
    ),
    "unet": lambda: latent.denoising(LATENTS, None, prediction="v", scale=1.0, **USUAL),
    "flow": lambda: latent.denoising(LATENTS, None, prediction="flow", scale=1.0, **USUAL),
    "detector": lambda: detecting(
        COLOURS, lambda rows: (torch.tensor(rows), torch.tensor(rows)), Detection(batch_size=8), USUAL["device"]
    ),
}


@pytest.mark.parametrize("name", FED)
def test_a_batch_follows_from_seed_and_step_alone(name):
    loss = FED[name]()
    torch.manual_seed(0)
    expected = loss.batch_at(2)
    torch.manual_seed(1)
    other, state = loss.batch_at(0), torch.get_rng_state()
    found = loss.batch_at(2)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[part], expected[part]) for part in found)
    assert torch.equal(torch.get_rng_state(), state)
    assert not all(found[part].shape == other[part].shape and torch.equal(found[part], other[part]) for part in found)


def test_a_warning_of_a_compiled_training_is_given_once(tmp_path, monkeypatch):
    compiled_by(lambda graph: graph.forward, monkeypatch)
    fed = denoising(IMAGES, lambda rows, seed: TABLE[rows], batch=8, seed=3)

    def batch_at(step):
        warnings.warn("the same words", UserWarning, stacklevel=1)
        return fed.batch_at(step)

    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("default")  # each place once
        fitted(tmp_path / "x.pt", replace(fed, batch_at=batch_at), steps=4, compile=True)
    # Once while the network is compiled, and once after: what is filtered meanwhile makes Python forget.
    assert len([one for one in given if str(one.message) == "the same words"]) <= 2


def test_a_network_that_cannot_be_compiled_is_one_line(tmp_path, monkeypatch):
    def fail(graph):
        raise RuntimeError("no compiler here")

    compiled_by(fail, monkeypatch)
    with pytest.raises(
        sb_.ModelError, match=r"^phase: the network cannot be compiled \(.*no compiler here.*\); leave out"
    ):
        fitted(tmp_path / "x.pt", compile=True)
    assert not (tmp_path / "x.pt").exists()


def test_what_else_fails_while_compiling_keeps_its_own_message(tmp_path, monkeypatch):
    compiled_by(lambda graph: graph.forward, monkeypatch)

    def broken(step):
        raise OSError("the images are gone")

    with pytest.raises(OSError, match="the images are gone"):
        fitted(tmp_path / "x.pt", FedLoss(broken, lambda network, batch: network.weight.sum()), compile=True)


def test_a_fed_loss_is_a_loss():
    loss = FedLoss(lambda step: {"x": torch.tensor([float(step)])}, lambda network, batch: network(batch["x"]).sum())
    assert float(loss(nn.Identity(), 3)) == 3

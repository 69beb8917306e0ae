"""Devices: which there are, what an absent one is told, what one without float64 does, by a stand-in for each."""

import types

import pytest
import torch

import samplerbench as sb
from samplerbench.bench.cli.diagnosis import machine
from samplerbench.bench.draw import clock as timing
from samplerbench.bench.plan.environment import environment
from samplerbench.samplers import devices, noise, predictor, process
from samplerbench.samplers.arguments import resolve_device
from samplerbench.samplers.registry import default_registry
from samplerbench.samplers.sample import request_for

MPS, XPU = torch.device("mps"), torch.device("xpu")
MODEL = sb.wrap_network(lambda x, t: 0.5 * x, schedule=sb.vp_linear(), shape=(1, 4, 4))


def having(monkeypatch, kind, count=1, *, fp64=False):
    """This machine has so many devices of a kind, as far as torch says."""
    there = torch.device(kind) if kind != "cpu" else None
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: there)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count if kind == "cuda" else 0)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: types.SimpleNamespace(has_fp64=fp64))
    monkeypatch.setattr(torch.xpu, "get_device_name", lambda device: "Arc")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.zeros(4, dtype=torch.uint8))


def request(device, steps=4, **settings):
    return request_for(default_registry(), MODEL, "ddim", steps=steps, device=device, **settings)


@pytest.mark.parametrize(("kind", "count", "here"), [
    ("cpu", 0, ["cpu"]), ("mps", 1, ["cpu", "mps"]), ("xpu", 2, ["cpu", "xpu:0", "xpu:1"]),
    ("cuda", 2, ["cpu", "cuda:0", "cuda:1"]),
])  # fmt: skip
def test_a_device_that_is_there_is_taken_and_any_other_is_told_what_is(monkeypatch, kind, count, here):
    having(monkeypatch, kind, count)
    for name in here:
        assert resolve_device(name) == torch.device(name)
    assert resolve_device(kind) == torch.device(kind)
    for name in {"cuda:0", "cuda:2", "mps", "xpu", "xpu:1"} - set(here):
        if name == kind:
            continue
        with pytest.raises(sb.InputError) as told:
            resolve_device(name)
        assert str(told.value) == f"device {name!r}: not on this machine; expected {', '.join(here)}"


@pytest.mark.parametrize("device", ["meta", "hpu", "gpu", "mps:x", "cpu:x", ""])
def test_what_is_no_device_of_ours_is_told_which_are(device):
    with pytest.raises(sb.InputError, match=r"^device .*: expected cpu, cuda, cuda:N, mps or xpu$"):
        resolve_device(device)


def test_float64_is_refused_on_a_device_that_lacks_it(monkeypatch):
    having(monkeypatch, "mps")
    assert request("mps").device == MPS
    with pytest.raises(sb.InputError, match=r"^dtype float64: device 'mps' has none; use float32, or the device cpu$"):
        request("mps", dtype="float64")
    assert request("cpu", dtype="float64").dtype == torch.float64


def test_a_state_that_has_to_be_float64_is_refused_there_too(monkeypatch):
    having(monkeypatch, "mps")
    steep = sb.wrap_network(lambda x, t: 0.5 * x, schedule=sb.vp_cosine(), shape=(1, 4, 4))
    registry = default_registry()
    wide = request_for(registry, steep, "ddim", steps=4)
    assert any(0 < level.alpha < predictor.WIDE_STATE_BELOW for level in wide.levels)
    with pytest.raises(sb.InputError, match="device 'mps': has no float64, which the state needs where alpha is below"):
        request_for(registry, steep, "ddim", steps=4, device="mps")


def test_not_every_card_of_intel_has_float64(monkeypatch):
    for fp64 in (True, False):
        having(monkeypatch, "xpu", fp64=fp64)
        assert devices.has_float64(XPU) is fp64
    assert [devices.has_float64(name) for name in ("cpu", "cuda", "mps")] == [True, True, False]


def test_noise_for_a_device_without_float64_is_drawn_on_the_cpu_and_sent_there(monkeypatch):
    """The meta device stands in for it: it has a place and no numbers."""
    seen = []
    monkeypatch.setattr(noise, "has_float64", lambda device: False)
    monkeypatch.setattr(noise, "normals_on", lambda *_: 1 / 0)
    monkeypatch.setattr(
        noise, "normals", lambda draw, normals=noise.normals: seen.append(drawn := normals(draw)) or drawn
    )
    drawn = noise.Noise(3, (2, 5), 6, device="meta").step(1, 0)
    assert (drawn.is_meta, drawn.dtype, drawn.shape) == (True, torch.float32, (6, 2, 5))
    assert (seen[0] == noise.Noise(3, (2, 5), 6).step(1, 0).numpy().reshape(6, 10)).all()


@pytest.mark.parametrize("knows", [True, False])
def test_a_device_that_does_not_note_times_is_waited_for(monkeypatch, knows):
    """Some versions of torch have no timed events for mps: then the clock of the CPU is read after it is done."""
    waits = []

    class Event:
        def __init__(self, device, enable_timing):
            if not knows:
                raise RuntimeError("no events here")

        def record(self, stream):
            pass

        def elapsed_time(self, end):
            return 250.0

    monkeypatch.setattr(torch, "Event", Event)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: device)
    monkeypatch.setattr(torch.accelerator, "synchronize", waits.append)
    predictor.notes_times.cache_clear()
    try:
        assert predictor.notes_times(MPS) is knows
        waits.clear()
        before, after = predictor.mark(MPS), predictor.mark(MPS)
        assert isinstance(before, float) is not knows
        assert waits == ([] if knows else [MPS, MPS])
        seconds = predictor.seconds_between(before, after)
        assert seconds == 0.25 if knows else seconds >= 0
    finally:
        predictor.notes_times.cache_clear()


def test_run_json_and_the_doctor_name_the_device(monkeypatch):
    names = {"mps": "mps", "xpu": "Arc", "cuda": "Card"}
    for kind, name in names.items():
        having(monkeypatch, kind)
        assert environment(kind)["device"] == name
        assert machine()["accelerators"] == [f"{kind}{'' if kind == 'mps' else ':0'} {name}"]
    assert environment("cpu")["device"] == "cpu"


def test_the_peak_of_memory_is_asked_of_the_device_where_that_tells_it(monkeypatch):
    asked = []
    xpu = types.SimpleNamespace(reset_peak_memory_stats=asked.append, max_memory_allocated=lambda device: 12345)
    modules = {"xpu": xpu, "mps": types.SimpleNamespace()}
    monkeypatch.setattr(torch, "get_device_module", lambda device: modules[device.type])
    assert timing.forget_peak_memory(XPU)
    assert timing.peak_memory(XPU) == 12345
    assert asked == [XPU]
    assert not timing.forget_peak_memory(MPS)


def test_the_random_stream_of_another_accelerator_is_put_back(monkeypatch):
    states = [torch.arange(4, dtype=torch.uint8)]
    module = types.SimpleNamespace(get_rng_state=lambda: states[-1], set_rng_state=states.append)
    monkeypatch.setattr(torch, "get_device_module", lambda kind: module)
    having(monkeypatch, "mps")
    stream = process.STREAMS["the random stream of mps or xpu"]
    before = stream.read()
    states.append(torch.zeros(4, dtype=torch.uint8))
    assert stream.read() != before
    stream.put_back(before)
    assert states[-1].tolist() == [0, 1, 2, 3]
    for kind in ("cpu", "cuda"):
        having(monkeypatch, kind)
        assert stream.read() is None

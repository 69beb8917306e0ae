"""Extractors on the run's device. The meta device stands in for it: what computes there has a place and no numbers."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import samplerbench as sb
from samplerbench.bench.draw.chunk import extract_rows
from samplerbench.bench.plan import equipment
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.reference import conditions_hash
from samplerbench.bench.run import place_of
from samplerbench.bench.show.provenance import extractor_to_text
from samplerbench.plugins.extractors import images as shared
from samplerbench.plugins.models.ddpm import parts
from samplerbench.samplers.extractor import OnDevice, on_device
from samplerbench.samplers.registry import default_registry, load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
CPU, META = torch.device("cpu"), torch.device("meta")
IMAGES = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)


def rows(images, prompts):
    """An extractor that says where its images are."""
    SEEN.append(images)
    return np.zeros((len(images), 2), dtype=np.float32)


SEEN = []
ABLE, UNABLE = sb.Extractor("able", rows, on_device=True), sb.Extractor("unable", rows)


def test_images_are_sent_once_to_those_that_compute_on_the_device():
    SEEN.clear()
    placed = on_device({"features": ABLE, "logits": replace(ABLE, label="other"), "clip": UNABLE}, META)
    for extractor in placed.values():
        assert extractor.extract(IMAGES, [""] * 5).shape == (5, 2)
    first, second, third = SEEN
    assert first.device == META
    assert first is second  # of one network's two roles, the second finds the work of the first
    assert third is IMAGES
    assert placed["clip"] is UNABLE
    assert on_device(placed, META) == placed


def test_what_computes_on_the_device_takes_images_from_there_and_the_rest_from_the_cpu():
    SEEN.clear()
    there = IMAGES.to(META)
    placed = on_device({"features": ABLE, "clip": UNABLE}, META)
    model = SimpleNamespace(name="m", extractors=placed)
    for name in placed:
        extract_rows(model, name, IMAGES, [""] * 5, 0, there)
    assert SEEN[0] is there
    assert SEEN[1] is IMAGES


OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79 GiB")


def test_too_little_memory_says_what_was_needed_and_what_needs_less():
    def full(*_):
        raise OUT

    model = SimpleNamespace(name="m", extractors={"features": sb.Extractor("able", full)})
    words = r"no memory for 5 images of \(1, 8, 8\), which lacked 2\.50 GiB; draw without its metrics \(--metric none\)"
    with pytest.raises(sb.PluginError, match=words):
        extract_rows(model, "features", IMAGES, [""] * 5, 0)
    latent = sb.wrap_network(full, schedule=sb.vp_linear(), shape=(1, 8, 8), name="m")
    with pytest.raises(
        sb.NetworkFault, match=r"network: no memory for 64 rows of \(1, 8, 8\), which lacked 2\.50 GiB; try"
    ):
        sb.sample(latent, "ddim", steps=2, n=2)
    decoding = replace(latent, network=lambda *_: lambda x, t: x, decode=full, image_shape=(1, 8, 8))
    with pytest.raises(
        sb.NetworkFault, match=r"model 'm': no memory to make an image, which lacked 2\.50 GiB; give a sm"
    ):
        decoding.images(torch.zeros(1, 1, 8, 8))


def test_every_built_in_extractor_computes_on_the_device_but_the_old_clip():
    files = Path(equipment.__file__).parents[2] / "plugins" / "extractors"
    given = {path.name: re.findall(r"on_device=([^,)\n]+)", path.read_text()) for path in files.rglob("*.py")}
    assert given["clip.py"] == ["True"] * 2
    assert given["efficientnet.py"] == ["True"] * 2
    assert given["fidelity.py"] == ["network is not CLIP"]
    assert given["extractor.py"] == ["True"] * 2


def test_on_the_cpu_extractors_stay_as_they_are():
    assert on_device({"features": ABLE}, CPU)["features"] is ABLE


def test_a_reference_is_extracted_once_for_each_kind_of_device():
    there = on_device({"features": ABLE}, META)["features"]
    again = on_device({"features": ABLE}, META)["features"]
    assert conditions_hash(there) == conditions_hash(again) != conditions_hash(ABLE)


def test_a_run_places_its_extractors_and_says_so(monkeypatch):
    monkeypatch.setattr(equipment, "resolve_device", torch.device)
    registry = default_registry()
    model = equipment.model_for(Config(device="meta"), registry)
    assert all(isinstance(e.extract, OnDevice) for e in model.extractors.values())
    assert place_of(model.extractors["features"]) == {"device": "meta"}
    assert place_of(ABLE) == {}
    label = {"label": "able", "device": "Card"}
    assert extractor_to_text("kid", {"kid": label}) == "kid [able] on Card"


def test_a_run_of_a_missing_device_can_be_read_here():
    registry = load_registry([TOY])
    model = equipment.model_for(Config(model="toy", device="cuda:77"), registry)
    assert not any(isinstance(e.extract, OnDevice) for e in model.extractors.values())


class Net(nn.Module):
    """A network that notes where it is asked, and has a method that is asked too."""

    def __init__(self):
        super().__init__()
        self.layer, self.asked = nn.Linear(64, 3), []

    def forward(self, images):
        PLACES.append((images.device, self.layer.weight.device, len(images)))
        return self.layer(images.flatten(1).float())

    def features(self, images):
        return self(images)


PLACES = []


@pytest.mark.parametrize("of", [lambda net: net, lambda net: net.features])
def test_a_built_in_network_computes_where_its_images_are_and_stays_on_the_cpu_for_others(of):
    PLACES.clear()
    net = Net()
    here = parts.in_batches(of(net), IMAGES, (1, 8, 8))
    with pytest.raises(NotImplementedError):  # the rows go to the CPU, and the meta device has none
        parts.in_batches(of(net), IMAGES.to(META), (1, 8, 8))
    assert PLACES == [(CPU, CPU, 64), (META, META, 64)]
    assert net.layer.weight.device == CPU
    assert np.array_equal(parts.in_batches(of(net), IMAGES, (1, 8, 8)), here)


def test_an_extractor_of_images_takes_larger_batches_on_a_device():
    PLACES.clear()
    net = Net()
    shared.in_batches(net, IMAGES)
    there = IMAGES.to(META)
    with pytest.raises(NotImplementedError):
        shared.in_batches(shared.move_to(net, META), there)
    assert PLACES == [(CPU, CPU, shared.BATCH), (META, META, shared.BATCH_THERE)]
    assert shared.as_colour(there).device == META
    function = len
    assert shared.move_to(function, META) is function


@pytest.mark.gpu
def test_rows_of_the_gpu_are_those_of_the_cpu():
    model = default_registry().model("fashion-mnist")
    images = torch.randint(0, 256, (70, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    prompts = [model.prompts[i % len(model.prompts)] for i in range(70)]
    there = on_device(model.extractors, torch.device("cuda"))
    for role, extractor in model.extractors.items():
        expected = extractor.extract(images, prompts)
        assert np.allclose(
            there[role].extract(images, prompts), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()
        )

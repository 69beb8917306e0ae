"""What a plugin returns is checked where it comes in: a wrong count, type or shape is named, never computed with."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import samplerbench as sb
from samplerbench.bench.judge.statistics import Gathered, estimates
from samplerbench.bench.plan.reference import Images
from samplerbench.bench.plan.yardstick import Yardstick
from samplerbench.samplers.image_data import image_of
from samplerbench.samplers.plugin import Origin
from samplerbench.samplers.registry import Registry, load_registry


def registry_with(kind, thing):
    """A registry in which "mine" is of a kind."""
    registry = Registry()
    getattr(registry, kind).add("mine", thing, Origin("mine.py", ""))
    return registry


# ---- Grids ----


@dataclass(frozen=True)
class Counting(sb.Grid):
    """A grid with as many times as its option says."""

    count: int = 2

    def times(self, schedule, steps):
        return np.linspace(900.5, 100.5, self.count)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_grid_that_places_another_number_of_levels_is_named(count):
    registry = registry_with("grids", Counting)
    assert len(registry.levels(f"mine:count={count}", sb.vp_linear(), count, integer=False)) == count + 1
    with pytest.raises(sb.PluginError, match=f"grid 'mine': placed {count} levels for 4 steps; expected one for each"):
        registry.levels(f"mine:count={count}", sb.vp_linear(), 4, integer=False)


# ---- Metrics ----


class Plain(sb.Metric):
    """Returns what it is given."""

    extractor, better, unit, least = "features", "lower", "", 1
    returned: object = sb.Estimate(1.0, np.zeros(8))

    def estimate(self, rows, prepared):
        return self.returned


def estimated(returned):
    """What a table would have of a metric that returns this for 8 samples."""
    metric = Plain()
    metric.returned = returned
    rows = {"features": np.zeros((8, 2), np.float32)}
    return estimates(Gathered([], rows), {"mine": Yardstick(metric, None)})["mine"]


def test_an_estimate_is_taken():
    assert estimated(sb.Estimate(2.5, np.zeros(8))).value == 2.5
    assert estimated(sb.Estimate(np.float32(2.5), np.zeros(8))).value == 2.5


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (2.5, "returned a float; expected an Estimate"),
        (None, "returned a NoneType; expected an Estimate"),
        (sb.Estimate(torch.tensor(2.5), np.zeros(8)), "returned an Estimate of value tensor"),
        (sb.Estimate(2.5, np.zeros(3)), r"influence that is a ndarray of shape \(3,\); expected an array of 8 floats"),
        (
            sb.Estimate(2.5, np.zeros((8, 1))),
            r"influence that is a ndarray of shape \(8, 1\); expected an array of 8 floats",
        ),
        (sb.Estimate(2.5, torch.zeros(8)), "influence that is a Tensor of shape .*; expected an array of 8 floats"),
    ],
)
def test_a_metric_that_returns_something_else_is_named(returned, words):
    with pytest.raises(sb.PluginError, match=f"metric 'mine': .*{words}"):
        estimated(returned)


def test_a_metric_without_its_attributes_is_refused_when_it_is_loaded(tmp_path):
    source = """
from samplerbench import Metric, hookimpl

class Bare(Metric):
    better = "lower"

    def estimate(self, rows, prepared):
        return None

@hookimpl
def samplerbench_metrics():
    return {"bare": Bare}
"""
    (tmp_path / "bare.py").write_text(source)
    words = "metric 'bare' .*: Bare does not say its extractor, unit, least; expected class attributes of these names"
    with pytest.raises(sb.PluginError, match=words):
        load_registry([str(tmp_path / "bare.py")])


# ---- Extractors ----


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "returned a NoneType; expected a dict of Extractors"),
        (sb.Extractor("label", lambda images, prompts: None), "returned a Extractor; expected a dict of Extractors"),
        ({"features": len}, "returned a builtin_function_or_method as 'features'; expected an Extractor"),
    ],
)
def test_a_factory_of_extractors_that_returns_something_else_is_named(returned, words):
    with pytest.raises(sb.PluginError, match=f"extractor 'mine': {words}"):
        registry_with("extractors", lambda argument: returned).extractors_of("mine")


def test_an_extractor_that_raises_at_a_real_image_is_named_itself():
    def fail(images, prompts):
        raise RuntimeError("no memory")

    data = Images3(torch.ones(3, 8, 8, dtype=torch.uint8))
    with pytest.raises(sb.PluginError, match=r"^extractor mine, reference three raised RuntimeError: no memory$"):
        Images(data, (3, 8, 8)).read(sb.Extractor("mine", fail))


# ---- Image data ----


class Images3(sb.ImageData):
    """Three images, all the same."""

    name = "three"
    fingerprint = "1"

    def __init__(self, image):
        self.same = image

    def __len__(self):
        return 3

    def image(self, i):
        if isinstance(self.same, Exception):
            raise self.same
        return self.same


class Nameless(Images3):
    """Image data without a name."""

    def __getattribute__(self, attribute):
        if attribute == "name":
            raise AttributeError
        return super().__getattribute__(attribute)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "returned a NoneType; expected an ImageData"),
        ([torch.zeros(3, 8, 8)], "returned a list; expected an ImageData"),
        (Nameless(torch.zeros(3, 8, 8)), "Nameless does not say its name"),
    ],
)
def test_a_factory_of_data_that_returns_something_else_is_named(returned, words):
    with pytest.raises(sb.PluginError, match=f"data 'mine': {words}"):
        registry_with("data", lambda argument: returned).image_data("mine")


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 4, 5)])
def test_an_image_of_bytes_is_taken(shape):
    image = torch.ones(shape, dtype=torch.uint8)
    assert image_of(Images3(image), 2) is image


WRONG = [
    (torch.rand(3, 8, 8), r"image 0 is float32 \(3, 8, 8\); expected uint8 \(1 or 3, H, W\), from 0 to 255"),
    (torch.ones(3, 8, 8, dtype=torch.int64), r"image 0 is int64 \(3, 8, 8\)"),
    (torch.ones(8, 8, dtype=torch.uint8), r"image 0 is uint8 \(8, 8\)"),
    (torch.ones(8, 8, 3, dtype=torch.uint8), r"image 0 is uint8 \(8, 8, 3\)"),
    (torch.ones(4, 8, 8, dtype=torch.uint8), r"image 0 is uint8 \(4, 8, 8\)"),
    (np.ones((3, 8, 8), np.uint8), "image 0 is a ndarray; expected a tensor"),
    (OSError("disk"), "image 0 raised OSError: disk"),
]


@pytest.mark.parametrize(("image", "words"), WRONG)
def test_any_other_image_is_named_before_it_is_compared_with(image, words):
    source = Images(Images3(image), (3, 8, 8))
    bare = sb.Extractor("mean", lambda images, prompts: images.float().mean((2, 3)).numpy())
    with pytest.raises(sb.PluginError, match=f"data 'three': {words}"):
        source.read(bare)


# ---- The report card ----


def test_check_takes_plugins_by_path(tmp_path, monkeypatch):
    source = """
from dataclasses import dataclass
from samplerbench import Sampler, hookimpl

@dataclass(frozen=True)
class Mine(Sampler):
    convergence = 1

    def nfe(self, steps):
        return steps

    def step(self, run, x, a, b, past):
        return run.predict(x, a).combine(b.alpha, b.sigma), None

@hookimpl
def samplerbench_samplers():
    return {"mine": Mine}
"""
    (tmp_path / "mine.py").write_text(source)
    monkeypatch.setattr(
        "samplerbench.bench.conformance.check.CHECKS", (lambda sampler, effort: [type(sampler).__name__],)
    )
    assert sb.check("mine", plugins=[str(tmp_path / "mine.py")]) == ["Mine"]
    with pytest.raises(sb.InputError, match="unknown sampler 'mine'"):
        sb.check("mine")

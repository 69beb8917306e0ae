"""Extractors and metrics of strangers that fail: each is named, in one line, and no sample is lost."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cases import FURTHER, thinned
from samplerbench.bench.judge.compare import comparison_of
from samplerbench.bench.judge.statistics import Gathered, check_estimate, estimates, if_finite, metric_values
from samplerbench.bench.plan.reference import Images
from samplerbench.bench.plan.yardstick import Yardstick, yardsticks
from samplerbench.plugins.data.folder import FolderImages
from samplerbench.samplers.errors import InputError, PluginError
from samplerbench.samplers.extractor import Extractor
from samplerbench.samplers.metric import Estimate, Metric, Moments
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
PLUGIN = """
import dataclasses
import numpy as np
import samplerbench as sb
from samplerbench import Estimate, Extractor, Metric, hookimpl

class Odd(Exception):
    def __str__(self):
        raise ValueError

class Mine(Metric):
    extractor, better, unit, least = "features", "lower", "", 1
    needs_reference = False
    def prepare(self, reference):
        return PREPARE
    def fewest(self, width):
        return 1
    def estimate(self, rows, prepared):
        return ESTIMATE

def extract(images, prompts):
    return EXTRACT

@hookimpl
def samplerbench_metrics():
    return {"mine": Mine}

@hookimpl
def samplerbench_extractors():
    return {"odd": lambda argument: {"features": Extractor("an odd one", extract, fingerprint="o")}}

def fail(error):
    raise error
"""
RIGHT = {
    "PREPARE": "None", "ESTIMATE": "Estimate(1.0, np.zeros(len(rows)))",
    "EXTRACT": "images.float().flatten(1).numpy()[:, :3]",
}  # fmt: skip


@pytest.fixture
def plugin(tmp_path):
    """The file of a plugin, spoilt in one place."""

    def write(**spoilt):
        source = PLUGIN
        for name, text in (RIGHT | spoilt).items():
            source = source.replace(name, text)
        (tmp_path / "measures.py").write_text(source)
        return str(tmp_path / "measures.py")

    return write


RUN = ("run", "--model", "toy", "--plugin", TOY, "-s", "ddim", "-s", "ddpm", "--steps", "2", "-n", "8", "-o", "out")
FAULTS = {
    "RuntimeError": ("fail(RuntimeError('boom\\nbang'))", "raised RuntimeError: boom bang"),
    "an exit": ("exit(0)", "raised SystemExit: 0"),
    "memory": ("fail(MemoryError())", "raised MemoryError"),
    "an exception without text": ("fail(Odd())", "raised Odd: its text cannot be read (ValueError)"),
}


@pytest.mark.parametrize("fault", thinned(FAULTS, "an exit"))
def test_an_extractor_that_raises_fails_the_cells_by_its_name(sb, plugin, fault):
    text, words = FAULTS[fault]
    done = sb(*RUN, "--plugin", plugin(EXTRACT=text), "--extractor", "odd", "--metric", "mine")
    assert done.code == 1
    table = pd.read_csv("out/table.csv")
    assert table["status"].str.startswith(f"failed: extractor 'features' (an odd one) {words}").tolist() == [True] * 2
    assert Path("out/report.html").exists()


def test_a_run_with_a_mended_extractor_begins_again(sb, plugin):
    assert sb(*RUN, "--plugin", plugin(EXTRACT=FAULTS["memory"][0]), "--extractor", "odd", "--metric", "mine").code == 1
    again = (*RUN, "--plugin", plugin(), "--extractor", "odd", "--metric", "mine")  # mended: its code is in every key
    sb(*again, "--retry-failed").refused(2, "belongs to another run")
    assert sb(*again, "--fresh").code == 0
    assert set(pd.read_csv("out/table.csv")["status"]) == {"ok"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("None", "returned shape (); expected (8, d)"),
        pytest.param("[[1], [1, 2]]", "raised ValueError: ", marks=FURTHER),
        ("np.array([['a']] * len(images))", "returned <U1; expected numbers"),
        pytest.param("np.array([[None]] * len(images))", "returned object; expected numbers", marks=FURTHER),
        ("np.full((len(images), 2), np.nan)", "returned NaN or infinity for sample 0"),
    ],
)
def test_an_extractor_that_returns_no_rows_fails_the_cells_by_its_name(sb, plugin, text, words):
    assert sb(*RUN, "--plugin", plugin(EXTRACT=text), "--extractor", "odd", "--metric", "mine").code == 1
    status = pd.read_csv("out/table.csv")["status"]
    assert status.str.startswith("failed: extractor 'features' (an odd one)").all()
    assert status.str.contains(words, regex=False).all()


@pytest.mark.parametrize("place", ["PREPARE", "ESTIMATE"])
@pytest.mark.parametrize("fault", thinned(FAULTS, "RuntimeError", "an exit"))
def test_a_metric_that_raises_is_named_and_no_sample_is_lost(sb, plugin, place, fault):
    text, words = FAULTS[fault]
    done = sb(*RUN, "--plugin", plugin(**{place: text}), "--metric", "mine")
    assert done.code == 3
    assert done.err.splitlines()[-1].startswith(f"Error: metric 'mine' {words}")
    done = sb(*RUN, "--plugin", plugin(), "--metric", "mine", "--dry-run", "--json")
    assert (json.loads(done.out)["network_evaluations_left"] == 0) == (place == "ESTIMATE")


def test_what_was_drawn_before_a_metric_failed_is_not_drawn_again(sb, plugin):
    assert sb(*RUN, "--plugin", plugin(ESTIMATE="1 / 0"), "--metric", "mine").code == 3
    before = sorted(Path("out/chunks").rglob("*.safetensors"))
    done = sb(*RUN, "--plugin", plugin(), "--metric", "mine")
    assert done.code == 0
    assert set(pd.read_csv("out/table.csv")["status"]) == {"ok"}
    assert sorted(Path("out/chunks").rglob("*.safetensors")) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3", "returned a int; expected an Estimate"),
        ("Estimate('1', np.zeros(len(rows)))", "returned an Estimate of value '1'; expected a number"),
        pytest.param("Estimate(True, np.zeros(len(rows)))", "of value True; expected a number", marks=FURTHER),
        ("Estimate(1.0, [0.0])", "returned an influence that is a list; expected an array of 8 floats"),
        ("Estimate(1.0, np.zeros(3))", "is a ndarray of shape (3,); expected an array of 8 floats"),
        pytest.param(
            "Estimate(1.0, np.zeros(len(rows), dtype=object))",
            "is a ndarray of shape (8,); expected an array of 8",
            marks=FURTHER,
        ),
    ],
)
def test_a_metric_that_returns_no_estimate_is_named(sb, plugin, text, words):
    done = sb(*RUN, "--plugin", plugin(ESTIMATE=text), "--metric", "mine")
    assert done.code == 3
    assert done.err.splitlines()[-1].startswith("Error: metric 'mine': returned a")
    assert words in done.err


def test_numbers_of_every_kind_are_estimates():
    for value in (1, 1.0, np.float32(1), np.int64(1), float("nan")):
        check_estimate("mine", Estimate(value, np.zeros(3, dtype=np.float32)), 3)


@pytest.mark.parametrize("value", [1e20, 1e30, 3e38])
def test_huge_rows_leave_any_metric_empty_or_finite_without_a_warning(value):
    rng = np.random.default_rng(0)
    rows, reference = (rng.normal(size=(80, 4)).astype(np.float32) for _ in range(2))
    rows[3] = value
    metrics = {name: kind() for name, kind in load_registry().metrics.things.items()}
    ready = {name: Yardstick(metric, metric.prepare(reference)) for name, metric in metrics.items()}
    gathered = Gathered([], {metric.extractor: rows for metric in metrics.values()})
    found = estimates(gathered, ready)
    columns = metric_values(found, ready)
    assert np.isnan([columns[name] for name in ("fid", "fid_low", "fid_high", "fid_unbiased", "fd_clip")]).all()
    assert np.isfinite([columns[name] for name in ("clip_score", "precision", "cmmd")]).all()
    assert found.keys() == metrics.keys()


@pytest.mark.parametrize(
    "estimate",
    [
        Estimate(np.nan, np.zeros(30), is_share=True),
        Estimate(0.5, np.full(30, np.inf)),
        Estimate(0.5, np.zeros(30), common=np.array([1, np.nan])),
    ],
    ids=["value", "influence", "common"],
)
def test_what_is_not_finite_in_any_part_has_no_value_and_no_verdict(estimate):
    none = if_finite(estimate)
    assert np.isnan([none.value, none.low, none.high]).all()
    comparison = comparison_of("m", None, None, none, Estimate(0.5, np.zeros(30)), lower_is_better=True)
    assert comparison.verdict(0.0) == "not compared: a value is missing"
    assert not comparison.is_question


def test_an_influence_whose_square_overflows_has_an_infinite_error():
    assert Estimate(0.0, np.array([1e200, -1e200] * 20)).standard_error == np.inf


def model_with(**changes):
    """The toy with a part of its features' extractor replaced."""
    toy = load_registry([TOY]).model("toy")
    return dataclasses.replace(
        toy, extractors={**toy.extractors, "features": dataclasses.replace(toy.extractors["features"], **changes)}
    )


class Nothing(Metric):
    extractor, better, unit, least = "features", "lower", "", 1

    def estimate(self, rows, prepared):
        raise NotImplementedError


def test_a_reference_that_raises_is_the_extractor_s_fault():
    def fail():
        raise RuntimeError("no disk")

    with pytest.raises(
        PluginError, match=r"^extractor 'features' \(quadrants\): reference raised RuntimeError: no disk"
    ):
        yardsticks(["mine"], {"mine": Nothing}, model_with(reference=fail, label="quadrants"))


def test_an_extractor_that_fails_on_a_reference_is_named(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "set").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "set" / "a.png")

    def fail(images, prompts):
        raise RuntimeError("boom")

    images = Images(FolderImages(tmp_path / "set"), (1, 8, 8))
    with pytest.raises(PluginError, match=r"^extractor an odd one, reference set raised RuntimeError: boom$"):
        images.rows(Extractor("an odd one", fail), lambda done, total: None)


def test_a_check_of_prompts_that_raises_is_named(sb, tmp_path):
    (tmp_path / "checking.py").write_text(
        "from samplerbench import Extractor, hookimpl\n"
        "def check(prompts):\n    1 / 0\n"
        "@hookimpl\ndef samplerbench_extractors():\n"
        "    make = lambda role: Extractor('checking', None, check=check, fingerprint='c')\n"
        "    return {'checking': lambda argument: {'clip': make('clip')}}\n"
    )
    done = sb(*RUN, "--plugin", "checking.py", "--extractor", "checking", "--metric", "clip_score")
    done.refused(3, "extractor checking: check of the prompts raised ZeroDivisionError: division by zero")


# ---- References of too few images ----


@pytest.mark.parametrize(
    ("name", "least"), [("fid", 2), ("fid_unbiased", 2), ("kid", 2), ("precision", 4), ("recall", 2), ("coverage", 6),
                        ("density", 6)]
)  # fmt: skip
def test_a_reference_of_too_few_images_says_how_many_it_needs(name, least):
    metrics = load_registry().metrics.things
    few = np.random.default_rng(0).normal(size=(least - 1, 3)).astype(np.float32)
    model = model_with(reference=lambda: few)
    with pytest.raises(InputError) as caught:
        yardsticks([name], metrics, model)
    images = "1 image" if least == 2 else f"{least - 1} images"
    assert str(caught.value) == (
        f"metric '{name}': a reference of {images}; expected at least {least}: "
        "give more images as --reference, or leave the metric out"
    )
    enough = np.random.default_rng(0).normal(size=(least, 3)).astype(np.float32)
    assert yardsticks([name], metrics, model_with(reference=lambda: enough))[name].width == 3


def test_a_folder_of_one_image_is_refused_in_one_line(sb, tmp_path):
    from PIL import Image

    (tmp_path / "cats").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "cats" / "a.png")
    done = sb(*RUN, "--reference", "cats", "--metric", "fid")
    done.refused(2, "metric 'fid': a reference of 1 image; expected at least 2: give more images as --reference")
    assert not Path("out").exists()


def test_moments_are_no_rows_to_count():
    moments = Moments(np.zeros(3), np.eye(3), 1)
    assert yardsticks(["fid"], load_registry().metrics.things, model_with(reference=lambda: moments))["fid"].width == 3

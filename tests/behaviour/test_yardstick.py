"""Which metrics a run can have: those asked for by name are there or refused, those of the default may be left out."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

import samplerbench as sb_
from samplerbench.bench.judge.table import COLUMNS, rows_to_table
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.yardstick import Yardstick, check_metrics, yardsticks
from samplerbench.bench.run import labels_of
from samplerbench.bench.show.sheet import left_out_of
from samplerbench.samplers.metric import Moments
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
REGISTRY = load_registry([TOY])
METRICS = REGISTRY.metrics.things


def model_with(**reference):
    """The toy model, its features with another reference; `extractors` are those that it keeps."""
    model = REGISTRY.model("toy")
    features = dataclasses.replace(model.extractors["features"], **reference)
    return dataclasses.replace(model, extractors={**model.extractors, "features": features})


def check(metrics, samples, model):
    """Check the metrics as a run does at its beginning."""
    config = Config(model="toy", metric=metrics, samples=samples)
    check_metrics(config, METRICS, model, yardsticks(metrics, METRICS, model))


@pytest.mark.parametrize(
    ("metric", "samples", "words"),
    [
        ("fid", 1, "samples 1; expected at least 2; give -n 2"),
        ("fid_unbiased", 15, "samples 15; expected at least 16, 4 for each of the 4 features; give -n 16"),
        ("kid", 1, "samples 1; expected at least 2; give -n 2"),
        ("recall", 4, "samples 4; expected at least 5; give -n 5"),
        ("inception_score", 64, "reads 'logits', and model 'toy' has none; leave it out"),
    ],
)
def test_a_metric_asked_for_that_cannot_be_known_is_refused(metric, samples, words):
    with pytest.raises(sb_.InputError) as refused:
        check((metric,), samples, model_with())
    assert str(refused.value) == f"metric {metric!r}: {words}"


def test_one_sample_more_is_enough():
    check(("fid", "clip_score"), 1, model_with())  # the default
    check(("fid_unbiased", "fid"), 16, model_with())
    check(("recall",), 5, model_with())


def test_a_table_says_which_metric_without_bias_is_left_out_and_what_it_needs():
    model = model_with()
    few, enough = (yardsticks(("fid",), METRICS, model, samples) for samples in (15, 16))
    assert (few["fid"].left_out, list(enough)) == (("fid_unbiased", 16), ["fid", "fid_unbiased"])
    table = rows_to_table([dict.fromkeys(COLUMNS) | {"sampler": "ddim", "samples": 15, "fid": 1.0}])
    words = " unbiased FID is left out: it needs 16 images a row, 4 for each of the 4 features, not 15."
    assert left_out_of(table, labels_of(model, few)) == words
    assert labels_of(model, enough)["fid"]["unbiased"] == "fid_unbiased"
    assert left_out_of(table.assign(fid_unbiased=1.0, fid_unbiased_low=0.5), labels_of(model, enough)) == ""


def test_without_a_reference_there_is_nothing_to_compare_with():
    with pytest.raises(sb_.InputError, match="'fid': compares with a reference, and model 'toy' has none; give --refe"):
        check(("fid",), 64, model_with(reference=None))
    check(("fid", "clip_score"), 64, model_with(reference=None))


def test_the_width_is_that_of_the_reference_or_is_not_known():
    rows = REGISTRY.model("toy").extractors["features"].reference()
    moments = Moments(rows.mean(0).astype(float), np.cov(rows.T), len(rows))
    for reference, width in ((lambda: rows, 4), (lambda: moments, 4)):
        assert yardsticks(("fid_unbiased",), METRICS, model_with(reference=reference))["fid_unbiased"].width == width
    bare = model_with(reference=None)
    assert yardsticks(("brightness",), METRICS, bare)["brightness"].width is None
    check(("brightness",), 1, bare)


def test_where_the_width_is_not_known_the_least_alone_is_held(monkeypatch):
    brightness = METRICS["brightness"]
    monkeypatch.setattr(brightness, "least", 3)
    monkeypatch.setattr(brightness, "least_per_column", 4)
    config = Config(model="toy", metric=("brightness",), samples=3)
    check_metrics(config, METRICS, model_with(), {"brightness": Yardstick(brightness(), None)})
    with pytest.raises(sb_.InputError, match="expected at least 16, 4 for each of the 4 features"):
        check_metrics(config, METRICS, model_with(), {"brightness": Yardstick(brightness(), None, 4)})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "mixture", "--metric", "kid"], ["metric 'kid'", "'features'", "model 'mixture' has none"]),
        (["-n", "32", "--metric", "fid", "--metric", "fid_unbiased"], ["metric 'fid_unbiased'", "256", "give -n 256"]),
    ],
)
def test_a_command_is_refused_before_anything_is_written(sb, tmp_path, arguments, words):
    sb("run", "-s", "ddim", "--steps", "1", "-n", "8", "-o", "here", *arguments).refused(2, *words)
    assert not list(tmp_path.iterdir())


def test_the_default_metrics_stay_empty_where_they_cannot_be_known(tmp_path):
    table = sb_.run("toy", ["ddim"], steps=[1], n=1, plugins=[TOY], output=tmp_path / "one").table
    assert math.isnan(table["fid"][0])

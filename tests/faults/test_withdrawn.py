"""A run that is refused after its folder was made, and before anything was drawn, leaves nothing behind."""

import dataclasses
from pathlib import Path

import pytest

import samplerbench as sb
from samplerbench.bench.draw.engines import here
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")


def refusing(*_):
    """A model whose file proves invalid when it is first used."""
    raise sb.ModelError("model 'toy': its weights are damaged")


@pytest.fixture(scope="module")
def model():
    """A model that draws."""
    return load_registry([TOY]).model("toy")


def run(model, output, sampler="ddim", **settings):
    """A small run."""
    return sb.run(model, sampler, 2, 20, metrics="none", plugins=[TOY], output=output, **settings)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])  # with an ODE solution, and without
def test_a_refused_run_leaves_no_folder(model, tmp_path, sampler):
    with pytest.raises(sb.ModelError, match="its weights are damaged"):
        run(dataclasses.replace(model, network=refusing), tmp_path / "results" / "run", sampler)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_there_stays_empty(model, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(sb.ModelError):
        run(dataclasses.replace(model, network=refusing), tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_a_run_that_is_resumed_keeps_what_it_has(model, tmp_path, monkeypatch):
    run(model, tmp_path / "run")
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    monkeypatch.setattr(here, "warm_up", refusing)
    with pytest.raises(sb.ModelError, match="damaged"):
        run(model, tmp_path / "run", ["ddim", "ddpm"], add=True)
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == before

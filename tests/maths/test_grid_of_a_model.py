"""A grid that asks the model of the run: its calls are reported apart, and other grids get no model."""

from dataclasses import dataclass
from pathlib import Path

import pytest

import samplerbench as sb
from samplerbench.samplers.grid import asks_model, levels_on
from samplerbench.samplers.registry import default_registry, load_registry
from samplerbench.samplers.sample import request_for

TOY = str(Path(__file__).parents[1] / "toy.py")
PLUGIN = '''"""Levels placed by what the network says of one state."""
from dataclasses import dataclass
import torch
from samplerbench import Grid, hookimpl

@dataclass(frozen=True)
class Asking(Grid):
    def times(self, schedule, steps, model=None):
        network = model.network(torch.device("cpu"), torch.float32)
        x = torch.zeros(3, *model.shape)
        said = network(x, torch.full((3,), 500.0), torch.zeros(3, *model.shape)).abs().sum()
        assert float(said) == 0
        return [999 - 100 * i for i in range(steps)]

@hookimpl
def samplerbench_grids():
    return {"asking": Asking}
'''


@dataclass(frozen=True)
class Halving(sb.Grid):
    """Half of the time before, or a share that the model says."""

    def times(self, schedule, steps, model=None):
        share = 0.5 if model is None else model
        return [999 * share**i for i in range(steps)]


def test_a_grid_with_a_third_argument_gets_the_model_and_others_none():
    schedule, uniform = sb.vp_linear(), default_registry().grids["uniform"]()
    assert asks_model(Halving())
    assert not asks_model(uniform)
    assert [level.t for level in levels_on(Halving(), schedule, 3, model=0.25)[:-1]] == [999, 249.75, 62.4375]
    assert [level.t for level in levels_on(Halving(), schedule, 3)[:-1]] == [999, 499.5, 249.75]
    assert levels_on(uniform, schedule, 3, model=0.25) == levels_on(uniform, schedule, 3)


def test_its_evaluations_are_reported_apart_and_are_no_part_of_a_key(tmp_path):
    (tmp_path / "asking.py").write_text(PLUGIN)
    registry = load_registry([TOY, str(tmp_path / "asking.py")])
    request = request_for(registry, "toy", "ddim", steps=3, grid="asking")
    listed = request_for(registry, "toy", "ddim", steps=3, grid=[999, 899, 799])
    assert (request.grid_evaluations, listed.grid_evaluations) == (3, 0)
    assert request.levels == listed.levels
    table = sb.run(
        "toy", ["ddim", "ddim:grid=asking"], steps=3, n=4, metrics=[], output=tmp_path / "run",
        plugins=[TOY, str(tmp_path / "asking.py")],
    ).table  # fmt: skip
    assert table["nfe"].tolist() == table["network_evaluations"].tolist() == [3, 3]
    assert table["warning"].isna().tolist() == [True, False]
    assert table["warning"][1] == "its grid made 3 network evaluations"


def test_a_grid_that_needs_a_model_and_fails_is_named(tmp_path):
    (tmp_path / "asking.py").write_text(PLUGIN)
    registry = load_registry([str(tmp_path / "asking.py")])
    with pytest.raises(sb.PluginError, match="grid 'asking'"):
        registry.levels("asking", sb.vp_linear(), 3, integer=False)

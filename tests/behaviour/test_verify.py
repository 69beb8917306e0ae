"""samplerbench verify: a run that can be had again, one that cannot, and one that was changed."""

import importlib.metadata
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import samplerbench as sb_
from cases import FURTHER
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.verify import DAMAGED, DIFFERS, EQUAL, verify
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
REGISTRY = load_registry([TOY])
COMMAND = ("run", "--plugin", TOY, "--model", "toy", "-s", "ddim", "-s", "ddpm", "-s", "late", "--steps", "2,3",
           "-n", 70, "--guidance", 2, "--negative", "left", "-o")  # fmt: skip


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run whose last sampler failed in its second block."""
    folder = tmp_path_factory.mktemp("stored") / "run"
    sb_.run(
        "toy", ["ddim", "ddpm", "late"], steps=[2, 3], n=70, guidance=2.0, negative="left", plugins=[TOY], output=folder
    )
    return folder


@pytest.fixture
def copy(stored, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(stored, tmp_path / "copy"))


def rewritten(folder, cell, **changes):
    """Change a cell's first chunk, with all hashes right."""
    store = RunFolder(folder)
    key = read_run(folder).cells[cell].key
    path = sorted(store.cell_path(key).iterdir())[0]
    arrays, about = store.read_arrays(path)
    for name, change in changes.items():
        if name == "nfe":
            about["timing"] = json.dumps({**json.loads(about["timing"]), "nfe": change})
        else:
            change(arrays[name.replace("__", ".")])
    store.write_arrays(path, arrays, about)
    return path


def test_a_run_is_drawn_again_byte_by_byte(sb, stored):
    done = sb("verify", stored, "--plugin", TOY, "--chunks", 99)
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == ["sampler", "grid", "steps", "samples", "verdict"]
    assert rows[1] == ["ddim", "uniform", "2", "0-63", "equal"]
    assert rows[2] == ["ddim", "uniform", "2", "64-69", "equal"]
    assert len(rows) == 1 + 2 * 2 * 2 + 2 + 1
    assert done.out.splitlines()[-1] == "10 of 10 chunks equal; the run has 10; seed 0, with 1 thread as the run"


def test_what_is_chosen_depends_on_the_seed_alone(sb, stored):
    def chosen(seed):
        about = json.loads(sb("verify", stored, "--plugin", TOY, "--seed", seed, "--json").out)
        assert about["chunks"] == 10
        return [(check["sampler"], check["steps"], check["first"]) for check in about["checks"]]

    assert chosen(1) == chosen(1)
    assert len(chosen(1)) == 3
    assert len({tuple(chosen(seed)) for seed in range(4)}) > 1


def test_seconds_are_not_compared_and_all_else_is(copy):
    def brighter(images):
        images[3, 0, 2, 5] ^= 3

    def shifted(rows):
        rows[:2] += 0.25

    rewritten(copy, 0, images=brighter)
    rewritten(copy, 1, rows__features=shifted, nfe=7)
    rewritten(copy, 2, hashes=lambda hashes: hashes[:5].__ixor__(np.uint8(1)))
    rewritten(copy, 3)
    checks = {(c.sampler, c.steps, c.first): c for c in verify(StoredRun(copy), REGISTRY, chunks=99).checks}
    (levels,) = checks["ddim", 2, 0].found
    assert levels.startswith("kept images by up to ")
    assert int(levels.split()[5]) in (1, 2, 3)
    assert checks["ddim", 3, 0].found == ("nfe 7 -> 3", "rows of features: 2 of 64 by up to 0.25")
    assert checks["ddpm", 2, 0].found == ("5 of 64 images",)
    assert {place for place, check in checks.items() if check.verdict == EQUAL} == {
        place for place in checks if place not in (("ddim", 2, 0), ("ddim", 3, 0), ("ddpm", 2, 0))
    }


def test_a_distance_to_the_ode_solution_is_compared(copy):
    rewritten(copy, 0, ode_distance=lambda distances: distances.__imul__(2))
    (found,) = (
        check.found for check in verify(StoredRun(copy), REGISTRY, chunks=99).checks if check.verdict == DIFFERS
    )
    assert found[0].startswith("ODE distances: 17 of 17")


def test_a_difference_is_exit_code_1_and_said(sb, copy):
    rewritten(copy, 0, nfe=9)
    done = sb("verify", copy, "--plugin", TOY, "--chunks", 99)
    assert done.code == 1
    assert done.out.splitlines()[1].endswith("differs; nfe 9 -> 2")
    assert done.out.splitlines()[-1].startswith("9 of 10 chunks equal")
    about = json.loads(sb("verify", copy, "--plugin", TOY, "--chunks", 99, "--json").out)
    assert about["checks"][0]["verdict"] == DIFFERS
    assert about["checks"][0]["found"] == ["nfe 9 -> 2"]


def test_a_damaged_chunk_is_named_and_the_others_are_checked(sb, copy):
    path = rewritten(copy, 0)
    path.write_bytes(path.read_bytes()[:-5])
    done = sb("verify", copy, "--plugin", TOY, "--chunks", 99)
    assert done.code == 5
    assert f"{path.parent.name}/{path.name}: damaged" in done.out
    assert "9 of 10 chunks equal, 1 damaged" in done.out
    assert verify(StoredRun(copy), REGISTRY, chunks=99).count(DAMAGED) == 1


def test_threads_are_those_of_the_run_and_put_back(stored, copy):
    before = torch.get_num_threads()
    assert verify(StoredRun(stored), REGISTRY).threads == 1
    torch.set_num_threads(before + 1)
    try:
        assert verify(StoredRun(stored), REGISTRY).exit_code == 0
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"environment__versions__torch": "1.0"}, 2, ["torch 1.0", f"this is {importlib.metadata.version('torch')}"]),
        pytest.param({"environment__versions__samplerbench": "9.9"}, 2, ["samplerbench 9.9", "install"], marks=FURTHER),
        ({"model__fingerprint": "toy 0"}, 4, ["'toy 0' there", "'toy 1' here"]),
        pytest.param(
            {"extractors__fid__fingerprint": "0"}, 4, ["extractor of fid", "'0' there", "'1' here"], marks=FURTHER
        ),
        ({"plan": "0" * 64}, 2, ["its plan is 000000000000 there"]),
        ({"cells__0__key": "f" * 64}, 2, ["sampler 'ddim' was edited since", "ffffffffffff there"]),
        ({"config__colour": "red"}, 5, ["colour is not known"]),
        pytest.param({"config": None}, 5, ["config: expected object, got null"], marks=FURTHER),
        pytest.param(
            {"environment__threads": 0},
            5,
            ["run.json: damaged (environment.threads: expected int >= 1)"],
            marks=FURTHER,
        ),
        ({"config__model": "toyy"}, 2, ["unknown model 'toyy'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_a_run_that_cannot_be_had_again_is_refused_with_both_values(sb, copy, changes, code, words, edited):
    edited(copy, **changes)
    sb("verify", copy, "--plugin", TOY).refused(code, *words)


def test_without_its_plugin_a_run_is_refused(sb, copy, edited):
    sb("verify", copy).refused(2, f"was made with {TOY}", f"--plugin {TOY}")
    edited(copy, plugins=[])
    sb("verify", copy).refused(2, "unknown model 'toy'")


def test_what_is_no_run_is_refused(sb, stored, tmp_path):
    sb("verify", tmp_path / "nothing").refused(2, "no such folder")
    sb("verify", stored, "--plugin", TOY, "--chunks", 0).refused(2, "chunks", "0")
    sb("verify").refused(2, "RUN")


def test_a_run_without_chunks_is_refused(sb, copy):
    shutil.rmtree(copy / "chunks")
    sb("verify", copy, "--plugin", TOY).refused(2, "no chunk yet")


def test_another_model_under_the_same_name_is_told_by_its_images(copy, monkeypatch):
    module = REGISTRY.models.things["toy"].__globals__
    inner = module["network"]

    def network(x, t, condition):
        return inner(x, t, condition) * 1.001

    network.__module__ = module["__name__"]  # as what no text says: a number that its file reads from elsewhere
    monkeypatch.setitem(module, "network", network)
    found = verify(StoredRun(copy), REGISTRY, chunks=1)
    assert found.exit_code == 1
    assert "of 64 images; kept images by up to 2 grey levels; rows of clip: " in "; ".join(found.checks[0].found)


FICKLE = """
import os
from dataclasses import dataclass
from pathlib import Path
from samplerbench import hookimpl
from samplerbench.plugins.samplers.ddim import DDIM

@dataclass(frozen=True)
class Fickle(DDIM):
    number: int = 0

    def step(self, run, x, a, b, past):
        if Path("drawn").exists() and self.number == 1:
            os._exit(7)
        return super().step(run, x, a, b, past)

@hookimpl
def samplerbench_samplers():
    return {"fickle": Fickle}
"""


@pytest.mark.slow
def test_a_sampler_of_others_that_crashes_is_a_chunk_that_differs_and_the_rest_is_checked(sb, tmp_path, monkeypatch):
    (tmp_path / "fickle.py").write_text(FICKLE)
    specs = ("-s", "fickle:number=1", "-s", "fickle", "-s", "ddim")
    done = sb("run", "--plugin", "fickle.py", "--model", "mixture", *specs, "--steps", 2, "-n", 2, "-o", "run")
    assert done.code == 0, done.err
    (tmp_path / "drawn").touch()
    monkeypatch.delenv("SAMPLERBENCH_IN_PROCESS")
    done = sb("verify", "run", "--plugin", "fickle.py", "--json")
    assert done.code == 1, done.err
    found = [(check["sampler"], check["verdict"], check["found"]) for check in json.loads(done.out)["checks"]]
    assert found == [
        ("fickle:number=1", DIFFERS, ["cannot be drawn: its process ended with exit code 7"]),
        ("fickle", EQUAL, []),
        ("ddim", EQUAL, []),
    ]

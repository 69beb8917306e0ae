"""What is measured again on a run folder is of the run's own model and extractors, and runs no code that it names."""

import shutil

import numpy as np
import pytest

import samplerbench as sb
from samplerbench.bench.judge.run_metrics import is_code, ready_metrics
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.samplers.registry import load_registry

MODEL = """
from pathlib import Path
import torch
import samplerbench as sb

Path("ran").touch()


def make():
    return sb.wrap_network(lambda x, t: x, schedule=sb.vp_linear(), shape=(3, 8, 8), predicts="eps", clip=(-1, 1))
"""
PLUGIN = """
from pathlib import Path
from samplerbench import hookimpl
from samplerbench.plugins.samplers.ddim import DDIM

Path("ran").touch()


class Mine(DDIM):
    aliases = {}


@hookimpl
def samplerbench_samplers():
    return {"mine": Mine}
"""
RUN = ("run", "--model", "mine.py:make", "-s", "ddim", "-s", "euler", "--steps", "2,3", "-n", "16")


@pytest.fixture
def own(sb, tmp_path):
    """A run of a model in a file, as its folder is when a stranger has it: the model runs again if it is loaded."""
    (tmp_path / "mine.py").write_text(MODEL)
    assert sb(*RUN, "-o", "own").code == 0
    (tmp_path / "ran").unlink()
    return tmp_path / "own"


ASKING = [
    ("table", "own", "--compare", "ddim", "euler"),
    ("table", "own", "--nfe", "2", "--metric", "ode_error"),
    ("table", "own", "--pareto", "--metric", "ode_error"),
    ("verify", "own"),
]


@pytest.mark.parametrize("command", ASKING)
def test_a_model_of_code_is_not_run_because_a_folder_names_it(sb, own, tmp_path, command):
    sb(*command).refused(2, "own: its model 'mine.py:make' is code", "if it is yours, give --model mine.py:make")
    assert not (tmp_path / "ran").exists()
    assert sb(*command, "--model", "mine.py:make").code == 0
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", [("table", "own", "--format", "md"), ("report", "own")])
def test_what_can_be_shown_without_the_model_is_shown_without_it(sb, own, tmp_path, command):
    for name in ("answers.json", "fronts.json"):
        (own / "chunks" / name).unlink(missing_ok=True)
    assert sb(*command).code == 0
    assert not (tmp_path / "ran").exists()


def test_a_file_with_the_name_of_the_spec_makes_it_no_less_code(sb, own, tmp_path):
    (tmp_path / "mine.py:make").touch()
    sb("table", "own", "--compare", "ddim", "euler").refused(2, "own: its model 'mine.py:make' is code")
    assert not (tmp_path / "ran").exists()


def test_a_plugin_is_not_run_because_a_folder_names_it(sb, tmp_path):
    (tmp_path / "p.py").write_text(PLUGIN)
    run = ("run", "--plugin", "p.py", "--model", "mixture", "-s", "mine", "--steps", 2, "-n", 8, "-o", "r")
    assert sb(*run).code == 0
    (tmp_path / "ran").unlink()
    sb("verify", "r").refused(
        2, "r: was made with p.py, code that is not run because a folder names it", "--plugin p.py"
    )
    assert not (tmp_path / "ran").exists()
    assert sb("verify", "r", "--plugin", "p.py").code == 0


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("fashion-mnist", False), ("fashion-mnist:DIR", False), ("diffusers:org/name", False), ("edm:folder", False),
        ("edm:net.py:make", True), ("net.py:make", True), ("package.module:make", True), ("mixture", False),
    ],
)  # fmt: skip
def test_what_is_code(spec, expected):
    assert is_code(spec, load_registry()) == expected


@pytest.mark.slow
def test_other_references_and_extractors_are_refused(sb, tmp_path):
    (tmp_path / "mine.py").write_text(MODEL)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((64, 1280))
    np.savez(tmp_path / "ref.npz", mu=rows.mean(0), sigma=np.cov(rows.T))
    how = ("--reference", "ref.npz", "--metric", "fid", "--extractor", "efficientnet-lite0")
    assert sb(*RUN, *how, "-o", "r").code == 0
    ask = ("table", "r", "--nfe", "2", "--model", "mine.py:make")
    assert sb(*ask).code == 0
    np.savez(tmp_path / "ref.npz", mu=rows.mean(0) + 1, sigma=np.cov(rows.T))
    sb(*ask).refused(4, "r: the extractor of fid, or what it is compared with, has the fingerprint")


def test_another_model_under_the_name_is_refused(tmp_path, edited):
    folder = tmp_path / "run"
    sb.run("mixture", ["ddim"], steps=[2], n=8, output=folder)
    edited(folder, model__fingerprint="0" * 64)
    with pytest.raises(sb.ModelError, match="model 'mixture' has the fingerprint '000"):
        ready_metrics(StoredRun(folder), load_registry())


def test_settings_that_are_not_known_are_refused(tmp_path, edited):
    folder = tmp_path / "run"
    sb.run("mixture", ["ddim"], steps=[2], n=8, output=folder)
    edited(folder, config__later=1)
    with pytest.raises(sb.StoreError, match="later is not known to this version"):
        ready_metrics(StoredRun(folder), load_registry())
    shutil.rmtree(folder)

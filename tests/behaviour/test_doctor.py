"""samplerbench doctor: it says what is here, names what is wrong, and gives away no one's name."""

import getpass
import importlib.metadata
import json
import platform
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from samplerbench.bench.cli import diagnosis as doctor
from samplerbench.bench.cli.diagnosis import Requirement, requirement_of
from samplerbench.plugins.models.fashion_mnist import data
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
REQUIRES = [
    "torch>=2.10",
    "numpy (>=1.26)",
    'pytest>=8; extra == "test"',
    'no-such-package-anywhere[fast]<2,>=0.3 ; extra == "parity"',
    "torch; extra == 'parity'",
    "here; python_version >= '3'",
    "elsewhere; python_version < '3' and extra == 'parity'",
]


@pytest.fixture
def registry(monkeypatch):
    """The registry, made once and kept for a test that asks more than once."""
    loaded = load_registry()
    monkeypatch.setattr("samplerbench.samplers.registry.load_registry", lambda plugins=(): loaded)
    return loaded


@pytest.fixture
def no_trial(monkeypatch):
    """A default run that works, without the seconds that a trial takes."""
    monkeypatch.setattr(doctor, "default_run", lambda registry: {})


def test_a_place_where_all_is_well_says_so(sb):
    done = sb("doctor", "--json")
    found = json.loads(done.out)
    assert done.code == 0, found["problems"]
    assert found["problems"] == []
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert found["packages"]["samplerbench"] == importlib.metadata.version("samplerbench")
    assert found["machine"]["python"] == platform.python_version()
    assert found["machine"]["usable_cores"] >= 1
    assert found["machine"]["memory_gb"] > 0.1
    assert found["machine"]["threads"] == 1
    assert found["results"]["folder"] == "results"
    assert found["results"]["writable"] is True
    assert sum(found["plugins"]["loaded"].values()) >= 30
    assert found["default_run"]["model"] == "fashion-mnist"
    assert found["default_run"]["metrics"] == ["fid", "clip_score"]


@pytest.mark.usefixtures("no_trial")
def test_it_writes_nothing_and_names_no_host_and_no_user(sb, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "sets")
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "train-images-idx3-ubyte.gz").touch()
    done = sb("doctor", "--plugin", TOY)
    assert done.code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sets"]
    assert "data of fashion-mnist: ~/sets" in done.out
    assert f"plugin {TOY}: " in done.out
    assert done.out.splitlines()[-1] == "a default run would work"
    assert str(tmp_path) not in done.out
    words = re.findall(r"[\w.-]+", done.out.replace(TOY, ""))
    assert platform.node() not in words
    assert getpass.getuser() not in words


def test_requirements_are_read_as_packages_write_them():
    assert [requirement_of(line, ["test", "parity"]) for line in REQUIRES] == [
        Requirement("torch", ">=2.10", ""),
        Requirement("numpy", ">=1.26", ""),
        Requirement("pytest", ">=8", "test"),
        Requirement("no-such-package-anywhere", "<2,>=0.3", "parity"),
        Requirement("torch", "", "parity"),
        Requirement("here", "", ""),
        None,
    ]
    with pytest.raises(ValueError, match="==1"):
        requirement_of("==1", [])


@pytest.mark.usefixtures("no_trial")
def test_extras_say_what_is_there_and_how_to_get_what_is_not(sb, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRES)
    found = json.loads(sb("doctor", "--json").out)
    assert found["extras"]["test"] == {"packages": {"pytest": pytest.__version__}, "install": None}
    parity = found["extras"]["parity"]
    assert parity["packages"]["no-such-package-anywhere"] is None
    assert parity["packages"]["torch"]
    assert parity["install"] == "pip install 'no-such-package-anywhere<2,>=0.3'"
    assert found["problems"] == ["package here is missing: pip install here"]
    assert "no-such-package-anywhere (missing)" in sb("doctor").out
    assert "elsewhere" not in sb("doctor").out


@pytest.mark.usefixtures("no_trial")
def test_the_extras_are_those_of_the_project(sb):
    found = json.loads(sb("doctor", "--json").out)
    assert "test" in found["extras"]
    lines = importlib.metadata.requires("samplerbench")
    assert len(found["packages"]) - 1 == sum("extra" not in line for line in lines)


def missing_package(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["no-such-package-anywhere>=3"])
    return ["package no-such-package-anywhere>=3 is missing", "pip install 'no-such-package-anywhere>=3'"]


def not_installed(monkeypatch, tmp_path):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    return ["packages: ", "samplerbench is not installed", "pip install ."]


def results_a_file(monkeypatch, tmp_path):
    (tmp_path / "results").touch()
    return ["results is a file", "-o"]


def results_read_only(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    return ["results cannot be written", "-o"]


def disk_full(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**7))
    return ["results: 0.01 GB left", "-o"]


def torch_broken(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    return ["machine: ModuleNotFoundError", "torch"]


@pytest.mark.usefixtures("no_trial", "registry")
@pytest.mark.parametrize(
    "fault", [missing_package, not_installed, results_a_file, results_read_only, disk_full, torch_broken]
)
def test_what_stands_in_the_way_of_a_default_run_is_named(sb, monkeypatch, tmp_path, fault):
    with monkeypatch.context() as patch:
        words = fault(patch, tmp_path)
        done, as_json = sb("doctor"), sb("doctor", "--json")
    assert (done.code, as_json.code) == (1, 1)
    problem = next(line for line in done.out.splitlines() if line.startswith("problem: "))
    for word in words:
        assert word in problem
    assert done.out.splitlines()[-1] == "a default run would not work"
    assert len(json.loads(as_json.out)["problems"]) == 1
    assert "Traceback" not in done.err


def test_a_default_run_that_cannot_be_is_a_problem(sb, registry):
    del registry.samplers.things["ddpm"]
    done = sb("doctor")
    assert done.code == 1
    assert "problem: default run: InputError: unknown sampler 'ddpm'" in done.out


def test_damaged_weights_are_a_problem(sb, registry, tmp_path):
    from samplerbench.plugins.models.fashion_mnist.model import FashionMNIST

    (tmp_path / "weights").mkdir()
    registry.models.things["fashion-mnist"] = lambda argument: FashionMNIST()("weights")
    done = sb("doctor")
    assert done.code == 1
    assert "problem: default run: ModelError: weights/unet.safetensors" in done.out


@pytest.mark.usefixtures("no_trial")
def test_a_broken_plugin_is_named_and_is_no_problem_of_a_default_run(sb, broken_plugin):
    broken_plugin("no\x1b[31m good")
    done = sb("doctor")
    assert done.code == 0
    assert "plugin broken_by_test: RuntimeError: no\\x1b[31m good" in done.out


@pytest.mark.usefixtures("no_trial")
def test_data_that_is_not_here_is_said_and_not_fetched(sb, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "nowhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    done = sb("doctor")
    assert done.code == 0
    assert "data of fashion-mnist: not on this machine" in done.out
    assert list(tmp_path.iterdir()) == []

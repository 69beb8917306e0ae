"""The recipe that trains the model scenes on a GPU: its commands, how it goes on, and all of it in miniature."""

import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from cases import skip_module_without
from samplerbench.bench.cli.train import train

skip_module_without("diffusers", "transformers")

FOLDER = Path(__file__).parents[2] / "benchmarks"
FILE = FOLDER / "scenes-64.toml"
LOG = """phase,step,steps,loss,seconds,seconds_a_step,utilisation
vae,1,40,0.9,1,1,0.5
vae,30,40,0.5,20,0.7,0.5
vae,40,40,0.4,9,0.9,0.5
unet,10,10,0.3,5,0.5,0.5
"""
"""Of a training that was stopped after 30 steps and went on; its clock began anew, and at each phase."""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark_scenes_recipe", FOLDER / "scenes_recipe.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def recipe(script):
    return script.Recipe(tomllib.loads(FILE.read_text()), "cuda", 1.0)


def test_its_commands_are_those_of_the_command_line(recipe, tmp_path):
    commands = dict(recipe.commands(tmp_path))
    assert list(commands) == ["model", "detector", "package", "measured"]
    told = {}
    for part in ("model", "detector"):
        assert commands[part][1:4] == ["-m", "samplerbench", "train"]
        told[part] = train.make_context("train", commands[part][4:]).params
    model, detector = told["model"], told["detector"]
    assert (model["latent"], model["device"], model["size"], detector["model"]) == (True, "cuda", 64, "scenes-detector")
    assert model["data"] == "scenes:size=64,things=60,images=100000"
    assert model["decoder_data"] == "scenes:size=64,things=60,images=25000,split=all,seed=1"
    assert model["output"] == tmp_path / "training"
    assert all(Path(commands[part][1]).is_file() for part in ("package", "measured"))


def test_a_share_of_the_recipe_still_fills_its_batches(script, recipe, tmp_path):
    small = script.Recipe(recipe.content, "cpu", 1e-4)
    told = {
        part: train.make_context("train", command[4:]).params
        for part, command in small.commands(tmp_path)
        if part in ("model", "detector")
    }
    assert (told["model"]["batch_size"], told["model"]["steps"]) == (8, 2)
    assert told["model"]["data"].endswith("images=16")


def test_it_goes_on_where_it_was_stopped(script, monkeypatch, tmp_path):
    ran, codes = [], [0, 3, 0, 0, 0]

    def run(command, *, check):
        ran.append(command[3] if command[1] == "-m" else Path(command[1]).name)
        for part in ("training", "detector"):
            (tmp_path / "out" / part).mkdir(exist_ok=True)
            (tmp_path / "out" / part / "training.csv").write_text(LOG)
        return SimpleNamespace(returncode=codes[len(ran) - 1])

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(script.time, "monotonic", iter(range(0, 1000, 60)).__next__)
    asked = [str(FILE), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert CliRunner().invoke(script.main, asked).exit_code == 3
    assert json.loads((tmp_path / "out" / "times.json").read_text()) == {"model": 60, "detector...": 60}
    done = CliRunner().invoke(script.main, asked)
    assert done.exit_code == 0, done.output
    assert ran == ["train", "train", "train", "fill.py", "scenes.py"]
    assert "| all of `detector` | | 2.0 | |" in done.output  # both of its calls
    assert "5.0 minutes on cpu; the aim is 25" in done.output
    again = CliRunner().invoke(script.main, asked)
    assert len(ran) == 5
    assert "5.0 minutes" in again.output


def test_times_of_phases_are_of_all_calls(script, tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    assert script.phases(tmp_path / "log.csv") == {"vae": (40, 29.0), "unet": (10, 5.0)}


def test_a_step_takes_the_longer_of_arithmetic_and_asking(script):
    phase = script.Phase("unet", 10, 100, script.UTILISED * script.PEAK / 1000, 20, 0.5)
    assert phase.seconds == pytest.approx(0.1 + 0.5)  # 20 kernels are asked for in 0.2 ms
    many = script.Phase("unet", 10, 1, 1.0, 30_000, 0.0)
    assert many.seconds == pytest.approx(30_000 * script.OPERATION)


def test_without_a_folder_it_says_what_it_wants(script):
    refused = CliRunner().invoke(script.main, [str(FILE)])
    assert refused.exit_code == 2
    assert "-o DIR: not given" in refused.output


@pytest.mark.slow
def test_all_of_it_in_miniature(tmp_path):
    """The very file, with a share of every count; given again it only prints its times."""
    asked = [
        sys.executable, str(FOLDER / "scenes_recipe.py"), str(FILE), "-o", str(tmp_path / "out"), "--share", "1e-4",
        "--device", "cpu",
    ]  # fmt: skip
    first = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    for row in ("| vae | ", "| decoder | ", "| text | ", "| unet | ", "| detector | ", "| all of `measured` | "):
        assert row in first.stdout
    assert "| samples: object | " in first.stdout
    assert (tmp_path / "out" / "package" / "model" / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert (tmp_path / "out" / "sheet.png").is_file()
    again = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert "train" not in again.stderr
    assert first.stdout.endswith(again.stdout)


@pytest.mark.slow
def test_its_length_is_counted_from_the_networks(script, recipe):
    phases = {phase.name: phase for phase in script.estimate(recipe)}
    assert set(phases) == {"drawing images", "vae", "decoder", "latents", "text", "unet", "detector", "measuring"}
    assert 10 < sum(phase.steps * phase.seconds for phase in phases.values()) / 60 < recipe.content["minutes"]
    # The way back takes twice the arithmetic of a pass, but for the first layer and what the text encoder adds.
    assert 2.8 < phases["unet"].flops / phases["measuring"].flops < 3.2

"""The list of settings: every place that names a setting has it from there, and a new one touches three files."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

import samplerbench as sb
from samplerbench.bench.cli import cli
from samplerbench.bench.plan.config import Config, as_json, from_json
from samplerbench.bench.plan.keywords import PLACES, config_of
from samplerbench.bench.plan.settings import CONDUCT, SETTINGS
from samplerbench.bench.run import Manner
from samplerbench.bench.show.provenance import call_of

ROOT = Path(__file__).parents[2]
MOST_FILES = 3
OF_THE_COMMAND = {"output", "plugin", "no_plugins", "config", "dry_run", "as_json", "quiet", "allow_download"}
"""Options of `run` that are no settings."""
OF_THE_PICTURE = {
    "x", "y", "z", "prompt", "trajectory", "output", "plugin", "no_plugins", "allow_download", "quiet",
}  # fmt: skip
"""Options of `grid` that are no settings."""


def options_of(command):
    """The long options of a command by name."""
    return {p.name: p for p in cli.commands[command].params if p.param_type_name == "option"}


def test_the_arguments_of_run_are_the_settings_with_their_defaults():
    arguments = {name: p.default for name, p in inspect.signature(sb.run).parameters.items()}
    settings = {one.keyword: one.default for one in (*SETTINGS, *CONDUCT) if one.keyword}
    assert arguments.keys() == settings.keys() | PLACES.keys()
    assert {name: arguments[name] for name in settings} == settings | {"nfe": None}


def test_the_records_of_a_run_hold_the_settings_and_nothing_else():
    assert [field.name for field in fields(Config)] == [one.name for one in SETTINGS]
    assert [field.name for field in fields(Manner)] == [one.name for one in CONDUCT]


def test_the_options_of_run_and_grid_are_the_settings():
    options = options_of("run")
    assert options.keys() - OF_THE_COMMAND == {one.name for one in (*SETTINGS, *CONDUCT)}
    for one in (*SETTINGS, *CONDUCT):
        assert {one.option, one.short} - {""} == set(options[one.name].opts)
    assert options_of("grid").keys() - OF_THE_PICTURE == {one.name for one in SETTINGS if one.grid}


def test_each_name_of_a_setting_is_its_own():
    for names in ([one.option for one in (*SETTINGS, *CONDUCT)], [one.short for one in SETTINGS if one.short]):
        assert len(set(names)) == len(names)


def test_run_json_holds_the_settings_as_it_always_did():
    before = (
        '{"model": "fashion-mnist", "sampler": ["ddpm", "ddim", "dpm-solver", "euler-a"], "steps": [5, 10, 20], '
        '"nfe": [], "samples": 512, "seed": 0, "batch_size": null, "grid": null, "guidance": 1.0, '
        '"guidance_rescale": 0.0, "prompts": null, "negative": null, "metric": ["fid", "clip_score"], '
        '"device": "cpu", "dtype": "float32", "threads": null, "keep_images": null}'
    )
    assert json.dumps(as_json(Config())) == before
    later = Config(guidance_calls=2, size="8", clip_skip=1, extractor=("inception",), reference="x")
    assert [name for name in as_json(later) if name not in json.loads(before)] == [
        "guidance_calls", "size", "clip_skip", "extractor", "reference",
    ]  # fmt: skip
    assert from_json(as_json(later)) == later


def test_steps_beside_budgets_are_refused_unless_they_are_left_out(tmp_path):
    with pytest.raises(sb.InputError, match="steps and nfe: expected one of them"):
        sb.run("mixture", "ddim", steps=2, nfe=4, n=20, output=tmp_path / "run")
    given = {name: p.default for name, p in inspect.signature(sb.run).parameters.items()}
    assert (config_of(given | {"nfe": 4}).steps, config_of(given | {"nfe": 4, "steps": ()}).nfe) == ((), (4,))


def test_a_call_names_the_arguments_of_run():
    config = Config(sampler=("ddim",), extractor=("inception",), threads=2, steps=(), nfe=(5,), prompts=("a",))
    call = call_of(SimpleNamespace(config=config, plugins=("p.py",)))
    assert call == (
        "samplerbench.run(samplers=['ddim'], nfe=[5], extractors=['inception'], prompts=['a'], plugins=['p.py'])"
    )


@pytest.mark.parametrize("name", [one.keyword for one in CONDUCT if one.kind == "flag"])
def test_a_flag_that_is_neither_true_nor_false_is_refused(name, tmp_path):
    with pytest.raises(sb.InputError, match=f"{name} 'yes': expected True or False"):
        sb.run("mixture", "ddim", 2, 4, output=tmp_path / "run", **{name: "yes"})
    assert not list(tmp_path.iterdir())


NEW = """    warmth: float = setting(
        1.0, "number", "drawn", "Factor of the noise at the start.", numbers="a number above 0, as in 1.5",
        for_request=True, must_agree=True, later=True, grid=InGrid(),
    )

"""
EDITS = {
    "bench/plan/settings.py": [(r"(?=@dataclass\(frozen=True\)\nclass Conduct)", NEW)],
    "bench/run.py": [(r"(?<=    guidance_calls: int = 1,\n)", "    warmth: float = 1.0,\n")],
    "samplers/sample.py": [
        (r"(?<=    guidance_calls: int = 1,\n)", "    warmth: float = 1.0,\n"),
        (r"(?<=    guidance_calls: int = 1\n)", "    warmth: float = 1.0\n"),
        (
            r"(?<=        guidance_calls=calls if model.mixes\(guidance, unconditional=unconditional\) else 1,\n)",
            "        warmth=warmth,\n",
        ),
        (
            r"(?<=stream.prior\(\).to\(torch.promote_types\(request.dtype, torch.float32\)\) \* scale)",
            " * request.warmth",
        ),
    ],
}
"""All that a new setting changes, by file: here a factor that the state at the start is multiplied with."""
TRIED = """
import contextlib, io, json, os, sys
from pathlib import Path
import samplerbench as sb
from samplerbench.bench import run as harness
from samplerbench.bench.cli import main
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.show.grid_plot import plot_for
from samplerbench.bench.show.provenance import call_of

def said(*words, **env):
    out = io.StringIO()
    os.environ |= env
    sys.argv = ["samplerbench", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
        main()
    for name in env:
        del os.environ[name]
    return out.getvalue()

few = ("--model", "mixture", "-s", "ddim", "--steps", "2", "-n", "8")
harness.write_report = lambda *_: None  # which nobody reads, and whose charts take a second
Path("c.toml").write_text("warmth = 2\\n")
sb.run("mixture", "ddim", 2, 8, output="plain")
sb.run("mixture", "ddim", 2, 8, output="python", warmth=2)
plain, python = read_run(Path("plain")), read_run(Path("python"))
print(json.dumps({
    "help": [said("run", "--help"), said("grid", "--help")],
    "refused": said("run", *few, SAMPLERBENCH_RUN_WARMTH="x"),
    "config": said("run", *few, "--config", "c.toml", "-o", "python", "--dry-run"),
    "environment": said("run", *few, "-o", "python", "--dry-run", SAMPLERBENCH_RUN_WARMTH="2"),
    "other": said("run", *few, "-o", "plain", "--warmth", "2", "--dry-run"),
    "merge": said("table", "plain", "python", "--merge"),
    "keys": [run.cells[0].key for run in (plain, python)],
    "stored": [json.loads((Path(run) / "run.json").read_text())["config"].get("warmth") for run in ("plain", "python")],
    "call": call_of(python),
    "picture": plot_for({"warmth": 2.0}, ()).command,
}))
"""


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """What a copy of the package says that has a new setting."""
    place = tmp_path_factory.mktemp("copy")
    copy = place / "samplerbench"
    for folder in ("bench", "samplers"):
        shutil.copytree(ROOT / folder, copy / folder)  # what Python compiled goes with the files that nobody edits
    for name in ("plugins", "templates"):
        (copy / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "__init__.py", copy)
    for file, edits in EDITS.items():
        text = (copy / file).read_text()
        for pattern, addition in edits:
            text, count = re.subn(pattern, lambda _, addition=addition: addition, text)
            assert count, f"{file} has no {pattern}"
        (copy / file).write_text(text)
    (place / "try_it.py").write_text(TRIED)
    environment = os.environ | {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "try_it.py"], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_new_setting_touches_three_files():
    assert len(EDITS) <= MOST_FILES


def test_a_new_setting_is_an_option_of_run_and_grid(tried):
    run, grid = (" ".join(text.split()) for text in tried["help"])
    assert "--warmth FLOAT Factor of the noise at the start. [default: 1.0]" in run
    assert "--warmth FLOAT Factor of the noise at the start. [default: 1]" in grid
    assert tried["picture"].endswith("--warmth 2")


def test_a_new_setting_stands_in_config_files_and_the_environment(tried):
    words = "environment variable SAMPLERBENCH_RUN_WARMTH: warmth 'x': expected a number above 0, as in 1.5"
    assert tried["refused"] == f"Error: {words}\n"
    for way in ("config", "environment"):
        assert "of which 0 are left to make in python" in tried[way]


def test_a_new_setting_is_stored_where_it_is_given_and_part_of_the_key(tried):
    assert tried["stored"] == [None, 2.0]
    assert len(set(tried["keys"])) == 2
    assert "belongs to another run (warmth: None -> 2.0)" in tried["other"]
    assert tried["call"] == "samplerbench.run(model='mixture', samplers=['ddim'], steps=[2], n=8, warmth=2.0)"


def test_runs_that_differ_in_a_new_setting_are_not_merged(tried):
    assert "merge python: warmth 2.0, and None in plain" in tried["merge"]

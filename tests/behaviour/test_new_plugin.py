"""`samplerbench new-plugin`: what it writes works, for every kind of plugin, and it overwrites nothing."""

import ast
import os
import select
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import samplerbench as sb
from samplerbench.bench import cli
from samplerbench.bench.cli import scaffold as scaffolds
from samplerbench.bench.cli.scaffold import (
    KINDS,
    check_name,
    commands_of,
    files_of_package,
    files_of_plugin,
    new_plugin,
)
from samplerbench.samplers.plugin import KINDS as HOOK_KINDS
from samplerbench.samplers.registry import default_registry, load_registry

TEMPLATES = Path(__file__).parents[2] / "templates"


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run the program in this process, in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["samplerbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return (stopped.value.code, *capsys.readouterr())

    return invoke


def tree(folder):
    """Every file below a folder with its text."""
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def run_tests(folder):
    """Run pytest in a folder as its owner would; returns its last line."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def test_a_file_and_its_test_are_written_and_named(command, tmp_path):
    code, out, err = command("new-plugin", "my-own")
    assert code == 0
    assert out.splitlines() == ["my_own.py", "test_my_own.py"]
    assert set(tree(tmp_path)) == {"my_own.py", "test_my_own.py"}
    assert err == "next: samplerbench check my-own --plugin my_own.py\n"


def test_a_project_that_can_be_installed_is_written(command, tmp_path):
    code, out, err = command("new-plugin", "my-own", "--package", "-o", "projects")
    assert code == 0
    files = {
        "projects/my-own/pyproject.toml", "projects/my-own/README.md",
        "projects/my-own/src/my_own/__init__.py", "projects/my-own/tests/test_my_own.py",
    }  # fmt: skip
    assert set(out.splitlines()) == set(tree(tmp_path)) == files
    assert "pip install -e projects/my-own" in err
    project = tomllib.loads((tmp_path / "projects/my-own/pyproject.toml").read_text())
    assert project["project"]["entry-points"]["samplerbench"] == {"my-own": "my_own"}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_written_and_the_next_command_is_named(command, tmp_path, kind):
    code, out, err = command("new-plugin", "my-own", "--kind", kind, "-o", "here")
    assert code == 0
    assert out.splitlines() == ["here/my_own.py", "here/test_my_own.py"]
    assert err.startswith("next: samplerbench ")
    assert err.endswith(" --plugin here/my_own.py\n")
    assert "my-own" in err or f"list {KINDS[kind]}" in err


@pytest.mark.parametrize("kind", KINDS)
def test_a_project_of_each_kind_says_what_to_try(command, tmp_path, kind):
    assert command("new-plugin", "my-own", "--kind", kind, "--package")[0] == 0
    files = tree(tmp_path / "my-own")
    assert list(files) == ["README.md", "pyproject.toml", "src/my_own/__init__.py", "tests/test_my_own.py"]
    assert "\n".join(commands_of("my-own", kind)) in files["README.md"]
    assert not any("--plugin" in text for text in files.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["mine", "dpm-2x", "x", "under_score"])
def test_no_name_of_the_template_is_left(name, kind):
    for path, text in (files_of_plugin(name, kind) | files_of_package(name, kind)).items():
        for word in (f"my-{kind}", f"my_{kind}", f"My{kind.capitalize()}", "my-plugin", "my_plugin", "COMMANDS"):
            assert word not in path + text
        if path.endswith(".py"):
            ast.parse(text)


def test_a_name_that_contains_the_template_s_is_written_once():
    text = (
        files_of_plugin("my-plugin-two")["my_plugin_two.py"] + files_of_plugin("my-grid-two", "grid")["my_grid_two.py"]
    )
    assert '{"my-plugin-two": MyPluginTwo}' in text
    assert '{"my-grid-two": MyGridTwo}' in text


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_registers_itself(tmp_path, kind):
    path, _ = new_plugin("my-own", tmp_path, default_registry(), kind=kind, package=False)
    registry = load_registry([str(path)])
    assert getattr(registry, KINDS[kind]).origins["my-own"].plugin == str(path)
    assert not [remark for remark in registry.remarks if remark.origin.plugin == str(path)]


def test_every_hook_has_a_kind():
    assert sorted(KINDS.values()) == sorted(HOOK_KINDS)


def test_a_kind_is_a_pair_of_templates_and_a_row(tmp_path, monkeypatch):
    shutil.copytree(TEMPLATES, tmp_path / "templates")
    (tmp_path / "templates" / "my_judge.py").write_text(
        '"""my-judge.\n\n    samplerbench list --plugin my_judge.py\n"""\n'
    )
    (tmp_path / "templates" / "test_my_judge.py").write_text("from my_judge import MyJudge\n")
    monkeypatch.setattr(scaffolds, "TEMPLATES", tmp_path / "templates")
    monkeypatch.setitem(scaffolds.KINDS, "judge", "samplers")
    source, test = new_plugin("two-hosts", tmp_path / "here", default_registry(), kind="judge", package=False)
    assert source.read_text().startswith('"""two-hosts.')
    assert test.read_text() == "from two_hosts import TwoHosts\n"


def test_the_sampler_works_as_it_is(tmp_path):
    path, _ = new_plugin("my-own", tmp_path, default_registry(), package=False)
    registry = load_registry([str(path)])
    model = sb.load_model("mixture")
    mine = sb.sample(model, registry.sampler("my-own"), steps=7, n=4)
    assert torch.equal(mine.x, sb.sample(model, "ddim", steps=7, n=4).x)
    assert mine.nfe == 7


@pytest.mark.slow
def test_the_sampler_passes_the_test_that_comes_with_it(tmp_path):
    new_plugin("my-own", tmp_path, default_registry(), package=False)
    assert " passed" in run_tests(tmp_path)
    source = tmp_path / "my_own.py"
    text = source.read_text()
    assert text.count("convergence = 1") == 1
    source.write_text(text.replace("convergence = 1", "convergence = 2"))
    with pytest.raises(AssertionError, match="order"):
        run_tests(tmp_path)


FAULTS = {
    "grid": ("[w * first + (1 - w) * last", "[w * last + (1 - w) * first"),
    "model": ('predicts="eps"', 'predicts="x0"'),
    "metric": ("(rows - mean) @ shift / value", "2 * (rows - mean) @ shift / value"),
    "extractor": ("grey = images.double()", "grey = images.double() - images.double().mean()"),
    "data": ("(255 * disc[None]).to(torch.uint8)", "disc[None].float()"),
    "engine": ("if not at_work:", "if len(at_work) < 2:"),
}
"""By kind, a place of the template and a mistake that its test must see."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAULTS)
def test_each_kind_passes_the_test_that_comes_with_it_and_a_mistake_does_not(tmp_path, kind):
    source, _ = new_plugin("my-own", tmp_path, default_registry(), kind=kind, package=False)
    assert " passed" in run_tests(tmp_path)
    right, wrong = FAULTS[kind]
    text = source.read_text()
    assert text.count(right) == 1
    source.write_text(text.replace(right, wrong))
    with pytest.raises(AssertionError, match=" failed"):
        run_tests(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_commands_in_its_docstring_work(command, tmp_path, kind):
    new_plugin("my-own", tmp_path, default_registry(), kind=kind, package=False)
    (tmp_path / "PHOTOS").mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(tmp_path / "PHOTOS" / f"{i}.png")
    for line in commands_of("my-own", kind):
        code, out, err = command(*line.split()[1:], "--plugin", "my_own.py")
        assert code == 0, err
        assert "my-own" in out or "FD-my-own" in out or kind in ("grid", "data", "engine"), out


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAULTS)
def test_a_project_of_each_kind_passes_its_tests(tmp_path, kind):
    new_plugin("my-own", tmp_path, default_registry(), kind=kind, package=True)
    assert " passed" in run_tests(tmp_path / "my-own")


@pytest.mark.slow
def test_the_project_passes_its_tests_and_is_found_once_it_is_installed(tmp_path, monkeypatch):
    new_plugin("my-own", tmp_path, default_registry(), package=True)
    assert " passed" in run_tests(tmp_path / "my-own")
    project = tomllib.loads((tmp_path / "my-own/pyproject.toml").read_text())["project"]
    about = tmp_path / "my-own" / "src" / "my_own-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = project["entry-points"]["samplerbench"].items()
    (about / "entry_points.txt").write_text("[samplerbench]\n" + "".join(f"{n} = {m}\n" for n, m in entries))
    monkeypatch.syspath_prepend(str(tmp_path / "my-own" / "src"))
    registry = load_registry()
    sys.modules.pop("my_own")
    assert str(registry.samplers.origins["my-own"]) == "my_own 0.1.0"


@pytest.mark.slow
def test_the_project_can_be_built(tmp_path):
    new_plugin("my-own", tmp_path, default_registry(), package=True)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(tmp_path / "my-own")]
    subprocess.run(build, check=True, capture_output=True)
    assert [p.name for p in tmp_path.glob("*.whl")] == ["my_own-0.1.0-py3-none-any.whl"]


@pytest.mark.parametrize("package", [False, True])
def test_what_is_there_is_not_written_over(command, tmp_path, package):
    arguments = ("new-plugin", "my-own", *(["--package"] if package else []))
    assert command(*arguments)[0] == 0
    before = tree(tmp_path)
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Error: output my")
    assert "exists" in err
    assert tree(tmp_path) == before


def test_a_test_that_is_there_keeps_the_sampler_from_being_written(command, tmp_path):
    (tmp_path / "test_my_own.py").symlink_to("nowhere")
    assert command("new-plugin", "my-own")[0] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["test_my_own.py"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((name, "expected lower-case letters") for name in (
            "", "../x", "a/b", "My", "1st", "-x-", "a--b", "a.b", "a b", "=1+1", "\x1b[31m", "\u202ex", "é", "x\n",
            "x" * 41,
        )),
        ("ddim", "there is a sampler 'ddim', from samplerbench.plugins.samplers.ddim"),
        ("dpm_solver", "there is a sampler 'dpm-solver'"),
        ("dpmpp-2m", "another name of the sampler 'dpm-solver++'"),
        ("class", "word or a module 'class'"),
        ("random", "word or a module 'random'"),
        ("torch", "word or a module 'torch'"),
        ("samplerbench", "word or a module 'samplerbench'"),
    ],
)  # fmt: skip
def test_a_bad_name_is_refused_and_nothing_is_written(command, tmp_path, name, words):
    code, out, err = command("new-plugin", "--", name)
    assert (code, out) == (2, "")
    assert err.startswith("Error: name ")
    assert words in err
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_of_the_template_is_as_good_as_any(kind):
    check_name(f"my-{kind}", default_registry(), kind)


@pytest.mark.parametrize(
    ("kind", "name", "taken"),
    [("grid", "kar-ras", "karras"), ("model", "fashion_mnist", "fashion-mnist"), ("metric", "f_id", "fid"),
     ("extractor", "incep-tion", "inception"), ("data", "cifar-10", "cifar10"), ("engine", "lo-cal", "local")],
)  # fmt: skip
def test_a_name_that_is_taken_is_refused_by_its_kind(command, tmp_path, kind, name, taken):
    code, out, err = command("new-plugin", name, "--kind", kind)
    assert (code, out) == (2, "")
    assert f"there is a {kind} '{taken}', from samplerbench.plugins" in err
    assert not list(tmp_path.iterdir())


def test_a_name_that_another_kind_has_is_free():
    check_name("karras", default_registry(), "metric")
    check_name("dpmpp-2m", default_registry(), "grid")


def test_an_unknown_kind_is_refused_with_the_closest(command, tmp_path):
    code, out, err = command("new-plugin", "my-own", "--kind", "metrics")
    assert (code, out) == (2, "")
    assert err == (
        "Error: unknown kind 'metrics' (did you mean 'metric'?); "
        "kinds: sampler, grid, model, metric, extractor, data, engine\n"
    )
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_no_folder_is_refused(command, tmp_path):
    (tmp_path / "file").write_text("precious")
    code, _, err = command("new-plugin", "my-own", "-o", "file")
    assert code == 2
    assert "is a file" in err
    code, _, err = command("new-plugin", "my-own", "-o", "/proc/nowhere")
    assert code == 5
    assert "cannot be written" in err


SAYS_WHERE = """
import os, time
from dataclasses import dataclass
from samplerbench import Sampler, hookimpl

@dataclass(frozen=True)
class SaysWhere(Sampler):
    convergence = 1

    def nfe(self, steps):
        return steps

    def step(self, run, x, a, b, past):
        with open("fifo", "w") as fifo:
            fifo.write(str(os.getpid()))
        time.sleep(600)

@hookimpl
def samplerbench_samplers():
    return {"says-where": SaysWhere}
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_of_the_engine_outlives_a_run_that_is_stopped_in_a_chunk_without_end(tmp_path, number):
    new_plugin("my-own", tmp_path, default_registry(), kind="engine", package=False)
    (tmp_path / "says_where.py").write_text(SAYS_WHERE)
    os.mkfifo(tmp_path / "fifo")
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from samplerbench.bench.cli import main; main()"
    )
    command = "run --model mixture -s says-where --steps 2 -n 8 --engine my-own -o here"
    plugins = ["--plugin", "my_own.py", "--plugin", "says_where.py"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *command.split(), *plugins], cwd=tmp_path, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as started:  # fmt: skip
        process = os.pidfd_open(int((tmp_path / "fifo").read_text()))
        started.send_signal(number)
        _, err = started.communicate(timeout=60)
    readable, _, _ = select.select([process], [], [], 20)
    os.close(process)
    assert readable
    assert "Traceback" not in err
    assert started.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]

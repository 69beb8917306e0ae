"""`samplerbench new-plugin`: what it writes works, and it writes over nothing."""

import ast
import os
import subprocess
import sys
import tomllib

import pytest
import torch

import samplerbench as sb
from samplerbench.bench import cli
from samplerbench.bench.new_plugin import check_name, files_of_package, files_of_plugin, new_plugin
from samplerbench.samplers.registry import default_registry, load_registry


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


@pytest.mark.parametrize("name", ["my-own", "dpm-2x", "x", "under_score"])
def test_no_name_of_the_template_is_left(name):
    for path, text in (files_of_plugin(name) | files_of_package(name)).items():
        for word in ("my-sampler", "my_sampler", "MySampler"):
            assert word not in path + text
        if path.endswith(".py"):
            ast.parse(text)


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
        ("ddim", "there is a sampler 'ddim', from samplerbench.plugins.ddim"),
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


def test_the_name_of_the_template_is_as_good_as_any():
    check_name("my-sampler", default_registry())


def test_an_output_that_is_no_folder_is_refused(command, tmp_path):
    (tmp_path / "file").write_text("precious")
    code, _, err = command("new-plugin", "my-own", "-o", "file")
    assert code == 2
    assert "is a file" in err
    code, _, err = command("new-plugin", "my-own", "-o", "/proc/nowhere")
    assert code == 5
    assert "cannot be written" in err

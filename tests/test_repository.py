"""What holds of the repository as a whole: import rules, packaging, public names, wording."""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import samplerbench

ROOT = Path(__file__).parent.parent
PACKAGES = ("samplers", "plugins", "bench")

# Each module of the core may import those before it; the registry comes last.
STREAM = [
    {"errors", "files", "level"},
    {"options", "variables", "mosaic"},
    {"schedule"},
    {"grid", "noise", "predictor", "ddpm", "unet", "clip", "weights"},
    {"ranks", "training", "process", "images", "npz", "lock"},
    {"sampler", "metric", "image_data"},
    {"extractor"},
    {"model"},
    {"exact", "plugin"},
    {"registry"},
    {"sample"},
]


def tracked(*patterns: str) -> list[Path]:
    """Files that git tracks, or would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no git checkout")
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports, absolute, with samplerbench as the root of relative ones."""
    package = ["samplerbench", *path.relative_to(ROOT).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            found.add(".".join([*base, *([node.module] if node.module else [])]))
    return found


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize(("package", "forbidden"), [("samplers", ("plugins", "bench")), ("plugins", ("bench",))])
def test_packages_import_one_way(package, forbidden):
    for path in sources(package):
        for name in imports_of(path):
            assert not name.startswith(tuple(f"samplerbench.{f}" for f in forbidden)), f"{path} imports {name}"


def test_bench_knows_no_plugin_by_name():
    for path in sources("bench"):
        assert not any(name.startswith("samplerbench.plugins") for name in imports_of(path)), path


def test_the_core_is_imported_downstream_only():
    rank = {module: i for i, modules in enumerate(STREAM) for module in modules}
    files = [path for path in sources("samplers") if path.name != "__init__.py"]
    assert {path.stem for path in files} == set(rank)
    for path in files:
        for name in imports_of(path):
            if name.startswith("samplerbench.samplers."):
                assert rank[name.split(".")[2]] <= rank[path.stem], f"{path.name} imports {name}"


def test_the_guide_names_every_module_of_the_bench_once():
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    table = guide[guide.index("| question | module |") : guide.index("## A sampler")]
    there = [path for path in (ROOT / "bench").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    names = {f"{path.stem}/" if path.is_dir() else path.stem for path in there} - {"__init__"}
    named = re.findall(r"`([\w/]+)`", table)
    assert sorted(named) == sorted(names)


def test_nothing_is_imported_under_a_bare_name():
    for package in PACKAGES:
        for path in sources(package):
            assert not imports_of(path) & {*PACKAGES, "samplerbench"}, path


def test_each_sampler_is_one_plugin_file():
    samplers = samplerbench.list_samplers()
    modules = [cls.__module__ for cls in samplers.values()]
    assert len(set(modules)) == len(modules) >= 5


def test_public_names_stand_in_both_places_and_exist():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    guarded = next(n for n in tree.body if isinstance(n, ast.If))
    typed = {alias.asname for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == set(samplerbench.__all__)
    for name in samplerbench.__all__:
        assert getattr(samplerbench, name) is not None
        assert name in dir(samplerbench)
    with pytest.raises(AttributeError, match="no attribute 'smaple'"):
        samplerbench.smaple  # noqa: B018


def test_help_does_not_import_torch():
    code = (
        "import sys; from samplerbench.bench.cli import cli; cli.main(['run', '--help'], standalone_mode=False); "
        "heavy = {'torch', 'numpy', 'pandas', 'rich'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--sampler" in done.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_tracked_files_and_no_others(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = [p for package in PACKAGES for p in tracked(package)] + [
        ROOT / "__init__.py",
        ROOT / "__main__.py",
        ROOT / "py.typed",
    ]
    shipped = {".py", ".safetensors", ".typed"}
    expected = {f"samplerbench/{p.relative_to(ROOT)}" for p in wanted if p.suffix in shipped or p.name == "SHA256SUMS"}
    assert packed == expected | {f"samplerbench/{p.relative_to(ROOT)}" for p in tracked("templates")}


def test_every_package_is_listed():
    text = (ROOT / "pyproject.toml").read_text()
    listed = set(re.findall(r'^    "samplerbench([\w.]*)",$', text, flags=re.MULTILINE))
    there = {"." + ".".join(p.parent.relative_to(ROOT).parts) for p in ROOT.glob("*/**/__init__.py")}
    there = {t for t in there if t.split(".")[1] in PACKAGES}
    assert listed == {"", *there}


def test_no_vacuous_numeric_assertions():
    """A tolerance as large as the number it is for proves nothing."""
    for path in tracked("tests/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("approx"):
                values = [a.value for a in node.args if isinstance(a, ast.Constant)]
                tolerance = [
                    k.value.value for k in node.keywords if k.arg == "abs" and isinstance(k.value, ast.Constant)
                ]
                for value in values:
                    for tol in tolerance:
                        assert value == 0 or abs(value) > 10 * tol, f"{path}:{node.lineno}"

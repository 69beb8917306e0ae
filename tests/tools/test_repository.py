"""What holds of the repository as a whole: import rules, packaging, public names, wording."""

import ast
import functools
import graphlib
import re
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import samplerbench

ROOT = Path(__file__).parents[2]
PACKAGES = ("samplers", "plugins", "bench")

LAYERS = ("plan", "draw", "judge", "show", "", "conformance", "cli")
"""Folders of bench/ from the lowest up, "" for the modules beside them; each may import those before it."""
MOST_BESIDE_FOLDERS = 6
LONGEST_BODY = 50
WHOLE_FOLDERS = ("conformance", "cli")
"""Those that the guide names as a whole."""


def tracked(*patterns: str) -> list[Path]:
    """Files that git tracks, or would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no git checkout")
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def module_of(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = ["samplerbench", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file, which several tests look through."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports_of(path: Path) -> frozenset[str]:
    """Modules that a file imports, absolute, with samplerbench as the root of relative ones."""
    package = ["samplerbench", *path.relative_to(ROOT).parent.parts]
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            home = ".".join([*base, *([node.module] if node.module else [])])
            here = ROOT.joinpath(*home.split(".")[1:]) if node.level else None
            for alias in node.names:
                is_module = here and ((here / f"{alias.name}.py").is_file() or (here / alias.name).is_dir())
                found.add(f"{home}.{alias.name}" if is_module else home)
    return frozenset(found)


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


def test_no_module_imports_itself_by_way_of_others():
    graph = {module_of(path): imports_of(path) for package in PACKAGES for path in sources(package)}
    order = graphlib.TopologicalSorter({name: {n for n in found if n in graph} for name, found in graph.items()})
    order.prepare()  # CycleError names the circle


def test_the_core_uses_no_network_of_its_own():
    for path in sources("samplers"):
        if path.parent.name != "nets":
            assert not any(name.startswith("samplerbench.samplers.nets") for name in imports_of(path)), path


def layer_of(module: str) -> str | None:
    """The folder of bench/ that a module is in, '' for one beside them; None for a module elsewhere."""
    parts = module.split(".")
    if parts[:2] != ["samplerbench", "bench"]:
        return None
    return parts[2] if len(parts) > 2 and (ROOT / "bench" / parts[2]).is_dir() else ""


def test_each_layer_of_the_bench_imports_those_below_it():
    folders = {path.name for path in (ROOT / "bench").iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(LAYERS) - {""}
    for path in sources("bench"):
        mine = layer_of(module_of(path))
        for name in imports_of(path):
            if (theirs := layer_of(name)) is not None and name != "samplerbench.bench":
                assert LAYERS.index(theirs) <= LAYERS.index(mine), f"{path} imports {name}"


def test_few_modules_stand_beside_the_folders_of_the_bench():
    beside = [path.stem for path in (ROOT / "bench").glob("*.py") if path.name != "__init__.py"]
    assert len(beside) <= MOST_BESIDE_FOLDERS, beside


def test_the_guide_names_every_module_of_the_bench_once():
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    table = guide[guide.index("| question | modules |") : guide.index("## A sampler")]
    there = [path for path in sources("bench") if path.name != "__init__.py" and path.parent.name not in WHOLE_FOLDERS]
    names = [path.relative_to(ROOT / "bench").with_suffix("").as_posix() for path in there]
    assert sorted(re.findall(r"`([\w/]+)`", table)) == sorted([*names, *(f"{folder}/" for folder in WHOLE_FOLDERS)])


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


# A tolerance as large as a tenth of the number that it is for proves little.

COMPARED = {"approx": 1, "isclose": 2, "allclose": 2, "assert_allclose": 2, "assert_close": 2}
"""Functions that compare with a tolerance: how many arguments are compared. The next is relative, then absolute."""
ABSOLUTE, RELATIVE = ("abs", "atol", "abs_tol"), ("rel", "rtol", "rel_tol")
ARITHMETIC = (ast.Constant, ast.UnaryOp, ast.BinOp, ast.unaryop, ast.operator)


def numbers_in(node: ast.AST) -> list[float]:
    """The numbers that are written out, also in a list or a tensor; none where there is a name."""
    if isinstance(node, ast.List | ast.Tuple):
        return [number for element in node.elts for number in numbers_in(element)]
    if isinstance(node, ast.Dict):
        return [number for value in node.values for number in numbers_in(value)]
    if isinstance(node, ast.Call) and called(node) in ("tensor", "array", "float"):
        return numbers_in(node.args[0]) if node.args else []
    if all(isinstance(part, ARITHMETIC) for part in ast.walk(node)):
        value = eval(ast.unparse(node))  # arithmetic of constants in our own files
        return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []
    return []


def called(node: ast.Call) -> str:
    """The last name of what is called."""
    return ast.unparse(node.func).rpartition(".")[2]


def distance_in(node: ast.AST) -> ast.BinOp | None:
    """a - b of abs(a - b), (a - b).abs(), np.abs(a - b).max() and their like."""
    while isinstance(node, ast.Call):
        inner = node.args[0] if node.args else node.func.value if isinstance(node.func, ast.Attribute) else None
        if called(node) in ("abs", "fabs"):
            return inner if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub) else None
        is_method_of_call = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Call)
        node = node.func.value if is_method_of_call else inner
    return None


def tolerances_of(node: ast.AST) -> Iterator[tuple[list[float], list[float]]]:
    """The numbers that an expression compares and the absolute tolerances that it allows for them."""
    if isinstance(node, ast.Call) and called(node) in COMPARED:
        count = COMPARED[called(node)]
        values = [number for argument in node.args[:count] for number in numbers_in(argument)]
        allowed = [*node.args[count + 1 : count + 2], *(k.value for k in node.keywords if k.arg in ABSOLUTE)]
        yield values, [number for argument in allowed for number in numbers_in(argument)]
        allowed = [*node.args[count : count + 1], *(k.value for k in node.keywords if k.arg in RELATIVE)]
        yield [1.0], [number for argument in allowed for number in numbers_in(argument)]
    elif isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        for op, left, right in zip(node.ops, sides, sides[1:], strict=False):
            far, near = (left, right) if isinstance(op, ast.Lt | ast.LtE) else (right, left)
            distance = distance_in(far) if isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) else None
            if distance:
                yield [*numbers_in(distance.left), *numbers_in(distance.right)], numbers_in(near)


def vacuous_lines(source: str) -> list[int]:
    """The lines of a test whose tolerance is more than a tenth of the number written there; 0 has no tenth."""
    return sorted(
        {
            node.lineno
            for node in ast.walk(ast.parse(source))
            for values, allowed in tolerances_of(node)
            if any(value and abs(value) <= 10 * tolerance for value in values for tolerance in allowed)
        }
    )


def test_no_vacuous_numeric_assertions():
    found = {path.name: vacuous_lines(path.read_text()) for path in tracked("tests/*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "x == pytest.approx(0.01, abs=0.1)",
        "x == approx(-0.5, abs=0.05)",
        "x == pytest.approx([1.0, 0.02], abs=0.01)",
        "x == pytest.approx({'a': 1 / 64}, abs=1e-2)",
        "x == pytest.approx(3.0, 1e-6, 0.5)",
        "x == pytest.approx(y, rel=0.5)",
        "math.isclose(x, 1e-9, abs_tol=1e-9)",
        "np.allclose(x, 0.001, atol=0.01)",
        "np.allclose(x, 0.001, 1e-5, 0.01)",
        "torch.allclose(x, torch.tensor([2.0, 0.003]), rtol=0, atol=1e-3)",
        "np.testing.assert_allclose(x, np.array([0.1, 0.2]), atol=0.5)",
        "np.testing.assert_allclose([0.1, 0.2], x, atol=0.5)",
        "torch.testing.assert_close(x, y, rtol=0.2, atol=0)",
        "abs(x - 0.3) < 0.1",
        "0.1 >= abs(0.3 - x)",
        "0 < abs(x - 0.3) <= 0.1",
        "np.abs(x - 0.3).max() < 0.1",
        "float((x - 0.3).abs().max()) < 0.1",
        "(x - 0.3).abs().max().item() < 0.1 and y",
    ],
)
def test_a_vacuous_line_is_found(line):
    assert vacuous_lines(f"def test():\n    assert y\n    assert {line}\n") == [3]


@pytest.mark.parametrize(
    "line",
    [
        "x == pytest.approx(0.5, abs=0.01)",
        "x == pytest.approx(0, abs=0.01)",
        "x == pytest.approx(y, abs=0.01)",
        "x == pytest.approx(y, rel=0.05)",
        "np.allclose(x, [0, -1.5], atol=0.1)",
        "np.testing.assert_allclose(x, y, atol=1e-3)",
        "abs(x - 0.3) > 0.1",
        "abs(x - y) < 0.1",
        "abs(x - 0.3) / y < 0.1",
        "abs(x) < 0.1",
        "np.abs(x - 0.3).max() < 0.02",
    ],
)
def test_a_line_that_proves_something_or_cannot_be_judged_is_none(line):
    assert vacuous_lines(f"assert {line}") == []


def test_the_picture_of_the_rooms_is_that_of_the_imports():
    drawn = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert drawn == runpy.run_path(str(ROOT / "tests" / "tools" / "architecture.py"))["picture"](), (
        "draw it again: python tests/tools/architecture.py > docs/architecture.svg"
    )


def test_the_page_on_architecture_names_files_that_are_there():
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:samplers|plugins|bench|tests|docs)/[\w/.]*)`|\]\((\w[\w/.]*)\)", page)
    paths = [path for pair in named for path in pair if path]
    assert len(paths) > 20
    for path in paths:
        assert (ROOT / path).exists(), path


def test_no_function_is_longer_than_a_screen():
    """Signature and docstring do not count: those of what is public are as long as they must be."""
    for path in (path for package in PACKAGES for path in sources(package)):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef):
                body = [child for child in node.body if not isinstance(child, ast.Expr) or child is not node.body[0]]
                lines = node.end_lineno - body[0].lineno + 1 if body else 0
                assert lines <= LONGEST_BODY, f"{path}: {node.name} has {lines} lines"


OPEN_CORE = (
    "dpm_solver_pp_cfg_pp", "dpm_solver_pp_sde_single", "dpm_solver_v3", "epd", "euler_ancestral_cfg_pp",
    "euler_cfg_pp", "gradient_estimation", "ipndm_v", "lcm", "learned", "paradigms", "res", "tcd",
)  # fmt: skip
"""Samplers that show what a sampler of others costs to write on the open core."""
MOST_LINES = 60
"""From the imports to the hook, blank lines included."""


@pytest.mark.parametrize("name", OPEN_CORE)
def test_a_sampler_on_the_open_core_is_short(name):
    text = (ROOT / "plugins" / "samplers" / f"{name}.py").read_text(encoding="utf-8")
    docstring, *_ = ast.parse(text).body
    assert len(text[text.index(docstring.value.value) :].partition('"""')[2].strip().splitlines()) <= MOST_LINES

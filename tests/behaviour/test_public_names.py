"""The public names: what an author imports from `samplerbench` is enough, and a renamed name works for a while."""

import ast
import functools
import inspect
import json
import re
import sys
import textwrap
import tomllib
import typing
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

import samplerbench as sb
from samplerbench.bench.cli import cli
from samplerbench.bench.cli.api_page import api_page, as_markdown

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CODE = [name for name in sb.__all__ if inspect.isclass(getattr(sb, name)) or inspect.isfunction(getattr(sb, name))]
"""The public functions and classes; the others are type aliases and constants."""


# ---- Renamed names ----


@pytest.fixture
def renamed(monkeypatch):
    """Pretend that Grid was called OldGrid before version 0.4."""
    monkeypatch.setitem(sb._RENAMED, "OldGrid", ("Grid", "0.4"))


def imported(line):
    """What an author's file, mine.py, has after a line of import."""
    names = {}
    exec(compile(line, "mine.py", "exec"), names)
    return names


@pytest.mark.usefixtures("renamed")
def test_an_old_name_is_the_new_thing_and_warns():
    text = "samplerbench.OldGrid was renamed to Grid in 0.4; the old name will be removed in 0.6"
    with pytest.warns(DeprecationWarning, match=f"^{text}$") as told:
        names = imported("from samplerbench import OldGrid")
    assert names["OldGrid"] is sb.Grid
    assert {warning.filename for warning in told} == {"mine.py"}


@pytest.mark.usefixtures("renamed")
def test_an_old_name_warns_as_an_attribute_too():
    with pytest.warns(DeprecationWarning, match="renamed to Grid"):
        assert sb.OldGrid is sb.Grid


@pytest.mark.usefixtures("renamed")
def test_an_old_name_is_not_listed_and_a_new_one_does_not_warn():
    assert "OldGrid" not in dir(sb)
    assert "OldGrid" not in sb.__all__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        imported("from samplerbench import Grid")


def is_kept(since, version):
    """Whether a name that was renamed in `since` still works in `version`: for two minor versions."""
    (a, b), (major, minor) = (tuple(map(int, text.split(".")[:2])) for text in (since, version))
    return (major, minor) < (a, b + 2)


@pytest.mark.parametrize(("version", "kept"), [("0.4.0", True), ("0.5.9", True), ("0.6.0", False), ("1.0.0", False)])
def test_a_name_is_kept_for_two_minor_versions(version, kept):
    assert is_kept("0.4", version) is kept


def test_the_table_of_renamed_names_keeps_the_rule():
    for old, (new, since) in sb._RENAMED.items():
        assert new in sb.__all__
        assert old not in sb.__all__
        assert is_kept(since, VERSION), f"{old} has been kept long enough: remove it from the table"


def test_a_type_checker_sees_the_public_names_only():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (home,) = (node for node in ast.walk(tree) if isinstance(node, ast.If) and "__getattr__" in ast.unparse(node))
    assert ast.unparse(home.test) == "not TYPE_CHECKING"
    assert not any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)


# ---- What annotations name ----


SEEN = ("__init__", "__call__", "__sub__")
"""Methods that are called without their names."""


def own_names(module):
    """The names that a module defines, or imports from another module of samplerbench."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and node.level:
            found |= {alias.name for alias in node.names}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def signatures_of(thing):
    """(name, annotation) of everything annotated that an author sees of a function or a class, with its bases."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    if isinstance(node, ast.FunctionDef):
        parts = [node]
    else:
        yield from (("base", base) for base in node.bases)
        parts = [part for part in node.body if not _name(part).startswith("_") or _name(part) in SEEN]
    for part in parts:
        if isinstance(part, ast.AnnAssign):
            yield _name(part), part.annotation
        elif isinstance(part, ast.FunctionDef):
            every = [*part.args.posonlyargs, *part.args.args, *part.args.kwonlyargs, part.args.vararg, part.args.kwarg]
            yield from ((part.name, arg.annotation) for arg in every if arg and arg.annotation)
            if part.returns:
                yield part.name, part.returns


def _name(part):
    return getattr(part, "name", ast.unparse(part.target) if isinstance(part, ast.AnnAssign) else "_")


@pytest.mark.parametrize("name", CODE)
def test_a_signature_names_public_types_only(name):
    thing = getattr(sb, name)
    own = own_names(sys.modules[thing.__module__])
    for where, annotation in signatures_of(thing):
        for node in ast.walk(annotation):
            if isinstance(node, ast.Name) and node.id in own:
                assert node.id in sb.__all__, f"{name}.{where} names {node.id}, which cannot be imported"


def types_in(hint):
    """The classes that a type hint is made of."""
    if isinstance(hint, list | tuple):
        return {cls for part in hint for cls in types_in(part)}
    if args := typing.get_args(hint):
        return types_in(args) | types_in(typing.get_origin(hint))
    return {hint} if isinstance(hint, type) else set()


def hinted(thing):
    """Everything of a function or class that has type hints."""
    methods = [part for key, part in vars(thing).items() if not key.startswith("_")] if inspect.isclass(thing) else []
    unwrapped = [getattr(part, "fget", None) or getattr(part, "func", None) or part for part in methods]
    return [thing, *(part for part in unwrapped if inspect.isfunction(part))]


@pytest.mark.parametrize("name", CODE)
def test_type_hints_can_be_looked_up_and_are_of_public_types(name):
    for thing in hinted(getattr(sb, name)):
        hints = {k: v for k, v in typing.get_type_hints(thing).items() if not k.startswith("_")}
        for cls in types_in(tuple(hints.values())):
            if cls.__module__.startswith("samplerbench."):
                assert getattr(sb, cls.__name__, None) is cls, f"{name}: {cls.__name__} cannot be imported"


def test_the_names_that_an_author_needs_are_public():
    needed = {
        "Moments", "Rows", "mean_estimate", "rows_needed", "check_rows", "Estimate", "Metric", "Extractor", "ImageData",
        "Levels", "Level", "Schedule", "Prediction", "NoiseFunction", "Model", "VP", "EDM", "Flow", "Sampler", "Grid",
        "InputError", "ModelError", "PluginError", "SamplerFault", "hookimpl", "wrap_network",
    }  # fmt: skip
    assert needed <= set(sb.__all__)


# ---- The reference ----


@functools.cache
def reference():
    """The page, which takes a second to make."""
    return api_page()


def entry_of(name):
    """What the page says of a name, up to the next heading."""
    return re.split(r"^##", reference().partition(f"\n### {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_the_page_of_public_names_is_the_one_that_the_command_makes():
    stored = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert stored == reference(), "make it again: samplerbench list api --markdown > docs/api.md"


def test_the_command_prints_page_and_list():
    assert CliRunner().invoke(cli, ["list", "api", "--markdown"]).stdout == reference()
    rows = json.loads(CliRunner().invoke(cli, ["list", "api", "--json"]).stdout)["api"]
    assert sorted(row["name"] for row in rows) == sb.__all__
    assert {row["name"]: row["what it is"] for row in rows}["Rows"].startswith("A row of d numbers")
    # A description may take several lines, which are indented; a name stands at the beginning of its own.
    listed = CliRunner().invoke(cli, ["list", "api"]).stdout.splitlines()
    assert [line.split()[0] for line in listed[1:] if line[:1].strip()] == [row["name"] for row in rows]


@pytest.mark.parametrize("name", sb.__all__)
def test_every_public_name_says_what_it_is(name):
    code, _, text = entry_of(name).strip().removeprefix("```python\n").partition("\n```")
    assert name in code
    assert len(text.split("\n- ")[0].strip()) > 10
    for item in text.split("\n- ")[1:]:
        assert re.match(r"`[^`]+`: \S", item), f"{name}: {item} has no docstring"


def test_the_page_has_signatures_fields_and_methods():
    assert "sample(\n    model: Model | str,\n    sampler: Sampler | str,\n" in entry_of("sample")
    assert "    steps: int | Sequence[int] = (5, 10, 20),\n    n: int = 512,\n    *,\n    nfe:" in entry_of("run")
    assert "Level(alpha: float, sigma: float, t: float)\n" in entry_of("Level")
    assert "\n- `lambda_: float`: lambda = log(alpha / sigma)" in entry_of("Level")
    assert "\n- `times(self, schedule: Schedule, steps: int) -> Sequence[float]`: " in entry_of("Grid")
    assert "\n- `needs_reference = False`: Whether" in entry_of("Metric")
    assert "class InputError(SamplerbenchError, ValueError)\n" in entry_of("InputError")
    assert "Exit code 2." in entry_of("InputError")
    assert "Rows = npt.NDArray[np.float32]\n" in entry_of("Rows")
    assert "It is a `Schedule`" in entry_of("VP")
    assert "_draws" not in reference()


def test_markdown_obeys_nothing_of_a_docstring_but_code():
    assert as_markdown("(n, *shape) and *args, `a*b*c`, <model>, x_0") == (
        r"(n, \*shape) and \*args, `a*b*c`, \<model>, x_0"
    )

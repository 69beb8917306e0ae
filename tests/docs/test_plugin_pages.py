"""The pages for authors of plugins: every block runs, and what they say of hooks and methods is what the code says."""

import ast
import importlib
import inspect
import re
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pages
import samplerbench as sb
from samplerbench.bench.cli.api_page import one_line, signature_of
from samplerbench.samplers import engine, extractor, image_data
from samplerbench.samplers.plugin import KINDS, Hooks
from samplerbench.samplers.registry import load_registry

DOCS = Path(__file__).parents[2] / "docs"
INTERFACE = (DOCS / "plugins.md").read_text(encoding="utf-8")
PAGE_OF = {
    "samplers": "writing-a-sampler",
    "grids": "writing-a-grid",
    "models": "writing-a-model",
    "metrics": "writing-a-metric",
    "extractors": "writing-an-extractor",
    "data": "writing-image-data",
    "engines": "writing-an-engine",
}
TEXT_OF = {kind: (DOCS / f"{page}.md").read_text(encoding="utf-8") for kind, page in PAGE_OF.items()}
FOLLOWED = [kind for kind in KINDS if kind != "samplers"]
"""test_writing_a_sampler.py follows the page on samplers."""


def words(text):
    """A text in one line: where a page breaks a line says nothing."""
    return " ".join(text.split())


# ---- Their code ----


def functions_of(kind):
    """The test functions of a page, by a name that says of which page."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        files = pages.titled(TEXT_OF[kind])
        for file, text in files.items():
            (Path(folder) / file).write_text(text)
        modules = [importlib.import_module(file.removesuffix(".py")) for file in files]
    for module in modules:
        sys.modules.pop(module.__name__)
    tests = {name: test for m in modules for name, test in vars(m).items() if name.startswith("test_")}
    fixtures = {n: f for m in modules for n, f in vars(m).items() if type(f).__name__ == "FixtureFunctionDefinition"}
    return {f"test_{kind}_{name[5:]}": test for name, test in tests.items()} | fixtures


for kind_of_page in FOLLOWED:
    globals().update(functions_of(kind_of_page))


@pytest.mark.parametrize("kind", FOLLOWED)
def test_the_plugins_of_a_page_are_registered(kind, tmp_path):
    plugins = {file: text for file, text in pages.titled(TEXT_OF[kind]).items() if not file.startswith("test_")}
    assert plugins
    for file, text in plugins.items():
        path = tmp_path / file
        path.write_text(text)
        registry = load_registry([str(path)])
        assert str(path) in {origin.plugin for origin in getattr(registry, kind).origins.values()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*FOLLOWED, "all"])
def test_a_page_can_be_followed(kind, follow, tmp_path):
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    page = INTERFACE if kind == "all" else TEXT_OF[kind]
    for file, text in pages.titled(page).items():
        (tmp_path / file).write_text(text)
    assert pages.follow_commands(page, follow) >= 2


def test_the_other_blocks_of_the_interface_page_are_true():
    (python,) = (text for language, text in pages.parts(INTERFACE) if language == "python")
    assert python == f"samplerbench_api = {sb.API_VERSION}\n"
    (toml,) = (text for language, text in pages.parts(INTERFACE) if language == "toml")
    assert tomllib.loads(toml) == {"project": {"entry-points": {"samplerbench": {"my-metric": "my_metric"}}}}


def test_every_python_block_of_the_documentation_is_run_by_a_test():
    untitled = {path.name for path in DOCS.glob("*.md") if "```python\n" in path.read_text(encoding="utf-8")}
    # Each has a test.
    run = {"data.md", "models.md", "notebooks.md", "plugins.md", "scoring.md", "thirty-lines.md", "tutorial.md",
           "writing-a-sampler.md"}  # fmt: skip
    assert untitled == {*run, "api.md"}  # of which the blocks are signatures
    with_title = {path.stem for path in DOCS.glob("*.md") if "```python title" in path.read_text(encoding="utf-8")}
    # The last three have tests of their own.
    assert with_title == {*(PAGE_OF[kind] for kind in FOLLOWED), "asking-the-network", "cluster", "tutorial"}


# ---- What they say of the interface ----


def signature(function):
    """A method as its author writes it, in one line."""
    return one_line(signature_of(function, function.__name__))


@pytest.mark.parametrize("kind", KINDS)
def test_every_hook_stands_on_two_pages_with_what_it_returns(kind):
    hook = getattr(Hooks, f"samplerbench_{kind}")
    exact = f"`{signature(hook).replace('(self)', '()')}`"
    assert exact in words(INTERFACE)
    assert exact in words(TEXT_OF[kind]), f"docs/{PAGE_OF[kind]}.md lacks {exact}"
    assert f"({PAGE_OF[kind]}.md)" in INTERFACE


def own_methods(cls):
    """The public methods, and those of the language that an author writes, that a class defines."""
    return [f for name, f in vars(cls).items() if inspect.isfunction(f) and (name[0] != "_" or name == "__len__")]


def own_attributes(cls):
    """The public fields, class attributes and properties that a class defines."""
    names = {*inspect.get_annotations(cls), *(name for name, value in vars(cls).items() if not callable(value))}
    return sorted(name for name in names if not name.startswith("_"))


AUTHORED = {"samplers": sb.Sampler, "grids": sb.Grid, "metrics": sb.Metric, "data": sb.ImageData, "engines": sb.Engine}
"""By kind, the class that an author's class inherits from, or is like."""
SAID = [(kind, method) for kind, cls in AUTHORED.items() for method in own_methods(cls)]
ASKED = [
    *(("samplers", m) for m in own_methods(sb.StepContext) if m.__name__ != "enter"),  # that is for the driver
    *(("engines", method) for method in own_methods(sb.Work)),
    ("engines", sb.draw_job),
]


@pytest.mark.parametrize(("kind", "method"), [*SAID, *ASKED], ids=lambda x: getattr(x, "__qualname__", x))
def test_every_method_stands_on_its_page_with_its_exact_arguments(kind, method):
    exact = f"`{signature(method)}`"
    assert exact in words(TEXT_OF[kind]), f"docs/{PAGE_OF[kind]}.md lacks {exact}"


DESCRIBED = {**AUTHORED, "models": sb.Model, "extractors": sb.Extractor}
GIVEN = [sb.Job, sb.Drawn, sb.Failure, sb.Work]
"""What an engine is given, and answers."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, name) for kind, cls in DESCRIBED.items() for name in own_attributes(cls) if name != "shown_shape"),
        *(("engines", name) for cls in GIVEN for name in own_attributes(cls)),
    ],
)
def test_every_attribute_stands_on_its_page(kind, name):
    assert f"`{name}`" in TEXT_OF[kind], f"docs/{PAGE_OF[kind]}.md does not say what {name} is"


@pytest.mark.parametrize(
    ("kind", "module", "name"),
    [
        ("extractors", extractor, "ExtractorFactory"),
        ("data", image_data, "ImageDataFactory"),
        ("engines", engine, "EngineFactory"),
    ],
)
def test_a_factory_stands_on_its_page_as_it_is_defined(kind, module, name):
    (definition,) = (
        ast.unparse(node) for node in ast.parse(inspect.getsource(module)).body if ast.unparse(node).startswith(name)
    )
    assert f"`{definition}`" in words(TEXT_OF[kind])


def test_the_settings_of_a_model_on_its_page_are_those_of_the_command():
    from samplerbench.bench.cli import cli

    options = {option for parameter in cli.commands["run"].params for option in parameter.opts}
    settings = re.findall(r"`(--[a-z-]+)`", TEXT_OF["models"].partition("settings of the model")[2].partition("##")[0])
    assert len(settings) > 1
    assert set(settings) <= options


# ---- What they import ----

TEMPLATES = {path.name: path.read_text() for path in (DOCS.parent / "templates").glob("*.py")}
WITH_BLOCKS = [*TEXT_OF.values(), (DOCS / "asking-the-network.md").read_text(encoding="utf-8")]
BLOCKS = {file: text for page in WITH_BLOCKS for file, text in pages.titled(page).items()}
SAMPLER = {"lu_2m.py": "".join(text for language, text in pages.parts(TEXT_OF["samplers"]) if language == "python")}
README = {
    f"README.md {number}": text
    for number, (language, text) in enumerate(pages.parts((DOCS.parent / "README.md").read_text(encoding="utf-8")))
    if language == "python"
}
EXAMPLES = {path.name: path.read_text() for path in (DOCS / "examples").glob("*.py")}
SOURCES = {**TEMPLATES, **EXAMPLES, **BLOCKS, **SAMPLER, **README}


@pytest.mark.parametrize("file", SOURCES)
def test_a_plugin_imports_public_names_only(file):
    for node in ast.walk(ast.parse(SOURCES[file])):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert not node.module.startswith("samplerbench."), f"{file} imports {node.module}, which may move"
            if node.module == "samplerbench":
                assert {alias.name for alias in node.names} <= set(sb.__all__)
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("samplerbench.") for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "sb":
            assert node.attr in sb.__all__

"""A new plugin of a kind, which works as it is, and its test: as two files, or as a project that can be installed."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ...samplers.errors import InputError, StoreError

if TYPE_CHECKING:
    from ...samplers.catalogue import Catalogue
    from ...samplers.registry import Registry

KINDS = {
    "sampler": "samplers",
    "grid": "grids",
    "model": "models",
    "metric": "metrics",
    "extractor": "extractors",
    "data": "data",
    "engine": "engines",
}
"""Kind of plugin -> the registry's catalogue of its names. Its templates are my_KIND.py and test_my_KIND.py."""
NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
LONGEST = 40
COMMAND = re.compile(r"^    (samplerbench .+)$", re.MULTILINE)
"""A command in a template's docstring."""
TEMPLATES = resources.files(__package__.partition(".")[0]) / "templates"
"""Plugins called my-sampler, my-grid ..., as Python that lint, types and tests see."""


def new_plugin(name: str, folder: Path, registry: Registry, *, kind: str = "sampler", package: bool) -> list[Path]:
    """Write NAME.py and its test into a folder, or a project folder NAME that can be installed; returns the paths.

    Raises InputError for a name that is badly formed or taken and for a file that exists; then nothing is written.
    """
    check_name(name, registry, kind)
    texts = files_of_package(name, kind) if package else files_of_plugin(name, kind)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output {folder}: is a file; expected a folder")
    # All are looked at before the first is written. `lexists`: a link to nowhere is in the way too.
    for path in [name] if package else texts:
        if os.path.lexists(folder / path):
            raise InputError(f"output {folder / path}: exists; give another name, or another folder with -o")
    for path, text in texts.items():
        try:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            # "x": a file that has appeared since the check is not overwritten.
            with (folder / path).open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise StoreError(f"{folder / path}: cannot be written ({error.strerror or error})") from error
    return [folder / path for path in texts]


def check_name(name: str, registry: Registry, kind: str = "sampler") -> None:
    """Refuse a name that is taken, or that cannot be that of a plugin and of a module."""
    if len(name) > LONGEST or not NAME.fullmatch(name):
        raise InputError(
            f"name {name[:80]!r}: expected lower-case letters, digits and single dashes, a letter first, "
            f"at most {LONGEST} characters, as in my-{kind}"
        )
    catalogue: Catalogue[object] = getattr(registry, KINDS[kind])
    if taken := catalogue.spelt_like(name):
        raise InputError(f"name {name!r}: there is a {kind} {taken!r}, from {catalogue.origins[taken]}; give another")
    # A sampler's name is typed where aliases are too, and the alias would win or be hidden.
    if kind == "sampler" and (alias := registry.alias(name)):
        raise InputError(f"name {name!r}: is another name of the sampler {alias!r}; give another")
    module = module_of(name)
    # A second module of a name that is installed would hide it, or be hidden by it.
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or importlib.util.find_spec(module):
        raise InputError(f"name {name!r}: Python has a word or a module {module!r}; give another, as in my-{name}")


def module_of(name: str) -> str:
    """The name of a plugin's module."""
    return name.replace("-", "_")


def files_of_plugin(name: str, kind: str = "sampler") -> dict[str, str]:
    """Path -> text of a plugin file and of its test."""
    templates = {f"{module_of(name)}.py": f"my_{kind}.py", f"test_{module_of(name)}.py": f"test_my_{kind}.py"}
    return {path: fill_in(template, kind, name) for path, template in templates.items()}


def files_of_package(name: str, kind: str = "sampler") -> dict[str, str]:
    """Path -> text of a project that can be installed, in a folder of the plugin's name."""
    module, plugin = module_of(name), files_of_plugin(name, kind)
    commands = "\n".join(commands_of(name, kind))
    return {
        f"{name}/pyproject.toml": fill_in("pyproject.toml", "plugin", name),
        f"{name}/README.md": fill_in("README.md", "plugin", name).replace("COMMANDS", commands),
        # Once installed it is found without being named.
        f"{name}/src/{module}/__init__.py": without_plugin(plugin[f"{module}.py"], name),
        f"{name}/tests/test_{module}.py": plugin[f"test_{module}.py"],
    }


def commands_of(name: str, kind: str) -> list[str]:
    """The commands in a plugin's docstring, which try it once it is installed."""
    text = files_of_plugin(name, kind)[f"{module_of(name)}.py"]
    return COMMAND.findall(without_plugin(text, name))


def without_plugin(text: str, name: str) -> str:
    """A text whose commands do not name the plugin's file."""
    return text.replace(f" --plugin {module_of(name)}.py", "")


def fill_in(template: str, word: str, name: str) -> str:
    """A template's text with the plugin's name in place of my-WORD, my_WORD and MyWord."""
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    as_class = "".join(part.capitalize() for part in re.split("[_-]", name))
    spellings = {f"my-{word}": name, f"my_{word}": module_of(name), f"My{word.capitalize()}": as_class}
    # All spellings in one pass, so that a name that contains my-sampler is not replaced within itself.
    return re.sub("|".join(spellings), lambda found: spellings[found[0]], text)

"""A new plugin: files to start from, with a sampler that works and a test that holds it to its claims."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import sys
from importlib import resources
from pathlib import Path

from ..samplers.errors import InputError, StoreError
from ..samplers.registry import Registry, loosely

NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
LONGEST = 40
TEMPLATES = resources.files(__package__.partition(".")[0]) / "templates"
"""Files of a sampler called my-sampler; they are Python that lint, types and tests see."""


def new_plugin(name: str, folder: Path, registry: Registry, *, package: bool) -> list[Path]:
    """Write NAME.py and its test into a folder, or a project folder NAME that can be installed; returns the paths.

    Raises InputError for a name that is badly formed or taken and for a file that is there; then nothing is written.
    """
    check_name(name, registry)
    texts = files_of_package(name) if package else files_of_plugin(name)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output {folder}: is a file; expected a folder")
    for path in [name] if package else texts:
        if os.path.lexists(folder / path):
            raise InputError(f"output {folder / path}: exists; give another name, or another folder with -o")
    for path, text in texts.items():
        try:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with (folder / path).open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise StoreError(f"{folder / path}: cannot be written ({error.strerror or error})") from error
    return [folder / path for path in texts]


def check_name(name: str, registry: Registry) -> None:
    """Refuse a name that cannot be a sampler's and a module's at once, or that is another's already."""
    if len(name) > LONGEST or not NAME.fullmatch(name):
        raise InputError(
            f"name {name[:80]!r}: expected lower-case letters, digits and single dashes, a letter first, "
            f"at most {LONGEST} characters, as in my-sampler"
        )
    for taken, origin in registry.samplers.origins.items():
        if loosely(taken) == loosely(name):
            raise InputError(f"name {name!r}: there is a sampler {taken!r}, from {origin}; give another")
    if alias := registry.aliases().get(loosely(name)):
        raise InputError(f"name {name!r}: is another name of the sampler {alias!r}; give another")
    module = module_of(name)
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or importlib.util.find_spec(module):
        raise InputError(f"name {name!r}: Python has a word or a module {module!r}; give another, as in my-{name}")


def module_of(name: str) -> str:
    """The module that a sampler is written in."""
    return name.replace("-", "_")


def files_of_plugin(name: str) -> dict[str, str]:
    """Path -> text of a plugin file and of its test."""
    module = module_of(name)
    return {f"{module}.py": filled("my_sampler.py", name), f"test_{module}.py": filled("test_my_sampler.py", name)}


def files_of_package(name: str) -> dict[str, str]:
    """Path -> text of a project that can be installed, in a folder of the sampler's name."""
    module = module_of(name)
    return {
        f"{name}/pyproject.toml": filled("pyproject.toml", name),
        f"{name}/README.md": filled("README.md", name),
        # Once installed it is found without being named.
        f"{name}/src/{module}/__init__.py": filled("my_sampler.py", name).replace(f" --plugin {module}.py", ""),
        f"{name}/tests/test_{module}.py": filled("test_my_sampler.py", name),
    }


def filled(template: str, name: str) -> str:
    """A template's text with the sampler's name in all its spellings."""
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    as_class = "".join(part.capitalize() for part in re.split("[_-]", name))
    return text.replace("my-sampler", name).replace("my_sampler", module_of(name)).replace("MySampler", as_class)

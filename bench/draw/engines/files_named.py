"""The files that a run names by relative paths, and those beside them that its code consists of."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from ....samplers.files.sent import SentFiles, hash_of
from ....samplers.plugin import is_installed
from ....samplers.registry import BUILT_IN
from ...plan.config import Config
from ...plan.plan import Plan
from ...plan.sources import CORE, files_named, package_of, source

BETWEEN = re.compile(r'[:=,"]')
"""What stands around a path in a spec, as in ddim:table="w.json" or plugin.py:make."""


def files_of(plan: Plan, plugins: Sequence[str]) -> SentFiles:
    """All of them, by paths relative to the current folder."""
    home = Path.cwd()
    named = [path for text in texts_of(plan.config, plugins) for path in paths_in(text)]
    files = {file for path in named for file in files_at(home / path)} | set(files_of_code())
    inside = {file.relative_to(home).as_posix(): file for file in sorted(files) if file.is_relative_to(home)}
    return SentFiles(str(home), {path: sha256 for path, file in inside.items() if (sha256 := hash_of(file))})


def texts_of(config: Config, plugins: Sequence[str]) -> Iterable[str]:
    """The texts of a run that may name a file."""
    return filter(None, [config.model, *plugins, *config.specs, *config.extractor, config.reference])


def paths_in(text: str) -> Iterator[str]:
    """The relative paths in a text that lead to something. A bare name is a path only behind a colon or an equals sign:
    in front it is that of a model or a sampler, whatever folder has the same name."""
    front = BETWEEN.split(text)[0]
    for part in dict.fromkeys([text, *BETWEEN.split(text)]):
        is_name = part == front and not set(part) & set("/.")
        if part and not is_name and not Path(part).is_absolute() and ".." not in Path(part).parts and part != ".":
            try:
                if Path(part).exists():
                    yield part
            except (OSError, ValueError):  # what no file can be called
                continue


def files_at(path: Path) -> Iterator[Path]:
    """A file, or all files below a folder but hidden ones."""
    if path.is_file():
        yield path
    elif path.is_dir():
        for file in path.rglob("*"):
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if not hidden and "__pycache__" not in file.parts and file.is_file():
                yield file


def files_of_code() -> Iterator[Path]:
    """The modules that nobody installed, as far as they are loaded, and the files that they name."""
    for name, module in list(sys.modules.items()):
        is_ours = package_of(name) in (CORE, BUILT_IN, "__main__")
        # Anything may stand among the modules, as typing.io does.
        found = source(name) if isinstance(module, ModuleType) and not is_ours else None
        if found is None or not found.origin or not (file := Path(found.origin)).is_file() or is_installed(file):
            continue
        yield file.absolute()
        yield from files_named(name, found.origin, found.read())

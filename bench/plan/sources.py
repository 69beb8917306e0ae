"""What a sampler, a model or an extractor is written in, as far as it can be seen.

Seen are the modules of its own package, and others that no installer put where they are, that import each other by a
statement anywhere in them; files that a text in them names; the versions of the installed packages that they import.
Not seen is what code finds out while it runs: names of files and modules that are put together, the environment, the
network.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import inspect
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from ...samplers.errors import InputError
from ...samplers.options import open_file
from ...samplers.plugin import is_installed, source_of, text_in
from ...samplers.registry import BUILT_IN
from .environment import VERSIONS_THAT_MATTER, version_of

CORE = BUILT_IN.partition(".")[0]
"""Known by its version and by the format of what it writes, but for the plugins in it."""
LONGEST_NAME = 255
"""Characters of a text that may name a file."""


class Source(NamedTuple):
    """Where a module is read."""

    origin: str
    """Its file; '' where there is none."""
    package: str
    """What its relative imports begin from."""
    read: Callable[[], str]
    """Its text as it was imported, or as it would be."""


@dataclass(frozen=True)
class FileUsed:
    """A file that numbers depend on and that is read by its name."""

    path: Path
    sha256: str
    stamp: tuple[int, ...]
    """Of the file when it was read: size, time and place on the disk."""

    def check(self) -> None:
        """InputError if the content is no longer what it was."""
        if file_at(self.path, known=self) != self:
            raise InputError(f"{self.path} was edited after the run began; give the same command again")


@dataclass(frozen=True)
class Code:
    """What something is written in."""

    modules: dict[str, str]
    """The text of each module."""
    files: tuple[FileUsed, ...]
    versions: dict[str, str]
    """Of installed packages."""

    @property
    def digest(self) -> str:
        """SHA-256 of it all; the names of modules and files are no part of it, as a file may be moved."""
        texts = sorted(filter(None, (essence(name, text) for name, text in self.modules.items())))
        parts = [texts, sorted(file.sha256 for file in self.files), self.versions]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_of_class(cls: type) -> Code:
    """What a class and its bases are written in. Its own package is followed wherever it is."""
    return code_in([base.__module__ for base in cls.__mro__], (package_of(cls.__module__), BUILT_IN))


def code_of(thing: object) -> Code | None:
    """What a function, or an object's class, is written in; None for what came with samplerbench."""
    home = home_of(thing)
    return None if package_of(home) in (CORE, BUILT_IN) else code_in([home], ())


def home_of(thing: object) -> str:
    """The module in which a function, or the class of an object, stands."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    if inspect.ismethod(thing):
        thing = thing.__self__
    found = thing if inspect.isroutine(thing) or isinstance(thing, type) else type(thing)
    return str(getattr(found, "__module__", None))


def code_in(start: Sequence[str], own: Collection[str]) -> Code:
    """The code in these modules and in what they use of their own; `own` are packages that are so wherever they are."""
    texts: dict[str, str] = {}
    files: dict[Path, FileUsed] = {}
    packages: set[str] = set()
    seen: set[str] = set()
    todo = list(start)
    while todo:
        name = todo.pop()
        found = source(name) if name not in seen else None
        seen.add(name)
        if found is None:
            continue
        if is_own(name, found, own):
            text = texts[name] = found.read()
            todo += [*imported(text, found.package), *parents_of(name)]
            todo += [used for used in names_used(name) if (at := source(used)) and is_own(used, at, own)]
            files |= {path: file for path in files_named(name, found.origin, text) if (file := file_at(path))}
        elif (top := name.partition(".")[0]) not in (*VERSIONS_THAT_MATTER, *sys.stdlib_module_names):
            packages.add(top)
            if name in start:
                texts[name] = found.read()
    versions = {name: version for name in sorted(packages) if (version := version_of(name))}
    return Code(texts, tuple(files.values()), versions)


def is_own(name: str, found: Source, own: Collection[str]) -> bool:
    """Whether a module may be edited by who uses it."""
    if (package := package_of(name)) in (CORE, BUILT_IN) or package in own:
        return package in own
    return bool(found.origin) and not is_installed(Path(found.origin))


def package_of(module: str) -> str:
    """The package that a module comes with."""
    return BUILT_IN if f"{module}.".startswith(f"{BUILT_IN}.") else module.partition(".")[0]


def parents_of(name: str) -> list[str]:
    """The packages that a module is in; their code runs before its own."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def source(name: str) -> Source | None:
    """Where a module is read; None where there is no module of that name, or none to read."""
    if module := sys.modules.get(name):
        spec, origin = module.__spec__, str(getattr(module, "__file__", None) or "")
        return Source(origin, spec.parent or "", lambda: source_of(module)) if spec else None
    spec = found_spec(name)
    if spec is None or spec.origin is None or spec.loader is None:
        return None
    return Source(spec.origin, spec.parent or "", lambda: text_in(spec, spec.origin))


def found_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Where a module is that nobody has imported; nothing is imported to find it."""
    home, _, last = name.rpartition(".")
    if not last.isidentifier() or last in sys.builtin_module_names:
        return None
    path = None
    if home:
        parent = sys.modules.get(home)
        spec = parent.__spec__ if parent else found_spec(home)
        path = list(spec.submodule_search_locations or ()) if spec else []
        if not path:
            return None
    try:
        return importlib.machinery.PathFinder.find_spec(name, path)
    except (ImportError, KeyError, OSError, ValueError):  # KeyError: a namespace within what is not imported
        return None


def names_used(name: str) -> set[str]:
    """The modules of what a loaded module has by name, as imports that no statement says are found.

    Not its own submodules: a package has the name of each that anyone imported.
    """
    things = list(vars(sys.modules[name]).values()) if name in sys.modules else []
    used = {thing.__name__ if isinstance(thing, ModuleType) else home_of(thing) for thing in things}
    return {other for other in used if not other.startswith(f"{name}.")}


@functools.lru_cache(maxsize=1024)
def tree_of(text: str) -> ast.Module:
    """The syntax of a module, an empty one where the text is none."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module([], [])


def essence(name: str, text: str) -> str:
    """What of a module's text can decide a number.

    Of a built-in plugin only the statements count, without comments, docstrings and the places that it imports from:
    those are of the core or built in as well, so that rewording or moving a built-in file redraws nothing. A stranger's
    text counts as it stands, as its code may read it.
    """
    return statements_of(text) if package_of(name) == BUILT_IN else text


@functools.lru_cache(maxsize=1024)
def statements_of(text: str) -> str:
    """The statements of a built-in module in one way of writing; what it imports from ours, sorted, by name alone."""
    tree = ast.parse(text)
    ours = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            imports = [child for child in node.body if isinstance(child, ast.ImportFrom) and child.level]
            ours |= {f"{alias.name} {alias.asname or alias.name}" for child in imports for alias in child.names}
            node.body = [child for child in node.body if child not in imports and not is_text(child)] or [ast.Pass()]
    return "" if is_empty(tree) else "\n".join([*sorted(ours), ast.unparse(tree)])


def is_text(node: ast.stmt) -> bool:
    """Whether a statement is a text that stands alone: a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def is_empty(tree: ast.Module) -> bool:
    """Whether nothing is left of a module."""
    return all(isinstance(node, ast.Pass) for node in tree.body)


@functools.lru_cache(maxsize=1024)
def imported(text: str, package: str) -> tuple[str, ...]:
    """The modules that statements of a text import, wherever they stand; some of the names may be of something else."""
    return tuple(sorted(set(_imported(tree_of(text), package))))


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from (alias.name, *parents_of(alias.name))
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            home = ".".join(filter(None, [*above, node.module or ""]))
            yield from filter(None, (home, *parents_of(home)))
            yield from (f"{home}.{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and node.args and _name(node.func) in ("import_module", "__import__"):
            text = _text(node.args[0])
            yield from (text, *parents_of(text)) if text and not text.startswith(".") else ()


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@functools.lru_cache(maxsize=1024)
def paths_written(text: str) -> tuple[str, ...]:
    """The texts in a module that may name a file: "w.npz", and "a/w.npz" for folder / "a" / "w.npz"."""
    found = set()
    for node in ast.walk(tree_of(text)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            found.add(_joined(node))
        elif isinstance(node, ast.Constant):
            found.add(_text(node))
    return tuple(sorted(path for path in found if 0 < len(path) <= LONGEST_NAME and path.isprintable() and "." in path))


def _joined(node: ast.expr) -> str:
    """The texts at the end of a chain of / with a / between them."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and (last := _text(node.right)):
        return "/".join(filter(None, [_joined(node.left), last]))
    return _text(node)


def files_named(name: str, origin: str, text: str) -> Iterator[Path]:
    """The files that a text in a module names, from its own folder or from the current one; none of our own plugins."""
    if package_of(name) != BUILT_IN and origin:
        for path in paths_written(text):
            yield from (place.absolute() for place in (Path(origin).parent / path, Path(path)) if is_file(place))


def is_file(path: Path) -> bool:
    """Whether a text is the path of a file that is there; it may be anything else."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def file_at(path: Path, known: FileUsed | None = None) -> FileUsed | None:
    """A file with the hash of its content, which is read unless it is `known` and was not touched; None where nothing
    can be read."""
    try:
        with open_file(path) as file:
            about = os.fstat(file.fileno())
            stamp = (about.st_size, about.st_mtime_ns, about.st_ino, about.st_dev)
            if known and known.stamp == stamp:
                return known
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None
    return known if known and known.sha256 == content else FileUsed(path, content, stamp)

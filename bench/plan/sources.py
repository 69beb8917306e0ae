"""The code that a sampler, a model or an extractor consists of, as far as it can be seen.

It consists of the modules of its own package, of other modules that no installer put in place, as far as import
statements anywhere in them lead from one to the next; of files that a text in them names; and of the versions of the
installed packages that they import. What code finds out while it runs cannot be seen: composed names of files and
modules, the environment, the network.
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
"""The package whose core is identified by its version and by FORMAT; the plugins in it are not."""
LONGEST_NAME = 255
"""Characters of a text that may name a file."""


class Source(NamedTuple):
    """Where the text of a module comes from."""

    origin: str
    """Its file; '' if it has none."""
    package: str
    """The package that its relative imports start from."""
    read: Callable[[], str]
    """Returns its text as it was, or would be, imported."""


@dataclass(frozen=True)
class FileUsed:
    """A file that numbers depend on and that code opens by its name."""

    path: Path
    sha256: str
    stamp: tuple[int, ...]
    """Size, time and inode of the file when it was read."""

    def check(self) -> None:
        """InputError if the content has changed."""
        if file_at(self.path, known=self) != self:
            raise InputError(f"{self.path} was edited after the run began; give the same command again")


@dataclass(frozen=True)
class Code:
    """The code that something consists of."""

    modules: dict[str, str]
    """The text of each module."""
    files: tuple[FileUsed, ...]
    versions: dict[str, str]
    """The version of each installed package."""

    @property
    def digest(self) -> str:
        """SHA-256 of all texts and versions, without the names of modules and files, as a file may be moved."""
        # Sorted by content: a module that is moved or renamed leaves the digest as it was.
        texts = sorted(filter(None, (essence(name, text) for name, text in self.modules.items())))
        parts = [texts, sorted(file.sha256 for file in self.files), self.versions]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_of_class(cls: type) -> Code:
    """The code of a class and its bases. Its own package is always followed, even if it is installed."""
    return code_in([base.__module__ for base in cls.__mro__], (package_of(cls.__module__), BUILT_IN))


def code_of(thing: object) -> Code | None:
    """The code of a function, or of an object's class; None if it came with samplerbench."""
    return None if came_with_samplerbench(thing) else code_in([home_of(thing)], ())


def came_with_samplerbench(thing: object) -> bool:
    """Whether a function, or an object's class, is samplerbench's own."""
    return package_of(home_of(thing)) in (CORE, BUILT_IN)


def home_of(thing: object) -> str:
    """The module that defines a function, or an object's class."""
    # The function within is what runs.
    while isinstance(thing, functools.partial):
        thing = thing.func
    if inspect.ismethod(thing):
        thing = thing.__self__
    found = thing if inspect.isroutine(thing) or isinstance(thing, type) else type(thing)
    return str(getattr(found, "__module__", None))


def code_in(start: Sequence[str], own: Collection[str]) -> Code:
    """The code of these modules and of all own modules that they use; packages in `own` count as own everywhere."""
    texts: dict[str, str] = {}
    files: dict[Path, FileUsed] = {}
    packages: set[str] = set()
    seen: set[str] = set()
    todo = list(start)
    while todo:
        name = todo.pop()
        found = source(name) if name not in seen else None
        # Modules may import each other in a circle.
        seen.add(name)
        if found is None:
            continue
        if is_own(name, found, own):
            text = texts[name] = found.read()
            todo += [*imports_in(text, found.package), *parents_of(name)]
            # A loaded module shows what imports gave it that no statement names, as `from x import *`.
            todo += [used for used in names_used(name) if (at := source(used)) and is_own(used, at, own)]
            files |= {path: file for path in files_named(name, found.origin, text) if (file := file_at(path))}
        elif (top := name.partition(".")[0]) not in (*VERSIONS_THAT_MATTER, *sys.stdlib_module_names):
            packages.add(top)
            # Code that was asked for by name counts even where it is installed.
            if name in start:
                texts[name] = found.read()
    versions = {name: version for name in sorted(packages) if (version := version_of(name))}
    return Code(texts, tuple(files.values()), versions)


def is_own(name: str, found: Source, own: Collection[str]) -> bool:
    """Whether a module is the user's own, and may be edited without a new version."""
    # Samplerbench's own modules count only where they were asked for, whether or not they are installed for editing.
    if (package := package_of(name)) in (CORE, BUILT_IN) or package in own:
        return package in own
    return bool(found.origin) and not is_installed(Path(found.origin))


def package_of(module: str) -> str:
    """The top-level package of a module."""
    return BUILT_IN if f"{module}.".startswith(f"{BUILT_IN}.") else module.partition(".")[0]


def parents_of(name: str) -> list[str]:
    """The packages around a module, whose code runs before its own."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def source(name: str) -> Source | None:
    """The source of a module; None if there is no such module, or no text of it."""
    # Of a loaded module the text as it was imported: the file may have been edited since.
    if module := sys.modules.get(name):
        spec, origin = module.__spec__, str(getattr(module, "__file__", None) or "")
        return Source(origin, spec.parent or "", lambda: source_of(module)) if spec else None
    # Not loaded yet: a module that an import inside a function would load later.
    spec = find_spec(name)
    if spec is None or spec.origin is None or spec.loader is None:
        return None
    return Source(spec.origin, spec.parent or "", lambda: text_in(spec, spec.origin))


def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """The spec of a module that has not been imported, found without importing anything."""
    home, _, last = name.rpartition(".")
    if not last.isidentifier() or last in sys.builtin_module_names:
        return None
    # As Python's own search, but without importing the parent, whose code would run.
    path = None
    if home:
        parent = sys.modules.get(home)
        spec = parent.__spec__ if parent else find_spec(home)
        path = list(spec.submodule_search_locations or ()) if spec else []
        if not path:
            return None
    try:
        return importlib.machinery.PathFinder.find_spec(name, path)
    except (ImportError, KeyError, OSError, ValueError):  # KeyError: a namespace within what is not imported
        return None


def names_used(name: str) -> set[str]:
    """The modules that define the objects in a loaded module: this finds imports that no statement makes.

    Its own submodules are left out, because a package holds the name of each that anyone has imported.
    """
    # A copy, since another thread may import meanwhile.
    things = list(vars(sys.modules[name]).values()) if name in sys.modules else []
    used = {thing.__name__ if isinstance(thing, ModuleType) else home_of(thing) for thing in things}
    return {other for other in used if not other.startswith(f"{name}.")}


@functools.lru_cache(maxsize=1024)
def tree_of(text: str) -> ast.Module:
    """The syntax tree of a module; an empty one if the text is no Python."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module([], [])


def essence(name: str, text: str) -> str:
    """The part of a module's text that can decide a number.

    For a built-in plugin these are the statements, without comments, docstrings and the modules that it imports from,
    which belong to samplerbench too: so rewording or moving a built-in file redraws nothing. The text of any other
    plugin counts in full, because its code may read it.
    """
    return statements_of(text) if package_of(name) == BUILT_IN else text


@functools.lru_cache(maxsize=1024)
def statements_of(text: str) -> str:
    """The statements of a built-in module in a normal form, with the sorted names that it imports from samplerbench."""
    tree = ast.parse(text)
    ours = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            imports = [child for child in node.body if isinstance(child, ast.ImportFrom) and child.level]
            ours |= {f"{alias.name} {alias.asname or alias.name}" for child in imports for alias in child.names}
            # A body needs a statement, so an empty one gets `pass`.
            node.body = [child for child in node.body if child not in imports and not is_text(child)] or [ast.Pass()]
    return "" if is_empty(tree) else "\n".join([*sorted(ours), ast.unparse(tree)])


def is_text(node: ast.stmt) -> bool:
    """Whether a statement is a text and nothing else: a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def is_empty(tree: ast.Module) -> bool:
    """Whether a module has no statements left."""
    return all(isinstance(node, ast.Pass) for node in tree.body)


@functools.lru_cache(maxsize=1024)
def imports_in(text: str, package: str) -> tuple[str, ...]:
    """The modules that statements anywhere in a text import; some of the names may not be modules."""
    return tuple(sorted(set(_imports_in(tree_of(text), package))))


def _imports_in(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from (alias.name, *parents_of(alias.name))
        elif isinstance(node, ast.ImportFrom):
            # One dot is the package itself, each further one the package around it.
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            home = ".".join(filter(None, [*above, node.module or ""]))
            yield from filter(None, (home, *parents_of(home)))
            # `from package import name` may import a module or a thing in it; a name of no module is dropped later.
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
            found.add(_join_parts(node))
        elif isinstance(node, ast.Constant):
            found.add(_text(node))
    return tuple(sorted(path for path in found if 0 < len(path) <= LONGEST_NAME and path.isprintable() and "." in path))


def _join_parts(node: ast.expr) -> str:
    """The texts at the end of a chain of / with a / between them."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and (last := _text(node.right)):
        return "/".join(filter(None, [_join_parts(node.left), last]))
    return _text(node)


def files_named(name: str, origin: str, text: str) -> Iterator[Path]:
    """The files that texts in a module name, relative to its own folder or the current one; none for built-in ones."""
    # Built-in plugins open no file of the user.
    if package_of(name) != BUILT_IN and origin:
        for path in paths_written(text):
            yield from (place.absolute() for place in (Path(origin).parent / path, Path(path)) if is_file(place))


def is_file(path: Path) -> bool:
    """Whether a path is that of an existing file; the text may be anything."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def file_at(path: Path, known: FileUsed | None = None) -> FileUsed | None:
    """A file with the hash of its content, which is read again only if it is not `known` or was touched; None if it
    cannot be read."""
    try:
        with open_file(path) as file:
            about = os.fstat(file.fileno())
            # Hashing a large file for each of many chunks would be slow; an untouched one is the same file.
            stamp = (about.st_size, about.st_mtime_ns, about.st_ino, about.st_dev)
            if known and known.stamp == stamp:
                return known
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None
    # Touched and not changed: a copy of a repository, say, has new times.
    return known if known and known.sha256 == content else FileUsed(path, content, stamp)

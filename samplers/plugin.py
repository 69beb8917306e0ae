"""One plugin: its hooks, the version of the interface that it was written for, and the import of its file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from .engine import EngineFactory
from .errors import ModelError, PluginError, closest, describe_error, pass_on
from .extractor import ExtractorFactory
from .grid import Grid
from .image_data import ImageDataFactory
from .metric import Metric
from .model import Model
from .sampler import Sampler

GROUP = "samplerbench"
API_VERSION = 1
"""Version of the interface for plugins; a module may state the version that it needs as `samplerbench_api = 1`."""
hookimpl = pluggy.HookimplMarker(GROUP)
"""Marks a function of a plugin as a hook: `@hookimpl` above `def samplerbench_samplers(): ...`."""

ModelFactory = Callable[..., Model]
"""What follows the colon in "name:argument" ('' if nothing), and the model's settings as keywords -> the model."""


class Hooks:
    """The hooks that a plugin may implement; each returns a dict of names and what they stand for."""

    def samplerbench_samplers(self) -> dict[str, type[Sampler]]:  # type: ignore[empty-body]
        """Sampler classes."""

    def samplerbench_grids(self) -> dict[str, type[Grid]]:  # type: ignore[empty-body]
        """Grid classes."""

    def samplerbench_models(self) -> dict[str, ModelFactory]:  # type: ignore[empty-body]
        """Factories of models."""

    def samplerbench_metrics(self) -> dict[str, type[Metric]]:  # type: ignore[empty-body]
        """Metric classes."""

    def samplerbench_extractors(self) -> dict[str, ExtractorFactory]:  # type: ignore[empty-body]
        """Factories of extractors."""

    def samplerbench_data(self) -> dict[str, ImageDataFactory]:  # type: ignore[empty-body]
        """Factories of image data sets."""

    def samplerbench_engines(self) -> dict[str, EngineFactory]:  # type: ignore[empty-body]
        """Factories of engines."""


KINDS = ("samplers", "grids", "models", "metrics", "extractors", "data", "engines")
HOOKS = tuple(f"{GROUP}_{kind}" for kind in KINDS)


@dataclass(frozen=True)
class Origin:
    """Where a registered name comes from."""

    plugin: str
    """Entry point, module or file."""
    version: str
    """Version of the package that holds it, '' for a file."""

    def __str__(self) -> str:
        """The plugin and its version."""
        return f"{self.plugin} {self.version}".strip()


@dataclass(frozen=True)
class Broken:
    """A plugin that could not be loaded."""

    origin: Origin
    reason: str


@dataclass(frozen=True)
class Remark:
    """What the user should know about a plugin, model, extractor or data set that was loaded and works."""

    origin: Origin
    text: str
    kind: str = "plugin"
    """"plugin", or "model", "extractor", "data"; for those the origin is the spec."""


def hook_results(module: ModuleType) -> Iterator[tuple[str, str, Any]]:
    """(kind, name, thing) of everything that a module's hooks return; PluginError for an invalid hook."""
    check_api(module)
    check_hooks(module)
    for kind, hook in zip(KINDS, HOOKS, strict=True):
        # vars and not getattr: the `__getattr__` of a module may answer to any name.
        function = vars(module).get(hook)
        if not inspect.isfunction(function):
            continue
        added = function()
        if not isinstance(added, Mapping):
            returned = "None" if added is None else f"a {type(added).__name__}"
            raise PluginError(f"{hook}: returned {returned}; expected a dict of names")
        for name, thing in added.items():
            yield kind, name, thing


def check_api(module: ModuleType) -> None:
    """PluginError for a module that was written for another version of the interface."""
    stated = vars(module).get(f"{GROUP}_api", API_VERSION)
    # True is equal to 1.
    if type(stated) is not int or stated != API_VERSION:
        raise PluginError(
            f"{GROUP}_api = {stated!r}: written for interface {stated!r}, this samplerbench has interface "
            f"{API_VERSION}; install a plugin and a samplerbench of the same interface"
        )


def check_hooks(module: ModuleType) -> None:
    """PluginError for a marked function that is no hook, an unmarked hook, and a hook that takes arguments."""
    for name, function in vars(module).items():
        if not inspect.isfunction(function):
            continue
        # A hook without its mark may be a slip of the pen, and so may a mark on any other name.
        if not hasattr(function, f"{GROUP}_impl"):  # what @hookimpl leaves behind
            if name in HOOKS:
                raise PluginError(f"function {name} is not marked; expected @hookimpl above it")
            continue
        if name not in HOOKS:
            raise PluginError(f"unknown hook {name!r}{closest(name, HOOKS)}; hooks: {', '.join(HOOKS)}")
        signature = inspect.signature(function)
        try:
            signature.bind()
        except TypeError as error:
            raise PluginError(f"hook {name}{signature}: expected no arguments") from error


def why_no_code(path: Path) -> str:
    """Why no code can be read at a path; '' if a file is there."""
    try:
        # is_file() says False of a path that cannot be read and of one that is missing; the message must tell them
        # apart.
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "no such file"
    except (OSError, ValueError) as error:  # an invalid path, as one with a zero byte
        return f"cannot be read ({error})"
    return "" if stat.S_ISREG(mode) else "a folder, pipe or device; expected a .py file"


FILE_PREFIX = f"{GROUP}_plugin_"
"""How the name of a module begins that was imported from the path of a file."""


def import_file(path: Path) -> ModuleType:
    """Import the module in a file for which `why_no_code` returns ''.

    It is compiled each time, since cached bytecode may be older than the file. Modules beside it that were edited since
    their import are imported again. The module's name depends on path and content, so that the module from before an
    edit stays separate.
    """
    data = path.read_bytes()
    # Two files of one name, and two versions of one file, must not share a module.
    mark = hashlib.sha256(str(path.resolve()).encode() + data).hexdigest()[:8]
    name = f"{FILE_PREFIX}{path.stem}_{mark}"
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    code = loader.source_to_code(data, str(path))
    # What the file imports from beside it must be as new as the file itself.
    forget_edited(path.resolve().parent)
    sys.modules[name] = module  # dataclasses look their module up by name
    try:
        with no_bytecode():
            exec(code, vars(module))
    except BaseException:
        # A later import must not find a module that failed half-way.
        del sys.modules[name]
        raise
    _texts[name] = spec, importlib.util.decode_source(data)
    return module


@contextmanager
def no_bytecode() -> Iterator[None]:
    """Write no bytecode: Python takes it for up to date after an edit in the same second that keeps the length."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


_texts: dict[str, tuple[importlib.machinery.ModuleSpec, str]] = {}
"""Name of a module -> the import that its text belongs to, and the text."""


def source_of(module: ModuleType) -> str:
    """The text of a module as it was at the first call after its import: the file may change later, but the old code
    still runs. The hash of a compiled module; '' where nothing can be read."""
    name, spec = module.__name__, module.__spec__
    if name in _texts and _texts[name][0] is spec:
        return _texts[name][1]
    text = text_now(module)
    if spec:
        _texts[name] = spec, text
    return text


def text_now(module: ModuleType) -> str:
    """The text that the file of a module holds now."""
    return text_in(module.__spec__, getattr(module, "__file__", None))


def text_in(spec: importlib.machinery.ModuleSpec | None, file: str | None) -> str:
    """The text of a spec's module, or the hash of a compiled one; '' where nothing can be read."""
    read = getattr(spec and spec.loader, "get_source", None)
    with suppress(ImportError, OSError):
        if spec and read and (text := read(spec.name)):
            return str(text)
    with suppress(OSError):
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    return ""


def forget_edited(folder: Path) -> None:
    """Make Python import those modules of a folder again whose files have changed since `source_of` read them."""
    for name, (spec, text) in list(_texts.items()):
        module, file = sys.modules.get(name), Path(str(spec.origin))
        # samplerbench itself is not imported again, and a file by path has a new name for each content.
        if module is None or module.__spec__ is not spec or name.startswith((f"{GROUP}.", FILE_PREFIX)):
            continue
        if folder in file.parents and not is_installed(file) and text_now(module) != text:
            del sys.modules[name], _texts[name]


@lru_cache(maxsize=4096)  # asked for each name in each module of a plugin, whenever its code is hashed
def is_installed(file: Path) -> bool:
    """Whether a module's file belongs to Python or to an installed package."""
    parents = file.resolve().parents
    return any(folder.name in ("site-packages", "dist-packages") or folder in _standard_library() for folder in parents)


@cache
def _standard_library() -> set[Path]:
    """The folders of Python's own modules."""
    return {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}


def is_above(name: str | None, module: str) -> bool:
    """Whether a name is that of the module, or of a package around it."""
    return name is not None and f"{module}.".startswith(f"{name}.")


def function_from_code(spec: str, what: str) -> Callable[[], Any] | None:
    """The function of "file.py:function" or "module:function"; None if there is no such module.

    ModelError, beginning with `what`, for code that cannot be imported and for a missing function.
    """
    home, _, function = spec.rpartition(":")
    is_file = home.endswith(".py")
    if is_file and (fault := why_no_code(Path(home))):
        raise ModelError(f"{what}: {fault}")
    try:
        if is_file:
            module = import_file(Path(home))
        # No such module: the spec may be a misspelt name of a model, which the caller reports.
        elif importlib.util.find_spec(home) is None:
            return None
        else:
            module = importlib.import_module(home)
    except BaseException as error:
        pass_on(error)
        # The named module itself is missing, which the caller reports; a missing import inside it is its own fault.
        if isinstance(error, ModuleNotFoundError) and not is_file and is_above(error.name, home):
            return None
        raise ModelError(f"{what}: {describe_error(error)}") from error
    found: Callable[[], Any] | None = getattr(module, function, None)
    if not callable(found):
        functions = [name for name, thing in vars(module).items() if callable(thing) and not name.startswith("_")]
        raise ModelError(f"{what}: no function {function!r} in {home}{closest(function, functions)}")
    return found

"""One plugin: the hooks that it may have, the interface that it is written for, how its file is imported."""

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
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from .errors import ModelError, PluginError, closest, pass_on, told
from .extractor import ExtractorFactory
from .grid import Grid
from .image_data import ImageDataFactory
from .metric import Metric
from .model import Model
from .sampler import Sampler

GROUP = "samplerbench"
API_VERSION = 1
"""Version of the interface that plugins are written for; a module may state its own as `samplerbench_api = 1`."""
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)
"""Marks a function of a plugin as a hook: `@hookimpl` above `def samplerbench_samplers(): ...`."""

ModelFactory = Callable[..., Model]
"""What follows the colon in "name:argument" ('' if nothing), and the model's settings by keyword -> the model."""


class Hooks:
    """The hooks that a plugin may implement; each returns what it adds, by name."""

    @hookspec
    def samplerbench_samplers(self) -> dict[str, type[Sampler]]:  # type: ignore[empty-body]
        """Sampler classes."""

    @hookspec
    def samplerbench_grids(self) -> dict[str, type[Grid]]:  # type: ignore[empty-body]
        """Grid classes."""

    @hookspec
    def samplerbench_models(self) -> dict[str, ModelFactory]:  # type: ignore[empty-body]
        """Factories of models."""

    @hookspec
    def samplerbench_metrics(self) -> dict[str, type[Metric]]:  # type: ignore[empty-body]
        """Metric classes."""

    @hookspec
    def samplerbench_extractors(self) -> dict[str, ExtractorFactory]:  # type: ignore[empty-body]
        """Factories of extractors."""

    @hookspec
    def samplerbench_data(self) -> dict[str, ImageDataFactory]:  # type: ignore[empty-body]
        """Factories of image data sets."""


KINDS = ("samplers", "grids", "models", "metrics", "extractors", "data")
HOOKS = tuple(f"{GROUP}_{kind}" for kind in KINDS)


@dataclass(frozen=True)
class Origin:
    """Who brought a name in."""

    plugin: str
    """Entry point, module or file."""
    version: str
    """Version of the package that it came with, '' for a file."""

    def __str__(self) -> str:
        """plugin and version."""
        return f"{self.plugin} {self.version}".strip()


@dataclass(frozen=True)
class Broken:
    """A plugin that could not be loaded."""

    origin: Origin
    reason: str


@dataclass(frozen=True)
class Remark:
    """What the user should know of a plugin, or of another thing that was loaded, that works."""

    origin: Origin
    text: str
    kind: str = "plugin"
    """Or "model", "extractor", "data"; the origin is then its spec."""


def hook_results(module: ModuleType) -> Iterator[tuple[str, str, Any]]:
    """(kind, name, thing) of everything that a module's hooks return; PluginError for a hook that is none."""
    check_api(module)
    check_hooks(module)
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    manager.register(module)
    for kind, hook in zip(KINDS, HOOKS, strict=True):
        caller = getattr(manager.hook, hook)
        results = caller()
        if len(results) < len(caller.get_hookimpls()):
            raise PluginError(f"{hook}: returned None; expected a dict of names")
        for added in results:
            if not isinstance(added, Mapping):
                raise PluginError(f"{hook}: returned a {type(added).__name__}; expected a dict of names")
            for name, thing in added.items():
                yield kind, name, thing


def check_api(module: ModuleType) -> None:
    """Refuse a module that is written for another version of the interface."""
    stated = vars(module).get(f"{GROUP}_api", API_VERSION)
    if type(stated) is not int or stated != API_VERSION:
        raise PluginError(
            f"{GROUP}_api = {stated!r}: written for interface {stated!r}, this samplerbench has interface "
            f"{API_VERSION}; install a plugin and a samplerbench of the same interface"
        )


def check_hooks(module: ModuleType) -> None:
    """Refuse functions that are marked as hooks and are none, and hooks that are not marked or take arguments."""
    for name, function in vars(module).items():
        if not inspect.isfunction(function):
            continue
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
    """Why there is no code to be read at a path, '' if there may be."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "no such file"
    except (OSError, ValueError) as error:  # a name that can be none
        return f"cannot be read ({error})"
    return "" if stat.S_ISREG(mode) else "a folder, pipe or device; expected a .py file"


FILE_PREFIX = f"{GROUP}_plugin_"
"""Of the name of a module that comes from a file by its path."""


def import_file(path: Path) -> ModuleType:
    """The module in a file, where `why_no_code` says nothing. It is compiled each time: a cached one may be older than
    the file, and is litter. So are the modules beside it that were edited since they were imported.

    Its name is of path and content, so that what was imported before an edit keeps a module of its own.
    """
    data = path.read_bytes()
    mark = hashlib.sha256(str(path.resolve()).encode() + data).hexdigest()[:8]
    name = f"{FILE_PREFIX}{path.stem}_{mark}"
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    code = loader.source_to_code(data, str(path))
    forget_edited(path.resolve().parent)
    sys.modules[name] = module  # dataclasses look their module up by name
    try:
        with no_bytecode():
            exec(code, vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    _texts[name] = spec, importlib.util.decode_source(data)
    return module


@contextmanager
def no_bytecode() -> Iterator[None]:
    """Leave no compiled modules beside those that are imported: one is taken for new after an edit of equal length."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


_texts: dict[str, tuple[importlib.machinery.ModuleSpec, str]] = {}
"""By the name of a module, of which import of it the text is."""


def source_of(module: ModuleType) -> str:
    """The text of a module as it was when this was first asked after its import: its file may be edited since, and what
    runs is the old one. Of a compiled module the hash; '' where nothing is to be read."""
    name, spec = module.__name__, module.__spec__
    if name in _texts and _texts[name][0] is spec:
        return _texts[name][1]
    text = text_now(module)
    if spec:
        _texts[name] = spec, text
    return text


def text_now(module: ModuleType) -> str:
    """The text in the file of a module."""
    return text_in(module.__spec__, getattr(module, "__file__", None))


def text_in(spec: importlib.machinery.ModuleSpec | None, file: str | None) -> str:
    """The text of the module of a spec, the hash of one that is compiled; '' where nothing is to be read."""
    read = getattr(spec and spec.loader, "get_source", None)
    with suppress(ImportError, OSError):
        if spec and read and (text := read(spec.name)):
            return str(text)
    with suppress(OSError):
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    return ""


def forget_edited(folder: Path) -> None:
    """Have the modules of a folder imported again of which `source_of` gave a text that is no longer in the file."""
    for name, (spec, text) in list(_texts.items()):
        module, file = sys.modules.get(name), Path(str(spec.origin))
        if module is None or module.__spec__ is not spec or name.startswith((f"{GROUP}.", FILE_PREFIX)):
            continue
        if folder in file.parents and not is_installed(file) and text_now(module) != text:
            del sys.modules[name], _texts[name]


def is_installed(file: Path) -> bool:
    """Whether a module's file came with Python, or with a package that an installer put there."""
    parents = file.resolve().parents
    python = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
    return any(folder.name in ("site-packages", "dist-packages") or folder in python for folder in parents)


def is_above(name: str | None, module: str) -> bool:
    """Whether a name is that of a module, or of a package that it would be in."""
    return name is not None and f"{module}.".startswith(f"{name}.")


def function_from_code(spec: str, what: str) -> Callable[[], Any] | None:
    """The function of "file.py:function" or "module:function"; None if there is no such module.

    ModelError, which begins with `what`, for code that cannot be imported and for a function that is not in it.
    """
    home, _, function = spec.rpartition(":")
    is_file = home.endswith(".py")
    if is_file and (fault := why_no_code(Path(home))):
        raise ModelError(f"{what}: {fault}")
    try:
        if is_file:
            module = import_file(Path(home))
        elif importlib.util.find_spec(home) is None:
            return None
        else:
            module = importlib.import_module(home)
    except BaseException as error:
        pass_on(error)
        if isinstance(error, ModuleNotFoundError) and not is_file and is_above(error.name, home):
            return None
        raise ModelError(f"{what}: {told(error)}") from error
    found: Callable[[], Any] | None = getattr(module, function, None)
    if not callable(found):
        functions = [name for name, thing in vars(module).items() if callable(thing) and not name.startswith("_")]
        raise ModelError(f"{what}: no function {function!r} in {home}{closest(function, functions)}")
    return found

"""Where samplers, grids, models and metrics are found: pluggy hooks, loading, names, spec strings.

Built-in plugins come in by the same door as anyone's: the entry point group "samplerbench". An entry point names
a module, or a package, of which every module is registered.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import math
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import pluggy

from .errors import InputError, ModelError, PluginError, SamplerbenchError, closest
from .grid import Grid, Levels, levels_at, levels_on
from .metric import Metric
from .model import Model
from .sampler import Sampler
from .schedule import Schedule

GROUP = "samplerbench"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

ModelFactory = Callable[[str], Model]
"""What follows the colon in "name:argument" ('' if nothing) -> the model."""

T = TypeVar("T")
NAME = re.compile(r"[a-z0-9][a-z0-9+._-]{0,63}")


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


@dataclass
class Catalogue(Generic[T]):
    """The registered things of one kind, by name."""

    kind: str
    base: type = object
    """The class that each thing is a concrete subclass of; object = any callable will do."""
    things: dict[str, T] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)

    def add(self, name: str, thing: T, origin: Origin) -> None:
        """Add a name, or refuse one that is taken or badly formed."""
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise PluginError(
                f"{self.kind} name {str(name)[:80]!r} from {origin}: expected lower-case letters, digits and + . _ -, "
                "at most 64 characters"
            )
        if self.base is object:
            fits = callable(thing)
        else:
            fits = isinstance(thing, type) and issubclass(thing, self.base) and not inspect.isabstract(thing)
        if not fits:
            expected = "a callable" if self.base is object else f"a concrete subclass of {self.base.__name__}"
            raise PluginError(f"{self.kind} {name!r} from {origin}: {str(thing)[:80]!r}; expected {expected}")
        if name in self.things:
            raise PluginError(f"{self.kind} {name!r} is registered twice: by {self.origins[name]} and by {origin}")
        self.things[name], self.origins[name] = thing, origin

    def __getitem__(self, name: str) -> T:
        """The thing of that name, or an error with the closest name and the list."""
        if name not in self.things:
            raise InputError(
                f"unknown {self.kind} {name!r}{closest(name, self.things)}; there are: {', '.join(sorted(self.things))}"
            )
        return self.things[name]


@dataclass
class Registry:
    """Everything that is registered, and what failed to."""

    samplers: Catalogue[type[Sampler]] = field(default_factory=lambda: Catalogue("sampler", Sampler))
    grids: Catalogue[type[Grid]] = field(default_factory=lambda: Catalogue("grid", Grid))
    models: Catalogue[ModelFactory] = field(default_factory=lambda: Catalogue("model"))
    metrics: Catalogue[type[Metric]] = field(default_factory=lambda: Catalogue("metric", Metric))
    broken: list[Broken] = field(default_factory=list)

    def sampler(self, spec: str, **options: object) -> Sampler:
        """The sampler that a spec string describes; `options` are added to its own."""
        return self.sampler_and_grid(spec, **options)[0]

    def sampler_and_grid(self, spec: str, **options: object) -> tuple[Sampler, str | None]:
        """The sampler, and the grid if the spec names one: "ddim:eta=0.5,grid=karras"."""
        name, given = parse_spec(spec)
        alias = self.aliases().get(_loose(name))
        if name not in self.samplers.things and alias:
            name, preset = parse_spec(alias)
            given = {**preset, **given}
        grid = given.pop("grid", None)
        return construct(self.samplers[name], f"sampler {name!r}", {**given, **options}), grid

    def aliases(self) -> dict[str, str]:
        """Familiar names, loosely spelt -> spec strings."""
        return {
            _loose(alias): f"{name}:{preset}" if preset else name
            for name, cls in self.samplers.things.items()
            for alias, preset in cls.aliases.items()
        }

    def levels(self, grid: str | Iterable[float] | None, schedule: Schedule, steps: int, *, integer: bool) -> Levels:
        """The levels of a run on a grid given by spec string ("karras:rho=5") or as a list of times."""
        if grid is not None and not isinstance(grid, str):
            try:
                times = [float(t) for t in grid]
            except (TypeError, ValueError) as error:
                raise InputError(f"grid {grid!r}: expected a name, or a list of levels") from error
            if integer and not all(t.is_integer() for t in times):
                raise InputError(f"grid {times}: this network knows whole timesteps only")
            if len(times) != steps:
                raise InputError(
                    f"steps {steps}: the grid lists {len(times)} levels; leave steps out or make them equal"
                )
            return levels_at(times, schedule)
        name, options = parse_spec(grid or schedule.default_grid)
        return levels_on(construct(self.grids[name], f"grid {name!r}", options), schedule, steps, integer=integer)

    def model(self, spec: str) -> Model:
        """The model that "name", "name:argument", "file.py:function" or "module:function" describes."""
        name, _, argument = spec.partition(":")
        if name not in self.models.things and argument:
            return model_from_code(spec) or self.models[name]("")
        try:
            return self.models[name](argument)
        except SamplerbenchError:
            raise
        except Exception as error:
            raise ModelError(f"model {spec!r}: {type(error).__name__}: {error}") from error

    def _catalogues(self) -> dict[str, Catalogue[Any]]:
        """A copy of each catalogue, by kind."""
        return {
            kind: Catalogue(c.kind, c.base, dict(c.things), dict(c.origins))
            for kind in KINDS
            for c in [getattr(self, kind)]
        }

    def register(self, module: ModuleType, origin: Origin) -> int:
        """Take in all that a module's hooks return, or nothing and note it as broken; how many names."""
        try:
            found = list(_hook_results(module))
            trial = self._catalogues()
            for kind, name, thing in found:
                trial[kind].add(name, thing, origin)
        except (Exception, SystemExit) as error:  # a plugin may do anything; only Ctrl-C is the user's
            self.broken.append(Broken(origin, f"{type(error).__name__}: {error}"))
            return 0
        for kind in KINDS:
            setattr(self, kind, trial[kind])
        return len(found)


KINDS = ("samplers", "grids", "models", "metrics")


def _hook_results(module: ModuleType) -> Iterator[tuple[str, str, Any]]:
    """(kind, name, thing) of everything that a module's hooks return; pluggy checks names and signatures."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    manager.register(module)
    manager.check_pending()
    for kind in KINDS:
        for added in getattr(manager.hook, f"{GROUP}_{kind}")():
            if not isinstance(added, Mapping):
                raise PluginError(f"{GROUP}_{kind}: returned a {type(added).__name__}; expected a dict of names")
            for name, thing in added.items():
                yield kind, name, thing


def load_registry(plugins: Iterable[str] = ()) -> Registry:
    """All entry points of the group "samplerbench", then the plugins named: a path of a .py file, or a module."""
    registry = Registry()
    for entry in sorted(
        importlib.metadata.entry_points(group=GROUP), key=lambda e: (e.value != "samplerbench.plugins", e.name)
    ):
        version = entry.dist.version if entry.dist else ""
        try:
            module = importlib.import_module(entry.value)
        except (Exception, SystemExit) as error:
            registry.broken.append(Broken(Origin(entry.value, version), f"{type(error).__name__}: {error}"))
            continue
        for part in _modules_of(module, registry, version):
            registry.register(part, Origin(part.__name__, version))
    for plugin in plugins:
        _register_named(registry, plugin)
    return registry


def _modules_of(module: ModuleType, registry: Registry, version: str) -> Iterator[ModuleType]:
    """The module, and every module below it if it is a package."""
    yield module
    for info in pkgutil.iter_modules(getattr(module, "__path__", []), f"{module.__name__}."):
        try:
            child = importlib.import_module(info.name)
        except (Exception, SystemExit) as error:
            registry.broken.append(Broken(Origin(info.name, version), f"{type(error).__name__}: {error}"))
            continue
        yield from _modules_of(child, registry, version)


def _register_named(registry: Registry, plugin: str) -> None:
    """A plugin that the user asked for by path or module; one that is broken is an error here."""
    origin = Origin(plugin, "")
    try:
        module = _import_file(Path(plugin)) if plugin.endswith(".py") else importlib.import_module(plugin)
    except (Exception, SystemExit) as error:
        raise PluginError(f"plugin {plugin}: {type(error).__name__}: {error}") from error
    before = len(registry.broken)
    added = registry.register(module, origin)
    if len(registry.broken) > before:
        raise PluginError(f"plugin {plugin}: {registry.broken[-1].reason}")
    if not added:
        raise PluginError(
            f"plugin {plugin}: registers nothing; expected a function marked @hookimpl, such as {GROUP}_samplers"
        )


def model_from_code(spec: str) -> Model | None:
    """What the function of "file.py:function" or "module:function" returns; None if there is no such module."""
    home, _, function = spec.rpartition(":")
    try:
        if home.endswith(".py"):
            module = _import_file(Path(home))
        elif importlib.util.find_spec(home) is None:
            return None
        else:
            module = importlib.import_module(home)
    except ModuleNotFoundError:
        return None
    except (Exception, SystemExit) as error:
        raise ModelError(f"model {spec!r}: {type(error).__name__}: {error}") from error
    if not callable(make := getattr(module, function, None)):
        functions = [name for name, thing in vars(module).items() if callable(thing) and not name.startswith("_")]
        raise ModelError(f"model {spec!r}: no function {function!r} in {home}{closest(function, functions)}")
    try:
        model = make()
    except (Exception, SystemExit) as error:
        raise ModelError(f"model {spec!r}: {type(error).__name__}: {error}") from error
    if not isinstance(model, Model):
        raise ModelError(
            f"model {spec!r}: returned a {type(model).__name__}; expected a Model, as samplerbench.wrap_network returns"
        )
    return dataclasses.replace(model, name=spec)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    name = f"samplerbench_plugin_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@functools.cache
def default_registry() -> Registry:
    """The registry of the installed plugins, loaded once."""
    return load_registry()


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """ "name:option=value,option=value" -> the name and the options as text."""
    name, _, rest = spec.strip().partition(":")
    options: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InputError(f"{spec!r}: {part!r}; expected name:option=value,option=value")
        if key in options:
            raise InputError(f"{spec!r}: option {key!r} is given twice")
        options[key] = value.strip()
    if not name:
        raise InputError(f"{spec!r}: expected a name, as in ddim:eta=0.5")
    return name, options


def construct(cls: type[T], what: str, options: Mapping[str, object]) -> T:
    """An object of a dataclass from its options, given as text or as values."""
    known = options_of(cls)
    for key in options:
        if key not in known:
            accepted = ", ".join(known) or "none"
            raise InputError(f"{what}: unknown option {key!r}{closest(key, known)}; options: {accepted}")
    return cls(**{
        known[key].field: _value(value, known[key].kind, f"{what}: option {key}") for key, value in options.items()
    })  # fmt: skip


class Option(NamedTuple):
    """An option of a sampler, grid or metric: a field of its dataclass."""

    field: str
    """The field's name: the option's, with an underscore after it where a method or Python has the name already."""
    kind: Any
    """The type of its values."""
    default: object


def options_of(cls: type) -> dict[str, Option]:
    """The options of a dataclass by name."""
    hints = get_type_hints(cls)
    return {f.name.removesuffix("_"): Option(f.name, hints[f.name], f.default) for f in dataclasses.fields(cls)}


def _value(given: object, kind: Any, what: str) -> object:
    """The option's value, converted from text where it is text."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        match = next((c for c in choices if str(c) == str(given)), None)
        if match is None:
            raise InputError(f"{what} {given!r}: expected one of {', '.join(map(str, choices))}")
        return match
    try:
        if kind is bool and isinstance(given, str):
            return {"true": True, "false": False}[given.lower()]
        if isinstance(given, kind) and not (isinstance(given, bool) and kind is not bool):
            return given
        if isinstance(given, bool) or (kind is int and isinstance(given, float)):
            raise ValueError
        value = kind(given)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        expected = {"int": "a whole number", "float": "a finite number", "bool": "true or false"}
        raise InputError(f"{what} {given!r}: expected {expected.get(kind.__name__, kind.__name__)}") from error
    return value


def describe_options(cls: type) -> str:
    """ "eta=0.0 variance=small|large", the defaults first, for listings."""
    parts = []
    for name, option in options_of(cls).items():
        choices = [str(c) for c in get_args(option.kind)] if get_origin(option.kind) is Literal else []
        default = str(option.default)
        parts.append(f"{name}={'|'.join([default, *(c for c in choices if c != default)])}")
    return " ".join(parts)


def _loose(name: str) -> str:
    """Familiar names differ in case, spaces, underscores and dashes only."""
    return re.sub(r"[\s_-]+", "", name.lower())

"""The registry of samplers, grids, models, metrics, extractors, image data and engines: plugins, names, spec strings.

Built-in plugins are registered as those of others are, by the entry point group "samplerbench". An entry point names
a module, or a package whose modules are all registered.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

from .engine import Engine, EngineFactory, Work
from .errors import InputError, ModelError, PluginError, SamplerbenchError, closest, pass_on, told
from .extractor import Extractor, ExtractorFactory
from .grid import Grid, Levels, levels_at, levels_on, listed_times
from .image_data import ImageData, ImageDataFactory
from .metric import Metric
from .model import NAMELESS, Model
from .options import at_fault, construct, option_fault, parse_spec
from .plugin import (
    API_VERSION,
    GROUP,
    KINDS,
    Broken,
    ModelFactory,
    Origin,
    Remark,
    function_from_code,
    hook_results,
    hookimpl,
    import_file,
    why_no_code,
)
from .process import STREAMS, changes_told, state_kept
from .sampler import Sampler
from .schedule import Schedule
from .variables import NO_PLUGINS, is_on

__all__ = ["API_VERSION", "ModelFactory", "hookimpl"]  # re-exported from .plugin; all else is defined here

BUILT_IN = "samplerbench.plugins"
SLOW_SECONDS = 1.0
"""The listing names a plugin that takes longer than this to load."""

T = TypeVar("T")
NAME = re.compile(r"[a-z0-9][a-z0-9+._-]{0,63}")
ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9 +._-]{0,63}")


@dataclass
class Catalogue(Generic[T]):
    """The registered things of one kind, such as samplers, by name."""

    kind: str
    base: type = object
    """The base class of every thing; object = any callable will do."""
    things: dict[str, T] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)
    """Broken plugins, which may hold a name that is missing here."""

    def add(self, name: str, thing: T, origin: Origin) -> None:
        """Register a thing under a name; PluginError if the name is taken or invalid, or the thing does not fit."""
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise PluginError(
                f"{self.kind} name {str(name)[:80]!r} from {origin}: expected lower-case letters, digits and + . _ -, "
                "at most 64 characters"
            )
        if fault := why_unfit(thing, self.base):
            raise PluginError(f"{self.kind} {name!r} from {origin}: {fault}")
        if name in self.things:
            raise PluginError(f"{self.kind} {name!r} is registered twice: by {self.origins[name]} and by {origin}")
        self.things[name], self.origins[name] = thing, origin

    def __getitem__(self, name: str) -> T:
        """The thing of that name; the error of `unknown` if it is missing."""
        if name not in self.things:
            raise self.unknown(name)
        return self.things[name]

    def spelt_like(self, name: str) -> str:
        """The registered name that differs from this one in case, spaces, underscores and dashes only; else ''."""
        return next((taken for taken in self.things if loosely(taken) == loosely(name)), "")

    def unknown(self, name: str, near: str | None = None) -> SamplerbenchError:
        """The error for an unknown name, with the closest name, the list, and the plugins that failed to load.

        `near` replaces the hint at the closest registered name.
        """
        if near is None:
            near = " (one name, not a list)" if "," in name else closest(name, self.things)
        unknown = f"unknown {self.kind} {name!r}{near}"
        listed = f"there are: {', '.join(sorted(self.things))}"
        # A name may be missing because its plugin is broken: then the error says that.
        if not self.broken:
            return InputError(f"{unknown}; {listed}")
        reasons = "; ".join(f"{b.origin} ({b.reason})" for b in self.broken)
        return PluginError(f"{unknown}; it may be of a plugin that is broken: {reasons}; {listed}")


@dataclass
class Registry:
    """Everything that plugins registered, and the plugins that failed to."""

    samplers: Catalogue[type[Sampler]] = field(default_factory=lambda: Catalogue("sampler", Sampler))
    grids: Catalogue[type[Grid]] = field(default_factory=lambda: Catalogue("grid", Grid))
    models: Catalogue[ModelFactory] = field(default_factory=lambda: Catalogue("model"))
    metrics: Catalogue[type[Metric]] = field(default_factory=lambda: Catalogue("metric", Metric))
    extractors: Catalogue[ExtractorFactory] = field(default_factory=lambda: Catalogue("extractor"))
    data: Catalogue[ImageDataFactory] = field(default_factory=lambda: Catalogue("data"))
    engines: Catalogue[EngineFactory] = field(default_factory=lambda: Catalogue("engine"))
    broken: list[Broken] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    """About plugins that work but loaded slowly or changed the state of the process, and about models, extractors and
    data that changed it."""
    tell: Callable[[Remark], object] | None = None
    """Called at once with each remark about a model, an extractor or data, since those are loaded on first use."""
    named: tuple[str, ...] = ()
    """The plugins that the user named by path or module; another process must load them too."""
    own_models: tuple[str, ...] = ()
    """Specs of models that the user named. A run folder may name code as its model; only these are then executed."""

    def sampler(self, spec: str, **options: object) -> Sampler:
        """The sampler that a spec string describes; `options` are added to its own."""
        return self.sampler_and_grid(spec, **options)[0]

    def sampler_and_grid(self, spec: str, **options: object) -> tuple[Sampler, str | None]:
        """The sampler, and the grid if the spec names one: "ddim:eta=0.5,grid=karras"."""
        name, given = self._resolve(spec)
        if name not in self.samplers.things:
            raise self._unknown_sampler(name)
        # `grid=` is no option of the sampler: it names the grid that goes with this spec.
        grid = given.pop("grid", None)
        return construct(self.samplers[name], f"sampler {name!r}", {**given, **options}), grid

    def is_foreign(self, spec: str) -> bool:
        """Whether the sampler of a spec comes from outside samplerbench."""
        name = self._resolve(spec)[0]
        if name not in self.samplers.things:
            raise self._unknown_sampler(name)
        plugin = self.samplers.origins[name].plugin
        return plugin != BUILT_IN and not plugin.startswith(f"{BUILT_IN}.")

    def _resolve(self, spec: str) -> tuple[str, dict[str, Any]]:
        """The registered name and the options of a spec, whose name may be an alias and may be spelt loosely."""
        name, given = parse_spec(spec)
        if name in self.samplers.things:
            return name, dict(given)
        alias = self.aliases().get(loosely(name))
        if not alias:
            return name, dict(given)
        # Options in the spec win over those that the alias stands for.
        name, preset = parse_spec(alias)
        return name, {**preset, **given}

    def alias(self, name: str) -> str:
        """The spec that an alias of a sampler stands for; '' if it is no alias."""
        return self.aliases().get(loosely(name), "")

    def aliases(self) -> dict[str, str]:
        """Names and aliases in the form that `loosely` gives -> spec strings."""
        return aliases_in(tuple(self.samplers.things.items()))

    def _unknown_sampler(self, name: str) -> SamplerbenchError:
        """The error for an unknown sampler; if other tools have it, no other name is suggested in its place."""
        # A frequent slip: an option written without the colon, or two samplers in one text.
        if set(name) & set(",="):
            return self.samplers.unknown(name, " (options follow a colon, as in ddim:eta=0.5; one sampler each)")
        if is_elsewhere(name):
            return self.samplers.unknown(name, " (other tools have it, samplerbench does not)")
        familiar = [alias for cls in self.samplers.things.values() for alias in aliases_of(cls)]
        return self.samplers.unknown(name, closest(name, [*familiar, *self.samplers.things]))

    def levels(self, grid: str | Iterable[float] | None, schedule: Schedule, steps: int, *, integer: bool) -> Levels:
        """The levels of a run on a grid given by spec string ("karras:rho=5") or as a list of times ("900/500/20")."""
        # A list of levels is taken as it is; a name is placed by its grid below.
        if (listed := listed_times(grid)) is not None:
            try:
                times = [float(t) for t in listed]
            except (TypeError, ValueError) as error:
                raise InputError(f"grid {grid!r}: expected a name, or a list of levels as in 999/500/20") from error
            if integer and not all(t.is_integer() for t in times):
                raise InputError(f"grid {times}: this network knows whole timesteps only")
            if len(times) != steps:
                raise InputError(
                    f"steps {steps}: the grid lists {len(times)} levels; leave steps out or make them equal"
                )
            return levels_at(times, schedule)
        name, options = parse_spec(str(grid or schedule.default_grid))
        # A number alone is a list of one level, whose separator is missing.
        if name[:1].isdigit() and name not in self.grids.things:
            raise InputError(f"grid {grid!r}: expected a name, or a list of at least two levels as in 999/500/20")
        # A grid is a plugin's code: what it raises by itself is named as its fault.
        placed = construct(self.grids[name], f"grid {name!r}", options)
        with at_fault(f"grid {name!r}"):
            levels = levels_on(placed, schedule, steps, integer=integer)
        # NFE and keys count on it: a grid may not change the number of steps.
        if (noisy := len(levels) - 1) != steps:
            raise PluginError(f"grid {name!r}: placed {noisy} levels for {steps} steps; expected one for each step")
        return levels

    def model(self, spec: str, **settings: object) -> Model:
        """The model that "name", "name:argument", "file.py:function", "module:function" or a folder describes.

        `settings`, such as size, are those of the model's factory; one that it does not take is refused.
        """
        with self.loading("model", spec):
            return self._model(spec, settings)

    def _model(self, spec: str, settings: Mapping[str, object]) -> Model:
        name, _, argument = spec.partition(":")
        # No registered name before the colon, so the spec names code.
        if name not in self.models.things and argument:
            refuse_settings(f"model {spec!r}", settings, ())
            made = model_from_code(spec)
            if made is None:
                raise self.models.unknown(name)
            return made
        # A file alone does not say which of its functions makes the model.
        if spec.endswith(".py") and is_there(Path(spec)):
            raise InputError(
                f"model {spec!r}: which function of it? expected one that makes the model, as in {spec}:make"
            )
        factory, argument = factory_for(self.models, spec)
        refuse_settings(f"model {spec!r}", settings, accepted_settings(factory))
        return name_model(checked_model(factory(argument, **settings), spec), spec)

    def extractors_of(self, spec: str) -> Mapping[str, Extractor]:
        """The extractors that "name" or "name:argument" describes, by the role that metrics read."""
        name, _, argument = spec.partition(":")
        factory = self.extractors[name]
        with self.loading("extractor", spec):
            return checked_extractors(factory(argument), spec)

    def image_data(self, spec: str) -> ImageData:
        """The images that "name", "name:argument", a file or a folder describes."""
        factory, argument = factory_for(self.data, spec)
        with self.loading("data", spec):
            return checked_data(factory(argument), spec)

    def check_engine(self, spec: str) -> EngineFactory:
        """The factory of the engine that a spec names; an error with the names that there are, before any work."""
        return self.engines[spec.partition(":")[0]]

    def engine(self, spec: str, work: Work) -> Engine:
        """The engine that "name" or "name:argument" describes, for the work of a run."""
        factory, argument = self.check_engine(spec), spec.partition(":")[2]
        with at_fault(f"engine {spec!r}"):
            made: object = factory(argument, work)
        if not (callable(getattr(made, "draw", None)) and callable(getattr(made, "close", None))):
            raise PluginError(
                f"engine {spec!r}: returned a {type(made).__name__}; expected an object with draw(jobs) and close()"
            )
        return cast(Engine, made)

    def _catalogues(self) -> dict[str, Catalogue[Any]]:
        """A copy of each catalogue, by kind, so that a plugin that fails half-way leaves nothing behind."""
        return {
            kind: Catalogue(c.kind, c.base, dict(c.things), dict(c.origins), self.broken)
            for kind in KINDS
            for c in [getattr(self, kind)]
        }

    def register(self, module: ModuleType, origin: Origin) -> int:
        """Register everything that a module's hooks return, or nothing if anything is wrong; returns how many names."""
        # All or nothing: names go to copies, which replace the catalogues at the end.
        trial = self._catalogues()
        found: list[tuple[str, str, Any]] = []
        with self.noting_faults(origin):
            found.extend(hook_results(module))
            for kind, name, thing in found:
                trial[kind].add(name, thing, origin)
            check_aliases(trial["samplers"], [name for kind, name, _ in found if kind == "samplers"])
            # Nothing failed, so the registry changes now.
            for kind in KINDS:
                setattr(self, kind, trial[kind])
        return len(found)

    @contextmanager
    def noting_faults(self, origin: Origin) -> Iterator[None]:
        """Note a plugin as broken if it raises inside the block; all others still load."""
        try:
            yield
        except BaseException as error:  # a plugin may do anything; only Ctrl-C is the user's
            pass_on(error)
            self.broken.append(Broken(origin, told(error)))

    @contextmanager
    def watching(self, origin: Origin) -> Iterator[None]:
        """Remark on a plugin that takes long to load or changes the state of the process, which is put back.

        There is no time limit, because an import cannot be stopped safely from inside its process.
        """
        started = time.perf_counter()
        try:
            with state_kept() as changed:
                yield
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(f"stopped while plugin {origin} was loaded; --no-plugins leaves it out") from stop
        seconds = time.perf_counter() - started
        # The built-in plugins import torch, which is slow whatever a plugin does.
        if seconds > SLOW_SECONDS and origin.plugin != BUILT_IN:
            self.remarks.append(Remark(origin, f"took {seconds:.1f} s to load; --no-plugins leaves it out"))
        if changed:
            self.remarks.append(Remark(origin, changes_told(changed, " while it was loaded")))

    @contextmanager
    def loading(self, kind: str, spec: str) -> Iterator[None]:
        """Turn what is raised inside the block into a ModelError that names the file, except errors for the user."""
        with self.remarking(kind, spec, " while it was loaded"):
            try:
                yield
            except SamplerbenchError:
                raise
            except BaseException as error:
                pass_on(error)
                raise ModelError(f"{kind} {spec!r}: {told(error)}") from error

    @contextmanager
    def remarking(self, kind: str, spec: str, when: str) -> Iterator[None]:
        """Put the process's state back after the block, and remark on what was changed.

        Drawing random numbers is allowed: a network draws initial weights before its file is read.
        """
        with state_kept() as changed:
            yield
        if others := [name for name in changed if name not in STREAMS]:
            remark = Remark(Origin(repr(spec), ""), changes_told(others, when), kind)
            self.remarks.append(remark)
            if self.tell:
                self.tell(remark)


@runtime_checkable
class ReadsPaths(Protocol):
    """A factory that recognises its own files, so that a path alone is a spec, without "name:"."""

    def reads(self, path: Path) -> bool:
        """Whether it reads this file or folder, which exists."""
        ...


def factory_for(catalogue: Catalogue[T], spec: str) -> tuple[T, str]:
    """The factory that "name:argument" names or that reads the path given as the spec, with its argument.

    InputError for an unknown name, and for an existing path that no factory reads.
    """
    name, _, argument = spec.partition(":")
    path = Path(spec)
    if name not in catalogue.things and is_there(path):
        for thing in catalogue.things.values():
            if isinstance(thing, ReadsPaths) and thing.reads(path):
                return thing, spec
        what = "folder" if path.is_dir() else "file"
        raise InputError(
            f"{catalogue.kind} {spec!r}: a {what} that none of {', '.join(sorted(catalogue.things))} reads"
        )
    if name not in catalogue.things:
        raise catalogue.unknown(name, closest(name, catalogue.things) or " (and no such file or folder)")
    return catalogue[name], argument


def is_there(path: Path) -> bool:
    """Whether a path exists; False for an invalid one, such as one that is too long."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def accepted_settings(factory: Callable[..., object]) -> tuple[str, ...]:
    """The settings that a model's factory accepts, in addition to its argument."""
    return tuple(p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY)


def refuse_settings(what: str, given: Iterable[str], accepted: Sequence[str]) -> None:
    """InputError for a setting that the model does not accept."""
    for name in given:
        if name not in accepted:
            raise InputError(f"{what}: has no {name}; settings of this model: {', '.join(accepted) or 'none'}")


def checked_extractors(made: object, spec: str) -> Mapping[str, Extractor]:
    """The extractors that a factory returned; PluginError if it returned anything else."""
    if not isinstance(made, Mapping):
        raise PluginError(
            f"extractor {spec!r}: returned a {type(made).__name__}; expected a dict of Extractors by role"
        )
    for role, extractor in made.items():
        if not isinstance(extractor, Extractor):
            raise PluginError(
                f"extractor {spec!r}: returned a {type(extractor).__name__} as {role!r}; expected an Extractor"
            )
    return made


def checked_data(made: object, spec: str) -> ImageData:
    """The image data that a factory returned; PluginError if it returned anything else."""
    if not isinstance(made, ImageData):
        raise PluginError(f"data {spec!r}: returned a {type(made).__name__}; expected an ImageData")
    if not hasattr(made, "name"):
        raise PluginError(f"data {spec!r}: {type(made).__name__} does not say its name; expected an attribute `name`")
    return made


def load_registry(plugins: Iterable[str] = (), models: Iterable[str] = ()) -> Registry:
    """Load all entry points of the group "samplerbench", then `plugins`: paths of .py files, or modules.

    `models` are specs of models that the user named: see `Registry.own_models`.

    With SAMPLERBENCH_NO_PLUGINS=1 in the environment, only the built-in entry point is loaded.
    """
    registry = Registry(named=tuple(plugins), own_models=tuple(models))
    built_in_only = is_on(NO_PLUGINS, os.environ)
    for entry in entries_in_order(registry):
        if built_in_only and entry.value != BUILT_IN:
            continue
        origin = Origin(entry.value, version_of(entry))
        with registry.watching(origin):
            register_below(registry, entry.value, origin.version)
    # Named plugins come last, and a broken one is an error, because the user asked for it.
    for plugin in registry.named:
        with registry.watching(Origin(plugin, "")):
            register_named(registry, plugin)
    return registry


def entries_in_order(registry: Registry) -> list[importlib.metadata.EntryPoint]:
    """The entry points of the group, the built-in one first; those that share a name are noted as broken instead."""
    entries = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: (e.value != BUILT_IN, e.name, e.value))
    # Two packages that claim one name could not be told apart in a spec, so neither wins.
    strangers = [e for e in entries if e.value != BUILT_IN]
    times = Counter(e.name for e in strangers)
    for entry in strangers:
        if times[entry.name] > 1:
            claims = " and by ".join(f"{e.value} {version_of(e)}".strip() for e in strangers if e.name == entry.name)
            reason = f"PluginError: entry point {entry.name!r} is claimed by {claims}; uninstall one"
            registry.broken.append(Broken(Origin(entry.value, version_of(entry)), reason))
    return [e for e in entries if e.value == BUILT_IN or times[e.name] == 1]


def version_of(entry: importlib.metadata.EntryPoint) -> str:
    """The version of the package that an entry point belongs to."""
    return entry.dist.version if entry.dist else ""


def register_below(registry: Registry, name: str, version: str) -> None:
    """Register a module, and every module below it if it is a package; nothing below a broken one."""
    origin = Origin(name, version)
    # A broken package ends here: importing its modules would only repeat the error.
    before = len(registry.broken)
    with registry.noting_faults(origin):
        module = importlib.import_module(name)
    if not registry.broken[before:]:
        registry.register(module, origin)
    if registry.broken[before:]:
        return
    for info in pkgutil.iter_modules(getattr(module, "__path__", []), f"{module.__name__}."):
        register_below(registry, info.name, version)


def register_named(registry: Registry, plugin: str) -> None:
    """Register a plugin that the user named by path or module; PluginError if it is broken."""
    is_file = plugin.endswith(".py")
    if is_file and (fault := why_no_code(Path(plugin))):
        raise PluginError(f"plugin {plugin}: {fault}")
    try:
        module = import_file(Path(plugin)) if is_file else importlib.import_module(plugin)
    except BaseException as error:
        pass_on(error)
        hint = f"; give --plugin {plugin}.py for the file" if Path(f"{plugin}.py").is_file() else ""
        raise PluginError(f"plugin {plugin}: {told(error)}{hint}") from error
    before = len(registry.broken)
    added = registry.register(module, Origin(plugin, ""))
    if len(registry.broken) > before:
        raise PluginError(f"plugin {plugin}: {registry.broken[-1].reason}")
    if not added:
        raise PluginError(
            f"plugin {plugin}: registers nothing; expected a function marked @hookimpl, such as {GROUP}_samplers"
        )


def why_unfit(thing: object, base: type) -> str:
    """Why a plugin's hook may not return this thing, '' if it may; `base` object = any callable will do."""
    if base is object:
        return "" if callable(thing) else f"{str(thing)[:80]!r}; expected a callable"
    if not (isinstance(thing, type) and issubclass(thing, base)):
        return f"{str(thing)[:80]!r}; expected a concrete subclass of {base.__name__}"
    if inspect.isabstract(thing):
        missing = ", ".join(sorted(getattr(thing, "__abstractmethods__")))  # noqa: B009
        return f"{thing.__name__} lacks {missing}; expected a concrete subclass of {base.__name__}"
    # Annotations without a value in the base class are attributes that a subclass must set.
    if unsaid := [name for name in inspect.get_annotations(base) if not hasattr(thing, name)]:
        return f"{thing.__name__} does not say its {', '.join(unsaid)}; expected class attributes of these names"
    # Called with the arguments of the base class, the plugin's method must accept them.
    for method in sorted(getattr(base, "__abstractmethods__", ())):
        expected, given = (inspect.signature(getattr(cls, method)) for cls in (base, thing))
        try:
            given.bind(*expected.parameters)
        except TypeError:
            return f"{method}({', '.join(given.parameters)}); expected {method}({', '.join(expected.parameters)})"
    return option_fault(thing) if dataclasses.is_dataclass(thing) else ""


def aliases_of(cls: type[Sampler]) -> Mapping[str, str]:
    """The aliases that a sampler class states itself; inherited ones name its base class."""
    aliases: Mapping[str, str] = vars(cls).get("aliases", {})
    return aliases


def check_aliases(samplers: Catalogue[type[Sampler]], new: Iterable[str]) -> None:
    """PluginError for an alias that two samplers claim or that names another sampler, and for one with invalid options.

    `new` are the samplers whose aliases have not been checked yet.
    """
    # Names and aliases share one space, in which spellings do not count.
    owner: dict[str, str] = {}
    for name in samplers.things:
        if (taken := owner.setdefault(loosely(name), name)) != name:
            raise PluginError(
                f"sampler {name!r} from {samplers.origins[name]}: differs in dashes alone from {taken!r} "
                f"from {samplers.origins[taken]}"
            )
    for name, cls in samplers.things.items():
        for alias in aliases_of(cls):
            what = f"alias {str(alias)[:80]!r} of sampler {name!r} from {samplers.origins[name]}"
            if not isinstance(alias, str) or not ALIAS.fullmatch(alias):
                raise PluginError(f"{what}: expected letters, digits, spaces and + . _ -, at most 64 characters")
            if (taken := owner.setdefault(loosely(alias), name)) != name:
                raise PluginError(f"{what}: is taken by sampler {taken!r} from {samplers.origins[taken]}")
    # Each new alias must stand for options that its sampler accepts.
    for name in new:
        for alias, preset in aliases_of(samplers.things[name]).items():
            options = parse_spec(f"{name}:{preset}")[1]
            if options and loosely(alias) == loosely(name):
                raise PluginError(f"alias {alias!r} of sampler {name!r}: is its own name, and stands for {preset!r}")
            options.pop("grid", None)
            construct(samplers.things[name], f"alias {alias!r} of sampler {name!r}", options)


def model_from_code(spec: str) -> Model | None:
    """What the function of "file.py:function" or "module:function" returns; None if there is no such module."""
    make = function_from_code(spec, f"model {spec!r}")
    if make is None:
        return None
    return dataclasses.replace(checked_model(make(), spec), name=spec)


def checked_model(made: object, spec: str) -> Model:
    """The model that a function or a factory returned; ModelError if it returned anything else."""
    if not isinstance(made, Model):
        raise ModelError(
            f"model {spec!r}: returned a {type(made).__name__}; expected a Model, as samplerbench.wrap_network returns"
        )
    return made


def name_model(model: Model, spec: str) -> Model:
    """The model, named after its spec if its author gave it no name."""
    return dataclasses.replace(model, name=spec) if model.name == NAMELESS else model


@functools.cache
def default_registry() -> Registry:
    """The registry with the installed plugins, loaded once."""
    return load_registry()


@functools.lru_cache(maxsize=8)
def aliases_in(samplers: tuple[tuple[str, type[Sampler]], ...]) -> dict[str, str]:
    """What `Registry.aliases` returns for these samplers, cached for all the specs of a plan."""
    return {loosely(name): name for name, _ in samplers} | {
        loosely(alias): f"{name}:{preset}" if preset else name
        for name, cls in samplers
        for alias, preset in aliases_of(cls).items()
    }


ELSEWHERE = (
    "dpm++sde", "dpmppsde", "lcm", "tcd", "heunpp2", "ipndmv", "resmultistep", "gradientestimation", "expheun2x0",
    "sasolverpece", "ddimcfg++", "eulercfgpp", "eulerancestralcfgpp", "dpmpp2mcfgpp", "dpmpp2sancestralcfgpp",
)  # fmt: skip
"""Samplers of other tools that samplerbench lacks, in the form that `loosely` gives."""
ENDINGS = re.compile(r"(karras|exponential|polyexponential|sgmuniform|simple|uniform|normal|beta|gpu|scheduler)$")
"""What other tools append to the name of a sampler: a grid, a device, a kind."""


def is_elsewhere(name: str) -> bool:
    """Whether a name is that of a sampler which other tools have and samplerbench lacks, with or without a grid."""
    plain = loosely(name)
    return plain in ELSEWHERE or ENDINGS.sub("", plain) in ELSEWHERE


def loosely(name: str) -> str:
    """A name without case, spaces, underscores and dashes, by which spellings of one name are equal."""
    return re.sub(r"[\s_-]+", "", name.lower())

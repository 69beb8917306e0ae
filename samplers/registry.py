"""The registry of samplers, grids, models, metrics, extractors, image data and engines: plugins, names, spec strings.

Built-in plugins are registered as those of others are, by the entry point group "samplerbench". An entry point names
a module, or a package whose modules are all registered.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

from .aliases import aliases_in, aliases_of, check_aliases, pop_first
from .catalogue import Catalogue, loosely
from .engine import ChecksEarly, Engine, EngineFactory, Work
from .errors import InputError, ModelError, PluginError, SamplerbenchError, closest, describe_error, pass_on
from .extractor import Extractor, ExtractorFactory
from .factories import (
    accepted_settings,
    as_data,
    as_extractors,
    as_model,
    check_installed,
    factory_for,
    is_there,
    model_from_code,
    name_model,
    refuse_settings,
)
from .familiar import advice_on, grid_for, spec_for
from .grid import Grid, Levels, levels_at, levels_on, listed_times
from .image_data import ImageData, ImageDataFactory
from .metric import Metric
from .model import Model
from .options import at_fault, construct, parse_spec
from .plugin import (
    API_VERSION,
    GROUP,
    KINDS,
    Broken,
    ModelFactory,
    Origin,
    Remark,
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


class ParsedSampler(NamedTuple):
    """What a spec string of a sampler says."""

    sampler: Sampler
    grid: str | None
    """The grid that it names, or that the sampler brings."""
    analytic_first: bool
    """Whether it says first=analytic: the first call of the first step is made without the network."""


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
        """The sampler, and the grid if the spec names one, "ddim:eta=0.5,grid=karras", or the sampler brings one."""
        return self.parse_sampler(spec, **options)[:2]

    def parse_sampler(self, spec: str, **options: object) -> ParsedSampler:
        """All that the spec says: "ddim:eta=0.5,grid=karras,first=analytic"."""
        name, given = self._resolve(spec)
        if name not in self.samplers.things:
            raise self._unknown_sampler(name)
        # `grid=` is no option of the sampler: it names the grid that goes with this spec.
        grid = given.pop("grid", None)
        cls, what = self.samplers[name], f"sampler {name!r}"
        analytic_first = pop_first(cls, given, what)
        sampler = construct(cls, what, {**given, **options})
        return ParsedSampler(sampler, grid or sampler.own_grid, analytic_first)

    def is_sampler(self, spec: str) -> bool:
        """Whether a spec begins with the name of a sampler, or with another tool's name of one."""
        try:
            return self._resolve(spec)[0] in self.samplers.things
        except InputError:
            return False

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
        alias = self.alias(name) or spec_for(name, self.aliases())
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
        if advice := advice_on(name, self.aliases()):
            # What to take comes first: the list of all names is long.
            if advice.instead:
                return self.samplers.unknown(name, f": take {advice.instead} ({name} {advice.what})")
            return self.samplers.unknown(name, f" (it {advice.what})")
        familiar = [alias for cls in self.samplers.things.values() for alias in aliases_of(cls)]
        return self.samplers.unknown(name, closest(name, [*familiar, *self.samplers.things]))

    def levels(
        self,
        grid: str | Iterable[float] | None,
        schedule: Schedule,
        steps: int,
        *,
        integer: bool,
        model: Model | None = None,
    ) -> Levels:
        """The levels of a run on a grid given by spec string ("karras:rho=5") or as a list of times ("900/500/20").

        `model` is for a grid that asks about it.
        """
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
        # A single number is a list of one level, whose separator is missing.
        if name[:1].isdigit() and name not in self.grids.things:
            raise InputError(f"grid {grid!r}: expected a name, or a list of at least two levels as in 999/500/20")
        # The name of a schedule in another tool: the error says what the grid is called here.
        if name not in self.grids.things and (here := grid_for(name)) != loosely(name) and here:
            raise self.grids.unknown(name, f" (here it is {here!r})")
        # A grid is a plugin's code: what it raises by itself is named as its fault.
        placed = construct(self.grids[name], f"grid {name!r}", options)
        with at_fault(f"grid {name!r}"):
            levels = levels_on(placed, schedule, steps, integer=integer, model=model)
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
        check_installed(self.models, spec)
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
        return name_model(as_model(factory(argument, **settings), spec), spec)

    def extractors_of(self, spec: str) -> Mapping[str, Extractor]:
        """The extractors that "name" or "name:argument" describes, by the role that metrics read."""
        name, _, argument = spec.partition(":")
        factory = self.extractors[name]
        with self.loading("extractor", spec):
            return as_extractors(factory(argument), spec)

    def image_data(self, spec: str) -> ImageData:
        """The images that "name", "name:argument", a file or a folder describes."""
        factory, argument = factory_for(self.data, spec)
        with self.loading("data", spec):
            return as_data(factory(argument), spec)

    def check_engine(self, spec: str, settings: Mapping[str, object]) -> None:
        """Refuse an engine before any work: an unknown name, a setting that it does not take, and what its factory
        refuses without a plan, as where a package is missing or nobody answers."""
        factory: object = self._engine_factory(spec, settings)
        # A class that makes engines may have a method of that name, which is one of its engines.
        if isinstance(factory, ChecksEarly) and (inspect.ismethod(factory.check) or not isinstance(factory, type)):
            with at_fault(f"engine {spec!r}"):
                factory.check(spec.partition(":")[2], **settings)

    def _engine_factory(self, spec: str, settings: Iterable[str]) -> EngineFactory:
        """The factory of the engine that a spec names; an error lists the names for an unknown one, and the engines
        that take a setting which this one does not."""
        factory = self.engines[spec.partition(":")[0]]
        for name in settings:
            if name not in accepted_settings(factory):
                engines = self.engines.things.items()
                taking = [f"--engine {other}" for other, one in engines if name in accepted_settings(one)]
                expected = " or ".join(taking) or "another"
                raise InputError(f"{name}: engine {spec!r} takes none; expected with {expected}")
        return factory

    def engine(self, spec: str, work: Work, **settings: object) -> Engine:
        """The engine that "name" or "name:argument" describes, for the work of a run, with the settings of its own."""
        factory, argument = self._engine_factory(spec, settings), spec.partition(":")[2]
        with at_fault(f"engine {spec!r}"):
            # The two methods are looked for by name: a stranger's engine need not derive from anything.
            made: object = factory(argument, work, **settings)
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
            if new := [name for kind, name, _ in found if kind == "samplers"]:
                check_aliases(trial["samplers"], new)
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
            self.broken.append(Broken(origin, describe_error(error)))

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
        # SystemExit too is turned into an error: a model that calls exit() must not end the program.
        with self.remarking(kind, spec, " while it was loaded"):
            try:
                yield
            except SamplerbenchError:
                raise
            except BaseException as error:
                pass_on(error)
                raise ModelError(f"{kind} {spec!r}: {describe_error(error)}") from error

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


def load_registry(plugins: Iterable[str] = (), models: Iterable[str] = ()) -> Registry:
    """Load all entry points of the group "samplerbench", then `plugins`: paths of .py files, or modules.

    `models` are specs of models that the user named: see `Registry.own_models`.

    With SAMPLERBENCH_NO_PLUGINS=1 in the environment, only the built-in entry point is loaded.
    """
    registry = Registry(named=tuple(plugins), own_models=tuple(models))
    # Installed plugins: what fails in one is noted, and all others still load.
    built_in_only = is_on(NO_PLUGINS, os.environ)
    for entry in entries_in_order(registry):
        if built_in_only and entry.value != BUILT_IN:
            continue
        origin = Origin(entry.value, version_of(entry))
        with registry.watching(origin):
            if entry.value == BUILT_IN:
                register_built_in(registry, origin.version)
            else:
                register_below(registry, entry.value, origin.version)
    # Named plugins come last, and a broken one is an error, because the user asked for it.
    for plugin in registry.named:
        with registry.watching(Origin(plugin, "")):
            register_named(registry, plugin)
    return registry


def entries_in_order(registry: Registry) -> list[importlib.metadata.EntryPoint]:
    """The entry points of the group, the built-in one first; those that share a name are noted as broken instead."""
    # With the built-in plugins first, a stranger that takes a name of theirs is the one that is refused.
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


_built_in: dict[str, Registry] = {}
"""A registry of the built-in plugins only, by their version."""


def register_built_in(registry: Registry, version: str) -> None:
    """Register the built-in plugins, first of all. They cannot change within a process, so they are examined once."""
    made = _built_in.get(version)
    if made is None:
        made = Registry()
        register_below(made, BUILT_IN, version)
        # What is missing now, as an optional package, may be there the next time.
        if not made.broken:
            _built_in[version] = made
    registry.broken += made.broken
    for kind, catalogue in made._catalogues().items():
        setattr(registry, kind, replace(catalogue, broken=registry.broken))


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
        # By path it is compiled each time, by module name it is imported as Python finds it.
        module = import_file(Path(plugin)) if is_file else importlib.import_module(plugin)
    except BaseException as error:
        pass_on(error)
        hint = f"; give --plugin {plugin}.py for the file" if Path(f"{plugin}.py").is_file() else ""
        raise PluginError(f"plugin {plugin}: {describe_error(error)}{hint}") from error
    before = len(registry.broken)
    added = registry.register(module, Origin(plugin, ""))
    if len(registry.broken) > before:
        raise PluginError(f"plugin {plugin}: {registry.broken[-1].reason}")
    if not added:
        raise PluginError(
            f"plugin {plugin}: registers nothing; expected a function marked @hookimpl, such as {GROUP}_samplers"
        )


@functools.cache
def default_registry() -> Registry:
    """The registry with the installed plugins, loaded once."""
    return load_registry()

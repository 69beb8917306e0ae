"""The findings of `samplerbench doctor`: the machine, the installed packages, what a default run needs, and whether it
works.

Each part is examined separately, so that a broken one does not hide the others. No host name or user name is shown.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...samplers.errors import pass_on
from ...samplers.text import count_of

if TYPE_CHECKING:
    from ...samplers.registry import Registry

PACKAGE = "samplerbench"
NEEDED_BYTES = 100e6
"""A default run writes about a tenth of this."""
GIGABYTE = 1e9


@dataclass(frozen=True)
class Requirement:
    """One line of a package's metadata."""

    package: str
    versions: str
    extra: str
    """The extra that it belongs to; '' if it is always needed."""

    @property
    def version(self) -> str | None:
        """The installed version; None if the package is missing."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def __str__(self) -> str:
        """The requirement as pip accepts it."""
        return self.package + self.versions


@dataclass
class Examination:
    """The findings by part, and the problems."""

    found: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Note an error that is raised inside the block as a problem of this part only."""
        try:
            yield
        except BaseException as error:
            pass_on(error)
            self.problems.append(f"{name}: {type(error).__name__}: {error}")


def examine(plugins: Sequence[str], results: Path) -> Examination:
    """Look at everything; `results` is where runs go by default."""
    seen = Examination()
    with seen.part("packages"):
        needed = requirements()
        # The package is not among its own requirements, and its version is what a report of a fault needs first.
        own = Requirement(PACKAGE, "", "")
        seen.found["packages"] = {r.package: r.version for r in [own, *needed] if not r.extra}
        seen.found["extras"] = {name: extra_of(needed, name) for name in sorted({r.extra for r in needed} - {""})}
        seen.problems += [f"package {r} is missing: {install([r])}" for r in needed if not r.extra and not r.version]
    with seen.part("machine"):
        seen.found["machine"] = machine()
    with seen.part("results"):
        seen.found["results"], faults = disk(results)
        seen.problems += faults
    with seen.part("plugins"):
        from ...samplers.registry import load_registry

        registry = load_registry(plugins)
        seen.found["plugins"] = plugins_in(registry)
        seen.found["data"] = data_sets(registry)
        # Inside the part of the plugins: without a registry there is no run to plan.
        with seen.part("default run"):
            seen.found["default_run"] = default_run(registry)
    return seen


def requirements() -> list[Requirement]:
    """The requirements of the installed samplerbench on this machine, each with its extra."""
    try:
        lines = importlib.metadata.requires(PACKAGE) or []
        extras = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise RuntimeError("samplerbench is not installed: pip install . in its folder") from error
    return [found for line in lines if (found := requirement_of(line, extras))]


def requirement_of(line: str, extras: Sequence[str]) -> Requirement | None:
    """'torch>=2.10; extra == "test"' as a Requirement; None if neither this machine nor one of the extras needs it."""
    import packaging.requirements

    parsed = packaging.requirements.Requirement(line)
    # '' comes first, so that what is needed always belongs to no extra.
    needed_by = [extra for extra in ("", *extras) if not parsed.marker or parsed.marker.evaluate({"extra": extra})]
    return Requirement(parsed.name, str(parsed.specifier), needed_by[0]) if needed_by else None


def extra_of(needed: Sequence[Requirement], name: str) -> dict[str, Any]:
    """The packages of an extra with their versions, and the command that installs the missing ones."""
    own = [r for r in needed if r.extra == name]
    missing = [r for r in own if not r.version]
    return {"packages": {r.package: r.version for r in own}, "install": install(missing) if missing else None}


def install(missing: Sequence[Requirement]) -> str:
    """The command that installs these packages."""
    return " ".join(["pip install", *(shlex.quote(str(r)) for r in missing)])


def machine() -> dict[str, Any]:
    """Processor, cores, memory, accelerators, threads."""
    import torch

    from ...samplers.devices import devices_here, name_of
    from ..draw.engines.children import machine_memory
    from ..plan.environment import cpu_name

    accelerators = [device for device in devices_here() if device != "cpu"]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        # In a container or a job of a cluster there are fewer than the machine has, and these are what torch can use.
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(machine_memory() / GIGABYTE, 1),
        "accelerators": [f"{device} {name_of(device)}" for device in accelerators],
        "threads": torch.get_num_threads(),
    }


def disk(results: Path) -> tuple[dict[str, Any], list[str]]:
    """Space and permission to write where runs are stored, and the problems with them."""
    # The folder need not exist yet; it will be on the disk of the nearest one above it.
    there = next(p for p in (results.absolute(), *results.absolute().parents) if p.exists())
    free, writable = shutil.disk_usage(there).free, there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    faults = [] if there.is_dir() else [f"{results} is a file; runs go there: give -o, or move it away"]
    if there.is_dir() and not writable:
        faults.append(f"{results} cannot be written; give -o")
    if free < NEEDED_BYTES:
        faults.append(f"{results}: {free / GIGABYTE:.2f} GB left on the disk; a default run needs 0.1; give -o")
    return {"folder": str(results), "free_gb": round(free / GIGABYTE, 1), "writable": writable}, faults


def plugins_in(registry: Registry) -> dict[str, Any]:
    """The number of names that each plugin registers, the broken plugins, and the remarks."""
    from ...samplers.plugin import KINDS, Origin
    from ...samplers.registry import BUILT_IN

    names: dict[str, int] = {}
    for kind in KINDS:
        for origin in getattr(registry, kind).origins.values():
            # Dozens of modules register what is built in; people read them as one plugin.
            own = origin.plugin.startswith(f"{BUILT_IN}.")
            plugin = str(Origin(BUILT_IN, origin.version) if own else origin)
            names[plugin] = names.get(plugin, 0) + 1
    return {
        "loaded": names,
        "broken": {str(b.origin): b.reason for b in registry.broken},
        "remarks": {str(r.origin): r.text for r in registry.remarks},
    }


def data_sets(registry: Registry) -> dict[str, str | None]:
    """The path of the data set of each model that is trained on one."""
    from ...samplers.model import ModelWithData

    things: dict[str, object] = dict(sorted(registry.models.things.items()))
    folders = {name: thing.data_folder() for name, thing in things.items() if isinstance(thing, ModelWithData)}
    return {name: str(folder) if folder else None for name, folder in folders.items()}


def default_run(registry: Registry) -> dict[str, Any]:
    """Plan the default run, make its metrics ready and draw a trial; raises what fails."""
    from ..draw.chunk import trial
    from ..plan.config import Config
    from ..plan.plan import plan_for
    from ..plan.yardstick import yardsticks

    plan = plan_for(Config(), registry)
    ready = yardsticks(plan.config.metric, registry.metrics.things, plan.model)
    # A run leaves such a metric empty, with a note; here it would be a fault of the installation.
    if lacking := set(plan.config.metric) - set(ready):
        raise RuntimeError(f"model {plan.model.name} has no {', '.join(sorted(lacking))}")
    trial(plan.trial)
    return {"model": plan.model.name, "samplers": list(plan.config.sampler), "metrics": list(ready)}


def without_home(value: Any) -> Any:
    """A JSON value with the home folder written as ~, because its name is that of a person."""
    if isinstance(value, str):
        # The end of the name is looked at: ~ must not stand for the first part of /home/anna where the home is
        # /home/ann.
        return re.sub(rf"{re.escape(str(Path.home()))}(?![\w.-])", "~", value)
    if isinstance(value, dict):
        return {without_home(name): without_home(v) for name, v in value.items()}
    return [without_home(v) for v in value] if isinstance(value, list) else value


def examination_to_lines(seen: Examination) -> Iterator[str]:
    """A line for each finding, its name first."""
    # The part that a fault has stopped is absent, so each is asked for with `get`.
    found = without_home(seen.found)
    if at := found.get("machine"):
        yield (
            f"machine: {at['cpu'] or 'unknown processor'}, {at['usable_cores']} of {at['cores']} cores, "
            f"{at['memory_gb']:g} GB, {', '.join(at['accelerators']) or 'no accelerator'}"
        )
        yield f"python: {at['python']}, {at['system']}; torch takes {count_of(at['threads'], 'thread')}"
    for name, version in found.get("packages", {}).items():
        yield f"package {name}: {version or 'missing'}"
    for name, extra in found.get("extras", {}).items():
        there = ", ".join(f"{package} {version or '(missing)'}" for package, version in extra["packages"].items())
        yield f"extra {name}: {there}" + (f"; {extra['install']}" if extra["install"] else "")
    # Missing data is no problem of a default run, whose model has its weights.
    for name, folder in found.get("data", {}).items():
        yield f"data of {name}: {folder or 'not on this machine; only training needs it'}"
    if place := found.get("results"):
        right = "can be written" if place["writable"] else "cannot be written"
        yield f"results: {place['folder']}, {right}, {place['free_gb']:g} GB free"
    plugins = found.get("plugins", {})
    for origin, count in plugins.get("loaded", {}).items():
        yield f"plugin {origin}: {count} names"
    for origin, text in [*plugins.get("broken", {}).items(), *plugins.get("remarks", {}).items()]:
        yield f"plugin {origin}: {text}"
    yield from (f"problem: {problem}" for problem in without_home(seen.problems))
    yield "a default run would work" if not seen.problems else "a default run would not work"

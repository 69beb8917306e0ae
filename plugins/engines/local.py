"""local: one chunk at a time on this machine, built-in samplers in this process and each other one in a child of it."""

from __future__ import annotations

from ...samplers.engine import Engine, EngineFactory, Work
from ...samplers.errors import InputError
from ...samplers.registry import hookimpl


def local(argument: str, work: Work) -> Engine:
    """One chunk at a time on this machine; a sampler that did not come with samplerbench has a process of its own."""
    if argument:
        raise InputError(f"engine 'local:{argument}': takes no argument; expected local")
    return work.local()


@hookimpl
def samplerbench_engines() -> dict[str, EngineFactory]:
    """What this file adds, by name."""
    return {"local": local}

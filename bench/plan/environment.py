"""The machine and the versions that a run's numbers belong to."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ...samplers.devices import name_of
from ...samplers.process import switches

PACKAGES = ("samplerbench", "torch", "numpy", "pandas", "pluggy", "safetensors")
VERSIONS_THAT_MATTER = ("samplerbench", "torch", "numpy")
"""The packages whose version decides the numbers of a run."""


def environment(device: str) -> dict[str, Any]:
    """The environment that run.json records; it has no host name and no user name."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        # Sums of floats depend on how they are split among threads, so the number is part of every key too.
        "threads": torch.get_num_threads(),
        "device": name_of(device),
        "versions": {name: version_of(name) for name in PACKAGES},
        "switches": switches(),
    }


def other_switches(there: Mapping[str, Any]) -> list[str]:
    """For each switch of torch that differs between a run and this process: "switch: there -> here"."""
    here = switches()
    # Only switches that are not as usual are recorded, so one that is absent on a side is as usual there.
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return [f"{name}: {there.get(name, 'as usual')} -> {here.get(name, 'as usual')}" for name in names]


@cache
def version_of(package: str) -> str:
    """The version of an installed package, '' if it is not installed; cached, because every cell asks for it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def cpu_name() -> str:
    """The processor's name, if the system tells it."""
    try:
        # `platform.processor` is empty on most Linux systems, and two machines would look alike.
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")

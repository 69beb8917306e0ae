"""The environment variables that the library reads, not only the command line."""

from __future__ import annotations

from collections.abc import Mapping

from .errors import InputError

NO_PLUGINS = "SAMPLERBENCH_NO_PLUGINS"
"""1 = load only the built-in plugins of those that are installed."""

ALLOW_DOWNLOAD = "SAMPLERBENCH_ALLOW_DOWNLOAD"
"""1 = models, weights and data that are missing on this machine may be downloaded."""

IN_PROCESS = "SAMPLERBENCH_IN_PROCESS"
"""1 = samplers from outside the package run in this process too, where a debugger works and no limit holds."""


def is_on(variable: str, environment: Mapping[str, str]) -> bool:
    """Whether a variable is 1; unset = 0."""
    said = environment.get(variable, "").strip().lower()
    if said in ("", "0", "false", "no", "off"):
        return False
    if said in ("1", "true", "yes", "on"):
        return True
    raise InputError(f"environment variable {variable} {said!r}: expected 1 or 0")

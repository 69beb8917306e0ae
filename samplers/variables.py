"""The environment variables that are read by more than the command line."""

from __future__ import annotations

from collections.abc import Mapping

from .errors import InputError

NO_PLUGINS = "SAMPLERBENCH_NO_PLUGINS"
"""1 = of the installed plugins only the built-in ones are loaded."""

ALLOW_DOWNLOAD = "SAMPLERBENCH_ALLOW_DOWNLOAD"
"""1 = models, weights and data that are not on this machine may be fetched."""

IN_PROCESS = "SAMPLERBENCH_IN_PROCESS"
"""1 = samplers of others are drawn in this process too, where a debugger reaches them and no limit does."""


def is_on(variable: str, environment: Mapping[str, str]) -> bool:
    """What a variable that is 1 or 0 says; not set = 0."""
    said = environment.get(variable, "").strip().lower()
    if said in ("", "0", "false", "no", "off"):
        return False
    if said in ("1", "true", "yes", "on"):
        return True
    raise InputError(f"environment variable {variable} {said!r}: expected 1 or 0")

"""The environment variables that are read by more than the command line."""

from __future__ import annotations

from collections.abc import Mapping

from .errors import InputError

NO_PLUGINS = "SAMPLERBENCH_NO_PLUGINS"
"""1 = of the installed plugins only the built-in ones are loaded."""


def no_plugins_in(environment: Mapping[str, str]) -> bool:
    """What SAMPLERBENCH_NO_PLUGINS says."""
    said = environment.get(NO_PLUGINS, "").strip().lower()
    if said in ("", "0", "false", "no", "off"):
        return False
    if said in ("1", "true", "yes", "on"):
        return True
    raise InputError(f"environment variable {NO_PLUGINS} {said!r}: expected 1 or 0")

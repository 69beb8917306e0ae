"""diffusers and transformers: imported on first use, and silent."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ....samplers.errors import ModelError
from ....samplers.process import state_kept

LOGGED = ("diffusers.utils.logging", "transformers.utils.logging")


def library(module: str) -> Any:
    """A module of one of the libraries; ModelError if it cannot be imported."""
    # Only an import may change the process, and to look for changes takes longer than all else here.
    if loaded := sys.modules.get(module):
        return loaded
    try:
        with warnings.catch_warnings(), state_kept():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(
            f"diffusers models: {error.name or module} cannot be imported; pip install 'samplerbench[diffusers]'"
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the libraries inside the block, and put the process's state back after it.

    New modules are filled with random numbers before their weights are read, which would move torch's stream.
    """
    logs = [library(name) for name in LOGGED]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    with warnings.catch_warnings(), state_kept():
        warnings.simplefilter("ignore")
        for log in logs:
            log.set_verbosity_error()
            log.disable_progress_bar()
        try:
            yield
        finally:
            for log, (verbosity, bars) in zip(logs, before, strict=True):
                log.set_verbosity(verbosity)
                if bars:
                    log.enable_progress_bar()

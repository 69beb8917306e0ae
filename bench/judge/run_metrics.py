"""The metrics of a stored run, made ready again for its own model.

A run folder may come from a stranger. The model that it names is loaded, but code that it names is executed only if the
user names it too. Model and extractors must be those that the run was made with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ...samplers.errors import InputError, ModelError, StoreError
from ...samplers.model import Model
from ...samplers.registry import Registry
from ..draw.folder import RUN_FILE
from ..plan.equipment import model_for
from ..plan.identity import add_fingerprint, is_same
from ..plan.yardstick import Yardstick, yardsticks
from .stored import StoredRun

LoadMetrics = Callable[[], Mapping[str, Yardstick]]
"""Returns a run's metrics; called only if something is to be measured, since it loads the model."""


def ready_metrics(run: StoredRun, registry: Registry) -> dict[str, Yardstick]:
    """The metrics of a run, ready to measure its chunks.

    InputError for a model that is code and that the user did not name, ModelError for another model or extractor than
    the run was made with, StoreError for settings that are not known.
    """
    # In this order: nothing of the run is loaded before it is known that none of it is code of a stranger.
    check_settings(run)
    check_code(run, registry)
    config = run.record.config
    model = add_fingerprint(model_for(config, registry))
    check_model(run, model)
    ready = yardsticks(config.metric, registry.metrics.things, model, config.samples)
    check_extractors(run, model, ready)
    return ready


def check_settings(run: StoredRun) -> None:
    """Refuse a run with settings that this version does not know, since it would draw or measure other samples."""
    if unknown := ", ".join(run.record.unknown_settings):
        raise StoreError(
            f"{run.path / RUN_FILE}: {unknown} is not known to this version; use the one that made the run"
        )


def check_code(run: StoredRun, registry: Registry) -> None:
    """Refuse a run whose model is code that the user did not name."""
    spec = run.record.config.model
    if is_code(spec, registry) and spec not in registry.own_models:
        raise InputError(
            f"{run.path}: its model {spec!r} is code, which is not run because a folder names it; if it is yours, give "
            f"--model {spec}"
        )


def is_code(spec: str, registry: Registry) -> bool:
    """Whether a model's spec is or contains "file.py:function" or "module:function", whether or not that exists."""
    # A registered model may be given code too, as in name:file.py:function; any other spec with a colon is code.
    name, _, argument = spec.partition(":")
    return ":" in argument if name in registry.models.things else bool(argument)


def check_plugins(run: StoredRun, registry: Registry) -> None:
    """Refuse a run with plugins by path or module that the user did not name."""
    # A path is compared as it was given and as it resolves, since the run may have been made in another folder.
    named = {*registry.named, *(str(Path(plugin).resolve()) for plugin in registry.named)}
    if missing := [
        plugin for plugin in run.record.plugins if plugin not in named and str(Path(plugin).resolve()) not in named
    ]:
        raise InputError(
            f"{run.path}: was made with {' and '.join(missing)}, code that is not run because a folder names it; if it "
            f"is yours, give {' '.join(f'--plugin {plugin}' for plugin in missing)}"
        )


def check_model(run: StoredRun, model: Model) -> None:
    """Refuse a run of another model."""
    stored = run.record.model.fingerprint
    if not is_same(stored, model.fingerprint):
        raise ModelError(
            f"{run.path}: model {model.name!r} has the fingerprint {stored!r} there and {model.fingerprint!r} here; "
            "use the weights that the run was made with"
        )


def check_extractors(run: StoredRun, model: Model, ready: Mapping[str, Yardstick]) -> None:
    """Refuse a run with other extractors or references, as far as the run records them."""
    for name, yardstick in ready.items():
        here = model.extractors[yardstick.metric.extractor].fingerprint
        # Runs of the first versions do not say it, and are taken at their word.
        there = run.record.extractors.get(name, {}).get("fingerprint", here)
        if there != here:
            raise ModelError(
                f"{run.path}: the extractor of {name}, or what it is compared with, has the fingerprint {there!r} "
                f"there and {here!r} here; use those that the run was made with"
            )

"""The model of a configuration, with the extractors and references that its metrics need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from ...samplers.arguments import resolve_device
from ...samplers.errors import InputError, ModelError
from ...samplers.extractor import Extractor, on_device
from ...samplers.metric import Metric
from ...samplers.model import Model
from ...samplers.options import at_fault
from ...samplers.registry import Registry
from .config import Config
from .reference import COMPARED, referring, source_of

DEFAULTS = {
    "features": "inception", "logits": "inception", "clip": "clip", "clip_image": "clip",
    "composition": "scenes-detector",
}  # fmt: skip
"""The extractor for each role that a model of images may lack, as papers use it."""
OF_PROMPTS = ("clip", "composition")
"""Roles that need prompts."""


def model_for(config: Config, registry: Registry) -> Model:
    """The model that a configuration names, made with its settings and equipped for its metrics."""
    return equip(registry.model(config.model, **config.model_settings), config, registry)


def equip(model: Model, config: Config, registry: Registry) -> Model:
    """The model, with its extractors and reference replaced by those that the configuration names.

    A role that a metric reads and that has no extractor gets that of `DEFAULTS`, if the model makes images and the
    extractor's numbers can mean something. Where the weights of that are missing, a default metric is left out, with a
    note. InputError or ModelError for the missing weights of any other, a reference of another extractor or size, and
    prompts that an extractor cannot read. Equipping a model twice changes nothing more.
    """
    metrics = [registry.metrics[name] for name in config.metric]
    named = extractors_named(config, model, registry)
    # Own extractors come first, then those named by the user replace them, then defaults fill what is left.
    lacking = lacking_roles(metrics, {*model.extractors, *named}, model, config)
    defaults, without = default_extractors(lacking, model, registry)
    if without and not may_leave_out(config):
        raise next(iter(without.values()))
    extractors = {**model.extractors, **named, **defaults}
    # Before the reference: its rows are made as those of the samples are.
    extractors = on_device(extractors, device_of(config))
    read = {metric.extractor for metric in metrics}
    if config.reference is not None:
        extractors |= with_reference(extractors, read, model, config, registry)
    # Before the first image is drawn: a prompt that is too long would fail the run at its first chunk.
    told = check_prompts({role: e for role, e in extractors.items() if role in read}, config.prompts or model.prompts)
    left_out = notes_on_left_out(config, registry, model, extractors, without) if may_leave_out(config) else []
    notes = tuple(dict.fromkeys([*model.notes, *left_out, *told]))
    if extractors == dict(model.extractors) and notes == model.notes:
        return model
    return replace(model, extractors=extractors, notes=notes)


def device_of(config: Config) -> torch.device:
    """Where extractors compute: on the run's device, and on the CPU where that is missing.

    A run is refused there, but its table and its report can be made on another machine.
    """
    try:
        return resolve_device(config.device)
    except InputError:
        return torch.device("cpu")


def extractors_named(config: Config, model: Model, registry: Registry) -> dict[str, Extractor]:
    """The extractors of the configuration by role; a later one replaces an earlier one.

    An extractor of prompts is taken only for a model that has prompts. InputError if the model makes no images.
    """
    found: dict[str, Extractor] = {}
    for spec in config.extractor:
        if model.shown_shape is None:
            raise InputError(f"extractor {spec!r}: reads images, and model {model.name!r} makes none; leave it out")
        found |= registry.extractors_of(spec)
    return {role: e for role, e in found.items() if model.encode or role not in OF_PROMPTS}


def lacking_roles(metrics: list[type[Metric]], filled: set[str], model: Model, config: Config) -> set[str]:
    """The roles that metrics read, that have no extractor, and that could mean something for this model."""
    if model.shown_shape is None:
        return set()
    # Without a reference, weights would be asked for in vain.
    able = [metric for metric in metrics if config.reference is not None or not metric.needs_reference]
    roles = {metric.extractor for metric in able} - filled
    return {role for role in roles if model.encode or role not in OF_PROMPTS}


def may_leave_out(config: Config) -> bool:
    """Whether a metric without its extractor is left out: the default metrics are no wish, but a reference is one."""
    return config.metric == Config.metric and config.reference is None


def notes_on_left_out(
    config: Config,
    registry: Registry,
    model: Model,
    extractors: Mapping[str, Extractor],
    without: Mapping[str, ModelError],
) -> list[str]:
    """A sentence for each default metric that a model of images goes without: what is missing, and how to get it."""
    notes = []
    for name in config.metric if model.shown_shape is not None else ():
        metric = registry.metrics[name]
        own = extractors.get(metric.extractor)
        if metric.needs_reference and not (own and own.reference):
            notes.append(f"{name} left out: it compares with real images; --reference names a folder or a data set")
        elif metric.extractor in without:
            notes.append(f"{name} left out: {without[metric.extractor]}")
    return notes


def default_extractors(
    roles: set[str], model: Model, registry: Registry
) -> tuple[dict[str, Extractor], dict[str, ModelError]]:
    """The extractors of `DEFAULTS` for these roles, each made once; and for a role without one, the error that says
    what is missing."""
    made: dict[str, Mapping[str, Extractor]] = {}
    found: dict[str, Extractor] = {}
    without: dict[str, ModelError] = {}
    for role in sorted(roles):
        name = DEFAULTS.get(role)
        if name is None or name not in registry.extractors.things:
            continue
        try:
            # One extractor often fills several roles, and to load its weights takes seconds.
            made[name] = made.get(name) or registry.extractors_of(name)
        except ModelError as error:
            without[role] = ModelError(
                f"{error}; model {model.name!r} has no {role!r} of its own: name another by --extractor, or metrics "
                "that do not read it by --metric (none for only times and pictures)"
            )
            without[role].__cause__ = error
            continue
        found[role] = made[name][role]
    return found, without


def with_reference(
    extractors: Mapping[str, Extractor], read: set[str], model: Model, config: Config, registry: Registry
) -> dict[str, Extractor]:
    """The extractors whose rows a metric compares, with the reference of the configuration."""
    spec, shape = str(config.reference), model.shown_shape
    roles = [role for role in COMPARED if role in read and role in extractors]
    if shape is None:
        raise InputError(f"reference {spec!r}: is of images, and model {model.name!r} makes none; leave it out")
    if not roles:
        metrics = f"none of the metrics {', '.join(config.metric)} compares" if config.metric else "no metric compares"
        raise InputError(f"reference {spec!r}: {metrics} with it; add one that does, as --metric fid, or leave it out")
    source = source_of(spec, shape, registry)
    return {role: referring(extractors[role], source) for role in roles}


def check_prompts(extractors: Mapping[str, Extractor], prompts: tuple[str, ...]) -> list[str]:
    """Let each extractor refuse prompts that it cannot read; what they say of the others, as sentences."""
    told: list[str] = []
    # An extractor that fills several roles is asked once.
    for extractor in {id(e): e for e in extractors.values()}.values():
        if extractor.check:
            with at_fault(f"extractor {extractor.label}: check of the prompts"):
                told += extractor.check(prompts) or ()
    return told

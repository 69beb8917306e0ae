"""How a model is recognised: by the fingerprint that it was given, or by what can be seen of a torch module.

A run is resumed only where its model is known again. Of a torch module weights, buffers and code are seen, and one
sample, which tells of much that stands in neither, such as an attribute that is a plain number.
"""

from __future__ import annotations

import hashlib
import inspect
from contextlib import suppress
from dataclasses import replace

from torch import Tensor, nn

from ...samplers.model import Model, WrappedNetwork
from ...samplers.process import state_kept
from ...samplers.registry import Registry
from ...samplers.sample import draw, request_for
from .config import Config
from .keys import digest, tensor_hash
from .sources import code_in, home_of, source

MODULE = "module"
"""Begins a fingerprint that was made here: module:weights:code, and :sample if one was drawn."""
DIGITS = 16
"""The length of each part of such a fingerprint."""
SAMPLER, STEPS = "ddim", 3


def add_fingerprint(model: Model) -> Model:
    """The model; one without a fingerprint gets that of the weights and the code of its torch module."""
    module = model.network.network if isinstance(model.network, WrappedNetwork) else None
    if model.fingerprint or not isinstance(module, nn.Module):
        return model
    return replace(model, fingerprint=f"{MODULE}:{weights_hash(module)}:{code_hash(module)}")


def identify(model: Model, registry: Registry, config: Config) -> Model:
    """The model; a fingerprint that `add_fingerprint` made is extended by a sample, or removed if none can be drawn."""
    model = add_fingerprint(model)
    if not is_seen(model.fingerprint):
        return model
    try:
        sample = sample_hash(model, registry, config)
    except (Exception, SystemExit):  # its cells will fail, and say why
        return replace(model, fingerprint="")
    return replace(model, fingerprint=f"{model.fingerprint}:{sample}")


def is_seen(fingerprint: str) -> bool:
    """Whether a fingerprint was made here, not given by the user."""
    return fingerprint.startswith(f"{MODULE}:")


def is_same(stored: str, here: str) -> bool:
    """Whether a run's fingerprint is that of the model here, whose own may still lack the sample."""
    # `add_fingerprint` draws no sample, so weights and code have to do.
    return stored == here or (is_seen(here) and stored.startswith(f"{here}:"))


def unknown(model: Model) -> str:
    """The warning about a model that cannot be recognised; '' for any other."""
    if model.fingerprint:
        return ""
    return (
        f"model {model.name!r} has no fingerprint and is no torch module to be known by: this run will not resume; "
        "give wrap_network(..., fingerprint=...)"
    )


def weights_hash(module: nn.Module) -> str:
    """Hash of all parameters and buffers, including those that are not saved."""
    # Buffers with persistent=False decide answers too, and no state_dict has them.
    values = module.state_dict() | dict(module.named_buffers())
    said = {name: tensor_hash(v) if isinstance(v, Tensor) else repr(v) for name, v in values.items()}
    return digest(said)[:DIGITS]


def code_hash(module: nn.Module) -> str:
    """Hash of the code of a module's class and of those of its parts."""
    classes = {type(part) for part in module.modules()}
    # All parts and not only the outermost class: a layer may come from another file.
    code = code_in(sorted({home_of(cls) for cls in classes}), ())
    typed = []  # in a notebook, in no file
    for cls in classes:
        if source(cls.__module__) is None:
            with suppress(OSError, TypeError):
                typed.append(inspect.getsource(cls))
    return digest([sorted(cls.__qualname__ for cls in classes), code.digest, sorted(typed)])[:DIGITS]


def sample_hash(model: Model, registry: Registry, config: Config) -> str:
    """Hash of one sample of a few steps, and of its image, computed as in the run."""
    # One prompt, the model's own if it has any, so that other prompts of a run leave the fingerprint as it is.
    prompts = (model.prompts or config.prompts or ("",))[:1] if model.encode else None
    request = request_for(
        registry, model, SAMPLER, steps=STEPS, prompts=prompts, batch_size=1, device=config.device, dtype=config.dtype
    )
    # A network that draws random numbers must not move those of the user.
    with state_kept():
        samples = draw(request, 0, 1)
    shown = [samples.x] if samples.images is None else [samples.x, samples.images]
    return hashlib.sha256("".join(map(tensor_hash, shown)).encode()).hexdigest()[:DIGITS]

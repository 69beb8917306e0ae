"""What identifies a cell: hashes of everything visible that its numbers depend on.

Whatever is at its default is left out, so that an option or a setting that is added later changes no key. The core of
samplerbench is known by its version and by `FORMAT`.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch

from ...samplers.acceleration import Accelerated
from ...samplers.grid import Levels
from ...samplers.model import Model, WrappedNetwork
from ...samplers.options import File
from ...samplers.process import switches
from ...samplers.sample import Request
from ...samplers.sampler import Sampler
from ...samplers.schedule import Schedule
from .environment import VERSIONS_THAT_MATTER, version_of
from .sources import FileUsed, code_of, code_of_class, file_at

FORMAT = 2
"""Version of the run folder, and of the numbers that the core makes."""
SAID_APART = ("model", "sampler", "levels", "device", "dtype", "batch_size")
"""The fields of a request that `asked_setting` does not hash as they are, but in a form that it makes itself."""
OF_MODEL_APART = ("fingerprint", "extractors", "network")
"""The fields of a model that `model_setting` does not hash as they are, but in a form that it makes itself."""
NOT_OF_MODEL = ("prompts", "batch_size", "check_texts")
"""The fields of a model that decide no number: defaults of a request, which has its own, and checks."""


def cell_setting(request: Request, extractors: Collection[str]) -> str:
    """Hash of all that decides a cell, except the code of the sampler and the content of files."""
    return setting_of(request.sampler, asked_setting(request, extractors))


def setting_of(sampler: Sampler, asked: str) -> str:
    """Hash of a sampler's name and options, and of what it is asked to draw; files are left to `files_of`."""
    # The content of a file belongs to the key, but not to the setting, which outlives an edit.
    held = {field.name for field in fields(sampler) if isinstance(getattr(sampler, field.name), File)}
    # As None and not left out: whether there is a file is part of the setting.
    options = {name: None if name in held else value for name, value in fields_given(sampler).items()}
    return digest([type(sampler).__qualname__, options, asked])


def asked_setting(request: Request, extractors: Collection[str], shared: str | None = None) -> str:
    """Hash of what a sampler is asked to draw: `shared_setting`, levels, seed, prompts, guidance and precision.

    `shared` is that hash, if it is already known.
    """
    return digest([
        shared or shared_setting(request.model, extractors),
        # The levels themselves, not the grid's name: two names of one grid give one cell.
        levels_hash(request.levels),
        # They move the last bits. Which of several equal devices does not.
        [request.batch_size, request.device.type, str(request.dtype)],
        fields_given(request, but=SAID_APART),
    ])  # fmt: skip


def shared_setting(model: Model, extractors: Collection[str]) -> str:
    """Hash of what all cells of a plan share: the model, the extractors that are read, threads, unusual switches of
    torch, and versions."""
    versions = [FORMAT, torch.__version__, {name: version_of(name) for name in VERSIONS_THAT_MATTER}]
    return digest([model_setting(model, extractors), torch.get_num_threads(), switches(), versions])


def model_setting(model: Model, extractors: Collection[str]) -> dict[str, Any]:
    """All that identifies a model and the extractors that are read. Code of other packages is identified by its
    text."""
    # The user's own code, not our wrappers around it.
    loader = model.network.load if isinstance(model.network, Accelerated) else model.network
    network = loader.network if isinstance(loader, WrappedNetwork) else loader
    faster = {"acceleration": fields_given(model.network.how)} if isinstance(model.network, Accelerated) else {}
    return {
        **faster,
        **fields_given(model, but=(*OF_MODEL_APART, *NOT_OF_MODEL)),
        "fingerprint": model.fingerprint,
        "network": text_of(network),
        "extractors": {
            role: [extractor.fingerprint, text_of(extractor.extract)]
            for role, extractor in model.extractors.items()
            # An extractor that no metric reads decides nothing.
            if role in extractors
        },
    }


def fields_given(thing: Any, but: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass that take part in comparisons and are not at their defaults, as JSON values."""
    return {
        field.name: json_value_of(value)
        for field in fields(thing)
        if field.name not in but and field.compare
        if not is_default(value := getattr(thing, field.name), field.default)
    }


def is_default(value: Any, default: Any) -> bool:
    """Whether a value is its field's default; only for plain values, as others may define their own equality."""
    # 1 == 1.0 == True, but they may act differently.
    if default is MISSING or type(value) is not type(default):
        return False
    # A tensor's == gives a tensor, and a stranger's class may say that everything is equal.
    return value is default or (isinstance(value, int | float | str | tuple) and bool(value == default))


def json_value_of(value: Any) -> Any:
    """A JSON value that is the same in every process, and different for different values."""
    # First, because a schedule holds thousands of numbers.
    if type(value) in PLAIN:
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__qualname__, fields_given(value), text_of(value)[1:]]
    return next((say for kinds, say in WORDS if isinstance(value, kinds)), text_of)(value)


PLAIN = frozenset((bool, int, float, str, NoneType))
"""The types of values that JSON has itself."""
WORDS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    # The order matters: the first kind that fits is taken.
    ((bool, int, float, str, NoneType), lambda value: value),
    (File, lambda value: {"sha256": value.sha256}),
    (Mapping, lambda value: [[json_value_of(key), json_value_of(item)] for key, item in value.items()]),
    ((list, tuple), lambda value: [json_value_of(item) for item in value]),
    ((set, frozenset), lambda value: sorted(json.dumps(json_value_of(item)) for item in value)),
    (torch.Tensor, lambda value: {"tensor": tensor_hash(value)}),
    (np.ndarray, lambda value: {"array": tensor_hash(torch.from_numpy(np.ascontiguousarray(value)))}),
    (Schedule, lambda value: [json_value_of(vars(value)), text_of(value)]),
    ((torch.dtype, torch.device, Path), str),
)
"""How values of each kind are described; for a value of any other kind, only its code is."""


def tensor_hash(tensor: torch.Tensor) -> str:
    """SHA-256 of type, shape and bytes, whatever device it is on."""
    # numpy has no bfloat16, so the bytes are taken.
    there = tensor.detach().cpu().contiguous()
    about = f"{there.dtype} {tuple(there.shape)}".encode()
    return hashlib.sha256(about + there.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def text_of(thing: object) -> list[str]:
    """The name of a function, or of an object's class, and a hash of its code unless it came with samplerbench; [] for
    None."""
    if thing is None:
        return []
    # Code of samplerbench is known by its version and by FORMAT, so a change that moves no number redraws nothing.
    code = code_of(thing)
    name = str(getattr(thing, "__qualname__", type(thing).__qualname__))
    return [name, code.digest] if code else [name]


def source_hash(cls: type) -> str:
    """Hash of the code of a sampler, so that an edited one is drawn again."""
    return code_of_class(cls).digest


def files_of(sampler: Sampler) -> tuple[dict[str, str], tuple[FileUsed, ...]]:
    """The SHA-256 of each file that an option holds or names, by option; and the files that the sampler itself opens by
    name, because the option is a text."""
    values = {field.name: getattr(sampler, field.name) for field in fields(sampler)}
    held = {name: value.sha256 for name, value in values.items() if isinstance(value, File)}
    # A sampler may take a path as a plain text, and open it itself: every text that names a file is treated as one.
    texts = {name: value for name, value in values.items() if isinstance(value, str) and value}
    named = {name: file for name, value in texts.items() if (file := file_at(Path(value)))}
    return held | {name: file.sha256 for name, file in named.items()}, tuple(named.values())


def levels_hash(levels: Levels) -> str:
    """Hash of the levels of a run, in float64."""
    # The bits of float64: a decimal text might round two levels to one.
    numbers = [number for level in levels for number in (level.alpha, level.sigma, level.t)]
    return hashlib.sha256(struct.pack(f"<{len(numbers)}d", *numbers)).hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value."""
    # Sorted, so that the order in which a dict was filled does not count.
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()

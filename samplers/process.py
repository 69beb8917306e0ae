"""The state of the process that a plugin could change for everyone: put back, and named."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .patches import functions_now, put_back_functions

Aspect = tuple[Callable[[], Any], Callable[[Any], object]]
"""How to read a part of the state, as something that == compares, and how to put it back; None = not there."""


def _numpy_stream() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return (kind, np.asarray(keys).tobytes(), *rest)


def _set_numpy_stream(state: tuple[Any, ...]) -> None:
    kind, keys, *rest = state
    np.random.set_state((kind, np.frombuffer(keys, dtype=np.uint32), *rest))


def _torch_streams() -> tuple[bytes, ...]:
    return (torch.get_rng_state().numpy().tobytes(),)


def _cuda_streams() -> tuple[bytes, ...] | None:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    return tuple(state.numpy().tobytes() for state in torch.cuda.get_rng_state_all())


def _tensor(state: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  (what os.chdir takes)
    except OSError:
        return None  # it was removed


ASPECTS: dict[str, Aspect] = {
    "Python's random stream": (random.getstate, random.setstate),
    "NumPy's random stream": (_numpy_stream, _set_numpy_stream),
    "torch's random stream": (_torch_streams, lambda states: torch.set_rng_state(_tensor(states[0]))),
    "CUDA's random streams": (_cuda_streams, lambda states: torch.cuda.set_rng_state_all([_tensor(s) for s in states])),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, torch.set_default_device),
    "torch's threads": (torch.get_num_threads, torch.set_num_threads),
    "the current folder": (_folder, os.chdir),
}


@contextmanager
def state_kept() -> Iterator[list[str]]:
    """Put the process's state back as it was; the list, filled at the end, names what had been changed."""
    before = {name: read() for name, (read, _) in ASPECTS.items()}
    functions = functions_now()
    changed: list[str] = []
    try:
        yield changed
    finally:
        changed += put_back_functions(functions)  # first, because all others are read and put back by them
        for name, (read, put_back) in ASPECTS.items():
            if before[name] is not None and read() != before[name]:
                put_back(before[name])
                changed.append(name)

"""Faster networks, where the user asks for them: compiled, in another memory layout, or with coarser products.

Each of these moves the last digits of a network's answers, so none of them is ever on by itself, and each is part of
what identifies a cell.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from .errors import InputError, ModelError, in_line
from .model import Model, NetworkLoader
from .predictor import Hints, Network, clock, is_out_of_memory, takes_hints
from .process import SWITCHES

Compiler = Callable[..., Any]
"""A function or a module, and keywords -> a function that answers the same, faster, as `torch.compile` does."""
CALLS_TO_RECORD = 3
"""Calls of a kind before a CUDA graph is replayed: one compiles, one warms up, one records."""
MOST_PROGRAMS = 1024
"""Programs of a network. By default torch compiles eight, then runs the network uncompiled without an error, and times
would be those of an uncompiled network."""
MOST_AGAIN = 4
"""How often a network may be compiled again for one kind of call: its arguments may lie otherwise in memory."""
IMAGE_BATCH = 4
"""Dimensions of a batch of images, for which the memory layout by channels exists."""
TURNED: Mapping[str, Mapping[str, Any]] = {
    "tf32": {"torch.backends.cuda.matmul.fp32_precision": "tf32", "torch.backends.cudnn.conv.fp32_precision": "tf32"},
    "cudnn_benchmark": {"torch.backends.cudnn.benchmark": True},
}
"""By name of the acceleration: the switches of `process.SWITCHES` that it turns, and to what."""
KNOWN = {name: switch for part in SWITCHES.values() for name, switch in part.items()}
Kind = tuple[tuple[tuple[int, ...], torch.dtype], ...]
"""Shape and dtype of each argument: one compiled program serves one kind of call."""


@dataclass(frozen=True)
class Acceleration:
    """What makes the network faster; nothing by default."""

    compile: bool = False
    """Compile it: `torch.compile`, with CUDA graphs on a GPU."""
    channels_last: bool = False
    """Hand it images with the channels innermost in memory."""
    tf32: bool = False
    """Round the factors of float32 products to TF32, on CUDA."""
    cudnn_benchmark: bool = False
    """Let cuDNN time its algorithms and take the fastest, on CUDA."""

    def __bool__(self) -> bool:
        """Whether there is any."""
        return any(getattr(self, f.name) for f in fields(self))


def accelerate(model: Model, how: Acceleration, device: str) -> Model:
    """The model with a faster network. InputError for what the device, as torch names it, lacks."""
    if not how:
        return model
    for name in TURNED:
        if getattr(how, name) and not device.startswith("cuda"):
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option}: is of CUDA, and the device is {device}; give --device cuda, or leave it out")
    if how.channels_last and len(model.shape) + 1 != IMAGE_BATCH:
        raise InputError(
            f"--channels-last: is of states (C, H, W), and those of model {model.name!r} are {model.shape}; leave it "
            "out"
        )
    return replace(model, network=Accelerated(model.network, how, model.name))


def compile_seconds(model: Model) -> float:
    """Seconds that compiling the model's network has taken so far in this process."""
    return model.network.seconds if isinstance(model.network, Accelerated) else 0.0


def untold_seconds(model: Model) -> float | None:
    """Seconds that compiling has taken since this was asked last; None where nothing is compiled."""
    if not (isinstance(model.network, Accelerated) and model.network.how.compile):
        return None
    told, model.network.told = model.network.told, model.network.seconds
    return model.network.seconds - told


def turns_switches(model: Model) -> bool:
    """Whether the model's network turns switches of the process for the length of each call."""
    return isinstance(model.network, Accelerated) and any(getattr(model.network.how, name) for name in TURNED)


@dataclass
class Accelerated:
    """The loader of a faster network. A network is compiled once for a device and dtype, whatever is drawn with it."""

    load: NetworkLoader
    how: Acceleration
    name: str
    """What the model is called, for messages."""
    compiler: Compiler = torch.compile
    seconds: float = 0.0
    """What compiling has taken so far."""
    told: float = 0.0
    """The part of `seconds` that a chunk already accounts for."""
    _made: dict[tuple[torch.device, torch.dtype], Network] = field(default_factory=dict)

    def __call__(self, device: torch.device, dtype: torch.dtype) -> Network:
        """The network on that device."""
        if (device, dtype) not in self._made:
            self._made[device, dtype] = self._faster(self.load(device, dtype), device)
        return self._made[device, dtype]

    def _faster(self, network: Network, device: torch.device) -> Network:
        if self.how.compile:
            network = self._compiled(network, device)
        if not (self.how.channels_last or self.how.tf32 or self.how.cudnn_benchmark):
            return network
        values = {name: value for how, its in TURNED.items() if getattr(self.how, how) for name, value in its.items()}

        def ask(x: Tensor, *others: Tensor, **hints: Hints) -> Tensor:
            if self.how.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            # For the length of a call: what decodes, extracts and measures computes as it always does.
            with turned(values):
                return network(x, *others, **hints)

        # The signature stays that of the network, which may take hints.
        return functools.update_wrapper(ask, network, assigned=(), updated=())

    def _compiled(self, network: Network, device: torch.device) -> Network:
        """A compiled network, whose first call of each kind is timed apart: it compiles."""
        if takes_hints(network):
            raise InputError(
                f"--compile: the network of model {self.name!r} takes hints, and keeps notes between its calls, which "
                "a compiled program cannot; leave it out"
            )
        graphs = device.type == "cuda"
        # A program for each shape: a run has few, and one for any shape is slower.
        faster = self.compiler(network, dynamic=False, mode="reduce-overhead" if graphs else "default")
        make_room_for_programs()
        again: dict[Kind, int] = {}

        def ask(*given: Tensor) -> Tensor:
            kind = tuple((tuple(one.shape), one.dtype) for one in given)
            if kind not in again:
                started = clock(device)
                self._get_ready(network, faster, given, calls=CALLS_TO_RECORD if graphs else 1)
                self.seconds += clock(device) - started
                again[kind] = 0
            made, started = programs_made(), time.perf_counter()
            answer = answer_by(faster, given, graphs=graphs)
            if programs_made() > made:
                # The network was not ready while the clock ran, so the time of this draw must not count.
                self.seconds += time.perf_counter() - started
                again[kind] += 1
            if again[kind] > MOST_AGAIN:
                raise ModelError(
                    f"model {self.name!r}: the network is compiled again and again for arguments of one shape, as "
                    "where it reads a number out of a tensor (float(t[0])); leave out --compile"
                )
            return answer

        return ask

    def _get_ready(self, network: Network, faster: Network, given: tuple[Tensor, ...], calls: int) -> None:
        """Compile for calls of this kind. ModelError if the network cannot be compiled."""
        try:
            for _ in range(calls):
                answer_by(faster, given, graphs=calls > 1)
        except Exception as error:  # a compiler may raise anything
            # That is no fault of the compiler, and has its own message and advice.
            if is_out_of_memory(error):
                raise
            # A network that fails by itself is not the compiler's fault, and its own error says more.
            network(*given)
            raise ModelError(
                f"model {self.name!r}: the network cannot be compiled ({in_line(error)}); leave out --compile"
            ) from error


def make_room_for_programs() -> None:
    """Let torch compile as many programs of a network as there are kinds of calls."""
    dynamo = sys.modules.get("torch._dynamo")  # a stand-in of the compiler does not load it
    if dynamo:
        for name in ("recompile_limit", "accumulated_recompile_limit"):
            setattr(dynamo.config, name, max(getattr(dynamo.config, name), MOST_PROGRAMS))


def programs_made() -> int:
    """How many programs torch has compiled so far in this process."""
    utils = sys.modules.get("torch._dynamo.utils")
    return int(utils.counters["stats"]["unique_graphs"]) if utils else 0


def answer_by(faster: Network, given: tuple[Tensor, ...], *, graphs: bool) -> Tensor:
    """The answer of a compiled network; with CUDA graphs the buffer of the call before is free again."""
    if graphs:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
    return faster(*given)


@contextmanager
def turned(values: Mapping[str, Any]) -> Iterator[None]:
    """Turn these switches of torch inside the block."""
    was = {name: KNOWN[name].read() for name in values}
    try:
        turn(values)
        yield
    finally:
        turn(was)


def turn(values: Mapping[str, Any]) -> None:
    """Set each switch that differs. Setting one to the value that it has may set others, by older names of them."""
    for name, value in values.items():
        if KNOWN[name].read() != value:
            KNOWN[name].turn(value)

"""The state of the process that a plugin could change for all others: this module puts it back and names the changes.

Part of it are the switches that change results, under the names by which torch documents them. Those that differ from
their usual value are part of a run's key: see `switches`.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from .errors import InputError, PluginError
from .patches import functions_now, put_back_functions

FOR_GOOD = " (for good: a process sets it once)"
"""Follows the name of an aspect that cannot be put back."""
DENORMAL = 1e-310
"""A number below the normal ones of float64: a thread that flushes denormal numbers takes it for 0."""
VARIABLES = (
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "DNNL_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA",
    "KMP_DETERMINISTIC_REDUCTION", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NPY_DISABLE_CPU_FEATURES",
    "NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE",
)  # fmt: skip
"""Environment variables by which libraries of linear algebra choose their algorithms and precision."""


CUDA = torch.backends.cuda


class Aspect(NamedTuple):
    """A part of the state of the process."""

    read: Callable[[], Any]
    """Its value, to be compared with ==; None = this process has none."""
    put_back: Callable[[Any], object]


class Switch(NamedTuple):
    """A setting that changes results, with values as in JSON."""

    read: Callable[[], Any]
    """Its value; None if torch does not tell."""
    turn: Callable[[Any], object]
    usual: Any
    """Its value in a new process."""


def attribute(path: str, usual: Any, turn: Callable[[Any], object] | None = None) -> tuple[str, Switch]:
    """A switch that is an attribute of torch.

    It reads as None if this version of torch lacks it, and if two names of one switch were set to different values.
    """
    home, _, name = path.removeprefix("torch.").rpartition(".")
    reach = attrgetter(home)

    # All switches are read around each call of a plugin: `suppress` would take longer than the reading.
    def read() -> Any:
        try:
            return getattr(reach(torch), name)
        except (AttributeError, RuntimeError):
            return None

    return path, Switch(read, turn or (lambda value: setattr(attrgetter(home)(torch), name, value)), usual)


def precision(backend: str, operation: str, usual: str) -> tuple[str, Switch]:
    """The precision of float32 products: ieee, tf32, bf16, or none = the setting of the backend, or of all of torch.

    torch's internal function sets it, because setting the attribute of oneDNN as a whole sets that of torch too.
    """
    part = {"generic": "", "mkldnn": ".mkldnn"}.get(backend, ".cuda" if operation == "matmul" else ".cudnn")
    # The names by which torch documents the setting; "generic" is torch as a whole.
    path = f"torch.backends{part}{'' if operation == 'all' else f'.{operation}'}.fp32_precision"
    return attribute(path, usual, lambda value: torch._C._set_fp32_precision_setter(backend, operation, value))


def functions(path: str, read: Callable[[], Any], turn: Callable[[Any], object], usual: Any) -> tuple[str, Switch]:
    """A switch that torch reads and sets by functions."""

    def value() -> Any:
        try:
            return read()
        except (AttributeError, RuntimeError, TypeError):
            return None

    return path, Switch(value, turn, usual)


def autocast(device: str, usual: str) -> Iterator[tuple[str, Switch]]:
    """Whether autocast is on for a device, and its dtype."""
    yield functions(f"torch.is_autocast_enabled({device!r})", lambda: torch.is_autocast_enabled(device),
                    lambda value: torch.set_autocast_enabled(device, value), False)  # fmt: skip
    yield functions(f"torch.get_autocast_dtype({device!r})", lambda: _dtype_name(torch.get_autocast_dtype(device)),
                    lambda value: torch.set_autocast_dtype(device, getattr(torch, value)), usual)  # fmt: skip


def reduction(kind: str) -> tuple[str, Switch]:
    """Whether sums of fp16 or bf16 products may be rounded to that dtype, and whether they may be split: two values."""
    name = f"allow_{kind}_reduced_precision_reduction"
    return functions(f"torch.backends.cuda.matmul.{name}", lambda: list(getattr(torch._C, f"_get_cublas_{name}")()),
                     lambda value: setattr(CUDA.matmul, name, tuple(value)), [True, True])  # fmt: skip


def variable(name: str) -> tuple[str, Switch]:
    """An environment variable; None = not set."""

    def turn(value: str | None) -> None:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value

    return name, Switch(lambda: os.environ.get(name), turn, None)


def flushes_denormals() -> bool:
    """Whether this thread flushes denormal numbers to 0. torch does not tell, so a product shows it."""
    # On the CPU, whatever the default device is: the setting is one of this thread.
    return bool((torch.tensor([DENORMAL], dtype=torch.float64, device="cpu") * 1.0 == 0).item())


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _library(choice: Callable[..., Any]) -> Callable[[], str]:
    return lambda: str(choice().name).lower()


Switches = dict[str, Switch]
SWITCHES: dict[str, Switches] = {
    "torch's default dtype": dict([
        functions("torch.get_default_dtype", lambda: _dtype_name(torch.get_default_dtype()),
                  lambda value: torch.set_default_dtype(getattr(torch, value)), "float32"),
    ]),
    # The older names come first: they set several of the newer ones at once, which then set those right.
    "torch's float32 precision": dict([
        functions("torch.get_float32_matmul_precision", torch.get_float32_matmul_precision,
                  torch.set_float32_matmul_precision, "highest"),
        attribute("torch.backends.cudnn.allow_tf32", True),
        precision("generic", "all", "none"),
        precision("cuda", "all", "none"),
        precision("mkldnn", "all", "none"),
        precision("cuda", "matmul", "none"),
        precision("cuda", "conv", "tf32"),
        precision("cuda", "rnn", "tf32"),
        precision("mkldnn", "matmul", "none"),
        precision("mkldnn", "conv", "none"),
        precision("mkldnn", "rnn", "none"),
    ]),
    "torch's half precision": dict([
        reduction("fp16"),
        reduction("bf16"),
        attribute("torch.backends.cuda.matmul.allow_fp16_accumulation", False),
        functions("torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed", CUDA.fp16_bf16_reduction_math_sdp_allowed,
                  CUDA.allow_fp16_bf16_reduction_math_sdp, False),
    ]),
    "torch's deterministic algorithms": dict([
        functions("torch.get_deterministic_debug_mode", torch.get_deterministic_debug_mode,
                  torch.set_deterministic_debug_mode, 0),
        attribute("torch.utils.deterministic.fill_uninitialized_memory", True),
    ]),
    "torch's denormal numbers": dict([
        functions("torch.set_flush_denormal", flushes_denormals, torch.set_flush_denormal, False),
    ]),
    "torch's cuDNN": dict([
        attribute("torch.backends.cudnn.enabled", True),
        attribute("torch.backends.cudnn.benchmark", False),
        attribute("torch.backends.cudnn.benchmark_limit", 10),
        attribute("torch.backends.cudnn.deterministic", False),
        attribute("torch.backends.cudnn.depthwise_kernel", "auto"),
    ]),
    "torch's oneDNN": dict([
        attribute("torch.backends.mkldnn.enabled", True),
        attribute("torch.backends.mkldnn.deterministic", False),
    ]),
    "torch's NNPACK": dict([
        functions("torch.backends.nnpack.set_flags", torch._C._get_nnpack_enabled,
                  torch.backends.nnpack.set_flags, True),
    ]),
    "torch's kernels of attention": dict([
        functions("torch.backends.cuda.flash_sdp_enabled", CUDA.flash_sdp_enabled, CUDA.enable_flash_sdp, True),
        functions("torch.backends.cuda.mem_efficient_sdp_enabled", CUDA.mem_efficient_sdp_enabled,
                  CUDA.enable_mem_efficient_sdp, True),
        functions("torch.backends.cuda.math_sdp_enabled", CUDA.math_sdp_enabled, CUDA.enable_math_sdp, True),
        functions("torch.backends.cuda.cudnn_sdp_enabled", CUDA.cudnn_sdp_enabled, CUDA.enable_cudnn_sdp, True),
        functions("torch.backends.mha.get_fastpath_enabled", torch.backends.mha.get_fastpath_enabled,
                  torch.backends.mha.set_fastpath_enabled, True),
    ]),
    "torch's libraries of linear algebra": dict([
        functions("torch.backends.cuda.preferred_linalg_library", _library(CUDA.preferred_linalg_library),
                  CUDA.preferred_linalg_library, "default"),
        functions("torch.backends.cuda.preferred_blas_library", _library(CUDA.preferred_blas_library),
                  CUDA.preferred_blas_library, "cublas"),
    ]),
    "torch's order of einsum": dict([
        attribute("torch.backends.opt_einsum.enabled", torch.backends.opt_einsum.is_available()),
        attribute("torch.backends.opt_einsum.strategy", "auto" if torch.backends.opt_einsum.is_available() else None),
    ]),
    "torch's autocast": dict([
        *autocast("cpu", "bfloat16"),
        *autocast("cuda", "float16"),
        functions("torch.is_autocast_cache_enabled", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled,
                  True),
    ]),
    "the environment variables of linear algebra": dict(map(variable, VARIABLES)),
}  # fmt: skip
"""All switches, in groups under the names that messages give them."""


def _values(part: Switches) -> dict[str, Any]:
    return {name: switch.read() for name, switch in part.items()}


def _turn(part: Switches, values: Mapping[str, Any]) -> None:
    """Set each switch that differs from `values`; None there means unknown, or unset for an environment variable."""
    for name, switch in part.items():
        # Setting costs time and may have effects beside the value, so only what differs is set. None = this torch lacks
        # it.
        if (value := values[name]) != switch.read() and (value is not None or name in VARIABLES):
            switch.turn(value)


def switches() -> dict[str, Any]:
    """The switches that differ from their usual values, under torch's names, as JSON values."""
    return {
        name: value
        for part in SWITCHES.values()
        for name, switch in part.items()
        if (value := switch.read()) is not None and value != switch.usual
    }


def set_switches(values: Mapping[str, Any]) -> None:
    """Set the switches as `switches` found them in another process; all others get their usual values.

    InputError for a name or a value that this version of torch does not have.
    """
    # Unknown names are refused before any switch is set.
    known = {name for part in SWITCHES.values() for name in part}
    for name in values:
        if name not in known:
            raise InputError(f"switch {name!r}: this version knows no such; switches: {', '.join(sorted(known))}")
    # Group by group, in the order in which older names set newer ones.
    for part in SWITCHES.values():
        wanted = {name: values.get(name, switch.usual) for name, switch in part.items()}
        try:
            _turn(part, wanted)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            given = ", ".join(f"{name} = {values[name]!r}" for name in part if name in values)
            raise InputError(f"{given}: torch refuses that ({str(error)[:100]})") from error


def _numpy_stream() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    # Bytes compare at once; arrays would compare number by number into another array.
    return (kind, np.asarray(keys).tobytes(), *rest)


def _set_numpy_stream(state: tuple[Any, ...]) -> None:
    kind, keys, *rest = state
    np.random.set_state((kind, np.frombuffer(keys, dtype=np.uint32), *rest))


def _torch_streams() -> tuple[bytes, ...]:
    return (torch.get_rng_state().numpy().tobytes(),)


def _cuda_streams() -> tuple[bytes, ...] | None:
    # Reading the state would initialise CUDA, which takes seconds and memory.
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    return tuple(state.numpy().tobytes() for state in torch.cuda.get_rng_state_all())


def _other_accelerator() -> str | None:
    """mps or xpu, where this machine has it."""
    there = torch.accelerator.current_accelerator()
    return None if there is None or there.type == "cuda" or not torch.accelerator.device_count() else there.type


def _other_streams() -> tuple[bytes, ...] | None:
    if not (kind := _other_accelerator()):
        return None
    return (torch.get_device_module(kind).get_rng_state().cpu().numpy().tobytes(),)


def _set_other_streams(states: tuple[bytes, ...]) -> None:
    torch.get_device_module(_other_accelerator()).set_rng_state(_tensor(states[0]))


def _cuda_device() -> int | None:
    # To ask would initialise CUDA here too.
    return torch.cuda.current_device() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]


def _set_default_device(device: torch.device) -> None:
    # Told of the CPU by name, torch would look at each of its calls from then on, and take longer for all of them.
    torch.set_default_device(None if device == torch.device("cpu") else device)


def _tensor(state: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  (what os.chdir takes)
    except OSError:
        return None  # the folder was removed


def _autograd() -> tuple[bool, bool, bool]:
    return torch.is_grad_enabled(), torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _set_autograd(state: tuple[bool, bool, bool]) -> None:
    torch.set_grad_enabled(state[0])
    torch.autograd.set_detect_anomaly(*state[1:])


def _raising_warnings() -> list[tuple[Any, ...]]:
    """The filters that turn warnings into exceptions, by which other code would fail; those that hide are harmless."""
    return [filter_ for filter_ in warnings.filters if filter_[0] == "error"]


def _set_raising_warnings(state: Sequence[tuple[Any, ...]]) -> None:
    # Only the filters that raise are put back; all others stay, in their order.
    filters = cast(list[Any], warnings.filters)
    filters[:] = [*state, *(filter_ for filter_ in filters if filter_[0] != "error")]


# Apart from the rest, because a plugin may draw random numbers: see `switches_kept`.
STREAMS: dict[str, Aspect] = {
    "Python's random stream": Aspect(random.getstate, random.setstate),
    "NumPy's random stream": Aspect(_numpy_stream, _set_numpy_stream),
    "torch's random stream": Aspect(_torch_streams, lambda states: torch.set_rng_state(_tensor(states[0]))),
    "CUDA's random streams": Aspect(
        _cuda_streams, lambda states: torch.cuda.set_rng_state_all([_tensor(s) for s in states])
    ),
    "the random stream of mps or xpu": Aspect(_other_streams, _set_other_streams),
}
ASPECTS: dict[str, Aspect] = {
    **STREAMS,
    "CUDA's current device": Aspect(_cuda_device, torch.cuda.set_device),
    "torch's default device": Aspect(torch.get_default_device, _set_default_device),
    "torch's threads": Aspect(torch.get_num_threads, torch.set_num_threads),
    "torch's interop threads": Aspect(torch.get_num_interop_threads, torch.set_num_interop_threads),
    "torch's autograd": Aspect(_autograd, _set_autograd),
    "NumPy's error state": Aspect(np.geterr, lambda state: np.seterr(**state)),
    "which warnings are errors": Aspect(_raising_warnings, _set_raising_warnings),
    "the current folder": Aspect(_folder, os.chdir),
} | {
    # The defaults of the lambdas bind each part now; a closure would see the last one in all of them.
    name: Aspect(lambda part=part: _values(part), lambda values, part=part: _turn(part, values))  # type: ignore[misc]
    for name, part in SWITCHES.items()
}


def _autocast_nesting() -> int:
    """How many autocast contexts are open; torch tells only when it counts one up or down."""
    # torch tells the nesting only when it changes it.
    nesting = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return nesting


def _leave_autocast(nesting: int) -> None:
    """Leave autocast contexts until only `nesting` of them are open.

    In one that was never left, torch would keep casts of weights, and a later training would compute with those old
    weights.
    """
    while _autocast_nesting() > nesting:
        torch.autocast_decrement_nesting()
    # The cache holds weights in half precision, which autocast drops only when the last block is left.
    if not nesting:
        torch.clear_autocast_cache()


@contextmanager
def state_kept() -> Iterator[list[str]]:
    """Put the process's state back after the block; the list then names what was changed."""
    # Everything is read before the block, compared after it, and set only if it differs.
    before = {name: aspect.read() for name, aspect in ASPECTS.items()}
    functions, nesting = functions_now(), _autocast_nesting()
    changed: list[str] = []
    try:
        yield changed
    finally:
        changed += put_back_functions(functions)  # first, because they read and put back all else
        _leave_autocast(nesting)
        for name, aspect in ASPECTS.items():
            if before[name] is not None and aspect.read() != before[name]:
                # An aspect that was missing before, such as CUDA, is left as it is now.
                changed.append(name if _is_put_back(aspect, before[name]) else f"{name}{FOR_GOOD}")


def _is_put_back(aspect: Aspect, state: Any) -> bool:
    try:
        aspect.put_back(state)
    except RuntimeError:  # the number of interop threads can be set once only
        return False
    return True


@contextmanager
def switches_kept(what: str) -> Iterator[None]:
    """Put the state back after the block; PluginError, beginning with `what`, if a switch was changed.

    Such a change would alter the results of others, and the plugin's own with the order of calls. Drawing random
    numbers is allowed, as for initial weights.
    """
    with state_kept() as changed:
        yield
    if turned := [part for part in changed if part.removesuffix(FOR_GOOD) not in STREAMS]:
        raise PluginError(f"{what} {changes_told(turned)}; leave the process as it is")


def changes_told(changed: Sequence[str], when: str = "") -> str:
    """ "changed A, B while it was loaded; that was put back"."""
    what = "what can be was put back" if any(name.endswith(FOR_GOOD) for name in changed) else "that was put back"
    return f"changed {', '.join(changed)}{when}; {what}"

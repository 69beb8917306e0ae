"""The state of the process that a plugin could change for everyone: put back, and named.

Part of it are the switches that move numbers, by the names under which torch documents them. What a run is known by
includes those that are not as usual: see `switches`.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from .errors import InputError, PluginError
from .patches import functions_now, put_back_functions

FOR_GOOD = " (for good: a process sets it once)"
"""Stands behind the name of an aspect that cannot be put back."""
DENORMAL = 1e-310
VARIABLES = (
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "DNNL_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA",
    "KMP_DETERMINISTIC_REDUCTION", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NPY_DISABLE_CPU_FEATURES",
    "NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE",
)  # fmt: skip
"""Environment variables by which libraries of linear algebra choose how they compute."""


CUDA = torch.backends.cuda


class Aspect(NamedTuple):
    """A part of the state."""

    read: Callable[[], Any]
    """Something that == compares; None = not there."""
    put_back: Callable[[Any], object]


class Switch(NamedTuple):
    """A value that moves numbers, as JSON has it."""

    read: Callable[[], Any]
    """None where torch does not say."""
    turn: Callable[[Any], object]
    usual: Any
    """What it is in a new process."""


def attribute(path: str, usual: Any, turn: Callable[[Any], object] | None = None) -> tuple[str, Switch]:
    """The switch that is an attribute of torch; None is read where this version of torch lacks it, and where it was
    set under two names that are now at odds.
    """
    home, _, name = path.removeprefix("torch.").rpartition(".")

    def read() -> Any:
        with suppress(AttributeError, RuntimeError):
            return getattr(attrgetter(home)(torch), name)
        return None

    return path, Switch(read, turn or (lambda value: setattr(attrgetter(home)(torch), name, value)), usual)


def precision(backend: str, operation: str, usual: str) -> tuple[str, Switch]:
    """What float32 is multiplied in: ieee, tf32, bf16, or none = as the backend, or torch as a whole, is set.

    It is set by the function beneath: the attribute of oneDNN as a whole sets that of torch.
    """
    part = {"generic": "", "mkldnn": ".mkldnn"}.get(backend, ".cuda" if operation == "matmul" else ".cudnn")
    path = f"torch.backends{part}{'' if operation == 'all' else f'.{operation}'}.fp32_precision"
    return attribute(path, usual, lambda value: torch._C._set_fp32_precision_setter(backend, operation, value))


def called(path: str, read: Callable[[], Any], turn: Callable[[Any], object], usual: Any) -> tuple[str, Switch]:
    """The switch that is read and set by functions."""

    def value() -> Any:
        with suppress(AttributeError, RuntimeError, TypeError):
            return read()
        return None

    return path, Switch(value, turn, usual)


def autocast(device: str, usual: str) -> Iterator[tuple[str, Switch]]:
    """Whether the operations of a device take a narrower type by themselves, and which."""
    yield called(f"torch.is_autocast_enabled({device!r})", lambda: torch.is_autocast_enabled(device),
                 lambda value: torch.set_autocast_enabled(device, value), False)  # fmt: skip
    yield called(f"torch.get_autocast_dtype({device!r})", lambda: _dtype_name(torch.get_autocast_dtype(device)),
                 lambda value: torch.set_autocast_dtype(device, getattr(torch, value)), usual)  # fmt: skip


def reduction(kind: str) -> tuple[str, Switch]:
    """Whether sums of fp16 or bf16 may be kept as short, and split: two values."""
    name = f"allow_{kind}_reduced_precision_reduction"
    return called(f"torch.backends.cuda.matmul.{name}", lambda: list(getattr(torch._C, f"_get_cublas_{name}")()),
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
    """Whether this thread takes numbers next to 0 for 0, which torch does not say: seen by a product."""
    return bool((torch.tensor([DENORMAL], dtype=torch.float64, device="cpu") * 1.0 == 0).item())


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _library(choice: Callable[..., Any]) -> Callable[[], str]:
    return lambda: str(choice().name).lower()


Switches = dict[str, Switch]
SWITCHES: dict[str, Switches] = {
    "torch's default dtype": dict([
        called("torch.get_default_dtype", lambda: _dtype_name(torch.get_default_dtype()),
               lambda value: torch.set_default_dtype(getattr(torch, value)), "float32"),
    ]),
    # The older names first: what is set by them is then set right by the newer ones.
    "torch's float32 precision": dict([
        called("torch.get_float32_matmul_precision", torch.get_float32_matmul_precision,
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
        called("torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed", CUDA.fp16_bf16_reduction_math_sdp_allowed,
               CUDA.allow_fp16_bf16_reduction_math_sdp, False),
    ]),
    "torch's deterministic algorithms": dict([
        called("torch.get_deterministic_debug_mode", torch.get_deterministic_debug_mode,
               torch.set_deterministic_debug_mode, 0),
        attribute("torch.utils.deterministic.fill_uninitialized_memory", True),
    ]),
    "torch's denormal numbers": dict([
        called("torch.set_flush_denormal", flushes_denormals, torch.set_flush_denormal, False),
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
        called("torch.backends.nnpack.set_flags", torch._C._get_nnpack_enabled,
               torch.backends.nnpack.set_flags, True),
    ]),
    "torch's kernels of attention": dict([
        called("torch.backends.cuda.flash_sdp_enabled", CUDA.flash_sdp_enabled, CUDA.enable_flash_sdp, True),
        called("torch.backends.cuda.mem_efficient_sdp_enabled", CUDA.mem_efficient_sdp_enabled,
               CUDA.enable_mem_efficient_sdp, True),
        called("torch.backends.cuda.math_sdp_enabled", CUDA.math_sdp_enabled, CUDA.enable_math_sdp, True),
        called("torch.backends.cuda.cudnn_sdp_enabled", CUDA.cudnn_sdp_enabled, CUDA.enable_cudnn_sdp, True),
        called("torch.backends.mha.get_fastpath_enabled", torch.backends.mha.get_fastpath_enabled,
               torch.backends.mha.set_fastpath_enabled, True),
    ]),
    "torch's libraries of linear algebra": dict([
        called("torch.backends.cuda.preferred_linalg_library", _library(CUDA.preferred_linalg_library),
               CUDA.preferred_linalg_library, "default"),
        called("torch.backends.cuda.preferred_blas_library", _library(CUDA.preferred_blas_library),
               CUDA.preferred_blas_library, "cublas"),
    ]),
    "torch's order of einsum": dict([
        attribute("torch.backends.opt_einsum.enabled", torch.backends.opt_einsum.is_available()),
        attribute("torch.backends.opt_einsum.strategy", "auto" if torch.backends.opt_einsum.is_available() else None),
    ]),
    "torch's autocast": dict([
        *autocast("cpu", "bfloat16"),
        *autocast("cuda", "float16"),
        called("torch.is_autocast_cache_enabled", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled,
               True),
    ]),
    "the environment variables of linear algebra": dict(map(variable, VARIABLES)),
}  # fmt: skip
"""What moves numbers, in parts as a message names them."""


def _values(part: Switches) -> dict[str, Any]:
    return {name: switch.read() for name, switch in part.items()}


def _turn(part: Switches, values: Mapping[str, Any]) -> None:
    """Set what is not as in `values`; what is None there is not known, or not set in the environment."""
    for name, switch in part.items():
        if (value := values[name]) != switch.read() and (value is not None or name in VARIABLES):
            switch.turn(value)


def switches() -> dict[str, Any]:
    """The switches that are not as usual, by torch's names, as JSON values."""
    return {
        name: value
        for part in SWITCHES.values()
        for name, switch in part.items()
        if (value := switch.read()) is not None and value != switch.usual
    }


def set_switches(values: Mapping[str, Any]) -> None:
    """Set the switches as another process found them by `switches`: those that are not named are as usual.

    InputError for a name or a value that this torch does not have.
    """
    known = {name for part in SWITCHES.values() for name in part}
    for name in values:
        if name not in known:
            raise InputError(f"switch {name!r}: this version knows no such; switches: {', '.join(sorted(known))}")
    for part in SWITCHES.values():
        wanted = {name: values.get(name, switch.usual) for name, switch in part.items()}
        try:
            _turn(part, wanted)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            given = ", ".join(f"{name} = {values[name]!r}" for name in part if name in values)
            raise InputError(f"{given}: torch refuses that ({str(error)[:100]})") from error


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


def _cuda_device() -> int | None:
    return torch.cuda.current_device() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]


def _tensor(state: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  (what os.chdir takes)
    except OSError:
        return None  # it was removed


def _autograd() -> tuple[bool, bool, bool]:
    return torch.is_grad_enabled(), torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _set_autograd(state: tuple[bool, bool, bool]) -> None:
    torch.set_grad_enabled(state[0])
    torch.autograd.set_detect_anomaly(*state[1:])


def _raising_warnings() -> list[tuple[Any, ...]]:
    """The filters that turn a warning into an exception: others would fail by it. Those that hide one harm nobody."""
    return [filter_ for filter_ in warnings.filters if filter_[0] == "error"]


def _set_raising_warnings(state: Sequence[tuple[Any, ...]]) -> None:
    filters = cast(list[Any], warnings.filters)
    filters[:] = [*state, *(filter_ for filter_ in filters if filter_[0] != "error")]


STREAMS: dict[str, Aspect] = {
    "Python's random stream": Aspect(random.getstate, random.setstate),
    "NumPy's random stream": Aspect(_numpy_stream, _set_numpy_stream),
    "torch's random stream": Aspect(_torch_streams, lambda states: torch.set_rng_state(_tensor(states[0]))),
    "CUDA's random streams": Aspect(
        _cuda_streams, lambda states: torch.cuda.set_rng_state_all([_tensor(s) for s in states])
    ),
}
ASPECTS: dict[str, Aspect] = {
    **STREAMS,
    "CUDA's current device": Aspect(_cuda_device, torch.cuda.set_device),
    "torch's default device": Aspect(torch.get_default_device, torch.set_default_device),
    "torch's threads": Aspect(torch.get_num_threads, torch.set_num_threads),
    "torch's interop threads": Aspect(torch.get_num_interop_threads, torch.set_num_interop_threads),
    "torch's autograd": Aspect(_autograd, _set_autograd),
    "NumPy's error state": Aspect(np.geterr, lambda state: np.seterr(**state)),
    "which warnings are errors": Aspect(_raising_warnings, _set_raising_warnings),
    "the current folder": Aspect(_folder, os.chdir),
} | {
    name: Aspect(lambda part=part: _values(part), lambda values, part=part: _turn(part, values))  # type: ignore[misc]
    for name, part in SWITCHES.items()
}


def _autocast_nesting() -> int:
    """How many autocast contexts are entered, which torch only says as it counts."""
    nesting = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return nesting


def _leave_autocast(nesting: int) -> None:
    """Count back to so many contexts. Within one that was never left, torch would keep casts of weights, and a training
    that comes later would compute with those and not with the weights that it changes."""
    while _autocast_nesting() > nesting:
        torch.autocast_decrement_nesting()
    if not nesting:
        torch.clear_autocast_cache()


@contextmanager
def state_kept() -> Iterator[list[str]]:
    """Put the process's state back as it was; the list, filled at the end, names what had been changed."""
    before = {name: aspect.read() for name, aspect in ASPECTS.items()}
    functions, nesting = functions_now(), _autocast_nesting()
    changed: list[str] = []
    try:
        yield changed
    finally:
        changed += put_back_functions(functions)  # first, because all others are read and put back by them
        _leave_autocast(nesting)
        for name, aspect in ASPECTS.items():
            if before[name] is not None and aspect.read() != before[name]:
                changed.append(name if _is_put_back(aspect, before[name]) else f"{name}{FOR_GOOD}")


def _is_put_back(aspect: Aspect, state: Any) -> bool:
    try:
        aspect.put_back(state)
    except RuntimeError:  # interop threads
        return False
    return True


@contextmanager
def switches_kept(what: str) -> Iterator[None]:
    """Put the state back; PluginError, which begins with `what`, where a switch was turned: numbers of others would
    move, and its own with the order in which it is asked. Random numbers may be drawn, as for weights."""
    with state_kept() as changed:
        yield
    if turned := [part for part in changed if part.removesuffix(FOR_GOOD) not in STREAMS]:
        raise PluginError(f"{what} {changes_told(turned)}; leave the process as it is")


def changes_told(changed: Sequence[str], when: str = "") -> str:
    """ "changed A, B while it was loaded; that was put back"."""
    what = "what can be was put back" if any(name.endswith(FOR_GOOD) for name in changed) else "that was put back"
    return f"changed {', '.join(changed)}{when}; {what}"

"""Checks of the arguments that describe samples: each returns what was given in one form, or says what is expected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from .devices import EXPECTED, KINDS, count_of, devices_here, has_float64
from .errors import InputError, quote
from .model import Model, condition_from, describe
from .options import is_number
from .predictor import WIDE_STATE_BELOW, Interval
from .sampler import Sampler, needs_unconditional

MOST_GUIDANCE = 1e6
"""Largest guidance: far beyond any useful one, and larger ones overflow in float32."""
DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}


def as_given(value: object) -> str:
    """A wrong argument in a few words; a class is called a class."""
    return f"is the class {value.__name__}, not an object of it" if isinstance(value, type) else quote(value)


def check_x_init(x: object) -> Tensor:
    """The state x if it is a tensor of at least one sample with finite floating numbers, else InputError."""
    if not isinstance(x, Tensor):
        raise InputError(f"x_init is a {type(x).__name__}: expected a tensor; of an array, torch.from_numpy(x_init)")
    # Layout and device come before the numbers: a sparse tensor, or one on "meta", has none to look at.
    if x.layout != torch.strided or x.device.type == "meta":
        raise InputError(f"x_init {describe(x)}: expected a dense tensor with numbers in it")
    if not x.ndim or not len(x) or x.dtype not in DTYPES.values():
        raise InputError(
            f"x_init {describe(x)}: expected (n, ...) with n from 1, of dtype {', '.join(DTYPES)}; of whole numbers, "
            "x_init.float()"
        )
    if not bool(x.isfinite().all()):
        raise InputError(f"x_init {describe(x)}: holds NaN or infinity; expected finite numbers")
    return x


def check_grid(grid: Any) -> str | tuple[float, ...] | None:
    """A grid by name, or its levels as a tuple; the schedule checks their values."""
    if grid is None or (isinstance(grid, str) and grid.strip()):
        return grid
    try:
        levels = tuple(float(t) for t in grid)
    except Exception as error:  # a stranger's object may raise anything
        raise InputError(f"grid {as_given(grid)}: expected a name, or a descending list of levels") from error
    # A set has no order, a dict would lose its values, and bytes are whole numbers only by accident.
    if not levels or isinstance(grid, set | frozenset | dict | bytes):
        raise InputError(f"grid {quote(grid)}: expected at least one level, in a list")
    return levels


def check_guidance(guidance: object) -> float:
    """The guidance if it is a number above 0; the error for 0 explains what the user may have meant."""
    # The paper's w is this guidance less 1, and some tools turn guidance off at 0: what 0 means elsewhere is 1 here.
    if is_number(guidance) and guidance == 0:
        raise InputError(
            "guidance 0: expected a number above 0; in other tools 0 is no guidance, which is 1 here; for samples "
            "without the prompt give an empty prompt"
        )
    if not is_number(guidance) or not 0 < guidance <= MOST_GUIDANCE:
        raise InputError(f"guidance {quote(guidance)}: expected a number above 0, up to {MOST_GUIDANCE:g}; 1 is none")
    return float(guidance)


def check_guidance_calls(calls: object) -> int:
    """The number of calls if it is 1 or 2, else InputError."""
    # True is an int in Python and equal to 1.
    if type(calls) is not int or calls not in (1, 2):
        raise InputError(
            f"guidance_calls {quote(calls)}: expected 1, the rows with the prompt and without together, or 2, in turn"
        )
    return calls


def check_unconditional(sampler: Sampler, model: Model, name: str) -> bool:
    """Whether the sampler needs the answer without the prompt; InputError, with its name, if the model has none."""
    needs = needs_unconditional(sampler)
    if needs and model.guide:
        raise InputError(
            f"sampler {name}: needs the answer without the prompt, and model {model.name!r}, which is told its "
            "guidance, gives none; use another sampler or another model"
        )
    return needs


def check_interval(interval: object) -> Interval | None:
    """The interval as two floats, or None; InputError unless 0 <= low < high, both finite."""
    if interval is None:
        return None
    pair = tuple(interval) if isinstance(interval, tuple | list) else ()
    if len(pair) != 2 or not all(map(is_number, pair)) or not 0 <= pair[0] < pair[1] < math.inf:  # noqa: PLR2004
        raise InputError(
            f"guidance_interval {quote(interval)}: expected low and high, numbers of sigma / alpha with "
            "0 <= low < high, as in 0.2,5"
        )
    return float(pair[0]), float(pair[1])


def check_guided_interval(model: Model, interval: object, guidance: float) -> Interval | None:
    """`check_interval`; InputError too where the interval has no effect."""
    checked = check_interval(interval)
    if checked and model.guide:
        raise InputError(
            f"guidance_interval {quote(interval)}: model {model.name!r} is told its guidance, and is asked once at "
            "every level; leave it out"
        )
    if checked and not model.mixes(guidance):
        raise InputError(f"guidance_interval {quote(interval)}: has no effect at guidance 1; give another guidance")
    return checked


def check_prompts(
    model: Model, prompts: Sequence[str] | None, negative: str | None, guidance: float, *, unconditional: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The prompts to use, and what a user should know of them, as sentences.

    InputError if prompts, negative prompt or guidance would have no effect. `unconditional` says that the sampler asks
    without the prompt at any guidance.
    """
    given = None if prompts is None else check_texts("prompts", prompts)
    if not (negative is None or isinstance(negative, str)):
        raise InputError(f"negative {quote(negative)}: expected a text")
    check_guidance(guidance)
    # To drop a prompt silently would put it above samples that do not follow it.
    if model.encode is None:
        for name, value, is_given in (
            ("prompts", prompts, given is not None),
            ("negative", negative, negative is not None),
            ("guidance", guidance, guidance != 1),
        ):
            if is_given:
                raise InputError(f"{name} {quote(value)}: model {model.name!r} is unconditional; leave {name} out")
        return (), ()
    if negative is not None and model.guide:
        raise InputError(
            f"negative {negative!r}: model {model.name!r} is told its guidance and has no place for it; leave it out"
        )
    # At guidance 1 the answer without the prompt has weight 0.
    if negative is not None and guidance == 1 and not unconditional:
        raise InputError(f"negative {negative!r}: has no effect at guidance 1; give a guidance above 1")
    texts = tuple(model.prompts) if given is None else given
    if not texts and given is None:
        raise InputError(f"prompts: not given, and model {model.name!r} has none of its own; give at least one text")
    if not texts:
        raise InputError("prompts: the list is empty; expected at least one text")
    # Prompts and negative prompt are tried now, so that no run fails at its last block.
    asked = list(texts)
    if model.mixes(guidance, unconditional=unconditional) and (negative is not None or model.unconditional is None):
        asked.append(negative or "")
    # Encoding may take long, so a model may offer a cheaper check.
    if model.check_texts:
        return texts, tuple(model.check_texts(asked) or ())
    condition_from(model, model.encode, asked)  # refuses what the model cannot read
    return texts, ()


def check_texts(name: str, texts: Any) -> tuple[str, ...]:
    """A sequence of texts as a tuple; InputError for anything else, and for sets, which have no order."""
    listed: tuple[object, ...] | None = None
    if not isinstance(texts, str | bytes | set | frozenset | dict):
        with suppress(Exception):  # a stranger's object may raise anything
            listed = tuple(texts)
    if listed is None or not all(isinstance(text, str) for text in listed):
        raise InputError(f"{name} {as_given(texts)}: expected a list of texts")
    return tuple(map(str, listed))


def check_rescale(model: Model, rescale: object, guidance: float) -> None:
    """InputError unless it is a number from 0 to 1, and has an effect if it is not 0."""
    if not is_number(rescale) or not 0 <= rescale <= 1:
        raise InputError(f"guidance_rescale {quote(rescale)}: expected a number from 0 to 1; 0 is none")
    if rescale and model.guide:
        raise InputError(
            f"guidance_rescale {rescale!r}: model {model.name!r} is told its guidance, and nothing is mixed that could "
            "be rescaled; leave it out"
        )
    if rescale and guidance == 1:
        raise InputError(f"guidance_rescale {rescale!r}: has no effect at guidance 1; give another guidance")


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, the CPU by default; a missing device is an error and never replaced by another."""
    try:
        found = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"device {quote(device)}: expected {EXPECTED}") from error
    if found.type not in KINDS:
        raise InputError(f"device {str(device)!r}: expected {EXPECTED}")
    # "cuda" without a number is the current device, which exists if any of its kind does.
    if found.type != "cpu" and (found.index or 0) >= count_of(found.type):
        raise InputError(f"device {str(device)!r}: not on this machine; expected {', '.join(devices_here())}")
    return found


def check_float64(device: torch.device, dtype: torch.dtype, *, wide: bool = False) -> None:
    """InputError where float64 is needed on a device that lacks it: by the network, or by a state near alpha = 0."""
    if not (wide or dtype == torch.float64) or has_float64(device):
        return
    if dtype == torch.float64:
        raise InputError(f"dtype float64: device {str(device)!r} has none; use float32, or the device cpu")
    raise InputError(
        f"device {str(device)!r}: has no float64, which the state needs where alpha is below {WIDE_STATE_BELOW:g}; use "
        "a grid that starts at less noise, or the device cpu"
    )


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """A floating dtype, given by name or as a dtype; float32 by default."""
    if dtype is None:
        return torch.float32
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, str | torch.dtype) else ""
    if name not in DTYPES:
        raise InputError(f"dtype {quote(name or dtype)}: expected one of {', '.join(DTYPES)}")
    return DTYPES[name]

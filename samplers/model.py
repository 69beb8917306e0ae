"""Model: a network with everything that a run needs to know about it."""

from __future__ import annotations

import copy
import functools
import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

from .errors import InputError, SamplerbenchError, in_line, quote
from .extractor import Extractor
from .image_data import IMAGE_CHANNELS, IMAGE_DIMS, ImageData
from .options import is_number
from .predictor import (
    CallLog,
    Clip,
    DynamicThreshold,
    Guided,
    GuidedWithin,
    Hints,
    Interval,
    Network,
    NetworkFault,
    NetworkPredictor,
    Predictor,
    Predicts,
    Promptless,
    Timesteps,
    bound_x0,
    check_batch_size,
    check_bounds,
    check_names,
    is_out_of_memory,
    memory_asked,
)
from .schedule import VP, Schedule

NetworkLoader = Callable[[torch.device, torch.dtype], Network]
"""(device, dtype) -> the network on that device and in that precision."""
Encode = Callable[[Sequence[str]], Tensor]
"""n prompts -> their conditions, a tensor of n rows."""


@runtime_checkable
class EncodesAnywhere(Protocol):
    """An `encode` that computes where the network does, and can do so ahead of it."""

    def __call__(self, texts: Sequence[str], /) -> Tensor:
        """n prompts -> their conditions, a tensor of n rows."""
        ...

    def on(self, device: torch.device, dtype: torch.dtype) -> EncodesAnywhere:
        """The same, computed on a device and, unless that is the CPU, in a precision."""
        ...

    def ready(self, texts: Sequence[str]) -> None:
        """Do what makes room for the network, which is loaded next: these are all texts that will be asked for."""
        ...


Range = tuple[float, float]
"""The values of black and white, (low, high)."""
UNIT_RANGE: Range = (-1.0, 1.0)
MOST_NUMBERS = 2**31
"""Most numbers in one state: more than any machine has room for."""
GREY_LEVELS = 255
NAMELESS = "network"
"""The name of a network whose author gave it no name."""
GREY_LEVELS_FROM = 16
"""States without negative values and with some above this are grey levels; a sampler that diverged has both signs."""


@dataclass(frozen=True)
class Model:
    """A network with its schedule, its conditions, and the way from states to images and to rows for metrics."""

    name: str
    """Shown in tables and used in the names of run folders."""
    network: NetworkLoader
    """(device, dtype) -> the network on that device. It gets x in that dtype, but t in that of the state, float32 or
    wider (int64 with timesteps "integer"), so that a network of low precision gets exact times."""
    schedule: Schedule
    """The noise schedule that the network was trained with."""
    shape: tuple[int, ...]
    """The shape of one state, without the batch."""
    predicts: Predicts = "eps"
    """What the network predicts."""
    timesteps: Timesteps = "fractional"
    """Which times the network knows: any, or only whole timesteps."""
    clip: Clip | None = None
    """Bounds of x0, (low, high) or `dynamic_threshold()`; None = no bounds."""
    value_range: Range = UNIT_RANGE
    """The values of black and white in a clean state that is an image itself; `decode` ignores them."""
    batch_size: int = 64
    """Rows of one network call, unless the user says otherwise."""
    encode: Encode | None = None
    """n prompts -> condition (n, ...); None = unconditional."""
    unconditional: Encode | None = None
    """Like `encode`, for no prompt: it gets n texts and only counts them. None = `encode` of the empty text."""
    check_texts: Callable[[Sequence[str]], Sequence[str] | None] | None = None
    """Raises InputError for texts that the model cannot read, without the cost of `encode`; None = `encode` does. It
    returns what a user should know of the others, as sentences."""
    guide: Callable[[Tensor, float], Tensor] | None = None
    """(condition, guidance) -> condition, for distilled guidance: the network takes the guidance as an input and is
    asked once. None = classifier-free guidance, which mixes the answers with and without the prompt."""
    prompts: tuple[str, ...] = ()
    """The model's own balanced captions: sample i takes prompts[i mod len]."""
    decode: Callable[[Tensor], Tensor] | None = None
    """Clean states -> uint8 images; None = `to_images` makes them."""
    image_shape: tuple[int, ...] | None = None
    """(C, H, W) of the images that `decode` makes, or (F, C, H, W) of F frames each."""
    extractors: Mapping[str, Extractor] = field(default_factory=dict)
    """What metrics may read, by role: "features" for FID, "clip" for the CLIP score."""
    fingerprint: str = ""
    """Hash of the weights, which is part of a result's key; '' = a run of this model is not resumed, unless its network
    is a torch module."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What a user must know before a run, as sentences, e.g. that the model is distilled to a few steps."""

    def __post_init__(self) -> None:
        """Check what can be checked without asking the network; the shape may be any sequence of whole numbers."""
        # A wrong argument is named here, at construction, and not in the middle of a run.
        for what, value in (("name", self.name), ("fingerprint", self.fingerprint)):
            if not isinstance(value, str):
                raise InputError(f"{what} {value!r}: expected a text")
        if not isinstance(self.schedule, Schedule):
            raise InputError(f"schedule {quote(self.schedule)}: expected a Schedule, as sb.vp_linear() returns")
        # The dataclass is frozen; this is how it can convert its own field.
        object.__setattr__(self, "shape", as_shape(self.shape))
        if self.image_shape is not None and not is_shown_shape(as_shape(self.image_shape, "image_shape")):
            raise InputError(f"image_shape {quote(self.image_shape)}: expected (1 or 3, H, W), or (F, 1 or 3, H, W)")
        check_names(self.predicts, self.timesteps)
        check_batch_size(self.batch_size)
        check_bounds(self.clip)
        check_value_range(self.value_range)
        if not isinstance(self.prompts, tuple | list) or not all(isinstance(text, str) for text in self.prompts):
            raise InputError(f"prompts {quote(self.prompts)}: expected a tuple of texts")
        if not isinstance(self.extractors, Mapping):
            raise InputError(f"extractors {quote(self.extractors)}: expected a dict of extractors by name")
        for what in ("network", "encode", "unconditional", "check_texts", "guide", "decode"):
            value = getattr(self, what)
            if not (callable(value) or (value is None and what != "network")):
                raise InputError(f"{what} {quote(value)}: expected a function")

    @property
    def shown_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the images; None where the model makes none, or frames."""
        shape = (self.image_shape or ()) if self.decode else self.shape
        return shape if is_image_shape(shape) else None

    def mixes(self, guidance: float, *, unconditional: bool = False) -> bool:
        """Whether guidance of this strength asks the network twice: with the prompt and without.

        It does so at any strength where a sampler needs the `unconditional` part.
        """
        return self.encode is not None and self.guide is None and (guidance != 1 or unconditional)

    def images(self, x: Tensor) -> Tensor | None:
        """Clean states (n, *shape) -> uint8 (n, C, H, W), or (n, F, C, H, W); None where the model makes no images.

        Raises InputError where `decode` returns anything else, and SamplerbenchError where `decode` raises.
        """
        # The states of a pixel model are images already; latent states need the decoder.
        if self.decode is None:
            return to_images(x, self.value_range)
        try:
            made = self.decode(x)
        except SamplerbenchError:
            raise
        except Exception as error:  # a stranger's function may raise anything
            if is_out_of_memory(error):
                raise NetworkFault(
                    f"model {self.name!r}: no memory to make an image{memory_asked(error)}; give a smaller --size, or "
                    "--dtype float16, in which the network leaves more room"
                ) from error
            raise SamplerbenchError(f"model {self.name!r}: decode: {in_line(error)}") from error
        # The user's function is checked here, where a wrong image can still be traced to it.
        sides = self.image_shape or (made.shape[1:] if isinstance(made, Tensor) else ())
        if not (
            isinstance(made, Tensor)
            and made.dtype == torch.uint8
            and tuple(made.shape) == (len(x), *sides)
            and is_shown_shape(tuple(sides), frames=self.image_shape is not None)
        ):
            expected = ", ".join(map(str, (len(x), *(self.image_shape or ("1 or 3", "H", "W")))))
            raise InputError(f"model {self.name!r}: decode returned {describe(made)}; expected uint8 ({expected})")
        return made


MOST_PIXELS_ASIDE = 16_384


def parse_size(size: object) -> tuple[int, int]:
    """512, "512", "512x768" or (512, 768) -> (width, height)."""
    # One side stands for both: 512 is 512 x 512.
    sides = size.lower().split("x") if isinstance(size, str) else size if isinstance(size, tuple | list) else [size]
    # isdigit by itself accepts digits of other scripts, which are more likely a mistake.
    whole = [int(str(side)) for side in sides if str(side).isascii() and str(side).isdigit()]
    if (
        len(whole) != len(sides)
        or len(whole) not in (1, 2)
        or not all(1 <= side <= MOST_PIXELS_ASIDE for side in whole)
    ):
        raise InputError(
            f"size {size!r}: expected width x height, each from 1 to {MOST_PIXELS_ASIDE} pixels, as in 512 or 512x768"
        )
    return whole[0], whole[-1]


def is_image_shape(shape: tuple[int, ...]) -> TypeGuard[tuple[int, int, int]]:
    """Whether states of this shape are images themselves: (1 or 3, H, W)."""
    return len(shape) == IMAGE_DIMS and shape[0] in IMAGE_CHANNELS


def is_shown_shape(shape: tuple[int, ...], *, frames: bool = True) -> bool:
    """Whether it is the shape of an image, or with `frames` of several."""
    return is_image_shape(shape) or (frames and len(shape) == IMAGE_DIMS + 1 and is_image_shape(shape[1:]))


def to_images(x: Tensor, value_range: Range = UNIT_RANGE) -> Tensor | None:
    """States from black to white -> uint8, rounded to the nearest grey level; None unless the shape is (n, 1|3, H, W).

    Values beyond the range are clamped to it. InputError for states that were never meant to be in the range.
    """
    if not is_image_shape(tuple(x.shape[1:])):
        return None
    # Grey levels without the right `value_range` would all become white, and only a large FID would show it.
    low, high = value_range
    if not x.is_floating_point() or (high <= GREY_LEVELS_FROM and _are_grey_levels(x)):
        seen = f"{x.dtype} from {float(x.min()):g} to {float(x.max()):g}"
        raise InputError(
            f"states of {seen}: expected floating numbers from {low:g} to {high:g}; a model of grey levels says "
            "value_range=(0, 255)"
        )
    # Rounded, because truncation would darken an image by half a grey level.
    return ((x.clamp(low, high) - low) * (GREY_LEVELS / (high - low))).round().to(torch.uint8)


def _are_grey_levels(x: Tensor) -> bool:
    return bool(x.numel()) and bool(x.min() >= 0) and bool(x.max() > GREY_LEVELS_FROM)


def as_shape(shape: Any, name: str = "shape") -> tuple[int, ...]:
    """A shape without the batch, as a tuple; InputError, naming the field, for an invalid one."""
    try:
        # operator.index takes NumPy's whole numbers but no float; a boolean would pass as 0 or 1.
        given = tuple(shape)
        sides = () if bool in map(type, given) else tuple(map(operator.index, given))
    except TypeError:
        sides = ()
    if not sides or min(sides) < 1 or math.prod(sides) > MOST_NUMBERS:
        raise InputError(
            f"{name} {quote(shape)}: expected whole numbers from 1, without the batch, as in (3, 32, 32); "
            f"their product at most {MOST_NUMBERS:,}"
        )
    return sides


def check_value_range(value: object) -> None:
    """InputError unless the value is a pair of finite numbers, black below white."""
    # Infinity is a number too, and is refused below: no image has infinitely many grey levels.
    if isinstance(value, tuple | list) and len(value) == 2 and all(map(is_number, value)):  # noqa: PLR2004
        black, white = value
        if -math.inf < black < white < math.inf:
            return
    raise InputError(f"value_range {quote(value)}: expected (black, white) with black < white, as in (-1, 1)")


def describe(value: object) -> str:
    """What a function returned, in a few words: dtype and shape of a tensor, the type of anything else."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"


def predictor_for(  # noqa: PLR0913  (what a prediction depends on)
    model: Model,
    *,
    prompts: Sequence[str],
    negative: str | None,
    guidance: float,
    guidance_rescale: float = 0.0,
    guidance_calls: int = 1,
    guidance_interval: Interval | None = None,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    log: CallLog | None = None,
    unconditional: bool = False,
    notes: dict[object, dict[str, Any]] | None = None,
) -> Predictor:
    """The model's network as a predictor for these prompts, with guidance and bounds of x0; `log` notes its calls.

    With `unconditional`, each prediction has its part without the prompt, at guidance 1 too. `notes` hold what a
    network that takes hints writes down during the run.
    """
    # From the inside out: the network, then guidance, then the bounds of x0. Samplers see one predictor.
    condition = without = None
    if model.encode is not None:
        encode = encode_on(model.encode, device, dtype)
        condition = condition_from(model, encode, prompts)
        # Distilled guidance is part of the condition, so the network is asked once.
        if model.guide:
            condition = model.guide(condition, guidance)
        if model.mixes(guidance, unconditional=unconditional):
            # A negative prompt takes the place of the empty one in classifier-free guidance.
            against = encode if negative is not None else model.unconditional or encode
            without = condition_from(model, against, [negative or ""] * len(prompts))
    log = log or CallLog()
    # The network is watched by the log, which then knows of calls that went around the predictor.
    network = NetworkPredictor(
        log.watch(model.network(device, dtype)), model.predicts, model.timesteps, batch_size,
        _on_device(condition, device, dtype), dtype, _on_device(without, device, dtype), guidance_calls, log,
        {} if notes is None else notes, model.name,
    )  # fmt: skip
    if without is None:
        return bound_x0(Promptless(network) if unconditional else network, model.clip)
    guided: Predictor = Guided(network.both, guidance, guidance_rescale, network.both_of_many)
    if guidance_interval:
        # At guidance 1 the answer is that with the prompt, and has its part without.
        outside = Guided(network.both, 1, both_of_many=network.both_of_many) if unconditional else network
        guided = GuidedWithin(guided, outside, guidance_interval)
    return bound_x0(guided, model.clip)


def encode_on(encode: Encode, device: torch.device, dtype: torch.dtype) -> Encode:
    """A model's `encode`, computed on a device if it can be; others compute where they like."""
    return encode.on(device, dtype) if isinstance(encode, EncodesAnywhere) else encode


def condition_from(model: Model, encode: Encode, texts: Sequence[str]) -> Tensor:
    """A row for each text; InputError where the model's function raises or returns anything else."""
    try:
        made = encode(texts)
    except SamplerbenchError:
        raise
    except Exception as error:  # a stranger's function may raise anything
        raise InputError(f"prompts: model {model.name!r} cannot encode them: {in_line(error)}") from error
    if not isinstance(made, Tensor) or not made.ndim or len(made) != len(texts):
        raise InputError(
            f"prompts: model {model.name!r} encodes {len(texts)} of them as {describe(made)}; expected a tensor with "
            "a row for each"
        )
    return made


def _on_device(condition: Tensor | None, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    """A condition on the network's device and in its dtype; whole numbers, such as class numbers, stay whole."""
    if condition is None:
        return None
    return condition.to(device, dtype if condition.is_floating_point() else condition.dtype)


def wrap_network(  # noqa: PLR0913  (what a network needs to be a model)
    network: Network,
    schedule: Schedule,
    shape: Sequence[int],
    predicts: Predicts = "eps",
    clip: Clip | None = None,
    timesteps: Timesteps = "fractional",
    *,
    encode: Encode | None = None,
    batch_size: int = 64,
    name: str = NAMELESS,
    value_range: Range | None = None,
    fingerprint: str = "",
) -> Model:
    """A model from any callable.

    `network(x, t)`, or `network(x, t, condition)` if `encode` (prompts -> condition (n, ...)) is given: x is the
    state (B, *shape), unscaled; t (B,) of x's dtype (int64 with timesteps="integer"): the training timestep for VP
    (0 ... T-1), sigma for EDM, the flow time for flow. The answer has x's shape and is what `predicts` says:
    eps | x0 | v = alpha eps - sigma x0 | flow = eps - x0. `clip=(-1, 1)` keeps x0 within these bounds and derives eps
    from it; `clip=dynamic_threshold()` does so with bounds that follow each sample.

    With guidance a call holds the rows with the prompt and behind them those without it, B = 2 `batch_size`; a sampler
    that asks about K states at once makes that K times as many. A network with a parameter `hints`, as
    `network(x, t, hints)` has, is given `Hints`: what the sampler says, the samples that the call is about, and a dict
    of its own for these, which is empty at the start of a run.

    `value_range` holds the values of black and white in images: by default the bounds in `clip`, or (-1, 1) without.

    `fingerprint` is any text that changes when the network does, such as the hash of its weights: a run is resumed only
    if the network can be recognised. A torch module is recognised by its weights, its code and a sample; see
    docs/models.md.

    The network must leave x, t and condition as they are. A torch module is copied where the run needs it in another
    dtype, on another device or out of training mode. In bfloat16 times have eight binary digits: the network is told
    1000 for timestep 999, and a warning says so.
    Raises InputError for invalid arguments.
    """
    # A class is callable too: it would be built with x and t as its arguments, and only later fail.
    if not callable(network) or isinstance(network, type):
        given = f"the class {network.__name__}" if isinstance(network, type) else f"a {type(network).__name__}"
        raise InputError(f"network: got {given}; expected a callable network(x, t) or a torch module")
    check_bounds(clip)
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"name {quote(name)}: expected a text")

    # VP times are large, so bfloat16 rounds 999 to 1000; whole timesteps are int64 and are not rounded.
    rounds = timesteps == "fractional" and isinstance(schedule, VP)
    return Model(
        name=name, network=WrappedNetwork(network, schedule.first.t if rounds else None), schedule=schedule,
        shape=as_shape(shape), predicts=predicts, clip=clip, timesteps=timesteps, encode=encode,
        batch_size=batch_size, value_range=range_of(clip) if value_range is None else value_range,
        fingerprint=fingerprint,
    )  # fmt: skip


@dataclass(frozen=True)
class WrappedNetwork:
    """The loader of a network that exists already."""

    network: Network
    first: float | None = None
    """The noisiest timestep, if timesteps are fractional: bfloat16 would round it."""

    def __call__(self, device: torch.device, dtype: torch.dtype) -> Network:
        """The network; a copy of a torch module that is on another device or has another dtype."""
        if dtype == torch.bfloat16 and self.first is not None:
            told = float(torch.tensor(self.first, dtype=dtype))
            warnings.warn(
                f"network: in bfloat16 it is told timestep {told:g} for {self.first:g}; "
                'use float16 or timesteps="integer"',
                stacklevel=2,
            )
        network = self.network
        return cast_times(module_on(network, device, dtype) if isinstance(network, nn.Module) else network)


def range_of(clip: Clip | None) -> Range:
    """The range of images that the bounds of x0 imply."""
    if isinstance(clip, DynamicThreshold):
        return -clip.bound, clip.bound
    # Infinite bounds say nothing of black and white.
    return (clip[0], clip[1]) if clip and all(map(math.isfinite, clip)) else UNIT_RANGE


def cast_times(network: Network) -> Network:
    """The network with fractional times cast to the dtype of x, as most networks expect."""

    def ask(x: Tensor, t: Tensor, *condition: Tensor, **hints: Hints) -> Tensor:
        is_other = t.dtype != x.dtype and t.is_floating_point()
        return network(x, t.to(x.dtype) if is_other else t, *condition, **hints)

    # The signature stays that of the network, which may take hints.
    return functools.update_wrapper(ask, network, assigned=(), updated=())


def module_on(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The module itself if it is on the device, in the dtype and in evaluation mode; else a copy that is."""
    # The user's module is never changed: a copy moves, and leaves training mode.
    # The first parameter stands for all: a network is on one device and in one dtype.
    first = next(module.parameters(), None)
    there = first is None or (first.device == device and first.dtype == dtype)
    if there and not module.training:
        return module
    return copy.deepcopy(module).to(device=device, dtype=dtype).eval().requires_grad_(False)


@dataclass(frozen=True)
class Progress:
    """What a training loop reports after each step."""

    phase: str
    """What is being trained or prepared, e.g. "images"."""
    step: int
    """How many steps are done."""
    steps: int
    """How many steps the whole phase has."""
    loss: float
    """Mean over the last steps, exponentially weighted."""
    seconds: float
    """Seconds since the loop started or resumed."""
    resumed_at: int
    """The step at which this process began, 0 for a new training."""

    @property
    def eta(self) -> float:
        """How many seconds are left at the present speed."""
        # At the speed of this process, which spent no time on the steps before it began.
        return (self.steps - self.step) * self.seconds / max(self.step - self.resumed_at, 1)


@runtime_checkable
class TrainableModel(Protocol):
    """What `samplerbench train NAME` asks of a registered model beyond loading it."""

    def __call__(self, argument: str) -> Model:
        """Load the model; `argument` is what follows the colon in "name:argument", or ''."""
        ...

    def train(self, *, data: Path | None, output: Path, seed: int, report: Callable[[Progress], None]) -> None:
        """Train it on `data` (None = wherever it finds its data) and write its files to `output`, resuming there."""
        ...


@runtime_checkable
class TrainableOnImages(Protocol):
    """What `samplerbench train NAME --data DATA` asks of a registered model that learns any images."""

    def __call__(self, argument: str) -> Model:
        """Load the model; `argument` is what follows the colon in "name:argument", or ''."""
        ...

    def train_on(
        self, images: ImageData, *, output: Path, seed: int, report: Callable[[Progress], None], **settings: Any
    ) -> Sequence[str]:
        """Train it on `images` and write its files to `output`, resuming there; returns what the user should know.

        Its other keyword-only parameters are the settings of its training, which the command line gives by name.
        """
        ...


@runtime_checkable
class ModelWithData(Protocol):
    """What `samplerbench doctor` asks of a registered model that is trained on a data set."""

    def data_folder(self) -> Path | None:
        """Where the data set is on this machine; None if it is missing. Nothing is fetched to find out."""
        ...

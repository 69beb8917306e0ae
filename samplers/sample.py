"""sample(): draw samples from a model with a sampler. What the harness runs is this, block by block."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError
from .grid import Levels
from .level import Level
from .model import Model, predictor_for
from .mosaic import mosaic, png
from .noise import BLOCK, Noise, NoiseFunction, check_seed
from .predictor import Counted, clock
from .registry import Registry, default_registry
from .sampler import MAX_STEPS, Run, Sampler, finite_or_fault, integrate

MOST_SHOWN = 64
"""Images of a sample that a notebook shows."""


@dataclass(frozen=True)
class Samples:
    """What `sample` returns."""

    x: Tensor
    """The clean states, (n, *shape)."""
    images: Tensor | None
    """uint8 (n, C, H, W), None where the states are no images."""
    nfe: float
    """Predictor calls; an int, or the mean over the samples for an adaptive sampler."""
    network_evaluations: float
    """As nfe, with guidance's second pass counted too."""
    seconds: float
    """Wall time from the first noise to the last clean state; neither encoding of prompts nor decoding."""
    model_seconds: float
    """The part of it spent in the network."""
    prompts: tuple[str, ...]
    """The prompt of each sample; () for an unconditional model."""
    trajectory: tuple[Tensor, ...] | None
    """The state before the first and after each step, if asked for."""

    def __repr__(self) -> str:
        """One line: how many of what shape, their mean and deviation, what they cost."""
        x = self.x.double()
        shape = " x ".join(map(str, self.x.shape[1:]))
        numbers = f"mean {x.mean():.3g}, deviation {x.std(correction=0):.3g}"
        return f"Samples({len(self.x)} of {shape}, {numbers}, NFE {self.nfe:g}, {self.seconds:.3g} s)"

    def _repr_png_(self) -> bytes | None:
        """The first images, for a notebook; None, and so the line above, where the states are no images."""
        return None if self.images is None else png(mosaic(self.images[:MOST_SHOWN].cpu().numpy()))


@dataclass(frozen=True)
class Request:
    """A checked description of what to draw, for any block of sample indices."""

    model: Model
    sampler: Sampler
    levels: Levels
    seed: int
    prompts: tuple[str, ...]
    negative: str | None
    guidance: float
    guidance_rescale: float
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    """What the network computes in; the state is float32, or float64 with float64."""

    @property
    def passes(self) -> int:
        """Network passes of one predictor call."""
        return 2 if self.model.mixes(self.guidance) else 1

    def prompts_of(self, first: int, n: int) -> tuple[str, ...]:
        """The prompts of samples first ... first + n - 1."""
        return tuple(self.prompts[i % len(self.prompts)] for i in range(first, first + n)) if self.prompts else ()


def sample(  # noqa: PLR0913  (the settings of a run, each by name)
    model: Model | str,
    sampler: Sampler | str,
    steps: int | None = None,
    n: int = 16,
    seed: int = 0,
    grid: str | Sequence[float] | None = None,
    prompts: Sequence[str] | None = None,
    negative: str | None = None,
    guidance: float = 1.0,
    guidance_rescale: float = 0.0,
    batch_size: int | None = None,
    x_init: Tensor | None = None,
    noise: NoiseFunction | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trajectory: bool = False,
) -> Samples:
    """Draw n samples.

    `model` is a Model or a name for `load_model`; `sampler` a Sampler or a spec such as "ddim:eta=0.5".
    `grid` is a name or a descending list of levels (VP: timesteps; EDM and flow: sigmas), to which the clean end
    is added; `steps` may be left out with a list. `x_init` (n, *shape) is the state at the first level; without it
    the state is unit normal, times sigma for EDM. `noise(a, b)` replaces the seeded stream: it is called with two
    Levels, in order, once for each draw with a non-zero factor, and returns (n, *shape).

    `guidance_rescale` from 0 to 1 takes the guided x0 back to the deviation of the conditional one (Lin et al. 2024).

    Sample i depends on (model, sampler, levels, seed, i, its prompt) alone. The state has the dtype of `x_init`
    (else float32, or float64 if `dtype` is); the network computes in `dtype` (else in the state's).
    Raises InputError for settings that cannot be, SamplerFault for a sampler that fails.
    """
    registry = default_registry()
    if x_init is not None:
        n = len(x_init)
    request = request_for(
        registry, model, sampler, steps=steps, seed=seed, grid=grid, prompts=prompts, negative=negative,
        guidance=guidance, guidance_rescale=guidance_rescale, batch_size=batch_size,
        device=x_init.device if device is None and x_init is not None else device,
        dtype=x_init.dtype if dtype is None and x_init is not None else dtype,
    )  # fmt: skip
    if x_init is not None and tuple(x_init.shape[1:]) != request.model.shape:
        raise InputError(f"x_init {tuple(x_init.shape)}: expected (n, {', '.join(map(str, request.model.shape))})")
    return draw(request, 0, check_count("n", n), x_init=x_init, noise=noise, trajectory=trajectory)


def request_for(  # noqa: PLR0913  (as sample)
    registry: Registry,
    model: Model | str,
    sampler: Sampler | str,
    *,
    steps: int | None,
    seed: int = 0,
    grid: str | Sequence[float] | None = None,
    prompts: Sequence[str] | None = None,
    negative: str | None = None,
    guidance: float = 1.0,
    guidance_rescale: float = 0.0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Request:
    """Check all settings and resolve all names."""
    model = registry.model(model) if isinstance(model, str) else model
    if isinstance(sampler, str):
        sampler, own_grid = registry.sampler_and_grid(sampler)
        if own_grid and grid is not None:
            raise InputError(f"grid {grid!r}: the sampler's spec names the grid {own_grid!r}; give one of them")
        grid = own_grid or grid
    if steps is None:
        if grid is None or isinstance(grid, str):
            raise InputError("steps: not given; expected a whole number from 1, or a grid as a list of levels")
        steps = len(list(grid))
    check_count("steps", steps, MAX_STEPS)
    check_seed(seed)
    texts = check_prompts(model, prompts, negative, guidance)
    check_rescale(model, guidance_rescale, guidance)
    return Request(
        model=model,
        sampler=sampler,
        levels=registry.levels(grid, model.schedule, steps, integer=model.timesteps == "integer"),
        seed=seed,
        prompts=texts,
        negative=negative,
        guidance=float(guidance),
        guidance_rescale=float(guidance_rescale),
        batch_size=check_batch_size(model.batch_size if batch_size is None else batch_size),
        device=resolve_device(device),
        dtype=resolve_dtype(dtype),
    )


def draw(  # noqa: PLR0913  (the block, and what may replace its noise)
    request: Request,
    first: int,
    n: int,
    *,
    x_init: Tensor | None = None,
    noise: NoiseFunction | None = None,
    trajectory: bool = False,
) -> Samples:
    """Draw samples first ... first + n - 1 of a request."""
    model, levels = request.model, request.levels
    stream = Noise(request.seed, model.shape, n, first=first, device=request.device)
    state_dtype = x_init.dtype if x_init is not None else torch.promote_types(request.dtype, torch.float32)
    if x_init is None:
        scale = model.schedule.prior_scale(levels[0])
        x_init = stream.prior().to(state_dtype) * scale
    like = x_init.to(request.device)

    def drawn(a: Level, b: Level, interval: int, ordinal: int) -> Tensor:
        z = noise(a, b) if noise else stream.step(interval, ordinal)
        if z.shape != like.shape:
            raise InputError(f"noise: returned shape {tuple(z.shape)}; expected {tuple(like.shape)}")
        return z.to(like)

    prompts = request.prompts_of(first, n)
    with torch.no_grad():
        predictor = predictor_for(
            model, prompts=prompts, negative=request.negative, guidance=request.guidance,
            guidance_rescale=request.guidance_rescale, batch_size=request.batch_size,
            device=request.device, dtype=request.dtype,
        )  # fmt: skip
        counted = Counted(predictor)
        run = Run(levels, counted, drawn, model.schedule, integer=model.timesteps == "integer")
        states = [like] if trajectory else []
        started = clock(request.device)
        x = integrate(request.sampler, run, like, watch=states.append if trajectory else None)
        seconds = clock(request.device) - started
        replay = None if noise else _replay(request.sampler, run, like)
        finite_or_fault(request.sampler, x, replay)
        images = model.images(x)
    # The mean over the samples: an adaptive sampler asks about each as often as it needs.
    nfe = counted.nfe if counted.samples == counted.nfe * n else counted.samples / n
    return Samples(
        x=x, images=images, nfe=nfe, network_evaluations=nfe * request.passes, seconds=seconds,
        model_seconds=counted.seconds, prompts=prompts, trajectory=tuple(states) if trajectory else None,
    )  # fmt: skip


def _replay(sampler: Sampler, run: Run, x: Tensor) -> Callable[[Callable[[Tensor], None]], object]:
    return lambda watch: integrate(sampler, run, x, watch=watch)


def check_count(name: str, value: object, most: int = 10**9) -> int:
    """A whole number from 1 to `most`, or an error that names the field."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InputError(f"{name} {value!r}: expected a whole number from 1 to {most}")
    return value


def check_batch_size(value: int) -> int:
    """A divisor or a multiple of the noise block, so that blocks and batches end together."""
    check_count("batch_size", value, 65_536)
    if BLOCK % value and value % BLOCK:
        raise InputError(f"batch_size {value}: expected 1, 2, 4, 8, 16, 32 or a multiple of {BLOCK}")
    return value


def check_prompts(
    model: Model, prompts: Sequence[str] | None, negative: str | None, guidance: float
) -> tuple[str, ...]:
    """The prompts to use; errors where prompts, negative prompt or guidance cannot have an effect."""
    if isinstance(prompts, str):
        raise InputError(f"prompts {prompts!r}: expected a list of texts")
    if isinstance(guidance, bool) or not isinstance(guidance, (int, float)) or not 0 <= guidance < math.inf:
        raise InputError(f"guidance {guidance!r}: expected a number from 0 up; 1 is none")
    if model.encode is None:
        for name, given, default in (
            ("prompts", prompts, None),
            ("negative", negative, None),
            ("guidance", guidance, 1),
        ):
            if given != default:
                raise InputError(f"{name} {given!r}: model {model.name!r} is unconditional; leave {name} out")
        return ()
    if negative is not None and model.guide:
        raise InputError(
            f"negative {negative!r}: model {model.name!r} is told its guidance and has no place for it; leave it out"
        )
    if negative is not None and guidance == 1:
        raise InputError(f"negative {negative!r}: has no effect at guidance 1; give a guidance above 1")
    texts = tuple(model.prompts if prompts is None else prompts)
    if not texts and prompts is None:
        raise InputError(f"prompts: not given, and model {model.name!r} has none of its own; give at least one text")
    if not texts:
        raise InputError("prompts: the list is empty; expected at least one text")
    asked = list(texts)
    if model.mixes(guidance) and (negative is not None or model.unconditional is None):
        asked.append(negative or "")
    (model.check_texts or model.encode)(asked)  # refuses what the model cannot read
    return texts


def check_rescale(model: Model, rescale: object, guidance: float) -> None:
    """An error unless it is a number from 0 to 1 that has an effect."""
    if isinstance(rescale, bool) or not isinstance(rescale, (int, float)) or not 0 <= rescale <= 1:
        raise InputError(f"guidance_rescale {rescale!r}: expected a number from 0 to 1; 0 is none")
    if rescale and model.guide:
        raise InputError(
            f"guidance_rescale {rescale!r}: model {model.name!r} is told its guidance, and nothing is mixed that could "
            "be rescaled; leave it out"
        )
    if rescale and guidance == 1:
        raise InputError(f"guidance_rescale {rescale!r}: has no effect at guidance 1; give another guidance")


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, the CPU if none; an absent one is an error, never replaced."""
    try:
        found = torch.device(device or "cpu")
    except RuntimeError as error:
        raise InputError(f"device {device!r}: expected cpu, cuda or cuda:N") from error
    if found.type not in ("cpu", "cuda"):
        raise InputError(f"device {device!r}: expected cpu, cuda or cuda:N")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {device!r}: this machine has {torch.cuda.device_count()} such devices; use cpu")
    return found


DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """A floating dtype by name or as itself; float32 if none."""
    if dtype is None:
        return torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(f"dtype {name!r}: expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def list_samplers() -> dict[str, type[Sampler]]:
    """All registered samplers: name -> class."""
    return dict(sorted(default_registry().samplers.things.items()))


def make_sampler(spec: str, **options: object) -> Sampler:
    """A sampler from a spec string, "dpm-solver:order=3", and options by keyword."""
    return default_registry().sampler(spec, **options)


def load_model(spec: str | os.PathLike[str], **settings: object) -> Model:
    """A registered model by name, or "name:argument"; `settings` are those of the model, such as size=512."""
    return default_registry().model(os.fspath(spec), **settings)

"""sample(): draw samples from a model with a sampler. A run calls `draw` of this module block by block."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .acceleration import compile_seconds
from .arguments import (
    as_given,
    check_float64,
    check_grid,
    check_guidance_calls,
    check_guided_interval,
    check_prompts,
    check_rescale,
    check_unconditional,
    check_x_init,
    resolve_device,
    resolve_dtype,
)
from .errors import InputError, SamplerbenchError, in_line, quote
from .files.image_folder import write_images
from .files.tiles import Images, as_shown, mosaic, png
from .grid import Levels, listed_times, rounding_note, start_fix, start_note
from .image_data import ImageData
from .level import Level
from .model import Model, describe, predictor_for
from .noise import Noise, NoiseFunction, check_seed
from .options import at_fault, check_count
from .predictor import (
    WIDE_STATE_BELOW,
    CallLog,
    Counted,
    Interval,
    NetworkFault,
    check_batch_size,
    clock,
    conversion,
    is_within,
)
from .registry import Registry, default_registry
from .sampler import (
    MAX_STEPS,
    Sampler,
    SamplerFault,
    StepContext,
    check_finite,
    integrate,
    needs_unconditional,
)

MOST_SHOWN = 64
"""Most images that a notebook shows of a `Samples`."""


@dataclass(frozen=True)
class Samples:
    """What `sample` returns."""

    x: Tensor
    """The clean states, (n, *shape)."""
    images: Tensor | None
    """uint8 (n, C, H, W), or (n, F, C, H, W) of frames; None if the model makes no images, or if making them failed."""
    nfe: float
    """Predictor calls; an int, or the mean over the samples for an adaptive sampler."""
    network_evaluations: float
    """Network evaluations for each sample: nfe, and one more for each call that guidance asks twice."""
    seconds: float
    """Wall time of the integration, from the first noise to the clean state, without encoding and decoding."""
    model_seconds: float
    """The part of `seconds` that was spent in the network."""
    prompts: tuple[str, ...]
    """The prompt of each sample; () for an unconditional model."""
    trajectory: tuple[Tensor, ...] | None
    """The state before the first step and after each step; None unless asked for."""
    depth: float
    """Predictor calls one after the other: less than nfe where a sampler asks about several states at once."""
    encode_seconds: float = 0.0
    """Wall time before the integration, in which the network is made ready and prompts become its conditions."""
    decode_seconds: float = 0.0
    """Wall time after the integration, in which the clean states become images."""
    compile_seconds: float = 0.0
    """The part of `seconds` in which the network was compiled, because it was asked for the first time in this way."""

    def __repr__(self) -> str:
        """One line: number and shape of the samples, mean and deviation, cost."""
        # In float64, because sums of many numbers in half precision overflow.
        x = self.x.double()
        shape = " x ".join(map(str, self.x.shape[1:]))
        numbers = f"mean {x.mean():.3g}, deviation {x.std(correction=0):.3g}"
        return f"Samples({len(self.x)} of {shape}, {numbers}, NFE {self.nfe:g}, {self.seconds:.3g} s)"

    def grid(self, across: int | None = None) -> Image.Image:
        """The images as one picture of Pillow, `across` in a row; None = nearly square. A small picture is enlarged.

        InputError if there are no images.
        """
        images = self._images_or_refusal()
        return mosaic(images, None if across is None else check_count("across", across, len(images)))

    def save(self, folder: str | Path) -> Path:
        """Write the images as PNG files into a new or empty folder, which is returned.

        With prompts a metadata.csv holds the caption of each, as image data in a folder is read. InputError if there
        are no images, or if the folder holds anything.
        """
        if not isinstance(folder, str | Path):
            raise InputError(f"folder {quote(folder)}: expected a path")
        images, place = self._images_or_refusal(), Path(folder)
        write_images(place, enumerate(images), self.prompts)
        return place

    def _images_or_refusal(self) -> Images:
        if self.images is None:
            raise InputError("images: the samples have none, because the model makes none or making them failed")
        return self.images.cpu().numpy()

    def _repr_png_(self) -> bytes | None:
        """The first images, for a notebook; None without images, and the notebook then shows the repr."""
        return None if self.images is None else png(mosaic(as_shown(self.images[:MOST_SHOWN].cpu().numpy())))


@dataclass(frozen=True, kw_only=True)
class Request:
    """Validated settings of what to draw, for any block of sample indices.

    A field at its default is not part of a cell's key, so that a setting added later changes no key.
    """

    model: Model
    sampler: Sampler
    levels: Levels
    seed: int
    prompts: tuple[str, ...]
    negative: str | None = None
    guidance: float = 1.0
    guidance_rescale: float = 0.0
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    """The dtype in which the network computes; the state is float32, or float64 if this is."""
    guidance_calls: int = 1
    """Network calls of a guided evaluation: 1 = rows with and without the prompt together, 2 = one after the other."""
    guidance_interval: Interval | None = None
    """The sigma / alpha, (low, high], with guidance; None = all."""
    analytic_first: bool = False
    """Whether the first call of the first step is answered without the network (`predictor.analytic`)."""
    moved: str = field(default="", compare=False)
    """How rounding to whole timesteps moved the levels of the named grid, in words; '' if all are near."""
    low_start: str = field(default="", compare=False)
    """What is missing at the start of a list of levels, in words (see `start_note`); '' if little is."""
    grid_evaluations: int = field(default=0, compare=False)
    """Rows of the network calls that the grid made to place the levels; 0 for a grid that does not ask the model."""
    remark: str = field(default="", compare=False)
    """What the sampler says of itself, or that it is made for another model, in words; '' = nothing."""
    of_prompts: tuple[str, ...] = field(default=(), compare=False)
    """What a user should know of the prompts, as sentences."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the levels and the sampler, in words."""
        asked = f"its grid made {self.grid_evaluations:,} network evaluations" if self.grid_evaluations else ""
        return tuple(filter(None, (self.low_start, self.moved, self.remark, asked)))

    @property
    def warnings(self) -> tuple[str, ...]:
        """The notes on the levels as sentences, with what the user can do; those on the prompts."""
        low_fix = start_fix(self.levels, self.model.schedule)
        fixes = {self.low_start: f"; {low_fix}", self.moved: ""}
        return (*(f"the grid {note}{fix}" for note, fix in fixes.items() if note), *self.of_prompts)

    @property
    def passes(self) -> int:
        """Network passes of one predictor call; with an interval of guidance, of one within it."""
        return self._passes(self.guidance)

    def passes_at(self, level: Level) -> int:
        """Network passes of a predictor call about a state at this level."""
        interval = self.guidance_interval
        return self.passes if interval is None or is_within(interval, level) else self._passes(1)

    def _passes(self, guidance: float) -> int:
        return 2 if self.model.mixes(guidance, unconditional=self.sampler.needs_unconditional) else 1

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
    guidance_calls: int = 1,
    guidance_interval: Sequence[float] | None = None,
    batch_size: int | None = None,
    x_init: Tensor | None = None,
    noise: NoiseFunction | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trajectory: bool = False,
    any_model: bool = False,
) -> Samples:
    """Draw n samples.

    `model` is a Model or a name for `load_model`; `sampler` a Sampler or a spec such as "ddim:eta=0.5".
    Both a grid and a first step without the network may be part of a spec: "ddim:grid=karras,first=analytic".
    `grid` is a name or a descending list of levels (VP: timesteps; EDM and flow: sigmas), to which the clean end
    is added; `steps` may be left out with a list. `x_init` (n, *shape) is the state at the first level; without it
    the state is unit normal, times sigma for EDM. `noise(a, b)` replaces the seeded stream: it is called with two
    Levels, in order, once for each draw with a non-zero factor, and returns (n, *shape).

    `guidance` 1 means none; 0 is refused, because other tools mean no guidance by it. `guidance_rescale` from 0 to 1
    takes the guided x0 back to the deviation of the conditional one (Lin et al. 2024). With guidance a network call
    holds the rows with the prompt and those without it; `guidance_calls=2` makes two calls, in half the memory.
    `guidance_interval=(low, high)` guides only at the levels with low < sigma / alpha <= high (Kynkaanniemi et al.
    2024); the passes that it spares are not counted.

    A sampler whose coefficients were learned for another model or guidance is refused, unless `any_model`.

    Sample i depends only on (model, sampler, levels, seed, i, its prompt). The state has the dtype of `x_init`
    (else float32, or float64 if `dtype` is); the network computes in `dtype` (else in the state's). Within a run that
    passes levels with alpha below 1e-3 the state is float64 (see `WIDE_STATE_BELOW`).

    Raises InputError for invalid settings, SamplerFault if the sampler fails, NetworkFault or ModelError if the network
    does. If making images of the clean states fails, `images` is None and a warning says why.
    """
    # These are arguments of this call; all that a request holds is checked as it is made.
    registry = default_registry()
    if x_init is not None:
        n = len(check_x_init(x_init))
    if not isinstance(trajectory, bool):
        raise InputError(f"trajectory {quote(trajectory)}: expected True or False")
    if not (noise is None or callable(noise)):
        raise InputError(f"noise {quote(noise)}: expected a function noise(a, b)")
    request = request_for(
        registry, model, sampler, steps=steps, seed=seed, grid=grid, prompts=prompts, negative=negative,
        guidance=guidance, guidance_rescale=guidance_rescale, guidance_calls=guidance_calls,
        guidance_interval=guidance_interval, batch_size=batch_size, any_model=any_model,
        device=x_init.device if device is None and x_init is not None else device,
        dtype=x_init.dtype if dtype is None and x_init is not None else dtype,
    )  # fmt: skip
    # The model had to be loaded before the shape of the state could be compared with it.
    if x_init is not None and tuple(x_init.shape[1:]) != request.model.shape:
        raise InputError(f"x_init {tuple(x_init.shape)}: expected (n, {', '.join(map(str, request.model.shape))})")
    n = check_count("n", n)
    # With x_init the first state is the user's, so that no signal is missing from it.
    for warning in request.warnings if x_init is None else replace(request, low_start="").warnings:
        warnings.warn(warning, stacklevel=2)
    return draw(request, 0, n, x_init=x_init, noise=noise, trajectory=trajectory, images=images_or_warning)


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
    guidance_calls: int = 1,
    guidance_interval: Sequence[float] | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    analytic_first: bool = False,
    any_model: bool = False,
) -> Request:
    """Check all settings and resolve all names. A spec string says by itself whether the first call is analytic."""
    model = registry.model(model) if isinstance(model, str) else model
    if not isinstance(model, Model):
        raise InputError(f"model {as_given(model)}: expected a name or a Model, as wrap_network returns")
    name = repr(sampler) if isinstance(sampler, str) else type(sampler).__name__
    sampler, grid, analytic_first = _choose(registry, sampler, check_grid(grid), analytic_first=analytic_first)
    unconditional = check_unconditional(sampler, model, name)
    # A list of levels gives the number of steps; a named grid does not.
    if steps is None:
        if (listed := listed_times(grid)) is None:
            raise InputError("steps: not given; expected a whole number from 1, or a grid as a list of levels")
        steps = len(listed)
    check_count("steps", steps, MAX_STEPS)
    check_seed(seed)
    # All checks come before the network is asked, so that a slip costs no time.
    texts, told = check_prompts(model, prompts, negative, guidance, unconditional=unconditional)
    check_rescale(model, guidance_rescale, guidance)
    interval = check_guided_interval(model, guidance_interval, guidance)
    calls = check_guidance_calls(guidance_calls)
    # A grid may ask the network where to place its levels; these calls are counted apart from those of the run.
    asked, log = counting(model)
    levels = registry.levels(grid, model.schedule, steps, integer=model.timesteps == "integer", model=asked)
    # Without a call at the first level it does not matter what the network could say there.
    if levels[0].t == model.schedule.first.t and not analytic_first:
        # Refuses eps where alpha = 0, also where a grid starts at a small alpha instead.
        conversion(model.predicts, model.schedule.first)
    is_list = listed_times(grid) is not None
    place, precision = resolve_device(device), resolve_dtype(dtype)
    check_float64(place, precision, wide=needs_wide_state(levels))
    made = Request(
        model=model, sampler=sampler, levels=levels, seed=seed, prompts=texts, of_prompts=told, negative=negative,
        grid_evaluations=log.rows,
        moved="" if is_list else moved_levels(registry, model, grid, levels),
        low_start=start_note(levels, model.schedule) if is_list else "",
        guidance=float(guidance), guidance_rescale=float(guidance_rescale), guidance_interval=interval,
        # At its default where it has no effect, so that the same samples have one key.
        guidance_calls=calls if model.mixes(guidance, unconditional=unconditional) else 1,
        analytic_first=analytic_first,
        batch_size=check_batch_size(model.batch_size if batch_size is None else batch_size),
        device=place, dtype=precision,
    )  # fmt: skip
    return check_fit(made, any_model=any_model)


def _choose(
    registry: Registry, sampler: Sampler | str, grid: str | Sequence[float] | None, *, analytic_first: bool
) -> tuple[Sampler, str | Sequence[float] | None, bool]:
    """The sampler, its grid and whether its first call is analytic; a spec may say all three, and a sampler its
    grid."""
    if isinstance(sampler, Sampler):
        return sampler, sampler.own_grid if grid is None else grid, analytic_first
    if not isinstance(sampler, str):
        raise InputError(f"sampler {as_given(sampler)}: expected a spec such as 'ddim:eta=0.5' or a Sampler")
    # Two grids for one run would leave open which of them was meant.
    chosen = registry.parse_sampler(sampler)
    if chosen.grid and grid is not None:
        raise InputError(f"grid {quote(grid)}: the sampler's spec names the grid {chosen.grid!r}; give one of them")
    return chosen.sampler, chosen.grid or grid, chosen.analytic_first


def counting(model: Model) -> tuple[Model, CallLog]:
    """The model with a network whose calls are counted, and the count."""
    log = CallLog()
    return replace(model, network=lambda device, dtype: log.watch(model.network(device, dtype))), log


def check_fit(request: Request, *, any_model: bool) -> Request:
    """The request with the remark of its sampler. InputError if the sampler is made for another model or guidance,
    unless `any_model`."""
    sampler = request.sampler
    name = type(sampler).__name__
    with at_fault(f"sampler {name}: misfit or remark"):
        # At guidance 1 an interval and a rescaling have no effect, so the run is as plain as one without them.
        plain = request.guidance_interval is None and not request.guidance_rescale
        misfit = sampler.misfit(
            request.model.fingerprint, request.guidance, len(request.levels) - 1, plain=plain or request.guidance == 1
        )
        remark = misfit or sampler.remark
    if misfit and not any_model:
        raise InputError(f"sampler {name}: {misfit}; give --any-model to draw with it all the same")
    return replace(request, remark=remark)


def needs_wide_state(levels: Levels) -> bool:
    """Whether the state has to be float64: near alpha = 0 one in float32 has too few digits for x0."""
    return any(0 < level.alpha < WIDE_STATE_BELOW for level in levels)


def moved_levels(registry: Registry, model: Model, grid: str | Sequence[float] | None, levels: Levels) -> str:
    """How rounding to whole timesteps moved the levels of a named grid, in words; '' if all are near."""
    if model.timesteps != "integer":
        return ""
    return rounding_note(levels, registry.levels(grid, model.schedule, len(levels) - 1, integer=False, model=model))


def draw(  # noqa: PLR0913  (the block, and what may replace its noise)
    request: Request,
    first: int,
    n: int,
    *,
    x_init: Tensor | None = None,
    noise: NoiseFunction | None = None,
    trajectory: bool = False,
    images: Callable[[Model, Tensor], Tensor | None] = Model.images,
    watch: Callable[[Tensor], None] | None = None,
) -> Samples:
    """Draw samples first ... first + n - 1 of a request; `images` makes images of the clean states.

    `watch` is called with the state after each step, unless the trajectory is kept.
    """
    model, levels = request.model, request.levels
    stream = Noise(request.seed, model.shape, n, first=first, device=request.device)
    x_init = _first_state(request, stream) if x_init is None else x_init
    state_dtype, prompts = x_init.dtype, request.prompts_of(first, n)
    # In inference mode torch does not count changes in place. Leaving it opens a context only where it is on, because
    # such a context would hide what a sampler does to autocast.
    counting = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
    with counting, torch.no_grad():
        like = x_init.to(request.device, torch.float64 if needs_wide_state(levels) else state_dtype)
        # torch does not count changes of an inference tensor, so a copy takes its place.
        like = like.clone() if like.is_inference() else like

        def noise_for(a: Level, b: Level, interval: int, ordinal: int) -> Tensor:
            z = own_noise(noise, a, b, like) if noise else stream.step(interval, ordinal)
            return z.to(like)

        log, notes = CallLog(), dict[object, dict[str, Any]]()
        # Conditions are made and timed before the run: they cost the same for every number of steps.
        asked = clock(request.device)
        counted = counted_predictor(request, prompts, log, notes)
        integer, analytic_first = model.timesteps == "integer", request.analytic_first
        run = StepContext(levels, counted, noise_for, model.schedule, integer=integer, analytic_first=analytic_first)
        states = [like] if trajectory else []
        compiling = compile_seconds(model)
        encode_seconds = (started := clock(request.device)) - asked
        try:
            x = integrate(request.sampler, run, like, watch=states.append if trajectory else watch)
        except Exception:  # a sampler may raise because the network answered with NaN
            check_answers(log, request.dtype)
            raise
        # The time ends before the checks and the images, which belong to no sampler.
        seconds = clock(request.device) - started
        check_answers(log, request.dtype)
        check_counted(request, log, counted.evaluations)
        # The user's own noise cannot be drawn again, so no step is named for it.
        check_finite(request.sampler, x, None if noise else _replay(request.sampler, run, like, notes))
        x = x.to(state_dtype)
        decoding = clock(request.device)
        made = images(model, x)
        decode_seconds = clock(request.device) - decoding
    nfe, depth, evaluations = counted.calls_of(n)
    return Samples(
        x=x, images=made, nfe=nfe, network_evaluations=evaluations, seconds=seconds,
        model_seconds=counted.seconds, prompts=prompts,
        trajectory=tuple(state.to(state_dtype) for state in states) if trajectory else None, depth=depth,
        encode_seconds=encode_seconds, decode_seconds=decode_seconds,
        compile_seconds=compile_seconds(model) - compiling,
    )  # fmt: skip


def counted_predictor(
    request: Request, prompts: Sequence[str], log: CallLog, notes: dict[object, dict[str, Any]]
) -> Counted:
    """The predictor of a request for these prompts: network, guidance and bounds, with the counter around all."""
    predictor = predictor_for(
        request.model, prompts=prompts, negative=request.negative, guidance=request.guidance,
        guidance_rescale=request.guidance_rescale, guidance_calls=request.guidance_calls,
        guidance_interval=request.guidance_interval, batch_size=request.batch_size, device=request.device,
        dtype=request.dtype, log=log, unconditional=needs_unconditional(request.sampler), notes=notes,
    )  # fmt: skip
    # Outermost, so that a call counts once, however many passes guidance makes of it.
    return Counted(predictor, request.passes_at)


def check_counted(request: Request, log: CallLog, evaluations: int) -> None:
    """Raise SamplerFault if the network was asked more often than was counted."""
    if uncounted := log.past_the_counter(evaluations):
        raise SamplerFault(
            f"sampler {type(request.sampler).__name__}: asked the network {uncounted} times past the counter; "
            "expected all calls by run.predict and run.predict_many"
        )


def _first_state(request: Request, stream: Noise) -> Tensor:
    """The state at the first level. It is drawn in float32 and then widened, so a float64 run starts from the same
    noise."""
    # Unit normal on VP and flow, sigma times that on EDM.
    scale = request.model.schedule.prior_scale(request.levels[0])
    return stream.prior().to(torch.promote_types(request.dtype, torch.float32)) * scale


def check_answers(log: CallLog, dtype: torch.dtype) -> None:
    """Raise NetworkFault if the network answered with NaN or infinity about a state that had none.

    Bounds of x0 hide an infinity, and the sampler is not to blame for what it makes of one.
    """
    t = log.first_fault()
    if t is None:
        return
    # What most often makes a network overflow in each precision.
    advice = {
        torch.float32: "look for half precision inside the network, or try --dtype float64",
        torch.float64: "look into the network",
    }.get(dtype, "try --dtype float32")
    name = str(dtype).removeprefix("torch.")
    raise NetworkFault(f"network: answered with NaN or infinity at timestep {t:g}, with --dtype {name}; {advice}")


def own_noise(noise: NoiseFunction, a: Level, b: Level, like: Tensor) -> Tensor:
    """The user's own noise for an interval; InputError for anything but finite numbers of the state's shape."""
    try:
        z: object = noise(a, b)
    except SamplerbenchError:
        raise
    except Exception as error:  # the user's function may raise anything
        raise InputError(f"noise: raised {in_line(error)}") from error
    dense = isinstance(z, Tensor) and z.layout == torch.strided and z.device.type != "meta" and not z.is_complex()
    if not isinstance(z, Tensor) or not dense or z.shape != like.shape:
        raise InputError(f"noise: returned {describe(z)}; expected a dense real tensor {tuple(like.shape)}")
    if not bool(z.isfinite().all()):
        raise InputError(f"noise: returned {describe(z)} with NaN or infinity in it; expected finite numbers")
    return z


def images_or_warning(model: Model, x: Tensor) -> Tensor | None:
    """The images; None and a warning if making them fails, so that the samples themselves are not lost."""
    try:
        return model.images(x)
    except SamplerbenchError as error:
        # Four frames up is the line that called sample().
        warnings.warn(f"images: None, since none can be made of x: {error}", stacklevel=4)
        return None


def no_images(model: Model, x: Tensor) -> None:
    """Make no images, for callers that need only x."""


def _replay(
    sampler: Sampler, run: StepContext, x: Tensor, notes: dict[object, dict[str, Any]]
) -> Callable[[Callable[[Tensor], None]], object]:
    def replay(watch: Callable[[Tensor], None]) -> None:
        notes.clear()  # a network's own, of the run before
        integrate(sampler, run, x, watch=watch)

    return replay


def list_samplers() -> dict[str, type[Sampler]]:
    """All registered samplers: name -> class."""
    return dict(sorted(default_registry().samplers.things.items()))


def make_sampler(spec: str, **options: object) -> Sampler:
    """A sampler from a spec string, "dpm-solver:order=3", and options by keyword.

    A sampler holds no grid and no first step: a spec that names one, as "DPM++ 2M Karras" does, is warned of.
    """
    if not isinstance(spec, str):
        raise InputError(f"sampler {as_given(spec)}: expected a spec such as 'ddim:eta=0.5'")
    sampler, grid, analytic_first = default_registry().parse_sampler(spec, **options)
    if analytic_first:
        warnings.warn(f"sampler {spec!r}: first=analytic is of a run; give the spec itself to sample()", stacklevel=2)
    # The grid that a sampler brings is still found on the sampler; one from the spec would be lost without a word.
    if grid not in (None, sampler.own_grid):
        text = f"sampler {spec!r}: names the grid {grid!r} too, which a sampler does not hold; give grid= to sample()"
        warnings.warn(text, stacklevel=2)
    return sampler


def load_model(spec: str | os.PathLike[str], **settings: object) -> Model:
    """A registered model by name, or "name:argument"; `settings` are those of the model, such as size=512."""
    if not isinstance(spec, str | os.PathLike) or not isinstance(path := os.fspath(spec), str):
        raise InputError(f"model {as_given(spec)}: expected a name or a path")
    return default_registry().model(path, **settings)


def load_data(spec: str | os.PathLike[str]) -> ImageData:
    """The images that "name", "name:argument", a file or a folder describes, as `samplerbench list data` names them."""
    return default_registry().image_data(os.fspath(spec))

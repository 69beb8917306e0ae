"""Settings that must not change results: form of the prediction, scale of the process, batch, earlier use."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor

from ...samplers.exact import exact_model
from ...samplers.model import Model
from ...samplers.options import construct, options_of
from ...samplers.predictor import Predicts
from ...samplers.sample import sample
from ...samplers.sampler import Sampler
from .card import Effort, Finding
from .models import EQUAL, PLANE, SCHEDULES, UNEVEN, UNEVEN_ON, Stream, apart, draw_samples, noise_to_start_from

MOST_TRIED = 64
"""How many settings of the other options are tried before an option counts as ignored."""
GREY_LEVEL = 2 / 255
"""The size of a grey level of an image in [-1, 1]."""
SINGLE = 1e-3
"""The tolerance between float32 and float64: roundings of 6e-8, times sigma / alpha = 160, times many steps."""


def predictions(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """One model as eps, x0, v and flow prediction gives equal samples."""
    error = 0.0
    for name, schedule in SCHEDULES.items():
        # A sampler that used the network's answer itself, and not x0 or eps, would differ in three of the four forms.
        eps, *others = (draw_samples(sampler, schedule, UNEVEN_ON[name], predicts=form) for form in get_args(Predicts))
        error = max(error, *(apart(other, eps) for other in others))
    yield Finding("eps = x0 = v = flow", "equal", f"apart by {error:.1e}", error <= EQUAL)


def scales(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """VP, EDM and flow are one process in three scales: x_VP = alpha_VP x_EDM and x_flow = alpha_flow x_EDM."""
    vp, explosion, flow = SCHEDULES.values()
    levels = [vp.at_time(t) for t in UNEVEN]
    # The same noise-to-signal ratios in each scale; flow has sigma / (1 - sigma) = sigma_ve.
    sigmas = [level.sigma_ve for level in levels]
    times = [sigma / (1 + sigma) for sigma in sigmas]
    x = noise_to_start_from()
    expected = draw_samples(sampler, vp, UNEVEN, x=x)
    x = x / levels[0].alpha
    error = max(
        apart(draw_samples(sampler, explosion, sigmas, x=x), expected),
        apart(draw_samples(sampler, flow, times, x=(1 - times[0]) * x), expected),
    )
    yield Finding("VP = EDM = flow", "equal", f"apart by {error:.1e}", error <= EQUAL)


def batches(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """Sample i is the same to the last bit whatever n is, and within a grey level whatever the batch size is."""
    model = exact_model(PLANE, SCHEDULES["VP"], "v")

    def first_of(n: int, batch_size: int = 64) -> Tensor:
        return sample(model, sampler, grid=UNEVEN[::2], n=n, batch_size=batch_size).x[:5]

    # 66 is more than one block of noise and more than one batch.
    expected = first_of(66)
    different = [n for n in (1, 5, 65) if not torch.equal(first_of(n), expected[:n])]
    yield Finding(
        "n = 1 to 66", "byte-identical", f"others at n = {different}" if different else "byte-identical", not different
    )
    error = max(apart(first_of(5, size), expected) for size in (1, 8, 256))
    yield Finding("batch sizes 1 to 256", "within a grey level", f"apart by {error:.1e}", error < GREY_LEVEL)


def any_batch_size(sampler: Sampler, model: Model) -> Iterator[Finding]:
    """On a model, samples do not depend on the batch size or on an earlier run: no batch meets the state of another."""
    n, sizes = 6, (1, 2, 4)

    def drawn_in(size: int) -> Tensor:
        return sample(model, sampler, steps=sampler.own_steps or 5, n=n, batch_size=size).x

    # A network with notes (`hints`) may hand those of one batch or of one run to another.
    whole, again = drawn_in(8), drawn_in(8)
    error = max(float((drawn_in(size) - whole).abs().max()) for size in sizes)
    yield Finding(
        f"{model.name}, batch sizes 1 to 8", "within a grey level", f"apart by {error:.1e}", error < GREY_LEVEL
    )
    same = torch.equal(whole, again)
    measured = "the same" if same else f"apart by {float((again - whole).abs().max()):.1e}"
    yield Finding(f"{model.name}, a second run", "as the first", measured, same)


def reuse(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """A sampler stores nothing: after use with another model and grid it gives the samples of a fresh one."""
    vp = SCHEDULES["VP"]
    once = draw_samples(sampler, vp, UNEVEN)
    # A sampler that caches coefficients keeps those of this run, and fails below.
    draw_samples(sampler, SCHEDULES["EDM"], steps=5)
    again, fresh = draw_samples(sampler, vp, UNEVEN), draw_samples(dataclasses.replace(sampler), vp, UNEVEN)
    same = torch.equal(again, once) and torch.equal(fresh, once)
    yield Finding("used again", "as a fresh one", "the same" if same else f"apart by {apart(again, once):.1e}", same)


def precision(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """The state keeps its dtype and device; float32 follows float64; a network in bfloat16 gives finite float32."""
    model, x = exact_model(PLANE, SCHEDULES["VP"], "v"), noise_to_start_from()
    expected = draw_samples(sampler, SCHEDULES["VP"], UNEVEN, predicts="v", x=x)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        # The same noise in both precisions, so that only roundings differ.
        single = sample(model, sampler, grid=UNEVEN, x_init=x.float(), noise=Stream(x.float()), device=device).x
        half = sample(model, sampler, grid=UNEVEN, n=4, dtype="bfloat16", device=device).x
        kept = single.dtype == half.dtype == torch.float32 and single.device.type == half.device.type == device
        error = apart(single.cpu().double(), expected) if bool(half.isfinite().all()) else float("inf")
        yield Finding(
            f"float32 on {device}", f"float64 within {SINGLE:g}",
            f"apart by {error:.1e}" if kept else f"{single.dtype} on {single.device}", kept and error < SINGLE,
        )  # fmt: skip


def options(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """The options, written as text and read again, make an equal sampler."""
    values = {key: getattr(sampler, option.field) for key, option in options_of(type(sampler)).items()}
    written = {key: str(value) for key, value in values.items() if value is not None}  # a file that is left out
    given = {name: value for name, value in written.items() if value != "inf"}  # no spec string says infinity
    read = construct(type(sampler), type(sampler).__name__, given)
    text = ",".join(f"{name}={value}" for name, value in written.items()) or "none"
    yield Finding("options, written and read", "an equal sampler", text, read == sampler)
    if values and not sampler.own_steps:
        ignored = [key for key in values if key in known_alternatives(sampler) and not is_used(sampler, key)]
        measured = f"ignored: {', '.join(ignored)}" if ignored else "each does"
        yield Finding("options, each changed", "other samples", measured, not ignored)


def known_alternatives(sampler: Sampler) -> dict[str, list[object]]:
    """By option, further values to try; a text and a file have none that could be guessed."""
    found = {
        key: alternatives(option.kind, getattr(sampler, option.field))
        for key, option in options_of(type(sampler)).items()
    }
    return {key: values for key, values in found.items() if values}


def alternatives(kind: Any, value: Any) -> list[object]:
    """Other values of an option of this type; a sampler may refuse some."""
    if get_origin(kind) is Literal:
        return [choice for choice in get_args(kind) if choice != value]
    if kind is bool:
        return [not value]
    if kind is int:
        # Near values first: they are the likeliest to be accepted. The others are for options that stop mattering, such
        # as an order above the number of steps.
        return [other for other in (value + 1, value - 1, 2 * value, 0, 1) if other != value]
    if kind is float:
        return [other for other in (value / 2, 2 * value, 0.3, 1.0, 5.0, 0.0) if other != value]
    return []


def is_used(sampler: Sampler, key: str) -> bool:
    """Whether another value of an option changes the samples: by itself, or beside other values of other options."""
    fields = {name: option.field for name, option in options_of(type(sampler)).items()}
    tried = known_alternatives(sampler)
    single = [(fields[name], value) for name, values in tried.items() if name != key for value in values]
    # An option may act only beside another one, as s_tmin beside s_churn: so up to two others are changed too.
    others = itertools.chain.from_iterable(itertools.combinations(single, r) for r in range(3))
    for other in map(dict, itertools.islice(others, MOST_TRIED)):
        base = samples_with(sampler, other)
        changed = (samples_with(sampler, {**other, fields[key]: value}) for value in tried[key])
        # Compared to the last bit: an option that moves only roundings is one that acts.
        if base is not None and any(x is not None and not torch.equal(x, base) for x in changed):
            return True
    return False


def samples_with(sampler: Sampler, values: Mapping[str, object]) -> Tensor | None:
    """The samples with other options; None where the sampler refuses them."""
    schedule = SCHEDULES["EDM"]
    x = noise_to_start_from(2) * schedule.prior_scale(schedule.first)
    try:
        return draw_samples(dataclasses.replace(sampler, **values), schedule, "karras", steps=12, x=x)
    except Exception:  # a value that the sampler does not refuse may still be no good
        return None

"""Settings that must not change results: form of the prediction, scale of the process, batch, earlier use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor

from ...samplers.exact import exact_model
from ...samplers.options import construct, options_of
from ...samplers.predictor import Predicts
from ...samplers.sample import sample
from ...samplers.sampler import Sampler
from .card import Effort, Finding
from .models import EQUAL, PLANE, SCHEDULES, UNEVEN, Stream, apart, drawn, noise_to_start_from

GRIDS = {"VP": UNEVEN, "EDM": (40.0, 9.0, 2.0, 0.8, 0.1, 0.01), "flow": (0.98, 0.8, 0.5, 0.3, 0.02)}
GREY_LEVEL = 2 / 255
"""The size of a grey level of an image in [-1, 1]."""
SINGLE = 1e-3
"""The tolerance between float32 and float64: roundings of 6e-8, times sigma / alpha = 160, times many steps."""


def predictions(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """One model as eps, x0, v and flow prediction gives equal samples."""
    error = 0.0
    for name, schedule in SCHEDULES.items():
        eps, *others = (drawn(sampler, schedule, GRIDS[name], predicts=form) for form in get_args(Predicts))
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
    expected = drawn(sampler, vp, UNEVEN, x=x)
    x = x / levels[0].alpha
    error = max(
        apart(drawn(sampler, explosion, sigmas, x=x), expected),
        apart(drawn(sampler, flow, times, x=(1 - times[0]) * x), expected),
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


def reuse(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """A sampler stores nothing: after use with another model and grid it gives the samples of a fresh one."""
    vp = SCHEDULES["VP"]
    once = drawn(sampler, vp, UNEVEN)
    # A sampler that caches coefficients keeps those of this run, and fails below.
    drawn(sampler, SCHEDULES["EDM"], steps=5)
    again, fresh = drawn(sampler, vp, UNEVEN), drawn(dataclasses.replace(sampler), vp, UNEVEN)
    same = torch.equal(again, once) and torch.equal(fresh, once)
    yield Finding("used again", "as a fresh one", "the same" if same else f"apart by {apart(again, once):.1e}", same)


def precision(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """The state keeps its dtype and device; float32 follows float64; a network in bfloat16 gives finite float32."""
    model, x = exact_model(PLANE, SCHEDULES["VP"], "v"), noise_to_start_from()
    expected = drawn(sampler, SCHEDULES["VP"], UNEVEN, predicts="v", x=x)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
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

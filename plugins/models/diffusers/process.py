"""The config of a scheduler -> noise schedule, what the network predicts, bounds of x0.

How a scheduler would place its timesteps (spacing, offset, Karras sigmas) is not read: grids are chosen by name here.
"""

from __future__ import annotations

import math

import numpy as np

from ....samplers.errors import ModelError
from ....samplers.predictor import Predicts
from ....samplers.schedule import (
    VP,
    Flow,
    rescale_zero_terminal_snr,
    vp_cosine,
    vp_from_alphas_cumprod,
    vp_linear,
    vp_scaled_linear,
)
from .folder import Part, is_number, short

VP_SCHEDULERS = (
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler",
    "LCMScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "SASolverScheduler", "TCDScheduler",
    "UniPCMultistepScheduler",
)  # fmt: skip
FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler",)
LCM = "LCMScheduler"
DISTILLED = (LCM, "TCDScheduler")
"""Schedulers of models distilled to few steps; their betas are those of the model before distillation."""
PREDICTS: dict[str, Predicts] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
MOST_TIMESTEPS = 100_000
FEWEST_OF_FLOW = 2
MOST_SHIFT = 1e4
"""The largest shift of flow times, either way: beyond it times run into each other at one of the ends."""
CLIPS = ("DDIMScheduler", "DDPMScheduler")
"""Schedulers that clip x0 unless their config says otherwise."""


def predicts_of(scheduler: Part) -> Predicts:
    """What the network answers with."""
    named = scheduler.get("prediction_type", "epsilon", str)
    if named not in PREDICTS:
        raise ModelError(f"{scheduler.file}: prediction_type {short(named)}: expected one of {', '.join(PREDICTS)}")
    return PREDICTS[named]


def notes_on(scheduler: Part) -> tuple[str, ...]:
    """What a user must know about the model, in addition to its schedule, as sentences."""
    if scheduler.cls not in DISTILLED:
        return ()
    own = "; it draws all noise again in each step, as lcm does" if scheduler.cls == LCM else ""
    return (
        f"{scheduler.cls}: the model is distilled to 1 to 8 steps, and to guidance 1 or what its authors name{own}",
    )


def schedule_of(scheduler: Part) -> VP:
    """The variance preserving schedule of the betas in the config."""
    for field, usual in (("use_flow_sigmas", False), ("timestep_type", "discrete")):
        scheduler.expect(field, scheduler.get(field, usual, type(usual)), usual, "as of a process with betas")
    try:
        schedule = table_of(scheduler)
        if scheduler.get("rescale_betas_zero_snr", False, bool):
            schedule = rescale_zero_terminal_snr(schedule)
    except ValueError as error:
        raise ModelError(f"{scheduler.file}: no noise schedule can be made of its betas ({error})") from error
    # x = eps there: x0 would be 0 / 0.
    if schedule.first.alpha == 0 and predicts_of(scheduler) == "eps":
        raise ModelError(
            f"{scheduler.file}: prediction_type 'epsilon' where the last timestep is pure noise "
            "(rescale_betas_zero_snr, or a beta of 1), of which the noise says nothing; expected v_prediction or sample"
        )
    return schedule


def table_of(scheduler: Part) -> VP:
    """The schedule before any rescaling."""
    if trained := scheduler.get("trained_betas", None, list):
        if len(trained) > MOST_TIMESTEPS or not all(map(is_number, trained)):
            raise ModelError(f"{scheduler.file}: trained_betas: expected numbers, at most {MOST_TIMESTEPS:,}")
        return vp_from_alphas_cumprod(np.cumprod(1 - np.asarray(trained, dtype=np.float64)).tolist())
    named = scheduler.need("beta_schedule", str)
    if named not in BETAS:
        raise ModelError(f"{scheduler.file}: beta_schedule {short(named)}: expected one of {', '.join(BETAS)}")
    timesteps = scheduler.need("num_train_timesteps", int)
    if not 1 <= timesteps <= MOST_TIMESTEPS:
        raise ModelError(f"{scheduler.file}: num_train_timesteps {timesteps}: expected 1 to {MOST_TIMESTEPS}")
    if named == "squaredcos_cap_v2":
        return vp_cosine(timesteps)
    for field in ("beta_start", "beta_end"):
        scheduler.need(field, (int, float))
    start, end = (scheduler.number(field, 0.0) for field in ("beta_start", "beta_end"))
    if not 0 < start <= end <= 1:
        raise ModelError(f"{scheduler.file}: beta_start {start:g}, beta_end {end:g}: expected 0 < start <= end <= 1")
    return (vp_linear if named == "linear" else vp_scaled_linear)(timesteps, start, end)


def clip_of(scheduler: Part) -> tuple[float, float] | None:
    """Bounds of x0 where the scheduler clips it."""
    if scheduler.get("thresholding", False, bool):
        raise ModelError(
            f"{scheduler.file}: thresholding true: expected false; set it so, or wrap the network with "
            "clip=dynamic_threshold()"
        )
    if not scheduler.get("clip_sample", scheduler.cls in CLIPS, bool):
        return None
    bound = scheduler.number("clip_sample_range", 1.0)
    if bound <= 0:
        raise ModelError(f"{scheduler.file}: clip_sample_range {bound}: expected a positive number")
    return -bound, bound


def flow_of(scheduler: Part, patches: int, *, to_the_last: bool) -> Flow:
    """Rectified flow with the grid of the model: even times, shifted once by a factor that may depend on the size.

    t -> factor t / (1 + (factor - 1) t), Esser et al. 2024, equation 23. `patches`: of an image, the length of the
    sequence that the transformer sees. `to_the_last`: the times before the shift go down to the last that was trained
    (Stable Diffusion 3), else to 1/S (Flux). The scheduler of diffusers shifts the former twice where the factor does
    not depend on the size: that is the grid `shift-twice`.
    """
    for field, usual in (("invert_sigmas", False), ("shift_terminal", None)):
        scheduler.expect(field, scheduler.config.get(field, usual), usual, "as of the pipelines that are supported")
    dynamic = scheduler.get("use_dynamic_shifting", False, bool)
    factor = dynamic_shift(scheduler, patches) if dynamic else _positive(scheduler, "shift", 1.0)
    if not 1 / MOST_SHIFT <= factor <= MOST_SHIFT:
        raise ModelError(
            f"{scheduler.file}: times are shifted by {factor:g}; expected {1 / MOST_SHIFT:g} to {MOST_SHIFT:g}"
        )
    timesteps = timesteps_of_flow(scheduler)
    options = f"factor={factor:.9g}" + (f",last={1 / timesteps:.9g}" if to_the_last else "")
    return Flow(default_grid="uniform" if options == "factor=1" else f"shift:{options}")


def even_flow_of(scheduler: Part) -> Flow:
    """Rectified flow of a U-Net, whose pipeline says no size to its scheduler: even times, shifted by one factor."""
    scheduler.expect(
        "use_dynamic_shifting", scheduler.get("use_dynamic_shifting", False, bool), False, "as of a flow with a U-Net"
    )
    return flow_of(scheduler, 1, to_the_last=False)


def timesteps_of_flow(scheduler: Part) -> int:
    """What the network's time is multiplied by: it was trained at k / timesteps, k from 1 to timesteps."""
    timesteps = int(scheduler.get("num_train_timesteps", 1000, int))
    if not FEWEST_OF_FLOW <= timesteps <= MOST_TIMESTEPS:
        raise ModelError(
            f"{scheduler.file}: num_train_timesteps {timesteps}: expected {FEWEST_OF_FLOW} to {MOST_TIMESTEPS}"
        )
    return timesteps


def dynamic_shift(scheduler: Part, patches: int) -> float:
    """The factor for an image of that many patches: mu linear in their number, and its exponential or mu itself."""
    few, many = _positive(scheduler, "base_image_seq_len", 256), _positive(scheduler, "max_image_seq_len", 4096)
    low, high = _positive(scheduler, "base_shift", 0.5), _positive(scheduler, "max_shift", 1.15)
    if few == many:
        raise ModelError(f"{scheduler.file}: base_image_seq_len {few:g}: expected less than max_image_seq_len")
    # As the pipelines of diffusers do (calculate_shift), also beyond the two numbers of patches.
    mu = low + (high - low) * (patches - few) / (many - few)
    kind = scheduler.get("time_shift_type", "exponential", str)
    if kind not in ("exponential", "linear") or (kind == "linear" and mu <= 0):
        raise ModelError(
            f"{scheduler.file}: time_shift_type {short(kind)} with a shift of {mu:g}: expected exponential"
        )
    return math.exp(min(mu, 700.0)) if kind == "exponential" else mu  # beyond 709 it overflows


def _positive(scheduler: Part, field: str, default: float) -> float:
    value = scheduler.number(field, default)
    if value <= 0:
        raise ModelError(f"{scheduler.file}: {field} {value:g}: expected a positive number")
    return value

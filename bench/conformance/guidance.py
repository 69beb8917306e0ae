"""Guidance: what a sampler does on a model whose parts with and without the prompt are both known."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...samplers.exact import GaussianMixture, exact_model
from ...samplers.level import Level
from ...samplers.model import Model
from ...samplers.sample import sample
from ...samplers.sampler import Sampler
from ...samplers.schedule import Schedule
from .card import Effort, Finding
from .models import EQUAL, PLANE, SCHEDULES, UNEVEN_ON, Stream, apart, noise_to_start_from

WITHOUT = GaussianMixture(((0.2, 0.1),), (0.6,), (1.0,))
"""Data without the prompt; PLANE is that with it."""
STRENGTHS = (0.6, 2.0)
"""Guidance as CFG++ has it, and as others have it."""


def mixed_model(schedule: Schedule) -> Model:
    """The answer for a condition c is the share c of that for PLANE and 1 - c of that for WITHOUT, in closed form.

    Its prompts are numbers, c itself; without a prompt c is 0.
    """
    device = torch.device("cpu")
    told, plain = (exact_model(data, schedule, "v").network(device, torch.float64) for data in (PLANE, WITHOUT))

    def network(x: Tensor, t: Tensor, condition: Tensor, hints: object = None) -> Tensor:
        return condition * told(x, t) + (1 - condition) * plain(x, t)

    return Model(
        name="guided", network=lambda device, dtype: network, schedule=schedule, shape=(2,), predicts="v",
        encode=lambda texts: torch.tensor([[float(text)] for text in texts], dtype=torch.float64),
        unconditional=lambda texts: torch.zeros(len(texts), 1, dtype=torch.float64),
    )  # fmt: skip


def mixed_guidance(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """With guidance a sampler draws what it draws from the mixed network; CFG++ has its own rule for the first step."""
    # CFG++ uses both parts separately, so no mixed network has its answer.
    if sampler.needs_unconditional:
        yield renoising(sampler)
        return
    error = 0.0
    for name, schedule in SCHEDULES.items():
        model, x = mixed_model(schedule), noise_to_start_from() * schedule.prior_scale(schedule.first)
        for strength in STRENGTHS:
            # Guidance w on (PLANE, WITHOUT) and no guidance on the network that is mixed in the ratio w are one
            # function.
            one, two = (
                sample(
                    model, sampler, grid=UNEVEN_ON[name], x_init=x, noise=Stream(x), prompts=[text], guidance=scale
                ).x
                for text, scale in (("1", strength), (str(strength), 1.0))
            )
            error = max(error, apart(one, two))
    yield Finding("guidance 0.6 and 2", "as the mixed network", f"apart by {error:.1e}", error <= EQUAL)


def renoising(sampler: Sampler) -> Finding:
    """CFG++: the first step leads to alpha_b x0 + q eps, with x0 guided and eps without the prompt.

    Where all parts are equal it leads there too, which shows q.
    """
    error = 0.0
    for name, schedule in SCHEDULES.items():
        model, x = mixed_model(schedule), noise_to_start_from() * schedule.prior_scale(schedule.first)
        a, b = (schedule.at_time(t) for t in UNEVEN_ON[name][:2])
        plain = parts_of(WITHOUT, x, a)
        after = first_step(sampler, model, (a, b), x, "0", 2.0) - b.alpha * plain[0]
        # Where both parts are equal the step is alpha_b x0 + q eps, so q is the projection on eps; CFG++ leaves its
        # value open.
        q = float((after * plain[1]).sum() / plain[1].square().sum())
        for strength in STRENGTHS:
            x0 = torch.lerp(plain[0], parts_of(PLANE, x, a)[0], strength)
            got = first_step(sampler, model, (a, b), x, "1", strength)
            error = max(error, apart(got, b.alpha * x0 + q * plain[1]))
    claim = "x0 guided, eps without the prompt"
    return Finding("CFG++, first step", claim, f"off by {error:.1e}", error <= EQUAL)


def parts_of(data: GaussianMixture, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """x0 and eps of the perfect network for this data."""
    alpha, sigma = (torch.full((len(x), 1), part, dtype=x.dtype) for part in (level.alpha, level.sigma))
    x0 = data.x0(x, alpha, sigma)
    return x0, (x - alpha * x0) / sigma


def first_step(  # noqa: PLR0913  (a step and its guidance)
    sampler: Sampler, model: Model, levels: tuple[Level, Level], x: Tensor, prompt: str, guidance: float
) -> Tensor:
    """The state at the second level of a run without noise."""
    grid = [level.t for level in levels]
    drawn = sample(
        model, sampler, grid=grid, x_init=x, noise=lambda a, b: torch.zeros_like(x), prompts=[prompt],
        guidance=guidance, trajectory=True,
    )  # fmt: skip
    assert drawn.trajectory is not None
    return drawn.trajectory[1]

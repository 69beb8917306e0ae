"""The core DDPM (Ho et al. 2020): forward process, posterior, loss, moving average of the weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from .level import Level
from .schedule import VP

Variance = Literal["small", "large"]


def diffuse(x0: Tensor, eps: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
    """The forward process in one jump, x_t = alpha x0 + sigma eps, for a DDPM with alpha = sqrt(abar_t) and
    sigma = sqrt(1 - abar_t) (equation 4)."""
    return alpha * x0 + sigma * eps


class Posterior(NamedTuple):
    """q(x_b | x_a, x0), a Gaussian: mean = x_weight x_a + x0_weight x0, standard deviation std."""

    x_weight: float
    x0_weight: float
    std: float


def posterior(a: Level, b: Level, variance: Variance = "small") -> Posterior:
    """The reverse step from level a to the cleaner level b, given x0 (equations 6 and 7).

    beta = 1 - abar_a / abar_b is taken between neighbouring levels of the grid, so any sub-grid of the timesteps is
    a DDPM too (Nichol and Dhariwal 2021, section 4). `small` is the posterior's own variance, `large` is beta. A step
    into the clean end adds no noise.
    """
    # For any alpha and sigma: the ratio of the noise variances of x / alpha, whatever the scale of the state.
    kept = (b.sigma_ve / a.sigma_ve) ** 2
    # Ho et al. (2020), eq. 7, in alpha and sigma: the product of two Gaussians, q(x_b | x0) and q(x_a | x_b).
    x_weight = a.alpha * b.sigma**2 / (b.alpha * a.sigma**2)
    x0_weight = b.alpha * (1 - kept)
    if b.is_clean:
        std = 0.0
    elif variance == "small":
        std = b.sigma * math.sqrt(1 - kept)
    else:  # beta belongs to the VP process; the second factor scales it to the level's own alpha and sigma
        std = math.sqrt(beta_between(a, b) * (b.alpha**2 + b.sigma**2))
    return Posterior(x_weight, x0_weight, std)


def beta_between(a: Level, b: Level) -> float:
    """beta = 1 - abar_a / abar_b of the VP process that passes through both levels."""
    # Divided by alpha^2 + sigma^2 any process is a VP process, and only that has a beta.
    abar_a = a.alpha**2 / (a.alpha**2 + a.sigma**2)
    abar_b = b.alpha**2 / (b.alpha**2 + b.sigma**2)
    return 1 - abar_a / abar_b


class Draw(NamedTuple):
    """The random part of a training batch: timesteps (B,) and noise (B, *shape)."""

    t: Tensor
    eps: Tensor


def draw_examples(schedule: VP, shape: Sequence[int], generator: torch.Generator) -> Draw:
    """A random timestep and random noise for each sample of a batch of this shape, float32 on the CPU."""
    t = torch.randint(schedule.timesteps, (shape[0],), generator=generator)
    return Draw(t, torch.randn(tuple(shape), generator=generator))


def loss_of_draw(  # noqa: PLR0913  (what one training example consists of)
    network: nn.Module, schedule: VP, x0: Tensor, condition: Tensor | None, draw: Draw, *, predicts: str
) -> Tensor:
    """Mean squared error of the network's answer at the timestep and noise of each sample (algorithm 1).

    x0 is (B, C, H, W), condition (B, D) or None. The target is the noise eps; with predicts="v" it is
    alpha eps - sigma x0 (Salimans and Ho 2022, appendix D), a linear combination that determines eps and x0 given x.
    """
    if predicts not in ("eps", "v"):
        raise ValueError(f"predicts {predicts!r}: expected eps or v")
    t, eps = draw.t.to(x0.device), draw.eps.to(x0)
    # One timestep for each image of the batch, looked up in the table that the network learns.
    abar = _table(schedule, x0.device)[t].view(-1, *[1] * (x0.ndim - 1))
    alpha, sigma = abar.sqrt().to(x0), (1 - abar).sqrt().to(x0)
    target = eps if predicts == "eps" else alpha * eps - sigma * x0
    answer: Tensor = network(diffuse(x0, eps, alpha, sigma), t.to(x0), condition)
    # In float32, even if autocast made the answer bfloat16.
    return (answer.float() - target).square().mean()


@functools.lru_cache(maxsize=8)
def _table(schedule: VP, device: torch.device) -> Tensor:
    # Kept there: to send it in each step would make the process wait for the device.
    return torch.tensor(schedule.alphas_cumprod, device=device)


class EMA:
    """Exponential moving average of a network's weights, with a short average at the start."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {name: p.detach().clone() for name, p in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after training step `step` (from 0)."""
        # Early weights change fast, so the average is short at first.
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, p in network.state_dict().items():
            self.average[name].lerp_(p.to(self.average[name]), 1 - decay)

    @torch.no_grad()
    def update_on_device(self, network: nn.Module, step: int, goes_on: Tensor) -> None:
        """As `update`, in a few operations for all weights together; `goes_on` is 1, or 0 to leave the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = list(self.average.values())
        moves = torch._foreach_sub([p.to(self.average[name]) for name, p in network.state_dict().items()], averages)
        torch._foreach_mul_(moves, goes_on * (1 - decay))
        torch._foreach_add_(averages, moves)

"""The file of `learned`: weights of all predictions so far, and what each sum is multiplied by."""

from __future__ import annotations

from typing import Literal

from ...samplers.errors import InputError
from ...samplers.learned import MadeFor
from ...samplers.level import Level

SUMMED = {"eps": (0.0, 1.0), "x0": (1.0, 0.0), "flow": (-1.0, 1.0)}
"""What is summed, as weights of x0 and eps."""


class Coefficients(MadeFor, frozen=True, kw_only=True):
    """The content of a file."""

    steps: int
    weights: tuple[tuple[float, ...], ...]
    """A row for each step, the newest prediction first."""
    of: Literal["eps", "x0", "flow"] = "eps"
    """What is summed; flow = eps - x0."""
    asked: tuple[float, ...] = ()
    """The times that the network is told in place of those of the levels."""
    noise: tuple[float, ...] = ()
    """The share of the posterior's deviation that is drawn afresh."""

    def __post_init__(self) -> None:
        """ValueError where the parts do not belong together."""
        # Lengths first: the number of steps is a stranger's, and may be of any size.
        is_one_each = 1 <= self.steps == len(self.weights)
        if not is_one_each or any(len(row) != i for i, row in enumerate(self.weights, start=1)):
            raise ValueError(f"weights: expected rows of 1 to {self.steps} numbers, one for each step")
        self.check_lengths(asked=self.asked, noise=self.noise)
        if not all(0 <= share <= 1 for share in self.noise):
            raise ValueError("noise: expected numbers from 0 to 1")


def factor(of: str, a: Level, alpha: float, sigma: float) -> float:
    """What the first-order step from a multiplies the prediction by, on its way to the level (alpha, sigma)."""
    # From x = alpha x0 + sigma eps at a: the coefficient of x0, eps or flow in alpha x0 + sigma eps with x held fixed.
    if of == "x0":
        return alpha - a.alpha * sigma / a.sigma
    if of == "eps" and a.alpha == 0:
        raise InputError("sampler 'learned': weights of eps other than 1 mean nothing at alpha = 0; use of x0 or flow")
    return (
        sigma - alpha * a.sigma / a.alpha if of == "eps" else (sigma * a.alpha - alpha * a.sigma) / (a.alpha + a.sigma)
    )

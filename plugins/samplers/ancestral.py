"""What samplers with fresh noise share: the share of it, and the level to go down to before it is added."""

from __future__ import annotations

import math

from ...samplers.errors import InputError
from ...samplers.level import Level


def check_share(sampler: str, eta: float) -> None:
    """InputError unless eta is from 0 to 1: with more, the level below would not be real."""
    if not 0 <= eta <= 1:
        raise InputError(f"sampler {sampler!r}: option eta {eta}: expected a number from 0 to 1")


def down_and_up(a: Level, b: Level, eta: float) -> tuple[float, float]:
    """sigma / alpha to go down to, and of the noise back up to b: eta times the posterior's deviation."""
    up = eta * b.sigma_ve * math.sqrt(1 - (b.sigma_ve / a.sigma_ve) ** 2)
    return math.sqrt(b.sigma_ve**2 - up**2), up

"""The report card: what a check finds, and how much it measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ...samplers.sampler import Sampler


@dataclass(frozen=True)
class Finding:
    """One line of the report card."""

    name: str
    """What is checked."""
    claim: str
    """What should hold."""
    measured: str
    """What was measured."""
    holds: bool
    """Whether the measurement supports the claim, or the sampler waives it."""
    waived: str = ""
    """Why the claim does not apply to this sampler, in the words of its `claims`; '' where it does."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    order_steps: int
    """Steps of the coarsest run that shows a global order."""
    limit_steps: int
    """Steps of the run that shows the limit."""
    limit_error: float
    """The largest error to the exact solution at that number of steps."""
    counts: Sequence[int]
    """Step counts that are tried for finiteness and NFE."""
    moment_steps: int
    """Steps of the run that shows mean and variance."""
    moment_error: float
    """The largest error of mean and variance at that number of steps, relative to those of the data."""


QUICK = Effort(80, 320, 3e-4, (1, 2, 3, 4, 5, 7, 10, 20, 60), 200, 0.015)
FULL = Effort(160, 4096, 1e-6, range(1, 61), 1000, 0.015)

Check = Callable[[Sampler, Effort], Iterator[Finding]]
"""One check, which yields a finding for each of its claims."""

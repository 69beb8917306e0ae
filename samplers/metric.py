"""What a metric is: rows of numbers about n images -> a value with its standard error."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


@dataclass(frozen=True)
class Estimate:
    """A value and how much each sample moved it."""

    value: float
    influence: Floats
    """(n,), mean 0: the value behaves as a constant plus the mean of these over the samples."""

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of two values on the same samples."""
        return Estimate(self.value - other.value, self.influence - other.influence)

    @property
    def standard_error(self) -> float:
        """Standard deviation of the influence over sqrt(n)."""
        n = len(self.influence)
        return float(self.influence.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - Z95 * self.standard_error

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value + Z95 * self.standard_error


class Metric(ABC):
    """A function of what an extractor says of the generated images and of the reference images."""

    extractor: str
    """Which of the model's extractors it reads."""
    better: Literal["lower", "higher"]
    unit: str
    least: int
    """The fewest samples for which the value means anything."""
    needs_reference = False
    """Whether it compares with the reference rows, and cannot be without them."""

    def prepare(self, reference: npt.NDArray[np.float32] | None) -> Any:
        """What is needed of the reference rows (N, d), computed once for all cells."""
        return None

    @abstractmethod
    def estimate(self, rows: npt.NDArray[np.float32], prepared: Any) -> Estimate:
        """Rows (n, d) of the generated images -> the value and each sample's influence on it."""


def root_mean_estimate(squares: npt.NDArray[np.floating[Any]]) -> Estimate:
    """The root of the mean of one square a sample, (n,); its influence by the derivative of the root."""
    exact = squares.astype(np.float64)
    root = math.sqrt(float(exact.mean()))
    return Estimate(root, (exact - exact.mean()) / (2 * root) if root else np.zeros_like(exact))


def mean_estimate(values: npt.NDArray[np.floating[Any]]) -> Estimate:
    """The mean of one number a sample, (n,)."""
    exact = values.astype(np.float64)
    mean = float(exact.mean())
    return Estimate(mean, exact - mean)

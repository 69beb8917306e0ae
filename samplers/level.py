"""One noise level of the process x = alpha x0 + sigma eps."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Level:
    """One noise level, in float64: how much clean sample and how much noise a state holds."""

    alpha: float
    """Factor of the clean sample x0."""
    sigma: float
    """Factor of the unit noise eps; 0 = clean."""
    t: float
    """What the network is told: timestep (VP), sigma (EDM) or flow time; nan at the clean end of a VP grid."""

    @property
    def lambda_(self) -> float:
        """lambda = log(alpha / sigma), half the log signal-to-noise ratio; inf if clean, -inf if alpha = 0."""
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha else -math.inf

    @property
    def sigma_ve(self) -> float:
        """sigma / alpha: the noise level of the same state in the variance exploding form; inf if alpha = 0."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def is_clean(self) -> bool:
        """Whether no noise is left."""
        return self.sigma == 0

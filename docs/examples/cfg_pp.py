"""CFG++ with fresh noise (Chung et al. 2024, algorithm 2, with the noise of DDIM, equation 16 of Song et al. 2021).

The guided x0 is renoised with the noise that the network predicts without the prompt: guidance may then lie below 1.
"""

import math
from dataclasses import dataclass

from samplerbench import Sampler, hookimpl


@dataclass(frozen=True)
class MyCFGpp(Sampler):
    """x_b = alpha_b x0 + sqrt(sigma_b^2 - std^2) eps' + std z, with x0 guided and eps' without the prompt."""

    eta: float = 0.0
    """Share of the posterior's deviation that is drawn afresh."""

    needs_unconditional = True

    @property
    def convergence(self):
        """First order without noise."""
        return None if self.eta else 1

    def nfe(self, steps):
        """One call a step, of two network passes each."""
        return steps

    def step(self, run, x, a, b, past):
        """Guided x0, renoised without the prompt."""
        guided = run.predict(x, a)
        std = min(1.0, self.eta * math.sqrt(1 - (b.sigma_ve / a.sigma_ve) ** 2)) * b.sigma
        x = b.alpha * guided.x0 + math.sqrt(b.sigma**2 - std**2) * guided.unconditional.eps
        return x + std * run.noise(a, b) if std else x, None


@hookimpl
def samplerbench_samplers():
    """What this file adds."""
    return {"my-cfg++": MyCFGpp}

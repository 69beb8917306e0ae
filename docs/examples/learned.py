"""A solver with learned weights (after Shaul et al. 2024, equation 9): in each step its own for all predictions so far.

`python learn.py MODEL STEPS weights.json` finds the weights and writes the file.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from samplerbench import File, InputError, Sampler, hookimpl


@dataclass(frozen=True)
class MyLearned(Sampler):
    """In z = x / alpha and s = sigma / alpha: z_b = z_a + (s_b - s_a) sum_j w_ij eps_j, the newest eps first."""

    table: File | None = None
    """JSON with model, guidance and weights, a row for each step; without it the newest eps counts alone."""

    convergence = 1

    @cached_property
    def known(self):
        """The content of the file."""
        return json.loads(self.table.read_bytes()) if self.table else None

    @property
    def remark(self):
        """What the table says of rows without a file."""
        return "" if self.table else "no table of weights: it is Euler's method"

    def misfit(self, fingerprint, guidance, steps, *, plain):
        """Why the weights are not for this run."""
        if self.known is None:
            return ""
        if steps != len(self.known["weights"]):
            raise InputError(f"steps {steps}: {self.table} has weights for {len(self.known['weights'])}")
        model = hashlib.sha256(fingerprint.encode()).hexdigest()
        is_for = (model, guidance, plain) == (self.known["model"], self.known["guidance"], True)
        return "" if is_for else f"{self.table} was learned for another model or guidance"

    def nfe(self, steps):
        """One call a step."""
        return steps

    def step(self, run, x, a, b, past):
        """The weighted sum of all eps so far, in place of the newest."""
        said = run.predict(x, a)
        eps = [said.eps, *(past or [])]
        if a.alpha == 0 or self.known is None:
            return said.combine(b.alpha, b.sigma), eps
        slope = sum(w * e for w, e in zip(self.known["weights"][run.i], eps, strict=True))
        return b.alpha * (x / a.alpha + (b.sigma_ve - a.sigma_ve) * slope), eps


@hookimpl
def samplerbench_samplers():
    """What this file adds."""
    return {"my-learned": MyLearned}

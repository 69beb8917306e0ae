"""my-sampler, a sampler for samplerbench. Say here which paper and which equation it is, and where it departs from it.

What stands below works: a step of first order (DDIM without noise). Put your formula in its place, then your claims.

    samplerbench check my-sampler --plugin my_sampler.py
    samplerbench run -s my-sampler -s ddim --steps 5,10,20 --plugin my_sampler.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from samplerbench import Level, StepContext, Sampler, hookimpl

samplerbench_api = 1  # the version of the interface that this file is written for


@dataclass(frozen=True)
class MySampler(Sampler):
    """x_b = alpha_b x0 + sigma_b eps, with x0 and eps as the model predicts them at level a."""

    # An option is a field with a type (int, float, bool, str, Literal or samplerbench's File | None) and a default;
    # `eta: float = 0.0` is given as `-s my-sampler:eta=0.5`. Raise ValueError in __post_init__ for an invalid
    # value, and say what is valid.

    convergence = 1  # the order with which the error falls as the steps shrink; None for a sampler that adds noise

    def nfe(self, steps: int) -> int:
        """Calls of the model that a run of `steps` steps makes; they are counted, and a run that differs fails."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Any) -> tuple[Tensor, Any]:
        """Take the state x = alpha x0 + sigma eps, (n, *shape), from level a to the cleaner level b.

        A level has alpha, sigma, lambda_ = log(alpha / sigma) and sigma_ve = sigma / alpha, all Python floats.
        """
        # Each call of run.predict is one call of the model; its answer has .x0 and .eps.
        prediction = run.predict(x, a)

        # combine(p, q) is p x0 + q eps. It is exact at the clean end too, where b.is_clean and lambda is infinite,
        # and where a run starts at alpha = 0; a formula that divides by sigma_b or alpha_a falls back on it there.
        x = prediction.combine(b.alpha, b.sigma)

        # Noise is run.noise(a, b), asked for only where its factor is not zero, and never at the clean end.
        # The second value comes back as `past` in the next step, where it is None in the first: earlier predictions
        # of a multistep method go there, and nothing is kept on self.
        return x, None


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """What this file adds, by name."""
    return {"my-sampler": MySampler}

"""Trajectory consistency sampling (Zheng et al. 2024, algorithm 4): down below the next level, then up with noise."""

import math
from dataclasses import dataclass

from samplerbench import Sampler, hookimpl


@dataclass(frozen=True)
class MyTCD(Sampler):
    """x_s = alpha_s x0 + sigma_s eps with s = (1 - gamma) t_b; x_b = (alpha_b / alpha_s) x_s + noise."""

    gamma: float = 0.3
    """How far below the next time each step goes, as a share of that time; 0 = DDIM."""

    def __post_init__(self):
        """Check the option."""
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma {self.gamma}: expected a number from 0 to 1")

    @property
    def convergence(self):
        """First order without noise."""
        return None if self.gamma else 1

    @property
    def claims(self):
        """What holds without noise only."""
        variance = "made for distilled models: with the mean of x0 it loses variance"
        scales = "s is a time, and VP, EDM and flow have different ones"
        return {"variance of Gaussian data": variance, "VP = EDM = flow": scales} if self.gamma else {}

    def nfe(self, steps):
        """One call a step."""
        return steps

    def step(self, run, x, a, b, past):
        """Down along the path to s, and back up to b with fresh noise."""
        if b.is_clean or not self.gamma:
            return run.predict(x, a).combine(b.alpha, b.sigma), None
        t = (1 - self.gamma) * b.t
        s = run.schedule.clean if t == run.schedule.clean.t else run.schedule.at_time(t)
        up = b.alpha / s.alpha
        x_s = run.predict(x, a).combine(s.alpha, s.sigma)
        return up * x_s + math.sqrt(b.sigma**2 - (up * s.sigma) ** 2) * run.noise(a, b), None


@hookimpl
def samplerbench_samplers():
    """What this file adds."""
    return {"my-tcd": MyTCD}

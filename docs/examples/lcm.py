"""Multistep consistency sampling (Song et al. 2023, algorithm 1; Luo et al. 2023, algorithm 3)."""

from dataclasses import dataclass

from samplerbench import Sampler, hookimpl


@dataclass(frozen=True)
class MyLCM(Sampler):
    """f = x0(x_a); x_b = alpha_b f + sigma_b z."""

    # A consistency model answers with one sample of the data. The exact models of `check` answer with the mean of all
    # that are possible, so that the spread of the samples is too small there whoever draws them.
    claims = {"variance of Gaussian data": "made for consistency models: with the mean of x0 it loses variance"}

    def nfe(self, steps):
        """One call a step."""
        return steps

    def step(self, run, x, a, b, past):
        """To the data, and back up to b with noise that is all fresh."""
        f = run.predict(x, a).x0
        return (b.alpha * f if b.is_clean else b.alpha * f + b.sigma * run.noise(a, b)), None


@hookimpl
def samplerbench_samplers():
    """What this file adds."""
    return {"my-lcm": MyLCM}

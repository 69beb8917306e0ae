"""Feature caching (after Ma et al. 2024, DeepCache): the deep half of a network is asked every few steps only."""

from dataclasses import dataclass

import torch

from samplerbench import Sampler, hookimpl, vp_linear, wrap_network


@dataclass(frozen=True)
class MyCache(Sampler):
    """Euler; every `every`-th call is made in full, the others reuse its deep features."""

    every: int = 2
    """How many steps share the deep features of one call."""

    convergence = 1
    claims = {"options, each changed": "an exact model has no features to reuse"}

    def nfe(self, steps):
        """One call a step, whatever it costs the network."""
        return steps

    def step(self, run, x, a, b, past):
        """The network is told whether it may reuse; one that takes no hints is refused by name."""
        hints = {"reuse": run.i % self.every > 0}
        return run.predict(x, a, hints=hints).combine(b.alpha, b.sigma), None


class TwoHalves(torch.nn.Module):
    """A network with a shallow half and a deep one, as a stand-in for a U-Net and its inner blocks."""

    def __init__(self):
        super().__init__()
        self.shallow, self.deep = torch.nn.Linear(64, 64), torch.nn.Sequential(*[torch.nn.Linear(64, 64)] * 8)
        for part in self.parameters():
            torch.nn.init.normal_(part, std=0.1, generator=torch.Generator().manual_seed(part.numel()))

    def forward(self, x, t, hints):
        """v; `hints.state` belongs to these rows, and is empty at the start of a run."""
        if not (hints.given.get("reuse") and "deep" in hints.state):
            hints.state["deep"] = self.deep(x.flatten(1)).tanh()
        return 0.3 * x + 0.5 * (self.shallow(x.flatten(1)) + hints.state["deep"]).tanh().view_as(x)


@hookimpl
def samplerbench_samplers():
    """The sampler."""
    return {"my-cache": MyCache}


@hookimpl
def samplerbench_models():
    """The network as a model."""
    return {"my-cached": lambda argument: wrap_network(TwoHalves(), vp_linear(), (1, 8, 8), "v", fingerprint="1")}

"""Levels found by dynamic programming on paths of the model itself (Chen et al. 2024, GITS, algorithm 1)."""

import math
from dataclasses import dataclass

import numpy as np
import torch

import samplerbench as sb
from samplerbench import Grid, InputError, hookimpl


@dataclass(frozen=True)
class MyGITS(Grid):
    """Of all ways from the first level to the last, the one whose Euler steps leave a path of many steps least."""

    candidates: int = 60
    """Steps of the paths that are followed, even in lambda: the levels are chosen among theirs."""
    images: int = 32
    """How many samples are followed."""

    def times(self, schedule, steps, model=None):
        """Ask the model once for each candidate, then choose."""
        first, last = schedule.first, schedule.last
        if model is None or math.isinf(first.lambda_) or steps > self.candidates:
            raise InputError("grid 'my-gits': needs a model, alpha above 0 at the start and candidates for all steps")
        lambdas = np.linspace(first.lambda_, last.lambda_, self.candidates)[1:-1]
        levels = [first, *(schedule.at_lambda(float(lambda_)) for lambda_ in lambdas), last]
        drawn = sb.sample(model, "ddim", grid=[level.t for level in levels], n=self.images, trajectory=True)
        # In z = x / alpha the path consists of Euler steps in s = sigma / alpha: their slopes are eps.
        z = torch.stack(
            [x.flatten() / level.alpha for x, level in zip(drawn.trajectory, levels, strict=False)]
        ).double()
        s = torch.tensor([[level.sigma_ve] for level in levels], dtype=torch.float64)
        eps = z.diff(dim=0) / s.diff(dim=0)
        cost = torch.stack([(z[i] + (s - s[i]) * eps[i] - z).norm(dim=1) for i in range(len(eps))])
        return [levels[j].t for j in cheapest(cost.numpy(), steps)]


def cheapest(cost, steps):
    """The indices of the cheapest way of so many levels from the first to the last; cost[i, j] is that of i to j."""
    count = cost.shape[1]
    cost = np.where(np.tri(*cost.shape, dtype=bool), math.inf, cost)  # forwards only
    best, before = np.where(np.arange(count) == 0, 0.0, math.inf), []
    for _ in range(steps - 1):
        total = best[:-1, None] + cost
        best, before = total.min(axis=0), [total.argmin(axis=0), *before]
    way = [count - 1]
    for choice in before:
        way.insert(0, int(choice[way[0]]))
    return way


@hookimpl
def samplerbench_grids():
    """What this file adds."""
    return {"my-gits": MyGITS}

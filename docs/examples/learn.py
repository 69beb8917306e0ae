"""Find the weights of learned.py for a model without guidance, a step at a time, by least squares.

python learn.py MODEL STEPS weights.json. A reference path of many short steps says where each step should lead from
where it is; which weights of all eps so far lead there best is a linear problem.
"""

import hashlib
import itertools
import json
import sys
from pathlib import Path

import torch

import samplerbench as sb

SHORT, SAMPLES = 16, 256
"""Steps of the reference within each step, and how many samples are followed."""
RIDGE = 1e-4
"""What weights cost that differ from Euler's: eps of neighbouring steps are nearly equal, and large weights overfit."""


def eps_at(model, x, level):
    """What the network says of x: the result of a single step is its x0."""
    x0 = sb.sample(model, "ddim", grid=[level.t], x_init=x).x
    return (x - level.alpha * x0) / level.sigma


def weights_for(model, steps):
    """A row of weights for each step; the last step, to the clean end, takes the newest eps."""
    first, last = model.schedule.first, model.schedule.last
    times = [first.t + (last.t - first.t) * i / (steps - 1) for i in range(steps)]
    x = torch.randn(SAMPLES, *model.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, past, rows = x * model.schedule.prior_scale(first), [], []
    for a, b in itertools.pairwise(model.schedule.at_time(t) for t in times):
        path = [a.t + (b.t - a.t) * k / SHORT for k in range(SHORT)] + [b.t]
        wanted = sb.sample(model, "dpm-solver++", grid=path, x_init=x, trajectory=True).trajectory[SHORT]
        past = [eps_at(model, x, a), *past]
        step = b.sigma_ve - a.sigma_ve
        slopes, slope = torch.stack([eps.flatten() for eps in past], dim=1), (wanted / b.alpha - x / a.alpha) / step
        euler = torch.eye(len(past), dtype=x.dtype)[0]
        squares = slopes.T @ slopes + RIDGE * len(slopes) * torch.eye(len(past), dtype=x.dtype)
        found = euler + torch.linalg.solve(squares, slopes.T @ (slope.flatten() - slopes @ euler))
        x = b.alpha * (x / a.alpha + step * (slopes @ found).view_as(x))
        rows.append(found.tolist())
    return [*rows, [1.0] + [0.0] * (steps - 1)]


if __name__ == "__main__":
    chosen = sb.load_model(sys.argv[1])
    name = hashlib.sha256(chosen.fingerprint.encode()).hexdigest()
    content = {"model": name, "guidance": 1, "weights": weights_for(chosen, int(sys.argv[2]))}
    Path(sys.argv[3]).write_text(json.dumps(content))

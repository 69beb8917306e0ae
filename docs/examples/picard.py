"""Picard iteration, parallel in time (Shih et al. 2023, algorithm 1), with the drift of DDIM."""

import itertools
import math
from dataclasses import dataclass

from samplerbench import Sampler, hookimpl


@dataclass(frozen=True)
class MyPicard(Sampler):
    """z_j = z_0 + sum over i < j of ddim(z_i) - z_i, again and again, in z = x / sqrt(alpha^2 + sigma^2)."""

    window: int = 6
    """Intervals that are solved at once."""
    sweeps: int = 3
    """Iterations of each window."""

    convergence = 1

    def __post_init__(self):
        """Check the options."""
        if min(self.window, self.sweeps) < 1:
            raise ValueError("window and sweeps: expected whole numbers from 1")

    def nfe(self, steps):
        """Sweep k leaves the first k states of a window alone, which are right by then; the last interval is a call."""
        windows = [min(self.window, steps - 1 - i) for i in range(0, steps - 1, self.window)]
        return 1 + sum(sum(range(m, max(m - self.sweeps, 0), -1)) for m in windows)

    def step(self, run, x, a, b, past):
        """The next state of the window; at its start all of them, which `past` then carries."""
        if not past and (a.alpha == 0 or b.is_clean):
            return run.predict(x, a).combine(b.alpha, b.sigma), None
        if not past:
            levels = [level for level in run.grid[run.i :] if not level.is_clean][: self.window + 1]
            past = self.solved(run, x, levels)
        return past[0], past[1:]

    def solved(self, run, x, levels):
        """The states at all levels but the first."""
        r, m = [math.hypot(level.alpha, level.sigma) for level in levels], len(levels) - 1
        z = [x / r[0]] * (m + 1)
        for k in range(min(self.sweeps, m)):
            said = run.predict_many([(z[i] * r[i], levels[i]) for i in range(k, m)])
            ends = [p.combine(levels[i].alpha, levels[i].sigma) / r[i] for i, p in enumerate(said, start=k + 1)]
            drift = [end - start for start, end in zip(z[k:-1], ends, strict=True)]
            z[k:] = itertools.accumulate(drift, initial=z[k])
        return [z[i] * r[i] for i in range(1, m + 1)]


@hookimpl
def samplerbench_samplers():
    """What this file adds."""
    return {"my-picard": MyPicard}

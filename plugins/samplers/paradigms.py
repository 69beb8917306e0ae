"""ParaDiGMS: Picard iteration in parallel over time (Shih et al. 2023, algorithm 1), with the drift of DDIM.

Deterministic, order 1, depth about steps sweeps / window. After k sweeps of a window k of its states are DDIM's.

Same as: `paradigms:sweeps=8` = `ddim`; `paradigms:window=1` = `ddim`.

Use it where a batch costs hardly more than a sample and only the time to one image counts.
"""

from dataclasses import dataclass

from torch import Tensor

from ...samplers.errors import InputError
from ...samplers.level import Level
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext


@dataclass(frozen=True)
class ParaDiGMS(Sampler):
    """z_j = z_0 + sum over i < j of ddim(z_i) - z_i, again and again, with z = x / sqrt(alpha^2 + sigma^2)."""

    convergence = 1
    aliases = {"ParaDiGMS": ""}
    window: int = 8
    """Intervals that are solved at once."""
    sweeps: int = 4
    """Iterations of each window. By the paper's tolerance, samples of one batch would decide over each other."""

    def __post_init__(self) -> None:
        """Check the options."""
        if min(self.window, self.sweeps) < 1:
            raise InputError("sampler 'paradigms': options window and sweeps: expected whole numbers from 1")

    def nfe(self, steps: int) -> int:
        """Each sweep of a window asks about one state less than the sweep before; the last step is one call."""
        widths = [min(self.window, steps - 1 - i) for i in range(0, steps - 1, self.window)]
        return 1 + sum(width - k for width in widths for k in range(min(self.sweeps, width)))

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """The next state of a window. A sweep takes DDIM steps from old states, moved by what the new are off."""
        # At alpha = 0 and at the clean end a step is first order, and there is nothing to solve at once.
        if not past and (a.alpha == 0 or b.is_clean):
            return run.predict(x, a).combine(b.alpha, b.sigma), None
        if not past:
            # The window: all its states begin as the first, scaled to the size of a state at each level.
            levels = [level for level in run.grid[run.i :] if not level.is_clean][: self.window + 1]
            size = [(level.alpha**2 + level.sigma**2) ** 0.5 for level in levels]
            states = [x * (r / size[0]) for r in size]
            for k in range(min(self.sweeps, len(levels) - 1)):
                for j, said in enumerate(run.predict_many(zip(states[k:-1], levels[k:-1], strict=True)), start=k):
                    # DDIM's step is from an old state; what the state has moved by since is carried on, scaled to the
                    # next level.
                    off = size[j + 1] / size[j] * (states[j] - said.x) if j > k else 0.0
                    states[j + 1] = said.combine(levels[j + 1].alpha, levels[j + 1].sigma) + off
            # One state is given out at each interval, until the window is used up.
            past = states[1:]
        return past[0], past[1:]


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """ParaDiGMS."""
    return {"paradigms": ParaDiGMS}

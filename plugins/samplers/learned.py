"""A solver whose coefficients were learned for one model, from a file (after Shaul et al. 2024, equation 9).

Each step is a first-order step with a weighted sum of all predictions so far in place of the newest one, as in the
non-stationary solvers of Shaul et al., S4S (Frankel et al. 2025), NeuralSolver (Wang et al. 2025) and DyWeight (2026):
they differ in what is summed and in how the weights were found. The file is JSON:

    {"fingerprint": "of the model", "guidance": 1.0, "steps": 3, "weights": [[1], [1.4, -0.4], [1.5, -0.7, 0.2]],
     "of": "eps", "times": [999, 600, 200], "asked": [990, 610, 205], "noise": [0, 0, 0]}

weights has a row for each step, the newest prediction first; of is eps, x0 or flow (eps - x0); times are the noisy
levels (VP: timesteps; EDM and flow: sigmas), else any grid will do; asked are the times that the network is told in
place of those; noise is the share of the posterior's deviation that is drawn afresh. The last four may be left out.
NFE = steps. Another model, guidance or step count is refused.

Same as: `learned` = `ddim`.

Use it with a file for your model; without one it is `ddim`, and the table says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import msgspec
from torch import Tensor

from ...samplers.errors import InputError
from ...samplers.level import Level
from ...samplers.options import File
from ...samplers.registry import hookimpl
from ...samplers.sampler import Past, Sampler, StepContext

SUMMED = {"eps": (0.0, 1.0), "x0": (1.0, 0.0), "flow": (-1.0, 1.0)}
"""What is summed, as weights of x0 and eps."""


class Coefficients(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a file."""

    fingerprint: str
    guidance: float
    steps: int
    weights: tuple[tuple[float, ...], ...]
    of: Literal["eps", "x0", "flow"] = "eps"
    times: tuple[float, ...] = ()
    asked: tuple[float, ...] = ()
    noise: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """ValueError where the parts do not belong together."""
        # Lengths first: the number of steps is a stranger's, and may be of any size.
        is_one_each = 1 <= self.steps == len(self.weights)
        if not is_one_each or any(len(row) != i for i, row in enumerate(self.weights, start=1)):
            raise ValueError(f"weights: expected rows of 1 to {self.steps} numbers, one for each step")
        for name, numbers in (("times", self.times), ("asked", self.asked), ("noise", self.noise)):
            if len(numbers) not in (0, self.steps):
                raise ValueError(f"{name}: {len(numbers)} numbers; expected {self.steps}, one for each step")
        if not all(0 <= share <= 1 for share in self.noise):
            raise ValueError("noise: expected numbers from 0 to 1")


@dataclass(frozen=True)
class Learned(Sampler):
    """The first-order step with sum_j w_j p_j in place of the newest prediction p_0."""

    file: File | None = None
    """The coefficients; without a file each step takes only the newest prediction."""

    def __post_init__(self) -> None:
        """Read the file; an error names the field."""
        _ = self._learned

    @cached_property
    def _learned(self) -> Coefficients | None:
        if self.file is None:
            return None
        try:
            return msgspec.json.decode(self.file.read_bytes(), type=Coefficients)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # also of a field that is not what it should be
            raise InputError(f"sampler 'learned': file {str(self.file)!r}: {error}") from error

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        """First order, as its weights may be; none with noise."""
        return None if self._learned and any(self._learned.noise) else 1

    @property
    def own_grid(self) -> str | None:
        """The times of the file."""
        return "/".join(map(repr, self._learned.times)) or None if self._learned else None

    @property
    def remark(self) -> str:
        """The default is another sampler."""
        return "" if self.file else "no file of coefficients: it is ddim"

    def misfit(self, fingerprint: str, guidance: float, steps: int, *, plain: bool) -> str:
        """What the file is for, where that is another model or guidance. InputError for another number of steps."""
        known = self._learned
        if known is None:
            return ""
        # There is a row of weights for each step of the file, so another number cannot be drawn at all.
        if steps != known.steps:
            raise InputError(
                f"steps {steps}: file {str(self.file)!r} is for {known.steps} steps; give --steps {known.steps}"
            )
        if fingerprint != known.fingerprint:
            return f"file {str(self.file)!r} is for another model, with fingerprint {known.fingerprint[:40]!r}"
        if guidance != known.guidance:
            return f"file {str(self.file)!r} is for guidance {known.guidance:g}"
        return "" if plain else f"file {str(self.file)!r} is for guidance at all levels, without rescale"

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """First order, then what the weighted sum adds to it, then noise."""
        known = self._learned
        if known is None:
            return run.predict(x, a).combine(b.alpha, b.sigma), None
        prediction = run.predict(x, a, ask=_asked(run, known.asked[run.i]) if known.asked else None)
        # With noise the step goes to a level below b, as in `ddim` with eta.
        share = known.noise[run.i] if known.noise else 0.0
        up = share * b.sigma * math.sqrt(1 - (b.sigma_ve / a.sigma_ve) ** 2)
        down = math.sqrt(b.sigma**2 - up**2)
        said = [prediction.combine(*SUMMED[known.of]), *(past or [])]
        x = prediction.combine(b.alpha, down)
        # The first-order step has the newest prediction with weight 1 already, so only the rest is added.
        weights = [known.weights[run.i][0] - 1, *known.weights[run.i][1:]]
        if any(weights):
            factor = _factor(known.of, a, b.alpha, down)
            for weight, one in zip(weights, said, strict=True):
                x = x + factor * weight * one
        return x + up * run.noise(a, b) if up else x, said


def _asked(run: StepContext, t: float) -> Level:
    """The level at a time that the file has the network told; InputError where the schedule has none."""
    try:
        return run.schedule.at_time(t)
    except ValueError as error:
        raise InputError(f"sampler 'learned': asked: {error}") from error


def _factor(of: str, a: Level, alpha: float, sigma: float) -> float:
    """What the first-order step from a multiplies the prediction by, on its way to the level (alpha, sigma)."""
    if of == "x0":
        # From x = alpha x0 + sigma eps at a: the coefficient of x0, eps or flow in alpha x0 + sigma eps with x held
        # fixed.
        return alpha - a.alpha * sigma / a.sigma
    if of == "eps" and a.alpha == 0:
        raise InputError("sampler 'learned': weights of eps other than 1 mean nothing at alpha = 0; use of x0 or flow")
    return (
        sigma - alpha * a.sigma / a.alpha if of == "eps" else (sigma * a.alpha - alpha * a.sigma) / (a.alpha + a.sigma)
    )


@hookimpl
def samplerbench_samplers() -> dict[str, type[Sampler]]:
    """The learned solver."""
    return {"learned": Learned}

"""What a sampler solves exactly: the polynomials that it says in `exact_for`, on long and uneven steps."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.polynomial import Polynomial
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from ...samplers.errors import InputError
from ...samplers.level import Level
from ...samplers.predictor import ALL, Prediction, Promptless, Question
from ...samplers.sampler import Sampler, StepContext
from ...samplers.schedule import Schedule, edm, vp_linear
from .card import Effort, Finding

DEGREES = {"constant": 0, "linear": 1, "quadratic": 2, "cubic": 3}
STATEMENT = re.compile(rf"(x0|eps) ({'|'.join(DEGREES)}) in (lambda|sigma/alpha)")
"""A statement such as "x0 linear in lambda"; one that says "constant" may name either variable."""
COEFFICIENTS = (0.7, -0.4, 0.25, 0.1)
TOLERANCE = 1e-9
"""Roundings of 1e-16, times coefficients of a hundred steps."""
GRIDS: tuple[tuple[str, Schedule, bool, tuple[float, ...]], ...] = (
    ("uneven steps", edm(), False, (20.0, 17.0, 9.0, 8.0, 3.0, 2.4, 0.9, 0.5, 0.4)),
    ("whole timesteps", vp_linear(), True, (900.0, 889.0, 870.0, 865.0, 848.0, 839.0, 832.0, 821.0, 806.0)),
)
"""Name, schedule, whether the network knows whole timesteps only, times."""
LEGENDRE = leggauss(40)
WARM_UP = 6
"""Steps that each start from the exact state, so that a multistep method has its past."""


@dataclass(frozen=True)
class Prescribed:
    """A network whose x0 or eps is a polynomial in lambda or sigma / alpha, whatever the state, with its solution."""

    what: str
    variable: str
    polynomial: Polynomial

    @classmethod
    def of(cls, statement: str) -> Prescribed:
        """What a statement says; InputError for one that says nothing known."""
        found = STATEMENT.fullmatch(statement) if isinstance(statement, str) else None
        if not found:
            raise InputError(
                f"exact_for {statement!r}: expected a text as 'x0 linear in lambda' or 'eps constant in sigma/alpha'"
            )
        what, degree, variable = found.groups()
        return cls(what, variable, Polynomial(COEFFICIENTS[: DEGREES[degree] + 1]))

    def at(self, level: Level) -> float:
        """The prescribed number at a level."""
        return float(self.polynomial(level.lambda_ if self.variable == "lambda" else level.sigma_ve))

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """What it says of any state at a level."""
        # Whatever the state is: only then is the solution an integral over nothing but lambda.
        said = torch.full_like(x, self.at(level))
        return Prediction(x, level, said, "x0" if self.what == "x0" else "eps")

    def many(
        self, asked: Sequence[Question], rows: slice = ALL, hints: Mapping[str, Any] | None = None
    ) -> list[Prediction]:
        """What it says of several."""
        # The answer does not depend on the level that the network is told, so `ask` changes nothing.
        return [self(x, level) for x, level, _ in asked]

    def after(self, x: Tensor, a: Level, b: Level) -> Tensor:
        """The exact solution at b from the state x at a, by Gauss-Legendre in lambda.

        d(x / sigma) = e^lambda x0 dlambda, and d(x / alpha) = eps d(sigma / alpha) = -eps e^-lambda dlambda.
        """
        nodes, weights = (torch.from_numpy(part) for part in LEGENDRE)
        # Forty nodes integrate these polynomials times an exponential to the last digits of float64.
        h = b.lambda_ - a.lambda_
        places = a.lambda_ + h * (nodes + 1) / 2
        # sigma / alpha is e^-lambda.
        values = torch.from_numpy(self.polynomial((places if self.variable == "lambda" else (-places).exp()).numpy()))
        if self.what == "x0":
            return x * (b.sigma / a.sigma) + b.sigma * float((weights * places.exp() * values).sum()) * h / 2
        return x * (b.alpha / a.alpha) - b.alpha * float((weights * (-places).exp() * values).sum()) * h / 2


def exactness(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
    """A step from an exact past is exact, on uneven steps and where the network knows whole timesteps only."""
    for statement in sampler.exact_for:
        network = Prescribed.of(statement)
        for name, schedule, integer, times in GRIDS:
            # The grid of whole timesteps shows whether a sampler uses the levels that it gets, and not those that it
            # asked for.
            error = error_of(sampler, network, schedule, [schedule.at_time(t) for t in times], integer=integer)
            yield Finding(f"exact for {statement}, {name}", "exact", f"off by {error:.1e}", error <= TOLERANCE)


def error_of(
    sampler: Sampler, network: Prescribed, schedule: Schedule, levels: Sequence[Level], *, integer: bool
) -> float:
    """The largest error of the steps after the warm-up, each from the exact state."""

    def no_noise(*where: object) -> Tensor:
        raise ValueError("noise was drawn, though the sampler claims to be exact")

    run, past, error = StepContext(tuple(levels), Promptless(network), no_noise, schedule, integer=integer), None, 0.0
    x = torch.tensor([[1.3], [-0.6]], dtype=torch.float64)
    for i, (a, b) in enumerate(itertools.pairwise(levels)):
        run.enter(i)
        # Each step starts from the exact state, so that errors do not add up and each step is judged by itself.
        got, past = sampler.step(run, x, a, b, past)
        x = network.after(x, a, b)
        if i >= WARM_UP:
            error = max(error, float((got - x).abs().max()))
    return error

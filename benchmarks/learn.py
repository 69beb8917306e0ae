"""Make the small files of coefficients that come with `learned`, `epd` and `dpm-solver-v3`.

`python benchmarks/learn.py epd > plugins/samplers/files/epd-mixture.json` makes one for the model `mixture`, in a few
seconds; `python benchmarks/learn.py epd fashion-mnist > plugins/samplers/files/epd-fashion-mnist.json` for another
model, whose network is asked: one or two minutes of a core for the embedded one.

`learned` and `epd` are fitted: their numbers are those with which the samples of some starts are nearest to the ODE
solution, by least squares (Levenberg and Marquardt, derivatives by differences). The statistics of `dpm-solver-v3` are
those of its paper (Zheng et al. 2023): over draws of the mixture, or over what the model itself draws.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

import samplerbench as sb
from samplerbench.bench.conformance.fitted import STEPS, error_of, solution_of
from samplerbench.plugins.models.exact import MIXTURE
from samplerbench.samplers.exact import GaussianMixture
from samplerbench.samplers.level import Level
from samplerbench.samplers.model import Model, predictor_for
from samplerbench.samplers.schedule import Schedule

KNOTS = 41
Vector = np.ndarray[Any, np.dtype[np.float64]]
Content = dict[str, Any]
EXACT = "mixture"
"""The model whose answers are formulas."""


@dataclass(frozen=True)
class Effort:
    """How a file is made. A network answers in float32, so its differences are wider, and it takes its time."""

    starts: int
    """Samples that a fit brings near to their ODE solution."""
    rounds: int
    """Of the fit."""
    solution: int
    """Steps that stand for the ODE solution."""
    dtype: torch.dtype
    difference: float
    """Of a number that is fitted, for its derivative."""
    states: int
    """For each knot of the statistics."""
    near: float
    """Half the length in lambda of a central difference."""
    nudge: float
    """Half the length of a central difference in the state, in sigma."""
    times: Callable[[float, int], Vector]
    """The times of `epd`, from the first of the model and the number of steps; they are not fitted."""


def quadratic(first: float, steps: int) -> Vector:
    """Dense near the data, down to the last time of the model."""
    return np.floor(np.linspace(first**0.5, 0, steps) ** 2)


def even(first: float, steps: int) -> Vector:
    """Each step as long as the others, the last one too."""
    return np.floor(np.linspace(first, 0, steps + 1)[:-1])


OF_FORMULA = Effort(512, 30, 400, torch.float64, 1e-5, 20_000, 1e-3, 1e-4, quadratic)
OF_NETWORK = Effort(32, 6, 60, torch.float32, 1e-3, 64, 1e-2, 1e-2, even)


def rounded(values: Any) -> Any:
    """The numbers of a list, or of lists in it, to 8 digits."""
    if isinstance(values, list | tuple):
        return [rounded(value) for value in values]
    return float(f"{values:.8g}")


# ---- learned and epd ----


def learned(model: Model, effort: Effort) -> tuple[Callable[[Vector], Content], Vector]:
    """Five steps: four rows of weights and four times; the last step is first order, and the first time fixed."""
    steps = 5
    first = [[1.0, *[0.0] * i] for i in range(steps)]
    times = np.linspace(model.schedule.first.t, 0, steps)
    cuts = np.cumsum([i + 1 for i in range(steps - 1)])

    def content(p: Vector) -> Content:
        *rows, moved = np.split(p, cuts)
        return {
            "steps": steps, "weights": [*(row.tolist() for row in rows), first[-1]], "of": "x0",
            "times": [times[0], *(times[1:] + 100 * moved)],
        }  # fmt: skip

    return content, np.concatenate([*(np.array(row) for row in first[:-1]), np.zeros(steps - 1)])


def epd(model: Model, effort: Effort) -> tuple[Callable[[Vector], Content], Vector]:
    """Four steps: in each but the last, two places, their weights, and what the network is told."""
    steps = 4
    times = effort.times(model.schedule.first.t, steps).tolist()
    levels = [model.schedule.at_time(t) for t in times]

    def content(p: Vector) -> Content:
        places, weights, moved = p.reshape(3, steps - 1, 2)
        places = 0.05 + 0.9 / (1 + np.exp(-places))
        asked = [
            [min(max(model.schedule.at_lambda(a.lambda_ + r * (b.lambda_ - a.lambda_)).t + 100 * shift, 0), times[0])
             for r, shift in zip(row, shifts, strict=True)]
            for a, b, row, shifts in zip(levels, levels[1:], places, moved, strict=False)
        ]  # fmt: skip
        return {
            "steps": steps, "times": times, "places": places.tolist(), "weights": weights.tolist(), "asked": asked,
        }  # fmt: skip

    return content, np.array([*[-1.25, 1.25] * (steps - 1), *[0.5] * 2 * (steps - 1), *[0.0] * 2 * (steps - 1)])


def fitted(name: str, model: Model, effort: Effort) -> Content:
    """The content of the file with which a sampler is nearest to the ODE solution."""
    content, p = {"learned": learned, "epd": epd}[name](model, effort)
    x = torch.randn(effort.starts, *model.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x.to(effort.dtype)

    def drawn(sampler: str, steps: int, grid: str | None = None) -> Tensor:
        return sb.sample(model, sampler, steps, grid=grid, x_init=x, batch_size=len(x)).x.double()

    solution = drawn("dpm-solver++:order=3", effort.solution, "logsnr")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.json"

        def residual(p: Vector) -> Vector:
            path.write_text(json.dumps({**about(model), **content(p)}))
            return (drawn(f"{name}:file={path}", content(p)["steps"]) - solution).flatten().numpy()

        before, p = residual(p), least_squares(residual, p, effort)
        errors = " -> ".join(f"{np.sqrt(np.mean(r**2)):.3g}" for r in (before, residual(p)))
        print(f"{name}: root mean square from the ODE solution {errors}", file=sys.stderr)
    return {**about(model), **rounded_content(content(p))}


def about(model: Model) -> Content:
    """What a file is for."""
    return {"fingerprint": hashlib.sha256(model.fingerprint.encode()).hexdigest(), "guidance": 1.0}


def rounded_content(content: Content) -> Content:
    """With numbers of 8 digits."""
    return {key: rounded(value) if isinstance(value, list) else value for key, value in content.items()}


def least_squares(residual: Callable[[Vector], Vector], p: Vector, effort: Effort) -> Vector:
    """The parameters with the least sum of squares near p; those that a file refuses count as worse."""
    r, damping, d = residual(p), 1e-2, effort.difference
    for _ in range(effort.rounds):
        jacobian = np.stack([(residual(p + d * one) - r) / d for one in np.eye(len(p))], axis=1)
        normal, slope = jacobian.T @ jacobian, jacobian.T @ r
        for _ in range(8):
            tried = p - np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-9), slope)
            try:
                new = residual(tried)
            except (sb.SamplerbenchError, ValueError):  # no such place or level
                new = np.full_like(r, np.inf)
            if new @ new < r @ r:
                p, r, damping = tried, new, damping / 3
                break
            damping *= 4
    return p


# ---- dpm-solver-v3 ----


class Known(Protocol):
    """What the statistics are averages of."""

    def states(self, level: Level) -> Tensor:
        """States at a level."""

    def eps(self, x: Tensor, level: Level) -> Tensor:
        """The predicted noise of states."""

    def slope_of_eps(self, x: Tensor, level: Level) -> float:
        """The mean derivative of an element of eps by the same element of x."""


class OfFormula:
    """A mixture of Gaussians: any number of draws, and each element has its own derivative."""

    def __init__(self, data: GaussianMixture, effort: Effort) -> None:
        self.data, self.effort, self.rng = data, effort, np.random.default_rng(0)

    def states(self, level: Level) -> Tensor:
        """Draws with noise."""
        n = self.effort.states
        z = self.rng.standard_normal((n, self.data.dim))
        return torch.from_numpy(level.alpha * self.data.draw(n, seed=1) + level.sigma * z)

    def eps(self, x: Tensor, level: Level) -> Tensor:
        """From the mean of the data that x is of."""
        alpha, sigma = (torch.full((len(x), 1), v, dtype=x.dtype) for v in (level.alpha, level.sigma))
        return (x - level.alpha * self.data.x0(x, alpha, sigma)) / level.sigma

    def slope_of_eps(self, x: Tensor, level: Level) -> float:
        """The diagonal of the Jacobian, by central differences."""
        d = self.effort.nudge * level.sigma
        ways = d * torch.eye(self.data.dim, dtype=x.dtype)
        diagonal = [
            ((self.eps(x + way, level) - self.eps(x - way, level))[:, i] / (2 * d)).mean() for i, way in enumerate(ways)
        ]
        return float(sum(diagonal) / self.data.dim)


class OfNetwork:
    """A model with a network: its own samples with noise, each with its prompt, so that no data set is needed."""

    def __init__(self, model: Model, effort: Effort) -> None:
        n, self.effort = effort.states, effort
        prompts = tuple(model.prompts[i % len(model.prompts)] for i in range(n)) if model.prompts else ()
        drawn = sb.sample(model, "dpm-solver++", effort.solution // 2, n=n, grid="logsnr", batch_size=n)
        self.x0, self.noise = drawn.x, torch.Generator().manual_seed(0)
        self.predict = predictor_for(
            model, prompts=prompts, negative=None, guidance=1.0, batch_size=n, device=torch.device("cpu"),
            dtype=effort.dtype,
        )  # fmt: skip

    def states(self, level: Level) -> Tensor:
        """The samples with fresh noise."""
        z = torch.randn(self.x0.shape, generator=self.noise, dtype=self.x0.dtype)
        return level.alpha * self.x0 + level.sigma * z

    def eps(self, x: Tensor, level: Level) -> Tensor:
        """As a sampler is told it: after the bounds of x0."""
        with torch.inference_mode():
            return self.predict(x, level).eps.double()

    def slope_of_eps(self, x: Tensor, level: Level) -> float:
        """The mean of the diagonal of the Jacobian, along random signs (Hutchinson 1989)."""
        signs = torch.randint(0, 2, x.shape, generator=self.noise) * 2.0 - 1
        way = self.effort.nudge * level.sigma * signs
        moved = self.eps(x + way, level) - self.eps(x - way, level)
        return float((signs * moved).mean()) / (2 * self.effort.nudge * level.sigma)


def statistics(model: Model, known: Known, near: float) -> Content:
    """l, s and b at even steps of lambda: one number each for all elements of a sample."""
    schedule = model.schedule
    lambdas = np.linspace(schedule.first.lambda_ + 2 * near, schedule.last.lambda_ - 2 * near, KNOTS)
    levels = [schedule.at_lambda(float(value)) for value in lambdas]
    states = [known.states(level) for level in levels]
    l = np.array([  # noqa: E741
        level.sigma * known.slope_of_eps(x, level) for x, level in zip(states, levels, strict=True)
    ])  # fmt: skip
    s, b = np.array([
        _regression(
            *_f_and_slope(x, level, known.eps, functools.partial(_line, value, slope, level.lambda_), schedule, near)
        )
        for x, level, value, slope in zip(states, levels, l, np.gradient(l, lambdas), strict=True)
    ]).T  # fmt: skip
    found = {"lambdas": lambdas, "l": l, "s": s, "b": b}
    return {**about(model), **rounded_content({name: values.tolist() for name, values in found.items()})}


def _line(value: float, slope: float, place: float, lambda_: float) -> float:
    """A straight line through a value at a place."""
    return value + slope * (lambda_ - place)


def _f_and_slope(  # noqa: PLR0913  (what the derivative is made of)
    x: Tensor,
    level: Level,
    eps: Callable[[Tensor, Level], Tensor],
    l_at: Callable[[float], float],
    schedule: Schedule,
    near: float,
) -> tuple[Tensor, Tensor]:
    """f = (sigma eps - l x) / alpha and its derivative along the ODE, where dx = (sigma^2 x - sigma eps) dlambda."""

    def f(x: Tensor, level: Level) -> Tensor:
        return (level.sigma * eps(x, level) - l_at(level.lambda_) * x) / level.alpha

    way = level.sigma**2 * x - level.sigma * eps(x, level)
    ahead, back = (f((x + step * way).to(x.dtype), schedule.at_lambda(level.lambda_ + step)) for step in (near, -near))
    return f(x, level), (ahead - back) / (2 * near)


def _regression(f: Tensor, slope: Tensor) -> tuple[float, float]:
    """s and b with which s f + b is nearest to the slope of f."""
    f, slope = f.flatten(), slope.flatten()
    s = float(((f - f.mean()) * (slope - slope.mean())).mean() / f.var(correction=0))
    return s, float(slope.mean()) - s * float(f.mean())


def error_with(content: Content, name: str, model: Model) -> float:
    """The error that a sampler has with a file, as `samplerbench check` measures it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.json"
        path.write_text(json.dumps(content))
        sampler = sb.make_sampler(name, file=str(path))
        error = error_of(sampler, model, sampler.own_grid, sampler.own_steps or STEPS, solution_of(model))
    return rounded(error)


def main() -> None:
    """Print the file of a sampler."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sampler", choices=["learned", "epd", "dpm-solver-v3"])
    parser.add_argument("model", nargs="?", default=EXACT, help=f"as of --model; {EXACT} if left out")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = sb.load_model(given.model)
    effort = OF_FORMULA if given.model == EXACT else OF_NETWORK
    if given.sampler != "dpm-solver-v3":
        content = fitted(given.sampler, model, effort)
    else:
        known: Known = OfFormula(MIXTURE, effort) if given.model == EXACT else OfNetwork(model, effort)
        content = statistics(model, known, effort.near)
    print(json.dumps({**content, "error": error_with(content, given.sampler, model)}))


if __name__ == "__main__":
    main()

"""Make the small files of coefficients that come with `learned`, `epd` and `dpm-solver-v3`, for the model `mixture`.

`python benchmarks/learn.py epd > plugins/samplers/files/epd-mixture.json`; a few seconds each.

`learned` and `epd` are fitted: their numbers are those with which the samples of 512 starts are nearest to the ODE
solution, by least squares (Levenberg and Marquardt, derivatives by differences). The statistics of `dpm-solver-v3` are
those of its paper (Zheng et al. 2023), over 20,000 states a knot.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import samplerbench as sb
from samplerbench.plugins.models.exact import MIXTURE
from samplerbench.samplers.exact import GaussianMixture
from samplerbench.samplers.level import Level
from samplerbench.samplers.model import Model
from samplerbench.samplers.schedule import Schedule

STARTS, ROUNDS = 512, 30
KNOTS, STATES = 41, 20_000
NEAR = 1e-3
"""Half the length in lambda of a central difference."""
Vector = np.ndarray[Any, np.dtype[np.float64]]
Content = dict[str, Any]
MODEL = "mixture"


def rounded(values: Any) -> Any:
    """The numbers of a list, or of lists in it, to 8 digits."""
    if isinstance(values, list | tuple):
        return [rounded(value) for value in values]
    return float(f"{values:.8g}")


# ---- learned and epd ----


def learned(model: Model) -> tuple[Callable[[Vector], Content], Vector]:
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


def epd(model: Model) -> tuple[Callable[[Vector], Content], Vector]:
    """Four steps on quadratic times: in each but the last, two places, their weights, and what the network is told."""
    steps = 4
    times = np.floor(np.linspace(model.schedule.first.t**0.5, 0, steps) ** 2).tolist()
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


def fitted(name: str, model: Model) -> Content:
    """The content of the file with which a sampler is nearest to the ODE solution."""
    content, p = {"learned": learned, "epd": epd}[name](model)
    x = torch.randn(STARTS, *model.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    solution = sb.sample(model, "dpm-solver++:order=3", 400, grid="logsnr", x_init=x).x

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.json"

        def residual(p: Vector) -> Vector:
            path.write_text(json.dumps({**about(model), **content(p)}))
            got = sb.sample(model, f"{name}:file={path}", content(p)["steps"], x_init=x).x
            return (got - solution).flatten().numpy()

        before, p = residual(p), least_squares(residual, p)
        errors = " -> ".join(f"{np.sqrt(np.mean(r**2)):.3g}" for r in (before, residual(p)))
        print(f"{name}: root mean square from the ODE solution {errors}", file=sys.stderr)
    return {**about(model), **rounded_content(content(p))}


def about(model: Model) -> Content:
    """What a file is for."""
    return {"fingerprint": hashlib.sha256(model.fingerprint.encode()).hexdigest(), "guidance": 1.0}


def rounded_content(content: Content) -> Content:
    """With numbers of 8 digits."""
    return {key: rounded(value) if isinstance(value, list) else value for key, value in content.items()}


def least_squares(residual: Callable[[Vector], Vector], p: Vector) -> Vector:
    """The parameters with the least sum of squares near p; those that a file refuses count as worse."""
    r, damping = residual(p), 1e-2
    for _ in range(ROUNDS):
        jacobian = np.stack([(residual(p + 1e-5 * one) - r) / 1e-5 for one in np.eye(len(p))], axis=1)
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


def statistics(model: Model, data: GaussianMixture) -> Content:
    """l, s and b at even steps of lambda: one number each for all elements of a sample."""
    schedule, rng = model.schedule, np.random.default_rng(0)
    lambdas = np.linspace(schedule.first.lambda_ + 2 * NEAR, schedule.last.lambda_ - 2 * NEAR, KNOTS)
    states = []
    for value in lambdas:
        level = schedule.at_lambda(float(value))
        z = rng.standard_normal((STATES, data.dim))
        states.append(torch.from_numpy(level.alpha * data.draw(STATES, seed=1) + level.sigma * z))

    def eps(x: Tensor, level: Level) -> Tensor:
        alpha, sigma = (torch.full((len(x), 1), v, dtype=x.dtype) for v in (level.alpha, level.sigma))
        return (x - level.alpha * data.x0(x, alpha, sigma)) / level.sigma

    def slope_of_eps(x: Tensor, level: Level) -> float:
        """sigma times the mean of the diagonal of the Jacobian, by central differences."""
        d = 1e-4 * level.sigma
        ways = d * torch.eye(data.dim, dtype=x.dtype)
        diagonal = [((eps(x + way, level) - eps(x - way, level))[:, i] / (2 * d)).mean() for i, way in enumerate(ways)]
        return level.sigma * float(sum(diagonal) / data.dim)

    levels = [schedule.at_lambda(float(value)) for value in lambdas]
    l = np.array([slope_of_eps(x, level) for x, level in zip(states, levels, strict=True)])  # noqa: E741
    s, b = np.array([
        _regression(*_f_and_slope(x, level, eps, functools.partial(_near, value, slope, level.lambda_), schedule))
        for x, level, value, slope in zip(states, levels, l, np.gradient(l, lambdas), strict=True)
    ]).T  # fmt: skip
    found = {"lambdas": lambdas, "l": l, "s": s, "b": b}
    return {**about(model), **rounded_content({name: values.tolist() for name, values in found.items()})}


def _near(value: float, slope: float, place: float, lambda_: float) -> float:
    """A straight line through a value at a place."""
    return value + slope * (lambda_ - place)


def _f_and_slope(
    x: Tensor, level: Level, eps: Callable[[Tensor, Level], Tensor], l_at: Callable[[float], float], schedule: Schedule
) -> tuple[Tensor, Tensor]:
    """f = (sigma eps - l x) / alpha and its derivative along the ODE, where dx = (sigma^2 x - sigma eps) dlambda."""

    def f(x: Tensor, level: Level) -> Tensor:
        return (level.sigma * eps(x, level) - l_at(level.lambda_) * x) / level.alpha

    way = level.sigma**2 * x - level.sigma * eps(x, level)
    ahead, back = (f(x + step * way, schedule.at_lambda(level.lambda_ + step)) for step in (NEAR, -NEAR))
    return f(x, level), (ahead - back) / (2 * NEAR)


def _regression(f: Tensor, slope: Tensor) -> tuple[float, float]:
    """s and b with which s f + b is nearest to the slope of f."""
    f, slope = f.flatten(), slope.flatten()
    s = float(((f - f.mean()) * (slope - slope.mean())).mean() / f.var(correction=0))
    return s, float(slope.mean()) - s * float(f.mean())


def main() -> None:
    """Print the file of a sampler."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sampler", choices=["learned", "epd", "dpm-solver-v3"])
    name = parser.parse_args().sampler
    torch.set_num_threads(1)
    model = sb.load_model(MODEL)
    print(json.dumps(statistics(model, MIXTURE) if name == "dpm-solver-v3" else fitted(name, model)))


if __name__ == "__main__":
    main()

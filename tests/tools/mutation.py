"""Mutation run: bugs planted one at a time in the samplers, the grids and the core; each must fail a test.

    python tests/tools/mutation.py [--jobs 2] [NAME...]

A NAME is part of a bug's name. Each worker has its own copy of the package. A bug is killed when a test fails, when
a test file cannot be collected with it, or when the tests run beyond their limit; it survives when every test of
TESTS passes: those of the fast suite, and their further cases. The tests that killed are then run where nothing is
planted, and must pass there. Exit status 1 if fewer than 95 % of the bugs are killed, or if one of these tests fails
without a bug.
"""

from __future__ import annotations

import argparse
import compileall
import multiprocessing
import os
import py_compile
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

# Loaded here once, and not by each of some hundred runs of the tests.
import click  # noqa: F401
import numpy as np  # noqa: F401
import pandas as pd  # noqa: F401
import pytest
import safetensors.torch  # noqa: F401
import torch

ROOT = Path(__file__).resolve().parents[2]
KILLED = 0.95
"""Share of the bugs that must be killed."""
LIMIT = 3600
"""Seconds for the tests, many times what they take on a busy machine; beyond them the bug hangs."""

TESTS = (
    "samplers_exact", "classic_samplers", "modern_samplers", "learned", "learned_files", "ddpm", "schedule",
    "predictor", "noise", "noise_devices", "grid", "guidance", "open_core", "open_samplers", "conformance",
)  # fmt: skip
"""The test files, the fast ones first."""
CLASSIC = (
    "dpm2", "dpm2_ancestral", "dpm_solver_adaptive", "edm", "gradient_estimation", "heun", "ipndm", "ipndm_v", "lms",
    "plms", "restart",
)  # fmt: skip
LEARNED = "plugins/samplers/learned.py"
FROM_FILES = ("dpm_solver_v3", "epd_points", "model_statistics")
OPEN = ("dpm_solver_pp_cfg_pp", "epd", "euler_ancestral_cfg_pp", "euler_cfg_pp", "paradigms")
MODERN = (
    "deis", "dpm_solver_pp_sde", "dpm_solver_pp_sde_single", "dpm_solver_pp_single", "er_sde", "lcm", "res",
    "sa_solver", "seeds", "tcd", "unipc",
)  # fmt: skip
FIRST = {
    **{f"plugins/samplers/{name}.py": ("classic_samplers", "conformance") for name in CLASSIC},
    **{f"plugins/samplers/{name}.py": ("modern_samplers", "conformance") for name in MODERN},
    "plugins/samplers/dpm_solver.py": ("classic_samplers", "conformance"),
    "plugins/samplers/dpm_solver_pp.py": ("modern_samplers", "conformance"),
    **{f"plugins/samplers/{name}.py": ("open_samplers", "conformance") for name in OPEN},
    LEARNED: ("learned",),
    "plugins/samplers/learned_weights.py": ("learned",),
    **{f"plugins/samplers/{name}.py": ("learned_files", "open_samplers") for name in FROM_FILES},
    "plugins/samplers/ancestral.py": ("modern_samplers",),
    "plugins/samplers/published_weights.py": ("classic_samplers",),
    "plugins/grids/shift_twice.py": ("grid",),
    "plugins/grids/grids.py": ("grid", "modern_samplers"),
    "samplers/predictor.py": ("predictor", "guidance", "open_core"),
    "samplers/schedule.py": ("schedule",),
    "samplers/grid.py": ("grid",),
    "samplers/noise.py": ("noise",),
    "samplers/philox.py": ("noise",),
    "samplers/philox_torch.py": ("noise_devices",),
    "samplers/sampler.py": ("noise", "samplers_exact", "predictor"),
    "samplers/ddpm.py": ("ddpm", "conformance"),
    "samplers/exact.py": ("samplers_exact", "conformance"),
}
"""Mutated file -> the test files that are likely to kill."""


class Bug(NamedTuple):
    """A mistake: in `file`, `text`, which is there once, becomes `replacement`."""

    name: str
    """What is mutated, a colon, the mistake. In a plugin, tests with what is mutated in their name run first."""
    file: str
    text: str
    replacement: str


BUGS: list[Bug] = []


def plant(file: str, *bugs: tuple[str, str, str]) -> None:
    """Add bugs of one file: (name, text, replacement)."""
    BUGS.extend(Bug(name, file, text, replacement) for name, text, replacement in bugs)


# ---- The samplers ----

plant(
    "plugins/samplers/ddim.py",
    ("ddim: variance of the noise added to that of eps", "b.sigma**2 - s**2", "b.sigma**2 + s**2"),
    (
        "ddim: noise drawn where its factor is zero",
        "x + s * run.noise(a, b) if s else x, None",
        "x + s * run.noise(a, b), None",
    ),
    ("ddim: ratio of the levels without its square", "(b.sigma_ve / a.sigma_ve) ** 2)", "(b.sigma_ve / a.sigma_ve))"),
    ("ddim: eta twice in the deviation", "s = self.eta * b.sigma", "s = self.eta**2 * b.sigma"),
    ("ddim: calls of one step too many declared", "return steps\n", "return steps + 1\n"),
)
plant(
    "plugins/samplers/ddpm.py",
    ("ddpm: weights of x and x0 swapped", "mean(q.x_weight, q.x0_weight)", "mean(q.x0_weight, q.x_weight)"),
    ("ddpm: variance in place of the deviation", "x + q.std * run", "x + q.std**2 * run"),
    ("ddpm: option variance without effect", "posterior(a, b, self.variance)", "posterior(a, b)"),
)
plant(
    "plugins/samplers/deis.py",
    ("deis: sign of what the past adds", "x = x - b.sigma * w_j", "x = x + b.sigma * w_j"),
    ("deis: past one too long", "[: self.order + 1]", "[: self.order + 2]"),
    ("deis: past reversed", "*(past or [])]", "*reversed(past or [])]"),
    ("deis: kernel of growth from the wrong end", "np.exp(h * (1 - U))", "np.exp(h * U)"),
    ("deis: weights one place off", "zip(weights[1:], history[1:]", "zip(weights[:-1], history[1:]"),
    ("deis: newest eps not taken off the older", "(eps_j - eps)", "eps_j"),
    ("deis: places of the past mirrored", "(lambda_ - a.lambda_) / h for", "(a.lambda_ - lambda_) / h for"),
)
plant(
    "plugins/samplers/dpm2.py",
    (
        "dpm2: step in sigma, not in sigma / alpha",
        "euler + b.alpha * (b.sigma_ve - a.sigma_ve) *",
        "euler + b.alpha * (b.sigma - a.sigma) *",
    ),
    ("dpm2: sign of the step", "(b.sigma_ve - a.sigma_ve)", "(a.sigma_ve - b.sigma_ve)"),
    ("dpm2: correction not scaled by alpha", "euler + b.alpha * (b.sigma_ve", "euler + (b.sigma_ve"),
    (
        "dpm2: middle state with the noise of the start",
        "combine(middle.alpha, middle.sigma)",
        "combine(middle.alpha, a.sigma)",
    ),
    ("dpm2: middle asked as if at the end", "middle.sigma), middle)", "middle.sigma), b)"),
    ("dpm2: correction by half", "(at_middle.eps - at_a.eps)", "(at_middle.eps - at_a.eps) / 2"),
)
plant(
    "plugins/samplers/dpm2_ancestral.py",
    ("dpm2-a: middle on the way to b, not down", "math.log(s_down)", "math.log(s)"),
    ("dpm2-a: noise not scaled by alpha", "x + b.alpha * s_up * run", "x + s_up * run"),
    ("dpm2-a: deviations subtracted", "math.sqrt(s**2 - s_up**2)", "s - s_up"),
    ("dpm2-a: step to b, not down", "(s_down - a.sigma_ve)", "(s - a.sigma_ve)"),
    ("dpm2-a: eta without effect", "s_up = self.eta * s *", "s_up = s *"),
)
plant(
    "plugins/samplers/dpm_solver.py",
    ("dpm-solver: order 2, sign of h", "b.sigma * math.expm1(h) / (2", "b.sigma * math.expm1(-h) / (2"),
    ("dpm-solver: order 2, factor 1/2 missing", "/ (2 * r1) * d1", "/ r1 * d1"),
    ("dpm-solver: order 3, ratio of the first place", "first_order - b.sigma / r2", "first_order - b.sigma / r1"),
    ("dpm-solver: order 3, ratio of the places upside down", "s2.sigma * r2 / r1", "s2.sigma * r1 / r2"),
    (
        "dpm-solver: order 3, whole step for the second place",
        "(math.expm1(r2 * h) / (r2 * h) - 1)",
        "(math.expm1(h) / h - 1)",
    ),
    ("dpm-solver: order 3, help of the first derivative missing", "- bend * d1, s2)", ", s2)"),
    ("dpm-solver: first place asked as if at the start", "s1.sigma), s1)", "s1.sigma), a)"),
    (
        "dpm-solver: no call declared for the last step",
        "sum(self._orders(steps - 1)) + 1",
        "sum(self._orders(steps - 1))",
    ),
    ("fast: budget of one call more", "3 * noisy + 1 - nfe", "3 * noisy + 2 - nfe"),
    (
        "fast: lower orders at the start",
        "(self.saved + i) // noisy",
        "(self.saved + noisy - 1 - i) // noisy",
    ),
    ("fast: an interval less than the budget has", "math.ceil((nfe - 1) / 3)", "(nfe - 1) // 3"),
)
plant(
    "plugins/samplers/dpm_solver_adaptive.py",
    ("adaptive: sign of the second order", "second = first - t.sigma_ve", "second = first + t.sigma_ve"),
    ("adaptive: lower order kept", "return b.alpha * high, h", "return b.alpha * low, h"),
    ("adaptive: no step rejected", "factor < ACCEPTED and", "factor < 0 and"),
    ("adaptive: exponent of another order", "(-1 / self.order)", "(-1 / (self.order + 1))"),
    ("adaptive: step forgotten between intervals", "tries = past or [self.h] * len(x)", "tries = [self.h] * len(x)"),
    ("adaptive: tolerances swapped", "mul(self.rtol).clamp(min=self.atol)", "mul(self.atol).clamp(min=self.rtol)"),
    ("adaptive: order 3, ratio of the first place", "t.sigma_ve / r2", "t.sigma_ve / r1"),
    ("adaptive: state compared without 1 / alpha", "x / a.alpha\n", "x\n"),
)
plant(
    "plugins/samplers/dpm_solver_pp.py",
    ("dpm-solver++: 2M, sign of the correction", "x - 0.5 * b.alpha", "x + 0.5 * b.alpha"),
    ("dpm-solver++: 2M, growth in place of decay", "b.alpha * math.expm1(-h) * d1", "b.alpha * math.expm1(h) * d1"),
    ("dpm-solver++: ratio of the steps upside down", "d1_0 = (m0 - m1) / r0", "d1_0 = (m0 - m1) * r0"),
    ("dpm-solver++: 3M, older ratio twice", "/ r1) / (r0 + r1)", "/ r1) / (r1 + r1)"),
    ("dpm-solver++: 3M, first derivative with the older ratio", "d1_0 + r0 * bend", "d1_0 + r1 * bend"),
    ("dpm-solver++: 3M, second derivative by half", "else 2 * bend", "else bend"),
    ("dpm-solver++: 3M, sign of the second derivative", "phi2 * d1 - phi3 * d2", "phi2 * d1 + phi3 * d2"),
    ("dpm-solver++: past reversed", "*(past or [])]", "*reversed(past or [])]"),
    ("dpm-solver++: past one too short", "[: self.order]", "[: max(1, self.order - 1)]"),
)
plant(
    "plugins/samplers/dpm_solver_pp_sde.py",
    ("dpm-solver++-sde: variance of the noise", "math.sqrt(1 - decay**2)", "math.sqrt(1 - decay)"),
    ("dpm-solver++-sde: eta squared in the decay", "** self.eta  #", "** self.eta**2  #"),
    ("dpm-solver++-sde: step of the ODE in the kernel", "(1 + self.eta) * h", "h"),
    ("dpm-solver++-sde: order 3, one h without eta", "(phi2 / h_eta - 0.5)", "(phi2 / h - 0.5)"),
    ("dpm-solver++-sde: coefficients swapped", '== "published")', '!= "published")'),
    ("dpm-solver++-sde: variants swapped", 'self.variant == "heun"', 'self.variant == "midpoint"'),
    ("dpm-solver++-sde: weight of x0 without the scale", "b.alpha - a.alpha * kept)", "b.alpha * (1 - kept))"),
)
plant(
    "plugins/samplers/dpm_solver_pp_single.py",
    ("dpm-solver++-single: order 2, sign", "x - b.alpha * math.expm1(-h)", "x + b.alpha * math.expm1(-h)"),
    ("dpm-solver++-single: order 2, factor 1/2 missing", "/ (2 * r1) * d1", "/ r1 * d1"),
    (
        "dpm-solver++-single: order 3, ratio of the first place",
        "b.alpha / r2 * _phi2(h)",
        "b.alpha / r1 * _phi2(h)",
    ),
    ("dpm-solver++-single: order 3, whole step for the second place", "_phi2(r2 * h)", "_phi2(h)"),
    ("dpm-solver++-single: noise not scaled by alpha", "x + b.alpha * s_up * run", "x + s_up * run"),
    ("dpm-solver++-single: to b, not down", "run, x, a, down)", "run, x, a, b)"),
    ("dpm-solver++-single: level down not scaled by alpha", "Level(b.alpha, b.alpha * math", "Level(b.alpha, math"),
)
plant(
    "plugins/samplers/edm.py",
    ("edm: growth without its bound", "math.sqrt(2) - 1)", "math.sqrt(2))"),
    ("edm: churn spread over one interval more", "(len(run.grid) - 1)", "len(run.grid)"),
    ("edm: deviations subtracted", "math.sqrt(hat.sigma_ve**2 - a.sigma_ve**2)", "(hat.sigma_ve - a.sigma_ve)"),
    ("edm: s_noise without effect", "added = self.s_noise * math", "added = math"),
    ("edm: state scaled the wrong way", "hat.alpha / a.alpha * x", "a.alpha / hat.alpha * x"),
    ("edm: step from the level before the churn", "heun_step(run, x, hat, b)", "heun_step(run, x, a, b)"),
    ("edm: noise not scaled by alpha", "x + hat.alpha * added", "x + added"),
    ("edm: churn in the last step", "if b.is_clean or a is first", "if a is first"),
    ("edm: bounds swapped", "self.s_tmin <= a.sigma_ve <= self.s_tmax", "self.s_tmax <= a.sigma_ve <= self.s_tmin"),
)
plant(
    "plugins/samplers/er_sde.py",
    ("er-sde: variance of the noise", "math.sqrt(1 - decay**2)", "math.sqrt(1 - decay)"),
    ("er-sde: constant of the noise scale function missing", "np.exp(rho**0.3) + 10", "np.exp(rho**0.3)"),
    (
        "er-sde: sign of the first integral",
        "rho_b - rho_a + float(measure.sum())",
        "rho_b - rho_a - float(measure.sum())",
    ),
    ("er-sde: second derivative by half", "d2 = 2 * (d1", "d2 = (d1"),
    ("er-sde: second derivative over the older step", "/ (rho_a - rho2)", "/ (rho1 - rho2)"),
    (
        "er-sde: noise scale function upside down",
        "self._scale(rho_b) / self._scale(rho)",
        "self._scale(rho) / self._scale(rho_b)",
    ),
    ("er-sde: second integral without its half", "(rho_b - rho_a) ** 2 / 2", "(rho_b - rho_a) ** 2"),
    ("er-sde: correction not scaled by alpha", "x + b.alpha * self._bend", "x + self._bend"),
    ("er-sde: past one too short", "[: self.order]", "[: max(1, self.order - 1)]"),
)
plant(
    "plugins/samplers/euler.py",
    ("euler: sign of eps", "combine(b.alpha, b.sigma)", "combine(b.alpha, -b.sigma)"),
    ("euler: stays where it is", "combine(b.alpha, b.sigma)", "combine(a.alpha, a.sigma)"),
    ("euler: first step not declared", "return steps\n", "return steps - 1\n"),
)
plant(
    "plugins/samplers/euler_ancestral.py",
    (
        "euler-a: variance in place of the deviation",
        "math.sqrt(1 - (s / a.sigma_ve) ** 2)",
        "(1 - (s / a.sigma_ve) ** 2)",
    ),
    ("euler-a: noise not scaled by alpha", "x + b.alpha * s_up * run", "x + s_up * run"),
    ("euler-a: deviations subtracted", "math.sqrt(s**2 - s_up**2)", "s - s_up"),
    ("euler-a: bound of the noise half as high", "min(s, self.eta", "min(s / 2, self.eta"),
    ("euler-a: eta without effect", "self.eta * s * math", "s * math"),
)
plant(
    "plugins/samplers/heun.py",
    ("heun: sum of the slopes for their mean", "euler + 0.5 * b.alpha", "euler + b.alpha"),
    ("heun: sign of the step", "(b.sigma_ve - a.sigma_ve)", "(a.sigma_ve - b.sigma_ve)"),
    ("heun: end asked as if at the start", "run.predict(euler, b)", "run.predict(euler, a)"),
    ("heun: in t, one scale for both ends", "a.sigma / scale_a", "a.sigma / scale_b"),
    (
        "heun: in t, sign of x0 in the slope",
        "(at_b.combine(-1, 1) - at_a.combine(-1, 1))",
        "(at_b.combine(1, 1) - at_a.combine(1, 1))",
    ),
    ("heun: two calls declared for the last step", "2 * steps - 1", "2 * steps"),
)
plant(
    "plugins/samplers/ipndm.py",
    ("ipndm: order 2 as Adams-Moulton", "(3 / 2, -1 / 2)", "(1 / 2, 1 / 2)"),
    ("ipndm: order 3, sign of the middle weight", "-16 / 12", "16 / 12"),
    ("ipndm: order 4, weights swapped", "37 / 24, -9 / 24", "-9 / 24, 37 / 24"),
    ("ipndm: newest eps twice", "newest * (weights[0] - 1)", "newest * weights[0]"),
    ("ipndm: past reversed", "*(past or [])]", "*reversed(past or [])]"),
    ("ipndm: step not scaled by alpha", "euler + b.alpha * (b.sigma_ve", "euler + (b.sigma_ve"),
)
plant(
    "plugins/samplers/published_weights.py",
    ("ipndm-v: without the slip in the second difference", "- (1 - share) / 2 * ratio", "- (1 - share * ratio) / 2"),
    ("ipndm-v: last weight exact", "h1 / h2 / (h2 / h3)", "1"),
    ("ipndm-v: third difference exact", "ratio * h / (3 *", "0 * h / (3 *"),
)
plant(
    "plugins/samplers/ipndm_v.py",
    ("ipndm-v: past reversed", "*(past or [])]", "*reversed(past or [])]"),
    ("ipndm-v: Euler step counted twice", "weights[0] -= b.sigma_ve - a.sigma_ve", "weights[0] -= 0"),
)
plant(
    "plugins/samplers/gradient_estimation.py",
    ("gradient-estimation: away from the newest", "(eps - past)", "(past - eps)"),
    ("gradient-estimation: gamma not less 1", "(self.gamma - 1)", "self.gamma"),
)
plant(
    "plugins/samplers/res.py",
    ("res: phi_2 of h for -h", "math.expm1(-h) / h + 1", "math.expm1(h) / h - 1"),
    (
        "res: place of the other prediction",
        "((lambda_ - a.lambda_) / h, earlier)",
        "((a.lambda_ - lambda_) / h, earlier)",
    ),
)
plant(
    "plugins/samplers/dpm_solver_pp_sde_single.py",
    ("dpm-solver++-sde-single: noise of the step not that of its middle", "part * z", "part * run.noise(a, s)"),
    ("dpm-solver++-sde-single: middle without noise", "middle + s.alpha * up_s * z", "middle"),
)
plant(
    "plugins/samplers/tcd.py",
    ("tcd: eta for 1 - eta", "(1 - self.eta) * b.t", "self.eta * b.t"),
    ("tcd: noise not scaled by alpha", "b.alpha * math.sqrt(b.sigma_ve", "math.sqrt(b.sigma_ve"),
)
plant(
    LEARNED,
    ("learned: newest weight not less 1", "known.weights[i][0] - 1", "known.weights[i][0]"),
    ("learned: past reversed", "*(past or [])]", "*reversed(past or [])]"),
    ("learned: told the time of another step", "known.asked[i]", "known.asked[i - 1]"),
)
plant(
    "plugins/samplers/learned_weights.py",
    ("learned: factor of x0 without sigma", "alpha - a.alpha * sigma / a.sigma", "alpha - a.alpha * sigma"),
    (
        "learned: sign of the flow's factor",
        "(sigma * a.alpha - alpha * a.sigma)",
        "(alpha * a.sigma - sigma * a.alpha)",
    ),
)
plant(
    "plugins/samplers/ancestral.py",
    ("ancestral: eta twice", "up = eta * b.sigma_ve", "up = eta**2 * b.sigma_ve"),
    ("ancestral: variances added", "b.sigma_ve**2 - up**2", "b.sigma_ve**2 + up**2"),
)
plant(
    "plugins/samplers/dpm_solver_v3.py",
    (
        "dpm-solver-v3: corrected from the predicted state",
        "x = take_step(self.known or PLAIN, x, b, [",
        "x = take_step(self.known or PLAIN, predicted, b, [",
    ),
    (
        "dpm-solver-v3: the statistics of the default",
        "predicted = take_step(self.known or PLAIN",
        "predicted = take_step(PLAIN",
    ),
    ("dpm-solver-v3: corrector without the older", "[history[0], at_b, *history[1:]]", "[history[0], at_b]"),
)
plant(
    "plugins/samplers/model_statistics.py",
    ("dpm-solver-v3: g not moved by b", "constant = constant + weight * less", "constant = constant - weight * less"),
    ("dpm-solver-v3: g moved the wrong way by s", "np.exp(-stretch.total(s))", "np.exp(stretch.total(s))"),
    ("dpm-solver-v3: E without s", "stretch.up_to(l + s)", "stretch.up_to(l)"),
    ("dpm-solver-v3: l of f left out", "* (1 - share) * level.sigma_ve", "* level.sigma_ve"),
    ("dpm-solver-v3: pieces across the knots", "for knot in known.lambdas if low < knot < high", "for knot in ()"),
    ("dpm-solver-v3: polynomial of the other places", "/ (place - other)", "/ (other - place)"),
)
plant(
    "plugins/samplers/lcm.py",
    ("lcm: keeps the noise", "combine(b.alpha, 0.0)", "combine(b.alpha, b.sigma)"),
    (
        "lcm: noise in the last step",
        "return x if b.is_clean else",
        "return x + 0.1 * run.noise(a, b) if b.is_clean else",
    ),
)
plant(
    "plugins/samplers/lms.py",
    ("lms: integral in units of the step", "c.append(h * float(", "c.append(float("),
    ("lms: sign of the older predictions", "(eps - prediction.eps)", "(prediction.eps - eps)"),
    ("lms: integral over half the step", "lagrange.integ()(1.0)", "lagrange.integ()(0.5)"),
    ("lms: weights one place off", "history[1:], c[1:]", "history[1:], c[:-1]"),
    ("lms: past reversed", "*(past or [])]", "*reversed(past or [])]"),
    ("lms: past one too short", "[: self.order]", "[: max(1, self.order - 1)]"),
)
plant(
    "plugins/samplers/plms.py",
    ("plms: start without the mean of the slopes", "- prediction.eps) / 2", "- prediction.eps)"),
    ("plms: start asks twice at the same level", "run.predict(euler, b)", "run.predict(euler, a)"),
    ("plms: past one too short", "[:4]", "[:3]"),
    ("plms: second call of the start not declared", "steps + 1 if steps > 1 else 1", "steps"),
    ("plms: step not scaled by alpha", "euler + b.alpha * (b.sigma_ve", "euler + (b.sigma_ve"),
)
plant(
    "plugins/samplers/restart.py",
    ("restart: deviations subtracted", "math.sqrt(up.sigma_ve**2 - b.sigma_ve**2)", "up.sigma_ve - b.sigma_ve"),
    ("restart: one repetition less", "range(self.k)", "range(self.k - 1)"),
    ("restart: state scaled the wrong way", "up.alpha / b.alpha * x", "b.alpha / up.alpha * x"),
    ("restart: noise not scaled by alpha", "x + up.alpha * added", "x + added"),
    ("restart: levels of another exponent", "RHO = 7", "RHO = 3"),
    ("restart: turns at the level nearest to s_max", "level.sigma_ve - self.s_min)", "level.sigma_ve - self.s_max)"),
    ("restart: levels counted for intervals", "2 * self.k * (self.steps - 1)", "2 * self.k * self.steps"),
    ("restart: inner levels one too near", "i / (self.steps - 1) *", "i / self.steps *"),
)
plant(
    "plugins/samplers/sa_solver.py",
    ("sa-solver: tau not squared in the decay", "** self.tau**2  #", "** self.tau  #"),
    ("sa-solver: variance of the noise", "math.sqrt(1 - decay**2)", "math.sqrt(1 - decay)"),
    ("sa-solver: kernel of the ODE", "-(1 + self.tau**2) * h)", "-h)"),
    (
        "sa-solver: corrected from the predicted state",
        "x = self._add(x, a, b, [*history",
        "x = self._add(predicted, a, b, [*history",
    ),
    (
        "sa-solver: new prediction first among the points",
        "[*history[: self.corrector], at_b]",
        "[at_b, *history[: self.corrector]]",
    ),
    ("sa-solver: past in the wrong order", "[at_b, *history]", "[*history, at_b]"),
    ("sa-solver: sign of what the points add", "x - b.alpha * w_j", "x + b.alpha * w_j"),
    (
        "sa-solver: predictor with the corrector's past",
        "self._add(x, a, b, history[: self.predictor])",
        "self._add(x, a, b, history)",
    ),
    ("sa-solver: old prediction taken for the new", "if not history or history[0][0] != a.lambda_:", "if not history:"),
)
plant(
    "plugins/samplers/seeds.py",
    ("seeds: variance of the noise", "math.sqrt(1 - decay**2)", "math.sqrt(1 - decay)"),
    ("seeds: noise of the stages forgotten", "noise = kept * noise + std", "noise = std"),
    ("seeds: noise of the stages not damped", "noise = kept * noise + std", "noise = noise + std"),
    ("seeds: stage asked as if at the end", "run.predict(x, s).x0", "run.predict(x, b).x0"),
    ("seeds: kernel of the ODE", "h_eta = (1 + self.eta) * h", "h_eta = h"),
    ("seeds: ratio of the places upside down", "h / h_before * slope", "h_before / h * slope"),
    ("seeds: order 2 with the slope of order 3", "if self.order == 2 else math", "if self.order != 2 else math"),
    ("seeds: full calls declared for the last step", "self.order * (steps - 1) + 1", "self.order * steps"),
)
plant(
    "plugins/samplers/unipc.py",
    ("unipc: one rho, factor 1/2 missing", "[0.5 * (h", "[(h"),
    ("unipc: variants swapped", 'self.variant == "bh1"', 'self.variant == "bh2"'),
    (
        "unipc: corrected from the predicted state",
        "self._add(x, b, h, [*r, 1.0]",
        "self._add(predicted, b, h, [*r, 1.0]",
    ),
    ("unipc: ratios in another order than the differences", "[*r, 1.0], [*d,", "[1.0, *r], [*d,"),
    ("unipc: sign of the weights", "[-w for w in", "[w for w in"),
    ("unipc: end of the step without its difference", "m_b - m0]", "m_b]"),
    ("unipc: kernel of growth", "[0.0, *r], -h)", "[0.0, *r], h)"),
    ("unipc: past in the wrong order", "[(b.lambda_, m_b), *history]", "[*history, (b.lambda_, m_b)]"),
)

# ---- The grids ----

plant(
    "plugins/grids/shift_twice.py",
    ("shift-twice: the last time not shifted before", "last=shifted_last", "last=1 / self.timesteps"),
    ("shift-twice: the last time shifted by another factor", "Shift(self.factor, last=1 / self", "Shift(last=1 / self"),
)

plant(
    "plugins/grids/grids.py",
    ("uniform: flow divided into one more", "1 - i / steps for", "1 - i / (steps + 1) for"),
    ("uniform: EDM's sigmas rounded too", "times.round() if isinstance(schedule, VP) else times", "times.round()"),
    (
        "shift: the other way",
        "self.factor * even / (1 + (self.factor - 1) * even)",
        "even / (self.factor - (self.factor - 1) * even)",
    ),
    ("shift: last time without effect", "self.last or 1 / steps", "1 / steps"),
    ("leading: last timestep of each interval", "(steps - 1 - i) * total // steps", "(steps - i) * total // steps - 1"),
    ("leading: steps of a whole number", "(steps - 1 - i) * total // steps", "(steps - 1 - i) * (total // steps)"),
    ("trailing: off by one", "round(total - i * total / steps) - 1", "round(total - (i + 1) * total / steps)"),
    ("trailing: floor in place of round", "round(total - i * total / steps)", "int(total - i * total / steps)"),
    ("quadratic: from the noisiest timestep", "math.sqrt(0.8 * total)", "math.sqrt(total - 1)"),
    ("quadratic: round in place of floor", "np.floor(", "np.round("),
    (
        "logsnr: even in sigma",
        "np.exp(np.linspace(math.log(first), math.log(last), steps))",
        "np.linspace(first, last, steps)",
    ),
    ("karras: rho without effect", "roots**self.rho", "roots**7"),
    ("karras: root of the cleanest level missing", "last ** (1 / self.rho), steps)", "last, steps)"),
    (
        "polyexponential: root in place of the power",
        "np.linspace(1, 0, steps) ** self.rho",
        "np.linspace(1, 0, steps) ** (1 / self.rho)",
    ),
    ("polyexponential: rho without effect", "np.linspace(1, 0, steps) ** self.rho\n", "np.linspace(1, 0, steps)\n"),
    ("beta: shapes swapped", "steps), self.alpha, self.beta)", "steps), self.beta, self.alpha)"),
    ("beta: variables swapped", 'if self.variable == "sigma":', 'if self.variable == "t":'),
    ("beta: sign in the series", "(n[1:] - b) / n[1:]", "(n[1:] + b) / n[1:]"),
    ("beta: far half mirrored", "left, whole - right) / whole", "left, right) / whole"),
    (
        "cosine: even in sigma",
        "np.tan(np.linspace(math.atan(first), math.atan(last), steps))",
        "np.linspace(first, last, steps)",
    ),
    ("ays: even in sigma", "np.log(ALIGNED[self.model])", "np.asarray(ALIGNED[self.model])"),
    ("ays: clean end among the steps", "len(shares) - 1, steps + 1)[:-1]", "len(shares) - 1, steps)"),
    ("ays: digits of a level swapped", "0.963", "0.936"),
    ("ays: digits of a level for video swapped", "54.5", "45.5"),
    ("ays: digits of a level for the first stage swapped", "1.885", "1.858"),
)

# ---- The core ----

plant(
    "samplers/predictor.py",
    ("eps: sign of sigma", "(1 / alpha, -sigma / alpha)", "(1 / alpha, sigma / alpha)"),
    ("x0: sign of alpha", "(1 / sigma, -alpha / sigma)", "(1 / sigma, alpha / sigma)"),
    ("v: sign of sigma", "(alpha / norm, -sigma / norm), (sigma", "(alpha / norm, sigma / norm), (sigma"),
    ("v: norm of variance preserving schedules alone", "norm = alpha**2 + sigma**2", "norm = 1.0"),
    ("flow: alpha and sigma swapped", "(1 / norm, alpha / norm)", "(1 / norm, sigma / norm)"),
    ("mean: alpha in place of sigma", "x_weight * self.level.sigma)", "x_weight * self.level.alpha)"),
    (
        "guidance: conditions swapped",
        "lerp(negative.answer, positive.answer,",
        "lerp(positive.answer, negative.answer,",
    ),
    ("guidance: one more", "positive.answer, self.guidance)", "positive.answer, 1 + self.guidance)"),
    ("rescale: deviation of the wrong x0", "rescale_x0(guided, positive.x0,", "rescale_x0(guided, negative.x0,"),
    ("rescale: ratio upside down", "wanted / has, 1.0)", "has / wanted, 1.0)"),
    ("rescale: shares swapped", "phi * ratio + (1 - phi)", "(1 - phi) * ratio + phi"),
    (
        "rescale: deviation of all samples together",
        "x.flatten(1).std(1, correction=0)",
        "x.std(correction=0).expand(len(x))",
    ),
    ("threshold: not scaled back", "x0.clamp(-s, s) * (bound / s)", "x0.clamp(-s, s)"),
    ("threshold: quantile of x0 and not of its size", "x0.flatten(1).abs().quantile", "x0.flatten(1).quantile"),
    ("threshold: small samples scaled up", ".clamp(min=bound)", ".clamp(max=bound)"),
    ("clip: x0 not clipped", ".x0.clamp_(self.low, self.high), ", ".x0, "),
    (
        "interval: rows of a question forgotten",
        "predictor.many(some, rows, hints)",
        "predictor.many(some, hints=hints)",
    ),
    ("interval: hints forgotten", "predictor.many(some, rows, hints)", "predictor.many(some, rows)"),
    ("interval: its upper end outside", "low < level.sigma_ve <= high", "low < level.sigma_ve < high"),
    ("pad: last rows not padded", "[_pad(states, start, size) for", "[states[start : start + size] for"),
    ("condition: that of the first rows for all", "_pad(c, start, size)", "_pad(c, 0, size)"),
    ("rows: condition of other rows", "[condition[rows] for condition in", "[condition for condition in"),
    ("counted: rows in place of calls", "self.nfe += states", "self.nfe += states * rows"),
    (
        "dtype: state in the network's precision",
        "kept = torch.empty_like(x, memory",
        "kept = torch.empty_like(state, memory",
    ),
    (
        "dtype: several states in the network's precision",
        "[torch.empty_like(x, memory",
        "[torch.empty_like(inputs[0], memory",
    ),
)
plant(
    "samplers/schedule.py",
    ("lambda: square of alpha", "log_alpha = -0.5 * float(", "log_alpha = -1.0 * float("),
    (
        "vp: variance not preserved between timesteps",
        "math.sqrt(-math.expm1(2 * log_alpha)), t)",
        "1 - math.exp(log_alpha), t)",
    ),
    ("vp: first level one too clean", "self.at_time(self.timesteps - 1)", "self.at_time(self.timesteps - 2)"),
    (
        "vp: clean end with timestep 0's signal",
        "return Level(1.0, 0.0, math.nan)",
        "return Level(self.last.alpha, 0.0, math.nan)",
    ),
    ("vp: alpha in place of its root", '"_log_alpha", 0.5 * np.log(abar)', '"_log_alpha", np.log(abar)'),
    (
        "linear: last beta left out",
        "beta_start, beta_end, timesteps, dtype=np.float64)",
        "beta_start, beta_end, timesteps, False, dtype=np.float64)",
    ),
    (
        "scaled_linear: betas linear",
        "np.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=np.float64) ** 2",
        "np.linspace(beta_start, beta_end, timesteps)",
    ),
    ("cosine: not squared", "np.pi / 2) ** 2", "np.pi / 2)"),
    ("cosine: ten times the offset", "s: float = 0.008", "s: float = 0.08"),
    ("cosine: largest beta", "max_beta: float = 0.999", "max_beta: float = 0.9999"),
    ("flow: lambda with the wrong sign", "np.logaddexp(0.0, lambda_)", "np.logaddexp(0.0, -lambda_)"),
    (
        "flow: variance preserved",
        "Level(1.0 - t, float(t), float(t))",
        "Level(math.sqrt(1.0 - t * t), float(t), float(t))",
    ),
    ("edm: prior of unit scale", "return first.sigma\n", "return 1.0\n"),
    ("edm: lambda with the wrong sign", "self.at_time(math.exp(-lambda_))", "self.at_time(math.exp(lambda_))"),
    ("edm: cleanest level is the noisiest", "self.at_time(self.sigma_min)", "self.at_time(self.sigma_max)"),
    ("zero_terminal: not scaled back to its start", " / (alpha[0] - alpha[-1])", ""),
    (
        "zero_terminal: alpha in place of its square",
        "schedule.alphas_cumprod[0] * share**2",
        "schedule.alphas_cumprod[0] * share",
    ),
    ("sigma_ve: sign of lambda", "self.at_lambda(-math.log(sigma_ve))", "self.at_lambda(math.log(sigma_ve))"),
)
plant(
    "samplers/grid.py",
    ("duplicates: move farther than they must", "for d in range(1, total) for", "for d in range(2, total) for"),
    ("duplicates: cleaner place first", "(t + d, t - d)", "(t - d, t + d)"),
    ("duplicates: left in", "if all(t.is_integer() for t in times):", "if False:"),
    ("one_step: at the cleanest level", "[schedule.first.t] if steps == 1", "[schedule.last.t] if steps == 1"),
    ("integer: floor in place of round", "[float(round(t)) for", "[float(int(t)) for"),
    ("list: clean end missing", "(*noisy, schedule.clean)", "tuple(noisy)"),
    ("list: repeated levels accepted", "not b.sigma_ve < a.sigma_ve", "not b.sigma_ve <= a.sigma_ve"),
)
plant(
    "samplers/noise.py",
    ("noise: each interval the same", 'Stream.STEP, ("interval", interval)', 'Stream.STEP, ("interval", 0)'),
    ("noise: each draw of an interval the same", '("draw", ordinal)', '("draw", 0)'),
    ("noise: each seed the same", "Draw(self.seed, samples", "Draw(0, samples"),
    ("noise: prior is the first step's", "self._draw(Stream.PRIOR", "self._draw(Stream.STEP"),
    ("noise: first samples for all", "range(self.first, self.first + self.n)", "range(self.n)"),
    ("noise: Brownian nodes are steps", "self._draw(Stream.BROWNIAN", "self._draw(Stream.STEP"),
    ("noise: stream in the bits of the draw", "stream << 24 | part[1]", "stream << 16 | part[1]"),
)
plant(
    "samplers/philox.py",
    ("philox: words of the key swapped", "keys = [[(low +", "low, high = high, low\n    keys = [[(low +"),
    ("philox: wrong multiplier", "0xD2511F53", "0xD2511F57"),
    ("philox: each sample the same", "_HALF, sample, out", "_HALF, sample[:1], out"),
    ("philox: nine rounds", "ROUNDS = 10", "ROUNDS = 9"),
    ("philox: angles not centred in their steps", "_LOW, out=words), 0.5", "_LOW, out=words), 0.0"),
    ("philox: radius and angle from one word", "np.bitwise_and(pairs, _LOW", "np.right_shift(pairs, _HALF"),
    ("philox: cosine twice", "(torch.cos, torch.sin)", "(torch.cos, torch.cos)"),
)
plant(
    "samplers/philox_torch.py",
    ("philox on a device: high word with its sign", "(first >> 32 & _LOW)", "(first >> 32)"),
    ("philox on a device: keys in the low half", "_as_int64(high << 32)", "_as_int64(high)"),
    ("philox on a device: wrong kernel taken", "if apart <= TOLERANCE:", "if not apart <= TOLERANCE:"),
)
plant(
    "plugins/samplers/epd_points.py",
    ("epd: one direction of two", "zip((1 - share, share), inner", "zip((1.0, 0.0), inner"),
    ("epd: points of the file from the end", "h * place)", "h * (1 - place))"),
)
plant(
    "plugins/samplers/epd.py",
    ("epd: told the level of the point", "level, told) for", "level) for"),
    ("epd: slope at the start counted twice", "(slope - at_a.eps)", "slope"),
)
plant(
    "plugins/samplers/paradigms.py",
    ("paradigms: new states not moved by what the old were off", "levels[j + 1].sigma) + off", "levels[j + 1].sigma)"),
    ("paradigms: one sweep", "range(min(self.sweeps, len(levels) - 1))", "range(min(1, len(levels) - 1))"),
)
plant(
    "plugins/samplers/euler_cfg_pp.py",
    ("cfg++: renoised with the guided part", "guided.unconditional.combine(0.0", "guided.combine(0.0"),
    ("cfg++: x0 without the prompt", "b.alpha * guided.x0 +", "b.alpha * guided.unconditional.x0 +"),
)
plant(
    "plugins/samplers/euler_ancestral_cfg_pp.py",
    ("cfg++ a: renoised with the guided part", "guided.unconditional.combine(0.0", "guided.combine(0.0"),
    ("cfg++ a: noise added on top", "s**2 - s_up**2", "s**2"),
)
plant(
    "plugins/samplers/dpm_solver_pp_cfg_pp.py",
    ("cfg++ 2M: extrapolation twice as far", "/ (2 * r) *", "/ r *"),
    ("cfg++ 2M: guided part remembered", "(a.lambda_, guided.unconditional.x0)", "(a.lambda_, guided.x0)"),
)
plant(
    "samplers/sampler.py",
    ("run: draws numbered through", "self.i, self._draws = i, 0", "self.i = i"),
    ("run: level between whole timesteps", "if self.integer else level", "if False else level"),
    ("run: next level down for the nearest", "finite_at(round(level.t))", "finite_at(int(level.t))"),
    (
        "run: rows forgotten",
        "if rows == ALL else self.predictor(x, level, rows)",
        "if rows == ALL else self.predictor(x, level)",
    ),
    ("between: places closer to the start", "h * k / (count + 1)", "h * k / (count + 2)"),
    ("between: ratio of the next place", "(level.lambda_ - a.lambda_) / h", "(b.lambda_ - level.lambda_) / h"),
    ("between: places outside the interval accepted", "if ascending else []", "if True else []"),
    ("plan: one step too few", "and needed <= nfe:", "and needed < nfe:"),
    ("declared: call of the start without signal missing", "else first + rest", "else rest"),
    ("fault: number of the step", "finite_steps += 1", "finite_steps += 2"),
    ("run: past forgotten", "sampler.step(run, x, a, b, past)", "sampler.step(run, x, a, b, None)"),
    ("run: state before the step is watched", "            watch(x)", "            watch(given)"),
)
plant(
    "samplers/ddpm.py",
    (
        "posterior: alpha of b missing",
        "a.alpha * b.sigma**2 / (b.alpha * a.sigma**2)",
        "a.alpha * b.sigma**2 / a.sigma**2",
    ),
    ("posterior: noise in the last step", "if b.is_clean:", "if a.is_clean:"),
    ("posterior: variance in place of the deviation", "b.sigma * math.sqrt(1 - kept)", "b.sigma * (1 - kept)"),
    ("posterior: variances swapped", 'elif variance == "small"', 'elif variance == "large"'),
    ("posterior: beta of one step only", "return 1 - abar_a / abar_b", "return 1 - abar_a * abar_b"),
    ("posterior: large variance of VP alone", " * (b.alpha**2 + b.sigma**2))", ")"),
    ("posterior: x0 as if all noise went", "b.alpha * (1 - kept)", "b.alpha * 1"),
    ("loss: sign of v", "alpha * eps - sigma * x0", "alpha * eps + sigma * x0"),
    ("loss: last timestep never drawn", "torch.randint(schedule.timesteps,", "torch.randint(schedule.timesteps - 1,"),
    ("loss: sum in place of the mean", ".square().mean()", ".square().sum()"),
    ("ema: weights swapped", "p.to(self.average[name]), 1 - decay)", "p.to(self.average[name]), decay)"),
    ("ema: weights swapped on a device", "goes_on * (1 - decay)", "goes_on * decay"),
    ("diffuse: noise subtracted", "alpha * x0 + sigma * eps", "alpha * x0 - sigma * eps"),
)
plant(
    "samplers/exact.py",
    ("mixture: alpha missing in the posterior", "(alpha * variances / s2)", "(variances / s2)"),
    ("mixture: weights without effect", "(log_density + x.new_tensor(self.weights).log())", "log_density"),
    ("mixture: normalisation of the density missing", " - 0.5 * self.dim * s2.log()", ""),
    ("network: sign of v", "alpha * eps - sigma * x0", "alpha * eps + sigma * x0"),
    ("network: sign of flow", '"flow": eps - x0}', '"flow": x0 - eps}'),
    ("gaussian_flow: deviations upside down", "std_b / std_a * (x", "std_a / std_b * (x"),
    ("gaussian_flow: mean not scaled", "(x - a.alpha * mean)", "(x - mean)"),
    (
        "quantiles: deviation in place of the variance",
        "np.asarray(data.variances) + level.sigma**2",
        "np.asarray(data.variances) + level.sigma",
    ),
)


# ---- The run ----


class Result(NamedTuple):
    """What became of a bug."""

    name: str
    killer: str
    """The test, or the file that could not be collected or took too long; empty = survived."""
    seconds: float


class Watcher:
    """Pytest plugin: the tests that are likely to fail run first; keeps the first that fails."""

    def __init__(self, word: str = "", likely: Sequence[str] = ()) -> None:
        self.word, self.likely = word, tuple(f"test_{name}.py" for name in likely)
        self.killer = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=self._rank)

    def _rank(self, item: pytest.Item) -> tuple[bool, ...]:
        named, likely = self.word in item.nodeid, item.path.name in self.likely
        slow = "adaptive" in item.nodeid
        return not (named and likely), not named, not likely, slow

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.killer = self.killer or f"{report.nodeid} (not collected)"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.killer = self.killer or report.nodeid


def mutated(bug: Bug, source: str) -> str:
    """The source with the bug; its text must be there exactly once."""
    if (count := source.count(bug.text)) != 1:
        raise ValueError(f"bug {bug.name!r}: {bug.file} has its text {count} times; expected once")
    return source.replace(bug.text, bug.replacement)


def watcher_for(bug: Bug) -> Watcher:
    """What is likely to kill the bug: tests of the sampler or grid by its name, of the core by their file."""
    word = bug.name.partition(":")[0] if bug.file.startswith("plugins/") else ""
    return Watcher(word, FIRST.get(bug.file, ()))


def copy_of_the_package(folder: Path) -> Path:
    """A copy called samplerbench, its bytecode bound to the sources' content: a bug is seen in whatever second."""
    tree = folder / "samplerbench"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "results", "docs", "node_modules")
    shutil.copytree(ROOT, tree, ignore=ignored)
    compileall.compile_dir(tree, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    return tree


def files_of_tests(tree: Path) -> list[str]:
    """The files of TESTS in their order, whatever room they are in."""
    return [str(next(tree.glob(f"tests/*/test_{name}.py")).relative_to(tree)) for name in TESTS]


def killer_of(tree: Path, tests: Sequence[str], watcher: Watcher) -> str:
    """Run tests in a process of their own: the first that fails, or nothing."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        code = run_tests(tree, tests, watcher)
        os.write(writer, watcher.killer.encode())
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        killer = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGALRM:
        return "its time limit (hangs)"
    failed = code in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    if (code and not failed) or failed != bool(killer):
        raise RuntimeError(f"pytest ended with {code}, and the test that failed is {killer!r}")
    return killer


def run_tests(tree: Path, tests: Sequence[str], watcher: Watcher) -> int:
    """Pytest on the copy, in silence, until the first failure; never more than LIMIT seconds."""
    signal.alarm(LIMIT)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os.chdir(tree)
    sys.path.insert(0, str(tree.parent))
    os.environ["PYTHONPATH"] = str(tree.parent)
    # Further cases of a kind are few seconds, and some bugs show in one of them only.
    options = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "--tb=no", "-m", "not slow or further"]
    return pytest.main([*options, *tests], plugins=[watcher])


def result_of(tree: Path, bug: Bug) -> Result:
    """Plant, test, restore."""
    path = tree / bug.file
    source = path.read_text()
    started = time.monotonic()
    path.write_text(mutated(bug, source))
    try:
        killer = killer_of(tree, files_of_tests(tree), watcher_for(bug))
    finally:
        path.write_text(source)
    return Result(bug.name, killer, time.monotonic() - started)


TREE: Path
"""The copy of this worker."""


def start_worker(folder: str) -> None:
    """Make the worker's copy."""
    global TREE  # noqa: PLW0603  (a worker is a process, and this is its state)
    TREE = copy_of_the_package(Path(tempfile.mkdtemp(dir=folder)))


def work(bug: Bug) -> Result:
    """One bug in this worker's copy."""
    return result_of(TREE, bug)


def results_of(bugs: Sequence[Bug], jobs: int, folder: str) -> Iterator[Result]:
    """Each bug's result as soon as it is known, `jobs` bugs at a time."""
    with multiprocessing.get_context("fork").Pool(jobs, start_worker, (folder,)) as pool:
        yield from pool.imap_unordered(work, bugs)


def main() -> int:
    """Plant the chosen bugs and print what became of each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=2, help="bugs at a time, one CPU each (default 2)")
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of bug names (default: every bug)")
    options = parser.parse_args()
    bugs = [bug for bug in BUGS if not options.names or any(name in bug.name for name in options.names)]
    if not bugs:
        parser.error(f"no bug's name contains {' or '.join(options.names)}")
    for bug in bugs:
        mutated(bug, (ROOT / bug.file).read_text())
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

    results = []
    with tempfile.TemporaryDirectory() as folder:
        for result in results_of(bugs, options.jobs, folder):
            verdict = f"killed by {result.killer}" if result.killer else "SURVIVED"
            print(f"{result.name}: {verdict}, {result.seconds:.0f} s", flush=True)
            results.append(result)
        # A test that fails without a bug kills nothing.
        killers = sorted({result.killer for result in results if "::" in result.killer})
        broken = killer_of(copy_of_the_package(Path(folder)), killers, Watcher()) if killers else ""
    if broken:
        print(f"{broken} fails where nothing is planted")
    killed = sum(bool(result.killer) for result in results)
    print(f"{killed} of {len(results)} killed")
    return int(bool(broken) or killed < KILLED * len(results))


if __name__ == "__main__":
    sys.exit(main())

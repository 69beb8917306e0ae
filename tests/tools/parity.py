"""Parity: each sampler and grid against the implementations of diffusers and k-diffusion.

`python tests/tools/parity.py > docs/parity.md` writes the page; test_parity.py holds every row. Both sides get the same
model, in closed form, the same levels, the same start and the same noise. The libraries keep tables and states in
float32: while a peer runs, the names torch.float32 and numpy.float32 stand for float64, so that what is compared is
the mathematics. The difference from the peer as it is shipped is measured too.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import samplerbench as sb
from samplerbench.samplers.exact import exact_model
from samplerbench.samplers.grid import Levels, levels_at
from samplerbench.samplers.level import Level
from samplerbench.samplers.options import parse_spec
from samplerbench.samplers.registry import default_registry
from samplerbench.samplers.schedule import Schedule

LIBRARIES = {"diffusers": "diffusers", "k-diffusion": "k_diffusion"}
"""Distribution -> module."""
TOLERANCE = 1e-10
"""Tolerance relative to the largest number: rounding in float64 with a few cancellations, but no error of a sampler."""
MIXTURE = sb.GaussianMixture(((-1.0, 0.5), (0.8, 1.0), (0.3, -1.2)), (0.1, 0.2, 0.4), (0.5, 0.3, 0.2))
VP, EDM, FLOW = sb.vp_linear(), sb.edm(), sb.flow()
RNG = np.random.default_rng(5)
START = torch.from_numpy(RNG.standard_normal((4, MIXTURE.dim)))
NOISE = torch.from_numpy(RNG.standard_normal((400, 4, MIXTURE.dim)))
"""By interval."""


# ---- What both sides are given ----


@dataclass(frozen=True)
class Problem:
    """A schedule, the noisy levels of a run, and what else both sides know."""

    schedule: Schedule
    times: tuple[float, ...]
    """Descending; the clean end is added."""
    clip: tuple[float, float] | None = None
    """Bounds of x0."""
    quiet: bool = False
    """Whether all noise is zero, so that a stochastic sampler has an order of convergence."""
    n: int = 4
    """Samples."""
    on_path: bool = False
    """Whether noise comes from `along_path`, for samplers that draw for parts of an interval."""

    @property
    def levels(self) -> Levels:
        """The levels, the clean end last."""
        return levels_at(self.times, self.schedule)

    @property
    def x(self) -> Tensor:
        """The state at the first level, (n, D) float64."""
        return START[: self.n] * math.hypot(self.levels[0].alpha, self.levels[0].sigma)

    def noise(self, interval: int) -> Tensor:
        """The noise of an interval, (n, D) float64."""
        return NOISE[interval, : self.n] * (not self.quiet)

    def answer(self, predicts: str, x: Tensor, level: Level) -> Tensor:
        """What the model says of the state x, computed in float64 whatever x is."""
        one = torch.ones(len(x), 1, dtype=torch.float64)
        x0 = MIXTURE.x0(x.double(), level.alpha * one, level.sigma * one)
        eps = (x.double() - level.alpha * x0) / level.sigma
        said = {"x0": x0, "eps": eps, "flow": eps - x0, "v": level.alpha * eps - level.sigma * x0}
        return said[predicts].to(x.dtype)


ON_VP = Problem(VP, tuple(float(t) for t in range(999, -1, -111)))  # whole, and diffusers' own for ten steps
ON_LEADING = Problem(VP, tuple(float(t) for t in range(900, -1, -100)))
ON_EDM = Problem(EDM, (80.0, 42.0, 20.0, 10.0, 4.5, 2.0, 0.9, 0.35, 0.1, 0.02))
ON_FLOW = Problem(FLOW, (0.97, 0.9, 0.8, 0.68, 0.5, 0.33, 0.2, 0.1, 0.03))
CLIPPED = replace(ON_LEADING, clip=(-0.5, 0.5))
ON_PATH = replace(ON_VP, on_path=True)
ABOVE_0 = replace(ON_LEADING, times=ON_LEADING.times[:-1])  # without timestep 0


def refined(problem: Problem, steps: int) -> Problem:
    """A smooth stretch without noise, in even steps h of lambda after two of h^2, which start what needs a past."""
    lambdas = np.linspace(-1.5, 1.5, steps + 1)
    h2 = float(lambdas[1] - lambdas[0]) ** 2
    lambdas = [lambdas[0], lambdas[0] + h2, lambdas[0] + 2 * h2, *lambdas[1:]]
    return replace(problem, times=tuple(problem.schedule.at_lambda(float(v)).t for v in lambdas), quiet=True)


def along_path(a: Tensor, b: Tensor) -> Tensor:
    """Unit noise from sigma / alpha a to b: the increment of one path, whose parts add up, over the root of its length.

    As the Brownian tree of both peers: the parts of an interval belong together.
    """

    def path(sigma: Tensor) -> Tensor:
        waves = torch.sin(sigma.double().sqrt() * torch.arange(1.0, 9.0, dtype=torch.float64))
        return torch.tensordot(waves, NOISE[:8], 1)

    return ((path(a) - path(b)) / (a.double() - b.double()).sqrt()).to(a.dtype)


def ours(spec: str, problem: Problem, *, to_clean: bool = True) -> Tensor:
    """Our state at the clean end, or else at the last noisy level."""
    interval = {level.t: i for i, level in enumerate(problem.levels[:-1])}

    def noise(a: Level, b: Level) -> Tensor:
        if problem.on_path:
            return along_path(*(torch.tensor(level.sigma_ve, dtype=torch.float64) for level in (a, b)))
        return problem.noise(interval[a.t])

    predicts = {VP: "eps", EDM: "x0", FLOW: "flow"}[problem.schedule]
    samples = sb.sample(
        replace(exact_model(MIXTURE, problem.schedule, predicts), clip=problem.clip),
        spec, grid=list(problem.times), x_init=problem.x, noise=noise,
        batch_size=1 if problem.n == 1 else 64, trajectory=True,
    )  # fmt: skip
    return samples.trajectory[-1 if to_clean else -2]


# ---- The peers ----


@contextlib.contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """float32 = as shipped; float64 = with the names of float32 standing for it."""
    with warnings.catch_warnings(), contextlib.ExitStack() as names:
        warnings.simplefilter("ignore")  # the peers' deprecations, and their logarithm of 0
        if dtype == torch.float64:
            names.enter_context(mock.patch.object(torch, "float32", torch.float64))
            names.enter_context(mock.patch.object(np, "float32", np.float64))
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


@functools.cache
def library(module: str) -> Any:
    """A peer's module; importing it may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = importlib.import_module(module)
        if module == "diffusers":
            found.logging.set_verbosity_error()
            importlib.import_module("scipy.stats")
    return found


def each(problem: Problem) -> list[Level]:
    """A call at each noisy level."""
    return list(problem.levels[:-1])


def twice(problem: Problem) -> list[Level]:
    """Two calls an interval, the second at its clean end."""
    first, *others = each(problem)
    return [first, *(level for level in others for _ in range(2))]


def second_twice(problem: Problem) -> list[Level]:
    """Two calls in the first interval, the second at its clean end."""
    first, second, *others = each(problem)
    return [first, second, second, *others]


def divided(problem: Problem, parts: int) -> list[Level]:
    """`parts` calls an interval, at even steps of lambda."""
    called = each(problem)[:1]
    for a, b in zip(each(problem), each(problem)[1:], strict=False):
        h = b.lambda_ - a.lambda_
        called += [problem.schedule.at_lambda(a.lambda_ + h * k / parts) for k in range(1, parts)]
        called.append(b)
    return called


halves, thirds = functools.partial(divided, parts=2), functools.partial(divided, parts=3)


@dataclass(frozen=True)
class Diffusers:
    """A scheduler of diffusers, driven as its pipelines do."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `step`."""
    form: str = "vp"
    """The state: vp = alpha x0 + sigma eps, of sigmas sigma / alpha; ve = x0 + sigma / alpha eps; flow, of sigmas t."""
    predicts: str = "eps"
    calls: Callable[[Problem], list[Level]] = each
    """Where it calls the network on the way to the clean end."""
    end: str = "clean"
    """clean; last = the last noisy level; corrected = there, as the next step corrects it."""
    arrange: Callable[[Any, Problem], None] | None = None
    """Sets the timesteps, in place of set_timesteps(steps)."""
    before: Callable[[Any, int, int], None] | None = None
    """(scheduler, step, steps): what is set before a step."""
    note: str = ""
    """For the label: what the settings do not say."""
    requires: str = "diffusers"
    """The module without which diffusers has the class by name only."""

    @property
    def label(self) -> str:
        """Class and settings."""
        settings = [f"{k}={v}" for k, v in {**self.config, **self.step}.items() if not callable(v)]
        return f"{self.name}({', '.join(settings)})" + (f", {self.note}" if self.note else "")

    def __call__(self, problem: Problem, dtype: torch.dtype) -> Tensor:
        """The state at the end, in the form alpha x0 + sigma eps."""
        with computing_in(dtype):
            scheduler = getattr(library("diffusers"), self.name)(**self.config)
            levels = self._arranged(scheduler, problem, dtype)
            x = problem.x.to(dtype) / (levels[0].alpha if self.form == "ve" else 1)
            x = self._walked(scheduler, problem, levels, x)
        return x.double() * (problem.levels[-2].alpha if self.form == "ve" and self.end != "clean" else 1)

    def _arranged(self, scheduler: Any, problem: Problem, dtype: torch.dtype) -> list[Level]:
        """Give the scheduler its levels; returns those of its calls."""
        levels = self.calls(problem)
        called = levels[:-1] if self.end == "last" else levels
        sets_sigmas = hasattr(scheduler, "sigmas") and not hasattr(scheduler, "sigmas_interpol")
        if self.arrange:
            self.arrange(scheduler, problem)
        else:
            scheduler.set_timesteps(len(called) if sets_sigmas and scheduler.order == 1 else len(each(problem)))
        if sets_sigmas:
            sigmas = [level.sigma if self.form == "flow" else level.sigma_ve for level in levels]
            scheduler.sigmas = torch.tensor(sigmas + [0.0] * (self.end != "last"), dtype=dtype)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        return called

    def _walked(self, scheduler: Any, problem: Problem, levels: list[Level], x: Tensor) -> Tensor:
        """All steps."""
        draws = iter(range(len(NOISE)))
        module = sys.modules[type(scheduler).__module__]
        noise = mock.Mock(side_effect=lambda *_, **__: problem.noise(next(draws)).to(x.dtype))
        with mock.patch.object(module, "randn_tensor", noise, create=True):
            for i, (t, level) in enumerate(zip(scheduler.timesteps, levels, strict=False)):
                if self.before:
                    self.before(scheduler, i, len(levels))
                if hasattr(scheduler, "scale_model_input"):
                    scheduler.scale_model_input(x, t)  # some insist; what the network hears is the same
                x = scheduler.step(self._said(scheduler, problem, x, level), t, x, **self.step).prev_sample
        return scheduler.last_sample if self.end == "corrected" else x

    def _said(self, scheduler: Any, problem: Problem, x: Tensor, level: Level) -> Tensor:
        """The model's answer, in the form that the scheduler expects."""
        if self.form == "ve":
            level = Level(1.0, level.sigma_ve, math.nan)
        if self.predicts != "F":
            return problem.answer(self.predicts, x, level)
        # Karras et al. 2022, equation 7: x0 = c_skip x + c_out F.
        zeros, sigma = torch.zeros_like(x), torch.tensor(level.sigma, dtype=x.dtype)
        skipped = scheduler.precondition_outputs(x, zeros, sigma)
        c_out = scheduler.precondition_outputs(zeros, zeros + 1, sigma)
        return (problem.answer("x0", x, level) - skipped) / c_out


@dataclass(frozen=True)
class Parallel:
    """ParaDiGMS with the parallel step of DDIMParallelScheduler, for a number of sweeps in place of a tolerance."""

    window: int
    sweeps: int
    end: str = "clean"
    requires: str = "diffusers"

    @property
    def label(self) -> str:
        """Class and settings."""
        return f"DDIMParallelScheduler(clip_sample=False), windows of {self.window}, {self.sweeps} sweeps"

    def __call__(self, problem: Problem, dtype: torch.dtype) -> Tensor:
        """The clean state. The levels are the scheduler's own: leading."""
        noisy, x = each(problem), problem.x.to(dtype)
        with computing_in(dtype):
            scheduler = library("diffusers").DDIMParallelScheduler(clip_sample=False)
            scheduler.set_timesteps(len(noisy))

            def after(states: list[Tensor], first: int) -> list[Tensor]:
                """Each state one step on, all in one batch."""
                levels = noisy[first : first + len(states)]
                said = [problem.answer("eps", one, level) for one, level in zip(states, levels, strict=True)]
                t = torch.tensor([int(level.t) for level in levels for _ in x])
                return list(scheduler.batch_step_no_noise(torch.cat(said), t, torch.cat(states)).split(len(x)))

            last = len(noisy) - 1
            for start in range(0, last, self.window):
                states = [x] * (min(self.window, last - start) + 1)
                for _ in range(self.sweeps):
                    drifts = [b - a for a, b in zip(states, after(states[:-1], start), strict=False)]
                    states = [x + sum(drifts[:j]) for j in range(len(states))]
                x = states[-1]
            (x,) = after([x], last)
        return x.double()


@dataclass(frozen=True)
class KDiffusion:
    """A function of k_diffusion.sampling."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    end: str = "clean"
    """clean, or last = the last noisy level."""
    requires: str = "k_diffusion"

    @property
    def label(self) -> str:
        """Function and settings."""
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.options.items())})"

    def __call__(self, problem: Problem, dtype: torch.dtype) -> Tensor:
        """The state at the end, in the form alpha x0 + sigma eps."""
        sampling = library("k_diffusion.sampling")
        function = getattr(sampling, self.name)
        noisy, takes = each(problem), inspect.signature(function).parameters
        sigmas = torch.tensor([level.sigma_ve for level in noisy] + [0.0] * (self.end == "clean"), dtype=dtype)

        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            return problem.answer("x0", x, Level(1.0, float(sigma[0]), math.nan))

        def noise_sampler(sigma: Tensor, _: Tensor) -> Tensor:
            return problem.noise(int((sigmas - sigma).abs().argmin())).to(dtype)

        draws = iter(range(len(NOISE)))
        given = dict(self.options)
        if "noise_sampler" in takes:
            given["noise_sampler"] = along_path if problem.on_path else noise_sampler
        if "sigma_min" in takes:
            given |= {"sigma_min": sigmas[-1].numpy(), "sigma_max": sigmas[0].numpy()}
        else:
            given["sigmas"] = sigmas
        with computing_in(dtype), mock.patch("torch.randn_like", lambda x: problem.noise(next(draws)).to(x.dtype)):
            x = function(denoiser, problem.x.to(dtype) / noisy[0].alpha, disable=True, **given)
        return x.double() * (noisy[-1].alpha if self.end != "clean" else 1)


Peer = Diffusers | Parallel | KDiffusion
Proof = Callable[[str, Peer, Problem], tuple[bool, str]]
"""(spec, peer, problem) -> whether it is proven, and the numbers."""


# ---- What is measured ----


def relative(a: Tensor, b: Tensor) -> float:
    """The largest difference, in units of the largest number."""
    return float((a - b).abs().max() / a.abs().max())


@dataclass(frozen=True)
class Row:
    """A line of the page."""

    name: str
    """Our sampler or grid, with its options."""
    peer: str
    difference: float
    """In float64."""
    shipped: float
    """From the peer as shipped, which computes in float32 where it likes."""
    tolerance: float
    verdict: str
    """pass; "differs: why", where that is proven; or FAIL."""
    note: str


@dataclass(frozen=True)
class Case:
    """Ours and the peer, and why they differ if they should."""

    name: str
    library: str
    label: str
    requires: str
    """The module without which the peer does not run."""
    sides: Callable[[torch.dtype], tuple[Tensor, Tensor]]
    """Ours in float64, the peer's in the dtype."""
    reason: str = ""
    """Why they differ; '' = they are to agree."""
    proof: Callable[[], tuple[bool, str]] | None = None
    """Whether it is proven that this is why, and the numbers."""
    note: str = ""

    @property
    def id(self) -> str:
        """Names and settings; no two are the same."""
        return " | ".join(filter(None, [self.name, self.label, self.note, self.reason]))

    def measured(self) -> Row:
        """The row."""
        difference = relative(*self.sides(torch.float64))
        verdict, note = "pass", self.note
        if not difference <= TOLERANCE:
            proven, numbers = self.proof() if self.proof else (False, "")
            verdict = f"differs: {self.reason}" if proven else "FAIL"
            note = "; ".join(filter(None, [note, numbers]))
        shipped = relative(*self.sides(torch.float32))
        return Row(self.name, self.label, difference, shipped, TOLERANCE, verdict, note)


def case(spec: str, peer: Peer, problem: Problem, note: str = "", **differs: Any) -> Case:
    """A sampler and its peer on a problem; `reason` and `proof` if they differ."""
    if peer.end != "clean":
        note = "; ".join(filter(None, ["compared at the last noisy level", note]))
    proof = differs.pop("proof", None)
    return Case(
        spec, "k-diffusion" if isinstance(peer, KDiffusion) else "diffusers", peer.label, peer.requires,
        lambda dtype: (ours(spec, problem, to_clean=peer.end == "clean"), peer(problem, dtype)),
        proof=functools.partial(proof, spec, peer, problem) if proof else None, note=note, **differs,
    )  # fmt: skip


def order(run: Callable[[Problem], Tensor], problem: Problem, steps: int = 80) -> float:
    """Order of convergence by three runs of twice the steps each, to the last noisy level."""
    a, b, c = (run(refined(problem, steps * factor)) for factor in (1, 2, 4))
    return math.log2(float((a - b).abs().max() / (b - c).abs().max()))


def vanishes(other: Peer, how: str, spec: str | None = None, on: Problem | None = None) -> Proof:
    """Proof: with one thing changed, as `how` says, ours and the peer agree."""

    def proof(given: str, peer: Peer, problem: Problem) -> tuple[bool, str]:
        changed = on or problem
        left = relative(ours(spec or given, changed, to_clean=other.end == "clean"), other(changed, torch.float64))
        return left <= TOLERANCE, f"{left:.0e} {how}"

    return proof


def orders(mine: float, theirs: float) -> Proof:
    """Proof: the orders of convergence are these."""

    def proof(spec: str, peer: Peer, problem: Problem) -> tuple[bool, str]:
        at_last = replace(peer, end="last")
        p = order(lambda problem: ours(spec, problem, to_clean=False), problem)
        q = order(lambda problem: at_last(problem, torch.float64), problem)
        proven = abs(p - mine) < 0.2 and abs(q - theirs) < 0.2
        return proven, f"order of convergence: ours {p:.2f}, the peer's {q:.2f}"

    return proof


# ---- The cases ----


BETAS = {"beta_start": 1e-4, "beta_end": 0.02}
"""Those of `ON_VP`, where a scheduler's own are those of Stable Diffusion."""


def last_step_first_order(scheduler: Any, i: int, steps: int) -> None:
    """lower_order_final for the last step alone: diffusers lowers the one before it too."""
    scheduler.register_to_config(lower_order_final=i == steps - 1)


def paper_solver_types(scheduler: Any, i: int, steps: int) -> None:
    """DPM-Solver-3 as published: the inner point by phi_2, which diffusers calls heun, the end by midpoint."""
    scheduler.register_to_config(solver_type="heun" if i % 3 == 1 else "midpoint")


def no_corrector(scheduler: Any, i: int, steps: int) -> None:
    """SA-Solver's predictor alone."""
    scheduler.last_sample = None


class Unchanged(list[float]):
    """Coefficients to which nothing can be added."""

    def __setitem__(self, *_: Any) -> None:
        """Leave them."""


def no_added_term(scheduler: Any, i: int, steps: int) -> None:
    """SA-Solver's coefficients as in the paper."""
    if not i:
        coefficients = scheduler.get_coefficients_fn
        scheduler.get_coefficients_fn = lambda *given: Unchanged(map(float, coefficients(*given)))


def neither(scheduler: Any, i: int, steps: int) -> None:
    """Neither the corrector nor the added term."""
    no_corrector(scheduler, i, steps)
    no_added_term(scheduler, i, steps)


def given_timesteps(scheduler: Any, problem: Problem) -> None:
    """The problem's own, as a list."""
    scheduler.set_timesteps(timesteps=[int(t) for t in problem.times])


def truly_spaced(scheduler: Any, problem: Problem) -> None:
    """linspace has S - 1 intervals between its S timesteps."""
    scheduler.set_timesteps(len(problem.times))
    scheduler.num_inference_steps = len(problem.times) - 1


def given_levels(scheduler: Any, problem: Problem) -> None:
    """iPNDM's beta and alpha are our sigma and alpha."""
    scheduler.set_timesteps(len(problem.times))
    scheduler.betas = torch.tensor([level.sigma for level in problem.levels])
    scheduler.alphas = torch.tensor([level.alpha for level in problem.levels])


def on_the_path(scheduler: Any, i: int, steps: int) -> None:
    """DPMSolverSDEScheduler's sigmas, of which each inner one stands twice, and its noise."""
    if not i:
        first, *others = (level.sigma_ve for level in ON_PATH.levels)
        sigmas = [first, *(sigma for sigma in others[:-1] for _ in range(2)), 0.0]
        scheduler.sigmas = torch.tensor(sigmas, dtype=torch.get_default_dtype())
        scheduler.noise_sampler = along_path


def diffusers_cases() -> Iterator[Case]:
    """Every scheduler that is one of our samplers."""
    for variance in ("small", "large"):
        config = {"variance_type": f"fixed_{variance}", "clip_sample": False}
        yield case(f"ddpm:variance={variance}", Diffusers("DDPMScheduler", config, arrange=given_timesteps), ON_VP)
    clip = {"clip_sample_range": CLIPPED.clip[1]}
    yield case("ddpm", Diffusers("DDPMScheduler", clip, arrange=given_timesteps), CLIPPED, "x0 clipped")

    for eta in (0, 1):
        step = {"eta": float(eta)}
        yield case(f"ddim:eta={eta}", Diffusers("DDIMScheduler", {"clip_sample": False}, step), ON_LEADING)
        recomputed = Diffusers("DDIMScheduler", clip, {**step, "use_clipped_model_output": True})
        yield case(f"ddim:eta={eta}", recomputed, CLIPPED, "x0 clipped")
        yield case(
            f"ddim:eta={eta}", Diffusers("DDIMScheduler", clip, step), CLIPPED, "x0 clipped",
            reason="the peer keeps the raw eps beside the clipped x0",
            proof=vanishes(recomputed, "with use_clipped_model_output=True"),
        )  # fmt: skip
    spaced = Diffusers("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "linspace"})
    yield case(
        "ddim", spaced, ON_VP, reason="the peer steps to t - T/S, which with linspace is not the next timestep",
        proof=vanishes(replace(spaced, arrange=truly_spaced), "with T/S set to the distance of its timesteps"),
    )  # fmt: skip

    ve, betas = {"form": "ve"}, BETAS
    yield case("euler", Diffusers("EulerDiscreteScheduler", **ve), ON_VP)
    yield case("euler-a", Diffusers("EulerAncestralDiscreteScheduler", **ve), ON_VP)
    yield case("heun", Diffusers("HeunDiscreteScheduler", calls=twice, **ve), ON_VP)
    yield case("dpm2", Diffusers("KDPM2DiscreteScheduler", betas, calls=halves, **ve), ON_VP)
    yield case(
        "dpm2-a", Diffusers("KDPM2AncestralDiscreteScheduler", betas, calls=twice, **ve), ON_VP,
        "at eta = 1 the middle of log sigma between a level and the one stepped down to is the next level",
    )  # fmt: skip
    for k in (1, 2, 3, 4):
        yield case(
            f"lms:order={k}", lms := Diffusers("LMSDiscreteScheduler", {}, {"order": k}, end="last", **ve), ON_VP
        )
    yield case(
        "lms:order=4", replace(lms, end="clean"), ON_VP, proof=vanishes(lms, "at the last noisy level"),
        reason="the peer extrapolates the last interval to sigma = 0 with the full order, ours is Euler there",
    )  # fmt: skip
    plms = Diffusers("PNDMScheduler", {"skip_prk_steps": True}, calls=second_twice, end="last")
    yield case("plms", plms, ON_LEADING, "the peer takes the last interval with the full order, ours by DDIM")
    ipndm = Diffusers("IPNDMScheduler", predicts="v", arrange=given_levels, end="last")
    yield case("ipndm", ipndm, ON_VP, "the peer takes the last interval with the full order, ours by Euler")

    yield from open_cases()
    yield from distilled_cases()
    yield from singlestep_cases()
    yield from multistep_cases()
    yield from predictor_corrector_cases()
    yield from edm_and_flow_cases()


def open_cases() -> Iterator[Case]:
    """Samplers that ask more of the network, or read a file, on the settings with which a peer has them."""
    ddim = Diffusers("DDIMScheduler", {"clip_sample": False})
    yield case("learned", ddim, ON_LEADING, "without a file")
    yield case("epd:points=1", Diffusers("KDPM2DiscreteScheduler", calls=halves, form="ve", config=BETAS), ON_VP)
    for window, sweeps in ((4, 2), (8, 3)):
        yield case(f"paradigms:window={window},sweeps={sweeps}", Parallel(window, sweeps), ON_LEADING)
    heun = {"solver_order": 2, "solver_type": "heun"}
    yield case("res", Diffusers("DPMSolverMultistepScheduler", {**heun, "lower_order_final": False}), ON_VP)
    single = Diffusers("DPMSolverSinglestepScheduler", {**heun, "lower_order_final": True}, calls=halves)
    yield case("res:variant=singlestep", single, ON_VP)
    for k in (1, 2, 3, 4):
        lms = Diffusers("LMSDiscreteScheduler", {}, {"order": k}, form="ve", end="last")
        yield case(f"ipndm-v:order={k}", lms, ON_VP)


def distilled_cases() -> Iterator[Case]:
    """LCM and TCD; their default betas are those of Stable Diffusion."""
    plain = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False}
    plain |= {"original_inference_steps": 1000}
    alone = Diffusers("LCMScheduler", {**plain, "timestep_scaling": 1e9}, arrange=given_timesteps)
    yield case("lcm", alone, ABOVE_0, "c_skip is 0")
    mixed = replace(alone, config={**plain, "timestep_scaling": 10.0})
    yield case(
        "lcm", mixed, ABOVE_0, reason="the peer mixes c_skip x into x0", proof=vanishes(alone, "with c_skip = 0"),
    )  # fmt: skip
    yield case("lcm", Diffusers("FlowMatchLCMScheduler", form="flow", predicts="flow"), ON_FLOW)
    for eta in (0.0, 0.5, 0.75):
        peer = Diffusers("TCDScheduler", plain, {"eta": eta}, arrange=given_timesteps, end="last")
        yield case(f"tcd:eta={eta:g}", peer, ON_LEADING, "the peer ends at timestep 0, ours at the clean end")


def singlestep_cases() -> Iterator[Case]:
    """DPM-Solver and DPM-Solver++, the inner levels of an interval being steps of the peer's own."""
    calls = {1: each, 2: halves, 3: thirds}
    for k in (1, 2, 3):
        config = {"algorithm_type": "dpmsolver", "solver_order": k, "final_sigmas_type": "sigma_min"}
        peer = Diffusers("DPMSolverSinglestepScheduler", config, calls=calls[k], end="last")
        yield from one_singlestep(f"dpm-solver:order={k}", peer, k)
    sde = Diffusers("DPMSolverSDEScheduler", calls=halves, form="ve", before=on_the_path, requires="torchsde")
    yield case("dpm-solver++-sde-single", sde, ON_PATH)
    for k in (2, 3):
        config = {"algorithm_type": "dpmsolver++", "solver_order": k, "lower_order_final": True}
        peer = Diffusers("DPMSolverSinglestepScheduler", config, calls=calls[k])
        yield from one_singlestep(f"dpm-solver++-single:order={k}", peer, k)


def one_singlestep(spec: str, peer: Diffusers, k: int) -> Iterator[Case]:
    """The peer's step of order 3 takes one solver type for the inner point and the end."""
    if k < 3:
        yield case(spec, peer, ON_VP)
        return
    mixed = replace(
        peer, before=paper_solver_types, note="solver_type=heun for the second call, midpoint for the third"
    )
    yield case(spec, mixed, ON_VP)
    for solver_type in ("midpoint", "heun"):
        plain = replace(peer, config={**peer.config, "solver_type": solver_type})
        yield case(
            spec, plain, ON_VP, proof=vanishes(mixed, "with the types as in the row above"),
            reason="the peer has one solver type for all three calls; the published step has phi_2 for the second, "
            "which is heun here, and the form called midpoint for the third",
        )  # fmt: skip


def multistep_cases() -> Iterator[Case]:
    """DPM-Solver++ and its SDE form, DEIS."""
    name, plain = "DPMSolverMultistepScheduler", {"lower_order_final": False}
    published = "dpm-solver++:order=3,coefficients=published"
    for spec, k in (("dpm-solver++:order=1", 1), ("dpm-solver++:order=2", 2), (published, 3)):
        yield case(spec, peer := Diffusers(name, {"solver_order": k, **plain}), ON_VP)
    yield case(
        "dpm-solver++:order=3", peer, ON_VP, proof=orders(3, 2),
        reason="the peer counts the second derivative by half; ours with coefficients=published is the row above",
    )  # fmt: skip
    heun = Diffusers(name, {"solver_type": "heun", **plain})
    yield case("dpm-solver++-sde:eta=0,variant=heun", heun, ON_VP)

    sde = {"algorithm_type": "sde-dpmsolver++", **plain}
    yield case("dpm-solver++-sde:order=1", Diffusers(name, {"solver_order": 1, **sde}), ON_VP)
    for variant in ("midpoint", "heun"):
        peer = Diffusers(name, {"solver_type": variant, **sde})
        yield case(f"dpm-solver++-sde:variant={variant}", peer, ON_VP)
    yield case(
        "dpm-solver++-sde:order=3,variant=heun,coefficients=published",
        Diffusers(name, {"solver_order": 3, **sde}), ON_VP,
        "k-diffusion's sample_dpmpp_3m_sde agrees, below; orders without noise", proof=orders(2, 1),
        reason="the peer's weight of the second derivative, (1 - e^-2h - 2h) / (2h)^2 - 1/2, does not vanish with h; "
        "with + 1/2 it would",
    )  # fmt: skip
    for k in (1, 2, 3):
        peer = Diffusers("DEISMultistepScheduler", {"solver_order": k, **plain}, end="last")
        yield case(f"deis:order={k - 1}", peer, ON_VP, "logrho is our lambda" if k > 1 else "")


V3 = {
    f"sa-solver:predictor={k},corrector={corrector},tau=0": f"order={k},corrector={'true' if corrector else 'false'}"
    for k in (2, 3)
    for corrector in (k - 1, 0)
}
"""What `dpm-solver-v3` is without a file."""


def predictor_corrector_cases() -> Iterator[Case]:
    """UniPC and SA-Solver."""
    for variant in ("bh1", "bh2"):
        for k in (1, 2, 3):
            config = {"solver_order": k, "solver_type": variant, "lower_order_final": False}
            peer = Diffusers("UniPCMultistepScheduler", config, end="corrected", before=last_step_first_order)
            yield case(f"unipc:order={k},variant={variant}", peer, ON_VP)
            alone = replace(peer, config={**config, "disable_corrector": range(len(each(ON_VP)))})
            yield case(f"unipc:order={k},variant={variant},corrector=false", alone, ON_VP)
    to_clean = {"end": "clean", "note": "lower_order_final in the last step"}
    yield case("unipc:order=3,variant=bh2", replace(peer, **to_clean), ON_VP)
    bh1 = replace(peer, config={**config, "solver_type": "bh1"})
    yield case(
        "unipc:order=3,variant=bh1", replace(bh1, **to_clean), ON_VP, proof=vanishes(bh1, "at the last noisy level"),
        reason="with B(h) = h the peer's step into sigma = 0 is not finite",
    )  # fmt: skip

    def sa(predictor: int, corrector: int, tau: float) -> tuple[str, Diffusers]:
        config = {"predictor_order": predictor, "corrector_order": corrector + 1, "lower_order_final": False}
        peer = Diffusers(
            "SASolverScheduler", {**config, "tau_func": lambda t: tau}, end="corrected", note=f"tau={tau:g}"
        )
        if not corrector:
            peer = replace(peer, end="last", before=no_corrector, note=f"tau={tau:g}, no corrector")
        return f"sa-solver:predictor={predictor},corrector={corrector},tau={tau:g}", peer

    for tau in (0, 0.6, 1):
        yield case(*sa(1, 0, tau), ON_VP)
        for predictor, corrector in ((2, 0), (2, 1), (3, 0), (3, 2)):
            spec, peer = sa(predictor, corrector, tau)
            bare = replace(peer, before=no_added_term if corrector else neither, note=f"{peer.note}, no added term")
            yield case(spec, bare, ON_VP)
            if not tau and spec in V3:
                yield case(f"dpm-solver-v3:{V3[spec]}", bare, ON_VP, "without a file")
            yield case(
                spec, peer, ON_VP, proof=vanishes(bare, "without it"),
                reason="the peer adds a term to its two-step coefficients, with which order 3 starts too",
            )  # fmt: skip


def edm_and_flow_cases() -> Iterator[Case]:
    """The schedulers of EDM and of flow matching."""
    yield case("euler", Diffusers("EDMEulerScheduler", predicts="F"), ON_EDM)
    name, plain = "EDMDPMSolverMultistepScheduler", {"lower_order_final": False}
    published = "dpm-solver++:order=3,coefficients=published"
    for spec, k in (("dpm-solver++:order=1", 1), ("dpm-solver++:order=2", 2), (published, 3)):
        yield case(spec, Diffusers(name, {"solver_order": k, **plain}, predicts="F"), ON_EDM)
    for variant in ("midpoint", "heun"):
        config = {"algorithm_type": "sde-dpmsolver++", "solver_type": variant, **plain}
        yield case(f"dpm-solver++-sde:variant={variant}", Diffusers(name, config, predicts="F"), ON_EDM)

    flow = {"form": "flow", "predicts": "flow"}
    from_noise = replace(ON_FLOW, times=(1.0, *ON_FLOW.times))
    yield case("euler", Diffusers("FlowMatchEulerDiscreteScheduler", **flow), from_noise)
    stochastic = Diffusers("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, **flow)
    yield case("euler-a:eta=1e9", stochastic, ON_FLOW, "all noise drawn again in each step")
    config = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "lower_order_final": False}
    yield case("dpm-solver++", Diffusers("DPMSolverMultistepScheduler", config, **flow), ON_FLOW)
    yield case("deis:order=1", Diffusers("DEISMultistepScheduler", config, end="last", **flow), ON_FLOW)
    to_clean = {"before": last_step_first_order, "note": "lower_order_final in the last step"}
    yield case("unipc", Diffusers("UniPCMultistepScheduler", config, **to_clean, **flow), ON_FLOW)
    heun = Diffusers("FlowMatchHeunDiscreteScheduler", calls=twice, **flow)
    yield case("heun:variable=t", heun, ON_FLOW, "from t = 0.97")
    yield case(
        "heun:variable=t", heun, from_noise, "from t = 1", proof=vanishes(heun, "from t = 0.97", on=ON_FLOW),
        reason="where alpha = 0 ours takes the first interval by Euler",
    )  # fmt: skip


def k_diffusion_cases() -> Iterator[Case]:
    """Every function of k_diffusion.sampling that is one of our samplers."""
    for spec, peer in (
        ("euler", KDiffusion("sample_euler")),
        ("euler-a:eta=0.5", KDiffusion("sample_euler_ancestral", {"eta": 0.5})),
        ("euler-a:eta=1", KDiffusion("sample_euler_ancestral")),
        ("euler-a:eta=1.5", KDiffusion("sample_euler_ancestral", {"eta": 1.5})),
        ("heun", KDiffusion("sample_heun")),
        ("edm:churn=4,s_tmin=0.05,s_tmax=50,s_noise=1.003",
         KDiffusion("sample_heun", {"s_churn": 4.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003})),
        ("gradient-estimation:gamma=1", KDiffusion("sample_euler")),
        ("dpm2", KDiffusion("sample_dpm_2")),
        ("epd:points=1", KDiffusion("sample_dpm_2")),
        *((f"ipndm-v:order={k}", KDiffusion("sample_lms", {"order": k}, end="last")) for k in (1, 2, 3, 4)),
        ("dpm2-a:eta=0.5", KDiffusion("sample_dpm_2_ancestral", {"eta": 0.5})),
        ("dpm2-a:eta=1", KDiffusion("sample_dpm_2_ancestral")),
        *((f"lms:order={k}", KDiffusion("sample_lms", {"order": k}, end="last")) for k in (1, 2, 3, 4)),
        ("dpm-solver++-single", KDiffusion("sample_dpmpp_2s_ancestral", {"eta": 0.0})),
        ("dpm-solver++-single:eta=0.5", KDiffusion("sample_dpmpp_2s_ancestral", {"eta": 0.5})),
        ("dpm-solver++-single:eta=1", KDiffusion("sample_dpmpp_2s_ancestral")),
        ("dpm-solver++:order=2", KDiffusion("sample_dpmpp_2m")),
        ("dpm-solver++-sde:variant=midpoint", KDiffusion("sample_dpmpp_2m_sde")),
        ("dpm-solver++-sde:variant=heun", KDiffusion("sample_dpmpp_2m_sde", {"solver_type": "heun"})),
        ("dpm-solver++-sde:eta=0.5", KDiffusion("sample_dpmpp_2m_sde", {"eta": 0.5})),
        ("dpm-solver++-sde:order=3,variant=heun,coefficients=published", KDiffusion("sample_dpmpp_3m_sde")),
        ("dpm-solver++-sde:order=3,variant=heun,coefficients=published,eta=0.5",
         KDiffusion("sample_dpmpp_3m_sde", {"eta": 0.5})),
    ):  # fmt: skip
        yield case(spec, peer, ON_EDM)
    yield case(
        "dpm-solver++-sde:order=3,eta=0", KDiffusion("sample_dpmpp_3m_sde", {"eta": 0.0}), ON_EDM, proof=orders(3, 2),
        reason="the peer counts the second derivative by half; see the rows above",
    )  # fmt: skip
    for eta in (0.5, 1.0):
        peer = KDiffusion("sample_dpmpp_sde", {"eta": eta})
        yield case(f"dpm-solver++-sde-single:eta={eta:g}", peer, replace(ON_EDM, on_path=True))
    between = {"s_churn": 4.0, "s_tmin": 0.05, "s_tmax": 50.0}
    spec = "edm:churn=4,s_tmin=0.05,s_tmax=50"
    yield case(
        "edm:churn=4", KDiffusion("sample_heun", {"s_churn": 4.0}), ON_EDM,
        reason="the peer churns at the first level, beyond what the network knows, and before the last step too",
        proof=vanishes(KDiffusion("sample_heun", between), "with churn between 0.05 and 50 alone", spec),
    )  # fmt: skip
    lms = KDiffusion("sample_lms")
    yield case(
        "lms:order=4", lms, ON_EDM, proof=vanishes(replace(lms, end="last"), "at the last noisy level"),
        reason="the peer extrapolates the last interval to sigma = 0 with the full order, ours is Euler there",
    )  # fmt: skip
    for k in (2, 3):
        peer = KDiffusion(
            "sample_dpm_adaptive", {"order": k, "rtol": np.float64(0.05), "atol": np.float64(0.0078)}, end="last"
        )
        one = Problem(EDM, (80.0, 0.02), n=1)
        yield case(f"dpm-solver-adaptive:order={k}", peer, one, "one sample: the peer has one step for all")


# ---- Grids ----


def grid_case(
    grid: str, library_name: str, label: str, schedule: Schedule, peer: Callable[[], Any], steps: int = 10, **more: Any
) -> Case:
    """sigma / alpha of our grid's noisy levels, or their flow times; `peer` may have the clean end too."""

    def sides(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        levels = default_registry().levels(grid, schedule, steps, integer=False)[:-1]
        with computing_in(dtype):
            theirs = torch.as_tensor(peer()).double()
        ours = [level.t if schedule is FLOW else level.sigma_ve for level in levels]
        return torch.tensor(ours, dtype=torch.float64), theirs[:steps]

    return Case(grid, library_name, label, LIBRARIES[library_name], sides, **more)


def k_diffusion_grids() -> Iterator[Case]:
    """The functions that make sigmas."""

    def made(grid: str, schedule: Schedule, function: str, note: str = "", **options: float) -> Case:
        label = f"{function}({', '.join(f'{k}={v}' for k, v in options.items())})"

        def sigmas() -> Tensor:
            return getattr(library("k_diffusion.sampling"), function)(10, **options)

        return grid_case(grid, "k-diffusion", label, schedule, sigmas, note=note)

    ends = {"sigma_min": 0.002, "sigma_max": 80.0}
    yield made("karras", EDM, "get_sigmas_karras", **ends)
    yield made("karras:rho=3", EDM, "get_sigmas_karras", **ends, rho=3.0)
    yield made("exponential", EDM, "get_sigmas_exponential", **ends)
    yield made("polyexponential:rho=2", EDM, "get_sigmas_polyexponential", **ends, rho=2.0)
    t = np.linspace(1e-3, 1, 1000)
    continuous = sb.vp_from_alphas_cumprod(np.exp(-(19.9 * t**2 / 2 + 0.1 * t)).tolist())
    yield made("uniform", continuous, "get_sigmas_vp", "on the table of its schedule at 1000 times")


def diffusers_grids() -> Iterator[Case]:
    """The schedulers' own sigmas and timesteps."""

    def made(grid: str, schedule: Schedule, name: str, **config: Any) -> Case:
        def sigmas() -> Tensor:
            scheduler = getattr(library("diffusers"), name)(**config)
            scheduler.set_timesteps(10)
            return scheduler.sigmas

        return grid_case(grid, "diffusers", Diffusers(name, config).label, schedule, sigmas)

    yield made("karras", VP, "EulerDiscreteScheduler", use_karras_sigmas=True)
    yield made("exponential", VP, "EulerDiscreteScheduler", use_exponential_sigmas=True)
    yield made("beta", VP, "EulerDiscreteScheduler", use_beta_sigmas=True)
    yield made("linspace", VP, "EulerDiscreteScheduler")
    yield made("logsnr", VP, "DPMSolverMultistepScheduler", use_lu_lambdas=True)
    yield made("shift-twice", FLOW, "FlowMatchEulerDiscreteScheduler", shift=3.0)
    yield grid_case("shift", "diffusers", "FlowMatchEulerDiscreteScheduler(shift=3.0), given even times", FLOW, shifted)
    yield made("karras", EDM, "EDMEulerScheduler")
    yield made("exponential", EDM, "EDMEulerScheduler", sigma_schedule="exponential")

    for spacing in ("leading", "trailing", "linspace"):
        yield spaced(spacing, 10)
    for spacing in ("trailing", "linspace"):
        yield spaced(spacing, 7)
    divides = spaced("leading", 10)
    yield replace(
        spaced("leading", 7), reason="the peer rounds T/S down before it multiplies, so its noisiest timestep is lower",
        proof=lambda: ((row := divides.measured()).verdict == "pass", f"{row.difference:.0e} where S divides T"),
    )  # fmt: skip

    for model, first, last, table in (
        ("sd15", 14.615, 0.029, "StableDiffusionSigmas"),
        ("sdxl", 14.615, 0.029, "StableDiffusionXLSigmas"),
        ("svd", 700.0, 0.002, "StableDiffusionVideoSigmas"),
    ):
        sigmas = functools.partial(aligned, table)
        note = f"on EDM from {first:g} to {last:g}"
        yield grid_case(
            f"ays:model={model}", "diffusers", f"AysSchedules[{table}]", sb.edm(last, first), sigmas, note=note
        )


def shifted() -> Tensor:
    """Ten even times, as the pipeline of Flux gives them to its scheduler."""
    scheduler = library("diffusers").FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[1 - i / 10 for i in range(10)])
    return scheduler.sigmas


def spaced(spacing: str, steps: int) -> Case:
    """DDIM's timesteps, as sigma / alpha."""

    def sigmas() -> Tensor:
        scheduler = library("diffusers").DDIMScheduler(timestep_spacing=spacing)
        scheduler.set_timesteps(steps)
        return torch.tensor([VP.at_time(float(t)).sigma_ve for t in scheduler.timesteps])

    label = f"DDIMScheduler(timestep_spacing={spacing})"
    return grid_case(spacing, "diffusers", label, VP, sigmas, steps, note=f"{steps} timesteps")


def aligned(table: str) -> list[float]:
    """A published table of Align Your Steps, its clean end 0."""
    return library("diffusers.schedulers.scheduling_utils").AysSchedules[table]


# ---- The page ----


SAMPLERS = [*diffusers_cases(), *k_diffusion_cases()]
GRIDS = [*diffusers_grids(), *k_diffusion_grids()]
CASES = [*SAMPLERS, *GRIDS]


def named(cases: list[Case]) -> set[str]:
    """The names without options."""
    return {parse_spec(case.name)[0] for case in cases}


def without_row() -> dict[str, list[str]]:
    """What either side has and the page has not."""
    peers = {case.label.partition("(")[0] for case in SAMPLERS}
    functions = {name for name in dir(library("k_diffusion.sampling")) if name.startswith("sample_")}
    schedulers = {entry.name for entry in library("diffusers").schedulers.KarrasDiffusionSchedulers}
    return {
        "samplers of samplerbench": sorted(set(sb.list_samplers()) - named(SAMPLERS)),
        "grids of samplerbench": sorted(set(default_registry().grids.things) - named(GRIDS)),
        "functions of `k_diffusion.sampling`": sorted(functions - peers),
        "classes in diffusers' `KarrasDiffusionSchedulers`": sorted(schedulers - peers),
    }


def table(rows: list[Row], what: str) -> str:
    """Markdown."""
    lines = [
        f"| {what} | peer | difference | as shipped | tolerance | verdict | note |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    for r in rows:
        numbers = f"{r.difference:.1e} | {r.shipped:.1e} | {r.tolerance:.0e}"
        lines.append(f"| `{r.name}` | `{r.peer}` | {numbers} | {r.verdict} | {r.note} |")
    return "\n".join(lines)


def page(rows: dict[str, list[Row]]) -> str:
    """docs/parity.md, of the rows by heading."""
    every = [row for part in rows.values() for row in part]
    agree = [row.difference for row in every if row.verdict == "pass"]
    differ, failed = (sum(row.verdict.startswith(word) for row in every) for word in ("differs", "FAIL"))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in (*LIBRARIES, "torch", "numpy"))
    missing = "\n".join(
        f"- {what}: {', '.join(f'`{x}`' for x in names)}" for what, names in without_row().items() if names
    )
    parts = [
        INTRODUCTION,
        f"Measured with {versions}. {len(agree)} of {len(every)} rows agree, the farthest by {max(agree):.1e}; "
        f"{differ} differ for a reason that is proven, {failed} fail.",
    ]
    for heading, part in rows.items():
        parts += [f"## {heading}", table(part, "grid" if heading == "Grids" else "sampler")]
    return "\n\n".join([*parts, "## Without a row", missing, WITHOUT])


WITHOUT = """\
Neither library has CFG++, ER-SDE-Solver, SEEDS or Restart. Of learned solvers, EPD-Solver, gradient estimation and
DPM-Solver-v3 they have what these are without a file, or with the options of the row; tests hold the rest to NumPy
written from the papers. iPNDM_v as published is in neither; exact it is LMS."""


INTRODUCTION = """\
# Parity with diffusers and k-diffusion

`pip install -e '.[test,parity]' && python tests/tools/parity.py > docs/parity.md` wrote this page; `pytest -m ''
tests/tools/test_parity.py` holds each row. A row runs one of our samplers and its peer on the same model (a mixture of
Gaussians, in closed form) from the same state, over the same levels, with the same noise; a row of a grid compares
sigma / alpha of its levels.

- *difference*: the largest one, relative to the largest number, in float64. The peers keep tables and states in
  float32; here they run with the names `torch.float32` and `numpy.float32` standing for float64.
- *as shipped*: the difference from the peer as it is, with its state in float32; ours stays in float64.
- *verdict*: pass = within the tolerance. Where a peer differs for a reason, the reason; the note then has the numbers
  that prove it: what is left of the difference once the reason is removed, or both orders of convergence, measured
  on 80, 160 and 320 steps."""


if __name__ == "__main__":
    measured = {
        "diffusers": [case.measured() for case in SAMPLERS if case.library == "diffusers"],
        "k-diffusion": [case.measured() for case in SAMPLERS if case.library == "k-diffusion"],
        "Grids": [case.measured() for case in GRIDS],
    }
    print(page(measured))
    sys.exit(any(row.verdict == "FAIL" for part in measured.values() for row in part))

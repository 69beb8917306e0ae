"""What samplers cost beside the network, against diffusers and k-diffusion.

    python benchmarks/overhead.py > benchmarks/results/overhead-cpu.md
    python benchmarks/overhead.py --shape 128,1,28,28 --rounds 30
    python benchmarks/overhead.py --device cuda > benchmarks/results/overhead-cuda.md
    python benchmarks/overhead.py --model fashion-mnist

The network answers with a tensor that it holds, so all that is clocked is the sampler: arithmetic, noise, checks. For
each sampler the ways take turns in one process with one thread, forwards and backwards; shown are medians of the
rounds, and ratios of these medians. On a CPU the clock is that of the thread, which other programs disturb least.

With `--model` a real network answers, and shown is its share of the time that drawing takes.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import samplerbench as sb
from samplerbench.bench.plan.environment import environment
from samplerbench.samplers.grid import Levels
from samplerbench.samplers.level import Level
from samplerbench.samplers.model import predictor_for
from samplerbench.samplers.noise import Noise
from samplerbench.samplers.predictor import Counted, clock
from samplerbench.samplers.registry import default_registry
from samplerbench.samplers.sample import request_for
from samplerbench.samplers.sampler import StepContext, integrate

STEPS = 20
SHAPES = (1, 1, 28, 28), (128, 1, 28, 28), (16, 4, 64, 64), (1024, 3, 32, 32)
"""Samples and their shape: one small image, a batch of them, latents of 512 x 512 pixels, many small images."""
WORK_SPACE = 7_000_000
"""Numbers, 28 MB: when so much was allocated once, the C library keeps freed memory, as after a call of any network."""
LARGE = 1_000_000
"""Numbers of a state from which on a third of the rounds is enough."""
VP = sb.vp_linear()
Way = Callable[[], object]


@dataclass(frozen=True)
class Peer:
    """The same sampler in the other libraries; '' = it has none."""

    scheduler: str = ""
    """diffusers' class."""
    settings: tuple[tuple[str, object], ...] = ()
    """Of the scheduler."""
    function: str = ""
    """k-diffusion's function."""


PEERS: Mapping[str, Peer] = {
    "ddim": Peer("DDIMScheduler"),
    "euler": Peer("EulerDiscreteScheduler", function="sample_euler"),
    "dpm-solver++": Peer("DPMSolverMultistepScheduler", function="sample_dpmpp_2m"),
    "heun": Peer("HeunDiscreteScheduler", function="sample_heun"),
    "dpm2": Peer("KDPM2DiscreteScheduler", function="sample_dpm_2"),
    "dpm-solver": Peer(
        "DPMSolverSinglestepScheduler", (("algorithm_type", "dpmsolver"), ("final_sigmas_type", "sigma_min"))
    ),
    "unipc": Peer("UniPCMultistepScheduler"),
    "deis": Peer("DEISMultistepScheduler"),
    "lms": Peer("LMSDiscreteScheduler", function="sample_lms"),
    "plms": Peer("PNDMScheduler", (("skip_prk_steps", True),)),
    "ipndm": Peer("IPNDMScheduler"),
    "ddpm": Peer("DDPMScheduler"),
    "euler-a": Peer("EulerAncestralDiscreteScheduler", function="sample_euler_ancestral"),
    "sa-solver": Peer("SASolverScheduler"),
}
STOCHASTIC = "ddpm", "euler-a", "sa-solver"


@dataclass(frozen=True)
class Problem:
    """What all ways are given."""

    x: Tensor
    """The first state, (n, *shape)."""
    answer: Tensor
    """What the network says, whatever it is asked."""

    def ours(self, spec: str) -> Way:
        """A run of this package, as `draw` makes it."""
        n, shape, device = len(self.x), tuple(self.x.shape[1:]), self.x.device
        model = sb.wrap_network(lambda x, t: self.answer, schedule=VP, shape=shape)
        request = request_for(default_registry(), model, spec, steps=STEPS, device=device)
        predictor = predictor_for(
            model, prompts=(), negative=None, guidance=1.0, batch_size=n, device=device, dtype=self.x.dtype
        )
        stream = Noise(0, shape, n, device=device)

        def noise(a: Level, b: Level, interval: int, ordinal: int) -> Tensor:
            return stream.step(interval, ordinal).to(self.x)

        levels: Levels = request.levels
        return lambda: integrate(request.sampler, StepContext(levels, Counted(predictor), noise, VP), self.x)

    def diffusers(self, peer: Peer) -> Way:
        """The loop that a pipeline of diffusers makes."""
        kind = getattr(importlib.import_module("diffusers"), peer.scheduler)
        settings = {} if peer.scheduler == "IPNDMScheduler" else {"beta_start": 1e-4, "beta_end": 0.02}

        def run() -> Tensor:
            scheduler = kind(**settings, **dict(peer.settings))
            scheduler.set_timesteps(STEPS, device=self.x.device)
            # The set-up is no step, so the clock begins behind it.
            return clocked(lambda: self._steps(scheduler), self.x.device)

        return run

    def _steps(self, scheduler: Any) -> Tensor:
        x = self.x * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            scheduler.scale_model_input(x, t)
            x = scheduler.step(self.answer, t, x).prev_sample
        return x

    def k_diffusion(self, peer: Peer) -> Way:
        """A function of k-diffusion, with a model that knows the clean image."""
        function = getattr(importlib.import_module("k_diffusion.sampling"), peer.function)
        levels = request_for(default_registry(), "gaussian", "ddim", steps=STEPS).levels
        sigmas = torch.tensor([level.sigma_ve for level in levels], dtype=self.x.dtype, device=self.x.device)
        return lambda: function(lambda x, sigma: self.answer, self.x * sigmas[0], sigmas, disable=True)

    def combination(self) -> object:
        """As many fused combinations of two tensors as there are steps."""
        for _ in range(STEPS):
            torch.add(self.x * 0.9, self.answer, alpha=0.1)
        return None

    def draws(self, stream: Noise) -> object:
        """The noise of as many steps."""
        for i in range(STEPS - 1):
            stream.step(i, 0)
        return None


def now(device: torch.device) -> float:
    """Seconds: of this thread, or, once the device has done its work, of the wall."""
    return time.thread_time() if device.type == "cpu" else clock(device)


class Seconds(float):
    """What a way clocked itself, without its set-up."""


def clocked(way: Way, device: torch.device) -> Any:
    """The seconds of a way."""
    started = now(device)
    way()
    return Seconds(now(device) - started)


def medians(ways: Mapping[str, Way], rounds: int, device: torch.device) -> dict[str, float]:
    """Microseconds a step of each way; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name in list(ways)[:: -1 if i % 2 else 1]:
            started = now(device)
            returned = ways[name]()
            seconds = returned if isinstance(returned, Seconds) else now(device) - started
            times[name].append(1e6 * seconds / STEPS)
    return {name: statistics.median(of_way[1:]) for name, of_way in times.items()}


def ways_of(problem: Problem, spec: str) -> dict[str, Way]:
    """What takes turns for one sampler."""
    peer = PEERS[spec]
    ways: dict[str, Way] = {"fused": problem.combination, "ours": problem.ours(spec)}
    if spec in STOCHASTIC:
        x = problem.x
        ways["draws"] = functools.partial(problem.draws, Noise(0, tuple(x.shape[1:]), len(x), device=x.device))
    if peer.scheduler and has("diffusers"):
        ways["diffusers"] = problem.diffusers(peer)
    if peer.function and has("k_diffusion"):
        ways["k-diffusion"] = problem.k_diffusion(peer)
    return ways


@functools.cache
def has(module: str) -> bool:
    """Whether a library can be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(importlib.import_module(module))
        except ImportError:
            return False


def table(shape: tuple[int, ...], rounds: int, device: torch.device) -> str:
    """A table of Markdown for one shape."""
    generator = torch.Generator().manual_seed(0)
    x, answer = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    rounds = max(3, rounds // 3) if math.prod(shape) >= LARGE else rounds
    lines = [
        f"### {shape}", "",
        "| sampler | us a step | over a fused one | over its draws | diffusers | k-diffusion | over the faster |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for spec in PEERS:
        found = medians(ways_of(Problem(x, answer), spec), rounds, device)
        peers = [found[name] for name in ("diffusers", "k-diffusion") if name in found]
        cells = [
            f"{found['ours']:.0f}", f"{found['ours'] / found['fused']:.1f}", ratio(found["ours"], found.get("draws")),
            *(f"{found[name]:.0f}" if name in found else "-" for name in ("diffusers", "k-diffusion")),
            ratio(found["ours"], min(peers, default=None)),
        ]  # fmt: skip
        lines.append(f"| {spec} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_of_shares(name: str, n: int, steps: int, rounds: int, device: torch.device) -> str:
    """A table of Markdown: how much of the time of a draw is the network's, for each sampler."""
    model = sb.load_model(name)
    lines = [
        f"### {name}, {n} samples, {steps} steps",
        "",
        "| sampler | ms a sample | of which the network |",
        "|---|---|---|",
    ]
    sb.sample(model, "ddim", steps=1, n=n, device=str(device))  # the first call is slower than all others
    for spec in PEERS:
        drawn = [sb.sample(model, spec, steps=steps, n=n, device=str(device)) for _ in range(rounds)]
        seconds = statistics.median(one.seconds for one in drawn)
        share = statistics.median(one.model_seconds / one.seconds for one in drawn)
        lines.append(f"| {spec} | {1000 * seconds / n:.2f} | {100 * share:.1f} % |")
    return "\n".join(lines)


def ratio(ours: float, of: float | None) -> str:
    """Two decimals, or a dash where there is nothing to compare with."""
    return "-" if of is None else f"{ours / of:.2f}"


def machine(device: torch.device) -> str:
    """The machine and the versions, in a line."""
    about = environment(str(device))
    versions = {name: about["versions"][name] for name in ("samplerbench", "torch", "numpy")}
    for module in ("diffusers", "k_diffusion"):
        if has(module):
            versions[module] = importlib.metadata.version(module)
    told = ", ".join(f"{name.replace('_', '-')} {version}" for name, version in versions.items())
    return f"{about['cpu']}, {about['cores']} cores, {about['threads']} thread, {about['device']}; {told}"


def main() -> None:
    """Print a table for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shape", action="append", help="as in 128,1,28,28; repeatable")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", help="show the share of this model's network instead, as in fashion-mnist")
    parser.add_argument("-n", "--samples", type=int, default=64, help="with --model")
    parser.add_argument("--steps", type=int, default=10, help="with --model")
    given = parser.parse_args()
    device = torch.device(given.device)
    shapes = [tuple(map(int, shape.split(","))) for shape in given.shape or ()] or SHAPES
    torch.set_num_threads(1)
    torch.ones(WORK_SPACE)
    if given.model:
        print(f"## The network's share\n\n{machine(device)}; medians of {given.rounds} rounds.\n")
        print(table_of_shares(given.model, given.samples, given.steps, given.rounds, device))
        return
    print("## Overhead a step\n")
    print(f"{machine(device)}; {STEPS} steps, medians of {given.rounds} rounds, a third of them for large states.\n")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for shape in shapes:
            print(table(shape, given.rounds, device), flush=True, end="\n\n")


if __name__ == "__main__":
    main()

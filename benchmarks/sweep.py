"""A sweep of samplers with FID, CLIP score and time, against the script that one would write for it.

    python benchmarks/sweep.py                                  # 4 samplers x 5 step counts x 1,000 images, two rounds
    python benchmarks/sweep.py --samplers ddim,dpm-solver++ --steps 2,4 -n 128 --rounds 1
    python benchmarks/sweep.py --device cuda --batch-size 256
    python benchmarks/sweep.py --workers 2                      # also with two processes, which share the cores

The script has diffusers' schedulers, the same network in the same batches, torch-fidelity's FID on the same features,
whose statistics of the test images it caches, and the same CLIP. It starts from the same noise, so both must find the
same numbers. Both begin with nothing and end with their table; they take turns, round by round, and the ratio is that
of the medians. Exits with 1 where a number differs.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import samplerbench as sb
from samplerbench.bench.plan.environment import environment
from samplerbench.plugins.models.fashion_mnist.data import SIDE, load_split
from samplerbench.plugins.models.fashion_mnist.fidelity import LAYER, register_with_torch_fidelity
from samplerbench.plugins.models.fashion_mnist.model import SHAPE, load_clip
from samplerbench.samplers.noise import Noise
from samplerbench.samplers.predictor import clock
from samplerbench.samplers.registry import default_registry

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm-solver++": "DPMSolverMultistepScheduler",
}
SETTINGS = {
    "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "prediction_type": "v_prediction",
    "timestep_spacing": "leading",
}  # fmt: skip
OWN: Mapping[str, dict[str, Any]] = {
    "DDIMScheduler": {"clip_sample": False}, "DPMSolverMultistepScheduler": {"final_sigmas_type": "zero"},
}  # fmt: skip
"""Settings that a scheduler has for itself."""
VP = sb.vp_linear()
ABAR = torch.tensor(VP.alphas_cumprod)
TOLERANCES = {"fid": 0.02, "clip": 0.02}
"""Both round states to grey levels; a level that falls to the other side moves a number by less than this."""
SCRIPT = "the script"
Numbers = dict[tuple[str, int], tuple[float, float]]
"""FID and CLIP score by sampler and steps."""


@dataclass(frozen=True)
class Task:
    """What both are to do."""

    samplers: tuple[str, ...]
    steps: tuple[int, ...]
    n: int
    batch: int
    device: torch.device


# ---- This package ----


def ours(task: Task, folder: Path, workers: int | None = None) -> Numbers:
    """One call; `workers` are processes that share the cores."""
    table = sb.run(
        "fashion-mnist", task.samplers, steps=task.steps, n=task.n, grid="leading", batch_size=task.batch,
        device=str(task.device), metrics=["fid", "clip_score"], output=folder, workers=workers,
    ).table  # fmt: skip
    return {(row.sampler, row.steps): (row.fid, row.clip_score) for row in table.itertuples()}


# ---- The script ----


def script(task: Task, folder: Path) -> Numbers:
    """A loop over schedulers and step counts."""
    model = sb.load_model("fashion-mnist")
    network = model.network(task.device, torch.float32)
    assert model.encode is not None
    condition = model.encode(list(model.prompts)).to(task.device)
    clip = load_clip().to(task.device)
    texts = clip.embed_texts(list(model.prompts))
    real = TensorDataset(load_split(False).images)
    found = {}
    for spec in task.samplers:
        for steps in task.steps:
            images = drawn(task, network, condition, SCHEDULERS[spec], steps)
            found[spec, steps] = fid_of(images, real, folder), score(clip, images, texts)
    return found


def drawn(task: Task, network: Any, condition: Tensor, name: str, steps: int) -> Tensor:
    """Images, uint8 (n, 1, 28, 28)."""
    scheduler = getattr(importlib.import_module("diffusers"), name)(**SETTINGS, **OWN.get(name, {}))
    # Not every scheduler has the same levels for the same number, so those that take a list get one.
    levels: dict[str, Any] = {"timesteps": [(steps - 1 - i) * 1000 // steps for i in range(steps)]}
    if name == "DDIMScheduler":
        levels = {"num_inference_steps": steps}
    parts = []
    for first in range(0, task.n, task.batch):
        rows = range(first, min(first + task.batch, task.n))
        scheduler.set_timesteps(**levels, device=task.device)  # it keeps a place in them, and a past
        x = Noise(0, SHAPE, len(rows), first=first, device=task.device).prior() * scheduler.init_noise_sigma
        asked = condition[[i % len(condition) for i in rows]]
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t)
            x = scheduler.step(answer(network, scaled, t, asked), t, x).prev_sample
        parts.append(((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu())
    return torch.cat(parts)


def answer(network: Any, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
    """The network's v for a clean image that is kept between black and white."""
    said = network(x, t.to(x.dtype).expand(len(x)), condition)
    alpha, sigma = ABAR[int(t)].sqrt(), (1 - ABAR[int(t)]).sqrt()
    x0 = (alpha * x - sigma * said).clamp(-1, 1)
    return (alpha * x - x0) / sigma  # alpha eps - sigma x0, with eps of the bounded x0


def fid_of(images: Tensor, real: TensorDataset, folder: Path) -> float:
    """torch-fidelity's FID."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = importlib.import_module("torch_fidelity").calculate_metrics(
            input1=Images(images), input2=Images(real.tensors[0]), input2_cache_name="test-images", fid=True,
            feature_extractor=register_with_torch_fidelity(), feature_layer_fid=LAYER, cuda=False,
            cache_root=str(folder), verbose=False, save_cpu_ram=True,
        )  # fmt: skip
    return float(found["frechet_inception_distance"])


class Images(torch.utils.data.Dataset[Tensor]):
    """Images one by one, as torch-fidelity wants them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.expand(-1, 3, SIDE, SIDE)

    def __len__(self) -> int:
        """How many."""
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        """One."""
        return self.images[i]


def score(clip: Any, images: Tensor, texts: Tensor) -> float:
    """The mean cosine of images and prompts, in per cent."""
    cosines = []
    for first in range(0, len(images), 256):
        part = images[first : first + 256].to(texts.device)
        rows = torch.arange(first, first + len(part)) % len(texts)
        cosines.append((clip.embed_images(part) * texts[rows]).sum(1))
    return 100 * float(torch.cat(cosines).mean())


# ---- Both ----


def compared(task: Task, rounds: int, workers: int | None = None) -> bool:
    """Print numbers and times of all; whether the numbers are equal."""
    kinds: dict[str, Callable[[Task, Path], Numbers]] = {SCRIPT: script, "samplerbench": ours}
    if workers:
        kinds[f"samplerbench, {workers} workers"] = partial(ours, workers=workers)
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    found: dict[str, Numbers] = {}
    for i in range(rounds):
        for name in list(kinds)[:: -1 if i % 2 else 1]:
            with tempfile.TemporaryDirectory() as folder:
                started = clock(task.device)
                found[name] = kinds[name](task, Path(folder) / "run")
                seconds[name].append(clock(task.device) - started)
            print(f"{name}: {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    mine, theirs = found["samplerbench"], found[SCRIPT]
    print("| sampler | steps | FID | the script's | CLIP score, % | the script's |\n|---|---:|---:|---:|---:|---:|")
    for (spec, steps), (fid, clip) in mine.items():
        other = theirs[spec, steps]
        print(f"| {spec} | {steps} | {fid:.3f} | {other[0]:.3f} | {clip:.3f} | {other[1]:.3f} |")
    whole = {name: statistics.median(times) for name, times in seconds.items()}
    print("\n| | seconds | the script's time over it |\n|---|---:|---:|")
    for name, times in seconds.items():
        each = ", ".join(f"{one:.1f}" for one in times)
        print(f"| {name} | {whole[name]:.1f} ({each}) | {whole[SCRIPT] / whole[name]:.2f} |")
    print()
    others = [name for name in kinds if name != SCRIPT]
    return not [name for name in others if not are_equal(found[name], theirs, name)]  # each says what differs


def are_equal(mine: Numbers, theirs: Numbers, name: str) -> bool:
    """Whether FIDs are equal to 2 % of the larger, or to 0.02, and CLIP scores to 0.02 points."""
    different = []
    for key, (fid, clip) in mine.items():
        other_fid, other_clip = theirs[key]
        is_equal = abs(fid - other_fid) <= TOLERANCES["fid"] * max(1, fid)
        # A number that one of them lacks is NaN, and equals nothing.
        if not (is_equal and abs(clip - other_clip) <= TOLERANCES["clip"]):
            different.append(f"{key[0]} at {key[1]} steps")
    if different:
        print(f"different: {name}: {', '.join(different)}")
    return not different


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; 1 where a number differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", default=",".join(SCHEDULERS))
    parser.add_argument("--steps", default="5,10,20,40,50")
    parser.add_argument("-n", "--samples", type=int, default=1000)
    parser.add_argument("-b", "--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    samplers, steps = tuple(given.samplers.split(",")), tuple(map(int, given.steps.split(",")))
    if unknown := [name for name in samplers if name not in SCHEDULERS]:
        sys.exit(f"samplers {', '.join(unknown)}: expected some of {', '.join(SCHEDULERS)}")
    if uneven := [str(count) for count in steps if 1000 % count]:
        sys.exit(f"steps {', '.join(uneven)}: diffusers has other levels for them; expected divisors of 1000")
    default_registry()  # plugins are loaded once, in front of both
    task = Task(samplers, steps, given.samples, given.batch_size, torch.device(given.device))
    about = environment(given.device)
    print(f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads, {about['device']}; n = {task.n}\n")
    with torch.no_grad():
        return 0 if compared(task, given.rounds, given.workers) else 1


if __name__ == "__main__":
    sys.exit(main())

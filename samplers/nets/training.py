"""The training loop: AdamW with a cosine learning rate, checkpoints, resume.

All randomness of step k comes from a generator seeded by (seed, k), so a training that was stopped and resumed sees the
same data and noise as one that was not.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..ddpm import EMA
from ..errors import InputError, ModelError
from ..files.atomic import make_folder, write_atomically
from ..files.lock import LOCK_FILE
from ..files.torch_file import read_torch_file
from ..model import Progress
from .ranks import ALONE, Ranks

LOG_EVERY_SECONDS = 20.0


Report = Callable[[Progress], None]
LossOf = Callable[[nn.Module, int], Tensor]
"""(network, step) -> the loss on this process's part of that step's batch."""
Watch = Callable[[int, Mapping[str, Tensor]], None]
"""Called with the number of steps done and the weights that a training that stopped now would return."""


@dataclass(frozen=True)
class Recipe:
    """How one network is trained."""

    phase: str
    steps: int
    lr: float
    weight_decay: float = 0.0
    warmup: int = 200
    ema: float = 0.0
    """Decay of the moving average of the weights; 0 = none."""
    bf16: bool = True
    """Whether the forward pass runs in bfloat16 where the operation allows it."""

    def rate(self, step: int) -> float:
        """Learning rate of step `step`: a linear warm-up, then half a cosine down to zero."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(self.steps - self.warmup, 1)))


def check_folder(folder: Path, file: str, *others: str) -> None:
    """InputError for an output that holds something else than a training, which has `file`, or has only begun to have
    `others`."""
    there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = [name for name in there if name not in (LOCK_FILE, *others) and not name.endswith(".tmp")]
    if found and file not in found:
        raise InputError(
            f"output {folder}: holds {', '.join(sorted(found)[:3])}, and no {file} of a training; expected an empty "
            "folder or one to resume"
        )


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random stream of one training step."""
    # From seed and step only: a resumed training draws what the whole one would have.
    key = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(key >> 1)


def batch_of(seed: int, step: int, count: int, batch: int) -> Tensor:
    """The sample indices of training step `step`, (batch,), from whole epochs that are each shuffled differently."""
    per_epoch = count // batch
    if not per_epoch:
        raise ModelError(f"{count} training images; expected at least {batch}, the size of a batch")
    epoch, k = divmod(step, per_epoch)
    # A permutation for each epoch, from (seed, epoch): no state to save.
    order = torch.from_numpy(np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count))
    return order[k * batch : (k + 1) * batch]


class LossModule(nn.Module):
    """The loss as a module's forward pass, so that DistributedDataParallel can wrap it."""

    def __init__(self, network: nn.Module, loss_of: LossOf) -> None:
        super().__init__()
        self.network, self.loss_of = network, loss_of

    def forward(self, step: int) -> Tensor:
        """The loss of a step."""
        return self.loss_of(self.network, step)


class Training:
    """The training of one network: weights, optimizer and moving average, as the checkpoint stores them."""

    def __init__(self, network: nn.Module, loss_of: LossOf, recipe: Recipe, checkpoint: Path, ranks: Ranks) -> None:
        self.network, self.recipe, self.checkpoint, self.ranks = network, recipe, checkpoint, ranks
        self.step, self.mean_loss = 0, math.nan
        self._loss = ranks.wrap(LossModule(network, loss_of))
        self._optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self._ema = EMA(network, recipe.ema) if recipe.ema else None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights to return: the moving average if there is one, else the network's own."""
        return self._ema.average if self._ema else self.network.state_dict()

    def resume(self) -> None:
        """Continue from the checkpoint. ModelError if it is damaged or belongs to another training."""
        state = read_checkpoint(self.checkpoint, self.ranks.device)
        try:
            self.network.load_state_dict(state["network"])
            # Learning rate and decay come from the recipe, not from the file: only the moments are read.
            kept = {"state": state["optimizer"]["state"]}
            self._optimizer.load_state_dict(self._optimizer.state_dict() | kept)
            self.step, self.mean_loss = int(state["step"]), float(state["loss"])
            # A checkpoint of a longer training fits in every tensor, and would end this one at once.
            if not 0 <= self.step <= self.recipe.steps:
                raise ValueError(f"step {self.step} of {self.recipe.steps}")
            check_moments(self._optimizer)
            if self._ema:
                check_like(state["ema"], self._ema.average)
                self._ema.average = state["ema"]
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ModelError(f"{self.checkpoint}: of another training; delete it to start this phase again") from error

    def save(self) -> None:
        """Write the checkpoint; of several processes the first one does."""
        if self.ranks.is_first:
            save_atomically(
                {
                    # Everything that the next step depends on; its data and noise follow from seed and step.
                    "network": self.network.state_dict(), "optimizer": self._optimizer.state_dict(),
                    "ema": self._ema.average if self._ema else {}, "step": self.step, "loss": self.mean_loss,
                },
                self.checkpoint,
            )  # fmt: skip

    def advance(self) -> None:
        """Take one step. ModelError if the loss or its gradient is not finite, with the state before it saved."""
        # The rate depends only on the step, so a resumed training has the same one.
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.step)
        with torch.autocast(self.ranks.device.type, torch.bfloat16) if self.recipe.bf16 else nullcontext():
            loss = self._loss(self.step)
        # Backward passes run outside of autocast: each operation already has the dtype of its forward pass.
        loss.backward()
        # Bounds the gradient to length 1, and returns its length before that.
        gradient = float(nn.utils.clip_grad_norm_(self.network.parameters(), 1.0))
        # Of all processes, so that all of them stop at the same step.
        value = self.ranks.mean(loss)
        # Stopped before the optimizer takes the gradient: the weights in the checkpoint are still good.
        if not (math.isfinite(value) and math.isfinite(gradient)):
            self.save()
            raise ModelError(
                f"{self.recipe.phase}: in step {self.step + 1} the loss is {value:g} and its gradient {gradient:g} "
                f"long; {self.checkpoint} holds the {self.step} steps before; expected finite numbers: start again "
                f"with a learning rate below {self.recipe.lr:g}"
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._ema:
            self._ema.update(self.network, self.step)
        # A running mean to show: a single loss depends on the timesteps of its batch.
        self.mean_loss = value if math.isnan(self.mean_loss) else 0.98 * self.mean_loss + 0.02 * value
        self.step += 1


def check_moments(optimizer: torch.optim.Optimizer) -> None:
    """ValueError unless each moment in an optimizer has the shape of its parameter, or is a single number."""
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if value.numel() != 1 and value.shape != parameter.shape:
                raise ValueError(f"{name} of shape {tuple(value.shape)}")


def check_like(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """ValueError unless tensors have the expected names and shapes."""
    if {k: t.shape for k, t in tensors.items()} != {k: t.shape for k, t in expected.items()}:
        raise ValueError("tensors of other names or shapes")


def fit(  # noqa: PLR0913  (a loop and what it is made of)
    network: nn.Module,
    loss_of: LossOf,
    recipe: Recipe,
    *,
    checkpoint: Path,
    report: Report = lambda progress: None,
    ranks: Ranks = ALONE,
    watch: Watch = lambda step, weights: None,
    every_seconds: float = 120.0,
) -> dict[str, Tensor]:
    """Train `network`, which is on the device of `ranks`, and return the weights to keep (the moving average, if any).

    The state is saved to `checkpoint` every two minutes and at the end; an existing checkpoint is resumed. Of several
    processes only the first writes, reports and watches. ModelError at the first loss or gradient that is not finite;
    the state before it is saved.
    """
    # A training that was stopped goes on where its checkpoint is; the clock of this process starts now.
    training = Training(network, loss_of, recipe, checkpoint, ranks)
    if checkpoint.exists():
        training.resume()
    resumed_at = training.step
    started = saved = time.monotonic()
    network.train()
    while training.step < recipe.steps:
        training.advance()
        now = time.monotonic()
        if ranks.is_first:
            report(Progress(recipe.phase, training.step, recipe.steps, training.mean_loss, now - started, resumed_at))
            watch(training.step, training.weights)
        # By time and not by steps: a checkpoint of a large network takes seconds, of which a fast training makes few.
        if now - saved > every_seconds or training.step == recipe.steps:
            training.save()
            saved = now
    network.eval()
    return training.weights


def read_checkpoint(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Read what `fit` saved. Only tensors and numbers are read, so a stranger's file executes nothing."""
    try:
        if not path.is_file():
            raise ValueError("no regular file")
        state = read_torch_file(path, device)
        if not {"network", "optimizer", "ema", "step", "loss"} <= set(state):
            raise ValueError("entries are missing")
    except Exception as error:  # a stranger's bytes may end in any exception of the reader
        raise ModelError(f"{path}: not a checkpoint, or damaged; delete it to start this phase again") from error
    return dict(state)


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint atomically; OSError if the disk is full."""
    buffer = io.BytesIO()  # torch's own writer does not tell why it fails
    torch.save(state, buffer)
    make_folder(path.parent)
    write_atomically(path, buffer.getbuffer())


def with_log(path: Path, report: Report) -> Report:
    """`report` that also writes a line of the training log every 20 seconds and at the end of a phase."""
    # As if the last line were long ago, so that the first one is due at once.
    last = -LOG_EVERY_SECONDS

    def both(progress: Progress) -> None:
        nonlocal last
        report(progress)
        finished = progress.step == progress.steps
        if progress.seconds - last < LOG_EVERY_SECONDS and not finished:
            return
        last = -LOG_EVERY_SECONDS if finished else progress.seconds
        # Appended, so that a resumed training goes on in the same table.
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if is_new:
                writer.writerow(["phase", "step", "steps", "loss", "seconds"])
            writer.writerow(
                [progress.phase, progress.step, progress.steps, f"{progress.loss:.5f}", f"{progress.seconds:.0f}"]
            )

    return both

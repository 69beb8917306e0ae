"""The training loop: AdamW with a cosine learning rate, checkpoints, resume.

All randomness of step k comes from a generator seeded by (seed, k), so a training that was stopped and resumed sees the
same data and noise as one that was not.
"""

from __future__ import annotations

import csv
import io
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..ddpm import EMA
from ..devices import is_accelerator
from ..errors import InputError, ModelError, in_line
from ..files.atomic import make_folder, write_atomically
from ..files.lock import LOCK_FILE
from ..files.torch_file import read_torch_file
from ..model import Progress
from .feeding import Ahead, FedLoss
from .ranks import ALONE, Ranks
from .utilisation import Utilisation

LOG_EVERY_SECONDS = 20.0
READ_EVERY = 20
"""Steps between two looks at their losses where the device works by itself: each makes this process wait for it."""
COLUMNS = ("phase", "step", "steps", "loss", "seconds", "seconds_a_step", "utilisation")
"""Of the training log; logs of earlier versions have the first five."""

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
    compile: bool = False
    """Whether the network is compiled, in the first step."""

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
        self._defers = is_accelerator(ranks.device) and fused_on(ranks.device)
        """Whether losses are read every so often: to read one is to wait for the device."""
        self._ahead: Ahead | None = None
        if isinstance(loss_of, FedLoss) and is_accelerator(ranks.device):
            loss_of, self._ahead = loss_of.ahead(recipe.steps)
        # The compiled network is another way to call this one: both have the same weights.
        asked: Any = torch.compile(network, dynamic=False) if recipe.compile else network
        self._loss = ranks.wrap(LossModule(asked, loss_of))
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=self._defers or None
        )
        self._ema = EMA(network, recipe.ema) if recipe.ema else None
        self._compiles = recipe.compile
        """Whether the next step compiles the network."""
        self._unread: list[Tensor] = []
        """Loss and length of the gradient of the last steps."""
        self._is_bad = torch.zeros((), device=ranks.device)
        """On the device: 1 from the first step on that is not finite."""

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
        with compiling(self.recipe) if self._compiles else nullcontext():
            with torch.autocast(self.ranks.device.type, torch.bfloat16) if self.recipe.bf16 else nullcontext():
                loss = self._loss(self.step)
            # Backward passes run outside of autocast: each operation already has the dtype of its forward pass.
            loss.backward()
        self._compiles = False
        # Bounds the gradient to length 1, and returns its length before that.
        gradient = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        # Of all processes, so that all of them stop at the same step.
        noted = torch.stack([self.ranks.total(loss).float(), gradient.detach().float()])
        self._unread.append(noted)
        # Stopped before the optimizer takes the gradient: the weights in the checkpoint are still good.
        if self._defers:
            self._leave_out_if_bad(noted)
        else:
            self.read()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._ema and self._defers:
            self._ema.update_on_device(self.network, self.step, 1 - self._is_bad)
        elif self._ema:
            self._ema.update(self.network, self.step)
        self.step += 1
        # By the number of the step, so that all processes look at the same one, and stop together.
        if self.step % READ_EVERY == 0:
            self.read()

    def _leave_out_if_bad(self, noted: Tensor) -> None:
        """Have the device leave out this step and all after it, if loss or gradient is not finite: it knows that before
        this process does."""
        self._is_bad = torch.maximum(self._is_bad, (~noted.isfinite().all()).float())
        # What a scaler of gradients would say, and only the fused optimizer hears.
        self._optimizer.found_inf = self._is_bad  # type: ignore[attr-defined]

    def read(self) -> None:
        """Look at the losses of the steps since the last look. ModelError, with the state before it saved, at the first
        that is not finite."""
        if not self._unread:
            return
        found = torch.stack(self._unread).tolist()
        first = self.step - len(found) + (not self._defers)
        self._unread.clear()
        for step, (total, gradient) in enumerate(found, start=first):
            value = total / self.ranks.size
            if not (math.isfinite(value) and math.isfinite(gradient)):
                self.step = step
                self.save()
                raise ModelError(
                    f"{self.recipe.phase}: in step {step + 1} the loss is {value:g} and its gradient {gradient:g} "
                    f"long; {self.checkpoint} holds the {step} steps before; expected finite numbers: start again "
                    f"with a learning rate below {self.recipe.lr:g}"
                )
            # A running mean to show: a single loss depends on the timesteps of its batch.
            self.mean_loss = value if math.isnan(self.mean_loss) else 0.98 * self.mean_loss + 0.02 * value

    def close(self) -> None:
        """Leave nothing running."""
        if self._ahead:
            self._ahead.close()


@contextmanager
def compiling(recipe: Recipe) -> Iterator[None]:
    """ModelError for a network that cannot be compiled, which shows in its first call."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\._dynamo")  # of what it compiles in parts
            yield
    except torch._dynamo.exc.TorchDynamoException as error:
        # Behind its reason stands advice for those who develop the compiler.
        reason = in_line(error).partition("Set TORCHDYNAMO_VERBOSE")[0].strip()
        raise ModelError(
            f"{recipe.phase}: the network cannot be compiled ({reason}); leave out --compile, and give another output"
        ) from error


def fused_on(device: torch.device) -> bool:
    """Whether the optimizer has a kernel for all weights together, which can leave out a step without being read."""
    return device.type == "cuda"


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
    at_once: bool = False,
) -> dict[str, Tensor]:
    """Train `network`, which is on the device of `ranks`, and return the weights to keep (the moving average, if any).

    The state is saved to `checkpoint` every two minutes and at the end; an existing checkpoint is resumed. Of several
    processes only the first writes, reports and watches. ModelError at the first loss or gradient that is not finite;
    the state before it is saved. On an accelerator it is noticed up to `READ_EVERY` steps later, of which none counts,
    and steps are reported when they are asked for, or with `at_once` when they are done.
    """
    # A training that was stopped goes on where its checkpoint is; the clock of this process starts now.
    training = Training(network, loss_of, recipe, checkpoint, ranks)
    if checkpoint.exists():
        training.resume()
    resumed_at = training.step
    started = saved = time.monotonic()
    network.train()
    with closing(training):
        while training.step < recipe.steps:
            training.advance()
            # By time and not by steps: a checkpoint of a large network takes seconds, of which a fast training makes
            # few.
            is_last = training.step == recipe.steps
            is_due = time.monotonic() - saved > every_seconds or is_last
            # What is saved was looked at. Only the first process saves, so it may stop before the others do.
            if (is_due and ranks.is_first) or is_last or at_once:
                training.read()
            now = time.monotonic()
            if ranks.is_first:
                report(
                    Progress(recipe.phase, training.step, recipe.steps, training.mean_loss, now - started, resumed_at)
                )
                watch(training.step, training.weights)
            if is_due:
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


def with_log(path: Path, report: Report, device: torch.device | None = None) -> Report:
    """`report` that also writes a line of the training log every 20 seconds and at the end of a phase.

    It says how busy the device is, by default the CPU.
    """
    # As if the last line were long ago, so that the first one is due at once.
    last = -LOG_EVERY_SECONDS
    busy = Utilisation(device or ALONE.device)
    before = (0, 0.0)

    def both(progress: Progress) -> None:
        nonlocal last, before
        report(progress)
        finished = progress.step == progress.steps
        if progress.seconds - last < LOG_EVERY_SECONDS and not finished:
            return
        if last < 0:
            before = (progress.resumed_at, 0.0)  # a new phase
        last = -LOG_EVERY_SECONDS if finished else progress.seconds
        speed = (progress.seconds - before[1]) / max(progress.step - before[0], 1)
        before, share = (progress.step, progress.seconds), busy()
        # Appended, so that a resumed training goes on in the same table.
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if is_new:
                writer.writerow(COLUMNS)
            writer.writerow([
                progress.phase, progress.step, progress.steps, f"{progress.loss:.5f}", f"{progress.seconds:.0f}",
                f"{speed:.4g}", "" if share is None else f"{share:.2f}",
            ][: columns_of(path) if not is_new else len(COLUMNS)])  # fmt: skip

    return both


def columns_of(path: Path) -> int:
    """How many columns a training log has: a resumed training of an earlier version goes on with those that it had."""
    with path.open(newline="") as file:
        return len(next(csv.reader(file), COLUMNS))

"""The batches of a training: made when a step needs them or, where the device works by itself, ahead of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

Batch = Mapping[str, Tensor]
"""The tensors of a step by name."""
AHEAD = 2
"""How many batches wait for their steps: one is enough to keep a device busy, two bridge a slow one."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class FedLoss:
    """The loss of a step in two parts: its batch, made on the CPU of the step's number alone, and the loss of that."""

    batch_at: Callable[[int], Batch]
    loss_on: Callable[[nn.Module, Batch], Tensor]
    """The loss of a network on a batch that is on the network's device."""
    device: torch.device = CPU

    def __call__(self, network: nn.Module, step: int) -> Tensor:
        """The loss of a step."""
        batch = self.batch_at(step)
        # From pinned memory the copy does not wait for the device, nor this process for the copy.
        return self.loss_on(network, {name: x.to(self.device, non_blocking=True) for name, x in batch.items()})

    def ahead(self, steps: int) -> tuple[FedLoss, Ahead]:
        """The same loss, whose batches a thread makes ahead, up to those of `steps` steps; and what to close."""
        pin = self.device.type == "cuda"
        batch_at = self.batch_at

        def make(step: int) -> Batch:
            batch = batch_at(step)
            return {name: x.pin_memory() for name, x in batch.items()} if pin else batch

        batches = Ahead(make, steps)
        return replace(self, batch_at=batches), batches


class Ahead:
    """A function of the step that a thread calls for the next steps too; its results are the same."""

    def __init__(self, make: Callable[[int], Batch], steps: int) -> None:
        self._make, self._steps = make, steps
        self._coming: deque[tuple[int, Future[Batch]]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="samplerbench-batches")

    def __call__(self, step: int) -> Batch:
        """The batch of a step; that of the step after the last one is likely to be there."""
        if self._coming and self._coming[0][0] != step:
            self._coming.clear()
        first = self._coming[-1][0] + 1 if self._coming else step
        for number in range(first, max(min(step + AHEAD + 1, self._steps), step + 1)):
            self._coming.append((number, self._thread.submit(self._make, number)))
        return self._coming.popleft()[1].result()

    def close(self) -> None:
        """End the thread after the batch that it makes."""
        self._coming.clear()
        self._thread.shutdown(cancel_futures=True)

"""The processes of one training: who this one is, and its part of each batch.

`torchrun` starts them and says in the environment who is who; without it there is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError

PATIENCE = timedelta(days=2)
"""How long a process waits for the others: the first one prepares the data and trains small networks meanwhile.
A process that dies is seen by torchrun, which ends the rest."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1
    """How many processes there are."""
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """The rows of a whole batch that are this process's, all parts of one size."""
        rows = len(batch) // self.size
        return batch[self.rank * rows : (self.rank + 1) * rows]

    def mean(self, value: Tensor) -> float:
        """The mean of a number over all processes."""
        total = value.detach().float().clone()
        if self.size > 1:
            dist.all_reduce(total)  # the sum
        return float(total) / self.size

    def shared(self, module: nn.Module) -> nn.Module:
        """The module with the first process's weights, its gradients the mean over all processes."""
        if self.size == 1:
            return module
        own = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=own)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


ALONE = Ranks()


def rank_of(environment: Mapping[str, str]) -> tuple[int, int]:
    """(number of this process, how many there are), as torchrun says; (0, 1) without it."""
    said = {name: environment.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))}
    if not all(text.isascii() and text.isdigit() for text in said.values()):
        raise InputError(f"environment RANK={said['RANK']!r}, WORLD_SIZE={said['WORLD_SIZE']!r}: expected numbers")
    return int(said["RANK"]), max(int(said["WORLD_SIZE"]), 1)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The processes of this training, met; on "cuda" without a number each takes the GPU of its place on the machine.

    InputError if there are fewer GPUs than processes.
    """
    rank, size = rank_of(os.environ)
    if size == 1:
        yield Ranks(device=device)
        return
    if device.type == "cuda":
        place, there = int(os.environ.get("LOCAL_RANK", rank)), torch.cuda.device_count()
        if str(device) != "cuda":
            raise InputError(f"device {str(device)!r}: {size} processes would share it; expected cuda")
        if place >= there:
            raise InputError(
                f"device cuda: process {place} of this machine, which has {there} GPUs; start at most {there}"
            )
        device = torch.device("cuda", place)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(rank, size, device)
    finally:
        dist.destroy_process_group()

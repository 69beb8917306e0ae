"""The processes of one training: the rank of this one, and its part of each batch.

`torchrun` starts them and gives each its rank in the environment; without it there is one process.
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
"""How long a process waits for the others, while the first one prepares the data and trains small networks.
If a process dies, torchrun notices and ends the others."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among those that train together."""

    rank: int = 0
    size: int = 1
    """How many processes there are."""
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """This process's rows of a whole batch; all parts have the same size."""
        # Every process draws the same whole batch and takes its rows, so their number changes no data.
        rows = len(batch) // self.size
        return batch[self.rank * rows : (self.rank + 1) * rows]

    def total(self, value: Tensor) -> Tensor:
        """The sum of a number over all processes, on the device: to read it is to wait for that."""
        total = value.detach().float().clone()
        if self.size > 1:
            dist.all_reduce(total)  # the sum
        return total

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with the weights of the first process; its gradients are averaged over all processes."""
        if self.size == 1:
            return module
        own = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=own)

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.size > 1:
            dist.barrier()


ALONE = Ranks()


def rank_of(environment: Mapping[str, str]) -> tuple[int, int]:
    """(rank of this process, how many there are), as torchrun says; (0, 1) without it."""
    said = {name: environment.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))}
    if not all(text.isascii() and text.isdigit() for text in said.values()):
        raise InputError(f"environment RANK={said['RANK']!r}, WORLD_SIZE={said['WORLD_SIZE']!r}: expected numbers")
    return int(said["RANK"]), max(int(said["WORLD_SIZE"]), 1)


@contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Connect the processes of this training; on "cuda" without a number each takes the GPU of its local rank.

    InputError if there are fewer GPUs than processes.
    """
    # Without torchrun there is nothing to connect, and any device will do.
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
    # Gradients travel between GPUs by NCCL, between CPUs by Gloo.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(rank, size, device)
    finally:
        dist.destroy_process_group()

"""Workers of this machine: several chunks at a time, each worker with its model resident.

A worker is a slot for one chunk at a time. It has a process for all built-in samplers, and one more for each other
spec, so that what a stranger's sampler does to its process reaches no other (`children`); the processes of a worker
that are not at work are stopped. On CUDA every worker sees one card, its own.

A process that ends by itself, as one does that the system kills for its memory, is started again, and its chunk goes
back to the queue. A chunk that ends three of them is at fault itself: its cell fails. A process that is stopped here,
because it took too long or too much memory, fails its cell at once, as it does in a run without workers.

Everything is done by one thread, which waits for all pipes at once: a signal finds no other thread that would have to
be stopped, and the processes end with the one that started them (`lifeline`).
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from multiprocessing.connection import wait
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ....samplers.engine import Done, Drawn, Failure, Job
from ....samplers.errors import InputError
from ...plan.plan import Block, Cell, Plan
from ...plan.workers import ONE_EACH, Workers
from ..chunk import reason_of
from .base import Turn
from .child_process import LOOK_EVERY_SECONDS
from .children import (
    ChildEndedEarly,
    ChildFault,
    ChildLost,
    ChildProcess,
    Limits,
    children_that_fit,
    memory_for_processes,
    memory_of_this_process,
)
from .here import Here

TRIES = 3
"""How many processes are given a chunk that ends them."""
STARTS = 6
"""How many processes may end as they start, each with the same chunk waiting."""
BUILT_IN = ""
"""What the process for all built-in samplers is called among the processes of a worker."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Teller(Protocol):
    """Hears of what happens between a job and its answer."""

    def retried(self, job: Job, reason: str) -> None:
        """A job goes back to the queue."""
        ...


@dataclass
class Worker:
    """Draws one job at a time, in the process of its group: the built-in samplers, or one other spec."""

    plan: Plan
    plugins: tuple[str, ...]
    folder: Path
    limits: Limits
    most: int
    """How many processes it may have; one of them is at work."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Variables of the environment of its processes."""
    job: Job | None = None
    """What it draws now."""
    _processes: dict[str, ChildProcess] = field(default_factory=dict)
    """The processes by group; the one that was at work last is at the end."""

    def begin(self, job: Job, here: Here) -> None:
        """Start a job, and do not wait for it."""
        cell, block = here.place(job)
        self.job = job
        self._process_for(cell).begin(cell, block)

    def be_ready_for(self, cell: Cell) -> ChildProcess:
        """Start the process of a cell's group, and do not wait for it."""
        process = self._process_for(cell)
        process.start()
        return process

    def look(self) -> Done | None:
        """The answer to the job, if it is there; ChildLost or OSError where its process ended by itself."""
        job, process = self.job, self._at_work
        assert job is not None
        try:
            chunk = process.look()
        except (ChildLost, OSError):
            # Its process is gone, so the next job of this group starts another.
            self.job = None
            process.close()
            raise
        except ChildFault as fault:
            self.job = None
            return Failure(job, reason_of(fault))
        if chunk is None:
            return None
        self.job = None
        return Drawn(job, replace(chunk, cell=job.cell))

    @property
    def descriptor(self) -> int | None:
        """What becomes readable when there is something to look at."""
        return self._at_work.descriptor

    def is_ready_for(self, group: str) -> bool:
        """Whether it has a process for the jobs of a group."""
        return group in self._processes

    def close(self) -> None:
        """Stop all its processes, and all that they started."""
        while self._processes:
            self._processes.popitem()[1].close()

    @property
    def _at_work(self) -> ChildProcess:
        return next(reversed(self._processes.values()))

    def _process_for(self, cell: Cell) -> ChildProcess:
        group = group_of(cell)
        # Taken out and put back behind the others: the order is that of use, and the first is the one to stop.
        process = self._processes.pop(group, None) or self._new(group)
        while len(self._processes) >= self.most:
            self._processes.pop(next(iter(self._processes))).close()
        self._processes[group] = process
        return process

    def _new(self, group: str) -> ChildProcess:
        specs = dict.fromkeys(cell.sampler for cell in self.plan.cells if group_of(cell) == group)
        return ChildProcess(self.plan.of(*specs), self.plugins, self.folder, self.limits, self.variables)


@dataclass
class Pool:
    """Draws several jobs at a time on this machine."""

    here: Here
    """Knows the cells and blocks of the plan."""
    plugins: tuple[str, ...]
    folder: Path
    limits: Limits
    count: int
    """How many workers there are."""
    teller: Teller
    _lost: Counter[tuple[Job, int]] = field(default_factory=Counter)
    """How many processes ended with each job, by how many may."""
    _again: deque[Job] = field(default_factory=deque)
    """Jobs that went back."""

    def turns(self, cells: Sequence[Cell]) -> list[Turn]:
        """Turns of as many groups as a worker may have processes at a time."""
        if not cells:
            return []
        groups = list(dict.fromkeys(map(group_of, cells)))
        if len(groups) > 1:
            self.here.get_ready()  # how many processes fit is asked of one that has loaded the model
        most = self._most if len(groups) > 1 else 1
        parts = [set(groups[i : i + most]) for i in range(0, len(groups), most)]
        together = [tuple(cell for cell in cells if group_of(cell) in part) for part in parts]
        return [Turn(own, is_apart=len(parts) > 1) for own in together]

    def solve(self, first: int, n: int, advanced: Callable[[int], object]) -> Tensor | None:
        """The ODE solution, a block of samples by each worker in turn: with two of them in half the time.

        None where there is nothing to share or a worker fails, which then says so as it draws: this process draws the
        solution while the workers start.
        """
        cells = [cell for cell in self.here.plan.cells if not cell.is_foreign]
        if not cells:
            return None
        if len(cells) < len(self.here.plan.cells):
            self.here.get_ready()  # as for `turns`: how many processes a worker may have is asked of a loaded model
        processes = [worker.be_ready_for(cells[0]) for worker in self._workers]
        size = self.here.plan.blocks.size
        starts = range(first, first + n, size)
        blocks = [Block(0, start, min(size, first + n - start)) for start in starts]
        # A child makes the plan of the built-in samplers only, which has no solution where all of these are stochastic.
        if min(len(blocks), self.count) == 1 or not any(cell.is_deterministic for cell in cells):
            return None
        try:
            parts = dict(shared(processes, blocks))
        except (ChildFault, OSError):
            self.close()
            return None
        advanced(self.here.plan.reference_evaluations * n // self.here.plan.ode_samples)
        return torch.cat([parts[block.first] for block in blocks])

    def draw(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """The answers, as they come."""
        waiting = iter(jobs)
        while True:
            self._hand_out(waiting)
            busy = [worker for worker in self._workers if worker.job]
            if not busy:
                return
            pipes = [pipe for worker in busy if (pipe := worker.descriptor) is not None]
            # Only for a moment: limits of time and memory have to be looked at too.
            wait(pipes, LOOK_EVERY_SECONDS if len(pipes) == len(busy) else 0)
            # All who are ready are asked, so that a fast worker does not keep the others waiting.
            answers = [done for worker in busy if (done := self._answer_of(worker))]
            # Not after a failure: the cell takes no more chunks, and the ledger learns of that only as the answer is
            # stored.
            if all(isinstance(done, Drawn) for done in answers):
                self._hand_out(waiting)  # before these are written, so that nobody waits for the disk
            yield from answers

    def close(self) -> None:
        """End every process."""
        for worker in self._workers:
            worker.close()

    def _hand_out(self, waiting: Iterator[Job]) -> None:
        """A job for each worker that has none, as long as there are jobs."""
        while free := [worker for worker in self._workers if not worker.job]:
            # Jobs that came back go first, since a block is finished only with them.
            job = self._again.popleft() if self._again else next(waiting, None)
            if job is None:
                return
            group = group_of(self.here.place(job)[0])
            # A worker that has the process already spares the seconds of starting one.
            ready = [worker for worker in free if worker.is_ready_for(group)]
            (ready or free)[0].begin(job, self.here)

    def _answer_of(self, worker: Worker) -> Done | None:
        """A worker's answer, if it is there; a job whose process ended goes back, unless it has ended too many."""
        job = worker.job
        assert job is not None
        try:
            done = worker.look()
        except (ChildLost, OSError) as error:
            reason = reason_of(error)
            # Counted by job and not by worker: one chunk may end any process that draws it. One that ended while it
            # started tells nothing of the chunk, which another process gets to draw.
            most = STARTS if isinstance(error, ChildEndedEarly) else TRIES
            self._lost[job, most] += 1
            if self._lost[job, most] >= most:
                return Failure(job, f"ended {most} workers{' as they started' if most == STARTS else ''}: {reason}")
            self._again.append(job)
            self.teller.retried(job, reason)
            return None
        # A worker among several is never alone: whether the others had work at that moment is not worth a second rule.
        alone = self.count == 1 or job.is_for_the_clock
        return Drawn(job, done.chunk, alone) if isinstance(done, Drawn) else done

    @cached_property
    def _workers(self) -> list[Worker]:
        plan, device = self.here.plan, self.here.plan.trial.device
        return [
            Worker(plan, self.plugins, self.folder, self.limits, self._most, variables_of(device, number, os.environ))
            for number in range(self.count)
        ]

    @cached_property
    def _most(self) -> int:
        """How many processes a worker may have: on a CPU as many as fit the memory, on an accelerator one.

        Asked for the first time when the model has been loaded here, if the cells need several.
        """
        if self.here.plan.trial.device.type != "cpu":
            return 1
        return max(1, (children_that_fit(memory_for_processes(), memory_of_this_process()) + 1) // self.count)


def shared(processes: Sequence[ChildProcess], blocks: Iterable[Block]) -> Iterator[tuple[int, Tensor]]:
    """(first sample, ODE solution) of each block, drawn by whichever process is free; ChildFault as of a chunk."""
    waiting, free = deque(blocks), list(processes)
    busy: list[tuple[ChildProcess, Block]] = []
    while waiting or busy:
        while waiting and free:
            busy.append((free.pop(0), waiting.popleft()))
            busy[-1][0].begin_solution(busy[-1][1])
        wait([pipe for process, _ in busy if (pipe := process.descriptor) is not None], LOOK_EVERY_SECONDS)
        at_work, busy = busy, []
        for process, block in at_work:
            if (x := process.look_at_solution()) is None:
                busy.append((process, block))
                continue
            free.append(process)
            yield block.first, x


def group_of(cell: Cell) -> str:
    """Which process of a worker draws a cell: its sampler's own, or that of all built-in samplers."""
    return cell.sampler if cell.is_foreign else BUILT_IN


def variables_of(device: torch.device, number: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What makes a worker see only its own card; cards are counted among those that this process sees."""
    if device.type != "cuda":
        return {}
    # Where cards are hidden from this process, its workers count among those that are left.
    seen = [name.strip() for name in environment.get(VISIBLE, "").split(",") if name.strip()]
    return {VISIBLE: seen[number] if seen else str(number)}


def local_count(workers: Workers, device: torch.device, cards: int) -> int:
    """The number of workers on this machine; InputError for more than it has cards."""
    if device.type != "cuda":
        if workers == ONE_EACH:
            raise InputError(
                f"workers {ONE_EACH!r}: the run is on {device.type}; expected with --device cuda, or a number as in "
                "--workers 2"
            )
        return int(workers)
    if workers == ONE_EACH and cards:
        count = cards
    elif workers == ONE_EACH or int(workers) > cards:
        raise InputError(f"workers {workers}: torch sees {cards} GPUs here; expected one worker for each at most")
    else:
        count = int(workers)
    # "cuda:1" names one card; two workers on it would share its memory and slow each other.
    if device.index is not None and count > 1:
        raise InputError(f"workers {count}: device {device} is one card; expected --device cuda, or one worker")
    return count

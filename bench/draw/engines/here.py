"""Chunks that are drawn in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from ....samplers.engine import Done, Drawn, Failure, Job
from ....samplers.errors import InputError, pass_on
from ...plan.plan import Block, Cell, Plan
from ..chunk import RawChunk, make_chunk, make_raw_chunk, may_read_beside, reason_of, warm_up
from ..chunk_file import Chunk
from ..ledger import block_of

EDITED = "a plugin or the model was edited after the run began; give the same command again"


@dataclass
class Here:
    """Draws the jobs of a plan in this process, one at a time."""

    plan: Plan
    extractors: Collection[str]
    """What the metrics of the run read."""
    find_solution: Callable[[], Tensor | None]
    """Called once, when the first chunk is drawn; returns the converged ODE solution, if there is one."""
    _has_read: bool = False
    """Whether every extractor has read images here: the first time it may load its weights, which changes the state of
    the process for a moment, and nothing may be drawn then."""

    def draw(self, job: Job) -> Done:
        """The answer to a job."""
        self.get_ready()
        return done_by(job, lambda: self.make(*self.place(job)))

    def make(self, cell: Cell, block: Block) -> Chunk:
        """The chunk, or whatever the sampler raises."""
        # A sampler may fork, and its copy would return into this loop and write chunks too.
        with no_copy_goes_on():
            chunk = make_chunk(self.plan, cell, block, self.extractors, self.solution)
        self._has_read = self._has_read or not block.is_at_once
        return chunk

    def make_raw(self, cell: Cell, block: Block) -> RawChunk:
        """The chunk before its images are hashed, and read where that is allowed; another thread may do both while the
        next one is drawn."""
        with no_copy_goes_on():
            raw = make_raw_chunk(
                self.plan, cell, block, self.extractors, self.solution, later=self._has_read and self._may_read_beside
            )
        self._has_read = True
        return raw

    def get_ready(self) -> None:
        """Make one trial: the first calls of a process are slower than all others and must not be clocked."""
        _ = self._is_warm

    def place(self, job: Job) -> tuple[Cell, Block]:
        """The cell and the block of a job; InputError if they are not in the plan."""
        cell, block = self._cells.get(job.cell), block_of(self.plan, job)
        if cell is None or block is None:
            raise InputError(EDITED)
        return cell, block

    @cached_property
    def solution(self) -> Tensor | None:
        """The converged ODE solution."""
        return self.find_solution()

    @cached_property
    def _cells(self) -> dict[str, Cell]:
        # Reversed, so that of two specs of one cell the first is named.
        return {cell.key: cell for cell in reversed(self.plan.cells)}

    @cached_property
    def _may_read_beside(self) -> bool:
        return may_read_beside(self.plan, self.extractors)

    @cached_property
    def _is_warm(self) -> bool:
        warm_up(self.plan)
        return True


def done_by(job: Job, make: Callable[[], Chunk | RawChunk]) -> Done:
    """The answer to a job by a function that makes its chunk; a failure if that raises anything."""
    try:
        # The chunk says whose it is while it travels; in the folder its place says so.
        return Drawn(job, replace(make(), cell=job.cell))
    except BaseException as error:  # a sampler may raise anything; it fails its own cell
        pass_on(error)
        return Failure(job, reason_of(error))


@contextmanager
def no_copy_goes_on() -> Iterator[None]:
    """End a copy of this process that a sampler forks inside the block: it must not go on with the run."""
    process = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != process:
            os._exit(1)

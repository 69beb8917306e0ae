"""The contract between a run and its engine: turns, rounds, and the check of answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from torch import Tensor

from ....samplers.engine import Done, Drawn, Engine, Failure, Job
from ....samplers.errors import PluginError, quote
from ....samplers.options import at_fault
from ....samplers.text import count_of
from ...plan.plan import Cell
from ..chunk import RawChunk, one_line
from ..chunk_file import Chunk

NO_REASON = "the engine gave no reason"


@dataclass(frozen=True)
class Turn:
    """Cells that are drawn in turn with each other, block by block."""

    cells: tuple[Cell, ...]
    is_apart: bool = False
    """Whether other cells of the run are drawn at another time, so that their seconds are not comparable."""

    def mark(self, chunk: Chunk, *, alone: bool) -> Chunk:
        """A chunk of these cells, whose timing records whether it was drawn alone and apart from other cells."""
        return replace(chunk, timing=replace(chunk.timing, apart=self.is_apart, alone=alone))


@runtime_checkable
class TakesTurns(Protocol):
    """An engine that cannot draw all samplers in turn with each other."""

    def turns(self, cells: Sequence[Cell]) -> list[Turn]:
        """The cells in groups that can be drawn in turn; one group is drawn after the other."""
        ...


@runtime_checkable
class Solves(Protocol):
    """An engine whose workers can draw the converged ODE solution too."""

    def solve(self, first: int, n: int, advanced: Callable[[int], object]) -> Tensor | None:
        """The solution of samples first ... first + n - 1, as `chunk.ode_solution` has it; it may start workers.

        None where this process is to draw it, for instance while the workers start.
        """
        ...


def turns_of(engine: Engine, cells: Sequence[Cell]) -> list[Turn]:
    """The cells in the groups of an engine; one group if it does not say."""
    if isinstance(engine, TakesTurns):
        return engine.turns(cells)
    return [Turn(tuple(cells))] if cells else []


def rounds(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    """The jobs in rounds: all jobs of a round are known before the first of them is drawn."""
    together: list[Job] = []
    for job in jobs:
        # The ledger marks the last job of a round: only it knows which cells still need this block.
        together.append(job)
        if job.is_last:
            yield together
            together = []
    if together:
        yield together


@dataclass
class CheckedEngine:
    """An engine whose answers are checked; a PluginError says how it broke its contract."""

    inner: Engine
    name: str
    """The engine's name in errors."""
    _asked: set[Job] = field(default_factory=set)
    """The jobs that the engine was given and has not answered."""

    def close(self) -> None:
        """Leave nothing running."""
        with at_fault(f"engine {self.name!r}"):
            self.inner.close()

    def draw(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """An answer for each of these jobs."""
        self._asked.clear()
        what, noted = f"engine {self.name!r}", self._note(jobs)
        with at_fault(what):
            # An engine is a plugin: whatever it raises, at the start or between two answers, is named as its fault.
            given = iter(self.inner.draw(noted))
        while True:
            with at_fault(what):
                done: object = next(given, None)
            if done is None:
                break
            yield self._check(done)
        deque(noted, maxlen=0)  # jobs that it never took are unanswered too
        if self._asked:
            left = count_of(len(self._asked), "job")
            raise PluginError(f"{what}: ended with {left} unanswered; expected an answer to each")

    def _note(self, jobs: Iterable[Job]) -> Iterator[Job]:
        for job in jobs:
            self._asked.add(job)
            yield job

    def _check(self, done: object) -> Done:
        """A valid answer to a job that was not answered before."""
        what = f"engine {self.name!r}"
        if not isinstance(done, Drawn | Failure) or not isinstance(done.job, Job):
            raise PluginError(f"{what}: answered {quote(done)}; expected Drawn or Failure, with the job")
        job = done.job
        place = f"{job.sampler!r}, {job.steps} steps, samples from {job.first}"
        with at_fault(what):  # a job that it changed may have no hash
            was_asked = job in self._asked
        if not was_asked:
            raise PluginError(f"{what}: answered a job that it was not given, or twice: {place}")
        # Taken off, so that a second answer to it is refused.
        self._asked.remove(job)
        # A stranger's reason may hold line breaks, or nothing.
        if isinstance(done, Failure):
            return replace(done, reason=one_line(str(done.reason or "")) or NO_REASON)
        if not is_chunk_of(done.chunk, job):
            raise PluginError(
                f"{what}: answered {place}, with another chunk; expected what Work.draw or draw_job made of that job"
            )
        # A truthy answer of a stranger becomes a bool, which the file of the chunk has room for.
        return replace(done, alone=bool(done.alone))


def is_chunk_of(thing: object, job: Job) -> bool:
    """Whether a thing is a chunk of the job's cell and place."""
    return isinstance(thing, Chunk | RawChunk) and (thing.cell, thing.first, thing.n) == (job.cell, job.first, job.n)

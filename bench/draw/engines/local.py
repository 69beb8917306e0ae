"""The local engine: one chunk at a time on this machine, and its laws.

Built-in samplers are drawn in this process, each other one in a child of it (`children`). The laws:

- One chunk at a time. Cells take turns block by block, so that drift of the machine falls on all alike, and every
  chunk is drawn alone: its time is shown and compared (`clock`). Only of chunks whose time does not count the run
  hashes and stores one while the next is drawn.
- One machine, one disk. Children read the converged ODE solution from the run folder and find their modules where this
  process finds them.
- One count of threads. Threads of torch are part of every key, so a child takes as many as this process has.
- Children make the plan again from the configuration. A model that was given as an object exists only in this process,
  so then everything is drawn here.
- A child recognises a model without a fingerprint by the hash of one sample. Another kind of processor may round that
  differently, and the child is then refused.
- An accelerator has one child at a time; then samplers are not drawn in turn, and their timings say so.

Of every run, whatever its engine: only this process writes the folder, and holds its lock, which is of one machine; it
draws the ODE solution first, unless its workers do, and the paths of built-in samplers last; a signal stops it at any
moment, and then the engine is closed and what was at work is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from ....samplers.engine import Done, Job
from ...plan.plan import Block, Cell
from ..chunk import RawChunk
from ..chunk_file import Chunk
from .base import Turn, rounds
from .here import Here, done_by


class Isolated(Protocol):
    """Draws samplers that did not come with samplerbench, each outside of this process."""

    @property
    def most(self) -> int:
        """The number of sampler specs that can be ready at the same time."""
        ...

    def begin(self, cells: Iterable[Cell]) -> None:
        """Get ready for these cells and no others, outside the clock."""
        ...

    def make(self, cell: Cell, block: Block) -> Chunk:
        """The chunk; raises whatever the cell fails with."""
        ...

    def close(self) -> None:
        """Leave nothing running."""
        ...


@dataclass
class LocalEngine:
    """Draws one job at a time."""

    here: Here
    isolated: Isolated | None = None
    """For samplers that did not come with samplerbench; None = they are drawn in this process too."""

    def turns(self, cells: Sequence[Cell]) -> list[Turn]:
        """First the cells of this process, with as many isolated specs as can be ready; then the other specs."""
        if not self.isolated or not cells:
            return turns(cells, None)
        self.here.get_ready()  # the size of this process with the model tells how many children fit
        return turns(cells, self.isolated.most)

    def draw(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """The answers, in order."""
        for together in rounds(jobs):
            self.here.get_ready()
            self._be_ready_for(together)
            for job in together:
                # One after the other, each answered before the next is drawn: so every chunk is drawn alone.
                yield done_by(job, partial(self._make, job))

    def close(self) -> None:
        """End the children."""
        if self.isolated:
            self.isolated.close()

    def _make(self, job: Job) -> Chunk | RawChunk:
        cell, block = self.here.place(job)
        if self.isolated and cell.is_foreign:
            return self.isolated.make(cell, block)
        return self.here.make_raw(cell, block) if job.may_overlap else self.here.make(cell, block)

    def _be_ready_for(self, together: Sequence[Job]) -> None:
        """Start the children of a round, all at once; for a single job for the clock they are likely to be running."""
        if self.isolated and not together[0].is_for_the_clock:
            self.isolated.begin(self.here.place(job)[0] for job in together)


def turns(cells: Sequence[Cell], most: int | None) -> list[Turn]:
    """All cells in turns, each with at most `most` isolated specs; None = no spec is isolated."""
    specs = [] if most is None else list(dict.fromkeys(cell.sampler for cell in cells if cell.is_foreign))
    if most is None or len(specs) <= most:
        return [Turn(tuple(cells))] if cells else []
    # As many specs to a turn as can be ready; built-in samplers are in the first.
    number = {spec: i // most for i, spec in enumerate(specs)}
    together = [tuple(c for c in cells if number.get(c.sampler, 0) == i) for i in range(max(number.values()) + 1)]
    return [Turn(own, all(cell.is_foreign for cell in own)) for own in together]

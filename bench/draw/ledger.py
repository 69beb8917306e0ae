"""What is missing of a plan in its run folder: the jobs that are still to be drawn, and their cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ...samplers.engine import Job
from ..plan.plan import Block, Cell, Plan
from .clock import in_turn
from .folder import REFERENCE
from .latency import Latency
from .store import RunFolder


@dataclass
class Ledger:
    """The jobs of a plan whose results are not yet in the folder; nothing is drawn here."""

    plan: Plan
    folder: RunFolder
    failures: dict[str, str] = field(default_factory=dict)
    """Reason of failure by cell key."""
    repeats: int = 0
    """The least number of timings of a cell; one with fewer whole chunks drawn alone is drawn again for the clock."""
    latency: Latency = field(default_factory=Latency)
    """How many images at a time each cell is drawn with for its latency, and how often."""
    alone: int | None = None
    """How many blocks of each cell are drawn with nothing beside them, for their times; None = all of them."""
    unclocked: set[tuple[str, Block]] = field(default_factory=set)
    """The keys of cells, each with a block that is clocked no more: that failed, or was not drawn alone."""

    def cells_with_work(self) -> list[Cell]:
        """The cells that lack a chunk or a repeat, in order."""
        # Samples or times: a run that is given --repeats later may lack times only.
        missing = {key for key, images in self.images_missing().items() if images}
        missing |= {cell.key for cell, _ in self.clockings_missing()}
        return [cell for cell in self.plan.cells if cell.key in missing]

    def sound_cells(self) -> list[Cell]:
        """The cells that did not fail, each once: two specs may be one cell."""
        return list({cell.key: cell for cell in self.plan.cells if cell.key not in self.failures}.values())

    def images_missing(self) -> dict[str, int]:
        """The number of images that each cell lacks, by key; cells that failed are left out."""
        blocks = self.plan.blocks
        return {cell.key: self.folder.images_missing(cell, blocks) for cell in self.sound_cells()}

    def jobs(self, cells: Sequence[Cell]) -> Iterator[Job]:
        """A job for each missing chunk of these cells, block by block, in alternating order.

        A chunk whose cell has failed, or that was stored, before its block begins is left out.
        """
        for block in self.plan.blocks:
            # Asked when the block begins, so that it knows of failures and chunks that came meanwhile. Two specs may be
            # one cell, which is drawn once.
            todo = {cell.key: cell for cell in in_turn(cells, block.number) if self._is_wanted(cell, block)}
            for i, cell in enumerate(todo.values(), start=1):
                job = job_of(cell, block, is_last=i == len(todo))
                yield replace(job, may_overlap=True) if self._may_overlap(block) else job

    def repeats_missing(self) -> Iterator[tuple[int, Cell]]:
        """(round, cell) of every repeat to be made of cells that did not fail, in alternating order.

        The timings of a cell are its whole chunks that were drawn alone, and its repeats; missing chunks count as
        drawn alone. A cell needs as many timings as were asked for.
        """
        if not (wanted := self.repeats):
            return
        cells = self._clockable(self.plan.blocks[0])
        clocked = {cell.key: self._count_timings(cell, wanted) for cell in cells}
        # The cell with the fewest timings begins, and each round takes all cells that lack its number: repeats of two
        # cells are then neighbours in time, which is what compares them.
        for number in range(min(clocked.values(), default=wanted), wanted):
            yield from ((number, cell) for cell in in_turn(cells, number) if clocked[cell.key] <= number)

    def latencies_missing(self) -> Iterator[tuple[Block, Cell]]:
        """(block, cell) of every draw for the latency to be made of cells that did not fail, in alternating order.

        Within a round each number of images has all cells one after the other.
        """
        blocks = [Block(0, 0, rows, is_at_once=True) for rows in self.latency.rows]
        there = {
            (block, cell.key): self.folder.count_latencies(cell.key, block.n)
            for block in blocks
            for cell in self._clockable(block)
        }
        cells = self.sound_cells()
        for number in range(self.latency.draws):
            for block in blocks:
                for cell in in_turn(cells, number):
                    # A cell that is not to be clocked has no count, and is skipped in every round.
                    if there.get((block, cell.key), number + 1) <= number:
                        yield block, cell

    def clockings_missing(self) -> list[tuple[Cell, Block]]:
        """What is still to be drawn only for the clock, in order: first the repeats, then the latencies."""
        repeats = [(cell, self.plan.blocks[0]) for _, cell in self.repeats_missing()]
        return [*repeats, *((cell, block) for block, cell in self.latencies_missing())]

    def fail(self, cell: Cell, reason: str) -> None:
        """Store why a cell failed."""
        self.failures[cell.key] = reason
        self.folder.write_failure(cell, reason)

    def evaluations_of_chunks(self) -> int:
        """Sample evaluations of the network for all missing chunks and the ODE solution, without repeats."""
        missing = self.images_missing()
        return sum(cost(cell) * missing[cell.key] for cell in self.sound_cells()) + self.cost_of_solution()

    def evaluations_of_clockings(self) -> int:
        """Sample evaluations of the network for what is drawn only for the clock."""
        return sum(cost(cell) * block.n for cell, block in self.clockings_missing())

    def evaluations_left(self) -> int:
        """Network evaluations of the plan that are still to be made; adaptive cells are not counted."""
        missing = self.images_missing()
        left = sum((cell.network_evaluations or 0) * missing[cell.key] for cell in self.sound_cells())
        return left + self.cost_of_solution()

    def evaluations_spared(self, cell: Cell) -> int:
        """Sample evaluations that are spared because the cell failed."""
        return cost(cell) * self.folder.images_missing(cell, self.plan.blocks)

    def _clockable(self, block: Block) -> list[Cell]:
        """The cells whose draws of a block for the clock have not failed."""
        return [cell for cell in self.sound_cells() if (cell.key, block) not in self.unclocked]

    def _is_wanted(self, cell: Cell, block: Block) -> bool:
        return cell.key not in self.failures and not self.folder.has(cell, block)

    def _may_overlap(self, block: Block) -> bool:
        return self.alone is not None and block.number >= self.alone

    def _count_timings(self, cell: Cell, wanted: int) -> int:
        """The timings that a cell will have when all its chunks are stored; counting stops somewhere above `wanted`."""
        blocks = self.plan.blocks
        size = blocks[0].n
        there = sorted(place for place in self.folder.stored_places(cell, blocks) if place[1] == size)
        # Of the missing ones only those count that will be drawn with nothing beside them.
        counting = blocks.whole if self.alone is None else min(blocks.whole, self.alone)
        clocked = counting - sum(first < counting * size for first, _ in there)
        # Reading a chunk's timing is slow, so it comes last, and only until the answer is known.
        if clocked < wanted:
            clocked += self.folder.count_repeats(cell.key)
        for place in there:
            if clocked >= wanted:
                break
            clocked += self.folder.is_drawn_alone(cell.key, place)
        return clocked

    def cost_of_solution(self) -> int:
        """Sample evaluations for the ODE solution of the images that have none yet."""
        if not self.plan.references or not (self.folder.path / REFERENCE).exists():
            return self.plan.reference_evaluations
        there = self.folder.ode_solution(self.plan.reference_key)
        missing = self.plan.ode_samples - (0 if there is None else len(there))
        # Earlier runs may have stored a solution of fewer samples: only the rest is drawn.
        return self.plan.reference_evaluations // self.plan.ode_samples * max(0, missing)


def job_of(cell: Cell, block: Block, *, is_last: bool = True, is_for_the_clock: bool = False) -> Job:
    """The job to draw a block of a cell."""
    evaluations = cost(cell) * block.n
    return Job(
        cell.key, cell.sampler, cell.steps, block.first, block.n, evaluations, is_last, is_for_the_clock,
        block.is_at_once,
    )  # fmt: skip


def block_of(plan: Plan, job: Job) -> Block | None:
    """The block that a job is to draw; None if it is no block of the plan."""
    return Block(0, job.first, job.n, is_at_once=True) if job.is_at_once else plan.blocks.at(job.first, job.n)


def cost(cell: Cell) -> int:
    """The evaluations that a sample is counted as; for an adaptive cell, its number of steps."""
    return cell.network_evaluations or cell.steps

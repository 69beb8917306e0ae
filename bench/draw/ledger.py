"""What of a plan is in its run folder, what is still to be drawn, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ...samplers.engine import Job
from ..plan.plan import Block, Cell, Plan
from .clock import LEAST_REPEATS, in_turn
from .store import REFERENCE, RunFolder


@dataclass
class Ledger:
    """The jobs of a plan, from what is in the folder; nothing is drawn here."""

    plan: Plan
    folder: RunFolder
    failures: dict[str, str] = field(default_factory=dict)
    """Reason of failure by cell key."""
    repeats: int = 0
    """How often a cell is clocked at least; more often than it has whole chunks, it is drawn again for the clock."""
    unclocked: set[str] = field(default_factory=set)
    """The keys of cells of which no more repeats are made: one failed, or none was drawn alone."""

    def cells_with_work(self) -> list[Cell]:
        """The cells with a chunk or a repeat that is not there, in order."""
        missing = {key for key, images in self.images_missing().items() if images}
        missing |= {cell.key for _, cell in self.repeats_missing()}
        return [cell for cell in self.plan.cells if cell.key in missing]

    def sound_cells(self) -> list[Cell]:
        """The cells that did not fail, each once: two specs may be one cell."""
        return list({cell.key: cell for cell in self.plan.cells if cell.key not in self.failures}.values())

    def images_missing(self) -> dict[str, int]:
        """How many images are to be made, by key of each cell that did not fail."""
        blocks = self.plan.blocks
        return {cell.key: self.folder.images_missing(cell, blocks) for cell in self.sound_cells()}

    def jobs(self, cells: Sequence[Cell]) -> Iterator[Job]:
        """The chunks of these cells that are not there, block by block, in alternating order.

        What failed or came by the time that a block begins is left out.
        """
        for block in self.plan.blocks:
            todo = {cell.key: cell for cell in in_turn(cells, block.number) if self._is_wanted(cell, block)}
            for i, cell in enumerate(todo.values(), start=1):
                yield job_of(cell, block, is_last=i == len(todo))

    def repeats_missing(self) -> Iterator[tuple[int, Cell]]:
        """(round, cell) of every repeat to be made of cells that did not fail, in alternating order.

        A cell is clocked by its whole chunks that were drawn alone, those to come taken for such, and by its repeats.
        It has as many as are asked for, and as there would be if all chunks were drawn alone, up to what quartiles
        need: chunks of an engine that draws several at a time are no use to the clock.
        """
        whole = self.plan.blocks.whole
        wanted = max(self.repeats, min(whole, LEAST_REPEATS))
        cells = [cell for cell in self.sound_cells() if cell.key not in self.unclocked]
        clocked = {cell.key: self._clocked(cell, wanted) for cell in cells}
        for number in range(min(clocked.values(), default=wanted), wanted):
            yield from ((number, cell) for cell in in_turn(cells, number) if clocked[cell.key] <= number)

    def fail(self, cell: Cell, reason: str) -> None:
        """Store why a cell failed."""
        self.failures[cell.key] = reason
        self.folder.write_failure(cell, reason)

    def evaluations_of_chunks(self) -> int:
        """Sample evaluations of the network for all that is missing but repeats, as they are shown."""
        missing = self.images_missing()
        return sum(cost(cell) * missing[cell.key] for cell in self.sound_cells()) + self.cost_of_solution()

    def evaluations_of_repeats(self) -> int:
        """Sample evaluations of the network for the repeats."""
        return sum(cost(cell) for _, cell in self.repeats_missing()) * self.plan.blocks[0].n

    def evaluations_left(self) -> int:
        """Network evaluations of the plan that are still to be made; adaptive cells are not counted."""
        missing = self.images_missing()
        left = sum((cell.network_evaluations or 0) * missing[cell.key] for cell in self.sound_cells())
        return left + self.cost_of_solution()

    def spared(self, cell: Cell) -> int:
        """Sample evaluations of a cell that need not be made, now that it failed."""
        return cost(cell) * self.folder.images_missing(cell, self.plan.blocks)

    def _is_wanted(self, cell: Cell, block: Block) -> bool:
        return cell.key not in self.failures and not self.folder.has(cell, block)

    def _clocked(self, cell: Cell, wanted: int) -> int:
        """How often a cell is clocked when all its chunks are there; of what is more than `wanted`, some is counted."""
        blocks = self.plan.blocks
        size = blocks[0].n
        there = sorted(place for place in self.folder.stored_places(cell, blocks) if place[1] == size)
        clocked = blocks.whole - len(there)
        if clocked < wanted:
            clocked += self.folder.count_repeats(cell.key)
        for place in there:
            if clocked >= wanted:
                break
            clocked += self.folder.is_drawn_alone(cell.key, place)
        return clocked

    def cost_of_solution(self) -> int:
        """Sample evaluations for the ODE solution of the images that have none yet."""
        if self.plan.reference is None or not (self.folder.path / REFERENCE).exists():
            return self.plan.reference_evaluations
        there = self.folder.ode_solution(self.plan.reference_key)
        missing = self.plan.ode_samples - (0 if there is None else len(there))
        return self.plan.reference_evaluations // self.plan.ode_samples * max(0, missing)


def job_of(cell: Cell, block: Block, *, is_last: bool = True, is_for_the_clock: bool = False) -> Job:
    """The job to draw a block of a cell."""
    evaluations = cost(cell) * block.n
    return Job(cell.key, cell.sampler, cell.steps, block.first, block.n, evaluations, is_last, is_for_the_clock)


def cost(cell: Cell) -> int:
    """Evaluations that a sample is counted as; of an adaptive cell as many as it has steps."""
    return cell.network_evaluations or cell.steps

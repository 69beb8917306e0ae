"""A plan being run: the ledger's jobs go to the engine, its answers to the folder, which only this process writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...samplers.engine import Done, Drawn, Engine, Failure, Job
from ...samplers.options import at_fault
from ...samplers.text import count_of
from ..plan.plan import Block, Cell, Plan
from .chunk import RawChunk, encode_ahead, ode_solution
from .chunk_file import Chunk
from .clock import Repeat
from .engines.base import CheckedEngine, Solves, Turn, turns_of
from .engines.here import done_by
from .engines.work import RunWork
from .ledger import Ledger, block_of, cost, job_of
from .paths import write_paths
from .store import RunFolder
from .writer import Writer

if TYPE_CHECKING:
    import pandas as pd

TABLE_EVERY_SECONDS = 10.0
"""How often the table is renewed while a run goes on, unless that takes long."""
FIRST_TABLE_SECONDS = 1.0
"""How soon the first one may be made."""
TABLE_SHARE = 0.05
"""The largest share of the time that renewing it may take."""
NOT_ALONE = "the engine drew something else meanwhile"


class Watch:
    """An observer of a run. This one does nothing; others override the events that they need."""

    def started(self, plan: Plan, todo: int) -> None:
        """`todo` sample evaluations of the network are still to be made."""

    def remaining(self, images: Mapping[str, int]) -> None:
        """The images that each cell lacks, by key, without the cells that had failed; called once, at the start."""

    def doing(self, what: str) -> None:
        """The run begins to do this, which is no drawing of chunks, or comes before the first of them."""

    def stored(self, cell: Cell, block: Block) -> None:
        """The chunk of a block of a cell is stored."""

    def retried(self, cell: Cell, block: Block, reason: str) -> None:
        """The chunk of a block of a cell was lost with its worker, and is drawn again."""

    def failed(self, cell: Cell, reason: str, evaluations: int) -> None:
        """A cell failed, or its repeat did; `evaluations` of those announced will not be made."""

    def advanced(self, evaluations: int) -> None:
        """Evaluations were made: a chunk is stored, or the ODE reference."""

    def added(self, evaluations: int) -> None:
        """More evaluations are needed than announced: chunks were not drawn alone, and repeats must replace them."""

    def table(self, table: pd.DataFrame) -> None:
        """The table as it stands."""

    def ended(self, *, is_complete: bool) -> None:
        """All is done that there was to do, or the run was stopped before."""


@dataclass
class Session:
    """A plan being run in a folder by an engine. It may be stopped between any two answers and resumed."""

    ledger: Ledger
    engine: Engine
    offered: RunWork
    """The work that the engine was made for."""
    name: str
    """What errors call the engine."""
    _writer: Writer[Done] = field(default_factory=Writer)
    """Finishes and stores the chunks that may overlap."""

    @property
    def plan(self) -> Plan:
        """What is run."""
        return self.ledger.plan

    @property
    def folder(self) -> RunFolder:
        """Where it is stored."""
        return self.ledger.folder

    def work(self, watch: Watch, renew: Callable[[], object] = lambda: None) -> None:
        """Draw every missing chunk by the engine, then all that is missing for the clock.

        `renew` is called now and then, when a table would show something new.
        """
        is_complete = False
        try:
            self._work(watch, renew)
            # An exception leaves it False, Ctrl-C too: the log then says that the run was stopped.
            is_complete = True
        finally:
            try:
                self._settle(watch)  # what was drawn before a signal is stored
            finally:
                self._writer.close()
                self._checked.close()
                watch.ended(is_complete=is_complete)

    @cached_property
    def _checked(self) -> CheckedEngine:
        return CheckedEngine(self.engine, self.name)

    def _work(self, watch: Watch, renew: Callable[[], object]) -> None:
        ledger = self.ledger
        watch.started(self.plan, ledger.evaluations_of_chunks() + ledger.evaluations_of_clockings())
        watch.remaining(ledger.images_missing())
        # The solution comes first: chunks hold their distances to it.
        solution = self._ode_solution(watch)
        # Only now can the engine ask for it: the work was offered before anything was drawn.
        self.offered.find_solution = lambda: solution
        self.offered.tell_retried = lambda job, reason: watch.retried(*self._place(job), reason)
        # Each turn ends with what is only for the clock, while what draws its cells is still there and the machine is
        # in the same state.
        for turn in turns_of(self.engine, ledger.cells_with_work()):
            watch.doing("warming up")
            self._draw(turn, watch, renew)
            self._clock_again(turn, watch)
        if self.plan.blocks[0].first == 0:  # a shard without the first samples draws no paths: another one has them
            watch.doing("drawing the paths of the report")
            write_paths(self.plan, self.folder, ledger.failures)

    def _draw(self, turn: Turn, watch: Watch, renew: Callable[[], object]) -> None:
        """Store the engine's answers to the missing chunks of these cells, in the order in which they come."""
        # The engine may draw chunks beside each other, which then need repeats that nobody had counted.
        expected = self.ledger.evaluations_of_clockings()
        due = time.monotonic() + FIRST_TABLE_SECONDS
        for done in self._checked.draw(self._handed_out(turn, watch)):
            self._take(done, turn, watch)
            # Only a finished block adds rows to every cell, and the table has the same images of each.
            if done.job.is_last and (started := time.monotonic()) >= due:
                renew()
                due = next_renewal(started, time.monotonic())
        self._settle(watch)
        if more := max(0, self.ledger.evaluations_of_clockings() - expected):
            watch.added(more)

    def _handed_out(self, turn: Turn, watch: Watch) -> Iterator[Job]:
        """The jobs of these cells; nothing goes on beside one whose time counts."""
        for job in self.ledger.jobs(turn.cells):
            if not job.may_overlap:
                self._settle(watch)
            yield job

    def _take(self, done: Done, turn: Turn, watch: Watch) -> None:
        """Store the result of a job, at once or by the writer.

        A cell that failed takes no more chunks: those that arrive later are dropped.
        """
        if done.job.cell in self.ledger.failures:
            return
        if isinstance(done, Failure):
            self._settle(watch)  # the chunks of this cell that came before it
            self._tell(done, watch)
        elif done.job.may_overlap:
            for stored in self._writer.add(partial(self._stored, done, turn)):
                self._tell(stored, watch)
        else:
            self._tell(self._stored(done, turn), watch)

    def _settle(self, watch: Watch) -> None:
        """Wait until the writer has nothing left to do."""
        for stored in self._writer.results():
            self._tell(stored, watch)

    def _stored(self, done: Drawn, turn: Turn) -> Done:
        """Finish a chunk and write its file, in whatever thread; the folder is told of it by `_tell`.

        Other shards may be drawn on this machine at the same time, so no chunk of one is said to be drawn alone.
        """
        alone = done.alone and self.plan.shard is None and not done.job.may_overlap
        made = done_by(done.job, lambda: chunk_in(replace(done, alone=alone), turn))
        if isinstance(made, Drawn):
            assert isinstance(made.chunk, Chunk)
            self.folder.put(*self._place(done.job), made.chunk)
        return made

    def _tell(self, done: Done, watch: Watch) -> None:
        """Note and tell that a chunk is on the disk, or that its cell failed."""
        cell, block = self._place(done.job)
        if isinstance(done, Drawn):
            # The disk first, then the watch: what is told as stored survives a crash.
            assert isinstance(done.chunk, Chunk)
            self.folder.note(cell, block, done.chunk)
            watch.stored(cell, block)
            watch.advanced(done.job.evaluations)
        elif cell.key not in self.ledger.failures:
            self.ledger.fail(cell, done.reason)
            watch.failed(cell, done.reason, self.ledger.evaluations_spared(cell))

    def _clock_again(self, turn: Turn, watch: Watch) -> None:
        """Draw what is missing only for the clock, round by round: repeats of the first block, and latencies.

        One job is handed out at a time, so an engine of any kind draws it alone. A cell whose draw fails keeps its
        samples and the times that it has.
        """
        keys = {cell.key for cell in turn.cells}
        # Listed before any is drawn: what is missing is read from the folder, which grows below.
        todo = [(cell, block) for cell, block in self.ledger.clockings_missing() if cell.key in keys]
        if todo:
            watch.doing("drawing again for the clock")
        for i, (cell, block) in enumerate(todo):
            if (cell.key, block) in self.ledger.unclocked:
                continue
            job = job_of(cell, block, is_for_the_clock=True)
            for done in self._checked.draw([job]):
                if isinstance(done, Drawn) and done.alone:
                    write = self.folder.write_latency if block.is_at_once else self.folder.write_repeat
                    write(cell, for_the_clock(chunk_in(done, turn)))
                    watch.advanced(job.evaluations)
                    continue
                # Its other draws of this block would fail in the same way.
                self.ledger.unclocked.add((cell.key, block))
                spared = sum(cost(c) * b.n for c, b in todo[i:] if (c.key, b) == (cell.key, block))
                reason = NOT_ALONE if isinstance(done, Drawn) else done.reason
                what = f"latency at {block.n}" if block.is_at_once else "clocked again"
                watch.failed(cell, f"{what}: {reason}", spared)

    def _ode_solution(self, watch: Watch) -> Tensor | None:
        """The converged ODE solution of the first samples, drawn once a run: (k, *shape), or (k, guidances, *shape)
        where the run has several. The engine may share it among its workers, otherwise it is drawn in this process."""
        if not self.plan.references:
            return None
        key, wanted = self.plan.reference_key, self.plan.ode_samples
        there = self.folder.ode_solution(key)
        # A run of fewer samples may have stored a part. Sample i depends only on its index, so the rest is appended.
        first = 0 if there is None else len(there)
        if there is not None and first >= wanted:
            return there[:wanted]
        what = solving(wanted - first, self.plan.references[0].batch_size)
        watch.doing(what)
        left = self.ledger.cost_of_solution()
        taken, steps = 0, sum(len(one.levels) - 1 for one in self.plan.references)

        def advanced(evaluations: int) -> None:
            nonlocal left, taken
            left, taken = left - evaluations, taken + 1
            watch.doing(f"{what}, {taken} of {steps} steps")
            watch.advanced(evaluations)

        x = None
        if isinstance(self.engine, Solves):
            with at_fault(f"engine {self.name!r}"):
                x = self.engine.solve(first, wanted - first, advanced)
        if x is None:
            encode_ahead(self.plan)
            x = ode_solution(self.plan.references, wanted - first, first, advanced)
        # On an accelerator the steps are handed out long before they are done; and where one failed, none is left.
        watch.advanced(left)
        if x is None:
            return None
        self.folder.write_ode_solution(x if there is None else torch.cat([there, x.cpu()]), key)
        # Read back, so that all chunks are compared with the same bytes, now and after a resume.
        return self.folder.ode_solution(key)

    @cached_property
    def _cells(self) -> dict[str, Cell]:
        return {cell.key: cell for cell in self.plan.cells}

    def _place(self, job: Job) -> tuple[Cell, Block]:
        """The cell and the block of a job of this plan."""
        block = block_of(self.plan, job)
        assert block is not None
        return self._cells[job.cell], block


def chunk_in(done: Drawn, turn: Turn) -> Chunk:
    """The chunk of a checked answer; its timing says whether other cells were drawn apart from it, or beside it."""
    chunk = done.chunk.finish() if isinstance(done.chunk, RawChunk) else done.chunk
    assert isinstance(chunk, Chunk)
    return turn.mark(chunk, alone=done.alone)


def solving(images: int, batch: int) -> str:
    """What is told of the ODE solution of this many images."""
    # A row of a smaller call has other last digits, and no sample may depend on how many there are.
    padded = f" in a batch of {batch}" if images < batch else ""
    return f"solving the ODE for {count_of(images, 'image')}{padded}"


def for_the_clock(chunk: Chunk) -> Repeat:
    """The timing of a chunk that is not stored: its images count for no stage of the run."""
    timing = replace(chunk.timing, extract_seconds=None, hash_seconds=None)
    return replace(chunk.repeat, timing=timing)


def next_renewal(started: float, ended: float) -> float:
    """When to renew a table that took from `started` to `ended`, so that its share of the time stays small."""
    return ended + max(TABLE_EVERY_SECONDS, (ended - started) * (1 / TABLE_SHARE - 1))

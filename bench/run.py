"""Run a plan: chunk by chunk, block by block across all cells, then table, picture and report."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pandas as pd
import torch
from torch import Tensor

from ..samplers.errors import InputError, pass_on
from ..samplers.model import Model
from ..samplers.options import check_count
from ..samplers.registry import Registry, load_registry
from ..samplers.variables import IN_PROCESS, is_on
from .draw.chunk import make_chunk, ode_solution, reason_of, warm_up
from .draw.clock import in_turn
from .draw.engines import Children, Engine, ForeignEngine, InProcess, Limits, Turn, turns
from .draw.paths import write_paths
from .draw.store import REFERENCE, RunFolder, default_output, stored_run
from .judge.ranking import answers_from, directions
from .judge.run_metrics import check_plugins, check_settings
from .judge.status import outcome_of
from .judge.stored import StoredRun
from .judge.table import GrowingTable, check_metric_names
from .judge.verdict_files import write_answers
from .plan.config import Config, enlarged, without_defaults
from .plan.environment import environment
from .plan.keywords import check_arguments, conduct_of, config_of
from .plan.plan import Cell, Plan, behind, plan_for, warnings_of
from .plan.record import RunRecord
from .plan.settings import DEFAULT_SAMPLERS, Conduct
from .plan.yardstick import Yardstick, check_metrics, yardsticks
from .show.formats import sheet_to_html
from .show.live import notebook_view
from .show.page import write_report
from .show.picture import write_picture
from .show.sheet import notes_on, sentences, sheet_of, write_table

MOST_REPEATS = 10_000
TABLE_EVERY_SECONDS = 10.0
"""How often the table is renewed while a run goes on, unless that takes long."""
TABLE_SHARE = 0.05
"""The most of the time that may go into renewing it."""


class Watch(Protocol):
    """Who looks on while a plan is run."""

    def started(self, plan: Plan, todo: int) -> None:
        """`todo` sample evaluations of the network are still to be made."""

    def remaining(self, images: Mapping[str, int]) -> None:
        """So many images, by key of each cell that did not fail before, are still to be made; said at the start."""

    def stored(self, cell: Cell, images: int) -> None:
        """A chunk of a cell is stored, with so many images."""

    def failed(self, cell: Cell, reason: str, evaluations: int) -> None:
        """A cell failed, or to clock it again did; so many evaluations that were to be made are not going to be."""

    def advanced(self, evaluations: int) -> None:
        """Evaluations were made: a chunk is stored, or the ODE reference."""

    def table(self, table: pd.DataFrame) -> None:
        """The table as it stands."""


class NoWatch:
    """Nobody looks on."""

    def started(self, plan: Plan, todo: int) -> None:
        """Nothing."""

    def remaining(self, images: Mapping[str, int]) -> None:
        """Nothing."""

    def stored(self, cell: Cell, images: int) -> None:
        """Nothing."""

    def failed(self, cell: Cell, reason: str, evaluations: int) -> None:
        """Nothing."""

    def advanced(self, evaluations: int) -> None:
        """Nothing."""

    def table(self, table: pd.DataFrame) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Result:
    """What a run made."""

    folder: Path
    """The run folder."""
    table: pd.DataFrame
    """The columns of table.csv, a row for each sampler spec x grid x steps x guidance."""
    labels: dict[str, dict[str, str]]
    """For each metric its extractor's label, note, fingerprint and data, and what its Frechet distance is called."""
    notes: tuple[str, ...] = ()
    """What else a caption of the table has to say."""

    @property
    def failed(self) -> int:
        """How many cells failed."""
        return sum(outcome_of(text).has_failed for text in self.table["status"])

    def __repr__(self) -> str:
        """One line; a notebook shows the table."""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"Result({str(self.folder)!r}: {len(self.table)} rows{failed})"

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        return sheet_to_html(sheet_of(self.table, self.labels, below=sentences(self.notes)))


@dataclass(frozen=True)
class Manner(Conduct):
    """How a plan is run, checked."""

    def __post_init__(self) -> None:
        """Refuse an invalid number of repeats, where 0 is as many as there are chunks, and invalid limits."""
        if self.repeats != 0:
            check_count("repeats", self.repeats, MOST_REPEATS)
        Limits(self.time_limit, self.memory_limit)  # refuses what is no limit

    @property
    def limits(self) -> Limits:
        """What a child process may take."""
        return Limits(self.time_limit, self.memory_limit)


@dataclass
class Session:
    """A plan being run in a folder. Whenever it is stopped, `conclude` makes the table of what is there."""

    plan: Plan
    folder: RunFolder
    ready: dict[str, Yardstick]
    manner: Manner = field(default_factory=Manner)
    failures: dict[str, str] = field(default_factory=dict)
    """Reason of failure by cell key."""
    notes: tuple[str, ...] = ()
    """What else a caption of the table has to say."""
    foreign: ForeignEngine | None = None
    """Makes the chunks of samplers that did not come with samplerbench; None = this process does."""
    growing: GrowingTable = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """The table begins empty."""
        self.growing = GrowingTable(self.plan, self.folder, self.ready)

    @property
    def labels(self) -> dict[str, dict[str, str]]:
        """For each metric what is said of its extractor, as `labels_of` has it."""
        return labels_of(self.plan, self.ready)

    def work(self, watch: Watch) -> None:
        """Make every chunk that is not there, then every repeat. Cells take turns in alternating order."""
        try:
            self._work(watch)
        finally:
            if self.foreign:
                self.foreign.close()

    def _work(self, watch: Watch) -> None:
        missing = self._images_missing()
        todo = sum(_cost(cell) * missing[cell.key] for cell in self._sound_cells()) + self._reference_cost()
        again = self.plan.blocks[0].n
        watch.started(self.plan, todo + sum(_cost(cell) * again for _, cell in self._repeats_missing()))
        watch.remaining(missing)
        reference = self._ode_solution(watch)
        warm_up(self.plan)
        here = InProcess(lambda cell, block: make_chunk(self.plan, cell, block, self.ready, reference))
        engines = {cell.key: self.foreign if cell.is_foreign and self.foreign else here for cell in self.plan.cells}
        for turn in turns(self._cells_with_work(), self.foreign):
            self._draw(turn, engines, watch)
            self._clock_again(turn, engines, watch)
        write_paths(self.plan, self.folder, self.failures)

    def _draw(self, turn: Turn, engines: Mapping[str, Engine], watch: Watch) -> None:
        """Make the chunks of these cells that are not there, block by block."""
        due = time.monotonic() + TABLE_EVERY_SECONDS
        for block in self.plan.blocks:
            self._be_ready_for(turn.cells)
            for cell in in_turn(turn.cells, block.number):
                if cell.key in self.failures or self.folder.has(cell, block):
                    continue
                try:
                    chunk = turn.marked(engines[cell.key].make(cell, block))
                except BaseException as error:  # a sampler may raise anything; it fails its own cell
                    pass_on(error)
                    watch.failed(cell, self._fail(cell, error), self._spared(cell))
                else:
                    self.folder.write(cell, block, chunk)
                    watch.stored(cell, block.n)
                    watch.advanced(_cost(cell) * block.n)
            if (started := time.monotonic()) >= due:
                watch.table(self.tabulate())
                due = next_renewal(started, time.monotonic())

    def _be_ready_for(self, cells: Iterable[Cell]) -> None:
        """Start what draws those of these cells that did not fail, and end what draws others."""
        if self.foreign:
            self.foreign.begin(cell for cell in cells if cell.key not in self.failures)

    def tabulate(self) -> pd.DataFrame:
        """The table of what is there, written to the folder too."""
        table = self.growing.table(self.failures)
        write_table(table, self.folder, [cell.key for cell in self.plan.cells], self.labels, self.notes)
        return table

    def conclude(self) -> Result:
        """Table, picture and report of what is there; then the folder is open to others."""
        with closing(self.folder):
            table = self.tabulate()
            write_picture(self.plan, self.folder, self.failures)
            stored = StoredRun(self.folder.path)
            write_answers(stored, answers_from(stored, self.growing.estimates(), directions(self.ready)))
            write_report(stored, lambda: self.ready)
        return Result(self.folder.path, table, self.labels, self.notes)

    def evaluations_left(self) -> int:
        """Network evaluations of the plan that are still to be made; adaptive cells are not counted."""
        missing = self._images_missing()
        left = sum((cell.network_evaluations or 0) * missing[cell.key] for cell in self._sound_cells())
        return left + self._reference_cost()

    def _cells_with_work(self) -> list[Cell]:
        """The cells with a chunk or a repeat that is not there, in order."""
        missing = {key for key, images in self._images_missing().items() if images}
        missing |= {cell.key for _, cell in self._repeats_missing()}
        return [cell for cell in self.plan.cells if cell.key in missing]

    def _sound_cells(self) -> list[Cell]:
        """The cells that did not fail; two specs may be one cell."""
        return list({cell.key: cell for cell in self.plan.cells if cell.key not in self.failures}.values())

    def _clock_again(self, turn: Turn, engines: Mapping[str, Engine], watch: Watch) -> None:
        """Draw the first block of those of these cells that have too few repeats, round by round, for the clock alone.

        A cell whose repeat fails keeps its samples and the repeats that it has.
        """
        block = self.plan.blocks[0]
        keys = {cell.key for cell in turn.cells}
        todo = [cell for _, cell in self._repeats_missing() if cell.key in keys]
        self._be_ready_for(todo)
        gave_up: set[str] = set()
        for i, cell in enumerate(todo):
            if cell.key in gave_up:
                continue
            try:
                chunk = turn.marked(engines[cell.key].make(cell, block))
            except BaseException as error:  # as in `work`
                pass_on(error)
                gave_up.add(cell.key)
                spared = sum(_cost(cell) * block.n for other in todo[i:] if other.key == cell.key)
                watch.failed(cell, f"clocked again: {reason_of(error)}", spared)
            else:
                self.folder.write_repeat(cell, chunk.repeat)
                watch.advanced(_cost(cell) * block.n)

    def _fail(self, cell: Cell, error: BaseException) -> str:
        """Store why a cell failed; the reason."""
        reason = self.failures[cell.key] = reason_of(error)
        self.folder.write_failure(cell, reason)
        return reason

    def _spared(self, cell: Cell) -> int:
        """Sample evaluations of a cell that need not be made."""
        return _cost(cell) * self.folder.images_missing(cell, self.plan.blocks)

    def _repeats_missing(self) -> Iterator[tuple[int, Cell]]:
        """(round, cell) of every repeat to be made of cells that did not fail, the chunks of the plan taken as made."""
        chunks = self.plan.blocks.whole
        if self.manner.repeats <= chunks:
            return
        cells = self._sound_cells()
        there = {cell.key: chunks + self.folder.count_repeats(cell.key) for cell in cells}
        for number in range(chunks, self.manner.repeats):
            yield from ((number, cell) for cell in in_turn(cells, number) if there[cell.key] <= number)

    def _images_missing(self) -> dict[str, int]:
        """How many images are to be made, by key of each cell that did not fail."""
        blocks = self.plan.blocks
        return {cell.key: self.folder.images_missing(cell, blocks) for cell in self._sound_cells()}

    def _reference_cost(self) -> int:
        if self.plan.reference is None or not (self.folder.path / REFERENCE).exists():
            return self.plan.reference_evaluations
        there = self.folder.ode_solution(self.plan.reference_key)
        missing = self.plan.ode_samples - (0 if there is None else len(there))
        return self.plan.reference_evaluations // self.plan.ode_samples * max(0, missing)

    def _ode_solution(self, watch: Watch) -> Tensor | None:
        """The converged ODE solution of the first samples, (k, *shape), each drawn once a run."""
        if self.plan.reference is None:
            return None
        key, wanted = self.plan.reference_key, self.plan.ode_samples
        there = self.folder.ode_solution(key)
        first = 0 if there is None else len(there)
        if there is not None and first >= wanted:
            return there
        cost = self._reference_cost()
        if (x := ode_solution(self.plan.reference, wanted - first, first)) is None:
            return None
        self.folder.write_ode_solution(x if there is None else torch.cat([there, x.cpu()]), key)
        watch.advanced(cost)
        return self.folder.ode_solution(key)


def run(  # noqa: PLR0913  (the settings of a run, each by name)
    model: str | Model = "fashion-mnist",
    samplers: str | Sequence[str] = DEFAULT_SAMPLERS,
    steps: int | Sequence[int] = (5, 10, 20),
    n: int = 512,
    *,
    nfe: int | Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    grid: str | None = None,
    guidance: float = 1.0,
    guidance_rescale: float = 0.0,
    guidance_calls: int = 1,
    prompts: str | Sequence[str] | None = None,
    negative: str | None = None,
    size: str | None = None,
    clip_skip: int | None = None,
    metrics: str | Sequence[str] = ("fid", "clip_score"),
    extractors: str | Sequence[str] = (),
    reference: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    keep_images: bool | None = None,
    output: str | Path | None = None,
    fresh: bool = False,
    add: bool = False,
    repeats: int = 0,
    retry_failed: bool = False,
    plugins: Sequence[str] = (),
    time_limit: float | None = None,
    memory_limit: float | None = None,
) -> Result:
    """Compare samplers, as `samplerbench run` does; `.table` is a DataFrame with the columns of table.csv.

    `model` is a name or a Model; `samplers` are specs such as "ddim:eta=0.5"; one of anything need not be in a list.
    The run is stored in `output`, by default results/<model>-<8 hex of the plan> in the current folder, and resumed if
    it is there already, unless the Model cannot be known again: without a fingerprint, and no torch module, which a
    warning says. With `add` the samplers, steps or budgets are added to the run in `output`, and images up to `n`: what
    is there stays, its other settings hold where they are left at their defaults here, and a setting that differs is
    refused. Cells with
    fewer than `repeats` whole
    chunks are drawn again for the clock alone; cells that failed stay so, unless `retry_failed`. `plugins` are files or
    modules.

    Samplers that did not come with samplerbench are drawn in a child process, so that one that crashes or never ends
    fails its own cells alone: `time_limit` is in seconds for a chunk (None = 60 and 50 times what its model calls,
    decoding and extractors take), `memory_limit` in GB (None = 80 % of the machine's). A Model cannot be sent to
    another process: given as an object, everything is drawn in this one, without limits. A notebook shows how far the
    run is.
    Raises InputError, PluginError, ModelError or StoreError.
    """
    given = locals()
    check_arguments(given)
    config, manner = config_of(given), Manner(**conduct_of(given))
    registry = load_registry(plugins)
    if add:
        config = enlarged_run(None if output is None else Path(output), without_defaults(config), registry, fresh=fresh)
    plan = plan_for(config, registry, model if isinstance(model, Model) else None)
    for warning in warnings_of(plan):
        warnings.warn(warning, stacklevel=2)
    session = begin(plan, registry, Path(output) if output else default_output(plan), manner)
    with closing(session.folder):
        with notebook_view(session.labels) as view:
            session.work(view or NoWatch())
        return session.conclude()


def enlarged_run(output: Path | None, given: Mapping[str, Any], registry: Registry, *, fresh: bool = False) -> Config:
    """The settings of the run in a folder with what `given` adds to it. InputError where nothing can be added."""
    if output is None:
        raise InputError("add: to which run? expected with its folder, as in --add -s ddim -o RUN")
    if fresh:
        raise InputError("add with fresh: the one keeps the run that is there, the other starts anew; give one of them")
    stored = StoredRun(output)
    if not stored.exists:
        raise InputError(f"add: there is no run in {output}; leave out --add to make one")
    check_settings(stored)
    check_plugins(stored, registry)
    return enlarged(stored.record.config, given)


def begin(plan: Plan, registry: Registry, output: Path, manner: Manner = Manner(), command: str = "") -> Session:
    """Open the run folder; nothing is written if it cannot be this run's. `command` is kept in run.json."""
    check_metric_names(plan.config.metric)
    ready = yardsticks(plan.config.metric, registry.metrics.things, plan.model, plan.config.samples)
    check_metrics(plan.config, registry.metrics.things, plan.model, ready)
    folder = RunFolder(output)
    stored = None if manner.fresh else stored_run(output)
    plan = behind(plan, stored.budgets) if stored else plan
    history = history_of(plan, registry, command, stored, add=manner.add)
    about = {
        **history,
        "model": {
            "name": plan.model.name,
            "fingerprint": plan.model.fingerprint,
            "prompts": list(plan.model.prompts),
        },
        "extractors": labels_of(plan, ready),
        "environment": environment(plan.config.device),
    }
    folder.open(plan, about, fresh=manner.fresh, add=manner.add)
    with ExitStack() as opened:
        opened.callback(folder.close)
        if manner.retry_failed:
            folder.forget_failures(plan)
        foreign = engine_for_foreign(plan, registry, folder, manner.limits)
        notes = notes_on(StoredRun(output).record, len(plan.cells))
        session = Session(plan, folder, ready, manner, folder.failures(plan), notes, foreign)
        opened.pop_all()  # it is the session's now
    return session


def history_of(plan: Plan, registry: Registry, command: str, stored: RunRecord | None, *, add: bool) -> dict[str, Any]:
    """What run.json says of how the run came to be: its command and plugins, and those by which it was added to."""
    plugins = list(registry.named)
    if stored is None or not (add or stored.added or stored.extended):
        return {"command": command, "plugins": plugins}
    added = [msgspec.to_builtins(one) for one in stored.added]
    if len(plan.cells) > len(stored.cells):
        added.append({"command": command, "rows": len(stored.cells)})
    extended = [msgspec.to_builtins(one) for one in stored.extended]
    if plan.config.samples > stored.config.samples:
        extended.append({"command": command, "samples": stored.config.samples})
    later = {name: value for name, value in (("added", added), ("extended", extended)) if value}
    plugins = list(dict.fromkeys([*stored.plugins, *plugins]))
    return {"command": stored.command, **later, "plugins": plugins}


def evaluations_left(plan: Plan, output: Path, manner: Manner) -> int:
    """How many of a plan's network evaluations a run would make in a folder as it is now; nothing is written there.

    As in the plan adaptive cells are not counted, and neither are repeats for the clock.
    """
    if manner.fresh or not plan.model.fingerprint:
        return plan.network_evaluations
    folder = RunFolder(output)
    failures = {} if manner.retry_failed else folder.failures(plan)
    return Session(plan, folder, {}, manner, failures).evaluations_left()


def engine_for_foreign(plan: Plan, registry: Registry, folder: RunFolder, limits: Limits) -> ForeignEngine | None:
    """Where samplers that did not come with samplerbench are drawn; None = in this process, as all others."""
    if not plan.is_rebuildable or is_on(IN_PROCESS, os.environ):
        return None
    return Children(plan, registry.named, folder.path, limits)


def next_renewal(started: float, ended: float) -> float:
    """When a table that took from `started` to `ended` is made again, so that its share of the time is small."""
    return ended + max(TABLE_EVERY_SECONDS, (ended - started) * (1 / TABLE_SHARE - 1))


def labels_of(plan: Plan, ready: Mapping[str, Yardstick]) -> dict[str, dict[str, str]]:
    """For each metric its extractor's label, note, fingerprint and data, what its Frechet distance is called, how many
    features it has where the reference tells that, and of how many samples it is at least."""
    extractors = {name: plan.model.extractors[yardstick.metric.extractor] for name, yardstick in ready.items()}
    return {
        name: {"label": e.label, "note": e.note, "fingerprint": e.fingerprint, "frechet": e.frechet, "data": e.data,
               "features": str(ready[name].width or ""), "least": str(ready[name].fewest(name))}
        for name, e in extractors.items()
    }  # fmt: skip


def _cost(cell: Cell) -> int:
    """Evaluations that a sample is counted as; of an adaptive cell as many as it has steps."""
    return cell.network_evaluations or cell.steps

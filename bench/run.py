"""Run a plan: chunk by chunk, block by block across all cells, then table and picture."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from ..samplers.errors import SamplerbenchError
from ..samplers.model import Model
from ..samplers.process import state_kept
from ..samplers.registry import Registry, load_registry
from ..samplers.sample import Request, Samples, draw
from ..samplers.sampler import SamplerFault
from .config import DEFAULT_SAMPLERS, Config
from .environment import environment
from .picture import write_picture
from .plan import Block, Cell, Plan, plan_for
from .statistics import Yardstick, yardsticks
from .store import REFERENCE, Chunk, RunFolder, Timing, default_output
from .table import check_metric_names, table_for, table_to_html, write_table

KEPT_IMAGES = 16
"""Images of each cell that are always kept."""
TRIAL_STEPS = 4
TABLE_EVERY_SECONDS = 10.0
"""How often the table is renewed while a run goes on."""


class Watch(Protocol):
    """Who looks on while a plan is run."""

    def started(self, plan: Plan, todo: int) -> None:
        """`todo` sample evaluations of the network are still to be made."""

    def remaining(self, images: Mapping[str, int]) -> None:
        """So many images, by cell key, are still to be made; said at the start."""

    def stored(self, cell: Cell, images: int) -> None:
        """A chunk of a cell is stored, with so many images."""

    def failed(self, cell: Cell, reason: str, evaluations: int) -> None:
        """A cell failed; so many evaluations that were still to be made are not going to be."""

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
    table: pd.DataFrame
    """The columns of table.csv, a row for each sampler spec x grid x steps x guidance."""
    labels: dict[str, dict[str, str]]
    """For each metric its extractor's label and note."""

    @property
    def failed(self) -> int:
        """How many cells failed."""
        return int(self.table["status"].str.startswith("failed").sum())

    def __repr__(self) -> str:
        """One line; a notebook shows the table."""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"Result({str(self.folder)!r}: {len(self.table)} rows{failed})"

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        return table_to_html(self.table, self.labels)


@dataclass
class Session:
    """A plan being run in a folder. Whenever it is stopped, `conclude` makes the table of what is there."""

    plan: Plan
    folder: RunFolder
    ready: dict[str, Yardstick]
    failures: dict[str, str] = field(default_factory=dict)
    """Reason of failure by cell key."""

    @property
    def labels(self) -> dict[str, dict[str, str]]:
        """For each metric its extractor's label and note."""
        return labels_of(self.plan, self.ready)

    def work(self, watch: Watch) -> None:
        """Make every chunk that is not there. Cells take turns in alternating order, so that drift falls on all."""
        todo = sum(_cost(cell, block) for cell, block in self._missing()) + self._reference_cost()
        watch.started(self.plan, todo)
        watch.remaining(self._images_missing())
        reference = self._ode_solution(watch)
        warm_up(self.plan)
        renewed = time.monotonic()
        for block in self.plan.blocks:
            order = self.plan.cells if block.number % 2 == 0 else self.plan.cells[::-1]
            for cell in order:
                if cell.key in self.failures or self.folder.has(cell, block):
                    continue
                try:
                    chunk = make_chunk(self.plan, cell, block, self.ready, reference)
                except (Exception, SystemExit) as error:  # a sampler may raise anything; it fails its own cell
                    self.failures[cell.key] = _reason(error)
                    spared = sum(_cost(cell, b) for b in self.plan.blocks if not self.folder.has(cell, b))
                    watch.failed(cell, self.failures[cell.key], spared)
                else:
                    self.folder.write(cell, block, chunk)
                    watch.stored(cell, block.n)
                    watch.advanced(_cost(cell, block))
            if time.monotonic() - renewed > TABLE_EVERY_SECONDS:
                watch.table(self.tabulate())
                renewed = time.monotonic()

    def tabulate(self) -> pd.DataFrame:
        """The table of what is there, written to the folder too."""
        table = table_for(self.plan, self.folder, self.ready, self.failures)
        write_table(table, self.folder, self.labels)
        return table

    def conclude(self) -> Result:
        """Table and picture of what is there."""
        table = self.tabulate()
        write_picture(self.plan, self.folder, self.failures)
        return Result(self.folder.path, table, self.labels)

    def _missing(self) -> Iterator[tuple[Cell, Block]]:
        cells = {cell.key: cell for cell in self.plan.cells}.values()  # two specs of one sampler are one cell
        return ((c, b) for b in self.plan.blocks for c in cells if not self.folder.has(c, b))

    def _images_missing(self) -> dict[str, int]:
        missing = {cell.key: 0 for cell in self.plan.cells}
        for cell, block in self._missing():
            missing[cell.key] += block.n
        return missing

    def _reference_cost(self) -> int:
        return 0 if (self.folder.path / REFERENCE).exists() else self.plan.reference_evaluations

    def _ode_solution(self, watch: Watch) -> Tensor | None:
        """The converged ODE solution of the first samples, (k, *shape), drawn once a run."""
        if self.plan.reference is None:
            return None
        path = self.folder.path / REFERENCE
        if not path.exists():
            try:
                x = draw(self.plan.reference, 0, self.plan.ode_samples).x
            except SamplerFault:
                return None  # a model that diverges has no solution to be far from; its cells say so themselves
            self.folder.write_arrays(path, {"x": x.cpu().numpy()}, {})
            watch.advanced(self.plan.reference_evaluations)
        return torch.from_numpy(self.folder.read_arrays(path)[0]["x"])


def run(  # noqa: PLR0913  (the settings of a run, each by name)
    model: str | Model = "fashion-mnist",
    samplers: Sequence[str] = DEFAULT_SAMPLERS,
    steps: Sequence[int] = (5, 10, 20),
    n: int = 512,
    *,
    nfe: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    grid: str | None = None,
    guidance: float = 1.0,
    guidance_rescale: float = 0.0,
    prompts: Sequence[str] | None = None,
    negative: str | None = None,
    metrics: Sequence[str] = ("fid", "clip_score"),
    device: str = "cpu",
    dtype: str = "float32",
    keep_images: bool | None = None,
    output: str | Path | None = None,
    fresh: bool = False,
    plugins: Sequence[str] = (),
) -> Result:
    """Compare samplers, as `samplerbench run` does; `.table` is a DataFrame with the columns of table.csv.

    `model` is a name or a Model; `samplers` are specs such as "ddim:eta=0.5". The run is stored in `output`, by
    default results/<model>-<8 hex of the plan> in the current folder, and resumed if it is there already; a Model
    without a fingerprint is run anew each time. `plugins` are files or modules.
    Raises InputError, PluginError, ModelError or StoreError.
    """
    config = Config(
        model=model if isinstance(model, str) else model.name, sampler=tuple(samplers),
        steps=() if nfe else tuple(steps), nfe=tuple(nfe or ()), samples=n, seed=seed, batch_size=batch_size,
        grid=grid, guidance=guidance, guidance_rescale=guidance_rescale,
        prompts=None if prompts is None else tuple(prompts), negative=negative,
        metric=tuple(metrics), device=device, dtype=dtype, keep_images=keep_images,
    )  # fmt: skip
    registry = load_registry(plugins)
    plan = plan_for(config, registry, model if isinstance(model, Model) else None)
    session = begin(plan, registry, Path(output) if output else default_output(plan), fresh=fresh)
    session.work(NoWatch())
    return session.conclude()


def begin(plan: Plan, registry: Registry, output: Path, *, fresh: bool = False, command: str = "") -> Session:
    """Open the run folder; nothing is written if it cannot be this run's. `command` is kept in run.json."""
    check_metric_names(plan.config.metric)
    ready = yardsticks(plan.config.metric, registry.metrics.things, plan.model)
    folder = RunFolder(output)
    about = {
        "command": command,
        "extractors": labels_of(plan, ready),
        "environment": environment(plan.config.device),
    }
    folder.open(plan, about, fresh=fresh)
    return Session(plan, folder, ready)


def labels_of(plan: Plan, ready: Mapping[str, Yardstick]) -> dict[str, dict[str, str]]:
    """For each metric its extractor's label and note."""
    extractors = {name: plan.model.extractors[yardstick.metric.extractor] for name, yardstick in ready.items()}
    return {name: {"label": e.label, "note": e.note} for name, e in extractors.items()}


def warm_up(plan: Plan) -> None:
    """A trial outside the clock: the first calls of a process are slower than all others."""
    with suppress(Exception, SystemExit):  # it will fail again, as a chunk of its cell, and be reported there
        trial(plan.cells[0].request)


def trial(request: Request) -> Samples:
    """One batch, of which one sample counts, over the first levels of a request and from there to the clean end."""
    short = dataclasses.replace(request, levels=(*request.levels[:-1][:TRIAL_STEPS], request.levels[-1]))
    return draw_apart(short, 0, 1)


def draw_apart(request: Request, first: int, n: int, *, trajectory: bool = False) -> Samples:
    """`draw`, with the state of the process put back as it was; to have changed it is a fault.

    Samples that took numbers from a stream of the process, or threads that others are not timed with, depend on what
    ran before, and what runs next would depend on them.
    """
    with state_kept() as changed:
        samples = draw(request, first, n, trajectory=trajectory)
    if changed:
        raise SamplerFault(
            f"sampler {type(request.sampler).__name__} or the network changed {', '.join(changed)}; that was put back; "
            "take noise from run.noise, and leave the process as it is"
        )
    return samples


def make_chunk(plan: Plan, cell: Cell, block: Block, ready: Mapping[str, Yardstick], reference: Tensor | None) -> Chunk:
    """Draw a block of a cell's samples and extract what the metrics need."""
    samples = draw_apart(cell.request, block.first, block.n)
    if cell.nfe is not None and samples.nfe != cell.nfe:
        raise SamplerbenchError(f"made {samples.nfe:g} model calls; nfe({cell.steps}) declares {cell.nfe}")
    images = samples.images.cpu() if samples.images is not None else None
    needed = {yardstick.metric.extractor for yardstick in ready.values()} if images is not None else set()
    extractors = plan.model.extractors
    kept = block.n if plan.keep_images else max(0, min(block.n, KEPT_IMAGES - block.first))
    return Chunk(
        first=block.first,
        n=block.n,
        timing=Timing(samples.nfe, samples.network_evaluations, samples.seconds, samples.model_seconds),
        rows={name: extractors[name].extract(images, samples.prompts) for name in sorted(needed)}
        if images is not None
        else {},
        hashes=sample_hashes(samples.x.cpu() if images is None else images),
        images=images[:kept].numpy() if images is not None and kept else None,
        ode_distance=ode_distances(cell, block, samples.x, reference),
    )


def ode_distances(cell: Cell, block: Block, x: Tensor, reference: Tensor | None) -> npt.NDArray[np.float64] | None:
    """Mean squared distance of each of the first samples to its converged solution, (k,)."""
    if reference is None or not cell.is_deterministic or block.first >= len(reference):
        return None
    there = reference[block.first : block.first + block.n].double()
    squares: npt.NDArray[np.float64] = (x[: len(there)].cpu().double() - there).square().flatten(1).mean(1).numpy()
    return squares


def sample_hashes(samples: Tensor) -> npt.NDArray[np.uint8]:
    """16 bytes of SHA-256 of each sample, (n, 16)."""
    digests = [hashlib.sha256(row.tobytes()).digest()[:16] for row in samples.contiguous().numpy()]
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(len(digests), 16).copy()


def seconds_per_evaluation(plan: Plan) -> float | None:
    """Time of one sample evaluation of the network, for estimates alone; None if no sampler gets through a trial."""
    for cell in plan.cells:
        with suppress(Exception, SystemExit):
            trial(cell.request)
            second = trial(cell.request)
            return second.seconds / (second.network_evaluations * cell.request.batch_size)
    return None


def _cost(cell: Cell, block: Block) -> int:
    return (cell.network_evaluations or cell.steps) * block.n


def _reason(error: BaseException) -> str:
    """One line of an error."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())[:300]
    return text if isinstance(error, SamplerbenchError) else f"{type(error).__name__}: {text}"


def summary(plan: Plan) -> dict[str, Any]:
    """What `--dry-run` says of a plan."""
    samples = plan.config.samples

    def about(cell: Cell) -> dict[str, Any]:
        one = cell.network_evaluations
        names = {"sampler": cell.sampler, "grid": cell.grid, "steps": cell.steps, "nfe": cell.nfe}
        return {**names, "network_evaluations": None if one is None else one * samples}

    return {
        "model": plan.model.name,
        "cells": [about(cell) for cell in plan.cells],
        "samples": samples,
        "network_evaluations": plan.network_evaluations,
    }

"""Draw some of a run's chunks again and compare them with the stored ones, byte by byte."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..samplers.engine import Engine, Failure
from ..samplers.errors import InputError, StoreError
from ..samplers.process import set_switches, state_kept
from ..samplers.registry import Registry
from .draw.chunk_file import Chunk
from .draw.folder import advice
from .draw.ledger import job_of
from .draw.store import RunFolder
from .judge.run_metrics import (
    check_code,
    check_extractors,
    check_model,
    check_plugins,
    check_settings,
)
from .judge.stored import StoredRun
from .plan.environment import VERSIONS_THAT_MATTER, environment
from .plan.plan import Block, Cell, Plan, behind, plan_for
from .plan.record import RunRecord
from .plan.yardstick import yardsticks
from .run import work_of

EQUAL, DIFFERS, DAMAGED = "equal", "differs", "damaged"


@dataclass(frozen=True)
class Check:
    """The result of drawing one chunk again."""

    sampler: str
    grid: str
    steps: int
    first: int
    """The chunk's first sample index."""
    n: int
    verdict: str
    """equal, differs or damaged."""
    found: tuple[str, ...]
    """Each difference, or the damage."""


@dataclass(frozen=True)
class Verification:
    """Some of a run's chunks, checked."""

    checks: tuple[Check, ...]
    chunks: int
    """The number of chunks in the run."""
    threads: int
    """The threads of torch, set as in the run."""
    notes: tuple[str, ...]
    """Differences to the run's environment that may decide the last bits."""

    def count(self, verdict: str) -> int:
        """The number of checks with this verdict."""
        return sum(check.verdict == verdict for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0 if all are equal, 1 if one differs, 5 if one is damaged."""
        return StoreError.exit_code if self.count(DAMAGED) else int(self.count(DIFFERS) > 0)


def verify(run: StoredRun, registry: Registry, chunks: int = 3, seed: int = 0) -> Verification:
    """Draw some of a run's chunks again as the run did, chosen at random by `seed`, and compare them.

    Hashes, kept images, extractors' rows, ODE distances and counts of calls must be the same; seconds are not compared.
    Samplers that did not come with samplerbench are drawn in a child process with limits, as `run` draws them: a chunk
    that crashes or never ends differs, and the next is drawn.
    Raises InputError, ModelError or StoreError where the run cannot be made again here: other versions, another model,
    an edited sampler, a damaged run, code that the registry does not name as the user's own.
    """
    check_settings(run)
    check_plugins(run, registry)
    check_code(run, registry)
    check_versions(run)
    record, folder = run.record, run.folder
    # Threads and switches move the last bits, and are part of every key that is compared below.
    with set_as(record) as threads:
        plan = behind(plan_for(record.config, registry), record.budgets)
        # From the widest cause to the narrowest, so that the error names the right one.
        check_model(run, plan.model)
        ready = yardsticks(record.config.metric, registry.metrics.things, plan.model)
        check_extractors(run, plan.model, ready)
        check_cells(run, plan)
        there = [(cell, block) for cell in plan.cells for block in folder.whole_blocks([cell], plan.blocks)]
        if not there:
            what = advice(run.path, "give its run's command again to go on")
            raise InputError(f"{run.path}: has no chunk yet; {what}")
        # Sorted, so that chunks of one sampler share a child.
        chosen = sorted(random.Random(seed).sample(range(len(there)), min(chunks, len(there))))
        solution = folder.ode_solution(plan.reference_key)
        work = work_of(plan, registry, run.path, ready)
        # The stored solution: one that is solved again would hide a damaged file.
        work.find_solution = lambda: solution
        with closing(work.local()) as engine:
            checks = tuple(check_chunk(folder, *there[i], engine) for i in chosen)
    return Verification(checks, len(there), threads, notes_on(record))


def check_versions(run: StoredRun) -> None:
    """Refuse a run of other versions."""
    here = environment("cpu")["versions"]
    # Before the keys, which hold the versions too: the message can then say what to install.
    there = run.record.environment.versions
    for name in VERSIONS_THAT_MATTER:
        if there.get(name) != here[name]:
            raise InputError(
                f"{run.path}: made with {name} {there.get(name)}, and this is {here[name]}; install that one"
            )


def check_cells(run: StoredRun, plan: Plan) -> None:
    """Refuse a run whose cells would now be drawn differently."""
    # The plan holds all but code and files, so if it agrees, an edited sampler is what is left.
    if run.record.plan != plan.key:
        raise InputError(
            f"{run.path}: its plan is {run.record.plan[:12]} there and {plan.key[:12]} here; a grid, a sampler's "
            "options, the model's prompts or the build of torch are others"
        )
    for stored, cell in zip(run.record.cells, plan.cells, strict=True):
        if stored.key != cell.key:
            raise InputError(
                f"{run.path}: sampler {cell.sampler!r} was edited since: {stored.key[:12]} there and {cell.key[:12]} "
                "here; give the run's command again to run it again"
            )


@contextmanager
def set_as(record: RunRecord) -> Iterator[int]:
    """Set torch's threads and switches as in the run, inside the block; yields the number of threads."""
    threads = record.environment.threads
    # The process is put back afterwards: to verify a run must not change the next one.
    with state_kept():
        torch.set_num_threads(threads)
        set_switches(record.environment.switches)
        yield threads


def notes_on(record: RunRecord) -> tuple[str, ...]:
    """Differences between this environment and the run's that may decide the last bits."""
    here, there = environment(record.config.device), record.environment
    return tuple(
        f"{name} {getattr(there, name)!r} there, {here[name]!r} here"
        for name in ("cpu", "device", "system")
        if getattr(there, name) != here[name]
    )


def check_chunk(folder: RunFolder, cell: Cell, block: Block, engine: Engine) -> Check:
    """Compare one stored chunk with itself drawn again."""
    place = cell.shown, cell.grid, cell.steps, block.first, block.n
    try:
        stored = folder.read(cell, block)
    except StoreError as error:
        return Check(*place, DAMAGED, (str(error),))
    # By the engine of a run, so that a sampler that crashes or hangs ends only its own check.
    (drawn,) = engine.draw([job_of(cell, block)])
    if isinstance(drawn, Failure):
        return Check(*place, DIFFERS, (f"cannot be drawn: {drawn.reason}",))
    assert isinstance(drawn.chunk, Chunk)
    found = tuple(chunk_differences(stored, drawn.chunk))
    return Check(*place, DIFFERS if found else EQUAL, found)


def chunk_differences(stored: Chunk, drawn: Chunk) -> Iterator[str]:
    """The differences between two chunks of one place, except in seconds."""
    for name in ("nfe", "network_evaluations", "depth"):
        a, b = (getattr(chunk.timing, name) for chunk in (stored, drawn))
        if a is not None and b is not None and a != b:  # chunks of earlier versions say nothing of their depth
            yield f"{name} {a:g} -> {b:g}"
    # Hashes cover every image; the kept ones say by how much they differ.
    others = int((stored.hashes != drawn.hashes).any(1).sum())
    if others:
        yield f"{others} of {stored.n} images"
    yield from image_differences(stored.images, drawn.images)
    for name in sorted(stored.rows.keys() | drawn.rows.keys()):
        yield from array_differences(f"rows of {name}", stored.rows.get(name), drawn.rows.get(name))
    yield from array_differences("ODE distances", stored.ode_distance, drawn.ode_distance)


def image_differences(stored: npt.NDArray[np.uint8] | None, drawn: npt.NDArray[np.uint8] | None) -> Iterator[str]:
    """The differences between kept images, in grey levels."""
    if stored is None or drawn is None or stored.shape != drawn.shape:
        yield from array_differences("kept images", stored, drawn)
    # A difference of uint8 would wrap around.
    elif largest := int(np.abs(stored.astype(np.int16) - drawn.astype(np.int16)).max(initial=0)):
        yield f"kept images by up to {largest} grey level{'s' if largest > 1 else ''}"


def array_differences(name: str, stored: npt.NDArray[Any] | None, drawn: npt.NDArray[Any] | None) -> Iterator[str]:
    """The number of rows whose bytes differ between two arrays, and the largest difference."""
    if stored is None or drawn is None:
        if stored is not drawn:
            yield f"{name}: {shape_of(stored)} -> {shape_of(drawn)}"
    elif stored.shape != drawn.shape or stored.dtype != drawn.dtype:
        yield f"{name}: {shape_of(stored)} -> {shape_of(drawn)}"
    elif stored.tobytes() != drawn.tobytes():
        others = sum(a.tobytes() != b.tobytes() for a, b in zip(stored, drawn, strict=True))
        yield f"{name}: {others} of {len(stored)} by up to {np.abs(stored - drawn).max():.3g}"


def shape_of(array: npt.NDArray[Any] | None) -> str:
    """ "float32 (64, 4)"."""
    return "none" if array is None else f"{array.dtype} {array.shape}"


def checks_to_rows(checks: Sequence[Check]) -> list[dict[str, str]]:
    """The checks as people read them."""
    return [
        {
            "sampler": check.sampler, "grid": check.grid, "steps": str(check.steps),
            "samples": f"{check.first}-{check.first + check.n - 1}",
            "verdict": "; ".join([check.verdict, *check.found]) if check.found else check.verdict,
        }
        for check in checks
    ]  # fmt: skip

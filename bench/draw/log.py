"""The log of a run: a line of JSON for each event, appended to a file, for programs that watch."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...samplers.errors import InputError
from ..plan.plan import Block, Cell, Plan
from .sealed_file import disk_errors
from .session import Watch

if TYPE_CHECKING:
    import pandas as pd


class Log(Watch):
    """Writes each event as it happens; docs/cluster.md says what stands in a line."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path, self._about = path, about
        try:
            # Appended in one piece: several runs, as the shards of one, may write one file.
            self._file: int | None = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"log {path}: cannot be written ({reason}); give another --log") from error

    def started(self, plan: Plan, todo: int) -> None:
        """What the run is of, and how much of it is left to draw."""
        self._write(
            "started", **self._about, plan=plan.key, model=plan.model.name, cells=len(plan.cells),
            samples=plan.config.samples, evaluations=todo,
        )  # fmt: skip

    # Not `advanced`: a watching program asks what can be relied on, which is what is stored.
    def stored(self, cell: Cell, block: Block) -> None:
        """A chunk is on the disk."""
        self._write("stored", **cell_fields(cell), **block_fields(block))

    def retried(self, cell: Cell, block: Block, reason: str) -> None:
        """A chunk was lost with its worker."""
        self._write("retried", **cell_fields(cell), **block_fields(block), reason=reason)

    def failed(self, cell: Cell, reason: str, evaluations: int) -> None:
        """A cell failed."""
        self._write("failed", **cell_fields(cell), reason=reason)

    def ended(self, *, is_complete: bool) -> None:
        """Nothing more comes."""
        self._write("done", complete=is_complete)
        # An event that comes later is dropped, and is not an error of the run.
        self.close()

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, event: str, **about: Any) -> None:
        if self._file is not None:
            # A line is one write, so that lines of several runs never mix.
            line = json.dumps({"event": event, "time": round(time.time(), 3), **about})
            with disk_errors(self.path):
                os.write(self._file, f"{line}\n".encode())


class Together(Watch):
    """Several who look on."""

    def __init__(self, *watches: Watch) -> None:
        self._watches = watches

    def started(self, plan: Plan, todo: int) -> None:
        """Tell each."""
        for watch in self._watches:
            watch.started(plan, todo)

    def remaining(self, images: Mapping[str, int]) -> None:
        """Tell each."""
        for watch in self._watches:
            watch.remaining(images)

    def doing(self, what: str) -> None:
        """Tell each."""
        for watch in self._watches:
            watch.doing(what)

    def stored(self, cell: Cell, block: Block) -> None:
        """Tell each."""
        for watch in self._watches:
            watch.stored(cell, block)

    def retried(self, cell: Cell, block: Block, reason: str) -> None:
        """Tell each."""
        for watch in self._watches:
            watch.retried(cell, block, reason)

    def failed(self, cell: Cell, reason: str, evaluations: int) -> None:
        """Tell each."""
        for watch in self._watches:
            watch.failed(cell, reason, evaluations)

    def advanced(self, evaluations: int) -> None:
        """Tell each."""
        for watch in self._watches:
            watch.advanced(evaluations)

    def added(self, evaluations: int) -> None:
        """Tell each."""
        for watch in self._watches:
            watch.added(evaluations)

    def table(self, table: pd.DataFrame) -> None:
        """Tell each."""
        for watch in self._watches:
            watch.table(table)

    def ended(self, *, is_complete: bool) -> None:
        """Tell each."""
        for watch in self._watches:
            watch.ended(is_complete=is_complete)


def cell_fields(cell: Cell) -> dict[str, Any]:
    """Which cell an event is of."""
    return {"cell": cell.key[:16], "sampler": cell.sampler, "grid": cell.grid, "steps": cell.steps}


def block_fields(block: Block) -> dict[str, Any]:
    """Which samples an event is of."""
    return {"first": block.first, "samples": block.n}

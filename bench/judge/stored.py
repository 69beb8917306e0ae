"""A run folder as it is read after drawing: each fact is read from the disk once, whoever asks for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import pandas as pd

from ..draw.chunk_file import Chunk, Place
from ..draw.clock import Repeat
from ..draw.folder import RUN_FILE
from ..draw.run_file import read_run
from ..draw.store import RunFolder
from ..plan.record import CellRecord, RunRecord
from .status import Outcome, outcome_of
from .table import Labels, read_table


class StoredRun:
    """The content of a run folder. It is read when it is first asked for; changes of a running run are not followed.

    Every property raises InputError if there is no run, or no table yet, and StoreError for a damaged file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._repeats: dict[str, tuple[Repeat, ...]] = {}

    def __repr__(self) -> str:
        """The class and its folder."""
        return f"StoredRun({str(self.path)!r})"

    @property
    def exists(self) -> bool:
        """Whether there is a run in the folder, whole or damaged."""
        return os.path.lexists(self.path / RUN_FILE)

    @cached_property
    def record(self) -> RunRecord:
        """run.json."""
        return read_run(self.path)

    @cached_property
    def table(self) -> pd.DataFrame:
        """table.csv, checked, with a row for each cell of the record. It is shared: copy it before a change."""
        return read_table(self.path, self.record)

    @property
    def labels(self) -> Labels:
        """The label and the notes of each metric's extractor."""
        return self.record.extractors

    @cached_property
    def folder(self) -> RunFolder:
        """The files that chunks are read from."""
        return RunFolder(self.path)

    @cached_property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The outcome of each cell, from the table."""
        return tuple(map(outcome_of, self.table["status"]))

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why cells failed, by cell key."""
        # From the table and not from the failures on disk: a page shows what the table shows.
        told = zip(self.record.cells, self.outcomes, strict=True)
        return {cell.key: outcome.reason for cell, outcome in told if outcome.has_failed}

    def chunks(self, cell: CellRecord) -> dict[Place, Chunk]:
        """The stored chunks of a cell, in order of their samples.

        They are read again at each call, because all cells together may be larger than the memory.
        """
        return self.folder.chunks_of(cell.key)

    def first_chunk(self, cell: CellRecord) -> Chunk | None:
        """The stored chunk of a cell that begins with sample 0; None if there is none."""
        return self.folder.first_chunk_of(cell.key)

    def repeats(self, cell: CellRecord) -> tuple[Repeat, ...]:
        """The timings of a cell beyond its chunks."""
        # Unlike chunks, repeats are few and small, and several questions ask for them.
        if cell.key not in self._repeats:
            self._repeats[cell.key] = tuple(self.folder.repeats_of(cell.key))
        return self._repeats[cell.key]

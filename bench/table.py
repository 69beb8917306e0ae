"""Chunks -> the table, one row a cell, with every digit; and table.csv -> the table again."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..samplers.errors import InputError, StoreError
from ..samplers.metric import Estimate
from . import timing
from .chunk_file import Chunk
from .plan import Block, Cell, Plan
from .statistics import Gathered, Yardstick, estimates, gather, measured, metric_columns
from .store import RUN_FILE, RunFolder, bytes_of, read_run
from .timing import Repeat

COLUMNS = (
    "model", "sampler", "grid", "steps", "nfe", "network_evaluations", "guidance", "samples",
    "fid", "fid_low", "fid_high", "clip_score", "clip_low", "clip_high",
    "seconds_per_image", "seconds_low", "seconds_high", "model_seconds_per_image", "overhead",
    "ode_error", "same_as", "status",
)  # fmt: skip
CLOCK_COLUMNS = tuple(name for name in timing.COLUMNS if name not in COLUMNS)
"""These stand at the end, after the further metrics."""
TABLE_FILE = "table.csv"
OWN_COLUMNS = ("fid", "clip_score")
"""The metrics that stand among the fixed columns."""
WARNING = "warning"
"""The last column: what must be known of the levels of a cell."""
TEXTS = ("model", "sampler", "grid", "same_as", "status", "timing", WARNING)
OK = "ok"
FORMULA = re.compile(r"'*[=+\-@\x00-\x1f\x7f-\x9f]")
"""How a text begins that a spreadsheet takes for a formula, or would once a ' in front of it is taken away."""
Labels = Mapping[str, Mapping[str, str]]
"""For each metric its extractor's label, note, fingerprint and data, and what its Frechet distance is called, as
run.json has them."""


REMEMBERED_BYTES = 1 << 28
"""How much of the chunks that were read is kept for the next table; further ones are read again."""


@dataclass(frozen=True)
class Measured:
    """What is known of a cell."""

    made_from: tuple[Block, ...]
    """Which of its chunks."""
    numbers: Mapping[str, Any]
    """The columns that were measured, but for those of the clock."""
    found: Mapping[str, Estimate]
    """What these were made of, by metric."""
    samples: bytes
    """The same for two cells with the same samples."""
    clocked: tuple[Repeat, ...]
    """What was clocked of the chunks."""


@dataclass(frozen=True)
class Clocked:
    """What a cell's clock says."""

    made_from: tuple[tuple[Block, ...], int]
    """Which of its chunks, and how many repeats for the clock had been written to the folder."""
    numbers: Mapping[str, Any]
    """The columns of the clock."""


class GrowingTable:
    """The table of a run as chunks come: what was read is not read again, only cells with new chunks are measured
    again, and only their seconds where repeats are new."""

    def __init__(self, plan: Plan, folder: RunFolder, ready: Mapping[str, Yardstick]) -> None:
        self._plan, self._folder, self._ready = plan, folder, ready
        self._chunks: dict[tuple[str, int], Chunk] = {}
        self._remembered = 0
        self._measured: dict[str, Measured] = {}
        self._clocked: dict[str, Clocked] = {}

    def table(self, failures: Mapping[str, str]) -> pd.DataFrame:
        """One row a cell, from the blocks that every cell has which has begun and did not fail: equal n in every row.

        A cell has begun when its first block is there.
        """
        plan, folder = self._plan, self._folder
        begun = [cell for cell in plan.cells if cell.key not in failures and folder.has(cell, plan.blocks[0])]
        blocks = tuple(b for b in plan.blocks if all(folder.has(cell, b) for cell in begun))
        rows = []
        seen: dict[bytes, Mapping[str, Any]] = {}
        for cell in plan.cells:
            row = {**dict.fromkeys(COLUMNS), **_identity(plan, cell)}
            if cell.key in failures:
                row["status"] = f"failed: {failures[cell.key]}"
                self._measured.pop(cell.key, None)
            elif folder.has(cell, blocks[0]):
                known = self._measure(cell, blocks)
                row |= {**known.numbers, **self._clock(cell, known).numbers}
                row["status"] = OK if row["samples"] == plan.config.samples else "partial"
                first = seen.setdefault(known.samples, row)
                row["same_as"] = None if first is row else row_name(first, row)
            else:
                row["status"] = "pending"
            rows.append(row)
        return rows_to_table(rows)

    def estimates(self) -> dict[int, Mapping[str, Estimate]]:
        """What the rows of the last table that have samples were made of, by row and metric."""
        return {
            i: self._measured[cell.key].found for i, cell in enumerate(self._plan.cells) if cell.key in self._measured
        }

    def _measure(self, cell: Cell, blocks: tuple[Block, ...]) -> Measured:
        """What these blocks of a cell say."""
        known = self._measured.get(cell.key)
        if known is None or known.made_from != blocks:
            samples = sum(block.n for block in blocks)
            gathered = gather((self._chunk(cell, block) for block in blocks), samples, self._ready)
            found = estimates(gathered, self._ready)
            numbers = _numbers(gathered, samples) | measured(found, self._ready)
            clocked = tuple(chunk.repeat for chunk in gathered.chunks)
            known = Measured(blocks, numbers, found, samples_hash(gathered.chunks), clocked)
            self._measured[cell.key] = known
        return known

    def _clock(self, cell: Cell, known: Measured) -> Clocked:
        """What the clock says of these chunks and of all repeats."""
        clocked, made_from = self._clocked.get(cell.key), (known.made_from, self._folder.repeats_written[cell.key])
        if clocked is None or clocked.made_from != made_from:
            numbers = timing.timed([*known.clocked, *self._folder.repeats_of(cell.key)])
            clocked = self._clocked[cell.key] = Clocked(made_from, numbers)
        return clocked

    def _chunk(self, cell: Cell, block: Block) -> Chunk:
        """A chunk without its images, which no column is made of."""
        place = cell.key, block.number
        if place in self._chunks:
            return self._chunks[place]
        chunk = replace(self._folder.read(cell, block), images=None)
        size = chunk.hashes.nbytes + sum(rows.nbytes for rows in chunk.rows.values())
        if self._remembered + size <= REMEMBERED_BYTES:
            self._chunks[place] = chunk
            self._remembered += size
        return chunk


def rows_to_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows with the fixed columns first, then further metrics, then those of the clock."""
    own = (*COLUMNS, *CLOCK_COLUMNS, WARNING)
    further = dict.fromkeys(name for row in rows for name in row if name not in own)
    return pd.DataFrame(rows, columns=[*COLUMNS, *further, *CLOCK_COLUMNS, WARNING])


def samples_hash(chunks: Sequence[Chunk]) -> bytes:
    """Hash of all samples of some chunks, in order."""
    return hashlib.sha256(b"".join(chunk.hashes.tobytes() for chunk in chunks)).digest()


def check_metric_names(names: Sequence[str]) -> None:
    """Refuse a metric whose columns would take another's name."""
    for name in names:
        own = (*COLUMNS, *CLOCK_COLUMNS, WARNING)
        taken = [c for c in metric_columns(name) if c in own and name not in OWN_COLUMNS]
        if taken:
            raise InputError(f"metric {name!r}: the table has a column {taken[0]!r} of its own; register another name")


def _identity(plan: Plan, cell: Cell) -> dict[str, Any]:
    """The columns that say which cell a row is."""
    return {
        "model": plan.model.name, "sampler": cell.sampler, "grid": cell.grid, "steps": cell.steps, "nfe": cell.nfe,
        "network_evaluations": cell.network_evaluations, "guidance": plan.config.guidance, "samples": 0,
        WARNING: cell.warning or None,
    }  # fmt: skip


def _numbers(gathered: Gathered, samples: int) -> dict[str, Any]:
    """The columns that were counted."""
    counted = {
        name: sum(getattr(chunk.timing, name) * chunk.n for chunk in gathered.chunks) / samples
        for name in ("nfe", "network_evaluations")
    }
    whole = {name: int(value) if float(value).is_integer() else value for name, value in counted.items()}
    return {**whole, "samples": samples}


def row_name(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What to call a row, with as much as tells it from the other."""
    name = str(row["sampler"])
    if row["grid"] != other["grid"]:
        name += f" on {row['grid']}"
    if row["guidance"] != other["guidance"]:
        name += f" at guidance {row['guidance']:g}"
    return name if row["steps"] == other["steps"] else f"{name}, {row['steps']} steps"


def read_table(path: Path) -> tuple[pd.DataFrame, Labels]:
    """The table of a run folder and the labels of its extractors."""
    about = read_run(path)
    try:
        table = csv_to_frame(path / TABLE_FILE)
        check_table(table)
        if len(table) != len(about["cells"]):
            raise ValueError(f"{len(table)} rows, and {RUN_FILE} has {len(about['cells'])} cells")
    except FileNotFoundError as error:
        raise InputError(f"{path}: the run has no table yet; give its command again to go on") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path / TABLE_FILE}: damaged ({error}); give the run's command again") from error
    return table, about.get("extractors", {})


def frame_to_csv(frame: pd.DataFrame) -> str:
    """Every digit; a text that a spreadsheet would take for a formula gets a ' in front."""
    safe = texts_changed(frame, lambda text: f"'{text}" if FORMULA.match(text) else text)
    end = "\0\r\n"  # a field that holds a letter of it gets quotes, and a bare carriage return would end the line
    return safe.to_csv(index=False, lineterminator=end).replace(end, "\n")


def csv_to_frame(path: Path) -> pd.DataFrame:
    """What `frame_to_csv` wrote of a run's table: its texts to the letter, its numbers as numbers."""
    texts = dict.fromkeys(TEXTS, str)
    stored = pd.read_csv(io.BytesIO(bytes_of(path)), dtype=texts, keep_default_na=False, na_values=[""])
    return texts_changed(stored, lambda text: text[1:] if text[:1] == "'" and FORMULA.match(text) else text)


def texts_changed(frame: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """The frame with every text and every heading changed; what is no text stays as it is."""
    changed = frame.copy()
    for name, column in frame.items():
        if not pd.api.types.is_numeric_dtype(column):
            values = [change(value) if isinstance(value, str) else value for value in column]
            changed[name] = pd.Series(values, frame.index, column.dtype)
    return changed.rename(columns=change)


def check_table(table: pd.DataFrame) -> None:
    """A ValueError unless the columns are there and each holds what it is for."""
    if table.empty or not set(COLUMNS) <= set(table.columns):
        raise ValueError("columns or rows are missing")
    for name in table.columns:
        if name not in TEXTS and not pd.api.types.is_numeric_dtype(table[name]):
            raise ValueError(f"not every {name} is a number")
    for name in ("model", "sampler", "grid", "steps", "guidance", "samples", "status"):
        if table[name].isna().any():
            raise ValueError(f"a {name} is missing")

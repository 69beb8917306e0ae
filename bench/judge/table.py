"""Chunks -> the table, one row for each cell, with every digit; and table.csv -> the table again."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from ...samplers.errors import InputError, StoreError
from ...samplers.files.atomic import write_atomically
from ...samplers.metric import Estimate
from ..draw import clock as timing
from ..draw.chunk_file import Chunk
from ..draw.clock import COMPILE, STAGES, Repeat
from ..draw.folder import TABLE_FILE, TABLE_SEAL, advice
from ..draw.latency import columns_among, is_latency, latencies
from ..draw.sealed_file import bytes_of, disk_errors, seal_json, unseal_json
from ..draw.store import RunFolder
from ..plan.keys import FORMAT
from ..plan.plan import Block, Cell, Plan
from ..plan.record import MOST, RunRecord
from ..plan.yardstick import Yardstick
from .statistics import Gathered, estimates, for_verdicts, gather, metric_columns, metric_values, samples_hash
from .status import Status, failed_outcome, outcome_of

COLUMNS = (
    "model", "sampler", "grid", "steps", "nfe", "network_evaluations", "guidance", "samples",
    "fid", "fid_low", "fid_high", "clip_score", "clip_low", "clip_high",
    "seconds_per_image", "seconds_low", "seconds_high", "model_seconds_per_image", "overhead",
    "ode_error", "same_as", "status",
)  # fmt: skip
GUIDED_COLUMNS = ("guidance_low", "guidance_high")
"""Behind the fixed columns: the interval of sigma / alpha with guidance, empty where all levels are guided."""
AXES = ("grid", "guidance", *GUIDED_COLUMNS)
"""The columns that say, beside sampler and steps, which cell a row is."""
CLOCK_COLUMNS = tuple(name for name in timing.COLUMNS if name not in COLUMNS)
"""The columns at the end, after the further metrics."""
OWN_COLUMNS = ("fid", "clip_score")
"""The metrics among the fixed columns."""
SPEC = "spec"
"""Behind those, where some row has a name: the spec of its sampler, which the column `sampler` else holds."""
SEEDS = "seeds"
"""The number of seeds, in a table of several. Its other columns are means, with `<metric>_sd` for the deviation."""
DEPTH = "depth"
"""Behind those, where some row has made fewer calls one after the other than calls."""
WARNING = "warning"
"""The last column: what a user must know about the levels of a cell."""
TEXTS = ("model", "sampler", SPEC, "grid", "same_as", "status", "timing", WARNING)
COUNTS = {"steps": 1, "nfe": 0, "network_evaluations": 0, "samples": 0, "repeats": 0, DEPTH: 0}
"""The least that these columns may be."""
WHOLE = ("steps", "samples")
POSITIVE = ("seconds_per_image", "seconds_low", "seconds_high")
FORMULA = re.compile(r"'*[=+\-@\x00-\x1f\x7f-\x9f]")
"""The beginning of a text that a spreadsheet takes for a formula, or would without the ' in front of it."""
Labels = Mapping[str, Mapping[str, str]]
"""For each metric its extractor's label, note, fingerprint and data, and the name of its Frechet distance, as in
run.json."""


REMEMBERED_BYTES = 1 << 28
"""The most bytes of chunks that are kept in memory for the next table; other chunks are read again."""


@dataclass(frozen=True)
class Measured:
    """The numbers of a cell that come from its samples."""

    made_from: tuple[Block, ...]
    """The blocks whose chunks were used."""
    numbers: Mapping[str, Any]
    """The columns, except those of the clock."""
    found: Mapping[str, Estimate]
    """The estimates behind these columns, by metric."""
    samples: bytes
    """A hash that is equal for two cells with the same samples."""
    clocked: tuple[Repeat, ...]
    """The timings of the chunks."""


@dataclass(frozen=True)
class Clocked:
    """The numbers of a cell that come from its timings."""

    made_from: tuple[tuple[Block, ...], int]
    """The blocks whose chunks were used, and the number of repeats in the folder at that time."""
    numbers: Mapping[str, Any]
    """The columns of the clock."""


class GrowingTable:
    """The table of a run while chunks come. Chunks are read once, only cells with new chunks are measured again, and
    if only repeats are new, only their seconds."""

    def __init__(self, plan: Plan, folder: RunFolder, ready: Mapping[str, Yardstick]) -> None:
        self._plan, self._folder, self._ready = plan, folder, ready
        self._chunks: dict[tuple[str, int], Chunk] = {}
        self._remembered = 0
        self._measured: dict[str, Measured] = {}
        self._clocked: dict[str, Clocked] = {}

    def table(self, failures: Mapping[str, str]) -> pd.DataFrame:
        """One row for each cell, from the blocks that all begun cells have, so that n is equal in every row.

        A cell has begun when a block of it is stored; cells that failed do not count.
        """
        plan, folder = self._plan, self._folder
        begun = [cell for cell in plan.cells if cell.key not in failures and folder.stored_places(cell, plan.blocks)]
        # Blocks that all begun cells have: every row then counts the same samples, and rows can be compared at any
        # time.
        blocks = folder.whole_blocks(begun, plan.blocks) or plan.blocks[:1]
        rows = []
        seen: dict[bytes, Mapping[str, Any]] = {}
        for cell in plan.cells:
            row = {**dict.fromkeys(COLUMNS), **_identity(plan, cell)}
            if cell.key in failures:
                row["status"] = str(failed_outcome(failures[cell.key]))
                # A cell that failed later takes part in no verdict.
                self._measured.pop(cell.key, None)
            elif folder.has(cell, blocks[0]):
                known = self._measure(cell, blocks)
                row |= {**known.numbers, **self._clock(cell, known).numbers}
                row["status"] = str(Status.OK if row["samples"] == plan.config.samples else Status.PARTIAL)
                # Two samplers with the same samples are one method on this grid: the second row names the first.
                first = seen.setdefault(known.samples, row)
                row["same_as"] = None if first is row else row_name(first, row)
            else:
                row["status"] = str(Status.PENDING)
            rows.append(row)
        return rows_to_table(rows)

    def estimates(self) -> dict[int, Mapping[str, Estimate]]:
        """The estimates that verdicts on the rows of the last table use, by row and metric."""
        return {
            i: for_verdicts(self._measured[cell.key].found, self._ready)
            for i, cell in enumerate(self._plan.cells)
            if cell.key in self._measured
        }

    def timings(self) -> dict[int, tuple[Repeat, ...]]:
        """The timings behind the seconds of the last table, by row."""
        return {
            i: (*self._measured[cell.key].clocked, *self._folder.repeats_of(cell.key))
            for i, cell in enumerate(self._plan.cells)
            if cell.key in self._measured
        }

    def _measure(self, cell: Cell, blocks: tuple[Block, ...]) -> Measured:
        """The numbers from these blocks of a cell."""
        # The blocks decide: a chunk never changes, so the same blocks give the same numbers.
        known = self._measured.get(cell.key)
        if known is None or known.made_from != blocks:
            samples = sum(block.n for block in blocks)
            chunks = (self._chunk(cell, block) for block in blocks)
            gathered = gather(chunks, samples, self._ready, cell.request.prompts)
            found = estimates(gathered, self._ready)
            numbers = _numbers(gathered, samples) | metric_values(found, self._ready)
            clocked = tuple(chunk.repeat for chunk in gathered.chunks)
            known = Measured(blocks, numbers, found, samples_hash(gathered.chunks), clocked)
            self._measured[cell.key] = known
        return known

    def _clock(self, cell: Cell, known: Measured) -> Clocked:
        """The timings of these chunks and of all repeats."""
        # Repeats come without new blocks, and change only the seconds.
        clocked, made_from = self._clocked.get(cell.key), (known.made_from, self._folder.repeats_written[cell.key])
        if clocked is None or clocked.made_from != made_from:
            numbers = timing.clock_columns([*known.clocked, *self._folder.repeats_of(cell.key)])
            numbers |= latencies(self._folder.latencies_of(cell.key))
            clocked = self._clocked[cell.key] = Clocked(made_from, numbers)
        return clocked

    def _chunk(self, cell: Cell, block: Block) -> Chunk:
        """A chunk without its images, which no column needs."""
        place = cell.key, block.number
        if place in self._chunks:
            return self._chunks[place]
        chunk = replace(self._folder.read(cell, block), images=None)
        size = chunk.hashes.nbytes + sum(rows.nbytes for rows in chunk.rows.values())
        # The first chunks stay, not the last: each table reads all of them in order, so a cache of the last ones would
        # never hit.
        if self._remembered + size <= REMEMBERED_BYTES:
            self._chunks[place] = chunk
            self._remembered += size
        return chunk


def deviation_of(metric: str) -> str:
    """The column of a metric's standard deviation between seeds."""
    return f"{metric}_sd"


def rows_to_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows: the fixed columns, the interval of guidance, the spec if a row is called otherwise, depth if it says
    more than nfe, further metrics, those of the clock, latencies."""
    at_once = columns_among(str(name) for row in rows for name in row)
    own = (*COLUMNS, *GUIDED_COLUMNS, SPEC, DEPTH, *CLOCK_COLUMNS, COMPILE, *at_once, WARNING)
    further = dict.fromkeys(name for row in rows for name in row if name not in own)
    # The column is left out where it would repeat `nfe`.
    depth = [DEPTH] if any(row.get(DEPTH) not in (None, row["nfe"]) for row in rows) else []
    compiled = [COMPILE] if any(COMPILE in row for row in rows) else []
    spec = [SPEC] if any(row.get(SPEC, row["sampler"]) != row["sampler"] for row in rows) else []
    columns = [*COLUMNS, *GUIDED_COLUMNS, *spec, *depth, *further, *CLOCK_COLUMNS, *compiled, *at_once, WARNING]
    return pd.DataFrame([{SPEC: row["sampler"], **row} for row in rows], columns=columns)


def rows_in(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dicts, with numbers and texts of Python."""
    names = [str(name) for name in table.columns]
    # All columns at once: pandas' own `to_dict` takes four times as long for the fifty columns of a run's table.
    return [dict(zip(names, row, strict=True)) for row in table.astype(object).to_numpy().tolist()]


def check_metric_names(names: Sequence[str]) -> None:
    """Refuse a metric whose columns would have the name of another column."""
    for name in names:
        own = (*COLUMNS, *GUIDED_COLUMNS, SPEC, DEPTH, *CLOCK_COLUMNS, COMPILE, WARNING)
        taken = [c for c in metric_columns(name) if (c in own or is_latency(c)) and name not in OWN_COLUMNS]
        if taken:
            raise InputError(f"metric {name!r}: the table has a column {taken[0]!r} of its own; register another name")


def _identity(plan: Plan, cell: Cell) -> dict[str, Any]:
    """The columns that say which cell a row is."""
    return {
        "model": plan.model.name, "sampler": cell.shown, SPEC: cell.sampler, "grid": cell.grid, "steps": cell.steps,
        "nfe": cell.nfe, "network_evaluations": cell.network_evaluations, "guidance": cell.request.guidance,
        "samples": 0, **guided_columns(cell.request.guidance_interval), WARNING: cell.warning or None,
    }  # fmt: skip


def guided_columns(interval: tuple[float, float] | None) -> dict[str, float]:
    """The columns of an interval of guidance; {} where there is none."""
    return dict(zip(GUIDED_COLUMNS, interval, strict=True)) if interval else {}


def _numbers(gathered: Gathered, samples: int) -> dict[str, Any]:
    """The columns of counts."""
    # Chunks of earlier versions say no depth; their samplers asked one thing after the other.
    timings = [(c.n, c.timing.nfe, c.timing.network_evaluations, c.timing.depth) for c in gathered.chunks]
    # Means over the samples: an adaptive sampler makes another number of calls in each block, and the last block may be
    # cut.
    counted = {
        "nfe": sum(n * nfe for n, nfe, _, _ in timings) / samples,
        "network_evaluations": sum(n * evaluations for n, _, evaluations, _ in timings) / samples,
        DEPTH: sum(n * (nfe if depth is None else depth) for n, nfe, _, depth in timings) / samples,
    }
    whole = {name: int(value) if float(value).is_integer() else value for name, value in counted.items()}
    return {**whole, "samples": samples}


def seconds_by_stage(table: pd.DataFrame, keys: Sequence[str]) -> dict[str, float]:
    """How long all cells together were in each stage, by what a reader calls it; stages that none has are left out.

    `keys` are those of the rows' cells: rows of one key have the same chunks, which count once.
    """
    table = table[~pd.Index(keys).duplicated()]
    known = {words: table[name].dropna() for name, words in STAGES.items() if name in table}
    return {words: float(seconds.sum()) for words, seconds in known.items() if len(seconds)}


def row_name(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The name of a row, with enough detail to tell it from the other."""
    name = str(row["sampler"])
    if row["grid"] != other["grid"]:
        name += f" on {row['grid']}"
    if row["guidance"] != other["guidance"]:
        name += f" at guidance {row['guidance']:g}"
    # At guidance 1 an interval has no effect, so it is no difference.
    if row["guidance"] != 1 and (interval := interval_of_row(row)) != interval_of_row(other):
        name += f" guided at sigma/alpha {interval}" if interval else " guided at all levels"
    return name if row["steps"] == other["steps"] else f"{name}, {row['steps']} steps"


def firsts_of_same(table: pd.DataFrame) -> list[int]:
    """For each row the place of the first row with its samples, from as many model calls: its own, or that of the row
    which `same_as` names."""
    rows = rows_in(table)
    found: list[int] = []
    for i, row in enumerate(rows):
        same = row["same_as"]
        before = range(i) if isinstance(same, str) else ()
        found.append(next((j for j in before if found[j] == j and is_named(rows[j], row, same)), i))
    return found


def is_named(first: Mapping[Any, Any], row: Mapping[Any, Any], name: str) -> bool:
    """Whether a row with the same samples as another names this one, and has as many model calls."""
    return bool(first["nfe"] == row["nfe"]) and row_name(first, row) == name


def interval_of_row(row: Mapping[Any, Any]) -> str:
    """ "0.2 to 5", the sigma / alpha with guidance; '' where all levels are guided, or the table does not say."""
    low, high = (row.get(name) for name in GUIDED_COLUMNS)
    return "" if low is None or high is None or math.isnan(low) else f"{low:g} to {high:g}"


def read_table(path: Path, record: RunRecord) -> pd.DataFrame:
    """The table of a run folder, whose run.json is `record`.

    It has a row for each cell of run.json: a cell that was added or edited since the table was written is pending.
    """
    try:
        # First that it is what was written, then that it holds a table, last that its rows are those of the run.
        content, keys = sealed_content(path)
        table = csv_to_frame(content)
        check_table(table)
        if len(table) != len(keys):
            raise ValueError(f"{len(table)} rows, and {len(keys)} were written")
        check_rows_of_cells(table, record, keys)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: the run has no table yet; {advice(path, 'give its command again to go on')}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{path / TABLE_FILE}: damaged ({error}); give the run's command again, which makes it from the chunks, or "
            f"put back a copy of {TABLE_FILE} and {TABLE_SEAL}"
        ) from error
    # The record may be newer than the table: a run that is going on writes run.json first.
    return with_names(with_pending_rows(table, record, keys), record)


class Sealed(msgspec.Struct, frozen=True):
    """A table that was written."""

    sha256: str
    """The hash of the bytes of table.csv."""
    cells: tuple[str, ...]
    """The key of each row's cell."""


class TableSeal(msgspec.Struct, frozen=True):
    """table.seal: the tables that table.csv may be. While it is being replaced, it is the old or the new one."""

    format: int
    tables: tuple[Sealed, ...]
    """The newest first."""


def write_sealed_table(folder: RunFolder, table: pd.DataFrame, keys: Sequence[str]) -> None:
    """Store table.csv with its seal, whose cells are `keys`.

    The seal is written first and covers both tables, the old and the new: a process that ends between the two writes
    leaves a sealed table.
    """
    content = frame_to_csv(table).encode()
    new = Sealed(hashlib.sha256(content).hexdigest(), tuple(keys))
    # A damaged table is not taken over into the new seal.
    tables: tuple[Sealed, ...] = (new,)
    with suppress(OSError, ValueError, RecursionError):
        before = sealed_table(folder.path, bytes_of(folder.path / TABLE_FILE))
        # Nothing to write, and a seal of two tables would name one twice.
        if before == new:
            return
        tables = (new, before)
    seal = TableSeal(FORMAT, tables)
    with disk_errors(folder.path):
        write_atomically(folder.path / TABLE_SEAL, seal_json(json.dumps(msgspec.to_builtins(seal))))
        write_atomically(folder.path / TABLE_FILE, content)


def sealed_content(path: Path) -> tuple[bytes, tuple[str, ...]]:
    """The bytes of table.csv and the keys of its rows; ValueError if it was changed."""
    for _ in range(2):  # a run may replace both files meanwhile
        content = bytes_of(path / TABLE_FILE)
        with suppress(ValueError):
            return content, sealed_table(path, content).cells
    content = bytes_of(path / TABLE_FILE)
    return content, sealed_table(path, content).cells


def sealed_table(path: Path, content: bytes) -> Sealed:
    """The entry of table.seal for a content of table.csv; ValueError if there is none."""
    try:
        seal = msgspec.convert(unseal_json(bytes_of(path / TABLE_SEAL)), TableSeal)
    except FileNotFoundError as error:
        raise ValueError(f"{TABLE_SEAL} is missing") from error
    if seal.format != FORMAT:
        raise ValueError(f"{TABLE_SEAL} is of format {seal.format}, and this version reads {FORMAT}")
    digest = hashlib.sha256(content).hexdigest()
    for table in seal.tables:
        if table.sha256 == digest:
            return table
    raise ValueError("its content is not what was written")


def with_pending_rows(table: pd.DataFrame, record: RunRecord, keys: Sequence[str]) -> pd.DataFrame:
    """The table with a row for each cell of a run; `keys` are those of its rows, some of outdated cells."""
    # Row i belongs to cell i while both have one key; an edited sampler has another key.
    current = [i < len(keys) and keys[i] == cell.key for i, cell in enumerate(record.cells)]
    if all(current) and len(table) == len(record.cells):
        return table
    rows = table.to_dict("records")
    all_rows = [rows[i] if current[i] else pending_row(record, i) for i in range(len(record.cells))]
    return pd.DataFrame(all_rows, columns=table.columns)


def with_names(table: pd.DataFrame, record: RunRecord) -> pd.DataFrame:
    """The table with the names that rows have now: they may be others than when it was written."""
    names = [cell.shown for cell in record.cells]
    if list(table["sampler"]) == names:
        return table
    rows = zip(record.cells, table.to_dict("records"), strict=True)
    return rows_to_table([
        {**{str(column): value for column, value in row.items()}, "sampler": cell.shown, SPEC: cell.sampler}
        for cell, row in rows
    ])  # fmt: skip


def pending_row(record: RunRecord, place: int) -> dict[str, Any]:
    """The row of a cell before its first chunk."""
    cell = record.cells[place]
    return {
        "model": record.model.name, "sampler": cell.shown, SPEC: cell.sampler, "grid": cell.grid, "steps": cell.steps,
        "nfe": cell.nfe, "guidance": record.guidance_of(cell), "samples": 0, "status": str(Status.PENDING),
        **(guided_columns(record.config.guidance_interval) if record.guidance_of(cell) != 1 else {}),
    }  # fmt: skip


def frame_to_csv(frame: pd.DataFrame) -> str:
    """Every digit; a text that a spreadsheet would take for a formula gets a ' in front."""
    safe = change_texts(frame, lambda text: f"'{text}" if FORMULA.match(text) else text)
    end = "\0\r\n"  # a field that holds a letter of it gets quotes, and a bare carriage return would end the line
    return safe.to_csv(index=False, lineterminator=end).replace(end, "\n")


def csv_to_frame(content: bytes) -> pd.DataFrame:
    """The table that `frame_to_csv` wrote: its texts to the letter, its numbers as numbers."""
    texts = dict.fromkeys(TEXTS, str)
    # Only an empty field is missing: "NA" or "nan" may be the name of a sampler.
    stored = pd.read_csv(io.BytesIO(content), dtype=texts, keep_default_na=False, na_values=[""])
    return change_texts(stored, lambda text: text[1:] if text[:1] == "'" and FORMULA.match(text) else text)


def change_texts(frame: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """The frame with every text and every heading changed, and all other values as they are."""
    changed = frame.copy()
    for name, column in frame.items():
        # Cell by cell, since a column of texts may also hold missing values.
        if not pd.api.types.is_numeric_dtype(column):
            values = [change(value) if isinstance(value, str) else value for value in column]
            changed[name] = pd.Series(values, frame.index, column.dtype)
    return changed.rename(columns=change)


def check_table(table: pd.DataFrame) -> None:
    """ValueError unless all columns are there and hold what they should: texts, or finite numbers in range."""
    missing = [name for name in COLUMNS if name not in table.columns]
    if table.empty or missing:
        raise ValueError(f"the column {missing[0]} is missing" if missing else "it has no row")
    for name in table.columns:
        if name not in TEXTS:
            check_numbers(name, table[name])
    for name in ("model", "sampler", "grid", "steps", "guidance", "samples", "status"):
        if table[name].isna().any():
            raise ValueError(f"a row has no {name}")
    for text in table["status"]:
        outcome_of(text)


def check_numbers(name: str, column: pd.Series[Any]) -> None:
    """ValueError unless a column holds numbers in its range, or nothing."""
    if not is_number(column):
        raise ValueError(f"{name}: expected numbers")
    # An empty field is a value that was not measured.
    values = column.to_numpy(dtype=float)
    values = values[~np.isnan(values)]
    least, most = COUNTS.get(name, -math.inf), MOST if name in COUNTS else math.inf
    wrong = ~np.isfinite(values) | (values < least) | (values > most)
    is_positive = name in POSITIVE or is_latency(name)
    if is_positive:
        wrong |= values <= 0
    if name in WHOLE:
        wrong |= values != np.floor(values)
    if wrong.any():
        kind = "a whole number" if name in WHOLE else "a finite number"
        above = " above 0" if is_positive else f" from {least}" if name in COUNTS else ""
        raise ValueError(f"{name} {values[wrong][0]:g}: expected {kind}{above}")


def is_number(column: pd.Series[Any]) -> bool:
    """Whether a column holds numbers, or nothing at all."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def check_rows_of_cells(table: pd.DataFrame, record: RunRecord, keys: Sequence[str]) -> None:
    """A ValueError where a row is not that of its cell; one whose cell was edited since is left out."""
    # By its spec: a row's name may be another by now.
    rows = table[[SPEC if SPEC in table else "sampler", "grid", "steps", "guidance"]].itertuples(index=False, name=None)
    for key, cell, row in zip(keys, record.cells, rows, strict=False):  # cells that were added have no row
        if key == cell.key and row != (cell.sampler, cell.grid, cell.steps, record.guidance_of(cell)):
            raise ValueError(f"the row {row[0]!r}, {row[1]}, {row[2]} steps is not that of its cell")

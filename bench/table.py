"""Rows -> the table: table.csv with every digit, table.md and the terminal with those that the interval supports."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from ..samplers.errors import InputError, StoreError
from . import timing
from .plan import Block, Cell, Plan
from .statistics import Gathered, Yardstick, estimates, gather, measured, metric_columns
from .store import Chunk, RunFolder, disk_errors, read_run, write_atomically
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
MARKDOWN_FILE = "table.md"
OWN_COLUMNS = ("fid", "clip_score")
"""The metrics that stand among the fixed columns."""
HEADINGS = {"fid": "FID", "clip_score": "CLIP score", "ode_error": "ODE error", "seconds_per_image": "s/image"}
TEXTS = ("model", "sampler", "grid", "same_as", "status", "timing")
OK = "ok"
MARK = "*"
Labels = Mapping[str, Mapping[str, str]]
"""For each metric its extractor's label and note, as run.json has them."""


REMEMBERED_BYTES = 1 << 28
"""How much of the chunks that were read is kept for the next table; further ones are read again."""


def table_for(
    plan: Plan, folder: RunFolder, ready: Mapping[str, Yardstick], failures: Mapping[str, str]
) -> pd.DataFrame:
    """One row a cell, from the blocks that every cell which did not fail has: equal n in every row.

    Before the first block is done, the rows are those of the cells that have it.
    """
    return GrowingTable(plan, folder, ready).table(failures)


@dataclass(frozen=True)
class Measured:
    """What is known of a cell from some of its chunks."""

    blocks: tuple[Block, ...]
    numbers: Mapping[str, Any]
    """The columns that were measured."""
    repeats: tuple[Repeat, ...]
    """What was clocked of them."""
    samples: bytes
    """The same for two cells with the same samples."""


class GrowingTable:
    """The table of a run as chunks come: what was read is not read again, and only cells with new chunks are measured
    again."""

    def __init__(self, plan: Plan, folder: RunFolder, ready: Mapping[str, Yardstick]) -> None:
        self._plan, self._folder, self._ready = plan, folder, ready
        self._chunks: dict[tuple[str, int], Chunk] = {}
        self._remembered = 0
        self._measured: dict[str, Measured] = {}

    def table(self, failures: Mapping[str, str]) -> pd.DataFrame:
        """`table_for` of what is there now."""
        plan, folder = self._plan, self._folder
        sound = [cell for cell in plan.cells if cell.key not in failures]
        blocks = tuple(b for b in plan.blocks if all(folder.has(cell, b) for cell in sound)) or plan.blocks[:1]
        rows = []
        seen: dict[bytes, Mapping[str, Any]] = {}
        for cell in plan.cells:
            row = {**dict.fromkeys(COLUMNS), **_identity(plan, cell)}
            if cell.key in failures:
                row["status"] = f"failed: {failures[cell.key]}"
            elif folder.has(cell, blocks[0]):
                known = self._measure(cell, blocks)
                row |= known.numbers
                row |= timing.timed([*known.repeats, *folder.repeats_of(cell.key)])
                row["status"] = OK if row["samples"] == plan.config.samples else "partial"
                first = seen.setdefault(known.samples, row)
                row["same_as"] = None if first is row else row_name(first, row)
            else:
                row["status"] = "pending"
            rows.append(row)
        return rows_to_table(rows)

    def _measure(self, cell: Cell, blocks: tuple[Block, ...]) -> Measured:
        """What these blocks of a cell say."""
        known = self._measured.get(cell.key)
        if known is None or known.blocks != blocks:
            samples = sum(block.n for block in blocks)
            gathered = gather((self._chunk(cell, block) for block in blocks), samples, self._ready)
            repeats = tuple(chunk.repeat for chunk in gathered.chunks)
            numbers = _numbers(gathered, samples, self._ready)
            known = self._measured[cell.key] = Measured(blocks, numbers, repeats, samples_hash(gathered.chunks))
        return known

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
    own = (*COLUMNS, *CLOCK_COLUMNS)
    further = dict.fromkeys(name for row in rows for name in row if name not in own)
    return pd.DataFrame(rows, columns=[*COLUMNS, *further, *CLOCK_COLUMNS])


def samples_hash(chunks: Sequence[Chunk]) -> bytes:
    """Hash of all samples of some chunks, in order."""
    return hashlib.sha256(b"".join(chunk.hashes.tobytes() for chunk in chunks)).digest()


def check_metric_names(names: Sequence[str]) -> None:
    """Refuse a metric whose columns would take another's name."""
    for name in names:
        taken = [c for c in metric_columns(name) if c in (*COLUMNS, *CLOCK_COLUMNS) and name not in OWN_COLUMNS]
        if taken:
            raise InputError(f"metric {name!r}: the table has a column {taken[0]!r} of its own; register another name")


def _identity(plan: Plan, cell: Cell) -> dict[str, Any]:
    """The columns that say which cell a row is."""
    return {
        "model": plan.model.name, "sampler": cell.sampler, "grid": cell.grid, "steps": cell.steps, "nfe": cell.nfe,
        "network_evaluations": cell.network_evaluations, "guidance": plan.config.guidance, "samples": 0,
    }  # fmt: skip


def _numbers(gathered: Gathered, samples: int, ready: Mapping[str, Yardstick]) -> dict[str, Any]:
    """The columns that were measured."""
    counted = {
        name: sum(getattr(chunk.timing, name) * chunk.n for chunk in gathered.chunks) / samples
        for name in ("nfe", "network_evaluations")
    }
    whole = {name: int(value) if float(value).is_integer() else value for name, value in counted.items()}
    return {**whole, "samples": samples, **measured(estimates(gathered, ready), ready)}


def row_name(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What to call a row, with as much as tells it from the other."""
    name = str(row["sampler"])
    if row["grid"] != other["grid"]:
        name += f" on {row['grid']}"
    if row["guidance"] != other["guidance"]:
        name += f" at guidance {row['guidance']:g}"
    return name if row["steps"] == other["steps"] else f"{name}, {row['steps']} steps"


def write_table(table: pd.DataFrame, folder: RunFolder, labels: Labels) -> None:
    """table.csv and table.md."""
    with disk_errors(folder.path):
        write_atomically(folder.path / TABLE_FILE, table.to_csv(index=False, lineterminator="\n").encode())
        write_atomically(folder.path / MARKDOWN_FILE, table_to_markdown(table, labels).encode())


def read_table(path: Path) -> tuple[pd.DataFrame, Labels]:
    """The table of a run folder and the labels of its extractors."""
    about = read_run(path)
    try:
        table = pd.read_csv(path / TABLE_FILE)
        check_table(table)
    except FileNotFoundError as error:
        raise InputError(f"{path}: the run has no table yet; give its command again to go on") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path / TABLE_FILE}: damaged ({error}); give the run's command again") from error
    return table, about.get("extractors", {})


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


def with_interval(value: float, low: float, high: float) -> str:
    """ "12.3 ± 0.4": the half-width with two digits, the value with as many decimals."""
    if not math.isfinite(value):
        return "-"
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return f"{value:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(half)))
    return f"{value:.{decimals}f} ± {half:.{decimals}f}"


def table_to_cells(table: pd.DataFrame, labels: Labels) -> tuple[list[str], list[list[str]]]:
    """Headings and texts as people read them; a column that says the same in every row of the default is left out."""
    shown = metrics_of(table)
    several = [name for name in ("grid", "guidance") if table[name].nunique() > 1]
    headings = ["sampler", *several, "steps", "NFE"]
    headings += [heading_of(name, labels) for name in shown]
    headings += ["ms/image", "ODE error", "note"]
    rows = []
    for row in table.to_dict("records"):
        texts = [row["sampler"], *(row[name] for name in several), f"{row['steps']}", _number(row["nfe"], "g")]
        texts += [with_interval(*(_float(row[c]) for c in metric_columns(name))) for name in shown]
        texts += [_milliseconds(row), _number(row["ode_error"], ".3g"), _note(row)]
        rows.append([str(text) for text in texts])
    return headings, rows


def metrics_of(table: pd.DataFrame) -> list[str]:
    """The metrics that have a number in some row."""
    metrics = [c for c in table.columns if metric_columns(c)[1] in table.columns and c not in timing.COLUMNS]
    return [name for name in metrics if table[name].notna().any()]


def heading_of(metric: str, labels: Labels) -> str:
    """A metric's name with the extractor that it was measured with; bare "FID" is Inception's alone."""
    name = HEADINGS.get(metric, metric)
    label = labels.get(metric, {}).get("label", "")
    return f"{name} [{label}]" if label else name


def table_to_markdown(table: pd.DataFrame, labels: Labels) -> str:
    """A Markdown table with a line on what the numbers are."""
    headings, rows = table_to_cells(table, labels)
    escaped = [[text.replace("\\", "\\\\").replace("|", "\\|") for text in row] for row in [headings, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    lines.insert(1, f"|{'|'.join([' --- '] + [' ---: '] * (len(headings) - 2) + [' --- '])}|")
    return "\n".join([*lines, "", caption(table, labels), ""])


def table_to_html(table: pd.DataFrame, labels: Labels) -> str:
    """The same cells as an HTML table, for a notebook."""
    headings, rows = table_to_cells(table, labels)
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>\n" for row in rows)
    about = f"<p>{escape(caption(table, labels))}</p>"
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n{about}\n"


def caption(table: pd.DataFrame, labels: Labels) -> str:
    """What the table shows, in one sentence or two."""
    first = table.iloc[0]
    text = f"{first['model']}, {int(table['samples'].max())} images a row"
    if first["guidance"] != 1 and table["guidance"].nunique() == 1:
        text += f", guidance {first['guidance']:g}"
    text += "; ± is the 95 % interval given the reference images; ms/image is the median over chunks"
    text += ", in brackets the quartiles" if table["seconds_low"].notna().any() else ""
    flags = _reasons(table)
    text += f"; {MARK} marks a time that is not to be relied on: {', '.join(flags)}." if flags else "."
    load = table["load_per_core"].median() if "load_per_core" in table else math.nan
    text += f" The machine was busy: a load of {load:.1f} per core." if load > timing.BUSY else ""
    notes = [f" {heading_of(name, {})}: {label['note']}." for name, label in labels.items() if label.get("note")]
    return text + "".join(notes)


def _milliseconds(row: Mapping[Any, Any]) -> str:
    """ "12.3 (12.1-12.6)*": median, quartiles where there are any, a mark where the time is not to be relied on."""
    median, low, high = (1000 * _float(row[c]) for c in metric_columns("seconds_per_image"))
    quartiles = f" ({low:.3g}-{high:.3g})" if math.isfinite(low) else ""
    return _number(median, ".3g") + quartiles + (MARK if is_doubtful(row.get("timing")) else "")


def _reasons(table: pd.DataFrame) -> list[str]:
    """What the mark means in this table."""
    doubtful = [flag for flag in table.get("timing", ()) if is_doubtful(flag)]
    flags = {reason for flag in doubtful for reason in flag.split("; ")}
    few = any("repeat" in reason for reason in flags)
    return [
        text
        for text, applies in (
            (f"fewer than {timing.LEAST_REPEATS} repeats", few),
            (f"quartiles more than {100 * timing.NOISY:.0f} % of the median apart", timing.NOISY_FLAG in flags),
            ("drawn on several machines", timing.MACHINES_FLAG in flags),
        )
        if applies
    ]


def is_doubtful(flag: object) -> bool:
    """Whether the column `timing` says that a time is not to be relied on; tables of earlier versions say nothing."""
    return isinstance(flag, str) and flag != timing.OK


def _note(row: Mapping[Any, Any]) -> str:
    same = row.get("same_as")
    parts = [f"same samples as {same}"] if isinstance(same, str) and same else []
    return "; ".join(parts if row["status"] == OK else [*parts, str(row["status"])])


def _float(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _number(value: object, form: str) -> str:
    number = _float(value)
    return format(number, form) if math.isfinite(number) else "-"

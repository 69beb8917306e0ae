"""Rows -> the table: table.csv with every digit, table.md and the terminal with those that the interval supports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from ..samplers.errors import InputError, StoreError
from .plan import Cell, Plan
from .statistics import Yardstick, estimates, measured, metric_columns, timed
from .store import Chunk, RunFolder, disk_errors, read_run, write_atomically

COLUMNS = (
    "model", "sampler", "grid", "steps", "nfe", "network_evaluations", "guidance", "samples",
    "fid", "fid_low", "fid_high", "clip_score", "clip_low", "clip_high",
    "seconds_per_image", "seconds_low", "seconds_high", "model_seconds_per_image", "overhead",
    "ode_error", "same_as", "status",
)  # fmt: skip
TABLE_FILE = "table.csv"
MARKDOWN_FILE = "table.md"
OWN_COLUMNS = ("fid", "clip_score")
"""The metrics that stand among the fixed columns."""
OK = "ok"
Labels = Mapping[str, Mapping[str, str]]
"""For each metric its extractor's label and note, as run.json has them."""


def table_for(
    plan: Plan, folder: RunFolder, ready: Mapping[str, Yardstick], failures: Mapping[str, str]
) -> pd.DataFrame:
    """One row a cell, from the blocks that every cell which did not fail has: equal n in every row.

    Before the first block is done, the rows are those of the cells that have it.
    """
    sound = [cell for cell in plan.cells if cell.key not in failures]
    blocks = [block for block in plan.blocks if all(folder.has(cell, block) for cell in sound)] or plan.blocks[:1]
    rows = []
    seen: dict[bytes, Mapping[str, Any]] = {}
    for cell in plan.cells:
        row = {**dict.fromkeys(COLUMNS), **_identity(plan, cell)}
        if cell.key in failures:
            row["status"] = f"failed: {failures[cell.key]}"
        elif folder.has(cell, blocks[0]):
            chunks = [folder.read(cell, block) for block in blocks]
            row |= _numbers(chunks, ready)
            row["status"] = OK if row["samples"] == plan.config.samples else "partial"
            samples = b"".join(chunk.hashes.tobytes() for chunk in chunks)
            row["same_as"] = _row_name(seen[samples], row) if samples in seen else None
            seen.setdefault(samples, row)
        else:
            row["status"] = "pending"
        rows.append(row)
    further = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    return pd.DataFrame(rows, columns=[*COLUMNS, *further])


def check_metric_names(names: Sequence[str]) -> None:
    """Refuse a metric whose columns would take another's name."""
    for name in names:
        taken = [c for c in metric_columns(name) if c in COLUMNS and name not in OWN_COLUMNS]
        if taken:
            raise InputError(f"metric {name!r}: the table has a column {taken[0]!r} of its own; register another name")


def _identity(plan: Plan, cell: Cell) -> dict[str, Any]:
    """The columns that say which cell a row is."""
    return {
        "model": plan.model.name, "sampler": cell.sampler, "grid": cell.grid, "steps": cell.steps, "nfe": cell.nfe,
        "network_evaluations": cell.network_evaluations, "guidance": plan.config.guidance, "samples": 0,
    }  # fmt: skip


def _numbers(chunks: Sequence[Chunk], ready: Mapping[str, Yardstick]) -> dict[str, Any]:
    """The columns that were measured."""
    samples = sum(chunk.n for chunk in chunks)
    counted = {
        name: sum(getattr(chunk.timing, name) * chunk.n for chunk in chunks) / samples
        for name in ("nfe", "network_evaluations")
    }
    whole = {name: int(value) if float(value).is_integer() else value for name, value in counted.items()}
    return {**whole, "samples": samples, **measured(estimates(chunks, ready), ready), **timed(chunks)}


def _row_name(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What to call a row, with as much as tells it from the other."""
    name = str(row["sampler"])
    if row["grid"] != other["grid"]:
        name += f" on {row['grid']}"
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
        if table.empty or not set(COLUMNS) <= set(table.columns):
            raise ValueError("columns or rows are missing")
    except FileNotFoundError as error:
        raise InputError(f"{path}: the run has no table yet; give its command again to go on") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path / TABLE_FILE}: damaged ({error}); give the run's command again") from error
    return table, about.get("extractors", {})


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
    metrics = [c for c in table.columns if metric_columns(c)[1] in table.columns and c != "seconds"]
    shown = [name for name in metrics if table[name].notna().any()]
    with_grid = table["grid"].nunique() > 1
    headings = ["sampler", *(["grid"] if with_grid else []), "steps", "NFE"]
    headings += [heading_of(name, labels) for name in shown]
    headings += ["ms/image", "ODE error", "note"]
    rows = []
    for row in table.to_dict("records"):
        texts = [row["sampler"], *([row["grid"]] if with_grid else []), f"{row['steps']}", _number(row["nfe"], "g")]
        texts += [with_interval(*(_float(row[c]) for c in metric_columns(name))) for name in shown]
        texts += [_number(_float(row["seconds_per_image"]) * 1000, ".3g"), _number(row["ode_error"], ".3g"), _note(row)]
        rows.append([str(text) for text in texts])
    return headings, rows


def heading_of(metric: str, labels: Labels) -> str:
    """A metric's name with the extractor that it was measured with; bare "FID" is Inception's alone."""
    name = {"fid": "FID", "clip_score": "CLIP score"}.get(metric, metric)
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
    text += f", guidance {first['guidance']:g}" if first["guidance"] != 1 else ""
    text += "; ± is the 95 % interval given the reference images; ms/image is the median over chunks."
    notes = [f" {heading_of(name, {})}: {label['note']}." for name, label in labels.items() if label.get("note")]
    return text + "".join(notes)


def _note(row: Mapping[Any, Any]) -> str:
    same = row.get("same_as")
    parts = [f"same samples as {same}"] if isinstance(same, str) and same else []
    return "; ".join(parts if row["status"] == OK else [*parts, str(row["status"])])


def _float(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _number(value: object, form: str) -> str:
    number = _float(value)
    return format(number, form) if math.isfinite(number) else "-"

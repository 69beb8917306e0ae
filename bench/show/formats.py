"""The forms of a table: Markdown, CSV, LaTeX, HTML, JSON, Parquet; with a row for each cell, or as a pivot."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ...samplers.errors import InputError, SamplerbenchError, StoreError, closest
from ...samplers.files.atomic import write_named
from ...samplers.registry import Registry
from ...samplers.text import printable
from ..judge.compare import SECONDS
from ..judge.looks import look_at
from ..judge.merge import Origin, merge, names_in
from ..judge.ranking import (
    Field,
    Race,
    Source,
    answers_to,
    clear_leaders,
    common_places,
    directions,
    estimates_of,
)
from ..judge.run_metrics import ready_metrics
from ..judge.seeds import over_seeds
from ..judge.statistics import ODE_DISTANCE, ODE_ERROR
from ..judge.stored import StoredRun
from ..judge.table import WARNING, Labels, frame_to_csv
from ..plan.yardstick import Yardstick
from .console import complain, table_to_json
from .latex import sheet_to_latex
from .over import over
from .pivot import Pivot, pivot_of
from .sheet import (
    NOTE,
    Column,
    Entry,
    Place,
    Sheet,
    column_of,
    has_interval,
    meaning_of_intervals,
    metrics_of,
    notes_of,
    notes_on,
    notes_on_names,
    of_seconds,
    sentences,
    sheet_of,
    sheet_to_markdown,
    too_few_for,
    what_was_drawn,
)

SHEETS, DATA = ("md", "latex", "html"), ("csv", "json", "parquet")
"""Forms for people, with no more digits than the intervals support; and for programs, with every digit."""
FORMATS = (*SHEETS, *DATA)


@dataclass(frozen=True)
class Content:
    """The table of one or several runs, with the origin of its rows."""

    table: pd.DataFrame
    labels: Labels
    origins: Sequence[Origin]
    """The origin of each row."""
    about: Mapping[str, Any]
    """The other entries of the JSON form."""
    notes: Sequence[str] = ()
    """What a reader must know, for the caption."""
    why_not_bold: str = ""
    """Why rows of this table are not compared, in a sentence for the caption; '' = they are."""

    @property
    def has_prompts(self) -> bool:
        """Whether any of the images was drawn for a prompt."""
        return any(run.record.prompts for run in {origin.run for origin in self.origins})


@dataclass(frozen=True)
class Layout:
    """How a table is laid out."""

    pivot: str = ""
    """A metric, for samplers down and step counts across; '' = a row for each cell."""
    sort: Sequence[str] = ()
    """Columns to sort by; "-name" sorts in descending order."""
    columns: Sequence[str] = ()
    """The columns to show, in this order; () = the default columns."""
    over: str = ""
    """An option of samplers, or guidance, that a pivot has across instead of step counts."""


@dataclass(frozen=True)
class Emphasis:
    """What stands out in a table."""

    bold: set[Place] = field(default_factory=set)
    why: str = ""
    """What bold means, or why nothing is bold: a sentence for the caption."""


def content_of(run: StoredRun) -> Content:
    """The table of a run."""
    origins = [Origin(run, place) for place in range(len(run.table))]
    notes = notes_on(run.record, len(run.table))
    return Content(run.table, run.labels, origins, {"folder": str(run.path)}, notes)


def merge_content(runs: Sequence[StoredRun]) -> Content:
    """One table of several runs. Raises InputError if they cannot be compared."""
    merged = merge(runs)
    # JSON has the notes of the merge alone: those on names are for people, who do not see the specs.
    about = {"folders": [str(run.path) for run in runs], "notes": list(merged.notes)}
    notes = (*notes_on_names(names_in(runs)), *merged.notes)
    return Content(merged.table, merged.labels, merged.origins, about, notes)


def content_over_seeds(runs: Sequence[StoredRun]) -> Content:
    """One table of runs that differ in their seed only. Raises InputError if they differ in more."""
    found = over_seeds(runs)
    about = {"folders": [str(run.path) for run in runs], "seeds": list(found.seeds), "notes": list(found.notes)}
    notes = (f"seeds: {', '.join(map(str, found.seeds))}", *notes_on_names(names_in(runs)), *found.notes)
    # A mean over seeds has no samples that could be paired with those of another row.
    why = " Nothing is bold: rows are compared within a run, with --compare."
    return Content(found.table, found.labels, found.origins, about, notes, why)


def with_notes(content: Content) -> Sheet:
    """The table as people read it, with its notes in the caption."""
    return sheet_for(content, Layout(), below=content.why_not_bold + sentences(content.notes))


# ---- What is bold ----


def emphasis_of(content: Content, metric: str, registry: Registry, columns: Sequence[str] = ()) -> Emphasis:
    """The best row of each step count (or budget), if it is shown to be better than all others there; '' = in each
    metric.

    The test uses paired differences on the same noise, corrected for all pairs of the table. If columns are chosen,
    only those can be bold.
    """
    if content.why_not_bold:
        return Emphasis(why=content.why_not_bold)
    if metric == SECONDS:
        return Emphasis(why=" Nothing is bold: seconds are compared side by side, with --compare.")
    # A cell that failed has a row without samples.
    drawn = [i for i, samples in enumerate(content.table["samples"]) if samples > 0]
    try:
        ready = ready_by_run(content, registry)
        sources = {i: Source(o.run, o.key, ready[o.run]) for i, o in enumerate(content.origins) if i in drawn}
        # The test must be on the samples that the table's numbers are made of.
        if sum(n for _, n in common_places(list(sources.values()))) != content.table["samples"].max():
            return Emphasis(why=" Nothing is bold: not all samples of the rows are there to compare.")
        found = estimates_of(sources)
    # A table without bold numbers still has its numbers: who prints it without the run's plugins gets them.
    except SamplerbenchError as error:
        complain(f"nothing is bold: {error}", kind="Note")
        return Emphasis(why=" Nothing is bold: what the rows are compared with is not there.")
    # The direction of a metric is the same in all runs, so any of them may say it.
    lower = {name: better for of_run in ready.values() for name, better in directions(of_run).items()}
    # Rows compete within one step count or budget, never across.
    lanes: dict[tuple[str, int], list[int]] = {}
    for i in found:
        lanes.setdefault((content.origins[i].across, content.origins[i].count), []).append(i)
    samples = int(content.table["samples"].max())
    # Of several runs the most looks count, which is the strictest correction.
    weight = max(look_at(run, samples).weight for run in dict.fromkeys(origin.run for origin in content.origins))
    field = Field({i: content.origins[i].key for i in found}, found, lower, weight)
    races = [
        Race(name, count, places)
        for name in ([metric] if metric else lower)
        for (_, count), lane in lanes.items()
        if (places := field.rows_with(name, lane))
    ]
    # All races are run whatever is shown: the correction must not depend on what a reader asks to see.
    best = {place for place in clear_leaders(answers_to(races, field)) if metric or not columns or place[1] in columns}
    within = "budget" if {origin.across for origin in content.origins} == {"nfe"} else "number of steps"
    means = f"the best for its {within}, where it is shown to differ from each of the others (paired, Holm 1979)"
    return Emphasis(best, f" Bold: {means}." if best else f" Nothing is bold: that would be {means}.")


def ready_by_run(content: Content, registry: Registry) -> dict[StoredRun, Mapping[str, Yardstick]]:
    """The metrics of each run, made ready again."""
    return {run: ready_metrics(run, registry) for run in dict.fromkeys(o.run for o in content.origins)}


# ---- Layout ----


def sheet_for(content: Content, layout: Layout, emphasis: Emphasis = Emphasis(), below: str = "") -> Sheet:
    """The table as people read it; `below` is added to its caption."""
    below = emphasis.why + below
    if layout.pivot:
        return pivot_to_sheet(content, layout, emphasis.bold, below)
    check_columns(layout.columns, [*content.table.columns, NOTE], "columns")
    return sheet_of(
        sort_rows(content.table, layout.sort), content.labels, layout.columns, emphasis.bold, below,
        has_prompts=content.has_prompts,
    )  # fmt: skip


def sheet_with_best(content: Content, layout: Layout, registry: Registry | None, below: str = "") -> Sheet:
    """The table as people read it, with what is shown to be the best in bold; without a registry nothing is bold."""
    # Made twice where something may be bold, which costs little beside reading all samples.
    sheet = sheet_for(content, layout, below=below)  # refuses what is not in the table, before any sample is read
    return (
        sheet_for(content, layout, emphasis_of(content, layout.pivot, registry, layout.columns), below)
        if registry
        else sheet
    )


def frame_for(content: Content, layout: Layout) -> pd.DataFrame:
    """The table as programs read it."""
    frame = pivot_for(content, layout).frame() if layout.pivot else content.table
    check_columns(layout.columns, frame.columns, "columns")
    ordered = sort_rows(frame, layout.sort)
    return ordered[list(layout.columns)] if layout.columns else ordered


def pivot_for(content: Content, layout: Layout) -> Pivot:
    """A metric of the table, with what the runs count by across, or an option."""
    table, metric = content.table, layout.pivot
    # What may stand in the fields: a number with an interval or quartiles.
    known = [*metrics_of(table), *(name for name in (ODE_ERROR, ODE_DISTANCE) if name in table), SECONDS]
    if metric not in known:
        raise InputError(f"pivot {metric!r}: not in the table{closest(metric, known)}; there are: {', '.join(known)}")
    if len({origin.across for origin in content.origins}) > 1:
        raise InputError("pivot: some runs were made with --steps, others with --nfe; expected one of them")
    if not layout.over:
        return pivot_of(table, metric, [origin.count for origin in content.origins])
    found = over(table, layout.over)
    # With an option across, the count has to tell the rows apart.
    rows = ("sampler", "nfe" if across_of(content) == "nfe" else "steps")
    return pivot_of(table.assign(sampler=found.samplers), metric, found.values, rows, but=(layout.over,))


def pivot_to_sheet(content: Content, layout: Layout, bold: set[Place], below: str) -> Sheet:
    """A pivot as people read it."""
    pivot = pivot_for(content, layout)
    counts = {pivot.text_of(count): count for count in pivot.counts}
    names = layout.columns or [*pivot.names, *counts]
    check_columns(layout.columns, [*pivot.names, *counts], "columns")
    across = across_of(content)

    def entry(row: int, name: str) -> Entry:
        if name not in counts:
            return pivot.label(row, name)
        # None where a sampler has no such count, and then it is not bold either.
        place = pivot.places[row].get(counts[name])
        return pivot.entry(row, counts[name], is_bold=(place, pivot.metric) in bold)

    def head(name: str) -> Column:
        if name not in counts:
            return column_of(name, content.labels)
        return Column(f"{layout.over} {name}" if layout.over else f"NFE {name}" if across == "nfe" else f"{name} steps")

    # Sorted by the numbers with all of their digits, not by their texts.
    rows = [[entry(int(row), name) for name in names] for row in sort_rows(pivot.frame(), layout.sort).index]
    return Sheet([head(name) for name in names], rows, printable(pivot_caption(content, pivot, layout.over) + below))


def across_of(content: Content) -> str:
    """What the runs count by, which a pivot has across: "steps" or "nfe"."""
    return content.origins[0].across


def pivot_caption(content: Content, pivot: Pivot, option: str = "") -> str:
    """What a pivot shows."""
    of_budgets = across_of(content) == "nfe"
    across = f"value of {option}" if option else "budget of model calls (NFE)" if of_budgets else "number of steps"
    heading = column_of(pivot.metric, content.labels).heading
    text = f"{heading} for each {across}; {what_was_drawn(content.table)} a field"
    rows = "" if of_budgets else cost_of_steps(content.table)
    rows += same_samples(content.table) + warnings_in(content.table)
    if pivot.metric == SECONDS:
        return f"{text}; {of_seconds(content.table)}{rows}"
    if pivot.metric == ODE_ERROR:
        return f"{text}; the root mean square distance to the converged solution of the ODE.{rows}"
    # A pivot shows one metric, so notes on others would puzzle.
    note = {name: label for name, label in content.labels.items() if name == pivot.metric}
    if has_interval(content.table, pivot.metric):
        text += "; " + meaning_of_intervals(content.table, [pivot.metric], note, has_prompts=content.has_prompts)
    return f"{text}.{rows}{notes_of(note)}{too_few_for(content.table, note)}"


def cost_of_steps(table: pd.DataFrame) -> str:
    """A sentence on the samplers whose model calls differ from their steps; '' if there are none."""
    # Equal steps invite readers to compare what may cost twice as much.
    others = table.loc[table["nfe"].notna() & (table["nfe"] != table["steps"]), "sampler"].unique()
    return f" Steps are not model calls for {', '.join(others)}." if len(others) else ""


def same_samples(table: pd.DataFrame) -> str:
    """A sentence for each sampler that has the same samples as another; '' if there are none."""
    pairs = dict.fromkeys((row["sampler"], row["same_as"]) for row in table.to_dict("records"))
    return "".join(f" {a} has the samples of {b}." for a, b in pairs if isinstance(b, str))


def warnings_in(table: pd.DataFrame) -> str:
    """A sentence for each cell with a warning about its levels; '' if there are none.

    Tables of earlier versions lack that column.
    """
    rows = [row for row in table.to_dict("records") if isinstance(row.get(WARNING), str)]
    return "".join(f" {row['sampler']}, {row['steps']} steps: {row[WARNING]}." for row in rows)


def sort_rows(table: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """The rows sorted by the named columns, "-name" in descending order; missing values come last."""
    names = [name.removeprefix("-") for name in order]
    check_columns(names, table.columns, "sort")
    ascending = [not name.startswith("-") for name in order]
    # Stable, so that rows that are equal here keep the order of the run.
    return table.sort_values(names, ascending=ascending, kind="stable") if names else table


def check_columns(names: Sequence[str], known: Sequence[str] | pd.Index[str], option: str) -> None:
    """Refuse a column that is missing from the table, or given twice."""
    for name in names:
        if name not in known:
            raise InputError(f"{option} {name!r}: no such column{closest(name, known)}; there are: {', '.join(known)}")
    if len(set(names)) < len(names):
        raise InputError(f"{option} {','.join(names)}: a column is given twice; expected each once")


def parse_columns(option: str, text: str | None) -> tuple[str, ...]:
    """ "fid,-nfe" -> ("fid", "-nfe")."""
    if text is None:
        return ()
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise InputError(f"{option} {text[:80]!r}: a name is empty; expected columns of the table, as in sampler,fid")
    return names


# ---- Sheet and frame -> what is passed on ----


def render(content: Content, layout: Layout, form: str, registry: Registry | None = None) -> bytes:
    """The table in one of FORMATS; in SHEETS, with a registry, rows that are shown to be the best are bold."""
    if form in DATA:
        # A program cannot tell from the numbers what the columns of a pivot count.
        pivot = {"pivot": layout.pivot, "across": layout.over or across_of(content)} if layout.pivot else {}
        return frame_to_bytes(frame_for(content, layout), form, {**content.about, **pivot})
    return sheet_to_text(sheet_with_best(content, layout, registry, sentences(content.notes)), form).encode()


def sheet_to_text(sheet: Sheet, form: str) -> str:
    """A sheet in one of SHEETS."""
    return {"md": sheet_to_markdown, "latex": sheet_to_latex, "html": sheet_to_html}[form](sheet)


def frame_to_bytes(frame: pd.DataFrame, form: str, about: Mapping[str, Any]) -> bytes:
    """A frame in one of DATA."""
    if form == "csv":
        return frame_to_csv(frame).encode()
    return f"{table_to_json(frame, dict(about))}\n".encode() if form == "json" else frame_to_parquet(frame)


def sheet_to_html(sheet: Sheet) -> str:
    """A table element; every text is escaped."""

    def cell(entry: Entry, column: Column) -> str:
        text = html.escape(entry.text)
        text = f"<strong>{text}</strong>" if entry.bold else text
        text += f" <small>{html.escape(entry.small)}</small>" if entry.small else ""
        return f"<td>{text}</td>" if column.is_text else f'<td align="right">{text}</td>'

    head = "".join(f'<th scope="col">{html.escape(column.heading)}</th>' for column in sheet.columns)
    body = [f"<tr>{''.join(map(cell, row, sheet.columns))}</tr>" for row in sheet.rows]
    return "\n".join([
        "<table>", f"<caption>{html.escape(sheet.caption)}</caption>", "<thead>", f"<tr>{head}</tr>", "</thead>",
        "<tbody>", *body, "</tbody>", "</table>", "",
    ])  # fmt: skip


def frame_to_parquet(frame: pd.DataFrame) -> bytes:
    """Every digit, with the types of the columns."""
    buffer = io.BytesIO()
    try:
        frame.to_parquet(buffer, engine="pyarrow", index=False)
    except ImportError as error:
        raise InputError("format 'parquet': pyarrow is missing; pip install 'samplerbench[parquet]'") from error
    return buffer.getvalue()


def write_output(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; a link stays a link."""
    try:
        write_named(path, content)
    except OSError as error:
        raise StoreError(f"output {path}: cannot be written ({error.strerror or error}); give another place") from error

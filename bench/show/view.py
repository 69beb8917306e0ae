"""A run folder -> the content of its report as plain values: answers, numbers, charts, pictures, provenance."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from ...samplers.errors import SamplerbenchError
from ...samplers.files.tiles import shrunk
from ...samplers.text import count_of, printable
from ..draw.paths import path_budget, read_path
from ..judge.compare import BETTER, SAME, WORSE
from ..judge.pareto import CLOSE, DOMINATED, ON_FRONT
from ..judge.ranking import Answer, Other, answers_for, clear_leaders, contestants
from ..judge.run_metrics import LoadMetrics
from ..judge.statistics import ODE_ERROR, metric_columns
from ..judge.stored import StoredRun
from ..judge.table import Labels, firsts_of_same, rows_in
from ..judge.verdict_files import fronts_of, read_answers
from .charts import AXES, COLOURS, DASHES, SHAPES, Axis, curves, curves_over, front, is_log, visible_interval
from .over import curves_in
from .provenance import call_of, provenance_of, summary_of
from .sheet import (
    caption,
    heading_of,
    is_doubtful,
    metrics_of,
    notes_on,
    sentences,
    short_heading_of,
    shown_columns,
    table_to_cells,
    with_interval,
)
from .sprites import sheets
from .verdicts import p_to_text

PICTURES = 16
"""The most images of a cell in a page."""
PATHS_CHARACTERS = 250_000
PATH_SIZES = ((8, 64), (8, 48), (8, 32), (8, 16))
CUT = 1.6
"""An interval on a logarithmic axis is cut at the least value over this."""
Row = dict[str, Any]


@dataclass(frozen=True)
class View:
    """The content of a page as plain values: texts that are safe to print, numbers, None for missing ones."""

    model: str
    summary: str
    """One sentence on what was drawn."""
    metrics: list[Row]
    """key, name, heading, better, note, headline, answers, behind."""
    series: list[Row]
    """For each sampler: name, colour, shape, dash."""
    rows: list[Row]
    """For each cell, the values that the charts read: numbers as in table.csv."""
    axes: list[Row]
    """Costs, and options of samplers that are given in several values."""
    charts: dict[str, Any]
    """The charts by metric and axis; "front" is quality against time."""
    headings: list[str]
    texts: list[list[str]]
    """The table as in table.md."""
    bold: list[list[int]]
    """For each row of the table the columns in which it is shown to be the best."""
    caption: str
    unfinished: list[Row]
    """Cells that are not whole: name, status."""
    budgets: list[str]
    pictures: list[Row]
    """For each sheet: row, series, budget, name, uri, width, height, images."""
    first_budget: int
    paths: list[Row]
    paths_budget: str
    provenance: list[tuple[str, str]]
    prompts: list[str]
    command: str
    """The command that made the run; "" if it was made from Python."""
    call: str
    """For a run from Python, the call that makes it again."""


def view_of(run: StoredRun, metrics: LoadMetrics | None = None) -> View:
    """The content of the page of a run; verdicts that its folder lacks are computed, if its metrics are given."""
    record, table, labels = run.record, run.table, run.labels
    # The costly part, which the folder may hold.
    answers = answers_of(run, metrics)
    series = contestants(dict(enumerate(rows_in(table))))
    names = list(dict.fromkeys(series.values()))
    rows = chart_rows(table, labels, series)
    options = add_options(table, rows)
    found = [
        metric_view(i, name, run, [a for a in answers or [] if a.metric == name], rows)
        for i, name in enumerate(metrics_with_ode(table))
    ]
    fronts = fronts_of(run, metrics_with_ode(table), metrics)
    best = clear_leaders(answers or [])
    for metric, name in zip(found, metrics_with_ode(table), strict=True):
        metric["behind"] = mark_front(metric, rows, fronts.get(name))
        for row in rows:
            row[f"{metric['key']}_shown"] = (row["row"], name) in best
    headings, texts = table_to_cells(table, labels)
    columns = shown_columns(table)
    kind, counts = ("calls" if record.config.nfe else "steps"), record.config.counts
    shown_first = path_budget(counts)
    content = View(
        model=str(table.iloc[0]["model"]),
        summary=summary_of(table, table["sampler"].nunique()),
        metrics=found,
        series=[series_view(i, name) for i, name in enumerate(names)],
        rows=rows,
        axes=[asdict(axis) for axis in (*AXES, *options) if len({row[axis.field] for row in rows} - {None}) > 0],
        charts={m["key"]: charts_of(m, rows, len(names), options) for m in found},
        headings=headings,
        texts=texts,
        bold=[[columns.index(name) for row, name in best if row == i and name in columns] for i in range(len(table))],
        caption=caption_of(run, best),
        unfinished=[
            {"name": row["cell"], "status": row["status"]}
            for row, outcome in zip(rows, run.outcomes, strict=True)
            if not outcome.is_whole
        ],
        budgets=[f"{count} {kind if count > 1 else kind[:-1]}" for count in counts],
        pictures=pictures_of(run, rows),
        first_budget=counts.index(shown_first),
        paths=paths_of(run, rows),
        paths_budget=f"{shown_first} {kind}",
        provenance=provenance_of(run),
        prompts=list(record.config.prompts or ()),
        command="\n".join(record.commands),
        call="" if record.command else call_of(record),
    )
    # Names come from plugins and run folders of strangers, so every text is cleaned, at one place.
    return View(**clean(vars(content)))


def caption_of(run: StoredRun, best: Collection[tuple[int, str]]) -> str:
    """What stands below the table: its caption, the notes of the run, and what is bold."""
    notes = sentences(notes_on(run.record, len(run.table)))
    return caption(run.table, run.labels, has_prompts=bool(run.record.prompts)) + notes + meaning_of_bold(best)


def meaning_of_bold(best: Collection[tuple[int, str]]) -> str:
    """A sentence for the caption; '' where nothing is bold."""
    means = "the best within its budget of model calls, where it is shown to differ from each of the others"
    return f" Bold: {means} (paired, Holm 1979)." if best else ""


def answers_of(run: StoredRun, metrics: LoadMetrics | None) -> list[Answer] | None:
    """The answers from the folder, or from its chunks and metrics; None if neither is possible."""
    # None also where those in the folder are of the run as it was before it was extended.
    there = read_answers(run)
    # Without metrics the page shows what the folder has; it neither loads a model nor runs a plugin.
    if there is not None or metrics is None:
        return there
    try:
        return answers_for(run, metrics()) or None
    except SamplerbenchError:
        return None


def metrics_with_ode(table: pd.DataFrame) -> list[str]:
    """The metrics that have a number, and the ODE error if it has one."""
    return [*metrics_of(table), *([ODE_ERROR] if table[ODE_ERROR].notna().any() else [])]


def series_view(i: int, name: str) -> Row:
    """A sampler with its mark in the charts."""
    # The page draws its own legend as SVG, so it needs the marks that Vega gives to the series.
    dash = DASHES[(i // COLOURS) % len(DASHES)] if i >= COLOURS else []
    return {
        "name": name, "colour": i % COLOURS, "shape": SHAPES[i % len(SHAPES)], "dash": " ".join(map(str, dash))
    }  # fmt: skip


def chart_rows(table: pd.DataFrame, labels: Labels, series: Mapping[int, str]) -> list[Row]:
    """A dict a row of the table; metric number i is m<i>, with m<i>_low, _high, and m<i>_from, _to as drawn."""
    metrics, names = metrics_with_ode(table), list(dict.fromkeys(series.values()))
    rows = []
    records, firsts = rows_in(table), firsts_of_same(table)
    for i, cell in enumerate(records):
        name = series[i]
        # Rows with the same samples are one method: what their times differ by is noise, so they share one.
        clocked = records[firsts[i]]
        row: Row = {
            # Numbers and no names in what expressions compare: names come from plugins.
            "row": i, "series": names.index(name), "short": name,
            "label": f"{name}, {cell['steps']}", "cell": f"{name}, {effort_of(cell)}",
            "counts": effort_of(cell), "steps": cell["steps"], "nfe": number(cell["nfe"]),
            "milliseconds": scale(clocked["seconds_per_image"], 1000), "status": str(cell["status"]),
            "doubtful": is_doubtful(clocked.get("timing")), "first": firsts[i],
            "same": [series[j] for j, first in enumerate(firsts) if first == i != j],
        }  # fmt: skip
        # One mark, one name: the others are said behind the first.
        row["label"] = "" if firsts[i] != i else " = ".join([row["label"], *row["same"]])
        for j, metric in enumerate(metrics):
            low, high = metric_columns(metric)[1:]
            row |= {f"m{j}": number(cell[metric]), f"m{j}_low": number(cell.get(low)),
                    f"m{j}_high": number(cell.get(high))}  # fmt: skip
            # The text that the table has, so that page and table.md never differ in a digit.
            row[f"m{j}_text"] = with_interval(*(_nan(row[f"m{j}{end}"]) for end in ("", "_low", "_high")))
        row["tip"] = tip_of(row, [heading_of_metric(metric, labels) for metric in metrics])
        rows.append(row)
    for j in range(len(metrics)):
        # When all rows are there: where the axis is cut depends on the least value.
        add_visible_intervals(f"m{j}", rows)
    return rows


def add_options(table: pd.DataFrame, rows: Sequence[Row]) -> list[Axis]:
    """Add o<i>, the value of an option, and g<i>, the curve that the row is a point of; returns the options' axes."""
    axes = []
    # A row that belongs to no curve has None, which the chart leaves out.
    for i, (one, groups) in enumerate(curves_in(table)):
        for row, value, group in zip(rows, one.values, groups, strict=True):
            row |= {f"o{i}": value, f"g{i}": group}
        axes.append(Axis(f"o{i}", one.option, f"g{i}", tuple(dict.fromkeys(filter(None, groups)))))
    return axes


def add_visible_intervals(key: str, rows: Sequence[Row]) -> None:
    """Add m<i>_from and m<i>_to: the interval, cut to a logarithmic axis."""
    values = [row[key] for row in rows if row[key] is not None]
    # On a logarithmic axis an interval that reaches zero would stretch the chart without end.
    least = min(values) / CUT if is_log(key, rows) else math.nan
    for row in rows:
        if row[key] is not None:
            ends = visible_interval(row[key], row[f"{key}_low"], row[f"{key}_high"], least)
            row[f"{key}_from"], row[f"{key}_to"] = ends


def effort_of(cell: Mapping[Any, Any]) -> str:
    """ "10 steps, 19 calls"."""
    nfe = number(cell["nfe"])
    calls = "adaptive" if nfe is None else f"{nfe:.4g} {'call' if nfe == 1 else 'calls'}"
    return f"{count_of(int(cell['steps']), 'step')}, {calls}"


def tip_of(row: Row, headings: Sequence[str]) -> str:
    """The lines of the tooltip of a point."""
    lines = [row["short"], row["counts"]]
    if row["milliseconds"] is not None:
        lines.append(f"{row['milliseconds']:.4g} ms an image")
    for j, heading in enumerate(headings):
        if row[f"m{j}"] is not None:
            ends = row[f"m{j}_low"], row[f"m{j}_high"]
            interval = "" if None in ends else f"  ({ends[0]:.5g} to {ends[1]:.5g})"
            lines.append(f"{heading}: {row[f'm{j}']:.5g}{interval}")
    return "\n".join(lines)


def heading_of_metric(metric: str, labels: Labels) -> str:
    """The heading of a metric, as in the table."""
    return "ODE error" if metric == ODE_ERROR else heading_of(metric, labels)


def metric_view(number_: int, name: str, run: StoredRun, answers: Sequence[Answer], rows: Sequence[Row]) -> Row:
    """A metric with its answers as people read them."""
    labels = run.labels
    key = f"m{number_}"
    # A page without answers still has the metric's chart and its column.
    views = [answer_view(answer, key, rows) for answer in answers]
    short, by = short_heading_of(name, labels), compared_heading(name, run)
    return {
        "key": key, "name": short, "heading": heading_of_metric(name, labels),
        "note": labels.get(name, {}).get("note", ""),
        "difference": by if by != short else "",
        # The ODE error is a distance, whatever else is known; the direction of a metric is known from its answers only.
        "better": "lower" if name == ODE_ERROR else answers[0].better if answers else None,
        "answers": views, "headline": headline(by, views, answers[0].better) if answers else "",
    }  # fmt: skip


def compared_heading(metric: str, run: StoredRun) -> str:
    """What rows are ranked and compared by: the metric without bias where that was measured, else the metric itself."""
    # Runs of earlier versions do not say which metric that is.
    other = run.labels.get(metric, {}).get("unbiased", f"{metric}_unbiased")
    return short_heading_of(other if other in metrics_of(run.table) else metric, run.labels)


def headline(name: str, answers: Sequence[Row], better: str) -> str:
    """Which samplers lead at which budgets, and where that is shown, in two sentences."""
    # By leader, because one sampler often leads at several budgets.
    leaders: dict[str, list[str]] = {}
    for answer in answers:
        leaders.setdefault(answer["best"]["name"], []).append(str(answer["budget"]))
    text = "; ".join(f"{leader} at {join_words(budgets)}" for leader, budgets in leaders.items())
    text = (
        f"{'Lowest' if better == 'lower' else 'Highest'} {name}: {text} {'call' if text.endswith(' 1') else 'calls'}."
    )
    # A budget with a single sampler, or with equal ones, has no second to be told from.
    raced = [answer for answer in answers if answer["second"]]
    shown = [str(answer["budget"]) for answer in raced if answer["second"]["verdict"] == "shown"]
    if not raced:
        return text
    if len(shown) in (0, len(answers)):
        return f"{text} At {'every' if shown else 'no'} budget is the best told apart from the second."
    return f"{text} Only at {join_words(shown)} calls is the best told apart from the second."


def join_words(words: Sequence[str]) -> str:
    """ "5, 8 and 10"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def answer_view(answer: Answer, key: str, rows: Sequence[Row]) -> Row:
    """The best at a budget, the second, and all others against the best."""
    sign = -1 if answer.better == "lower" else 1

    def turn(value: float | None) -> float:
        return sign * _nan(value) + 0.0  # 0 has no sign

    def against(other: Other) -> Row:
        # Turned so that a positive number says how far the other is behind; the ends of the interval then change
        # places.
        ahead = sorted(turn(end) for end in (other.low, other.high))
        apart = other.verdict in (BETTER, WORSE)
        return {
            **_reference_to(rows[other.row], key),
            "behind": with_interval(turn(other.difference), *ahead),
            "p": "-" if other.verdict == SAME else p_to_text(other.p),
            "verdict": "same samples" if other.verdict == SAME else "shown" if apart else "not shown",
        }

    # The second is the first whose samples differ: a sampler that equals the best is not worse than it.
    others = [against(other) for other in answer.others]
    different = [other for other in others if other["verdict"] != SAME]
    return {
        "budget": answer.budget,
        "best": _reference_to(rows[answer.best], key),
        "second": different[0] if different else None,
        "others": others,
        "same": [other["name"] for other in others if other["verdict"] == SAME],
        "not_apart": [other["name"] for other in different if other["verdict"] == "not shown"],
    }


def _reference_to(row: Row, key: str) -> Row:
    # The page finds colour and mark by the number of the series.
    return {"row": row["row"], "name": row["short"], "series": row["series"], "counts": row["counts"],
            "value": row[f"{key}_text"]}  # fmt: skip


def mark_front(metric: Row, rows: Sequence[Row], verdicts: Sequence[str] | None) -> str:
    """Add m<i>_front: whether a row is on the front; returns a sentence on the others, "" if there is nothing to say.

    The verdicts of `pareto` decide, which say what is shown; without them, the plain numbers.
    """
    key = metric["key"]
    if verdicts is None:
        mark_by_numbers(metric, rows)
        return doubt_in_times(key, rows).strip()
    # Rows that are merely not told apart from the front are not on it, but counted in the sentence.
    for row, verdict in zip(rows, verdicts, strict=True):
        row[f"{key}_front"] = verdict == ON_FRONT
    close, dominated = (sum(verdict == kind for verdict in verdicts) for kind in (CLOSE, DOMINATED))
    found = f"Of the others, {close} not told apart from the front and {dominated} shown to be dominated."
    return found + doubt_in_times(key, rows)


def doubt_in_times(key: str, rows: Sequence[Row]) -> str:
    """A sentence on the times that are not reliable: whether the front, which is then grey, rests on them; else ''."""
    # Equal rows share one time, which counts once.
    timed = [row for row in rows if row["first"] == row["row"] and row["milliseconds"] is not None]
    on_front = [row["doubtful"] for row in timed if row.get(f"{key}_front")]
    if any(on_front):
        return f" The front is grey: {sum(on_front)} of its {count_of(len(on_front), 'time')} cannot be relied on."
    doubtful = sum(row["doubtful"] for row in timed)
    return f" {doubtful} of the {len(timed)} times, none of them on the front, cannot be relied on." if doubtful else ""


def mark_by_numbers(metric: Row, rows: Sequence[Row]) -> None:
    """Add m<i>_front: whether no row is at least as good in both metric and time, and better in one."""
    key, sign = metric["key"], -1 if metric["better"] == "higher" else 1
    # Without a direction there is no front.
    timed = [row for row in rows if metric["better"] and row[key] is not None and row["milliseconds"] is not None]
    places = [(sign * row[key], row["milliseconds"]) for row in timed]
    for row, mine in zip(timed, places, strict=True):
        # Rows that are equal in both do not beat each other: either all or none of them are on the front.
        row[f"{key}_front"] = not any(o != mine and o[0] <= mine[0] and o[1] <= mine[1] for o in places)


def charts_of(metric: Row, rows: Sequence[Row], series: int, options: Sequence[Axis] = ()) -> Row:
    """The charts of a metric by the name of their axis."""
    key, heading = metric["key"], printable(metric["heading"])
    charts = {axis.field: curves(key, heading, axis, rows, series) for axis in AXES}
    charts |= {axis.field: curves_over(key, heading, axis, rows) for axis in options}
    # Without a direction nothing can be called better, so there is no front.
    return charts | ({"front": front(key, heading, rows, series)} if metric["better"] else {})


def pictures_of(run: StoredRun, rows: Sequence[Row]) -> list[Row]:
    """A sheet of the first samples of each cell that has images, and the reason of each cell that failed."""
    images = {}
    for i, cell in enumerate(run.record.cells):
        first = run.first_chunk(cell)
        if first is not None and first.images is not None:
            # Shrunk at once: the images of all cells at full size might not fit in memory.
            images[i] = shrunk(first.images[:PICTURES])
    # All sheets together share the budget of the page.
    made = sheets(images)
    return [
        {"row": row["row"], "series": row["series"], "budget": run.record.places[row["row"]], "name": row["short"],
         "cell": row["cell"], "counts": row["counts"], "status": row["status"],
         "sheet": asdict(made[row["row"]]) if row["row"] in made else None}
        for row in rows
    # No part for pictures where no cell has any.
    ] if made else []  # fmt: skip


def paths_of(run: StoredRun, rows: Sequence[Row]) -> list[Row]:
    """A strip of states of each sampler whose path is stored."""
    # Only some cells have a path: they are drawn at one budget.
    stored = {i: path for i, cell in enumerate(run.record.cells) if (path := read_path(run.folder, cell.key))}
    made = sheets({i: path.images for i, path in stored.items()}, PATH_SIZES, PATHS_CHARACTERS)
    return [
        {
            "name": rows[i]["short"],
            "series": rows[i]["series"],
            "counts": rows[i]["counts"],
            "sheet": asdict(made[i]),
            "noise": [f"{100 * share:.0f} %" for share in path.noise],
        }
        for i, path in stored.items()
    ]


def number(value: object) -> float | int | None:
    """A finite number, else None."""
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def scale(value: object, factor: float) -> float | None:
    """A finite number times a factor, else None."""
    finite = number(value)
    return None if finite is None else finite * factor


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def clean(value: Any) -> Any:
    """A JSON value without characters in its texts that reorder or hide text; line breaks stay."""
    if isinstance(value, str):
        return value if value.isprintable() else "\n".join(map(printable, value.split("\n")))
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    # Lists stay lists and tuples stay tuples: dataclasses are made of them again.
    return type(value)(map(clean, value)) if isinstance(value, (list, tuple)) else value

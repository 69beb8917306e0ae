"""Rows -> charts, as Vega-Lite specifications: a metric against cost, and the front of quality against time.

Every chart reads the data set "rows" and two parameters: "hidden", the series that are switched off, and "lifted", the
highlighted one. Series and metrics are referred to by number, so that no plugin's name is part of an expression.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..plan.surroundings import docstrings_kept

with docstrings_kept("altair"):
    import altair as alt

ROWS = "rows"
COLOURS = 7
"""The number of colours; they are --c0 ... in report.css (Okabe and Ito 2008)."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
DASHES: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 2])
LOG_FROM = 10
"""A metric whose values span at least this factor has a logarithmic axis."""
MOST_TICKS = 16
HEIGHT = 380
INK, GREY = "var(--ink)", "var(--faint)"
"""The colours of a front, by whether its times are reliable."""
Chart = dict[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """A cost that a chart can be drawn against."""

    field: str
    title: str
    group: str = ""
    """For an option: the field that says which curve a row is a point of."""
    names: tuple[str, ...] = ()
    """The curves."""


AXES = (
    Axis("nfe", "model calls (NFE)"),
    Axis("steps", "steps"),
    Axis("milliseconds", "milliseconds an image"),
)


def curves(metric: str, heading: str, axis: Axis, rows: Sequence[Row], series: int) -> Chart:
    """A line for each series, with its interval as a band, and its points, each with its own text."""
    description = f"{heading} against {axis.title}"
    return chart_on_axis(curve_layers(series), metric, axis, rows, title=heading, description=description)


def front(metric: str, heading: str, rows: Sequence[Row], series: int) -> Chart:
    """Each row's metric against its time; rows that no other beats in both are on a stepped line, with their names.

    The line is grey where a time on it is not reliable.
    """
    description = f"{heading} against time an image"
    ink = GREY if any(row.get(f"{metric}_front") and row["doubtful"] for row in rows) else INK
    return chart_on_axis(front_layers(series, ink), metric, AXES[-1], rows, title=heading, description=description)


def curves_over(metric: str, heading: str, axis: Axis, rows: Sequence[Row]) -> Chart:
    """A metric against an option of samplers: a line for each curve of the axis."""
    description = f"{heading} against {axis.title}"
    layers = over_layers(len(axis.names))
    chart = chart_on_axis(layers, metric, axis, rows, title=heading, description=description)
    chart["transform"].append({"calculate": f"datum.{axis.group}", "as": "group"})
    for layer in chart["layer"]:
        # The names are data of the scale: no text of a plugin is part of an expression.
        layer["encoding"]["color"]["scale"]["domain"] = list(axis.names)
    return chart


def chart_on_axis(  # noqa: PLR0913  (what a chart is of, each by name)
    layers: Chart, metric: str, axis: Axis, rows: Sequence[Row], *, title: str, description: str
) -> Chart:
    """A chart of a metric against an axis, from layers that read x, y, from, to and best."""
    columns = {
        "x": axis.field, "y": metric, "from": f"{metric}_from", "to": f"{metric}_to", "best": f"{metric}_front",
        "shown": f"{metric}_shown",
    }  # fmt: skip
    # The layers are cached by the number of series, since altair takes long to make them; only these entries differ.
    # Through a text: several times as fast as `deepcopy`, and there are four charts of each metric.
    chart: Chart = json.loads(json.dumps(layers))
    chart["description"] = description
    chart["transform"] = [{"calculate": f"datum.{column}", "as": name} for name, column in columns.items()]
    for layer in chart["layer"]:
        layer["encoding"]["x"] |= {"title": axis.title, "axis": x_axis(axis, rows)}
        layer["encoding"]["y"] |= {"title": title, "axis": y_axis(metric, rows), "scale": y_scale(metric, rows)}
    return chart


@lru_cache
def curve_layers(series: int) -> Chart:
    """Bands, lines and points, with a ring around those that are shown to be the best."""
    x, y = log_x(padding=12), alt.Y("y:Q")
    colour = colour_of(series)
    base = alt.Chart().transform_filter("isValid(datum.x) && isValid(datum.y)")
    base = base.transform_filter("indexof(hidden, datum.series) < 0")
    band = base.mark_area(clip=True, aria=False).encode(
        x=x, y=alt.Y("from:Q"), y2="to:Q", color=colour, opacity=opacity("lifted < 0 ? 0.1 : 0.25", 0.02)
    )
    dash = alt.StrokeDash("series:N", legend=None, scale=alt.Scale(domain=list(range(series)), range=dashes(series)))
    line = base.mark_line(strokeWidth=1.75, aria=False).encode(
        x=x, y=y, color=colour, strokeDash=dash, opacity=opacity("1")
    )
    ring = base.mark_point(size=190, strokeWidth=1.25, color=INK, aria=False)
    # Not by a filter: a layer without a row has no extent, which Vega warns of.
    is_shown = alt.condition("datum.shown", alt.value(1), alt.value(0))
    return finish(band, line, ring.encode(x=x, y=y, opacity=is_shown), *points(base, x, y, series))


@lru_cache
def over_layers(curves: int) -> Chart:
    """Bands, lines and points of curves over an option, whose values may be 0; with a legend of its own."""
    x, y = alt.X("x:Q", scale=alt.Scale(zero=False, nice=False, padding=18)), alt.Y("y:Q")
    base = alt.Chart().transform_filter("isValid(datum.x) && isValid(datum.y) && isValid(datum.group)")
    base = base.transform_filter("indexof(hidden, datum.series) < 0")
    scale = alt.Scale(domain=list(range(curves)), range=[f"var(--c{i % COLOURS})" for i in range(curves)])
    legend = alt.Legend(title=None, orient="bottom", columns=2, labelColor=INK, labelLimit=320, symbolOpacity=1)
    colour = alt.Color("group:N", scale=scale, legend=legend)
    band = base.mark_area(clip=True, aria=False, opacity=0.15).encode(x=x, y=alt.Y("from:Q"), y2="to:Q", color=colour)
    line = base.mark_line(strokeWidth=1.75, aria=False).encode(x=x, y=y, color=colour)
    seen = base.mark_point(filled=True, size=62, opacity=1, aria=False).encode(x=x, y=y, color=colour)
    touched = base.mark_point(filled=True, size=420, opacity=0, aria=False)
    return finish(band, line, seen, touched.encode(x=x, y=y, color=colour, tooltip="tip:N"))


@lru_cache
def front_layers(series: int, ink: str) -> Chart:
    """The stepped line with its intervals, points, and the names of those on it."""
    x, y = log_x(padding=18), alt.Y("y:Q")
    base = alt.Chart().transform_filter("isValid(datum.x) && isValid(datum.y)")
    best = base.transform_filter("datum.best")
    # Steps, not slopes: between two points of the front nothing is known, and the better one costs its whole time.
    line = best.mark_line(interpolate="step-after", strokeWidth=1.25, color=ink, aria=False).encode(x=x, y=y)
    rule = best.mark_rule(strokeWidth=1.25, color=ink, aria=False).encode(x=x, y=alt.Y("from:Q"), y2="to:Q")
    shown = base.transform_filter("indexof(hidden, datum.series) < 0")
    marks = points(shown, x, y, series, faint="!datum.best")
    names = [
        best.mark_text(align="left", baseline="bottom", dx=7, dy=-5, fontSize=12, aria=False, **style).encode(
            x=x, y=y, text="label:N"
        )
        for style in ({"stroke": "var(--paper)", "strokeWidth": 4}, {"color": ink})  # a halo, then the name
    ]
    return finish(line, rule, *marks, *names)


def points(base: alt.Chart, x: alt.X, y: alt.Y, series: int, faint: str = "false") -> tuple[alt.Chart, alt.Chart]:
    """Marks that differ in colour and shape, and over each a larger, invisible one to point at.

    They are faint where the expression `faint` holds.
    """
    shapes = [SHAPES[i % len(SHAPES)] for i in range(series)]
    shape = alt.Shape("series:N", legend=None, scale=alt.Scale(domain=list(range(series)), range=shapes))
    seen = base.mark_point(filled=True, size=62, aria=False).encode(
        x=x, y=y, color=colour_of(series), shape=shape, opacity=opacity(f"{faint} ? 0.45 : 1")
    )
    # A small mark is hard to hit, so a larger one answers for it.
    touched = base.mark_point(filled=True, size=420, opacity=0, aria=False).encode(x=x, y=y, tooltip="tip:N")
    return seen, touched


def finish(*layers: alt.Chart) -> Chart:
    """The layers as one specification that fills its container."""
    chart = alt.layer(*layers, data=alt.NamedData(ROWS)).properties(width="container", height=HEIGHT)
    chart = chart.add_params(alt.param(name="hidden", value=[]), alt.param(name="lifted", value=-1))
    # Validation against the schema would take most of the time.
    made: Chart = chart.to_dict(validate=False)
    return made


def colour_of(series: int) -> alt.Color:
    """The colours of the page's style, in turn."""
    colours = [f"var(--c{i % COLOURS})" for i in range(series)]
    return alt.Color("series:N", legend=None, scale=alt.Scale(domain=list(range(series)), range=colours))


def dashes(series: int) -> list[list[int]]:
    """The dash pattern of each series: solid for the first ones, others when the colours repeat."""
    return [DASHES[(i // COLOURS) % len(DASHES)] for i in range(series)]


def opacity(full: str, low: float = 0.12) -> Any:
    """Opacity: `full`, or `low` while another series is highlighted."""
    lifted = "lifted < 0 || lifted == datum.series"
    return alt.condition(lifted, alt.value({"expr": full}), alt.value(low))


def log_x(padding: int) -> alt.X:
    """A logarithmic axis with room for the outermost marks."""
    return alt.X("x:Q", scale=alt.Scale(type="log", nice=False, padding=padding))


def x_axis(axis: Axis, rows: Sequence[Row]) -> Chart:
    """Ticks at the counts themselves if there are few; else at round numbers."""
    values = sorted({row[axis.field] for row in rows if row.get(axis.field) is not None})
    own = axis.field != "milliseconds" and len(values) <= MOST_TICKS
    return {"values": values if own or not values else round_ticks(values), "format": "~g"}


def y_axis(metric: str, rows: Sequence[Row]) -> Chart:
    """The axis of a metric; ticks of a logarithmic one are at round numbers.

    A linear axis adapts its format to the distance of the ticks: with "~g" it would write 70 as 7e+1.
    """
    if not is_log(metric, rows):
        return {"labelExpr": "format(datum.value, '~g')"}
    return {"values": round_ticks([row[metric] for row in rows if row.get(metric) is not None]), "format": "~g"}


def round_ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times the powers of ten within positive values; more ticks if they span less than one power."""
    low, high = min(values), max(values)
    # Few decades need ticks between the usual ones, or the axis has one number.
    factors = (1, 2, 5) if high / low >= LOG_FROM else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    # Read from a text, since 3 * 10**-5 is 3.0000000000000004e-05. Vega leaves out the ticks that are beyond the axis.
    return [float(f"{factor}e{decade}") for decade in decades for factor in factors]


def y_scale(metric: str, rows: Sequence[Row]) -> Chart:
    """Logarithmic for positive values that span a factor of ten or more; else linear, and not from zero."""
    return {"type": "log", "nice": False} if is_log(metric, rows) else {"zero": False}


def is_log(metric: str, rows: Sequence[Row]) -> bool:
    """Whether a metric has a logarithmic axis."""
    values = [row[metric] for row in rows if row.get(metric) is not None]
    return bool(values) and min(values) > 0 and max(values) / min(values) >= LOG_FROM


def visible_interval(value: float, low: float | None, high: float | None, least: float) -> tuple[float, float]:
    """The interval as it is drawn: a logarithmic axis cannot show zero or less."""
    there = (value if low is None else low, value if high is None else high)
    return (max(there[0], least), there[1]) if not math.isnan(least) else there

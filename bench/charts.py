"""Rows -> charts, as Vega-Lite specifications: a metric against cost, and the front of quality against time.

Every chart reads the data set "rows" and the parameter "hidden", the series that are switched off. A series and a
metric go by their number, so that no name of a plugin is part of an expression.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

ROWS = "rows"
COLOURS = 7
"""How many colours there are; they are --c0 ... in report.css (Okabe and Ito 2008)."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
DASHES: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 2])
LOG_FROM = 10
"""A metric whose values span at least this factor has a logarithmic axis."""
MOST_TICKS = 16
HEIGHT = 380
Chart = dict[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """What a chart can be drawn against."""

    field: str
    title: str


AXES = (
    Axis("nfe", "model calls (NFE)"),
    Axis("steps", "steps"),
    Axis("milliseconds", "milliseconds an image"),
)


def curves(metric: str, heading: str, axis: Axis, rows: Sequence[Row], series: int) -> Chart:
    """A line a series with its interval as a band, and its points, each with a text of its own."""
    x = alt.X(
        f"{axis.field}:Q", title=axis.title, axis=ticks(axis, rows), scale=alt.Scale(type="log", nice=False, padding=12)
    )
    y = alt.Y(f"{metric}:Q", title=heading, axis=y_axis(metric, rows), scale=y_scale(metric, rows))
    colour = colour_of(series)
    base = alt.Chart().transform_filter(f"isValid(datum.{metric}) && isValid(datum.{axis.field})")
    base = base.transform_filter("indexof(hidden, datum.series) < 0")
    band = base.mark_area(opacity=0.1, clip=True, aria=False).encode(
        x=x, y=alt.Y(f"{metric}_from:Q", title=heading, axis=y_axis(metric, rows)), y2=f"{metric}_to:Q", color=colour
    )
    dash = alt.StrokeDash("series:N", legend=None, scale=alt.Scale(domain=list(range(series)), range=dashes(series)))
    line = base.mark_line(strokeWidth=1.75, aria=False).encode(
        x=x, y=y, color=colour, strokeDash=dash, opacity=dimmed(1)
    )
    return finished(band, line, *points(base, x, y, series), description=f"{heading} against {axis.title}")


def front(metric: str, heading: str, rows: Sequence[Row], series: int) -> Chart:
    """Every row's metric against its time; those that no other beats in both stand on a stepped line, with names."""
    x = alt.X("milliseconds:Q", title=AXES[-1].title, scale=alt.Scale(type="log", nice=False, padding=18))
    y = alt.Y(f"{metric}:Q", title=heading, axis=y_axis(metric, rows), scale=y_scale(metric, rows))
    valid = f"isValid(datum.{metric}) && isValid(datum.milliseconds)"
    base = alt.Chart().transform_filter(valid)
    best = base.transform_filter(f"datum.{metric}_front")
    line = best.mark_line(interpolate="step-after", strokeWidth=1.25, color="var(--ink)", aria=False).encode(x=x, y=y)
    rule = best.mark_rule(strokeWidth=1.25, color="var(--ink)", aria=False).encode(
        x=x, y=alt.Y(f"{metric}_from:Q", title=heading, axis=y_axis(metric, rows)), y2=f"{metric}_to:Q"
    )
    names = [
        best.mark_text(align="left", baseline="bottom", dx=7, dy=-5, fontSize=12, aria=False, **style).encode(
            x=x, y=y, text="short:N"
        )
        for style in ({"stroke": "var(--paper)", "strokeWidth": 4}, {"color": "var(--ink)"})
    ]
    shown = base.transform_filter("indexof(hidden, datum.series) < 0")
    return finished(line, rule, *points(shown, x, y, series), *names, description=f"{heading} against time an image")


def points(base: alt.Chart, x: alt.X, y: alt.Y, series: int) -> tuple[alt.Chart, alt.Chart]:
    """Marks that differ in colour and shape, and over each an unseen larger one to point at."""
    shapes = [SHAPES[i % len(SHAPES)] for i in range(series)]
    shape = alt.Shape("series:N", legend=None, scale=alt.Scale(domain=list(range(series)), range=shapes))
    seen = base.mark_point(filled=True, size=62, opacity=1, aria=False).encode(
        x=x, y=y, color=colour_of(series), shape=shape, opacity=dimmed(1)
    )
    touched = base.mark_point(filled=True, size=420, opacity=0, aria=False).encode(x=x, y=y, tooltip="tip:N")
    return seen, touched


def finished(*layers: alt.Chart, description: str) -> Chart:
    """The layers as one specification that fills its container."""
    chart = alt.layer(*layers, data=alt.NamedData(ROWS)).properties(
        width="container", height=HEIGHT, description=description
    )
    chart = chart.add_params(alt.param(name="hidden", value=[]), alt.param(name="lifted", value=-1))
    made: Chart = chart.to_dict(validate=False)
    return made


def colour_of(series: int) -> alt.Color:
    """The colours of the page's style, in turn."""
    colours = [f"var(--c{i % COLOURS})" for i in range(series)]
    return alt.Color("series:N", legend=None, scale=alt.Scale(domain=list(range(series)), range=colours))


def dashes(series: int) -> list[list[int]]:
    """Whole lines for the first series; others where the colours come round again."""
    return [DASHES[(i // COLOURS) % len(DASHES)] for i in range(series)]


def ticks(axis: Axis, rows: Sequence[Row]) -> alt.Axis:
    """Ticks at the counts themselves; of times, where they fall."""
    counts = sorted({row[axis.field] for row in rows if row.get(axis.field) is not None})
    own = axis.field != "milliseconds" and len(counts) <= MOST_TICKS
    return alt.Axis(values=counts, format="~g") if own else alt.Axis(format="~g")


def y_axis(metric: str, rows: Sequence[Row]) -> alt.Axis:
    """On a logarithmic axis ticks at 1, 2 and 5 times the powers of ten that the values span."""
    if not is_log(metric, rows):
        return alt.Axis(format="~g")
    values = [row[metric] for row in rows if row.get(metric) is not None]
    decades = range(math.floor(math.log10(min(values))) - 1, math.ceil(math.log10(max(values))) + 1)
    return alt.Axis(values=[float(f"{factor}e{decade}") for decade in decades for factor in (1, 2, 5)], format="~g")


def dimmed(full: float) -> Any:
    """Opacity: less while another series is lifted."""
    return alt.condition("lifted < 0 || lifted == datum.series", alt.value(full), alt.value(0.12))


def y_scale(metric: str, rows: Sequence[Row]) -> alt.Scale:
    """Logarithmic for positive values that span a factor of ten or more; else linear, and not from zero."""
    return alt.Scale(type="log", nice=False) if is_log(metric, rows) else alt.Scale(zero=False)


def is_log(metric: str, rows: Sequence[Row]) -> bool:
    """Whether a metric has a logarithmic axis."""
    values = [row[metric] for row in rows if row.get(metric) is not None]
    return bool(values) and min(values) > 0 and max(values) / min(values) >= LOG_FROM


def drawn_interval(value: float, low: float | None, high: float | None, least: float) -> tuple[float, float]:
    """The interval as it is drawn: a logarithmic axis has no place at or below zero."""
    there = (value if low is None else low, value if high is None else high)
    return (max(there[0], least), there[1]) if not math.isnan(least) else there

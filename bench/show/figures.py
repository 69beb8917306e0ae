"""The charts and the pictures of a run for print: SVG, PDF and PNG, as wide as a column of a paper.

They are the charts of the report, with its numbers and its light colours, but static, and with the legend below.
"""

from __future__ import annotations

import base64
import copy
import io
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import vl_convert
from PIL import Image, ImageDraw, ImageFont

from ...samplers.errors import InputError, StoreError, closest, quote
from ...samplers.files.atomic import make_folder, write_named
from ...samplers.files.tiles import Images, as_picture, side_by_side
from ..judge.run_metrics import LoadMetrics
from ..judge.stored import StoredRun
from .charts import ROWS, Chart
from .page import TEMPLATES
from .view import View, metrics_with_ode, view_of

POINTS_PER_INCH = 72
WIDTH = 3.25 * POINTS_PER_INCH
"""The width of a figure, in points."""
PLOT_HEIGHT = 140
DOTS_PER_INCH, DOTS_ON_SCREEN = 300, 200
"""The resolution of a PNG for print, and of a picture for a notebook."""
KINDS = {"nfe": "nfe", "seconds": "front"}
"""The chart of a metric against each cost."""
FONT_SIZE = 7
LEGEND_LINE = 10
LETTER = 0.55
"""About the width of a letter over its size."""
MOST_TICKS = 30
SYMBOL = 22
"""Width of a legend's symbol with the room around it."""
LABEL_LETTERS = 20
"""Letters in a line of a label in the picture."""
LEAST_SIDE = 8
"""The side of a sample in the picture, in points, if that leaves two samples in a cell."""
MOST_ACROSS, DOWN = 5, 2
MARKS: Mapping[str, Mapping[str, float]] = {
    "line": {"strokeWidth": 1.1}, "point": {"size": 20}, "rule": {"strokeWidth": 0.8},
    "ring": {"size": 60, "strokeWidth": 0.7},
}  # fmt: skip


def write_figures(run: StoredRun, folder: Path, metrics: LoadMetrics | None = None) -> list[Path]:
    """Write the figures of a run into a folder, which is made if it is missing; returns their paths.

    For each metric: NAME-nfe (the metric against model calls) and, where the direction is known, NAME-front (against
    time an image); and samples, if the run has images. Each as SVG, PDF and PNG.
    Raises InputError, or StoreError if the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"figures {folder}: is a file; expected a folder")
    view = view_of(run, metrics)
    written = []
    try:
        make_folder(folder.absolute())
        for name, content in figures(run, view):
            write_named(folder / name, content)
            written.append(folder / name)
    except OSError as error:
        raise StoreError(f"figures {folder}: cannot be written ({error.strerror or error}); give another") from error
    return written


def figures(run: StoredRun, view: View) -> Iterator[tuple[str, bytes]]:
    """File name and content of each figure."""
    for name, spec in charts_by_name(run, view).items():
        yield f"{name}.svg", in_inches(vl_convert.vegalite_to_svg(spec)).encode()
        # SVG and PDF stay sharp at any size; the PNG is for programs that take neither.
        yield f"{name}.pdf", vl_convert.vegalite_to_pdf(spec)
        yield f"{name}.png", vl_convert.vegalite_to_png(spec, ppi=DOTS_PER_INCH)
    picture = picture_of(run, view)
    if picture:
        png = file_content(picture, "png", optimize=True, dpi=(DOTS_PER_INCH, DOTS_PER_INCH))
        yield "samples.svg", svg_around(png, picture.width, picture.height).encode()
        # Pillow stores colours in a PDF as JPEG; at its usual quality the edges of small samples blur.
        yield "samples.pdf", file_content(picture, "pdf", quality=95, resolution=DOTS_PER_INCH)
        yield "samples.png", png


def chart_picture(run: StoredRun, metric: str | None, against: str) -> Image.Image:
    """A metric, by default the run's first, against model calls or seconds, as a picture.

    InputError for a metric or a cost that has no chart in this run.
    """
    view, names = view_of(run), metrics_with_ode(run.table)
    if metric is not None and metric not in names:
        known = ", ".join(names)
        raise InputError(f"metric {quote(metric)}: not in the run{closest(metric, names)}; there are: {known}")
    if against not in KINDS:
        raise InputError(f"against {quote(against)}: expected {' or '.join(KINDS)}")
    # By the names of the files, which are the charts that a run has.
    wanted = f"{file_name(metric or next(iter(names), ''))}-{KINDS[against]}"
    charts = charts_by_name(run, view)
    if wanted not in charts:
        raise InputError(f"{run.path}: has nothing to plot against {against}; expected a finished row with a metric")
    return Image.open(io.BytesIO(vl_convert.vegalite_to_png(charts[wanted], ppi=DOTS_ON_SCREEN)))


def file_content(picture: Image.Image, kind: str, **settings: Any) -> bytes:
    """The content of a file of that kind."""
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **settings)
    return buffer.getvalue()


def svg_around(png: bytes, width: int, height: int) -> str:
    """An SVG that holds a picture of this size in dots, scaled to its size in print."""
    size = f'width="{width / DOTS_PER_INCH:.4f}in" height="{height / DOTS_PER_INCH:.4f}in"'
    image = f'<image width="{width}" height="{height}" href="data:image/png;base64,{base64.b64encode(png).decode()}"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}">{image}</svg>\n'


# ---- Charts ----


def charts_by_name(run: StoredRun, view: View) -> dict[str, Chart]:
    """The figures that are not empty, by the name of their files."""
    found: dict[str, Chart] = {}
    for metric, column in zip(view.metrics, metrics_with_ode(run.table), strict=True):
        key, name = metric["key"], file_name(column)
        for kind, field in (("nfe", "nfe"), ("front", "milliseconds")):
            drawn = {row["short"] for row in view.rows if row[key] is not None and row[field] is not None}
            # A chart without a point would be an empty frame in a paper.
            if drawn and kind in view.charts[key]:
                # Two names may become one when their special characters are replaced.
                free = f"{name}-{kind}" if f"{name}-{kind}" not in found else f"{name}-{key}-{kind}"
                found[free] = figure_from(view.charts[key][kind], view, drawn)
    return found


def file_name(metric: str) -> str:
    """A metric's name without characters that have a meaning in a path."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in metric)[:64] or "metric"


def figure_from(chart: Chart, view: View, drawn: Collection[str]) -> Chart:
    """A chart of the report as a figure, with a legend of the drawn series."""
    names = [series["name"] for series in view.series]
    # The page's colours are variables of its style, which no SVG for print has.
    spec: Chart = with_colours(copy.deepcopy(chart), light_colours())
    # The colours and marks stay those of the page, so that figure and report can be read side by side.
    spec["layer"] = [layer for layer in spec["layer"] if is_for_print(layer["mark"])]
    legend: Chart = {"columns": legend_columns(list(drawn)), "values": [name for name in names if name in drawn]}
    for layer in spec["layer"]:
        if "values" in layer["encoding"]["y"]["axis"]:
            layer["encoding"]["y"]["axis"]["tickCount"] = MOST_TICKS  # else every other one falls out
        kind = layer["mark"]["type"]
        layer["mark"] |= MARKS.get("ring" if kind == "point" and not layer["mark"].get("filled") else kind, {})
        for channel in ("color", "shape", "strokeDash"):
            encoding = layer["encoding"].get(channel)
            if encoding:
                encoding |= {"field": "short", "title": None, "legend": legend}
                # The page refers to series by number and has its own legend; in print the legend shows names.
                encoding["scale"]["domain"] = names
    # Each line of the legend adds to the height, and the plot keeps its own.
    lines = -(-len(drawn) // legend["columns"])
    # The width is that of the figure with its axis, so that every figure fills the column exactly.
    return spec | {
        "width": WIDTH, "height": PLOT_HEIGHT + lines * LEGEND_LINE, "config": config(),
        "autosize": {"type": "fit", "contains": "padding"}, "padding": 1,
        "datasets": {ROWS: [dict(row) for row in view.rows]},
    }  # fmt: skip


def is_for_print(mark: Mapping[str, Any]) -> bool:
    """Whether a mark belongs in print: invisible marks to point at do not, nor names too long for a column."""
    return mark["type"] != "text" and mark.get("opacity") != 0


def config() -> Chart:
    """The Vega-Lite config of all figures."""
    colours = light_colours()
    ink, rule = colours["ink"], colours["rule"]
    return {
        "background": "white", "font": "Helvetica, Arial, Liberation Sans, sans-serif", "view": {"stroke": None},
        "axis": {
            "labelColor": ink, "titleColor": ink, "gridColor": rule, "domainColor": ink, "tickColor": ink,
            "labelFontSize": FONT_SIZE, "titleFontSize": FONT_SIZE + 0.5, "titleFontWeight": "normal",
            "titlePadding": 4, "labelPadding": 2, "tickSize": 3, "gridWidth": 0.5, "domainWidth": 0.6, "tickWidth": 0.6,
            "labelOverlap": "greedy", "labelSeparation": 3,
        },
        "axisX": {"grid": False}, "axisY": {"domain": False, "ticks": False, "tickCount": 5},
        "legend": {
            "orient": "bottom", "direction": "horizontal", "labelFontSize": FONT_SIZE, "labelColor": ink,
            "labelLimit": WIDTH - SYMBOL, "symbolSize": 20, "symbolStrokeWidth": 1.1, "rowPadding": 1,
            "columnPadding": 6, "labelOffset": 2, "offset": 4, "padding": 0,
        },
    }  # fmt: skip


def legend_columns(names: Sequence[str]) -> int:
    """How many names fit side by side."""
    # An estimate: how wide a text will be is known only to the renderer.
    widest = max(map(len, names)) * LETTER * FONT_SIZE + SYMBOL
    return max(1, min(len(names), int(WIDTH // widest)))


@lru_cache(maxsize=1)
def light_colours() -> dict[str, str]:
    """The colours of the page's light theme by their names in its style."""
    # Read from the style of the page: a colour is written down once.
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), #[0-9a-f]{6}\)", style)) | {"paper": "#ffffff"}


def with_colours(value: Any, colours: Mapping[str, str]) -> Any:
    """A JSON value in which every CSS variable of a colour is replaced by the colour."""
    if isinstance(value, dict):
        return {key: with_colours(item, colours) for key, item in value.items()}
    if isinstance(value, list):
        return [with_colours(item, colours) for item in value]
    named = re.fullmatch(r"var\(--([\w-]+)\)", value) if isinstance(value, str) else None
    return colours[named[1]] if named else value


def in_inches(svg: str) -> str:
    """An SVG with its size in inches, for print; its units are points."""

    def inches(match: re.Match[str]) -> str:
        return f'{match[1]}="{float(match[2]) / POINTS_PER_INCH:.4f}in"'

    # A size without a unit counts 96 to the inch, and the figure would come out a quarter too small.
    end = svg.index(">")
    return re.sub(r'\b(width|height)="([\d.]+)"', inches, svg[:end]) + svg[end:]


# ---- Pictures ----


def picture_of(run: StoredRun, view: View) -> Image.Image | None:
    """Samplers down, steps across, the same seeds in each cell, as wide as a column; None without images."""
    images: dict[int, Images] = {}
    for i, cell in enumerate(run.record.cells):
        first = run.first_chunk(cell)
        if first is not None and first.images is not None:
            images[i] = first.images
    if not images:
        return None
    budgets = len(view.budgets)
    # Rows that were added to a run stand at its end; sorted, each sampler's counts are side by side again.
    rows = sorted(view.rows, key=lambda row: int(row["series"]))
    lanes = [rows[first : first + budgets] for first in range(0, len(rows), budgets)]
    labels = [wrap_label(lane[0]["short"]) for lane in lanes]
    dot = DOTS_PER_INCH / POINTS_PER_INCH
    size, gap = round(FONT_SIZE * dot), round(2 * dot)
    # Laid out once with tiles of a dot, to learn what labels and gaps leave for the samples.
    bare = paper_grid([[Image.new("RGB", (1, 1))] * budgets] * len(labels), labels, view.budgets, size, gap)
    side = (round(WIDTH * dot) - bare.width) // budgets
    tiles = [
        [small_mosaic(images[row["row"]], side) if row["row"] in images else None for row in lane] for lane in lanes
    ]
    grid = paper_grid(tiles, labels, view.budgets, size, gap)
    # Whole dots leave a rest, which is filled up, so that the picture is exactly as wide as the column.
    sheet = Image.new("RGB", (max(grid.width, round(WIDTH * dot)), grid.height), "white")
    sheet.paste(grid)
    return sheet


def paper_grid(
    tiles: Sequence[Sequence[Image.Image | None]], labels: Sequence[str], headings: Sequence[str], size: int, gap: int
) -> Image.Image:
    """Tiles in rows and columns with labels in a font of `size` dots, `gap` dots apart."""
    font, ink = ImageFont.load_default(size), (0, 0, 0)
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = max(int(probe.multiline_textbbox((0, 0), label, font=font)[2]) for label in labels) + 2 * gap
    there = [tile for row in tiles for tile in row if tile]
    width, height = max(tile.width for tile in there), max(tile.height for tile in there)
    top = size + 2 * gap
    sheet = Image.new("RGB", (left + len(headings) * (width + gap), top + len(labels) * (height + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for j, heading in enumerate(headings):
        pen.text((left + j * (width + gap) + width // 2, gap), heading, ink, font=font, anchor="ma")
    for i, (label, row) in enumerate(zip(labels, tiles, strict=True)):
        y = top + i * (height + gap)
        pen.multiline_text((gap, y + height // 2), label, ink, font=font, anchor="lm")
        for j, tile in enumerate(row):
            if tile:
                sheet.paste(tile, (left + j * (width + gap), y))
    return sheet


def wrap_label(label: str) -> str:
    """A label, broken into lines that leave room for the samples."""
    return "\n".join(textwrap.wrap(label, LABEL_LETTERS)) or label


def small_mosaic(images: Images, width: int) -> Image.Image:
    """The first images (n, C, H, W) in two rows, as many as remain visible in this width in dots."""
    least = LEAST_SIDE * DOTS_PER_INCH / POINTS_PER_INCH
    across = max(1, min(MOST_ACROSS, len(images), int(width // least)))
    side = max(1, width // across)
    tiles = []
    for image in images[: across * DOWN]:
        picture = as_picture(image).convert("RGB")
        # Small images are enlarged as sharp squares; large ones are reduced with a filter.
        kind = Image.Resampling.NEAREST if picture.width < side else Image.Resampling.LANCZOS
        height = max(1, round(side * picture.height / picture.width))
        tiles.append(picture.resize((side, min(side, height)), kind))
    return side_by_side(tiles, across, (side, side))

"""The table as people read it: headings, texts with the digits that the interval supports, a caption; as Markdown."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...samplers.files.atomic import write_atomically
from ...samplers.metric import LEAST_IMAGES
from ...samplers.text import count_of, printable
from ..draw import clock as timing
from ..draw.latency import columns_among, rows_of
from ..draw.sealed_file import disk_errors
from ..draw.store import RunFolder
from ..judge.statistics import ODE_DISTANCE, ODE_ERROR, metric_columns, strata_of
from ..judge.status import outcome_of
from ..judge.table import (
    AXES,
    DEPTH,
    GUIDED_COLUMNS,
    SEEDS,
    TEXTS,
    WARNING,
    Labels,
    deviation_of,
    interval_of_row,
    rows_in,
    write_sealed_table,
)
from ..plan.plan import ODE_SAMPLES, ode_count
from ..plan.record import RunRecord

MARKDOWN_FILE = "table.md"
HEADINGS = {
    "fid": "FID", "fid_unbiased": "unbiased FID", "clip_score": "CLIP score", "seconds_per_image": "s/image",
    "ode_error": "ODE error", "ode_distance": "ODE distance",
}  # fmt: skip
SHEET_HEADINGS = {"nfe": "NFE", "seconds_per_image": "ms/image"}
"""Headings of columns that a sheet shows in other words or another unit."""
NOTE = "note"
"""A column of words: the row with the same samples, a warning about levels, why the cell is not whole."""
KEYS = ("sampler", "grid", "guidance", "guidance_low", "guidance_high", "steps")
"""The columns that tell the rows apart."""
FRECHET = "fid"
"""The metric that has another name with some extractors."""
OF_COVARIANCES = (FRECHET, "fd_clip")
"""The metrics that use a covariance of the samples' features."""
MARK = "*"
INTERVAL = "± is the 95 % interval of the value at this number of images"
ODE_COVERAGE = {20: 90, 32: 93, 64: 94, 128: 95}
"""Number of images -> the per cent of simulated runs in which the interval of the ODE error held the true value, the
lowest of the samplers. Measured on 27 November 2026; `python benchmarks/coverage.py --pool DIR --drawn --markdown >
docs/coverage.md` measures it again and prints this line."""
OBEYED = re.compile(r"[\\|`*~]|(?<![^\W_])_|_(?![^\W_])|(?<=\])(?=\()|(?<=!)(?=\[)")
"""The characters with a meaning for Markdown inside a cell; an underscore within a word has none."""
MOST_DECIMALS = 8
"""With more decimals a number is written with a power of ten."""
Place = tuple[int, str]
"""The place of a number in the table: the label of its row, and its column."""


@dataclass(frozen=True)
class Entry:
    """One field."""

    text: str
    small: str = ""
    """The interval, "± 0.4", or the quartiles; in small type if the format has that."""
    bold: bool = False

    @property
    def whole(self) -> str:
        """Text and interval."""
        return f"{self.text} {self.small}" if self.small else self.text


@dataclass(frozen=True)
class Column:
    """The heading of a column, and whether its entries are texts."""

    heading: str
    is_text: bool = False
    is_key: bool = False
    """Whether it tells the rows apart: where the columns do not fit side by side, each part of them begins with it."""


@dataclass(frozen=True)
class Sheet:
    """A table as people read it; each of its texts is one printable line."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Entry]]
    caption: str


def write_table(  # noqa: PLR0913  (what a table says, and what its caption does)
    table: pd.DataFrame,
    folder: RunFolder,
    keys: Sequence[str],
    labels: Labels,
    notes: Sequence[str] = (),
    *,
    has_prompts: bool = True,
) -> None:
    """Write table.csv with its seal, and table.md with the notes in its caption; `keys` belong to the rows' cells."""
    write_sealed_table(folder, table, keys)
    sheet = sheet_of(table, labels, below=sentences(notes), has_prompts=has_prompts)
    with disk_errors(folder.path):
        write_atomically(folder.path / MARKDOWN_FILE, sheet_to_markdown(sheet).encode())


# ---- Table -> sheet ----


def sheet_of(  # noqa: PLR0913  (what a sheet shows, and what its caption says)
    table: pd.DataFrame,
    labels: Labels,
    columns: Sequence[str] = (),
    bold: Collection[Place] = (),
    below: str = "",
    *,
    has_prompts: bool = True,
) -> Sheet:
    """A sheet of the rows of the table, by default with the columns that tell them apart; `below` ends the caption."""
    heads, rows = _columns_and_rows(table, labels, columns or shown_columns(table), bold)
    return Sheet(heads, rows, printable(caption(table, labels, columns, has_prompts=has_prompts) + below))


def _columns_and_rows(
    table: pd.DataFrame, labels: Labels, names: Sequence[str], bold: Collection[Place] = ()
) -> tuple[list[Column], list[list[Entry]]]:
    """What a sheet has above its caption."""
    # Found once and not for each entry, because it looks through every column of the table.
    metrics = metrics_of(table)
    rows = [
        [entry_of(row, name, metrics, is_bold=(place, name) in bold) for name in names]
        for place, row in zip(table.index, rows_in(table), strict=True)
    ]
    return [column_of(name, labels) for name in names], rows


def column_of(name: str, labels: Labels) -> Column:
    """What stands above a column of the table."""
    # Set only for the columns of latencies, whose names hold a number of images.
    rows = rows_of(name)
    heading = f"ms at {rows}" if rows else SHEET_HEADINGS.get(name) or heading_of(name, labels)
    return Column(printable(heading), name in (*TEXTS, NOTE), name in KEYS)


def shown_columns(table: pd.DataFrame) -> list[str]:
    """What is shown unless columns are asked for; what says the same in every row of the default is left out."""
    # An empty field counts as a value: some rows may be guided in an interval and others everywhere.
    several = [name for name in AXES if name in table and table[name].nunique(dropna=False) > 1]
    depth = [DEPTH] if DEPTH in table.columns else []
    at_once = [name for name in columns_among(table.columns) if rows_of(name)]
    seconds = ["seconds_per_image", *at_once]
    return ["sampler", *several, "steps", "nfe", *depth, *metrics_of(table), *seconds, "ode_error", NOTE]


def entry_of(row: Mapping[Any, Any], name: str, metrics: Sequence[str], *, is_bold: bool = False) -> Entry:
    """The entry of a row in a column."""
    if name in ("seconds_per_image", ODE_ERROR, ODE_DISTANCE) or name in metrics:
        text = _milliseconds(row) if name == "seconds_per_image" else with_interval(*interval_of(row, name))
        deviation = _float(row.get(deviation_of(name)))
        text += f" ({deviation:.2g})" if math.isfinite(deviation) else ""
        # What stands behind the value is set in small type where a format has that.
        value, _, small = text.partition(" ")
        return Entry(value, small, is_bold)
    if rows_of(name):
        middle, slow = (1000 * _float(row.get(column)) for column in (name, f"{name}_p90"))
        small = f"({slow:.3g})" if math.isfinite(slow) else ""
        return Entry(_number(middle, ".3g"), small, is_bold)
    if name == NOTE:
        return Entry(printable(_note(row)))
    value = row[name]
    if isinstance(value, str):
        return Entry(printable(value))
    # A count is printed whole; six digits would round a large one.
    return Entry(str(value) if isinstance(value, int) else _number(value, ".6g"))


def table_to_cells(table: pd.DataFrame, labels: Labels) -> tuple[list[str], list[list[str]]]:
    """Headings and texts of the sheet."""
    # Without a caption, which the page makes for itself.
    columns, rows = _columns_and_rows(table, labels, shown_columns(table))
    return [column.heading for column in columns], [[entry.whole for entry in row] for row in rows]


def metrics_of(table: pd.DataFrame) -> list[str]:
    """The metrics that have a number in some row, without the ODE error, which is not of the samples only."""
    # Times and distances to the ODE have intervals too, and the interval of guidance has two ends.
    there, own = set(table.columns), (*timing.COLUMNS, *AXES, ODE_ERROR, ODE_DISTANCE)
    metrics = [c for c in table.columns if metric_columns(c)[1] in there and c not in own]
    return [name for name in metrics if table[name].count()]


def heading_of(name: str, labels: Labels) -> str:
    """The heading of a column; a metric is named with its extractor, and plain "FID" is reserved for Inception."""
    label = labels.get(name, {}).get("label", "")
    heading = short_heading_of(name, labels)
    return f"{heading} [{label}]" if label and not has_own_name(name, labels) else heading


def short_heading_of(name: str, labels: Labels) -> str:
    """The heading of a column, for places that name the extractor already."""
    # "FID" means the distance by Inception; of other features it is called by another name, so that nobody compares the
    # two.
    return labels[name]["frechet"] if has_own_name(name, labels) else HEADINGS.get(name, name)


def has_own_name(name: str, labels: Labels) -> bool:
    """Whether a metric is a Frechet distance with its own name for its extractor."""
    return name == FRECHET and bool(labels.get(name, {}).get("frechet"))


def interval_of(row: Mapping[Any, Any], metric: str) -> tuple[float, float, float]:
    """A metric's value and both ends of its interval; nan if missing."""
    value, low, high = (_float(row.get(name)) for name in metric_columns(metric))
    return value, low, high


def has_interval(table: pd.DataFrame, metric: str) -> bool:
    """Whether some row shows an interval of a metric."""
    # Only the columns that are read: a row of a table has about fifty.
    own = table[[name for name in metric_columns(metric) if name in table]]
    return any("±" in with_interval(*interval_of(row, metric)) for row in rows_in(own))


def with_interval(value: float, low: float, high: float) -> str:
    """ "12.3 ± 0.4": the half-width with two digits, the value with as many decimals."""
    if not math.isfinite(value):
        return "-"
    # Two digits of the half-width, and no more digits of the value than that supports.
    # "z": a difference that rounds to zero has no sign.
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return f"{value:z.4g}"
    decimals = max(0, 1 - math.floor(math.log10(half)))
    if decimals > MOST_DECIMALS:
        return f"{value:z.2g} ± {half:.2g}"
    return f"{value:z.{decimals}f} ± {half:.{decimals}f}"


def caption(table: pd.DataFrame, labels: Labels, columns: Sequence[str] = (), *, has_prompts: bool = True) -> str:
    """The caption for these columns of a table, by default the default ones, in one or two sentences."""
    names = columns or shown_columns(table)
    # What ± means is said only where one is shown.
    measured = [m for m in (*metrics_of(table), ODE_ERROR, ODE_DISTANCE) if m in names and has_interval(table, m)]
    intervals = meaning_of_intervals(table, measured, labels, has_prompts=has_prompts)
    first = f"{what_was_drawn(table)} a row" + (f"; {intervals}" if measured else "")
    seconds = f"; {of_seconds(table)}" if "seconds_per_image" in names else "."
    seconds += of_latency(names)
    # With chosen columns a reader is told of those alone, and of what is missing only where nothing was chosen.
    shown = {name: label for name, label in labels.items() if name in names}
    left_out = "" if columns else left_out_of(table, labels)
    ode = of_ode_error(table) if ODE_ERROR in names else ""
    return first + seconds + notes_of(shown) + too_few_for(table, shown) + left_out + ode


def meaning_of_intervals(table: pd.DataFrame, measured: Sequence[str], labels: Labels, *, has_prompts: bool) -> str:
    """What ± says in this table, beside these metrics."""
    if SEEDS not in table:
        # Only what the run has: samples without prompts, and distances to the ODE, are of no prompts and no reference.
        compares = any(labels[name].get("data") or labels[name].get("features") for name in measured if name in labels)
        given = ["these prompts"] * has_prompts + ["this reference"] * compares
        return f"{INTERVAL}, for {' and '.join(given)}" if given else INTERVAL
    seeds = int(table[SEEDS].iloc[0])
    return (
        f"each value is the mean of {count_of(seeds, 'seed')}; ± is the 95 % interval of that mean (Student's t, "
        f"{count_of(seeds - 1, 'degree')} of freedom), in brackets the standard deviation between seeds"
    )


def what_was_drawn(table: pd.DataFrame) -> str:
    """ "toy, guidance 3, 512 images"."""
    first = table.iloc[0]
    guidance = (
        f", guidance {first['guidance']:g}" if first["guidance"] != 1 and table["guidance"].nunique() == 1 else ""
    )
    # At guidance 1 nothing is guided, so an interval there says nothing.
    guided = table.loc[table["guidance"] != 1, [name for name in GUIDED_COLUMNS if name in table]]
    intervals = {interval_of_row(row) for row in rows_in(guided)}
    if len(intervals) == 1 and "" not in intervals:
        guidance += f" at sigma/alpha {intervals.pop()}"
    each = " of each seed" if SEEDS in table else ""
    return f"{first['model']}{guidance}, {int(table['samples'].max())} images{each}"


def of_ode_error(table: pd.DataFrame) -> str:
    """What ± of an ODE error says, and how often its interval holds if the images are few; '' without ODE errors."""
    # Means over seeds have the interval of these, whatever that of each is.
    if table[ODE_ERROR].isna().all() or SEEDS in table:
        return ""
    images = ode_count(int(table["samples"].max()))
    if images < LEAST_IMAGES:
        return f" The ODE error is that of {count_of(images, 'image')}, too few for an interval."
    text = " ± of the ODE error is half the length of an interval that reaches further up than down"
    if images >= ODE_SAMPLES:  # it then holds what it should
        return f"{text}."
    # The nearest number of images below, which errs on the cautious side.
    measured = max(known for known in ODE_COVERAGE if known <= images)
    return f"{text}; in simulations with {measured} images it held the true value in {ODE_COVERAGE[measured]} %."


def of_seconds(table: pd.DataFrame) -> str:
    """What a reader must know about the seconds."""
    # Why times are missing is in the same column as why they are doubtful.
    flags = _reasons(table)
    if table["seconds_per_image"].isna().all():
        return f"no row has a time: {', '.join(flags)}." if flags else "no row has a time."
    text = "ms/image is the mean of the runs' medians" if SEEDS in table else "ms/image is the median over chunks"
    text += ", in brackets the quartiles" if table["seconds_low"].notna().any() else ""
    text += f"; {MARK} marks a time that is not to be relied on: {', '.join(flags)}." if flags else "."
    load = table["load_per_core"].median() if "load_per_core" in table else math.nan
    return text + (f" The machine was busy: a load of {load:.1f} per core." if load > timing.BUSY else "")


def of_latency(names: Sequence[str]) -> str:
    """What the latencies among these columns are; '' without any."""
    if not any(map(rows_of, names)):
        return ""
    return " ms at N is the median time of drawing N images, and no others, in brackets the 90th percentile."


def notes_of(labels: Labels) -> str:
    """What a reader must know about the extractors, a sentence for each note."""
    # By note: several metrics of one extractor share a sentence.
    headings: dict[str, list[str]] = {}
    for name, label in labels.items():
        if note := label.get("note"):
            headings.setdefault(note, []).append(heading_of(name, labels if name == FRECHET else {}))
    return "".join(f" {', '.join(names)}: {note}." for note, names in headings.items())


def too_few_for(table: pd.DataFrame, labels: Labels) -> str:
    """A sentence for each of these metrics that has fewer samples than features; '' if there are none.

    Runs of the first versions do not record the number of features.
    """
    # A metric without a number is said to be left out, and not to be too high.
    known = metrics_of(table)
    return singular_notes(int(table["samples"].max()), {name: label for name, label in labels.items() if name in known})


def singular_notes(samples: int, labels: Labels) -> str:
    """A sentence for each of these metrics that uses a covariance of so few samples that it is singular."""
    # Labels are texts of run.json, which a stranger may have edited: what is no number is ignored.
    said = {name: str(labels[name].get("features")) for name in OF_COVARIANCES if name in labels}
    features = {name: int(text) for name, text in said.items() if text.isascii() and text.isdigit()}
    return "".join(
        f" {short_heading_of(name, labels)} is too high: it describes an image by {width} numbers, and {samples} "
        "images are fewer than that."
        for name, width in features.items()
        if samples < width
    )


def left_out_of(table: pd.DataFrame, labels: Labels) -> str:
    """A sentence for each metric of a run that has no column, because the samples are too few for it."""
    samples, known = int(table["samples"].max()), metrics_of(table)
    # A metric that is computed beside another has no label itself: that of the other names it and its need.
    least = {name: (label.get("least", ""), "") for name, label in labels.items() if name not in known}
    for label in labels.values():
        if (other := label.get("unbiased", "")) and other not in known and other not in labels:
            least[other] = label.get("unbiased_least", ""), label.get("features", "")
    return "".join(
        f" {short_heading_of(name, labels)} is left out: it needs {text} images a row{of_features(text, features)}, "
        f"not {samples}."
        for name, (text, features) in least.items()
        if is_count(text) and 0 < samples < int(text)
    )


def of_features(least: str, features: str) -> str:
    """ ", 4 for each of its 512 features", where the images that a metric needs are a multiple of these."""
    if not is_count(features) or int(least) % int(features):
        return ""
    return f", {int(least) // int(features)} for each of the {features} features"


def is_count(text: str) -> bool:
    """Whether a text of run.json is a whole number above 0."""
    return text.isascii() and text.isdigit() and int(text) > 0


def notes_on_names(names: Mapping[str, str]) -> tuple[str, ...]:
    """Which samplers the names of rows stand for; `names` holds the name of each spec, "" where it has none."""
    return tuple(f'"{name}" is {spec}' for spec, name in names.items() if name)


def notes_on_added(before: Sequence[int], rows: int) -> tuple[str, ...]:
    """What a reader must know about a table to which rows were added; `before` holds the number of rows before each
    addition."""
    if not before:
        return ()
    return (f"{rows - before[0]} of the {rows} rows were added to the run later; verdicts are corrected for all rows",)


def notes_on_prompts(prompts: Sequence[str], samples: int) -> tuple[str, ...]:
    """What a reader must know about the intervals of a run whose prompts take turns; `samples` is per row."""
    different = len(set(prompts))
    # Two rounds of the prompts tell as much as all samples, and are few.
    is_plain = strata_of(prompts, np.arange(min(samples, 2 * len(prompts)))) is None
    if different > 1 and is_plain:
        few = f"some of the {different} prompts have fewer than 2 images"
        return (f"{few}, so what differs between prompts counts as error",)
    return ()


def notes_on_looks(before: Sequence[int]) -> tuple[str, ...]:
    """What a reader must know about an extended run; `before` holds the images per row before each extension."""
    if not before:
        return ()
    had = ", then ".join(map(str, before))
    return (f"the run had {had} images a row before; verdicts are corrected for every look at it",)


def notes_on(record: RunRecord, rows: int) -> tuple[str, ...]:
    """The notes for the caption of a run's table with this many rows."""
    shard = (f"this is part {record.shard} of a run, whose other blocks are in other folders",) if record.shard else ()
    return (
        *notes_on_names(record.config.names),
        *shard,
        *notes_on_added(record.sizes_before, rows),
        *notes_on_looks([one.samples for one in record.extended]),
        *notes_on_prompts(record.prompts, record.config.samples),
    )


def sentences(notes: Iterable[str]) -> str:
    """Notes as the sentences of a caption."""
    return "".join(f" {note[0].upper()}{note[1:]}." for note in notes)


def _milliseconds(row: Mapping[Hashable, Any]) -> str:
    """ "12.3 (12.1-12.6)*": median, quartiles if there are any, and a mark if the time is not reliable."""
    median, low, high = (1000 * seconds for seconds in interval_of(row, "seconds_per_image"))
    if not math.isfinite(median):
        return "-"
    quartiles = f" ({low:.3g}-{high:.3g})" if math.isfinite(low) else ""
    return _number(median, ".3g") + quartiles + (MARK if is_doubtful(row.get("timing")) else "")


def _reasons(table: pd.DataFrame) -> list[str]:
    """What the mark means in this table."""
    doubtful = [flag for flag in table.get("timing", ()) if is_doubtful(flag)]
    flags = {reason for flag in doubtful for reason in flag.split("; ")}
    # This reason says how many repeats there were, so it is not one text in all rows.
    few = any("repeat" in reason for reason in flags)
    return [
        text
        # In this order whatever the rows are, so that captions of two tables can be compared.
        for text, applies in (
            (f"fewer than {timing.LEAST_REPEATS} repeats", few),
            (f"quartiles more than {100 * timing.NOISY:.0f} % of the median apart", timing.NOISY_FLAG in flags),
            ("drawn on several machines", timing.MACHINES_FLAG in flags),
            ("not drawn in turn with the other samplers", timing.APART_FLAG in flags),
        )
        if applies
    ]


def is_doubtful(flag: object) -> bool:
    """Whether the column `timing` says that a time is not reliable; tables of earlier versions lack it."""
    return isinstance(flag, str) and flag != timing.OK


def _note(row: Mapping[Hashable, Any]) -> str:
    same, warning = row.get("same_as"), row.get(WARNING)
    # pandas reads an empty field as nan, which is not a text.
    parts = [f"same samples as {same}"] if isinstance(same, str) and same else []
    parts += [warning] if isinstance(warning, str) and warning else []
    outcome = outcome_of(row["status"])
    return "; ".join(parts if outcome.is_whole else [*parts, str(outcome)])


def _float(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _number(value: object, form: str) -> str:
    number = _float(value)
    return format(number, form) if math.isfinite(number) else "-"


# ---- Sheet -> Markdown ----


def table_to_markdown(table: pd.DataFrame, labels: Labels) -> str:
    """A Markdown table with a line on what the numbers are."""
    return sheet_to_markdown(sheet_of(table, labels))


def sheet_to_markdown(sheet: Sheet) -> str:
    """A Markdown table, its caption below."""

    def cell(entry: Entry) -> str:
        text = markdown(entry.whole)
        return f"**{text}**" if entry.bold else text

    lines = [f"| {' | '.join(markdown(column.heading) for column in sheet.columns)} |"]
    lines += [f"|{'|'.join(' --- ' if column.is_text else ' ---: ' for column in sheet.columns)}|"]
    lines += [f"| {' | '.join(map(cell, row))} |" for row in sheet.rows]
    return "\n".join([*lines, "", markdown(sheet.caption), ""])


def markdown(text: str) -> str:
    """The text, escaped so that it makes no element, link, code, emphasis or end of a cell."""
    # HTML first: its entities have no character that Markdown obeys.
    return OBEYED.sub(r"\\\g<0>", html.escape(text, quote=False))

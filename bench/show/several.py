"""Several runs in one page: an index of what they differ in, and a section for each, with a link to its own page."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import vl_convert
from markupsafe import Markup

from ...samplers.errors import InputError, StoreError
from ...samplers.files.atomic import write_named
from ...samplers.text import count_of
from ..judge.run_metrics import LoadMetrics
from ..judge.stored import StoredRun
from ..plan.config import as_json
from .figures import charts_by_name, in_inches
from .page import REPORT_FILE, compile_template, content_policy, template_text, write_report
from .sheet import Sheet
from .view import View, clean, view_of

SEVERAL_FILE = "reports.html"
CHARTS = 2
"""How many are shown of each run: its first metric against model calls, and against time."""
MOST_LETTERS = 80
"""The longest text of a setting in the index."""


@dataclass(frozen=True)
class Section:
    """A run in the page of several; its texts are safe to print."""

    title: str
    link: str
    """The way to its own page, from the page of several."""
    settings: list[str]
    """Its values of the settings in which the runs differ."""
    charts: list[tuple[str, str]]
    """What each shows, and the picture as a URI."""
    view: View


def write_several(
    runs: Sequence[StoredRun], output: Path, metrics: Callable[[StoredRun], LoadMetrics], sheet: Sheet | None = None
) -> list[Path]:
    """Write the page of each run and the page of all; returns their paths, that of all last.

    Runs need not be comparable: no number of one stands beside a number of another, but in a `sheet` of them all.
    Raises InputError or StoreError, before anything is written where a run is damaged.
    """
    check_page(output)
    for run in runs:
        len(run.table)  # reads it
    # The page of all comes last, when its links lead somewhere.
    pages = [write_report(run, metrics(run)) for run in runs]
    return [*pages, write_page(runs, output, metrics, sheet)]


def check_page(output: Path) -> None:
    """InputError where the page of several runs cannot be written."""
    # Asked before the page of the first run is written, which may take a minute.
    if output.is_dir():
        raise InputError(f"output {output}: is a folder; expected the name of a file")
    if not output.absolute().parent.is_dir():
        raise InputError(f"output {output}: there is no folder {output.parent}; make it, or give another -o")


def write_page(
    runs: Sequence[StoredRun], output: Path, metrics: Callable[[StoredRun], LoadMetrics], sheet: Sheet | None = None
) -> Path:
    """Write the page of several runs whose own pages are there; `sheet` is one table of all, which comes first."""
    page = several_to_html([section_of(run, runs, output, metrics(run)) for run in runs], differing(runs), sheet)
    try:
        write_named(output, page.encode())
    except OSError as error:
        raise StoreError(f"output {output}: cannot be written ({error.strerror or error}); give another -o") from error
    return output


def default_page(runs: Sequence[StoredRun]) -> Path:
    """reports.html in the folder that all runs are in."""
    common = Path(os.path.commonpath([run.path.absolute() for run in runs]))
    # From the current folder, as the paths of the runs are.
    return Path(os.path.relpath(common)) / SEVERAL_FILE


def section_of(run: StoredRun, runs: Sequence[StoredRun], output: Path, metrics: LoadMetrics) -> Section:
    """The section of one of the runs."""
    view, names = view_of(run, metrics), [other.path.name for other in runs]
    charts = list(charts_by_name(run, view).items())[:CHARTS]
    known = settings_of(run)
    return Section(
        title=clean(run.path.name if names.count(run.path.name) == 1 else str(run.path)),
        # Relative, so that the pages still find each other when their folders are moved together.
        link=quote(Path(os.path.relpath(run.path / REPORT_FILE, output.absolute().parent)).as_posix()),
        settings=[clean(short_setting(known.get(name))) for name in differing(runs)],
        charts=[(clean(spec["description"]), svg_uri(spec)) for _, spec in charts],
        view=view,
    )


def settings_of(run: StoredRun) -> dict[str, Any]:
    """The settings of a run, and the weights of its model."""
    return as_json(run.record.config) | {"weights": run.record.model.fingerprint[:12]}


def differing(runs: Sequence[StoredRun]) -> list[str]:
    """The settings in which the runs differ."""
    known = [settings_of(run) for run in runs]
    # Runs of different versions know different settings: what one lacks is None there.
    names = dict.fromkeys(name for settings in known for name in settings)
    return [name for name in names if any(settings.get(name) != known[0].get(name) for settings in known)]


def short_setting(value: Any) -> str:
    """A setting as a reader reads it: "5, 10, 20"; "-" where it is not given."""
    if value in (None, "", []):
        return "-"
    if isinstance(value, list):
        text = ", ".join(map(short_setting, value))
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…"


def svg_uri(spec: Mapping[str, Any]) -> str:
    """A chart as a picture that stands in the page."""
    # A picture needs no script, so that this page allows none.
    svg = in_inches(vl_convert.vegalite_to_svg(dict(spec)))
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def several_to_html(sections: Sequence[Section], names: Sequence[str], sheet: Sheet | None = None) -> str:
    """One page without scripts, which contains its style and pictures."""
    style = template_text("report.css")
    return compile_template(template_text("reports.html.jinja")).render(
        sections=sections,
        names=[name.replace("_", " ") for name in names],
        count=count_of(len(sections), "run"),
        sheet=sheet,
        style=Markup(style),
        policy=content_policy([], style),
    )

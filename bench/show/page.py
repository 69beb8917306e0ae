"""report.html: the results of a run in one self-contained page."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from ...samplers.files.atomic import make_folder, write_beside_others
from ..draw.sealed_file import bytes_of, disk_errors, seal_json, unseal_json
from ..judge.run_metrics import LoadMetrics
from ..judge.stored import StoredRun
from .view import View, view_of

REPORT_FILE = "report.html"
TEMPLATES = resources.files(__package__.partition(".")[0]) / "templates"


def write_report(run: StoredRun, metrics: LoadMetrics | None = None) -> Path:
    """Write report.html into a run's folder, from its content; returns its path.

    Paired differences that the folder lacks are computed from its chunks, if `metrics` are given.
    Raises InputError or StoreError.
    """
    page = view_to_html(view_of(run, metrics)).encode()
    with disk_errors(run.path):
        write_beside_others(run.path / REPORT_FILE, page)
    return run.path / REPORT_FILE


def view_to_html(view: View) -> str:
    """One page that contains its style, scripts and pictures, with a policy that forbids other scripts and loading."""
    # Everything is in the file, which can then be sent, and opened without a network.
    style, own, source = (template_text(f"report.{ending}") for ending in ("css", "js", "html.jinja"))
    scripts = [vega_bundle(), own]
    return compile_template(source).render(
        view=view,
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        policy=content_policy(scripts, style),
        licences=template_text("report-licences.txt"),
        data=json_for_script({"rows": view.rows, "charts": view.charts}),
    )


@lru_cache(maxsize=2)
def compile_template(source: str) -> Template:
    """The template of a page, which takes longer to compile than to fill in."""
    # StrictUndefined: a name that the view lacks is an error, not an empty place in the page.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source)


def template_text(name: str) -> str:
    """The text of a template file."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def content_policy(scripts: Sequence[str], style: str) -> str:
    """A Content-Security-Policy that allows these scripts, this style and embedded pictures."""
    # By hash and not 'unsafe-inline': a text of a plugin that got through would still not run.
    hashes = " ".join(source_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src {source_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def source_hash(source: str) -> str:
    """The name of an inline source in a policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def json_for_script(value: Any) -> Markup:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@lru_cache(maxsize=1)
def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that leaves `vegaEmbed` in the window.

    Putting it together takes more than a second, so the next process finds it in the user's cache.
    """
    # The version is part of the name, so a new library is put together again; the seal shows a file that was cut off.
    file = Path.home() / ".cache" / "samplerbench" / "report" / f"vega-{version('vl-convert-python')}.json"
    with suppress(OSError, ValueError):
        if isinstance(kept := unseal_json(bytes_of(file)).get("script"), str):
            return kept
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if "</script" in bundle.lower() or "<!--" in bundle:
        raise RuntimeError("the charts' library cannot stand in a script element")
    with suppress(OSError):  # a cache that cannot be written makes a report slower, not wrong
        make_folder(file.parent)
        write_beside_others(file, seal_json(json.dumps({"script": bundle})))
    return bundle

"""What the commands print: data to stdout, all else to stderr, with nothing in it that a terminal would obey."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import pandas as pd

    from ..samplers.registry import Registry
    from .conformance.card import Finding
    from .sheet import Sheet

STDOUT, STDERR = 1, 2


def say(text: str, *, err: bool = False) -> None:
    """One line with nothing in it that a terminal would obey."""
    click.echo(printable(text), err=err)


def complain(message: str, kind: str = "Error") -> None:
    """One line on stderr, with nothing in it that a terminal would obey."""
    say(f"{kind}: {message}", err=True)


def printable(text: str) -> str:
    """The text in one line, with all escaped that a terminal would obey or that reorders it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.splitlines()))


def counted(number: int, noun: str) -> str:
    """ "1 cell", "2 cells", "1,000 cells"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@contextmanager
def stdout_for_data() -> Iterator[None]:
    """What plugins print meanwhile goes to stderr, be it from Python, from a library or from a child process."""
    beneath = sys.stdout is sys.__stdout__ and None not in (sys.stdout, sys.stderr)  # None = closed by the caller
    if beneath:
        sys.stdout.flush()
        kept = os.dup(STDOUT)
        os.dup2(STDERR, STDOUT)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if beneath:
            sys.stdout.flush()
            os.dup2(kept, STDOUT)
            os.close(kept)


def warn_of_plugins(registry: Registry) -> None:
    """One line on stderr for each plugin that is broken, slow or meddles with the process."""
    for broken in registry.broken:
        complain(f"plugin {broken.origin} is broken and left out: {broken.reason}")
    for remark in registry.remarks:
        complain(f"plugin {remark.origin} {remark.text}", kind="Note")


def print_sheet(sheet: Sheet) -> None:
    """To a terminal as a table, to anything else as Markdown."""
    from .sheet import sheet_to_markdown

    if not sys.stdout.isatty():
        click.echo(sheet_to_markdown(sheet), nl=False)
        return
    from rich.console import Console

    from .view import rich_table

    Console().print(rich_table(sheet))


def print_rows(rows: list[dict[str, str]]) -> None:
    """Dicts with the same keys as aligned columns; the keys are the heading."""
    lines = [list(rows[0]), *([printable(text) for text in row.values()] for row in rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_card(spec: str, card: list[Finding], *, failures_only: bool) -> None:
    """A sampler's report card: what is claimed, what was measured, the verdict."""
    rows = [
        {
            "check": f.name,
            "claim": f.claim,
            "measured": f.measured,
            "verdict": "holds" if f.holds else "FAILS",
        }
        for f in card
        if not (failures_only and f.holds)
    ]
    print_rows(rows)
    say(f"{spec}: {sum(f.holds for f in card)} of {len(card)} claims hold")


def table_to_json(content: pd.DataFrame, about: dict[str, Any]) -> str:
    """The rows as one JSON object; what is not there is null."""
    rows = json.loads(content.to_json(orient="records", double_precision=12))
    return json.dumps({**about, "table": rows})

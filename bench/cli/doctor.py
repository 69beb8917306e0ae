"""`samplerbench doctor`: what is here."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..show.console import say, stdout_for_data
from .options import Command, plugin_options


@click.command(cls=Command)
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(plugin: tuple[str, ...], as_json: bool) -> int:
    """Say what is here: machine, versions, plugins, extras, data, disk; and whether a default run would work.

    The exit code is 1 where it would not.
    """
    from .diagnosis import examination_to_lines, examine, without_home

    # What plugins print as they load would stand among the findings.
    with stdout_for_data():
        seen = examine(plugin, Path("results"))
    if as_json:
        click.echo(json.dumps(without_home(seen.found | {"problems": seen.problems})))
    else:
        for line in examination_to_lines(seen):
            say(line)
    return 1 if seen.problems else 0

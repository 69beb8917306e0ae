"""`samplerbench list`, `new-plugin` and `check`: registered things, a plugin to start from, the tests of a sampler."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path

import click

from ...samplers.errors import InputError, closest
from ..show.console import print_entries, say, stdout_for_data
from .loading import print_card, registry_with_note, warn_of_plugins
from .options import Command, FilePath, plugin_options
from .scaffold import KINDS as PLUGIN_KINDS
from .scaffold import commands_of, new_plugin

KINDS = (
    "samplers",
    "grids",
    "models",
    "metrics",
    "extractors",
    "data",
    "engines",
    "names",
    "commands",
    "api",
    "run-schema",
)


def check_kind(_: click.Context, __: click.Parameter, kind: str) -> str:
    """The kind; an error with the closest one if it is unknown."""
    # click.Choice would do this without the closest name.
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r}{closest(kind, KINDS)}; kinds: {', '.join(KINDS)}")
    return kind


def check_kind_of_plugin(_: click.Context, __: click.Parameter, kind: str) -> str:
    """The kind of a new plugin; an error with the closest one if it is unknown."""
    if kind not in PLUGIN_KINDS:
        raise InputError(f"unknown kind {kind!r}{closest(kind, PLUGIN_KINDS)}; kinds: {', '.join(PLUGIN_KINDS)}")
    return kind


@click.command("list", cls=Command)
@click.argument("kind", metavar=f"[{'|'.join(KINDS)}]", default="samplers", callback=check_kind)
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--markdown",
    is_flag=True,
    help="Print a page of documentation: samplers, grids, metrics, names, commands or api.",
)
def list_(kind: str, plugin: tuple[str, ...], as_json: bool, markdown: bool) -> None:
    """List what is registered: samplers (the default), grids, models, metrics, extractors, data, engines; and plugins
    that are broken.

    "names" lists what samplers are called in other tools, "commands" the commands of this program, "api" the names that
    Python code imports from samplerbench, and "run-schema" prints the JSON schema of run.json.
    """
    if markdown and as_json:
        raise InputError("--json and --markdown: expected one of them")
    # These three are about the program, and need no registry: no plugin is loaded for them.
    if kind == "run-schema":
        from .run_schema import run_schema_text

        if markdown:
            raise InputError("--markdown: run-schema is JSON; leave it out")
        click.echo(run_schema_text(), nl=False)
        return
    if kind in ("commands", "api"):
        # The rows of both have two fields: the name, and what it is.
        rows, text = program_listing(kind)
        if as_json:
            click.echo(json.dumps({kind: rows}))
        elif markdown:
            click.echo(text, nl=False)
        else:
            print_entries(("name", [*rows[0]][1]), [(name, [text]) for name, text in map(dict.values, rows)])
        return

    # It loads torch, for which the list of commands need not wait.
    from .listing import entry_for, listing, names_listing, origins_line, page

    with stdout_for_data():
        registry = registry_with_note(plugin)
        rows = names_listing(registry) if kind == "names" else listing(registry, kind)
    if as_json:
        # For programs the faults are in the data; stderr stays empty.
        broken = [{"origin": str(b.origin), "reason": b.reason} for b in registry.broken]
        remarks = [{"origin": str(r.origin), "text": r.text} for r in registry.remarks]
        click.echo(json.dumps({kind: rows, "broken": broken, "remarks": remarks}))
        return
    if markdown:
        click.echo(page(registry, kind), nl=False)
    elif kind == "names":
        print_entries(("name", "what it is here"), [(row["name"], [row["spec"] or row["what it is"]]) for row in rows])
    else:
        print_entries(("name", "what it is"), [entry_for(row) for row in rows])
        say(origins_line(rows))
    warn_of_plugins(registry)


def program_listing(kind: str) -> tuple[list[dict[str, str]], str]:
    """The rows and the page about the program itself: its commands, or its Python names."""
    if kind == "api":
        from .api_page import api_listing, api_page

        return api_listing(), api_page()
    from .commands import commands_listing, commands_page

    program = click.get_current_context().find_root().command
    assert isinstance(program, click.Group)
    return commands_listing(program), commands_page(program)


@click.command("new-plugin", cls=Command)
@click.argument("name")
@click.option("--kind", default="sampler", show_default=True, metavar="KIND", callback=check_kind_of_plugin,
              help=f"What the plugin adds: {', '.join(PLUGIN_KINDS)}.")  # fmt: skip
@click.option("--package", is_flag=True, help="A project folder that can be installed, with an entry point.")
@click.option("-o", "--output", type=FilePath(), default=Path(), metavar="DIR", help="Where. [default: here]")
def new_plugin_(name: str, kind: str, package: bool, output: Path) -> None:
    """Write a plugin to start from, which works as it stands, and a test of it."""
    with stdout_for_data():
        registry = registry_with_note()
        paths = new_plugin(name, output, registry, kind=kind, package=package)
    for path in paths:
        say(str(path))
    # The first command of the docstring tries the plugin; a test runs it, so it works.
    first = commands_of(name, kind)[0]
    if package:
        say(f"next: pip install -e {shlex.quote(str(output / name))} && {first}", err=True)
    else:
        say(f"next: {first} --plugin {shlex.quote(str(paths[0]))}", err=True)


@click.command("check", cls=Command)
@click.argument("specs", metavar="[SPEC]...", nargs=-1)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Every sampler, each value of enumerated options, and a file that came with it.",
)
@click.option("--quick", is_flag=True, help="Fewer and coarser measurements, of seconds.")
@click.option(
    "--model",
    metavar="MODEL",
    help="A model on which batch size and an earlier run must make no difference, and a file made for it must help.",
)
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_(  # noqa: PLR0913  (an option each)
    specs: tuple[str, ...], everything: bool, quick: bool, model: str | None, plugin: tuple[str, ...], as_json: bool
) -> int:
    """Hold samplers to their claims: order, model calls, noise, limits, and what must make no difference.

    Without SPEC, the samplers of the plugins that are named. Prints a report card; the exit code is 1 where a claim
    fails.
    """
    import torch

    from ..conformance.check import card_of, variants, with_files

    torch.set_num_threads(1)  # the models are tiny
    with stdout_for_data():
        registry = registry_with_note(plugin, (model,) if model else ())
        warn_of_plugins(registry)
        # Only what was named on the command line: installed plugins are checked by --all.
        theirs = [name for name, origin in registry.samplers.origins.items() if origin.plugin in plugin]
        chosen = specs or ([*variants(registry), *with_files(registry)] if everything else theirs)
        if not chosen:
            raise InputError("check: nothing to check; expected a SPEC such as ddim:eta=0.5, --plugin FILE or --all")
        # It replaces the first step of any sampler, so it is not a claim of this one.
        if of_run := [spec for spec in chosen if registry.parse_sampler(spec).analytic_first]:
            raise InputError(f"check {of_run[0]!r}: first=analytic belongs to a run; expected the sampler without it")
        # All specs are read before the first is measured: a slip in the last one costs no minutes.
        samplers = {spec: registry.sampler(spec) for spec in chosen}
        held_on = registry.model(model) if model else None
    cards = {}
    for spec, sampler in samplers.items():
        # A sampler may print at each step, thousands of times.
        with stdout_for_data():
            cards[spec] = card_of(sampler, registry, quick=quick, model=held_on)
        # Each card is printed as it is done; JSON is one object, and waits for all.
        if not as_json:
            print_card(spec, cards[spec], failures_only=len(samplers) > 1)
    if as_json:
        click.echo(json.dumps({"cards": {spec: [asdict(f) for f in card] for spec, card in cards.items()}}))
    return 0 if all(finding.holds for card in cards.values() for finding in card) else 1

"""The commands as `samplerbench list commands` shows them, and as a page of documentation."""

from __future__ import annotations

import click

from .options import HELP_NAMES

WIDTH = 100
"""Columns of a help text on the page, whatever the terminal."""

HEAD = """# Commands

Made by `samplerbench list commands --markdown > docs/commands.md`; the same as `samplerbench COMMAND --help`.

Data goes to stdout, progress and messages to stderr. Exit codes: 0 done, 1 some cells failed or a check does not hold,
2 a wrong command or setting, 3 a broken plugin, 4 a model or data file, 5 the disk, 130 and 143 stopped. Every option
can also stand in the environment: `SAMPLERBENCH_RUN_SEED=1` is `run --seed 1`.
"""


def commands_listing(program: click.Group) -> list[dict[str, str]]:
    """A row for each command: its name and the first sentence of its help."""
    return [
        {"name": name, "what it does": first_sentence(command)} for name, command in sorted(program.commands.items())
    ]


def first_sentence(command: click.Command) -> str:
    """What a command does, whole: click's own short help is cut to the width of the terminal."""
    paragraph = " ".join((command.help or "").partition("\n\n")[0].split())
    # With the space: a name such as report.html ends no sentence.
    return paragraph.partition(". ")[0].rstrip(".") + "."


def commands_page(program: click.Group) -> str:
    """A section for each command with its help."""
    sections = [
        f"## {name}\n\n```text\n{help_text(name, command)}\n```\n" for name, command in sorted(program.commands.items())
    ]
    return "\n".join([HEAD, *sections])


def help_text(name: str, command: click.Command) -> str:
    """What `samplerbench NAME --help` prints on a wide terminal."""
    # A context of its own does not inherit the program's settings, so what the page shows of --help is said again.
    context = click.Context(
        command, info_name=f"samplerbench {name}", terminal_width=WIDTH, help_option_names=HELP_NAMES
    )
    return command.get_help(context)

"""The command line, with a module for each command. Data goes to stdout, progress and messages to stderr; exit codes
are those of the errors.

Each command imports what it needs when it runs, so that --help is immediate.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import NoReturn

import click

from ...samplers.errors import InputError, PluginError, SamplerbenchError, StoreError, closest
from ..show.console import complain, standard_streams
from . import doctor, explain, grid, plugins, reference, results, run, score, table, train
from .commands import first_sentence
from .options import HELP_NAMES
from .run import SIGINT_EXIT

MACHINE_FAULTS = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EAGAIN)
"""Errors of a machine that runs out of something, anywhere in a program: open files, space, processes."""
CONTEXT = {"help_option_names": HELP_NAMES, "auto_envvar_prefix": "SAMPLERBENCH", "max_content_width": 100}


class Program(click.Group):
    """The commands; an unknown one is refused with the list of all."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words; an unknown option is refused in one line."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise InputError(f"unknown option {error.option_name!r}; samplerbench --help lists them") from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is refused in one line."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = closest(args[0], self.commands)
            raise InputError(f"unknown command {args[0]!r}{near}; there are: {', '.join(self.commands)}") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with its whole first sentence."""
        rows = [(name, first_sentence(command)) for name, command in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=Program, context_settings=CONTEXT)
@click.version_option(package_name="samplerbench")
def cli() -> None:
    """Compare diffusion samplers: FID, CLIP score and wall time across step counts."""


for command in (
    run.run, plugins.list_, plugins.new_plugin_, plugins.check_, table.table, results.report, results.verify_,
    results.export_, grid.grid_, train.train, reference.reference_, score.score_, doctor.doctor, explain.explain,
    explain.completion,
):  # fmt: skip
    cli.add_command(command)


def main() -> NoReturn:
    """The program: every error that a user can cause becomes one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path or a name may hold what the terminal cannot show
    with standard_streams():
        code = exit_code()
    sys.exit(code)


def exit_code() -> int:
    """Carry out the command line; errors are printed to stderr."""
    # A shell asks for completions by this variable. It is taken away, or a child process would answer the shell too.
    if asked := os.environ.pop(explain.COMPLETE, ""):
        from click.shell_completion import shell_complete

        return shell_complete(cli, CONTEXT.copy(), "samplerbench", explain.COMPLETE, asked)
    try:
        # As cli.main does, except for a closed pipe, which click calls an error.
        with cli.make_context("samplerbench", sys.argv[1:]) as context:
            # A command returns its exit code, or None for 0.
            code = cli.invoke(context) or 0
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        # Its message is the whole help, and no line of error.
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        complain(error.format_message())
        code = error.exit_code
    except SamplerbenchError as error:
        complain(str(error))
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt) as stop:
        if str(stop):
            complain(str(stop))
        code = SIGINT_EXIT
    except SystemExit as error:  # click and this program have other ways to end
        complain(f"a plugin ended the program with sys.exit({error.code!r})")
        code = PluginError.exit_code
    except BrokenPipeError:  # the reader of the output has closed it
        code = 0
    except OSError as error:
        code = exit_code_of(error)
    return int(code)


def exit_code_of(error: OSError) -> int:
    """Print an error of the system and return its exit code; raise it again if it is a fault of this program."""
    # A text that may be a path is looked up as one, wherever that is: no file can have such a name.
    if error.errno == errno.ENAMETOOLONG:
        complain(f"{str(error.filename)[:80]!r}: is too long for the name of a file; give a shorter one")
        return InputError.exit_code
    if error.errno in MACHINE_FAULTS:
        complain(f"{error.filename or 'the system'}: {error.strerror}")
        return StoreError.exit_code
    raise error

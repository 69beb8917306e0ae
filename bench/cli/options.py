"""Options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import click

from ...samplers.errors import InputError, closest
from ...samplers.variables import ALLOW_DOWNLOAD, NO_PLUGINS
from ..plan.settings import CONDUCT, SETTINGS, USUAL_NUMBERS, InGrid, Kind, Section, Setting, called_elsewhere
from ..plan.surroundings import check_surroundings

CONFIG = "samplerbench.config"
"""The key under which a command's context keeps its config file."""


class FilePath(click.Path):
    """A path; an invalid one is refused in one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(path_type=Path, **settings)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert as click does, but explain ValueErrors."""
        try:
            path = super().convert(value, param, ctx)
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                os.lstat(path)  # refuses a name that no file can have
        except (ValueError, OSError, TypeError) as error:
            name = param.name if isinstance(param, click.Option) else "path"
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"{name} {str(value)[:80]!r}: cannot be a path ({reason}); give another or a shorter one"
            ) from error
        return path


class Number(click.types.FloatParamType):
    """A number; anything else is refused with the name of its setting."""

    def __init__(self, read: type[int] | type[float], expected: str) -> None:
        # click shows the name as the metavar in help texts; these are the names of its own types.
        self.name = {int: "integer", float: "float"}[read]
        self.read, self.expected = read, expected

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number in a text."""
        try:
            return self.read(value)
        except ValueError as error:
            name = param.name if param else self.name
            raise InputError(f"{name} {str(value)[:80]!r}: expected {self.expected}") from error


class Count(Number):
    """A whole number from 1."""

    # click.IntRange would do, but says "x>=1", and names the option instead of the setting.
    def __init__(self) -> None:
        super().__init__(int, "a whole number from 1, as in 8")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number in a text; InputError if it is below 1."""
        number = super().convert(value, param, ctx)
        if number < 1:
            raise InputError(f"{param.name if param else self.name} {number}: expected {self.expected}")
        return number


class Several(Number):
    """A number, or several with commas between them: a tuple, which the command takes one after the other."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number in a text, or the numbers; InputError for one that is given twice."""
        # One number stays a number, and all that takes a single one works as before.
        if not isinstance(value, str) or "," not in value:
            return super().convert(value, param, ctx)
        read = super().convert
        numbers = tuple(read(part, param, ctx) for part in value.split(","))
        if len(set(numbers)) < len(numbers):
            raise InputError(f"{param.name if param else self.name} {value[:80]}: a number is given twice")
        return numbers


WHOLE = Number(int, USUAL_NUMBERS["whole"])
COUNT = Count()
POSITIVE = Number(float, USUAL_NUMBERS["amount"])
READ_AS: dict[Kind, type[int] | type[float]] = {"whole": int, "number": float, "amount": float}
"""The type that reads each kind of number among the settings."""


HELP_NAMES = ["-h", "--help"]
"""The option for help, of the program and of each command."""


class Command(click.Command):
    """A command whose errors say where a wrong setting comes from: a config file or an environment variable."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        # Said of the command too, and not of the program alone: click keeps the option for help as it is first made.
        super().__init__(*args, **{"context_settings": {"help_option_names": HELP_NAMES}, **settings})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, and refuse an environment variable for this command that names no option."""
        # Help works wherever the program can be started at all.
        # A folder that is gone, or too few open files, would end a library with a message of its own.
        if not set(args) & set(ctx.help_option_names):
            check_surroundings()
        check_environment(ctx)
        try:
            with name_origin(ctx):
                return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise InputError(usage_fault(ctx, error)) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error says where a wrong setting comes from."""
        with name_origin(ctx):
            return super().invoke(ctx)


def usage_fault(ctx: click.Context, error: click.UsageError) -> str:
    """What is wrong with a command line, what is expected there, and where to read more."""
    usage = f"usage: {ctx.command_path} {' '.join(ctx.command.collect_usage_pieces(ctx))}"
    # click's own words name neither the setting nor what is expected, so each kind of fault has a sentence here.
    if isinstance(error, click.NoSuchOption):
        near = nearest_option(ctx, error.option_name)
        return f"unknown option {error.option_name!r}{near}; {ctx.command_path} --help lists them"
    if isinstance(error, click.BadOptionUsage):  # without its value
        param = next(p for p in options_in(ctx) if error.option_name in (*p.opts, *p.secondary_opts))
        return f"{error.message.rstrip('.')}; {expected_value(ctx, param, error.option_name)}"
    if isinstance(error, click.BadParameter) and isinstance(error.param, click.Option):
        # The long name, which is also that in a config file.
        name = max(error.param.opts, key=len)
        if isinstance(error, click.MissingParameter):
            return f"{name}: not given; {expected_value(ctx, error.param, name)}"
        return f"{name}: {error.message.rstrip('.')}"
    if isinstance(error, click.MissingParameter) and error.param:
        return f"{error.param.make_metavar(ctx)}: not given; {usage}"
    return f"{error.format_message().rstrip('.').replace('Got unexpected extra', 'unexpected')}; {usage}"


def options_in(ctx: click.Context) -> list[click.Option]:
    """The options of a command."""
    return [param for param in ctx.command.params if isinstance(param, click.Option)]


def nearest_option(ctx: click.Context, name: str) -> str:
    """' (did you mean --X?)' where an option is near in its words, the dashes alike in all, or another tool's name."""
    here = called_elsewhere(name).replace("_", "-")
    # Another tool's name is certain; what is near in spelling is a guess, and comes second.
    if name.startswith("--") and here and any(f"--{here}" in option.opts for option in options_in(ctx)):
        return f" (it is --{here} here)"
    known = {option.lstrip("-"): option for p in options_in(ctx) for option in (*p.opts, *p.secondary_opts)}
    # Dashes would count as letters that are alike; they are put back into what is found.
    near = closest(name.lstrip("-"), known)
    return near.replace("'", f"'{'--' if name.startswith('--') else ''}", 1)


def expected_value(ctx: click.Context, option: click.Option, name: str) -> str:
    """What an option accepts, in the words of its help."""
    text = (option.help or "").partition(" [default")[0].rstrip(".")
    return f"expected {name} {option.make_metavar(ctx)}" + (f": {text}" if text else "")


def check_environment(ctx: click.Context) -> None:
    """Refuse SAMPLERBENCH_<COMMAND>_<NAME> if the command has no option of that name."""
    prefix = f"{ctx.auto_envvar_prefix}_"
    known = {f"{prefix}{(option.name or '').upper()}" for option in options_in(ctx)}
    for name in sorted(os.environ):
        # A variable with a slip in its name would have no effect, and nobody would notice.
        if name.startswith(prefix) and name not in known:
            raise InputError(
                f"environment variable {name}: no option of {ctx.command_path}{closest(name, known)}; unset it"
            )


@contextmanager
def name_origin(ctx: click.Context) -> Iterator[None]:
    """Add to an error the origin of a setting that was not typed."""
    try:
        yield
    # click's own faults know their option; those of settings, which are checked later, say only its name.
    except click.BadParameter as error:
        if error.param is None or not (origin := origin_of(ctx, error.param)):
            raise
        raise InputError(f"{origin}: {error.param.name}: {error.message}") from error
    except InputError as error:  # its line begins with the name of the setting, behind "unknown" where a name is that
        words = str(error).removeprefix("unknown ")
        param = next((p for p in ctx.command.params if re.match(rf"{re.escape(p.name or ' ')}\b", words)), None)
        if param is None or not (origin := origin_of(ctx, param)):
            raise
        raise InputError(f"{origin}: {error}") from error


def origin_of(ctx: click.Context, param: click.Parameter) -> str:
    """The origin of an option's value: "config c.toml", "environment variable X", or '' if it was typed."""
    source = ctx.get_parameter_source(param.name or "")
    if source is click.core.ParameterSource.DEFAULT_MAP:
        return str(ctx.meta[CONFIG])
    if source is click.core.ParameterSource.ENVIRONMENT:
        # click says that the value is from the environment, but not from which variable; it takes the first that is
        # set.
        named = [param.envvar] if isinstance(param.envvar, str) else [*(param.envvar or ())]
        variables = [*named, f"{ctx.auto_envvar_prefix}_{(param.name or '').upper()}"]
        return f"environment variable {next(v for v in variables if os.environ.get(v))}"
    return ""


def long_names(param: click.Parameter) -> list[str]:
    """The names by which a config file may give an option."""
    # Short names do not count: a file with the keys n and s would be hard to read.
    return [option[2:].replace("-", "_") for option in param.opts if option.startswith("--")]


def says_to_all(variable: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    """The callback of a flag that sets an environment variable for this process and its children during a command."""

    def say_it(ctx: click.Context, _: click.Parameter, chosen: bool) -> None:
        if chosen:
            before = os.environ.get(variable, "")
            os.environ[variable] = "1"
            # Put back at the end, because a notebook or a test runs several commands in one process.
            ctx.call_on_close(lambda: os.environ.update({variable: before}))

    return say_it


download_option = click.option(
    "--allow-download", is_flag=True, envvar=ALLOW_DOWNLOAD, expose_value=False, is_eager=True,
    callback=says_to_all(ALLOW_DOWNLOAD), help="Fetch models, weights and data that are not on this machine.",
)  # fmt: skip


def setting_options(
    *sections: Section, command: Literal["run", "grid"] = "run"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of a command for the settings in these sections."""
    chosen = [one for section in sections for one in (*SETTINGS, *CONDUCT) if one.section == section]
    if command == "run":
        # Both are made from the list of settings: a new setting is an option of each command without being written
        # twice.
        made = [option_of(one) for one in chosen]
    else:
        made = [grid_option_of(one, one.grid) for one in chosen if one.grid]

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        # Decorators apply from the last to the first; reversed, the help lists settings in their own order.
        for option in reversed(made):
            function = option(function)
        return function

    return add


def option_of(one: Setting) -> Callable[..., Any]:
    """A setting as an option of `run`."""
    names = [*filter(None, [one.short]), one.option]
    about: dict[str, Any] = {"help": help_of(one.help, one.default_words), "metavar": one.metavar or None}
    if one.kind == "flag":
        return click.option(*names, is_flag=True, **about)
    if one.kind == "switch":
        # Three values: None leaves the choice to the run, which depends on more than the option.
        return click.option(f"{one.option}/--no-{one.option[2:]}", default=None, **about)
    if one.kind == "list":
        return click.option(*names, multiple=True, **about)
    if isinstance(one.default, (int, float, str)):
        # With a default of its own, click tells what was typed from what was not.
        about |= {"default": one.default, "show_default": not one.default_words}
    read = Several(READ_AS[one.kind], one.expected) if one.in_turn else type_of(one)
    return click.option(*names, type=read, **about)


def grid_option_of(one: Setting, own: InGrid) -> Callable[..., Any]:
    """A setting as an option of `grid`; its value is None unless given, because it may be an axis instead."""
    if one.kind == "flag":
        return click.option(one.option, is_flag=True, default=None, help=own.help or one.help)
    plain = "" if one.default is None else f"{one.default:g}" if isinstance(one.default, float) else str(one.default)
    return click.option(
        *filter(None, [one.short]), one.option, type=type_of(one), metavar=own.metavar or one.metavar or None,
        help=help_of(own.help or one.help, own.default or one.default_words or plain),
    )  # fmt: skip


def help_of(text: str, default: str) -> str | None:
    """The help of a setting, with its default in words."""
    return " ".join(filter(None, (text, f"[default: {default}]" if default else ""))) or None


def type_of(one: Setting) -> click.ParamType[Any] | None:
    """What reads a setting; None = it is a text or a flag."""
    if one.kind == "file":
        return FilePath()
    if one.kind in READ_AS:
        return Number(READ_AS[one.kind], one.expected)
    if one.kind in ("numbers", "interval"):
        # Lists stay texts here and are read later, with the errors of a setting instead of those of an option.
        return click.STRING
    return None


quiet_option = click.option("--quiet", is_flag=True, help="No progress on stderr: warnings and errors only.")
own_model_option = click.option(
    "--model", multiple=True, metavar="SPEC", help="The run's model, if it is code, as in file.py:function: that is "
    "not run because a folder names it."
)  # fmt: skip


def plugin_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that loads plugins."""
    named = click.option("--plugin", multiple=True, metavar="PATH", help="A plugin's .py file or module; repeatable.")
    none = click.option(
        "--no-plugins", is_flag=True, envvar=NO_PLUGINS, expose_value=False, is_eager=True,
        callback=says_to_all(NO_PLUGINS), help="Leave out the installed plugins of others.",
    )  # fmt: skip
    # The flag is read first, whatever the order on the command line: it is eager.
    return named(none(command))


def load_config_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Make the settings of a TOML file the defaults of this command."""
    if path is None:
        return
    # A file sets defaults only, so that the command line and the environment win over it.
    from ..plan.given_files import read_toml

    options = [p for p in ctx.command.params if isinstance(p, click.Option) and p.name not in ("config", "help")]
    by_name = {name: option for option in options for name in long_names(option)}
    # Of several numbers a file may have a list, as of counts.
    known: dict[str, Kind] = {one.name: "counts" if one.in_turn else one.kind for one in (*SETTINGS, *CONDUCT)}
    file = ctx.meta[CONFIG] = read_toml(path, {name: known.get(name) or kind_of(o) for name, o in by_name.items()})
    ctx.default_map = {by_name[name].name or name: value for name, value in file.settings.items()}


def kind_of(option: click.Option) -> Kind:
    """The kind of value that a config file may give for an option that is no setting."""
    if option.is_flag:
        return "flag"
    # A path in a file is a text, which the option's own type reads.
    return "list" if option.multiple else "text"

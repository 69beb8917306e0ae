"""The options that several commands have."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...samplers.errors import InputError
from ...samplers.variables import ALLOW_DOWNLOAD, NO_PLUGINS

if TYPE_CHECKING:
    from ..config import Kind


class FilePath(click.Path):
    """A path; what cannot be one is refused in one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(path_type=Path, **settings)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click does, with its ValueErrors explained."""
        try:
            return super().convert(value, param, ctx)
        except (ValueError, OSError, TypeError) as error:
            name = param.name if param else "path"
            raise InputError(f"{name} {str(value)[:80]!r}: is no path ({error})") from error


def says_to_all(variable: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    """What a flag does that sets an environment variable, for all in this process and below, while a command lasts."""

    def say_it(ctx: click.Context, _: click.Parameter, chosen: bool) -> None:
        if chosen:
            before = os.environ.get(variable, "")
            os.environ[variable] = "1"
            ctx.call_on_close(lambda: os.environ.update({variable: before}))

    return say_it


download_option = click.option(
    "--allow-download", is_flag=True, envvar=ALLOW_DOWNLOAD, expose_value=False, is_eager=True,
    callback=says_to_all(ALLOW_DOWNLOAD), help="Fetch models, weights and data that are not on this machine.",
)  # fmt: skip


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The settings that some models have of their own."""
    size = click.option("--size", metavar="WxH", help="Size of the images, 512 or 512x768. [default: the model's own]")
    skip = click.option("--clip-skip", type=int, metavar="N", help="Which layer of the text encoder is read: 1 the "
                        "last, 2 the one before. [default: the model's own]")  # fmt: skip
    return download_option(size(skip(command)))


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
    return named(none(command))


def load_config_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Make the settings of a TOML file the defaults of this command."""
    if path is None:
        return
    from ..config import read_toml

    options = [p for p in ctx.command.params if isinstance(p, click.Option) and p.name not in ("config", "help")]
    by_name = {opt[2:].replace("-", "_"): p for p in options for opt in p.opts if opt.startswith("--")}
    kinds: dict[str, Kind] = {
        name: "flag" if option.is_flag else "list" if option.multiple else "text" for name, option in by_name.items()
    }
    kinds["steps"] = kinds["nfe"] = "counts"
    ctx.default_map = {by_name[name].name or name: value for name, value in read_toml(path, kinds).items()}

"""`samplerbench explain` and `completion`: what a caption says, and what a shell needs to complete words."""

from __future__ import annotations

import json

import click

from ...samplers.errors import InputError
from ..show.console import print_entries, say, stdout_for_data
from .loading import registry_with_note, warn_of_plugins
from .options import Command, plugin_options

SHELLS = ("bash", "zsh", "fish")
COMPLETE = "_SAMPLERBENCH_COMPLETE"
"""The variable in which a shell asks for completions."""


@click.command("explain", cls=Command)
@click.argument("words", metavar="CAPTION|FILE", nargs=-1, required=True)
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(words: tuple[str, ...], plugin: tuple[str, ...], as_json: bool) -> None:
    """Say what each setting in the caption of a generated picture is, and print the command that draws with them here.

    \b
    samplerbench explain "Steps: 40, Sampler: Euler a, CFG scale: 13"
    samplerbench explain picture.png

    A PNG file holds its caption where the tool that drew it stored it, as A1111 does.
    """
    from ..plan.caption import caption_from
    from ..show.explain import explain_caption

    # A caption that was pasted without quotes arrives as many words.
    caption = caption_from(" ".join(words))
    with stdout_for_data():
        registry = registry_with_note(plugin)
        warn_of_plugins(registry)
        about = explain_caption(caption, registry)
    if as_json:
        rows = [{"setting": name, "value": value, "what it is": text} for name, value, text in about.settings]
        commands = {"command": about.command, "command_for_folder": about.command_for_folder}
        click.echo(json.dumps({"settings": rows, **commands}))
        return
    print_entries(("setting", "what it is"), [(name, [value, text]) for name, value, text in about.settings])
    say("")
    # Two commands: the first can be typed as it is, the second needs a model, but then says all that the caption says.
    without = f", without {about.left_out}" if about.left_out else ""
    say(f"{about.where}{without} (see docs/settings.md):")
    say(f"  {about.command}")
    if about.of_model and not about.model:
        say("On your own model, a folder of diffusers:")
        say(f"  {about.command_for_folder}")


def check_shell(_: click.Context, __: click.Parameter, shell: str) -> str:
    """The shell, or an error with those that there are."""
    if shell not in SHELLS:
        raise InputError(f"unknown shell {shell[:40]!r}; shells: {', '.join(SHELLS)}")
    return shell


@click.command("completion", cls=Command)
@click.argument("shell", metavar=f"[{'|'.join(SHELLS)}]", callback=check_shell)
def completion(shell: str) -> None:
    """Print what a shell needs to complete commands and options at the Tab key.

    \b
    eval "$(samplerbench completion bash)"         # in ~/.bashrc
    eval "$(samplerbench completion zsh)"          # in ~/.zshrc
    samplerbench completion fish | source          # in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    # click's own command prints the script only where it is started with the variable set; this one has a help and
    # errors.
    program = click.get_current_context().find_root().command
    script = kind(program, {}, "samplerbench", COMPLETE)
    click.echo(script.source_template % script.source_vars())

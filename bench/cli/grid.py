"""`samplerbench grid`: pictures over any two or three settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...samplers.errors import InputError
from ..plan.settings import AXES
from ..show.console import complain, say, stdout_for_data
from ..show.doing import Doing
from .loading import registry_with_note, warn_of_plugins
from .options import Command, FilePath, download_option, plugin_options, quiet_option, setting_options


@click.command("grid", cls=Command)
@click.argument("run_folder", metavar="[RUN]", required=False, type=FilePath())
@click.option("-x", metavar="NAME=A,B,...", help="What changes from column to column. NAME: "
              f"{', '.join(AXES)}, or any option of the sampler, such as eta; other tools' names (cfg) will do. Values "
              "are separated by commas, or by ; where there is one; texts and intervals by ; only. Numbers may be "
              "ranges: 1-5, 5-25 (+5), 0-1 [5].")  # fmt: skip
@click.option("-y", metavar="NAME=A,B,...", help="What changes from row to row.")
@click.option("-z", metavar="NAME=A,B,...", help="What changes from page to page: a picture for each value.")
@setting_options("drawn", command="grid")
@click.option("--prompt", multiple=True, metavar="TEXT", help="A prompt instead of a file; repeatable.")
@download_option
@setting_options("model", "machine", command="grid")
@click.option("--trajectory", is_flag=True, help="An animated WebP of the states after each step instead.")
@click.option("-o", "--output", type=FilePath(), metavar="FILE", help="PNG, or WebP with --trajectory; with -z the "
              "name of each page's file ends in its value. HTML holds all pages in one file. [default: "
              "results/<model>-grid-<settings>.png; for a RUN, its grid.png]")  # fmt: skip
@quiet_option
@plugin_options
def grid_(run_folder: Path | None, output: Path | None, quiet: bool, plugin: tuple[str, ...], **options: Any) -> int:
    """Draw a grid of images: any two settings across and down, a third from page to page, all from the same noise.

    \b
    samplerbench grid -x "steps=1-5, 10-50 (+10)" -y sampler=ddim,euler-a
    samplerbench grid -x cfg=1,2,4 -y "prompt=a dark coat;a bag" -s euler-a
    samplerbench grid -x "eta=0-1 [5]" -y steps=5,10,20 -z seed=0-2 -s ddim
    samplerbench grid -x seed=0,1,2 -y "sampler=ddim;ours=dpm-solver:order=3"

    With neither -x nor -y but some setting, steps 5, 10, 20 and 40 across and the four default samplers down. The PNG
    holds its settings and its command as text. The exit code is 1 where a cell failed.

    With no axis and no setting, the picture of a RUN (the newest in results/ by default) is drawn again from the
    images that it kept: its samplers down, its step counts across. Prints the path of the picture.
    """
    # What was typed decides between two jobs: with nothing typed, an old picture is drawn again; an option that has a
    # default would look typed, so those of `grid` have none.
    given = {name: value for name, value in options.items() if not (value is None or value is False or value == ())}
    if not given:
        redraw_run(run_folder, output, quiet=quiet)
        return 0
    if run_folder:
        # Settings could not change images that are stored, so to ignore them would mislead.
        names = ", ".join(f"-{name}" if name in "xyz" else f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"{run_folder}: a run is drawn again from its own images; leave out {names}, or the run")
    return draw_grid(given, output, plugin, quiet=quiet)


def redraw_run(run_folder: Path | None, output: Path | None, *, quiet: bool) -> None:
    """Draw the picture of a run again."""
    with Doing(quiet=quiet) as doing:
        doing.loading_torch()
        from ...samplers.files.tiles import png
        from ..draw.folder import newest_run
        from ..judge.stored import StoredRun
        from ..show.grid_plot import PNG, check_target, write_file
        from ..show.picture import PICTURE_FILE, redraw

        folder = run_folder or newest_run(Path("results"))
        target = check_target(output or folder / PICTURE_FILE, PNG)
        write_file(target, png(redraw(StoredRun(folder))))
    say(str(target))


def draw_grid(options: dict[str, Any], output: Path | None, plugin: tuple[str, ...], *, quiet: bool) -> int:
    """Draw a grid of new images; returns the exit code."""
    with Doing(quiet=quiet) as doing:
        doing.loading_torch()
        from rich.console import Console

        from ..show.grid_plot import HTML, check_target, make_grid, plot_for, suffix_of
        from ..show.live import CellBar

        plot = plot_for(options, plugin)
        # A name that cannot be written is refused before the model loads, which may take a minute.
        target = check_target(output or plot.default_output, suffix_of(plot.trajectory), HTML)
        # Each page has its own file, and each is checked before the first page is drawn.
        if target.suffix.lower() != HTML:
            for file in plot.files(target):
                check_target(file, file.suffix)
        with stdout_for_data():
            doing("loading plugins")
            registry = registry_with_note(plugin)
            warn_of_plugins(registry)
            doing(f"loading model {plot.settings.others.model}")
            with CellBar(Console(stderr=True), quiet=quiet, before=doing.over) as bar:
                files, failed = make_grid(plot, registry, target, bar)
    for file in files:
        say(str(file))
    for cell, reason in failed.items():
        complain(f"{cell}: {reason}")
    if not quiet:
        # stdout holds paths and nothing else, so that a shell can pass them on.
        say(f"again: {plot.command}", err=True)
    return 1 if failed else 0

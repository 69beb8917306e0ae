"""`samplerbench report`, `export` and `verify`: a stored run's report, its images, and the check of its samples."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...samplers.errors import InputError
from ...samplers.text import count_of
from ..show.console import complain, print_rows, say, stdout_for_data
from .loading import registry_with_note, the_runs, warn_of_plugins
from .options import COUNT, WHOLE, Command, FilePath, own_model_option, plugin_options

if TYPE_CHECKING:
    from ..judge.run_metrics import LoadMetrics
    from ..judge.stored import StoredRun


@click.command(cls=Command)
@click.argument("run_folders", metavar="[RUN]...", nargs=-1, type=FilePath())
@click.option("--figures", type=FilePath(), metavar="DIR",
              help="Write its charts and pictures there instead, as SVG, PDF and PNG.")  # fmt: skip
@click.option("-o", "--output", type=FilePath(), metavar="FILE.html",
              help="The page of several runs. [default: reports.html in the folder that they are in]")  # fmt: skip
@click.option("--seeds", is_flag=True,
              help="Of runs that differ in their seed only: means and their spread come first.")  # fmt: skip
@own_model_option
@plugin_options
def report(  # noqa: PLR0913  (an option each)
    run_folders: tuple[Path, ...],
    figures: Path | None,
    output: Path | None,
    seeds: bool,
    plugin: tuple[str, ...],
    model: tuple[str, ...],
) -> None:
    """Write report.html of a run again, by default of the newest in results/, and print its path.

    It is one page that needs no network: answers, charts, pictures, table, and the command that made the run.

    With --figures, its charts for a paper: each metric against model calls and against time, and the samples, 3.25
    inches wide.

    Of several runs, of other models, seeds or guidance, each page is written, and one page of all: an index, and a
    section for each run. With --seeds, of runs that differ in their seed only, their means and the spread between them
    as well.

    The folders of shards (`run --shard`) are joined into one run first.
    """
    # They load torch and the renderer of charts, which take seconds; --help does not wait for them.
    from ..judge.run_metrics import ready_metrics
    from ..show.figures import write_figures
    from ..show.formats import content_over_seeds, with_notes
    from ..show.page import write_report
    from ..show.several import default_page, write_several

    with stdout_for_data():
        registry = registry_with_note(plugin, model)
        warn_of_plugins(registry)
    runs = the_runs(run_folders, lambda: registry)
    # What cannot be meant is refused before charts are drawn.
    run, *others = runs
    if seeds and not others:
        raise InputError("--seeds: 1 run; expected two or more, as in report RUN RUN --seeds")
    if others and figures:
        raise InputError(f"figures {figures}: of which run? expected one, and {len(runs)} are given")
    if output and not others:
        raise InputError(f"output {output}: is the page of several runs; that of one stands in its folder")

    def metrics_of(one: StoredRun) -> LoadMetrics:
        # Models and extractors load when a verdict is missing, and once for all parts of the page.
        return cache(lambda: ready_metrics(one, registry))

    with stdout_for_data():
        # Each page is written as well, because the index links to it.
        if others:
            sheet = with_notes(content_over_seeds(runs)) if seeds else None
            paths = write_several(runs, output or default_page(runs), metrics_of, sheet)
        elif figures:
            paths = write_figures(run, figures, metrics_of(run))
        else:
            paths = [write_report(run, metrics_of(run))]
    for path in paths:
        say(str(path))


@click.command("export", cls=Command)
@click.argument("run_folder", metavar="RUN", type=FilePath())
@click.option("--row", required=True, metavar="SPEC@N", help="Which row: sampler and steps (or budget), as in ddim@10.")
@click.option("-n", "--samples", type=COUNT, metavar="N", help="The first N images. [default: all that are kept]")
@click.option("-o", "--output", required=True, type=FilePath(), metavar="DIR", help="A new or empty folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export_(run_folder: Path, row: str, samples: int | None, output: Path, as_json: bool) -> None:
    """Write the kept images of a row as PNG files, with metadata.csv for their captions, for other tools.

    A run keeps every image up to 64 x 64 pixels, and the first 16 of each row of larger ones unless it is given
    --keep-images. The folder is read as image data is: `run --reference DIR`, `train --data DIR`.
    """
    from ..judge.stored import StoredRun
    from ..show.export import export

    # No registry: captions and images are in the folder, so a run whose plugins are gone can be exported.
    done = export(StoredRun(run_folder), row, output, samples)
    if as_json:
        click.echo(json.dumps({"folder": str(output), "row": row, **asdict(done)}))
        return
    say(f"{output}: {done.images} of {done.drawn} images of {row}{', with captions' if done.has_captions else ''}")


@click.command("verify", cls=Command)
@click.argument("run_folder", metavar="RUN", type=FilePath())
@click.option("--chunks", type=COUNT, default=3, show_default=True, help="How many; all if it has fewer.")
@click.option("--seed", type=WHOLE, default=0, show_default=True, help="Which: they are chosen at random.")
@own_model_option
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify_(  # noqa: PLR0913  (an option each)
    run_folder: Path, chunks: int, seed: int, plugin: tuple[str, ...], model: tuple[str, ...], as_json: bool
) -> int:
    """Draw some chunks of a run again and compare them with what is stored, byte by byte.

    Images, extractors' rows and counts of model calls must be the same; seconds are never compared. The exit code is 1
    where something differs. A run of other versions, another model or an edited sampler is refused.
    """
    from ..judge.stored import StoredRun
    from ..verify import DAMAGED, EQUAL, checks_to_rows, verify

    with stdout_for_data():
        registry = registry_with_note(plugin, model)
        warn_of_plugins(registry)
        done = verify(StoredRun(run_folder), registry, chunks, seed)
    if as_json:
        about = {"folder": str(run_folder), "seed": seed, "threads": done.threads, "notes": done.notes}
        checks = [asdict(check) for check in done.checks]
        click.echo(json.dumps({**about, "chunks": done.chunks, "checks": checks}))
        return done.exit_code
    print_rows(checks_to_rows(done.checks))
    damaged = f", {count} damaged" if (count := done.count(DAMAGED)) else ""
    say(
        f"{done.count(EQUAL)} of {len(done.checks)} chunks equal{damaged}; the run has {done.chunks}; "
        f"seed {seed}, with {count_of(done.threads, 'thread')} as the run"
    )
    for note in done.notes:
        complain(note, kind="Note")
    return done.exit_code

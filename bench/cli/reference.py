"""`samplerbench reference`: the reference that metrics compare with, extracted once."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ...samplers.text import count_of
from ..show.console import complain, say, stdout_for_data
from .loading import registry_with_note, warn_of_plugins
from .options import COUNT, Command, FilePath, download_option, plugin_options


@click.command("reference", cls=Command)
@click.argument("data", metavar="DATA")
@click.option("--extractor", required=True, metavar="NAME", help="What reads the images, as `samplerbench list "
              "extractors` names them.")  # fmt: skip
@click.option("--size", metavar="WxH", help="Crop each image at its centre and resize it, 512 or 512x768. [default: as "
              "they are, if all have one size]")  # fmt: skip
@click.option("-n", "--samples", type=COUNT, metavar="N", help="The first N images. [default: all]")
@click.option("-o", "--output", type=FilePath(), metavar="FILE", help=".npz for mean and covariance (mu, sigma), "
              ".safetensors for the rows. [default: kept for later runs only]")  # fmt: skip
@download_option
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def reference_(  # noqa: PLR0913  (an option each)
    data: str,
    extractor: str,
    size: str | None,
    samples: int | None,
    output: Path | None,
    plugin: tuple[str, ...],
    as_json: bool,
) -> None:
    """Extract the images of DATA, a folder, a file or a data set, for `run --reference` to compare with.

    Its rows are kept in ~/.cache/samplerbench, where a run on the same images, extractor and size finds them.
    """
    from ..plan.reference import bar_on_terminal, data_of, images_at, one_extractor
    from ..plan.reference_file import check_suffix, export

    if output:
        # Before the images are read, which may take an hour.
        check_suffix(output)
    with stdout_for_data():
        registry = registry_with_note(plugin)
        warn_of_plugins(registry)
        reader = one_extractor(registry, extractor)
        images = images_at(data_of(data, registry), size, samples)
        # Rows that an earlier command has kept are read, and nothing is extracted.
        with bar_on_terminal(f"{reader.label} on {images.data.name}") as report:
            rows = images.rows(reader, report)
    about = images.about(reader)
    if output:
        export(rows, about, output)
    made = {
        "images": len(rows), "data": about.data, "size": about.size, "extractor": about.extractor,
        "features": rows.shape[1], "hash": about.key, "notes": list(about.notes), "file": output and str(output),
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(made))
        return
    say(
        f"{count_of(len(rows), 'image')} of {about.data} at {about.size}, {rows.shape[1]} features of {about.extractor}"
    )
    # In JSON the notes are a field, and stderr stays empty for programs.
    for note in about.notes:
        complain(note, kind="Note")
    say(f"hash: {about.key[:16]}")
    if output:
        say(str(output))

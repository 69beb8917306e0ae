"""`samplerbench score`: every metric of images that are there already."""

from __future__ import annotations

import click

from ..show.console import complain, print_sheet, stdout_for_data, table_to_json
from .loading import registry_with_note, warn_of_plugins
from .options import COUNT, Command, download_option, plugin_options


@click.command("score", cls=Command)
@click.argument("images", metavar="IMAGES")
@click.argument("reference", metavar="REFERENCE")
@click.option("--extractor", multiple=True, metavar="NAME", help="What reads the images, as `samplerbench list "
              "extractors` names them; repeatable. [default: Inception and CLIP, if they are here]")  # fmt: skip
@click.option("--metric", multiple=True, metavar="NAME", help="Repeatable. [default: all that can be measured]")
@click.option("-n", "--samples", type=COUNT, metavar="N", help="The first N of IMAGES. [default: all]")
@click.option("--size", metavar="WxH", help="Crop each image at its centre and resize it, 512 or 512x768. [default: as "
              "IMAGES are, if all have one size]")  # fmt: skip
@download_option
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def score_(  # noqa: PLR0913  (an option each)
    images: str,
    reference: str,
    extractor: tuple[str, ...],
    metric: tuple[str, ...],
    samples: int | None,
    size: str | None,
    plugin: tuple[str, ...],
    as_json: bool,
) -> None:
    """Score IMAGES against REFERENCE: folders, files or data sets. FID, KID, precision, CMMD and the others.

    \b
    samplerbench score generated/ photos/
    samplerbench score generated.npz cifar10:test --metric fid \\
        --extractor inception --allow-download

    Each metric has its 95 % interval, given the reference. REFERENCE may also be a file of `samplerbench reference`,
    or an .npz of mu and sigma. Its images are cropped and resized to the size of IMAGES. The CLIP score needs a caption
    for each of IMAGES. A line says what is left out and why; what --metric and --extractor name is never left out.
    """
    from ..plan.reference import data_of, images_at, source_of
    from ..score import score_images, score_to_sheet

    with stdout_for_data():
        registry = registry_with_note(plugin)
        warn_of_plugins(registry)
        scored = images_at(data_of(images, registry, "images"), size, samples, "images")
        # The reference takes the size of the images, and not the other way round: what is judged is judged as it is.
        source = source_of(reference, scored.shape, registry)
        made = score_images(scored, source, registry, extractor, metric)
    # JSON carries what was left out as a field, and stderr stays empty for programs.
    if as_json:
        about = {"images": made.images, "caption": score_to_sheet(made).caption, "left_out": list(made.notes)}
        click.echo(table_to_json(made.table, about))
        return
    print_sheet(score_to_sheet(made))
    for note in made.notes:
        complain(note, kind="Left out")

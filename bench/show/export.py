"""The kept images of a row of a run, with their captions, as a folder for other tools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ...samplers.errors import InputError, closest, quote
from ...samplers.files.image_folder import check_is_empty, write_images
from ...samplers.files.tiles import Images
from ...samplers.text import count_of
from ..judge.stored import StoredRun
from ..plan.record import CellRecord


@dataclass(frozen=True)
class Exported:
    """What was written."""

    images: int
    drawn: int
    """How many images of the row the run has drawn, kept or not."""
    has_captions: bool


def export(run: StoredRun, row: str, folder: Path, n: int | None = None) -> Exported:
    """Write the kept images of a row, or the first n of them, into a new or empty folder.

    InputError for a row that the run does not have, and if no image, or fewer than n, are kept of it.
    """
    cell = find_row(run, row)
    # Before any chunk is read, which takes long in a large run.
    check_is_empty(folder)
    places = run.folder.places_of(cell.key)
    drawn = sum(samples for _, samples in places)
    if not places:
        raise InputError(f"row {quote(row)}: {run.path} has no samples of it; give its command to draw them")
    # Before the folder is made: a refusal leaves nothing behind.
    if next(kept_images(run, cell), None) is None:
        raise InputError(f"row {quote(row)}: {run.path} keeps no images of it; expected a model that makes images")
    if n is not None and (kept := sum(1 for _ in kept_images(run, cell))) < n:
        raise InputError(
            f"row {quote(row)}: {kept} of {count_of(drawn, 'image')} are kept; expected -n of at most {kept}, or a run "
            "with --keep-images, which keeps all of them"
        )
    written = write_images(folder, islice(kept_images(run, cell), n), run.record.prompts)
    return Exported(written, drawn, bool(run.record.prompts))


def kept_images(run: StoredRun, cell: CellRecord) -> Iterator[tuple[int, Images]]:
    """The number of each kept image of a cell, and the image; one chunk at a time is in memory."""
    for place in run.folder.places_of(cell.key):
        chunk = run.folder.read_at(cell.key, place)
        if chunk.images is not None:
            # By its place among all samples, not among those that are kept: of larger images only the first are.
            yield from enumerate(chunk.images, chunk.first)


def find_row(run: StoredRun, name: str) -> CellRecord:
    """The row "ddim@10": a sampler by its name or as it was given, and its steps, or its budget in a run of budgets.

    In a run of a single count the sampler is enough; in one of several guidances it is "ddim@10@2.5".
    """
    record = run.record
    several = len(record.config.guidances) > 1
    places = zip(record.budgets, record.cells, strict=True)
    ends = [(f"@{count}" + (f"@{guidance:g}" if several else ""), cell) for (_, count, guidance), cell in places]
    rows = {cell.shown + end: cell for end, cell in ends}
    if len(record.config.counts) == 1 and not several:
        rows |= {cell.shown: cell for cell in record.cells}
    # A row with a name is also known by its spec, which an error need not list.
    by_spec = {cell.sampler + name.removeprefix(cell.shown): cell for name, cell in rows.items()}
    if found := rows.get(name) or by_spec.get(name):
        return found
    raise InputError(f"row {quote(name)}: not in {run.path}{closest(name, rows)}; there are: {', '.join(rows)}")

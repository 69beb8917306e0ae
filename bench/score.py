"""Score images that are there already: every metric of one set of images against another, without drawing anything."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from ..samplers.errors import InputError, ModelError
from ..samplers.extractor import Extractor
from ..samplers.image_data import ImageData
from ..samplers.metric import LEAST_IMAGES, Estimate, Metric, Rows
from ..samplers.registry import Registry, default_registry, load_registry
from ..samplers.text import printable
from .draw.chunk import extract_rows
from .judge.statistics import Gathered, estimates
from .plan.equipment import DEFAULTS, OF_PROMPTS, check_prompts
from .plan.reference import COMPARED, Images, Source, bar_on_terminal, data_of, images_at, referring, source_of
from .plan.yardstick import Yardstick, check_samples, make_ready
from .run import labels_of
from .show.formats import sheet_to_html
from .show.sheet import (
    INTERVAL,
    Column,
    Entry,
    Sheet,
    heading_of,
    notes_of,
    sheet_to_markdown,
    singular_notes,
    with_interval,
)

OFFLINE = {"features": ("efficientnet-lite0",), "logits": ("efficientnet-lite0",), "state": ("pixels",)}
"""The extractors of each role that need no download, used where that of `DEFAULTS` is not on this machine."""
ONLY_IF_NAMED = ("composition",)
"""Roles whose metrics are about captions of one kind: few who score images need to hear that these have none."""
COLUMNS = ("metric", "extractor", "value", "low", "high", "better", "unit", "images")


@dataclass(frozen=True)
class Score:
    """The metrics of a set of images."""

    table: pd.DataFrame
    """A row for each metric and extractor: metric, extractor, value, low and high (its 95 % interval, NaN with fewer
    than 20 images), better, unit, images."""
    images: str
    """What was scored, as "512 images of photos at 32x32"."""
    notes: tuple[str, ...]
    """Each metric or extractor that was left out, and why."""
    labels: tuple[Mapping[str, Mapping[str, str]], ...]
    """For each extractor in turn, by metric, what a reader must know of it and of the reference."""

    def __str__(self) -> str:
        """The table in Markdown."""
        return sheet_to_markdown(score_to_sheet(self))

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        return sheet_to_html(score_to_sheet(self))


@dataclass(frozen=True)
class Reader:
    """The extractors by role that one spec describes, put to a set of images."""

    spec: str
    name: str
    """The name of the images."""
    extractors: Mapping[str, Extractor]


class LeftOut:
    """What cannot be measured and why, where it was not asked for by name."""

    def __init__(self) -> None:
        # As a dict, which keeps the order: several metrics may be left out for one reason.
        self._reasons: dict[str, None] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """The reasons, each once."""
        return tuple(self._reasons)

    def add(self, reason: str) -> None:
        """Note one reason."""
        self._reasons[reason] = None

    @contextmanager
    def unless(self, asked: bool) -> Iterator[None]:
        """Note an InputError or a ModelError in place of raising it, unless the user asked for the thing by name."""
        try:
            yield
        except (InputError, ModelError) as error:
            if asked:
                raise
            self.add(str(error))


def score(  # noqa: PLR0913  (a setting each, as the options of the command)
    images: ImageData | str | os.PathLike[str],
    reference: ImageData | str | os.PathLike[str],
    *,
    extractor: Sequence[str] | str = (),
    metric: Sequence[str] | str = (),
    samples: int | None = None,
    size: str | None = None,
    plugins: Sequence[str] = (),
) -> Score:
    """Every metric of `images` against `reference`: two folders, data sets or files of images.

    `reference` may also be a file of rows or of mean and covariance, as `samplerbench reference` writes. By default
    every metric that an extractor on this machine serves is measured, and the notes say what is left out; what
    `extractor` and `metric` name is an error if it cannot be measured. `samples` takes the first images only, `size`
    crops and resizes all of them ("32x32"); by default all of `images` must have one size, which is that of the
    reference too. The CLIP score needs a caption for each image.
    """
    registry = load_registry(plugins) if plugins else default_registry()
    # The images come first: their size is that to which the reference is cropped.
    data = images if isinstance(images, ImageData) else data_of(os.fspath(images), registry, "images")
    scored = images_at(data, size, samples, "images")
    if isinstance(reference, ImageData):
        source: Source = Images(reference, scored.shape)
    else:
        source = source_of(os.fspath(reference), scored.shape, registry)
    extractors, metrics = ((one,) if isinstance(one, str) else tuple(one) for one in (extractor, metric))
    return score_images(scored, source, registry, extractors, metrics)


def score_images(
    images: Images, source: Source, registry: Registry, extractors: Sequence[str], metrics: Sequence[str]
) -> Score:
    """The metrics of images against a source, by these extractors; () = all metrics, by the usual extractors."""
    # What was asked for by name has to work; what is tried by default is left out with a note.
    kinds = {name: registry.metrics[name] for name in metrics or sorted(registry.metrics.things)}
    # With nothing named, a note on what few people need would only be noise.
    if not metrics and not extractors:
        kinds = {name: kind for name, kind in kinds.items() if kind.extractor not in ONLY_IF_NAMED}
    left_out, is_asked = LeftOut(), bool(metrics)
    readers = readers_for(kinds, images.data.name, registry, extractors, left_out, is_asked)
    readers = [with_reference(reader, source, left_out, bool(extractors)) for reader in readers]
    captions, readers = with_captions(images, readers, left_out, is_asked)
    ready = [ready_for(reader, kinds, images.count, left_out, is_asked) for reader in readers]
    check_read(kinds, readers, left_out, is_asked)
    if not any(ready):
        raise InputError("; ".join(["no metric can be measured", *left_out.notes]))
    rows, labels = [], []
    for reader, yardsticks, read in zip(readers, ready, rows_of(images, readers, ready, captions), strict=True):
        # No prompts in turn: each image is an independent sample, so there are no strata.
        found = estimates(Gathered((), read), yardsticks)
        rows += [row_of(name, found[name], reader, yardsticks[name].metric) for name in found]
        labels.append(labels_of(reader, {name: yardsticks[name] for name in found}))
    return Score(pd.DataFrame(rows, columns=COLUMNS), images.told, left_out.notes, tuple(labels))


# ---- Who reads the images ----


def readers_for(  # noqa: PLR0913  (who asks for what)
    kinds: Mapping[str, type[Metric]],
    name: str,
    registry: Registry,
    specs: Sequence[str],
    left_out: LeftOut,
    is_asked: bool,
) -> list[Reader]:
    """The named extractors, or for each role that the metrics read the first usual one that is on this machine."""
    roles = sorted({kind.extractor for kind in kinds.values()})
    if specs:
        made = {spec: registry.extractors_of(spec) for spec in specs}
        found = {spec: {role: of[role] for role in roles if role in of} for spec, of in made.items()}
    else:
        found = usual_extractors(roles, registry, left_out, is_asked)
    return [Reader(spec, name, of) for spec, of in found.items() if of]


def usual_extractors(
    roles: Sequence[str], registry: Registry, left_out: LeftOut, is_asked: bool
) -> dict[str, dict[str, Extractor]]:
    """For each role the first of its usual extractors that is on this machine, by spec and role."""
    made: dict[str, Mapping[str, Extractor]] = {}
    found: dict[str, dict[str, Extractor]] = {}
    for role in roles:
        specs = [*filter(None, [DEFAULTS.get(role)]), *OFFLINE.get(role, ())]
        for spec in specs:
            if spec not in made:
                # An error only where nothing is left that could serve a metric that was asked for.
                with left_out.unless(is_asked and spec == specs[-1]):
                    made[spec] = registry.extractors_of(spec)
            if role in made.setdefault(spec, {}):
                found.setdefault(spec, {})[role] = made[spec][role]
                break
    return found


def with_reference(reader: Reader, source: Source, left_out: LeftOut, is_asked: bool) -> Reader:
    """A reader whose rows that metrics compare have the reference; one that the reference does not fit is left out."""
    # Roles that are compared with nothing, as the CLIP score, need no reference.
    fitting = {role: one for role, one in reader.extractors.items() if role not in COMPARED}
    for role in sorted(reader.extractors.keys() - fitting.keys()):
        with left_out.unless(is_asked):
            one = referring(reader.extractors[role], source)
            # Read once, whatever the number of metrics.
            fitting[role] = replace(one, reference=cache(one.reference)) if one.reference else one
    return replace(reader, extractors=fitting)


def with_captions(
    images: Images, readers: Sequence[Reader], left_out: LeftOut, is_asked: bool
) -> tuple[list[str], list[Reader]]:
    """The captions of images for the readers that need them; without captions these readers lose that role."""
    reading = [{role: e for role, e in one.extractors.items() if role in OF_PROMPTS} for one in readers]
    captions: list[str] = []
    if any(reading):
        with left_out.unless(is_asked):
            found = captions_of(images)
            for extractors in reading:
                check_prompts(extractors, tuple(found))
            captions = found
    if captions:
        return captions, list(readers)
    # Images without captions still have all other metrics.
    bare = [{role: e for role, e in one.extractors.items() if role not in OF_PROMPTS} for one in readers]
    return [""] * images.count, [replace(one, extractors=of) for one, of in zip(readers, bare, strict=True)]


def captions_of(images: Images) -> list[str]:
    """The caption of each image; InputError names the first that has none."""
    captions = [images.data.caption(i) for i in range(images.count)]
    # All or none: a score over those that have a caption would be of fewer images than the table says.
    if None in captions:
        raise InputError(
            f"images {images.data.name}: image {captions.index(None)} has no caption, which the CLIP score compares "
            "with; give each one, as in a text file beside it"
        )
    return [caption for caption in captions if caption is not None]


# ---- What is measured ----


def ready_for(
    reader: Reader, kinds: Mapping[str, type[Metric]], count: int, left_out: LeftOut, is_asked: bool
) -> dict[str, Yardstick]:
    """The metrics that a reader serves, made ready for this many images."""
    ready: dict[str, Yardstick] = {}
    for name in kinds:
        with left_out.unless(is_asked):
            # One by one, so that a metric that cannot be made ready takes no other with it.
            made = make_ready([name], kinds, reader)
            for yardstick in made.values():
                check_samples(name, yardstick, count, "give more images, or leave the metric out")
            ready |= made
    return ready


def check_read(kinds: Mapping[str, type[Metric]], readers: Sequence[Reader], left_out: LeftOut, is_asked: bool) -> None:
    """Note the metrics whose role no reader has; an InputError for those that were asked for."""
    served = {role for reader in readers for role in reader.extractors}
    names = [name for name, kind in kinds.items() if kind.extractor not in served]
    if not names:
        return
    roles = ", ".join(sorted({kinds[name].extractor for name in names}))
    with left_out.unless(is_asked):
        raise InputError(
            f"{', '.join(names)}: no extractor here reads {roles}; `samplerbench list extractors` names more"
        )


def rows_of(
    images: Images, readers: Sequence[Reader], ready: Sequence[Mapping[str, Yardstick]], captions: Sequence[str]
) -> list[dict[str, Rows]]:
    """For each reader the rows by role that its metrics read, with a bar on a terminal; each image is read once."""
    # Only roles that some metric reads: an extractor may fill others, at a cost.
    blocks: list[dict[str, list[Rows]]] = [
        {role: [] for role in sorted({one.metric.extractor for one in yardsticks.values()})} for yardsticks in ready
    ]
    with bar_on_terminal(f"images {images.data.name}") as report:
        # Outside, because decoding an image takes longer than most extractors: each is decoded once for all of them.
        for numbers, shown in images.blocks():
            texts = captions[numbers.start : numbers.stop]
            for reader, of_reader in zip(readers, blocks, strict=True):
                for role, rows in of_reader.items():
                    rows.append(extract_rows(reader, role, shown, texts, numbers.start).astype(np.float32))
            report(numbers.stop, images.count)
    return [{role: np.concatenate(rows) for role, rows in of_reader.items()} for of_reader in blocks]


def row_of(name: str, estimate: Estimate, reader: Reader, metric: Metric) -> dict[str, object]:
    """A row of the table."""
    return {
        "metric": name, "extractor": reader.extractors[metric.extractor].label, "value": estimate.value,
        "low": estimate.low, "high": estimate.high, "better": metric.better, "unit": metric.unit,
        "images": len(estimate.influence),
    }  # fmt: skip


# ---- What is shown ----


def score_to_sheet(made: Score) -> Sheet:
    """A score as people read it: a metric a row, what a reader must know in the caption."""
    headings = [heading_of(name, labels) for labels in made.labels for name in labels]
    rows = [
        [Entry(printable(heading)), entry_of(row), Entry(row["better"])]
        for heading, row in zip(headings, made.table.to_dict("records"), strict=True)
    ]
    columns = [Column("metric", is_text=True, is_key=True), Column("value"), Column("better", is_text=True)]
    return Sheet(columns, rows, printable(caption(made)))


def entry_of(row: Mapping[Hashable, Any]) -> Entry:
    """A value with its interval."""
    value, _, small = with_interval(row["value"], row["low"], row["high"]).partition(" ")
    return Entry(value, small)


def caption(made: Score) -> str:
    """What a reader must know about the numbers."""
    count = int(made.table["images"].max())
    few = count < LEAST_IMAGES
    intervals = f"fewer than {LEAST_IMAGES} images have no interval" if few else f"{INTERVAL}, for this reference"
    about = "".join(notes_of(labels) + singular_notes(count, labels) for labels in made.labels)
    return f"{made.images}; {intervals}.{about}"

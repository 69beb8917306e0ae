"""Tables of several runs -> one table, if the runs can be compared; else a refusal that names the difference."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ...samplers.errors import InputError
from ..draw import clock as timing
from ..draw.latency import is_latency
from ..plan.config import as_json
from ..plan.environment import VERSIONS_THAT_MATTER
from ..plan.names import check_distinct
from ..plan.settings import names_of
from .statistics import samples_hash
from .stored import StoredRun
from .table import GUIDED_COLUMNS, SPEC, Labels, row_name, rows_to_table

IDENTITY = ("sampler", "grid", "steps", "guidance", *GUIDED_COLUMNS)
"""The columns that say which cell a row is: all axes together."""
Identity = tuple[Any, ...]
"""What two runs' rows of one cell agree in."""
COMPARABLE = names_of(lambda one: one.must_agree)
"""The settings in which runs must agree."""
VERSION_FIELDS = {f"{name} version": name for name in VERSIONS_THAT_MATTER}
"""The packages in whose versions runs must agree, by what an error calls the version."""
MACHINE = ("cpu", "cores", "threads", "device", "system")
"""The entries of the environment in which runs must agree for their seconds to be compared."""
CLOSE = 1e-6
"""Relative difference of numbers that differ only by rounding: another machine adds in another order."""
SECONDS_NOTE = "seconds of different machines are not compared"
RUNS_NOTE = "the runs were not clocked side by side: seconds of different runs are not to be compared"


@dataclass(frozen=True)
class Origin:
    """Where a row of a table comes from."""

    run: StoredRun
    place: int
    """The row's place in the run's own table."""

    @property
    def key(self) -> str:
        """The cell's key."""
        return self.run.record.cells[self.place].key

    @property
    def across(self) -> str:
        """What the run counts by: "nfe" or "steps"."""
        return self.run.record.across

    @property
    def count(self) -> int:
        """The budget or step count that the row was made for."""
        return self.run.record.budgets[self.place][1]


@dataclass(frozen=True)
class Merged:
    """One table of several runs."""

    table: pd.DataFrame
    labels: Labels
    origins: tuple[Origin, ...]
    """The origin of each row."""
    notes: tuple[str, ...]
    """What a reader of the table must know."""


def merge(runs: Sequence[StoredRun]) -> Merged:
    """The rows of all runs, in the order given; a cell of several runs appears once.

    Raises InputError if the runs cannot be compared, or if two have different results for one cell.
    """
    # Rows are taken run by run; of a cell that several have, the first is kept and the others must agree with it.
    check_comparable(runs)
    names = names_in(runs)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    of_run: dict[tuple[Any, ...], StoredRun] = {}
    origins: dict[tuple[Any, ...], Origin] = {}
    for run in runs:
        rows_of_run = zip(identities_of(run), run.table.to_dict("records"), strict=True)
        for place, (cell, row) in enumerate(rows_of_run):
            if cell in rows:
                check_same_numbers(rows[cell], of_run[cell], row, run)
            else:
                spec = run.record.cells[place].sampler
                known = {str(name): value for name, value in row.items()}
                rows[cell], of_run[cell] = {**known, "sampler": names[spec] or spec, SPEC: spec}, run
                origins[cell] = Origin(run, place)
    name_same_samples(rows, runs)
    table = rows_to_table(list(rows.values()))
    # Seconds of another machine are not shown beside the others at all, since a reader would compare them.
    comparable = have_comparable_seconds(runs)
    if not comparable:
        table[[name for name in table.columns if is_of_the_clock(name)]] = math.nan
    # Reversed, so that the first run wins.
    labels = {name: label for run in reversed(runs) for name, label in run.labels.items()}
    return Merged(table, labels, tuple(origins.values()), (RUNS_NOTE,) if comparable else (SECONDS_NOTE,))


def names_in(runs: Sequence[StoredRun], purpose: str = "merge") -> dict[str, str]:
    """The name of each sampler spec of the runs, "" where it has none: the first that a run gives it.

    `purpose` is what the runs are read for, as errors begin. InputError for a name that has another spec in another
    run.
    """
    names: dict[str, str] = {}
    for run in runs:
        for spec, name in run.record.config.names.items():
            names[spec] = names.get(spec) or name
        try:
            check_distinct(names)
        except InputError as error:
            raise InputError(
                f"{purpose} {run.path}: {error}; give the command of a run again, with another name in -s NAME=SPEC"
            ) from error
    return names


def identities_of(run: StoredRun) -> list[Identity]:
    """Which cell each row of a run is: its axes, None for one that it lacks, and its declared calls.

    By its spec, whatever its name. Not the cell's key: that holds the number of threads and versions, which may differ
    between machines. The calls tell rows apart whose sampler meets two budgets in as many steps.
    """
    return [
        (cell.sampler, *(None if pd.isna(row.get(name)) else row[name] for name in IDENTITY[1:]), cell.nfe)
        for cell, row in zip(run.record.cells, run.table.to_dict("records"), strict=True)
    ]


def check_comparable(runs: Sequence[StoredRun], purpose: str = "merge", *, but: Collection[str] = ()) -> None:
    """Refuse runs of another model, other extractors, other samples or other versions.

    `purpose` is what the runs are compared for, as errors begin; in the fields `but` they may differ.
    """
    first = runs[0]
    for run in runs:
        if not of_model(run):
            raise InputError(
                f"{purpose} {run.path}: it does not say of which model it is; give its run's command again, which adds "
                "that, or give the model a fingerprint"
            )
    for run in runs[1:]:
        # A field that a run does not have, as a metric that it does not measure, cannot disagree.
        theirs, ours = compared_fields(run), compared_fields(first)
        for field in ours:
            if field not in but and field in theirs and ours[field] != theirs[field]:
                raise InputError(
                    f"{purpose} {run.path}: {field} {theirs[field]!r}, and {ours[field]!r} in {first.path}; "
                    "expected runs that agree in it"
                )


def of_model(run: StoredRun) -> str:
    """The fingerprint of a run's model; '' if it has none."""
    return run.record.model.fingerprint


def compared_fields(run: StoredRun) -> dict[str, Any]:
    """Each field in which runs must agree, by the name that an error gives it."""
    settings, versions = as_json(run.record.config), run.record.environment.versions
    fields: dict[str, Any] = {"model": run.record.model.name, "model fingerprint": of_model(run)}
    fields |= {name: settings.get(name) for name in COMPARABLE}
    fields |= {field: versions.get(name) for field, name in VERSION_FIELDS.items()}
    # The rows of two extractors are no measurements of one thing, even under one label.
    for metric, label in run.labels.items():
        fields[f"extractor of {metric}"] = (label.get("label"), label.get("fingerprint"))
    # Metrics such as FID depend on the number of images, so rows of different n cannot be compared.
    drawn = run.table.loc[run.table["samples"] > 0, "samples"]
    if len(drawn):
        fields["samples that are there so far"] = int(drawn.max())
    return fields


def check_same_numbers(row: Mapping[str, Any], run: StoredRun, other: Mapping[Any, Any], other_run: StoredRun) -> None:
    """Refuse two different results of one cell. Seconds may differ; those of the first run stay."""
    # `same_as` depends on the other rows of a run, and times on when it ran.
    names = ("sampler", SPEC, "same_as")
    compared = [name for name in row if name in other and name not in names and not is_of_the_clock(name)]
    for name in compared:
        if not is_same(row[name], other[name]):
            cell = " ".join(f"{n} {row[n]}" for n in IDENTITY if not pd.isna(row.get(n)))
            raise InputError(
                f"merge {other_run.path}: {name} of {cell} is {other[name]!r}, and {row[name]!r} in {run.path}; "
                "`samplerbench verify` shows which of them can be drawn again"
            )


def is_of_the_clock(column: str) -> bool:
    """Whether a column holds times, or what was measured with them."""
    return column in timing.COLUMNS or is_latency(column)


def is_same(a: object, b: object) -> bool:
    """Whether both are equal, both are missing (NaN), or they differ only by rounding."""
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        # NaN is equal to nothing, itself included.
        return math.isclose(a, b, rel_tol=CLOSE) or (math.isnan(a) and math.isnan(b))
    return a == b


def name_same_samples(rows: Mapping[tuple[Any, ...], dict[str, Any]], runs: Sequence[StoredRun]) -> None:
    """Fill `same_as` for rows of different runs with the same samples, as far as their chunks are there."""
    # Reversed here too, so that of a cell in several runs the first counts, as above.
    hashes = {cell: found for run in reversed(runs) for cell, found in hashes_of(run).items()}
    seen: dict[bytes, Mapping[str, Any]] = {}
    for cell, row in rows.items():
        if cell not in hashes:
            continue
        first = seen.setdefault(hashes[cell], row)
        if first is not row and pd.isna(row["same_as"]):
            row["same_as"] = row_name(first, row)


def hashes_of(run: StoredRun) -> dict[tuple[Any, ...], bytes]:
    """The hash of all samples of each cell whose chunks are there."""
    whole, found = run.record.config.samples, {}
    for cell, identity in zip(run.record.cells, identities_of(run), strict=True):
        chunks = [chunk for _, chunk in sorted(run.chunks(cell).items())]
        # The hash of some of the samples would differ from that of all.
        if sum(chunk.n for chunk in chunks) == whole:
            found[identity] = samples_hash(chunks)
    return found


def have_comparable_seconds(runs: Sequence[StoredRun]) -> bool:
    """Whether all runs were timed on machines of one kind, in batches of one size."""

    def timed_on(run: StoredRun) -> list[Any]:
        environment = run.record.environment
        return [*(getattr(environment, name) for name in MACHINE), run.record.config.batch_size]

    return all(timed_on(run) == timed_on(runs[0]) for run in runs)

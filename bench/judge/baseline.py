"""A run against an earlier one: is a row shown to be worse than the same row there?

Both runs start from the same noise, so rows are compared sample by sample as within a run. p is corrected for all rows
that both have, metric by metric (Holm 1979), and for looks at the run. Seconds are not compared: the runs were not
clocked side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from ...samplers.errors import InputError
from ...samplers.registry import Registry
from ..plan.record import CellRecord
from ..plan.yardstick import Yardstick
from .compare import SECONDS, WORSE, Comparison, cell_name, comparisons_of, comparisons_to_table, correct_among, side_of
from .looks import look_at
from .merge import VERSION_FIELDS, Identity, check_comparable, identities_of
from .run_metrics import check_settings, ready_metrics
from .stored import StoredRun


@dataclass(frozen=True)
class Against:
    """What a comparison with a baseline shows."""

    table: pd.DataFrame
    """A row for each metric of each common row: the difference from the baseline, its interval, p and the verdict."""
    failed: tuple[str, ...]
    """The rows that have samples in the baseline and failed in the run, with the reason."""
    left_out: tuple[str, ...]
    """The rows of the run that the baseline lacks, or that have no samples yet in one of both."""

    @property
    def worse(self) -> pd.DataFrame:
        """The rows of the table that are shown to be worse."""
        return self.table[self.table["verdict"] == WORSE]


def against_baseline(run: StoredRun, baseline: StoredRun, registry: Registry) -> Against:
    """Each metric of each row of a run, less that of the same row of the baseline.

    InputError if the runs differ in their model, extractors, seed, prompts or number of samples, or share no row.
    Versions may differ: whether a new one is worse is what a baseline is for.
    """
    check_comparable([run, baseline], "baseline", but=VERSION_FIELDS)
    check_settings(baseline)
    # Only metrics that the baseline measured too: its chunks have no rows for others.
    ready = {name: one for name, one in ready_metrics(run, registry).items() if name in baseline.labels}
    # Each row of the run is compared, has failed where the baseline did not, or is left out.
    asked: list[Comparison] = []
    failed, left_out = [], []
    samples, there = 0, places_by_identity(baseline)
    for identity, place in places_by_identity(run).items():
        cell, outcome = run.record.cells[place], run.outcomes[place]
        other = baseline.record.cells[there[identity]] if identity in there else None
        found = list(compare_across(run, cell, baseline, other, ready)) if other else []
        if other and outcome.has_failed and baseline.folder.places_of(other.key):
            failed.append(f"{cell_name(cell)} {outcome}")
        elif not found:
            left_out.append(cell_name(cell))
        else:
            asked += found
            samples = max(samples, int(run.table["samples"][place]))
    if not asked and not failed:
        raise InputError(f"baseline {baseline.path}: has no row in common with {run.path} whose samples both have")
    # The baseline is fixed and the run is what is asked about, so it is a look at the run.
    look = look_at(run, samples)
    known = correct_among(asked, [], look.weight)
    table = comparisons_to_table(asked, [p for p, _ in known]).rename(columns={"a": "row"})
    table = table.reindex(columns=["metric", "row", "difference", "low", "high", "p", "verdict"])
    table = table.assign(family=[size for _, size in known], look=look.number)
    return Against(table, tuple(failed), tuple(left_out))


def places_by_identity(run: StoredRun) -> dict[Identity, int]:
    """The place of each row of a run in its table; of two budgets that lead to one row, the first."""
    found: dict[Identity, int] = {}
    for place, identity in enumerate(identities_of(run)):
        # The two have the same samples, so a second comparison would only enlarge the family.
        found.setdefault(identity, place)
    return found


def compare_across(
    run: StoredRun, cell: CellRecord, baseline: StoredRun, other: CellRecord, ready: Mapping[str, Yardstick]
) -> Iterator[Comparison]:
    """Every metric of two runs' cells on the samples that both have; nothing if there are none."""
    common = sorted(set(run.folder.places_of(cell.key)) & set(baseline.folder.places_of(other.key)))
    if common:
        sides = side_of(run, cell, common, ready), side_of(baseline, other, common, ready)
        yield from (one for one in comparisons_of(*sides, ready) if one.metric != SECONDS)

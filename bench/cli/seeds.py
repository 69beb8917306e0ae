"""The end of `samplerbench run --seed 0,1,2`: one table and one page of the runs of all seeds."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..show.console import print_sheet, say, stdout_for_data, table_to_json

if TYPE_CHECKING:
    from ...samplers.registry import Registry
    from ..judge.run_metrics import LoadMetrics
    from ..judge.stored import StoredRun
    from ..show.doing import Doing


def show_seeds(folders: Sequence[Path], page: Path, registry: Registry, doing: Doing, *, as_json: bool) -> None:
    """Print the table of the means over the seeds, and write the page of their runs, which has it too.

    InputError if no row is finished in all of them.
    """
    from ..judge.run_metrics import ready_metrics
    from ..judge.stored import StoredRun
    from ..show.formats import content_over_seeds, with_notes
    from ..show.several import write_page

    def metrics_of(one: StoredRun) -> LoadMetrics:
        # Only where a verdict of a run is missing; the table of means needs no metric.
        return cache(lambda: ready_metrics(one, registry))

    runs = [StoredRun(folder) for folder in folders]
    with stdout_for_data():
        content = content_over_seeds(runs)
        sheet = with_notes(content)
        # Each run has written its own page at its end, so only the page of all is made.
        write_page(runs, page, metrics_of, sheet)
    doing.over()
    if as_json:
        click.echo(table_to_json(content.table, {**content.about, "page": str(page)}))
        return
    print_sheet(sheet)
    if not doing.is_quiet:
        # The runs are whole, so the table can be printed again without drawing.
        say(f"{page}; again: {shlex.join(['samplerbench', 'table', *map(str, folders), '--seeds'])}", err=True)

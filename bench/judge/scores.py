"""The rows of a run for rankings: a metric's estimate on the samples that all rows have, and their cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ...samplers.errors import InputError, closest
from ...samplers.metric import Estimate
from ...samplers.registry import Registry
from ..draw.clock import Repeat, machines
from ..plan.record import CellRecord
from ..plan.yardstick import Yardstick
from .compare import SECONDS, Comparison, cell_name, comparison_of, corrected_p
from .looks import ONLY_LOOK, Look, look_at
from .ranking import budgets_of, directions
from .run_metrics import ready_metrics
from .statistics import ODE_DISTANCE, ODE_ERROR, estimates, for_verdicts, gather, metric_columns, without_bias
from .stored import StoredRun
from .table import rows_in

NOT_MEASURED = "not measured"
Cost = Literal["nfe", "seconds", "depth"]
"""What a row costs: model calls, seconds an image, or model calls one after the other."""


@dataclass(frozen=True)
class Score:
    """One row of a table."""

    cell: CellRecord
    """Its cell in run.json."""
    row: Mapping[str, Any]
    """Its row in table.csv."""
    estimate: Estimate | None
    """The metric's estimate; None for a cell without samples, or without a value of this metric."""
    found: Mapping[str, Estimate]
    """All estimates, by metric."""
    clocked: tuple[Repeat, ...]

    @property
    def key(self) -> str:
        """The cell's key."""
        return self.cell.key

    @property
    def name(self) -> str:
        """ "ddim, 10 steps, 10 calls"."""
        return cell_name(self.cell)

    def cost(self, by: Cost) -> float:
        """Model calls, median seconds an image, or depth (nfe where a table leaves it out); nan where unknown."""
        # A table has the column `depth` only where it says more than `nfe`.
        name = SECONDS if by == "seconds" else by
        return float(self.row[name if name in self.row else "nfe"])

    def upper_cost(self, by: Cost) -> float:
        """The cost with what noise may add: for seconds the upper quartile, if there is one."""
        high = float(self.row[metric_columns(SECONDS)[2]])
        return high if by == "seconds" and math.isfinite(high) else self.cost(by)


@dataclass(frozen=True)
class Scores:
    """All rows of a run by one metric."""

    metric: str
    lower: Mapping[str, bool]
    """For each metric that was measured, whether lower is better."""
    rows: tuple[Score, ...]
    budgets: tuple[int, ...] = ()
    """The budgets of model calls in the run's own report."""
    look: Look = ONLY_LOOK
    """The look at the run that this question is."""

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower value of the metric is better."""
        return self.lower[self.metric]

    def best_first(self, rows: Iterable[Score]) -> list[Score]:
        """Measured rows by the metric's value."""
        return sorted(rows, key=self.loss)

    def loss(self, score: Score) -> float:
        """The metric's value, with its sign turned if higher is better; nan if it was not measured."""
        value = score.estimate.value if score.estimate else math.nan
        return value if self.lower_is_better else -value

    def comparison(self, a: Score, b: Score) -> Comparison:
        """The metric of a less that of b; both are measured."""
        assert a.estimate is not None
        assert b.estimate is not None
        return comparison_of(self.metric, a.cell, b.cell, a.estimate, b.estimate, self.lower_is_better)

    def correct_pairs(self, pairs: Iterable[tuple[Score, Score]]) -> dict[frozenset[str], float]:
        """p of each pair of cells, corrected for all of them and for looks.

        A pair that is given twice counts once, and two cells with the same samples are no question.
        """
        # Unordered pairs of cells: in either order it is one question.
        all_pairs = {frozenset((a.key, b.key)): self.comparison(a, b) for a, b in pairs if a.key != b.key}
        family = {pair: comparison for pair, comparison in all_pairs.items() if comparison.is_question}
        return dict(zip(family, corrected_p(list(family.values()), self.look.weight), strict=True))


def scores_of(run: StoredRun, registry: Registry, metric: str | None, *, by: Cost) -> Scores:
    """The rows of a run by a metric of the run or "ode_error"; by default its first metric, or the ODE error.

    Raises InputError for any other metric, if samples are missing, and if several machines took the seconds.
    """
    return scores_by(run, ready_metrics(run, registry), metric, by=by)


def scores_by(run: StoredRun, ready: Mapping[str, Yardstick], metric: str | None, *, by: Cost) -> Scores:
    """The rows of a run by one metric, for a run whose metrics are made ready already; errors as of `scores_of`."""
    name = _metric_name(run, metric, ready)
    # Other metrics cost time and memory, and are not asked for.
    names = {name, ready[name].metric.unbiased} if name in ready else set()
    return _scores(run, name, {one: yardstick for one, yardstick in ready.items() if one in names}, by)


def scores_by_each(
    run: StoredRun, ready: Mapping[str, Yardstick], metrics: Sequence[str], *, by: Cost
) -> dict[str, Scores]:
    """`scores_by` of each metric, from one reading of the samples."""
    if not metrics:
        return {}
    of_all = _scores(run, _metric_name(run, metrics[0], ready), ready, by)
    return {name: _of_metric(of_all, _for_rankings(run, _metric_name(run, name, ready), ready)) for name in metrics}


def scores_from(  # noqa: PLR0913  (what a table was made of)
    run: StoredRun,
    ready: Mapping[str, Yardstick],
    metrics: Sequence[str],
    found: Mapping[int, Mapping[str, Estimate]],
    timings: Mapping[int, tuple[Repeat, ...]],
    *,
    by: Cost,
) -> dict[str, Scores]:
    """`scores_by_each`, from the estimates and timings of each row that has samples: no chunk is read again."""
    if not metrics:
        return {}
    rows = enumerate(zip(run.record.cells, rows_in(run.table), strict=True))
    scores = (Score(cell, row, None, found.get(i, {}), timings.get(i, ())) for i, (cell, row) in rows)
    of_all = _make_comparable(run, "", ready, by, tuple(scores))
    return {name: _of_metric(of_all, _for_rankings(run, _metric_name(run, name, ready), ready)) for name in metrics}


def _of_metric(scores: Scores, metric: str) -> Scores:
    """The same rows, measured by all metrics, by another of them."""
    rows = tuple(replace(score, estimate=_with_value(score.found.get(metric))) for score in scores.rows)
    return replace(scores, metric=metric, rows=rows)


def all_scores_of(run: StoredRun, registry: Registry, metric: str | None, *, by: Cost) -> Scores:
    """The rows of a run by one metric, with every metric measured and not only the one that ranks; errors as of
    `scores_of`."""
    ready = ready_metrics(run, registry)
    return _scores(run, _metric_name(run, metric, ready), ready, by)


def _scores(run: StoredRun, metric: str, ready: Mapping[str, Yardstick], by: Cost) -> Scores:
    metric = _for_rankings(run, metric, ready)
    rows = zip(run.record.cells, rows_in(run.table), strict=True)
    return _make_comparable(run, metric, ready, by, tuple(_score(run, cell, row, metric, ready) for cell, row in rows))


def _make_comparable(
    run: StoredRun, metric: str, ready: Mapping[str, Yardstick], by: Cost, scores: tuple[Score, ...]
) -> Scores:
    """The rows, which an InputError refuses where their cost cannot be compared."""
    # Even one row from another machine would be ranked by the machine and not by its sampler.
    if by == "seconds" and len(machines([repeat for score in scores for repeat in score.clocked])) > 1:
        raise InputError(
            f"{run.path}: was drawn on several machines, whose seconds are not compared; rank by calls of the model, "
            "with --nfe or --pareto --against nfe, or run it again on one of them"
        )
    return Scores(metric, directions(ready), scores, tuple(budgets_of(run)), look_at(run, _samples(run)))


def _samples(run: StoredRun) -> int:
    """The number of samples of the row that has most."""
    return int(run.table["samples"].max())


def _for_rankings(run: StoredRun, metric: str, ready: Mapping[str, Yardstick]) -> str:
    """The metric without bias from the number of samples on that it needs, as the table shows it."""
    return without_bias(metric, [name for name in ready if _samples(run) >= ready[name].fewest(name)], ready)


def _metric_name(run: StoredRun, metric: str | None, ready: Mapping[str, Yardstick]) -> str:
    """The metric asked for, or the run's first, or the ODE error of a run that scored no images."""
    # The first that was asked for, which is also the first in the table.
    if metric is None and ready:
        return next(iter(ready))
    if metric is None and run.table[ODE_ERROR].notna().any():
        return ODE_ERROR
    names = [*ready, ODE_ERROR, ODE_DISTANCE]
    if metric not in names:
        if metric is None:
            raise InputError("metric: this run scored no images, and no row has an ODE error; there is nothing to rank")
        raise InputError(f"metric {metric!r}: not in the run{closest(metric, names)}; there are: {', '.join(names)}")
    return str(metric)


def _score(
    run: StoredRun, cell: CellRecord, row: Mapping[Any, Any], metric: str, ready: Mapping[str, Yardstick]
) -> Score:
    """A row with its samples; one that failed or is pending has none."""
    if not row["samples"]:
        return Score(cell, row, None, {}, ())
    # The samples of the table's row: there may be more chunks by now, which other rows lack.
    chunks = [c for (first, n), c in run.chunks(cell).items() if first + n <= row["samples"]]
    if sum(chunk.n for chunk in chunks) != row["samples"]:
        raise InputError(f"{cell_name(cell)!r}: the run has not all of its samples; give its command to make them")
    gathered = gather(iter(chunks), int(row["samples"]), ready, run.record.prompts)
    found = for_verdicts(estimates(gathered, ready), ready)
    clocked = (*(c.repeat for c in chunks), *run.repeats(cell))
    return Score(cell, row, _with_value(found.get(metric)), found, clocked)


def _with_value(estimate: Estimate | None) -> Estimate | None:
    """The estimate; None for one without a value."""
    # A metric that overflowed has an estimate of NaN, which cannot be ranked.
    return estimate if estimate is not None and math.isfinite(estimate.value) else None

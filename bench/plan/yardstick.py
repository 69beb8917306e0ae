"""A metric made ready for a model: which extractor it reads, and what it keeps of the reference images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...samplers.errors import InputError
from ...samplers.extractor import Extractor
from ...samplers.metric import Metric, Moments, Rows, TooFewError
from ...samplers.model import Model
from ...samplers.options import at_fault
from ...samplers.process import switches_kept
from ...samplers.text import counted
from .config import Config


@dataclass(frozen=True)
class Yardstick:
    """A metric made ready for a model: what it keeps of the reference rows."""

    metric: Metric
    prepared: Any
    width: int | None = None
    """Numbers in each of the rows that it reads; None where there is no reference to tell."""

    def fewest(self, name: str) -> int:
        """The fewest samples for which the value means anything, as far as can be told; `name` is the metric's."""
        with at_fault(f"metric {name!r}"):
            return self.metric.least if self.width is None else self.metric.fewest(self.width)


def yardsticks(
    names: Sequence[str], metrics: Mapping[str, type[Metric]], model: Model, samples: int = 0
) -> dict[str, Yardstick]:
    """Those of the named metrics for which the model has an extractor, and reference rows where they are needed.

    Where so many samples are enough for it, the metric without bias stands behind them.
    """
    ready = made_ready(names, metrics, model)
    others = [one.metric.unbiased for one in ready.values() if one.metric.unbiased in metrics]
    for name, yardstick in made_ready([str(name) for name in others if name not in ready], metrics, model).items():
        if samples >= yardstick.fewest(name):
            ready[name] = yardstick
    return ready


def made_ready(names: Sequence[str], metrics: Mapping[str, type[Metric]], model: Model) -> dict[str, Yardstick]:
    """Those of the named metrics that the model has all for."""
    ready = {}
    for name in names:
        with switches_kept(f"metric {name!r}, or the extractor that it reads,"):
            with at_fault(f"metric {name!r}"):
                metric = metrics[name]()
            if extractor := extractor_for(metric, model):
                with at_fault(f"extractor {metric.extractor!r} ({extractor.label}): reference"):
                    reference = extractor.reference() if extractor.reference else None
                    width = width_of(reference)
                ready[name] = Yardstick(metric, prepared(name, metric, reference), width)
    return ready


def prepared(name: str, metric: Metric, reference: Rows | Moments | None) -> Any:
    """What a metric keeps of a reference. InputError for one of too few images, PluginError for a metric that fails."""
    try:
        with at_fault(f"metric {name!r}"):
            return metric.prepare(reference)
    except TooFewError as error:
        raise InputError(
            f"metric {name!r}: a reference of {counted(error.rows, 'image')}; expected at least {error.least}: "
            "give more images as --reference, or leave the metric out"
        ) from error


def extractors_read(names: Sequence[str], metrics: Mapping[str, type[Metric]], model: Model) -> set[str]:
    """The extractors that `yardsticks` of the same names read; nothing is prepared."""
    return {metrics[name].extractor for name in names if extractor_for(metrics[name], model)}


def extractor_for(metric: Metric | type[Metric], model: Model) -> Extractor | None:
    """What a metric reads of a model, if that has it, and has reference rows where they are needed."""
    extractor = model.extractors.get(metric.extractor)
    return extractor if extractor and (extractor.reference or not metric.needs_reference) else None


def width_of(reference: Rows | Moments | None) -> int | None:
    """Numbers in a row of a reference."""
    if reference is None:
        return None
    return len(reference.mean) if isinstance(reference, Moments) else reference.shape[1]


def check_metrics(
    config: Config, metrics: Mapping[str, type[Metric]], model: Model, ready: Mapping[str, Yardstick]
) -> None:
    """Refuse a metric that is asked for by name and cannot be known; those of the default are left out instead.

    InputError for one whose rows or reference the model lacks, or that means nothing on so few samples. Where no
    reference tells how wide the rows are, the least of the metric alone can be held against the samples.
    """
    if config.metric == Config.metric:
        return
    for name in config.metric:
        if name not in ready:
            raise InputError(f"metric {name!r}: {lack_of(metrics[name], model)}")
        metric, width, fewest = ready[name].metric, ready[name].width, ready[name].fewest(name)
        if config.samples < fewest:
            each = metric.least_per_column
            why = f", {each} for each of the {width} features" if width and fewest == each * width else ""
            raise InputError(
                f"metric {name!r}: samples {config.samples}; expected at least {fewest}{why}; give -n {fewest}"
            )


def lack_of(metric: type[Metric], model: Model) -> str:
    """What a model lacks of what a metric reads, and what to do about it."""
    if metric.extractor not in model.extractors:
        return f"reads {metric.extractor!r}, and model {model.name!r} has none; leave it out"
    return f"compares with a reference, and model {model.name!r} has none; give --reference, or leave it out"

"""Metrics made ready for a model: the extractor that each reads, and what it keeps of the reference images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...samplers.errors import InputError
from ...samplers.extractor import Extractor, HasExtractors
from ...samplers.metric import Metric, Moments, Rows, TooFewError
from ...samplers.model import Model
from ...samplers.options import at_fault
from ...samplers.process import switches_kept
from ...samplers.text import count_of
from .config import Config


@dataclass(frozen=True)
class Yardstick:
    """A metric made ready for a model: what it keeps of the reference rows."""

    metric: Metric
    prepared: Any
    width: int | None = None
    """The width of the rows that it reads; None if there is no reference that tells it."""
    left_out: tuple[str, int] | None = None
    """The metric without its bias, and the samples that this needs, where a run has fewer; else None."""

    def fewest(self, name: str) -> int:
        """The fewest samples for which the value means anything, as far as is known; `name` is the metric's."""
        with at_fault(f"metric {name!r}"):
            return self.metric.least if self.width is None else self.metric.fewest(self.width)


def yardsticks(
    names: Sequence[str], metrics: Mapping[str, type[Metric]], model: Model, samples: int = 0
) -> dict[str, Yardstick]:
    """The named metrics that the model has an extractor for, and reference rows if needed, each made ready.

    If there are enough samples for it, a metric without bias follows the one that has it.
    """
    # First what was asked for; a metric without bias comes after, so that its columns do.
    ready = make_ready(names, metrics, model)
    others = [one.metric.unbiased for one in ready.values() if one.metric.unbiased in metrics]
    for name, yardstick in make_ready([str(name) for name in others if name not in ready], metrics, model).items():
        if samples >= (fewest := yardstick.fewest(name)):
            ready[name] = yardstick
            continue
        for biased, one in ready.items():
            if one.metric.unbiased == name:
                ready[biased] = replace(one, left_out=(name, fewest))
    return ready


def make_ready(names: Sequence[str], metrics: Mapping[str, type[Metric]], model: HasExtractors) -> dict[str, Yardstick]:
    """The named metrics that the model has everything for, made ready."""
    ready = {}
    for name in names:
        with switches_kept(f"metric {name!r}, or the extractor that it reads,"):
            with at_fault(f"metric {name!r}"):
                metric = metrics[name]()
            if extractor := extractor_for(metric, model):
                with at_fault(f"extractor {metric.extractor!r} ({extractor.label}): reference"):
                    # Read for each metric and then let go: rows of a large reference are only held while they are
                    # prepared.
                    reference = extractor.reference() if extractor.reference else None
                    width = width_of(reference)
                ready[name] = Yardstick(metric, prepare(name, metric, reference), width)
    return ready


def prepare(name: str, metric: Metric, reference: Rows | Moments | None) -> Any:
    """What a metric keeps of a reference. InputError if that has too few images, PluginError if the metric fails."""
    try:
        with at_fault(f"metric {name!r}"):
            return metric.prepare(reference)
    except TooFewError as error:
        raise InputError(
            f"metric {name!r}: a reference of {count_of(error.rows, 'image')}; expected at least {error.least}: "
            "give more images as --reference, or leave the metric out"
        ) from error


def extractors_read(names: Sequence[str], metrics: Mapping[str, type[Metric]], model: Model) -> set[str]:
    """The extractors that `yardsticks` of these names read; nothing is prepared."""
    return {metrics[name].extractor for name in names if extractor_for(metrics[name], model)}


def extractor_for(metric: Metric | type[Metric], model: HasExtractors) -> Extractor | None:
    """The extractor of a model that a metric reads; None if it is missing, or reference rows that the metric needs."""
    # A metric without its reference is left out like one without its extractor: its numbers would mean nothing.
    extractor = model.extractors.get(metric.extractor)
    return extractor if extractor and (extractor.reference or not metric.needs_reference) else None


def width_of(reference: Rows | Moments | None) -> int | None:
    """The width of the rows of a reference."""
    if reference is None:
        return None
    return len(reference.mean) if isinstance(reference, Moments) else reference.shape[1]


def check_metrics(
    config: Config, metrics: Mapping[str, type[Metric]], model: Model, ready: Mapping[str, Yardstick]
) -> None:
    """Refuse a metric that was asked for by name and cannot be measured; one of the default is left out instead.

    InputError if the model lacks the rows or the reference that it reads, or if it means nothing on so few samples. If
    no reference tells the width of the rows, only the metric's own least number of samples is checked.
    """
    # The default is not a wish: on a model without captions the CLIP score is simply left out.
    if config.metric == Config.metric:
        return
    for name in config.metric:
        if name not in ready:
            raise InputError(f"metric {name!r}: {lack_of(metrics[name], model)}")
        check_samples(name, ready[name], config.samples, "give -n {fewest}")


def check_samples(name: str, yardstick: Yardstick, samples: int, advice: str) -> None:
    """InputError if a metric means nothing on so few samples; the advice may name the `fewest` that it needs."""
    metric, width, fewest = yardstick.metric, yardstick.width, yardstick.fewest(name)
    if samples < fewest:
        # The larger of the two least numbers is named, and where it comes from.
        each = metric.least_per_column
        why = f", {each} for each of the {width} features" if width and fewest == each * width else ""
        raise InputError(
            f"metric {name!r}: samples {samples}; expected at least {fewest}{why}; {advice.format(fewest=fewest)}"
        )


def lack_of(metric: type[Metric], model: Model) -> str:
    """What a metric needs and a model lacks, and what to do about it."""
    if metric.extractor not in model.extractors:
        return f"reads {metric.extractor!r}, and model {model.name!r} has none; leave it out"
    return f"compares with a reference, and model {model.name!r} has none; give --reference, or leave it out"

"""What a run could have shown: the difference that is found in 80 % of such runs, and the images to find half."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from statistics import NormalDist

import pandas as pd

from ...samplers.noise import BLOCK
from ...samplers.registry import Registry
from ...samplers.student import skewed_ends
from ..plan.plan import ODE_SAMPLES, ODE_SHARE
from .compare import NOT_SHOWN
from .looks import Look
from .scores import scores_of
from .statistics import ODE_DISTANCE, ODE_ERROR
from .stored import StoredRun

COLUMNS = (
    "metric", "count", "a", "b", "difference", "low", "high", "found", "half_needs", "samples", "verdict",
    "family", "look",
)  # fmt: skip
POWER = 0.8
"""The probability that a true difference of `found` is shown."""


def power(run: StoredRun, registry: Registry, metric: str | None) -> pd.DataFrame:
    """A row for each pair of samplers at each count whose difference in a metric is not shown.

    `found` is the true difference that would have been shown in 80 % of runs, with p corrected for all pairs of
    samplers at all counts (`family`) and for looks. `half_needs` is the number of images per row that would find half
    of it at the next look, nan if no number would. Raises InputError as `scores_of`.
    """
    scores = scores_of(run, registry, metric, by="nfe")
    places = [place for _, *place in run.record.budgets]
    measured = [(place, score) for place, score in zip(places, scores.rows, strict=True) if score.estimate]
    # Only pairs at one count and one guidance: more steps are expected to be better.
    pairs = [(place[0], a, b) for (place, a), (other, b) in combinations(measured, 2) if place == other]
    p_values = scores.correct_pairs((a, b) for _, a, b in pairs)
    rows = []
    for count, a, b in pairs:
        comparison = scores.comparison(a, b)
        verdict = comparison.verdict(p_values.get(frozenset((a.key, b.key)), math.nan))
        if verdict != NOT_SHOWN:
            continue
        # More images mean another look, which has a stricter level than this one.
        skewness, looks = comparison.difference.skewness, (scores.look, next_look(scores.look))
        now, then = (errors_needed(look, len(p_values), skewness) for look in looks)
        n = len(comparison.difference.influence)
        rows.append({
            "metric": scores.metric, "count": count, "a": a.name, "b": b.name,
            "difference": comparison.difference.value, "low": comparison.low, "high": comparison.high,
            # The error falls with the root of the number of images: half the difference needs 4 times as many, and
            # (then / now)^2 for the stricter level.
            "found": now * comparison.error, "half_needs": images_for(scores.metric, n * (2 * then / now) ** 2),
            "samples": int(a.row["samples"]),
            "verdict": verdict, "family": len(p_values), "look": scores.look.number,
        })  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def errors_needed(look: Look, family: int, skewness: float = 0.0) -> float:
    """The number of standard errors that a difference must have to be shown with POWER, by Holm's first step.

    Of a skewed difference it is that on the side where more are needed.
    """
    normal = NormalDist()
    # Holm compares the smallest p with level / family. To exceed that point in 80 % of runs, the true difference lies
    # 0.84 standard errors beyond it. The normal stands for Student's t: there are hundreds of degrees of freedom.
    ends = skewed_ends(-normal.inv_cdf(look.level / (2 * family)), skewness)
    return max(map(abs, ends)) + normal.inv_cdf(POWER)


def next_look(look: Look) -> Look:
    """The look after the next extension of the run."""
    return replace(look, number=look.number + 1)


def images_for(metric: str, compared: float) -> float:
    """The images that a run needs for this many to be compared: of ODE errors, that is a share, up to ODE_SAMPLES."""
    if metric not in (ODE_ERROR, ODE_DISTANCE):
        return whole_blocks(compared)
    return whole_blocks(ODE_SHARE * compared) if compared <= ODE_SAMPLES else math.nan


def whole_blocks(samples: float) -> int:
    """A number of images, rounded up to whole blocks."""
    return BLOCK * math.ceil(samples / BLOCK)

"""Verdicts as people read them: comparisons, ranks within a budget and the front, with no more digits than intervals
support."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ...samplers.text import count_of
from ..judge.compare import SAME
from ..judge.pareto import DOMINATED
from ..judge.table import Labels
from .sheet import heading_of, short_heading_of, with_interval

LEAST_P = 1e-4
"""A smaller p is printed as smaller than this, because no tail of a distribution is known so far out."""


def number_to_text(value: float, form: str, factor: float = 1) -> str:
    """A number times a factor, "-" for nan."""
    return format(value * factor, form) if math.isfinite(value) else "-"


def flag_to_text(flag: object) -> str:
    """The text of the table's column `timing`; "-" if it is empty."""
    return flag if isinstance(flag, str) else "-"


def comparison_to_rows(found: pd.DataFrame, labels: Labels) -> list[dict[str, str]]:
    """The comparisons as people read them, with no more digits than the intervals support."""
    return [
        {
            "metric": heading_of(row["metric"], labels), "A": row["a"], "B": row["b"],
            "A - B": with_interval(row["difference"], row["low"], row["high"]),
            "p": "-" if row["verdict"] == SAME else p_to_text(row["p"]),
            "A is": row["verdict"],
        }
        for row in found.to_dict("records")
    ]  # fmt: skip


def baseline_to_rows(found: pd.DataFrame, labels: Labels) -> list[dict[str, str]]:
    """The comparisons with a baseline as people read them."""
    return [
        {
            "metric": heading_of(row["metric"], labels), "row": row["row"],
            "less the baseline": with_interval(row["difference"], row["low"], row["high"]),
            "p": "-" if row["verdict"] == SAME else p_to_text(row["p"]), "verdict": row["verdict"],
        }
        for row in found.to_dict("records")
    ]  # fmt: skip


def worse_to_lines(found: pd.DataFrame, baseline: Path) -> list[str]:
    """A line for each comparison with a baseline."""
    return [
        f"{row['metric']} of {row['row']} is worse than in {baseline}: "
        f"{with_interval(row['difference'], row['low'], row['high'])}, p {p_to_text(row['p'])}"
        for row in found.to_dict("records")
    ]


def p_to_text(p: float) -> str:
    """p with two digits; "<0.0001" below `LEAST_P`."""
    if math.isnan(p):
        return "-"
    return "<0.0001" if p < LEAST_P else f"{p:.2g}"


def budgets_to_rows(found: pd.DataFrame, labels: Labels) -> list[dict[str, str]]:
    """The ranks as people read them, with no more digits than the intervals support."""
    strength = strengths_in(found)
    return [
        {
            "budget": f"{row['budget']:g} {'calls' if row['by'] == 'nfe' else 's an image'}",
            # A sampler without a row within the budget is listed too: its verdict says so, and "-" stands for its
            # numbers.
            "rank": number_to_text(row["rank"], "g"), "sampler": row["sampler"], **strength(row),
            "steps": number_to_text(row["steps"], "g"), "NFE": number_to_text(row["nfe"], "g"),
            "ms/image": number_to_text(row["seconds_per_image"], ".3g", 1000), "clock": flag_to_text(row["timing"]),
            heading_of(row["metric"], labels): with_interval(row["value"], row["low"], row["high"]),
            "less the best": with_interval(
                row["difference"], row["difference_low"], row["difference_high"]
            # Equal samples differ by exactly 0, without an interval.
            ) if row["verdict"] != SAME else "0",
            "p": p_to_text(row["p"]) if row["verdict"] != SAME else "-", "verdict": row["verdict"],
        }
        for row in found.to_dict("records")
    ]  # fmt: skip


def strengths_in(found: pd.DataFrame) -> Callable[[Mapping[Any, Any]], dict[str, str]]:
    """What a row says of its guidance: nothing where all rows have one."""
    # A column that says the same in each row takes room from the numbers.
    if found["guidance"].nunique() < 2:  # noqa: PLR2004  (several)
        return lambda row: {}
    return lambda row: {"guidance": number_to_text(row["guidance"], "g")}


def power_to_rows(found: pd.DataFrame, labels: Labels) -> list[dict[str, str]]:
    """The differences that could have been shown, as people read them."""
    return [
        {
            "metric": heading_of(row["metric"], labels), "A": row["a"], "B": row["b"],
            "A - B": with_interval(row["difference"], row["low"], row["high"]),
            "found in 80 %": f"{row['found']:.2g}",
            "half of it": f"-n {row['half_needs']:.0f}" if math.isfinite(row["half_needs"]) else "-",
        }
        for row in found.to_dict("records")
    ]  # fmt: skip


def correction_of(found: pd.DataFrame, labels: Labels) -> str:
    """What verdicts are corrected for: the comparisons in each metric, and the look; '' where nothing was compared."""
    # By size and not by metric: families of one size share a place in the sentence.
    families: dict[int, list[str]] = {}
    for metric, family in dict(zip(found["metric"], found["family"], strict=True)).items():
        # A metric of which nothing was compared, such as seconds of unreliable clocks, has a family of nothing.
        if family:
            families.setdefault(int(family), []).append(short_heading_of(metric, labels))
    if not families:
        return ""
    sizes = "; ".join(f"{', '.join(metrics)}: {size}" for size, metrics in families.items())
    look = int(found["look"].iloc[0])
    return f"p is corrected for all comparisons that can be asked of a metric ({sizes}) and for look {look} at the run."


def power_caption(found: pd.DataFrame, labels: Labels) -> str:
    """What the columns of --power mean, and what they allow for."""
    # The same in every row: the correction is for the run and the metric.
    family, look = int(found["family"].iloc[0]), int(found["look"].iloc[0])
    what = short_heading_of(str(found["metric"].iloc[0]), labels)
    return (
        "Found in 80 %: a true difference this large would have been shown in 80 of 100 runs like this one. Half of "
        "it: the images a row with which a difference half as large would be shown as often. Both allow for the "
        f"correction for all {count_of(family, 'comparison')} that can be asked of {what} and for look {look} at the "
        "run."
    )


def pareto_caption(found: pd.DataFrame, labels: Labels) -> str:
    """What p is corrected for, and whose time stands in rows with the same samples."""
    # To the last digit two rows have one time only where they share it.
    shares_times = found["seconds_per_image"].dropna().duplicated().any()
    shared = "Rows with the same samples have the time of the first of them." if shares_times else ""
    return " ".join(filter(None, [correction_of(found, labels), shared]))


def pareto_to_rows(found: pd.DataFrame, labels: Labels) -> list[dict[str, str]]:
    """The verdicts as people read them."""
    strength = strengths_in(found)
    return [
        {
            "sampler": row["sampler"], **strength(row), "steps": number_to_text(row["steps"], "g"),
            "NFE": number_to_text(row["nfe"], "g"),
            # Calls and seconds have their columns already.
            **({"depth": number_to_text(row["cost"], "g")} if row["against"] == "depth" else {}),
            "ms/image": number_to_text(row["seconds_per_image"], ".3g", 1000), "clock": flag_to_text(row["timing"]),
            heading_of(row["metric"], labels): with_interval(row["value"], row["low"], row["high"]),
            "verdict": f"dominated by {row['dominated_by']}" if row["verdict"] == DOMINATED else row["verdict"],
        }
        for row in found.to_dict("records")
    ]  # fmt: skip

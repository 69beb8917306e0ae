"""What the docstring of a sampler's file says it is the same as: "Same as: `x` = `y` (condition); ..."."""

from __future__ import annotations

import inspect
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...samplers.errors import InputError, SamplerbenchError, in_line
from ...samplers.registry import Registry
from ...samplers.sampler import Sampler
from .card import Check, Effort, Finding
from .models import EQUAL, SCHEDULES, apart, draw_samples, noise_to_start_from

SAME_AS = "Same as:"
"""How the paragraph begins."""
STATEMENT = re.compile(r"`([^`]+)` = `([^`]+)`(?: \(([^)]*)\))?")
Grid = tuple[str, Sequence[float]]
"""The name of a schedule, and the levels."""
# Even and uneven, on fractions of a timestep, short and long: what is the same has to be so on each.
GRIDS: tuple[Grid, ...] = (
    ("VP", [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]),
    ("VP", [990.5, 950.0, 600.25, 590.0, 200.0, 150.5, 20.0, 3.0]),
    ("VP", [700, 10]),
    ("EDM", [40.0, 31.0, 8.0, 7.0, 2.5, 0.9, 0.31, 0.07, 0.002]),
    ("flow", [1.0, 0.9, 0.6, 0.55, 0.2, 0.01]),
)
CONDITIONS: dict[str, tuple[Sequence[str], Sequence[Grid]]] = {
    "": ([""], GRIDS),
    "E from 0 to 1": (["0", "0.3", "1"], GRIDS),
    "E from 0 up": (["0", "0.4", "1", "1.7"], GRIDS),
    "in 1 step": ([""], [("VP", [999]), ("EDM", [9.0]), ("flow", [1.0])]),
    "on equal steps in sigma / alpha": ([""], [("EDM", [4.0 - 0.25 * i for i in range(16)])]),
}
"""What may stand in brackets -> the values of E, and the grids, for which the two are to be one."""


class Statement(NamedTuple):
    """Two specs that are one sampler."""

    spec: str
    other: str
    condition: str


def statements_of(cls: type) -> list[Statement]:
    """The statements in the docstring of the module of a class; InputError for a paragraph of another form."""
    doc = inspect.cleandoc(getattr(sys.modules.get(cls.__module__), "__doc__", None) or "")
    found = []
    for paragraph in doc.split("\n\n"):
        if paragraph.startswith(SAME_AS):
            text = " ".join(paragraph.removeprefix(SAME_AS).split())
            # A statement that is not understood would be held by nobody.
            if rest := STATEMENT.sub("", text).strip("; ."):
                raise InputError(f"{rest[:60]!r}; expected `x` = `y` (condition); `x` = `z`.")
            found += [Statement(*parts) for parts in STATEMENT.findall(text)]
    return found


def difference(registry: Registry, statement: Statement) -> float:
    """The largest difference of the samples of both. InputError for an unknown condition."""
    if statement.condition not in CONDITIONS:
        known = ", ".join(f"({condition})" for condition in CONDITIONS if condition)
        raise InputError(f"({statement.condition}); expected none or one of {known}")
    values, grids = CONDITIONS[statement.condition]
    x = noise_to_start_from()
    return max(
        apart(*(
            draw_samples(registry.sampler(text.replace("=E", f"={value}")), SCHEDULES[name], times, predicts="v", x=x)
            for text in (statement.spec, statement.other)
        ))
        for value, (name, times) in itertools.product(values, grids)
    )  # fmt: skip


def same_as(registry: Registry) -> Check:
    """The check of the statements about a sampler: all of them for one with its defaults, else those about it."""

    def same(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
        cls = type(sampler)
        for statement in statements_of(cls):
            spec, other, condition = statement
            claim = f"as {spec}" + (f" ({condition})" if condition else "")
            try:
                # E is 1 here, a value that every condition on E allows.
                one = registry.sampler(spec.replace("=E", "=1"))
                if type(one).__module__ != cls.__module__:
                    raise InputError(f"`{spec.partition(':')[0]}` is of another file")
                if type(one) is not cls or sampler not in (cls(), one):
                    continue
                error = difference(registry, statement)
            except SamplerbenchError as mistake:
                yield Finding(f"same as {other}", claim, in_line(mistake), False)
            else:
                yield Finding(f"same as {other}", claim, f"apart by {error:.1e}", error <= EQUAL)

    return same

"""How long a run will still take, from what its chunks have taken so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..draw.ledger import cost
from ..plan.plan import Cell, Plan

WARM_UP_SHARE = 0.5
"""How much of the first chunk's time beside its evaluations is taken for the warm-up, which it waited for."""
UNSEEN_OVERHEAD = 0.15
"""What images are taken to cost beside their evaluations before there is a chunk, as a share of these."""
MOST_OVERHEAD = 1000.0
"""How many times its evaluations an image may cost beside them."""


class Took(NamedTuple):
    """A chunk that was drawn."""

    key: str
    units: float
    """Evaluations of the network, those of padding included."""
    images: int
    seconds: float


def padded(n: int, batch_size: int) -> int:
    """The rows that the network is asked for: batches are padded."""
    return math.ceil(n / batch_size) * batch_size


@dataclass
class Pace:
    """The seconds of everything that is made; `left` says how many are still to come.

    A chunk takes its evaluations and something for each image, which metrics and hashes cost. Of a cell that has a
    chunk its own mean counts. Workers draw beside each other, so that only their common pace is known.
    """

    plan: Plan
    todo: int
    """Sample evaluations that are to be made."""
    now: float
    """The time of the last event."""
    workers: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    """Images that each cell lacks, by key."""
    done: int = 0
    others: list[Took] = field(default_factory=list)
    """What is no chunk: the ODE solution, repeats for the clock."""
    chunks: list[Took] = field(default_factory=list)

    def __post_init__(self) -> None:
        """The cells by key; two specs may be one cell."""
        self._cells: Mapping[str, Cell] = {cell.key: cell for cell in self.plan.cells}

    def skip(self, now: float) -> None:
        """The time until now belonged to nothing that was made."""
        self.now = now

    def chunk(self, key: str, images: int, evaluations: int, now: float) -> None:
        """A chunk is stored."""
        self.chunks.append(Took(key, self._units(key, images), images, now - self.now))
        self.missing[key] = self.missing.get(key, 0) - images
        self.done, self.now = self.done + evaluations, now

    def other(self, evaluations: int, now: float) -> None:
        """Evaluations were made that belong to no chunk."""
        self.others.append(Took("", evaluations * self._padding, 0, now - self.now))
        self.done, self.now = self.done + evaluations, now

    def left(self, now: float) -> float | None:
        """Seconds that the rest will take, as things look at this time; None as long as nothing is made."""
        passed = now - self.now
        rest = self._rest()
        return None if rest is None else max(0.0, rest - passed)

    def _rest(self) -> float | None:
        missing = {key: images for key, images in self.missing.items() if images > 0}
        of_chunks = sum(cost(self._cells[key]) * images for key, images in missing.items())
        others = max(0, self.todo - self.done - of_chunks) * self._padding
        units = sum(self._units(key, images) for key, images in missing.items())
        if self.workers and self.chunks:
            seconds, made = total(self.chunks)
            return seconds / made * (units + others) if made else None
        settled = self.chunks[1:] or self.chunks
        seconds, made = total([*self.others, *settled])
        if not made:
            return None
        if self.workers:
            return seconds / made * (units / self.workers + others)
        overhead = self._overhead(settled) if settled else UNSEEN_OVERHEAD * units / max(1, sum(missing.values()))
        rate = seconds / (made + overhead * sum(one.images for one in settled))
        factors = self._factors(settled, rate, overhead)
        return rate * others + sum(
            factors.get(key, 1.0) * rate * (self._units(key, images) + overhead * images)
            for key, images in missing.items()
        )

    def _units(self, key: str, images: int) -> float:
        cell = self._cells[key]
        return cost(cell) * padded(images, cell.request.batch_size)

    @property
    def _padding(self) -> float:
        """How many times as much the ODE solution costs because its batch is padded."""
        if self.chunks or not (images := self.plan.ode_samples):
            return 1.0
        return padded(images, self.plan.references[0].batch_size) / images

    def _factors(self, chunks: list[Took], rate: float, overhead: float) -> dict[str, float]:
        """By how much each cell that has a chunk took longer than its evaluations and images say."""
        took: dict[str, float] = {}
        said: dict[str, float] = {}
        for one in chunks:
            took[one.key] = took.get(one.key, 0.0) + one.seconds
            said[one.key] = said.get(one.key, 0.0) + rate * (one.units + overhead * one.images)
        return {key: took[key] / said[key] for key in took}

    def _overhead(self, chunks: list[Took]) -> float:
        """What an image costs beside its evaluations, in evaluations."""
        images = sum(one.images for one in chunks)
        seconds, units = total(self.others)
        if seconds and units and len(chunks) < len(self._cells):
            # The ODE solution has no images: it tells what an evaluation alone takes.
            rate = seconds / units
            spare = sum(one.seconds - rate * one.units for one in chunks) / max(images, 1)
            return max(0.0, (WARM_UP_SHARE if len(self.chunks) == 1 else 1.0) * spare / rate)
        if len({one.units / one.images for one in chunks}) < 2:  # noqa: PLR2004  (two points make a line)
            return 0.0
        # Least squares of seconds over evaluations, both per image.
        mean_x, mean_y = (sum(column) / images for column in (
            [one.units for one in chunks], [one.seconds for one in chunks],
        ))  # fmt: skip
        offsets = [(one.units / one.images - mean_x, one.seconds / one.images - mean_y, one.images) for one in chunks]
        slope = sum(n * x * y for x, y, n in offsets) / sum(n * x * x for x, _, n in offsets)
        # Where more evaluations take no longer, all is the cost of images.
        return max(0.0, mean_y / slope - mean_x) if slope > 0 else MOST_OVERHEAD * mean_x


def total(made: list[Took]) -> tuple[float, float]:
    """Seconds and units of all."""
    return sum(one.seconds for one in made), sum(one.units for one in made)

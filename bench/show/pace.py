"""How long a run will still take, from what its chunks have taken so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..draw.ledger import cost
from ..plan.plan import Cell, Plan

WARM_UP_SHARE = 0.5
"""How much of the first chunk's time beside its evaluations is taken for the warm-up, which it waited for."""
UNSEEN_OVERHEAD = 0.15
"""What images are taken to cost beside their evaluations before there is a chunk, as a share of these."""
MOST_OVERHEAD = 1000.0
"""How many times its evaluations an image may cost beside them."""
LEAST_SPREAD = 1e-9
"""Evaluations per image that differ by less are the same."""


@dataclass
class Took:
    """What was made, in sums: a long run has very many chunks, and the screen asks twice a second."""

    seconds: float = 0.0
    units: float = 0.0
    """Evaluations of the network, those of padding included."""
    images: int = 0
    squares: float = 0.0
    """The sum of units^2 / images, and below that of units seconds / images: for a line through them."""
    products: float = 0.0

    def add(self, seconds: float, units: float, images: int) -> None:
        """Count one more."""
        self.seconds, self.units, self.images = self.seconds + seconds, self.units + units, self.images + images
        if images:
            self.squares += units * units / images
            self.products += units * seconds / images


def rows_with_padding(n: int, batch_size: int) -> int:
    """The rows that the network is asked for: batches are padded."""
    return math.ceil(n / batch_size) * batch_size


@dataclass
class Pace:
    """The seconds of everything that is made; `left` says how many are still to come.

    A chunk takes its evaluations and something for each image, which metrics and hashes cost. A cell that has a chunk
    may take longer or shorter than that. Workers draw beside each other, so that only their common pace is known.
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
    number: int = 0
    """How many chunks were stored."""
    first: Took = field(default_factory=Took)
    """The first chunk, which waited for the model to warm up: it counts as long as there is no other."""
    chunks: Took = field(default_factory=Took)
    """The chunks after it."""
    cells: dict[str, Took] = field(default_factory=dict)
    """These by cell."""
    others: Took = field(default_factory=Took)
    """What is no chunk: the ODE solution, repeats for the clock."""

    def __post_init__(self) -> None:
        """The cells by key; two specs may be one cell."""
        self._cells: Mapping[str, Cell] = {cell.key: cell for cell in self.plan.cells}

    def skip(self, now: float) -> None:
        """The time until now belonged to nothing that was made."""
        self.now = now

    def chunk(self, key: str, images: int, evaluations: int, now: float) -> None:
        """A chunk is stored."""
        took = (now - self.now, self._units(key, images), images)
        for one in [self.chunks, self.cells.setdefault(key, Took())] if self.number else [self.first]:
            one.add(*took)
        self.number += 1
        self.missing[key] = self.missing.get(key, 0) - images
        self.done, self.now = self.done + evaluations, now

    def other(self, evaluations: int, now: float) -> None:
        """Evaluations were made that belong to no chunk."""
        self.others.add(now - self.now, evaluations * self._padding, 0)
        self.done, self.now = self.done + evaluations, now

    def left(self, now: float) -> float | None:
        """Seconds that the rest will take, as things look at this time; None as long as nothing is made."""
        rest = self._rest()
        return None if rest is None else max(0.0, rest - (now - self.now))

    def _rest(self) -> float | None:
        # A copy: the screen is drawn by a thread of its own.
        missing = {key: images for key, images in list(self.missing.items()) if images > 0}
        of_chunks = sum(cost(self._cells[key]) * images for key, images in missing.items())
        others = max(0, self.todo - self.done - of_chunks) * self._padding
        units = {key: self._units(key, images) for key, images in missing.items()}
        if self.workers:
            return self._rest_of_workers(sum(units.values()), others)
        settled = self.chunks if self.number > 1 else self.first
        seconds, made = settled.seconds + self.others.seconds, settled.units + self.others.units
        if not made:
            return None
        unseen = UNSEEN_OVERHEAD * sum(units.values()) / max(1, sum(missing.values()))
        overhead = self._overhead(settled) if self.number else unseen
        rate = seconds / (made + overhead * settled.images)
        rest = rate * others
        for key, images in missing.items():
            one = self.cells.get(key)
            factor = one.seconds / (rate * (one.units + overhead * one.images)) if one and one.units else 1.0
            rest += factor * rate * (units[key] + overhead * images)
        return rest

    def _rest_of_workers(self, units: float, others: float) -> float | None:
        seconds, made = self.chunks.seconds + self.first.seconds, self.chunks.units + self.first.units
        if made:
            return seconds / made * (units + others)
        # The ODE solution is drawn before the workers begin.
        return self.others.seconds / self.others.units * (units / self.workers + others) if self.others.units else None

    def _units(self, key: str, images: int) -> float:
        cell = self._cells[key]
        return cost(cell) * rows_with_padding(images, cell.request.batch_size)

    @property
    def _padding(self) -> float:
        """How many times as much the ODE solution costs because its batch is padded."""
        if self.number or not (images := self.plan.ode_samples):
            return 1.0
        return rows_with_padding(images, self.plan.references[0].batch_size) / images

    def _overhead(self, chunks: Took) -> float:
        """What an image costs beside its evaluations, in evaluations."""
        images = chunks.images
        if self.others.seconds and self.others.units and self.number <= len(self._cells):
            # The ODE solution has no images: it tells what an evaluation takes by itself.
            rate = self.others.seconds / self.others.units
            spare = (chunks.seconds - rate * chunks.units) / images
            return max(0.0, (WARM_UP_SHARE if self.number == 1 else 1.0) * spare / rate)
        # Least squares of seconds over evaluations, both per image.
        mean_x, mean_y = chunks.units / images, chunks.seconds / images
        spread = chunks.squares / images - mean_x**2
        if spread <= LEAST_SPREAD * mean_x**2:
            return 0.0
        slope = (chunks.products / images - mean_x * mean_y) / spread
        # Where more evaluations take no longer, all is the cost of images.
        return max(0.0, mean_y / slope - mean_x) if slope > 0 else MOST_OVERHEAD * mean_x

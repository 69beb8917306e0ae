"""How often a run was looked at: each question with more images than before gives chance another try.

The first look may be wrong in 4 % of families, the look after the k-th extension in 1 % / 2^k: together in 5 %, however
often a run is extended. A second question at the same number of images is not a new look.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from ...samplers.errors import StoreError
from ...samplers.files.atomic import write_beside_others
from ...samplers.student import LEVEL
from ..draw.folder import CHUNKS
from ..draw.sealed_file import bytes_of, disk_errors, seal_json, unseal_json
from ..plan.record import Positive
from .stored import StoredRun

LOOKS = f"{CHUNKS}/looks.json"
FIRST, EXTENSIONS = 0.04, 0.01
"""How often the first look may be wrong, and how often all later ones together."""


@dataclass(frozen=True)
class Look:
    """A look at a run: a question at a number of images."""

    number: int = 1
    """The first is 1."""
    samples: int = 0
    """Images a row."""

    @property
    def level(self) -> float:
        """The share of families that may hold a false claim at this look."""
        # 1 % / 2, 1 % / 4, ...: however often a run is extended, the levels of all looks add up to at most 5 %.
        return FIRST if self.number == 1 else EXTENSIONS / 2 ** (self.number - 1)

    @property
    def weight(self) -> float:
        """The factor of p, so that it is compared with LEVEL at every look."""
        return LEVEL / self.level


ONLY_LOOK = Look()


def look_at(run: StoredRun, samples: int) -> Look:
    """The look that a question at this number of images is; it is recorded in the run folder, if that is writable."""
    taken = looks_taken(run)
    # Sorted by images: a question at a number that was asked before is that earlier look again.
    number = bisect_left(taken, samples)
    if number == len(taken) and samples > 0:
        file = run.path / LOOKS
        with suppress(StoreError), disk_errors(file):  # a folder may be read-only
            write_beside_others(file, seal_json(json.dumps({"looks": [*taken, samples]})))
    return Look(number + 1, samples)


def looks_taken(run: StoredRun) -> list[int]:
    """The numbers of images at which a run was asked, in ascending order; if their file is missing or another run's,
    the numbers that the run was extended from."""
    try:
        taken = unseal_json(bytes_of(run.path / LOOKS)).get("looks")
        return sorted(set(msgspec.convert(taken, list[Positive])))
    except (OSError, ValueError, RecursionError):
        # Each extension may have followed a look at the images before it; the safe side is that it did.
        return sorted({one.samples for one in run.record.extended}) if run.exists else []

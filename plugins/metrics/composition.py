"""Composition: the share of images that show what their captions say, for captions of the data set "scenes"."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...samplers.metric import Estimate, Metric, Rows, check_rows, share_estimate
from ...samplers.registry import hookimpl
from ..extractors.scenes_detector.judging import PARTS, UNTOLD, WRONG

Flags = npt.NDArray[np.bool_]


class Composition(Metric):
    """All that the caption tells is right: the things, their numbers, the ground's colour, and the places.

    A detector sees what stands where; it learned that from scenes as the model did. An image whose caption is not of
    scenes does not count.
    """

    extractor = "composition"
    better = "higher"
    unit = ""
    least = 2

    def estimate(self, rows: Rows, prepared: None) -> Estimate:
        """Verdicts on each part (n, 4) -> the share of images that are right."""
        check_rows(rows, len(PARTS), 1)
        return share_estimate(self.right(rows), self.counted(rows))

    def right(self, rows: Rows) -> Flags:
        """Which images are as their captions tell."""
        return np.asarray((rows != WRONG).all(1))

    def counted(self, rows: Rows) -> Flags:
        """Which images have a caption that tells it."""
        return np.asarray((rows != UNTOLD).any(1))


class OfPart(Composition):
    """The share of images in which one part is right, of those whose caption tells it."""

    part: str

    def right(self, rows: Rows) -> Flags:
        """Which images are right in this part."""
        return np.asarray(rows[:, PARTS.index(self.part)] != WRONG)

    def counted(self, rows: Rows) -> Flags:
        """Which images have a caption that tells it."""
        return np.asarray(rows[:, PARTS.index(self.part)] != UNTOLD)


class ObjectRight(OfPart):
    """The image shows the things that its caption names, however many of each, and no others."""

    part = "object"


class CountRight(OfPart):
    """The image shows as many of each thing as its caption says."""

    part = "count"


class ColourRight(OfPart):
    """The ground has the colour that the caption says."""

    part = "colour"


class PlaceRight(OfPart):
    """The things lie as the caption says, which two captions of three do: left of another, or in the middle."""

    part = "place"


@hookimpl
def samplerbench_metrics() -> dict[str, type[Metric]]:
    """The whole, and each of its parts."""
    parts = (ObjectRight, CountRight, ColourRight, PlaceRight)
    return {"composition": Composition, **{f"composition_{cls.part}": cls for cls in parts}}

"""What a plan costs: time of one worker and of several, and bytes, for `--dry-run` and for plans of many machines."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .plan import KEPT_IMAGES, Plan

HASH_BYTES = 16
"""Of each sample."""


@dataclass(frozen=True)
class Cost:
    """An estimate."""

    worker_seconds: float
    """Seconds of all workers together."""
    seconds: float
    """Seconds from begin to end, by as many workers as have a chunk to draw."""
    least_bytes: int
    """Bytes in the run folder, and from the workers to it: kept images and hashes. Extractors' rows come on top."""


def cost_of(plan: Plan, evaluations: int, seconds_per_evaluation: float, workers: int) -> Cost:
    """What it takes to make a number of evaluations of the network."""
    total = evaluations * seconds_per_evaluation
    # A worker draws a whole chunk, so there is never work for more of them than chunks.
    at_work = min(workers, len(plan.cells) * len(plan.blocks))
    return Cost(total, total / at_work, least_bytes(plan))


def least_bytes(plan: Plan) -> int:
    """Bytes of what is kept of every sample of the plan."""
    images = plan.blocks.images
    # Images are stored as bytes and not compressed, so their number of pixels is what they take.
    kept = images if plan.keep_images else min(images, KEPT_IMAGES)
    pixels = math.prod(plan.model.shown_shape or ())
    return len(plan.cells) * (images * HASH_BYTES + kept * (pixels if plan.model.shown_shape else 0))

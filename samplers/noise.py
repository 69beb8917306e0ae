"""Where randomness comes from: unit normal noise as a function of (seed, sample index, interval, draw).

Neither the number of samples, nor their order, nor the batch size, device or clock has a part in it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .level import Level

BLOCK = 64
"""Samples are drawn in blocks of this many consecutive indices, one call a block."""

MAX_SEED = 2**63 - 1
NoiseFunction = Callable[[Level, Level], Tensor]
"""A user's own noise for the interval from the first to the second level, (n, *shape)."""


class Stream(IntEnum):
    """What a draw is for; part of its key."""

    PRIOR = 0
    STEP = 1


class Noise:
    """Independent noise for the samples first ... first + n - 1 of a seed."""

    def __init__(self, seed: int, shape: tuple[int, ...], n: int, *, first: int = 0) -> None:
        self.seed, self.shape, self.n, self.first = seed, shape, n, first

    def prior(self) -> Tensor:
        """The noise that sampling starts from, (n, *shape) float32 on the CPU."""
        return self._draw(Stream.PRIOR, 0, 0)

    def step(self, interval: int, ordinal: int) -> Tensor:
        """The `ordinal`-th draw of a step over interval number `interval`, (n, *shape) float32 on the CPU."""
        return self._draw(Stream.STEP, interval, ordinal)

    def _draw(self, stream: Stream, interval: int, ordinal: int) -> Tensor:
        blocks = range(self.first // BLOCK, (self.first + self.n - 1) // BLOCK + 1)
        drawn = np.concatenate([self._block(stream, block, interval, ordinal) for block in blocks])
        skipped = self.first - blocks[0] * BLOCK
        return torch.from_numpy(drawn[skipped : skipped + self.n])

    def _block(self, stream: Stream, block: int, interval: int, ordinal: int) -> np.ndarray:
        key = np.random.SeedSequence([self.seed, stream, block, interval, ordinal])
        rng = np.random.Generator(np.random.Philox(key))
        return rng.standard_normal((BLOCK, *self.shape), dtype=np.float32)


def check_seed(seed: object) -> None:
    """A whole number from 0 to 2^63 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed {seed!r}: expected a whole number from 0 to 2^63 - 1")

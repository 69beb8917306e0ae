"""The source of all randomness: unit normal noise as a function of (seed, sample index, interval, draw).

It depends on neither the number of samples, nor their order, nor the batch size, device or clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum

import torch
from torch import Tensor

from .devices import has_float64
from .errors import InputError, quote
from .level import Level
from .philox import Draw, normals
from .philox_torch import normals_on

BLOCK = 64
"""How many consecutive samples a chunk holds: batch sizes divide it or are multiples of it."""

MAX_SEED = 2**63 - 1
NoiseFunction = Callable[[Level, Level], Tensor]
"""A user's own noise for the interval from the first to the second level, (n, *shape)."""


class Stream(IntEnum):
    """The purpose of a draw. It is part of the counter, so that draws for different purposes never share one."""

    PRIOR = 0
    STEP = 1
    BROWNIAN = 2


class Noise:
    """Independent noise for the samples first ... first + n - 1 of a seed.

    Element e of a sample is a normal of Philox 4x32-10 under the 64 bits of the seed as key, with the counter
    (e // 4, sample, interval, stream << 24 | draw): no two of these share a counter, and what one sample costs depends
    only on its shape. All draws are (n, *shape) float32 on `device`; devices agree to 1e-6. InputError for a number
    that does not fit into the bits of its field.
    """

    def __init__(
        self, seed: int, shape: tuple[int, ...], n: int, *, first: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.seed, self.shape, self.n, self.first, self.device = seed, shape, n, first, torch.device(device)
        check_seed(seed)
        # Checked once for all samples and elements, not in every draw.
        _check_field("element", max(math.prod(shape) - 1, 0), bits=34)
        _check_field("sample", first, bits=32)
        _check_field("sample", first + max(n - 1, 0), bits=32)

    def prior(self) -> Tensor:
        """The noise that sampling starts from."""
        return self._draw(Stream.PRIOR, ("interval", 0), ("draw", 0))

    def step(self, interval: int, ordinal: int) -> Tensor:
        """The `ordinal`-th draw of a step over interval number `interval`."""
        return self._draw(Stream.STEP, ("interval", interval), ("draw", ordinal))

    def brownian(self, index: int, depth: int) -> Tensor:
        """The normal of the dyadic node `index`, from 0 to 2^depth - 1, at `depth` of a tree of Brownian bridges."""
        # Depth and index name a node of the dyadic tree, so that any interval finds the same path.
        return self._draw(Stream.BROWNIAN, ("node index", index), ("depth", depth))

    def _draw(self, stream: Stream, place: tuple[str, int], part: tuple[str, int]) -> Tensor:
        # A field that overflowed would share its counter, and so its noise, with another draw.
        _check_field(*place, bits=32)
        _check_field(*part, bits=24)
        samples = range(self.first, self.first + self.n)
        draw = Draw(self.seed, samples, math.prod(self.shape), place[1], stream << 24 | part[1])
        # Two implementations of the same words, whose normals agree to 1e-6; that on the device takes float64 there.
        on_device = self.device.type != "cpu" and has_float64(self.device)
        drawn = normals_on(self.device, draw) if on_device else torch.from_numpy(normals(draw)).to(self.device)
        return drawn.reshape(self.n, *self.shape)


def _check_field(name: str, value: int, *, bits: int) -> None:
    if not isinstance(value, int) or not 0 <= value < 2**bits:
        raise InputError(f"{name} {value!r} of a draw of noise: expected a whole number from 0 to 2^{bits} - 1")


def check_seed(seed: object) -> None:
    """InputError unless the seed is a whole number from 0 to 2^63 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed {quote(seed)}: expected a whole number from 0 to 2^63 - 1")

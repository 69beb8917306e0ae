"""Philox 4x32-10 and Box-Muller: unit normals as a pure function of a key and a counter.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3": ten rounds of two 32-bit multiplications encrypt a
counter of four words with a key of two words into four random words. Box and Muller 1958 turn two words into two
normals. A counter is (block, sample, place, label); block k of a sample holds its elements 4k to 4k + 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
"""What is added to the two words of the key after each round (the golden ratio and sqrt(3) - 1)."""
ROUNDS = 10
WORD = 2**32
PIECE = 16_384
"""Counters in one pass, 1.25 MiB of work space: enough to make calls cheap, few enough for the caches. It changes no
byte of a draw."""

_HALF = np.uint64(32)
_LOW = np.uint64(WORD - 1)
_CROSSED = np.array(MULTIPLIERS[::-1], dtype=np.uint64).reshape(2, 1, 1)


class Draw(NamedTuple):
    """`size` unit normals for each of `samples`, from one key and the counters (element // 4, sample, place, label)."""

    key: int
    samples: range
    size: int
    place: int
    label: int

    @property
    def shape(self) -> tuple[int, int]:
        """(samples, elements)."""
        return len(self.samples), self.size

    def tiles(self, piece: int) -> Iterator[tuple[slice, range]]:
        """(rows, blocks of four elements) of tiles of at most `piece` counters: many short rows, or part of one."""
        blocks = -(-self.size // 4)
        # Pieces stay within the cache of the processor, however large a sample is.
        width = max(1, min(blocks, piece))
        height = max(1, piece // width)
        for top in range(0, len(self.samples), height):
            for left in range(0, blocks, width):
                yield slice(top, top + height), range(left, min(left + width, blocks))


def words(key: int, counters: np.ndarray) -> np.ndarray:
    """The random words of each counter, (m, 4) uint32 -> (m, 4) uint32."""
    first, second, third, fourth = counters.astype(np.uint64).T
    pairs = np.stack([first << _HALF | second, third << _HALF | fourth])[:, None]
    _encrypt(_round_keys(key), pairs, np.empty_like(pairs))
    return np.stack([pairs[:, 0] >> _HALF, pairs[:, 0] & _LOW], axis=-1).swapaxes(0, 1).reshape(-1, 4).astype(np.uint32)


def box_muller(words: np.ndarray) -> np.ndarray:
    """Words (m, 4) uint32 -> unit normals (m, 4) float32: two from the first two words, two from the last two."""
    radius, angle = words.astype(np.uint64).reshape(-1, 1, 2, 2).T
    work = _WorkSpace(len(words))
    normal: np.ndarray = work.box_muller((radius << _HALF | angle).reshape(2, 1, -1))
    return normal.reshape(-1, 4)


def normals(draw: Draw) -> np.ndarray:
    """A draw, (samples, size) float32, made on the CPU.

    The words are the same everywhere. The bytes of the normals depend on the float64 `log` of this version of NumPy and
    on `cos` and `sin` of this version of torch on this kind of CPU, but not on the number of threads. Across machines
    normals agree to 1e-6.
    """
    drawn = np.empty(draw.shape, dtype=np.float32)
    keys, work = _round_keys(draw.key), _WorkSpace(min(PIECE, -(-draw.size // 4) * len(draw.samples)))
    for rows, columns in draw.tiles(PIECE):
        samples = draw.samples[rows]
        block = np.arange(columns.start, columns.stop, dtype=np.uint64)
        sample = np.arange(samples.start, samples.stop, dtype=np.uint64)[:, None]
        pairs = work.pairs[: 2 * sample.size * block.size].reshape(2, sample.size, block.size)
        # The counters: (block, sample) in the first pair of words, (place, label) in the second.
        np.bitwise_or(block << _HALF, sample, out=pairs[0])
        pairs[1] = draw.place << 32 | draw.label
        _encrypt(keys, pairs, work.products[: pairs.size].reshape(pairs.shape))
        found = work.box_muller(pairs)
        # The last block of a sample may hold more elements than the sample has.
        drawn[rows, 4 * columns.start : 4 * columns.stop] = found[:, : draw.size - 4 * columns.start]
    return drawn


class _WorkSpace:
    """Arrays that every piece of a draw reuses.

    `pairs` is (2, rows, columns) uint64: the first and second word of each counter are the high and low half of
    pairs[0], the third and fourth those of pairs[1].
    """

    def __init__(self, counters: int) -> None:
        self.pairs, self.products = np.empty((2, 2 * counters), dtype=np.uint64)
        self.radii, self.angles = np.empty((2, 2 * counters), dtype=np.float64)
        self.normal = np.empty(4 * counters, dtype=np.float32)

    def box_muller(self, pairs: np.ndarray) -> np.ndarray:
        """The normals of `pairs`, (rows, 4 * columns) float32."""
        words, radii, angles = (
            part[: pairs.size].reshape(pairs.shape) for part in (self.products, self.radii, self.angles)
        )
        # Radius sqrt(-2 log u) from the high halves; u = (word + 1/2) / 2^32 is never 0, so the logarithm is finite.
        # In float64, because u needs 33 binary digits.
        np.add(np.right_shift(pairs, _HALF, out=words), 0.5, out=radii)
        np.log(np.multiply(radii, 1 / WORD, out=radii), out=radii)
        np.sqrt(np.multiply(radii, -2, out=radii), out=radii)
        # Angle 2 pi u from the low halves.
        np.add(np.bitwise_and(pairs, _LOW, out=words), 0.5, out=angles)
        np.multiply(angles, 2 * math.pi / WORD, out=angles)

        turned = words.view(np.float64)
        normal = self.normal[: 2 * pairs.size].reshape(2, *pairs.shape)
        for i, function in enumerate((torch.cos, torch.sin)):
            # NumPy's float64 cos and sin take three times as long: they are not vectorized.
            function(torch.from_numpy(angles), out=torch.from_numpy(turned))
            normal[i] = np.multiply(radii, turned, out=turned)
        return normal.transpose(2, 3, 1, 0).reshape(pairs.shape[1], -1)


def _round_keys(key: int) -> np.ndarray:
    """The two words of each round's key, in the high halves of (rounds, 2, 1, 1) uint64."""
    low, high = key % WORD, key // WORD
    keys = [[(low + i * WEYL[0]) % WORD, (high + i * WEYL[1]) % WORD] for i in range(ROUNDS)]
    return np.array(keys, dtype=np.uint64).reshape(-1, 2, 1, 1) << _HALF


def _encrypt(keys: np.ndarray, pairs: np.ndarray, products: np.ndarray) -> None:
    """Turn counters into random words, in place.

    A round multiplies the high halves. The high word of each product is mixed with the low word and the key of the
    *other* pair, whose next low word is that of the product.
    """
    for key in keys:
        # The 64-bit products of the high halves, swapped to the pair that they are mixed into.
        np.right_shift(pairs[::-1], _HALF, out=products)
        np.multiply(products, _CROSSED, out=products)
        # New high halves: low half, key and high word of the product. New low halves: the low word of the product.
        np.left_shift(pairs, _HALF, out=pairs)
        np.bitwise_xor(pairs, key, out=pairs)
        np.bitwise_xor(pairs, products, out=pairs)

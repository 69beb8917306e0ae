"""Philox and Box-Muller on a device: the words of philox.py by integer operations of torch or in one Triton kernel."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from .errors import in_line
from .philox import MULTIPLIERS, ROUNDS, WEYL, WORD, Draw

PIECE = 2**22
"""Counters in one pass, some 500 MB of work space. It changes no byte of a draw."""
TOLERANCE = 1e-6
"""How far the normals of two implementations may differ."""

_LOW = WORD - 1


def normals_on(device: torch.device, draw: Draw) -> Tensor:
    """A draw, (samples, size) float32, made on the device: the words are the CPU's, the normals agree to 1e-6."""
    # Triton compiles for NVIDIA's and AMD's cards, and torch calls both cuda.
    fused = kernel_for(device) if device.type == "cuda" else None
    return (fused or normals)(device, draw)


@cache
def kernel_for(device: torch.device) -> Callable[[torch.device, Draw], Tensor] | None:
    """The Triton kernel if it can be built here and agrees with torch's operations, else None."""
    try:
        from .philox_triton import normals as fused
    except ImportError:
        return None
    # Words near 2^32 everywhere, an odd size and more than one program: where a wrong kernel would differ.
    draw = Draw(2**63 - 1, range(WORD - 3, WORD), 4099, WORD - 1, WORD - 1)
    try:
        apart = float((fused(device, draw) - normals(device, draw)).abs().max())
    except Exception as error:  # no compiler, or an unknown driver: torch can draw all the same
        reason = f"does not run ({in_line(error)})"
    else:
        if apart <= TOLERANCE:
            return fused
        reason = f"is wrong by {apart:g}"
    warnings.warn(f"noise on {device}: the Triton kernel {reason}; torch draws in its place, more slowly", stacklevel=2)
    return None


def normals(device: torch.device, draw: Draw) -> Tensor:
    """A draw, (samples, size) float32, by torch's own operations on any device."""
    drawn = torch.empty(draw.shape, dtype=torch.float32, device=device)
    for rows, columns in draw.tiles(PIECE):
        found = torch.stack([_box_muller(pair) for pair in words(device, draw, rows, columns)], dim=2).flatten(1)
        drawn[rows, 4 * columns.start : 4 * columns.stop] = found[:, : draw.size - 4 * columns.start]
    return drawn


def words(device: torch.device, draw: Draw, rows: slice, columns: range) -> tuple[Tensor, Tensor]:
    """The random words of some samples (rows) and blocks (columns) of a draw, as the bits of two int64 tensors.

    The first word is the high half of the first tensor and the second its low half; the third and fourth are those
    of the second tensor. int64 stands in for uint64, which torch lacks: products wrap alike, and shifts to the
    right are masked, since they copy the sign.
    """
    samples = draw.samples[rows]
    # The counters of all elements of a tile at once, each pair of 32-bit words in one int64.
    block = torch.arange(columns.start, columns.stop, device=device)
    first = block << 32 | torch.arange(samples.start, samples.stop, device=device)[:, None]
    second = torch.full_like(first, _as_int64(draw.place << 32 | draw.label))
    low, high = draw.key % WORD, draw.key // WORD
    for _ in range(ROUNDS):  # as philox._encrypt
        left, right = (first >> 32 & _LOW) * MULTIPLIERS[0], (second >> 32 & _LOW) * MULTIPLIERS[1]
        first, second = first << 32 ^ right ^ _as_int64(low << 32), second << 32 ^ left ^ _as_int64(high << 32)
        low, high = (low + WEYL[0]) % WORD, (high + WEYL[1]) % WORD
    return first, second


def _as_int64(bits: int) -> int:
    """The int64 with these 64 bits."""
    return bits - 2**64 if bits >= 2**63 else bits


def _box_muller(pair: Tensor) -> Tensor:
    """Two normals from the two words in each element, (*pair.shape, 2) float32, in the steps of philox.py."""
    # The same operations in the same order as on the CPU, in place: a tile is large.
    radii = (pair >> 32 & _LOW).double().add_(0.5).mul_(1 / WORD).log_().mul_(-2).sqrt_()
    angles = (pair & _LOW).double().add_(0.5).mul_(2 * math.pi / WORD)
    return torch.stack([radii * angles.cos(), radii * angles.sin()], dim=-1).float()

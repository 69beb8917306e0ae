"""Philox and Box-Muller in one Triton kernel, which writes nothing but the normals, each once."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .philox import Draw

COUNTERS = 512
"""Counters of one program of the kernel."""
STEP = tl.constexpr(1 / 2**32)
TURN = tl.constexpr(2 * math.pi / 2**32)


def normals(device: torch.device, draw: Draw) -> Tensor:
    """A draw, (samples, size) float32, made on the device."""
    return _launch(device, draw, torch.float32)


def words(device: torch.device, draw: Draw) -> Tensor:
    """The random words behind `normals`, (samples, size), as the bits of int32."""
    return _launch(device, draw, torch.int32)


def _launch(device: torch.device, draw: Draw, dtype: torch.dtype) -> Tensor:
    drawn = torch.empty(draw.shape, dtype=dtype, device=device)
    counters = len(draw.samples) * triton.cdiv(draw.size, 4)
    with torch.cuda.device_of(drawn):  # Triton launches on the current device
        grid = (triton.cdiv(counters, COUNTERS),)
        _draw[grid](drawn, draw.key, draw.samples.start, draw.size, counters, draw.place, draw.label, width=COUNTERS)
    return drawn


# Without do_not_specialize Triton would compile a kernel for 1, for multiples of 16 and for the rest, of each argument.
@triton.jit(do_not_specialize=["key", "first", "size", "counters", "place", "label"])
def _draw(  # noqa: PLR0913  (the fields of a draw)
    drawn,
    key: tl.int64,
    first: tl.int64,
    size: tl.int64,
    counters: tl.int64,
    place: tl.int64,
    label: tl.int64,
    width: tl.constexpr,
):
    """Four normals for each of `width` counters, or four words if `drawn` holds integers."""
    counter = tl.program_id(0).to(tl.int64) * width + tl.arange(0, width)
    blocks = (size + 3) // 4
    row, block = counter // blocks, counter % blocks
    places, labels = tl.full([width], place, tl.int64), tl.full([width], label, tl.int64)
    # Triton's own Philox has these ten rounds, and splits the key into its two words; `kernel_for` compares before use.
    w0, w1, w2, w3 = tl.philox(
        key, block.to(tl.uint32), (first + row).to(tl.uint32), places.to(tl.uint32), labels.to(tl.uint32)
    )
    if drawn.dtype.element_ty == tl.float32:
        z0, z1 = _box_muller(w0, w1)
        z2, z3 = _box_muller(w2, w3)
    else:
        z0, z1, z2, z3 = w0, w1, w2, w3
    # The last program has counters beyond the draw, and the last block of a sample elements beyond its size.
    inside = counter < counters
    element = 4 * block
    target = drawn + row * size + element
    tl.store(target, z0, mask=inside)
    tl.store(target + 1, z1, mask=inside & (element + 1 < size))
    tl.store(target + 2, z2, mask=inside & (element + 2 < size))
    tl.store(target + 3, z3, mask=inside & (element + 3 < size))


@triton.jit
def _box_muller(even, odd):
    # In float64, because u = (word + 1/2) / 2^32 needs 33 binary digits.
    radius = tl.sqrt(-2 * tl.log((even.to(tl.float64) + 0.5) * STEP))
    angle = (odd.to(tl.float64) + 0.5) * TURN
    return (radius * tl.cos(angle)).to(tl.float32), (radius * tl.sin(angle)).to(tl.float32)

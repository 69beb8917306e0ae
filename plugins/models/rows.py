"""How many rows a network on pixels gets in one call."""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_ROWS = 64
MOST_NUMBERS = 2**22
"""Most numbers of the states in one call: 64 colour images of 147 x 147, or one of 1182 x 1182."""


def rows_of_a_call(shape: Sequence[int]) -> int:
    """Rows for states of this shape, a power of two: 64 where they are small, fewer where they would take gigabytes."""
    most = max(MOST_NUMBERS // math.prod(shape), 1)
    return int(min(MOST_ROWS, 2 ** (most.bit_length() - 1)))

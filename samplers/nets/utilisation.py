"""How busy the device of a training is."""

from __future__ import annotations

import time
from contextlib import suppress

import torch


class Utilisation:
    """The share of the time in which a device computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = self._read()

    def __call__(self) -> float | None:
        """On the CPU the share since the last call, of all threads of torch; on CUDA that of the moment, as the driver
        says it. None where nobody says it."""
        if self._device.type == "cpu":
            before, self._before = self._before, self._read()
            (worked, passed) = (now - then for now, then in zip(self._before, before, strict=True))
            return worked / passed / torch.get_num_threads() if passed else None
        # The driver's library is a package of its own, and other accelerators have none.
        with suppress(Exception):
            return torch.cuda.utilization(self._device) / 100 if self._device.type == "cuda" else None
        return None

    @staticmethod
    def _read() -> tuple[float, float]:
        return time.process_time(), time.monotonic()

"""The settings of a training, checked before anything is written."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ....samplers.errors import InputError, closest
from ....samplers.nets.ranks import Ranks
from ....samplers.noise import check_seed
from ....samplers.options import check_count
from .networks import PRESETS, Preset, check_side

PRECISIONS = ("bf16", "float32")
BATCH = 128
LATER = {"compile": False}
"""Settings that older trainings do not name, with the values that those had."""
LEAST_STEPS, MOST_STEPS = 2, 100_000_000
MOST_BATCH = 65_536


@dataclass(frozen=True)
class Settings:
    """How a DDPM is trained on the user's images."""

    size: int = 32
    """Side of the images in pixels."""
    preset: str = "tiny"
    steps: int | None = None
    """Steps of the U-Net; None = as many as fit into `minutes`, or the preset's."""
    minutes: float | None = None
    """Minutes for all networks together, at the speed of this machine."""
    batch_size: int = BATCH
    """Images in a step, of all processes together."""
    lr: float | None = None
    """The highest learning rate of the U-Net; None = the preset's."""
    precision: str = "bf16"
    """The precision of the forward pass, where the operation allows it; weights are float32."""
    seed: int = 0
    compile: bool = False
    """Whether the U-Net is compiled, which is faster and moves the last digits."""

    def __post_init__(self) -> None:
        """InputError, naming the setting, for an invalid value."""
        check_choice("preset", self.preset, PRESETS)
        check_choice("precision", self.precision, PRECISIONS)
        check_side(self.size, self.preset)
        if self.steps is not None and self.minutes is not None:
            raise InputError(f"steps {self.steps} and minutes {self.minutes:g}: expected one of them")
        if self.steps is not None and check_count("steps", self.steps, MOST_STEPS) < LEAST_STEPS:
            raise InputError(f"steps {self.steps}: expected at least {LEAST_STEPS}; a first step leaves layers at zero")
        check_positive("minutes", self.minutes)
        check_count("batch_size", self.batch_size, MOST_BATCH)
        check_positive("lr", self.lr)
        check_seed(self.seed)

    @property
    def of_preset(self) -> Preset:
        """The preset of that name."""
        return PRESETS[self.preset]

    def check_ranks(self, ranks: Ranks) -> None:
        """InputError for a batch that the processes cannot share evenly, and for a precision that the device lacks."""
        if self.batch_size % ranks.size:
            raise InputError(f"batch_size {self.batch_size}: expected a multiple of {ranks.size}, one part a process")
        if ranks.device.type == "cuda" and self.precision == "bf16" and not torch.cuda.is_bf16_supported():
            raise InputError("precision bf16: this GPU cannot compute in it; expected float32")

    def as_json(self) -> dict[str, Any]:
        """The settings by name."""
        return asdict(self)


def check_choice(name: str, value: object, accepted: Collection[str]) -> None:
    """One of some names."""
    if value not in accepted:
        raise InputError(f"{name} {value!r}{closest(str(value), accepted)}: expected {', '.join(accepted)}")


def check_positive(name: str, value: object) -> None:
    """A positive number, or None."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InputError(f"{name} {value!r}: expected a number above 0")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """ "name: old -> new" for each setting that has changed."""
    names = dict.fromkeys([*before, *now])
    return [f"{name}: {before.get(name)!r} -> {now.get(name)!r}" for name in names if before.get(name) != now.get(name)]

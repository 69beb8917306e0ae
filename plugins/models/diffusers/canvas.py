"""Sizes of images and of their latent states, and the conversion from states to images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ....samplers.errors import InputError, ModelError
from ....samplers.model import to_images
from .folder import Part, at_fault, is_number, short
from .weights import load_part

Size = tuple[int, int]
"""Width and height in pixels."""
CHANNELS = (1, 3)
MOST_LEVELS = 12
"""Most levels of a network that halves its input from each to the next: 4096 pixels become one place."""
MOST_USUAL = 4096
"""Largest side, in pixels, of the images that a model makes by default."""


@dataclass(frozen=True)
class Canvas:
    """Which sizes a model can make, and which it makes by default."""

    step: int
    """Both sides are multiples of it."""
    why: str
    """What divides them."""
    usual: Size | None
    """The default size; None = the config states none."""
    square: bool = False
    most: int | None = None
    """The longest side."""

    def choose(self, given: Size | None) -> Size:
        """The size to use."""
        size = given or self.usual
        if size is None:
            raise InputError("size: not given, and the config of this model names none; give one, as in --size 256")
        text = "x".join(map(str, size))
        if any(side % self.step for side in size):
            fits = dict.fromkeys("x".join(map(str, map(near, size))) for near in (self._below, self._above))
            raise InputError(
                f"size {text}: expected multiples of {self.step}, by which {self.why}; the nearest: {' or '.join(fits)}"
            )
        if self.square and size[0] != size[1]:
            raise InputError(f"size {text}: this model makes only square images; expected {size[0]} or {size[1]}")
        if self.most and max(size) > self.most:
            raise InputError(f"size {text}: expected at most {self.most} a side, the places that this model knows")
        return size

    def _below(self, side: int) -> int:
        return max(side // self.step, 1) * self.step

    def _above(self, side: int) -> int:
        return -(-side // self.step) * self.step


def usual_size(network: Part, factor: int) -> Size | None:
    """The size that a network was made for, in pixels; `factor`: pixels a place of its state."""
    places = network.config.get("sample_size")
    if places is None:
        return None
    sides = [places, places] if isinstance(places, int) else places
    fits = isinstance(sides, list) and len(sides) == 2 and all(type(s) is int for s in sides)  # noqa: PLR2004
    if not fits or not all(1 <= side * factor <= MOST_USUAL for side in sides):
        raise ModelError(
            f"{network.file}: sample_size {short(places)}: expected a number of places, or height and width, of images "
            f"of at most {MOST_USUAL} pixels a side"
        )
    height, width = sides
    return width * factor, height * factor


def halvings_of(part: Part) -> int:
    """How often a network halves its input."""
    levels = len(part.need("block_out_channels", list))
    if not 1 <= levels <= MOST_LEVELS:
        raise ModelError(f"{part.file}: block_out_channels lists {levels:,} levels; expected 1 to {MOST_LEVELS}")
    return levels - 1


class VAE:
    """The autoencoder of a latent model."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.factor = 2 ** halvings_of(part)
        """Pixels a place of the latent state."""
        usual_channels = 3 if part.cls == "VQModel" else 4
        self.latent_channels = int(part.get("latent_channels", usual_channels, int))
        self.channels = int(part.get("out_channels", 3, int))
        if self.channels not in CHANNELS:
            raise ModelError(f"{part.file}: out_channels {self.channels}: expected 1 or 3, grey or colour")

    def shape(self, size: Size) -> tuple[int, int, int]:
        """The shape of the latent state of an image."""
        width, height = size
        return self.latent_channels, height // self.factor, width // self.factor

    def decoder(self) -> Callable[[Tensor], Tensor]:
        """Latent states (n, C, h, w) -> uint8 images, one at a time, so that no image depends on its company."""
        scale = self.part.number("scaling_factor", 0.18215)
        shift = self.part.number("shift_factor", 0.0)
        if scale == 0:
            raise ModelError(f"{self.part.file}: scaling_factor 0: expected a number that states can be divided by")
        means, deviations = (self._per_channel(field) for field in ("latents_mean", "latents_std"))
        network = functools.cache(functools.partial(load_part, self.part))

        @torch.no_grad()
        def decode(x: Tensor) -> Tensor:
            x = x.to(torch.promote_types(x.dtype, torch.float32))  # in half precision autoencoders overflow
            vae = network(x.device, x.dtype)
            if means is not None and deviations is not None:
                latents = x * deviations.to(x) / scale + means.to(x)
            else:
                latents = x / scale + shift
            with at_fault(self.part.folder, "no autoencoder that decodes these states"):
                images = [to_images(vae.decode(one, return_dict=False)[0]) for one in torch.split(latents, 1)]  # type: ignore[operator]
            return torch.cat([image for image in images if image is not None])

        return decode

    def _per_channel(self, field: str) -> Tensor | None:
        numbers = self.part.get(field, None, list)
        if numbers is None:
            return None
        if len(numbers) != self.latent_channels or not all(map(is_number, numbers)):
            raise ModelError(f"{self.part.file}: {field}: expected {self.latent_channels} numbers, one a channel")
        return torch.tensor(numbers, dtype=torch.float64).reshape(-1, 1, 1)

"""The detector: a map of what stands where, and the colour of the ground."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name that every torch program uses)

from ...data.scenes.composing import Scene
from ...data.scenes.things import COLOURS, THINGS, Thing

CELLS = 8
"""Cells of the map along a side: two centres lie at least three of them apart."""
WIDTHS = (32, 64, 96)
"""Channels of the full image, of the map's last enlargement, and of the map."""
GROUPS = 8
LEAST_SURE = 0.5
"""How sure the network must be that a thing stands somewhere."""
TIE = 1e-6
"""What a window gives way to each one before it."""


class Seen(NamedTuple):
    """A thing that was found, and its centre in shares of the side."""

    thing: Thing
    x: float
    y: float


class Found(NamedTuple):
    """What an image shows."""

    seen: tuple[Seen, ...]
    colour: str


def layer(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    """A convolution, normalised."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1), nn.GroupNorm(GROUPS, c_out), nn.SiLU())


class Detector(nn.Module):
    """Tells for each cell which thing has its centre there, if any, and the colour of the ground."""

    def __init__(self, things: int, halvings: int) -> None:
        super().__init__()
        self.halvings = halvings
        widths = [WIDTHS[0], *(WIDTHS[1] for _ in range(halvings - 1)), WIDTHS[2]]
        self.stem = layer(3, widths[0])
        self.stages = nn.ModuleList(
            nn.Sequential(layer(c_in, c_out, 2), layer(c_out, c_out)) for c_in, c_out in itertools.pairwise(widths)
        )
        self.whole = layer(WIDTHS[2], WIDTHS[2])
        self.things = nn.Conv2d(WIDTHS[2], things + 1, 1)
        self.colour = nn.Linear(WIDTHS[2], len(COLOURS))

    @property
    def side(self) -> int:
        """Pixels of the side of its images."""
        return CELLS << self.halvings

    def trunk(self, x: Tensor) -> Tensor:
        """Images in [-1, 1] (B, 3, side, side) -> (B, d, CELLS, CELLS)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        out: Tensor = self.whole(x)
        return out

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1] -> logits of things, the last of none, (B, things + 1, CELLS, CELLS), and of colours."""
        hidden = self.trunk(x)
        return self.things(hidden), self.colour(hidden.mean((2, 3)))

    def features(self, images: Tensor) -> Tensor:
        """uint8 (B, 1 or 3, H, W) -> the mean of the map (B, d)."""
        return self.trunk(self.as_input(images)).mean((2, 3))

    def find(self, images: Tensor) -> list[Found]:
        """uint8 (B, 1 or 3, H, W) -> what each shows."""
        maps, colours = self(self.as_input(images))
        names = tuple(COLOURS)
        seen = centres_in(maps.float().softmax(1).cpu())
        return [Found(one, names[int(i)]) for one, i in zip(seen, colours.argmax(1), strict=True)]

    def as_input(self, images: Tensor) -> Tensor:
        """uint8 images in colour, of the network's own size, from -1 to 1."""
        # Grey images are colour images with three equal channels; those in colour stay as they are.
        x = images.expand(-1, 3, -1, -1).float() / 127.5 - 1
        if x.shape[-2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)
        return x


def shape_of(shapes: Mapping[str, Sequence[int]]) -> tuple[int, int]:
    """How many things a detector knows, and how often it halves, by the shapes of its tensors."""
    stages = {name.split(".")[1] for name in shapes if name.startswith("stages.")}
    # The shapes are a stranger's: bounds keep them from naming a network too large to build.
    heads = shapes.get("things.weight", (2,))
    return min(max(heads[0] - 1, 1), len(THINGS)), min(max(len(stages), 1), 6)


def centres_in(sure: Tensor) -> list[tuple[Seen, ...]]:
    """How sure the network is of each thing in each cell, (B, things + 1, h, w) -> what is seen in each image.

    A centre between cells is shared by up to four of them, as in training: what they hold is added.
    """
    things = sure[:, :-1]
    # The mean of four times four is their sum, for each window of two by two cells.
    of_four = 4 * F.avg_pool2d(things, 2, stride=1)
    # Of windows with equal sums the first one is the peak, not each of them.
    total = of_four.sum(1)
    total -= TIE * torch.arange(total[0].numel(), device=total.device).view_as(total[0])
    is_peak = (total == F.max_pool2d(total, 3, stride=1, padding=1)) & (total > LEAST_SURE)
    height, width = sure.shape[-2:]
    seen: list[list[Seen]] = [[] for _ in sure]
    for image, row, column in is_peak.nonzero().tolist():
        # The centre lies between the cells as their shares say.
        weights = things[image, :, row : row + 2, column : column + 2].sum(0) / total[image, row, column]
        x = (column + 0.5 + float(weights[:, 1].sum())) / width
        y = (row + 0.5 + float(weights[1].sum())) / height
        seen[image].append(Seen(THINGS[int(of_four[image, :, row, column].argmax())], x, y))
    return [tuple(one) for one in seen]


def target_of(scene: Scene, things: int) -> Tensor:
    """What the map of a scene should be, (things + 1, CELLS, CELLS): a centre is shared by the cells around it."""
    target = torch.zeros(things + 1, CELLS, CELLS)
    for picture in scene.pictures:
        (left, of_right), (top, of_lower) = (divmod(at * CELLS - 0.5, 1) for at in picture.centre)
        thing = THINGS.index(picture.thing)
        for row, down in ((int(top), 1 - of_lower), (int(top) + 1, of_lower)):
            for column, across in ((int(left), 1 - of_right), (int(left) + 1, of_right)):
                target[thing, row, column] += down * across
    target[-1] = 1 - target[:-1].sum(0)
    return target

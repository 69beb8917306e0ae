"""Captions of Fashion-MNIST: class and brightness, in several wordings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .data import CLASSES, Split

BRIGHTNESS = {-1: ("dark", "black"), 0: (), 1: ("bright", "white")}
"""Words for the darkest, the middle and the brightest third of each class."""
OPENINGS = ("a", "a photo of a", "a picture of a", "an image of a")
BARE_SHARE = 0.4
"""Share of captions that are the bare class word, which the default prompts are too."""
BRIGHTNESS_SHARE = 0.7
"""The share of the other captions of a dark or a bright garment that say so."""
VOWELS = "aeiou"


def vocabulary() -> list[str]:
    """Every word that a caption can have, sorted."""
    texts = [*CLASSES, *OPENINGS, "an", *(w for words in BRIGHTNESS.values() for w in words)]
    return sorted({word for text in texts for word in text.split()})


def brightness_of(split: Split) -> npt.NDArray[np.int64]:
    """-1, 0 or 1 for each image: its third by mean grey level of the garment, within its class, (N,)."""
    images = split.images.flatten(1).float()
    garment = images > 0
    mean = ((images * garment).sum(1) / garment.sum(1).clamp(min=1)).numpy()
    labels = split.labels.numpy()
    third = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        of_class = labels == label
        low, high = np.quantile(mean[of_class], [1 / 3, 2 / 3])
        third[of_class] = np.where(mean[of_class] <= low, -1, np.where(mean[of_class] > high, 1, 0))
    return third


def caption(label: int, brightness: int, rng: np.random.Generator) -> str:
    """One wording for an image of this class and brightness, e.g. "a dark ankle boot"."""
    noun = CLASSES[label]
    if rng.random() < BARE_SHARE:
        return noun
    words = BRIGHTNESS[brightness]
    phrase = f"{rng.choice(words)} {noun}" if words and rng.random() < BRIGHTNESS_SHARE else noun
    opening = str(rng.choice(["", *OPENINGS]))
    # "a photo of an ankle boot": the article follows the word after it.
    if opening.endswith("a") and phrase[0] in VOWELS:
        opening += "n"
    return f"{opening} {phrase}".strip()


def captions_for(labels: Tensor, brightness: npt.NDArray[np.int64], seed: int) -> list[str]:
    """One caption for each (label, brightness)."""
    rng = np.random.default_rng(seed)
    return [caption(int(label), int(b), rng) for label, b in zip(torch.as_tensor(labels), brightness, strict=True)]

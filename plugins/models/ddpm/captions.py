"""The captions of a data set as a model learns them: its vocabulary, its classes, its balanced prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ....samplers.nets.clip import Tokenizer, vocabulary_of, words_of

MOST_WORDS = 4_096
"""Most words of a vocabulary; rarer words are left out of the captions."""
LONGEST = 32
"""Most words of a caption; further words are left out."""
MOST_PROMPTS = 1_000
IMAGES_PER_CLASS = 10
"""Captions count as classes if on average this many images share each."""
NONE = -1


class Turn(NamedTuple):
    """One of the captions that take turns."""

    text: str
    share: int
    """Its share of the turns, relative to the others."""


@dataclass(frozen=True)
class Captions:
    """The distinct captions of some images, as far as the vocabulary goes."""

    texts: tuple[str, ...]
    """In the order in which they first appear."""
    of_image: Tensor
    """Number of the caption of each image, -1 = none, (N,) int64."""
    vocabulary: tuple[str, ...]
    length: int
    """Words of the longest text."""
    shortened: int
    """How many images have a caption that lost words."""

    @property
    def classes(self) -> int:
        """How many classes the captions form: one for each text if each has enough images, else 0."""
        return len(self.texts) if len(self.captioned) >= IMAGES_PER_CLASS * len(self.texts) else 0

    @property
    def captioned(self) -> Tensor:
        """The numbers of the images that have a caption."""
        return (self.of_image != NONE).nonzero()[:, 0]

    def of(self, rows: Tensor) -> list[str]:
        """The captions of images that have one."""
        return [self.texts[i] for i in self.of_image[rows].tolist()]

    def prompts(self) -> tuple[str, ...]:
        """At most 1,000 captions, each as often as in the data and taking turns, so that any first n are balanced."""
        counts = Counter(self.of_image[self.captioned].tolist())
        numbers = sorted(counts)
        if len(numbers) > MOST_PROMPTS:
            rng = np.random.default_rng(0)
            chosen = rng.choice(self.captioned.numpy(), MOST_PROMPTS, replace=False)
            return tuple(self.of(torch.from_numpy(chosen)))
        # After that many turns every caption has come as often as its share says, and the order begins again.
        period = len(self.captioned) // gcd(*counts.values())
        turns = [Turn(self.texts[i], counts[i]) for i in numbers]
        return tuple(in_turn(turns, min(period, MOST_PROMPTS)))


def in_turn(turns: Sequence[Turn], n: int) -> list[str]:
    """n texts, each in proportion to its share and spread evenly: the one that is furthest behind comes next."""
    total = sum(turn.share for turn in turns)
    due = np.zeros(len(turns), dtype=np.int64)
    order = []
    for _ in range(n):
        due += [turn.share for turn in turns]
        nxt = int(due.argmax())
        due[nxt] -= total
        order.append(turns[nxt].text)
    return order


def learnable(captions: Sequence[str | None]) -> Captions | None:
    """The captions of images as a model can learn them; None unless at least two differ."""
    given = [text for text in captions if text is not None]
    vocabulary = vocabulary_of(given, MOST_WORDS)
    length = min(max((len(words_of(text)) for text in given), default=0), LONGEST)
    tokenizer = Tokenizer(vocabulary, length)
    # Texts that differ only in words that are left out are one caption for the model.
    known = {text: tokenizer.known_part(text) for text in dict.fromkeys(given)}
    texts = tuple(dict.fromkeys(text for text in known.values() if text))
    if len(texts) < 2:  # noqa: PLR2004  (one caption for all says nothing)
        return None
    number = {text: i for i, text in enumerate(texts)} | {"": NONE}
    of_image = torch.tensor([NONE if text is None else number[known[text]] for text in captions])
    shortened = sum(text is not None and known[text] != text for text in captions)
    return Captions(texts, of_image, tuple(vocabulary), length, shortened)

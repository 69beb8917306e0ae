"""model.json: what a folder of weights holds, and how it was trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ....samplers.errors import ModelError
from ....samplers.files.atomic import make_folder, write_atomically
from ....samplers.files.weights import check_regular, check_sum, read_json
from ....samplers.model import is_image_shape
from ....samplers.nets.clip import CLIP
from ....samplers.nets.unet import UNet
from .captions import LONGEST, MOST_PROMPTS, MOST_WORDS
from .networks import CONDITION_DIM, SIZES, FeatureNet, unet_of

FILE = "model.json"
KIND = "samplerbench ddpm"
FORMAT = 1
MOST = 4_096
"""Largest number in the arguments of a network: a stranger's file must not fill the memory."""
MOST_LEVELS = 8
MOST_ATTENTION = 64
"""Largest side of a feature map with attention, whose memory grows with the fourth power of the side."""
MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class Card:
    """What is known of a trained model beside its weights."""

    data: str
    """The name of its images."""
    shape: tuple[int, int, int]
    unet: Mapping[str, Any]
    """The arguments of its UNet."""
    vocabulary: tuple[str, ...]
    """The words of its captions; empty = no captions."""
    length: int
    """How many words the longest caption has."""
    prompts: tuple[str, ...]
    classes: int
    """How many classes its classifier has; 0 = no classifier."""
    notes: tuple[str, ...]
    """Notes on its data, as sentences."""
    training: Mapping[str, Any]
    """Settings, data and lengths that a resumed training must share with this one."""

    @property
    def has_captions(self) -> bool:
        """Whether there is a CLIP that conditions the model."""
        return bool(self.vocabulary)

    @property
    def weights(self) -> tuple[str, ...]:
        """The files of weights, without their suffix."""
        features = ("features", "reference") if self.classes else ()
        return ("unet", *features, *(("clip", "clip_reference") if self.has_captions else ()))

    def new_unet(self) -> UNet:
        """Its U-Net, untrained."""
        return unet_of(self.unet)

    def new_clip(self) -> CLIP:
        """Its CLIP, untrained."""
        return CLIP(
            vocabulary=self.vocabulary, channels=self.shape[0], dim=CONDITION_DIM, text_length=self.length
        )  # fmt: skip

    def new_features(self) -> FeatureNet:
        """Its classifier, untrained."""
        return FeatureNet(self.shape[0], self.classes)


def write_card(card: Card, folder: Path) -> None:
    """Write model.json."""
    text = json.dumps({"kind": KIND, "format": FORMAT, **asdict(card)}, indent=1, ensure_ascii=False)
    make_folder(folder)
    write_atomically(folder / FILE, f"{text}\n".encode())


def is_card(path: Path) -> bool:
    """Whether a folder's model.json is of this kind."""
    try:
        return (path / FILE).is_file() and read_json(path / FILE).get("kind") == KIND
    except ModelError:
        return False


def read_card(folder: Path) -> Card:
    """The content of a model.json after a check; ModelError for anything that `write_card` would not write."""
    path = folder / FILE
    check_regular(path)
    check_sum(path)
    values = read_json(path)
    if values.get("kind") != KIND or values.get("format") != FORMAT:
        raise ModelError(
            f"{path}: kind {str(values.get('kind'))[:80]!r}, format {str(values.get('format'))[:20]}; expected "
            f"{KIND!r}, format {FORMAT}, as samplerbench train writes it"
        )
    for name, (fits, expected) in FIELDS.items():
        if not fits(values.get(name)):
            raise ModelError(f"{path}: {name} is {str(values.get(name))[:80]!r}; expected {expected}")
    card = Card(**{name: _frozen(values[name]) for name in FIELDS})
    for name, (fits, expected) in UNET_FIELDS.items():
        if not fits(card.unet.get(name)):
            raise ModelError(f"{path}: unet {name} is {str(card.unet.get(name))[:80]!r}; expected {expected}")
    try:
        _check_together(card)
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
    return card


def _check_together(card: Card) -> None:
    """ValueError if the parts are valid each but do not fit together."""
    widths, heads = card.unet["widths"], card.unet["heads"]
    if set(card.unet) != set(UNET_FIELDS):
        raise ValueError(f"unet has {', '.join(sorted(card.unet))}; expected {', '.join(sorted(UNET_FIELDS))}")
    if any(w % 8 for w in widths):
        raise ValueError(f"unet widths {widths}: expected multiples of 8")
    if len(heads) != len(widths) or any(h and w % h for w, h in zip(widths, heads, strict=True)):
        raise ValueError(f"unet heads {heads}: expected one number for each of widths {widths}, 0 or a divisor")
    sides = [card.shape[1] // card.unet["patch"] // 2**level for level in range(len(widths))]
    if wide := [side for side, level_heads in zip(sides, heads, strict=True) if level_heads and side > MOST_ATTENTION]:
        raise ValueError(
            f"unet heads {heads}: attention at {wide[0]} x {wide[0]}; expected at most {MOST_ATTENTION} a side"
        )
    multiple = card.unet["patch"] * 2 ** (len(widths) - 1)
    if card.shape[1] != card.shape[2] or card.shape[1] % multiple or card.unet["channels"] != card.shape[0]:
        raise ValueError(f"shape {card.shape}: expected a square of side divisible by {multiple}, and unet's channels")
    if card.unet["condition_dim"] != (CONDITION_DIM if card.has_captions else 0):
        raise ValueError(f"unet condition_dim {card.unet['condition_dim']}: does not go with the vocabulary")
    if card.has_captions != bool(card.prompts) or card.has_captions != bool(card.length):
        raise ValueError("vocabulary, length and prompts: expected all of them or none")


def _frozen(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    return {key: _frozen(item) for key, item in value.items()} if isinstance(value, dict) else value


def _whole(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _list_of(fits: Callable[[object], bool], least: int, most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, (list, tuple)) and least <= len(value) <= most and all(map(fits, value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_shape(value: object) -> bool:
    return _list_of(_whole(1, SIZES[1]), 3, 3)(value) and isinstance(value, list) and is_image_shape(tuple(value))


Field = tuple[Callable[[object], bool], str]
FIELDS: Mapping[str, Field] = {
    "data": (_is_text, "a text"),
    "shape": (_is_shape, f"1 or 3 channels and sides of at most {SIZES[1]}"),
    "unet": (lambda value: isinstance(value, dict), "an object"),
    "vocabulary": (_list_of(_is_text, 0, MOST_WORDS), f"at most {MOST_WORDS} words"),
    "length": (_whole(0, LONGEST), f"a number from 0 to {LONGEST}"),
    "prompts": (_list_of(_is_text, 0, MOST_PROMPTS), f"at most {MOST_PROMPTS} texts"),
    "classes": (_whole(0, MOST_CLASSES), "a number of classes"),
    "notes": (_list_of(_is_text, 0, MOST), "texts"),
    "training": (lambda value: isinstance(value, dict), "an object"),
}
UNET_FIELDS: Mapping[str, Field] = {
    "channels": (_whole(1, 3), "1 or 3"),
    "widths": (_list_of(_whole(8, MOST), 1, MOST_LEVELS), f"1 to {MOST_LEVELS} numbers from 8 to {MOST}"),
    "heads": (_list_of(_whole(0, MOST), 1, MOST_LEVELS), "a number for each level"),
    "blocks": (_whole(1, 16), "a number from 1 to 16"),
    "patch": (_whole(1, 16), "a number from 1 to 16"),
    "condition_dim": (_whole(0, MOST), "a number"),
    "embedding_dim": (_whole(1, MOST), f"a number from 1 to {MOST}"),
}

"""model.json: what a folder of weights holds, and how it was trained."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from ....samplers.errors import ModelError
from ....samplers.files.atomic import make_folder, write_atomically
from ....samplers.files.records import record_from
from ....samplers.files.weights import check_regular, check_sum, read_json
from ....samplers.model import is_image_shape
from ....samplers.nets.clip import CLIP
from ....samplers.nets.unet import UNet
from .captions import LONGEST, MOST_PROMPTS, MOST_WORDS
from .networks import CONDITION_DIM, MOST, SIZES, FeatureNet, UNetSettings, unet_of

FILE = "model.json"
KIND = "samplerbench ddpm"
FORMAT = 1
MOST_ATTENTION = 64
"""Largest side of a feature map with attention, whose memory grows with the fourth power of the side."""
MOST_CLASSES = 1_000_000
Channels = Annotated[int, Meta(ge=1, le=3)]
Side = Annotated[int, Meta(ge=1, le=SIZES[1])]


@dataclass(frozen=True)
class Card:
    """What is known of a trained model beside its weights."""

    data: Annotated[str, Meta(description="a text")]
    """The name of its images."""
    shape: Annotated[tuple[Channels, Side, Side], Meta(description=f"1 or 3 channels and sides of at most {SIZES[1]}")]
    unet: Annotated[UNetSettings, Meta(description="an object")]
    """The arguments of its UNet."""
    vocabulary: Annotated[tuple[str, ...], Meta(max_length=MOST_WORDS, description=f"at most {MOST_WORDS} words")]
    """The words of its captions; empty = no captions."""
    length: Annotated[int, Meta(ge=0, le=LONGEST, description=f"a number from 0 to {LONGEST}")]
    """How many words the longest caption has."""
    prompts: Annotated[tuple[str, ...], Meta(max_length=MOST_PROMPTS, description=f"at most {MOST_PROMPTS} texts")]
    classes: Annotated[int, Meta(ge=0, le=MOST_CLASSES, description="a number of classes")]
    """How many classes its classifier has; 0 = no classifier."""
    notes: Annotated[tuple[str, ...], Meta(max_length=MOST, description="texts")]
    """Notes on its data, as sentences."""
    training: Annotated[dict[str, Any], Meta(description="an object")]
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
    card = record_from(_frozen(values), Card, path)
    try:
        # Each entry is valid by itself now; whether they fit together no type can say.
        _check_together(card, set(values["unet"]))
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
    return card


def _check_together(card: Card, said: set[str]) -> None:
    """ValueError if the parts are valid each but do not fit together; `said` are all the names in its unet."""
    widths, heads = card.unet["widths"], card.unet["heads"]
    if not is_image_shape(card.shape):
        raise ValueError(f"shape is {card.shape}; expected 1 or 3 channels")
    if said != set(card.unet):
        raise ValueError(f"unet has {', '.join(sorted(said))}; expected {', '.join(sorted(card.unet))}")
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

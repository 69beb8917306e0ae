"""Prompts -> conditions: tokenizers, text encoders, and rows that hold all that a network is told of a prompt."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....samplers.errors import InputError, ModelError, closest
from ....samplers.nets.clip import words_of
from .folder import Part, at_fault
from .libraries import library, quietly
from .tokenizers import KNOWN, longest_of, readable
from .weights import fingerprint, load_part, weight_files

TEXTS_COUNTED = 65_536
SHOWN_TEXT = 120
PENULTIMATE = 2
"""The clip skip that Stable Diffusion XL and 3 were trained with."""


@dataclass(frozen=True)
class Packing:
    """Several tensors of each prompt in one flat row, and out of it again."""

    shapes: tuple[tuple[int, ...], ...]
    """The shape of each tensor, without the batch."""

    def pack(self, *tensors: Tensor) -> Tensor:
        """Tensors of these shapes, wherever they are -> (L,) on the CPU, in float32."""
        assert tuple(tuple(t.shape) for t in tensors) == self.shapes
        return torch.cat([t.flatten().float().cpu() for t in tensors])

    def unpack(self, rows: Tensor) -> list[Tensor]:
        """(B, L) -> a tensor (B, *shape) for each shape."""
        pieces = torch.split(rows, [math.prod(shape) for shape in self.shapes], dim=1)
        return [piece.reshape(-1, *shape) for piece, shape in zip(pieces, self.shapes, strict=True)]


class TextEncoder:
    """A tokenizer with its text encoder, which is loaded when the first text is encoded."""

    def __init__(self, tokenizer: Part, encoder: Part, *, most_tokens: int | None = None) -> None:
        self.encoder = encoder
        self.place = torch.device("cpu"), torch.float32
        """Where the next texts are encoded, and in which precision."""
        self._loaded: tuple[tuple[torch.device, torch.dtype], Any] | None = None
        self._parts = tokenizer, encoder
        with readable(tokenizer.folder) as folder, quietly():
            cls = getattr(library("transformers"), tokenizer.cls)
            with at_fault(tokenizer.folder, f"no {tokenizer.cls} can be made of it"):
                self.tokenizer: Any = cls.from_pretrained(str(folder), local_files_only=True)
        self.words = tokenizer.folder
        self.known = frozenset(map(str, tokenizer.get(KNOWN, [], list)))
        """The words of the captions that the encoder was trained on; empty = not said."""
        places = most_tokens or encoder.need("max_position_embeddings", int)
        longest = longest_of(self.tokenizer, tokenizer.folder)
        self.length = places if most_tokens else int(min(places, longest))
        """Tokens of a text, those of its beginning and end included, and the padding of a shorter one."""
        self._count = functools.lru_cache(maxsize=TEXTS_COUNTED)(self._tokens)  # each cell of a run asks again

    @property
    def width(self) -> int:
        """Numbers of a token's state."""
        field = "d_model" if self.encoder.cls == "T5EncoderModel" else "hidden_size"
        return int(self.encoder.need(field, int))

    @property
    def layers(self) -> int:
        """Layers of the encoder."""
        return int(self.encoder.need("num_hidden_layers", int))

    def check(self, text: str) -> None:
        """InputError for a text that is too long; it is never cut."""
        count = self._count(text)
        if count > self.length:
            shown = text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}..."
            raise InputError(
                f"prompt {shown!r}: {count} tokens; expected at most {self.length}, those of its beginning and end "
                "among them; shorten it"
            )

    def unseen(self, text: str) -> list[str]:
        """The words of a text that the encoder never learned, as far as the tokenizer says which it did."""
        return [word for word in words_of(text) if word not in self.known] if self.known else []

    def _tokens(self, text: str) -> int:
        """How many tokens a text is."""
        with quietly(), at_fault(self.words, "no tokenizer that a text can be cut with"):
            return len(self.tokenizer(text).input_ids)

    def says(self, text: str, **options: object) -> Any:
        """What the encoder answers for a text, a batch of one."""
        self.check(text)
        with quietly(), at_fault(self.words, "no tokenizer that a text can be cut with"):
            tokens = self.tokenizer(text, padding="max_length", max_length=self.length, return_tensors="pt")
        known, most = int(self.encoder.need("vocab_size", int)), int(tokens.input_ids.max())
        if most >= known:
            raise ModelError(
                f"{self.words}: has a token of number {most}, and {self.encoder.file} knows {known} of them"
            )
        # Most pipelines let the encoder see the padding; whether this one does is in its config.
        masked = bool(self.encoder.config.get("use_attention_mask"))
        mask = {"attention_mask": tokens.attention_mask.to(self.place[0])} if masked else {}
        network = self._network
        with at_fault(self.encoder.folder, "no encoder that can be asked"):
            return network(tokens.input_ids.to(self.place[0]), **mask, **options)

    def states(self, text: str, skip: int) -> tuple[Tensor, Any]:
        """The states after the layer that is `skip` - 1 before the last (T, width), and all that the encoder said."""
        said = self.says(text, output_hidden_states=True)
        return said.hidden_states[-skip][0], said

    def normed_states(self, text: str, skip: int) -> Tensor:
        """The states after that layer, through the norm that follows the last layer."""
        states, _ = self.states(text, skip)
        network = self._network
        norm = getattr(network, "text_model", network).final_layer_norm  # where it is depends on the version
        normed: Tensor = norm(states)
        return normed

    @property
    def weights_bytes(self) -> int:
        """Bytes of its weights, as they are stored."""
        return sum(file.stat().st_size for file in weight_files(self.encoder)[0])

    @property
    def fingerprint(self) -> str:
        """Hash of the files of tokenizer and encoder."""
        return fingerprint(self._parts)

    def release(self) -> None:
        """Give the memory of the encoder back; the next text loads it again."""
        self._loaded = None

    @property
    def _network(self) -> Any:
        # At one place at a time: a large encoder fits no memory twice.
        if self._loaded is None or self._loaded[0] != self.place:
            self.release()
            self._loaded = self.place, load_part(self.encoder, *self.place)
        return self._loaded[1]


def encoders_side_by_side(pairs: Sequence[tuple[Part, Part]]) -> list[TextEncoder]:
    """The text encoders of (tokenizer, encoder) parts whose states of a token are put side by side.

    ModelError unless all of them pad a text to as many tokens.
    """
    texts = [TextEncoder(tokenizer, encoder) for tokenizer, encoder in pairs]
    lengths = [text.length for text in texts]
    if len(set(lengths)) > 1:
        said = " and ".join(f"{text.words.name} {text.length}" for text in texts)
        raise ModelError(f"{texts[0].words.parent}: tokens of a text: {said}; expected as many of each")
    return texts


def checks(encoders: Sequence[TextEncoder]) -> Callable[[Sequence[str]], list[str]]:
    """A function that refuses texts that an encoder cannot take, and names the words that none of them has seen."""

    def check(texts: Sequence[str]) -> list[str]:
        unseen: dict[str, str] = {}
        for text in dict.fromkeys(texts):
            for encoder in encoders:
                encoder.check(text)
                unseen |= {word: closest(word, encoder.known) for word in encoder.unseen(text) if word not in unseen}
        if not unseen:
            return []
        words = ", ".join(f"{word!r}{near}" for word, near in unseen.items())
        return [f"prompts: words that the text encoder never learned: {words}; images may not show them"]

    return check


def skip_of(given: int | None, usual: int, encoders: Sequence[TextEncoder]) -> int:
    """The clip skip to use: 1 = the last layer, 2 = the one before."""
    layers = min(encoder.layers for encoder in encoders)
    skip = usual if given is None else given
    if isinstance(skip, bool) or not isinstance(skip, int) or not 1 <= skip <= layers:
        raise InputError(
            f"clip_skip {skip!r}: expected a whole number from 1 (the last layer of the text encoder) to {layers}"
        )
    return skip


class Classes:
    """The classes of a model: numbers, and their names where there are some."""

    def __init__(self, count: int, names: Mapping[str, Any]) -> None:
        self.count = count
        whole = [str(names.get(str(k), "")).strip() for k in range(count)]
        # ImageNet's names are lists, "tench, Tinca tinca": the whole and each part may be asked for.
        spoken = [(name, k) for k, text in enumerate(whole) for name in {text, *(n.strip() for n in text.split(","))}]
        self._number: dict[str, int] = {}
        shared = set()
        for name, k in spoken:
            if self._number.setdefault(name.lower(), k) != k:
                shared.add(name.lower())
        for name in (*shared, ""):  # of two classes, or of none
            self._number.pop(name, None)
        self.prompts = tuple(text if text.lower() in self._number else str(k) for k, text in enumerate(whole))
        """A prompt for each class."""

    def check(self, texts: Sequence[str]) -> None:
        """InputError for a text that is no class."""
        for text in texts:
            self.number(text)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Class numbers or names -> (n,) int64."""
        return torch.tensor([self.number(text) for text in texts])

    def number(self, text: str) -> int:
        """The number of a class."""
        name = text.strip().lower()
        if name in self._number:
            return self._number[name]
        if name.isascii() and name.isdigit() and len(name) < 10 and int(name) < self.count:  # noqa: PLR2004
            return int(name)
        named = " or a name" if self._number else ""
        none = (
            "" if name else "; this model has none for no class, so guidance takes a negative one, as in --negative 0"
        )
        raise InputError(
            f"prompt {text!r}: expected a class, a number from 0 to {self.count - 1}{named}"
            f"{closest(name, self._number)}{none}"
        )

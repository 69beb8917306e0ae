"""The tokenizer of a latent model, in CLIP's own files: byte pairs that make a word of its captions one token."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ....samplers.errors import ModelError
from ....samplers.files.weights import read_json
from ....samplers.nets.clip import vocabulary_of, words_of
from ..diffusers.folder import WORDS
from ..diffusers.libraries import library, quietly
from ..diffusers.tokenizers import KNOWN, readable

MOST_WORDS = 4_096
PLACES = 32
"""Tokens of a text, with the two that begin and end it."""
START, END = "<|startoftext|>", "<|endoftext|>"
SUFFIX = "</w>"
"""Marks the last symbol of a word."""
PRIVATE = 0xE000
"""The first code point that Unicode leaves to private use; there are 6,400."""


def write_tokenizer(texts: Iterable[str], folder: Path) -> None:
    """Write the files of a tokenizer that knows the words of some texts; other words fall into letters."""
    library("transformers")  # brings the other, and the error names the extra that has both
    tokenizers = library("tokenizers")
    words = vocabulary_of(texts, MOST_WORDS)
    if not words:
        raise ModelError("captions: no words; expected images with captions, as in a folder with metadata.csv")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = merges_of(words, alphabet, tokenizers)
    # Every byte has a token, inside a word and at its end, so that any text can be written.
    symbols = [*alphabet, *(f"{letter}{SUFFIX}" for letter in alphabet)]
    tokens = dict.fromkeys([*symbols, *("".join(pair) for pair in merges), START, END])
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": PLACES, "bos_token": START, "eos_token": END,
        "pad_token": END, "unk_token": END, KNOWN: words,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def merges_of(words: Sequence[str], alphabet: Sequence[str], tokenizers: Any) -> list[tuple[str, str]]:
    """The pairs of symbols to merge, in order, until each of the words is whole; the same for the same words."""
    # The library numbers symbols that end a word in no fixed order, and which of two equally frequent pairs comes first
    # goes by these numbers. So each letter that ends a word is a character of its own, which no text has.
    last = {letter: chr(PRIVATE + i) for i, letter in enumerate(alphabet)}
    letters = {char: f"{letter}{SUFFIX}" for letter, char in last.items()}
    split = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    parts = [part for word in words for part, _ in split.pre_tokenize_str(word)]
    base = tokenizers.Tokenizer(tokenizers.models.BPE())
    base.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    # Merging goes on until each word is whole: a pair of one word is frequent enough.
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1 << 20, min_frequency=1, initial_alphabet=[*alphabet, *letters], show_progress=False
    )
    base.train_from_iterator([part[:-1] + last[part[-1]] for part in parts], trainer)
    learned = json.loads(base.to_str())["model"]["merges"]
    pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in learned]
    return [(first, second[:-1] + letters.get(second[-1], second[-1])) for first, second in pairs]


def unknown_words(folder: Path, texts: Iterable[str]) -> list[str]:
    """The words of some texts that the tokenizer in a folder does not list, most frequent first; none where it lists no
    words."""
    listed = read_json(folder / WORDS).get(KNOWN)
    if not isinstance(listed, list):
        return []
    known = set(map(str, listed))
    counts = Counter(word for text in texts for word in words_of(text) if word not in known)
    return [word for word, _ in counts.most_common()]


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder."""
    with quietly(), readable(folder) as files:
        return library("transformers").CLIPTokenizer.from_pretrained(str(files), local_files_only=True)


def fits(tokenizer: Any, text: str) -> bool:
    """Whether all tokens of a text have a place."""
    return len(tokenizer(text).input_ids) <= PLACES


def encoded(tokenizer: Any, texts: Sequence[str]) -> Any:
    """Texts -> the numbers of their tokens, (B, PLACES) int64, as pipelines ask for them."""
    return tokenizer(
        list(texts), padding="max_length", max_length=PLACES, truncation=True, return_tensors="pt"
    ).input_ids  # fmt: skip

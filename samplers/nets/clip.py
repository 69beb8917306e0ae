"""A small contrastive text-image model (CLIP, Radford et al. 2021).

An image encoder and a text encoder, both projected and normalised; matching pairs have a high cosine.
It conditions a diffusion model, classifies images zero-shot, and searches images by text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name that every torch program uses)

from ..errors import InputError, closest

PAD = 0
MAX_LOGIT_SCALE = math.log(100.0)  # the bound of the CLIP paper, section 2.5
MOST_LISTED = 100
"""Most words of a vocabulary that an error lists."""
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Kana and Han characters, which are written without spaces: each counts as a word."""
WORD = re.compile(rf"[{UNSPACED}]|[^\s,.;:!?\"(){UNSPACED}]+")


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation."""
    return WORD.findall(text.lower())


def vocabulary_of(texts: Iterable[str], most: int) -> list[str]:
    """The most frequent words of some texts, at most `most`, sorted."""
    counts = Counter(word for text in texts for word in words_of(text))
    # Ties by the alphabet, so that the same texts give the same vocabulary.
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:most]
    return sorted(frequent)


class Tokenizer:
    """Words to numbers, by a list of known words; an unknown word is an error and never guessed."""

    def __init__(self, vocabulary: Sequence[str], length: int) -> None:
        self.vocabulary = tuple(vocabulary)
        self.length = length
        self._number = {word: i for i, word in enumerate(self.vocabulary, start=PAD + 1)}

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (B, length) int64, padded with 0. Errors name the text and the word, or the length."""
        rows = torch.full((len(texts), self.length), PAD, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            words = words_of(text)
            # A guess at an unknown word would draw something else than the prompt says, and nobody would see it.
            unknown = next((w for w in words if w not in self._number), None)
            if unknown is not None:
                raise InputError(
                    f"prompt {text!r}: unknown word {unknown!r}{closest(unknown, self.vocabulary)}; "
                    f"this model knows: {self._vocabulary_text()}"
                )
            if not 0 < len(words) <= self.length:
                raise InputError(f"prompt {text!r}: {len(words)} words; expected 1 to {self.length}")
            row[: len(words)] = torch.tensor([self._number[w] for w in words])
        return rows

    def _vocabulary_text(self) -> str:
        """The vocabulary for a message; the beginning and the number of the rest if it is long."""
        rest = len(self.vocabulary) - MOST_LISTED
        return ", ".join(self.vocabulary[:MOST_LISTED]) + (f" and {rest:,} more words" if rest > 0 else "")

    def known_part(self, text: str) -> str:
        """The text if it can be encoded, else its known words, at most `length`; '' if none is known."""
        words = words_of(text)
        known = [word for word in words if word in self._number][: self.length]
        return text if known and known == words else " ".join(known)


class TextEncoder(nn.Module):
    """A transformer over the words; its output is averaged over the words, without the padding."""

    def __init__(self, vocabulary_size: int, length: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary_size + 1, width, padding_idx=PAD)
        # Small at first, so that words count before their places do.
        self.position = nn.Parameter(nn.init.normal_(torch.empty(length, width), std=0.02))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, length) -> (B, width)."""
        present = tokens != PAD
        h = self.norm(self.transformer(self.token(tokens) + self.position, src_key_padding_mask=~present))
        # Padding must count neither in the attention (the mask above) nor in the mean.
        weight = present[..., None].to(h.dtype)
        pooled: Tensor = (h * weight).sum(1) / weight.sum(1)
        return pooled


class ImageEncoder(nn.Sequential):
    """A plain convolutional network that halves the side at each width; its output is averaged over all places."""

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for c_in, c_out in zip((channels, *widths), widths, strict=False):
            layers += [
                nn.Conv2d(c_in, c_out, 3, padding=1), nn.GroupNorm(8, c_out), nn.SiLU(),
                nn.Conv2d(c_out, c_out, 3, padding=1, stride=2), nn.GroupNorm(8, c_out), nn.SiLU(),
            ]  # fmt: skip
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class CLIP(nn.Module):
    """An image encoder and a text encoder into the same space of `dim` dimensions."""

    def __init__(  # noqa: PLR0913  (hyperparameters, each by keyword)
        self,
        *,
        vocabulary: Sequence[str],
        channels: int = 1,
        dim: int = 64,
        image_widths: Sequence[int] = (32, 64, 128),
        text_width: int = 64,
        text_layers: int = 2,
        text_heads: int = 4,
        text_length: int = 12,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.tokenizer = Tokenizer(vocabulary, text_length)
        self.image_encoder = ImageEncoder(channels, image_widths)
        self.text_encoder = TextEncoder(len(vocabulary), text_length, text_width, text_layers, text_heads)
        self.image_projection = nn.Linear(image_widths[-1], dim, bias=False)
        self.text_projection = nn.Linear(text_width, dim, bias=False)
        # The start of the CLIP paper, section 2.5; as a logarithm it stays positive.
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def embed_images(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) uint8, or float in [-1, 1] -> unit vectors (B, dim)."""
        if images.dtype == torch.uint8:
            images = images.to(self.logit_scale.dtype) / 127.5 - 1
        # Of length 1, so that a product of two embeddings is their cosine.
        return F.normalize(self.image_projection(self.image_encoder(images)), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors (B, dim)."""
        return self.embed_tokens(self.tokenizer.encode(texts).to(self.logit_scale.device))

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (B, length) of the tokenizer -> unit vectors (B, dim)."""
        return F.normalize(self.text_projection(self.text_encoder(tokens)), dim=-1)

    def loss(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Symmetric cross-entropy over the rows and columns of the scaled cosines (section 2.3)."""
        # The learned temperature, bounded as in the paper so that training stays stable.
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        logits = scale * self.embed_images(images).float() @ self.embed_tokens(tokens).float().T
        # Image i belongs to text i: the right answers lie on the diagonal.
        pairs = torch.arange(len(images), device=images.device)
        return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2

    @torch.inference_mode()
    def zero_shot(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """For each image, the index of the caption with the highest cosine, (B,) int64 (section 3.1)."""
        return (self.embed_images(images) @ self.embed_texts(captions).T).argmax(dim=1)

    @torch.inference_mode()
    def search(self, query: str, images: Tensor, k: int) -> Tensor:
        """The indices of the k images that fit the query best, best first, (k,) int64."""
        if not 1 <= k <= len(images):
            raise InputError(f"k {k}: expected a number from 1 to the {len(images)} images")
        return (self.embed_images(images) @ self.embed_texts([query])[0]).topk(k).indices

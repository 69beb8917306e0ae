"""The fields of configs of transformers' text and image encoders that are read: those that define the network.

The library would do other things that a config asks for: name any number of classes, quantize, patch its own layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

OF_TOKENS = ("vocab_size", "pad_token_id", "eos_token_id")
CLIP_LAYERS = (
    "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads", "hidden_act",
    "layer_norm_eps",
)  # fmt: skip
CLIP_TEXT = (*OF_TOKENS, "bos_token_id", *CLIP_LAYERS, "max_position_embeddings")
CLIP_VISION = (*CLIP_LAYERS, "num_channels", "image_size", "patch_size")
T5 = (
    *OF_TOKENS, "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets",
    "relative_attention_max_distance", "layer_norm_epsilon", "feed_forward_proj",
)  # fmt: skip
ENCODERS = {"CLIPTextModel": CLIP_TEXT, "CLIPTextModelWithProjection": CLIP_TEXT, "T5EncoderModel": T5}
"""Class -> the fields that are read."""


def fields_of(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The fields of the list that a config has."""
    return {name: config[name] for name in names if name in config}

"""The settings of a latent training, checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ....samplers.errors import InputError
from ....samplers.noise import check_seed
from ....samplers.options import check_count
from ..ddpm.settings import MOST_BATCH, MOST_STEPS, PRECISIONS, check_choice, check_positive

FACTOR = 4
"""Pixels of an image's side for each of its latents'."""
SIDES = (16, 512)
V, FLOW = "v", "flow"
PREDICTIONS = (V, FLOW)
VAE, DECODER, TEXT, UNET = "vae", "decoder", "text", "unet"
"""The phases. The second trains a part of the first's network."""
RELEARNED = {"": (), VAE: (VAE,), TEXT: (TEXT,), "both": (VAE, TEXT)}
"""What can be asked to learn too, of the model that a training starts from."""
GENTLER = 1 / 2
"""The share of its usual rate at which an autoencoder that has learned before goes on."""
LATER = {"prediction": V, "compile": False, "relearn": ""}
"""Settings that older trainings do not name, with the values that those had."""
MULTIPLE = 16
"""A side is a multiple of this: latents of a fourth of it are halved twice."""


@dataclass(frozen=True)
class Preset:
    """The sizes of the three networks, and how long each is trained."""

    vae: tuple[int, int, int]
    """Channels at full, half and quarter side."""
    text: int
    """Width of the text encoder."""
    text_layers: int
    unet: tuple[int, ...]
    """Channels at each side of the latents."""
    unet_layers: int
    vae_steps: int
    text_steps: int
    unet_steps: int
    lr: float
    """The highest learning rate of the U-Net."""


PRESETS: Mapping[str, Preset] = {
    "tiny": Preset((32, 64, 96), 128, 3, (64, 128), 1, 2_400, 1_200, 6_400, 1e-3),
    "small": Preset((48, 96, 128), 192, 4, (128, 224), 2, 20_000, 20_000, 60_000, 6e-4),
}


@dataclass(frozen=True)
class Settings:
    """How a latent diffusion model is trained on the user's images."""

    size: int = 64
    """Side of the images in pixels."""
    preset: str = "tiny"
    steps: int | None = None
    """Steps of the U-Net, with those of the others in proportion; None = the preset's."""
    batch_size: int = 64
    lr: float | None = None
    """The highest learning rate of the U-Net; None = the preset's."""
    precision: str = "bf16"
    """The precision of the forward pass, where the operation allows it; weights are float32."""
    seed: int = 0
    prediction: str = V
    """What the U-Net answers with: v of a variance preserving process, or the velocity of a flow."""
    compile: bool = False
    """Whether the U-Net is compiled, which is faster and moves the last digits."""
    relearn: str = ""
    """What of the model to start from learns too, beside its U-Net: vae, text or both."""

    def __post_init__(self) -> None:
        """InputError, naming the setting, for an invalid value."""
        check_choice("preset", self.preset, PRESETS)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("prediction", self.prediction, PREDICTIONS)
        if self.relearn not in RELEARNED:
            check_choice("relearn", self.relearn, list(filter(None, RELEARNED)))
        if check_count("size", self.size, SIDES[1]) < SIDES[0] or self.size % MULTIPLE:
            raise InputError(f"size {self.size}: expected a multiple of {MULTIPLE} from {SIDES[0]} to {SIDES[1]}")
        if self.steps is not None:
            check_count("steps", self.steps, MOST_STEPS)
        check_count("batch_size", self.batch_size, MOST_BATCH)
        check_positive("lr", self.lr)
        check_seed(self.seed)

    @property
    def of_preset(self) -> Preset:
        """The preset of that name."""
        return PRESETS[self.preset]

    def relearns(self, part: str) -> bool:
        """Whether a part of the model to start from learns too."""
        return part in RELEARNED[self.relearn]

    @property
    def lengths(self) -> dict[str, int]:
        """The steps of each phase."""
        preset = self.of_preset
        # One number sets all phases, in the proportions of the preset.
        share = 1.0 if self.steps is None else self.steps / preset.unet_steps
        usual = {
            VAE: preset.vae_steps, DECODER: preset.vae_steps // 3, TEXT: preset.text_steps, UNET: preset.unet_steps
        }  # fmt: skip
        return {phase: max(1, round(steps * share)) for phase, steps in usual.items()}

    def as_json(self) -> dict[str, Any]:
        """The settings by name; those that older trainings do not know where they are not at their defaults."""
        return {name: value for name, value in asdict(self).items() if name not in LATER or value != LATER[name]}

"""A DDPM on the user's own images: `samplerbench train --data FOLDER -o DIR` trains it, `--model DIR` loads it."""

from __future__ import annotations

from pathlib import Path

from ....samplers.arguments import resolve_device
from ....samplers.errors import ModelError
from ....samplers.files.weights import channels_last, file_hash, network_from_file
from ....samplers.image_data import ImageData
from ....samplers.model import Model
from ....samplers.nets.training import Report
from ....samplers.registry import ModelFactory, hookimpl
from .assembly import assemble, extractors_of
from .card import FILE, is_card, read_card
from .settings import BATCH, Settings
from .training import train_in


class DDPM:
    """Loads and trains a DDPM; "ddpm:DIR", or just DIR, loads what `train_on` wrote to DIR."""

    def __call__(self, argument: str = "") -> Model:
        """The model in a folder."""
        folder = Path(argument)
        if not argument or not folder.is_dir():
            raise ModelError(
                f"model 'ddpm:{argument}': no such folder; expected what `samplerbench train --data ... -o DIR` wrote"
            )
        card = read_card(folder)
        files = {name: folder / f"{name}.safetensors" for name in card.weights}
        described = folder / FILE
        unet = channels_last(network_from_file(card.new_unet, files["unet"], described))
        clip = network_from_file(card.new_clip, files["clip"], described) if card.has_captions else None
        own = [described, files["unet"], *([files["clip"]] if clip else [])]
        return assemble(
            f"ddpm:{argument}", card, unet, clip, extractors_of(card, clip, files), fingerprint=file_hash(*own)
        )  # fmt: skip

    def reads(self, path: Path) -> bool:
        """Whether a folder is what `train_on` wrote."""
        return is_card(path)

    def train_on(  # noqa: PLR0913  (a setting each)
        self,
        images: ImageData,
        *,
        output: Path,
        report: Report,
        seed: int = 0,
        size: int = 32,
        preset: str = "tiny",
        steps: int | None = None,
        minutes: float | None = None,
        batch_size: int = BATCH,
        lr: float | None = None,
        precision: str = "bf16",
        device: str = "cpu",
        compile: bool = False,  # noqa: A002  (the name of the option)
    ) -> list[str]:
        """Train on images and their captions and write the model to `output`; an unfinished training there is resumed.

        With `compile` the U-Net is compiled, which makes its steps faster and moves their last digits.
        Returns what the user should know about it, as sentences.
        """
        settings = Settings(size, preset, steps, minutes, batch_size, lr, precision, seed, compile)
        return train_in(output, images, settings, resolve_device(device), report)


@hookimpl
def samplerbench_models() -> dict[str, ModelFactory]:
    """DDPMs on the user's own images."""
    return {"ddpm": DDPM()}

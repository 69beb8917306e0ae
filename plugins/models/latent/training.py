"""Training a latent diffusion model in one folder: images, autoencoder, text encoder, latents, then the U-Net.

Each phase resumes from its checkpoint. What is written is a pipeline of diffusers, in half precision.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....samplers.errors import InputError, ModelError
from ....samplers.files.atomic import make_folder, write_atomically
from ....samplers.files.images import COLOUR
from ....samplers.files.lock import sole_writer
from ....samplers.files.tiles import mosaic, png
from ....samplers.files.weights import read_json
from ....samplers.image_data import ImageData, check_count
from ....samplers.model import Progress
from ....samplers.nets.ranks import Ranks
from ....samplers.nets.training import Recipe, Report, check_folder, fit, with_log
from ....samplers.sample import sample
from ..ddpm.losses import as_input
from ..ddpm.pixels import map_pixels, prepare
from ..ddpm.settings import differences
from ..diffusers.libraries import quietly
from ..diffusers.model import Diffusers
from .losses import FLOW_TIMES, contrasting, decoding, denoising, reconstructing
from .networks import LATENT_CHANNELS, Decoder, Pairs, text_of, unet_of, vae_of
from .settings import DECODER, FACTOR, FLOW, GENTLER, LATER, TEXT, UNET, VAE, Settings
from .starting import Start
from .tokens import PLACES, encoded, fits, load_tokenizer, unknown_words, write_tokenizer

FILE, LOG, SAMPLES, PROMPTS = "training.json", "training.csv", "samples.png", "prompts.txt"
CHECKPOINTS, IMAGES, DECODED, LATENTS = "checkpoints", "images.bin", "decoder-images.bin", "latents.bin"
PAIRS_PER_IMAGE = 2
"""The batch of the text encoder is that of the others times this: each image is compared with the texts of all."""
AT_ONCE = 64
"""Images or texts of a pass that learns nothing."""
MEASURED = 1_000
"""Images from which the scale of the latents and the error of the autoencoder are taken."""
SHOWN, ACROSS, SHOWN_STEPS, SHOWN_GUIDANCE = 24, 8, 20, 3.0
SHOWN_WORDS = 5
LOOKS, LEAST_BETWEEN_LOOKS = 20, 250
EMA = 0.999
MOST_PROMPTS = 1_000
OF_FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": FLOW_TIMES, "shift": 1.0}
SCHEDULER = {
    "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "clip_sample": False, "set_alpha_to_one": True,
    "steps_offset": 1, "timestep_spacing": "trailing",
}  # fmt: skip
INDEX = {
    "_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["diffusers", "DDIMScheduler"],
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A training: its folder, data and settings."""

    folder: Path
    data: ImageData
    decoder_data: ImageData | None
    """Images of the decoder's own phase, without captions; None = those of `data`."""
    settings: Settings
    ranks: Ranks
    start: Start | None = None
    """The model whose parts are taken as they are, except its U-Net and what the settings relearn; None = all parts are
    learned from nothing."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image."""
        return COLOUR, self.settings.size, self.settings.size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape of the latents of an image."""
        return LATENT_CHANNELS, self.settings.size // FACTOR, self.settings.size // FACTOR

    def checkpoint(self, name: str) -> Path:
        """A file beside the model that only the training needs."""
        return self.folder / CHECKPOINTS / name

    def given(self, part: str) -> Start | None:
        """The model from which a part is taken as it is; None = the part is learned."""
        return None if self.settings.relearns(part) else self.start

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed training must share with this one."""
        about = {"data": self.data.name, "fingerprint": self.data.fingerprint, "images": len(self.data)}
        if (other := self.decoder_data) is not None:
            about |= {
                "decoder_data": other.name, "decoder_fingerprint": other.fingerprint, "decoder_images": len(other)
            }  # fmt: skip
        if self.start is not None:
            about["start_from"] = self.start.fingerprint
        return {**self.settings.as_json(), **about}


def train_in(  # noqa: PLR0913  (what is learned, where and how)
    folder: Path, data: ImageData, decoder_data: ImageData | None, settings: Settings, device: torch.device,
    report: Report, start_from: Path | None = None,
) -> list[str]:  # fmt: skip
    """Train on `data` in `folder`; returns what the user should know about the model, as sentences."""
    check_folder(folder, FILE)
    captions = captions_of(data, settings)
    if decoder_data is not None:
        check_count(decoder_data, settings.batch_size)
    start = None if start_from is None else Start.of(start_from, settings)
    if settings.relearn and start is None:
        raise InputError(f"relearn {settings.relearn!r}: of which model? give start_from too")
    if start and decoder_data is not None and not settings.relearns(VAE):
        raise InputError(
            "decoder_data and start_from: the autoencoder of that model stays as it is; leave out one, or give relearn "
            "'vae' or 'both'"
        )
    place = Place(folder, data, decoder_data, settings, Ranks(device=device), start)
    make_folder(folder)
    with sole_writer(folder):
        begin(place)
        log = with_log(folder / LOG, report, device)
        try:
            return train_phases(place, captions, log, report)
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"device {device}: out of memory at size {settings.size}, preset {settings.preset!r}, batch_size "
                f"{settings.batch_size}; give a smaller batch_size or preset, and another output"
            ) from error


def captions_of(data: ImageData, settings: Settings) -> list[str]:
    """The captions of all images. ModelError unless each has one, and there are enough for a batch."""
    most = PAIRS_PER_IMAGE * settings.batch_size
    if len(data) < most:
        raise ModelError(f"data {data.name!r}: {len(data):,} images; expected at least {most}, the largest batch")
    captions = [data.caption(i) for i in range(len(data))]
    if (lacking := next((i for i, text in enumerate(captions) if text is None), None)) is not None:
        raise ModelError(
            f"data {data.name!r}: image {lacking} has no caption; a latent model learns text: add captions, or train a "
            "ddpm, which needs none"
        )
    return [text for text in captions if text is not None]


def begin(place: Place) -> None:
    """Write what the training is, or compare it with what is there. InputError if that is another training."""
    file = place.folder / FILE
    if not file.exists():
        write_atomically(file, json.dumps(place.identity, indent=2).encode())
    elif changed := differences({**LATER, **read_json(file)}, {**LATER, **place.identity}):
        raise InputError(
            f"output {place.folder}: a training with other settings ({'; '.join(changed)}); resume it with its own, or "
            "give another output"
        )


def train_phases(place: Place, captions: Sequence[str], log: Report, report: Report) -> list[str]:
    """Run every phase that is not done yet, and write what it made."""
    images = images_of(place, place.data, IMAGES, report)
    device = place.ranks.device
    if start := place.given(VAE):
        vae = start.vae(device)
    else:
        decoded = images if place.decoder_data is None else images_of(place, place.decoder_data, DECODED, report)
        vae = train_vae(place, images, decoded, log)
    latents = latents_of(place, vae, images, report)
    # As in Rombach et al.: latents of unit deviation, for which the noise schedule is made. A U-Net that learns on
    # knows those of its own scale.
    scale = vae.config.scaling_factor if place.given(VAE) else 1 / float(latents[:MEASURED].float().std())
    vae.register_to_config(scaling_factor=scale)
    save(vae, place.folder / "vae")
    words = place.folder / "tokenizer"
    if not words.is_dir():
        # Its files are put in place together: a part of them would be taken for the whole when the training resumes.
        with TemporaryDirectory(dir=place.folder, suffix=".tmp") as scratch:
            made = Path(scratch) / words.name
            if start := place.given(TEXT):
                start.copy_tokenizer(made)
            else:
                write_tokenizer(captions, made)
            made.rename(words)
    tokenizer = load_tokenizer(words)
    text = start.text(device) if (start := place.given(TEXT)) else train_text(place, images, tokenizer, log)
    save(text, place.folder / "text_encoder")
    whole = [caption for caption in captions if fits(tokenizer, caption)]
    # As prompts they are refused where they are too long; with none that fits, the sheet shows the empty one.
    write_atomically(place.folder / PROMPTS, "\n".join([*whole[:MOST_PROMPTS], ""]).encode())
    train_unet(place, latents, scale, states_of(text, tokenizer, captions, device), log)
    remarks = [f"the autoencoder's images have a PSNR of {psnr(vae, images[:MEASURED], device):.1f} dB"]
    if unknown := unknown_words(words, captions):
        shown = ", ".join(map(repr, unknown[:SHOWN_WORDS])) + (", ..." if len(unknown) > SHOWN_WORDS else "")
        relearn = "both" if place.settings.relearns(VAE) else TEXT
        advice = f"; to have it learn them, give relearn {relearn!r} and another output" if place.given(TEXT) else ""
        remarks.append(f"captions: the text encoder never learned {shown}{advice}")
    if cut := len(captions) - len(whole):
        remarks.append(
            f"captions: {cut:,} of {len(captions):,} have more than {PLACES} tokens; only their beginnings were learned"
        )
    return remarks


def images_of(place: Place, data: ImageData, name: str, report: Report) -> Tensor:
    """All images of a data set, uint8 (N, 3, H, W), from the file that holds them."""
    path = place.checkpoint(name)
    if not path.is_file():
        prepare(data, place.settings.size, path, report, channels=COLOUR)
    return map_pixels(path, len(data), place.shape)


def recipe_of(settings: Settings, phase: str) -> Recipe:
    """How a phase is trained."""
    steps = settings.lengths[phase]
    rates = {
        VAE: 2e-3 * (GENTLER if settings.relearns(VAE) else 1), DECODER: 5e-4, TEXT: 1e-3,
        UNET: settings.lr or settings.of_preset.lr,
    }  # fmt: skip
    return Recipe(
        phase, steps, lr=rates[phase], weight_decay={TEXT: 0.05, UNET: 0.01}.get(phase, 0.0),
        warmup=min(200, max(steps // 10, 1)), ema=EMA, bf16=settings.precision == "bf16",
        # Most of the steps are the U-Net's, and most of its time on a GPU goes into starting small kernels.
        compile=settings.compile and phase == UNET,
    )  # fmt: skip


# ---- The autoencoder ----


def train_vae(place: Place, images: Tensor, decoded: Tensor, log: Report) -> Any:
    """The autoencoder with its final weights: it learns from `images`, then only its decoder from `decoded`."""
    settings, device = place.settings, place.ranks.device
    torch.manual_seed(settings.seed)
    vae: Any = place.start.vae(device) if place.start else vae_of(settings.of_preset, settings.size).to(device)
    loss = reconstructing(images, batch=settings.batch_size, seed=settings.seed, device=device)
    weights = fit(vae, loss, recipe_of(settings, VAE), checkpoint=place.checkpoint(f"{VAE}.pt"), report=log,
                  ranks=place.ranks)  # fmt: skip
    vae.load_state_dict(weights)
    # The latents stay what they are, so the decoder can still learn to reproduce them better; from images without
    # captions too, since nothing of the text reaches it.
    decoder = Decoder(vae)
    loss = decoding(decoded, vae, batch=settings.batch_size, seed=settings.seed, device=device)
    weights = fit(decoder, loss, recipe_of(settings, DECODER), checkpoint=place.checkpoint(f"{DECODER}.pt"),
                  report=log, ranks=place.ranks)  # fmt: skip
    decoder.load_state_dict(weights)
    return vae.eval()


@torch.inference_mode()
def latents_of(place: Place, vae: Any, images: Tensor, report: Report) -> Tensor:
    """The means of the latents of all images, float16 (N, 4, h, w), from the file that holds them."""
    path = place.checkpoint(LATENTS)
    count = len(images) * math.prod(place.latent_shape)
    if not path.is_file():
        started, temporary = time.monotonic(), path.with_name(f"{path.name}.tmp")
        with temporary.open("wb") as file:
            for first in range(0, len(images), AT_ONCE):
                x = as_input(images[first : first + AT_ONCE].to(place.ranks.device))
                file.write(vae.encode(x).latent_dist.mean.half().cpu().numpy().tobytes())
                done = min(first + AT_ONCE, len(images))
                report(Progress("latents", done, len(images), math.nan, time.monotonic() - started, 0))
        os.replace(temporary, path)  # noqa: PTH105  (the atomic call itself)
    if path.stat().st_size != 2 * count:
        raise ModelError(f"{path}: not the latents of {len(images):,} images; delete it, and they are made again")
    flat = torch.from_file(str(path), shared=False, size=count, dtype=torch.float16)
    return flat.view(len(images), *place.latent_shape)


@torch.inference_mode()
def psnr(vae: Any, images: Tensor, device: torch.device) -> float:
    """The peak signal-to-noise ratio of reconstructions of uint8 images, in dB."""
    errors = []
    for part in torch.split(images, AT_ONCE):
        decoded = vae.decode(vae.encode(as_input(part.to(device))).latent_dist.mean).sample
        pixels = ((decoded + 1) * 127.5).round().clamp(0, 255)
        errors += (pixels - part.to(device)).square().flatten(1).mean(1).tolist()
    return 10 * math.log10(255**2 / float(np.mean(errors)))


# ---- Text ----


def train_text(place: Place, images: Tensor, tokenizer: Any, log: Report) -> Any:
    """The text encoder with its final weights."""
    settings, device = place.settings, place.ranks.device
    torch.manual_seed(settings.seed)
    pairs = Pairs(text_of(settings.of_preset, tokenizer), settings.of_preset.text).to(device)
    loss = contrasting(
        images,
        place.data,
        lambda texts: encoded(tokenizer, texts),
        batch=PAIRS_PER_IMAGE * settings.batch_size,
        seed=settings.seed,
        device=device,
    )
    weights = fit(pairs, loss, recipe_of(settings, TEXT), checkpoint=place.checkpoint(f"{TEXT}.pt"), report=log,
                  ranks=place.ranks)  # fmt: skip
    pairs.load_state_dict(weights)
    return pairs.text.eval()


def states_of(text: Any, tokenizer: Any, captions: Sequence[str], device: torch.device) -> Callable[[Tensor], Tensor]:
    """The function (numbers of captions, where N, the number of captions, is the empty text) -> their states
    (B, L, D)."""

    # All of them before the first step, or a GPU would wait for them in each. The last is the empty text.
    parts = [captions[first : first + AT_ONCE] for first in range(0, len(captions), AT_ONCE)]
    tokens = torch.cat([encoded(tokenizer, part) for part in (*parts, [""])]).to(device, torch.int32)

    @torch.no_grad()
    def states(numbers: Tensor) -> Tensor:
        found: Tensor = text(input_ids=tokens[numbers]).last_hidden_state
        return found.float()

    return states


# ---- The U-Net ----


def train_unet(place: Place, latents: Tensor, scale: float, states: Callable[[Tensor], Tensor], log: Report) -> None:
    """Train the U-Net; every twentieth of the way the folder becomes a model of what is learned so far."""
    settings, device = place.settings, place.ranks.device
    torch.manual_seed(settings.seed)
    unet = (place.start.unet(settings.prediction) if place.start else unet_of(settings.of_preset, settings.size)).to(
        device
    )
    loss = denoising(
        latents, states, prediction=settings.prediction, scale=scale, batch=settings.batch_size, seed=settings.seed,
        device=device,
    )  # fmt: skip
    recipe = recipe_of(settings, UNET)
    every = max(recipe.steps // LOOKS, LEAST_BETWEEN_LOOKS)

    def watch(step: int, weights: Mapping[str, Tensor]) -> None:
        if step % every == 0 and step < recipe.steps:
            show(place, unet, weights)

    show(place, unet, fit(unet, loss, recipe, checkpoint=place.checkpoint(f"{UNET}.pt"), report=log, ranks=place.ranks,
                          watch=watch))  # fmt: skip


def show(place: Place, unet: Any, weights: Mapping[str, Tensor]) -> None:
    """Write the U-Net with these weights, which makes the folder a model, and a picture of what it draws from fixed
    noise."""
    kept = copy.deepcopy(unet)
    kept.load_state_dict(weights)
    save(kept, place.folder / "unet")
    scheduler = OF_FLOW if place.settings.prediction == FLOW else SCHEDULER
    index = {**INDEX, "scheduler": ["diffusers", scheduler["_class_name"]]}
    make_folder(place.folder / "scheduler")
    write_atomically(place.folder / "scheduler" / "scheduler_config.json", json.dumps(scheduler, indent=2).encode())
    write_atomically(place.folder / "model_index.json", json.dumps(index, indent=2).encode())
    prompts = (place.folder / PROMPTS).read_text().splitlines()[:SHOWN] or [""]
    with warnings.catch_warnings():
        # The text encoder may not know all words of the captions; what `train_phases` returns says so once.
        warnings.filterwarnings("ignore", "prompts: words that the text encoder never learned")
        drawn = sample(
            Diffusers()(str(place.folder)), "dpm-solver++", steps=SHOWN_STEPS, n=SHOWN, seed=place.settings.seed,
            prompts=prompts, guidance=SHOWN_GUIDANCE, batch_size=ACROSS, device=place.ranks.device,
        )  # fmt: skip
    assert drawn.images is not None
    write_atomically(place.folder / SAMPLES, png(mosaic(np.asarray(drawn.images.cpu()), across=ACROSS)))


def save(module: Any, folder: Path) -> None:
    """Write a part in half precision; each file is whole or not there."""
    make_folder(folder)
    # On the same disk, because only there a file can be put in its place at once.
    with TemporaryDirectory(dir=folder.parent, suffix=".tmp") as scratch:
        with quietly():
            copy.deepcopy(module).cpu().half().save_pretrained(scratch)
        for file in sorted(Path(scratch).iterdir()):
            os.replace(file, folder / file.name)  # noqa: PTH105  (the atomic call itself)

"""Training on the user's images, phase by phase in one folder: images, classifier, CLIP, then the U-Net.

One process does everything before the U-Net, which all processes train. Each phase resumes from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from ....samplers.errors import InputError, ModelError, quote
from ....samplers.files.atomic import write_atomically
from ....samplers.files.lock import sole_writer
from ....samplers.files.tiles import mosaic, png
from ....samplers.files.weights import SUMS, channels_last, load_weights, save_weights, write_sums
from ....samplers.image_data import ImageData
from ....samplers.nets.clip import CLIP
from ....samplers.nets.ranks import Ranks, join_ranks
from ....samplers.nets.training import LossOf, Recipe, Report, check_folder, fit, with_log
from ....samplers.sample import sample
from .assembly import assemble
from .captions import Captions, learnable
from .card import FILE, Card, read_card, write_card
from .losses import classifying, contrasting, denoising
from .networks import CONDITION_DIM
from .parts import condition_of, save_reference
from .pixels import map_pixels, prepare
from .settings import LATER, LEAST_STEPS, MOST_STEPS, Settings, differences

CHECKPOINTS, IMAGES, LOG, SAMPLES = "checkpoints", "images.bin", "training.csv", "samples.png"
FEATURES, CLIP_PHASE, UNET = "features", "clip", "ddpm"
FEATURES_BATCH, CLIP_BATCH = 128, 256
MOST_SMALL_STEPS: Mapping[str, int] = {FEATURES: 2_800, CLIP_PHASE: 1_900}
"""Steps of the two small networks, which see few images no more than `EPOCHS` times."""
EPOCHS, LEAST_SMALL_STEPS = 60, 300
TRIAL_STEPS = 6
MOST_REFERENCE = 50_000
"""Most images whose rows form the reference; they are spread evenly over the data."""
SHOWN, ACROSS, SHOWN_STEPS = 32, 8, 20
LOOKS, LEAST_BETWEEN_LOOKS = 20, 100
"""How often samples.png is drawn in a training, and how many steps lie between two of them at least."""
TEXTS_AT_ONCE = 256
Length = Annotated[int, msgspec.Meta(ge=1, le=MOST_STEPS)]
"""The steps of a phase."""


@dataclass(frozen=True)
class Place:
    """A training: its folder, data and settings."""

    folder: Path
    data: ImageData
    settings: Settings
    ranks: Ranks

    def weights(self, name: str) -> Path:
        """A file of weights."""
        return self.folder / f"{name}.safetensors"

    def checkpoint(self, phase: str) -> Path:
        """The checkpoint of a phase."""
        return self.folder / CHECKPOINTS / f"{phase}.pt"

    @property
    def images(self) -> Path:
        """The prepared images."""
        return self.folder / CHECKPOINTS / IMAGES

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed training must share with this one."""
        about = {"data": self.data.name, "fingerprint": self.data.fingerprint, "images": len(self.data)}
        return {**self.settings.as_json(), **about}


def train_in(folder: Path, data: ImageData, settings: Settings, device: torch.device, report: Report) -> list[str]:
    """Train on `data` in `folder`; returns what the user should know about the model, as sentences."""
    check_folder(folder, FILE, CHECKPOINTS)
    check_enough(data, settings)
    captions = learnable([data.caption(i) for i in range(len(data))])
    with join_ranks(device) as ranks:
        settings.check_ranks(ranks)
        place = Place(folder, data, settings, ranks)
        try:
            # The other processes write nothing, and would be refused by the lock of the first.
            with sole_writer(folder) if ranks.is_first else nullcontext():
                card = train_phases(place, captions, report)
        # The folder keeps the settings that did not fit, so smaller ones need another.
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"device {ranks.device}: out of memory at size {settings.size}, preset {settings.preset!r}, batch_size "
                f"{settings.batch_size}; give a smaller batch_size or preset, and another output"
            ) from error
    return remarks(card, captions, len(data))


def train_phases(place: Place, captions: Captions | None, report: Report) -> Card:
    """Run every phase that is not done yet."""
    log = with_log(place.folder / LOG, report, place.ranks.device)
    if place.ranks.is_first:
        card = resume(place) or begin(place, captions, report)
        (place.folder / SUMS).unlink(missing_ok=True)  # what it says of is about to change
        # Only a training whose images were deleted gets here without them: `begin` has prepared those of a new one.
        if not place.images.is_file():
            prepare(place.data, place.settings.size, place.images, report)
        train_small(place, card, captions, log)
    # The others must not read the card before it is written.
    place.ranks.wait()
    card = read_card(place.folder)
    train_unet(place, card, captions, log)
    return card


def check_enough(data: ImageData, settings: Settings) -> None:
    """InputError for fewer images than a batch has."""
    if len(data) < settings.batch_size:
        raise ModelError(
            f"data {data.name!r}: {len(data):,} images; expected at least {settings.batch_size}, the batch size: add "
            "images or give a smaller batch_size"
        )


def resume(place: Place) -> Card | None:
    """The model whose training began in the folder, or None; InputError if that training was a different one."""
    if not (place.folder / FILE).is_file():
        return None
    card = read_card(place.folder)
    # Only what this version knows is compared: a card may say more, such as how long each phase is.
    before = {name: card.training.get(name, LATER.get(name)) for name in place.identity}
    if changed := differences(before, place.identity):
        raise InputError(
            f"output {place.folder}: a training with other settings ({'; '.join(changed)}); resume it with its own, or "
            "give another output"
        )
    check_card(card, place)
    return card


def check_card(card: Card, place: Place) -> None:
    """ModelError for a model that the settings do not make, or of which it is not said how long it is trained."""
    path, settings = place.folder / FILE, place.settings
    usual = settings.of_preset.unet_settings(card.shape[0], settings.size, CONDITION_DIM if card.has_captions else 0)
    if changed := differences(usual, card.unet):
        raise ModelError(f"{path}: not the unet of its preset ({'; '.join(changed)[:200]}); delete it to start again")
    phases = [FEATURES] * bool(card.classes) + [CLIP_PHASE] * card.has_captions + [UNET]
    lengths = card.training.get("lengths")
    try:
        msgspec.convert(lengths, msgspec.defstruct("Lengths", [(phase, Length) for phase in phases]))
    except msgspec.ValidationError as error:
        raise ModelError(f"{path}: lengths {quote(lengths)}; expected the steps of {', '.join(phases)}") from error


def begin(place: Place, captions: Captions | None, report: Report) -> Card:
    """Prepare the images and write the card of the model; if that fails, nothing is left behind."""
    try:
        shape = prepare(place.data, place.settings.size, place.images, report)
        card = card_of(place, captions, shape)
        lengths = lengths_of(place, card, captions)
        card = replace(card, training={**place.identity, "lengths": lengths})
        write_card(card, place.folder)
    except BaseException:
        with suppress(OSError):
            place.images.unlink(missing_ok=True)
            (place.folder / CHECKPOINTS).rmdir()  # it is empty, or stays
        raise
    return card


def card_of(place: Place, captions: Captions | None, shape: tuple[int, int, int]) -> Card:
    """The card of the model, without the length of its training."""
    settings = place.settings
    condition_dim = CONDITION_DIM if captions else 0
    return Card(
        data=place.data.name,
        shape=shape,
        unet=settings.of_preset.unet_settings(shape[0], settings.size, condition_dim),
        vocabulary=captions.vocabulary if captions else (),
        length=captions.length if captions else 0,
        prompts=captions.prompts() if captions else (),
        classes=captions.classes if captions else 0,
        notes=tuple(place.data.notes),
        training=place.identity,
    )


# ---- How long ----


def small_steps(phase: str, steps: int, images: int) -> int:
    """The steps of a small network if the U-Net has `steps`."""
    batch = {FEATURES: FEATURES_BATCH, CLIP_PHASE: CLIP_BATCH}[phase]
    return min(steps, MOST_SMALL_STEPS[phase], max(LEAST_SMALL_STEPS, EPOCHS * images // batch))


def lengths_of(place: Place, card: Card, captions: Captions | None) -> dict[str, int]:
    """The steps of each phase: as asked for, the preset's, or what fits into the minutes at the speed of a trial."""
    settings = place.settings
    n = len(captions.captioned) if captions else 0
    small = [FEATURES] * bool(card.classes) + [CLIP_PHASE] * bool(captions)

    def lengths(steps: int) -> dict[str, int]:
        return {phase: small_steps(phase, steps, n) for phase in small} | {UNET: steps}

    if settings.minutes is None:
        return lengths(settings.steps or settings.of_preset.steps)
    images = map_pixels(place.images, len(place.data), card.shape)
    # Clocked on this machine with these images, since speed depends on both.
    trials = {phase: trial_seconds(place, card, captions, images, phase) for phase in [*small, UNET]}
    return lengths(most_steps(settings.minutes * 60, lambda steps: cost(lengths(steps), trials)))


def cost(lengths: Mapping[str, int], seconds: Mapping[str, float]) -> float:
    """Seconds for some phases at these seconds per step."""
    return sum(steps * seconds[phase] for phase, steps in lengths.items())


def most_steps(budget: float, cost_of: Callable[[int], float]) -> int:
    """The most steps that cost no more than a budget, at least 2; `cost_of` grows with the steps."""
    low, high = LEAST_STEPS, MOST_STEPS
    while low < high:
        middle = (low + high + 1) // 2
        # Halved, because the small networks stop growing at their own limits: cost is no straight line of the steps.
        low, high = (middle, high) if cost_of(middle) <= budget else (low, middle - 1)
    return low


def trial_seconds(place: Place, card: Card, captions: Captions | None, images: Tensor, phase: str) -> float:
    """Seconds of a step of a phase, from a few of them on networks that are thrown away.

    Of several processes this one tries its own part of the U-Net's batch; what they say to each other is not clocked.
    """
    alone = replace(place.ranks, rank=0, size=1)
    batch = place.settings.batch_size // place.ranks.size
    recipe = recipe_of(place.settings, phase, TRIAL_STEPS)
    if phase == UNET:
        condition = conditions(card.new_clip(), captions) if captions else None
        network: nn.Module = card.new_unet()
        loss: LossOf = denoising(images, condition, batch=batch, seed=0, ranks=alone)
    else:
        assert captions is not None
        network, loss = small_network(place, card, captions, images, phase)
    seconds: list[float] = []
    with TemporaryDirectory() as scratch:
        fit(
            network.to(alone.device), loss, recipe, checkpoint=Path(scratch) / "trial.pt", ranks=alone,
            report=lambda progress: seconds.append(progress.seconds), at_once=True,
        )  # fmt: skip
    # Without the first step, which is slower than all others.
    return (seconds[-1] - seconds[0]) / (len(seconds) - 1)


def recipe_of(settings: Settings, phase: str, steps: int) -> Recipe:
    """The recipe of a network for a number of steps."""
    common = {"steps": steps, "warmup": min(200, max(steps // 10, 1)), "bf16": settings.precision == "bf16"}
    recipes: dict[str, Callable[..., Recipe]] = {
        FEATURES: partial(Recipe, FEATURES, lr=2e-3, weight_decay=0.02),
        CLIP_PHASE: partial(Recipe, CLIP_PHASE, lr=1e-3, weight_decay=0.05, ema=0.995),
        UNET: partial(
            Recipe,
            UNET,
            lr=settings.lr or settings.of_preset.lr,
            weight_decay=0.01,
            ema=settings.of_preset.ema,
            compile=settings.compile,
        ),
    }
    return recipes[phase](**common)


# ---- The small networks ----


def small_network(place: Place, card: Card, captions: Captions, images: Tensor, phase: str) -> tuple[nn.Module, LossOf]:
    """The classifier or the CLIP, untrained, and its loss on the images that have a caption."""
    rows = captions.captioned
    # Mapped images are taken as they are: a selection of them is a copy in memory.
    own = images if len(rows) == len(images) else images[rows]
    torch.manual_seed(place.settings.seed)
    seed, device = place.settings.seed, place.ranks.device
    if phase == FEATURES:
        labels = captions.of_image[rows]
        return card.new_features(), classifying(
            own, labels, batch=min(FEATURES_BATCH, len(own)), seed=seed, device=device
        )

    def texts_of(chosen: Tensor, _: int) -> list[str]:
        return captions.of(rows[chosen])

    clip, batch = card.new_clip(), min(CLIP_BATCH, len(own))
    return clip, contrasting(own, texts_of, clip.tokenizer, batch=batch, seed=seed, device=device)


def train_small(place: Place, card: Card, captions: Captions | None, log: Report) -> None:
    """Train classifier and CLIP, if the captions allow it, and write their rows for the reference images."""
    images = map_pixels(place.images, len(place.data), card.shape)
    alone = replace(place.ranks, rank=0, size=1)
    lengths = card.training["lengths"]
    # Every k-th image, since a data set may be sorted by class.
    reference = images[:: -(-len(images) // MOST_REFERENCE)]
    for phase, name in ((FEATURES, "reference"), (CLIP_PHASE, "clip_reference")):
        if phase not in lengths or captions is None:
            continue
        network, loss = small_network(place, card, captions, images, phase)
        recipe = recipe_of(place.settings, phase, lengths[phase])
        weights = fit(
            network.to(alone.device), loss, recipe, checkpoint=place.checkpoint(phase), report=log, ranks=alone
        )
        save_weights(weights, place.weights(phase))
        if phase == FEATURES:
            function = load_weights(card.new_features(), place.weights(phase)).features
        else:
            function = load_weights(card.new_clip(), place.weights(phase)).embed_images
        save_reference(function, reference, place.weights(name), card.shape)


# ---- The U-Net ----


def train_unet(place: Place, card: Card, captions: Captions | None, log: Report) -> None:
    """Train the U-Net, each process on its part of every batch; the first one writes."""
    settings, ranks = place.settings, place.ranks
    images = map_pixels(place.images, len(place.data), card.shape)
    clip = load_weights(card.new_clip(), place.weights(CLIP_PHASE)) if captions else None
    condition = conditions(clip, captions) if clip and captions else None
    # Every process builds the same first weights.
    torch.manual_seed(settings.seed)
    unet = card.new_unet().to(ranks.device)
    loss = denoising(images, condition, batch=settings.batch_size, seed=settings.seed, ranks=ranks)
    steps = card.training["lengths"][UNET]
    # A look draws images, so a short training has fewer of them.
    every = max(steps // LOOKS, LEAST_BETWEEN_LOOKS)

    def watch(step: int, weights: Mapping[str, Tensor]) -> None:
        if step % every == 0 and step < steps:
            show(place, card, clip, weights)

    weights = fit(
        unet, loss, recipe_of(settings, UNET, steps), checkpoint=place.checkpoint(UNET), report=log, ranks=ranks,
        watch=watch,
    )  # fmt: skip
    if ranks.is_first:
        show(place, card, clip, weights)
    ranks.wait()


def conditions(clip: CLIP, captions: Captions) -> Callable[[Tensor, int], Tensor]:
    """The function (numbers of images, seed) -> their conditions (B, D); zeros for those without caption."""
    with torch.no_grad():
        parts = [
            condition_of(clip, captions.texts[i : i + TEXTS_AT_ONCE])
            for i in range(0, len(captions.texts), TEXTS_AT_ONCE)
        ]
    table = torch.cat([*parts, torch.zeros(1, CONDITION_DIM)])  # the last row is that of number -1
    return lambda rows, seed: table[captions.of_image[rows]]


def show(place: Place, card: Card, clip: CLIP | None, weights: Mapping[str, Tensor]) -> None:
    """Write the U-Net as it is now, which makes the folder a model, and a picture of what it draws from fixed noise."""
    (place.folder / SUMS).unlink(missing_ok=True)  # before what it says of changes: a reader may come at any moment
    save_weights(weights, place.weights("unet"))
    write_sums(place.folder, [FILE, *(f"{name}.safetensors" for name in card.weights)])
    unet = channels_last(load_weights(card.new_unet(), place.weights("unet")))
    drawn = sample(
        assemble(place.data.name, card, unet, clip), "ddim", steps=SHOWN_STEPS, n=SHOWN, seed=place.settings.seed,
        batch_size=SHOWN, device=place.ranks.device,
    )  # fmt: skip
    assert drawn.images is not None
    images = np.asarray(drawn.images.cpu())
    write_atomically(place.folder / SAMPLES, png(mosaic(images, across=ACROSS)))


def remarks(card: Card, captions: Captions | None, images: int) -> list[str]:
    """What the user should know about a trained model, as sentences."""
    if captions is None:
        return [
            "no captions, or one for all images: the model takes no prompts and has no extractor of its own; FID needs "
            "run --extractor and --reference"
        ]
    said = []
    if without := images - len(captions.captioned):
        said.append(f"{without:,} of {images:,} images have no caption and were learnt without")
    if captions.shortened:
        said.append(
            f"{captions.shortened:,} captions lost words: {len(card.vocabulary):,} words are known, and a caption has "
            f"at most {card.length}"
        )
    if not card.classes:
        said.append(
            f"{len(captions.texts):,} captions on {len(captions.captioned):,} images are no classes: there is no "
            "classifier, and FID needs run --extractor and --reference"
        )
    return said

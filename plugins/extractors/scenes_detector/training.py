"""Training the detector on scenes, in one folder, resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name that every torch program uses)

from ....samplers.errors import InputError, ModelError
from ....samplers.files.atomic import make_folder, write_atomically
from ....samplers.files.images import COLOUR
from ....samplers.files.lock import sole_writer
from ....samplers.files.weights import SUMS, read_json, save_weights, write_sums
from ....samplers.image_data import ImageData
from ....samplers.nets.feeding import Batch, FedLoss
from ....samplers.nets.ranks import Ranks
from ....samplers.nets.training import Recipe, Report, batch_of, check_folder, fit, step_generator, with_log
from ....samplers.noise import check_seed
from ....samplers.options import check_count
from ...data.scenes.data import Scenes
from ...data.scenes.reading import read
from ...data.scenes.things import COLOURS
from ...models.ddpm.pixels import map_pixels, prepare
from ...models.ddpm.settings import MOST_BATCH, MOST_STEPS, PRECISIONS, check_choice, differences
from ..images import in_batches
from .judging import PARTS, RIGHT, UNTOLD, verdicts
from .network import CELLS, Detector, target_of

FILE, LOG, WEIGHTS, REFERENCE = "training.json", "training.csv", "detector.safetensors", "reference.safetensors"
SIDES = tuple(CELLS << halvings for halvings in (1, 2, 3, 4))
NOISE = 0.15
"""Most deviation of the noise in an image: what a model draws is not as clean as a scene."""
OTHERS = 4
"""One of this many scenes that are learned is held out from models: an instrument has to know these too."""
REFERENCES, TESTED = 5_000, 2_000
REFERENCE_SEED, TEST_SEED = 1, 2
"""Added to the seed of the scenes."""


@dataclass(frozen=True)
class Settings:
    """How a detector is trained."""

    steps: int = 1_500
    batch_size: int = 64
    precision: str = "bf16"
    seed: int = 0

    def __post_init__(self) -> None:
        """InputError, naming the setting, for an invalid value."""
        check_count("steps", self.steps, MOST_STEPS)
        check_count("batch_size", self.batch_size, MOST_BATCH)
        check_choice("precision", self.precision, PRECISIONS)
        check_seed(self.seed)


def train_in(folder: Path, data: ImageData, settings: Settings, device: torch.device, report: Report) -> list[str]:
    """Train on scenes in `folder`; returns how many held-out scenes are seen right, as a sentence."""
    check_folder(folder, FILE)
    scenes = check_scenes(data, settings)
    make_folder(folder)
    with sole_writer(folder):
        begin(folder, {**asdict(settings), "fingerprint": scenes.fingerprint})
        (folder / SUMS).unlink(missing_ok=True)  # what it says of is about to change
        log = with_log(folder / LOG, report, device)
        detector = train_detector(folder, scenes, settings, device, log)
        save_weights(detector.state_dict(), folder / WEIGHTS)
        save_weights({"features": reference_of(detector, scenes)}, folder / REFERENCE)
        write_sums(folder, [WEIGHTS, REFERENCE])
        return [f"of {TESTED:,} held-out scenes it sees right: {list_shares(shares_of(detector, scenes))}"]


def check_scenes(data: ImageData, settings: Settings) -> Scenes:
    """The data, if they are scenes of a side that a map has, and enough of them."""
    if not isinstance(data, Scenes):
        raise InputError(f"data {data.name!r}: what an image shows is known only of scenes; expected --data scenes")
    if data.options.size not in SIDES:
        raise InputError(f"size {data.options.size}: expected {', '.join(map(str, SIDES))}")
    if len(data) < settings.batch_size:
        raise ModelError(f"data {data.name!r}: {len(data):,} images; expected at least {settings.batch_size}, a batch")
    return data


def begin(folder: Path, identity: dict[str, object]) -> None:
    """Write what the training is, or compare it with what is there. InputError if that is another training."""
    file = folder / FILE
    if not file.exists():
        write_atomically(file, json.dumps(identity, indent=2).encode())
    elif changed := differences(read_json(file), identity):
        raise InputError(
            f"output {folder}: a training with other settings ({'; '.join(changed)}); resume it with its own, or "
            "give another output"
        )


def others(scenes: Scenes, images: int, seed: int, split: str = "held-out") -> Scenes:
    """Scenes of the same kind with another seed."""
    options = replace(scenes.options, split=split, images=images, seed=scenes.options.seed + seed)  # type: ignore[arg-type]
    return Scenes(options, scenes.sprite, "")


def train_detector(folder: Path, scenes: Scenes, settings: Settings, device: torch.device, log: Report) -> Detector:
    """The detector with its final weights."""
    # Some pairs of things and colours are held out from models; a detector that has not seen them would misjudge
    # those.
    parts = [scenes, others(scenes, max(len(scenes) // OTHERS, 1), 0)]
    size, images = scenes.options.size, []
    for number, part in enumerate(parts):
        path = folder / "checkpoints" / f"images{number}.bin"
        if not path.is_file():
            prepare(part, size, path, log, channels=COLOUR)
        images.append(map_pixels(path, len(part), (COLOUR, size, size)))
    # Right before the network is made: its first weights are all that takes from torch's own stream.
    torch.manual_seed(settings.seed)
    detector = Detector(scenes.options.things, SIDES.index(size) + 1).to(device)
    loss = detecting(torch.cat(images), answers_of(parts), settings, device)
    recipe = Recipe("detector", settings.steps, lr=2e-3, weight_decay=0.01, warmup=min(200, settings.steps // 10 + 1),
                    ema=0.998, bf16=settings.precision == "bf16")  # fmt: skip
    weights = fit(detector, loss, recipe, checkpoint=folder / "checkpoints" / "detector.pt", report=log,
                  ranks=Ranks(device=device))  # fmt: skip
    detector.load_state_dict(weights)
    return detector.cpu().eval().requires_grad_(False)


def answers_of(parts: Sequence[Scenes]) -> Callable[[Sequence[int]], tuple[Tensor, Tensor]]:
    """The function (numbers of images, counted through all parts) -> maps and colours."""
    first, things, colours = len(parts[0]), parts[0].options.things, tuple(COLOURS)

    def answers(numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        shown = [parts[0].scene(i) if i < first else parts[1].scene(i - first) for i in numbers]
        maps = torch.stack([target_of(scene, things) for scene in shown])
        return maps, torch.tensor([colours.index(scene.ground.colour) for scene in shown])

    return answers


def detecting(
    images: Tensor, answers: Callable[[Sequence[int]], tuple[Tensor, Tensor]], settings: Settings, device: torch.device
) -> FedLoss:
    """The loss of a map, added over its cells, and that of the ground's colour, on uint8 images (N, 3, H, W)."""

    def batch_at(step: int) -> Batch:
        rows = batch_of(settings.seed, step, len(images), settings.batch_size)
        generator = step_generator(settings.seed, step)
        # Rows and noise follow from seed and step alone, so that a resumed training sees what it would have seen.
        x = images[rows].float() / 127.5 - 1
        # On the CPU, so that a training on any device sees the same noise.
        level = NOISE * torch.rand(len(x), 1, 1, 1, generator=generator)
        maps, colours = answers(rows.tolist())
        return {"x": x + level * torch.randn(x.shape, generator=generator), "maps": maps, "colours": colours}

    def loss(net: nn.Module, given: Batch) -> Tensor:
        things, grounds = net(given["x"])
        # Added over cells: almost all are empty, and a mean would leave the few that are not little weight beside the
        # ground's colour.
        of_map = F.cross_entropy(things.float(), given["maps"], reduction="none").sum((1, 2)).mean()
        return of_map + F.cross_entropy(grounds.float(), given["colours"])

    return FedLoss(batch_at, loss, device)


# ---- What it is worth ----


def reference_of(detector: Detector, scenes: Scenes) -> Tensor:
    """The features of held-out scenes."""
    held_out = others(scenes, REFERENCES, REFERENCE_SEED)
    images = torch.stack([held_out.image(i) for i in range(len(held_out))])
    return torch.from_numpy(in_batches(detector.features, images))


@torch.no_grad()
def shares_of(detector: Detector, scenes: Scenes) -> dict[str, float]:
    """Part -> the share of held-out scenes of which it is seen right."""
    held_out = others(scenes, TESTED, TEST_SEED)
    images = torch.stack([held_out.image(i) for i in range(TESTED)])
    found = [one for part in torch.split(images, 64) for one in detector.find(part)]
    said = np.array([verdicts(one, read(held_out.caption(i))) for i, one in enumerate(found)])
    return {
        part: float((column[column != UNTOLD] == RIGHT).mean())
        for part, column in zip(PARTS, said.T, strict=True)
    }  # fmt: skip


def list_shares(shares: dict[str, float]) -> str:
    """ "object 98.2 %, count 99.1 %"."""
    return ", ".join(f"{part} {share:.1%}".replace("%", " %") for part, share in shares.items())

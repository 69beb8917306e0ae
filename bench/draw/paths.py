"""The denoising path of one sample under each sampler: states on the way from noise to image, small and stored once."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from ...samplers.errors import ignore_errors
from ...samplers.files.atomic import make_folder
from ...samplers.files.tiles import as_shown, shrunk
from ...samplers.process import state_kept
from ...samplers.sample import Request, draw
from ..plan.plan import Cell, Plan
from .chunk_file import CHANNELS, check_array
from .folder import CHUNKS
from .sealed_file import damage_error, disk_errors
from .store import RunFolder

PATHS = f"{CHUNKS}/paths"
"""A file for each cell."""
STATES = 8
"""States of each path that are kept, the first and the last among them."""
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
SAMPLE = 0
"""Index of the sample whose path is drawn."""
STEPS = 10
"""The budget whose paths are drawn is the run's nearest to this."""


@dataclass(frozen=True)
class SamplePath:
    """One sample on its way."""

    images: npt.NDArray[np.uint8]
    """(k, C, H, W): the state divided by sqrt(alpha^2 + sigma^2), as a small image."""
    noise: list[float]
    """sigma / sqrt(alpha^2 + sigma^2) of each state: 1 is noise, 0 clean."""


def write_paths(plan: Plan, folder: RunFolder, failures: Mapping[str, str]) -> None:
    """Draw and store the missing paths of cells whose samples are images.

    A path is drawn apart from the cell's own samples, alone in its batch. If that fails, only the path is left out.
    Samplers of other packages have no paths, because they are not drawn in this process.
    """
    for cell in path_cells(plan):
        file = path_file(folder, cell.key)
        # A path that is missing is drawn again at every start, so what cannot have one must not be tried each time.
        if cell.is_foreign or cell.key in failures or file.exists() or folder.read(cell, plan.blocks[0]).images is None:
            continue
        if path := path_of(cell.request):
            with disk_errors(file):
                make_folder(file.parent, parents=False)
            folder.write_arrays(file, {"images": path.images}, {"noise": json.dumps(path.noise)}, cell=cell.key)


def read_path(folder: RunFolder, key: str) -> SamplePath | None:
    """The stored path of a cell, None if there is none."""
    file = path_file(folder, key)
    if not file.exists():
        return None
    arrays, about = folder.read_arrays(file, cell=key)
    try:
        noise = msgspec.json.decode(about["noise"], type=list[Share])
        check_array("images", arrays["images"], "u1", (len(noise), CHANNELS, None, None))
    except (ValueError, KeyError, RecursionError) as error:
        raise damage_error(file, error) from error
    return SamplePath(arrays["images"], noise)


def path_file(folder: RunFolder, key: str) -> Path:
    """Where a cell's path is stored."""
    return folder.path / PATHS / f"{key[:16]}.safetensors"


def path_cells(plan: Plan) -> Iterator[Cell]:
    """The cell of each sampler at the budget whose paths are drawn."""
    chosen = path_budget(plan.config.counts)
    return (cell for cell in plan.cells if cell.budget == chosen)


def path_budget(budgets: Sequence[int]) -> int:
    """The budget whose paths are drawn."""
    return min(budgets, key=lambda budget: abs(math.log(budget / STEPS)))


def path_of(request: Request) -> SamplePath | None:
    """The path of one sample; None if it cannot be drawn."""
    # Alone in its batch: the other rows would be drawn for nothing.
    alone = dataclasses.replace(request, batch_size=1)
    with ignore_errors(), state_kept():
        states = draw(alone, SAMPLE, 1, trajectory=True).trajectory or ()
        levels = request.levels
        # Evenly over the steps, ends included; a run of few steps has fewer states than are kept.
        chosen = np.unique(np.linspace(0, len(states) - 1, STATES).round().astype(int))
        scales = [math.hypot(level.alpha, level.sigma) for level in levels]
        # By the deviation that the state has for data of deviation 1, so that noise does not turn into black and white.
        images = [request.model.images(states[i] / scales[i]) for i in chosen]
        return SamplePath(
            shrunk(np.concatenate([as_shown(image.cpu().numpy()) for image in images if image is not None])),
            [levels[i].sigma / scales[i] for i in chosen],
        )
    return None

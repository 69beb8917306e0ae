"""A grid of images over two settings: axes -> cells -> images -> a labelled picture that records its command."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ...samplers.catalogue import loosely
from ...samplers.errors import InputError, SamplerbenchError, StoreError, pass_on
from ...samplers.files.atomic import write_named
from ...samplers.files.tiles import Images, as_shown, mosaic
from ...samplers.model import Model, to_images
from ...samplers.options import check_count
from ...samplers.registry import Registry
from ...samplers.sample import Request
from ...samplers.sampler import MAX_STEPS
from ..draw.chunk import draw_apart, reason_of
from ..judge.status import failed_outcome
from ..plan.config import Config, parse_counts, parse_numbers
from ..plan.given_files import read_prompts
from ..plan.plan import request_in
from ..plan.settings import SETTINGS
from .axes import PROMPT, Axis, axes_for, lists_levels
from .console import complain
from .picture import Tile, check_pixels, labelled_grid

OWN = ("sampler", "steps")
"""The settings that have one value in a picture and several in a run."""
DEFAULT_STEPS = 20
MOST_IMAGES = 1024
MOST_FRAMES = 60
"""The most states in an animation, picked evenly from longer paths; the noise at the start comes on top."""
ANIMATION_MS, FRAME_MS, LAST_MS = 3000, (40, 400), 2000
WEBP_SIDE = 16_383
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286


@dataclass(frozen=True)
class Settings:
    """How the images of a cell are drawn; an axis changes one setting from cell to cell."""

    sampler: str = "ddim"
    steps: int | None = None
    """None = the number of levels that the grid lists, else `DEFAULT_STEPS`."""
    others: Config = field(default_factory=Config)
    """The other settings, as in a run; its samplers and counts are ignored here. A batch size of None means
    `batch_size_for`."""

    @property
    def values(self) -> dict[str, Any]:
        """Each setting by its name, in the order of the options."""
        values = {one.name: getattr(self.others, one.name) for one in SETTINGS if one.grid and one.name != "samples"}
        return values | {"sampler": self.sampler, "steps": self.steps}

    def changed(self, name: str, value: Any) -> Settings:
        """These settings with one of them changed."""
        if name in OWN:
            return replace(self, **{name: value})
        return replace(self, others=replace(self.others, **{name: value}))


@dataclass(frozen=True)
class Plot:
    """Everything that decides a picture."""

    settings: Settings
    x: Axis | None
    y: Axis | None
    images: int = 1
    """The number of images in each cell, shown as a mosaic."""
    trajectory: bool = False
    plugins: tuple[str, ...] = ()

    def cells(self) -> list[list[Settings]]:
        """The settings of each cell, row by row."""

        def along(axis: Axis | None, settings: Settings) -> list[Settings]:
            return [settings.changed(axis.field, value) for value in axis.values] if axis else [settings]

        return [along(self.x, row) for row in along(self.y, self.settings)]

    @property
    def command(self) -> str:
        """The command that makes this picture again, without its output."""
        words = ["samplerbench", "grid", "--model", self.settings.others.model]
        for option, axis in (("-x", self.x), ("-y", self.y)):
            words += [option, axis.spec] if axis else []
        on_axis = {axis.field for axis in (self.x, self.y) if axis}
        # Sampler and steps are written even at their defaults: without them they would become axes.
        values, defaults = self.settings.values, {one.name: one.default for one in SETTINGS}
        for name, value in values.items():
            said = value is not None and (name in (*OWN, "seed") or value != defaults[name])
            if name == "prompts" and value is not None and name not in on_axis:
                words += [word for prompt in value for word in ("--prompt", prompt)]
            elif name not in ("model", "prompts", *on_axis) and said:
                words += [f"--{name.replace('_', '-')}", plain(value)]
        words += ["-n", str(self.images)] if self.images != 1 else []
        words += ["--trajectory"] if self.trajectory else []
        words += [word for plugin in self.plugins for word in ("--plugin", plugin)]
        return shlex.join(words)

    @property
    def default_output(self) -> Path:
        """results/<model>-grid-<8 hex of the command>.png in the current folder."""
        model = self.settings.others.model
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in model).strip(".-")[:64]
        # Of the command, so that other settings never overwrite a picture.
        key = hashlib.sha256(self.command.encode()).hexdigest()[:8]
        return Path("results") / f"{name or 'model'}-grid-{key}{suffix_of(self.trajectory)}"


def plot_for(options: Mapping[str, Any], plugins: Sequence[str]) -> Plot:
    """The plot that the given options of the command describe."""
    given = dict(options)
    images = check_count("samples", given.pop("samples", 1), MOST_IMAGES)
    file, texts = given.pop("prompts", None), given.pop("prompt", ())
    if file and texts:
        raise InputError("--prompts and --prompt: expected one of them")
    if file or texts:
        given["prompts"] = (read_prompts(file) if file else tuple(texts))[:images]  # those that an image shows
    if "steps" in given:
        counts = parse_counts("steps", given["steps"])
        if len(counts) > 1:
            raise InputError(f"steps {given['steps']!r}: expected one number; several are an axis, as in -x steps=5,10")
        (given["steps"],) = counts
    for one in SETTINGS:
        if one.kind in ("numbers", "interval") and isinstance(given.get(one.name), str):
            given[one.name] = parse_numbers(one.name, given[one.name], one.expected)
    if isinstance(strength := given.get("guidance"), tuple) and len(strength) > 1:
        raise InputError(
            f"guidance {options['guidance']!r}: expected one number; several are an axis, as in -x guidance=1,2"
        )
    x, y, trajectory = given.pop("x", None), given.pop("y", None), given.pop("trajectory", False)
    across, down = axes_for(x, y, list(given), given.get("grid"))
    own = {name: given.pop(name) for name in OWN if name in given}
    others = Config(**given)
    if others.threads:
        torch.set_num_threads(others.threads)
    return Plot(Settings(**own, others=others), across, down, images, trajectory, tuple(plugins))


def plain(value: object) -> str:
    """A setting as the command line takes it."""
    if isinstance(value, tuple):
        return ",".join(map(plain, value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


# Cells -> images


def requests_for(plot: Plot, registry: Registry) -> list[list[Request]]:
    """The checked request of each cell; errors come before anything is drawn."""
    others = plot.settings.others
    model = registry.model(others.model, **others.model_settings)
    refuse_without_images(model)
    settings = plot.settings.changed("batch_size", others.batch_size or batch_size_for(plot.images, model))
    # All requests are made before anything is drawn: a slip in the last cell costs no time.
    grid_is_axis = "grid" in {axis.name for axis in (plot.x, plot.y) if axis}
    return [
        [request_of(cell, registry, model, grid_is_axis=grid_is_axis) for cell in row]
        for row in replace(plot, settings=settings).cells()
    ]


def batch_size_for(images: int, model: Model) -> int:
    """The smallest batch that holds all images of a cell: batches are padded, and a larger one would be waste."""
    return min([model.batch_size, *(size for size in (1, 2, 4, 8, 16, 32) if size >= images)])


def request_of(settings: Settings, registry: Registry, model: Model, *, grid_is_axis: bool) -> Request:
    """A cell's request. The grid in a sampler's spec overrides a fixed one, and is refused if the grid is an axis."""
    try:
        sampler, own_grid, analytic_first = registry.parse_sampler(settings.sampler)
    except InputError as error:
        if "=" in settings.sampler.partition(":")[0]:  # a piece of a spec
            raise InputError(f"{error} (options follow a colon, as in ddim:eta=0.5,grid=karras)") from error
        raise
    if own_grid and grid_is_axis:
        raise InputError(f"sampler {settings.sampler!r}: names a grid of its own, and the grid is an axis too")
    grid = own_grid or settings.others.grid
    steps = settings.steps or (None if lists_levels(grid) else DEFAULT_STEPS)
    if steps is None:
        steps = check_count("steps", len(str(grid).split("/")), MAX_STEPS)
    (guidance,) = settings.others.guidances
    return request_in(settings.others, registry, model, sampler, grid, steps, guidance, analytic_first=analytic_first)


def refuse_without_images(model: Model) -> None:
    """InputError for a model that makes no images."""
    if model.decode is None and to_images(torch.zeros(1, *model.shape)) is None:
        shape = " x ".join(map(str, model.shape))
        raise InputError(
            f"model {model.name!r}: its samples are no images but {shape} numbers; grid needs a model of images"
        )


@dataclass(frozen=True)
class Drawn:
    """A cell's images: of the final state, or of the states before the first step and after each step."""

    states: tuple[Images, ...]
    """uint8 (n, C, H, W) each."""

    def tile(self, place: int) -> Image.Image:
        """The tile of the state after this many steps; the last one stays."""
        return mosaic(self.states[min(place, len(self.states) - 1)])


def drawn(plot: Plot, request: Request) -> Drawn | str:
    """The images of a cell, or the reason why there are none."""
    try:
        samples = draw_apart(request, 0, plot.images, trajectory=plot.trajectory)
        states = samples.trajectory if samples.trajectory else (samples.x,)
        images = [request.model.images(state) for state in states]
        kept = tuple(as_shown(image.cpu().numpy()) for image in images if image is not None)
    except BaseException as error:  # a sampler may raise anything; it fails its own cell
        pass_on(error)
        return reason_of(error)
    return Drawn(kept) if kept else "the model made no images"


def draw_cells(plot: Plot, requests: list[list[Request]], advance: Callable[[], None]) -> list[list[Drawn | str]]:
    """All cells, row by row; `advance` is called after each. An error if the picture would become too large."""
    frames = len(places([[request.levels for request in row] for row in requests])) if plot.trajectory else 1

    def cell_of(request: Request) -> Drawn | str:
        cell = drawn(plot, request)
        if isinstance(cell, Drawn):
            tile = cell.tile(0)
            # After the first cell, and not after all of them.
            check_pixels(tile.width * len(requests[0]), tile.height * len(requests), frames)
        advance()
        return cell

    return [[cell_of(request) for request in row] for row in requests]


def failures_of(plot: Plot, cells: list[list[Drawn | str]]) -> Iterator[tuple[str, str]]:
    """(cell, reason) of each failure."""
    for label_y, row in zip(plot.y.labels if plot.y else ("",), cells, strict=True):
        for label_x, cell in zip(plot.x.labels if plot.x else ("",), row, strict=True):
            if isinstance(cell, str):
                yield ", ".join(filter(None, (label_y, label_x))) or plot.settings.sampler, cell


# Images -> picture


def pictures_of(plot: Plot, cells: list[list[Drawn | str]]) -> list[Image.Image]:
    """The labelled picture, or the frames of the animation, in which a cell that is finished waits for the others."""
    reached = [[cell.states for cell in row if isinstance(cell, Drawn)] for row in cells]
    if not any(reached):
        reason = next(reason for _, reason in failures_of(plot, cells))
        raise SamplerbenchError(f"grid: every cell failed, so there is no picture; the first: {reason}")

    def at(place: int) -> Image.Image:
        tiles: list[list[Tile]] = [
            [cell.tile(place) if isinstance(cell, Drawn) else str(failed_outcome(cell)) for cell in row]
            for row in cells
        ]
        labels, headings = plot.y.labels if plot.y else ("",), plot.x.labels if plot.x else ("",)
        return labelled_grid(tiles, labels, headings, caption_of(plot))

    return [at(place) for place in places(reached)]


def places(ways: Sequence[Sequence[Sequence[object]]]) -> list[int]:
    """The states to show: all of the longest path, or evenly picked ones."""
    last = max(len(way) for row in ways for way in row) - 1
    count = min(last, MOST_FRAMES)
    return [round(i * last / count) for i in range(count + 1)] if count else [0]


def caption_of(plot: Plot) -> str:
    """The caption: the settings that are the same in every cell."""
    settings, on_axis = plot.settings.others, {axis.field for axis in (plot.x, plot.y) if axis}
    prompts = settings.prompts or ()
    said = {
        "sampler": plot.settings.sampler,
        "steps": f"{plot.settings.steps} steps" if plot.settings.steps else "",
        "guidance": f"guidance {plain(settings.guidance)}" if settings.guidance != 1 else "",
        "guidance_interval": f"guided in {plain(settings.guidance_interval)}" if settings.guidance_interval else "",
        "guidance_rescale": f"rescaled {plain(settings.guidance_rescale)}" if settings.guidance_rescale else "",
        "grid": f"grid {settings.grid}" if settings.grid else "",
        "seed": f"seed {settings.seed}",
        "prompts": ", ".join(f'"{prompt}"' for prompt in prompts),
        "negative": f'without "{settings.negative}"' if settings.negative is not None else "",
    }
    return ", ".join([settings.model, *(text for name, text in said.items() if text and name not in on_axis)])


# Picture -> file


def parameters(plot: Plot, request: Request, registry: Registry) -> str:
    """The settings of the first cell, that of `request`, in the words that image tools read, and the axes."""
    cell = plot.cells()[0][0]
    first, shown = cell.others, request.model.shown_shape
    fields: dict[str, object] = {
        "Steps": len(request.levels) - 1,
        "Sampler": familiar(cell.sampler, registry),
        **({"Schedule type": first.grid} if first.grid else {}),
        "CFG scale": plain(first.guidance),
        "Seed": first.seed,
        **({"Size": f"{shown[2]}x{shown[1]}"} if shown else {}),
        "Model": first.model,
    }
    for side, axis in (("X", plot.x), ("Y", plot.y)):
        if axis:
            fields |= {"Script": "X/Y/Z plot", f"{side} Type": axis.name.capitalize()}
            fields[f"{side} Values"] = axis.spec.partition("=")[2]
    line = ", ".join(f"{name}: {quoted(value)}" for name, value in fields.items())
    prompt = first.prompts[0] if first.prompts else ""
    negative = f"Negative prompt: {first.negative}" if first.negative else ""
    return "\n".join(filter(None, [prompt, negative, line]))


def quoted(value: object) -> str:
    """A value in such a line, in quotes if it would break the line."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ',:\n"') else text


def familiar(spec: str, registry: Registry) -> str:
    """The name that other programs use for a sampler with its default options; else the spec."""
    aliases = getattr(registry.samplers.things.get(spec), "aliases", {})
    names = [alias for alias, preset in aliases.items() if not preset]
    return next((name for name in names if loosely(name) != loosely(spec)), names[0] if names else spec)


def about(plot: Plot, requests: list[list[Request]], cells: list[list[Drawn | str]]) -> str:
    """Everything that decides a picture, as JSON."""
    model = requests[0][0].model
    return json.dumps({
        "command": plot.command,
        "version": importlib.metadata.version("samplerbench"),
        "torch": torch.__version__,
        "model": {"name": model.name, "fingerprint": model.fingerprint},
        "settings": plot.settings.values,
        "x": {"name": plot.x.name, "values": plot.x.texts} if plot.x else None,
        "y": {"name": plot.y.name, "values": plot.y.texts} if plot.y else None,
        "images": plot.images,
        "trajectory": plot.trajectory,
        "steps": [[len(request.levels) - 1 for request in row] for row in requests],
        "warnings": warnings_of(requests),
        "failed": dict(failures_of(plot, cells)),
    })  # fmt: skip


def to_png(picture: Image.Image, texts: dict[str, str]) -> bytes:
    """A PNG file with texts in it: the same bytes for the same picture and texts."""
    info = PngInfo()
    for name, text in texts.items():
        # tEXt is read by every image tool; only iTXt holds other characters.
        if text.isascii():
            info.add_text(name, text)
        else:
            info.add_itxt(name, text)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True, pnginfo=info)
    return buffer.getvalue()


def to_webp(frames: Sequence[Image.Image], comment: str) -> bytes:
    """A lossless animation that holds its last frame longer, with the comment where image tools look for it."""
    if max(frames[0].size) > WEBP_SIDE:
        raise InputError(
            f"an animation of {frames[0].width} x {frames[0].height} pixels; WebP takes {WEBP_SIDE} a side"
        )
    least, most = FRAME_MS
    each = min(max(ANIMATION_MS // len(frames), least), most)
    exif = Image.Exif()
    # WebP has no text chunks; image tools read settings from this field.
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + comment.encode("utf-16-be")
    buffer = io.BytesIO()
    frames[0].save(
        buffer, format="WEBP", save_all=True, append_images=list(frames[1:]), loop=0, lossless=True, exif=exif,
        duration=[each] * (len(frames) - 1) + [LAST_MS],
    )  # fmt: skip
    return buffer.getvalue()


def suffix_of(trajectory: bool) -> str:
    """The suffix of the file."""
    return ".webp" if trajectory else ".png"


def check_target(path: Path, suffix: str) -> Path:
    """Refuse a path that cannot be written to, before the picture is made."""
    if path.suffix.lower() != suffix:
        raise InputError(f"output {path}: expected a name that ends in {suffix}")
    if path.is_dir():
        raise InputError(f"output {path}: is a folder; expected a file")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise InputError(f"output {path}: {above} is a file; expected a folder")
    return path


def write_file(path: Path, content: bytes) -> None:
    """Write a picture whole or not at all; its folder is made if it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_named(path, content)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error


def warnings_of(requests: list[list[Request]]) -> list[str]:
    """The warnings about the levels of the cells, each once."""
    return list(dict.fromkeys(warning for row in requests for request in row for warning in request.warnings))


def make_grid(plot: Plot, registry: Registry, path: Path, watch: Callable[[int], Callable[[], None]]) -> dict[str, str]:
    """Draw, label and write a picture; returns the reason of each cell that failed.

    `watch` is told the number of cells, and what it returns is called after each.
    """
    requests = requests_for(plot, registry)
    for warning in warnings_of(requests):
        complain(warning, kind="Warning")
    for axis in (plot.x, plot.y):
        if axis and axis.name == PROMPT and len(axis.texts) == 1 and "," in axis.texts[0]:
            complain(f"prompt {axis.texts[0]!r} is one prompt; several are separated by ';'", kind="Note")
    cells = draw_cells(plot, requests, watch(sum(map(len, requests))))
    frames = pictures_of(plot, cells)
    texts = {"parameters": parameters(plot, requests[0][0], registry), "samplerbench": about(plot, requests, cells)}
    content = to_webp(frames, "\n".join(texts.values())) if plot.trajectory else to_png(frames[0], texts)
    write_file(path, content)
    return dict(failures_of(plot, cells))

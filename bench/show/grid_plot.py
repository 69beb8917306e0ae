"""A grid of images over up to three settings: axes -> cells -> images -> labelled pages that record their command."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import importlib.metadata
import io
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ...samplers.acceleration import Acceleration, accelerate
from ...samplers.catalogue import loosely
from ...samplers.errors import InputError, SamplerbenchError, StoreError, pass_on
from ...samplers.files.atomic import write_named
from ...samplers.files.tiles import Images, as_shown, mosaic
from ...samplers.model import Model, to_images
from ...samplers.options import check_count, options_of, parse_spec
from ...samplers.registry import Registry
from ...samplers.sample import Request
from ...samplers.sampler import MAX_STEPS
from ..draw.chunk import draw_apart, reason_of
from ..judge.status import failed_outcome
from ..plan.config import Config, parse_counts, parse_numbers
from ..plan.given_files import read_prompts
from ..plan.names import name_and_spec, names_by_spec
from ..plan.plan import check_names, request_in
from ..plan.settings import SETTINGS
from .axes import PROMPT, Axis, axes_for, lists_levels, unknown_axis
from .console import complain
from .picture import Tile, check_pixels, labelled_grid

OWN = ("sampler", "steps")
"""The settings that have one value in a picture and several in a run."""
NAMES = frozenset(one.name for one in SETTINGS)
PNG, WEBP, HTML = ".png", ".webp", ".html"
DEFAULT_STEPS = 20
MOST_IMAGES = 1024
LONGEST_NAME = 64
"""Characters of a page's label in the name of its file."""
MOST_FRAMES = 60
"""The most states in an animation, picked evenly from longer paths; the noise at the start comes on top."""
ANIMATION_MS, FRAME_MS, LAST_MS = 3000, (40, 400), 2000
WEBP_SIDE = 16_383
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286


@dataclass(frozen=True)
class Settings:
    """How the images of a cell are drawn; an axis changes one setting from cell to cell."""

    sampler: str = "ddim"
    """As given: a display name may stand before the spec."""
    steps: int | None = None
    """None = the number of levels that the grid lists, else `DEFAULT_STEPS`."""
    others: Config = field(default_factory=Config)
    """The other settings, as in a run; its samplers and counts are ignored here. A batch size of None means
    `batch_size_for`."""
    options: tuple[tuple[str, str], ...] = ()
    """Options of the sampler that are axes, with their values."""

    @property
    def spec(self) -> str:
        """The sampler with the options that are axes, without its name."""
        spec = self.bare_spec
        # Parsed only where an option is added, so that a sampler as given stays as it was written.
        given = parse_spec(spec)[1] if self.options else {}
        for name, value in self.options:
            if name in given:
                raise InputError(f"sampler {spec!r}: says its {name}, which is an axis too; expected one of them")
            # A comma would begin the next option.
            text = f'"{value}"' if "," in value else value
            spec += f"{',' if ':' in spec else ':'}{name}={text}"
        return spec

    @property
    def bare_spec(self) -> str:
        """The spec of the sampler as given, without its display name."""
        return name_and_spec(self.sampler)[1]

    @property
    def shown_sampler(self) -> str:
        """What people read: the name of the sampler, or its spec."""
        name, spec = name_and_spec(self.sampler)
        return name or spec

    @property
    def values(self) -> dict[str, Any]:
        """Each setting by its name, in the order of the options."""
        # The samples of a run are the images of a cell here, which belong to the plot.
        values = {one.name: getattr(self.others, one.name) for one in SETTINGS if one.grid and one.name != "samples"}
        return values | {"sampler": self.sampler, "steps": self.steps}

    def with_change(self, name: str, value: Any) -> Settings:
        """These settings with one of them changed."""
        if name in OWN:
            return replace(self, **{name: value})
        # What is no setting is an option of the sampler; whether it has it is checked with the registry.
        if name not in NAMES:
            return replace(self, options=(*self.options, (name, value)))
        return replace(self, others=replace(self.others, **{name: value}))


@dataclass(frozen=True)
class Plot:
    """Everything that decides a picture, or the picture of each page."""

    settings: Settings
    x: Axis | None
    y: Axis | None
    z: Axis | None = None
    """What changes from page to page."""
    images: int = 1
    """The number of images in each cell, shown as a mosaic."""
    trajectory: bool = False
    plugins: tuple[str, ...] = ()
    page: int | None = None
    """Which value of z this is the page of."""

    @property
    def sides(self) -> dict[str, Axis]:
        """The axes by their options."""
        axes = {"-x": self.x, "-y": self.y, "-z": self.z}
        return {side: axis for side, axis in axes.items() if axis}

    def pages(self) -> list[Plot]:
        """A plot for each value of z; this one where there is no z."""
        if not self.z:
            return [self]
        return [
            replace(self, settings=self.settings.with_change(self.z.field, value), page=i)
            # A page keeps z, which names it and belongs to its command.
            for i, value in enumerate(self.z.values)
        ]

    @property
    def page_label(self) -> str:
        """What the page is of, "guidance 2"; '' where there is one only."""
        return self.z.labels[self.page] if self.z and self.page is not None else ""

    def cells(self) -> list[list[Settings]]:
        """The settings of each cell, row by row."""

        def along(axis: Axis | None, settings: Settings) -> list[Settings]:
            return [settings.with_change(axis.field, value) for value in axis.values] if axis else [settings]

        return [along(self.x, row) for row in along(self.y, self.settings)]

    @property
    def command(self) -> str:
        """The command that makes this picture again, without its output."""
        # The model is always named: the default may change in a later version.
        words = ["samplerbench", "grid", "--model", self.settings.others.model]
        for option, axis in self.sides.items():
            words += [option, axis.spec]
        on_axis = {axis.field for axis in self.sides.values()}
        # Sampler and steps are written even at their defaults: without them they would become axes.
        values, defaults = self.settings.values, {one.name: one.default for one in SETTINGS}
        for name, value in values.items():
            said = value is not None and (name in (*OWN, "seed") or value != defaults[name])
            # One by one, since the file that they came from may be gone.
            if name == "prompts" and value is not None and name not in on_axis:
                words += [word for prompt in value for word in ("--prompt", prompt)]
            elif name not in ("model", "prompts", *on_axis) and said:
                # A switch that differs from its default is on, and takes no value.
                words += [f"--{name.replace('_', '-')}", *([] if value is True else [plain(value)])]
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

    def files(self, output: Path) -> list[Path]:
        """The file of each page: the output with axis and value behind its name, "grid-guidance-2.png"."""
        if not self.z:
            return [output]
        names = [re.sub(r"[^\w.+-]+", "-", label.lower()).strip("-")[:LONGEST_NAME] for label in self.z.labels]
        # Two values may lose the characters in which they differ; then the number of the page tells them apart.
        names = [name if names.count(name) == 1 else f"{i}-{name}" for i, name in enumerate(names, start=1)]
        if len(set(names)) < len(names):  # "2 cats" beside a second "cats"
            names = [f"{i}-{name}" for i, name in enumerate(names, start=1)]
        suffix = suffix_of(self.trajectory) if output.suffix.lower() == HTML else output.suffix
        return [output.with_name(f"{output.stem}-{name}{suffix}") for name in names]


def plot_for(options: Mapping[str, Any], plugins: Sequence[str]) -> Plot:
    """The plot that the given options of the command describe."""
    # Options are taken out one after the other; those that are left are settings of the run.
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
    # `run` takes several as an axis of its own, so the setting allows them.
    if isinstance(strength := given.get("guidance"), tuple) and len(strength) > 1:
        raise InputError(
            f"guidance {options['guidance']!r}: expected one number; several are an axis, as in -x guidance=1,2"
        )
    # After the checks of single values, before the settings: what is an axis must not be given as well.
    sides, trajectory = [given.pop(side, None) for side in "xyz"], given.pop("trajectory", False)
    axes = axes_for(sides, list(given), given.get("grid"))
    own = {name: given.pop(name) for name in OWN if name in given}
    others = Config(**given)
    if others.threads:
        torch.set_num_threads(others.threads)
    return Plot(Settings(**own, others=others), *axes, images, trajectory, tuple(plugins))


def plain(value: object) -> str:
    """A setting as the command line takes it."""
    if isinstance(value, tuple):
        return ",".join(map(plain, value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


# Cells -> images


LoadModel = Callable[[str, tuple[tuple[str, Any], ...], Acceleration, str], Model]
"""(name, settings of the model's own, what makes its network faster, device) -> the model."""


def loader(registry: Registry) -> LoadModel:
    """A function that loads the models of the cells, each once; they differ where a setting of the model is an axis."""

    @functools.cache
    def load(name: str, settings: tuple[tuple[str, Any], ...], how: Acceleration, device: str) -> Model:
        model = registry.model(name, **dict(settings))
        refuse_without_images(model)
        return accelerate(model, how, device)

    return load


def requests_for(plot: Plot, registry: Registry, load: LoadModel | None = None) -> list[list[Request]]:
    """The checked request of each cell; errors come before anything is drawn."""
    # First the names, which need no model: a slip is told before gigabytes are read.
    check_options(plot, registry)
    load = load or loader(registry)
    grid_is_axis = "grid" in {axis.name for axis in plot.sides.values()}
    strengths = strengths_of(plot)

    def request(cell: Settings) -> Request:
        others = cell.others
        model = load(others.model, tuple(others.model_settings.items()), others.acceleration, others.device)
        # The size of a batch can change the last digits, so it is fixed here and the same in all cells of a model.
        size = others.batch_size or batch_size_for(plot.images, model)
        sized = cell.with_change("batch_size", size)
        return request_of(sized, registry, model, grid_is_axis=grid_is_axis, strengths=strengths)

    # All requests are made before anything is drawn: a slip in the last cell costs no time.
    return [[request(cell) for cell in row] for row in plot.cells()]


def strengths_of(plot: Plot) -> tuple[float, ...]:
    """The guidances that are an axis; () where they are none."""
    along = [axis.values for axis in plot.sides.values() if not axis.is_option and axis.field == "guidance"]
    # By six digits, as in a run, in which none may come twice.
    return tuple({f"{value:g}": value for values in along for value in values}.values())


def check_options(plot: Plot, registry: Registry) -> None:
    """InputError where an axis is an option of no sampler, or not of all those that it is drawn with, and for a name
    that two samplers share or that is another sampler."""
    given = {cell.sampler: None for row in plot.cells() for cell in row}
    check_names(names_by_spec(list(given)), registry)
    asked = {side: axis.name for side, axis in plot.sides.items() if axis.is_option}
    if not asked:
        return
    # Which samplers have an option, for the error: a name that none has is a slip, one that others have is a wrong
    # sampler.
    owners: dict[str, list[str]] = {}
    for name, cls in sorted(registry.samplers.things.items()):
        for option in options_of(cls):
            owners.setdefault(option, []).append(name)
    for side, name in asked.items():
        if name not in owners:
            raise unknown_axis(side, plot.sides[side].spec, name, sorted(owners))
        for spec in {cell.bare_spec: None for row in plot.cells() for cell in row}:
            if name not in options_of(type(registry.sampler(spec))):
                with_it = ", ".join(owners[name])
                raise InputError(
                    f"{side} {name}: sampler {spec!r} has no option {name!r}; samplers that have it: {with_it}"
                )


def batch_size_for(images: int, model: Model) -> int:
    """The smallest batch that holds all images of a cell: batches are padded, and a larger one would be waste."""
    return min([model.batch_size, *(size for size in (1, 2, 4, 8, 16, 32) if size >= images)])


def request_of(
    settings: Settings, registry: Registry, model: Model, *, grid_is_axis: bool, strengths: tuple[float, ...] = ()
) -> Request:
    """A cell's request. The grid in a sampler's spec overrides a fixed one, and is refused if the grid is an axis.

    `strengths` are the guidances that are an axis: what has no effect at guidance 1 is left out there, as in a run.
    """
    try:
        sampler, own_grid, analytic_first = registry.parse_sampler(settings.spec)
    except InputError as error:
        if "=" in settings.sampler.partition(":")[0]:  # a piece of a spec
            raise InputError(f"{error} (options follow a colon, as in ddim:eta=0.5,grid=karras)") from error
        raise
    # Either of them would be ignored, and the picture labelled with the other.
    if own_grid and grid_is_axis:
        raise InputError(f"sampler {settings.sampler!r}: names a grid of its own, and the grid is an axis too")
    grid = own_grid or settings.others.grid
    steps = settings.steps or (None if lists_levels(grid) else DEFAULT_STEPS)
    # A list of levels says itself how many steps there are.
    if steps is None:
        steps = check_count("steps", len(str(grid).split("/")), MAX_STEPS)
    # A cell has one; several were refused, or are an axis.
    (guidance,) = settings.others.guidances
    config = replace(settings.others, guidance=strengths) if len(strengths) > 1 else settings.others
    return request_in(config, registry, model, sampler, grid, steps, guidance, analytic_first=analytic_first)


def refuse_without_images(model: Model) -> None:
    """InputError for a model that makes no images."""
    # A model with a decoder is believed: what it returns is checked when it is there.
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


def draw_cell(plot: Plot, request: Request) -> Drawn | str:
    """The images of a cell, or the reason why there are none."""
    try:
        # From the first sample on, as in a run: a cell starts from the noise of a run with the same settings.
        samples = draw_apart(request, 0, plot.images, trajectory=plot.trajectory)
        states = samples.trajectory if samples.trajectory else (samples.x,)
        images = [request.model.images(state) for state in states]
        # Of a video the frames that a run keeps are shown too.
        kept = tuple(as_shown(image.cpu().numpy()) for image in images if image is not None)
    except BaseException as error:  # a sampler may raise anything; it fails its own cell
        pass_on(error)
        return reason_of(error)
    return Drawn(kept) if kept else "the model made no images"


def draw_cells(plot: Plot, requests: list[list[Request]], advance: Callable[[], None]) -> list[list[Drawn | str]]:
    """All cells, row by row; `advance` is called after each. An error if the picture would become too large."""
    # A path has a state for each level, so the number of frames is known before anything is drawn.
    frames = len(places([[request.levels for request in row] for row in requests])) if plot.trajectory else 1
    sides = (0, 0)

    def cell_of(request: Request) -> Drawn | str:
        nonlocal sides
        cell = draw_cell(plot, request)
        if isinstance(cell, Drawn):
            # After the first cell, and not after all of them. Each has room for the largest.
            width, height = cell.tile(0).size
            sides = max(sides[0], width), max(sides[1], height)
            check_pixels(sides[0] * len(requests[0]), sides[1] * len(requests), frames)
        advance()
        return cell

    return [[cell_of(request) for request in row] for row in requests]


def failures_of(plot: Plot, cells: list[list[Drawn | str]]) -> Iterator[tuple[str, str]]:
    """(cell, reason) of each failure."""
    for label_y, row in zip(plot.y.labels if plot.y else ("",), cells, strict=True):
        for label_x, cell in zip(plot.x.labels if plot.x else ("",), row, strict=True):
            if isinstance(cell, str):
                yield ", ".join(filter(None, (plot.page_label, label_y, label_x))) or plot.settings.shown_sampler, cell


# Images -> picture


def pictures_of(plot: Plot, cells: list[list[Drawn | str]]) -> list[Image.Image]:
    """The labelled picture, or the frames of the animation, in which a cell that is finished waits for the others."""
    # The states that are there decide: a cell that failed has none.
    reached = [[cell.states for cell in row if isinstance(cell, Drawn)] for row in cells]

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
    """The caption: what the page is of, and the settings that are the same in every cell."""
    settings, on_axis = plot.settings.others, {axis.field for axis in plot.sides.values()}
    prompts = settings.prompts or ()
    said = {
        "sampler": plot.settings.shown_sampler,
        "steps": f"{plot.settings.steps} steps" if plot.settings.steps else "",
        "guidance": f"guidance {plain(settings.guidance)}" if settings.guidance != 1 else "",
        "guidance_interval": f"guided in {plain(settings.guidance_interval)}" if settings.guidance_interval else "",
        "guidance_rescale": f"rescaled {plain(settings.guidance_rescale)}" if settings.guidance_rescale else "",
        "grid": f"grid {settings.grid}" if settings.grid else "",
        "seed": f"seed {settings.seed}",
        "prompts": ", ".join(f'"{prompt}"' for prompt in prompts),
        "negative": f'without "{settings.negative}"' if settings.negative is not None else "",
        "size": settings.size or "",
        "clip_skip": f"clip skip {settings.clip_skip}" if settings.clip_skip is not None else "",
    }
    texts = [text for name, text in said.items() if text and name not in on_axis]
    return ", ".join(filter(None, [plot.page_label, settings.model, *texts]))


# Picture -> file


def parameters(plot: Plot, request: Request, registry: Registry) -> str:
    """The settings of the first cell, that of `request`, in the words that image tools read, and the axes."""
    cell = plot.cells()[0][0]
    first, shown = cell.others, request.model.shown_shape
    # In the order in which other programs write such a line; some of them know it by its first word.
    # Other programs read no more than one cell from a picture.
    fields: dict[str, object] = {
        "Steps": len(request.levels) - 1,
        "Sampler": familiar(cell.spec, registry),
        **({"Schedule type": first.grid} if first.grid else {}),
        "CFG scale": plain(first.guidance),
        "Seed": first.seed,
        **({"Size": f"{shown[2]}x{shown[1]}"} if shown else {}),
        "Model": first.model,
    }
    for option, axis in plot.sides.items():
        side = option[-1].upper()
        fields |= {"Script": "X/Y/Z plot", f"{side} Type": axis.name.capitalize()}
        fields[f"{side} Values"] = axis.spec.partition("=")[2]
    line = ", ".join(f"{name}: {quote_if_needed(value)}" for name, value in fields.items())
    prompt = first.prompts[0] if first.prompts else ""
    negative = f"Negative prompt: {first.negative}" if first.negative else ""
    return "\n".join(filter(None, [prompt, negative, line]))


def quote_if_needed(value: object) -> str:
    """A value in such a line, in quotes if it would break the line."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ',:\n"') else text


def familiar(spec: str, registry: Registry) -> str:
    """The name that other programs use for a sampler with its default options; else the spec."""
    aliases = getattr(registry.samplers.things.get(spec), "aliases", {})
    names = [alias for alias, preset in aliases.items() if not preset]
    # A name that is not just ours in another spelling is the one that other programs know.
    return next((name for name in names if loosely(name) != loosely(spec)), names[0] if names else spec)


def about(plot: Plot, requests: list[list[Request]], cells: list[list[Drawn | str]]) -> str:
    """Everything that decides a picture, as JSON."""
    model = requests[0][0].model
    # The command draws the picture again; versions and fingerprint say whether it will be the same one.
    return json.dumps({
        "command": plot.command,
        "version": importlib.metadata.version("samplerbench"),
        "torch": torch.__version__,
        "model": {"name": model.name, "fingerprint": model.fingerprint},
        "settings": plot.settings.values,
        "x": {"name": plot.x.name, "values": plot.x.texts} if plot.x else None,
        "y": {"name": plot.y.name, "values": plot.y.texts} if plot.y else None,
        **({"z": {"name": plot.z.name, "values": plot.z.texts}, "page": plot.page_label} if plot.z else {}),
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
    # About three seconds in all, but no frame too short to be seen or too long to wait for.
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
    return WEBP if trajectory else PNG


def check_target(path: Path, *suffixes: str) -> Path:
    """Refuse a path that cannot be written to, before the picture is made."""
    # The suffix decides the format, so another one would be a lie about the content.
    if path.suffix.lower() not in suffixes:
        raise InputError(f"output {path}: expected a name that ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"output {path}: is a folder; expected a file")
    # The nearest folder that is there decides, since those below it will be made.
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


@dataclass(frozen=True)
class Page:
    """A picture as a file holds it."""

    label: str
    """What it is of; '' where it is the only one."""
    content: bytes
    suffix: str


def make_grid(
    plot: Plot, registry: Registry, path: Path, watch: Callable[[int], Callable[[], None]]
) -> tuple[list[Path], dict[str, str]]:
    """Draw, label and write a picture, or one for each page; returns the files, and the reason of each failed cell.

    `watch` is told the number of cells, and what it returns is called after each. A path that ends in .html gets all
    pages. A page on which every cell failed is left out.
    """
    load = loader(registry)
    pages = plot.pages()
    # Of all pages before the first is drawn: a slip on the last one costs no time.
    requests = [requests_for(page, registry, load) for page in pages]
    for warning in dict.fromkeys(warning for page in requests for warning in warnings_of(page)):
        complain(warning, kind="Warning")
    for axis in plot.sides.values():
        if axis.name == PROMPT and len(axis.texts) == 1 and "," in axis.texts[0]:
            complain(f"prompt {axis.texts[0]!r} is one prompt; several are separated by ';'", kind="Note")
    advance = watch(sum(len(row) for page in requests for row in page))
    made: list[Page] = []
    written: list[Path] = []
    failures: dict[str, str] = {}
    for page, asked, file in zip(pages, requests, plot.files(path), strict=True):
        cells = draw_cells(page, asked, advance)
        failures |= failures_of(page, cells)
        if not any(isinstance(cell, Drawn) for row in cells for cell in row):
            continue
        made.append(page_of(page, asked, cells, registry))
        if path.suffix.lower() != HTML:  # at once, so that what is drawn is there if another page is stopped
            write_file(file, made[-1].content)
            written.append(file)
    if not made:
        raise SamplerbenchError(
            f"grid: every cell failed, so there is no picture; the first: {next(iter(failures.values()))}"
        )
    if not written:
        write_file(path, pages_to_html(made, plot.command).encode())
        written.append(path)
    return written, failures


def page_of(plot: Plot, requests: list[list[Request]], cells: list[list[Drawn | str]], registry: Registry) -> Page:
    """The picture of a page as the content of its file, which holds its settings."""
    frames = pictures_of(plot, cells)
    texts = {"parameters": parameters(plot, requests[0][0], registry), "samplerbench": about(plot, requests, cells)}
    content = to_webp(frames, "\n".join(texts.values())) if plot.trajectory else to_png(frames[0], texts)
    return Page(plot.page_label, content, suffix_of(plot.trajectory))


PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2em; }}
nav a {{ margin-right: 1em; }}
img {{ max-width: 100%; }}
section + section {{ break-before: page; }}
</style>
{body}
</html>
"""


def pages_to_html(pages: Sequence[Page], command: str) -> str:
    """All pictures on one page of HTML that loads nothing, each a section that is a page of its own in print."""
    named = any(page.label for page in pages)
    links = [f'<a href="#page-{i}">{html.escape(page.label)}</a>' for i, page in enumerate(pages, start=1)]
    parts = [f"<nav>{' '.join(links)}</nav>"] if named else []
    for i, page in enumerate(pages, start=1):
        label = html.escape(page.label)
        data = base64.b64encode(page.content).decode()
        heading = f"<h2>{label}</h2>" if label else ""
        image = f'<img alt="{label or "grid of images"}" src="data:image/{page.suffix[1:]};base64,{data}">'
        parts.append(f'<section id="page-{i}">{heading}{image}</section>')
    parts.append(f"<p>Made by <code>{html.escape(command)}</code></p>")
    return PAGE.format(title="samplerbench grid", body="\n".join(parts))

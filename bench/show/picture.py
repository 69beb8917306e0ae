"""Pictures with labels: grid.png of a run, samplers down and step counts across, the same seeds in each cell."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from ...samplers.errors import InputError
from ...samplers.files.atomic import write_atomically
from ...samplers.files.tiles import Images, mosaic, png
from ..draw.sealed_file import disk_errors
from ..draw.store import RunFolder
from ..judge.status import failed_outcome
from ..judge.stored import StoredRun
from ..plan.config import Config
from ..plan.plan import Cell, Plan
from ..plan.record import CellRecord

PICTURE_FILE = "grid.png"
ACROSS = 5
DOWN = 2
MARGIN, GAP = 16, 8
LABEL_WIDTH = 168
FONT_SIZE, SMALL_SIZE = 16, 13
LEADING = 1.25
"""The height of a line of text, in font sizes."""
MOST_HEADING_LINES, MOST_CAPTION_LINES = 4, 6
MOST_CHARACTERS = 600
"""The most characters of a label."""
PAPER, PINK = (255, 255, 255), (250, 240, 240)
MOST_PIXELS = 200_000_000


PLAIN = {"\N{EN DASH}": "-", "\N{EM DASH}": "-", "\N{MINUS SIGN}": "-", "\N{MULTIPLICATION SIGN}": "x"}
"""Replacements for characters that the font lacks."""


class Style(NamedTuple):
    """How a text is written."""

    size: int
    anchor: str
    """The point of its first line that is placed: left or middle, at the ascender."""
    ink: tuple[int, int, int]


HEADING = Style(FONT_SIZE, "ma", (20, 20, 20))
LABEL = Style(FONT_SIZE, "la", (20, 20, 20))
CAPTION = Style(SMALL_SIZE, "la", (110, 110, 110))
NOTICE = Style(SMALL_SIZE, "ma", (150, 30, 30))
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Tile = Image.Image | str
"""A picture, or the reason why there is none."""


def write_picture(plan: Plan, folder: RunFolder, failures: Mapping[str, str]) -> None:
    """Write grid.png, if the model makes images and some are stored."""
    # The first block: it has the same seeds in every cell, and is the first to be there.
    block = plan.blocks[0]
    shown = {
        cell.key: folder.read(cell, block).images
        for cell in plan.cells
        if cell.key not in failures and folder.has(cell, block)
    }
    picture = run_picture(plan.config, plan.cells, shown, failures)
    if picture:
        with disk_errors(folder.path):
            write_atomically(folder.path / PICTURE_FILE, png(picture))


def redraw(run: StoredRun) -> Image.Image:
    """The picture of a stored run, from its kept images, without its model or samplers."""
    record = run.record
    shown: dict[str, Images | None] = {}
    for cell in record.cells:
        if first := run.first_chunk(cell):
            shown[cell.key] = first.images
    failures: Mapping[str, str] = {}
    # The reason of a failure is in the table, and images may be there before it.
    with suppress(InputError):  # there is no table yet
        failures = run.reasons
    picture = run_picture(record.config, record.cells, shown, failures)
    if not picture:
        raise InputError(
            f"{run.path}: no images are kept in it; expected the folder of a run of a model that makes images"
        )
    return picture


def run_picture(
    config: Config, cells: Sequence[Cell | CellRecord], shown: Mapping[str, Images | None], failures: Mapping[str, str]
) -> Image.Image | None:
    """Samplers down, step counts or budgets across; None if there is no image.

    `shown` are the first images and `failures` the reasons, by cell key.
    """
    # A row of the picture is a sampler on a grid at a guidance; its cells come in the order of the counts.
    tiles: dict[tuple[str, str, float | None], list[Tile]] = {}
    for cell in cells:
        images = shown.get(cell.key)
        reason = str(failed_outcome(failures[cell.key])) if cell.key in failures else "no picture"
        tile = mosaic(images[: ACROSS * DOWN], ACROSS) if images is not None else reason
        guidance = cell.request.guidance if isinstance(cell, Cell) else cell.guidance
        tiles.setdefault((cell.shown, cell.grid, guidance), []).append(tile)
    # Reasons alone make no picture; the table has them.
    if all(isinstance(tile, str) for row in tiles.values() for tile in row):
        return None
    several_grids, several = len({grid for _, grid, _ in tiles}) > 1, len(config.guidances) > 1
    labels = [
        "\n".join([sampler, *([grid] if several_grids else []), *([f"guidance {w:g}"] if several else [])])
        for sampler, grid, w in tiles
    ]
    budget = "NFE" if config.nfe else "steps"
    headings = [f"{budget} {number}" for number in config.counts]
    # What the labels of the rows say is not said again below.
    said = "" if several or config.guidance == 1 else f", guidance {config.guidances[0]:g}"
    said += ", guided in {:g} to {:g}".format(*config.guidance_interval) if config.guidance_interval else ""
    return labelled_grid(list(tiles.values()), labels, headings, f"{config.model}{said}, seed {config.seed}")


def labelled_grid(
    tiles: Sequence[Sequence[Tile]], labels: Sequence[str], headings: Sequence[str], caption: str = ""
) -> Image.Image:
    """Tiles in rows and columns, a label left of each row, a heading above each column, a caption below all.

    Texts are wrapped to fit, and shortened if they are still too long; an empty text takes no room.
    """
    pictures = [tile for row in tiles for tile in row if isinstance(tile, Image.Image)]
    # Every cell has the size of the largest tile, so that rows and columns line up.
    width, height = max(tile.width for tile in pictures), max(tile.height for tile in pictures)
    line, small_line = round(FONT_SIZE * LEADING), round(SMALL_SIZE * LEADING)
    # A label may be as high as its row, a heading as wide as its column.
    sides = [wrap(label, FONT_SIZE, LABEL_WIDTH, height // line) for label in labels]
    heads = [wrap(heading, FONT_SIZE, width, MOST_HEADING_LINES) for heading in headings]

    label_width = max((text_width(text, FONT_SIZE) for side in sides for text in side), default=0)
    left = MARGIN + (label_width + MARGIN if label_width else 0)
    heading_lines = max(map(len, heads))
    top = MARGIN + (heading_lines * line + GAP if heading_lines else 0)
    # The caption comes last, because it may be as wide as everything above it.
    right, bottom = left + len(heads) * (width + GAP) - GAP, top + len(sides) * (height + GAP) - GAP
    foot = wrap(caption, SMALL_SIZE, right - MARGIN, MOST_CAPTION_LINES)
    below = GAP + len(foot) * small_line if foot else 0
    sheet = Image.new("RGB", (right + MARGIN, bottom + below + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)

    for j, head in enumerate(heads):
        # Headings of fewer lines stand at the bottom, next to their column.
        first = MARGIN + (heading_lines - len(head)) * line
        write_lines(pen, head, (left + j * (width + GAP) + width // 2, first), HEADING)
    for i, (side, row) in enumerate(zip(sides, tiles, strict=True)):
        y = top + i * (height + GAP)
        write_lines(pen, side, (MARGIN, y + (height - len(side) * line) // 2), LABEL)
        for j, tile in enumerate(row):
            x = left + j * (width + GAP)
            sheet.paste(notice(tile, width, height) if isinstance(tile, str) else tile, (x, y))
    write_lines(pen, foot, (MARGIN, bottom + GAP), CAPTION)
    return sheet


def check_pixels(width: int, height: int, frames: int = 1) -> None:
    """Refuse a picture that is too large for the memory of an ordinary machine."""
    if width * height * frames > MOST_PIXELS:
        size = f"{width} x {height} pixels" + (f" in {frames} frames" if frames > 1 else "")
        raise InputError(
            f"a picture of {size}; expected at most {MOST_PIXELS:,} pixels in all: take fewer values or images"
        )


def notice(text: str, width: int, height: int) -> Image.Image:
    """A tile that says why there is no picture."""
    tile = Image.new("RGB", (width, height), PINK)
    line = round(SMALL_SIZE * LEADING)
    lines = wrap(text, SMALL_SIZE, width - 2 * GAP, (height - 2 * GAP) // line)
    place = (width // 2, (height - len(lines) * line) // 2)
    write_lines(ImageDraw.Draw(tile), lines, place, NOTICE)
    return tile


def write_lines(pen: ImageDraw.ImageDraw, lines: Sequence[str], at: tuple[int, int], style: Style) -> None:
    """Lines of text below each other; `at` is the anchor of the first."""
    for i, text in enumerate(lines):
        place = (at[0], at[1] + i * round(style.size * LEADING))
        pen.text(place, text, style.ink, font=font_of(style.size), anchor=style.anchor)


def wrap(text: str, size: int, width: int, most: int) -> list[str]:
    """The text in at most `most` lines of at most `width` pixels, cut with an ellipsis if it does not fit.

    Lines break at spaces, else after , : ; or /, else anywhere.
    """
    lines: list[str] = []
    for paragraph in drawable(text[:MOST_CHARACTERS]).split("\n"):
        line = ""
        # A piece is a gap, a word up to and with its , : ; or /, or the rest of a word.
        for piece in re.findall(r"\s+|[^\s,:;/]*[,:;/]|[^\s,:;/]+", paragraph):
            # A word that is wider than a line is taken letter by letter.
            parts = [piece] if text_width(piece.rstrip(), size) <= width else list(piece)
            for part in parts:
                if line.strip() and text_width((line + part).rstrip(), size) > width:
                    lines.append(line.strip())
                    line = ""
                line += part
        lines.append(line.strip())
    kept = [line for line in lines if line][: max(1, most)]
    if len([line for line in lines if line]) > len(kept) or len(text) > MOST_CHARACTERS:
        last = kept[-1]
        # The ellipsis needs room of its own.
        while last and text_width(f"{last}…", size) > width:
            last = last[:-1]
        kept[-1] = f"{last.rstrip()}…"
    return kept


def drawable(text: str) -> str:
    """The text in glyphs of the font: a letter may lose its accent, other missing characters become boxes."""
    clean = "\n".join(" ".join(line.split()) for line in text.splitlines())
    return "".join(c if c == "\n" or has_glyph(c) else bare(c) for c in clean)


def bare(character: str) -> str:
    """A character without its accents if the font has that; else unchanged, which shows as a box."""
    plain = PLAIN.get(character, character)
    base = "".join(c for c in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(c))
    return (
        base
        if base and all(map(has_glyph, base))
        else character
        if character.isprintable()
        else "\N{REPLACEMENT CHARACTER}"
    )


@cache
def has_glyph(character: str) -> bool:
    """Whether the font has the character."""
    # A font draws one box for all that it lacks; U+FFFF is no character, so that box is what it looks like.
    font = font_of(FONT_SIZE)
    return character == " " or bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))


def text_width(text: str, size: int) -> int:
    """The width of a text in pixels, rounded up."""
    return -int(-font_of(size).getlength(text) // 1)


@cache
def font_of(size: int) -> Font:
    """The font of all pictures, which comes with Pillow and so is the same on every machine."""
    return ImageFont.load_default(size)

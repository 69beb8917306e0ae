"""grid.png: samplers down, step counts across, the same seeds in each cell."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from .plan import Cell, Plan
from .store import RunFolder, disk_errors, write_atomically

PICTURE_FILE = "grid.png"
ACROSS = 5
DOWN = 2
SCALE_UP_BELOW = 64
GAP = 10
FONT_SIZE = 16
INK, PAPER = (20, 20, 20), (255, 255, 255)

Images = npt.NDArray[np.uint8]


def write_picture(plan: Plan, folder: RunFolder, failures: Mapping[str, str]) -> None:
    """Write grid.png, if the model makes images and some are there."""
    block = plan.blocks[0]
    shown = {
        cell.key: folder.read(cell, block).images
        for cell in plan.cells
        if cell.key not in failures and folder.has(cell, block)
    }
    kept = {key: images for key, images in shown.items() if images is not None}
    if not kept:
        return
    rows = list(dict.fromkeys((cell.sampler, cell.grid) for cell in plan.cells))
    budgets = plan.config.nfe or plan.config.steps
    table: dict[tuple[str, str], list[Cell]] = {row: [] for row in rows}
    for cell in plan.cells:
        table[cell.sampler, cell.grid].append(cell)
    several_grids = len({grid for _, grid in rows}) > 1
    labels = [f"{sampler}\n{grid}" if several_grids else sampler for sampler, grid in rows]
    headings = [f"{'NFE' if plan.config.nfe else 'steps'} {budget}" for budget in budgets]
    tiles = [[mosaic(kept[c.key]) if c.key in kept else None for c in cells] for cells in table.values()]
    picture = labelled_grid(tiles, labels, headings)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    with disk_errors(folder.path):
        write_atomically(folder.path / PICTURE_FILE, buffer.getvalue())


def mosaic(images: Images) -> Image.Image:
    """The first images (n, C, H, W), five across and two down, small ones twice as large."""
    chosen = images[: ACROSS * DOWN]
    n, _, height, width = chosen.shape
    sheet = np.full((DOWN * height, min(n, ACROSS) * width, 3), 255, dtype=np.uint8)
    for i, image in enumerate(chosen):
        y, x = divmod(i, ACROSS)
        sheet[y * height : (y + 1) * height, x * width : (x + 1) * width] = rgb(image)
    used = sheet[: -(-n // ACROSS) * height]
    picture = Image.fromarray(used)
    scale = 2 if max(height, width) < SCALE_UP_BELOW else 1
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def rgb(image: Images) -> Images:
    """(1 or 3, H, W) -> (H, W, 3)."""
    three = image if len(image) == 3 else np.repeat(image, 3, axis=0)  # noqa: PLR2004  (RGB)
    return np.ascontiguousarray(np.moveaxis(three, 0, -1))


def labelled_grid(
    tiles: Sequence[Sequence[Image.Image | None]],
    labels: Sequence[str],
    headings: Sequence[str],
    font_size: int = FONT_SIZE,
    gap: int = GAP,
) -> Image.Image:
    """Tiles in rows and columns, with a label left of each row and a heading above each column."""
    font = ImageFont.load_default(font_size)
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = max(int(probe.multiline_textbbox((0, 0), label, font=font)[2]) for label in labels) + 2 * gap
    there = [tile for row in tiles for tile in row if tile]
    width, height = max(t.width for t in there), max(t.height for t in there)
    top = font_size + 2 * gap
    sheet = Image.new("RGB", (left + len(headings) * (width + gap), top + len(labels) * (height + gap)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for j, heading in enumerate(headings):
        pen.text((left + j * (width + gap) + width // 2, gap), heading, INK, font=font, anchor="ma")
    for i, (label, row) in enumerate(zip(labels, tiles, strict=True)):
        y = top + i * (height + gap)
        pen.multiline_text((gap, y + height // 2), label, INK, font=font, anchor="lm")
        for j, tile in enumerate(row):
            x = left + j * (width + gap)
            if tile:
                sheet.paste(tile, (x, y))
            else:
                pen.text((x + width // 2, y + height // 2), "no picture", INK, font=font, anchor="mm")
    return sheet

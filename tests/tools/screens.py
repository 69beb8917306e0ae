"""What people see on a terminal, at four widths: `python tests/tools/screens.py` writes tests/behaviour/screens/ again.

Each screen is made of numbers that are stored beside it, so that it changes only with the code that lays it out.
"""

import io
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from rich.console import Console

from samplerbench.bench.judge.table import csv_to_frame
from samplerbench.bench.plan.plan import Block, Blocks
from samplerbench.bench.show import console
from samplerbench.bench.show.live import View
from samplerbench.bench.show.sheet import sheet_of
from samplerbench.bench.show.terminal import SheetOnTerminal

FOLDER = Path(__file__).parents[1] / "behaviour" / "screens"
WIDTHS = (60, 80, 100, 120)
LABELS = {
    "fid": {"label": "fashion-mnist CNN", "note": "", "data": "the 10,000 test images of Fashion-MNIST"},
    "clip_score": {"label": "fashion-mnist CLIP", "note": "this CLIP also conditions the model"},
    "fid_unbiased": {"label": "fashion-mnist CNN", "note": ""},
}
A, B = "dpm-solver++:order=3,grid=logsnr@10", "ddim@10"
COMPARISON = [
    {"metric": "FID [fashion-mnist CNN]", "A": A, "B": B, "A - B": "-0.62 ± 0.28", "p": "<0.0001", "A is": "better"},
    {
        "metric": "CLIP score [fashion-mnist CLIP]", "A": A, "B": B, "A - B": "0.12 ± 0.31", "p": "0.44",
        "A is": "not shown to differ",
    },
]  # fmt: skip


def console_of(width, **settings):
    """A console in memory that behaves as a terminal of this width."""
    settings = {"force_terminal": True, "color_system": None, "legacy_windows": False, "_environ": {}, **settings}
    return Console(file=io.StringIO(), width=width, height=24, **settings)


def table_of_csv():
    """The stored table."""
    return csv_to_frame((FOLDER / "table.csv").read_bytes())


def with_troubles(table):
    """The table with cells that failed or are not whole."""
    status = ["failed: ZeroDivisionError: division by zero", "partial"]
    table = table.astype({"status": object})
    table.loc[table.index[:2], "status"] = status
    table.loc[table.index[0], ["fid", "fid_low", "fid_high", "seconds_per_image", "seconds_low"]] = float("nan")
    table.loc[table.index[2:4], "sampler"] = "dpm-solver++-sde:order=3,variant=heun,grid=karras"
    return table


def of_few_images(table):
    """The table of a small run: no intervals, and times of one chunk."""
    ends = [name for name in table.columns if name.endswith(("_low", "_high"))]
    return table.assign(**dict.fromkeys(ends, float("nan")), seconds_per_image=0.011, samples=20)


def sheet_on(width, table, **settings):
    """A table as a terminal of this width shows it."""
    screen = console_of(width, **settings)
    screen.print(SheetOnTerminal(sheet_of(table, LABELS)))
    return screen.file.getvalue()


def rows_on(width):
    """An answer as a terminal of this width shows it."""
    text = io.StringIO()
    with (
        redirect_stdout(text),
        mock.patch.object(console.sys, "stdout", SimpleNamespace(isatty=lambda: True, write=text.write, flush=str)),
        mock.patch.object(console, "width_of_output", return_value=width),
        mock.patch.object(console.click, "echo", lambda line: text.write(f"{line}\n")),
    ):
        console.print_rows(COMPARISON, 3)
    return text.getvalue()


def live_on(width):
    """The live view in the middle of a run."""
    screen, cell = console_of(width), SimpleNamespace(key="a", sampler="ddim", steps=5)
    now = [0.0]
    view = View(screen, LABELS, lambda: now[0])
    table = table_of_csv()
    request = SimpleNamespace(batch_size=64)
    cells = [
        SimpleNamespace(key=key, budget=int(steps), steps=1, network_evaluations=1, request=request)
        for key, steps in zip("abcdefgh", table["steps"], strict=True)
    ]
    config = SimpleNamespace(nfe=(), steps=(5, 20), samples=1024)
    view.started(SimpleNamespace(cells=cells, config=config, blocks=Blocks(1024, 64), ode_samples=0), 1000)
    view.remaining({"a": 1024, "b": 0, "c": 1024})
    view.advanced(10)
    now[0] = 20.0
    view.stored(cell, Block(0, 0, 64))
    view.advanced(240)
    view.failed(
        SimpleNamespace(key="c", sampler="mine", shown="mine", steps=5), "ZeroDivisionError: division by zero", 10
    )
    view.table(table)
    screen.print(view._frame())
    return screen.file.getvalue()


SCREENS = {
    "table": lambda width: sheet_on(width, table_of_csv()),
    "few": lambda width: sheet_on(width, of_few_images(table_of_csv())),
    "troubles": lambda width: sheet_on(width, with_troubles(table_of_csv())),
    "comparison": rows_on,
    "live": live_on,
}


def without_trailing(text):
    """The text with no space at the end of a line, as editors keep files."""
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def main():
    """Write every screen."""
    for name, screen in SCREENS.items():
        for width in WIDTHS:
            (FOLDER / f"{name}-{width}.txt").write_text(without_trailing(screen(width)), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The live view of a run: what it shows of a long table in a small terminal, rates, failed cells, plain lines."""

import io
import math
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import samplerbench as sb
from samplerbench.bench.draw import session as session_of_runs
from samplerbench.bench.draw.session import Watch
from samplerbench.bench.judge.table import COLUMNS
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import Block, plan_for
from samplerbench.bench.run import Benchmark, begin
from samplerbench.bench.show import doing
from samplerbench.bench.show.live import CellBar, View, draws_live, duration, first_metric, pivot_to_lines
from samplerbench.bench.show.pivot import pivot_of
from samplerbench.bench.show.sheet import caption, sheet_of
from samplerbench.bench.show.terminal import SheetOnTerminal
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
LABELS = {"fid": {"label": "fashion-mnist CNN", "note": ""}, "clip_score": {"label": "fashion-mnist CLIP", "note": "x"}}
STEPS = (5, 10, 20, 50, 100, 200)


def console_of(width=80, height=24, **settings):
    """A console that writes to memory."""
    settings = {"force_terminal": True, "color_system": None, "legacy_windows": False, "_environ": {}, **settings}
    return Console(file=io.StringIO(), width=width, height=height, **settings)


def lines_of(console, *things):
    """The lines that a console prints."""
    console.print(*things)
    return console.file.getvalue().splitlines()


def table_of(samplers, steps=STEPS, **changes):
    """A table as a run makes it; FID is 10 / steps."""
    rows = [
        dict.fromkeys(COLUMNS)
        | {"model": "m", "sampler": name, "grid": "uniform", "steps": count, "nfe": count, "guidance": 1.0}
        | {"samples": 512, "fid": 10 / count, "fid_low": 9 / count, "fid_high": 11 / count, "status": "ok"}
        | {"clip_score": 71.69, "clip_low": 71.15, "clip_high": 72.23, "seconds_per_image": count / 1000}
        | {"ode_error": 0.0558}
        for name in samplers
        for count in steps
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).assign(**changes)


def pivot(table, labels, across, counts, width, height):
    """The lines of a table whose samplers each have these counts."""
    shown = pivot_of(table, first_metric(table), list(counts) * (len(table) // len(counts)))
    return pivot_to_lines(shown, labels, across, width, height)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def session(tmp_path):
    """A run of the toy model that has not begun: three cells, of which one fails."""
    config = Config(model="toy", sampler=("ddpm", "raises", "ddim"), steps=(2, 3), samples=130)
    registry = load_registry([TOY])
    return begin(plan_for(config, registry), registry, tmp_path / "run")


# The table so far


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 50), (120, 30), (40, 12), (200, 8)])
@pytest.mark.parametrize("count", [1, 4, 12, 100])
def test_the_pivot_fits_the_screen(width, height, count):
    table = table_of([f"dpm-solver++:order={k},grid=logsnr" for k in range(count)])
    lines = pivot(table, LABELS, "steps", STEPS, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if line.startswith("dpm-solver")]
    assert rows
    left_out = count - len(rows)
    assert (f"{left_out} more samplers" in " ".join(lines)) == bool(left_out)


def test_twelve_samplers_at_six_step_counts_fit_eighty_columns():
    names = ["ddpm", "ddim", "euler", "euler-a", "heun", "dpm2", "lms", "plms", "ipndm", "deis", "unipc", "edm"]
    title, heading, *rows = pivot(table_of(names), LABELS, "steps", STEPS, 80, 22)
    assert title == "FID [fashion-mnist CNN] by steps, 512 images a cell"
    assert heading.split() == ["sampler", *map(str, STEPS)]
    assert [row.split()[0] for row in rows] == names
    assert rows[4].split()[1:] == ["2.00", "1.00", "0.500", "0.200", "0.100", "0.0500"]


def test_intervals_are_shown_where_there_is_room():
    lines = pivot(table_of(["ddim"], (5, 10)), LABELS, "steps", (5, 10), 80, 24)
    assert lines[-1].split() == ["ddim", "2.00", "±", "0.20", "1.00", "±", "0.10"]
    assert len({len(line) for line in lines[1:]}) == 1


def test_what_is_left_out_is_named():
    lines = pivot(table_of(["ddim", "ddpm", "heun"]), LABELS, "NFE", STEPS, 30, 6)
    assert " ".join(lines[-2:]) == "no room for NFE 50, 100, 200 and 2 more samplers"
    assert [line.split()[0] for line in lines[2:4]] == ["sampler", "ddim"]


def test_failed_and_missing_cells_are_told_apart():
    status = ["failed: ZeroDivisionError", "ok", "pending"]
    table = table_of(["ddim"], (5, 10, 20), status=status, fid=[None, 1.0, None], fid_low=None, fid_high=None)
    assert pivot(table, LABELS, "steps", (5, 10, 20), 80, 24)[-1].split() == ["ddim", "failed", "1", "-"]


def test_a_model_without_metrics_shows_its_time():
    table = table_of(["ddim"], (5, 10), fid=math.nan, clip_score=math.nan)
    lines = pivot(table, {}, "steps", (5, 10), 80, 24)
    assert lines[0] == "ms/image by steps, 512 images a cell"
    assert lines[-1].split() == ["ddim", "5", "10"]


def test_two_grids_are_two_rows():
    table = table_of(["ddim", "ddim"], (5,), grid=["karras", "uniform"])
    lines = pivot(table, LABELS, "steps", (5,), 80, 24)
    assert [line.split()[:2] for line in lines[-2:]] == [["ddim", "karras"], ["ddim", "uniform"]]


def test_names_are_text_and_no_more():
    table = table_of(["[bold]x[/bold]\x1b[31m"], (5,))
    assert pivot(table, LABELS, "steps", (5,), 80, 24)[-1].startswith("[bold]x[/bold]\\x1b[31m")


def test_the_whole_table_breaks_no_number_in_eighty_columns():
    table = table_of(["ddim", "dpm-solver:order=3"], (5, 100), same_as=[None, "ddpm", None, None])
    lines = lines_of(console_of(), SheetOnTerminal(sheet_of(table, LABELS)))
    assert max(map(len, lines)) <= 80
    assert sum("71.69 ± 0.54" in line for line in lines) == 4
    assert sum("2.00 ± 0.20" in line for line in lines) == 2
    assert caption(table, LABELS) in " ".join(" ".join(lines).split())
    assert sum("same samples as ddpm" in line for line in lines) == 1


# Progress


def test_rates_are_of_what_is_made_now(session):
    clock = Clock()
    view = View(console_of(), {}, clock)
    first, *_ = cells = session.plan.cells
    clock.now += 1000  # the model was loaded meanwhile
    left = {cell.key: 0 for cell in cells} | {first.key: 66}
    view.started(session.plan, 266)
    view.remaining(left)  # all else is there from before
    assert view.state() == "16 of 18 chunks, 714 of 780 images"
    assert view.ahead() == "0 %"
    view.doing("solving the ODE for its error")
    clock.now += 8
    assert view.ahead() == "0 %, solving the ODE for its error, 8 s"
    clock.now += 2
    view.advanced(134)  # the ODE reference
    assert view.ahead().startswith("50 %, solving the ODE for its error, ")
    clock.now += 2
    view.stored(first, Block(0, 0, 64))
    view.advanced(128)
    assert view.state() == "17 of 18 chunks, 778 of 780 images, 32 images/s"
    assert view.ahead() == "98 %, 4 s left"  # its two images fill a batch
    clock.now += 4
    view.stored(first, Block(2, 128, 2))
    view.advanced(4)
    assert view.state() == "18 of 18 chunks, 780 of 780 images, 11 images/s"
    assert view.ahead() == "100 %"


def test_workers_and_what_they_lost_are_shown(session):
    clock = Clock()
    view = View(console_of(), {}, clock, workers=3)
    view.started(session.plan, 266)
    view.remaining({cell.key: 130 for cell in session.plan.cells})
    cell, block = session.plan.cells[0], Block(0, 0, 64)
    view.advanced(0)
    clock.now += 4
    view.stored(cell, block)
    view.retried(cell, block, "its process ended")
    view.advanced(0)
    assert view.state() == (
        "1 of 18 chunks, 64 of 780 images, 16 images/s, 0.25 chunks/s by 3 workers, 1 chunk drawn again"
    )


def test_no_time_is_no_rate(session):
    view = View(console_of(), {}, Clock())
    view.started(session.plan, 100)
    view.remaining({cell.key: 130 for cell in session.plan.cells})
    view.stored(session.plan.cells[0], Block(0, 0, 64))
    view.advanced(10)
    assert view.state() == "1 of 18 chunks, 64 of 780 images"


def test_nothing_left_to_make_has_no_rate(session):
    view = View(console_of(), {}, Clock())
    view.started(session.plan, 0)
    view.remaining({cell.key: 0 for cell in session.plan.cells})
    assert view.state() == "18 of 18 chunks, 780 of 780 images"
    assert "100 %" in "\n".join(lines_of(console_of(), view._frame()))


def test_a_run_with_failed_cells_reaches_its_end(session):
    view = View(console_of(force_terminal=False), session.labels)
    with view:
        session.work(view)
    session.conclude()
    assert view._done == view._todo
    assert view.state().startswith("12 of 12 chunks, 520 of 520 images, ")
    assert view.state().endswith(" images/s, 2 cells failed")
    assert view.ahead().startswith("100 %, drawing the paths of the report, ")


def test_the_frame_shows_table_failures_and_bar(session):
    view = View(console_of(), session.labels)
    session.work(view)
    view.table(session.tabulate())
    lines = lines_of(console_of(), view._frame())
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24
    assert [line.split()[1:] for line in lines if line.startswith("raises")] == [["failed", "failed"]]
    assert "failed: raises, 2 steps: ZeroDivisionError: one | two three" in text
    assert "100 %, drawing the paths of the report" in text
    assert lines[-1].startswith("12 of 12 chunks, 520 of 520 images")


def test_many_failures_do_not_fill_the_screen(session):
    view = View(console_of(), {}, Clock())
    view.started(session.plan, 60)
    view.remaining({cell.key: 130 for cell in session.plan.cells})
    for cell in session.plan.cells:
        view.failed(cell, "why " * 50, 10)
    lines = lines_of(console_of(), view._frame())
    assert len(lines) == 6
    assert lines[3] == "and 3 more cells failed"
    assert max(map(len, lines)) <= 80


# Terminals


def test_a_terminal_is_drawn_on_and_left_clean(session):
    console = console_of()
    with View(console, session.labels) as view:
        session.work(view)
    assert "images/s" in console.file.getvalue()
    assert "\x1b[2K" in console.file.getvalue()


@pytest.mark.parametrize("settings", [{"_environ": {"TERM": "dumb"}}, {"force_terminal": False}])
def test_a_dumb_terminal_and_a_file_get_plain_lines(session, settings):
    console = console_of(**settings)
    assert not draws_live(console)
    with View(console, session.labels, Clock()) as view:
        session.work(view)
    text = console.file.getvalue()
    assert "\x1b" not in text
    first, *others = text.splitlines()
    assert first.startswith("6 cells x 130 samples, ")
    assert others[0].startswith("failed: raises, 2 steps: ZeroDivisionError")
    assert len(others) == 2


def test_plain_lines_come_now_and_then(session):
    clock = Clock()
    console = console_of(force_terminal=False)
    view = View(console, {}, clock)
    cell = session.plan.cells[0]
    view.started(session.plan, 1000)
    view.remaining({c.key: 130 for c in session.plan.cells})
    for _ in range(20):
        clock.now += 1
        view.stored(cell, Block(0, 0, 5))
        view.advanced(10)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("11 %, ")
    assert lines[1].endswith(" left, 1 of 18 chunks, 55 of 780 images, 5 images/s")


def test_two_specs_of_one_sampler_are_one_cell(tmp_path):
    registry = load_registry([TOY])
    config = Config(model="toy", sampler=("ddim", "ddim:eta=0"), steps=(2,), samples=70)
    session: Benchmark = begin(plan_for(config, registry), registry, tmp_path / "run")
    view = View(console_of(force_terminal=False), {})
    session.work(view)
    assert view._done == view._todo
    assert view.state().startswith("2 of 2 chunks, 70 of 70 images")


def test_times_are_short():
    assert [duration(s) for s in (0.4, 7, 61, 3600, 3907)] == ["0 s", "7 s", "1:01", "1:00:00", "1:05:07"]


def test_a_pipe_is_told_of_the_ode_before_a_reader_wonders(session):
    clock, console = Clock(), console_of(force_terminal=False)
    view = View(console, {}, clock)
    view.started(session.plan, 400)
    for k in range(3):
        view.doing(f"solving the ODE for 4 images, {k} of 101 steps")
        clock.now += doing.PATIENCE / 2
        view.advanced(1)
    text = console.file.getvalue()
    assert text.count("solving the ODE") == 1
    assert "solving the ODE for 4 images, 1 of 101 steps" in text


def test_a_run_from_python_needs_no_view(tmp_path):
    assert sb.run("mixture", ["ddim"], steps=[2], n=8, output=tmp_path / "run").failed == 0


def test_the_table_is_there_as_soon_as_each_cell_has_a_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(session_of_runs, "FIRST_TABLE_SECONDS", 0.0)
    registry = load_registry([TOY])
    config = Config(model="toy", sampler=("ddpm", "ddim"), steps=(2,), samples=200)
    begun = begin(plan_for(config, registry), registry, tmp_path / "run")

    class Told(Watch):
        """What comes when."""

        events: list = []

        def doing(self, what):
            self.events.append(what)

        def stored(self, cell, block):
            self.events.append(block.number)

        def table(self, table):
            self.events.append(sorted(table["samples"]))

    begun.work(told := Told())
    doing = "solving the ODE for 50 images in a batch of 64"
    solving = [doing + (f", {k} of 101 steps" if k else "") for k in range(102)]
    assert told.events[:106] == [*solving, "warming up", 0, 0, [64, 64]]
    assert told.events[-1] == "drawing the paths of the report"


def test_the_solution_of_the_ode_moves_the_bar(tmp_path):
    registry = load_registry([TOY])
    plan = plan_for(Config(model="toy", sampler=("ddim",), steps=(2,), samples=40), registry)

    class Told(Watch):
        """The evaluations before the first chunk."""

        made: list = []

        def advanced(self, evaluations):
            self.made.append(evaluations)

    told = Told()
    begin(plan, registry, tmp_path / "run").work(told)
    *steps, rest, chunk = told.made
    assert len(steps) == len(plan.references[0].levels) - 1
    assert (sum(steps), rest, chunk) == (plan.reference_evaluations, 0, 80)


# Grids of images


@pytest.mark.parametrize("quiet", [False, True])
def test_the_cells_of_a_grid_are_counted_in_lines_where_there_is_no_terminal(quiet):
    console, clock, before = console_of(force_terminal=False), Clock(), []
    with CellBar(console, clock, quiet=quiet, before=lambda: before.append(1)) as bar:
        advance = bar(10)
        for _ in range(10):
            clock.now += 6
            advance()
    assert before == [1]
    lines = [
        "2 of 10 cells, 48 s left",
        "4 of 10 cells, 36 s left",
        "6 of 10 cells, 24 s left",
        "8 of 10 cells, 12 s left",
    ]
    assert console.file.getvalue().splitlines() == ([] if quiet else lines)


def test_the_cells_of_a_grid_are_a_bar_on_a_terminal_that_is_left_clean():
    console = console_of()
    with CellBar(console) as bar:
        bar(2)()
        bar._progress.refresh()
    assert "1/2" in console.file.getvalue()
    assert "left" in console.file.getvalue()

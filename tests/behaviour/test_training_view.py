"""The view of a training: bars on a terminal, lines elsewhere, nothing when it is quiet."""

import io
import math

import pytest
from rich.console import Console

from samplerbench.bench import cli
from samplerbench.bench.show import training_view
from samplerbench.bench.show.training_view import TrainingView
from samplerbench.samplers.model import Progress


def console_of(**settings):
    """A console that writes to memory."""
    settings = {"force_terminal": True, "color_system": None, "legacy_windows": False, "_environ": {}, **settings}
    return Console(file=io.StringIO(), width=80, height=24, **settings)


def steps(phase, count, loss=0.5):
    """The reports of a phase of this many steps, a second each."""
    return [Progress(phase, k, count, loss, float(k), 0) for k in range(1, count + 1)]


@pytest.mark.parametrize("settings", [{"force_terminal": False}, {"_environ": {"TERM": "dumb"}}])
def test_lines_come_now_and_then_where_there_is_no_terminal(monkeypatch, settings):
    now, before, console = [1000.0], [], console_of(**settings)
    monkeypatch.setattr(training_view.time, "monotonic", lambda: now[0])
    with TrainingView(console, before=lambda: before.append(1)) as view:
        for progress in [*steps("images", 25), *steps("latents", 1, math.nan)]:
            now[0] += 1
            view(progress)
    assert before == [1]
    assert console.file.getvalue().splitlines() == [
        "images 1/25, loss 0.5000, 0:24 left", "images 12/25, loss 0.5000, 0:13 left",
        "images 23/25, loss 0.5000, 0:02 left", "images 25/25, loss 0.5000, 0:00 left", "latents 1/1, 0:00 left",
    ]  # fmt: skip


def test_bars_begin_with_the_first_step():
    console = console_of()
    with TrainingView(console) as view:
        assert console.file.getvalue() == ""
        view(steps("images", 4)[0])
        view._bars.refresh()
    assert "images" in console.file.getvalue()
    assert "1/4" in console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_training_that_is_quiet_or_never_begins_says_nothing(terminal):
    console = console_of(force_terminal=terminal)
    with TrainingView(console, quiet=True) as view:
        view(steps("images", 1)[0])
    with TrainingView(console):
        pass
    assert console.file.getvalue() == ""


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_the_command_prints_the_folder_and_what_to_know_of_it(sb, monkeypatch, quiet):
    def lesson(*_):
        def learn(output, report, **settings):
            for progress in steps("images", 2):
                report(progress)
            return ["it is small"]

        return learn

    monkeypatch.setattr(cli.train, "lesson", lesson)
    done = sb("train", "--data", "images", "-o", "made", *quiet)
    assert (done.code, done.out) == (0, "made\n")
    lines = [] if quiet else ["images 1/2, loss 0.5000, 0:01 left", "images 2/2, loss 0.5000, 0:00 left"]
    assert done.err.splitlines()[-1 - len(lines) :] == [*lines, "Note: it is small"]
    assert ("loss" in done.err) == bool(lines)

"""What a command says before its view begins: at once on a terminal, in lines in a pipe, nothing when it is quiet."""

import io
import os
import sys

import pytest

from samplerbench.bench.show import console
from samplerbench.bench.show import doing as module
from samplerbench.bench.show.console import PassingLine, say
from samplerbench.bench.show.doing import Doing, line_is_due


class Clock:
    """Seconds that pass when they are told to."""

    now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def told(monkeypatch):
    """stderr in memory, and a clock; no thread looks at the clock by itself."""

    def make(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(module, "TICK", 3600)
        monkeypatch.setenv("COLUMNS", "80")
        return stream, Clock()

    return make


def screen(text):
    """What a terminal shows of a line that was overwritten: the last of each place."""
    shown = ""
    for part in text.split("\r"):
        shown = part + shown[len(part) :]
    return shown.rstrip()


def test_a_terminal_is_told_at_once_and_left_clean(told, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream, clock = told(Terminal())
    with Doing(clock=clock) as doing:
        doing("loading the plugins of others")
        assert screen(stream.getvalue()) == "loading the plugins of others ..."
        doing("loading model m")
        assert screen(stream.getvalue()) == "loading model m ..."
        clock.now += 61
        doing.look()
        assert screen(stream.getvalue()) == "loading model m ... 61 s"
        say("a warning", err=True)
        assert screen(stream.getvalue().split("\n")[0]) == "a warning"
        doing.look()
    assert screen(stream.getvalue().split("\n")[1]) == ""
    assert "\x1b" not in stream.getvalue()


def test_a_pipe_gets_a_line_of_what_takes_long_and_only_one(told):
    stream, clock = told(io.StringIO())
    with Doing(clock=clock) as doing:
        doing("loading torch", at_once=True)
        doing("loading plugins")
        doing("loading model m")
        for _ in range(5):
            clock.now += 1
            doing.look()
    assert stream.getvalue() == "loading torch\nloading model m\n"


def test_a_dumb_terminal_gets_lines(told, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream, clock = told(Terminal())
    with Doing(clock=clock) as doing:
        doing("loading torch", at_once=True)
    assert stream.getvalue() == "loading torch\n"


def test_quiet_says_nothing(told, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delitem(sys.modules, "torch")
    stream, clock = told(Terminal())
    with Doing(quiet=True, clock=clock) as doing:
        doing.loading_torch()
        doing("loading model m", at_once=True)
        clock.now += 100
        doing.look()
    assert stream.getvalue() == ""


def test_torch_is_announced_unless_it_is_there(told, monkeypatch):
    stream, clock = told(io.StringIO())
    with Doing(clock=clock) as doing:
        doing.loading_torch()
        assert stream.getvalue() == ""
        monkeypatch.delitem(sys.modules, "torch")
        doing.loading_torch()
    assert stream.getvalue() == "loading torch\n"


def test_a_thread_looks_at_the_clock(told, monkeypatch):
    told(io.StringIO())
    seen = []
    monkeypatch.setattr(module, "TICK", 0.001)
    with Doing() as doing:
        doing("loading model m")
        thread = doing._thread
        look = doing.look
        doing.look = lambda: (seen.append(1), look())
        while not seen:
            os.sched_yield()
    assert not thread.is_alive()


def test_a_passing_line_is_cut_to_the_terminal(told):
    stream, _ = told(Terminal())
    PassingLine().show("x" * 200 + "\x1b[31m")
    assert stream.getvalue() == "\r" + "x" * 79


def test_a_closed_stream_is_no_fault(monkeypatch):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    line = PassingLine()
    line.show("loading torch")
    line.erase()
    assert console.PASSING is not line


def test_a_day_has_few_lines():
    now, spoken, lines = 0.0, 0.0, 0
    while now < 24 * 3600:
        now += 1
        if line_is_due(now, spoken, 0.0):
            spoken, lines = now, lines + 1
    assert 100 < lines < 160

"""Printing by the commands: data to stdout, all else to stderr, without characters that control a terminal."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO, cast

import click

from ...samplers.errors import StoreError
from ...samplers.text import printable

if TYPE_CHECKING:
    import pandas as pd

    from .sheet import Sheet

STDOUT, STDERR = 1, 2
LONGEST = 2000
"""The most characters of a message, which may repeat an argument of any length."""


class PassingLine:
    """A line on a terminal, on stderr, that what is said next takes the place of."""

    def __init__(self) -> None:
        self._width = 0
        # The line is shown by a thread that watches the time, and erased by the one that says something.
        self._lock = threading.RLock()

    def show(self, text: str) -> None:
        """Write it over the one before, cut to the width of the terminal."""
        with self._lock:
            # One column stays free: a full line would go on in the next, and \r leads back to the start of that one
            # only.
            text = printable(text)[: shutil.get_terminal_size().columns - 1]
            self._write(f"\r{text.ljust(self._width)}")
            self._width = len(text)

    def erase(self) -> None:
        """Leave the line empty, if there is one."""
        with self._lock:
            if self._width:
                self._write(f"\r{' ' * self._width}\r")
                self._width = 0

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # a closed stream shows nothing
            sys.stderr.write(text)
            sys.stderr.flush()


PASSING = PassingLine()


def say(text: str, *, err: bool = False) -> None:
    """Print one line without characters that control a terminal."""
    PASSING.erase()
    click.echo(printable(text), err=err)


def complain(message: str, kind: str = "Error") -> None:
    """Print one line to stderr, without characters that control a terminal; a very long one is cut in its middle."""
    if len(message) > LONGEST:
        message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
    say(f"{kind}: {message}", err=True)


class Stream:
    """A standard stream that calls `fault` with errors in writing; if that returns, the text is lost.

    After the first error, `fault` is called at each attempt, because libraries try a stream and swallow its errors.
    """

    def __init__(self, stream: IO[Any], fault: Callable[[OSError], None], errors: list[OSError] | None = None) -> None:
        self._stream, self._fault = stream, fault
        self._errors = [] if errors is None else errors

    def __getattr__(self, name: str) -> Any:
        """Everything else comes from the stream itself."""
        return getattr(self._stream, name)

    @property
    def buffer(self) -> Stream:
        """The stream of bytes beneath, with the same handling of errors."""
        return Stream(cast(TextIO, self._stream).buffer, self._fault, self._errors)

    def write(self, text: Any) -> int:
        """Write as the stream does; returns the length written, also if the text is lost."""
        with self._faults():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[Any]) -> None:
        """Write each line, with the same handling of errors."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, with the same handling of errors."""
        with self._faults():
            self._stream.flush()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with suppress(OSError, ValueError):  # a stream in memory has no descriptor
                # Python flushes the stream once more at exit, and would then print a traceback.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())  # what is left to flush at exit is no second fault
                os.close(nowhere)
            self._errors.append(error)
        if self._errors:
            self._fault(self._errors[0])


def refuse_output(error: OSError) -> None:
    """Raise a StoreError because data cannot be printed; a closed pipe is left to the caller."""
    if isinstance(error, BrokenPipeError):
        raise error
    raise StoreError(
        f"standard output: cannot be written ({error.strerror or error}); what a run stored is intact"
    ) from error


@contextmanager
def standard_streams() -> Iterator[None]:
    """Make sure that the standard streams exist and that errors in writing are handled.

    A stream that the caller closed is replaced by one that discards its text. Messages that cannot be written are lost,
    and the program goes on; data that cannot be written is a StoreError.
    """
    for descriptor in (0, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free: no file of a run is to have this number
    with Path(os.devnull).open("w") as nowhere:
        stdout, stderr = Stream(sys.stdout or nowhere, refuse_output), Stream(sys.stderr or nowhere, lambda _: None)
        with redirect_stdout(cast(TextIO, stdout)), redirect_stderr(cast(TextIO, stderr)):
            yield


def is_at(stream: IO[str] | None, descriptor: int) -> bool:
    """Whether a stream writes to this descriptor; a closed one or one in memory does not."""
    with suppress(OSError, ValueError, AttributeError):
        return cast(IO[str], stream).fileno() == descriptor
    return False


@contextmanager
def stdout_for_data() -> Iterator[None]:
    """Send what plugins print inside the block to stderr, whether by Python, a library or a child process."""
    # Where a test or a notebook has replaced the streams, the descriptors are not what the reader sees, and stay.
    beneath = is_at(sys.stdout, STDOUT) and is_at(sys.stderr, STDERR)
    if beneath:
        sys.stdout.flush()
        kept = os.dup(STDOUT)
        os.dup2(STDERR, STDOUT)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if beneath:
            sys.stdout.flush()
            os.dup2(kept, STDOUT)
            os.close(kept)


def print_sheet(sheet: Sheet) -> None:
    """Print a sheet as a table on a terminal, else as Markdown."""
    from .sheet import sheet_to_markdown

    if not sys.stdout.isatty():
        click.echo(sheet_to_markdown(sheet), nl=False)
        return
    from rich.console import Console

    from .terminal import SheetOnTerminal

    Console().print(SheetOnTerminal(sheet))


def width_of_output() -> int:
    """Columns of the terminal; if stdout is no terminal, what COLUMNS says, or 80."""
    from rich.console import Console

    return Console(file=sys.stdout).width


def print_rows(rows: list[dict[str, str]], keys: int = 1) -> None:
    """Dicts with the same keys as aligned columns; the keys are the heading, and the first `keys` tell the rows apart.

    On a terminal that is too narrow the columns stand in several parts; anything else gets one line a row.
    """
    from .columns import rows_to_lines

    lines = [[printable(text) for text in line] for line in (*rows[:1], *(row.values() for row in rows))]
    for line in rows_to_lines(lines, width_of_output() if sys.stdout.isatty() else None, keys):
        click.echo(line)


def print_entries(heading: tuple[str, str], entries: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Names with what is said of each, wrapped to the terminal, or to 80 columns without one."""
    from .columns import entries_to_lines

    clean = [(printable(name), [printable(text) for text in texts]) for name, texts in entries]
    for line in entries_to_lines(heading, clean, width_of_output()):
        click.echo(line)


def table_to_json(content: pd.DataFrame, about: dict[str, Any]) -> str:
    """The rows as one JSON object; missing values are null."""
    # By way of pandas, which writes null for nan; json.dumps would write NaN, which is not JSON.
    rows = json.loads(content.to_json(orient="records", double_precision=12))
    return json.dumps({**about, "table": rows})

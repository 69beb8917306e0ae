"""What the commands print: data to stdout, all else to stderr, with nothing in it that a terminal would obey."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
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
"""Characters of a message: one that repeats what was given may be as long as that."""


def say(text: str, *, err: bool = False) -> None:
    """One line with nothing in it that a terminal would obey."""
    click.echo(printable(text), err=err)


def complain(message: str, kind: str = "Error") -> None:
    """One line on stderr, with nothing in it that a terminal would obey; what is very long is cut in its middle."""
    if len(message) > LONGEST:
        message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
    say(f"{kind}: {message}", err=True)


class Stream:
    """A standard stream of which `fault` is told what goes wrong in writing; if that returns, the text is lost.

    It is told at each attempt from the first fault on: libraries try a stream, and keep what it raises to themselves.
    """

    def __init__(self, stream: IO[Any], fault: Callable[[OSError], None], errors: list[OSError] | None = None) -> None:
        self._stream, self._fault = stream, fault
        self._errors = [] if errors is None else errors

    def __getattr__(self, name: str) -> Any:
        """All else is the stream's own."""
        return getattr(self._stream, name)

    @property
    def buffer(self) -> Stream:
        """The stream of bytes beneath, whose faults are told as well."""
        return Stream(cast(TextIO, self._stream).buffer, self._fault, self._errors)

    def write(self, text: Any) -> int:
        """As the stream does; how much was written, or was to be."""
        with self._faults():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[Any]) -> None:
        """As the stream does."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """As the stream does."""
        with self._faults():
            self._stream.flush()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with suppress(OSError, ValueError):  # a stream in memory has no descriptor
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())  # what is left to flush at exit is no second fault
                os.close(nowhere)
            self._errors.append(error)
        if self._errors:
            self._fault(self._errors[0])


def refuse_output(error: OSError) -> None:
    """Say that data cannot be printed; a reader that went away has had enough, and is left to the caller."""
    if isinstance(error, BrokenPipeError):
        raise error
    raise StoreError(
        f"standard output: cannot be written ({error.strerror or error}); what a run stored is intact"
    ) from error


@contextmanager
def standard_streams() -> Iterator[None]:
    """The standard streams of a program: there, and with faults that are told.

    A stream that the caller closed takes what is written and keeps nothing. Messages that cannot be written are lost,
    and are no reason to stop; data that cannot be written is a StoreError.
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
    """Whether a stream writes to a descriptor; one that was closed, or is in memory, does not."""
    with suppress(OSError, ValueError, AttributeError):
        return cast(IO[str], stream).fileno() == descriptor
    return False


@contextmanager
def stdout_for_data() -> Iterator[None]:
    """What plugins print meanwhile goes to stderr, be it from Python, from a library or from a child process."""
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
    """To a terminal as a table, to anything else as Markdown."""
    from .sheet import sheet_to_markdown

    if not sys.stdout.isatty():
        click.echo(sheet_to_markdown(sheet), nl=False)
        return
    from rich.console import Console

    from .live import rich_table

    Console().print(rich_table(sheet))


def print_rows(rows: list[dict[str, str]]) -> None:
    """Dicts with the same keys as aligned columns; the keys are the heading."""
    lines = [[printable(text) for text in line] for line in (*rows[:1], *(row.values() for row in rows))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def table_to_json(content: pd.DataFrame, about: dict[str, Any]) -> str:
    """The rows as one JSON object; what is not there is null."""
    rows = json.loads(content.to_json(orient="records", double_precision=12))
    return json.dumps({**about, "table": rows})

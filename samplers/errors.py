"""The errors that a user can cause, each with the exit code of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from types import TracebackType

LONGEST_TOLD = 200
"""Characters of another library's exception in a line."""
LONGEST_SHOWN = 80
"""Characters of a wrong value in a line."""


class SamplerbenchError(Exception):
    """An error that a user can cause, in one line: what was given, what is accepted, the usual fix."""

    exit_code = 1


class InputError(SamplerbenchError, ValueError):
    """A command, an option or a configuration that cannot be carried out."""

    exit_code = 2


class PluginError(SamplerbenchError):
    """A plugin that is broken, or two that claim the same name."""

    exit_code = 3


class ModelError(SamplerbenchError):
    """A model or data file that is missing, damaged or not what it should be."""

    exit_code = 4


class StoreError(SamplerbenchError):
    """A run folder that cannot be read or written."""

    exit_code = 5


class Stop(BaseException):
    """The program is to end, by a signal that is not Ctrl-C."""


ENDS = (KeyboardInterrupt, Stop)
"""What ends the program from outside. A plugin may raise anything else itself."""


def pass_on(error: BaseException) -> None:
    """Raise again what ends the program from outside."""
    if isinstance(error, ENDS):
        raise error


class forgiven:  # noqa: N801  (read as a verb: with forgiven())
    """What a plugin raises meanwhile does not matter, but for what `pass_on` raises again."""

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        """Whether the error goes no further."""
        return error is not None and not isinstance(error, ENDS)


def told(error: BaseException) -> str:
    """Another library's exception, with its kind; never torch's advice to read a file without its safeguard."""
    text = text_of(error)
    if "weights_only" in text:
        text = "the file holds more than tensors and numbers; it was not read"
    return f"{type(error).__name__}: {text}"


def text_of(error: BaseException) -> str:
    """What an exception says; a stranger's may raise another while it says it."""
    try:
        return str.__str__(str(error))
    except (Exception, SystemExit) as another:
        return f"its text cannot be read ({type(another).__name__})"


def in_line(error: BaseException) -> str:
    """`told`, short and in one line."""
    return " ".join(told(error).split())[:LONGEST_TOLD]


def shown(value: object) -> str:
    """A wrong value in a line: as Python shows it, or only its kind where that is long or fails."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a stranger's object, or a number of more digits than Python writes
        text = ""
    return text if 0 < len(text) <= LONGEST_SHOWN else f"of type {type(value).__name__}"


def closest(given: str, accepted: Iterable[str]) -> str:
    """' (did you mean X?)' where one of the accepted names is near in any case, else ''."""
    names = {name.lower(): name for name in accepted}
    match = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.6)
    return f" (did you mean {names[match[0]]!r}?)" if match else ""

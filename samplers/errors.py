"""The errors that a user can cause, each with the exit code of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from types import TracebackType

LONGEST_TOLD = 200
"""Characters of another library's exception that a line shows."""
LONGEST_SHOWN = 80
"""Characters of a wrong value that a line shows."""


class SamplerbenchError(Exception):
    """An error that a user can cause, in one line: what was given, what is accepted, the usual fix."""

    exit_code = 1


class InputError(SamplerbenchError, ValueError):
    """An invalid command, option or configuration."""

    exit_code = 2


class PluginError(SamplerbenchError):
    """A broken plugin, or two plugins that claim the same name."""

    exit_code = 3


class ModelError(SamplerbenchError):
    """A missing, damaged or invalid model or data file."""

    exit_code = 4


class StoreError(SamplerbenchError):
    """A run folder that cannot be read or written."""

    exit_code = 5


# A BaseException, so that no `except Exception` around the code of others takes it for an error of theirs.
class Stop(BaseException):
    """A signal other than Ctrl-C ends the program."""


ENDS = (KeyboardInterrupt, Stop)
"""The exceptions by which the user or the system ends the program; a plugin may raise any other."""


def pass_on(error: BaseException) -> None:
    """Raise the exception again if it ends the program from outside (see `ENDS`)."""
    if isinstance(error, ENDS):
        raise error


class ignore_errors:  # noqa: N801  (read as a verb: with ignore_errors())
    """Ignore every exception that a plugin raises inside the block, except those of `ENDS`."""

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        """Whether to suppress the error."""
        return error is not None and not isinstance(error, ENDS)


def describe_error(error: BaseException) -> str:
    """The text of another library's exception, with its type; without torch's advice to turn `weights_only` off."""
    text = text_of(error)
    # torch advises to turn this safeguard off, which would execute the file.
    if "weights_only" in text:
        text = "the file holds more than tensors and numbers; it was not read"
    return f"{type(error).__name__}: {text}"


def text_of(error: BaseException) -> str:
    """The text of an exception; a stranger's exception may itself raise one when it is asked."""
    try:
        # str(error) may be a subclass of str; this makes it a plain one.
        return str.__str__(str(error))
    except (Exception, SystemExit) as another:
        return f"its text cannot be read ({type(another).__name__})"


def in_line(error: BaseException) -> str:
    """The text of `describe_error`, shortened to one line."""
    return " ".join(describe_error(error).split())[:LONGEST_TOLD]


def quote(value: object) -> str:
    """A wrong value as Python shows it; only its type where that text is long or cannot be made."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a stranger's object, or a number with more digits than Python writes
        text = ""
    return text if 0 < len(text) <= LONGEST_SHOWN else f"of type {type(value).__name__}"


def closest(given: str, accepted: Iterable[str]) -> str:
    """' (did you mean X?)' where an accepted name is close to the given one, whatever the case; else ''."""
    # Compared in lower case, shown as registered.
    names = {name.lower(): name for name in accepted}
    asked = given.lower()

    def closeness(name: str) -> tuple[float, bool]:
        # Of several that are equally close, one with the same letters: two of them were typed in the wrong order.
        return difflib.SequenceMatcher(None, name, asked).ratio(), sorted(name) == sorted(asked)

    found = max(difflib.get_close_matches(asked, names, cutoff=0.6), key=closeness, default=None)
    return f" (did you mean {names[found]!r}?)" if found else ""

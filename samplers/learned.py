"""Samplers whose coefficients were made for one model and stand in a file.

Without a file such a sampler is a named one, which `by_default` says and the table repeats. With a file it is refused
for another model, guidance or number of steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from .errors import InputError
from .level import Level
from .options import File
from .sampler import Sampler, StepContext


class MadeFor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The part that all files have; a kind of file adds its coefficients."""

    fingerprint: str
    """`Model.fingerprint`, or its SHA-256 in hexadecimal where it is long."""
    guidance: float
    steps: int | None = None
    """None = any number of steps."""
    times: tuple[float, ...] = ()
    """The noisy levels, in the time of the schedule; () = those of any grid."""
    error: float | None = None
    """Root mean square distance from the ODE solution, over the samples that `check` draws; None = not stated."""

    def check_lengths(self, per_step: int = 0, **rows: Sequence[object]) -> None:
        """ValueError unless each of `rows`, and times, has as many entries as there are steps, or none.

        Rows of an interval before the last have `per_step` = -1: one entry less.
        """
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps: {self.steps}; expected a whole number from 1")
        for name, entries in {"times": self.times, **rows}.items():
            expected = None if self.steps is None else self.steps + (per_step if name in rows else 0)
            if entries and len(entries) != expected:
                raise ValueError(f"{name}: {len(entries)} entries; expected {expected}, one for each step")


Content = TypeVar("Content", bound=MadeFor)


@dataclass(frozen=True)
class FromFile(Sampler, Generic[Content]):
    """A sampler with a file of coefficients. A subclass says what is in the file, and what it is without one."""

    file: File | None = None
    """What was made for one model; without a file the sampler is the one that its page names."""

    content: ClassVar[type[MadeFor]]
    """The type of the file's content."""
    by_default: ClassVar[str] = ""
    """What the sampler is without a file, in words."""

    def __post_init__(self) -> None:
        """Read the file; an error names the field."""
        _ = self.known

    @cached_property
    def known(self) -> Content | None:
        """The content of the file; None without one."""
        if self.file is None:
            return None
        try:
            kind: type[Any] = self.content
            found: Content = msgspec.json.decode(self.file.read_bytes(), type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # also of a field that is not what it should be
            raise InputError(f"{self._name}: file {str(self.file)!r}: {error}") from error
        return found

    @property
    def _name(self) -> str:
        return f"sampler {type(self).__module__.rpartition('.')[2].replace('_', '-')!r}"

    @property
    def own_steps(self) -> int | None:
        """The steps of the file."""
        return self.known.steps if self.known else None

    @property
    def own_grid(self) -> str | None:
        """The times of the file."""
        # With all digits: a time that is rounded would be another level.
        return "/".join(map(repr, self.known.times)) or None if self.known else None

    @property
    def remark(self) -> str:
        """The default is another sampler."""
        return "" if self.file else self.by_default

    @property
    def claims(self) -> Mapping[str, str]:  # type: ignore[override]
        """Where the network is told other times, the form of its answer matters."""
        asked = getattr(self.known, "asked", ())
        return {"x0 = v = flow": "the answer counts at another level than it is made for"} if asked else {}

    def misfit(self, fingerprint: str, guidance: float, steps: int, *, plain: bool) -> str:
        """What the file is for, where that is another model or guidance. InputError for another number of steps."""
        known = self.known
        if known is None:
            return ""
        # There is a row of coefficients for each step of the file, so another number cannot be drawn at all.
        if known.steps not in (None, steps):
            raise InputError(
                f"steps {steps}: file {str(self.file)!r} is for {known.steps} steps; give --steps {known.steps}"
            )
        # A fingerprint may be long, and a file then holds its hash.
        if known.fingerprint not in (fingerprint, hashlib.sha256(fingerprint.encode()).hexdigest()):
            return f"file {str(self.file)!r} is for another model, with fingerprint {known.fingerprint[:40]!r}"
        if guidance != known.guidance:
            return f"file {str(self.file)!r} is for guidance {known.guidance:g}"
        return "" if plain else f"file {str(self.file)!r} is for guidance at all levels, without rescale"

    def told(self, run: StepContext, t: float) -> Level:
        """The level at a time that the file has the network told; InputError where the schedule has none."""
        try:
            return run.schedule.at_time(t)
        except ValueError as error:
            raise InputError(f"{self._name}: asked: {error}") from error

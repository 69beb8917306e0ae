"""Engine: where the chunks of a run are drawn, and how many at a time.

A run hands out jobs and takes answers. What is missing, what is written and what a failure means is the run's matter;
an engine decides where a job is drawn, and which jobs are drawn beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from .files.sent import SentFiles


@dataclass(frozen=True)
class Job:
    """A chunk to draw: consecutive samples of one cell."""

    cell: str
    """The key of the cell, a hash of all that decides its samples."""
    sampler: str
    """The spec of its sampler."""
    steps: int
    """How many."""
    first: int
    """Index of the first sample."""
    n: int
    """How many samples."""
    evaluations: int
    """Network evaluations of all its samples; for an adaptive sampler a guess. Jobs of equal n take time by it."""
    is_last: bool = True
    """Whether a round ends with it: in a round every cell has one job at most."""
    is_for_the_clock: bool = False
    """Whether it is drawn again only for its time. Such jobs are handed out one at a time."""
    is_at_once: bool = False
    """Whether all its samples are rows of one batch, whatever the run's batch size; then it is no block of the run."""
    may_overlap: bool = False
    """Whether its time does not count: the run hashes and stores other chunks while it is drawn."""


@dataclass(frozen=True)
class Drawn:
    """The answer to a job whose samples were drawn."""

    job: Job
    """As it was given."""
    chunk: object
    """What was drawn, to be handed on as it is."""
    alone: bool = True
    """Whether the engine drew nothing else meanwhile. Other times are neither shown nor compared."""


@dataclass(frozen=True)
class Failure:
    """The answer to a job that could not be drawn: its cell fails, and no other."""

    job: Job
    """As it was given."""
    reason: str
    """One line, which stands in the table."""


Done = Drawn | Failure
"""The answer to a job. It can be pickled."""


class Engine(Protocol):
    """Draws the jobs of a run somewhere."""

    def draw(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """Answer every job that `jobs` gives, in any order.

        `jobs` is asked by the thread that runs this, and only when there is room for one more: what it gives next
        depends on the answers so far. A run may call this many times.
        """
        ...

    def close(self) -> None:
        """Leave nothing running, whatever is unanswered. A run calls this at its end, when it is stopped too."""
        ...


class Work(Protocol):
    """What a run offers its engine; `description` and `draw` once it draws, for the ODE solution comes first."""

    @property
    def workers(self) -> int | str | None:
        """How many workers the run asks for, "gpus" for one on each GPU; None = it does not say."""
        ...

    @property
    def device(self) -> str:
        """What the run is drawn on: "cpu", "cuda", "cuda:N", "mps" or "xpu"."""
        ...

    @property
    def threads(self) -> int:
        """The number of torch's threads in every process that draws the run."""
        ...

    @property
    def description(self) -> bytes:
        """All that `draw_job` needs to draw the jobs of this run in another process.

        InputError for a model that was given as an object, which cannot be made again elsewhere.
        """
        ...

    @property
    def files(self) -> SentFiles:
        """The files that the run names by relative paths, for processes that may not find them there."""
        ...

    @property
    def draw_job(self) -> Callable[[bytes, Job], Done]:
        """What another process calls with `description` to draw a job there: `samplerbench.draw_job`.

        InputError for a model that was given as an object, at any time: an engine may ask when it is made.
        """
        ...

    def draw(self, job: Job) -> Done:
        """Draw a job in this process, one at a time. Nothing protects the process from what a sampler does."""
        ...

    def retried(self, job: Job, reason: str) -> None:
        """Say that a job goes back into the engine's queue, as where a worker is lost: the run's log has it then."""
        ...

    def local(self) -> Engine:
        """The engine of runs that name none: one job at a time, the samplers of others in child processes.

        Where the run asks for workers of this machine, it has them.
        """
        ...


EngineFactory = Callable[..., Engine]
"""What follows the colon in "name:argument" ('' if nothing), the work of a run, and as keywords those of `address` and
`cpus_per_worker` that it names and that are given -> the engine that does the work."""


@runtime_checkable
class ChecksEarly(Protocol):
    """A factory of engines that can refuse before a model is loaded and a plan is made."""

    def check(self, argument: str, **settings: Any) -> None:
        """InputError for what follows the colon, or for a setting, that no work could be done with."""
        ...

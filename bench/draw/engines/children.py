"""Child processes of this machine: each sampler spec that did not come with samplerbench is drawn in one of its own.

What a sampler does to its process (functions that it replaces, threads, signal handlers, limits, copies that it forks)
reaches no other sampler. A child may crash, hang or eat the memory. Then it is stopped, the cell of that chunk fails
with the reason, and the next chunk of that spec gets a new child. It runs `child`, which makes the plan of its
spec again from the same configuration. `child_process` says how the two talk, and `lifeline` why no child outlives
this process.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.numpy import load
from torch import Tensor

from ....samplers.errors import InputError, SamplerbenchError, in_line
from ...plan.plan import Block, Cell, Plan
from ..chunk import answer_of
from ..chunk_file import Chunk, chunk_from_arrays
from .child_process import LOOK_EVERY_SECONDS, Child, memory_of
from .elsewhere import OTHERWISE, what_it_takes

START_SECONDS = 600.0
"""For imports, plugins, the model and a trial; all of it has just been done in this process."""
LEAST_SECONDS, TIMES = 60.0, 50
"""A chunk may take this long, and this many times what its declared model calls, decoding and extractors take."""
ADAPTIVE_CALLS = 1000
"""Model calls that are granted to a sampler that declares none."""
SHARE_OF_MEMORY = 0.8
MOST_CHILDREN = 16
"""More children than this are never alive at once."""
LONGEST_LOOK_SECONDS = 1.0
"""The most that counts of the time between two looks at a child: else this process was stopped, as by Ctrl-Z."""
GIGABYTE = 1e9


class ChildFault(SamplerbenchError):  # noqa: N818  (as SamplerFault: the sampler is at fault)
    """A chunk that was not made, in the words of the child or about its end."""


class ChildLost(ChildFault):
    """A child that ended, or never began, though nobody here stopped it: another one may make the chunk."""


class ChildEndedEarly(ChildLost):
    """A child that ended while it started: the chunk that it was to make has no part in it."""


@dataclass(frozen=True)
class Speed:
    """What a child clocked in a trial: seconds of one sample, 0 where the trial failed."""

    per_evaluation: float = 0.0
    """Seconds of one evaluation of the network."""
    after_drawing: float = 0.0
    """Seconds of decoding and of the extractors."""


@dataclass(frozen=True)
class Limits:
    """What a child may take; errors name the option."""

    seconds: float | None = None
    """For one chunk; None = 60 s and 50 times what declared model calls, decoding and extractors take here."""
    gigabytes: float | None = None
    """Resident memory; None = 80 % of the machine's."""
    processes: int = 1
    """How many share the machine's memory where no limit is given."""

    def __post_init__(self) -> None:
        """Refuse what is no limit."""
        for name, value, unit in (("time_limit", self.seconds, "seconds"), ("memory_limit", self.gigabytes, "GB")):
            if value is not None and (isinstance(value, bool) or not 0 < value < float("inf")):
                raise InputError(f"{name} {value!r}: expected a number of {unit} above 0")

    def seconds_for(self, cell: Cell, block: Block, speed: Speed) -> float:
        """How long a chunk may take."""
        if self.seconds is not None:
            return self.seconds
        calls = cell.network_evaluations
        # Generous, since a limit that stops an honest sampler is worse than a hang that lasts a minute.
        evaluations = (ADAPTIVE_CALLS * cell.request.passes if calls is None else calls) * block.n
        # By what a trial in the child took, so that a slow machine grants more.
        return LEAST_SECONDS + TIMES * (evaluations * speed.per_evaluation + block.n * speed.after_drawing)

    @property
    def bytes(self) -> float:
        """How much resident memory a child may hold."""
        if self.gigabytes is not None:
            return self.gigabytes * GIGABYTE
        return memory_for_processes() / self.processes


@dataclass
class Awaited:
    """An answer that a child owes."""

    seconds: float
    """How long it may take."""
    what: str
    """What takes so long, in the words of an error."""
    _left: float = field(init=False)
    _looked: float = field(init=False, default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """All of the time is left."""
        self._left = self.seconds

    def is_late(self) -> bool:
        """Whether the time is over, as far as this process was there to see it pass."""
        # Only what this process saw pass counts: while it was stopped itself, the child may have been stopped too.
        now = time.monotonic()
        self._left, self._looked = self._left - min(now - self._looked, LONGEST_LOOK_SECONDS), now
        return self._left < 0


@dataclass
class Children:
    """Makes the chunks of each sampler spec in a child process of its own."""

    plan: Plan
    plugins: tuple[str, ...]
    folder: Path
    limits: Limits = field(default_factory=Limits)
    _children: dict[str, ChildProcess] = field(default_factory=dict)
    """The children by spec; the one that was asked last is at the end."""

    @cached_property
    def most(self) -> int:
        """How many children fit the memory, each as large as this process with the model; one on an accelerator.

        Asked for the first time when the model has been loaded here. Files that are mapped, as weights may be, are in
        the memory once for all.
        """
        if self.plan.trial.device.type != "cpu":
            return 1
        # A child is about as large as this process, which has loaded the same model.
        return children_that_fit(memory_for_processes(), memory_of_this_process())

    def begin(self, cells: Iterable[Cell]) -> None:
        """Start the children of these cells, all at once, and stop the others. `make` raises whatever goes wrong."""
        specs = list(dict.fromkeys(cell.sampler for cell in cells if cell.is_foreign))[: self.most]
        # The others are stopped first: their memory is what the new ones need.
        for spec in [spec for spec in self._children if spec not in specs]:
            self._children.pop(spec).close()
        children = [self._child(spec) for spec in specs]
        # All are started before any is waited for: imports and the model take seconds in each.
        for prepare in (ChildProcess.start, ChildProcess.get_ready):
            for child in children:
                prepare(child)

    def make(self, cell: Cell, block: Block) -> Chunk:
        """The chunk; ChildFault if the sampler raises, takes too much time or memory, or ends its child."""
        return self._child(cell.sampler).make(cell, block)

    def close(self) -> None:
        """Stop all children, and all that they started."""
        while self._children:
            self._children.popitem()[1].close()

    def _child(self, spec: str) -> ChildProcess:
        """The child of a spec, which is the only one that is asked for its chunks; not started yet if it is new."""
        child = self._children.pop(spec, None) or ChildProcess(
            self.plan.of(spec), self.plugins, self.folder, self.limits
        )
        # The one that has waited longest goes.
        while len(self._children) >= self.most:
            self._children.pop(next(iter(self._children))).close()
        self._children[spec] = child
        return child


@dataclass
class ChildProcess:
    """Makes chunks in a child process, which is started when it is first needed and after each fault."""

    plan: Plan
    """The plan of the sampler spec that the child is for."""
    plugins: tuple[str, ...]
    folder: Path
    """The run's: the converged ODE solution is read from it, if there is one."""
    limits: Limits = field(default_factory=Limits)
    variables: Mapping[str, str] = field(default_factory=dict)
    """Variables of the child's environment, beside those of this process."""
    _child: Child | None = None
    _speed: Speed | None = None
    """None until the child is ready."""
    _wanted: tuple[Cell | None, Block] | None = None
    """The chunk that was asked for last; of no cell where it is a part of the ODE solution."""
    _awaited: Awaited | None = None
    """How long the child may take to answer."""
    _fault: Exception | None = None
    """Why the child did not start, until an error has said so."""

    def make(self, cell: Cell, block: Block) -> Chunk:
        """The chunk; ChildFault if the sampler raises, takes too much time or memory, or ends the child."""
        self.get_ready()
        self.begin(cell, block)
        while (chunk := self.look(LOOK_EVERY_SECONDS)) is None:
            pass
        return chunk

    def begin(self, cell: Cell, block: Block) -> None:
        """Ask for a chunk as soon as the child is ready, and do not wait for it: `look` returns it."""
        self.start()
        self._wanted = cell, block
        if self._speed:
            self._ask(self._speed)

    def begin_solution(self, block: Block) -> None:
        """Ask for the ODE solution of these samples as soon as the child is ready: `look_at_solution` returns it."""
        self.start()
        self._wanted = None, block
        if self._speed:
            self._ask(self._speed)

    def look(self, seconds: float = 0.0) -> Chunk | None:
        """The chunk that was asked for if it arrives within `seconds`, else None; ChildFault as for `make`."""
        if (answer := self._answer(seconds)) is None:
            return None
        about, body = answer
        assert self._wanted is not None
        _, block = self._wanted
        try:
            return chunk_from_arrays(block.first, block.n, load(body), about["timing"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            self._end(f"its process sent what is no chunk ({in_line(error)})", error)

    def look_at_solution(self) -> Tensor | None:
        """The part of the ODE solution that was asked for if it is there, else None; ChildFault as for `make`."""
        if (answer := self._answer(0.0)) is None:
            return None
        try:
            return torch.from_numpy(load(answer[1])["x"])
        except (SafetensorError, KeyError) as error:
            self._end(f"its process sent what is no solution ({in_line(error)})", error)

    def _answer(self, seconds: float) -> tuple[dict[str, Any], bytes] | None:
        """The answer to what was asked for last if it arrives within `seconds`; a child that gets ready is asked."""
        if not self._speed:
            if self._look_whether_ready(seconds):
                self._ask(self._speed or Speed())
            return None
        answer = self._look(seconds)
        if answer and "failed" in answer[0]:
            raise ChildFault(str(answer[0]["failed"]))
        return answer

    @property
    def descriptor(self) -> int | None:
        """What becomes readable when the child has something to say; None where there is no child."""
        return self._child.answers if self._child else None

    def close(self) -> None:
        """Stop the child, and all that it started."""
        if self._child:
            self._child.stop()
        self._child = self._speed = None

    def start(self) -> None:
        """Start the child, unless it runs, and do not wait for it."""
        if self._child or self._fault:
            return
        try:
            # The plan is asked for at once, and the answer is awaited by `_look_whether_ready`.
            self._child = Child(self.variables)
            self._child.send(self._job())
            self._awaited = Awaited(START_SECONDS, "to start")
        except OSError as error:  # no more processes, or no more open files
            self.close()
            self._fault = error

    def get_ready(self) -> None:
        """Start the child, unless it runs, and wait until it is ready; the next `make` tells of a fault."""
        self.start()
        if self._speed or self._fault:
            return
        try:
            while not self._look_whether_ready(LOOK_EVERY_SECONDS):
                pass
        except ChildFault as fault:
            self._fault = fault

    def _job(self) -> dict[str, Any]:
        """What the child makes its plan from."""
        return {**what_it_takes(self.plan, self.plugins), "folder": str(self.folder)}

    def _look_whether_ready(self, seconds: float) -> bool:
        """Whether the child has made its plan; ChildFault where it did not start, which is told once."""
        # Told once; the next chunk of the spec tries a new child.
        fault, self._fault = self._fault, None
        if fault:
            raise fault
        if (answer := self._look(seconds)) is None:
            return False
        about, _ = answer
        if "failed" in about:
            self._end(f"its process did not start: {about['failed']}", kind=ChildLost)
        # A model that is made at random would put samples of two models into one cell.
        if about.get("answer") != answer_of(self.plan):
            self._end(OTHERWISE)
        self._speed = Speed(about.get("seconds_per_evaluation") or 0.0, about.get("seconds_after_drawing") or 0.0)
        return True

    def _ask(self, speed: Speed) -> None:
        """Ask the child, which is ready, for the chunk that is wanted."""
        assert self._child is not None
        assert self._wanted is not None
        cell, block = self._wanted
        if cell is None:
            self._child.send({"solution": (block.first, block.n)})
            seconds = START_SECONDS + TIMES * self.plan.reference_evaluations * speed.per_evaluation
            self._awaited = Awaited(seconds, "for the ODE solution")
            return
        self._child.send({"cell": cell.key, "block": astuple(block)})
        self._awaited = Awaited(self.limits.seconds_for(cell, block, speed), f"for {block.n} samples")

    def _look(self, seconds: float) -> tuple[dict[str, Any], bytes] | None:
        """The child's answer if it arrives within `seconds`, else None; then the child is paused."""
        child, awaited = self._child, self._awaited
        assert child is not None
        assert awaited is not None
        if not child.has_answered(seconds):
            # Memory before time: a child that fills the machine does harm at once.
            most = self.limits.bytes
            if child.memory() > most:
                self._end(f"its process held more than {most / GIGABYTE:.3g} GB of memory and was stopped")
            if awaited.is_late():
                self._end(f"took longer than {awaited.seconds:.3g} s {awaited.what} and was stopped")
            if child.has_ended() and not child.has_answered():  # the last that it said may still be in the pipe
                self._end(child.manner_of_end(), kind=ChildLost if self._speed else ChildEndedEarly)
            return None
        # Stopped until the next request, so that what it left running disturbs no other's clock.
        child.pause()
        try:
            return child.answer()
        except ValueError as error:
            self._end(str(error), error)

    def _end(self, reason: str, cause: Exception | None = None, kind: type[ChildFault] = ChildFault) -> NoReturn:
        self.close()
        raise kind(reason) from cause


def memory_for_processes() -> float:
    """Bytes that this process and those that it starts may hold together; the rest is left to other programs."""
    return SHARE_OF_MEMORY * machine_memory()


def children_that_fit(memory: float, one: float) -> int:
    """How many processes of this size fit into the memory beside one that is there already; at least 1."""
    return max(1, min(MOST_CHILDREN, int(memory / one) - 1))


def memory_of_this_process() -> float:
    """Bytes that are resident and its own; where the system does not tell, the most that were ever resident."""
    unit = 1 if sys.platform == "darwin" else 1024
    resident, shared = memory_of("self")
    # Mapped weights are in the memory once, however many processes map them.
    return resident - shared or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine_memory() -> float:
    """Bytes of memory that this process can have: the machine's, or its container's if that is less."""
    # In a container the system tells the machine's memory, of which the container may have a part.
    whole = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        return min(whole, float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return whole  # no container, or "max"

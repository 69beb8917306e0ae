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
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError
from safetensors.numpy import load

from ....samplers.errors import InputError, SamplerbenchError, in_line
from ...plan.plan import Block, Cell, Plan
from ..chunk import answer_of
from ..chunk_file import Chunk, chunk_from_arrays
from .child_process import Child, memory_of
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
"""Of the time between two looks at a child no more counts: in the rest this process was stopped, as by Ctrl-Z."""
GIGABYTE = 1e9


class ChildFault(SamplerbenchError):  # noqa: N818  (as SamplerFault: the sampler is at fault)
    """A chunk that was not made, in the words of the child or about its end."""


@dataclass(frozen=True)
class Speed:
    """What a child clocked in a trial: seconds of one sample, 0 where the trial failed."""

    per_evaluation: float = 0.0
    """Of one evaluation of the network."""
    after_drawing: float = 0.0
    """Of decoding and of the extractors."""


@dataclass(frozen=True)
class Limits:
    """What a child may take; errors name the option."""

    seconds: float | None = None
    """For one chunk; None = 60 s and 50 times what declared model calls, decoding and extractors take here."""
    gigabytes: float | None = None
    """Resident memory; None = 80 % of the machine's."""

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
        evaluations = (ADAPTIVE_CALLS * cell.request.passes if calls is None else calls) * block.n
        return LEAST_SECONDS + TIMES * (evaluations * speed.per_evaluation + block.n * speed.after_drawing)

    @property
    def bytes(self) -> float:
        """How much resident memory a child may hold."""
        return SHARE_OF_MEMORY * machine_memory() if self.gigabytes is None else self.gigabytes * GIGABYTE


@dataclass
class Children:
    """Makes the chunks of each sampler spec in a child process of its own."""

    plan: Plan
    plugins: tuple[str, ...]
    folder: Path
    limits: Limits = field(default_factory=Limits)
    _children: dict[str, ChildProcess] = field(default_factory=dict)
    """By spec, the one that was asked last at the end."""

    @cached_property
    def most(self) -> int:
        """As many as fit the memory, each as large as this process with the model; one on an accelerator.

        Asked for the first time when the model has been loaded here. Files that are mapped, as weights may be, are in
        the memory once for all.
        """
        if self.plan.trial.device.type != "cpu":
            return 1
        return children_that_fit(SHARE_OF_MEMORY * machine_memory(), memory_of_this_process())

    def begin(self, cells: Iterable[Cell]) -> None:
        """Start the children of these cells, all at once, and stop the others. What goes wrong is told by `make`."""
        specs = list(dict.fromkeys(cell.sampler for cell in cells if cell.is_foreign))[: self.most]
        for spec in [spec for spec in self._children if spec not in specs]:
            self._children.pop(spec).close()
        children = [self._child(spec) for spec in specs]
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
        while len(self._children) >= self.most:
            self._children.pop(next(iter(self._children))).close()
        self._children[spec] = child
        return child


@dataclass
class ChildProcess:
    """Makes chunks in a child process, which is started when it is first needed and after each fault."""

    plan: Plan
    """Of the sampler spec that the child is for."""
    plugins: tuple[str, ...]
    folder: Path
    """The run's: the converged ODE solution is read from it, if there is one."""
    limits: Limits = field(default_factory=Limits)
    _child: Child | None = None
    _speed: Speed | None = None
    """None until the child is ready."""
    _fault: Exception | None = None
    """Why the child did not start, until that is told."""

    def make(self, cell: Cell, block: Block) -> Chunk:
        """The chunk; ChildFault if the sampler raises, takes too much time or memory, or ends the child."""
        self.get_ready()
        fault, self._fault = self._fault, None
        if fault:
            raise fault
        seconds = self.limits.seconds_for(cell, block, self._speed or Speed())
        about, body = self._ask({"cell": cell.key, "block": astuple(block)}, seconds, f"for {block.n} samples")
        if "failed" in about:
            raise ChildFault(str(about["failed"]))
        try:
            return chunk_from_arrays(block.first, block.n, load(body), about["timing"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            self._end(f"its process sent what is no chunk ({in_line(error)})", error)

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
            self._child = Child()
            self._child.send(self._job())
        except OSError as error:  # no more processes, or no more open files
            self.close()
            self._fault = error

    def get_ready(self) -> None:
        """Start the child, unless it runs, and wait until it is ready; the next `make` tells of a fault."""
        self.start()
        if self._speed or self._fault:
            return
        try:
            self._speed = self._ready()
        except ChildFault as fault:
            self._fault = fault

    def _job(self) -> dict[str, Any]:
        """What the child makes its plan from."""
        return {**what_it_takes(self.plan, self.plugins), "folder": str(self.folder)}

    def _ready(self) -> Speed:
        """What the child clocked, when it has made its plan."""
        about, _ = self._answer(START_SECONDS, "to start")
        if "failed" in about:
            self._end(f"its process did not start: {about['failed']}")
        if about.get("answer") != answer_of(self.plan):
            self._end(OTHERWISE)
        return Speed(about.get("seconds_per_evaluation") or 0.0, about.get("seconds_after_drawing") or 0.0)

    def _ask(self, request: dict[str, Any], seconds: float, what: str) -> tuple[dict[str, Any], bytes]:
        assert self._child is not None
        self._child.send(request)
        return self._answer(seconds, what)

    def _answer(self, seconds: float, what: str) -> tuple[dict[str, Any], bytes]:
        """What the child answers within the limits; then it is paused."""
        child = self._child
        assert child is not None
        left, most, looked = seconds, self.limits.bytes, time.monotonic()
        while not child.has_answered():
            if child.memory() > most:
                self._end(f"its process held more than {most / GIGABYTE:.3g} GB of memory and was stopped")
            if left < 0:
                self._end(f"took longer than {seconds:.3g} s {what} and was stopped")
            if child.has_ended() and not child.has_answered():  # the last that it said may still be in the pipe
                self._end(child.manner_of_end())
            now = time.monotonic()
            left, looked = left - min(now - looked, LONGEST_LOOK_SECONDS), now
        child.pause()
        try:
            return child.answer()
        except ValueError as error:
            self._end(str(error), error)

    def _end(self, reason: str, cause: Exception | None = None) -> NoReturn:
        self.close()
        raise ChildFault(reason) from cause


def children_that_fit(memory: float, one: float) -> int:
    """How many processes of this size fit into the memory beside one that is there already; at least 1."""
    return max(1, min(MOST_CHILDREN, int(memory / one) - 1))


def memory_of_this_process() -> float:
    """Bytes that are resident and its own; where the system does not tell, the most that were ever resident."""
    unit = 1 if sys.platform == "darwin" else 1024
    resident, shared = memory_of("self")
    return resident - shared or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine_memory() -> float:
    """Bytes of memory that this process can have: the machine's, or its container's if that is less."""
    whole = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        return min(whole, float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return whole  # no container, or "max"

"""Engines: where a chunk is made. Samplers of our own are drawn in this process, those of others in a child.

A child may crash, hang or eat the memory. Then it is stopped, the cell of that chunk fails with the reason, and the
next chunk gets a new child. It runs `child.py`, which makes the same plan from the same configuration; requests and
answers go through two pipes in frames, as JSON with the arrays of a chunk behind it. The child ends when its pipe of
requests is closed, so none outlives this process, however that ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..samplers.errors import InputError, SamplerbenchError
from .chunk_file import Chunk, chunk_from_arrays, chunk_to_arrays
from .config import as_json
from .plan import Block, Cell, Plan

START_SECONDS = 600.0
"""For imports, plugins, the model and a trial; all of it has just been done in this process."""
LEAST_SECONDS, TIMES = 60.0, 50
"""A chunk may take this long, and this many times what its declared model calls, decoding and extractors take."""
ADAPTIVE_CALLS = 1000
"""Model calls that are granted to a sampler that declares none."""
SHARE_OF_MEMORY = 0.8
LOOK_EVERY_SECONDS = 0.05
GIGABYTE = 1e9
FRAME = struct.Struct(">QQ")
"""Lengths of the JSON and of what is behind it."""
LONGEST = 1 << 40
"""More bytes than this are no answer."""
ENTRY = (
    f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {__package__}.child import main; main(sys.argv[2])"
)
"""What the child runs: its modules are found where this process finds them."""


class ChildFault(SamplerbenchError):  # noqa: N818  (as SamplerFault: the sampler is at fault)
    """A chunk that was not made, in the words of the child or about its end."""


class Engine(Protocol):
    """Makes chunks somewhere."""

    def make(self, cell: Cell, block: Block) -> Chunk:
        """The chunk, or whatever exception the cell fails with."""
        ...

    def close(self) -> None:
        """Leave nothing running."""
        ...


@dataclass(frozen=True)
class InProcess:
    """Makes chunks here."""

    make_chunk: Callable[[Cell, Block], Chunk]

    def make(self, cell: Cell, block: Block) -> Chunk:
        """The chunk, or whatever the sampler raises."""
        return self.make_chunk(cell, block)

    def close(self) -> None:
        """Nothing is running."""


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
class ChildProcess:
    """Makes chunks in a child process, which is started when it is first needed and after each fault."""

    plan: Plan
    plugins: tuple[str, ...]
    folder: Path
    """The run's: the converged ODE solution is read from it, if there is one."""
    answer: Callable[[], str | None]
    """What tells the model from another, where it has no fingerprint: a hash of what it answers in this process."""
    limits: Limits = field(default_factory=Limits)
    _child: _Child | None = None

    def make(self, cell: Cell, block: Block) -> Chunk:
        """The chunk; ChildFault if the sampler raises, takes too much time or memory, or ends the child."""
        child = self._child or self._start()
        seconds = self.limits.seconds_for(cell, block, child.speed)
        child.send({"cell": cell.key, "block": block.number})
        about, body = self._answer_of(child, seconds, f"for {block.n} samples")
        if "failed" in about:
            raise ChildFault(str(about["failed"]))
        try:
            return chunk_from_arrays(block.first, block.n, load(body), about["timing"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            self._end(f"its process sent what is no chunk ({type(error).__name__})", error)

    def close(self) -> None:
        """Stop the child, and all that it started."""
        if self._child:
            self._child.stop()
            self._child = None

    def _start(self) -> _Child:
        self._child = child = _Child()
        child.send({
            "config": as_json(self.plan.config), "plugins": self.plugins, "folder": str(self.folder),
            "threads": torch.get_num_threads(), "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
            "precision": torch.get_float32_matmul_precision(),
        })  # fmt: skip
        about, _ = self._answer_of(child, START_SECONDS, "to start")
        if "failed" in about:
            self._end(f"its process did not start: {about['failed']}")
        if about.get("answer") != self.answer():
            self._end(
                "the model answers otherwise in another process, so it is made at random; fix its seed, "
                "or set SAMPLERBENCH_IN_PROCESS=1"
            )
        child.speed = Speed(about.get("seconds_per_evaluation") or 0.0, about.get("seconds_after_drawing") or 0.0)
        return child

    def _answer_of(self, child: _Child, seconds: float, what: str) -> tuple[dict[str, Any], bytes]:
        """What the child answers, within the limits."""
        deadline, most = time.monotonic() + seconds, self.limits.bytes
        while not child.has_answered():
            if child.memory() > most:
                self._end(f"its process held more than {most / GIGABYTE:.3g} GB of memory and was stopped")
            if time.monotonic() > deadline:
                self._end(f"took longer than {seconds:.3g} s {what} and was stopped")
            if child.has_ended():
                self._end(child.manner_of_end())
        try:
            return child.answer()
        except ValueError as error:
            self._end("its process sent what is no answer", error)

    def _end(self, reason: str, cause: Exception | None = None) -> NoReturn:
        self.close()
        raise ChildFault(reason) from cause


class _Child:
    """A running child: frames to it, frames from it, its memory, its end."""

    def __init__(self) -> None:
        self._answers, writing = os.pipe()
        try:
            # A session of its own: Ctrl-C is for the parent, which stops the child with all that it started.
            self._process = subprocess.Popen(
                [sys.executable, "-c", ENTRY, json.dumps(sys.path), str(writing)],
                stdin=subprocess.PIPE, pass_fds=[writing], start_new_session=True,
            )  # fmt: skip
        except BaseException:
            os.close(self._answers)
            raise
        finally:
            os.close(writing)
        self._received = bytearray()
        self._closed = False
        self.speed = Speed()

    def send(self, request: dict[str, Any]) -> None:
        """One frame; that the child is gone shows where its answer is waited for."""
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(BrokenPipeError):
            write_frame(stdin.fileno(), request)

    def has_answered(self) -> bool:
        """Whether a whole frame is there, after a short look."""
        readable, _, _ = select.select([] if self._closed else [self._answers], [], [], LOOK_EVERY_SECONDS)
        if readable:
            received = os.read(self._answers, 1 << 20)
            self._received += received
            self._closed = not received
        if len(self._received) < FRAME.size:
            return False
        announced = sum(self._lengths())
        return announced > LONGEST or len(self._received) >= FRAME.size + announced

    def answer(self) -> tuple[dict[str, Any], bytes]:
        """The frame that is there; ValueError if it is none."""
        head, body = self._lengths()
        frame, self._received = self._received[FRAME.size :], bytearray()
        if head + body != len(frame):
            raise ValueError("not one frame")
        about = json.loads(bytes(frame[:head]))
        if not isinstance(about, dict):
            raise ValueError("no JSON object")
        return about, bytes(frame[head:])

    def _lengths(self) -> tuple[int, int]:
        head, body = FRAME.unpack(self._received[: FRAME.size])
        return head, body

    def memory(self) -> int:
        """Resident bytes; 0 where the system does not tell."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def has_ended(self) -> bool:
        """Whether the process is gone, or has closed its pipe."""
        return self._closed or self._process.poll() is not None

    def manner_of_end(self) -> str:
        """How the process ended."""
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=1.0)  # the pipe closes a moment before the process is gone
            if code >= 0:
                return f"its process ended with exit code {code}"
            name = next((s.name for s in signal.Signals if s == -code), "unknown")
            return f"its process ended with signal {-code} ({name})"
        return "its process closed the pipe that it answers by"

    def stop(self) -> None:
        """End the process and its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        os.close(self._answers)


def write_frame(descriptor: int, about: dict[str, Any], body: bytes = b"") -> None:
    """JSON and what is behind it, to a pipe."""
    head = json.dumps(about).encode()
    rest = memoryview(FRAME.pack(len(head), len(body)) + head + body)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_chunk(descriptor: int, chunk: Chunk) -> None:
    """A chunk, to a pipe."""
    arrays, timing = chunk_to_arrays(chunk)
    write_frame(descriptor, {"timing": timing}, save(arrays))


def machine_memory() -> float:
    """Bytes of memory that this process can have: the machine's, or its container's if that is less."""
    whole = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        return min(whole, float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return whole  # no container, or "max"

"""The clock: what is measured of a chunk, and what a table may say of it.

The clock runs for one block of samples, from the first noise to the last clean state. It excludes encoding of prompts,
decoding of images and metrics, and the warm-up, a short trial at the start of a process. An accelerator has finished
all its work before the first reading and before the last (`samplers.predictor.clock`). Nothing waits for it in between:
it notes when it begins and ends a call of the network (`samplers.predictor.mark`), and the notes are read at the end.

A repeat is one whole chunk that was drawn alone: chunks that an engine draws at the same time slow each other, and
their times say nothing. Cells take turns block by block, so that a slow spell of the machine falls on all alike; the
difference of two cells is taken from repeats that are neighbours in time.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any, TypeVar

import torch
from msgspec import Meta

from ...samplers.sample import Samples
from ...samplers.text import count_of
from ..plan.environment import environment
from ..plan.keys import digest

LEAST_REPEATS = 5
"""A cell with fewer repeats has no quartiles and is not compared."""
NOISY = 0.1
"""The interquartile range over the median from which a time is called noisy."""
BUSY = 1.5
"""The load per core from which the caption mentions it."""
OK = "ok"
NOISY_FLAG, MACHINES_FLAG, APART_FLAG = "noisy", "machines differ", "not in turn"
COLUMNS = (
    "seconds_per_image", "seconds_low", "seconds_high", "model_seconds_per_image", "overhead",
    "timing", "repeats", "seconds_per_call", "peak_memory_mb", "load_per_core",
    "encode_seconds", "draw_seconds", "decode_seconds", "extract_seconds", "hash_seconds", "store_seconds",
)  # fmt: skip
"""The columns that a clock makes; the first five are among the fixed ones of a table."""
COMPILE = "compile_seconds"
"""The column of runs whose network is compiled: how long that took, all processes together."""
STAGES = {
    "encode_seconds": "encoding", "draw_seconds": "drawing", "decode_seconds": "decoding",
    "extract_seconds": "extracting", "hash_seconds": "hashing", "store_seconds": "storing",
}  # fmt: skip
"""The stages that a chunk goes through, in order, by the column of their seconds: what a reader calls them."""
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
FORGET_PEAK = "5"
"""What `clear_refs` takes to set the peak of resident memory back to what is resident now."""
MOST = 2**53
"""The bound of every count and time in a file: a damaged one may say anything."""
Amount = Annotated[float, Meta(ge=0, le=MOST)]
drawn_here = itertools.count()
"""Counts the chunks of this process: whether a chunk was its first is a fact about the process."""
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Timing:
    """What was counted and clocked while a chunk was drawn; None = unknown, as in chunks of earlier versions."""

    nfe: Amount
    network_evaluations: Amount
    seconds: Annotated[float, Meta(gt=0, le=MOST)]
    """Wall time of the whole chunk."""
    model_seconds: Amount
    """The part spent in the network."""
    peak_memory: Annotated[int, Meta(ge=0, le=MOST)] | None = None
    """Bytes: on an accelerator the most that tensors took, on a CPU the most that was resident of the process."""
    machine: str | None = None
    """`machine_of` where it was drawn."""
    load: Amount | None = None
    """Load average of the last minute per core, this process included."""
    number: Annotated[int, Meta(ge=0, le=MOST)] | None = None
    """How many chunks the process had drawn before."""
    started: Amount | None = None
    """When, in seconds since 1970. It tells which repeats are neighbours in time, never how long one took."""
    apart: bool = False
    """Whether other cells of its run were drawn at another time, and not in turn with it."""
    alone: bool = True
    """Whether its engine drew nothing else meanwhile. Other times are neither shown nor compared."""
    depth: Amount | None = None
    """Model calls one after the other: those about several states at once count as one."""
    encode_seconds: Amount | None = None
    """Before `seconds`: the network was made ready, and prompts became conditions."""
    decode_seconds: Amount | None = None
    """After `seconds`: states became images, and came to the CPU."""
    extract_seconds: Amount | None = None
    """Time in which extractors read the images; None, as the next two, for what was drawn only for the clock."""
    hash_seconds: Amount | None = None
    """Time in which the images were hashed."""
    compile_seconds: Amount | None = None
    """Time in which the network was compiled for this chunk, before the clock ran or meanwhile; None = it never is."""
    ready: bool = True
    """Whether nothing was compiled while the clock ran. Other times are neither shown nor compared."""
    store_seconds: Amount | None = None
    """Time in which the chunk before this one was written: how long a file took is known when it is there."""

    @property
    def counts(self) -> bool:
        """Whether its time is one of the sampler: drawn alone, and by a network that was ready."""
        return self.alone and self.ready

    @property
    def draw_seconds(self) -> float:
        """`seconds`, as the stage between encoding and decoding."""
        return self.seconds


@dataclass(frozen=True)
class Repeat:
    """One timing of a cell."""

    n: int
    """Samples of the block."""
    timing: Timing

    @property
    def seconds_per_image(self) -> float:
        """Wall time of an image."""
        return self.timing.seconds / self.n


def clock_draw(draw: Callable[[], Samples], device: torch.device) -> tuple[Samples, Timing]:
    """What `draw` returns, and what was measured meanwhile."""
    number, started = next(drawn_here), time.time()
    # The peak would otherwise be that of the process so far, which grows with what ran before.
    is_known = forget_peak_memory(device)
    samples = draw()
    return samples, Timing(
        nfe=samples.nfe, network_evaluations=samples.network_evaluations,
        seconds=samples.seconds, model_seconds=samples.model_seconds,
        peak_memory=peak_memory(device) if is_known else None,
        machine=machine_of(device), load=load_per_core(), number=number, started=started, depth=samples.depth,
        encode_seconds=samples.encode_seconds, decode_seconds=samples.decode_seconds,
        ready=not samples.compile_seconds,
    )  # fmt: skip


def forget_peak_memory(device: torch.device) -> bool:
    """Reset the peak of memory; return whether the system allows that."""
    if device.type != "cpu":
        # Not every accelerator's module keeps count of its memory.
        reset = getattr(torch.get_device_module(device), "reset_peak_memory_stats", None)
        if reset:
            reset(device)
        return reset is not None
    try:
        CLEAR_REFS.write_text(FORGET_PEAK)
    except OSError:
        return False
    return True


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the peak since `forget_peak_memory`; None if the system does not tell."""
    if device.type != "cpu":
        return int(torch.get_device_module(device).max_memory_allocated(device))
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    # VmHWM, the high-water mark of resident memory, in KiB.
    kibibytes = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if kibibytes is None else 1024 * int(kibibytes)


def machine_of(device: torch.device) -> str:
    """16 hex digits of processor, cores, threads, device and versions: times of two machines are never mixed."""
    return digest(environment(str(device)))[:16]


def load_per_core() -> float | None:
    """Load average of the last minute over the number of cores; None if the system does not tell."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return None


def in_turn(things: Sequence[Thing], number: int) -> Sequence[Thing]:
    """Things in the order of a round: forwards and backwards by turns, so that drift falls on all alike."""
    return things if number % 2 == 0 else things[::-1]


def full_size(repeats: Sequence[Repeat]) -> list[Repeat]:
    """The repeats of full size: the last block of a cell may be cut, and then costs more per image."""
    # By the largest that is there: who reads a stored run has no plan to ask.
    size = max((repeat.n for repeat in repeats), default=0)
    return [repeat for repeat in repeats if repeat.n == size]


def repeats_among(clockings: Sequence[Repeat]) -> list[Repeat]:
    """The repeats that count: of full size, drawn alone, and by a network that was ready."""
    return [repeat for repeat in full_size(clockings) if repeat.timing.counts]


def machines(repeats: Sequence[Repeat]) -> set[str | None]:
    """The machines of the repeats that count."""
    return {repeat.timing.machine for repeat in repeats if repeat.timing.counts}


def clock_columns(clockings: Sequence[Repeat]) -> dict[str, Any]:
    """The columns that a clock makes, from all timings of a cell: its whole chunks are the repeats.

    There are no seconds if several machines drew them or none was drawn alone, and no quartiles from fewer than 5.
    """
    repeats = repeats_among(clockings)
    # Chunks of earlier versions lack some of these numbers; what is known is used.
    loads = [r.timing.load for r in repeats if r.timing.load is not None]
    peaks = [r.timing.peak_memory for r in repeats if r.timing.peak_memory is not None]
    # What is unknown stays NaN, which a table shows as a dash.
    columns: dict[str, Any] = dict.fromkeys(COLUMNS, math.nan)
    # Stages are of every chunk; all else only of repeats that can be compared.
    columns |= {"repeats": len(repeats), "load_per_core": float(median(loads)) if loads else math.nan}
    columns |= seconds_of_stages([clocking.timing for clocking in clockings])
    compiling = [r.timing.compile_seconds for r in clockings if r.timing.compile_seconds is not None]
    columns |= {COMPILE: math.fsum(compiling)} if compiling else {}
    in_turn = not any(r.timing.apart for r in repeats)
    places = machines(repeats)
    # Times of two machines have no common median; without any machine nothing was drawn alone.
    if len(places) != 1:
        return columns | {"timing": flag(len(repeats), spread=0.0, one_machine=not places, in_turn=in_turn)}
    seconds = [r.seconds_per_image for r in repeats]
    model = [r.timing.model_seconds / r.n for r in repeats]
    calls = [r.timing.nfe for r in repeats]
    # Medians, because a slow spell of the machine moves a mean.
    low, middle, high = quartiles(seconds) if len(repeats) >= LEAST_REPEATS else (math.nan, median(seconds), math.nan)
    return columns | {
        "seconds_per_image": middle,
        "seconds_low": low,
        "seconds_high": high,
        "model_seconds_per_image": median(model),
        # The share of the time outside the network, over all repeats together.
        "overhead": 1 - sum(model) / sum(seconds),
        "timing": flag(len(repeats), spread=(high - low) / middle, one_machine=True, in_turn=in_turn),
        "seconds_per_call": median(s / c for s, c in zip(seconds, calls, strict=True)) if all(calls) else math.nan,
        "peak_memory_mb": max(peaks) / 1e6 if peaks else math.nan,
    }


def seconds_of_stages(timings: Sequence[Timing]) -> dict[str, float]:
    """How long all chunks of a cell were in each stage, wherever they were drawn; nan where it is unknown."""
    chunks = [timing for timing in timings if timing.hash_seconds is not None]
    found = {}
    for stage in STAGES:
        known = [seconds for chunk in chunks if (seconds := getattr(chunk, stage)) is not None]
        # Of storing one chunk of a run does not know, and is taken for one like the others.
        found[stage] = len(chunks) * math.fsum(known) / len(known) if known else math.nan
    return found


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third, interpolated linearly, as numpy does."""
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


def flag(repeats: int, *, spread: float, one_machine: bool, in_turn: bool) -> str:
    """Why a time is not to be relied on, or "ok". `spread` is the interquartile range over the median, or nan."""
    # All reasons, the gravest first: with too few repeats the spread says little.
    reasons = [count_of(repeats, "repeat")] if repeats < LEAST_REPEATS else []
    reasons += [NOISY_FLAG] if spread > NOISY else []
    reasons += [] if one_machine else [MACHINES_FLAG]
    reasons += [] if in_turn else [APART_FLAG]
    return "; ".join(reasons) or OK


def neighbours(a: Sequence[Repeat], b: Sequence[Repeat]) -> list[tuple[Repeat, Repeat]]:
    """Pairs of repeats of two cells, one of each, drawn one after the other with no repeat of either cell in between.

    Only whole repeats that were drawn alone are paired. Repeats without a start time have no neighbours.
    """
    # `mine` tells the two cells apart on the common line: 0 for a, 1 for b.
    drawn = [(r.timing.started, mine, r) for mine, rs in enumerate((repeats_among(a), repeats_among(b))) for r in rs]
    # Both cells on one line of time.
    in_order = sorted((d for d in drawn if d[0] is not None), key=lambda d: d[:2])
    pairs = []
    waiting: tuple[int, Repeat] | None = None
    for _, mine, repeat in in_order:
        # Of several repeats of one cell in a row the last is nearest to the next of the other cell.
        if waiting is None or waiting[0] == mine:
            waiting = mine, repeat
        else:
            pairs.append((repeat, waiting[1]) if mine == 0 else (waiting[1], repeat))
            waiting = None
    return pairs

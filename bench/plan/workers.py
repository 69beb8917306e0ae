"""How many workers a run has, and how many threads of torch each of them and so the run itself has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from ...samplers.errors import InputError, quote
from .config import Config
from .record import RunRecord

ONE_EACH = "gpus"
"""The word for a worker on each GPU of the machine, in place of a number."""
MOST_WORKERS = 1024
Workers = int | str
"""A number, or ONE_EACH."""
EXPECTED = f"a whole number from 1 to {MOST_WORKERS}, as in --workers 2, or {ONE_EACH}"


def parse_workers(given: object) -> Workers | None:
    """What an option or an argument says; None = there are no workers."""
    if given is None or given == ONE_EACH:
        return None if given is None else ONE_EACH
    # int() would take "1_000", " 2" and digits of other scripts.
    text = str(given)
    is_whole = not isinstance(given, bool) and isinstance(given, int | str) and text.isascii() and text.isdigit()
    if not is_whole or not 1 <= int(text[:12]) <= MOST_WORKERS:
        raise InputError(f"workers {given if isinstance(given, int) else quote(given)}: expected {EXPECTED}")
    return int(text)


def number_of(workers: Workers | None) -> int:
    """How many share the cores of this machine."""
    if workers == ONE_EACH:
        return max(1, torch.cuda.device_count())
    return int(workers or 1)


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # on Linux; a job of a cluster often has a few of the machine's
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def with_threads(
    config: Config, record: RunRecord | None, workers: Workers | None, cores_each: int | None = None
) -> tuple[Config, int | None]:
    """The settings of a run, and how many threads torch is to have; None = as many as it has.

    Threads are part of every key. Where they are not given, a run that is there goes on with its own, whatever workers
    it has now, and the workers of a new one share the cores, unless it says how many cores each has.
    """
    if config.threads is not None:
        return config, config.threads
    # With other threads the keys would change, and every chunk would be drawn again.
    if record is not None:
        return replace(config, threads=record.config.threads), record.environment.threads
    # Without workers torch's own choice stands, on which the keys of earlier runs depend.
    return config, cores_each or (max(1, cores() // number_of(workers)) if workers else None)


@contextmanager
def threads_set(number: int | None) -> Iterator[None]:
    """Give torch this number of threads inside the block; None = leave the number as it is."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number is not None:
            torch.set_num_threads(before)


def warning_of(workers: Workers | None) -> str:
    """The warning for workers with more threads than there are cores; '' where they have no more."""
    count, threads, there = number_of(workers), torch.get_num_threads(), cores()
    if not workers or count * threads <= there:
        return ""
    return (
        f"workers: {count} of {threads} threads each, and {there} cores; they wait for each other: give fewer, or "
        "begin a new run with fewer --threads"
    )

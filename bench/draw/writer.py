"""A thread that finishes and stores chunks while the next ones are drawn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_WAITING = 2
"""Tasks that may wait for the thread: each holds the images of a block."""


class Writer(Generic[T]):
    """Does tasks one after the other in a thread of its own; their results come back in order."""

    def __init__(self) -> None:
        self._added: deque[Future[T]] = deque()

    def add(self, task: Callable[[], T]) -> Iterator[T]:
        """Have a task done; gives the results that are there, and waits for some where too many tasks wait."""
        self._added.append(self._thread.submit(task))
        return self.results(MOST_WAITING)

    def results(self, left: int = 0) -> Iterator[T]:
        """The results that are there, or will be until at most `left` tasks are not done. Raises what a task raised."""
        while self._added and (len(self._added) > left or self._added[0].done()):
            # A signal may come while this waits: only a task whose result is known is taken off.
            self._added[0].exception()
            yield self._added.popleft().result()

    def close(self) -> None:
        """End the thread after the task that it does; those that wait are dropped."""
        self._added.clear()
        self._thread.shutdown(cancel_futures=True)

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        # Its thread starts with the first task: most runs have none.
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="samplerbench-writer")

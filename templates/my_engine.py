"""my-engine, an engine for samplerbench: where the chunks of a run are drawn. Say here on what, and how many at a time.

What stands below works: two processes of this machine, or as many as follow the colon, each of which draws a chunk.

    samplerbench run --engine my-engine -s ddim --steps 5,10 -n 128 --plugin my_engine.py
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from itertools import islice

from samplerbench import Done, Drawn, Engine, EngineFactory, InputError, Job, Work, draw_job, hookimpl

samplerbench_api = 1  # the version of the interface that this file is written for


class MyEngine:
    """Draws jobs in some processes, and answers in the order in which they are done."""

    def __init__(self, work: Work, processes: int) -> None:
        self.work = work  # what can be asked of it is asked in draw, not yet
        self.processes = processes
        self.pool: ProcessPoolExecutor | None = None
        self.others: list[multiprocessing.process.BaseProcess] = []  # that are there for something else

    def draw(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """Answer every job. Take one only when there is room for it: the next jobs depend on the answers so far."""
        if self.pool is None:
            self.others = multiprocessing.active_children()
            self.pool = start(self.processes)
        waiting = iter(jobs)
        at_work: dict[Future[Done], bool] = {}  # whether each has been alone so far
        while True:
            for job in islice(waiting, self.processes - len(at_work)):
                at_work[self.pool.submit(draw_job, self.work.description, job)] = True
                if len(at_work) > 1:
                    at_work = dict.fromkeys(at_work, False)
            if not at_work:
                return
            for ready in wait(at_work, return_when=FIRST_COMPLETED).done:
                yield mark(ready.result(), alone=at_work.pop(ready))

    def close(self) -> None:
        """Leave nothing running: this is called where a run is stopped, too, and a chunk may never end."""
        if self.pool:
            for process in set(multiprocessing.active_children()) - set(self.others):
                process.kill()
            self.pool.shutdown(cancel_futures=True)


def start(processes: int) -> ProcessPoolExecutor:
    """Processes that leave Ctrl-C to the run, which closes its engine then."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))


def mark(done: Done, *, alone: bool) -> Done:
    """The answer, which says whether its time can be shown: a chunk that was drawn beside another took longer."""
    return replace(done, alone=alone) if isinstance(done, Drawn) else done


def my_engine(argument: str, work: Work) -> Engine:
    """Chunks in two processes at once; `argument` is what follows the colon, as in my-engine:4."""
    if not (argument or "2").isdigit() or argument == "0":
        raise InputError(f"engine 'my-engine:{argument}': expected a number of processes, as in my-engine:4")
    return MyEngine(work, int(argument or "2"))


@hookimpl
def samplerbench_engines() -> dict[str, EngineFactory]:
    """What this file adds, by name."""
    return {"my-engine": my_engine}

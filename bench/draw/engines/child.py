"""The program of a child process: it makes the plan of its sampler again, then the chunks that the parent asks for."""

from __future__ import annotations

import functools
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from safetensors.numpy import save
from torch import Tensor

from ...plan.plan import Block
from ..chunk import (
    answer_of,
    encode_ahead,
    make_chunk,
    ode_solution,
    reason_of,
    seconds_after_drawing,
    seconds_per_evaluation,
)
from ..chunk_file import Chunk, chunk_to_arrays
from ..store import RunFolder
from .child_process import FRAME, write_frame
from .elsewhere import rebuild_plan
from .here import EDITED


class Parent:
    """The process that asks: requests come by one pipe, answers with the number of their request go by another."""

    def __init__(self, requests: BinaryIO, answers: int) -> None:
        self._requests, self._answers = requests, answers
        self._process, self._number = os.getpid(), 0

    def request(self) -> dict[str, Any]:
        """Wait for the next request; EOFError when the parent has closed the pipe."""
        lengths = self._requests.read(FRAME.size)
        if len(lengths) < FRAME.size:
            raise EOFError("the parent has closed the pipe of requests")
        request: dict[str, Any] = json.loads(self._requests.read(sum(FRAME.unpack(lengths))))
        # Each answer carries the number of its request: one that comes late or twice is told apart.
        self._number = request["request"]
        return request

    def answer(self, about: dict[str, Any], body: bytes = b"") -> None:
        """Answer the last request. A copy of this process, which a sampler forked, has nothing to say and ends."""
        if os.getpid() != self._process:
            os._exit(0)
        write_frame(self._answers, {"request": self._number, **about}, body)

    def answer_chunk(self, chunk: Chunk) -> None:
        """Answer with a chunk."""
        arrays, timing = chunk_to_arrays(chunk)
        self.answer({"timing": timing}, save(arrays))


def main(answers: int) -> None:
    """Answer the requests from standard input by the pipe with this descriptor, until standard input is closed."""
    os.set_inheritable(answers, False)
    parent = Parent(requests_from_stdin(), answers)
    try:
        serve(parent)
    except BaseException as error:  # the parent reports it, whatever it is
        with suppress(OSError):  # if the pipe itself failed, the parent notices
            parent.answer({"failed": reason_of(error)})


def requests_from_stdin() -> BinaryIO:
    """The pipe of requests. Samplers get an empty standard input, and their standard output is standard error."""
    # The pipe moves to another descriptor, so that a sampler that reads standard input takes no request away.
    pipe = os.fdopen(os.dup(0), "rb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    with suppress(OSError):  # the parent's standard error is closed
        os.dup2(2, 1)
    return pipe


def serve(parent: Parent) -> None:
    """Make the plan and a trial outside the clock, then a chunk for each request."""
    job = parent.request()
    # Trials come last: they warm up what the clock will see.
    remade = rebuild_plan(job)
    plan, extractors = remade.plan, remade.extractors

    @functools.cache
    def reference() -> Tensor | None:
        """The ODE solution, which is in the folder when the first chunk is asked for, and may not be there before."""
        return RunFolder(Path(job["folder"])).ode_solution(plan.reference_key) if plan.references else None

    encode_ahead(plan)
    parent.answer({
        "seconds_per_evaluation": seconds_per_evaluation(plan),
        "seconds_after_drawing": seconds_after_drawing(plan, extractors),
        "answer": answer_of(plan),
    })  # fmt: skip
    while True:
        request = parent.request()
        if "solution" in request:
            first, n = request["solution"]
            x = ode_solution(plan.references, n, first)
            failed = {"failed": "the ODE has no solution"} if x is None else {}
            parent.answer(failed, b"" if x is None else save({"x": x.cpu().contiguous().numpy()}))
            continue
        # The key holds the code: if it is not here, a file was edited between the two plans.
        cell = remade.cells.get(request["cell"])
        if cell is None:
            parent.answer({"failed": EDITED})
            continue
        try:
            chunk = make_chunk(plan, cell, Block(*request["block"]), extractors, reference())
        except BaseException as error:  # a sampler may raise anything; it fails its own cell
            parent.answer({"failed": reason_of(error)})
        else:
            parent.answer_chunk(chunk)

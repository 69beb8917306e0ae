"""What runs in a child process: it makes the plan anew, then the chunks that the parent asks for."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..samplers.registry import load_registry
from .chunk import answer_of, chunk_read_by, reason_of, seconds_after_drawing, seconds_per_evaluation
from .config import from_json
from .engines import FRAME, write_chunk, write_frame
from .plan import plan_for
from .statistics import extractors_read
from .store import RunFolder

Requests = queue.SimpleQueue[dict[str, Any]]


def main(descriptor: str) -> None:
    """Answer by the pipe of this number what is asked by standard input, until that is closed."""
    answers = int(descriptor)
    os.set_inheritable(answers, False)
    requests = requests_from_stdin()
    try:
        serve(requests, answers)
    except BaseException as error:  # whatever it is, the parent is to say it
        with suppress(OSError):  # or the pipe is what failed, and the parent says that
            write_frame(answers, {"failed": reason_of(error)})


def requests_from_stdin() -> Requests:
    """What the parent asks. When its end of the pipe is closed this process ends, whatever it is doing.

    Samplers get an empty standard input, and their standard output is standard error.
    """
    pipe = os.fdopen(os.dup(0), "rb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    with suppress(OSError):  # the parent's standard error is closed
        os.dup2(2, 1)
    inbox: Requests = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, inbox), daemon=True).start()
    return inbox


def _listen(pipe: BinaryIO, inbox: Requests) -> None:
    while len(lengths := pipe.read(FRAME.size)) == FRAME.size:
        inbox.put(json.loads(pipe.read(sum(FRAME.unpack(lengths)))))
    os.killpg(os.getpgrp(), signal.SIGKILL)  # what samplers have started too


def serve(requests: Requests, answers: int) -> None:
    """The plan and a trial outside the clock, then a chunk for each request."""
    job = requests.get()
    torch.set_num_threads(job["threads"])
    torch.set_default_dtype(getattr(torch, job["dtype"]))
    torch.set_float32_matmul_precision(job["precision"])
    registry = load_registry(job["plugins"])
    plan = plan_for(from_json(job["config"]), registry)
    extractors = extractors_read(plan.config.metric, registry.metrics.things, plan.model)
    reference = RunFolder(Path(job["folder"])).reference()
    cells, blocks = {cell.key: cell for cell in plan.cells}, {block.number: block for block in plan.blocks}
    write_frame(answers, {
        "seconds_per_evaluation": seconds_per_evaluation(plan),
        "seconds_after_drawing": seconds_after_drawing(plan, extractors),
        "answer": answer_of(plan),
    })  # fmt: skip
    while True:
        request = requests.get()
        cell = cells.get(request["cell"])
        if cell is None:
            reason = "a plugin or the model was edited after the run began; give the same command again"
            write_frame(answers, {"failed": reason})
            continue
        try:
            chunk = chunk_read_by(extractors, plan, cell, blocks[request["block"]], reference)
        except BaseException as error:  # a sampler may raise anything; it fails its own cell
            write_frame(answers, {"failed": reason_of(error)})
        else:
            write_chunk(answers, chunk)

"""Making the plan of a run again in another process: a child of this one, or any that has its description."""

from __future__ import annotations

import base64
import functools
import json
import multiprocessing
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from ....samplers.engine import Done, Failure, Job
from ....samplers.errors import InputError, pass_on
from ....samplers.process import set_switches, switches
from ....samplers.registry import load_registry
from ...plan.config import as_json, from_json
from ...plan.plan import Cell, Plan, plan_for
from ...plan.yardstick import extractors_read
from ..chunk import answer_of, reason_of
from .here import Here

OTHERWISE = (
    "the model answers otherwise in another process, so it is made at random; fix its seed, "
    "or set SAMPLERBENCH_IN_PROCESS=1"
)


@dataclass(frozen=True)
class Remade:
    """A plan that was made again in another process."""

    plan: Plan
    extractors: frozenset[str]
    """What the metrics of the run read."""
    cells: Mapping[str, Cell]
    """The cells by key."""


def what_it_takes(plan: Plan, plugins: Sequence[str]) -> dict[str, Any]:
    """The JSON from which `rebuild_plan` makes a plan.

    Threads and switches of torch belong to it: they move the last bits of samples.
    """
    # The configuration and not the plan: code cannot be sent, so each process makes the plan from its own.
    return {
        "config": as_json(plan.config), "plugins": plugins,
        "threads": torch.get_num_threads(), "switches": switches(),
    }  # fmt: skip


def rebuild_plan(given: Mapping[str, Any]) -> Remade:
    """Make the plan that `what_it_takes` described; this sets threads and switches of this process as in the run."""
    # Before the plan: threads and switches are part of every key.
    torch.set_num_threads(given["threads"])
    set_switches(given["switches"])
    registry = load_registry(given["plugins"])
    plan = plan_for(from_json(given["config"]), registry)
    extractors = extractors_read(plan.config.metric, registry.metrics.things, plan.model)
    return Remade(plan, frozenset(extractors), {cell.key: cell for cell in plan.cells})


def description_of(plan: Plan, plugins: Sequence[str], ode_solution: Tensor | None) -> bytes:
    """All that `draw_job` needs to know about a run, with its ODE solution, since another machine has another disk."""
    check_rebuildable(plan)
    # Base64, since the description is JSON.
    solution = None if ode_solution is None else base64.b64encode(save({"x": ode_solution.contiguous()})).decode()
    return json.dumps({**what_it_takes(plan, plugins), "answer": answer_of(plan), "solution": solution}).encode()


def check_rebuildable(plan: Plan) -> None:
    """InputError for a plan that only this process can make."""
    if not plan.is_rebuildable:
        raise InputError(
            f"model {plan.model.name!r}: was given as an object, which only this process has; expected a name or "
            "file.py:function for this engine, or the engine local"
        )


def draw_job(description: bytes, job: Job) -> Done:
    """Draw a job of the run that `Work.description` describes, in this process and on this machine.

    The first job of a run takes seconds longer, for imports, the model and a trial; the run that was drawn last stays
    ready. One process draws one job at a time: threads of one process would disturb each other's samples.
    """
    try:
        # A failure here fails this job only: the next one may find the model where this did not.
        here = _here_for(description)
    except BaseException as error:
        pass_on(error)
        return Failure(job, reason_of(error))
    return here.draw(job)


@functools.lru_cache(maxsize=1)
def _here_for(description: bytes) -> Here:
    """The drawer of a described run's jobs in this process; that of the last run is cached."""
    end_with_parent()
    given = json.loads(description)
    remade = rebuild_plan(given)
    # The model must answer alike here, to the last bit, or chunks of one cell would not belong together.
    if given["answer"] != answer_of(remade.plan):
        raise InputError(OTHERWISE)
    solution = None if given["solution"] is None else load(base64.b64decode(given["solution"]))["x"]
    return Here(remade.plan, remade.extractors, lambda: solution)


@functools.cache
def end_with_parent() -> None:
    """Let a process of multiprocessing end when its parent has ended: a worker of a pool would wait without end."""
    if parent := multiprocessing.parent_process():
        # A daemon thread, so that it does not keep the process from ending by itself.
        threading.Thread(target=_end_after, args=[parent], daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)

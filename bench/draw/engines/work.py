"""The work of a run, which its engine is made for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ....samplers.engine import Done, Engine, Job
from ....samplers.errors import InputError, PluginError
from ....samplers.files.sent import SentFiles
from ....samplers.variables import IN_PROCESS, is_on
from ...plan.plan import Plan
from ...plan.workers import Workers
from ..chunk import one_line
from .children import Children, Limits
from .elsewhere import check_rebuildable, description_of, draw_job
from .files_named import files_of
from .here import Here
from .local import LocalEngine
from .pool import Pool, local_count


def too_early() -> Tensor | None:
    """Refuse an engine that asks before there is an answer."""
    raise PluginError("an engine asked for a chunk or a description before it was to draw; expected that only in draw")


@dataclass
class RunWork:
    """What a run offers its engine (`samplers.engine.Work`)."""

    plan: Plan
    plugins: tuple[str, ...]
    """Those that were asked for, as another process has to ask for them."""
    folder: Path
    """The run's."""
    extractors: frozenset[str]
    """What the metrics of the run read."""
    limits: Limits = field(default_factory=Limits)
    """The limits of the children of the local engine."""
    workers: Workers | None = None
    """How many the run asks for; None = it does not say."""
    find_solution: Callable[[], Tensor | None] = too_early
    """Returns the converged ODE solution, None where the run has none; it is drawn before the first job."""
    tell_retried: Callable[[Job, str], object] = lambda *_: None
    """Hears which jobs go back to the queue, and why."""

    @property
    def device(self) -> str:
        """What the run is drawn on."""
        return self.plan.config.device

    @property
    def threads(self) -> int:
        """The number of torch's threads in every process that draws."""
        # Asked at the moment and not stored, because a worker has to imitate what this process has.
        return torch.get_num_threads()

    @cached_property
    def description(self) -> bytes:
        """All that `draw_job` needs."""
        # With the ODE solution, which must be drawn once and be the same for all workers.
        return description_of(self.plan, self.plugins, self.find_solution())

    @cached_property
    def files(self) -> SentFiles:
        """The files that the run names by relative paths."""
        return files_of(self.plan, self.plugins)

    @property
    def draw_job(self) -> Callable[[bytes, Job], Done]:
        """What another process draws a job by; InputError where none can, which an engine may ask before it draws."""
        # Before a worker is started: each of them would fail with the same reason.
        check_rebuildable(self.plan)
        return draw_job

    def draw(self, job: Job) -> Done:
        """Draw a job in this process."""
        return self._here.draw(job)

    def retried(self, job: Job, reason: str) -> None:
        """Say that a job goes back to the queue."""
        self.tell_retried(job, one_line(reason))

    def local(self) -> Engine:
        """The local engine, with workers where the run asks for them. Nothing of it is started yet."""
        if self.workers:
            return self._pool(self.workers)
        # A child makes the plan again from its settings, which a model that is an object is not part of.
        everything_here = not self.plan.is_rebuildable or is_on(IN_PROCESS, os.environ)
        children = None if everything_here else Children(self.plan, self.plugins, self.folder, self.limits)
        return LocalEngine(self._here, children)

    def _pool(self, workers: Workers) -> Engine:
        """The workers of this machine; InputError for what only this process has, and for more than its cards."""
        if not self.plan.is_rebuildable:
            raise InputError(
                f"workers {workers}: model {self.plan.model.name!r} was given as an object, which only this process "
                "has; expected a name or file.py:function, or no workers"
            )
        device = self.plan.trial.device
        count = local_count(workers, device, torch.cuda.device_count() if device.type == "cuda" else 0)
        # The processes of all workers share the machine's memory.
        limits = replace(self.limits, processes=count)
        return Pool(self._here, self.plugins, self.folder, limits, count, self)

    @cached_property
    def _here(self) -> Here:
        return Here(self.plan, self.extractors, lambda: self.find_solution())  # noqa: PLW0108  (it is set later)

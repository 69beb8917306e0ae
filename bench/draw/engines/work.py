"""The work of a run, which its engine is made for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from ....samplers.engine import Done, Engine, Job
from ....samplers.errors import PluginError
from ....samplers.variables import IN_PROCESS, is_on
from ...plan.plan import Plan
from .children import Children, Limits
from .elsewhere import description_of
from .here import Here
from .local import LocalEngine


def too_early() -> Tensor | None:
    """What an engine is told that asks before there is an answer."""
    raise PluginError("an engine asked for a chunk or a description before it was to draw; expected that in draw alone")


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
    """Of the children of the local engine."""
    find_solution: Callable[[], Tensor | None] = too_early
    """Returns the converged ODE solution, None where the run has none; it is drawn before the first job."""

    @cached_property
    def description(self) -> bytes:
        """All that `draw_job` needs."""
        return description_of(self.plan, self.plugins, self.find_solution())

    def draw(self, job: Job) -> Done:
        """Draw a job in this process."""
        return self._here.draw(job)

    def local(self) -> Engine:
        """The local engine. Nothing of it is started yet."""
        everything_here = not self.plan.is_rebuildable or is_on(IN_PROCESS, os.environ)
        children = None if everything_here else Children(self.plan, self.plugins, self.folder, self.limits)
        return LocalEngine(self._here, children)

    @cached_property
    def _here(self) -> Here:
        return Here(self.plan, self.extractors, lambda: self.find_solution())  # noqa: PLW0108  (it is set later)

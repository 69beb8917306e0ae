"""Plan: the cells of a run, each sampler x step count, with all that decides their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any, overload

from ...samplers.acceleration import accelerate
from ...samplers.arguments import check_unconditional
from ...samplers.errors import InputError, PluginError, quote
from ...samplers.model import Model
from ...samplers.noise import BLOCK
from ...samplers.options import at_fault
from ...samplers.process import changes_told, state_kept
from ...samplers.registry import Registry
from ...samplers.sample import Request, check_fit, request_for
from ...samplers.sampler import MAX_CALLS, MAX_ORDER, MAX_STEPS, Sampler, declared_calls, needs_unconditional
from ...samplers.schedule import VP
from ...samplers.text import count_of
from .config import Config
from .equipment import equip, model_for
from .identity import identify, unknown
from .keys import (
    asked_setting,
    cell_setting,
    digest,
    fields_given,
    files_of,
    setting_of,
    shared_setting,
    source_hash,
)
from .names import texts_of
from .settings import names_of
from .shard import Shard
from .sources import Code, FileUsed, code_of_class

ALWAYS = names_of(lambda one: one.always_in_key)
"""The settings that are part of a plan's key even at their defaults; the others are left out there, so that a setting
that is added later changes no key."""
KEPT_SIDE = 64
"""Images up to this side length are all kept, unless told otherwise."""
KEPT_IMAGES = 16
"""Images of each cell that are always kept."""
TRIAL_SAMPLER = "ddim"
ODE_SAMPLES, ODE_SHARE = 256, 4
"""The ODE is solved for at most 256 images, and at most for one in 4."""
ODE_SAMPLER = "dpm-solver++:order=2"
ODE_STEPS = 101
"""100 steps that are even in lambda, and one to the clean end."""


Place = tuple[str, int, float]
"""Sampler spec, step count or budget of model calls, and guidance: one cell of a run."""


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    sampler: str
    """The spec as given."""
    grid: str
    steps: int
    nfe: int | None
    request: Request
    key: str
    """Hash of all that decides the cell's samples and their timing."""
    setting: str
    """Hash of all that without the sampler's code and files: it stays when these are edited."""
    budget: int = 0
    """The step count, or the budget of model calls, that the cell was asked for."""
    is_foreign: bool = False
    """Whether its sampler did not come with samplerbench."""
    convergence: int | None = None
    """The order that its sampler declares; None if stochastic."""
    files: tuple[FileUsed, ...] = ()
    """The files that the sampler opens by name, at any time."""
    name: str = ""
    """What its rows are called; '' = by the spec."""

    @property
    def shown(self) -> str:
        """What people read: the name, or the spec."""
        return self.name or self.sampler

    @property
    def place(self) -> Place:
        """Which of the run's cells it is."""
        return self.sampler, self.budget, self.request.guidance

    @property
    def is_deterministic(self) -> bool:
        """Whether the samples solve the probability flow ODE, so that a distance to its solution means something.

        A sampler that takes the parts with and without the prompt apart solves another equation than that of their mix.
        """
        is_apart = self.request.sampler.needs_unconditional and self.request.model.encode is not None
        return self.convergence is not None and not is_apart

    @property
    def warning(self) -> str:
        """What a user must know about its levels, in words; '' if there is nothing to say."""
        return "; ".join(self.request.notes)

    @property
    def network_evaluations(self) -> int | None:
        """Network passes for one sample, guidance's second pass included: with an interval of guidance, at most."""
        return None if self.nfe is None else self.nfe * self.request.passes


@dataclass(frozen=True)
class Block:
    """Consecutive sample indices."""

    number: int
    first: int
    n: int
    is_at_once: bool = False
    """Whether they are drawn in one batch of their own size, only for the time; then it is no block of the run."""


@dataclass(frozen=True)
class Blocks(Sequence[Block]):
    """Sample indices in blocks of one size; the last may be cut. They are computed, so that many cost no memory."""

    samples: int
    """The samples of the whole run."""
    size: int
    start: int = 0
    """Number of the first block that is among these."""
    every: int = 1
    """How many blocks of the run it is from one of these to the next."""

    def __len__(self) -> int:
        """The number of blocks, with the cut one."""
        return max(0, (self._all - self.start + self.every - 1) // self.every)

    @overload
    def __getitem__(self, number: int) -> Block: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Block, ...]: ...
    def __getitem__(self, number: int | slice) -> Block | tuple[Block, ...]:
        """The block of an index, or those of a slice."""
        numbers = range(len(self))[number]
        if isinstance(numbers, range):
            return tuple(map(self.block, numbers))
        return self.block(numbers)

    def __iter__(self) -> Iterator[Block]:
        """One after the other."""
        return map(self.block, range(len(self)))

    def block(self, place: int) -> Block:
        """The block at a valid place; its number is that in the whole run."""
        number = self.start + place * self.every
        first = number * self.size
        return Block(number, first, min(self.size, self.samples - first))

    def at(self, first: int, n: int) -> Block | None:
        """The block of n samples that begins at this index; None if there is none."""
        # Computed, not searched: a plan may have a million blocks.
        number, rest = divmod(first, self.size)
        place, between = divmod(number - self.start, self.every)
        block = self.block(place) if not rest and not between and 0 <= place < len(self) else None
        return block if block and block.n == n else None

    @property
    def whole(self) -> int:
        """The number of blocks of full size."""
        return max(1, len(self) - self._has_cut)

    @property
    def images(self) -> int:
        """How many samples are in these."""
        return len(self) * self.size - (self.size - self.samples % self.size if self._has_cut else 0)

    @property
    def _all(self) -> int:
        """How many blocks the whole run has."""
        return (self.samples + self.size - 1) // self.size

    @property
    def _has_cut(self) -> bool:
        """Whether the last of these is smaller than the others."""
        return self.samples % self.size > 0 and (self._all - 1 - self.start) % self.every == 0


@dataclass(frozen=True)
class Plan:
    """Everything that a run will do."""

    config: Config
    model: Model
    cells: tuple[Cell, ...]
    references: tuple[Request, ...]
    """The converged ODE solutions that deterministic cells are compared with, one for each guidance; () if there is no
    such cell."""
    trial: Request
    """The levels of the first cell with a built-in sampler: for warming up, and for estimates of time."""
    is_rebuildable: bool
    """Whether another process can make this plan from the configuration; not if the model was given as an object."""
    shard: Shard | None = None
    """Which part of the run is drawn; None = all of it."""

    @cached_property
    def key(self) -> str:
        """Hash of the configuration and of every cell, without the samplers' code and files: an edited sampler is drawn
        again in the same folder, beside the stored chunks of the others. The order of the rows does not change it."""
        order = {place: i for i, place in enumerate(product_of(self.config))}
        # In the order of the settings, whatever the order of the rows: a run that was added to has the key of the
        # whole.
        in_turn = sorted(self.cells, key=lambda cell: order.get(cell.place, len(order)))
        # Without display names: a run keeps its folder when its rows get other names.
        always = {name: getattr(self.config, name) for name in ALWAYS} | {"sampler": self.config.specs}
        return digest([always, fields_given(self.config, but=ALWAYS), [cell.setting for cell in in_turn]])

    def of(self, *specs: str) -> Plan:
        """The part of the plan for some sampler specs."""
        cells = tuple(cell for cell in self.cells if cell.sampler in specs)
        # The trial goes with the first cell of the part: a worker of a few specs warms up with levels that it will
        # draw.
        trial = replace(cells[0].request, sampler=self.trial.sampler)
        texts = texts_of({spec: self.config.names[spec] for spec in specs})
        return replace(self, config=replace(self.config, sampler=texts), cells=cells, trial=trial)

    @cached_property
    def blocks(self) -> Blocks:
        """The sample indices in blocks; each cell has one chunk for each block."""
        # A block has at least one whole batch and one whole block of noise, so nothing is computed and thrown away.
        size = max(BLOCK, self.cells[0].request.batch_size)
        if self.shard is None:
            return Blocks(self.config.samples, size)
        return Blocks(self.config.samples, size, self.shard.number - 1, self.shard.of)

    def for_shard(self, shard: Shard | None) -> Plan:
        """This plan with only a part of its blocks; without the ODE solution if none of their samples has one."""
        if shard is None:
            return self
        if len(self.blocks) < shard.of:
            raise InputError(
                f"shard {shard}: the run has {count_of(len(self.blocks), 'block')} of {self.blocks.size} samples; "
                "expected no more shards than that"
            )
        part = replace(self, shard=shard)
        # Only the first samples have distances to the solution; a shard that begins behind them needs none.
        return part if part.blocks[0].first < self.ode_samples else replace(part, references=())

    @property
    def network_evaluations(self) -> int:
        """Sample evaluations of all cells and of the ODE solution; adaptive cells are not counted."""
        total = sum((cell.network_evaluations or 0) for cell in self.cells) * self.blocks.images
        return total + self.reference_evaluations

    @cached_property
    def reference_key(self) -> str:
        """Hash of all that decides the ODE references; '' where there is none."""
        # The code of the solver too: if it is edited, the solution is solved again.
        hashes = [digest([cell_setting(one, ()), source_hash(type(one.sampler))]) for one in self.references]
        return hashes[0] if len(hashes) == 1 else digest(hashes) if hashes else ""

    @property
    def reference_evaluations(self) -> int:
        """Sample evaluations of the ODE references."""
        return self.ode_samples * sum((len(one.levels) - 1) * one.passes for one in self.references)

    @property
    def ode_samples(self) -> int:
        """How many samples have a converged solution."""
        return ode_count(self.config.samples) if self.references else 0

    @property
    def keep_images(self) -> bool:
        """Whether every image is kept."""
        if self.config.keep_images is not None:
            return self.config.keep_images
        return max((self.model.shown_shape or self.model.shape)[-2:]) <= KEPT_SIDE


def ode_count(samples: int) -> int:
    """How many of a run's samples are compared with their converged solution, at least one."""
    # A hundred steps of a second-order solver cost as much as many cells, so only some samples are solved.
    return max(1, min(ODE_SAMPLES, samples // ODE_SHARE))


def plan_for(config: Config, registry: Registry, model: Model | None = None) -> Plan:
    """Resolve every name of a configuration; errors name the setting.

    Changes of the process by encoders and grids are undone, because a key says under which switches samples are drawn.
    """
    with registry.remarking("plan of", model.name if model else config.model, " (an encoder or a grid did)"):
        return plan_from(config, registry, model)


def plan_from(config: Config, registry: Registry, given_model: Model | None) -> Plan:
    """The plan; making it may run code of other packages."""
    model = equip(given_model, config, registry) if given_model else model_for(config, registry)
    # The model is known before the cells, because its fingerprint is part of their keys.
    # A model without a fingerprint is recognised by what it answers as it is, not by what a compiler makes of it.
    model = accelerate(identify(model, registry, config), config.acceleration, config.device)
    return plan_of(config, registry, model, is_rebuildable=given_model is None)


def with_seed(plan: Plan, seed: int, registry: Registry) -> Plan:
    """The plan of the same run with another seed; its model is not loaded again."""
    return plan_of(replace(plan.config, seed=seed), registry, plan.model, is_rebuildable=plan.is_rebuildable)


def plan_of(config: Config, registry: Registry, model: Model, *, is_rebuildable: bool) -> Plan:
    """The plan for a model that is ready to draw."""
    for name in config.metric:
        registry.metrics[name]
    # Hashing a model reads all its weights, so that is done once for all cells.
    known = Known(shared_setting(model, {registry.metrics[name].extractor for name in config.metric}))
    check_names(config.names, registry)
    cells = [
        replace(cell, name=name)
        for spec, name in config.names.items()
        for cell in cells_for(config, registry, model, spec, known)
    ]
    # A stochastic sampler does not follow the ODE: its distance to the solution would mean nothing.
    solved = config.guidances if any(cell.is_deterministic for cell in cells) else ()
    references = tuple(ode_reference(config, registry, model, guidance) for guidance in solved)
    trial = replace(cells[0].request, sampler=registry.sampler(TRIAL_SAMPLER))
    return Plan(config, model, tuple(cells), references, trial, is_rebuildable)


def check_names(names: Mapping[str, str], registry: Registry) -> None:
    """InputError for the display name of a spec that is a sampler, unless its rows are of that sampler."""
    for spec, name in names.items():
        if not name:
            continue
        if spec[:1].isdigit() and not registry.is_sampler(spec):
            registry.parse_sampler(f"{name}={spec}")  # an option without its colon, which the error says
        if registry.is_sampler(name) and registry.parse_sampler(name) != registry.parse_sampler(spec):
            raise InputError(
                f"sampler {quote(f'{name}={spec}')}: the name {quote(name)} is that of another sampler; give the rows "
                "a name of their own"
            )


def product_of(config: Config) -> Iterator[Place]:
    """The place of every cell, sampler by sampler and guidance by guidance."""
    return ((spec, count, w) for spec, w, count in product(config.specs, config.guidances, config.counts))


def part_of(plan: Plan, config: Config) -> Plan | None:
    """The part of a plan that another configuration describes; None where the plan has not all of its cells."""
    cells = {cell.place: cell for cell in plan.cells}
    places = list(product_of(config))
    if not cells.keys() >= set(places):
        return None
    return replace(plan, config=config, cells=tuple(cells[place] for place in places))


def behind(plan: Plan, first: Sequence[Place]) -> Plan:
    """The plan with the cells of these places first, as the rows of a run that is there stand."""
    cells = {cell.place: cell for cell in plan.cells}
    if not cells.keys() >= set(first):
        return plan  # of another run, which is refused where its folder is opened
    # The rows that are there, then the new ones in the order of the product.
    order = dict.fromkeys([*first, *cells])
    return replace(plan, cells=tuple(cells[place] for place in order))


@dataclass
class Known:
    """What the cells of a plan share, cached because there may be many of them."""

    setting: str
    """`shared_setting` of model and extractors."""
    asked: dict[tuple[str, int, float, bool, bool], tuple[Request, str]] = field(default_factory=dict)
    """By grid, steps, guidance, whether the first call is analytic, and whether the sampler needs the unconditional
    part: only the sampler differs. The request, and `asked_setting` of it."""
    code: dict[type, Code] = field(default_factory=dict)
    """The code of each sampler class, which is read from the disk."""


def cells_for(config: Config, registry: Registry, model: Model, spec: str, known: Known) -> list[Cell]:
    """The cells of a sampler spec; PluginError for a plugin's sampler whose declarations change the process."""
    # Watching the process costs time, and built-in samplers are known to leave it alone.
    kept: AbstractContextManager[list[str]] = state_kept() if registry.is_foreign(spec) else nullcontext([])
    with kept as changed:
        places = [(count, guidance) for guidance in config.guidances for count in config.counts]
        cells = [cell_for(config, registry, model, spec, place, known) for place in places]
    if changed:
        raise PluginError(
            f"sampler {spec!r}: what it declares (nfe, convergence, plan, options) {changes_told(changed)}; "
            "leave the process as it is"
        )
    return cells


def cell_for(  # noqa: PLR0913  (a cell's coordinates)
    config: Config, registry: Registry, model: Model, spec: str, place: tuple[int, float], known: Known
) -> Cell:
    """The cell of a sampler spec at a step count, or at the step count that an NFE budget allows, and at a guidance."""
    budget, guidance = place
    sampler, own_grid, analytic_first = registry.parse_sampler(spec)
    grid = own_grid or config.grid or model.schedule.default_grid
    steps = budget
    # A first call without the network costs nothing, so the budget reaches for one call more.
    if config.nfe:
        sampler, steps = sampler_for_budget(sampler, spec, budget + analytic_first)
    with at_fault(f"sampler {spec!r}: needs_unconditional"):
        alike = grid, steps, guidance, analytic_first, check_unconditional(sampler, model, repr(spec))
    # Levels, prompts and model are checked once for all samplers that are alike in these.
    if alike not in known.asked:
        request = request_in(config, registry, model, sampler, grid, steps, guidance, analytic_first=analytic_first)
        known.asked[alike] = request, asked_setting(request, (), known.setting)
    request, asked = known.asked[alike]
    request = check_fit(replace(request, sampler=sampler), any_model=config.any_model)
    setting = setting_of(sampler, asked)
    code = known.code.get(type(sampler)) or code_of_class(type(sampler))
    known.code[type(sampler)] = code
    # An edited file gives another key, as edited code does, so that earlier chunks are not taken for its own.
    contents, named = files_of(sampler)
    key = digest([setting, code.digest, contents])
    nfe, order = declared_nfe(request, spec), declared_order(sampler, spec)
    # Checked again at each chunk, since they may be edited while the run goes on.
    foreign, files = registry.is_foreign(spec), (*named, *code.files)
    return Cell(spec, grid, steps, nfe, request, key, setting, budget, foreign, order, files)


def warnings_of(plan: Plan) -> list[str]:
    """Each warning once, with the cells that it is about; that the run will not resume comes first."""
    cells: dict[str, list[str]] = {}
    of_prompts = dict.fromkeys(told for cell in plan.cells for told in cell.request.of_prompts)
    for cell in plan.cells:
        for warning in (one for one in cell.request.warnings if one not in of_prompts):
            cells.setdefault(warning, []).append(f"{cell.shown}, {count_of(cell.steps, 'step')}")

    def of(names: list[str]) -> str:
        return names[0] if len(names) == 1 else f"{names[0]} and {count_of(len(names) - 1, 'other cell')}"

    own = [unknown(plan.model)] if not plan.model.fingerprint else []
    return [*own, *of_prompts, *(f"{of(names)}: {warning}" for warning, names in cells.items())]


def summary(plan: Plan) -> dict[str, Any]:
    """What `--dry-run` says of a plan."""
    samples = plan.config.samples

    def about(cell: Cell) -> dict[str, Any]:
        one = cell.network_evaluations
        names: dict[str, Any] = {"sampler": cell.shown, **({"spec": cell.sampler} if cell.name else {})}
        names |= {"grid": cell.grid, "steps": cell.steps, "nfe": cell.nfe}
        names |= {"guidance": cell.request.guidance} if len(plan.config.guidances) > 1 else {}
        evaluations = None if one is None else one * samples
        return {**names, "network_evaluations": evaluations, "warning": cell.warning or None}

    return {
        "model": plan.model.name,
        "cells": [about(cell) for cell in plan.cells],
        "samples": samples,
        "network_evaluations": plan.network_evaluations,
    }


def sampler_for_budget(sampler: Sampler, spec: str, budget: int) -> tuple[Sampler, int]:
    """The sampler and its steps for a budget of calls; PluginError if the sampler answers with anything invalid."""
    with at_fault(f"sampler {spec!r}: plan({budget})"):
        try:
            found: object = sampler.plan(budget)
        # What the author says to the user, such as the least budget, passes as it is; all else is the plugin's fault.
        except InputError as error:
            raise InputError(f"sampler {spec!r}: {error}") from error
    match found:
        case (Sampler() as sampler, int(steps)) if type(steps) is int and 1 <= steps <= MAX_STEPS:
            return sampler, steps
    raise PluginError(
        f"sampler {spec!r}: plan({budget}) returned {quote(found)}; expected a pair of a sampler and a whole number "
        f"of steps from 1 to {MAX_STEPS}"
    )


def declared_nfe(request: Request, spec: str) -> int | None:
    """The calls that a sampler declares for these levels; PluginError if it answers with anything invalid."""
    steps = len(request.levels) - 1
    with at_fault(f"sampler {spec!r}: nfe({steps})"):
        nfe = declared_calls(request.sampler, request.levels, analytic_first=request.analytic_first)
        if nfe is not None and (type(nfe) is not int or not 0 <= nfe <= MAX_CALLS):
            raise PluginError(
                f"sampler {spec!r}: nfe({steps}) returned {quote(nfe)}; "
                f"expected a whole number from 0 to {MAX_CALLS}, or None"
            )
    return nfe


def declared_order(sampler: Sampler, spec: str) -> int | None:
    """The order of convergence that a sampler declares; PluginError if it is invalid."""
    with at_fault(f"sampler {spec!r}: convergence"):
        order = sampler.convergence
        if order is not None and (type(order) is not int or not 1 <= order <= MAX_ORDER):
            raise PluginError(
                f"sampler {spec!r}: convergence is {quote(order)}; "
                f"expected a whole number from 1 to {MAX_ORDER}, or None"
            )
    return order


def ode_reference(config: Config, registry: Registry, model: Model, guidance: float) -> Request:
    """The request whose samples stand for the converged ODE solution at a guidance."""
    schedule, steps = model.schedule, ODE_STEPS
    if isinstance(schedule, VP) and model.timesteps == "integer":
        # A network with whole timesteps knows no more levels than it has timesteps.
        steps = min(steps, schedule.timesteps)
    # Even in lambda is best for a solver in lambda; where lambda is infinite at the start there is no such grid.
    grid = "uniform" if math.isinf(schedule.first.sigma_ve) else "logsnr"
    return request_in(config, registry, model, registry.sampler(ODE_SAMPLER), grid, steps, guidance)


def request_in(  # noqa: PLR0913  (a cell's coordinates)
    config: Config,
    registry: Registry,
    model: Model,
    sampler: Sampler,
    grid: str | None,
    steps: int,
    guidance: float,
    *,
    analytic_first: bool = False,
) -> Request:
    """A request with the configuration's settings."""
    return request_for(
        registry, model, sampler, steps=steps, grid=grid, analytic_first=analytic_first,
        **config.request_settings(guidance, unconditional=needs_unconditional(sampler)),
    )  # fmt: skip

"""What a sampler is, and the one loop that drives every sampler."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor

from .errors import InputError, PluginError, SamplerbenchError, quote
from .grid import Levels
from .level import Level
from .predictor import ALL, Prediction, Predictor, Question, analytic
from .schedule import Schedule

MAX_STEPS = 10_000
"""Most steps of a run: more is a mistake."""
MAX_CALLS = 100 * MAX_STEPS
"""Most predictor calls of a run: a sampler that declares more is wrong."""
MAX_ORDER = 99
"""Highest order of convergence that a sampler may declare: no method reaches it."""
Past = Any
"""What a step hands to the next one, None in the first; its type is the sampler's choice."""


class SamplerFault(SamplerbenchError):  # noqa: N818  (the sampler is at fault, not the program)
    """A sampler broke the rules for samplers; the message names the step."""


def question_of(given: object) -> Question:
    """(x, level) or (x, level, ask) -> the question; InputError for anything else."""
    match given:
        case (Tensor() as x, Level() as level) | (Tensor() as x, Level() as level, None):
            return Question(x, level)
        case (Tensor() as x, Level() as level, Level() as ask):
            return Question(x, level, ask)
    raise InputError(f"predict_many: {type(given).__name__}; expected (x, level) or (x, level, ask)")


@dataclass
class StepContext:
    """What a step can ask for: predictions of the model, noise, levels, and its place on the grid."""

    grid: Levels
    """All levels of the run, the clean end last."""
    predictor: Predictor
    """The model; a step calls `predict` instead."""
    draw: Callable[[Level, Level, int, int], Tensor]
    """(a, b, interval number, ordinal of the draw in this step) -> unit normal noise."""
    schedule: Schedule
    """The model's noise schedule."""
    integer: bool = False
    """Whether the network knows whole timesteps only."""
    i: int = 0
    """Number of the interval: the step starts from grid[i]."""
    _draws: int = 0
    analytic_first: bool = False
    """Whether the first call of the first step is answered by `analytic`, without the network."""
    _answered: set[int] = field(default_factory=set)
    """The rows that a call of the first step was about."""

    def predict(
        self,
        x: Tensor,
        level: Level,
        rows: slice = ALL,
        *,
        ask: Level | None = None,
        hints: Mapping[str, Any] | None = None,
    ) -> Prediction:
        """Ask the model about the state x at a level. One call = one function evaluation (NFE).

        A sampler with different steps for each sample asks about some `rows` only; x is then the state of those. With
        `ask` the network is told that level, and its answer is converted at `level`. `hints` go to a network that takes
        them; InputError for another.
        """
        if self._is_analytic(x, rows):
            return analytic(x, level)
        if ask is not None or hints:
            return self.predictor.many([Question(x, level, ask)], rows, hints)[0]
        # A plain function of x and level, as a test may give, takes no rows.
        return self.predictor(x, level) if rows == ALL else self.predictor(x, level, rows)

    def predict_many(
        self,
        asked: Iterable[tuple[Tensor, Level] | tuple[Tensor, Level, Level | None]],
        rows: slice = ALL,
        *,
        hints: Mapping[str, Any] | None = None,
    ) -> list[Prediction]:
        """Ask about several states at once: (x, level), or (x, level, ask), each; a prediction for each, in order.

        The network gets them in one batch, each row with its own t; in two where an interval of guidance lies between
        their levels. Each counts as a call in NFE, all together as one in depth. The states are of one shape and dtype.
        """
        questions = [question_of(one) for one in asked]
        kinds = {(one.x.shape, one.x.dtype, one.x.device) for one in questions}
        if len(kinds) > 1:
            shapes = " and ".join(sorted(str(tuple(shape)) for shape, _, _ in kinds))
            raise InputError(f"predict_many: states of {shapes}; expected one shape, dtype and device")
        if questions and self._is_analytic(questions[0].x, rows):
            # Of several states only the first is the run's first call; the others go to the network.
            first = analytic(questions[0].x, questions[0].level)
            return [first, *self._many(questions[1:], rows, hints)]
        return self._many(questions, rows, hints)

    def _many(self, asked: Sequence[Question], rows: slice, hints: Mapping[str, Any] | None) -> list[Prediction]:
        if hasattr(self.predictor, "many"):
            return self.predictor.many(asked, rows, hints) if asked else []
        # A plain function, as a test may give, answers one by one.
        return [self.predict(x, level, rows) for x, level, _ in asked]

    def _is_analytic(self, x: Tensor, rows: slice) -> bool:
        """Whether this call is the first one of the run about any of these rows, and no call of the network."""
        if not self.analytic_first or self.i:
            return False
        first = rows.start or 0
        here = range(first, first + len(x))
        # By rows, because a sampler with different steps for each sample asks about some of them: each row has a first
        # call.
        is_first = self._answered.isdisjoint(here)
        self._answered.update(here)
        return is_first

    def noise(self, a: Level, b: Level) -> Tensor:
        """Unit normal noise for the interval from a to b. Ask only where its factor is not zero."""
        # Noise is keyed by the interval and the number of the draw in it, so it does not depend on what ran before.
        self._draws += 1
        return self.draw(a, b, self.i, self._draws - 1)

    def at(self, lambda_: float) -> Level:
        """The level at log(alpha / sigma) = lambda_; the nearest whole timestep if the network knows only those."""
        # A rounded timestep has its own lambda: the caller must use that of the level it gets.
        level = self.schedule.at_lambda(lambda_)
        return self.schedule.finite_at(round(level.t)) if self.integer else level

    def between(self, a: Level, b: Level, count: int) -> list[tuple[float, Level]]:
        """`count` levels inside an interval, evenly spaced in lambda, each with its relative position in (0, 1).

        An empty list if lambda is infinite at an end, or if the network knows too few timesteps in between.
        """
        # lambda is infinite at alpha = 0 and at the clean end, where no point lies at a given share of the way.
        h = b.lambda_ - a.lambda_
        if math.isinf(h):
            return []
        levels = [self.at(a.lambda_ + h * k / (count + 1)) for k in range(1, count + 1)]
        # Rounding to whole timesteps moves levels, so the solver gets the positions that they really have.
        places = [(level.lambda_ - a.lambda_) / h for level in levels]
        # Two levels may round to one timestep, or to an end of the interval; no solver can use them.
        ascending = all(low < high for low, high in pairwise((0.0, *places, 1.0)))
        return list(zip(places, levels, strict=True)) if ascending else []

    def enter(self, i: int) -> None:
        """Go to interval number i."""
        self.i, self._draws = i, 0
        self._answered.clear()


@dataclass(frozen=True)
class Sampler(ABC):
    """A method that turns noise into samples: a frozen dataclass of its options.

    A subclass defines `convergence`, `nfe` and `step`. Formulas are written in (alpha, sigma), so that one sampler
    serves VP, EDM and flow models.
    """

    convergence = None  # type: int | None
    """The order with which the error falls as the steps shrink; None = stochastic."""
    needs_unconditional = False  # type: bool
    """Whether every prediction must have its `unconditional` part: with prompts the network is then asked twice at
    guidance 1 too."""
    exact_for = ()  # type: tuple[str, ...]
    """What it solves exactly, however long the steps are: "x0 linear in lambda", "eps constant in sigma/alpha"; see
    docs/writing-a-sampler.md. `samplerbench check` holds it to that."""
    strong_order = None  # type: float | None
    """For a sampler with noise: the order with which each sample tends to that of the SDE, along one Brownian path;
    None = no claim. `samplerbench check` holds it to that."""
    claims: ClassVar[Mapping[str, str]] = {}
    """Lines of the report card that do not apply to this method -> why, as {"last jump": "extrapolates on purpose"}; a
    line is named by how it begins. The card prints the reason."""
    aliases: ClassVar[Mapping[str, str]] = {}
    """Names of this sampler in other programs -> the options that they stand for, e.g. {"Euler a": "eta=1"}."""

    @property
    def step_convergence(self) -> int | None:
        """The order of any single step, however much its neighbours differ from it in length.

        It is less than `convergence` for a multistep method with the coefficients of equal steps, and for a method that
        takes a few intervals of a run with a lower order.
        """
        return self.convergence

    @property
    def own_grid(self) -> str | None:
        """The grid that the sampler is made for, as a spec; used unless `grid=` stands in the sampler's. None = any."""
        return None

    @property
    def own_steps(self) -> int | None:
        """The number of steps that the sampler is made for, as a learned one is; None = any."""
        return None

    @property
    def remark(self) -> str:
        """What a table says of its rows, such as that its default is another sampler; '' = nothing."""
        return ""

    def misfit(self, fingerprint: str, guidance: float, steps: int, *, plain: bool) -> str:
        """Why the sampler is not for a run with this model and guidance, in words; '' = it is.

        `plain`: whether guidance acts at all levels, and is not rescaled.
        Such a run is refused unless the user says `--any-model`, and then the table says it. What cannot be drawn at
        all, as with another number of steps, is refused with an InputError.
        """
        return ""

    @abstractmethod
    def nfe(self, steps: int) -> int | None:
        """Predictor calls of a run of `steps` steps; None = adaptive, only counted.

        For a run that starts at a level with alpha > 0. From alpha = 0, every method takes the first interval with one
        call, and the rest counts as a run with one step fewer: see `declared_calls`.
        """

    @abstractmethod
    def step(self, run: StepContext, x: Tensor, a: Level, b: Level, past: Past) -> tuple[Tensor, Past]:
        """Take the state x (n, *shape) from level a to the cleaner level b; returns (x, past)."""

    def plan(self, nfe: int) -> tuple[Sampler, int]:
        """(sampler, steps) for a budget of predictor calls: the most steps with nfe(steps) <= nfe.

        InputError if the budget is too small; the caller adds the sampler's name.
        """
        if self.nfe(1) is None:
            raise InputError(f"nfe {nfe}: it is adaptive, with no step count to plan for; use --steps")
        # `nfe` is any function that grows with the steps, so the largest that fits is searched.
        steps = 0
        while steps < MAX_STEPS and (needed := self.nfe(steps + 1)) is not None and needed <= nfe:
            steps += 1
        if not steps:
            raise InputError(f"nfe {nfe}: expected at least {self.nfe(1)}, the calls of one step")
        return self, steps


def integrate(
    sampler: Sampler,
    run: StepContext,
    x: Tensor,
    *,
    watch: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Take x from the first level of the grid to the clean end; `watch` is called with the state after each step."""
    past: Past = None
    for i, (a, b) in enumerate(pairwise(run.grid)):
        # The noise of a step is keyed by its interval.
        run.enter(i)
        # A step that changed its input in place would corrupt predictions and states that others still hold.
        given, changes = x, _changes(x)
        x, past = _pair(sampler.step(run, x, a, b, past), sampler, i)
        if _changes(given) != changes:
            raise SamplerFault(f"{_name(sampler)}, step {i}: changed the state it was given; return a new tensor")
        # Also dtype and device: a state that was widened or moved would change results and times.
        if not isinstance(x, Tensor) or (x.shape, x.dtype, x.device) != (given.shape, given.dtype, given.device):
            raise SamplerFault(f"{_name(sampler)}, step {i}: returned {_describe(x)}; expected {_describe(given)}")
        if watch:
            watch(x)
    return x


def declared_calls(sampler: Sampler, grid: Levels, *, analytic_first: bool = False) -> int | None:
    """Predictor calls of a run over these levels, as the sampler declares them; None = adaptive."""
    # `first` is what the first interval costs where it takes a single call: none if that one is analytic.
    steps, first = len(grid) - 1, 0 if analytic_first else 1
    if grid[0].alpha or steps == 1:
        calls = sampler.nfe(steps)
        return calls if calls is None else calls - 1 + first
    # From alpha = 0 the first interval takes one call in every sampler.
    rest = sampler.nfe(steps - 1)
    return None if rest is None else first + rest


def needs_unconditional(sampler: Sampler) -> bool:
    """Whether it says so; PluginError for anything but true or false."""
    needs: object = sampler.needs_unconditional
    if not isinstance(needs, bool):
        raise PluginError(f"{_name(sampler)}: needs_unconditional is {quote(needs)}; expected True or False")
    return needs


def check_finite(sampler: Sampler, x: Tensor, replay: Callable[[Callable[[Tensor], None]], object] | None) -> None:
    """Raise SamplerFault if x is not finite. `replay` draws again, and the message names the step where it began."""
    if bool(x.isfinite().all()):
        return
    # Checking every step of every run would make the device wait; the failed run is repeated instead.
    finite_steps = 0

    def watch(state: Tensor) -> None:
        nonlocal finite_steps
        if not bool(state.isfinite().all()):
            raise SamplerFault(f"{_name(sampler)}, step {finite_steps}: the state is not finite (NaN or infinity)")
        finite_steps += 1

    if replay:
        replay(watch)
    raise SamplerFault(f"{_name(sampler)}: the result is not finite (NaN or infinity)")


def _pair(returned: object, sampler: Sampler, i: int) -> tuple[Any, Past]:
    if not (isinstance(returned, tuple) and len(returned) == 2):  # noqa: PLR2004  (the pair that step returns)
        raise SamplerFault(f"{_name(sampler)}, step {i}: returned {_describe(returned)}; expected the pair (x, past)")
    return returned


def _changes(x: Tensor) -> int:
    """How often a tensor was changed in place; torch does not count this in inference mode."""
    return 0 if x.is_inference() else x._version


def _name(sampler: Sampler) -> str:
    return f"sampler {type(sampler).__name__}"


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')} on {value.device}"
    return f"a {type(value).__name__}" if value is not None else "None"


FAR = 10
"""A number of steps from which on every sampler's NFE is linear in the steps."""


def nfe_rule(sampler: Sampler) -> str:
    """The NFE that a sampler declares, as "steps", "2 steps - 1" or "adaptive"."""
    here, there = sampler.nfe(FAR), sampler.nfe(FAR + 1)
    if here is None or there is None:
        return "adaptive"
    # Two points determine the line NFE = factor steps + rest.
    factor, rest = there - here, here - FAR * (there - here)
    rule = "steps" if factor == 1 else f"{factor} steps"
    return f"{rule} {'+' if rest > 0 else '-'} {abs(rest)}" if rest else rule

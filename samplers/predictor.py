"""The noise-predictor interface: network(x, t, condition) -> Prediction.

The network's answer (eps, x0, v or flow) is converted here, once. Guidance, bounds of x0 and counting are wrappers
around a predictor; samplers know nothing of them.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args

import torch
from torch import Tensor

from .errors import InputError, ModelError, SamplerbenchError, in_line, quote
from .level import Level
from .noise import BLOCK
from .options import check_count, is_number

Predicts = Literal["eps", "x0", "v", "flow"]
"""What a network predicts: the noise, the clean sample, v = alpha eps - sigma x0, or flow = eps - x0."""
Timesteps = Literal["fractional", "integer"]
"""Which times a network knows: any, or only whole timesteps, if it looks them up in a table."""
WIDE_STATE_BELOW = 1e-3
"""A run that passes a level with alpha below this, and not 0, keeps its state in float64. Rounding a float32 state
changes it by 6e-8, and by 6e-8 / alpha in units of the data; samplers that reuse earlier predictions carry that to the
end."""
LEAST_ALPHA_OF_EPS = 1e-5
"""Below this alpha a network that answers with eps is asked in float64 only: x0 = (x - sigma eps) / alpha magnifies the
rounding of a float32 answer, 6e-8, to more than one grey level. The published cosine schedules stay above it."""


class NetworkFault(SamplerbenchError):  # noqa: N818  (the network is at fault, not the program)
    """A network broke the rules for networks, or ran out of memory."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A network's prediction for the state x at a level, whatever it predicts; guidance and bounds are included."""

    x: Tensor
    """The state, (n, *shape)."""
    level: Level
    """The noise level of x."""
    answer: Tensor
    """The network's answer, (n, *shape)."""
    predicts: Predicts
    """What the answer is: eps, x0, v or flow."""
    unconditional: Prediction | None = None
    """The network's own answer without the prompt, of the same call, before guidance and bounds of x0; None if the
    network was not asked without it. A sampler with `needs_unconditional = True` always finds one."""

    @property
    def x0(self) -> Tensor:
        """The predicted clean sample."""
        return self.combine(1.0, 0.0)

    @property
    def eps(self) -> Tensor:
        """The predicted noise."""
        return self.combine(0.0, 1.0)

    def combine(self, p: float, q: float) -> Tensor:
        """p x0 + q eps, as one linear combination of the state and the network's answer."""
        # Both are linear in (x, answer), so one weighted sum does it: fewer operations, and less rounding.
        (x0_x, x0_f), (eps_x, eps_f) = conversion(self.predicts, self.level)
        x_weight, f_weight = p * x0_x + q * eps_x, p * x0_f + q * eps_f
        if x_weight == 0:  # exactly the answer, without a pass over x
            return self.answer * f_weight
        return (self.x * x_weight).add_(self.answer, alpha=f_weight)

    def mean(self, x_weight: float, x0_weight: float) -> Tensor:
        """x_weight x + x0_weight x0, by x = alpha x0 + sigma eps."""
        return self.combine(x_weight * self.level.alpha + x0_weight, x_weight * self.level.sigma)


def conversion(predicts: Predicts, level: Level) -> tuple[tuple[float, float], tuple[float, float]]:
    """((a, b), (c, d)) with x0 = a x + b f and eps = c x + d f, f being the network's answer at the level.

    From x = alpha x0 + sigma eps and v = alpha eps - sigma x0 (Salimans and Ho 2022) or f = eps - x0 (flow).
    """
    alpha, sigma = level.alpha, level.sigma
    if predicts == "eps":
        if alpha == 0:  # x is all noise: eps = x / sigma, whatever x0 is
            raise InputError(
                "predicts 'eps': the noise says nothing of x0 where alpha = 0 (zero terminal SNR, flow at t = 1); "
                "use a model that predicts v, x0 or flow, or a grid that starts at a cleaner level"
            )
        return (1 / alpha, -sigma / alpha), (0.0, 1.0)
    if predicts == "x0":
        return (0.0, 1.0), (1 / sigma, -alpha / sigma)
    if predicts == "v":
        # The two equations solved for x0 and eps; on a VP schedule the norm is 1.
        norm = alpha**2 + sigma**2
        return (alpha / norm, -sigma / norm), (sigma / norm, alpha / norm)
    norm = alpha + sigma  # flow = eps - x0
    return (1 / norm, -sigma / norm), (1 / norm, alpha / norm)


def analytic(x: Tensor, level: Level) -> Prediction:
    """What is known without a network where sigma is large: the state is nearly all noise, eps = x / r.

    r = sqrt(alpha^2 + sigma^2) is the deviation of the state for data of deviation 1. x0 = alpha x / (r (r + sigma))
    follows from x = alpha x0 + sigma eps, and is finite at alpha = 0. The part without the prompt is the same.
    """
    r = math.hypot(level.alpha, level.sigma)
    # As x0 and not as eps: to get x0 from eps means to divide by alpha, which may be 0.
    said = Prediction(x, level, x * (level.alpha / (r * (r + level.sigma))), "x0")
    return replace(said, unconditional=said)


Interval = tuple[float, float]
"""Values of sigma / alpha, the lower one first."""
ALL = slice(None)
"""The rows of a call about the whole state."""


class Question(NamedTuple):
    """A state about which the network is asked."""

    x: Tensor
    """The state, (n, *shape), unscaled."""
    level: Level
    """The level of the state, by which the answer is converted."""
    ask: Level | None = None
    """The level that the network is told instead; None = that of the state."""

    @property
    def t(self) -> float:
        """The time that the network is told."""
        return (self.ask or self.level).t


class Predictor(Protocol):
    """(x, level) -> Prediction; one call = one evaluation."""

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """x is the state (n, *shape) at `level`, unscaled; with `rows`, only these rows of it."""
        ...

    def many(
        self, asked: Sequence[Question], rows: slice = ALL, hints: Mapping[str, Any] | None = None
    ) -> list[Prediction]:
        """A prediction for each of several states of one shape, by one call; `hints` go to the network."""
        ...


Network = Callable[..., Tensor]
"""network(x, t) or network(x, t, condition): x (B, *shape), t (B,) -> (B, *shape). One with a parameter `hints` is
given `Hints` by that name."""
ARGUMENTS = ("x", "t", "condition")
HINTS = "hints"
"""The name of the parameter by which a network says that it takes hints."""


@dataclass(frozen=True, slots=True)
class Hints:
    """What a network is told beside x, t and condition, if it has a parameter `hints`."""

    given: Mapping[str, Any]
    """What the sampler gave, `run.predict(..., hints={"reuse": True})`; empty where it gave nothing."""
    rows: slice
    """The samples that the call is about: the call holds them once for each state and each prompt, padded to the
    batch size."""
    state: dict[str, Any]
    """The network's own notes about these rows, such as features to use again: empty at the start of a run."""


def takes_hints(network: Network) -> bool:
    """Whether a network has a parameter of the name `hints`."""
    # `watch` and `cast_times` wrap a network; a module's __call__ takes anything, and its forward says what.
    own = inspect.unwrap(network)
    try:
        return HINTS in inspect.signature(own.forward if isinstance(own, torch.nn.Module) else own).parameters
    except (TypeError, ValueError):  # a function of C says nothing of its parameters
        return False


def check_names(predicts: object, timesteps: object) -> None:
    """InputError unless they are names of Predicts and Timesteps."""
    for name, given, known in (
        ("predicts", predicts, get_args(Predicts)),
        ("timesteps", timesteps, get_args(Timesteps)),
    ):
        if not isinstance(given, str) or given not in known:
            raise InputError(f"{name} {quote(given)}: expected one of {', '.join(known)}")


def check_batch_size(value: object) -> int:
    """The size if it divides `BLOCK`, the samples of a chunk, or is a multiple of it; else InputError."""
    size = check_count("batch_size", value, 65_536)
    if BLOCK % size and size % BLOCK:
        raise InputError(f"batch_size {size}: expected 1, 2, 4, 8, 16, 32 or a multiple of {BLOCK}")
    return size


@dataclass
class CallLog:
    """The least and largest numbers of each call's state and answer, which show a network's NaN or infinity.

    They stay on the device until `first_fault` looks at all of them, so that no call waits for another. On the CPU
    nothing waits, and only calls that may be at fault are recorded.
    """

    evaluations: int = 0
    """How many states the network was asked about through a `NetworkPredictor`, each prompt by itself."""
    asked: int = 0
    """Calls that a `NetworkPredictor` made of the network."""
    called: int = 0
    """Calls of the network that `watch` returned, whoever made them."""
    rows: int = 0
    """Rows of these calls together."""
    times: list[float] = field(default_factory=list)
    extremes: list[Tensor] = field(default_factory=list)
    """Four scalars for each call: least and largest number of the state, then of the answer."""

    def saw(self, t: float, x: Tensor, answer: Tensor) -> None:
        """Record a call about the state x at time t."""
        # A sum is finite only if all numbers are, and takes a quarter of the time. One that overflows decides nothing.
        if not waits(answer) and math.isfinite(answer.sum().item()):
            return
        self.times.append(t)
        self.extremes += (*x.aminmax(), *answer.aminmax())  # NaN wherever there is one

    def watch(self, network: Network) -> Network:
        """The network with its calls counted."""

        def ask(x: Tensor, *others: Tensor, **hints: Hints) -> Tensor:
            self.called += 1
            self.rows += x.shape[0]
            return network(x, *others, **hints)

        # The signature stays that of the network, which may take hints.
        return functools.update_wrapper(ask, network, assigned=(), updated=())

    def past_the_counter(self, evaluations: int) -> int:
        """How often the network was asked beyond this number of counted evaluations."""
        # Two ways lead past the counter: to the predictor inside it, and to the network itself.
        return max(self.evaluations - evaluations, 0) + max(self.called - self.asked, 0)

    def first_fault(self) -> float | None:
        """The time of the first answer with NaN or infinity; None without one, or if the state had it before."""
        if not self.times:
            return None
        # One transfer from the device for all calls.
        state, answer = torch.stack(self.extremes).isfinite().reshape(-1, 2, 2).all(2).unbind(1)
        # The network is at fault only if the state that it was given was finite.
        bad = (~(state & answer)).nonzero().flatten().tolist()
        return self.times[bad[0]] if bad and bool(state[bad[0]]) else None


def waits(x: Tensor) -> bool:
    """Whether to read a number of the tensor is to wait for a device that has other work to do."""
    return not x.is_cpu


@dataclass(frozen=True)
class NetworkPredictor:
    """Ask the network, `batch_size` rows at a time, the last rows padded.

    The padding makes each sample's bytes independent of the number of samples: kernels differ by batch size.
    """

    network: Network
    predicts: Predicts
    timesteps: Timesteps
    batch_size: int
    condition: Tensor | None = None
    """(n, ...): a row for each sample; None = the network takes (x, t) only."""
    dtype: torch.dtype | None = None
    """The dtype in which the network computes; None = that of the state."""
    without: Tensor | None = None
    """(n, ...): the conditions of the same samples without their prompts; None = no guidance."""
    calls: int = 1
    """Network calls of `both`: 1 = rows with the prompt, then rows without it, in one call; 2 = one after the other."""
    log: CallLog = field(default_factory=CallLog, compare=False)
    notes: dict[object, dict[str, Any]] = field(default_factory=dict, compare=False)
    """`Hints.state` by rows."""
    name: str = "network"
    """What the model is called, for messages."""

    def __post_init__(self) -> None:
        """Check the names, and that conditions with and without the prompt fit into one call."""
        check_names(self.predicts, self.timesteps)
        if self.condition is not None and self.without is not None and self.calls == 1:
            # Both conditions are rows of one tensor, so they must agree in shape and dtype.
            rows = [(tuple(c.shape[1:]), c.dtype) for c in (self.condition, self.without)]
            if rows[0] != rows[1]:
                told = " and ".join(f"{shape} {_name(dtype)}" for shape, dtype in rows)
                raise InputError(
                    f"guidance: the conditions with and without the prompt have rows of {told}; one network call takes "
                    "rows of one kind: pad texts to one length, or use --guidance-calls 2"
                )

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """One evaluation of all rows of x."""
        question = Question(x, level)
        if x.shape[0] != self.batch_size or self._takes_hints:
            return self.many([question], rows)[0]
        # Most calls are about one state that fills one batch: it takes no lists, slices or padding, which cost as much
        # as the arithmetic of a step.
        state = self._input(question)
        condition: tuple[Tensor, ...] = () if self.condition is None else (self.condition[rows],)
        check_rows(rows, self.batch_size, condition)
        t = torch.full((self.batch_size,), question.t, dtype=self._t_dtype(x, state), device=x.device)
        kept = torch.empty_like(x, memory_format=torch.contiguous_format)
        kept.copy_(self._answer(state, t, *condition, parts=1))
        self.log.evaluations += 1
        return self._said(question, kept)

    def many(
        self, asked: Sequence[Question], rows: slice = ALL, hints: Mapping[str, Any] | None = None
    ) -> list[Prediction]:
        """One evaluation of each state."""
        (predictions,) = self._predictions(asked, rows, [self.condition], hints)
        return predictions

    def both(self, x: Tensor, level: Level, rows: slice = ALL) -> tuple[Prediction, Prediction]:
        """The predictions with the prompts and without them: two evaluations of all rows of x."""
        (pair,) = self.both_of_many([Question(x, level)], rows)
        return pair

    def both_of_many(
        self, asked: Sequence[Question], rows: slice = ALL, hints: Mapping[str, Any] | None = None
    ) -> list[tuple[Prediction, Prediction]]:
        """The predictions with the prompts and without them for each of several states."""
        # One call with twice the rows is faster on a GPU; two calls need half the memory.
        if self.calls == 1:
            conditional, unconditional = self._predictions(asked, rows, [self.condition, self.without], hints)
        else:
            (conditional,) = self._predictions(asked, rows, [self.condition], hints)
            (unconditional,) = self._predictions(asked, rows, [self.without], hints)
        return list(zip(conditional, unconditional, strict=True))

    def _predictions(
        self,
        asked: Sequence[Question],
        rows: slice,
        conditions: Sequence[Tensor | None],
        hints: Mapping[str, Any] | None,
    ) -> list[list[Prediction]]:
        """For each condition a prediction of each state; a call holds a batch of rows for each pair of these."""
        x = asked[0].x
        inputs = [self._input(question) for question in asked]
        told = [condition[rows] for condition in conditions if condition is not None]
        parts, size, n = len(conditions) * len(asked), self.batch_size, x.shape[0]
        check_rows(rows, n, told)
        times = [question.t for question in asked] * len(conditions)
        t = _times(times, size, self._t_dtype(x, inputs[0]), x.device)
        # Answers are copied out call by call: a network may return the same buffer each time.
        answers = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(parts)]
        for start in range(0, n, size):
            real = min(size, n - start)
            # Every call has the same number of rows, whatever n is: the last rows are padded, and cut off below.
            state = _concatenate([_pad(states, start, size) for states in inputs] * len(conditions))
            condition = [_concatenate([_pad(c, start, size) for c in told for _ in asked])] if told else []
            # With other states or prompts in a call the same rows of the batch mean something else, and so would the
            # notes.
            kind = len(asked), *(c is self.without for c in conditions)
            more = self._hints(hints, rows, range(start, start + real), kind)
            answer = self._answer(state, t, *condition, parts=len(conditions), **more)
            for part, kept in enumerate(answers):
                kept[start : start + real] = answer[part * size : part * size + real]
        self.log.evaluations += parts
        # Answers came condition by condition, and within each state by state.
        said = list(map(self._said, [*asked] * len(conditions), answers))
        return [said[i : i + len(asked)] for i in range(0, parts, len(asked))]

    def _input(self, question: Question) -> Tensor:
        """The state in the network's dtype; InputError for a level at which the network cannot be asked."""
        # t and the answer keep the dtype of the state.
        x = question.x
        state = x if self.dtype is None or self.dtype == x.dtype else x.to(self.dtype)
        self._check(question, state.dtype)
        return state

    def _t_dtype(self, x: Tensor, state: Tensor) -> torch.dtype:
        """The dtype of the times for a state x that the network is given as `state`."""
        if self.timesteps == "integer":
            return torch.int64
        # Never narrower than the state: in the dtype of a bfloat16 network the time 999 would become 1000.
        return x.dtype if state is x else torch.promote_types(x.dtype, state.dtype)

    def _said(self, question: Question, answer: Tensor) -> Prediction:
        """The prediction of an answer, which the log has seen."""
        self.log.saw(question.t, question.x, answer)
        return Prediction(question.x, question.level, answer, self.predicts)

    @functools.cached_property
    def _takes_hints(self) -> bool:
        return takes_hints(self.network)

    def _hints(
        self, given: Mapping[str, Any] | None, rows: slice, batch: range, kind: tuple[object, ...]
    ) -> dict[str, Hints]:
        """What the network is given by the name `hints` in a call about a batch of rows; InputError if it takes none.

        `kind` tells calls about the same rows apart whose rows in the batch are others.
        """
        if not self._takes_hints:
            if given:
                raise InputError(
                    f"hints {', '.join(map(repr, given))}: the network of model {self.name!r} takes none; expected one "
                    "with a parameter for them, as network(x, t, condition, hints) has"
                )
            return {}
        # By the numbers of the samples, so that a network finds its notes again whichever rows the next call is about.
        first = (rows.start or 0) + batch.start
        here = slice(first, first + len(batch))
        notes = self.notes.setdefault((here.start, here.stop, *kind), {})
        return {HINTS: Hints(given or {}, here, notes)}

    def _answer(self, x: Tensor, t: Tensor, *condition: Tensor, parts: int, **hints: Hints) -> Tensor:
        """`answer_of`; if memory runs out, NetworkFault says what needs less."""
        self.log.asked += 1
        try:
            return answer_of(self.network, x, t, *condition, **hints)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # The advice that changes the samples least: two calls first, then fewer rows, then another dtype.
            advice = "--dtype float16, or a smaller model or size"
            if parts > 1:
                advice = "--guidance-calls 2, which asks with the prompt and without in turn"
            elif self.batch_size > 1:
                advice = "a smaller --batch-size"
            what = f"network: no memory for {len(x)} rows of {tuple(x.shape[1:])}{memory_asked(error)}"
            raise NetworkFault(f"{what}; try {advice}") from error

    def _check(self, question: Question, dtype: torch.dtype) -> None:
        """InputError for a level at which the network cannot be asked."""
        # Two questions that the network would answer, and wrongly: a time that it never saw, and one where x0 is lost
        # in rounding.
        level = question.level
        if self.timesteps == "integer" and not question.t.is_integer():
            raise InputError(
                f"network: asked about timestep {question.t:g}, and it knows whole ones only; a sampler gets levels "
                "that the network knows from run.grid and run.at"
            )
        if self.predicts == "eps" and 0 < level.alpha < LEAST_ALPHA_OF_EPS and dtype != torch.float64:
            raise InputError(
                f"predicts 'eps': at alpha = {level.alpha:.2g} x0 holds the rounding of a {_name(dtype)} answer "
                f"{1 / level.alpha:.1g} times; use a model that predicts v, x0 or flow, a grid that starts at alpha "
                f"{LEAST_ALPHA_OF_EPS:g} or above, or --dtype float64"
            )


def check_rows(rows: slice, n: int, conditions: Sequence[Tensor]) -> None:
    """InputError unless a call has a row for each row of its state, numbered from 0 up."""
    is_plain = rows.step in (None, 1) and (rows.start or 0) >= 0
    if not is_plain or any(condition.shape[0] != n for condition in conditions):
        raise InputError(
            f"rows {rows.start}:{rows.stop}: of a call about {n} rows of the state; "
            "expected a slice of as many, from 0 up"
        )


def answer_of(network: Network, x: Tensor, t: Tensor, *condition: Tensor, **hints: Hints) -> Tensor:
    """The network's answer for a batch.

    ModelError if it raises, InputError if the answer is no tensor like x, NetworkFault if it changes its arguments in
    place. If memory runs out, the network's own exception passes.
    """
    given = (x, t, *condition)
    # torch counts changes in place, so they are seen without copies of x, t and condition.
    before = [_changes(tensor) for tensor in given]
    try:
        answer = network(x, t, *condition, **hints)
    except SamplerbenchError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        named = zip(ARGUMENTS, given, strict=False)
        asked = ", ".join(f"{name} {tuple(a.shape)} {_name(a.dtype)}" for name, a in named)
        raise ModelError(f"network: {in_line(error)}; it was asked with {asked}") from error
    after = [_changes(tensor) for tensor in given]
    if after != before:
        changed = [name for name, was, now in zip(ARGUMENTS, before, after, strict=False) if was != now]
        raise NetworkFault(
            f"network: changed {' and '.join(changed)} in place; expected new tensors, as x = x * 2 makes"
        )
    if not isinstance(answer, Tensor) or answer.shape != x.shape:
        said = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        raise InputError(f"network: answered with {said} for a state {tuple(x.shape)}; expected the same shape")
    if not answer.is_floating_point() or answer.layout != torch.strided or answer.device != x.device:
        said = f"a {answer.layout} tensor {_name(answer.dtype)} on {answer.device}".replace("torch.", "")
        raise InputError(f"network: answered with {said}; expected floating numbers on {x.device}, as a dense tensor")
    return answer


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # Some allocators raise a plain RuntimeError, which only its text tells from others.
    signs = ("DefaultCPUAllocator", "not enough memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


ASKED = re.compile(r"tried to allocate ([0-9.]{1,20}) ?([KMGT]i?B|bytes)", re.IGNORECASE)
"""What torch says of an allocation that failed, on the CPU and on a device."""


def memory_asked(error: BaseException) -> str:
    """ ", which lacked 9.00 GiB": what was asked for in one piece where memory ran out; '' where that is not said."""
    found = ASKED.search(str(error))
    if not found:
        return ""
    number, unit = found[1], found[2]
    return f", which lacked {float(number) / 1e9:.3g} GB" if unit == "bytes" else f", which lacked {number} {unit}"


def _changes(x: Tensor) -> int:
    """How often a tensor was changed in place; torch does not count this in inference mode."""
    return 0 if x.is_inference() else x._version


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _pad(x: Tensor, start: int, size: int) -> Tensor:
    """`size` rows of x from `start` on; where x has fewer, its last row is repeated."""
    rows = x[start : start + size]
    missing = size - rows.shape[0]
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows


def _times(times: Sequence[float], size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Each time `size` times."""
    return _concatenate([torch.full((size,), t, dtype=dtype, device=device) for t in times])


def _concatenate(parts: Sequence[Tensor]) -> Tensor:
    """The rows of several tensors in one; a single tensor itself, without a copy."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance: f = f_negative + guidance (f_condition - f_negative) (Ho and Salimans 2022).

    Applied to the network's answer, whatever it predicts: at a given x the conversions are linear, so it is the same.
    """

    both: Callable[[Tensor, Level, slice], tuple[Prediction, Prediction]]
    """The predictions with the prompt and without, as `NetworkPredictor.both` makes them."""
    guidance: float
    rescale: float = 0.0
    """phi: how far the deviation of the guided x0 is taken back to that of the conditional one; 0 = not at all."""
    both_of_many: Callable[..., list[tuple[Prediction, Prediction]]] | None = None
    """`both` for several states, as `NetworkPredictor.both_of_many` makes them; None = states come one by one."""

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """Two evaluations of the network, one prediction."""
        return self._mix(*self.both(x, level, rows))

    def many(
        self, asked: Sequence[Question], rows: slice = ALL, hints: Mapping[str, Any] | None = None
    ) -> list[Prediction]:
        """Two evaluations and one prediction of each state."""
        assert self.both_of_many is not None
        return [self._mix(*pair) for pair in self.both_of_many(asked, rows, hints)]

    def _mix(self, positive: Prediction, negative: Prediction) -> Prediction:
        # lerp extrapolates for guidance above 1.
        answer = torch.lerp(negative.answer, positive.answer, self.guidance)
        guided = Prediction(positive.x, positive.level, answer, positive.predicts, negative)
        return rescale_x0(guided, positive.x0, self.rescale) if self.rescale else guided


@dataclass(frozen=True)
class Promptless:
    """A network without prompts, for samplers that need its answer without one: it has no other."""

    inner: Predictor

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """The inner prediction, which is its own unconditional part."""
        said = self.inner(x, level, rows)
        return replace(said, unconditional=said)

    def many(
        self, asked: Sequence[Question], rows: slice = ALL, hints: Mapping[str, Any] | None = None
    ) -> list[Prediction]:
        """The inner predictions, each its own unconditional part."""
        return [replace(said, unconditional=said) for said in self.inner.many(asked, rows, hints)]


def is_within(interval: Interval, level: Level) -> bool:
    """Whether low < sigma / alpha <= high."""
    low, high = interval
    return low < level.sigma_ve <= high


@dataclass(frozen=True)
class GuidedWithin:
    """Guidance only at the levels with low < sigma / alpha <= high (Kynkaanniemi et al. 2024).

    At the others the prediction is that of guidance 1, and the network is asked without the prompt only where the
    sampler needs that part.
    """

    guided: Predictor
    outside: Predictor
    interval: Interval

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """The prediction with guidance within the interval, without it outside."""
        return (self.guided if is_within(self.interval, level) else self.outside)(x, level, rows)

    def many(
        self, asked: Sequence[Question], rows: slice = ALL, hints: Mapping[str, Any] | None = None
    ) -> list[Prediction]:
        """The predictions of several states: one call for those within the interval, one for the others."""
        within = [is_within(self.interval, question.level) for question in asked]
        said: dict[bool, Iterator[Prediction]] = {}
        for inside, predictor in ((True, self.guided), (False, self.outside)):
            some = [question for question, is_inside in zip(asked, within, strict=True) if is_inside is inside]
            said[inside] = iter(predictor.many(some, rows, hints) if some else ())
        # In the order of the questions, each from the call that it was in.
        return [next(said[inside]) for inside in within]


def rescale_x0(guided: Prediction, conditional: Tensor, phi: float) -> Prediction:
    """Guidance with rescale (Lin et al. 2024, section 3.4): x0 times phi std(conditional) / std(x0) + 1 - phi.

    Each sample has its own deviations. Here x0 is scaled, so that it does not matter what the network predicts; the
    paper and the tools that follow it scale the network's answer instead, v or eps. The two agree at alpha = 0.
    """
    # A constant sample has no deviation to divide by; it stays as it is.
    x0 = guided.x0
    has, wanted = _deviation(x0), _deviation(conditional)
    ratio = torch.where(has > 0, wanted / has, 1.0)
    return Prediction(guided.x, guided.level, x0 * (phi * ratio + (1 - phi)), "x0", guided.unconditional)


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation within each sample, (n, 1, ...)."""
    return _by_sample(x.flatten(1).std(1, correction=0), x)


def _by_sample(values: Tensor, x: Tensor) -> Tensor:
    """(n,) -> (n, 1, ...), to go with x (n, *shape)."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True)
class DynamicThreshold:
    """Bounds of x0 that follow each sample: a quantile of its absolute values, but at least `bound`."""

    quantile: float
    """p, above 0 and up to 1."""
    bound: float
    """The largest absolute value of the data."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not is_number(self.quantile) or not 0 < self.quantile <= 1:
            raise InputError(f"quantile {quote(self.quantile)}: expected a number above 0 and up to 1")
        if not is_number(self.bound) or not 0 < self.bound < math.inf:
            raise InputError(f"bound {quote(self.bound)}: expected a positive number")


def dynamic_threshold(quantile: float = 0.995, bound: float = 1.0) -> DynamicThreshold:
    """Dynamic thresholding of x0 (Saharia et al. 2022, section 2.3), for `wrap_network(..., clip=...)`.

    For each sample, s is that quantile of |x0| or `bound`, whichever is larger; x0 is clamped to [-s, s] and divided by
    s / bound. For data in [-bound, bound]; meant for strong guidance. Raises InputError for a quantile outside (0, 1]
    and for a bound that is not positive.
    """
    return DynamicThreshold(quantile, bound)


Clip = tuple[float, float] | DynamicThreshold
"""Fixed bounds of x0, (low, high), or bounds that follow each sample."""


def bound_x0(predictor: Predictor, clip: Clip | None) -> Predictor:
    """The predictor with its x0 kept within the bounds; None = no bounds."""
    if clip is None:
        return predictor
    return Thresholded(predictor, clip) if isinstance(clip, DynamicThreshold) else Bounded(predictor, *clip)


def check_bounds(clip: object) -> None:
    """InputError unless the value is a Clip or None."""
    if clip is None or isinstance(clip, DynamicThreshold):
        return
    if isinstance(clip, tuple | list) and len(clip) == 2 and all(map(is_number, clip)):  # noqa: PLR2004
        low, high = clip
        if low < high:
            return
    raise InputError(f"clip {quote(clip)}: expected (low, high) with low < high, or dynamic_threshold(...)")


@dataclass(frozen=True)
class Bounded:
    """Keep x0 within [low, high]; eps is derived from the clamped x0 (as in guided-diffusion)."""

    inner: Predictor
    low: float
    high: float

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """The inner prediction with x0 clamped."""
        return self._clamp(x, level, self.inner(x, level, rows))

    def many(
        self, asked: Sequence[Question], rows: slice = ALL, hints: Mapping[str, Any] | None = None
    ) -> list[Prediction]:
        """The inner predictions with x0 clamped."""
        return [self._clamp(said.x, said.level, said) for said in self.inner.many(asked, rows, hints)]

    def _clamp(self, x: Tensor, level: Level, said: Prediction) -> Prediction:
        # In place, because every x0 is a new tensor.
        return Prediction(x, level, said.x0.clamp_(self.low, self.high), "x0", said.unconditional)


@dataclass(frozen=True)
class Thresholded:
    """Clamp x0 to a bound for each sample, then scale it back; eps is derived from the result."""

    inner: Predictor
    threshold: DynamicThreshold

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """The inner prediction with x0 thresholded."""
        return self._apply_threshold(x, level, self.inner(x, level, rows))

    def many(
        self, asked: Sequence[Question], rows: slice = ALL, hints: Mapping[str, Any] | None = None
    ) -> list[Prediction]:
        """The inner predictions with x0 thresholded."""
        return [self._apply_threshold(said.x, said.level, said) for said in self.inner.many(asked, rows, hints)]

    def _apply_threshold(self, x: Tensor, level: Level, said: Prediction) -> Prediction:
        # Saharia et al. 2022, section 2.3: s is a quantile of |x0|, and x0 is clamped to [-s, s] and divided by s.
        x0, bound = said.x0, self.threshold.bound
        # At least `bound`: a sample within it is left unchanged.
        s = x0.flatten(1).abs().quantile(self.threshold.quantile, dim=1).clamp(min=bound)
        s = _by_sample(s, x0)
        return Prediction(x, level, x0.clamp(-s, s) * (bound / s), "x0", said.unconditional)


def one_pass(level: Level) -> int:
    """The passes of a call without guidance."""
    return 1


@dataclass
class Counted:
    """Count the calls and clock them."""

    inner: Predictor
    passes: Callable[[Level], int] = one_pass
    """How often a call about a state at a level asks the network."""
    nfe: int = 0
    samples: int = 0
    """Rows of all calls together: calls for each sample, times samples."""
    depth: int = 0
    """Calls one after the other: several states that are asked about at once count as one."""
    deep_samples: int = 0
    """Rows of all calls together, where several states that are asked about at once count as one."""
    evaluations: int = 0
    """Passes of the network in all calls together."""
    evaluated: int = 0
    """Rows of these passes."""
    spans: list[tuple[Mark, Mark]] = field(default_factory=list)
    """The time before and after each call."""

    def __call__(self, x: Tensor, level: Level, rows: slice = ALL) -> Prediction:
        """The inner prediction, counted."""
        self._count(1, self.passes(level), x.shape[0])
        # Guidance and bounds of x0 lie between the marks: they are the model's, and no overhead of a sampler.
        before = mark(x.device)
        prediction = self.inner(x, level, rows)
        self.spans.append((before, mark(x.device)))
        return prediction

    def many(
        self, asked: Sequence[Question], rows: slice = ALL, hints: Mapping[str, Any] | None = None
    ) -> list[Prediction]:
        """The inner predictions, each counted."""
        device = asked[0].x.device
        self._count(len(asked), sum(self.passes(question.level) for question in asked), asked[0].x.shape[0])
        before = mark(device)
        predictions = self.inner.many(asked, rows, hints)
        self.spans.append((before, mark(device)))
        return predictions

    @property
    def seconds(self) -> float:
        """The seconds spent in the calls; a device has to have finished all its work."""
        return sum(seconds_between(*span) for span in self.spans)

    def calls_of(self, n: int) -> tuple[float, float, float]:
        """Calls, depth and passes of a run of n samples; their means where samples took different numbers of calls."""
        # Where every call was about all samples the counts are whole; else they are means over the samples.
        nfe = self.nfe if self.samples == self.nfe * n else self.samples / n
        depth = self.depth if self.deep_samples == self.depth * n else self.deep_samples / n
        return nfe, depth, self.evaluations if self.evaluated == self.evaluations * n else self.evaluated / n

    def _count(self, states: int, passes: int, rows: int) -> None:
        """Count a call about some states of this many rows, of which the network makes this many passes."""
        self.nfe += states
        self.samples += states * rows
        self.evaluations += passes
        self.evaluated += passes * rows
        self.depth += 1
        self.deep_samples += rows


Mark = float | torch.Event
"""A moment: seconds of the CPU's clock, or an event in a device's queue of work."""


def mark(device: torch.device) -> Mark:
    """This moment; on an accelerator the one at which it will have done what it has been asked so far.

    Nothing waits for it: the device notes the time when it gets there. One that cannot is waited for.
    """
    if device.type == "cpu":
        return time.perf_counter()
    if not notes_times(device):
        return clock(device)
    event = torch.Event(device, enable_timing=True)
    event.record(torch.accelerator.current_stream(device))
    return event


@functools.cache
def notes_times(device: torch.device) -> bool:
    """Whether events of a device know their time: those of mps and xpu do not in every version of torch."""
    if device.type == "cuda":
        return True
    try:
        # Tried once: some versions make such events and refuse to read them.
        first, second = (torch.Event(device, enable_timing=True) for _ in range(2))
        for event in (first, second):
            event.record(torch.accelerator.current_stream(device))
        torch.accelerator.synchronize(device)
        return first.elapsed_time(second) >= 0
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return False


def seconds_between(before: Mark, after: Mark) -> float:
    """Seconds between two moments on one device."""
    if isinstance(before, float):
        return cast(float, after) - before
    # Events tell milliseconds.
    return before.elapsed_time(cast(torch.Event, after)) / 1000


def clock(device: torch.device) -> float:
    """Monotonic seconds, once the device has finished all its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()

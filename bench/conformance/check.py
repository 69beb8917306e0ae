"""`samplerbench check`: compare a sampler with its claims, on models whose answer is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args, get_origin

from ...samplers.errors import pass_on
from ...samplers.model import Model
from ...samplers.options import options_of
from ...samplers.registry import Registry, default_registry, load_registry
from ...samplers.sampler import Sampler
from . import equivalence, exactness, fitted, guidance, order, own_steps, randomness, runs, strong
from .card import FULL, QUICK, Check, Effort, Finding
from .sameness import same_as

CHECKS: tuple[Check, ...] = (
    order.order_of_convergence,
    order.order_from_the_start,
    order.local_order,
    order.limit,
    order.last_jump,
    strong.strong_order,
    exactness.exactness,
    runs.steps_and_calls,
    runs.one_step,
    runs.clean_end,
    runs.last_interval,
    runs.start_without_signal,
    runs.whole_timesteps,
    randomness.draws,
    randomness.last_step,
    randomness.mean_and_variance,
    guidance.mixed_guidance,
    equivalence.predictions,
    equivalence.scales,
    equivalence.batches,
    equivalence.reuse,
    equivalence.precision,
    equivalence.options,
)
AT_OWN_STEPS: tuple[Check, ...] = (own_steps.whole_run, own_steps.no_difference, equivalence.options)
"""The checks of a sampler that is made for one number of steps."""


def check(
    sampler: Sampler | str, *, quick: bool = False, plugins: Sequence[str] = (), model: Model | str | None = None
) -> list[Finding]:
    """The report card of a sampler, given as an object or as a spec string; `plugins` are files or modules.

    With `model`, what must make no difference is measured on that model too, as for a network that is told `hints`, and
    a file that was made for it must bring the samples nearer to the ODE solution. A sampler at its defaults is held to
    the files that came with it, each on its own model. If the sampler raises during a check, the finding does not hold
    and shows the error in place of the measurement. All seeds are fixed: the same sampler always gets the same card.
    """
    return card_of(sampler, load_registry(plugins) if plugins else default_registry(), quick=quick, model=model)


def card_of(
    sampler: Sampler | str, registry: Registry, *, quick: bool = False, model: Model | str | None = None
) -> list[Finding]:
    """The report card of a sampler; the specs that its docstring says are the same are those of a registry."""
    if isinstance(sampler, str):
        sampler = registry.sampler(sampler)
    own = registry.model(model) if isinstance(model, str) else model
    # What is said of a class holds for the class; the exact models are none that a file was made for.
    free = for_any_model(sampler)
    measures = [(free, measure) for measure in (AT_OWN_STEPS if sampler.own_steps else CHECKS)]
    measures += [(sampler, same_as(registry)), *((free, measure) for measure in on_model(own))]
    measures += [(sampler, measure) for measure in fitted.as_it_came(sampler, registry)]
    if own:
        measures.append((sampler, fitted.nearer_with_its_file(own)))
    findings: list[Finding] = []
    for subject, measure in measures:
        try:
            # Each check by itself, so that one that raises costs the card no other line.
            findings += measure(subject, QUICK if quick else FULL)
        except BaseException as error:  # a stranger's sampler may do anything
            pass_on(error)
            name = measure.__name__.replace("_", " ")
            findings.append(Finding(name, "can be measured", f"{type(error).__name__}: {error}", False))
    return waive(findings, sampler)


def for_any_model(sampler: Sampler) -> Sampler:
    """The sampler, which no longer refuses a model that its file was not made for."""
    cls = type(sampler)
    if cls.misfit is Sampler.misfit:
        return sampler
    about = {"__module__": cls.__module__, "__doc__": cls.__doc__, "misfit": lambda *given, **named: ""}
    free: type[Sampler] = dataclass(frozen=True)(type(cls.__name__, (cls,), about))
    return free(**{field.name: getattr(sampler, field.name) for field in fields(cls)})


def on_model(model: Model | None) -> list[Check]:
    """The checks that need no exact answer, on a model; none without one."""
    if model is None:
        return []
    own = model

    def any_batch_size(sampler: Sampler, effort: Effort) -> Iterator[Finding]:
        return equivalence.any_batch_size(sampler, own)

    return [any_batch_size]


def waive(findings: Sequence[Finding], sampler: Sampler) -> list[Finding]:
    """The findings with those that the sampler's `claims` name waived; a claim that names no line of the card fails."""
    claims: object = sampler.claims
    if not isinstance(claims, Mapping) or not all(
        isinstance(text, str) and text.strip() for pair in claims.items() for text in pair
    ):
        return [*findings, Finding("claims", "lines of the card, each with a reason", repr(claims)[:80], False)]
    # A waived line stays on the card with what was measured, so that its reader can judge the reason.
    card = list(findings)
    for name, reason in claims.items():
        # By the beginning of the line, because names go on with levels and schedules.
        named = [i for i, finding in enumerate(card) if finding.name.startswith(name)]
        for i in named:
            # A claim that holds anyway is shown as measured.
            if not card[i].holds:
                card[i] = replace(card[i], holds=True, waived=reason)
        # A waiver for a line that is no longer there would hide nothing, and mislead its reader.
        if not named:
            card.append(
                Finding("claims", "lines of the card, each with a reason", f"no line begins with {name!r}", False)
            )
    return card


def variants(registry: Registry) -> list[str]:
    """Spec strings of every registered sampler: with its defaults, and with each other value of enumerated options."""
    specs = []
    for name, cls in registry.samplers.things.items():
        # The defaults of all other options: their combinations are too many to check.
        specs.append(name)
        for key, option in options_of(cls).items():
            if get_origin(option.kind) is Literal:
                specs += [f"{name}:{key}={value}" for value in get_args(option.kind) if value != option.default]
    return specs


def with_files(registry: Registry) -> list[str]:
    """Spec strings of the samplers with one of the files that came with them.

    What such a card measures does not depend on the model; the card at the defaults holds every file on its own model.
    """
    return [one.spec for name in registry.samplers.things for one in fitted.shipped_with(name, registry)[:1]]

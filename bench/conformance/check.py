"""`samplerbench check`: compare a sampler with its claims, on models whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args, get_origin

from ...samplers.errors import pass_on
from ...samplers.options import options_of
from ...samplers.registry import Registry, default_registry, load_registry
from ...samplers.sampler import Sampler
from . import equivalence, order, randomness, runs
from .card import FULL, QUICK, Check, Finding

CHECKS: tuple[Check, ...] = (
    order.order_of_convergence,
    order.order_from_the_start,
    order.local_order,
    order.limit,
    order.last_jump,
    runs.steps_and_calls,
    runs.one_step,
    runs.clean_end,
    runs.start_without_signal,
    runs.whole_timesteps,
    randomness.draws,
    randomness.last_step,
    randomness.mean_and_variance,
    equivalence.predictions,
    equivalence.scales,
    equivalence.batches,
    equivalence.reuse,
    equivalence.precision,
    equivalence.options,
)


def check(sampler: Sampler | str, *, quick: bool = False, plugins: Sequence[str] = ()) -> list[Finding]:
    """The report card of a sampler, given as an object or as a spec string; `plugins` are files or modules.

    If the sampler raises during a check, the finding does not hold and shows the error in place of the measurement. All
    seeds are fixed: the same sampler always gets the same card.
    """
    if isinstance(sampler, str):
        sampler = (load_registry(plugins) if plugins else default_registry()).sampler(sampler)
    findings: list[Finding] = []
    for measure in CHECKS:
        try:
            findings += measure(sampler, QUICK if quick else FULL)
        except BaseException as error:  # a stranger's sampler may do anything
            pass_on(error)
            name = measure.__name__.replace("_", " ")
            findings.append(Finding(name, "can be measured", f"{type(error).__name__}: {error}", False))
    return findings


def variants(registry: Registry) -> list[str]:
    """Spec strings of every registered sampler: with its defaults, and with each other value of enumerated options."""
    specs = []
    for name, cls in registry.samplers.things.items():
        specs.append(name)
        for key, option in options_of(cls).items():
            if get_origin(option.kind) is Literal:
                specs += [f"{name}:{key}={value}" for value in get_args(option.kind) if value != option.default]
    return specs

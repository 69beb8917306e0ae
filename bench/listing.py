"""What `samplerbench list` says of each registered thing."""

from __future__ import annotations

from collections.abc import Callable

from ..samplers.registry import Catalogue, Registry, describe_options
from ..samplers.sampler import Sampler

FAR = 10
"""A step count at which the NFE rule of every sampler has settled."""


def listing(registry: Registry, kind: str) -> list[dict[str, str]]:
    """One dict a name, all with the same keys."""
    catalogue: Catalogue[object] = getattr(registry, kind)
    rows = []
    for name in sorted(catalogue.things):
        thing = catalogue.things[name]
        row = {"name": name}
        if isinstance(thing, type) and issubclass(thing, Sampler):
            row |= {"order": claim(order, thing), "NFE": claim(nfe_rule, thing), "options": describe_options(thing)}
        elif kind == "grids" and isinstance(thing, type):
            row["options"] = describe_options(thing)
        elif kind == "metrics":
            row |= {"reads": getattr(thing, "extractor", ""), "better": getattr(thing, "better", "")}
        rows.append(row | {"origin": str(catalogue.origins[name])})
    return rows


def claim(ask: Callable[[Sampler], str], cls: type[Sampler]) -> str:
    """What a sampler with its default options says of itself; a plugin that raises there is shown doing so."""
    try:
        return ask(cls())
    except (Exception, SystemExit) as error:
        return f"raises {type(error).__name__}"


def order(sampler: Sampler) -> str:
    """The order of convergence, or "stochastic"."""
    return "stochastic" if sampler.convergence is None else str(sampler.convergence)


def nfe_rule(sampler: Sampler) -> str:
    """ "steps", "2 steps - 1", or "adaptive", from what the sampler declares."""
    here, there = sampler.nfe(FAR), sampler.nfe(FAR + 1)
    if here is None or there is None:
        return "adaptive"
    factor, rest = there - here, here - FAR * (there - here)
    rule = "steps" if factor == 1 else f"{factor} steps"
    return f"{rule} {'+' if rest > 0 else '-'} {abs(rest)}" if rest else rule

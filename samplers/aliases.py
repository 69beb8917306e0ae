"""Other names of samplers: the aliases that they state, and the names that only other tools have."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .catalogue import Catalogue, loosely
from .errors import InputError, PluginError
from .options import construct, options_of, parse_spec
from .sampler import Sampler

FIRST, ANALYTIC = "first", "analytic"
"""What any spec may say of the first step."""
ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9 +._-]{0,63}")


def pop_first(cls: type[Sampler], options: dict[str, Any], what: str) -> bool:
    """Whether the options say first=analytic, which is taken out of them; a sampler's own option `first` stays."""
    # A sampler with its own option of this name means something else by it.
    if FIRST in options_of(cls) or (given := options.pop(FIRST, None)) is None:
        return False
    if given != ANALYTIC:
        raise InputError(f"{what}: {FIRST} {given!r}: expected {ANALYTIC}, a first call without the network")
    return True


def aliases_of(cls: type[Sampler]) -> Mapping[str, str]:
    """The aliases that a sampler class states itself; inherited ones name its base class."""
    aliases: Mapping[str, str] = vars(cls).get("aliases", {})
    return aliases


def check_aliases(samplers: Catalogue[type[Sampler]], new: Iterable[str]) -> None:
    """PluginError for an alias that two samplers claim or that names another sampler, and for one with invalid options.

    `new` are the samplers whose aliases have not been checked yet.
    """
    # Names and aliases share one space, in which spellings do not count.
    owner: dict[str, str] = {}
    for name in samplers.things:
        if (taken := owner.setdefault(loosely(name), name)) != name:
            raise PluginError(
                f"sampler {name!r} from {samplers.origins[name]}: differs only in dashes from {taken!r} "
                f"from {samplers.origins[taken]}"
            )
    for name, cls in samplers.things.items():
        for alias in aliases_of(cls):
            what = f"alias {str(alias)[:80]!r} of sampler {name!r} from {samplers.origins[name]}"
            if not isinstance(alias, str) or not ALIAS.fullmatch(alias):
                raise PluginError(f"{what}: expected letters, digits, spaces and + . _ -, at most 64 characters")
            if (taken := owner.setdefault(loosely(alias), name)) != name:
                raise PluginError(f"{what}: is taken by sampler {taken!r} from {samplers.origins[taken]}")
    # Each new alias must stand for options that its sampler accepts.
    for name in new:
        for alias, preset in aliases_of(samplers.things[name]).items():
            options = parse_spec(f"{name}:{preset}")[1]
            if options and loosely(alias) == loosely(name):
                raise PluginError(f"alias {alias!r} of sampler {name!r}: is its own name, and stands for {preset!r}")
            # A preset may name a grid and a first step too, which are no options of the sampler.
            options.pop("grid", None)
            what = f"alias {alias!r} of sampler {name!r}"
            pop_first(samplers.things[name], options, what)
            construct(samplers.things[name], what, options)


@functools.lru_cache(maxsize=8)
def aliases_in(samplers: tuple[tuple[str, type[Sampler]], ...]) -> dict[str, str]:
    """What `Registry.aliases` returns for these samplers, cached for all the specs of a plan."""
    # Of equal keys the alias, on the right, wins. `check_aliases` lets only one such pair through: a sampler whose
    # alias is its own name, which then stands for the same.
    return {loosely(name): name for name, _ in samplers} | {
        loosely(alias): f"{name}:{preset}" if preset else name
        for name, cls in samplers
        for alias, preset in aliases_of(cls).items()
    }

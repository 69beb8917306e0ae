"""Display names: "ours=my-sampler:eta=0.5" -> the name of the rows, "ours", and the spec that is drawn.

A name is for readers: it is part of no key, so that a run keeps its chunks when its rows are named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ...samplers.errors import InputError, quote

NAMED = re.compile(r"([^:,=]*)=(.*)", re.DOTALL)
"""A name and a spec. An option follows a colon, so an "=" in front of it belongs to a name."""
REFUSED = "@[]<>;"
"""Characters with a meaning where rows are named: ddim@10, fid[ddim] > 2, and lists of specs."""
MOST_LETTERS = 60
EXAMPLE = "expected NAME=SPEC, as in ours=ddim:eta=0.5"


def name_and_spec(text: str) -> tuple[str, str]:
    """The name, "" if there is none, and the spec. InputError for a name that is empty or cannot be a name."""
    parts = NAMED.fullmatch(text)
    if not parts:
        return "", text
    name, spec = (part.strip() for part in parts.groups())
    what = f"sampler {quote(text)}"
    if not name or not spec:
        raise InputError(f"{what}: the {'spec' if name else 'name'} is empty; {EXAMPLE}")
    if not name.isprintable() or len(name) > MOST_LETTERS or set(name) & set(REFUSED):
        raise InputError(
            f"{what}: the name {quote(name)} is no name for rows; expected at most {MOST_LETTERS} printable "
            f"characters, none of {' '.join(REFUSED)}"
        )
    # A name that says what the spec says names nothing.
    return ("" if name == spec else name), spec


def names_by_spec(texts: Sequence[str]) -> dict[str, str]:
    """The name of each spec, "" where it has none, in the order given. InputError for a name that two specs share."""
    found: dict[str, str] = {}
    for name, spec in map(name_and_spec, texts):
        if spec in found:
            raise InputError(f"sampler {', '.join(texts)}: {quote(spec)} is given twice")
        found[spec] = name
    check_distinct(found)
    return found


def check_distinct(names: Mapping[str, str]) -> None:
    """InputError for a name that two specs share, or that is itself another spec."""
    seen: dict[str, str] = {}
    for spec, name in names.items():
        # A name that is a spec of the list means that spec; any other means the first spec that has it.
        taken = name if name in names else seen.setdefault(name, spec) if name else spec
        if taken != spec:
            raise InputError(
                f"sampler {quote(f'{name}={spec}')}: the name {quote(name)} is taken by {quote(taken)}; give each "
                "sampler a name of its own"
            )


def texts_of(names: Mapping[str, str]) -> tuple[str, ...]:
    """The texts that `names_by_spec` reads."""
    return tuple(f"{name}={spec}" if name else spec for spec, name in names.items())

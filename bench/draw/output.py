"""Whether a run may be written to a folder: it is new, or holds the same run, or one that this run adds to."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from ...samplers.errors import InputError
from ..plan.config import Config, differences, enlarge
from ..plan.environment import VERSIONS_THAT_MATTER, other_switches, version_of
from ..plan.plan import Plan, part_of
from ..plan.record import RunRecord
from .folder import RUN_FILE, is_of_stopped_run, names_below
from .run_file import read_run


def check_output(path: Path, plan: Plan, *, fresh: bool, add: bool = False) -> bool:
    """Refuse an output that is a file, holds something else, or belongs to another run; return whether it holds a run
    to resume. With `add` that run may be a part of the plan."""
    holds_run = check_contents(path)
    if fresh or not holds_run:
        return False
    stored = read_run(path)
    if add and not plan.model.fingerprint:
        raise InputError(
            f"add: model {plan.model.name!r} has no fingerprint, so nothing shows whether the stored chunks are of it; "
            "give it one (fingerprint=), or leave out --add"
        )
    # The run that is there must be what this plan would be without the additions, down to the code of the model.
    part = part_of(plan, stored.config) if add else plan
    if part and part.key == stored.plan:
        check_shard(path, stored, plan)
        return True
    changed = {} if add and part else differences(stored.config, plan.config)
    # The keys differ. Name every reason that can be seen; what remains is the model or its code.
    reasons = [*changed.values(), *other_versions(stored), *other_switches(stored.environment.switches)]
    reasons = reasons or ["the model, its code or a version"]
    adding = "--add to add to it, " if changed and can_be_added(stored.config, plan.config, changed) else ""
    raise InputError(
        f"output {path}: belongs to another run ({'; '.join(reasons)}); give {adding}another -o, or --fresh to start "
        "again"
    )


def check_shard(path: Path, stored: RunRecord, plan: Plan) -> None:
    """Refuse an output that holds another part of the same run."""
    # The same plan, so the key says nothing of the part.
    if stored.shard != (asked := str(plan.shard or "")):
        there, here = (f"shard {name}" if name else "the whole run" for name in (stored.shard, asked))
        raise InputError(f"output {path}: holds {there}, and this is {here}; give another -o")


def can_be_added(stored: Config, given: Config, changed: Mapping[str, str]) -> bool:
    """Whether the difference in these settings could be added to the run."""
    try:
        enlarge(stored, {name: getattr(given, name) for name in changed})
    except InputError:
        return False
    return True


def other_versions(stored: RunRecord) -> list[str]:
    """Each package that decides numbers and has another version here than in a run file, with both versions."""
    there = stored.environment.versions
    pairs = [(name, there.get(name), version_of(name)) for name in VERSIONS_THAT_MATTER]
    return [f"{name}: {before} -> {here}" for name, before, here in pairs if before not in (None, here)]


def check_contents(path: Path) -> bool:
    """Refuse an output that is a file or holds something else; return whether it holds a run."""
    try:
        # A link to nothing would be made a folder elsewhere by mkdir, or fail with a message that names no link.
        broken = next((place for place in (path, *path.parents) if place.is_symlink() and not place.exists()), None)
        target = broken and str(broken.readlink())
        is_other = path.exists() and not path.is_dir()
        holds_run = os.path.lexists(path / RUN_FILE)
        # What a stopped run left behind before its run.json is no other's file, and the folder may be used.
        holds_else = not holds_run and path.is_dir() and not all(map(is_of_stopped_run, names_below(path)))
    except (OSError, ValueError) as error:
        length = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
        raise InputError(
            f"output {path}: cannot be a folder ({getattr(error, 'strerror', error)}); "
            f"give {'a shorter' if length else 'another'} -o"
        ) from error
    if broken:
        raise InputError(
            f"output {broken}: a link to {target!r}, which does not exist; make that folder or give another -o"
        )
    if is_other:
        raise InputError(f"output {path}: is a file; expected a folder, new or of the same run")
    if holds_else:
        raise InputError(
            f"output {path}: holds other files and no {RUN_FILE}; expected a folder, new or of the same run"
        )
    return holds_run

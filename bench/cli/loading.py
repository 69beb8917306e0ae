"""Loading the registry for a command, with a note if that takes long, and a line for each faulty plugin."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...samplers.errors import InputError, PluginError
from ...samplers.text import count_of
from ..show.console import complain, print_rows, say, stdout_for_data
from ..show.doing import Doing

if TYPE_CHECKING:
    from ...samplers.plugin import Remark
    from ...samplers.registry import Registry
    from ..conformance.card import Finding
    from ..judge.stored import StoredRun

SEVERAL_RUNS = "table: {} runs; add --merge for one table of them, or give one run, or the shards of one"
PATIENCE = 5.0
"""Seconds that plugins may take to load before a note is printed."""


@contextmanager
def note_after(seconds: float, text: str) -> Iterator[threading.Timer]:
    """Print a note to stderr if the block takes longer than this; yields the thread that waits to print it."""
    timer = threading.Timer(seconds, complain, (text, "Note"))
    # A plugin that never returns must not keep the program alive after Ctrl-C.
    timer.daemon = True
    timer.start()
    try:
        yield timer
    finally:
        timer.cancel()


def registry_with_note(plugins: Iterable[str] = (), models: Iterable[str] = ()) -> Registry:
    """The registry with these plugins and the user's own models, with a note if loading takes long: it may hang."""
    with Doing(quiet=not sys.stderr.isatty()) as doing:  # a pipe is told of what a command waits for by itself
        doing.loading_torch()
        from ...samplers.registry import load_registry

    # Which plugin hangs is known only when it is stopped, so the note says how to stop it.
    note = (
        f"plugins are still loading ({PATIENCE:g} s); Ctrl-C stops and names the slow one, --no-plugins leaves out "
        "installed ones"
    )
    named = tuple(plugins)
    try:
        with note_after(PATIENCE, note):
            # A broken installed plugin is noted and does not raise: it must not stop a command that does not need it.
            registry = load_registry(named, models)
    except OSError as error:  # of a name that the system does not take
        raise PluginError(f"plugin {', '.join(named)[:80]}: {error.strerror or error}") from error
    # What plugins do later, while they run, is said at once.
    registry.tell = warn_of
    return registry


def warn_of_plugins(registry: Registry) -> None:
    """Print a line to stderr for each plugin that is broken, slow or changes the process."""
    for broken in registry.broken:
        complain(f"plugin {broken.origin} is broken and left out: {broken.reason}")
    for remark in registry.remarks:
        warn_of(remark)


def warn_of(remark: Remark) -> None:
    """A remark as a line on stderr."""
    complain(f"{remark.kind} {remark.origin} {remark.text}", kind="Note")


def the_run(folders: Sequence[Path], load: Callable[[], Registry]) -> StoredRun:
    """The run in a folder, by default the newest in results/, which is said; shards are joined first."""
    from ..draw.folder import newest_run
    from ..judge.stored import StoredRun

    if not folders:
        folder = newest_run(Path("results"))
        say(str(folder), err=True)
        return StoredRun(folder)
    runs = [StoredRun(folder) for folder in folders]
    if len(runs) == 1:
        return runs[0]
    # Two whole runs may differ in anything. To join them without being asked could put unequal things in one table.
    if not any(run.exists and run.record.shard for run in runs):
        raise InputError(SEVERAL_RUNS.format(len(runs)))
    return whole_run(runs, load)


def the_runs(folders: Sequence[Path], load: Callable[[], Registry]) -> list[StoredRun]:
    """The runs in these folders, by default the newest in results/; the shards of each are joined."""
    from ..judge.stored import StoredRun

    if len(folders) < 2:  # noqa: PLR2004  (several)
        return [the_run(folders, load)]
    # Shards bear the plan of the whole run, so those of one run meet in a group.
    groups: dict[str, list[StoredRun]] = {}
    for i, folder in enumerate(folders):
        if twin := next((other for other in folders[:i] if other.resolve() == folder.resolve()), None):
            also = f", as {twin}" if twin != folder else ""
            raise InputError(f"{folder}: is given twice{also}; expected each run once")
        run = StoredRun(folder)
        # A whole run is a group of its own, even beside another of the same plan.
        groups.setdefault(run.record.plan if run.record.shard else str(folder), []).append(run)
    return [group[0] if len(group) == 1 else whole_run(group, load) for group in groups.values()]


def whole_run(runs: Sequence[StoredRun], load: Callable[[], Registry]) -> StoredRun:
    """The run whose shards these are, joined, which is said."""
    from ..join import join
    from ..judge.stored import StoredRun

    registry = load()
    with stdout_for_data():
        joined = join(runs, registry)
    say(f"{joined.folder}: joined from {count_of(len(runs), 'shard')}", err=True)
    for note in joined.notes:
        complain(note, kind="Note")
    return StoredRun(joined.folder)


def print_card(spec: str, card: list[Finding], *, failures_only: bool) -> None:
    """A sampler's report card: what is claimed, what was measured, the verdict."""
    rows = [
        {
            "check": f.name,
            "claim": f.claim,
            "measured": f.measured,
            "verdict": f"waived: {f.waived}" if f.waived else "holds" if f.holds else "FAILS",
        }
        for f in card
        # Of several cards a reader looks for what is wrong. A waived line shows too: its reason is for people to judge.
        if not failures_only or f.waived or not f.holds
    ]
    print_rows(rows)
    # A waived claim counts neither as held nor as failed.
    waived = sum(bool(f.waived) for f in card)
    say(
        f"{spec}: {sum(f.holds for f in card) - waived} of {len(card) - waived} claims hold"
        + (f", {waived} waived" if waived else "")
    )

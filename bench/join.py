"""The shards of a run -> the run: a folder like that of any other, whose chunks are those of all shards."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..samplers.errors import InputError, quote
from ..samplers.registry import Registry
from ..samplers.text import count_of
from .draw.store import RunFolder
from .judge.run_metrics import check_code, check_model, check_plugins, check_settings
from .judge.stored import StoredRun
from .plan.plan import Plan, behind, plan_for
from .plan.record import RunRecord
from .plan.shard import Shard, folder_of_whole, parse_shard
from .run import Manner, begin
from .verify import check_cells, check_versions, set_as

BLOCKS_NAMED = 3
"""How many of the blocks that are left out are named."""


@dataclass(frozen=True)
class Joined:
    """What shards were joined to."""

    folder: Path
    notes: tuple[str, ...]
    """What is left out, in sentences."""


def join(shards: Sequence[StoredRun], registry: Registry) -> Joined:
    """Join the shards of one run into the folder that is named as they are, without -I-of-N; again, if it is there.

    A block that not every cell has is left out of its table, and named. InputError for folders that are no shards of
    one run, and where the run cannot be planned again here, as for `verify`.
    """
    there = check_shards(shards)
    first = shards[0]
    # The same checks as for `verify`, because the plan is made again here.
    check_settings(first)
    check_plugins(first, registry)
    check_code(first, registry)
    check_versions(first)
    # All of a shard's settings are those of the whole, so any of them can make its plan.
    record, output = first.record, folder_of_whole(first.path)
    # With the threads and switches of the shards, on which the keys of the cells depend.
    with set_as(record):
        plan = behind(plan_for(record.config, registry), record.budgets)
        check_model(first, plan.model)
        check_cells(first, plan)
        begun = begin(plan, registry, output, Manner(), command_of_whole(record))
        with closing(begun.folder):
            for run in shards:
                # Chunks are taken as they are, with their seals: nothing is drawn again.
                begun.folder.take(run.folder)
            # A cell that failed in one shard has failed in the whole.
            begun.failures.update(begun.folder.failures(plan))
            notes = tuple(blocks_left_out(plan, begun.folder, begun.failures.keys(), there))
            begun.conclude()
    return Joined(output, notes)


def check_shards(shards: Sequence[StoredRun]) -> list[Shard]:
    """The shards that are there; InputError where they are not parts of one run, or one of them comes twice."""
    first, there = shards[0], []
    for run in shards:
        shard = parse_shard(run.record.shard or None)
        if shard is None:
            raise InputError(
                f"{run.path}: is no shard; expected the folders of one run by --shard, or add --merge for one table of "
                "several runs"
            )
        # By plan and cells: an edited sampler has other keys, and its chunks are of another run.
        if (run.record.plan, keys_in(run)) != (first.record.plan, keys_in(first)):
            raise InputError(f"{run.path}: is a shard of another run than {first.path}; expected shards of one run")
        check_named_alike(run, first)
        there.append(shard)
        if shard.of != there[0].of or there.count(shard) > 1:
            numbers = ", ".join(map(str, there))
            raise InputError(f"{run.path}: shards {numbers} are no parts of one run; expected each of them once")
    # Two machines may each have a model of that name.
    if not first.record.model.fingerprint:
        raise InputError(
            f"{first.path}: its model has no fingerprint, by which the shards are known to be of one model; give the "
            "model a fingerprint (fingerprint=)"
        )
    return there


def check_named_alike(run: StoredRun, first: StoredRun) -> None:
    """InputError where two shards call the rows of a sampler by different names."""
    ours, theirs = first.record.config.names, run.record.config.names
    for spec, name in theirs.items():
        if name != (other := ours.get(spec, name)):
            called, elsewhere = quote(name or spec), quote(other or spec)
            raise InputError(
                f"{run.path}: calls {quote(spec)} {called}, and {first.path} calls it {elsewhere}; give the command of "
                "one of them again with the other's names, which draws nothing again"
            )


def keys_in(run: StoredRun) -> list[str]:
    """The key of each cell, in the order of the table: rows may have other names in another shard."""
    return [cell.key for cell in run.record.cells]


def blocks_left_out(plan: Plan, folder: RunFolder, failed: Collection[str], there: Sequence[Shard]) -> Iterator[str]:
    """Which blocks are not in the table, and why."""
    cells = [cell for cell in plan.cells if cell.key not in failed]
    # A block counts where every sound cell has it, as in any table.
    whole = {block.number for block in folder.whole_blocks(cells, plan.blocks)}
    missing = [block for block in plan.blocks if block.number not in whole]
    if not missing or not cells:
        return
    named = [f"samples {block.first} to {block.first + block.n - 1}" for block in missing[:BLOCKS_NAMED]]
    rest = [f"{len(missing) - len(named)} more"] if len(missing) > len(named) else []
    of = there[0].of
    # A shard that is missing and one that was stopped leave the same gap, and need another remedy.
    absent = [f"{number}/{of}" for number in range(1, of + 1) if Shard(number, of) not in there]
    why = f"not given: shard {', '.join(absent)}" if absent else "give the commands of the shards again to go on"
    blocks = count_of(len(missing), "block")
    yield f"left out: {blocks} of {len(plan.blocks)} that not every cell has ({'; '.join([*named, *rest])}); {why}"


def command_of_whole(record: RunRecord) -> str:
    """The command of a shard without what makes it one."""
    words = shlex.split(record.command)
    kept = [
        word
        for i, word in enumerate(words)
        if word != "--shard" and not word.startswith("--shard=") and (not i or words[i - 1] != "--shard")
    ]
    return shlex.join(kept)

"""The chunks of a run on disk, its failures, repeats and ODE solution: a file each, written whole or not at all."""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from torch import Tensor

from ...samplers.errors import StoreError
from ...samplers.files.atomic import make_folder, write_atomically
from ...samplers.files.lock import WriterLock
from ..plan.keys import FORMAT
from ..plan.plan import Block, Blocks, Cell, Plan
from .aside import Aside
from .chunk_file import (
    Arrays,
    Chunk,
    Place,
    arrays_to_bytes,
    bytes_to_arrays,
    check_array,
    chunk_from_arrays,
    chunk_name,
    chunk_to_arrays,
    place_of,
    timing_from_json,
)
from .clock import Repeat
from .folder import (
    BEFORE,
    CHUNKS,
    FAILURE,
    HALF_DONE,
    LATENCY_NAME,
    LATENCY_SUFFIX,
    OF_ONE_FOLDER,
    OUTGROWN,
    REFERENCE,
    REPEAT_NAME,
    REPEAT_SUFFIX,
    RUN_FILE,
    is_drawn,
    is_own,
    latency_name,
    names_below,
    names_in,
    repeat_name,
)
from .output import check_contents, check_output
from .run_file import read_run, run_to_json
from .sealed_file import bytes_of, damage_error, disk_errors, seal_json, texts_in, unseal_json

NOT_TAKEN = (*OF_ONE_FOLDER, REPEAT_SUFFIX, LATENCY_SUFFIX)
"""How the files end that a joined run does not have of its parts: verdicts, and times."""
FEW_BLOCKS = 4
"""Up to this many files are looked up by name; for more, the folder is listed once."""


class FailureRecord(msgspec.Struct, frozen=True):
    """Why a cell failed."""

    format: int
    cell: str
    """Its key."""
    reason: str


class RunFolder:
    """One run on disk; many may read it, and the one that opened it writes until `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._chunks = path / CHUNKS
        self._chunks_text = str(self._chunks)
        self.repeats_written: Counter[str] = Counter()
        """How many repeats and latencies this object wrote, by cell key: numbers made of fewer are out of date."""
        self._lock: WriterLock | None = None
        self._is_new = False
        """Whether there was no run before `open`."""
        self._made: list[Path] = []
        """The folders that were made for it, the innermost first."""
        self._run: tuple[Plan, Mapping[str, Any]] | None = None
        """What run.json was made of."""
        self._before = b""
        """The run.json of the run that is added to, until something is stored."""
        self._outgrown = Aside(path, OUTGROWN)
        """Chunks of that run which will be drawn again, until something is stored."""
        self._earlier = Aside(path, BEFORE)
        """The run that was here before one that starts over, until something is stored."""
        self._replaces = False
        """Whether there is such a run."""
        self._cells: set[str] | None = None
        """The names in the folder of chunks, listed once: it has one writer."""
        self._there: defaultdict[str, set[Place]] = defaultdict(set)
        """The places of the chunks that are known to exist, by cell key."""
        self._alone: dict[tuple[str, Place], bool] = {}
        """Whether a chunk was drawn alone, for those asked about; a cache, since a chunk is never written twice."""
        self._store_seconds: float | None = None
        """What it took to store the newest chunk."""
        self._looked: set[str] = set()
        """The keys of the cells whose folder was listed: `_there` has all their chunks."""

    def open(self, plan: Plan, about: Mapping[str, Any], *, fresh: bool = False, add: bool = False) -> None:
        """Make the folder, or resume the run that is in it, or with `add` enlarge it; refuse anything else there.

        With `fresh` the run that is there is removed when the first chunk of this one is stored, and comes back if that
        never happens. A model without a fingerprint may have changed since, so each of its runs is a fresh one.
        """
        check_contents(self.path)  # before anything is made there
        self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        with disk_errors(self.path):
            make_folder(self.path)
            self._lock = WriterLock(self.path)
            try:
                # Now that nobody else writes.
                is_mended = self._mend()
                self._is_new = not check_contents(self.path)
                check_output(self.path, plan, fresh=fresh, add=add)
                if fresh or not plan.model.fingerprint:
                    self._set_aside()
                make_folder(self._chunks)
                self._before = bytes_of(self.path / RUN_FILE) if add else b""
                if is_mended or (add and read_run(self.path).config.samples < plan.config.samples):
                    self._remove_outgrown(plan)
                # Last: a folder with a run.json is a whole run folder, and one without may be taken by any run.
                write_atomically(self.path / RUN_FILE, run_to_json(plan, about))
                self._run = plan, about
            except BaseException:
                self._put_back()
                self.close()
                raise

    def write_stages(self, seconds: Mapping[str, float]) -> None:
        """Write into run.json how many seconds the blocks of the table took in each stage."""
        assert self._run, "the folder was not opened"
        plan, about = self._run
        with disk_errors(self.path / RUN_FILE):
            write_atomically(self.path / RUN_FILE, run_to_json(plan, {**about, "stages": dict(seconds)}))

    def recover(self) -> None:
        """Bring back the run that a killed process had set aside, before anything of the folder is read."""
        if self._earlier.is_there:
            with disk_errors(self.path), closing(self):  # which does it
                self._lock = WriterLock(self.path)

    def _mend(self) -> bool:
        """Make the folder what it was before a process was killed that had stored nothing yet, and remove what is left
        of files that it was writing. Returns whether chunks came back that a larger run draws again."""
        self._end_fresh()
        if is_outgrown := self._outgrown.is_there:
            self._outgrown.put_back()
        # The names are those that only the writer of the folder gives, so nobody else is writing these files.
        for name in list(names_below(self.path)):
            half = HALF_DONE.fullmatch(name)
            if half and not half["process"] and is_own(name):
                (self.path / name).unlink(missing_ok=True)
        return is_outgrown

    def _set_aside(self) -> None:
        """Set the run that is here aside; of one that was stopped before it had a run.json, remove what is left."""
        names = self._own_names()
        files = [name for name in names if not name.endswith("/")]
        if RUN_FILE in files:
            # First, and on the disk before the others: as long as run.json is here, all that is here is of one run.
            self._replaces = True
            self._earlier.move([RUN_FILE])
            self._earlier.move(name for name in files if name != RUN_FILE)
        self._clear()

    def _end_fresh(self) -> None:
        """Remove the run that was here before, if this one has stored something; else bring it back."""
        if not self._earlier.is_there:
            return
        # Without run.json, the killed process was still setting the files aside, or was putting them back.
        is_begun = os.path.lexists(self.path / RUN_FILE)
        if not self._earlier.is_whole_run or (is_begun and self._has_drawn()):
            self._earlier.drop()
            return
        if is_begun:
            self._clear()
        self._earlier.put_back()
        self._forget_listings()

    def _has_drawn(self) -> bool:
        return any(map(is_drawn, names_below(self.path)))

    def withdraw(self) -> None:
        """Close a run that was refused before it stored anything, and leave nothing of it, or the run that it was to
        add to or to replace as it was; any other stays."""
        if self._is_new and not self._has_drawn():
            with suppress(OSError):  # the refusal is what has to be said
                self._clear()
                self.close()
                for folder in self._made:
                    folder.rmdir()
        self._put_back()
        self.close()

    def _put_back(self) -> None:
        """Make the run that was to be added to what it was, if nothing was stored since."""
        if self._before:
            with suppress(OSError):
                self._outgrown.put_back()
                write_atomically(self.path / RUN_FILE, self._before)

    def close(self) -> None:
        """Let the next writer in."""
        if self._lock and self._lock.is_held:
            with suppress(OSError, StoreError):  # the next writer does it
                self._drop_outgrown()
                self._end_fresh()
            self._lock.release()

    def _drop_outgrown(self) -> None:
        """Remove what is drawn again: from here on the run is the larger one."""
        self._before = b""
        if self._outgrown.is_there:
            self._outgrown.drop()

    def _drop_earlier(self) -> None:
        """Remove the run that was here before this one: the first file of this one is on the disk."""
        if self._replaces:
            self._replaces = False
            self._earlier.drop()

    def _remove_outgrown(self, plan: Plan) -> None:
        """Set the chunks aside that a run of more samples draws again: last blocks that were cut, and chunks that lack
        distances to the ODE solution, which is now known for more samples."""
        for key, cell in {cell.key: cell for cell in plan.cells}.items():
            for first, n in self.places_of(key):
                # How many of its samples have a distance now; a chunk from before has those of fewer.
                distances = min(n, plan.ode_samples - first) if cell.is_deterministic else 0
                if plan.blocks.at(first, n) is None or (distances > 0 and self._lacks(key, (first, n), distances)):
                    self._outgrown.move([f"{CHUNKS}/{key[:16]}/{chunk_name(first, n)}"])

    def _lacks(self, key: str, place: Place, distances: int) -> bool:
        """Whether a chunk has fewer distances to the ODE solution, where the run has one."""
        if not (self.path / REFERENCE).exists():
            return False
        there = self.read_at(key, place).ode_distance
        return there is None or len(there) < distances

    def _own_names(self) -> list[str]:
        """The names that a run wrote here; StoreError for a link in place of a folder."""
        names = list(names_below(self.path))
        for name in names:
            if is_own(f"{name}/"):  # chunks may be behind it, which are not removed and would be taken for new ones
                raise StoreError(f"{self.path / name}: a link or a file, and no folder; remove it, or give another -o")
        return [name for name in names if is_own(name)]

    def _clear(self) -> None:
        """Remove what a run wrote, run.json last, and nothing else."""
        # All is listed before anything is removed, so that a refusal leaves the folder as it is.
        for name in reversed(self._own_names()):  # what is in a folder before the folder
            if name.endswith("/"):
                with suppress(OSError):  # others keep something there
                    (self.path / name).rmdir()
            elif name != RUN_FILE:
                (self.path / name).unlink()
        (self.path / RUN_FILE).unlink(missing_ok=True)
        self._forget_listings()

    def _forget_listings(self) -> None:
        self._cells = None
        self._there.clear()
        self._alone.clear()
        self._looked.clear()

    def take(self, other: RunFolder) -> None:
        """Take over the chunks, failures, paths and ODE solution of another folder of this plan that are missing here.

        A file of the same disk is not copied: both folders name it, and neither ever changes it.
        """
        with disk_errors(self.path):
            for name in names_below(other.path):
                here, there = self.path / name, other.path / name
                # Only the run's own files: what others keep in the folder is theirs.
                if not name.startswith(f"{CHUNKS}/") or not is_own(name) or HALF_DONE.fullmatch(name):
                    continue
                if name.endswith("/"):
                    make_folder(here)
                elif not here.exists() and not name.endswith(NOT_TAKEN):
                    try:
                        os.link(there, here)
                    except OSError:  # of another disk, or of one that knows no links
                        write_atomically(here, bytes_of(there))
        self._forget_listings()

    def cell_path(self, key: str) -> Path:
        """The folder of a cell."""
        return self._chunks / key[:16]

    def chunk_path(self, cell: Cell, block: Block) -> Path:
        """The file of a chunk."""
        return self._chunks.joinpath(cell.key[:16], chunk_name(block.first, block.n))

    def has(self, cell: Cell, block: Block) -> bool:
        """Whether the chunk is stored."""
        there, place = self._there[cell.key], (block.first, block.n)
        # Once seen, a chunk stays: only this object removes any, and then forgets what it saw.
        if place in there or cell.key in self._looked:
            return place in there
        folder = cell.key[:16]
        # There may be very many: no Path of each, and no question about a file but whether it is there.
        path = f"{self._chunks_text}/{folder}/{chunk_name(*place)}"
        if folder in self._cell_names() and os.access(path, os.F_OK):
            there.add(place)
            return True
        return False

    def stored_places(self, cell: Cell, blocks: Blocks) -> set[Place]:
        """The places of the blocks of a plan that a cell has a chunk of; cheap for a great number of blocks too."""
        if len(blocks) > FEW_BLOCKS and cell.key not in self._looked:
            # One listing of the folder is faster than a question for each of very many blocks.
            self._looked.add(cell.key)
            if cell.key[:16] in self._cell_names():
                names = names_in(f"{self._chunks_text}/{cell.key[:16]}")
                places = (place_of(name) for name in names)
                self._there[cell.key].update(place for place in places if place and blocks.at(*place))
        if cell.key in self._looked:
            return self._there[cell.key]
        return {(block.first, block.n) for block in blocks if self.has(cell, block)}

    def images_missing(self, cell: Cell, blocks: Blocks) -> int:
        """How many samples of a cell are in no chunk."""
        return blocks.images - sum(n for _, n in self.stored_places(cell, blocks))

    def whole_blocks(self, cells: Sequence[Cell], blocks: Blocks) -> tuple[Block, ...]:
        """The blocks that all of these cells have a chunk of, in order."""
        common = set[Place].intersection(*(self.stored_places(cell, blocks) for cell in cells)) if cells else set()
        return tuple(block for place in sorted(common) if (block := blocks.at(*place)))

    def _cell_names(self) -> set[str]:
        if self._cells is None:
            self._cells = set(names_in(self._chunks))
        return self._cells

    def _names(self, key: str) -> list[str]:
        """The names in the folder of a cell, in order."""
        return sorted(names_in(f"{self._chunks_text}/{key[:16]}"))

    def write_failure(self, cell: Cell, reason: str) -> None:
        """Store why a cell failed; it is not drawn again until `forget_failures`."""
        path = self.failure_path(cell.key)
        # It says whose it is, as every file of a run: the name holds only a part of the key.
        failure = {"format": FORMAT, "cell": cell.key, "reason": reason}
        with disk_errors(path):
            self._drop_outgrown()
            write_atomically(path, seal_json(json.dumps(failure, indent=1)))
            self._drop_earlier()
        self._cell_names().add(path.name)

    def failure_path(self, key: str) -> Path:
        """The file that says why a cell failed."""
        return self._chunks / f"{key[:16]}{FAILURE}"

    def failures(self, plan: Plan) -> dict[str, str]:
        """The stored reason of failure by cell key."""
        return {cell.key: self._reason(cell.key) for cell in self._failed_cells(plan)}

    def forget_failures(self, plan: Plan) -> None:
        """Let the cells that failed be drawn again."""
        for cell in self._failed_cells(plan):
            path = self.failure_path(cell.key)
            with disk_errors(path):
                path.unlink(missing_ok=True)
            self._cell_names().discard(path.name)

    def _failed_cells(self, plan: Plan) -> list[Cell]:
        names = self._cell_names()
        return [cell for cell in plan.cells if f"{cell.key[:16]}{FAILURE}" in names]

    def _reason(self, key: str) -> str:
        path = self.failure_path(key)
        try:
            failure = msgspec.convert(unseal_json(bytes_of(path)), FailureRecord)
        except (OSError, ValueError, RecursionError) as error:
            raise damage_error(path, error) from error
        check_belongs(path, {"format": str(failure.format), "cell": failure.cell}, cell=key)
        return failure.reason

    def write(self, cell: Cell, block: Block, chunk: Chunk) -> None:
        """Store a chunk, and know of it."""
        self.put(cell, block, chunk)
        self.note(cell, block, chunk)

    def put(self, cell: Cell, block: Block, chunk: Chunk) -> None:
        """Write the file of a chunk; when this returns it survives a crash. One thread at a time may do this, and it
        need not be the one that uses the folder: nothing else knows of the chunk until `note`."""
        started = time.perf_counter()
        # How long this write takes is known when it is over, so each chunk carries the time of the one before.
        arrays, timing = chunk_to_arrays(
            replace(chunk, timing=replace(chunk.timing, store_seconds=self._store_seconds))
        )
        path = self.chunk_path(cell, block)
        with disk_errors(path):
            self._drop_outgrown()
            if path.parent.name not in self._cell_names():
                make_folder(path.parent, parents=False)
                self._cell_names().add(path.parent.name)
        self.write_arrays(path, arrays, {"timing": timing}, cell=cell.key, first=block.first, n=block.n)
        with disk_errors(path):
            self._drop_earlier()
        self._store_seconds = time.perf_counter() - started

    def note(self, cell: Cell, block: Block, chunk: Chunk) -> None:
        """Count a chunk as stored: its file is there."""
        self._there[cell.key].add((block.first, block.n))
        self._alone[cell.key, (block.first, block.n)] = chunk.timing.counts

    def is_drawn_alone(self, key: str, place: Place) -> bool:
        """Whether the chunk at a place was drawn alone. A damaged one counts as such: reading it raises the error."""
        if (known := self._alone.get((key, place))) is None:
            path = self._chunks.joinpath(key[:16], chunk_name(*place))
            with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                known = timing_from_json(texts_in(path)["timing"]).counts
            known = self._alone[key, place] = known is not False
        return known

    def read(self, cell: Cell, block: Block) -> Chunk:
        """A stored chunk."""
        return self.read_at(cell.key, (block.first, block.n))

    def chunks_of(self, key: str) -> dict[Place, Chunk]:
        """All stored chunks of a cell by their place."""
        return {place: self.read_at(key, place) for place in self.places_of(key)}

    def places_of(self, key: str) -> list[Place]:
        """The places of all stored chunks of a cell, in order; StoreError if two of them hold the same sample."""
        # Chunks of two batch sizes overlap, if someone copied one from another run: then a sample would count twice.
        places = sorted(place for name in self._names(key) if (place := place_of(name)))
        # In order of their first sample, only neighbours can overlap.
        for (first, n), (second, m) in pairwise(places):
            if first + n > second:
                raise StoreError(
                    f"{self.cell_path(key)}: {chunk_name(first, n)} and {chunk_name(second, m)} hold the same samples; "
                    "delete the one that is not of this run"
                )
        return places

    def first_chunk_of(self, key: str) -> Chunk | None:
        """The stored chunk of a cell that begins with sample 0, the longest if there are several."""
        places = [place for place in self.places_of(key) if place[0] == 0]
        return self.read_at(key, places[-1]) if places else None

    def read_at(self, key: str, place: Place) -> Chunk:
        """The stored chunk of a cell at a place."""
        path = self._chunks.joinpath(key[:16], chunk_name(*place))
        arrays, about = self.read_arrays(path, cell=key, first=place[0], n=place[1])
        try:
            return chunk_from_arrays(*place, arrays, about["timing"])
        except (ValueError, KeyError) as error:
            raise damage_error(path, error) from error

    def ode_solution(self, key: str) -> Tensor | None:
        """The stored ODE solution of the first samples, (k, *shape), of this key; None if there is none."""
        path = self.path / REFERENCE
        if not path.exists():
            return None
        arrays, _ = self.read_arrays(path, solution=key)
        try:
            # Of any shape, as a model's state may be.
            x = arrays["x"]
            check_array("states", x, "f", [None] * max(x.ndim, 1))  # of any shape, but at least one
        except (ValueError, KeyError) as error:
            raise damage_error(path, error) from error
        return torch.from_numpy(x)

    def write_ode_solution(self, x: Tensor, key: str) -> None:
        """Store the converged ODE solution."""
        self.write_arrays(self.path / REFERENCE, {"x": x.cpu().numpy()}, {}, solution=key)

    def repeats_of(self, key: str) -> list[Repeat]:
        """The timings of a cell beyond its chunks."""
        return [self._timing_in(key, name, number=number) for number, name in self._repeats(key)]

    def latencies_of(self, key: str) -> dict[int, list[Repeat]]:
        """The draws for the latency of a cell, by their number of images."""
        found: defaultdict[int, list[Repeat]] = defaultdict(list)
        for rows, number, name in self._latencies(key):
            found[rows].append(self._timing_in(key, name, n=rows, number=number))
        return dict(found)

    def _timing_in(self, key: str, name: str, **belongs: int) -> Repeat:
        """What a file of a timing in the folder of a cell says."""
        path = self.cell_path(key) / name
        _, about = self.read_arrays(path, cell=key, **belongs)
        try:
            return Repeat(positive(about["n"]), timing_from_json(about["timing"]))
        except (ValueError, KeyError) as error:
            raise damage_error(path, error) from error

    def count_latencies(self, key: str, rows: int) -> int:
        """How often a cell was drawn with this number of images at once."""
        return sum(1 for there, _, _ in self._latencies(key) if there == rows)

    def _latencies(self, key: str) -> Iterator[tuple[int, int, str]]:
        """Images at once, number and file of each."""
        for name in self._names(key):
            named = LATENCY_NAME.fullmatch(name)
            if named and latency_name(rows := int(named[1]), number := int(named[2])) == name:
                yield rows, number, name

    def count_repeats(self, key: str) -> int:
        """How often a cell was clocked beyond its chunks."""
        return sum(1 for _ in self._repeats(key))

    def _repeats(self, key: str) -> Iterator[tuple[int, str]]:
        """Number and file of each."""
        for name in self._names(key):
            if (named := REPEAT_NAME.fullmatch(name)) and repeat_name(int(named[1])) == name:
                yield int(named[1]), name

    def write_repeat(self, cell: Cell, repeat: Repeat) -> None:
        """Store a timing without samples."""
        self._write_timing(cell, repeat, repeat_name)

    def write_latency(self, cell: Cell, repeat: Repeat) -> None:
        """Store the timing of a draw for the latency."""
        self._write_timing(cell, repeat, partial(latency_name, repeat.n))

    def _write_timing(self, cell: Cell, repeat: Repeat, name_of: Callable[[int], str]) -> None:
        folder = self.cell_path(cell.key)
        # The first free number; there is one writer, so nobody else takes it meanwhile.
        number = next(number for number in itertools.count() if not (folder / name_of(number)).exists())
        self._drop_outgrown()
        about = {"n": str(repeat.n), "timing": json.dumps(asdict(repeat.timing))}
        self.write_arrays(folder / name_of(number), {}, about, cell=cell.key, number=number)
        self.repeats_written[cell.key] += 1

    def write_arrays(self, path: Path, arrays: Arrays, about: Mapping[str, str], **belongs: str | int) -> None:
        """Write arrays and texts as one safetensors file that says what it belongs to."""
        # Where a file belongs is part of its content and of its hash: a copy under another name is refused.
        known = {"format": str(FORMAT), **{name: str(value) for name, value in belongs.items()}}
        with disk_errors(path):
            write_atomically(path, arrays_to_bytes(arrays, {**known, **about}))

    def read_arrays(self, path: Path, **belongs: str | int) -> tuple[Arrays, dict[str, str]]:
        """Read what `write_arrays` wrote; a StoreError for a file that belongs elsewhere, such as a copy."""
        try:
            arrays, about = bytes_to_arrays(bytes_of(path))
        except (OSError, SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise damage_error(path, error) from error
        check_belongs(path, about, **belongs)
        return arrays, about


BELONGING = {
    "format": "format", "cell": "cell", "first": "first sample", "n": "number of samples", "number": "number",
    "solution": "ODE solution",
}  # fmt: skip
"""The entries by which a file of a run folder says where it belongs, and what an error calls each."""


def check_belongs(path: Path, about: Mapping[str, str], **belongs: str | int) -> None:
    """StoreError for a file that belongs elsewhere: it was copied or renamed."""
    for name, here in {"format": FORMAT, **belongs}.items():
        if (there := about.get(name)) != str(here):
            raise StoreError(
                f"{path}: its {BELONGING[name]} is {str(there)[:16]}, and {str(here)[:16]} belongs here; delete the "
                "file and give the same command again"
            )


def positive(text: str) -> int:
    """A whole number from 1."""
    if not re.fullmatch("[1-9][0-9]{0,17}", text):
        raise ValueError(f"n {text[:20]!r}")
    return int(text)

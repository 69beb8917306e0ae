"""The run folder: run.json, and one file a chunk, each written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..samplers.errors import InputError, StoreError
from ..samplers.files import make_folder, write_atomically
from ..samplers.lock import LOCK_FILE, WriterLock
from .chunk_file import (
    CHUNK_SUFFIX,
    Arrays,
    Chunk,
    Place,
    arrays_to_bytes,
    bytes_to_arrays,
    chunk_from_arrays,
    chunk_name,
    chunk_to_arrays,
    place_of,
)
from .config import as_json, differences
from .environment import VERSIONS_THAT_MATTER, other_switches, version_of
from .keys import FORMAT
from .plan import Block, Cell, Plan
from .timing import Repeat, Timing

RUN_FILE = "run.json"
CHUNKS = "chunks"
FAILURE = ".failed.json"
OWN_FILES = ("table.csv", "table.md", "grid.png", "report.html", RUN_FILE)
REFERENCE = f"{CHUNKS}/ode-reference.safetensors"
REPEAT_SUFFIX = ".timing"
"""Of a chunk that was drawn again for the clock alone."""
CELL = "[0-9a-f]{16}"
OWN_NAMES = re.compile(
    rf"{'|'.join(map(re.escape, (*OWN_FILES, REFERENCE)))}"
    rf"|{CHUNKS}/((answers|fronts)\.json|{CELL}{re.escape(FAILURE)}|paths/({CELL}{re.escape(CHUNK_SUFFIX)})?)?"
    rf"|{CHUNKS}/{CELL}/(\d{{8,}}-\d{{4,}}{re.escape(CHUNK_SUFFIX)}|\d{{4,}}{re.escape(REPEAT_SUFFIX)})?"
)
"""All that a run writes into its folder, but for the lock; folders end in "/"."""
HALF_DONE = re.compile(r"(?P<folder>.*/)?\.(?P<file>[^/]+)\.tmp")
"""What a process that was killed while it wrote a file left of it."""


class RunFolder:
    """One run on disk; many may read it, and the one that opened it writes until `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._chunks = path / CHUNKS
        self._chunks_text = str(self._chunks)
        self.repeats_written: Counter[str] = Counter()
        """By this object, by cell key; who has numbers made of the repeats knows by it whether they are old."""
        self._lock: WriterLock | None = None
        self._cells: set[str] | None = None
        """The names in the folder of chunks, listed once: it has one writer."""
        self._seen: defaultdict[Place, set[str]] = defaultdict(set)
        """The keys of the cells whose chunk of a place is known to be there."""

    def open(self, plan: Plan, about: Mapping[str, Any], *, fresh: bool = False) -> None:
        """Make the folder, or resume the run that is in it; refuse anything else that is there.

        A model without a fingerprint may have changed since, so none of its chunks is taken for its own.
        """
        check_contents(self.path)  # before anything is made there
        with disk_errors(self.path):
            make_folder(self.path)
            self._lock = WriterLock(self.path)
            try:
                check_output(self.path, plan, fresh=fresh)  # now that nobody else writes
                if fresh or not plan.model.fingerprint:
                    self._clear()
                make_folder(self._chunks)
                write_atomically(self.path / RUN_FILE, run_to_json(plan, about))
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Let the next writer in."""
        if self._lock:
            self._lock.release()

    def _clear(self) -> None:
        """Remove what a run wrote, run.json last, and nothing else."""
        names = list(names_below(self.path))
        for name in names:
            if is_own(f"{name}/"):  # chunks may be behind it, which are not removed and would be taken for new ones
                raise StoreError(f"{self.path / name}: a link or a file, and no folder; remove it, or give another -o")
        for name in reversed(names):  # what is in a folder before the folder
            if name.endswith("/") and is_own(name):
                with suppress(OSError):  # others keep something there
                    (self.path / name).rmdir()
            elif is_own(name) and name != RUN_FILE:
                (self.path / name).unlink()
        (self.path / RUN_FILE).unlink(missing_ok=True)
        self._cells = None
        self._seen.clear()

    def cell_path(self, key: str) -> Path:
        """Where all is that belongs to a cell."""
        return self._chunks / key[:16]

    def chunk_path(self, cell: Cell, block: Block) -> Path:
        """Where a chunk is."""
        return self._chunks.joinpath(cell.key[:16], chunk_name(block.first, block.n))

    def has(self, cell: Cell, block: Block) -> bool:
        """Whether the chunk is there."""
        there = self._seen[block.first, block.n]
        if cell.key in there:
            return True
        folder = cell.key[:16]
        # There may be very many: no Path of each, and no question about a file but whether it is there.
        path = f"{self._chunks_text}/{folder}/{chunk_name(block.first, block.n)}"
        if folder in self._listed() and os.access(path, os.F_OK):
            there.add(cell.key)
            return True
        return False

    def _listed(self) -> set[str]:
        if self._cells is None:
            self._cells = set(names_in(self._chunks))
        return self._cells

    def _files(self, key: str, suffix: str) -> list[str]:
        """The names of a cell's files that end so, in order."""
        return sorted(name for name in names_in(f"{self._chunks}/{key[:16]}") if name.endswith(suffix))

    def write_failure(self, cell: Cell, reason: str) -> None:
        """Store why a cell failed; it is not run again until that is forgotten."""
        path = self.failure_path(cell.key)
        with disk_errors(path):
            write_atomically(path, sealed(json.dumps({"cell": cell.key, "reason": reason}, indent=1)))
        self._listed().add(path.name)

    def failure_path(self, key: str) -> Path:
        """Where it is stored that a cell failed."""
        return self._chunks / f"{key[:16]}{FAILURE}"

    def failures(self, plan: Plan) -> dict[str, str]:
        """The stored reason of failure by cell key."""
        return {cell.key: self._reason(cell.key) for cell in self._failed(plan)}

    def forget_failures(self, plan: Plan) -> None:
        """Let the cells that failed be run again."""
        for cell in self._failed(plan):
            path = self.failure_path(cell.key)
            with disk_errors(path):
                path.unlink(missing_ok=True)
            self._listed().discard(path.name)

    def _failed(self, plan: Plan) -> list[Cell]:
        names = self._listed()
        return [cell for cell in plan.cells if f"{cell.key[:16]}{FAILURE}" in names]

    def _reason(self, key: str) -> str:
        path = self.failure_path(key)
        try:
            content = unsealed(bytes_of(path))
            if content["cell"] != key or not isinstance(content["reason"], str):
                raise ValueError("it is of another cell")
        except (OSError, ValueError, KeyError, RecursionError) as error:
            raise StoreError(f"{path}: damaged ({error}); delete the file and give the same command again") from error
        return str(content["reason"])

    def write(self, cell: Cell, block: Block, chunk: Chunk) -> None:
        """Store a chunk; when this returns it survives a crash."""
        arrays, timing = chunk_to_arrays(chunk)
        about = {"format": str(FORMAT), "cell": cell.key, "timing": timing}
        path = self.chunk_path(cell, block)
        with disk_errors(path):
            if path.parent.name not in self._listed():
                make_folder(path.parent, parents=False)
                self._listed().add(path.parent.name)
        self.write_arrays(path, arrays, about)
        self._seen[block.first, block.n].add(cell.key)

    def read(self, cell: Cell, block: Block) -> Chunk:
        """A stored chunk."""
        return self.read_at(cell.key, (block.first, block.n))

    def chunks_of(self, key: str) -> dict[Place, Chunk]:
        """All stored chunks of a cell by their place."""
        return {place: self.read_at(key, place) for place in self.places_of(key)}

    def places_of(self, key: str) -> list[Place]:
        """The places of all stored chunks of a cell, in order."""
        return [place_of(name) for name in self._files(key, CHUNK_SUFFIX)]

    def first_chunk_of(self, key: str) -> Chunk | None:
        """The stored chunk of a cell that begins with sample 0, the longest if there are several."""
        places = [place for place in self.places_of(key) if place[0] == 0]
        return self.read_at(key, places[-1]) if places else None

    def read_at(self, key: str, place: Place) -> Chunk:
        """The stored chunk of a cell at a place."""
        path = self._chunks.joinpath(key[:16], chunk_name(*place))
        arrays, about = self.read_arrays(path)
        if about.get("cell") != key:
            raise StoreError(f"{path}: a chunk of another cell; delete the file and give the same command again")
        return chunk_from_arrays(*place, arrays, about["timing"])

    def reference(self) -> Tensor | None:
        """The converged ODE solution of the first samples, (k, *shape), if it is stored."""
        path = self.path / REFERENCE
        return torch.from_numpy(self.read_arrays(path)[0]["x"]) if path.exists() else None

    def write_reference(self, x: Tensor) -> None:
        """Store the converged ODE solution."""
        self.write_arrays(self.path / REFERENCE, {"x": x.cpu().numpy()}, {})

    def repeats_of(self, key: str) -> list[Repeat]:
        """What was clocked of a cell beyond its chunks."""
        found = []
        for name in self._files(key, REPEAT_SUFFIX):
            _, about = self.read_arrays(self.cell_path(key) / name)
            found.append(Repeat(int(about["n"]), Timing(**json.loads(about["timing"]))))
        return found

    def write_repeat(self, cell: Cell, repeat: Repeat) -> None:
        """Store a timing without samples."""
        paths = (self.cell_path(cell.key) / f"{number:04d}{REPEAT_SUFFIX}" for number in itertools.count())
        path = next(path for path in paths if not path.exists())
        about = {"format": str(FORMAT), "cell": cell.key, "n": str(repeat.n)}
        self.write_arrays(path, {}, about | {"timing": json.dumps(asdict(repeat.timing))})
        self.repeats_written[cell.key] += 1

    def write_arrays(self, path: Path, arrays: Arrays, about: Mapping[str, str]) -> None:
        """Arrays and texts as one safetensors file."""
        with disk_errors(path):
            write_atomically(path, arrays_to_bytes(arrays, about))

    def read_arrays(self, path: Path) -> tuple[Arrays, dict[str, str]]:
        """What `write_arrays` wrote."""
        try:
            return bytes_to_arrays(bytes_of(path))
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{path}: damaged ({error}); delete the file and give the same command again") from error


def run_to_json(plan: Plan, about: Mapping[str, Any]) -> bytes:
    """run.json: what a run is of, where it was made, and its cells."""
    head = {"format": FORMAT, "plan": plan.key, "config": as_json(plan.config), **about}
    cells = [{"sampler": c.sampler, "grid": c.grid, "steps": c.steps, "nfe": c.nfe, "key": c.key} for c in plan.cells]
    # An indent would make the encoder slow, and there may be many cells.
    lines = json.dumps(cells, separators=(",\n  ", ": "))
    return sealed(f'{json.dumps(head, indent=1)[:-2]},\n "cells": {lines}\n}}')


SEAL = ',\n "sha256": "'


def sealed(text: str) -> bytes:
    """A JSON object with one more entry at its end: the SHA-256 of all before it."""
    body = text.removesuffix("}").rstrip()
    return f'{body}{SEAL}{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'.encode()


def unsealed(content: bytes) -> dict[str, Any]:
    """The JSON object; ValueError where it is none, or not what was sealed. One without a seal is taken as it is."""
    text = content.decode("utf-8")
    value = json.loads(text)
    body, seal, end = text.rpartition(SEAL)
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    if seal and not end.startswith(hashlib.sha256(body.encode()).hexdigest()):
        raise ValueError("its content is not what was written")
    return value


def check_output(path: Path, plan: Plan, *, fresh: bool) -> bool:
    """Refuse an output that is a file, holds something else, or belongs to another run; whether there is a run to
    resume in it."""
    holds_run = check_contents(path)
    if fresh or not holds_run:
        return False
    stored = read_run(path)
    if stored.get("plan") == plan.key:
        return True
    changed = [*differences(stored.get("config", {}), plan.config), *other_versions(stored)]
    changed += other_switches(stored.get("environment"))
    changed = changed or ["the model, its code or a version"]
    raise InputError(
        f"output {path}: belongs to another run ({'; '.join(changed)}); give another -o, or --fresh to start it anew"
    )


def other_versions(stored: Mapping[str, Any]) -> list[str]:
    """Each version that decides numbers and that a run file names otherwise, with the one here."""
    there = versions_in(stored)
    pairs = [(name, there.get(name), version_of(name)) for name in VERSIONS_THAT_MATTER]
    return [f"{name}: {before} -> {here}" for name, before, here in pairs if before not in (None, here)]


def check_contents(path: Path) -> bool:
    """Refuse an output that is a file or holds something else; whether there is a run in it."""
    try:
        broken = next((place for place in (path, *path.parents) if place.is_symlink() and not place.exists()), None)
        target = broken and str(broken.readlink())
        is_other = path.exists() and not path.is_dir()
        holds_run = os.path.lexists(path / RUN_FILE)
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


def is_of_stopped_run(name: str) -> bool:
    """Whether a run that was stopped while it made its folder may have left this there."""
    return name == LOCK_FILE or (is_own(name) and name not in OWN_FILES)


def is_own(name: str) -> bool:
    """Whether a run writes this, or began to; `name` is as `names_below` says it."""
    half = HALF_DONE.fullmatch(name)
    return OWN_NAMES.fullmatch(f"{half['folder'] or ''}{half['file']}" if half else name) is not None


def names_below(folder: Path, within: str = "") -> Iterator[str]:
    """What is in the folder of a run, as text relative to it; folders end in "/", links to folders do not.

    What is not the run's own is named, and nobody looks into it.
    """
    with os.scandir(folder / within) as entries:
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            name = f"{within}{entry.name}{'/' if is_folder else ''}"
            yield name
            if is_folder and is_own(name):
                yield from names_below(folder, name)


def edited_since(path: Path, plan: Plan) -> list[str]:
    """The samplers of a plan whose source was another when its run folder was last opened."""
    if not (path / RUN_FILE).is_file():
        return []
    before = {cell.get("key") for cell in read_run(path).get("cells", [])}
    return sorted({cell.sampler for cell in plan.cells if cell.key not in before})


def read_run(path: Path) -> dict[str, Any]:
    """run.json of a run folder."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected the folder of a run")
    try:
        content = unsealed(bytes_of(path / RUN_FILE))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no {RUN_FILE} in it; expected the folder of a run") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{path / RUN_FILE}: damaged ({error}); its chunks are intact: put back a copy of {RUN_FILE}, "
            "or give --fresh to start the run anew"
        ) from error
    if content.get("format") != FORMAT:
        raise StoreError(
            f"{path / RUN_FILE}: format {content.get('format')!r}, and this version reads {FORMAT}; "
            f"use samplerbench {written_by(content)}, or give another -o"
        )
    return content


def bytes_of(path: Path) -> bytes:
    """The bytes of a file in a run folder; an OSError too for what would keep a reader waiting, as a pipe does."""
    with open(path, "rb", buffering=0, opener=opened_file) as file:
        return file.read()


def opened_file(path: str, flags: int) -> int:
    """A descriptor for `open`: of a file, or an OSError at once."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError("a folder, pipe or device; expected a file")


def written_by(content: Mapping[str, Any]) -> str:
    """The version that a run file says it is of."""
    return str(versions_in(content).get("samplerbench", "of the version that wrote it"))


def versions_in(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The versions that a run file names, by package."""
    environment = content.get("environment")
    versions = environment.get("versions") if isinstance(environment, dict) else None
    return versions if isinstance(versions, dict) else {}


def newest_run(root: Path) -> Path:
    """The run folder below `root` that was written to last."""
    runs = [p.parent for p in root.glob(f"*/{RUN_FILE}")]
    if not runs:
        raise InputError(f"no run in {root}; give a run folder, or make one with `samplerbench run`")
    return max(runs, key=lambda run: (run / RUN_FILE).stat().st_mtime)


def default_output(plan: Plan) -> Path:
    """results/<model>-<8 hex of the plan> in the current folder."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in plan.config.model).strip(".-")[:64]
    return Path("results") / f"{name or 'model'}-{plan.key[:8]}"


def names_in(folder: Path | str) -> list[str]:
    """What is in a folder; nothing where there is none."""
    try:
        return os.listdir(folder)  # noqa: PTH208  (no Path of each)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{folder}: cannot be read ({error.strerror or error})") from error


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What the disk refuses, as a StoreError that names the path."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error}); earlier chunks are intact") from error

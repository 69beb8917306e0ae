"""The run folder: run.json, and one file a chunk, each written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..samplers.errors import InputError, StoreError
from .config import as_json, differences
from .plan import FORMAT, Block, Cell, Plan

RUN_FILE = "run.json"
CHUNKS = "chunks"
OWN_FILES = (RUN_FILE, "table.csv", "table.md", "grid.png", "report.html")
REFERENCE = f"{CHUNKS}/ode-reference.safetensors"
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Timing:
    """What was counted and clocked while a chunk was drawn."""

    nfe: float
    network_evaluations: float
    seconds: float
    """Wall time of the whole chunk."""
    model_seconds: float
    """The part spent in the network."""


@dataclass(frozen=True)
class Chunk:
    """One cell's samples of one block, as the metrics need them."""

    first: int
    n: int
    timing: Timing
    rows: Arrays
    """What each extractor said, (n, d), by the extractor's name."""
    hashes: npt.NDArray[np.uint8]
    """(n, 16): a hash of each image."""
    images: npt.NDArray[np.uint8] | None
    """uint8 (k, C, H, W), the first k images that are kept."""
    ode_distance: npt.NDArray[np.float64] | None
    """Mean squared distance of each sample to its converged ODE solution, where there is one, (k,)."""


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, plan: Plan, about: Mapping[str, Any], *, fresh: bool = False) -> None:
        """Make the folder, or resume the run that is in it; refuse anything else that is there.

        A model without a fingerprint may have changed since, so none of its chunks is taken for its own.
        """
        check_output(self.path, plan, fresh=fresh)
        with disk_errors(self.path):
            if fresh or not plan.model.fingerprint:
                self._clear()
            (self.path / CHUNKS).mkdir(parents=True, exist_ok=True)
            cells = [
                {"sampler": c.sampler, "grid": c.grid, "steps": c.steps, "nfe": c.nfe, "key": c.key} for c in plan.cells
            ]
            content = {"format": FORMAT, "plan": plan.key, "config": as_json(plan.config), **about, "cells": cells}
            write_atomically(self.path / RUN_FILE, json.dumps(content, indent=1).encode())

    def _clear(self) -> None:
        """Remove what a run wrote, and nothing else."""
        shutil.rmtree(self.path / CHUNKS, ignore_errors=True)
        for name in OWN_FILES:
            (self.path / name).unlink(missing_ok=True)

    def chunk_path(self, cell: Cell, block: Block) -> Path:
        """Where a chunk is; the number of samples is part of the name, so a cut block is never taken for a whole."""
        return self.path / CHUNKS / cell.key[:16] / f"{block.first:08d}-{block.n:04d}.safetensors"

    def has(self, cell: Cell, block: Block) -> bool:
        """Whether the chunk is there."""
        return self.chunk_path(cell, block).exists()

    def write(self, cell: Cell, block: Block, chunk: Chunk) -> None:
        """Store a chunk; when this returns it survives a crash."""
        arrays: Arrays = {f"rows.{name}": values for name, values in chunk.rows.items()}
        arrays["hashes"] = chunk.hashes
        if chunk.images is not None:
            arrays["images"] = chunk.images
        if chunk.ode_distance is not None:
            arrays["ode_distance"] = chunk.ode_distance
        about = {"format": str(FORMAT), "cell": cell.key, "timing": json.dumps(asdict(chunk.timing))}
        self.write_arrays(self.chunk_path(cell, block), arrays, about)

    def read(self, cell: Cell, block: Block) -> Chunk:
        """A stored chunk."""
        return self.read_chunk(self.chunk_path(cell, block))

    def chunks_of(self, key: str) -> dict[tuple[int, int], Chunk]:
        """All stored chunks of a cell by their place: (first sample index, number of samples)."""
        chunks = (self.read_chunk(path) for path in sorted((self.path / CHUNKS / key[:16]).glob("*.safetensors")))
        return {(chunk.first, chunk.n): chunk for chunk in chunks}

    def first_chunk_of(self, key: str) -> Chunk | None:
        """The stored chunk of a cell that begins with sample 0, the longest if there are several."""
        paths = sorted((self.path / CHUNKS / key[:16]).glob("00000000-*.safetensors"))
        return self.read_chunk(paths[-1]) if paths else None

    def read_chunk(self, path: Path) -> Chunk:
        """A stored chunk; its place is in its file's name."""
        arrays, about = self.read_arrays(path)
        first, n = map(int, path.stem.split("-"))
        return Chunk(
            first=first,
            n=n,
            timing=Timing(**json.loads(about["timing"])),
            rows={name.removeprefix("rows."): a for name, a in arrays.items() if name.startswith("rows.")},
            hashes=arrays["hashes"],
            images=arrays.get("images"),
            ode_distance=arrays.get("ode_distance"),
        )

    def write_arrays(self, path: Path, arrays: Arrays, about: Mapping[str, str]) -> None:
        """Arrays and texts as one safetensors file."""
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            contiguous = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
            write_atomically(path, save(contiguous, metadata={**about, "sha256": content_hash(contiguous, about)}))

    def read_arrays(self, path: Path) -> tuple[Arrays, dict[str, str]]:
        """What `write_arrays` wrote."""
        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
                about = file.metadata() or {}
            if about.pop("sha256", None) != content_hash(arrays, about):
                raise ValueError("its content is not what was written")
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{path}: damaged ({error}); delete the file and give the same command again") from error
        return arrays, about


def content_hash(arrays: Arrays, about: Mapping[str, str]) -> str:
    """SHA-256 of arrays and texts, whatever their order."""
    whole = hashlib.sha256(json.dumps(sorted(about.items())).encode())
    for name, array in sorted(arrays.items()):
        whole.update(f"{name} {array.dtype} {array.shape}".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()


def check_output(path: Path, plan: Plan, *, fresh: bool) -> None:
    """Refuse an output that is a file, holds something else, or belongs to another run."""
    try:
        if path.exists() and not path.is_dir():
            raise InputError(f"output {path}: is a file; expected a folder, new or of the same run")
        there = {p.name for p in path.iterdir()} if path.is_dir() else set()
    except (OSError, ValueError) as error:
        raise InputError(f"output {path}: cannot be a folder ({getattr(error, 'strerror', error)})") from error
    if not {name for name in there if name != CHUNKS and not name.endswith(".tmp")}:
        return  # nothing, or what a run leaves that was stopped while it made its folder
    if RUN_FILE not in there:
        raise InputError(
            f"output {path}: holds other files and no {RUN_FILE}; expected a folder, new or of the same run"
        )
    stored = read_run(path)
    if stored.get("plan") == plan.key or fresh:
        return
    changed = differences(stored.get("config", {}), plan.config) or ["the model or a version"]
    raise InputError(
        f"output {path}: belongs to another run ({'; '.join(changed)}); give another -o, or --fresh to start it anew"
    )


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
        content = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no {RUN_FILE} in it; expected the folder of a run") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path / RUN_FILE}: damaged ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StoreError(f"{path / RUN_FILE}: not of format {FORMAT}; it was written by another version")
    return content


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


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and have it on disk before returning."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What the disk refuses, as a StoreError that names the path."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error}); earlier chunks are intact") from error

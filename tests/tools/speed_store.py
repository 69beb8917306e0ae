"""How fast the store is. `python tests/tools/speed_store.py table|append|open` prints what was measured.

table: a run of 1,000 cells, 64 samples each, and a second table when another block has come to each
append: one chunk beyond a plain write and fsync of the same bytes, each after the other
open: the folder of a run of 100,000 cells with a chunk each
"""

import dataclasses
import gc
import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path

import click
import msgspec
import numpy as np
import torch

from samplerbench.bench.draw.chunk_file import Chunk
from samplerbench.bench.draw.clock import Timing
from samplerbench.bench.draw.ledger import Ledger
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.judge.table import GrowingTable
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.run import begin
from samplerbench.samplers.extractor import Extractor
from samplerbench.samplers.registry import load_registry

FEATURES = 64
IMAGE = (1, 28, 28)


def plan_of(cells, samples):
    """A plan of one sampler whose cell is there many times, each under a key of its own."""
    registry = load_registry()
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((2000, FEATURES)).astype(np.float32)
    extractor = Extractor("random", lambda images, prompts: reference[: len(images)], lambda: reference)
    model = dataclasses.replace(registry.model("mixture"), extractors={"features": extractor}, fingerprint="1")
    plan = plan_for(Config(model="mixture", sampler=("ddpm",), steps=(2,), samples=samples), registry, model)
    (cell,) = plan.cells
    keys = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(cells)]
    many = tuple(dataclasses.replace(cell, sampler=f"s{key[:16]}", key=key, setting=key) for key in keys)
    config = dataclasses.replace(plan.config, sampler=tuple(cell.sampler for cell in many))
    return dataclasses.replace(plan, cells=many, config=config), registry


def chunk_of(block, seed):
    """A chunk as a model of small images has it, of noise."""
    rng = np.random.default_rng(seed)
    return Chunk(
        first=block.first, n=block.n, timing=Timing(2, 2, 0.1 * rng.random(), 0.05),
        rows={"features": rng.standard_normal((block.n, FEATURES)).astype(np.float32)},
        hashes=rng.integers(0, 256, (block.n, 16), dtype=np.uint8),
        images=rng.integers(0, 256, (block.n, *IMAGE), dtype=np.uint8), ode_distance=None,
    )  # fmt: skip


def seconds(work):
    """How long a call takes, and what it returns."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def said(work):
    """How long a call takes on the clock and on this processor, which others that compute do not lengthen."""
    busy = time.process_time()
    taken, result = seconds(work)
    return f"{taken:.3f} s ({time.process_time() - busy:.3f} s of the processor)", result


@click.group()
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write. [default: the system's temporary one]")
@click.pass_context
def main(ctx, folder):
    """Measure the store."""
    torch.set_num_threads(1)
    ctx.obj = Path(ctx.with_resource(tempfile.TemporaryDirectory(dir=folder))) / "run"


@main.command()
@click.option("--cells", default=1000)
@click.pass_obj
def table(folder, cells):
    """The table of a run, and its renewal."""
    plan, registry = plan_of(cells, samples=128)
    session = begin(plan, registry, folder)
    gc.freeze()  # as the command `run` does
    for block in plan.blocks:
        for i, cell in enumerate(plan.cells):
            session.folder.write(cell, block, chunk_of(block, i))
        taken, _ = said(session.tabulate)
        print(f"table of {cells} cells when block {block.number} has come: {taken}")
    taken, _ = said(session.tabulate)
    print(f"table of {cells} cells, nothing new: {taken}")
    other = GrowingTable(plan, RunFolder(folder), session.ready)
    taken, _ = said(lambda: other.table({}))
    print(f"table of {cells} cells x 2 chunks from nothing: {taken}")


@main.command()
@click.option("--chunks", default=300)
@click.pass_obj
def append(folder, chunks):
    """A chunk beyond its bytes."""
    plan, registry = plan_of(chunks, samples=64)
    session = begin(plan, registry, folder)
    (block,) = plan.blocks
    stored, plain = [], []
    for i, cell in enumerate(plan.cells):
        chunk = chunk_of(block, i)
        taken, _ = seconds(lambda cell=cell, chunk=chunk: session.folder.write(cell, block, chunk))
        stored.append(1000 * taken)
        content = session.folder.chunk_path(cell, block).read_bytes()
        taken, _ = seconds(lambda content=content, i=i: plain_write(folder.parent / f"plain-{i}", content))
        plain.append(1000 * taken)
    beyond = np.array(stored) - np.array(plain)
    print(f"{chunks} chunks of {len(content):,} bytes, medians: {np.median(stored):.2f} ms, plain write and fsync "
          f"{np.median(plain):.2f} ms, beyond it {np.median(beyond):.2f} ms (nine in ten under "
          f"{np.quantile(beyond, 0.9):.2f} ms)")  # fmt: skip


def plain_write(path, content):
    """Write and fsync."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@main.command("open")
@click.option("--cells", default=100_000)
@click.pass_obj
def open_(folder, cells):
    """Open a folder of many cells and see what is missing."""
    plan, registry = plan_of(cells, samples=64)
    begin(plan, registry, folder).folder.close()
    (block,) = plan.blocks
    first = RunFolder(folder)
    first.write(plan.cells[0], block, chunk_of(block, 0))
    for cell in plan.cells[1:]:
        path = first.chunk_path(cell, block)
        path.parent.mkdir()
        path.touch()  # what is in it is not read
    about = msgspec.to_builtins(read_run(folder))
    about = {name: about[name] for name in ("command", "plugins", "model", "extractors", "environment")}
    taken, again = said(lambda: opened(plan, folder, about))
    print(f"{cells} cells: opened, and looked for each chunk and failure, in {taken}; missing: {again}")


def opened(plan, folder, about):
    """Open a run folder; how many chunks are missing."""
    store = RunFolder(folder)
    store.open(plan, about)
    missing = sum(Ledger(plan, store, store.failures(plan)).images_missing().values())
    store.close()
    return missing


if __name__ == "__main__":
    sys.exit(main())

"""A plan is arithmetic: what it costs to make one, and to see what is left of it, does not depend on its samples."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from samplerbench.bench.draw.chunk_file import Chunk
from samplerbench.bench.draw.clock import Timing
from samplerbench.bench.draw.ledger import Ledger
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.judge.table import GrowingTable
from samplerbench.bench.plan import plan as planning
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import Block, Blocks, plan_for
from samplerbench.bench.run import Manner, begin, evaluations_left
from samplerbench.samplers.registry import load_registry

REGISTRY = load_registry()
BILLION = 10**9
SPECS = tuple(f"ddim:eta={i / 10}" for i in range(10))


def plan_of(samples, samplers=SPECS, **settings):
    """A plan on the mixture."""
    config = Config(model="mixture", sampler=samplers, samples=samples, **{"steps": (2, 5, 3), **settings})
    return plan_for(config, REGISTRY)


def chunk_of(block):
    """A chunk that nothing was drawn for."""
    return Chunk(block.first, block.n, Timing(2, 2, 0.1, 0.05), {}, np.zeros((block.n, 16), np.uint8), None, None)


@pytest.fixture
def made(monkeypatch):
    """Every block that is made."""
    blocks, inner = [], Blocks.block

    def counted(self, number):
        blocks.append(number)
        return inner(self, number)

    monkeypatch.setattr(Blocks, "block", counted)
    return blocks


@pytest.mark.parametrize(("samples", "size"), [(1, 64), (64, 64), (65, 64), (1000, 64), (1024, 128), (130, 1024)])
def test_blocks_are_the_list_that_they_stand_for(samples, size):
    blocks = Blocks(samples, size)
    listed = [Block(i, first, min(size, samples - first)) for i, first in enumerate(range(0, samples, size))]
    assert list(blocks) == listed
    assert [blocks[i] for i in range(len(blocks))] == listed
    assert (len(blocks), blocks[-1], blocks[:2]) == (len(listed), listed[-1], tuple(listed[:2]))
    assert blocks.whole == sum(block.n == listed[0].n for block in listed)
    assert sum(block.n for block in blocks) == samples
    assert all(blocks.at(block.first, block.n) == block for block in listed)
    assert listed[-1] in blocks
    for first, n in ((0, size + 1), (1, size), (samples + size, size), (-size, size), (len(listed) * size, size)):
        assert blocks.at(first, n) is None
    with pytest.raises(IndexError):
        blocks[len(listed)]


def test_counts_of_a_small_plan_are_those_of_its_blocks(tmp_path):
    plan = plan_of(150, ("ddim", "ddpm"), steps=(2, 3))
    session = begin(plan, REGISTRY, tmp_path / "run")
    blocks, stored = list(plan.blocks), {}
    for cell, numbers in zip(plan.cells, ([], [0], [2, 1], [0, 1, 2]), strict=True):
        for number in numbers:
            session.folder.write(cell, blocks[number], chunk_of(blocks[number]))
        stored[cell.key] = {(blocks[number].first, blocks[number].n) for number in numbers}
    missing = {cell.key: 150 - sum(n for _, n in stored[cell.key]) for cell in plan.cells}
    for folder in (session.folder, RunFolder(tmp_path / "run")):
        assert {cell.key: folder.stored_places(cell, plan.blocks) for cell in plan.cells} == stored
        again = Ledger(plan, folder)
        assert again.images_missing() == missing
        by_hand = sum(cell.nfe * missing[cell.key] for cell in plan.cells) + 37 * 101
        assert again.evaluations_left() == by_hand
        assert folder.whole_blocks(plan.cells[1:2] + plan.cells[3:], plan.blocks) == (blocks[0],)
        assert folder.whole_blocks(plan.cells, plan.blocks) == ()
    session.folder.close()


@pytest.mark.parametrize("samples", [1000, BILLION])
def test_what_is_left_of_a_plan_is_counted_from_the_names_in_its_folder(tmp_path, made, samples):
    plan = plan_of(samples)
    session = begin(plan, REGISTRY, tmp_path / "run", Manner(repeats=3))
    for cell, number in zip(plan.cells, [0, 1, 0, 5], strict=False):
        session.folder.write(cell, plan.blocks[number], chunk_of(plan.blocks[number]))
    session.folder.close()
    made.clear()
    for one in (Ledger(plan, RunFolder(tmp_path / "run")), session.session.ledger):
        total = sum(cell.network_evaluations for cell in plan.cells) * samples + min(256, samples // 4) * 101
        drawn = 64 * (2 + 5 + 3 + 2)
        assert one.evaluations_left() == total - drawn
        assert len(list(one.repeats_missing())) == 0
        assert one.evaluations_spared(plan.cells[0]) == 2 * (samples - 64)
        assert list(GrowingTable(plan, one.folder, session.ready).table({})["samples"][:4]) == [64, 0, 64, 0]
    assert evaluations_left(plan, tmp_path / "run", Manner()) == total - drawn
    assert evaluations_left(plan, tmp_path / "nowhere", Manner()) == total
    assert len(made) < 200
    assert max(made) <= 5


def test_a_command_line_of_a_billion_samples_is_planned_at_once(sb, made):
    done = sb("run", "--model", "mixture", "-s", "ddim", "-s", "ddpm", "--steps", "2", "-n", BILLION, "--dry-run")
    assert f"2 cells x 1,000,000,000 samples on mixture: {4 * BILLION + 256 * 101:,} network evaluations" in done.out
    assert len(made) < 10


def test_cells_share_levels_and_read_the_code_of_a_sampler_once(monkeypatch):
    hashed, asked = [], []
    code_of_class, request_in = planning.code_of_class, planning.request_in
    monkeypatch.setattr(planning, "code_of_class", lambda cls: hashed.append(cls) or code_of_class(cls))
    monkeypatch.setattr(planning, "request_in", lambda *a, **k: asked.append(a[-2:]) or request_in(*a, **k))
    plan = plan_of(64, (*SPECS, "ddpm", "DPM++ 2M Karras"))
    assert len(plan.cells) == 36
    assert len(hashed) == 3
    assert len(asked) == 3 + 3 + 1  # the two grids at three counts, and the ODE reference
    alone = [plan_of(64, (spec,), steps=(steps,)).cells[0] for spec in plan.config.sampler for steps in (2, 5, 3)]
    assert [(c.key, c.setting, c.nfe, c.budget) for c in plan.cells] == [
        (c.key, c.setting, c.nfe, c.budget) for c in alone
    ]
    assert len({cell.key for cell in plan.cells}) == 36


def test_the_key_of_a_plan_does_not_depend_on_the_order_of_its_rows():
    plan = plan_of(64)
    turned = dataclasses.replace(plan, cells=plan.cells[::-1])
    assert turned.key == plan.key
    assert plan_of(64, SPECS[::-1]).key != plan.key


def spent(folder, *arguments):
    """Seconds of the processor and largest resident memory, in MB, of a dry run."""
    command = [sys.executable, "-c", "from samplerbench.bench.cli import main; main()", "run", "--dry-run", *arguments]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime, used.ru_maxrss * (1024 if sys.platform != "darwin" else 1) / 1e6


@pytest.mark.slow
def test_a_dry_run_of_ten_thousand_cells_of_a_billion_samples_costs_little(tmp_path, figure):
    """Beyond a dry run of one cell of 8 samples, which imports torch and draws a trial as well."""
    some = [part for i in range(100) for part in ("-s", f"ddim:eta={i / 100}")]
    one = spent(tmp_path, "--model", "gaussian", "-s", "ddim", "--steps", "2", "-n", "8")
    many = spent(
        tmp_path, "--model", "gaussian", *some, "--steps", ",".join(map(str, range(1, 101))), "-n", str(BILLION)
    )
    seconds, megabytes = (b - a for a, b in zip(one, many, strict=True))
    figure(
        "a dry run of 10,000 cells x 10^9 samples",
        f"{many[0]:.1f} s, {seconds:.1f} s and {megabytes:.0f} MB beyond one cell",
    )
    assert seconds < 3
    assert megabytes < 100
    assert not list(Path(tmp_path).iterdir())

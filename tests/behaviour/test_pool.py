"""Workers: the bytes of a plain run, whatever is lost on the way, and times that are only shown where they are true."""

import dataclasses
import json
import os
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import samplerbench as sb
from samplerbench.bench.draw import clock as timing
from samplerbench.bench.draw.chunk_file import Chunk
from samplerbench.bench.draw.clock import Timing
from samplerbench.bench.draw.engines import children, pool
from samplerbench.bench.draw.engines.children import (
    Awaited,
    ChildEndedEarly,
    ChildFault,
    ChildLost,
    ChildProcess,
    Limits,
    Speed,
)
from samplerbench.bench.draw.engines.here import Here
from samplerbench.bench.draw.engines.pool import Pool, local_count, variables_of
from samplerbench.bench.draw.ledger import job_of
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.session import Watch
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.plan import workers
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.plan.workers import parse_workers, warning_of, with_threads
from samplerbench.bench.run import Manner, begin
from samplerbench.samplers.registry import load_registry

REGISTRY = load_registry()
PLAN = plan_for(Config(model="mixture", sampler=("ddim", "ddpm"), steps=(2,), samples=200), REGISTRY)
FRAGILE = """
import os, pathlib, signal
from dataclasses import dataclass
from samplerbench import Sampler, hookimpl

@dataclass(frozen=True)
class Fragile(Sampler):
    times: int = 1
    folder: str = "."

    def nfe(self, steps):
        return steps

    def step(self, run, x, a, b, past):
        fallen = pathlib.Path(self.folder)
        if len(x) == 22 and run.i == 1 and len(list(fallen.iterdir())) < self.times:
            (fallen / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return run.predict(x, a).combine(b.alpha, b.sigma), None

@hookimpl
def samplerbench_samplers():
    return {"fragile": Fragile}
"""


# How jobs are handed out


def chunk_of(block):
    """A chunk with nothing in it."""
    clocked = Timing(nfe=2, network_evaluations=2, seconds=1.0, model_seconds=0.5)
    return Chunk(block.first, block.n, clocked, {}, np.zeros((block.n, 16), np.uint8), None, None)


class Scripted:
    """Stands for a process; `script` is asked what comes of each block: a number of looks, or what is raised."""

    script = staticmethod(lambda process, cell, block: 0)
    made: list["Scripted"] = []
    descriptor = None

    def __init__(self, plan, plugins, folder, limits, variables):
        self.specs, self.variables, self.asked, self.closed = plan.config.sampler, variables, [], 0
        self.made.append(self)

    def begin(self, cell, block):
        self.block = block
        self.asked.append((cell.sampler, block.number))
        self.comes = self.script(self, cell, block)

    def look(self):
        if isinstance(self.comes, Exception):
            raise self.comes
        self.comes -= 1
        return chunk_of(self.block) if self.comes < 0 else None

    def close(self):
        self.closed += 1


@pytest.fixture
def pooled(monkeypatch):
    """Makes a pool whose processes are scripted, and gives what they were."""
    monkeypatch.setattr(pool, "ChildProcess", Scripted)
    monkeypatch.setattr(Scripted, "made", [])
    told = []
    teller = types.SimpleNamespace(retried=lambda job, reason: told.append((job.sampler, job.first, reason)))

    def make(count, script=None, plan=PLAN):
        monkeypatch.setattr(Scripted, "script", staticmethod(script or (lambda process, cell, block: 0)))
        return Pool(Here(plan, (), lambda: None), (), Path("run"), Limits(), count, teller), told

    return make


def all_jobs(plan=PLAN):
    """Every job of a plan."""
    return [job_of(cell, block) for block in plan.blocks for cell in plan.cells]


@pytest.mark.parametrize("count", [1, 2, 4, 20])
def test_every_job_is_answered_once_and_is_alone_with_one_worker_only(pooled, count):
    engine, told = pooled(count)
    answers = list(engine.draw(all_jobs()))
    assert sorted((done.job.sampler, done.job.first) for done in answers) == sorted(
        (job.sampler, job.first) for job in all_jobs()
    )
    assert {done.alone for done in answers} == {count == 1}
    assert {done.chunk.cell for done in answers} == {cell.key for cell in PLAN.cells}
    assert told == []
    assert len(Scripted.made) <= count


def test_no_more_jobs_are_taken_than_there_are_workers(pooled):
    engine, _ = pooled(2, lambda process, cell, block: 3)
    taken = []
    answers = engine.draw(taken.append(job) or job for job in all_jobs())
    next(answers)
    assert len(taken) <= 2 + 2  # two at work, and those that came before the first answer was handed on


def test_a_job_that_comes_late_is_overtaken(pooled):
    engine, _ = pooled(2, lambda process, cell, block: 9 if (cell.sampler, block.number) == ("ddim", 0) else 0)
    order = [(done.job.sampler, done.job.first) for done in engine.draw(all_jobs())]
    assert order[0] != ("ddim", 0)
    assert ("ddim", 0) in order


def test_what_is_drawn_for_the_clock_was_drawn_alone(pooled):
    engine, _ = pooled(4)
    job = dataclasses.replace(all_jobs()[0], is_for_the_clock=True)
    assert [done.alone for done in engine.draw([job])] == [True]


@pytest.mark.parametrize("count", [1, 3])
def test_a_chunk_whose_worker_is_lost_is_drawn_by_another(pooled, count):
    lost = []

    def script(process, cell, block):
        if (cell.sampler, block.number) == ("ddpm", 1) and len(lost) < 2:
            lost.append(process)
            return ChildLost("its process ended with signal 9 (SIGKILL)")
        return 0

    engine, told = pooled(count, script)
    assert all(isinstance(done, sb.Drawn) for done in engine.draw(all_jobs()))
    assert told == [("ddpm", 64, "its process ended with signal 9 (SIGKILL)")] * 2
    assert all(process.closed for process in lost)


@pytest.mark.parametrize(("times", "is_drawn"), [(5, True), (6, False)])
def test_workers_that_end_as_they_start_are_not_held_against_the_chunk(pooled, times, is_drawn):
    lost = []

    def script(process, cell, block):
        if (cell.sampler, block.number) == ("ddpm", 1) and len(lost) < times:
            lost.append(process)
            return ChildEndedEarly("its process ended with signal 9 (SIGKILL)")
        return 0

    engine, told = pooled(2, script)
    reasons = [done.reason for done in engine.draw(all_jobs()) if isinstance(done, sb.Failure)]
    why = "ended 6 workers as they started: its process ended with signal 9 (SIGKILL)"
    assert reasons == ([] if is_drawn else [why])
    assert len(told) == 5


@pytest.mark.parametrize(("speed", "kind"), [(None, ChildEndedEarly), (Speed(), ChildLost)])
def test_a_process_that_ends_before_it_is_asked_for_a_chunk_ended_early(speed, kind):
    ended = types.SimpleNamespace(
        has_answered=lambda seconds=0.0: False, memory=lambda: 0, has_ended=lambda: True,
        manner_of_end=lambda: "gone", stop=lambda: None,
    )  # fmt: skip
    process = ChildProcess(PLAN, (), Path("run"), _child=ended, _speed=speed, _awaited=Awaited(9.0, "to start"))
    with pytest.raises(ChildLost, match="gone") as told:
        process.look()
    assert type(told.value) is kind


def test_a_chunk_that_ends_three_workers_fails_and_the_others_are_drawn(pooled):
    def script(process, cell, block):
        return OSError(24, "Too many open files") if cell.sampler == "ddpm" and block.number == 1 else 0

    engine, told = pooled(2, script)
    answers = list(engine.draw(all_jobs()))
    failures = [done for done in answers if isinstance(done, sb.Failure)]
    assert [(f.job.sampler, f.job.first) for f in failures] == [("ddpm", 64)]
    assert failures[0].reason.startswith("ended 3 workers: OSError: [Errno 24]")
    assert len(told) == 2
    assert len(answers) == len(all_jobs())


def test_a_process_that_was_stopped_for_its_limits_fails_its_cell_at_once(pooled):
    fault = ChildFault("took longer than 60 s for 64 samples and was stopped")
    engine, told = pooled(2, lambda process, cell, block: fault if block.number == 0 else 0)
    reasons = [done.reason for done in engine.draw(all_jobs()) if isinstance(done, sb.Failure)]
    assert reasons == [str(fault)] * 2
    assert told == []


def test_all_processes_are_ended_whatever_they_are_doing(pooled):
    engine, _ = pooled(3, lambda process, cell, block: 10**9)
    answers = engine.draw(all_jobs())
    engine._hand_out(iter(all_jobs()))
    answers.close()
    engine.close()
    assert [process.closed for process in Scripted.made] == [1] * 3


def with_strangers(*samplers):
    """A plan, the samplers of which in capitals did not come with samplerbench."""
    plan, cell = PLAN, PLAN.cells[0]
    cells = [dataclasses.replace(cell, sampler=s, is_foreign=s.isupper(), key=f"{s:>064}") for s in samplers]
    return dataclasses.replace(
        plan, cells=tuple(cells), config=dataclasses.replace(plan.config, sampler=tuple(samplers))
    )


def test_each_strange_spec_has_a_process_of_its_own_in_every_worker(pooled, monkeypatch):
    plan = with_strangers("a", "b", "C", "D")
    monkeypatch.setattr(pool, "children_that_fit", lambda memory, one: 5)
    engine, _ = pooled(2, plan=plan)
    (turn,) = engine.turns(plan.cells)
    assert not turn.is_apart
    list(engine.draw(all_jobs(plan)))
    assert {process.specs for process in Scripted.made} == {("a", "b"), ("C",), ("D",)}
    for process in Scripted.made:
        assert {spec for spec, _ in process.asked} <= set(process.specs)


def test_where_processes_do_not_fit_groups_come_one_after_the_other_and_old_ones_end(pooled, monkeypatch):
    plan = with_strangers("a", "C", "b", "D")
    monkeypatch.setattr(pool, "children_that_fit", lambda memory, one: 1)
    engine, _ = pooled(2, plan=plan)
    turns = engine.turns(plan.cells)
    assert [([cell.sampler for cell in turn.cells], turn.is_apart) for turn in turns] == [
        (["a", "b"], True), (["C"], True), (["D"], True),
    ]  # fmt: skip
    for turn in turns:
        list(engine.draw(job_of(cell, block) for block in plan.blocks for cell in turn.cells))
        assert sum(not process.closed for process in Scripted.made) <= 2


def test_workers_leave_a_part_of_the_memory_to_other_programs(pooled, monkeypatch):
    """As the processes of a run without workers do: of 10 GB they and this process hold 8."""
    monkeypatch.setattr(children, "machine_memory", lambda: 10e9)
    monkeypatch.setattr(pool, "memory_of_this_process", lambda: 1e9)
    plan = with_strangers("a", "C", "D", "E", "F", "G", "H")
    engine, _ = pooled(2, plan=plan)
    assert max(len({cell.sampler for cell in turn.cells}) for turn in engine.turns(plan.cells)) == 4


# How many


@pytest.mark.parametrize(
    "given", [0, -1, 10**9, "1e9", "0", "two", "", 2.5, True, "cards", "²", pytest.param("9" * 5000, id="long")]
)
def test_what_is_no_number_of_workers_is_refused(given):
    with pytest.raises(sb.InputError, match=r"^workers .*: expected a whole number from 1 to 1024, as in --workers 2"):
        parse_workers(given)


def test_numbers_of_workers():
    assert [parse_workers(given) for given in (None, 1, "2", "gpus", 1024)] == [None, 1, 2, "gpus", 1024]


def test_a_worker_for_each_card_and_no_more():
    cuda, second, cpu = torch.device("cuda"), torch.device("cuda:1"), torch.device("cpu")
    assert [local_count(given, cuda, 8) for given in (1, 8, "gpus")] == [1, 8, 8]
    assert [local_count(1, second, 2), local_count(20, cpu, 0)] == [1, 20]
    for given, device, cards, words in [
        (9, cuda, 8, "workers 9: torch sees 8 GPUs here; expected one worker for each at most"),
        ("gpus", cuda, 0, "workers gpus: torch sees 0 GPUs here"),
        ("gpus", cpu, 0, "workers 'gpus': the run is on cpu; expected with --device cuda"),
        (2, second, 2, "workers 2: device cuda:1 is one card"),
    ]:
        with pytest.raises(sb.InputError, match=words):
            local_count(given, device, cards)


def test_each_worker_sees_its_own_card():
    cuda = torch.device("cuda")
    assert [variables_of(cuda, i, {}) for i in (0, 1)] == [{"CUDA_VISIBLE_DEVICES": str(i)} for i in (0, 1)]
    seen = {"CUDA_VISIBLE_DEVICES": "3, GPU-8f"}
    assert [variables_of(cuda, i, seen)["CUDA_VISIBLE_DEVICES"] for i in (0, 1)] == ["3", "GPU-8f"]
    assert variables_of(torch.device("cpu"), 0, seen) == {}


def test_threads_come_from_the_run_that_is_there_and_a_new_one_shares_the_cores(monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 8)
    config, given = Config(model="mixture"), Config(model="mixture", threads=3)
    there = types.SimpleNamespace(config=Config(threads=5), environment=types.SimpleNamespace(threads=5))
    assert with_threads(config, None, None) == (config, None)
    assert [with_threads(config, None, n)[1] for n in (1, 2, 3, 20)] == [8, 4, 2, 1]
    assert with_threads(given, there, 4) == (given, 3)
    assert with_threads(config, there, 4) == (dataclasses.replace(config, threads=5), 5)
    assert with_threads(config, there, None)[1] == 5


def test_more_threads_than_cores_are_a_warning(monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 4)
    threads = torch.get_num_threads()
    assert warning_of(None) == ""
    assert warning_of(4 // threads) == ""
    assert f"5 of {threads} threads each, and 4 cores" in warning_of(5)


# Runs


def run_of(folder, *samplers, registry=REGISTRY, n=150, **settings):
    """A run to its end, and what it said of chunks that were drawn again."""
    plan = plan_for(Config(model="mixture", sampler=samplers or ("ddim", "ddpm"), steps=(2,), samples=n), registry)
    told = []
    watch = type("Told", (Watch,), {"retried": lambda self, cell, block, reason: told.append((block.first, reason))})()
    run = begin(plan, registry, folder, Manner(**settings))
    run.work(watch)
    return run.conclude(), told


def content(folder):
    """All that chunks hold but their times."""
    store = RunFolder(folder)
    return {
        (cell.key, place): (chunk.hashes.tobytes(), {n: rows.tobytes() for n, rows in chunk.rows.items()})
        for cell in read_run(folder).cells
        for place, chunk in store.chunks_of(cell.key).items()
    }


@pytest.mark.slow
@pytest.mark.further
def test_two_workers_draw_the_bytes_of_a_plain_run_without_times(tmp_path):
    plain, _ = run_of(tmp_path / "plain")
    two, _ = run_of(tmp_path / "two", workers=2)
    assert content(tmp_path / "plain") == content(tmp_path / "two")
    clocked = list(timing.COLUMNS)
    assert plain.table.drop(columns=clocked).equals(two.table.drop(columns=clocked))
    assert two.table[["seconds_per_image", "seconds_low", "peak_memory_mb"]].isna().all().all()
    assert list(two.table["repeats"]) == [0, 0]
    assert two.is_unclocked
    assert not plain.is_unclocked


@pytest.mark.slow
def test_the_clock_fills_in_the_times_of_workers(tmp_path):
    run_of(tmp_path / "two", workers=2)
    again, _ = run_of(tmp_path / "two", workers=2, clock=True)
    assert list(again.table["repeats"]) == [5, 5]
    assert (again.table["seconds_per_image"] > 0).all()
    assert not again.is_unclocked


@pytest.mark.slow
@pytest.mark.parametrize(("times", "status"), [(1, "ok"), (9, "failed")])
def test_a_worker_that_is_killed_is_replaced_and_a_chunk_that_kills_three_fails(tmp_path, times, status):
    (tmp_path / "fragile.py").write_text(FRAGILE)
    (tmp_path / "fallen").mkdir()
    registry = load_registry([str(tmp_path / "fragile.py")])
    spec = f"fragile:times={times},folder={tmp_path / 'fallen'}"
    result, told = run_of(tmp_path / "run", "ddim", spec, registry=registry, workers=1)
    reason = "its process ended with signal 9 (SIGKILL)"
    assert result.table["status"][0] == "ok"
    assert result.table["status"][1] == ("ok" if status == "ok" else f"failed: ended 3 workers: {reason}")
    lost = min(times, 3)
    assert told == [(128, reason)] * min(lost, 2)
    fallen = {int(path.name) for path in (tmp_path / "fallen").iterdir()}
    assert len(fallen) == lost
    assert os.getpid() not in fallen


def test_a_model_that_is_an_object_has_no_workers_and_nothing_is_written(tmp_path):
    with pytest.raises(sb.InputError, match="workers 2: model 'mixture' was given as an object, which only this"):
        sb.run(REGISTRY.model("mixture"), ["ddim"], 2, 8, workers=2, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_log_has_an_object_for_each_event(tmp_path):
    run_of(tmp_path / "run", log=str(tmp_path / "log"))
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [event["event"] for event in events] == ["started", *["stored"] * 6, "done"]
    first, stored, *_, last = events
    assert (first["run"], first["cells"], first["samples"]) == (str(tmp_path / "run"), 2, 150)
    assert (stored["sampler"], stored["steps"], stored["first"], stored["samples"]) == ("ddim", 2, 0, 64)
    assert last["complete"] is True
    run_of(tmp_path / "run", log=str(tmp_path / "log"))
    assert len((tmp_path / "log").read_text().splitlines()) == len(events) + 2


def test_a_log_that_cannot_be_written_is_refused_before_anything_is(tmp_path):
    with pytest.raises(sb.InputError, match=r"log .*: cannot be written \(Is a directory\); give another --log"):
        run_of(tmp_path / "run", log=str(tmp_path))
    assert not (tmp_path / "run").exists()


def test_workers_never_enter_a_key_and_a_plain_run_goes_on_with_them(sb, tmp_path):
    run = ("run", "--model", "mixture", "-s", "ddim", "--steps", "2", "-n", "80", "-o", "here", "--threads", "1")
    assert sb(*run).code == 0
    before = read_run(tmp_path / "here")
    again = sb(*run[:-2], "--workers", "2", "--dry-run")
    assert again.code == 0
    assert " 0 are left to make" in again.out
    assert read_run(tmp_path / "here") == before


@pytest.mark.parametrize("given", ["0", "-1", "1000000000"])
def test_the_command_refuses_what_is_no_number_of_workers(sb, given):
    sb("run", "--model", "mixture", "--workers", given).refused(
        2, f"workers '{given}'", "expected a whole number from 1"
    )


def test_a_log_in_the_place_of_the_run_is_refused_and_not_made(tmp_path):
    with pytest.raises(sb.InputError, match=r"log .*: is the run's folder; give a file"):
        sb.run("mixture", "ddim", steps=2, n=4, output=tmp_path / "run", log=str(tmp_path / "run"))
    assert not list(tmp_path.iterdir())

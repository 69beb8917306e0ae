"""The engine of Ray: what it does with workers that are lost, late or nowhere, and on Ray itself the bytes of a run."""

import contextlib
import dataclasses
import importlib.util
import os
import signal
import socket
import sys
import types
from pathlib import Path

import pytest

import samplerbench as sb
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.session import Watch
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.run import Manner, begin
from samplerbench.plugins.engines import ray_cluster
from samplerbench.plugins.engines.ray_cluster import (
    PLACED_WITHIN,
    RayEngine,
    WorkerLost,
    check_address,
    needs_in_words,
    ray,
    versions_here,
)
from samplerbench.samplers.registry import load_registry

JOBS = [sb.Job("key", sampler, 2, first, 64, 128) for first in (0, 64, 128) for sampler in ("ddim", "ddpm")]


class FakeCluster:
    """Workers that answer in the order in which they were asked, as `script` has it: an answer, LATER or an error."""

    def __init__(self, script, room=4):
        self.script, self._room, self.workers, self.stopped, self.closed = script, room, 0, [], 0
        self.versions = versions_here()

    def room(self):
        return self._room

    def start(self):
        self.workers += 1
        return self.workers

    def ask(self, worker, job):
        return (worker, job)

    def ready(self, asked, seconds):
        return [one for one in asked if self.script(*one) is not None][:1]

    def answer(self, asked):
        worker, job = asked
        answer = self.script(worker, job)
        if isinstance(answer, Exception):
            raise answer
        return self.versions if job is None else answer

    def stop(self, worker):
        self.stopped.append(worker)

    def close(self):
        self.closed += 1


class Seconds:
    """A clock that a look moves on."""

    now = 0.0

    def __call__(self):
        self.now += 10.0
        return self.now


def drawn(worker, job):
    """An answer to whatever is asked."""
    return sb.Drawn(job, chunk=worker)


def engine_of(script, workers=2, room=4, device="cpu"):
    """An engine of fake workers, the cluster, and what was said of jobs that went back."""
    told = []
    work = types.SimpleNamespace(
        workers=workers, device=device, threads=3, retried=lambda job, reason: told.append((job.first, reason))
    )
    cluster = FakeCluster(script, room)
    return RayEngine(work, lambda: cluster, Seconds()), cluster, told


@pytest.mark.parametrize(("workers", "count"), [(1, 1), (2, 2), (9, 9), (None, 4), ("gpus", 4)])
def test_every_job_is_answered_once_by_as_many_workers_as_are_asked_for_or_fit(workers, count):
    engine, cluster, told = engine_of(drawn, workers)
    answers = list(engine.draw(JOBS))
    assert sorted(done.job.first for done in answers) == sorted(job.first for job in JOBS)
    assert {done.job for done in answers} == set(JOBS)
    assert {done.alone for done in answers} == {count == 1}
    assert (cluster.workers, told) == (count, [])
    assert [done.alone for done in engine.draw([dataclasses.replace(JOBS[0], is_for_the_clock=True)])] == [True]
    assert cluster.workers == count
    engine.close()
    engine.close()
    assert sorted(cluster.stopped) == list(range(1, count + 1))
    assert cluster.closed == 1


def test_nothing_is_started_for_no_jobs():
    engine, cluster, _ = engine_of(drawn)
    assert list(engine.draw([])) == []
    assert cluster.workers == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_a_worker_that_dies_is_replaced_and_its_job_is_drawn_by_another(workers):
    def script(worker, job):
        return WorkerLost("died") if worker == 1 and job and job.first == 64 else drawn(worker, job)

    engine, cluster, told = engine_of(script, workers)
    answers = list(engine.draw(JOBS))
    assert [type(done) for done in answers] == [sb.Drawn] * len(JOBS)
    assert told in ([(64, "died")], [])
    assert cluster.workers == workers + len(told)
    assert workers > 1 or told


def test_a_dead_worker_does_not_drain_the_queue_and_a_job_that_ends_three_fails_alone():
    def script(worker, job):
        return WorkerLost("died") if job == JOBS[1] else drawn(worker, job)

    engine, cluster, told = engine_of(script, 1)
    answers = {done.job: done for done in engine.draw(JOBS)}
    assert answers.keys() == set(JOBS)
    assert [job for job, done in answers.items() if isinstance(done, sb.Failure)] == [JOBS[1]]
    assert answers[JOBS[1]].reason == "ended 3 workers: died"
    assert (cluster.workers, len(told), cluster.stopped) == (4, 2, [1, 2, 3])


def test_a_worker_whose_start_fails_once_is_started_again():
    engine, cluster, told = engine_of(lambda w, job: WorkerLost("no") if w == 1 and job is None else drawn(w, job), 1)
    assert len(list(engine.draw(JOBS))) == len(JOBS)
    assert (cluster.workers, told) == (2, [])


def test_workers_that_never_start_end_the_run_with_the_reason():
    engine, cluster, _ = engine_of(lambda worker, job: WorkerLost("No module named 'samplerbench'"), 2)
    with pytest.raises(sb.InputError, match="no worker starts: No module named 'samplerbench'; are samplerbench and"):
        list(engine.draw(JOBS))
    assert cluster.workers < 20


def test_a_worker_that_no_node_can_hold_is_said_within_a_minute_with_what_it_needs():
    engine, _, _ = engine_of(lambda worker, job: None, 2, room=0, device="cuda")
    with pytest.raises(sb.InputError, match="no worker found a place in 60 s: no node has 3 CPU and 1 GPU; add one"):
        list(engine.draw(JOBS))
    assert engine.clock.now < 2 * PLACED_WITHIN


def test_a_cluster_that_is_busy_is_waited_for():
    engine, _, _ = engine_of(lambda w, job: drawn(w, job) if engine.clock.now > 900 else None, 2)
    assert len(list(engine.draw(JOBS))) == len(JOBS)


def test_a_node_with_another_version_is_refused_with_both():
    engine, cluster, _ = engine_of(drawn)
    cluster.versions |= {"torch": "1.0", "node": "far"}
    here = versions_here()["torch"]
    with pytest.raises(sb.InputError, match=rf"torch 1\.0 on node far, and {here.split('+')[0]}.* here; install"):
        list(engine.draw(JOBS))


def test_what_a_worker_needs():
    assert needs_in_words(types.SimpleNamespace(device="cpu", threads=2)) == "2 CPU"


@pytest.mark.parametrize("argument", ["nowhere", "host:", ":1", "host:port", "a b:1"])
def test_a_wrong_address_is_refused(argument):
    with pytest.raises(sb.InputError, match="expected ray, ray:auto or ray:HOST:PORT"):
        ray(argument, None)


def test_ray_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(sb.InputError, match=r"the package ray is missing; install it with pip install 'samplerbench\["):
        ray("", None)


def test_an_address_that_nobody_answers_at_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(sb.InputError, match=rf"engine 'ray:{address}': nobody answers \(Connection refused\); exp"):
        check_address(address)


def test_ray_is_not_imported_for_what_does_not_ask_for_it():
    assert "ray_cluster" in ray_cluster.__name__
    assert "ray" in load_registry().engines.things
    assert (
        importlib.util.find_spec("ray") is None or "ray" not in sys.modules or "RAY_USAGE_STATS_ENABLED" in os.environ
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_on_ray_the_bytes_are_those_of_a_plain_run_whatever_is_killed(tmp_path):
    pytest.importorskip("ray")
    registry = load_registry()
    plan = plan_for(Config(model="mixture", sampler=("ddim", "ddpm"), steps=(2,), samples=300), registry)
    before = signal.getsignal(signal.SIGTERM)
    lost = []

    class Kills(Watch):
        """Kills a worker of Ray when the first chunk is stored."""

        def stored(self, cell, block):
            if not lost:
                lost.extend(children_with("ray::Drawer"))
                os.kill(lost[0], signal.SIGKILL)

    for name, settings in (("plain", {}), ("ray", {"engine": "ray", "workers": 2})):
        run = begin(plan, registry, tmp_path / name, Manner(**settings))
        run.work(Kills() if name == "ray" else Watch())
        run.conclude()
    assert content(tmp_path / "plain") == content(tmp_path / "ray")
    assert signal.getsignal(signal.SIGTERM) is before
    assert len(lost) == 2
    assert children_with("raylet") == []


def children_with(words):
    """The processes that have these words in their command."""
    found = []
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if place.name.isdigit() and words in (place / "cmdline").read_text():
                found.append(int(place.name))
    return found


def content(folder):
    """The hashes of all chunks."""
    store = RunFolder(folder)
    return {
        (cell.key, place): chunk.hashes.tobytes()
        for cell in read_run(folder).cells
        for place, chunk in store.chunks_of(cell.key).items()
    }

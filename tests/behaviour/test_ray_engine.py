"""The engine of Ray: what it does with workers that are lost, late or nowhere, and on Ray itself the bytes of a run."""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
import signal
import socket
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

import samplerbench as sb
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.session import Watch
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.plan.workers import with_threads
from samplerbench.bench.run import Manner, begin
from samplerbench.plugins.engines import ray_cluster
from samplerbench.plugins.engines.ray_cluster import (
    PLACED_WITHIN,
    OnRay,
    RayEngine,
    WorkerLost,
    check_address,
    check_versions,
    needs_in_words,
    versions_here,
)
from samplerbench.plugins.engines.ray_greeting import frame
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
    return RayEngine(work, lambda: cluster, Seconds(), cores=3), cluster, told


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


def test_a_cluster_is_left_though_a_worker_cannot_be_stopped():
    engine, cluster, _ = engine_of(drawn)
    next(engine.draw(JOBS))

    def refuse(worker):
        raise RuntimeError("no cluster is there")

    cluster.stop = refuse
    with pytest.raises(RuntimeError, match="no cluster"):
        engine.close()
    engine.close()
    assert cluster.closed == 1


def test_all_repeats_for_the_clock_are_drawn_by_one_worker_as_long_as_it_lives():
    lost = []
    engine, _, _ = engine_of(lambda w, job: WorkerLost("died") if (w, job) in lost else drawn(w, job), 3)
    list(engine.draw(JOBS))
    repeats = [dataclasses.replace(job, is_for_the_clock=True) for job in JOBS]
    by = [done.chunk for job in repeats[:4] for done in engine.draw([job])]
    assert len(set(by)) == 1
    lost.append((by[0], repeats[4]))
    by_another = [done.chunk for job in repeats[4:] for done in engine.draw([job])]
    assert len({*by, *by_another}) == 2
    assert len(by_another) == 2


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
    with pytest.raises(sb.InputError, match="no worker found a place in 45 s: no node has 3 CPU and 1 GPU; add one"):
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


def test_a_node_without_a_plugin_is_refused(monkeypatch):
    entry = importlib.metadata.EntryPoint("mine", "mine", "samplerbench")
    inner, dist = importlib.metadata.entry_points, types.SimpleNamespace(name="my-plugin", version="1.5")
    monkeypatch.setattr(entry.__class__, "dist", dist)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [*inner(group=group), entry])
    there = {name: version for name, version in versions_here().items() if name != "my-plugin"}
    with pytest.raises(
        sb.InputError, match=r"my-plugin is missing on node .*, and 1\.5 here; install the same versions"
    ):
        check_versions(there)
    check_versions(there | {"my-plugin": "1.5", "another": "1"})
    monkeypatch.setenv("SAMPLERBENCH_NO_PLUGINS", "1")
    check_versions(there)


def test_what_a_worker_needs():
    assert needs_in_words(types.SimpleNamespace(device="cpu"), 2) == "2 CPU"


@pytest.mark.parametrize("argument", ["nowhere", "host:", ":1", "host:port", "a b:1"])
def test_a_wrong_address_is_refused(argument):
    with pytest.raises(sb.InputError, match="expected ray, ray:auto or ray:HOST:PORT"):
        OnRay().check(argument)


def test_ray_that_is_missing_is_said_before_a_model_is_looked_for(command, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    load_registry()  # no note that this takes long, on a busy machine
    words = "engine 'ray': the package ray is missing; install it with pip install 'samplerbench[ray]'"
    command("run", "--model", "no-such-model", "--engine", "ray").refused(2, words)
    with pytest.raises(sb.InputError, match="the package ray is missing"):
        sb.run("no-such-model", engine="ray")


def test_an_address_that_nobody_answers_at_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(sb.InputError, match=rf"address {address}: nobody answers \(Connection refused\); exp"):
        check_address(address)


@pytest.fixture
def command(request):
    """The program in an empty folder."""
    return request.getfixturevalue("sb")


@pytest.fixture
def server():
    """Serves one client on a thread: reads once, answers with these bytes, and keeps the line open; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as thread, ExitStack() as lines:

        def serve(said):
            def answer():
                line = lines.enter_context(listening.accept()[0])
                line.recv(99)
                line.sendall(said)

            thread.submit(answer)
            return f"127.0.0.1:{listening.getsockname()[1]}"

        yield serve


def answered(kind, flags, body):
    """What a server of HTTP/2 says: its settings, a frame of another conversation, and then this one."""
    return frame(4, 0, 0, bytes(6)) + frame(6, 0, 0, bytes(8)) + frame(kind, flags, 1, body)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "timed out"),
        (b"HTTP/1.1 400 Bad Request", "it is no head node of Ray"),
        (answered(1, 5, b"@\x0bgrpc-status\x0212"), "it is no head node of Ray"),
        (answered(1, 4, b"\x88") + frame(0, 0, 1, b"<html>not here</html>"), "it is no head node of Ray"),
        (answered(3, 0, bytes(4)), "it is no head node of Ray"),
        (answered(1, 4, b"\x88"), "timed out"),
    ],
    ids=["silent", "HTTP/1.1", "gRPC", "a page", "refused", "half an answer"],
)
def test_a_server_that_is_silent_or_another_is_refused_in_time(server, monkeypatch, said, words):
    monkeypatch.setattr(ray_cluster, "ANSWERED_WITHIN", 0.05)
    with pytest.raises(sb.InputError) as refused:
        check_address(server(said))
    assert f"nobody answers ({words})" in str(refused.value)


def test_a_head_node_is_known_by_its_answer(server):
    check_address(server(answered(1, 4, b"\x88") + frame(0, 0, 1, bytes([0, 0, 0, 0, 2]) + b"\x20\x01")))


def test_a_cluster_that_asks_for_a_token_is_refused_unless_ray_is_told_to_send_one(server, monkeypatch):
    said = answered(1, 5, b"\x00\x0bgrpc-status\x0216")
    monkeypatch.delenv(ray_cluster.AUTH, raising=False)
    with pytest.raises(sb.InputError, match=r"asks for a token; expected RAY_AUTH_MODE=token in the environment, and"):
        check_address(server(said))
    check_address("auto", server(said))
    monkeypatch.setenv(ray_cluster.AUTH, "token")
    check_address(server(said))


def test_what_talks_without_an_end_is_refused_in_time(server, monkeypatch):
    monkeypatch.setattr(ray_cluster, "ANSWERED_WITHIN", 0.05)
    with pytest.raises(sb.InputError, match=r"nobody answers \(timed out\)"):
        check_address(server(answered(8, 0, bytes(4)) * 100_000))


def rays_own(monkeypatch, find):
    """Stands for the part of Ray that finds a cluster."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    for name in ("ray", "ray._private", "ray._private.services"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(canonicalize_bootstrap_address=find))


@pytest.mark.parametrize("given", ["auto", "127.0.0.1:6379"])
def test_the_address_that_is_asked_is_that_at_which_ray_will_look(monkeypatch, given):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        there = f"127.0.0.1:{taken.getsockname()[1]}"
        rays_own(monkeypatch, {given: there}.get)
        with pytest.raises(sb.InputError, match=rf"address {given}: nobody answers \(Connection refused at {there}\)"):
            OnRay().check("", address=given)


def test_where_ray_finds_no_cluster_it_says_so_in_one_line(monkeypatch):
    def find(address):
        raise ConnectionError("Could not find any\nrunning Ray instance.")

    rays_own(monkeypatch, find)
    with pytest.raises(sb.InputError, match=r"^address auto: .*Could not find any running Ray instance"):
        OnRay().check("auto")


def test_a_version_of_ray_that_does_not_tell_is_asked_as_given(monkeypatch):
    rays_own(monkeypatch, None)
    monkeypatch.setitem(sys.modules, "ray._private.services", None)
    assert ray_cluster.looked_for_at("auto") is None
    assert ray_cluster.looked_for_at("far:1") == "far:1"


def test_a_cluster_that_hears_only_certificates_is_left_to_ray(monkeypatch):
    monkeypatch.setenv(ray_cluster.TLS, "1")
    check_address("127.0.0.1:1")


def test_time_to_answer_and_to_be_placed_is_within_what_is_promised():
    assert ray_cluster.ANSWERED_WITHIN < 10
    assert PLACED_WITHIN + 10 < 60


HERE_ONLY = ("run", "--model", "mixture", "-s", "ddim", "--steps", "2", "-n", "8", "-o", "here")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--address", "auto"), "address: engine 'local' takes none; expected with --engine ray"),
        (("--cpus-per-worker", "2"), "cpus_per_worker: engine 'local' takes none; expected with --engine ray"),
        (("--engine", "ray", "--cpus-per-worker", "0"), "cpus_per_worker 0: expected a whole number from 1 to 4096"),
        (("--engine", "ray", "--cpus-per-worker", "x"), "cpus_per_worker 'x': expected a whole number from 1, as in 4"),
        (("--engine", "ray", "--address", "nowhere"), "address 'nowhere': expected auto or HOST:PORT"),
        (("--engine", "ray", "--address", ""), "address '': expected auto or HOST:PORT"),
        (("--engine", "ray", "--address", "127.0.0.1:99999"), "address 127.0.0.1:99999: nobody answers ("),
        (("--engine", "ray:auto", "--address", "auto"), "address 'auto': engine 'ray:auto' names one already"),
    ],
)  # fmt: skip
def test_a_wrong_setting_of_the_engine_is_one_line_and_nothing_is_written(command, monkeypatch, options, words):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    command(*HERE_ONLY, *options).refused(2, words)
    assert not Path("here").exists()


def test_the_engine_gets_its_settings_and_a_new_run_as_many_threads_as_cores(monkeypatch):
    asked = []

    def engine(argument, work, *, cpus_per_worker=None):
        asked.append((argument, cpus_per_worker))
        return types.SimpleNamespace(draw=None.__class__, close=None.__class__)

    registry = load_registry()
    monkeypatch.setitem(registry.engines.things, "mine", engine)
    registry.engine("mine:x", None, cpus_per_worker=3)
    assert asked == [("x", 3)]
    with pytest.raises(sb.InputError, match="address: engine 'mine' takes none; expected with --engine ray"):
        registry.check_engine("mine", {"address": "auto"})
    assert with_threads(Config(), None, 4, 3)[1] == 3
    assert with_threads(Config(threads=2), None, 4, 3)[1] == 2


def test_more_workers_than_cards_of_this_machine_are_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(ray_cluster.torch.cuda, "device_count", lambda: 1)
    work = types.SimpleNamespace(device="cuda", workers=2, threads=1)
    with pytest.raises(sb.InputError, match="workers 2: torch sees 1 GPUs here"):
        OnRay()("", work)


def test_a_model_that_is_an_object_is_refused_before_anything_is_started_or_written(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(
        sb.InputError, match="model 'mixture': was given as an object, which only this process has; exp"
    ):
        sb.run(load_registry().model("mixture"), ["ddim"], 2, 8, engine="ray", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_node_lacks_is_sent_before_it_draws():
    engine, cluster, _ = engine_of(drawn, 2)
    cluster.versions |= {ray_cluster.LACKING: "aa bb"}
    sent = []

    def send(worker, files):
        sent.append((worker, files))
        cluster.versions.pop(ray_cluster.LACKING, None)
        return (worker, None)

    cluster.send = send
    assert len(list(engine.draw(JOBS))) == len(JOBS)
    assert sent == [(1, ["aa", "bb"])]


def test_ray_is_not_imported_for_what_does_not_ask_for_it():
    assert "ray_cluster" in ray_cluster.__name__
    assert "ray" in load_registry().engines.things
    assert (
        importlib.util.find_spec("ray") is None or "ray" not in sys.modules or "RAY_USAGE_STATS_ENABLED" in os.environ
    )


@pytest.mark.parametrize(("refusals", "tries"), [(0, 1), (1, 2), (9, 2)])
def test_a_cluster_that_did_not_start_is_tried_once_more_and_what_it_left_is_ended(monkeypatch, refusals, tries):
    made = []

    class Left:
        """What sees to the end of a cluster, and only counts."""

        is_marking = ended = False

        def __init__(self):
            made.append(self)

        @contextlib.contextmanager
        def marking(self):
            self.is_marking = True
            yield
            self.is_marking = False

        def end(self):
            self.ended = True

    def connected(address, **settings):
        assert made[-1].is_marking
        assert settings["num_cpus"] == 6
        if len(made) <= refusals:
            raise sb.InputError("timed out")
        return "ray"

    monkeypatch.setattr(ray_cluster, "Leftovers", Left)
    monkeypatch.setattr(ray_cluster, "connected", connected)
    with pytest.raises(sb.InputError, match="timed out") if refusals >= tries else contextlib.nullcontext():
        assert ray_cluster.started({"CPU": 3}, 2) == ("ray", made[-1])
    assert [left.ended for left in made] == [number < refusals for number in range(tries)]


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


def test_a_name_that_no_machine_has_is_refused_in_one_line():
    with pytest.raises(sb.InputError, match=r"address a\.\.b:1: nobody answers"):
        check_address("a..b:1")

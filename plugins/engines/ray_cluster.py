"""ray: workers on the machines of a Ray cluster, or on this one; needs samplerbench[ray].

Ray Core places the workers and tells when one is lost. Everything else is the run's own: Ray's retries are off, for a
chunk that is put back into our queue is counted against its cell, and only keys and chunks travel. The description of
the run goes to each worker once, so a chunk that a worker answers is the only thing of any size.

Ray is imported only in `draw`: nothing else of samplerbench needs it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from time import monotonic
from typing import Any, Protocol

import torch

from ...samplers.engine import Done, Drawn, Engine, EngineFactory, Failure, Job, Work
from ...samplers.errors import InputError, in_line, quote
from ...samplers.files.sent import SentFiles, keep, kept_in
from ...samplers.leftovers import Leftovers
from ...samplers.plugin import GROUP
from ...samplers.registry import hookimpl
from ...samplers.variables import NO_PLUGINS, is_on
from .ray_greeting import Answer, who_answers

TRIES = 3
"""How many workers are given a chunk that ends them."""
PLACED_WITHIN = 45.0
"""Seconds until it is asked whether a worker can ever find a place, so that the answer is there within a minute."""
ANSWERED_WITHIN = 8.0
"""Seconds in which a cluster has to answer at an address, so that the error is there within ten."""
TLS = "RAY_USE_TLS"
"""Ray's own variable: where it is on, a head node hears only clients with a certificate."""
AUTH = "RAY_AUTH_MODE"
"""Ray's own variable: with "token" its client sends one to an address that is given."""
LOOK_EVERY_SECONDS = 1.0
MANY = 16
"""Workers, from which on answers are looked for several at a time."""
AUTO, HERE = "auto", ""
ADDRESS = re.compile(r"[\w.\-\[\]:]+:[0-9]{1,5}")
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Ray reports nothing to its makers, and does not touch the cards that a worker does not ask for."""
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""A cluster that no other machine can join, so Ray listens on 127.0.0.1; `_node_ip_address` would not do that."""
READABLE = {"SPT_NOENV": "1"}
"""Ray's processes give themselves names, and keep their environment, by which those that are left are known."""
NOT_AWAITED = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}
"""The server of such a cluster does not come back where it is lost: Ray would wait a minute for it."""
STARTS = 2
"""How often it is tried to start a cluster, which Ray gives up after 30 s; on a busy machine the first try may fail."""
LACKING = "lacking"
"""Under this name a worker answers with the hashes of the files that its node lacks."""
NODE = "node"
VERSIONS = ("samplerbench", "torch", "numpy")
"""Those that decide numbers: all nodes must agree in them."""


class Cluster(Protocol):
    """What the engine needs of Ray; a test has its own."""

    def room(self) -> int:
        """How many workers can be placed at a time, now and with nothing else there."""
        ...

    def start(self) -> Any:
        """A worker, that is asked for and may not have a place yet."""
        ...

    def ask(self, worker: Any, job: Job | None) -> Any:
        """What stands for the worker's answer to a job; to None it answers with its versions and with the files that
        its node lacks, when it is placed."""
        ...

    def send(self, worker: Any, files: Sequence[str]) -> Any:
        """Send the files of these hashes to the node of a worker; what stands for an answer as to None."""
        ...

    def ready(self, asked: list[Any], seconds: float) -> list[Any]:
        """Those that are answered by now, or within this time the first of them."""
        ...

    def answer(self, asked: Any) -> Any:
        """The answer; WorkerLost where there will be none."""
        ...

    def stop(self, worker: Any) -> None:
        """End a worker at once."""
        ...

    def close(self) -> None:
        """End what was started of Ray."""
        ...


class WorkerLost(Exception):  # noqa: N818  (it is an event)
    """A worker ended, or did not start."""


@dataclass
class RayEngine:
    """Draws as many jobs at a time as there are workers."""

    work: Work
    connect: Callable[[], Cluster]
    clock: Callable[[], float] = monotonic
    cores: int = 1
    """Kept for each worker."""
    count: int = 0
    """How many workers there are; known once they are asked for."""
    _cluster: Cluster | None = None
    _idle: list[Any] = field(default_factory=list)
    """Workers that are placed and have no job."""
    _starting: dict[Any, Any] = field(default_factory=dict)
    """Workers that are asked for, by what stands for their first answer."""
    _drawing: dict[Any, tuple[Any, Job]] = field(default_factory=dict)
    """Worker and job by what stands for the answer."""
    _again: deque[Job] = field(default_factory=deque)
    """Jobs that went back."""
    _tries: Counter[Job] = field(default_factory=Counter)
    """How many workers each job has ended."""
    _clocked: Any = None
    """The worker that is clocked: times of two kinds of machines have no column in common."""
    _not_started: int = 0
    """How many workers in a row were lost before their first answer."""

    def solve(self, first: int, n: int, advanced: Callable[[int], object]) -> None:
        """Ask for the workers: the run draws the ODE solution while they start."""
        self._connected()

    def draw(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """The answers, as they come."""
        waiting = iter(jobs)
        self._hold_one(waiting)
        since = self.clock()
        while self._again or self._drawing:
            cluster = self._connected()
            # Before answers are waited for: a worker without a job is time that is lost.
            self._hand_out(cluster, waiting)
            if self._drawing:
                since = self.clock()
            elif self.clock() - since > PLACED_WITHIN:
                self._check_room(cluster)
                since = self.clock()
            # A second at most, so that Ctrl-C and the minute for a place are noticed.
            answered = cluster.ready([*self._drawing, *self._starting], LOOK_EVERY_SECONDS)
            answers = [done for asked in answered if (done := self._heard(cluster, asked))]
            if all(isinstance(done, Drawn) for done in answers):
                self._hand_out(cluster, waiting)  # before these are written, so that nobody waits for the disk
            yield from answers
            self._hand_out(cluster, waiting)
            self._hold_one(waiting)

    def close(self) -> None:
        """Leave nothing running."""
        cluster, self._cluster = self._cluster, None
        if cluster:
            # Whatever becomes of its workers.
            with closing(cluster):
                for worker in [*self._idle, *self._starting.values(), *(one for one, _ in self._drawing.values())]:
                    cluster.stop(worker)

    def _hold_one(self, waiting: Iterator[Job]) -> None:
        """Know whether there is a job left where nobody has one."""
        if not (self._again or self._drawing) and (job := next(waiting, None)):
            self._again.append(job)

    def _connected(self) -> Cluster:
        """The cluster, whose workers are asked for when it is first needed."""
        if self._cluster is None:
            self._cluster = self.connect()
            asked = self.work.workers
            self.count = asked if isinstance(asked, int) else max(1, self._cluster.room())
            for _ in range(self.count):
                self._start(self._cluster)
        return self._cluster

    def _start(self, cluster: Cluster) -> None:
        worker = cluster.start()
        self._starting[cluster.ask(worker, None)] = worker

    def _hand_out(self, cluster: Cluster, waiting: Iterator[Job]) -> None:
        """A job for each worker that has none, as long as there are jobs."""
        while self._idle and (job := self._again.popleft() if self._again else next(waiting, None)):
            worker = self._clocked if job.is_for_the_clock and self._clocked in self._idle else self._idle[0]
            self._idle.remove(worker)
            if job.is_for_the_clock:
                self._clocked = worker
            self._drawing[cluster.ask(worker, job)] = worker, job

    def _heard(self, cluster: Cluster, asked: Any) -> Done | None:
        """What one answer means; None for an answer that belongs to no job."""
        worker, job = self._drawing.pop(asked, None) or (self._starting.pop(asked), None)
        try:
            answer = cluster.answer(asked)
        except WorkerLost as lost:
            return self._lost(cluster, worker, job, str(lost))
        self._not_started = 0
        if job is None:
            check_versions(answer)
            if lacking := answer.get(LACKING):
                self._starting[cluster.send(worker, lacking.split())] = worker
                return None
        self._idle.append(worker)
        alone = self.count == 1 or (job is not None and job.is_for_the_clock)
        return replace(answer, alone=alone) if isinstance(answer, Drawn) else answer if job else None

    def _lost(self, cluster: Cluster, worker: Any, job: Job | None, reason: str) -> Done | None:
        """Another worker takes the place; the job goes back, unless it ended as many as it may."""
        cluster.stop(worker)
        if job is None:
            self._not_started += 1
            if self._not_started > TRIES * self.count:
                raise InputError(f"engine 'ray': no worker starts: {reason}; are samplerbench and its plugins there?")
        self._start(cluster)
        if job is None:
            return None
        self._tries[job] += 1
        if self._tries[job] >= TRIES:
            return Failure(job, f"ended {TRIES} workers: {reason}")
        self._again.append(job)
        self.work.retried(job, reason)
        return None

    def _check_room(self, cluster: Cluster) -> None:
        """InputError where no worker can ever be placed: in a cluster that is busy, one will be."""
        if not cluster.room():
            raise InputError(
                f"engine 'ray': no worker found a place in {PLACED_WITHIN:.0f} s: no node has "
                f"{needs_in_words(self.work, self.cores)}; add one that has, or give a smaller --cpus-per-worker"
            )


def check_versions(there: dict[str, str]) -> None:
    """Refuse a node whose versions would make other numbers."""
    here = versions_here()
    for name in here:
        if name != NODE and there.get(name) != here[name]:
            raise InputError(
                f"engine 'ray': {name} {there.get(name) or 'is missing'} on node {there.get(NODE)}, and {here[name]} "
                "here; install the same versions on all nodes"
            )


def versions_here() -> dict[str, str]:
    """The versions that decide numbers, those of the packages with plugins among them, and the name of this machine."""
    entries = [] if is_on(NO_PLUGINS, os.environ) else importlib.metadata.entry_points(group=GROUP)
    plugins = {entry.dist.name: entry.dist.version for entry in entries if entry.dist}
    return plugins | {name: importlib.metadata.version(name) for name in VERSIONS} | {NODE: platform.node()}


def needs_of(work: Work, cores: int) -> dict[str, int]:
    """What Ray is to keep for each worker: cores, and a card where the run is on one."""
    return {"CPU": cores} | ({"GPU": 1} if work.device.startswith("cuda") else {})


def needs_in_words(work: Work, cores: int) -> str:
    """The needs of a worker, in the words of an error."""
    return " and ".join(f"{number} {name}" for name, number in needs_of(work, cores).items())


class Drawer:
    """What a worker of Ray is: it draws the jobs of one run, and keeps its model."""

    def __init__(self, draw_job: Callable[[bytes, Job], Done], files: SentFiles) -> None:
        self._draw_job, self._files, self._description = draw_job, files, b""

    def about(self) -> dict[str, str]:
        """The versions there are here, and the hashes of files that are missing; it answers when it has a place."""
        place = self._files.place(kept_in())
        if place is not None:
            os.chdir(place)  # the run names its files by paths relative to this folder
            if str(place) not in sys.path:
                sys.path.insert(0, str(place))  # and its code may import what is beside them
        return versions_here() | {LACKING: "" if place else " ".join(self._files.lacking(kept_in()))}

    def keep(self, sent: Mapping[str, Sequence[Any]]) -> dict[str, str]:
        """Keep the content of files, which comes in pieces, and answer again."""
        import ray

        for sha256, pieces in sent.items():
            keep(sha256, map(ray.get, pieces), kept_in())
        return self.about()

    def take(self, description: bytes) -> None:
        """Take the description of the run."""
        self._description = description

    def draw(self, job: Job) -> Done:
        """The answer to a job."""
        return self._draw_job(self._description, job)


class RayCluster:
    """Ray itself: a cluster at an address, or one of this machine that ends with the run."""

    def __init__(self, work: Work, draw_job: Callable[[bytes, Job], Done], address: str, cores: int) -> None:
        self._work, self._draw_job = work, draw_job
        self._needs = needs = needs_of(work, cores)
        self._leftovers: Leftovers | None = None
        """Sees to the end of a cluster that this run starts: what has lost its parent ends late, or never."""
        with handlers_kept():  # Ray hears signals in its own way, and a run has to hear them in its own
            if address == HERE:
                self._ray, self._leftovers = started(needs, work.workers)
            else:
                self._ray = connected(address)
        remote = self._ray.remote(
            num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), max_restarts=0, max_task_retries=0
        )
        self._drawer = remote(Drawer)
        self._pieces: dict[str, list[Any]] = {}
        """What stands for the content of a file that a node lacked, by its hash."""
        self._told: set[Any] = set()
        """The workers that have the description of the run."""

    def room(self) -> int:
        """The number of workers that all nodes together hold."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(min(int(there.get(name, 0) // number) for name, number in self._needs.items()) for there in nodes)

    def start(self) -> Any:
        """Ask for a worker."""
        return self._drawer.remote(self._draw_job, self._work.files)

    def ask(self, worker: Any, job: Job | None) -> Any:
        """Ask it."""
        if job is None:
            return worker.about.remote()
        if worker not in self._told:
            # It does in turn what it is asked, so its answer is not waited for.
            worker.take.remote(self._description)
            self._told.add(worker)
        return worker.draw.remote(job)

    def send(self, worker: Any, files: Sequence[str]) -> Any:
        """Send it."""
        for sha256 in files:
            if sha256 not in self._pieces:  # to each node once, whatever number of workers it has
                self._pieces[sha256] = [self._ray.put(piece) for piece in self._work.files.pieces(sha256)]
        return worker.keep.remote({sha256: self._pieces[sha256] for sha256 in files})

    @cached_property
    def _description(self) -> Any:
        """The description of the run, to each node once."""
        return self._ray.put(self._work.description)

    def ready(self, asked: list[Any], seconds: float) -> list[Any]:
        """What is answered."""
        first, others = self._ray.wait(asked, num_returns=1, timeout=seconds)
        # A second question costs as much as the first, and is worth it where many may have answered.
        ask_again = bool(first) and len(others) >= MANY
        return [*first, *(self._ray.wait(others, num_returns=len(others), timeout=0)[0] if ask_again else ())]

    def answer(self, asked: Any) -> Any:
        """What it says."""
        try:
            return self._ray.get(asked)
        except self._ray.exceptions.RayError as error:
            raise WorkerLost(in_line(error)) from error

    def stop(self, worker: Any) -> None:
        """End it."""
        self._told.discard(worker)
        self._ray.kill(worker, no_restart=True)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends, with what Ray itself leaves where a part of it died."""
        try:
            with handlers_kept():
                self._ray.shutdown()
        finally:
            if self._leftovers:
                self._leftovers.end()


def started(needs: dict[str, int], workers: int | str | None, tries: int = STARTS) -> tuple[Any, Leftovers]:
    """Ray with a cluster of this machine, which hears only this machine, and what sees to its end."""
    cores = needs["CPU"] * workers if isinstance(workers, int) else None
    leftovers = Leftovers()
    try:
        with leftovers.marking():
            return connected(HERE, num_cpus=cores, include_dashboard=False, _node_ip_address="127.0.0.1"), leftovers
    except BaseException as error:
        leftovers.end()
        if isinstance(error, InputError) and tries > 1:
            return started(needs, workers, tries - 1)
        raise


def connected(address: str, **settings: object) -> Any:
    """Ray, connected; InputError where nobody answers at the address, or another version does."""
    os.environ.update(QUIET | (LOOPBACK | READABLE | NOT_AWAITED if address == HERE else {}))
    import ray

    quiet = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": True}
    try:
        ray.init(address=address or "local", **quiet, **settings)
    except (Exception, SystemExit) as error:
        # Ray ends the process, with no word, where a server answers that is not Ray.
        reason = "it is no head node of Ray" if isinstance(error, SystemExit) else in_line(error)
        what = f"ray:{address}" if address else "ray"
        raise InputError(f"engine {what!r}: cannot be used ({reason})") from error
    return ray


def looked_for_at(address: str) -> str | None:
    """Where Ray will look: it finds a cluster itself for auto, and takes another address of this machine for
    127.0.0.1. None where that is not known before it does."""
    os.environ.update(QUIET)
    try:
        from ray._private.services import canonicalize_bootstrap_address
    except ImportError:  # it is Ray's own, and may be elsewhere in another version
        return None if address == AUTO else address
    try:
        found: str | None = canonicalize_bootstrap_address(address)
    except Exception as error:
        raise InputError(f"address {address}: {in_line(error)}") from error
    return found


def check_address(address: str, there: str | None = None) -> None:
    """Refuse an address at which no head node answers: Ray itself would ask for minutes, or end the process."""
    if is_on(TLS, os.environ):
        return
    there = there or address
    host, _, port = there.rpartition(":")
    try:
        answer = who_answers(host.strip("[]"), int(port), ANSWERED_WITHIN)
        if answer is Answer.ANOTHER:
            raise OSError("it is no head node of Ray")
    except (OSError, OverflowError, UnicodeError) as error:  # the port or the name is invalid
        reason = f"{getattr(error, 'strerror', None) or error}{f' at {there}' if there != address else ''}"
        raise InputError(
            f"address {address}: nobody answers ({reason}); expected that of a head node, as `ray start --head` says it"
        ) from error
    # With auto Ray takes the token of this user by itself.
    if answer is Answer.WANTS_TOKEN and address != AUTO and os.environ.get(AUTH, "").lower() != "token":
        raise InputError(
            f"address {address}: the cluster asks for a token; expected {AUTH}=token in the environment, and the "
            "cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
        )


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put back what hears signals as it was."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in kept.items():
                signal.signal(number, handler)


class OnRay:
    """Workers of Ray on this machine, or with --address on those of a cluster. Needs samplerbench[ray]."""

    def check(self, argument: str, *, address: str | None = None, cpus_per_worker: int | None = None) -> None:
        """Refuse what can be refused before there is a plan."""
        where = self._where(argument, address)
        if where != HERE and (there := looked_for_at(where)):
            check_address(where, there)

    def __call__(
        self, argument: str, work: Work, *, address: str | None = None, cpus_per_worker: int | None = None
    ) -> Engine:
        """The engine; it is connected when it is to draw."""
        where = self._where(argument, address)
        check_cards(work, where)
        cores, draw_job = cpus_per_worker or work.threads, work.draw_job  # refused here where no other process can draw
        return RayEngine(work, lambda: RayCluster(work, draw_job, where, cores), cores=cores)

    def _where(self, argument: str, address: str | None) -> str:
        where = address_of(argument, address)
        if importlib.util.find_spec("ray") is None:
            raise InputError(
                "engine 'ray': the package ray is missing; install it with pip install 'samplerbench[ray]'"
            )
        return where


def address_of(argument: str, address: str | None) -> str:
    """Where the cluster is, by what follows "ray:" or by --address."""
    if argument and address is not None:
        raise InputError(f"address {quote(address)}: engine 'ray:{argument}' names one already; give one of them")
    where = argument if address is None else address
    if (where == HERE and address is None) or where == AUTO or ADDRESS.fullmatch(where):
        return where
    if address is None:
        raise InputError(f"engine 'ray:{argument}': expected ray, ray:auto or ray:HOST:PORT, as in ray:10.0.0.1:6379")
    raise InputError(f"address {quote(address)}: expected auto or HOST:PORT, as in 10.0.0.1:6379")


def check_cards(work: Work, where: str) -> None:
    """Refuse more workers than this machine has cards, where the cluster is this machine."""
    if where == HERE and work.device.startswith("cuda") and isinstance(work.workers, int):
        there = torch.cuda.device_count()
        if work.workers > there:
            raise InputError(
                f"workers {work.workers}: torch sees {there} GPUs here; expected one worker for each at most"
            )


@hookimpl
def samplerbench_engines() -> dict[str, EngineFactory]:
    """What this file adds, by name."""
    return {"ray": OnRay()}

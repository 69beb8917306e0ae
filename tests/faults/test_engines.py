"""Where chunks are made: a sampler of someone else's that misbehaves fails its own cell and nothing else."""

import dataclasses
import io
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

import samplerbench as sb
from cases import thinned
from samplerbench.bench.draw import chunk
from samplerbench.bench.draw.chunk import make_chunk
from samplerbench.bench.draw.chunk_file import chunk_from_arrays, chunk_to_arrays
from samplerbench.bench.draw.engines import child_process, here
from samplerbench.bench.draw.engines import children as engines
from samplerbench.bench.draw.engines.child import Parent, serve
from samplerbench.bench.draw.engines.children import ChildFault, ChildProcess, Children, Limits, Speed
from samplerbench.bench.draw.engines.here import no_copy_goes_on
from samplerbench.bench.draw.engines.local import turns
from samplerbench.bench.draw.session import Watch
from samplerbench.bench.plan.config import Config, as_json, from_json
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.run import begin
from samplerbench.samplers.model import to_images
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
STRANGER = """
import atexit, ctypes, os, resource, signal, subprocess, sys, threading, time
from dataclasses import dataclass
import torch
from samplerbench import Sampler, hookimpl


@dataclass(frozen=True)
class Good(Sampler):
    convergence = 1

    def nfe(self, steps):
        return steps

    def harm(self):
        pass

    def step(self, run, x, a, b, past):
        self.harm()
        return run.predict(x, a).combine(b.alpha, b.sigma), None


def stranger(harm):
    return type(harm.__name__, (Good,), {"harm": lambda self: harm()})


def talks():
    print("hello")
    os.write(1, b"hello\\n")


def says_where():
    raise RuntimeError(f"process {os.getpid()}, threads {torch.get_num_threads()}, {torch.get_default_dtype()}")


def calls_exit():
    sys.exit(0)


def exits_at_once():
    os._exit(0)


def segfaults():
    ctypes.string_at(0)


def never_ends():
    while True:
        pass


def eats():
    held = []
    while True:
        held.append(b"1" * 20_000_000)


def tells_and_never_ends():
    below = subprocess.Popen(["sleep", "600"])
    with open(os.environ["STRANGER_FIFO"], "w") as fifo:
        fifo.write(f"{os.getpid()} {below.pid}")
    ctypes.PyDLL(None).sleep(600)  # with the interpreter's lock


class SaysNothing(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def raises_without_words():
    raise SaysNothing


def closes_all():
    os.close(0), os.close(1), os.close(2), sys.stdout.close()


def forks_and_returns_late():
    if not os.fork():
        time.sleep(0.5)


def leaves_a_thread():
    threading.Thread(target=never_ends, daemon=True).start()


def meddles():
    next(m for name, m in sys.modules.items() if name.startswith("samplerbench_plugin_toy")).VARIANCE = 0.5
    resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "7"
    atexit.register(never_ends)


@hookimpl
def samplerbench_samplers():
    harms = [talks, says_where, calls_exit, exits_at_once, segfaults, never_ends, eats, tells_and_never_ends,
             raises_without_words, closes_all, forks_and_returns_late, leaves_a_thread, meddles]
    return {"good": Good, **{harm.__name__: stranger(harm) for harm in harms}}
""".replace("harm.__name__: stranger", 'harm.__name__.replace("_", "-"): stranger')


@pytest.fixture
def stranger(tmp_path):
    """The path of a plugin with one good sampler and many that are not."""
    path = tmp_path / "stranger.py"
    path.write_text(STRANGER)
    return str(path)


@pytest.fixture
def children(monkeypatch):
    """Samplers of others are drawn in a child process, as they are for a user."""
    monkeypatch.delenv("SAMPLERBENCH_IN_PROCESS")


def statuses(table):
    """The status of each sampler, from rows of JSON or a data frame."""
    rows = table if isinstance(table, list) else table.to_dict("records")
    return {row["sampler"]: row["status"] for row in rows}


# What an engine is asked


class Recorder:
    """Draws the samplers of others here, but fails some cells, and remembers what it was asked."""

    most = 9

    def __init__(self, plan, extractors, failing=()):
        self.plan, self.extractors = plan, extractors
        self.failing, self.asked, self.begun, self.closed = failing, [], [], 0

    def begin(self, cells):
        self.begun.append([cell.sampler for cell in cells if cell.is_foreign])

    def make(self, cell, block):
        self.asked.append((cell.sampler, block.number))
        if cell.sampler in self.failing:
            raise ChildFault("its process ended with signal 11 (SIGSEGV)")
        return make_chunk(self.plan, cell, block, self.extractors, None)

    def close(self):
        self.closed += 1


def foreign_of(session):
    """What draws the samplers of others for the local engine of a session."""
    return session.session.engine.isolated


def session_of(tmp_path, stranger, samplers, failing=(), n=100):
    """A session on the toy model whose strangers go to a Recorder."""
    registry = load_registry([TOY, stranger])
    plan = plan_for(Config(model="toy", sampler=tuple(samplers), steps=(2,), samples=n), registry)
    session = begin(plan, registry, tmp_path / "run")
    session.session.engine.isolated = Recorder(plan, session.session.offered.extractors, failing)
    return session


def test_the_origin_of_a_sampler_decides_where_it_is_drawn(tmp_path, stranger):
    session = session_of(tmp_path, stranger, ["good", "ddim", "DPM++ 2M", "talks:grid=karras"])
    session.work(Watch())
    assert foreign_of(session).asked == [("good", 0), ("talks:grid=karras", 0), ("talks:grid=karras", 1), ("good", 1)]
    assert foreign_of(session).closed == 1
    result = session.conclude()
    assert set(statuses(result.table).values()) == {"ok"}
    assert result.table["same_as"].tolist()[1] == "good"


def test_a_fault_of_the_engine_fails_that_cell_and_no_other(tmp_path, stranger):
    session = session_of(tmp_path, stranger, ["segfaults", "good", "ddim"], failing=["segfaults"])
    session.work(Watch())
    result = session.conclude()
    assert statuses(result.table) == {
        "segfaults": "failed: its process ended with signal 11 (SIGSEGV)", "good": "ok", "ddim": "ok",
    }  # fmt: skip
    assert foreign_of(session).asked.count(("segfaults", 0)) == 1
    assert ("segfaults", 1) not in foreign_of(session).asked
    assert result.failed == 1


def test_an_engine_is_closed_when_the_run_is_stopped(tmp_path, stranger):
    class Stopped(Watch):
        def advanced(self, evaluations):
            raise KeyboardInterrupt

    session = session_of(tmp_path, stranger, ["good"])
    with pytest.raises(KeyboardInterrupt):
        session.work(Stopped())
    assert foreign_of(session).closed == 1


@pytest.mark.parametrize("how", ["object", "environment"])
def test_a_model_given_as_an_object_and_the_environment_keep_all_in_this_process(tmp_path, monkeypatch, how):
    registry = load_registry([TOY])
    monkeypatch.setenv("SAMPLERBENCH_IN_PROCESS", "1" if how == "environment" else "0")
    model = registry.model("toy") if how == "object" else None
    config = Config(model="toy", sampler=("prints",), steps=(2,), samples=4)
    assert begin(plan_for(config, registry, model), registry, tmp_path / "run").session.engine.isolated is None
    monkeypatch.setenv("SAMPLERBENCH_IN_PROCESS", "0")
    assert isinstance(begin(plan_for(config, registry), registry, tmp_path / "other").session.engine.isolated, Children)


def test_nothing_of_a_stranger_s_runs_here_for_a_trial(stranger, monkeypatch):
    registry = load_registry([stranger])
    plan = plan_for(Config(model="mixture", sampler=("never-ends", "good"), steps=(5,), samples=4), registry)
    drawn = []
    monkeypatch.setattr(
        chunk, "draw", lambda request, *_, **__: drawn.append(type(request.sampler).__module__) or 1 / 0
    )
    chunk.warm_up(plan)
    assert chunk.seconds_per_evaluation(plan) is None
    assert set(drawn) == {"samplerbench.plugins.samplers.ddim"}


def test_an_engine_is_told_what_is_next_and_what_failed(tmp_path, stranger):
    session = session_of(tmp_path, stranger, ["segfaults", "good", "ddim"], failing=["segfaults"])
    session.session.ledger.repeats = 3
    session.work(Watch())
    assert foreign_of(session).begun == [["segfaults", "good"], ["good"]]


def test_a_finished_run_starts_nothing(tmp_path, stranger):
    for begun in ([["good"]] * 2, []):
        session = session_of(tmp_path, stranger, ["good", "ddim"])
        session.work(Watch())
        assert foreign_of(session).begun == begun
        session.folder.close()


# Turns


def cells_of(*samplers):
    """A cell of each sampler; those in capitals are foreign, and need no more than a name here."""
    plan = planned()
    return [dataclasses.replace(plan.cells[0], sampler=s, is_foreign=s.isupper()) for s in samplers]


@pytest.mark.parametrize(
    ("samplers", "most", "expected"),
    [
        ("a A b B", None, [("a A b B", False)]),
        ("a A b B", 2, [("a A b B", False)]),
        ("a A b B", 1, [("a A b", False), ("B", True)]),
        ("A a B A C b", 2, [("A a B A b", False), ("C", True)]),
        ("A B C", 1, [("A", True), ("B", True), ("C", True)]),
        ("A", 1, [("A", False)]),
        ("a b", 1, [("a b", False)]),
        ("", 1, []),
    ],
)
def test_cells_take_turns_with_as_many_foreign_specs_as_can_be_alive(samplers, most, expected):
    found = turns(cells_of(*samplers.split()), most)
    assert [(" ".join(cell.sampler for cell in turn.cells), turn.is_apart) for turn in found] == expected


def test_what_is_drawn_apart_says_so_in_its_column_and_the_others_do_not(tmp_path, stranger):
    session = session_of(tmp_path, stranger, ["good", "ddim", "talks"], n=330)
    foreign_of(session).most = 1
    session.session.ledger.repeats = 5
    session.work(Watch())
    assert foreign_of(session).begun == [["good"]] * 6 + [["talks"]] * 6
    asked = [name for name, _ in foreign_of(session).asked]
    assert asked == ["good"] * 6 + ["talks"] * 6
    timing = session.conclude().table.set_index("sampler")["timing"]
    assert "not in turn" in timing["talks"]
    assert "not in turn" not in timing["good"] + timing["ddim"]
    assert "not drawn in turn with the other samplers" in (session.folder.path / "table.md").read_text()


def test_the_model_is_loaded_before_it_is_asked_how_many_children_fit_the_memory(tmp_path, stranger, monkeypatch):
    seen = []
    session = session_of(tmp_path, stranger, ["good", "ddim"])
    monkeypatch.setattr(here, "warm_up", lambda plan: seen.append("trial"))
    monkeypatch.setattr(Recorder, "most", property(lambda self: seen.append("most") or 9))
    session.work(Watch())
    assert seen[:2] == ["trial", "most"]
    assert seen.count("trial") == 1


def test_a_run_that_is_stopped_before_the_next_turn_shows_all_of_the_first(tmp_path, stranger):
    session = session_of(tmp_path, stranger, ["good", "ddim", "talks"], n=200)
    foreign_of(session).most = 1

    foreign_of(session).begin = lambda cells: [1 / 0 for cell in cells if cell.sampler == "talks"]
    with pytest.raises(sb.PluginError, match=r"engine 'local' raised ZeroDivisionError"):
        session.work(Watch())
    table = session.conclude().table.set_index("sampler")
    assert table["samples"].to_dict() == {"good": 200, "ddim": 200, "talks": 0}
    assert table["status"].to_dict() == {"good": "ok", "ddim": "ok", "talks": "pending"}


# Limits


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), True])
@pytest.mark.parametrize("name", ["time_limit", "memory_limit"])
def test_what_is_no_limit_is_refused(name, value):
    with pytest.raises(sb.InputError, match=f"{name} .*above 0"):
        Limits(**{{"time_limit": "seconds", "memory_limit": "gigabytes"}[name]: value})


def test_limits_are_options_and_change_no_plan(sb, tmp_path):
    command = ("run", "--model", "mixture", "-s", "ddim", "--steps", "2", "-n", "8")
    assert sb(*command, "-o", "here", "--time-limit", "5").code == 0
    assert sb(*command, "-o", "here", "--memory-limit", "2.5").code == 0
    sb(*command, "--time-limit", "0").refused(2, "time_limit 0.0", "above 0")
    sb(*command, "--memory-limit", "some").refused(2, "memory_limit 'some'", "above 0")


def planned(sampler="ddim", n=100, **settings):
    """A plan on the mixture."""
    config = Config(model="mixture", sampler=(sampler,), steps=(3,), samples=n, **settings)
    return plan_for(config, load_registry())


def test_the_time_limit_grows_with_the_declared_calls_and_with_the_speed():
    plan = planned()
    cell, block = plan.cells[0], plan.blocks[0]
    assert Limits(2.0).seconds_for(cell, block, Speed(0.5, 0.5)) == 2.0
    assert Limits().seconds_for(cell, block, Speed()) == 60.0
    assert Limits().seconds_for(cell, block, Speed(0.01)) == pytest.approx(60 + 50 * 0.01 * 3 * 64)
    assert Limits().seconds_for(cell, block, Speed(0.01, 0.4)) == pytest.approx(60 + 50 * (0.01 * 3 + 0.4) * 64)
    adaptive = planned("dpm-solver-adaptive").cells[0]
    assert Limits().seconds_for(adaptive, block, Speed(0.01)) == pytest.approx(60 + 50 * 0.01 * 1000 * 64)


def test_a_trial_clocks_decoding_and_the_extractors_once_they_are_loaded(monkeypatch):
    now, costs = [0.0], {"decode": iter([7.0, 1.0]), "features": iter([90.0, 2.0]), "clip": iter([90.0, 4.0])}
    monkeypatch.setattr(chunk, "clock", lambda device: now[0])

    def spends(name, function):
        def spending(*arguments):
            now[0] += next(costs[name], 0.0)
            return function(*arguments)

        return spending

    plan = plan_for(Config(model="toy", sampler=("ddim",), steps=(2,), samples=4), load_registry([TOY]))
    extractors = {
        name: dataclasses.replace(extractor, extract=spends(name, extractor.extract))
        for name, extractor in plan.model.extractors.items()
    }
    costs["decode"] = iter([0.0, 7.0, 1.0])  # the trial itself decodes
    model = dataclasses.replace(
        plan.model, decode=spends("decode", to_images), image_shape=plan.model.shape, extractors=extractors
    )
    timed = dataclasses.replace(plan, model=model, trial=dataclasses.replace(plan.trial, model=model))
    assert chunk.seconds_after_drawing(timed, {"features", "clip"}) == 7.0
    assert chunk.seconds_after_drawing(timed, {"no such"}) is None


def answers_to(folder, *requests):
    """What a child that runs here answers to these requests: (JSON, body) of each."""
    with (folder / "requests").open("w+b") as asked, (folder / "answers").open("w+b") as answered:
        for number, request in enumerate(requests, start=1):
            child_process.write_frame(asked.fileno(), {"request": number, **request})
        asked.seek(0)
        with pytest.raises(EOFError):
            serve(Parent(asked, answered.fileno()))
        answered.seek(0)
        return list(frames_in(answered))


def frames_in(file):
    """(JSON, body) of each frame."""
    while lengths := file.read(child_process.FRAME.size):
        head, body = child_process.FRAME.unpack(lengths)
        yield json.loads(file.read(head)), file.read(body)


def test_a_child_prepares_no_metric_and_says_how_fast_it_is(tmp_path, monkeypatch):
    registry = load_registry([TOY])
    config = Config(model="toy", sampler=("ddim",), steps=(2,), samples=4, metric=("fid", "kid"))
    plan = plan_for(config, registry)
    for metric in config.metric:
        monkeypatch.setattr(registry.metrics[metric], "prepare", lambda self, reference: 1 / 0)

    job = {"config": as_json(config), "plugins": [TOY], "folder": str(tmp_path), "threads": 1, "switches": {}}
    (started, _), (made, arrays) = answers_to(tmp_path, job, {"cell": plan.cells[0].key, "block": [0, 0, 4]})
    assert started["seconds_per_evaluation"] > 0
    assert started["seconds_after_drawing"] > 0
    assert engines.load(arrays)["rows.features"].shape == (4, 4)
    assert (started["request"], made["request"]) == (1, 2)


def test_the_limit_of_a_chunk_is_made_of_what_the_child_clocked(child, monkeypatch):
    clocked = "started | {'seconds_per_evaluation': 0.01, 'seconds_after_drawing': 0.4}"
    engine = child(f"read(); say({clocked}); read(); say({{'failed': 'x'}})", Limits())
    given = []
    awaited = engines.Awaited
    monkeypatch.setattr(engines, "Awaited", lambda seconds, what: given.append(seconds) or awaited(seconds, what))
    with pytest.raises(ChildFault, match="x"):
        make(engine)
    assert given[1] == pytest.approx(60 + 50 * (0.01 * 3 + 0.4) * 64)


def test_the_memory_limit_is_the_option_or_a_share_of_the_machine(monkeypatch):
    assert Limits(gigabytes=2.5).bytes == 2.5e9
    monkeypatch.setattr(engines, "machine_memory", lambda: 10e9)
    assert Limits().bytes == 8e9
    monkeypatch.undo()
    assert 1e8 < engines.machine_memory() < 1e15


# What passes through the pipe


def test_a_configuration_survives_json():
    for config in (
        Config(),
        Config(steps=(), nfe=(4, 9), prompts=("bag",), negative="coat", guidance=2.0, dtype="float64", threads=2),
    ):
        assert from_json(json.loads(json.dumps(as_json(config)))) == config


def test_a_chunk_survives_the_pipe():
    plan = planned(n=70)
    chunk = make_chunk(plan, plan.cells[0], plan.blocks[1], {}, torch.zeros(70, 2))
    reading, writing = os.pipe()
    Parent(io.BytesIO(), writing).answer_chunk(chunk)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        ((about, body),) = frames_in(file)
    again = chunk_from_arrays(64, 6, engines.load(body), about["timing"])
    assert again.timing == chunk.timing
    assert again.hashes.tobytes() == chunk.hashes.tobytes()
    assert again.ode_distance.tobytes() == chunk.ode_distance.tobytes()
    assert (again.rows, again.images) == (chunk.rows, chunk.images) == ({}, None)


# What a child may do. It is one that needs no torch: it speaks the frames, then does what the test says.


SPEAKS = """
import ctypes, json, os, signal, struct, sys, time
answers, number = int(sys.argv[2]), 0
def read():
    global number
    request = json.loads(sys.stdin.buffer.read(sum(struct.unpack(">QQ", sys.stdin.buffer.read(16)))))
    number = request["request"]
    return request
def say(about, body=b"", number=None):
    if isinstance(about, dict):
        about = {"request": globals()["number"] if number is None else number, **about}
    text = json.dumps(about).encode()
    os.write(answers, struct.pack(">QQ", len(text), len(body)) + text + body)
started = {"answer": None, "seconds_per_evaluation": 1e-6}
"""


@pytest.fixture
def child(monkeypatch):
    """A ChildProcess on the mixture whose child runs these lines; closed at the end."""
    made = []

    def having(lines, limits=Limits(seconds=60)):  # noqa: B008  (a constant)
        monkeypatch.setattr(child_process, "ENTRY", SPEAKS + lines)
        made.append(ChildProcess(planned(), (), Path("nowhere"), limits))
        return made[-1]

    yield having
    for engine in made:
        engine.close()


def make(engine, block=0):
    """The first cell's chunk."""
    return engine.make(engine.plan.cells[0], engine.plan.blocks[block])


SERVES = "read(); say(started); read(); "
FAULTS = {
    "ctypes.string_at(0)": "its process ended with signal 11 (SIGSEGV)",
    "os.kill(os.getpid(), signal.SIGKILL)": "its process ended with signal 9 (SIGKILL)",
    "os._exit(0)": "its process ended with exit code 0",
    "os._exit(7)": "its process ended with exit code 7",
    "os.write(answers, b'hello ' * 99)": "its process sent what is no answer",
    "say(['no', 'object'])": "its process sent what is no answer",
    "os.write(answers, 2 * (struct.pack('>QQ', 2, 0) + b'{}'))": "its process sent what is no answer",
    "say({})": "its process sent what is no chunk (",
    "say({'timing': '{}'}, b'no safetensors')": "its process sent what is no chunk (",
    "say({'failed': 'ValueError: in its words'})": "ValueError: in its words",
    "say({'failed': 'the last words'}); os._exit(0)": "the last words",
    "say({'failed': 'of request 1'}, number=1)": "its process answered an earlier request again, as a forked copy",
    "say({'failed': 'of no request'}, number='2')": "its process answered an earlier request again",
}


@pytest.mark.parametrize("lines", thinned(FAULTS, *list(FAULTS)[::2]))
def test_a_child_that_goes_wrong_is_a_fault_with_the_reason(child, lines):
    engine = child(SERVES + lines + "\nread()")
    with pytest.raises(ChildFault) as caught:
        make(engine)
    assert str(caught.value).startswith(FAULTS[lines])
    assert caught.value.exit_code == 1


def test_a_child_that_closes_its_pipe_is_a_fault(child, monkeypatch):
    engine = child(SERVES + "os.close(answers)\nread()")
    engine.get_ready()
    process = engine._child._process
    inner = process.wait
    monkeypatch.setattr(process, "wait", lambda timeout=None: inner(0.01 if timeout else None))
    with pytest.raises(ChildFault, match="closed the pipe that it answers by"):
        make(engine)


@pytest.mark.parametrize("lines", ["while True: pass", "os.write(answers, b'half a frame')\nread()"])
def test_a_child_that_never_answers_is_stopped(child, lines):
    engine = child(SERVES + "\n" + lines, Limits(seconds=0.2))
    with pytest.raises(ChildFault, match=r"took longer than 0.2 s for 64 samples and was stopped"):
        make(engine)
    assert engine._child is None


def test_a_child_that_eats_memory_is_stopped(child):
    engine = child(SERVES + "\nheld = []\nwhile True: held.append(b'1' * 10_000_000)", Limits(60, 0.1))
    with pytest.raises(ChildFault, match=r"held more than 0.1 GB of memory and was stopped"):
        make(engine)
    assert engine._child is None


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("read(); say({'failed': 'PluginError: no such'})", "did not start: PluginError: no such"),
        ("read(); say({'answer': 'another'})", "the model answers otherwise in another process"),
    ],
)
def test_a_child_that_does_not_start_is_a_fault(child, lines, words):
    engine = child(lines)
    with pytest.raises(ChildFault, match=words):
        make(engine)
    assert engine._child is None


def test_a_child_is_kept_for_more_chunks_and_replaced_after_a_crash(child, tmp_path):
    plan = planned()
    chunk = make_chunk(plan, plan.cells[0], plan.blocks[0], {}, None)
    arrays, timing = chunk_to_arrays(chunk)
    starts = tmp_path / "starts"
    engine = child(
        f"open({str(starts)!r}, 'a').write('.')\nread(); say(started)\n"
        "while True:\n    if read()['block'][0]: os._exit(0)\n"
        f"    say({{'timing': {timing!r}}}, {save(arrays)!r})\n"
    )
    for _ in range(3):
        assert make(engine).hashes.tobytes() == chunk.hashes.tobytes()
    assert starts.read_text() == "."
    with pytest.raises(ChildFault):
        make(engine, block=1)
    make(engine)
    assert starts.read_text() == ".."


def test_what_a_child_has_started_ends_with_it(child):
    engine = child(
        SERVES + "import subprocess\nbelow = subprocess.Popen(['sleep', '600'])\n"
        "say({'failed': str(below.pid)})\nread()"
    )
    with pytest.raises(ChildFault) as caught:
        make(engine)
    below = os.pidfd_open(int(str(caught.value)))
    engine.close()
    assert ends(below)


def ends(process):
    """Whether the process behind a descriptor is gone, or goes soon."""
    readable, _, _ = select.select([process], [], [], 20)
    os.close(process)
    return bool(readable)


def test_an_answer_that_comes_late_is_never_taken_for_that_to_the_next_request(child):
    engine = child(SERVES + "say({'failed': 'first'}); say({'failed': 'a copy'}); read(); say({'failed': 'second'})")
    with pytest.raises(ChildFault, match="first"):
        make(engine)
    with pytest.raises(ChildFault, match="answered an earlier request again"):
        make(engine)
    with pytest.raises(ChildFault, match="first"):  # of a new child
        make(engine)


def test_a_copy_that_a_sampler_forks_answers_nothing(tmp_path):
    with (tmp_path / "answers").open("w+b") as answers:
        parent = Parent(io.BytesIO(), answers.fileno())
        copy = os.fork()
        if not copy:
            try:
                parent.answer({})
            finally:
                os._exit(7)
        assert os.waitpid(copy, 0)[1] == 0
        assert answers.read() == b""


def test_a_copy_that_a_sampler_forks_here_does_not_go_on_with_the_run():
    copies = []

    try:
        with no_copy_goes_on():
            copies.append(os.fork())
    finally:
        if not copies[0]:
            os._exit(0)  # not reached where the copy ends as it should
    assert os.waitstatus_to_exitcode(os.waitpid(copies[0], 0)[1]) == 1


def state_of(process):
    """What the system says of a process: R, S, T for a stopped one."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_and_what_it_started_rest_between_two_requests(child):
    engine = child(
        "import subprocess\nread(); say(started)\n"
        "while True:\n    read(); p = subprocess.Popen(['sleep', '600']); say({'failed': str(p.pid)})"
    )
    with pytest.raises(ChildFault) as caught:
        make(engine)
    for process in (engine._child._process.pid, int(str(caught.value))):
        while state_of(process) != "T":
            os.sched_yield()
    with pytest.raises(ChildFault, match=r"^\d+$"):
        make(engine)


def test_time_in_which_this_process_was_stopped_does_not_count(child, monkeypatch):
    engine = child("read(); say(started); read(); time.sleep(0.2); say({'failed': 'in time'})", Limits(seconds=30))
    engine.get_ready()
    now = iter(range(0, 10**9, 10_000))  # as if each look came hours after the one before
    monkeypatch.setattr(engines.time, "monotonic", lambda: next(now))
    with pytest.raises(ChildFault, match="in time"):
        make(engine)


SPOILT = {
    "timing['seconds'] = 0.0": "its timing: Expected `float` > 0.0 - at `$.seconds`",
    "timing['seconds'] = float('nan')": "its timing: JSON is malformed",
    "timing['model_seconds'] = -1.0": "at `$.model_seconds`",
    "timing['nfe'] = 1e400": "its timing: ",
    "timing['nfe'] = '3'": "its timing: Expected `float`, got `str` - at `$.nfe`",
    "timing.pop('nfe')": "its timing: Object missing required field `nfe`",
    "arrays['hashes'] = arrays['hashes'][:3]": "its hashes are uint8 (3, 16)",
    "arrays['hashes'] = arrays['hashes'].astype('int64')": "its hashes are int64",
    "arrays.pop('hashes')": "KeyError",
    "arrays['rows.features'] = arrays['hashes'][:3]": "its rows of features are uint8 (3, 16)",
    "arrays['rows.features'] = arrays['hashes'] * np.nan": "its rows of features are not finite",
    "arrays['rows.features'] = arrays['hashes'][0]": "its rows of features are uint8 (16,)",
    "arrays['images'] = arrays['hashes']": "its images are uint8 (64, 16)",
    "arrays['ode_distance'] = np.zeros(65)": "its ODE distances are float64 (65,)",
}


@pytest.mark.parametrize("spoils", thinned(SPOILT, *list(SPOILT)[::2]))
def test_a_chunk_of_which_no_table_could_be_made_fails_its_cell(child, spoils):
    plan = planned()
    arrays, said = chunk_to_arrays(make_chunk(plan, plan.cells[0], plan.blocks[0], {}, None))
    timing = json.loads(said)
    exec(spoils, {"np": np}, {"timing": timing, "arrays": arrays})
    engine = child(f"{SERVES} say({{'timing': {json.dumps(timing)!r}}}, {save(arrays)!r}); read()")
    with pytest.raises(ChildFault, match=r"its process sent what is no chunk \(") as caught:
        make(engine)
    assert SPOILT[spoils] in str(caught.value)


# Children


ECHOES = """
job = read(); spec = job["config"]["sampler"][0]; n = 0
if spec == "ddim:eta=0.9": os._exit(3)
say(started)
while True:
    request = read(); n += 1
    say({"failed": f"{spec} {os.getpid()} {n}"})
"""


@pytest.fixture
def pool(monkeypatch):
    """Children of some specs on the mixture, which say their spec, their process and how often they were asked."""
    made = []

    def having(*specs, most=9, steps=(2, 3)):
        monkeypatch.setattr(child_process, "ENTRY", SPEAKS + ECHOES)
        config = Config(model="mixture", sampler=specs, steps=steps, samples=70)
        plan = plan_for(config, load_registry())
        cells = tuple(dataclasses.replace(cell, is_foreign=True) for cell in plan.cells)
        made.append(Children(dataclasses.replace(plan, cells=cells), (), Path("nowhere"), Limits(seconds=60)))
        made[-1].most = most
        return made[-1]

    yield having
    for children in made:
        children.close()


def said(children, cell, block=0):
    """What the child of a cell says: spec, process, count."""
    with pytest.raises(ChildFault) as caught:
        children.make(cell, children.plan.blocks[block])
    return str(caught.value).split()


def test_each_spec_has_a_child_and_its_step_counts_share_it(pool):
    children = pool("ddim", "ddim:eta=0.5")
    a2, a3, b2, b3 = children.plan.cells
    answers = [said(children, cell) for cell in (a2, b2, b3, a3)]
    assert [(spec, n) for spec, _, n in answers] == [
        ("ddim", "1"), ("ddim:eta=0.5", "1"), ("ddim:eta=0.5", "2"), ("ddim", "2"),
    ]  # fmt: skip
    assert len({process for _, process, _ in answers}) == 2


def test_children_are_started_together_and_end_when_their_cells_are_done(pool):
    children = pool("ddim", "euler", "heun", steps=(2,))
    ddim, euler, heun = children.plan.cells
    children.begin([ddim, euler])
    alive = {spec: os.pidfd_open(one._child._process.pid) for spec, one in children._children.items()}
    assert list(alive) == ["ddim", "euler"]
    assert said(children, euler)[2] == "1"
    children.begin([euler, heun])
    assert ends(alive["ddim"])
    assert said(children, euler)[2] == "2"
    children.begin([])
    assert ends(alive["euler"])
    assert not children._children


def test_no_more_children_live_at_once_than_there_is_room_for(pool):
    children = pool("ddim", "euler", "heun", most=2, steps=(2,))
    ddim, euler, heun = children.plan.cells
    children.begin([ddim, euler, heun])
    assert list(children._children) == ["ddim", "euler"]
    assert said(children, ddim)[2] == "1"
    said(children, heun)
    assert list(children._children) == ["ddim", "heun"]
    assert said(children, ddim)[2] == "2"
    assert said(children, euler)[2] == "1"


def test_a_child_that_does_not_start_fails_its_own_cells(pool):
    children = pool("ddim:eta=0.9", "euler", steps=(2,))
    bad, good = children.plan.cells
    children.begin([bad, good])
    assert said(children, good)[0] == "euler"
    assert " ".join(said(children, bad)) == "its process ended with exit code 3"


def test_a_process_that_cannot_be_started_fails_its_own_cells(pool, monkeypatch):
    children = pool("ddim", "euler", steps=(2,))
    ddim, euler = children.plan.cells
    children.begin([ddim])
    monkeypatch.setattr(child_process.subprocess, "Popen", lambda *a, **k: os.open("/nowhere/at/all", 0))
    children.begin([ddim, euler])
    with pytest.raises(FileNotFoundError):
        children.make(euler, children.plan.blocks[0])
    assert said(children, ddim)[0] == "ddim"


def test_as_many_children_as_fit_the_memory_and_one_on_an_accelerator(pool, monkeypatch):
    assert [engines.children_that_fit(memory, 1e9) for memory in (0, 1e9, 2e9, 5.9e9, 1e12)] == [1, 1, 1, 4, 16]
    assert 1e7 < engines.memory_of_this_process() < 1e12
    children = pool("ddim")
    del children.most
    assert 1 <= children.most <= engines.MOST_CHILDREN
    trial = dataclasses.replace(children.plan.trial, device=torch.device("cuda"))
    on_gpu = Children(dataclasses.replace(children.plan, trial=trial), (), Path("nowhere"))
    assert on_gpu.most == 1


def test_the_plan_of_one_spec_has_its_cells_with_their_keys():
    registry = load_registry()
    plan = plan_for(Config(model="mixture", sampler=("ddim", "heun:grid=karras"), steps=(3, 4), samples=4), registry)
    part = plan.of("heun:grid=karras")
    assert part.cells == plan.cells[2:]
    again = plan_for(from_json(as_json(part.config)), registry)
    assert [cell.key for cell in again.cells] == [cell.key for cell in part.cells]
    assert again.trial.levels == part.trial.levels != plan.trial.levels
    assert type(part.trial.sampler) is type(plan.trial.sampler)


# A child as it is for a user


@pytest.mark.slow
@pytest.mark.further
@pytest.mark.usefixtures("children")
def test_a_stranger_is_drawn_elsewhere_with_the_same_bytes(tmp_path, stranger, capfd):
    samplers = ["ddim", "talks", "says-where"]
    result = sb.run("toy", samplers, steps=[2], n=70, metrics=["fid"], plugins=[TOY, stranger], output=tmp_path / "run")
    found = statuses(result.table)
    where = found.pop("says-where")
    assert found == {"ddim": "ok", "talks": "ok"}
    assert where.startswith("failed: RuntimeError: process ")
    assert f"process {os.getpid()}," not in where
    assert where.endswith(f"threads {torch.get_num_threads()}, torch.float32")
    rows = result.table.set_index("sampler")
    assert rows.loc["talks", "same_as"] == "ddim"
    assert rows.loc["talks", ["fid", "ode_error"]].tolist() == rows.loc["ddim", ["fid", "ode_error"]].tolist()
    assert rows.loc["talks", "seconds_per_image"] > 0
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("hello") == 2 * 2 * 2


def program(*arguments, cwd, **settings):
    """Start the program as a user does; with Ctrl-C, which a shell turns off in what it starts in the background."""
    environment = {k: v for k, v in os.environ.items() if k != "SAMPLERBENCH_IN_PROCESS"} | {"OMP_NUM_THREADS": "1"}
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from samplerbench.bench.cli import main; main()"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment | settings.pop("env", {}), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings,
    )  # fmt: skip


@pytest.mark.slow
def test_whatever_a_stranger_does_the_others_have_their_rows(tmp_path, stranger):
    samplers = ["segfaults", "good", "never-ends", "ddim", "exits-at-once", "eats", "talks", "calls-exit"]
    with program(
        "run", "--model", "mixture", "--steps", "3", "-n", "70", *(a for s in samplers for a in ("-s", s)),
        "--plugin", stranger, "--time-limit", "5", "--memory-limit", "1.5", "--json", "-o", "here", cwd=tmp_path,
    ) as started:  # fmt: skip
        out, err = started.communicate(timeout=150)
    assert started.returncode == 1, err
    assert "Traceback" not in err
    assert statuses(json.loads(out)["table"]) == {
        "segfaults": "failed: its process ended with signal 11 (SIGSEGV)",
        "good": "ok",
        "never-ends": "failed: took longer than 5 s for 64 samples and was stopped",
        "ddim": "ok",
        "exits-at-once": "failed: its process ended with exit code 0",
        "eats": "failed: its process held more than 1.5 GB of memory and was stopped",
        "talks": "ok",
        "calls-exit": "failed: SystemExit: 0",
    }
    assert {row["same_as"] for row in json.loads(out)["table"] if row["status"] == "ok"} == {None, "good"}


@pytest.mark.slow
@pytest.mark.usefixtures("children")
def test_nothing_that_a_stranger_leaves_behind_reaches_the_next(tmp_path, stranger):
    samplers = ["good", "raises-without-words", "meddles", "closes-all", "leaves-a-thread", "forks-and-returns-late"]
    run = {"steps": [2, 3], "n": 70, "metrics": ["fid"], "plugins": [TOY, stranger]}
    alone = sb.run("toy", ["good"], output=tmp_path / "alone", **run).table
    table = sb.run("toy", [*samplers, "talks"], output=tmp_path / "run", **run).table
    rows = table.set_index(["sampler", "steps"])
    reason = "failed: SaysNothing: its text cannot be read (RuntimeError)"
    assert rows.loc["raises-without-words", "status"].tolist() == [reason] * 2
    assert rows.loc["meddles", "status"].tolist() == ["ok", "ok"]
    for sampler in ("good", "leaves-a-thread", "forks-and-returns-late", "talks"):
        assert rows.loc[sampler, "status"].tolist() == ["ok", "ok"]
        for column in ("fid", "ode_error"):
            assert rows.loc[sampler, column].tolist() == alone[column].tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_child_outlives_the_program(tmp_path, stranger, number, code):
    os.mkfifo(tmp_path / "fifo")
    with program(
        "run", "--model", "mixture", "-s", "ddim", "-s", "tells-and-never-ends", "--steps", "2", "-n", "8",
        "--plugin", stranger, cwd=tmp_path, env={"STRANGER_FIFO": str(tmp_path / "fifo")},
    ) as started:  # fmt: skip
        processes = [os.pidfd_open(int(pid)) for pid in (tmp_path / "fifo").read_text().split()]
        started.send_signal(number)
        out, err = started.communicate(timeout=60)
    assert len(processes) == 2
    assert all(ends(process) for process in processes)
    assert started.returncode == code
    if code > 0:
        assert "| ddim | 2 |" in out
        assert "stopped; go on with" in err
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.usefixtures("children")
def test_a_model_of_one_s_own_is_known_again_by_its_answers(tmp_path, stranger):
    path = tmp_path / "mine.py"
    for seed, status in (("torch.manual_seed(3); ", "ok"), ("", "failed: the model answers otherwise in another")):
        path.write_text(
            "import torch, samplerbench as sb\n"
            "def make():\n"
            f"    {seed}network = torch.nn.Conv2d(1, 1, 3, padding=1)\n"
            "    return sb.wrap_network(lambda x, t: network(x), sb.vp_linear(), (1, 4, 4), clip=(-1, 1))\n"
        )
        result = sb.run(f"{path}:make", ["good", "ddim"], steps=[2], n=4, metrics=[], plugins=[stranger],
                        output=tmp_path / f"run{bool(seed)}")  # fmt: skip
        assert result.table["status"][0].startswith(status)
        assert result.table["status"][1] == "ok"


@pytest.mark.slow
@pytest.mark.usefixtures("children")
def test_the_embedded_model_s_images_are_the_same_bytes_elsewhere(tmp_path, stranger):
    table = sb.run("fashion-mnist", ["ddim", "good"], steps=[3], n=20, metrics=["fid"], plugins=[stranger],
                   batch_size=4, guidance=2.0, output=tmp_path / "run").table  # fmt: skip
    assert table["same_as"].tolist()[1] == "ddim"
    assert table["fid"].nunique() == 1


@pytest.mark.slow
@pytest.mark.usefixtures("children")
def test_a_plugin_edited_between_plan_and_child_fails_its_cells_by_name(tmp_path, stranger):
    registry = load_registry([stranger])
    plan = plan_for(Config(model="mixture", sampler=("good", "ddim"), steps=(2,), samples=4), registry)
    session = begin(plan, registry, tmp_path / "run")
    Path(stranger).write_text(STRANGER + "# a word\n")
    session.work(Watch())
    found = statuses(session.conclude().table)
    assert found["good"].startswith("failed: a plugin or the model was edited after the run began")
    assert found["ddim"] == "ok"


def test_a_session_without_limits_has_the_usual_ones(tmp_path, children, stranger):
    registry = load_registry([stranger])
    plan = plan_for(Config(model="mixture", sampler=("good",), steps=(2,), samples=4), registry)
    engine = begin(plan, registry, tmp_path / "run").session.engine.isolated
    assert dataclasses.asdict(engine.limits) == {"seconds": None, "gigabytes": None, "processes": 1}
    assert engine.plugins == (stranger,)
    assert not engine._children  # nothing has been started

"""The clock: what is measured, what a table says of it, and that what slows a machine tells no cell from another."""

import dataclasses
import json
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import samplerbench as sb
from samplerbench.bench.cli import cli
from samplerbench.bench.draw import chunk as harness
from samplerbench.bench.draw import clock as timing
from samplerbench.bench.draw.clock import Repeat, Timing, clock_columns, clock_draw, in_turn, machines, neighbours
from samplerbench.bench.draw.session import Watch
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.judge.table import CLOCK_COLUMNS, COLUMNS
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.run import Manner, begin
from samplerbench.bench.show.sheet import caption, table_to_cells, table_to_markdown
from samplerbench.samplers import predictor, sample
from samplerbench.samplers.predictor import Counted
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def repeat(seconds, n=64, nfe=10, **known):
    """A repeat with these seconds an image, four fifths of them in the network."""
    return Repeat(n, Timing(nfe, nfe, seconds * n, 0.8 * seconds * n, **known))


# A device that works on when it has been asked


class Device:
    """A clock, and a queue of work that is not waited for: only `synchronize` lets the time of it pass.

    An event is a moment in the queue, and can be read when the device has got there.
    """

    def __init__(self, monkeypatch):
        self.now = self.busy_until = 0.0
        self.waits = 0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(torch.accelerator, "synchronize", self.synchronize)
        monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: device)
        monkeypatch.setattr(torch, "Event", self.event)

    def ask(self, seconds):
        self.busy_until = max(self.now, self.busy_until) + seconds

    def synchronize(self, device):
        assert device == CUDA
        self.waits += 1
        self.now = max(self.now, self.busy_until)

    def event(self, device, enable_timing):
        assert device == CUDA
        assert enable_timing
        return Event(self)


class Event:
    """A moment in the queue of a device."""

    def __init__(self, device):
        self.device, self.at = device, None

    def record(self, stream):
        assert stream == CUDA
        self.at = max(self.device.now, self.device.busy_until)

    def elapsed_time(self, end):
        assert end.at <= self.device.now, "the device has not got there yet"
        return 1000 * (end.at - self.at)


class State:
    """The part of a tensor on an accelerator that the counter uses."""

    device, shape = CUDA, (3,)


def on_an_accelerator(monkeypatch):
    """The device; draws are clocked as they would be on it."""
    device = Device(monkeypatch)
    monkeypatch.setattr(sample, "clock", lambda _: predictor.clock(CUDA))
    monkeypatch.setattr(predictor, "mark", lambda _, mark=predictor.mark: mark(CUDA))
    return device


def test_a_call_is_clocked_without_waiting_for_the_device(monkeypatch):
    device = Device(monkeypatch)
    device.ask(7.0)  # what came before is no part of the call
    counted = Counted(lambda x, level, rows: device.ask(0.05))
    counted(State(), None)
    device.ask(3.0)  # nor is what the sampler does between two calls
    counted(State(), None)
    assert device.now == device.waits == 0
    assert predictor.clock(CUDA) == device.now == pytest.approx(10.1)
    assert counted.seconds == pytest.approx(0.10)


def test_on_the_cpu_a_call_is_clocked_by_the_clock_of_the_cpu(monkeypatch):
    device = Device(monkeypatch)

    def call(x, level, rows):
        device.now += 0.05

    counted = Counted(call)
    for _ in range(3):
        counted(torch.ones(3, 2), None)
    assert counted.seconds == pytest.approx(0.15)
    assert predictor.clock(CPU) == device.now
    assert device.waits == 0


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "dpm-solver++", "unipc", "dpm-solver-adaptive"])
def test_a_draw_waits_for_the_device_before_it_and_after_it_and_never_within(monkeypatch, sampler):
    device = on_an_accelerator(monkeypatch)
    waits = []

    def network(x, t):
        waits.append(device.waits)
        device.ask(0.05)
        return 0.5 * x

    model = sb.wrap_network(network, schedule=sb.vp_linear(), shape=(1, 4, 4))
    device.ask(7.0)
    drawn = sb.sample(model, sampler, steps=4, n=2)
    assert len(set(waits)) == 1
    assert device.waits > waits[0] > 0
    assert drawn.seconds == drawn.model_seconds == pytest.approx(len(waits) * 0.05)


def test_encoding_and_decoding_are_not_clocked(monkeypatch):
    device = on_an_accelerator(monkeypatch)
    toy = load_registry([TOY]).model("toy")

    def encode(prompts):
        device.ask(3.0)
        return toy.encode(prompts)

    def decode(x):
        device.ask(5.0)
        return (x > 0).to(torch.uint8)

    slow = dataclasses.replace(toy, encode=encode, decode=decode)
    assert sb.sample(slow, "ddim", steps=2, n=2).seconds == 0.0
    assert device.busy_until >= 8.0


# What is measured of a chunk


def test_a_timing_says_where_when_and_with_how_much_memory_it_was():
    drawn = sb.sample("mixture", "ddim", steps=2, n=4)
    before = time.time()
    same, first = clock_draw(lambda: drawn, CPU)
    _, second = clock_draw(lambda: drawn, CPU)
    assert same is drawn
    assert (first.nfe, first.seconds, first.model_seconds) == (2, drawn.seconds, drawn.model_seconds)
    assert second.number == first.number + 1
    assert before <= first.started <= second.started <= time.time()
    assert first.machine == second.machine == timing.machine_of(CPU)
    assert len(first.machine) == 16
    assert first.load is None or first.load >= 0


def test_another_number_of_threads_is_another_machine(monkeypatch):
    here = timing.machine_of(CPU)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert timing.machine_of(CPU) != here


def test_the_peak_of_memory_is_that_of_the_chunk(monkeypatch, tmp_path):
    references, status = tmp_path / "clear_refs", tmp_path / "status"
    references.touch()
    monkeypatch.setattr(timing, "CLEAR_REFS", references)
    monkeypatch.setattr(timing, "STATUS", status)
    drawn = sb.sample("mixture", "ddim", steps=1, n=1)

    def draw():
        assert references.read_text() == "5"
        status.write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
        return drawn

    assert clock_draw(draw, CPU)[1].peak_memory == 2048 * 1024
    status.write_text("Name:\tpython\n")
    assert clock_draw(lambda: drawn, CPU)[1].peak_memory is None
    status.unlink()
    assert clock_draw(lambda: drawn, CPU)[1].peak_memory is None
    status.write_text("VmHWM:\t    2048 kB\n")
    monkeypatch.setattr(timing, "CLEAR_REFS", tmp_path)  # a system that refuses
    assert clock_draw(lambda: drawn, CPU)[1].peak_memory is None


def test_a_large_array_shows_in_the_peak_and_no_longer_in_the_next_one():
    drawn = sb.sample("mixture", "ddim", steps=1, n=1)

    def draw_with(size):
        assert np.ones(size, dtype=np.uint8).sum() == size
        return drawn

    small, large, after = (clock_draw(lambda s=s: draw_with(s), CPU)[1].peak_memory for s in (1, 10**8, 1))
    if small is None:
        pytest.skip("this system keeps no peak that can be reset")
    assert large - small > 0.8e8
    assert large - after > 0.8e8


def test_the_peak_on_an_accelerator_is_its_own(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 12345 * len(asked))
    assert timing.forget_peak_memory(CUDA)
    assert timing.peak_memory(CUDA) == 12345
    assert asked == [CUDA]


def test_a_system_without_a_load_average_has_none(monkeypatch):
    def refuse():
        raise OSError

    monkeypatch.setattr("os.getloadavg", refuse)
    assert timing.load_per_core() is None
    monkeypatch.setattr("os.getloadavg", lambda: (6.0, 1.0, 1.0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert timing.load_per_core() == 1.5


# What a table says


@pytest.mark.parametrize("n", [5, 6, 7, 8, 40])
def test_quartiles_are_those_of_numpy(n):
    values = np.random.default_rng(n).lognormal(size=n)
    assert timing.quartiles(list(values)) == pytest.approx(np.quantile(values, [0.25, 0.5, 0.75]), rel=1e-14)


def test_median_and_quartiles_are_those_of_the_whole_chunks():
    seconds = [0.011, 0.010, 0.0104, 0.0102, 0.0108]
    found = clock_columns([*map(repeat, seconds), repeat(0.5, n=3)])
    assert found["repeats"] == 5
    assert found["seconds_per_image"] == pytest.approx(0.0104)
    assert (found["seconds_low"], found["seconds_high"]) == (pytest.approx(0.0102), pytest.approx(0.0108))
    assert found["model_seconds_per_image"] == pytest.approx(0.8 * 0.0104)
    assert found["overhead"] == pytest.approx(0.2)
    assert found["seconds_per_call"] == pytest.approx(0.00104)
    assert found["timing"] == "ok"


def test_every_repeat_counts_a_cold_one_too():
    found = clock_columns([repeat(0.9, number=0), *(repeat(0.01, number=i) for i in range(1, 5))])
    assert found["repeats"] == 5
    assert found["seconds_per_image"] == pytest.approx(0.01)
    assert found["overhead"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("seconds", "machines", "expected"),
    [
        ([1.0] * 5, "aaaaa", "ok"),
        ([1.0] * 4, "aaaa", "4 repeats"),
        ([1.0, 9.0], "aa", "2 repeats"),
        ([1.0], "a", "1 repeat"),
        ([0.9, 0.951, 1.0, 1.049, 1.1], "aaaaa", "ok"),  # quartiles 9.8 % apart
        ([0.9, 0.949, 1.0, 1.051, 1.1], "aaaaa", "noisy"),  # and 10.2 %
        ([1.0] * 5, "aaaab", "machines differ"),
        ([1.0] * 2, "ab", "2 repeats; machines differ"),
        ([1.0, 5.0, 9.0, 1.0, 7.0], [None, *"aaaa"], "machines differ"),
        ([1.0] * 5, [None] * 5, "ok"),
    ],
)
def test_a_time_that_is_not_to_be_relied_on_is_flagged(seconds, machines, expected):
    found = clock_columns([repeat(s, machine=m) for s, m in zip(seconds, machines, strict=True)])
    assert found["timing"] == expected
    assert (len(seconds) < 5 or "differ" in expected) == math.isnan(found["seconds_low"])
    assert math.isnan(found["seconds_high"]) == math.isnan(found["seconds_low"])


def test_a_time_of_another_hour_than_the_others_is_flagged():
    found = clock_columns([repeat(1.0, apart=True)] * 5)
    assert found["timing"] == "not in turn"
    assert found["seconds_per_image"] == clock_columns([repeat(1.0)] * 5)["seconds_per_image"]
    assert clock_columns([repeat(1.0)] * 4 + [repeat(1.0, apart=True)])["timing"] == "not in turn"
    assert clock_columns([repeat(1.0, apart=True)])["timing"] == "1 repeat; not in turn"
    assert clock_columns([repeat(1.0)] * 5)["timing"] == "ok"


def test_seconds_of_several_machines_are_empty():
    found = clock_columns([repeat(1.0, machine="a", peak_memory=5), *(repeat(2.0, machine="b", peak_memory=5),) * 7])
    numbers = {name: value for name, value in found.items() if name not in ("timing", "repeats")}
    assert all(math.isnan(value) for value in numbers.values())
    assert found["repeats"] == 8


def test_a_time_of_a_chunk_that_was_drawn_beside_others_is_not_shown():
    alone = [repeat(1.0, machine="a", peak_memory=5_000_000, load=1.0)] * 5
    beside = [repeat(9.0, machine="b", peak_memory=9_000_000, load=9.0, alone=False)] * 3
    assert clock_columns([*beside, *alone]) == clock_columns(alone)
    assert clock_columns([repeat(1.0, n=3), *beside]) == clock_columns([])
    found = clock_columns(beside)
    assert (found["repeats"], found["timing"]) == (0, "0 repeats")
    assert all(math.isnan(value) for name, value in found.items() if name not in ("timing", "repeats"))


def test_memory_is_the_largest_peak_and_load_the_median():
    known = [{"peak_memory": 3_000_000, "load": 0.5}, {"peak_memory": 9_500_000, "load": 4.0}, {"load": 1.0}]
    found = clock_columns([repeat(1.0, **k) for k in known])
    assert (found["peak_memory_mb"], found["load_per_core"]) == (9.5, 1.0)
    found = clock_columns([repeat(1.0)] * 3)
    assert math.isnan(found["peak_memory_mb"])
    assert math.isnan(found["load_per_core"])


def test_a_cell_without_calls_has_no_time_of_a_call():
    assert math.isnan(clock_columns([repeat(1.0, nfe=0)])["seconds_per_call"])


# Taking turns


def test_every_other_round_goes_backwards():
    assert [in_turn("abc", i) for i in range(3)] == ["abc", "cba", "abc"]


def drawn_at(times, **known):
    """Repeats that were drawn at these times, each with its time as its seconds."""
    return [repeat(t, started=t, **known) for t in times]


@pytest.mark.parametrize(
    ("a", "b", "pairs"),
    [
        ([0, 3, 4], [1, 2, 5], [(0, 1), (3, 2), (4, 5)]),  # in turn
        ([0, 1, 2, 3], [4, 5, 6, 7], [(3, 4)]),  # one after the other
        ([3, 4], [1, 2, 5], [(3, 2), (4, 5)]),  # the first of one is lost
        ([0, 2, 3, 4], [1, 5], [(0, 1), (4, 5)]),
        ([], [1], []),
    ],
)
def test_neighbours_in_time_are_paired(a, b, pairs):
    found = neighbours(drawn_at(a), drawn_at(b))
    assert [(x.seconds_per_image, y.seconds_per_image) for x, y in found] == pairs


def test_cut_chunks_and_those_of_no_known_time_have_no_neighbours():
    assert neighbours([repeat(1.0)] * 5, [repeat(1.0)] * 5) == []
    cut = [repeat(9.0, n=3, started=0.5)]
    assert len(neighbours(drawn_at([0, 2]), [*drawn_at([1, 3]), *cut])) == 2


def test_a_chunk_that_was_drawn_beside_others_is_nobody_s_neighbour():
    beside = drawn_at([0.5, 2.5], alone=False)
    assert neighbours(beside, drawn_at([0, 1, 2, 3])) == []
    assert neighbours([*drawn_at([0, 2]), *beside], drawn_at([1, 3])) == neighbours(
        drawn_at([0, 2]), drawn_at([1, 3])
    )  # fmt: skip
    assert machines([*drawn_at([0], machine="a"), *drawn_at([1], machine="b", alone=False)]) == {"a"}


# In a run


def toy_run(output, **settings):
    return sb.run("toy", ["ddim", "ddpm"], plugins=[TOY], output=output, **{"steps": [2, 3], "n": 130, **settings})


def timings(folder):
    """The timing-only files of each cell of a run."""
    about = json.loads((folder / "run.json").read_text())
    return [len(list((folder / "chunks" / cell["key"][:16]).glob("*.timing"))) for cell in about["cells"]]


def test_repeats_are_made_in_turn_and_change_no_sample(tmp_path):
    first = toy_run(tmp_path / "run")
    assert timings(first.folder) == [0] * 4
    assert list(first.table["repeats"]) == [2] * 4
    chunks = {path: path.read_bytes() for path in first.folder.glob("chunks/*/*.safetensors")}
    again = toy_run(tmp_path / "run", repeats=5)
    assert timings(again.folder) == [3] * 4
    assert list(again.table["repeats"]) == [5] * 4
    assert again.table["seconds_low"].notna().all()
    assert {path: path.read_bytes() for path in first.folder.glob("chunks/*/*.safetensors")} == chunks
    for name in ("fid", "clip_score", "ode_error", "samples", "nfe", "same_as", "status"):
        assert again.table[name].equals(first.table[name])
    started = in_order(again.folder)
    assert started == [0, 1, 2, 3, 3, 2, 1, 0] * 2 + [0, 1, 2, 3]  # blocks 0, 1, the cut one is 2; rounds 2 to 4


def test_two_specs_of_one_cell_are_clocked_once(tmp_path):
    specs = ["ddim", "ddim:eta=0"]
    result = sb.run("toy", specs, steps=[2], n=64, plugins=[TOY], output=tmp_path / "run", repeats=5)
    assert timings(result.folder) == [4, 4]
    assert list(result.table["repeats"]) == [5, 5]


def in_order(folder):
    """The number of the cell of everything that was clocked, whole or not, in the order of time."""
    store = RunFolder(folder)
    about = json.loads((folder / "run.json").read_text())
    clockings = []
    for i, cell in enumerate(about["cells"]):
        whole = [c.repeat for place, c in store.chunks_of(cell["key"]).items() if place[1] == 64]
        clockings += [(r.timing.started, i) for r in [*whole, *store.repeats_of(cell["key"])]]
    return [i for _, i in sorted(clockings)]


def test_a_cell_that_was_clocked_often_enough_is_not_clocked_again(tmp_path):
    folder = toy_run(tmp_path / "run", repeats=4).folder
    before = {path: path.read_bytes() for path in folder.glob("chunks/*/*.timing")}
    victim = sorted(before)[0]
    victim.unlink()
    toy_run(tmp_path / "run", repeats=4)
    toy_run(tmp_path / "run", repeats=2)
    after = {path: path.read_bytes() for path in folder.glob("chunks/*/*.timing")}
    assert set(after) == set(before)
    assert {path for path in after if after[path] != before[path]} == {victim}


def test_the_work_of_repeats_is_announced_and_done(tmp_path):
    class Count(Watch):
        announced = done = 0

        def started(self, plan, todo):
            self.announced = todo

        def advanced(self, evaluations):
            self.done += evaluations

    registry = load_registry([TOY])
    plan = plan_for(Config(model="toy", sampler=("ddpm",), steps=(2, 3), samples=64), registry)
    count = Count()
    begin(plan, registry, tmp_path / "run", Manner(repeats=3)).work(count)
    assert count.announced == count.done == (2 + 3) * 64 * 3


def test_a_cell_whose_repeat_fails_keeps_its_samples_and_the_repeats_that_it_has(tmp_path, monkeypatch):
    class Told(Watch):
        announced = done = 0

        def started(self, plan, todo):
            self.announced = todo

        def advanced(self, evaluations):
            self.done += evaluations

        def failed(self, cell, reason, evaluations):
            told.append((cell.sampler, reason, evaluations))

    def draw(request, first, n, **settings):
        if type(request.sampler).__name__ == "DDPM" and len(list(tmp_path.glob("run/chunks/*/*.timing"))) == 2:
            raise RuntimeError("tired")
        return inner(request, first, n, **settings)

    inner = harness.draw
    monkeypatch.setattr(harness, "draw", draw)
    registry = load_registry([TOY])
    plan = plan_for(Config(model="toy", sampler=("ddpm", "ddim"), steps=(2,), samples=64), registry)
    session, told, watch = begin(plan, registry, tmp_path / "run", Manner(repeats=5)), [], Told()
    session.work(watch)
    table = session.conclude().table
    assert told == [("ddpm", "clocked again: RuntimeError: tired", 3 * 2 * 64)]  # rounds 2 to 4
    assert watch.done + 3 * 2 * 64 == watch.announced
    assert list(table["status"]) == ["ok", "ok"]
    assert list(table["repeats"]) == [2, 5]
    assert table["fid"].notna().all()
    monkeypatch.undo()
    session = begin(plan, registry, tmp_path / "run", Manner(repeats=5))
    session.work(Watch())
    assert list(session.conclude().table["repeats"]) == [5, 5]


@pytest.mark.parametrize("repeats", [-1, 1.5, True, 10**6])
def test_a_number_of_repeats_that_cannot_be_is_refused(tmp_path, repeats):
    with pytest.raises(sb.InputError, match=r"repeats .*expected a whole number"):
        toy_run(tmp_path / "run", repeats=repeats)
    assert not (tmp_path / "run").exists()


def test_the_command_takes_repeats(sb, tmp_path):
    command = ("run", "--model", "mixture", "-s", "ddim", "--steps", 2, "-n", 8, "-o", "here")
    done = sb(*command, "--repeats", 5, "--json")
    assert json.loads(done.out)["table"][0]["repeats"] == 5
    sb(*command, "--repeats", "-3", "--dry-run").refused(2, "repeats -3")


def test_chunks_of_earlier_versions_open(tmp_path):
    folder = toy_run(tmp_path / "run").folder
    store = RunFolder(folder)
    for path in folder.glob("chunks/*/0*.safetensors"):
        arrays, about = store.read_arrays(path)
        known = json.loads(about["timing"])
        first = {name: known[name] for name in ("nfe", "network_evaluations", "seconds", "model_seconds")}
        store.write_arrays(path, arrays, about | {"timing": json.dumps(first)})
    table = toy_run(tmp_path / "run").table
    assert set(table["status"]) == {"ok"}
    assert (table["seconds_per_image"] > 0).all()
    assert table["peak_memory_mb"].isna().all()
    assert set(table["timing"]) == {"2 repeats"}


def test_a_run_on_two_machines_has_no_seconds(tmp_path, monkeypatch):
    toy_run(tmp_path / "run", n=64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(timing, "machine_of", lambda device: "another")
    table = toy_run(tmp_path / "run", n=64, repeats=6).table
    assert set(table["timing"]) == {"machines differ"}
    assert table["seconds_per_image"].isna().all()
    assert table["fid"].notna().all()


def test_a_damaged_timing_is_named(tmp_path):
    folder = toy_run(tmp_path / "run", repeats=3).folder
    victim = next(folder.glob("chunks/*/*.timing"))
    victim.write_bytes(victim.read_bytes()[:-9])
    with pytest.raises(sb.StoreError, match=victim.name):
        toy_run(tmp_path / "run")


# As people read it


def shown(**columns):
    """ms/image and caption of a table with one row, made of what a clock says."""
    table = toy_table(**columns)
    headings, rows = table_to_cells(table, {})
    return rows[0][headings.index("ms/image")], caption(table, {})


def toy_table(**columns):
    row = dict.fromkeys([*COLUMNS, *CLOCK_COLUMNS], math.nan)
    row |= {"model": "toy", "sampler": "ddim", "grid": "uniform", "steps": 2, "nfe": 2, "guidance": 1.0, "samples": 64}
    row |= {"seconds_per_image": 0.0123, "seconds_low": 0.0121, "seconds_high": 0.0126, "status": "ok", "timing": "ok"}
    return pd.DataFrame([row | {"load_per_core": 0.5, "same_as": None, **columns}])


def test_a_time_is_shown_with_its_quartiles():
    text, below = shown()
    assert text == "12.3 (12.1-12.6)"
    assert "quartiles" in below
    assert "*" not in below
    assert "busy" not in below


def test_the_caption_explains_intervals_only_where_one_is_shown():
    _, below = shown(ode_error=0.5)
    assert "±" not in below
    assert below.endswith(" The ODE error is that of 16 images, too few for an interval.")
    _, below = shown(ode_error=0.5, ode_error_low=0.4, ode_error_high=0.6, samples=128)
    assert "± is the 95 % interval" in below
    assert "too few" not in below
    assert below.endswith(
        " ± of the ODE error is half the length of an interval that reaches further up than down; in simulations with "
        "32 images it held the true value in 93 %."
    )
    _, below = shown(ode_error=0.5, ode_error_low=0.4, ode_error_high=0.6, samples=1024)
    assert below.endswith(" reaches further up than down.")  # 256 images are enough


def test_a_doubtful_time_is_marked_and_the_caption_says_why():
    text, below = shown(seconds_low=math.nan, seconds_high=math.nan, timing="3 repeats")
    assert text == "12.3*"
    assert below.endswith("* marks a time that is not to be relied on: fewer than 5 repeats.")
    text, below = shown(timing="noisy")
    assert text == "12.3 (12.1-12.6)*"
    assert "more than 10 % of the median apart" in below
    text, below = shown(seconds_per_image=math.nan, timing="2 repeats; machines differ")
    assert text.startswith("-")
    assert "fewer than 5 repeats, drawn on several machines" in below


def test_a_busy_machine_is_noted():
    assert "busy" not in shown(load_per_core=1.5)[1]
    assert "The machine was busy: a load of 3.2 per core." in shown(load_per_core=3.2)[1]


def test_a_table_of_an_earlier_version_can_be_shown():
    old = toy_table().drop(columns=["timing", "repeats", "seconds_per_call", "peak_memory_mb", "load_per_core"])
    assert "| 12.3 (12.1-12.6) |" in table_to_markdown(old, {})


# The page


def test_the_page_on_the_clock_says_what_the_code_does():
    page = (Path(__file__).parents[2] / "docs" / "clock.md").read_text()
    for name in timing.COLUMNS:
        assert f"`{name}`" in page
    assert f"more than {100 * timing.NOISY:.0f} % of the median" in page
    assert f"fewer than {timing.LEAST_REPEATS}" in page
    assert timing.LEAST_REPEATS == 5  # "the first five whole blocks"
    assert f"from {timing.BUSY} on" in page
    commands = [line.split("#")[0].split() for line in page.splitlines() if line.startswith("samplerbench ")]
    assert len(commands) == 10
    for _, name, *rest in commands:
        options = {option for parameter in cli.commands[name].params for option in parameter.opts}
        assert {word for word in rest if word.startswith("-")} <= options

"""Engines of plugins: whatever draws, in whatever order, the samples are those of the local engine."""

import dataclasses
import json
import pickle
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

import samplerbench as sb
from cases import thinned
from samplerbench.bench.draw import clock as timing
from samplerbench.bench.draw.engines import elsewhere
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.session import Watch
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.run import Manner, begin
from samplerbench.bench.verify import verify
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
CLOCKED = list(timing.COLUMNS)
REGISTRY = load_registry([TOY])


class TwoWorkers:
    """Draws two jobs at a time, as far as anybody can see, and answers the later one first."""

    def __init__(self, work):
        self.work, self.given, self.closed = work, [], 0

    def draw(self, jobs: Iterator[sb.Job]):
        jobs = iter(jobs)
        while pair := list(islice(jobs, 2)):
            self.given.append(pair)
            for job in reversed(pair):
                done = self.work.draw(job)
                is_drawn = isinstance(done, sb.Drawn)
                yield dataclasses.replace(done, alone=len(pair) == 1) if is_drawn else done

    def close(self):
        self.closed += 1


def test_only_what_checks_before_there_is_an_engine_is_asked_then(monkeypatch):
    class Own(TwoWorkers):
        def check(self, job):
            """A method of the engine, of the same name."""

    class Early(TwoWorkers):
        @classmethod
        def check(cls, argument):
            raise sb.InputError(f"no {argument}")

    monkeypatch.setitem(REGISTRY.engines.things, "own", Own)
    monkeypatch.setitem(REGISTRY.engines.things, "early", Early)
    REGISTRY.check_engine("own:here", {})
    with pytest.raises(sb.InputError, match="no here"):
        REGISTRY.check_engine("early:here", {})


@pytest.fixture
def engine(monkeypatch):
    """Registers an engine of this class as "two", for as long as the test lasts; those that were made of it."""
    made = []

    def having(cls=TwoWorkers):
        monkeypatch.setitem(
            REGISTRY.engines.things, "two", lambda argument, work: made.append(cls(work)) or made[-1]
        )  # fmt: skip
        return made

    return having


def begun(folder, *samplers, n=150, engine="two", **settings):
    """A run of the toy model that has not drawn anything."""
    plan = plan_for(Config(model="toy", sampler=samplers, steps=(2,), samples=n), REGISTRY)
    return begin(plan, REGISTRY, folder, Manner(engine=engine, **settings))


def finished(folder, *samplers, **settings):
    """A run to its end."""
    run = begun(folder, *samplers, **settings)
    run.work(Watch())
    return run.conclude()


def content_of(chunk):
    """All that a chunk holds but its times."""
    arrays = {**chunk.rows, "hashes": chunk.hashes, "images": chunk.images, "ode": chunk.ode_distance}
    return chunk.timing.nfe, {name: a.tobytes() for name, a in arrays.items() if a is not None}


def chunks_in(folder):
    """The content of each chunk of a run, by cell and place."""
    store = RunFolder(folder)
    return {
        (cell.key, place): content_of(chunk)
        for cell in read_run(folder).cells
        for place, chunk in store.chunks_of(cell.key).items()
    }


def numbers(table):
    """A table without what a clock says."""
    return table.drop(columns=CLOCKED)


# What is drawn


def test_two_workers_draw_the_bytes_of_the_local_engine_and_a_failure_fails_its_own_cell(tmp_path, engine):
    made = engine()
    local = finished(tmp_path / "local", "ddim", "late", "ddpm", "euler", engine="local")
    table = finished(tmp_path / "two", "ddim", "late", "ddpm", "euler").table
    assert numbers(table).equals(numbers(local.table))
    assert list(table["status"]) == ["ok", "failed: RuntimeError: the second block", "ok", "ok"]
    assert chunks_in(tmp_path / "local") == chunks_in(tmp_path / "two")
    (two,) = made
    assert two.closed == 1
    assert [(job.sampler, job.first) for job in two.given[1]] == [("ddpm", 0), ("euler", 0)]
    assert sum(len(pair) == 2 for pair in two.given) == 6
    assert exit_code_of_verify(tmp_path / "two") == 0


def exit_code_of_verify(folder):
    """What comes of drawing all chunks again."""
    return verify(StoredRun(folder), REGISTRY, chunks=99).exit_code


def test_a_round_ends_where_it_says(tmp_path, engine):
    made = engine()
    finished(tmp_path / "run", "ddim", "ddpm", "euler", n=130)
    drawn = [job for pair in made[0].given for job in pair if not job.is_for_the_clock]
    assert [(job.sampler, job.first, job.is_last) for job in drawn] == [
        ("ddim", 0, False), ("ddpm", 0, False), ("euler", 0, True),
        ("euler", 64, False), ("ddpm", 64, False), ("ddim", 64, True),
        ("ddim", 128, False), ("ddpm", 128, False), ("euler", 128, True),
    ]  # fmt: skip
    assert [job.evaluations for job in drawn] == [2 * job.n for job in drawn]


# Times


def test_times_of_chunks_that_overlap_are_not_shown_and_repeats_are_drawn_one_at_a_time(tmp_path, engine):
    made = engine()
    result = finished(tmp_path / "run", "ddim", "ddpm", n=192, repeats=3)
    assert [len(pair) for pair in made[0].given if not pair[0].is_for_the_clock] == [2, 2, 2]
    repeats = [pair for pair in made[0].given if pair[0].is_for_the_clock]
    assert [[job.sampler for job in pair] for pair in repeats] == [
        ["ddim"],
        ["ddpm"],
        ["ddpm"],
        ["ddim"],
        ["ddim"],
        ["ddpm"],
    ]
    store = RunFolder(result.folder)
    for cell in read_run(result.folder).cells:
        assert not any(chunk.timing.alone for chunk in store.chunks_of(cell.key).values())
        alone = store.repeats_of(cell.key)
        assert [r.timing.alone for r in alone] == [True] * 3
        row = result.table.set_index("sampler").loc[cell.sampler]
        assert row["repeats"] == 3
        assert row["seconds_per_image"] == sorted(r.seconds_per_image for r in alone)[1]


def test_repeats_are_made_where_they_are_asked_for_and_no_more_than_quartiles_need(tmp_path, engine):
    engine()
    assert list(finished(tmp_path / "run", "ddim", "ddpm", n=448).table["repeats"]) == [0, 0]
    assert list(finished(tmp_path / "run", "ddim", "ddpm", n=448, clock=True).table["repeats"]) == [5, 5]
    assert list(finished(tmp_path / "run", "ddim", "ddpm", n=448, repeats=6).table["repeats"]) == [6, 6]


def test_a_run_that_two_workers_drew_is_clocked_by_whoever_goes_on_with_it(tmp_path, engine):
    made = engine()
    run = begun(tmp_path / "run", "ddim", "ddpm", n=192)
    run.session._clock_again = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run.work(Watch())
    assert list(run.conclude().table["repeats"]) == [0, 0]
    assert run.conclude().table["seconds_per_image"].isna().all()
    table = finished(tmp_path / "run", "ddim", "ddpm", n=192, engine="local", repeats=3).table
    assert list(table["repeats"]) == [3, 3]
    assert len(made) == 1


def test_the_work_that_repeats_add_is_announced(tmp_path, engine):
    class Count(Watch):
        announced = done = 0

        def started(self, plan, todo):
            self.announced += todo

        def added(self, evaluations):
            self.announced += evaluations

        def advanced(self, evaluations):
            self.done += evaluations

    engine()
    count = Count()
    begun(tmp_path / "run", "ddpm", "euler-a", n=128, repeats=2).work(count)
    assert count.announced == count.done == 2 * 2 * 128 * 2


def test_an_engine_that_draws_nothing_alone_has_no_times(tmp_path, engine):
    class Crowded(TwoWorkers):
        def draw(self, jobs):
            for done in super().draw(jobs):
                yield dataclasses.replace(done, alone=False)

    class Told(Watch):
        said = ()

        def failed(self, cell, reason, evaluations):
            self.said += ((cell.sampler, reason, evaluations),)

    engine(Crowded)
    run, told = begun(tmp_path / "run", "ddpm", n=128, repeats=2), Told()
    run.work(told)
    table = run.conclude().table
    assert told.said == (("ddpm", "clocked again: the engine drew something else meanwhile", 2 * 2 * 64),)
    assert (table["status"][0], table["repeats"][0], table["timing"][0]) == ("ok", 0, "0 repeats")


# Stops


@pytest.mark.parametrize("after", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 4))])
def test_a_run_that_is_stopped_leaves_a_folder_that_another_engine_goes_on_with(tmp_path, engine, after):
    class Stop(Watch):
        left = after

        def stored(self, cell, images):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

    made = engine()
    whole = finished(tmp_path / "whole", "ddim", "late", "ddpm", engine="local").table
    run = begun(tmp_path / "run", "ddim", "late", "ddpm")
    with pytest.raises(KeyboardInterrupt):
        run.work(Stop())
    assert made[0].closed == 1
    run.conclude()
    assert len(chunks_in(tmp_path / "run")) == after + 1
    assert numbers(finished(tmp_path / "run", "ddim", "late", "ddpm", engine="local").table).equals(numbers(whole))


def test_a_chunk_that_was_at_work_when_its_cell_failed_is_dropped(tmp_path, engine):
    class FailsLate(TwoWorkers):
        def draw(self, jobs):
            answers = [self.work.draw(job) for job in jobs]
            yield sb.Failure(answers[0].job, "the\n\x1b[31mfirst")
            yield from answers[1:]

    engine(FailsLate)
    table = finished(tmp_path / "run", "ddim", "ddpm", n=128).table
    assert list(table["status"]) == ["failed: the [31mfirst", "ok"]
    assert len(chunks_in(tmp_path / "run")) == 2


# Engines that break the contract


def answering(answer):
    """A class of engines whose `draw` is this function of the work and the jobs."""
    return type("Answering", (TwoWorkers,), {"draw": lambda self, jobs: answer(self.work, list(jobs))})


def drawn_twice(work, jobs):
    done = work.draw(jobs[0])
    yield done
    yield done


WRONG = {
    "answered 5; expected Drawn or Failure, with the job": lambda work, jobs: iter([5]),
    "ended with 2 jobs unanswered": lambda work, jobs: iter(()),
    "answered a job that it was not given, or twice: 'ddim', 2 steps, samples from 0": drawn_twice,
    "raised RuntimeError: no nodes": lambda work, jobs: (_ for _ in ()).throw(RuntimeError("no nodes")),
    "answered Failure(job=None, reason='no'); expected": lambda work, jobs: iter([sb.Failure(None, "no")]),
    "raised TypeError": lambda work, jobs: None,
    "raised TypeError: unhashable": lambda work, jobs: iter([sb.Failure(dataclasses.replace(jobs[0], cell=[]), "no")]),
    "ended with 1 job unanswered": lambda work, jobs: iter([work.draw(jobs[0])]),
    "with another chunk": lambda work, jobs: iter([sb.Drawn(jobs[0], work.draw(jobs[1]).chunk)]),
    "samples from 0, with another chunk; expected what Work.draw": lambda work, jobs: iter([sb.Drawn(jobs[0], None)]),
}


@pytest.mark.parametrize("words", thinned(WRONG, *list(WRONG)[::2]))
def test_an_engine_that_breaks_its_contract_ends_the_run_by_name(tmp_path, engine, words):
    made = engine(answering(WRONG[words]))
    run = begun(tmp_path / "run", "ddim", n=128)
    with pytest.raises(sb.PluginError, match="engine 'two'") as caught:
        run.work(Watch())
    assert words in str(caught.value)
    assert made[0].closed == 1
    run.folder.close()


def test_a_run_whose_engine_broke_its_contract_goes_on_with_another(tmp_path, engine):
    engine(answering(drawn_twice))
    run = begun(tmp_path / "run", "ddim", n=128)
    with pytest.raises(sb.PluginError, match="or twice"):
        run.work(Watch())
    run.conclude()
    assert numbers(finished(tmp_path / "run", "ddim", n=128, engine="local").table)["status"][0] == "ok"


def test_a_chunk_of_another_cell_is_refused(tmp_path, engine):
    engine(answering(lambda work, jobs: iter([sb.Drawn(jobs[0], work.draw(jobs[1]).chunk)])))
    with pytest.raises(sb.PluginError, match="'ddim', 2 steps, samples from 0, with another chunk"):
        begun(tmp_path / "run", "ddim", "ddpm", n=64).work(Watch())
    assert not (tmp_path / "run").exists()


def test_jobs_that_an_engine_never_took_are_unanswered(tmp_path, engine):
    engine(type("Idle", (TwoWorkers,), {"draw": lambda self, jobs: iter(())}))
    with pytest.raises(sb.PluginError, match="ended with 4 jobs unanswered"):
        begun(tmp_path / "run", "ddim", "ddpm", n=128).work(Watch())


@pytest.mark.parametrize("reason", ["", None, "\n"])
def test_a_failure_without_a_reason_says_so(tmp_path, engine, reason):
    engine(answering(lambda work, jobs: (sb.Failure(job, reason) for job in jobs)))
    assert list(finished(tmp_path / "run", "ddim", n=64).table["status"]) == ["failed: the engine gave no reason"]


def test_an_engine_that_cannot_be_closed_is_named(tmp_path, engine):
    engine(type("Open", (TwoWorkers,), {"close": lambda self: 1 / 0}))
    run = begun(tmp_path / "run", "ddim", n=64)
    with pytest.raises(sb.PluginError, match="engine 'two' raised ZeroDivisionError"):
        run.work(Watch())
    assert list(run.conclude().table["status"]) == ["ok"]


def test_what_is_asked_too_early_is_refused(tmp_path, engine):
    class Early(TwoWorkers):
        def __init__(self, work):
            super().__init__(work)
            self.description = work.description

    engine(Early)
    with pytest.raises(sb.PluginError, match="before it was to draw"):
        begun(tmp_path / "run", "ddim")
    assert not (tmp_path / "run").exists()


def test_what_is_no_engine_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(REGISTRY.engines.things, "two", lambda argument, work: 5)
    with pytest.raises(sb.PluginError, match=r"engine 'two': returned a int; expected an object with draw"):
        begun(tmp_path / "run", "ddim")
    assert not (tmp_path / "run").exists()


# Names


def test_an_unknown_engine_is_refused_with_those_that_there_are(sb, tmp_path):
    run = ("run", "--model", "mixture", "-s", "ddim", "--steps", "2", "-n", "8", "-o", "here")
    for more in ((), ("--dry-run",)):
        sb(*run, "--engine", "locl", *more).refused(
            2, "unknown engine 'locl' (did you mean 'local'?)", "there are: local"
        )
    sb(*run, "--engine", "local:4").refused(2, "engine 'local:4': takes no argument")
    assert not (tmp_path / "here").exists()
    assert sb(*run, "--engine", "local").code == 0
    assert json.loads(sb("list", "engines", "--json").out)["engines"][0]["name"] == "local"


def test_an_engine_is_a_name(tmp_path):
    with pytest.raises(sb.InputError, match="engine 5: expected a name"):
        sb.run("mixture", ["ddim"], engine=5, output=tmp_path / "run")


def test_the_engine_is_part_of_no_key(tmp_path, engine):
    engine()
    folders = [finished(tmp_path / name, "ddim", engine=name).folder for name in ("two", "local")]
    (a, b) = (read_run(folder) for folder in folders)
    assert (a.plan, a.cells, a.config) == (b.plan, b.cells, b.config)


# Another process


@pytest.fixture
def described(tmp_path, engine):
    """The description of a run and its jobs, as its engine was given them, and what it answered."""
    found = []

    class Describes(TwoWorkers):
        def draw(self, jobs):
            for job in jobs:
                found.append((self.work.description, job, self.work.draw(job)))
                yield found[-1][2]

    engine(Describes)
    finished(tmp_path / "run", "ddim", "raises", n=80)
    elsewhere._here_for.cache_clear()
    yield found
    elsewhere._here_for.cache_clear()


def test_a_job_is_drawn_from_its_description_as_in_the_run_and_without_its_folder(tmp_path, described):
    shutil.rmtree(tmp_path / "run")
    for description, job, done in described:
        again = pickle.loads(pickle.dumps(sb.draw_job(description, pickle.loads(pickle.dumps(job)))))
        assert type(again) is type(done)
        if isinstance(done, sb.Failure):
            assert again == done
            continue
        assert content_of(again.chunk) == content_of(done.chunk)
        assert {"hashes", "images", "features"} <= content_of(done.chunk)[1].keys()
        assert ("ode" in content_of(done.chunk)[1]) == (job.first == 0)
    assert {type(done) for *_, done in described} == {sb.Drawn, sb.Failure}
    assert elsewhere._here_for.cache_info().misses == 1


def test_what_cannot_be_made_again_fails_its_job_with_the_reason(described):
    description, job, _ = described[0]
    given = json.loads(description)
    other = sb.draw_job(json.dumps({**given, "answer": "another"}).encode(), job)
    assert other.reason.startswith("the model answers otherwise in another process")
    edited = sb.draw_job(description, dataclasses.replace(job, cell="f" * 64))
    assert edited.reason.startswith("a plugin or the model was edited after the run began")
    gone = sb.draw_job(json.dumps({**given, "plugins": ["nowhere.py"]}).encode(), job)
    assert gone.reason == "plugin nowhere.py: no such file"


def test_a_model_that_is_an_object_cannot_be_described(tmp_path, engine):
    engine(answering(lambda work, jobs: [work.description]))
    plan = plan_for(Config(model="toy", sampler=("ddim",), steps=(2,), samples=8), REGISTRY, REGISTRY.model("toy"))
    run = begin(plan, REGISTRY, tmp_path / "run", Manner(engine="two"))
    with pytest.raises(sb.InputError, match="was given as an object"):
        run.work(Watch())

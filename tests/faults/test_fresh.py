"""`run --fresh`: the run that was there stays until the new one has something, whatever ends it before."""

import shutil
from pathlib import Path

import pytest

import samplerbench as sb
from samplerbench.bench.draw import store
from samplerbench.bench.draw.aside import Aside
from samplerbench.bench.draw.folder import BEFORE, OUTGROWN, RUN_FILE
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.session import Session
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.run import Manner, begin
from samplerbench.bench.verify import verify
from samplerbench.samplers.registry import load_registry

RUN = {"model": "mixture", "samplers": "ddpm", "steps": 2, "n": 20, "metrics": []}
REGISTRY = load_registry([])


class KilledError(BaseException):
    """Ends a process as SIGKILL does: nothing is cleaned up after it."""


def die(*_):
    """Where the process ends."""
    raise KilledError


def let_go(folder):
    """What the system does after a process: its lock ends."""
    if folder._lock:
        folder._lock.release()


def run_killed(folder, place, name, **settings):
    """A run whose process dies where a method or function is called."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(place, name, die)
        patched.setattr(RunFolder, "close", let_go)
        with pytest.raises(KilledError):
            sb.run(**{**RUN, **settings}, output=folder)


def files(folder):
    """The content of each file of a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder):
    """The names of the files that stay: a killed process leaves its lock."""
    return {path.as_posix() for path in files(folder)} - {".lock"}


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """The folder of a run; not to be changed."""
    return sb.run(**RUN, output=tmp_path_factory.mktemp("old") / "run").folder


@pytest.fixture
def folder(old, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(old, tmp_path / "run"))


def run_refused(folder, error, **settings):
    """Start the folder over with another seed; what is raised comes after the ODE solution is stored."""

    def draw(*_):
        raise error

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Session, "_draw", draw)
        with pytest.raises(type(error)):
            sb.run(**{**RUN, "seed": 1, **settings}, output=folder, fresh=True)


@pytest.mark.parametrize("error", [sb.InputError("no"), KeyboardInterrupt()])
def test_a_fresh_run_that_draws_nothing_leaves_the_run_before(folder, error):
    before = files(folder)
    run_refused(folder, error, samplers="ddim")  # which has an ODE solution
    assert files(folder) == before
    assert sb.run(**RUN, output=folder).table["samples"][0] == 20


def test_files_of_others_stay_where_they_are(folder):
    (folder / "notes.txt").write_text("mine")
    (folder / "chunks" / "mine.txt").write_text("mine")
    before = files(folder)
    run_refused(folder, sb.InputError("no"))
    assert files(folder) == before
    sb.run(**RUN, seed=1, output=folder, fresh=True)
    assert (folder / "chunks" / "mine.txt").read_text() == (folder / "notes.txt").read_text() == "mine"
    assert not (folder / BEFORE).exists()


@pytest.mark.parametrize("name", [BEFORE, OUTGROWN])
@pytest.mark.parametrize("fresh", [False, True])
def test_files_of_others_in_the_folders_of_what_is_set_aside_stay_too(folder, name, fresh):
    (folder / name).mkdir()
    (folder / name / "notes.txt").write_text("mine")
    sb.run(**RUN, output=folder, fresh=fresh)
    assert {path.name for path in (folder / name).iterdir()} == {"notes.txt"}
    assert not (folder / "notes.txt").exists()


def test_a_run_before_that_cannot_be_removed_is_an_error_of_the_disk(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Aside, "drop", refuse)
    with pytest.raises(sb.StoreError, match="Permission denied"):
        sb.run(**RUN, seed=1, output=folder, fresh=True)


def test_run_json_is_on_the_disk_before_other_files_follow_it_aside(folder, monkeypatch):
    synced = []
    monkeypatch.setattr("samplerbench.bench.draw.aside.sync_folder", lambda path: synced.append((path, names(folder))))
    run_killed(folder, store, "run_to_json", seed=1, fresh=True)
    first = {path.relative_to(folder).as_posix() for path, _ in synced[:2]}
    assert first == {".", BEFORE}
    assert {name for name in synced[1][1] if name.startswith(BEFORE)} == {f"{BEFORE}/{RUN_FILE}"}


def test_the_run_before_goes_once_the_first_chunk_is_stored(folder):
    (cell,) = (folder / "chunks").glob("*/00*")
    plan = plan_for(Config(model="mixture", sampler=("ddpm",), steps=(2,), samples=20, metric=(), seed=3), REGISTRY)
    begun = begin(plan, REGISTRY, folder, Manner(fresh=True))
    assert not cell.exists()
    assert (folder / BEFORE / cell.relative_to(folder)).exists()
    begun.folder.write_failure(begun.plan.cells[0], "RuntimeError: tired")
    assert not (folder / BEFORE).exists()
    begun.folder.close()
    assert read_run(folder).config.seed == 3


def killed_while_starting_over(folder, monkeypatch, step):
    """A process that is killed at the given renaming or removal of a file of the folder, or when it draws."""
    left = step

    def counted(real):
        def rename(self, *arguments, **named):
            nonlocal left
            if folder in self.parents and self.suffix != ".tmp":
                left -= 1
                if left < 0:
                    raise KilledError
            return real(self, *arguments, **named)

        return rename

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", counted(Path.rename))
        patched.setattr(Path, "unlink", counted(Path.unlink))
        patched.setattr(Session, "_draw", die)
        # What a killed process does not do.
        patched.setattr(RunFolder, "close", let_go)
        patched.setattr(RunFolder, "_put_back", lambda self: None)
        patched.setattr(RunFolder, "withdraw", lambda self: None)
        with pytest.raises(KilledError):
            sb.run(**{**RUN, "seed": 1}, output=folder, fresh=True)


@pytest.mark.parametrize("step", [0, 2, 99])
def test_a_kill_at_any_renaming_leaves_the_run_before(folder, monkeypatch, step):
    before = names(folder)
    killed_while_starting_over(folder, monkeypatch, step)
    # Whoever comes next, with the old settings or the new ones.
    with pytest.raises(sb.InputError, match="belongs to another run"):
        sb.run(**{**RUN, "seed": 1}, output=folder)
    assert names(folder) == before
    monkeypatch.setattr(Session, "_draw", lambda *_: pytest.fail("nothing is missing"))
    sb.run(**RUN, output=folder)
    assert names(folder) == before


@pytest.mark.parametrize("step", [1, 99])
def test_who_reads_a_folder_whose_run_waits_for_its_return_is_told(folder, monkeypatch, step):
    killed_while_starting_over(folder, monkeypatch, step)
    assert (folder / RUN_FILE).exists() == (step > 1)
    for read in (lambda run: run.table, lambda run: verify(run, REGISTRY, 1, 0)):
        with pytest.raises(sb.InputError, match=r"samplerbench run -o .* brings back the one before"):
            read(StoredRun(folder))
    RunFolder(folder).recover()
    assert len(StoredRun(folder).table) == 1


@pytest.mark.parametrize("step", [0, 2])
def test_a_kill_while_the_run_before_comes_back_loses_nothing(folder, monkeypatch, step):
    before = names(folder)
    killed_while_starting_over(folder, monkeypatch, 99)
    real, left = Path.rename, step

    def rename(self, target):
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError
        return real(self, target)

    killed = RunFolder(folder)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        with pytest.raises(KilledError):
            killed.recover()
    let_go(killed)
    RunFolder(folder).recover()
    assert names(folder) == before


def test_a_kill_after_the_first_chunk_leaves_the_new_run(folder):
    run_killed(folder, RunFolder, "_drop_earlier", seed=1, fresh=True)
    assert (folder / BEFORE / RUN_FILE).exists()
    sb.run(**{**RUN, "seed": 1}, output=folder)
    assert not (folder / BEFORE).exists()
    assert read_run(folder).config.seed == 1


def nothing(x, t):
    """A network."""
    return 0 * x


def test_a_model_without_a_fingerprint_keeps_its_run_until_it_draws_again(tmp_path):
    model = sb.wrap_network(nothing, schedule=sb.vp_linear(), shape=(1, 2, 2))
    settings = {**RUN, "model": model, "output": tmp_path / "run"}
    with pytest.warns(UserWarning, match="fingerprint"):
        sb.run(**settings)
    before = files(tmp_path / "run")
    with pytest.warns(UserWarning, match="fingerprint"):
        run_refused(tmp_path / "run", sb.InputError("no"), model=model)
    assert files(tmp_path / "run") == before


# What a kill leaves of an addition


def test_chunks_that_a_killed_addition_set_aside_come_back(folder, monkeypatch):
    before = names(folder)
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "_put_back", lambda self: None)
        run_killed(folder, store, "run_to_json", n=100, add=True)
    assert names(folder) != before
    monkeypatch.setattr(Session, "_draw", lambda *_: pytest.fail("nothing is missing"))
    sb.run(**RUN, output=folder)
    assert names(folder) == before


def test_a_larger_run_that_was_killed_before_it_drew_is_resumed(folder):
    run_killed(folder, Session, "_draw", n=100, add=True)
    assert sb.run(**{**RUN, "n": 100}, output=folder).table["samples"][0] == 100
    assert not (folder / OUTGROWN).exists()


def test_half_written_files_of_a_killed_process_are_removed_at_the_next_start(folder):
    (cell,) = (path for path in (folder / "chunks").iterdir() if path.is_dir() and len(path.name) == 16)
    half = [folder / ".table.md.tmp", cell / ".00000000-0020.safetensors.tmp"]
    kept = [
        folder / ".report.html.0123456789abcdef.tmp",  # of a process that is perhaps still writing it
        folder / ".notes.tmp",
        cell / ".mine.tmp",
    ]
    for path in (*half, *kept):
        path.write_text("half")
    sb.run(**RUN, output=folder)
    assert not any(path.exists() for path in half)
    assert all(path.exists() for path in kept)


def test_what_is_set_aside_has_one_place_at_any_moment(tmp_path):
    (tmp_path / "chunks").mkdir()
    (tmp_path / "chunks" / "looks.json").write_text("older")
    aside = Aside(tmp_path, ".x")
    assert not aside.is_there
    aside.move(["chunks/looks.json"])
    assert aside.is_there
    assert not aside.is_whole_run
    (tmp_path / "chunks" / "looks.json").write_text("newer")
    aside.put_back()
    assert (tmp_path / "chunks" / "looks.json").read_text() == "newer"
    assert not aside.is_there

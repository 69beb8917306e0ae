"""Shards: parts of a run that know nothing of each other, and are joined to the run that nobody drew in one piece."""

import shutil

import pytest

import samplerbench as sb
from samplerbench.bench.draw import clock as timing
from samplerbench.bench.draw.folder import default_output
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.session import Watch
from samplerbench.bench.draw.store import RunFolder
from samplerbench.bench.join import command_of_whole, join
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import Block, Blocks, plan_for
from samplerbench.bench.plan.shard import Shard, folder_of_shard, folder_of_whole, parse_shard
from samplerbench.bench.run import Manner, begin
from samplerbench.bench.verify import verify
from samplerbench.samplers.registry import load_registry

REGISTRY = load_registry()
N = 300
"""Five blocks, the last one cut."""


def plan_of(n=N, seed=0, shard=None):
    """A plan of two cells, one of them compared with the ODE solution."""
    config = Config(model="mixture", sampler=("ddim", "ddpm"), steps=(2,), samples=n, seed=seed)
    return plan_for(config, REGISTRY).for_shard(shard)


def drawn(folder, shard=None, **settings):
    """A run, or a shard of one, to its end; the run that is stored."""
    part = parse_shard(shard)
    run = begin(plan_of(shard=part, **settings), REGISTRY, folder_of_shard(folder, part), Manner(shard=shard))
    run.work(Watch())
    return StoredRun(run.conclude().folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run in one piece."""
    return drawn(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The run in three."""
    folder = tmp_path_factory.mktemp("parts")
    return [drawn(folder / "run", f"{number}/3") for number in (1, 2, 3)]


@pytest.fixture
def copies(parts, tmp_path):
    """Copies of the parts, which a test may spoil."""
    for run in parts:
        shutil.copytree(run.path, tmp_path / run.path.name)
    return [StoredRun(tmp_path / run.path.name) for run in parts]


def content(folder):
    """All that chunks hold but their times."""
    store = RunFolder(folder)
    return {
        (cell.key, place): (
            chunk.hashes.tobytes(),
            None if chunk.ode_distance is None else chunk.ode_distance.tobytes(),
        )
        for cell in read_run(folder).cells
        for place, chunk in store.chunks_of(cell.key).items()
    }


# Blocks


@pytest.mark.parametrize(("samples", "size"), [(1, 64), (64, 64), (65, 64), (1000, 64), (1024, 128), (300, 64)])
@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_the_blocks_of_all_shards_are_those_of_the_run_each_once(samples, size, of):
    listed = list(Blocks(samples, size))
    shares = [Blocks(samples, size, start, of) for start in range(of)]
    assert sorted((b for share in shares for b in share), key=lambda b: b.number) == listed
    for start, share in enumerate(shares):
        mine = listed[start::of]
        assert (list(share), len(share), share.images) == (mine, len(mine), sum(b.n for b in mine))
        assert share.whole == max(1, sum(b.n == size for b in mine))
        assert all((share.at(b.first, b.n) == b) is (b in mine) for b in listed)


# What is refused


@pytest.mark.parametrize("given", ["3/2", "0/2", "1/0", "1", "a/b", "", "1/2/3", "-1/2", "1/99999", "1 /2"])
def test_what_is_no_shard_is_refused(given):
    with pytest.raises(sb.InputError, match=r"^shard .*: expected I/N, the part and how many there are, as in 1/4"):
        parse_shard(given)


def test_more_shards_than_blocks_are_refused():
    with pytest.raises(sb.InputError, match="shard 1/6: the run has 5 blocks of 64 samples; expected no more shards"):
        plan_of(shard=Shard(1, 6))


@pytest.mark.parametrize("settings", [{"clock": True}, {"repeats": 2}, {"add": True}])
def test_a_shard_is_neither_clocked_nor_added_to(settings):
    with pytest.raises(sb.InputError, match="shard 1/2: is neither clocked nor added to; join the shards first"):
        Manner(shard="1/2", **settings)


def test_the_folder_of_a_shard_takes_no_other_part(copies):
    for shard in (None, Shard(2, 3), Shard(1, 2)):
        with pytest.raises(
            sb.InputError, match=r"holds shard 1/3, and this is (the whole run|shard \d/\d); give anoth"
        ):
            begin(plan_of(shard=shard), REGISTRY, copies[0].path, Manner())


def test_only_shards_of_one_run_are_joined(copies, whole, tmp_path):
    first, second, _ = copies
    with pytest.raises(sb.InputError, match=r"is no shard; expected the folders of one run by --shard, or add --merge"):
        join([first, whole], REGISTRY)
    with pytest.raises(sb.InputError, match="shards 1/3, 2/3, 1/3 are no parts of one run; expected each of them once"):
        join([first, second, first], REGISTRY)
    other = drawn(tmp_path / "other", "2/3", seed=1)
    with pytest.raises(sb.InputError, match="is a shard of another run than"):
        join([first, other], REGISTRY)
    assert not (tmp_path / "run").exists()


# What is joined


def test_shards_that_name_a_sampler_differently_are_refused(copies, edited):
    edited(copies[1].path, config__sampler=["mine=ddim", "ddpm"], cells__0__name="mine")
    runs = [StoredRun(run.path) for run in copies]
    with pytest.raises(sb.InputError, match=r"run-2-of-3: calls 'ddim' 'mine', and .*run-1-of-3 calls it 'ddim'; give"):
        join(runs, REGISTRY)


def test_shards_join_to_the_run_in_one_piece_but_for_its_times(copies, whole, tmp_path):
    joined = join(copies, REGISTRY)
    assert joined.folder == tmp_path / "run"
    assert joined.notes == ()
    assert content(joined.folder) == content(whole.path)
    clocked = list(timing.COLUMNS)
    table = StoredRun(joined.folder).table
    assert table.drop(columns=clocked).equals(whole.table.drop(columns=clocked))
    assert list(table["status"]) == ["ok", "ok"]
    assert table["seconds_per_image"].isna().all()
    assert read_run(joined.folder).shard == ""
    assert (joined.folder / "report.html").exists()
    assert verify(StoredRun(joined.folder), REGISTRY, chunks=99).exit_code == 0
    chunk = next(joined.folder.glob("chunks/*/*.safetensors"))
    assert chunk.stat().st_nlink == 2
    assert join(copies, REGISTRY).folder == joined.folder  # again


def test_each_shard_has_its_blocks_of_all_cells_and_says_which_it_is(parts):
    for number, run in enumerate(parts, start=1):
        assert run.record.shard == f"{number}/3"
        assert run.path.name == f"run-{number}-of-3"
        firsts = {place[0] for _, place in content(run.path)}
        assert firsts == {64 * block for block in range(number - 1, 5, 3)}
        assert set(run.table["status"]) == {"partial"}
        assert not any(chunk.timing.alone for cell in run.record.cells for chunk in run.chunks(cell).values())


def test_the_ode_solution_is_drawn_where_a_sample_of_the_shard_has_one(parts):
    there = [(run.path / "chunks" / "ode-reference.safetensors").exists() for run in parts]
    assert there == [True, True, False]  # of 75 samples, in blocks 0 and 1


@pytest.mark.parametrize("missing", [1, 2])
def test_a_shard_that_is_missing_leaves_its_blocks_out_and_they_are_named(copies, missing):
    kept = [run for number, run in enumerate(copies, start=1) if number != missing]
    joined = join(kept, REGISTRY)
    lost = [block for block in Blocks(N, 64) if block.number % 3 == missing - 1]
    (note,) = joined.notes
    assert note.startswith(f"left out: 2 blocks of 5 that not every cell has (samples {lost[0].first} to ")
    assert note.endswith(f"; not given: shard {missing}/3")
    table = StoredRun(joined.folder).table
    assert set(table["samples"]) == {N - sum(block.n for block in lost)}
    assert set(table["status"]) == {"partial"}


def test_a_block_that_one_cell_lacks_is_left_out_for_all(copies):
    cell = copies[0].record.cells[0]
    (copies[0].path / "chunks" / cell.key[:16] / "00000192-0064.safetensors").unlink()
    joined = join(copies, REGISTRY)
    assert joined.notes == (
        "left out: 1 block of 5 that not every cell has (samples 192 to 255); give the commands of the shards again to "
        "go on",
    )
    assert set(StoredRun(joined.folder).table["samples"]) == {N - 64}


def test_a_cell_that_failed_in_one_shard_failed(copies):
    plan = plan_of()
    RunFolder(copies[1].path).write_failure(plan.cells[1], "RuntimeError: tired")
    table = StoredRun(join(copies, REGISTRY).folder).table
    assert list(table["status"]) == ["ok", "failed: RuntimeError: tired"]


# Names, and the command


def test_names_of_folders(tmp_path):
    assert folder_of_shard(tmp_path / "run", Shard(2, 4)) == tmp_path / "run-2-of-4"
    assert folder_of_whole(tmp_path / "run-2-of-4") == tmp_path / "run"
    assert folder_of_whole(tmp_path / "moved") == tmp_path / "moved-joined"
    assert default_output(plan_of(shard=Shard(1, 2))).name == f"{default_output(plan_of()).name}-1-of-2"


def test_the_command_of_the_run_is_that_of_a_shard_without_the_shard(parts):
    for given in ("--shard 1/2 -n 8", "-n 8 --shard=1/2", "-n 8 --shard 1/2"):
        record = type("Record", (), {"command": f"samplerbench run {given}"})
        assert command_of_whole(record) == "samplerbench run -n 8"


def test_the_command_draws_shards_and_tables_join_them(sb, tmp_path):
    run = ("run", "--model", "mixture", "-s", "ddim", "--steps", "2", "-n", "100", "-o", "here", "--threads", "1")
    for shard in ("1/2", "2/2"):
        done = sb(*run, "--shard", shard)
        assert done.code == 0
        assert f"shard {shard} is done; samplerbench table here-*-of-2 joins them" in done.err
    table = sb("table", "here-1-of-2", "here-2-of-2", "--format", "json")
    assert table.code == 0
    assert "here: joined from 2 shards" in table.err
    assert '"samples": 100' in table.out
    report = sb("report", "here-1-of-2", "here-2-of-2")
    assert report.code == 0
    assert report.out.strip() == "here/report.html"
    again = sb(*run, "--dry-run")
    assert " 0 are left to make" in again.out
    sb(*run, "--shard", "3/2").refused(2, "shard '3/2': expected I/N")
    sb("table", "here", "here").refused(2, "table: 2 runs; add --merge")


def test_a_block_is_a_block():
    assert Blocks(300, 64, 1, 3)[1] == Block(4, 256, 44)

"""`samplerbench run --seed 0,1,2`: a run for each seed, then one table of their means and one page."""

import json
import re
from pathlib import Path

import pytest

import samplerbench as sb_
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.plan.seeds import folder_of_seed, page_of_seeds
from samplerbench.bench.plan.shard import Shard, folder_of_shard

TOY = str(Path(__file__).parents[1] / "toy.py")
WHAT = ("--model", "toy", "--plugin", TOY, "-s", "ddim", "-s", "ours=ddpm", "--metric", "fid")
RUN = ("run", *WHAT, "--steps", 2, "-n", 20)
HALF = Shard(1, 2)
ROW = re.compile(r"\| ours \| 2 \| 2 \| [\d.]+ ± [\d.]+ \([\d.e-]+\) \|")


def test_several_seeds_are_a_run_each_and_one_table_of_them(sb):
    done = sb(*RUN, "--seed", "0,1", "-o", "many")
    assert done.code == 0, done.err
    assert len(ROW.findall(done.out)) == 1
    assert "each value is the mean of 2 seeds" in done.out
    assert "Seeds: 0, 1." in done.out
    assert sorted(p.name for p in Path().iterdir()) == ["many-seed-0", "many-seed-1", "many-seeds.html"]
    page = Path("many-seeds.html").read_text()
    assert "Means over the seeds, and their spread" in page
    assert "They differ in seed. The table below has their means" in " ".join(page.split())
    assert page.count('href="many-seed-') == 4
    # The run of a seed is the run of that seed given by itself, to the key.
    sb(*RUN, "--seed", 1, "-o", "one")
    many, one = StoredRun(Path("many-seed-1")), StoredRun(Path("one"))
    assert (many.record.plan, many.record.config) == (one.record.plan, one.record.config)
    assert [cell.key for cell in many.record.cells] == [cell.key for cell in one.record.cells]
    assert list(many.table["fid"]) == list(one.table["fid"])
    # Given again, nothing is drawn.
    again = sb(*RUN, "--seed", "0,1", "-o", "many", "--json")
    about = json.loads(again.out)
    assert again.err.count("0 network evaluations to make") == 2
    assert (about["seeds"], about["page"]) == ([0, 1], "many-seeds.html")
    assert {"seeds", "fid_sd"} <= about["table"][0].keys()


def test_without_a_folder_each_seed_has_that_of_its_own_run(sb):
    sb(*RUN, "--seed", 1)
    (first,) = Path("results").iterdir()
    done = sb(*RUN, "--seed", "0,1", "--quiet")
    assert done.code == 0, done.err
    assert done.err == ""
    folders = [path for path in Path("results").iterdir() if path.is_dir()]
    assert first in folders
    assert len(folders) == 2


def test_a_dry_run_tells_the_plan_of_each_seed(sb):
    done = sb(*RUN, "--seed", "0,1", "-o", "many", "--dry-run")
    assert re.findall("output: (.*)", done.out) == ["many-seed-0", "many-seed-1"]
    plans = json.loads(sb(*RUN, "--seed", "0,1", "-o", "many", "--dry-run", "--json").out)["seeds"]
    assert [plan["output"] for plan in plans] == ["many-seed-0", "many-seed-1"]
    assert not list(Path().iterdir())


def test_a_file_and_the_environment_may_give_several(sb):
    Path("c.toml").write_text("seed = [3, 4]\n")
    assert "output: many-seed-4" in sb(*RUN, "-o", "many", "--dry-run", "--config", "c.toml").out
    given = sb(*RUN, "-o", "many", "--dry-run", env={"SAMPLERBENCH_RUN_SEED": "5,6"})
    assert "output: many-seed-6" in given.out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--seed", "0,0"], ["seed 0,0: a number is given twice"]),
        (["--seed", "0,x"], ["seed 'x': expected a whole number"]),
        (["--seed", "0,"], ["seed '': expected a whole number"]),
        (["--seed", "0,-1"], ["seed -1"]),
        (["--seed", "0,1", "--shard", "1/2"], ["shard 1/2: of one run; expected one --seed"]),
    ],
)
def test_seeds_that_cannot_be_are_refused_in_one_line(sb, more, words):
    sb(*RUN, *more).refused(2, *words)
    assert not list(Path().iterdir())


def test_a_folder_that_is_refused_stops_all_before_the_first_is_drawn(sb):
    Path("many-seed-1").mkdir()
    Path("many-seed-1/mine.txt").write_text("")
    sb(*RUN, "--seed", "0,1", "-o", "many").refused(2, "output many-seed-1: holds other files")
    assert not Path("many-seed-0").exists()


def test_report_has_the_means_of_seeds_where_asked(sb):
    sb(*RUN, "--seed", "0,1", "-o", "many")
    done = sb("report", "many-seed-0", "many-seed-1", "--seeds", "--plugin", TOY, "-o", "x.html")
    assert done.code == 0, done.err
    assert "Means over the seeds" in Path("x.html").read_text()
    sb("report", "many-seed-0", "--seeds", "--plugin", TOY).refused(2, "--seeds: 1 run; expected two or more")
    sb("report", "many-seed-0", "many-seed-0/", "--plugin", TOY).refused(2, "many-seed-0: is given twice")


def test_the_places_of_seeds():
    assert folder_of_seed(Path("a/b"), -1) == Path("a/b-seed--1")
    assert page_of_seeds(Path("a/b")) == Path("a/b-seeds.html")


@pytest.mark.parametrize("output", [".", "..", "a/..", "/"])
def test_an_output_without_a_name_is_refused_for_several_folders(output):
    words = f"^output '{output}': several folders begin with its name, and it has none; give one, as in -o "
    for folder_of in (lambda path: folder_of_seed(path, 1), page_of_seeds, lambda path: folder_of_shard(path, HALF)):
        with pytest.raises(sb_.InputError, match=words):
            folder_of(Path(output))
    assert folder_of_shard(Path(output), None) == Path(output)


def test_the_command_refuses_such_an_output_before_the_model_is_loaded(sb):
    done = sb("run", "--model", "nothing", "--seed", "0,1", "-o", ".")
    assert done.code == 2
    assert "output '.': several folders begin with its name" in done.err


@pytest.mark.parametrize(("output", "words"), [("many", "is a folder"), ("n" * 246, "give a shorter -o")])
def test_a_page_that_cannot_be_written_stops_all_before_the_first_is_drawn(sb, output, words):
    Path("many-seeds.html").mkdir()
    sb(*RUN, "--seed", "0,1", "-o", output).refused(2, f"output {output}-seeds.html", words)
    assert not Path(f"{output}-seed-0").exists()

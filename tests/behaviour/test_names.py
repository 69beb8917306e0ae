"""Display names of samplers: what knows them, what they leave as it is, and which are refused."""

import json
import shutil
from pathlib import Path

import pytest

import samplerbench as sb_
from samplerbench.bench.judge.compare import compare
from samplerbench.bench.judge.merge import merge
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.judge.table import COLUMNS, rows_to_table
from samplerbench.bench.plan.config import Config, as_json, enlarge, from_json
from samplerbench.bench.plan.names import name_and_spec, names_by_spec
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.show.formats import content_of
from samplerbench.bench.show.view import view_of
from samplerbench.samplers.errors import InputError
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
OURS = "ours=ddim:eta=0.5"


def run_of(folder, samplers, **settings):
    """A run of the toy model."""
    return sb_.run("toy", samplers, plugins=[TOY], output=folder, **{"steps": [2, 3], "n": 64, **settings})


@pytest.fixture(scope="module")
def registry():
    return load_registry([TOY])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run whose first sampler has a name; a test that changes it makes a copy."""
    return run_of(tmp_path_factory.mktemp("named") / "run", [OURS, "euler"]).folder


@pytest.fixture
def named(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("text", "name", "spec"),
    [
        ("ddim", "", "ddim"),
        ("ddim:eta=0.5", "", "ddim:eta=0.5"),
        (OURS, "ours", "ddim:eta=0.5"),
        (" Our method (v2) = ddim", "Our method (v2)", "ddim"),
        ("ddim=ddim", "", "ddim"),
        ("ddim,eta=0.5", "", "ddim,eta=0.5"),  # no name: the error of an unknown sampler says what is wrong
    ],
)
def test_a_name_stands_before_the_options(text, name, spec):
    assert name_and_spec(text) == (name, spec)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (("=ddim",), "the name is empty"),
        (("ours=",), "the spec is empty"),
        (("a@b=ddim",), "is no name for rows"),
        (("a\x07b=ddim",), "is no name for rows"),
        (("x" * 61 + "=ddim",), "is no name for rows"),
        (("ours=ddim", "ours=euler"), "the name 'ours' is taken by 'ddim'"),
        (("euler=ddim", "euler"), "the name 'euler' is taken by 'euler'"),
        (("a=ddim", "b=ddim"), "'ddim' is given twice"),
    ],
)
def test_a_name_that_is_invalid_or_taken_is_refused(texts, words):
    with pytest.raises(InputError, match=words):
        names_by_spec(texts)


def test_a_command_says_so_in_one_line(sb):
    run = "run", "--model", "toy", "--plugin", TOY, "--steps", "2", "-n", "64", "-o", "out"
    sb(*run, "-s", "ours=ddim", "-s", "ours=euler").refused(2, "the name 'ours' is taken by 'ddim'")
    sb(*run, "-s", "euler=ddim").refused(2, "the name 'euler' is that of another sampler")
    sb(*run, "-s", "eta=0.5").refused(2, "unknown sampler 'eta=0.5'", "options follow a colon")
    assert not Path("out").exists()


def test_the_name_of_the_same_sampler_elsewhere_may_be_taken(registry):
    config = Config(model="toy", sampler=("Euler a=euler-a", "Euler=ddim"), steps=(2,), samples=64)
    with pytest.raises(InputError, match="the name 'Euler' is that of another sampler"):
        plan_for(config, registry)
    assert plan_for(Config(model="toy", sampler=("Euler a=euler-a",), steps=(2,), samples=64), registry)


def test_a_name_is_part_of_no_key(registry):
    with_name, without = (
        plan_for(Config(model="toy", sampler=(spec, "euler"), steps=(2,), samples=64), registry)
        for spec in (OURS, "ddim:eta=0.5")
    )
    assert with_name.key == without.key
    assert [cell.key for cell in with_name.cells] == [cell.key for cell in without.cells]
    assert [cell.shown for cell in with_name.cells] == ["ours", "euler"]
    assert from_json(as_json(with_name.config)) == with_name.config


def test_table_caption_and_record_know_the_name(named):
    run = StoredRun(named)
    assert list(run.table["sampler"]) == ["ours", "ours", "euler", "euler"]
    assert list(run.table["spec"]) == ["ddim:eta=0.5", "ddim:eta=0.5", "euler", "euler"]
    assert [cell.sampler for cell in run.record.cells][:2] == ["ddim:eta=0.5"] * 2
    assert run.record.config.sampler == (OURS, "euler")
    text = (named / "table.md").read_text()
    assert "| ours | 2 |" in text
    assert '"ours" is ddim:eta=0.5.' in text
    assert content_of(run).notes[0] == '"ours" is ddim:eta=0.5'


def test_a_table_without_names_has_no_column_of_specs():
    row = dict.fromkeys(COLUMNS) | {"sampler": "ddim", "spec": "ddim"}
    assert "spec" not in rows_to_table([row])
    assert list(rows_to_table([row, row | {"sampler": "ours"}])["spec"]) == ["ddim", "ddim"]


def test_page_and_pictures_know_the_name(named):
    view = view_of(StoredRun(named))
    assert [series["name"] for series in view.series] == ["ours", "euler"]
    assert {picture["name"] for picture in view.pictures} == {"ours", "euler"}
    assert f"{OURS!r}" in view.call
    assert "ours" in (named / "report.html").read_text()


def test_questions_know_the_name_and_the_spec(named, registry, sb):
    by_name, by_spec = (compare(StoredRun(named), spec, "euler", registry) for spec in ("ours", "ddim:eta=0.5"))
    assert by_name["a"].tolist() == by_spec["a"].tolist()
    assert by_name["a"][0] == "ours, 2 steps, 2 calls"
    for name in ("ours", "ddim:eta=0.5"):
        found = sb("table", named, "--fail-if", f"fid[{name},steps=2] > 0")
        assert found.code == 1
        assert found.err.count("fid of ours, 2 steps") == 1
        assert sb("export", named, "--row", f"{name}@2", "-o", f"out-{len(name)}").code == 0
    sb("table", named, "--fail-if", "fid[our] > 0").refused(2, "no row of sampler 'our' (did you mean 'ours'?)")
    sb("export", named, "--row", "our@2", "-o", "x").refused(2, "there are: ours@2, ours@3, euler@2, euler@3")
    sb("table", named, "--compare", "our", "euler", "--plugin", TOY).refused(2, "there are: ours, euler")


def test_the_same_cells_are_drawn_once_whatever_their_name(named):
    chunks = {path: path.read_bytes() for path in named.rglob("*.safetensors")}
    result = run_of(named, ["theirs=ddim:eta=0.5", "euler"])
    assert list(result.table["sampler"])[::2] == ["theirs", "euler"]
    assert {path: path.read_bytes() for path in named.rglob("*.safetensors")} == chunks
    assert json.loads((named / "run.json").read_text())["config"]["sampler"][0] == "theirs=ddim:eta=0.5"


def test_a_table_of_before_has_the_names_of_now(named, edited):
    edited(named, config__sampler=["theirs=ddim:eta=0.5", "euler"], cells__0__name="theirs", cells__1__name="theirs")
    table = StoredRun(named).table
    assert list(table["sampler"]) == ["theirs", "theirs", "euler", "euler"]
    edited(named, cells__0__name="others")
    with pytest.raises(Exception, match=r"the names of cells are not those of config\.sampler"):
        _ = StoredRun(named).record


def test_add_keeps_names_and_gives_them(named):
    config = StoredRun(named).record.config
    more = enlarge(config, {"sampler": ("ddim:eta=0.5", "second=euler", "last=ddpm")})
    assert more.sampler == (OURS, "second=euler", "last=ddpm")
    with pytest.raises(InputError, match="the name 'ours' is taken by"):
        enlarge(config, {"sampler": ("ours=ddpm",)})


def test_runs_are_merged_and_compared_by_what_was_drawn(named, tmp_path, sb, edited):
    other = run_of(tmp_path / "other", ["ddim:eta=0.5", "mine=ddpm"], steps=[2]).folder
    merged = merge([StoredRun(other), StoredRun(named)])
    assert list(merged.table["sampler"]) == ["ours", "mine", "ours", "euler", "euler"]
    against = sb("table", other, "--baseline", named, "--plugin", TOY)
    assert "ddim:eta=0.5, 2 steps, 2 calls" in against.out
    assert "not compared, because the runs do not both have it: mine, 2 steps, 2 calls" in against.err
    edited(other, config__sampler=["ddim:eta=0.5", "ours=ddpm"], cells__1__name="ours")
    sb("table", named, other, "--merge").refused(2, "the name 'ours' is taken by 'ddim:eta=0.5'", "-s NAME=SPEC")

"""Options that are files, and specs that hold commas: what is read, when, and what is said of the rest."""

import json
import os
import textwrap

import pytest

import samplerbench as sb
from cases import thinned
from samplerbench.bench.cli.listing import listing
from samplerbench.samplers import options
from samplerbench.samplers.options import describe_options, option_fault, options_of, parse_spec
from samplerbench.samplers.registry import load_registry

LEARNED = """
import json
from collections.abc import Sequence
from dataclasses import dataclass
from samplerbench import File, Grid, Sampler, hookimpl

@dataclass(frozen=True)
class Learned(Sampler):
    file: File | None = None
    note: str = ""
    convergence = 1
    def nfe(self, steps):
        return steps
    def step(self, run, x, a, b, past):
        scale = json.loads(self.file.read_bytes())["scale"] if self.file else 1.0
        return run.predict(x, a).combine(b.alpha * scale, b.sigma), None

@dataclass(frozen=True)
class Placed(Grid):
    file: File | None = None
    def times(self, schedule, steps):
        return json.loads(self.file.read_bytes())[:steps]

@hookimpl
def samplerbench_samplers():
    return {"tabled": Learned}

@hookimpl
def samplerbench_grids():
    return {"placed": Placed}
"""
RUN = ("run", "--model", "mixture", "--steps", "2", "-n", "8", "--plugin", "tabled.py")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the plugin and two files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tabled.py").write_text(textwrap.dedent(LEARNED))
    (tmp_path / "c.json").write_text(json.dumps({"scale": 0.5}))
    (tmp_path / "g.json").write_text(json.dumps([900, 300]))
    return tmp_path


def test_a_file_is_read_once(here):
    file = sb.File("c.json")
    (here / "c.json").write_text("other")
    assert (str(file), file.path.name, json.loads(file.read_bytes())) == ("c.json", "c.json", {"scale": 0.5})
    assert file.sha256 != sb.File("c.json").sha256
    assert repr(file) == "File('c.json')"


def test_two_files_are_equal_if_their_bytes_are(here):
    (here / "copy.json").write_bytes((here / "c.json").read_bytes())
    assert sb.File("c.json") == sb.File(here / "copy.json") != sb.File("g.json")
    assert len({sb.File("c.json"), sb.File("copy.json"), sb.File("g.json")}) == 2
    assert sb.File("c.json") != "c.json"


def test_a_file_comes_as_text_path_or_file(here):
    registry = load_registry(["tabled.py"])
    tabled = registry.sampler("tabled:file=c.json")
    assert tabled == registry.sampler("tabled", file=here / "c.json") == registry.sampler("tabled", file=tabled.file)
    assert registry.sampler("tabled").file is registry.sampler("tabled", file=None).file is None
    with pytest.raises(sb.InputError, match=r"option file 3: expected the path of a file"):
        registry.sampler("tabled", file=3)


def test_a_file_is_listed_as_an_option(here):
    registry = load_registry(["tabled.py"])
    cls = registry.samplers.things["tabled"]
    assert option_fault(cls) == ""
    assert options_of(cls)["file"].kind is sb.File
    assert describe_options(cls) == "file=None note="
    (row,) = (row for row in listing(registry, "samplers") if row["name"] == "tabled")
    assert (row["NFE"], row["options"]) == ("steps", "file=None note=")
    with pytest.raises(
        sb.InputError, match=r"unknown option 'fil' \(did you mean 'file'\?\); options: file \(a file\)"
    ):
        registry.sampler("tabled:fil=c.json")


@pytest.mark.parametrize("spec", thinned(["tabled", "tabled:file=c.json"], "tabled:file=c.json"))
def test_the_report_card_takes_a_sampler_with_a_file(here, sb, spec):
    (here / "c.json").write_text(json.dumps({"scale": 1.0}))
    done = sb("check", spec, "--quick", "--plugin", "tabled.py")
    assert done.code == 0, done.out


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nope.json", ["No such file or directory"]),
        ("folder", ["a folder, pipe or device"]),
        ("pipe", ["a folder, pipe or device"]),
        ("huge", ["holds more than 1,000 bytes"]),
        ("c.json/x", ["Not a directory"]),
        ("x" * 300, ["File name too long"]),
        ("", ["is empty"]),
    ],
)
def test_what_is_no_file_is_one_line_with_option_and_path(here, sb, monkeypatch, path, words):
    (here / "folder").mkdir()
    os.mkfifo(here / "pipe")
    (here / "huge").touch()
    os.truncate(here / "huge", 1001)
    monkeypatch.setattr(options.content_of, "__defaults__", (1000,))
    sb(*RUN, "-s", f"tabled:file={path}").refused(2, "sampler 'tabled': option file: file ", path, *words)
    assert not (here / "results").exists()


def test_a_file_is_not_read_beyond_its_limit(here):
    huge = here / "huge"
    huge.touch()
    os.truncate(huge, options.MOST_BYTES + 1)
    with pytest.raises(sb.InputError, match="holds more than 1,073,741,824 bytes"):
        sb.File(huge)


def test_what_cannot_be_a_path_is_an_input_error():
    with pytest.raises(sb.InputError, match="cannot be read"):
        sb.File("a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read_is_an_input_error(here):
    (here / "c.json").chmod(0)
    with pytest.raises(sb.InputError, match="Permission denied"):
        sb.File("c.json")


@pytest.mark.parametrize(
    ("spec", "given"),
    [
        ('x:file="a,b.json"', {"file": "a,b.json"}),
        ('x:file="a,b=c.json",order=2', {"file": "a,b=c.json", "order": "2"}),
        ('x: order = 2 , file = "a b" ', {"order": "2", "file": "a b"}),
        ('x:file=""', {"file": ""}),
        ("x:file=a:b/c=d", {"file": "a:b/c=d"}),
        ('x:file=6"x4"', {"file": '6"x4"'}),
    ],
)
def test_a_value_with_a_comma_stands_in_quotes(spec, given):
    assert parse_spec(spec) == ("x", given)


def test_a_comma_in_a_path_is_never_the_end_of_it_without_a_word(here, sb):
    (here / "a,b.json").write_text('{"scale": 0.25}')
    (here / "a").write_text('{"scale": 0.5}')
    done = sb(*RUN, "-s", "tabled:file=a,b.json")
    done.refused(2, "'b.json'; expected name:option=value", 'stands in quotes: file="A,B"')
    sb(*RUN, "-s", 'tabled:file="a,b.json').refused(2, 'a " without its other')
    done = sb(*RUN, "-s", 'tabled:file="a,b.json"', "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["table"][0]["sampler"] == 'tabled:file="a,b.json"'


def test_a_grid_may_be_read_from_a_file_in_a_folder(here, sb):
    (here / "grids").mkdir()
    (here / "g.json").rename(here / "grids" / "g.json")
    done = sb(*RUN, "-s", "ddim", "--grid", "placed:file=grids/g.json", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["cells"][0]["grid"] == "placed:file=grids/g.json"
    done = sb("run", "--model", "mixture", "-s", "ddim", "-n", "8", "--grid", "900/300", "--dry-run", "--json")
    assert json.loads(done.out)["cells"][0]["steps"] == 2


@pytest.mark.parametrize("spec", ["DPM++ 2M Karras", "dpm-solver++:grid=karras"])
def test_a_sampler_made_of_a_spec_with_a_grid_warns_that_it_holds_none(spec):
    with pytest.warns(UserWarning, match="names the grid 'karras' too, which a sampler does not hold; give grid="):
        assert sb.make_sampler(spec) == sb.make_sampler("dpm-solver++")

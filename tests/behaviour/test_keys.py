"""What identifies a cell: whatever its numbers depend on and can be seen, and nothing that is at its default."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import samplerbench as sb_
from samplerbench.bench.draw import chunk
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.draw.session import Watch
from samplerbench.bench.judge import table
from samplerbench.bench.plan import keys, plan, sources
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.bench.run import begin
from samplerbench.plugins.samplers.ddim import DDIM
from samplerbench.samplers.model import Model
from samplerbench.samplers.plugin import import_file
from samplerbench.samplers.registry import load_registry
from samplerbench.samplers.sample import Request

TOY = str(Path(__file__).parents[1] / "toy.py")
HEAD = """
import json
from dataclasses import dataclass
from pathlib import Path
from samplerbench import File, Sampler, hookimpl
"""
SAMPLER = """
@dataclass(frozen=True)
class Scaled(Sampler):
    file: File | None = None
    table: str = ""
    convergence = 1
    def nfe(self, steps):
        return steps
    def scale(self):
        if self.file:
            return json.loads(self.file.read_bytes())
        return json.loads(Path(self.table).read_text()) if self.table else 1.0
    def step(self, run, x, a, b, past):
        return run.predict(x, a).combine(b.alpha * self.scale(), b.sigma), None

@hookimpl
def samplerbench_samplers():
    return {"scaled": Scaled}
"""
RUN = ("run", "--model", "mixture", "--steps", "2", "-n", "8", "--json")


def source(scale="json.loads(self.file.read_bytes())", head=""):
    """The plugin, with another way to its scale."""
    return (
        head
        + HEAD
        + SAMPLER.replace("return json.loads(self.file.read_bytes())", f"return {scale}").replace(
            "return json.loads(Path(self.table).read_text()) if self.table else 1.0", f"return {scale}"
        )
        if scale != "json.loads(self.file.read_bytes())"
        else HEAD + SAMPLER
    )


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the plugin and a file for it; what is imported from there is forgotten at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    (tmp_path / "scaled.py").write_text(HEAD + SAMPLER)
    (tmp_path / "c.json").write_text("0.5")
    yield tmp_path
    forget(tmp_path, before)


def forget(folder, before=()):
    """Have all that was imported from a folder imported again, as in another process."""
    for name in set(sys.modules) - set(before):
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def cells_of(*specs, plugins=("scaled.py",), **settings):
    """The cells of a plan on the mixture."""
    config = Config(model="mixture", sampler=specs, **{"steps": (2,), "samples": 8, **settings})
    return plan_for(config, load_registry(plugins)).cells


def key_of(spec="scaled", **settings):
    """The key of one cell."""
    return cells_of(spec, **settings)[0].key


def error_of(done, spec):
    """The ODE error of a sampler's row in what a run printed as JSON."""
    assert done.code == 0, done.err
    (row,) = (row for row in json.loads(done.out)["table"] if row["sampler"] == spec)
    return row["ode_error"]


# Files


@pytest.mark.parametrize("spec", ["scaled:file=c.json", "scaled:table=c.json"])
def test_an_edited_file_of_an_option_is_drawn_again_in_the_same_folder(here, sb, spec):
    command = (*RUN, "-s", spec, "-s", "ddim", "--plugin", "scaled.py")
    first = sb(*command)
    (here / "c.json").write_text("0.9")
    second = sb(*command)
    assert f"edited since, and run again: {spec}" in second.err
    assert " 16 network evaluations to make" in second.err
    assert error_of(first, spec) != error_of(second, spec)
    assert error_of(first, "ddim") == error_of(second, "ddim")
    assert json.loads(first.out)["folder"] == json.loads(second.out)["folder"]
    (here / "c.json").write_text("0.5")
    third = sb(*command)
    assert " 0 network evaluations to make" in third.err
    assert error_of(third, spec) == error_of(first, spec)
    assert sb("verify", json.loads(first.out)["folder"], "--plugin", "scaled.py").code == 0
    (here / "c.json").write_text("0.8")
    sb("verify", json.loads(first.out)["folder"], "--plugin", "scaled.py").refused(2, "was edited since")


@pytest.mark.parametrize("option", ["file", "table"])
def test_the_content_of_a_file_belongs_to_a_cell_and_its_path_does_not(here, option):
    (here / "same.json").write_text("0.5")
    (here / "other.json").write_text("0.6")
    by_path = {name: key_of(f"scaled:{option}={name}") for name in ("c.json", "same.json", "other.json")}
    assert (by_path["c.json"] == by_path["same.json"]) is (option == "file")  # a text is seen by the sampler itself
    assert by_path["c.json"] != by_path["other.json"] != key_of()


def test_a_text_that_names_a_file_by_default_is_known_by_the_content(here):
    (here / "scaled.py").write_text(HEAD + SAMPLER.replace('table: str = ""', 'table: str = "c.json"'))
    before = key_of()
    (here / "c.json").write_text("0.7")
    assert key_of() != before


@pytest.mark.parametrize("text", ["no-such-file", "a\0b", "x" * 5000, ".", "/dev/null"])
def test_a_text_that_names_no_file_is_a_text(here, text):
    cell = cells_of("scaled")[0]
    sampler = dataclasses.replace(cell.request.sampler, table=text)
    assert keys.files_of(sampler) == ({}, ())


def session_of(*specs):
    """A run that has not begun to work."""
    registry = load_registry(["scaled.py"])
    config = Config(model="mixture", sampler=specs, steps=(2,), samples=8)
    return begin(plan_for(config, registry), registry, Path("run"))


def test_a_file_that_is_edited_after_the_plan_is_used_as_it_was_hashed(here):
    expected = sb_.run("mixture", "scaled:file=c.json", 2, 8, plugins=["scaled.py"], output="expected").table
    session = session_of("scaled:file=c.json")
    (here / "c.json").write_text("0.9")
    session.work(Watch())
    result = session.conclude()
    assert result.table["ode_error"].tolist() == expected["ode_error"].tolist()


@pytest.mark.parametrize("how", ["edited", "removed", "folder"])
def test_a_text_s_file_that_is_edited_after_the_plan_fails_its_cell(here, how):
    session = session_of("scaled:table=c.json", "ddim")
    inner = chunk.draw_apart

    def draw_and_edit(request, first, n):
        samples = inner(request, first, n)
        if isinstance(request.sampler, type(session.plan.cells[0].request.sampler)):
            (here / "c.json").unlink()
        if how == "edited":
            (here / "c.json").write_text("0.9")
        elif how == "folder":
            (here / "c.json").mkdir(exist_ok=True)
        return samples

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk, "draw_apart", draw_and_edit)
        session.work(Watch())
    status = dict(zip(*(session.conclude().table[name] for name in ("sampler", "status")), strict=True))
    assert "c.json was edited after the run began; give the same command again" in status["scaled:table=c.json"]
    assert status["ddim"] == "ok"


def test_a_file_that_was_only_touched_is_the_same(here):
    (file,) = cells_of("scaled:table=c.json")[0].files
    (here / "c.json").write_text("0.5")
    file.check()
    (here / "c.json").write_text("0.50")
    with pytest.raises(sb_.InputError, match="edited after the run began"):
        file.check()


@pytest.mark.slow
def test_a_child_that_reads_another_file_says_so(here, sb, monkeypatch):
    monkeypatch.setenv("SAMPLERBENCH_IN_PROCESS", "0")
    session = session_of("scaled:file=c.json", "ddim")
    (here / "c.json").write_text("0.9")
    session.work(Watch())
    statuses = session.conclude().table["status"].tolist()
    assert "edited after the run began; give the same command again" in statuses[0]
    assert statuses[1] == "ok"


# Code


WAYS = {
    "a value of a module beside it": (source("SCALE", "from helper import SCALE\n"), "helper.py", "SCALE = {}\n"),
    "a module of a module": (source("one.SCALE", "import one\n"), "two.py", "SCALE = {}\n"),
    "within a function": (source("__import__('helper').SCALE"), "helper.py", "SCALE = {}\n"),
    "within a method": (
        source("self.late()").replace("    def nfe", "    def late(self):\n        import helper\n"
                                      "        return helper.SCALE\n    def nfe"),
        "helper.py", "SCALE = {}\n",
    ),
    "import_module": (source("importlib.import_module('pack.deep').SCALE", "import importlib\n"), "pack/deep.py",
                      "SCALE = {}\n"),
    "the package of what is imported": (source("deep.SCALE", "from pack import deep\n"), "pack/__init__.py",
                                        "A = {}\n"),
    "a star": (source("SCALE", "from helper import *\n"), "helper.py", "SCALE = {}\n"),
    "a file beside it": (source('json.loads(Path(__file__).with_name("c.json").read_text())'), "c.json", "{}"),
    "a file in a folder": (source('json.loads((Path(__file__).parent / "data" / "c.json").read_text())'),
                           "data/c.json", "{}"),
    "a file of the current folder": (source('json.loads(Path("c.json").read_text())'), "c.json", "{}"),
    "a path in one text": (source('json.loads(Path("data/c.json").read_text())'), "data/c.json", "{}"),
}  # fmt: skip
FILES = {"one.py": "from two import SCALE\n", "two.py": "SCALE = 0.5\n", "helper.py": "SCALE = 0.5\n",
         "pack/__init__.py": "", "pack/deep.py": "SCALE = 0.5\n", "data/c.json": "0.5", "unused.py": "X = 1\n",
         "c.json": "0.5"}  # fmt: skip


def imported():
    """The plugin's sampler, from its file as it is now."""
    return import_file(Path("scaled.py")).Scaled


@pytest.mark.parametrize("way", WAYS)
def test_what_a_plugin_uses_belongs_to_its_cells(here, way):
    plugin, edited, text = WAYS[way]
    (here / "scaled.py").write_text(plugin)
    for name, content in FILES.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(content)
    (here / edited).write_text(text.format(0.5))
    before, scale = keys.source_hash(imported()), imported()().scale()
    (here / "unused.py").write_text("X = 2\n")
    forget(here)
    assert keys.source_hash(imported()) == before
    (here / edited).write_text(text.format(0.75))
    forget(here)
    assert keys.source_hash(imported()) != before
    assert (imported()().scale(), scale) == (0.5 if way == "the package of what is imported" else 0.75, 0.5)


def test_a_module_in_another_folder_of_the_path_belongs_to_it_too(here, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.syspath_prepend(str(elsewhere))
    (elsewhere / "mine_elsewhere.py").write_text("SCALE = 0.5\n")
    (here / "scaled.py").write_text(source("SCALE", "from mine_elsewhere import SCALE\n"))
    before = key_of()
    (elsewhere / "mine_elsewhere.py").write_text("SCALE = 0.6\n")
    forget(elsewhere)
    assert key_of() != before
    forget(elsewhere)


def test_the_version_of_an_installed_package_that_a_plugin_imports_belongs_to_its_cells(here, monkeypatch):
    (here / "scaled.py").write_text(source("1.0", "import safetensors.torch, os, json, numpy\n"))
    code = sources.code_of_class(load_registry(["scaled.py"]).samplers.things["scaled"])
    assert list(code.versions) == ["safetensors"]
    before, ddim = key_of(), key_of("ddim")
    inner = sources.version_of
    monkeypatch.setattr(sources, "version_of", lambda name: "99" if name == "safetensors" else inner(name))
    assert key_of() != before
    assert key_of("ddim") == ddim


def test_of_installed_packages_no_text_is_read(here):
    code = sources.code_of_class(load_registry(["scaled.py"]).samplers.things["scaled"])
    assert [name.rpartition("_")[0] for name in code.modules] == ["samplerbench_plugin_scaled"]
    built_in = sources.code_of_class(DDIM)
    assert set(built_in.modules) == {
        "samplerbench.plugins", "samplerbench.plugins.samplers", "samplerbench.plugins.samplers.ddim",
    }  # fmt: skip
    assert (built_in.files, built_in.versions) == ((), {})


def test_an_edited_helper_is_imported_again_with_its_plugin(here):
    (here / "scaled.py").write_text(source("SCALE", "from helper import SCALE\n"))
    (here / "helper.py").write_text("SCALE = 0.5\n")
    first = key_of(), load_registry(["scaled.py"]).sampler("scaled").scale()
    (here / "helper.py").write_text("SCALE = 0.7\n")
    second = key_of(), load_registry(["scaled.py"]).sampler("scaled").scale()
    assert (first[1], second[1]) == (0.5, 0.7)
    assert first[0] != second[0]
    assert not list(here.rglob("*.pyc"))


def test_a_key_is_of_the_code_that_runs_not_of_the_file_that_was_edited_since(here):
    (here / "scaled.py").write_text(source("SCALE", "from helper import SCALE\n"))
    (here / "helper.py").write_text("SCALE = 0.5\n")
    registry = load_registry(["scaled.py"])
    config = Config(model="mixture", sampler=("scaled",), steps=(2,), samples=8)
    before = plan_for(config, registry).cells[0].key
    (here / "scaled.py").write_text(source("0.25"))
    assert load_registry(["scaled.py"]).sampler("scaled").scale() == 0.25
    (here / "helper.py").write_text("SCALE = 0.7\n")
    assert registry.sampler("scaled").scale() == 0.5
    assert plan_for(config, registry).cells[0].key == before


def test_code_that_cannot_be_parsed_or_read_is_no_error(here):
    assert sources.imports_in("def broken(:", "") == ()
    assert sources.paths_written("\0") == ()
    assert sources.source("no.such.module") is None
    assert sources.source("x y.z") is None
    assert sources.source("sys").origin == ""


# Defaults


def heir_of(cls, **fields):
    """The class with further fields, called as it is."""
    options = [(name, type(value), dataclasses.field(default=value)) for name, value in fields.items()]
    made = dataclasses.make_dataclass(cls.__name__, options, bases=(cls,), frozen=True, kw_only=True)
    made.__module__, made.__qualname__ = cls.__module__, cls.__qualname__
    return made


def with_fields(thing, cls):
    """A dataclass object as one of an heir of its class, with that one's defaults."""
    values = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing) if field.init}
    return cls(**values)


def test_a_new_option_of_a_sampler_at_its_default_leaves_the_key(monkeypatch):
    def cell():
        return cells_of("ddim:eta=0.5", plugins=())[0]

    before = cell()
    registry = load_registry()
    later = heir_of(DDIM, order=2, shape="round", path="")
    registry.samplers.things["ddim"] = later
    monkeypatch.setattr(sys.modules[__name__], "load_registry", lambda plugins: registry)
    assert type(cell().request.sampler) is later
    assert (cell().key, cell().setting) == (before.key, before.setting)
    assert cells_of("ddim:eta=0.5,order=3", plugins=())[0].setting != before.setting


def test_a_new_setting_of_a_request_or_of_a_model_at_its_default_leaves_the_key():
    request = cells_of("ddim", plugins=())[0].request
    before = keys.cell_setting(request, ())
    later = heir_of(Request, calls=1, start=0.0, mask=None)
    assert keys.cell_setting(with_fields(request, later), ()) == before
    assert keys.cell_setting(dataclasses.replace(with_fields(request, later), start=0.5), ()) != before
    model = with_fields(request.model, heir_of(Model, white=1.0, hints=()))
    assert keys.cell_setting(dataclasses.replace(request, model=model), ()) == before
    model = dataclasses.replace(model, hints=("edges",))
    assert keys.cell_setting(dataclasses.replace(request, model=model), ()) != before


def test_a_new_setting_of_a_run_at_its_default_leaves_the_plan():
    before = plan_for(Config(model="mixture", sampler=("ddim",)), load_registry())
    later = with_fields(before.config, heir_of(Config, strength=1.0, start=""))
    assert dataclasses.replace(before, config=later).key == before.key
    assert dataclasses.replace(before, config=dataclasses.replace(later, start="x")).key != before.key


@pytest.mark.parametrize("name", plan.ALWAYS)
def test_settings_that_every_run_has_are_part_of_its_plan_at_their_defaults_too(name, monkeypatch):
    """Their defaults may change one day, and a run must not be taken for another by that."""
    before = plan_for(Config(model="mixture", sampler=("ddim",)), load_registry())
    other = {"model": "gaussian", "sampler": ("ddpm",), "steps": (5,), "nfe": (5,), "samples": 64, "seed": 1}[name]
    changed = dataclasses.replace(before.config, **({"steps": ()} if name == "nfe" else {}) | {name: other})
    monkeypatch.setattr(Config, name, other)  # as if that were the default
    assert dataclasses.replace(before, config=changed).key != before.key


CHANGES = {
    "seed": {"seed": 1}, "prompts": {"prompts": ("left",)}, "negative": {"negative": "left"},
    "guidance": {"guidance": 2.0}, "guidance_rescale": {"guidance_rescale": 0.5}, "batch_size": {"batch_size": 32},
    "dtype": {"dtype": torch.float64}, "device": {"device": torch.device("meta")},
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_at_its_default_belongs_to_the_key(change):
    registry = load_registry([TOY])
    request = plan_for(Config(model="toy", sampler=("ddim",), steps=(2,), guidance=3.0), registry).cells[0].request
    assert keys.cell_setting(dataclasses.replace(request, **CHANGES[change]), ()) != keys.cell_setting(request, ())


def test_the_schedule_between_the_levels_belongs_to_the_key():
    request = cells_of("dpm-solver", plugins=())[0].request
    alphas = np.array(request.model.schedule.alphas_cumprod)
    alphas[500] *= 1.000001
    other = dataclasses.replace(request.model, schedule=sb_.vp_from_alphas_cumprod(alphas))
    assert keys.cell_setting(dataclasses.replace(request, model=other), ()) != keys.cell_setting(request, ())


def test_two_values_are_described_alike_only_if_they_are():
    tensor = torch.arange(3.0)
    different = [
        None, True, 1.5, "1.5", (1, 2), (2, 1), {"a": 1}, {"a": 2}, {1, 2}, tensor, tensor + 1, tensor.double(),
        tensor.reshape(3, 1), tensor.numpy().astype("float16"), np.arange(10_000), np.arange(10_000)[::-1],
        torch.float32, torch.device("cpu"), Path("a"), sb_.dynamic_threshold(0.9), sb_.dynamic_threshold(0.8), len,
        np.mean, sb_.edm(), sb_.edm(0.01), sb_.flow(),
    ]  # fmt: skip
    said = [json.dumps(keys.json_value_of(value)) for value in different]
    assert len(set(said)) == len(said)
    assert keys.json_value_of(torch.arange(3.0)) == keys.json_value_of(tensor)
    assert keys.json_value_of(object()) == keys.json_value_of(object())


def test_the_code_of_a_stranger_s_model_and_extractor_belongs_to_the_key(here):
    text = Path(TOY).read_text()

    def setting(source):
        (here / "mine.py").write_text(source)
        registry = load_registry(["mine.py"])
        return plan_for(Config(model="toy", sampler=("ddim",), steps=(2,), samples=8), registry).cells[0].setting

    before = setting(text)
    assert setting(text) == before
    assert setting(text.replace("images.float() / 127.5 - 1, 4", "images.float() / 127.5 - 1, 4, 2")) != before
    assert setting(text.replace("(x - alpha * x0) / sigma", "x")) != before


def test_levels_are_hashed_to_the_last_bit():
    level = sb_.Level(0.6, 0.8, 500.0)
    near = dataclasses.replace(level, sigma=np.nextafter(0.8, 1))
    assert keys.levels_hash((level,)) == keys.levels_hash((sb_.Level(0.6, 0.8, 500.0),)) != keys.levels_hash((near,))
    clean = sb_.Level(1.0, 0.0, float("nan"))
    assert keys.levels_hash((clean,)) == keys.levels_hash((sb_.Level(1.0, 0.0, float("nan")),))


# Formats and clocks


def test_a_run_of_format_1_is_refused_in_one_line(here, sb, edited):
    command = (*RUN, "-s", "ddim", "-o", "run")
    assert sb(*command).code == 0
    edited(here / "run", format=1)
    sb(*command).refused(5, "run.json: format 1, and this version reads 2")
    assert sb(*command, "--fresh").code == 0
    assert read_run(here / "run").format == 2


NOT_OF_SAMPLES = ("overhead", "timing", "repeats", "peak_memory_mb", "load_per_core")


def depends_on_clock_or_place(column):
    """Whether a column's name says so."""
    return "seconds" in column or column in NOT_OF_SAMPLES


def test_every_column_that_a_clock_or_a_place_moves_says_so(here, monkeypatch):
    def run(folder):
        settings = {"plugins": [TOY], "metrics": ["fid", "clip_score", "brightness"], "repeats": 5}
        return sb_.run("toy", ["ddim", "ddpm"], [2], 64, **settings, output=folder).table

    here_ = run("here")
    times = iter(np.random.default_rng(5).uniform(1e3, 1e6, 100_000).cumsum())
    for module in ("samplerbench.samplers.sample", "samplerbench.samplers.predictor"):
        monkeypatch.setattr(f"{module}.clock", lambda device: next(times))
    monkeypatch.setattr("samplerbench.bench.draw.clock.load_per_core", lambda: 7.0)
    monkeypatch.setattr("samplerbench.bench.draw.clock.peak_memory", lambda device: 12345)
    there = run("there")
    for column in here_.columns:
        moved = not here_[column].equals(there[column])
        assert not moved or depends_on_clock_or_place(column), column
    assert {c for c in here_.columns if depends_on_clock_or_place(c)} == set(table.timing.COLUMNS)
    assert (there["seconds_per_image"] > 1e3 * here_["seconds_per_image"]).all()  # the clock was another


BUILT = '''"""A sampler."""
from ..samplers.sampler import Past, Sampler
from .deis import adams_weights

class Mine(Sampler):
    """It steps."""
    scale = 2.0
    """A number."""

    def step(self):
        return self.scale  # why
'''


@pytest.mark.parametrize(
    ("before", "after", "is_known"),
    [
        ("It steps.", "It goes on.", True),
        ('    """A number."""\n', "", True),
        ("# why", "# why not", True),
        (
            "from ..samplers.sampler import Past, Sampler\nfrom .deis",
            "from ...core.way import Sampler, Past\nfrom .d",
            True,
        ),
        ("2.0", "2.5", False),
        ("adams_weights", "adams_weights as weights", False),
        ("self.scale  #", "-self.scale  #", False),
    ],
)
def test_rewording_or_moving_a_built_in_sampler_redraws_nothing(before, after, is_known):
    assert before in BUILT
    digests = [
        sources.Code({name: BUILT.replace(before, after) if edited else BUILT}, (), {}).digest
        for name in ("samplerbench.plugins.mine", "stranger")
        for edited in (False, True)
    ]
    assert (digests[0] == digests[1]) is is_known
    assert digests[2] != digests[3]
    assert digests[0] != digests[2]

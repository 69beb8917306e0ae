"""Plugins written by strangers: whatever one of them does, it is named, and nobody else's work suffers."""

import importlib
import json
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import samplerbench
from cases import FURTHER, thinned
from samplerbench.bench import cli
from samplerbench.bench.draw.chunk import reason_of
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.samplers import process, registry
from samplerbench.samplers.patches import functions_now, put_back_functions
from samplerbench.samplers.registry import load_registry

HEAD = """
from dataclasses import dataclass
from typing import Literal
from samplerbench import Grid, InputError, Metric, Sampler, hookimpl
"""
SAMPLER = '''
@dataclass(frozen=True)
class Mine(Sampler):
    """First order."""
    convergence = 1
    def nfe(self, steps):
        return steps
    def step(self, run, x, a, b, past):
        return run.predict(x, a).combine(b.alpha, b.sigma), None

@hookimpl
def samplerbench_samplers():
    return {"mine": Mine}
'''
GOOD = HEAD + SAMPLER
MIXTURE = ("run", "--model", "mixture", "--steps", "2", "-n", "8")


def spoilt(old, new, source=GOOD):
    """The good plugin with one place changed."""
    assert source.count(old) == 1
    return source.replace(old, new)


def with_step(line, source=GOOD):
    """The good plugin with a line before its step."""
    return spoilt("        return run.predict", f"        {line}\n        return run.predict", source)


@pytest.fixture
def sb(sb, monkeypatch, tmp_path):
    """The program in a folder that is empty, beside those of the plugins."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return sb


@pytest.fixture
def plugin(tmp_path):
    """Write a plugin file; returns its path as text."""

    def write(source, name="stranger.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(source))
        return str(path)

    return write


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package of one module, or of several files, with an entry point, as an installer leaves it."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def add(name, files, entry=None, version="1.0"):
        for file, source in ({f"{name}.py": files} if isinstance(files, str) else files).items():
            (site / file).parent.mkdir(exist_ok=True)
            (site / file).write_text(textwrap.dedent(source))
        about = site / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (about / "entry_points.txt").write_text(f"[samplerbench]\n{entry or name} = {name}\n")
        importlib.invalidate_caches()
        return site

    yield add
    for name in set(sys.modules) - before:
        if str(site) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def names(found):
    """All that is registered, by kind."""
    return {kind: set(getattr(found, kind).things) for kind in ("samplers", "grids", "models", "metrics")}


def row(table, sampler):
    """One row of a table read from JSON."""
    (found,) = (row for row in table if row["sampler"] == sampler)
    return found


# The three ways in


def test_a_plugin_comes_in_by_an_entry_point(sb, install):
    install("stranger_good", GOOD, version="2.5")
    assert sb(*MIXTURE, "-s", "mine").code == 0
    (listed,) = (r for r in json.loads(sb("list", "--json").out)["samplers"] if r["name"] == "mine")
    assert listed["origin"] == "stranger_good 2.5"


def test_an_entry_point_may_name_a_package_of_many_modules(install):
    install(
        "stranger_pack",
        {
            "stranger_pack/__init__.py": "",
            "stranger_pack/one.py": GOOD,
            "stranger_pack/two.py": spoilt('"mine"', '"other"'),
            "stranger_pack/three.py": "import no_such_module_anywhere",
        },
    )
    found = load_registry()
    assert str(found.samplers.origins["mine"]) == "stranger_pack.one 1.0"
    assert str(found.samplers.origins["other"]) == "stranger_pack.two 1.0"
    assert [str(b.origin) for b in found.broken] == ["stranger_pack.three 1.0"]


@pytest.mark.parametrize("given", ["file", "module"])
def test_a_plugin_comes_in_by_name(sb, plugin, monkeypatch, tmp_path, given):
    path = plugin(GOOD, "stranger_by_name.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    done = sb(*MIXTURE, "-s", "mine", "--plugin", path if given == "file" else "stranger_by_name")
    sys.modules.pop("stranger_by_name", None)
    assert done.code == 0, done.err


def test_a_plugin_file_leaves_no_litter_beside_it(plugin, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    load_registry([plugin(GOOD)])
    assert [p.name for p in tmp_path.iterdir()] == ["stranger.py"]


# One that is broken


FAULTY = {
    "import": "import no_such_module_anywhere",
    "syntax": "def broken(:",
    "raises": "raise RuntimeError('one\\ntwo \\x1b[31m')",
    "exits": "import sys; sys.exit(0)",
    "raises what is no Exception": "raise BaseException('odd')",
    "raises GeneratorExit": "raise GeneratorExit",
    "is cancelled": "import asyncio; raise asyncio.CancelledError",
    "raises a group": "raise BaseExceptionGroup('two', [GeneratorExit(), ValueError('x')])",
    "hook raises": spoilt('return {"mine": Mine}', "1 / 0"),
    "hook raises what is no Exception": spoilt('return {"mine": Mine}', "raise BaseException('odd')"),
    "hook exits": spoilt('return {"mine": Mine}', "raise SystemExit(0)"),
    "hook forgets": spoilt('return {"mine": Mine}', "pass"),
    "no name": spoilt('"mine"', "'../x'"),
    "takes a name": spoilt('"mine"', '"ddim"'),
    "interface": "samplerbench_api = 2",
}


@pytest.mark.parametrize("fault", thinned(FAULTY, "import", "syntax", "exits", "hook raises"))
def test_one_broken_plugin_is_named_and_the_others_work(sb, install, fault):
    install("stranger_bad", FAULTY[fault])
    install("stranger_good", spoilt('"mine"', '"good"'))
    listed = sb("list")
    assert listed.code == 0
    assert listed.err.startswith("Error: plugin stranger_bad 1.0 is broken and left out: ")
    assert listed.err.count("\n") == 1
    assert listed.err[:-1].isprintable()
    assert "stranger_good 1.0" in listed.out
    assert json.loads(sb("list", "--json").out)["broken"][0]["origin"] == "stranger_bad 1.0"


@pytest.mark.parametrize("fault", thinned(FAULTY, "import", "hook raises"))
def test_beside_a_broken_plugin_a_run_is_made(sb, install, fault):
    install("stranger_bad", FAULTY[fault])
    install("stranger_good", spoilt('"mine"', '"good"'))
    done = sb(*MIXTURE, "-s", "ddim", "-s", "good")
    assert done.code == 0
    assert "stranger_bad" in done.err


def test_a_broken_plugin_is_exit_code_3_where_its_sampler_is_needed(sb, install):
    install("stranger_bad", "import no_such_module_anywhere" + GOOD)
    done = sb(*MIXTURE, "-s", "mine")
    assert done.code == 3
    last = done.err.splitlines()[-1]
    for words in ("unknown sampler 'mine'", "stranger_bad 1.0", "no_such_module_anywhere", "ddim"):
        assert words in last
    assert sb(*MIXTURE, "-s", "mine", env={"SAMPLERBENCH_NO_PLUGINS": "1"}).code == 2


def test_nothing_below_a_broken_package_is_loaded(install):
    install("stranger_pack", {"stranger_pack/__init__.py": "samplerbench_api = 7", "stranger_pack/one.py": GOOD})
    found = load_registry()
    assert [str(b.origin) for b in found.broken] == ["stranger_pack 1.0"]
    assert "mine" not in found.samplers.things


@pytest.mark.parametrize("stated", ["2", "0", "'1'", "1.0", "True", "None"])
def test_another_interface_is_refused_naming_both(sb, plugin, stated):
    path = plugin(f"samplerbench_api = {stated}\n{GOOD}")
    version = samplerbench.API_VERSION
    sb("list", "--plugin", path).refused(3, f"written for interface {stated}", f"has interface {version}")


def test_another_interface_is_named_before_what_else_is_new_in_it(sb, plugin):
    path = plugin(f"samplerbench_api = 2\n{spoilt('samplerbench_samplers', 'samplerbench_schedules')}")
    sb("list", "--plugin", path).refused(3, "written for interface 2")


def test_the_interface_may_be_stated(plugin):
    found = load_registry([plugin(f"samplerbench_api = {samplerbench.API_VERSION}\n{GOOD}")])
    assert "mine" in found.samplers.things


def test_ctrl_c_while_a_plugin_loads_names_it(sb, install):
    install("stranger_slow", "raise KeyboardInterrupt")
    sb("list").refused(130, "stranger_slow 1.0", "--no-plugins")


# Without strangers


@pytest.mark.parametrize("how", ["option", "environment"])
@pytest.mark.parametrize("command", thinned([["list"], [*MIXTURE, "-s", "ddim"]], ["list"]))
def test_plugins_of_others_can_be_left_out(sb, install, how, command):
    install("stranger_bad", "raise RuntimeError('was imported')")
    arguments, env = (["--no-plugins"], {}) if how == "option" else ([], {"SAMPLERBENCH_NO_PLUGINS": "1"})
    done = sb(*command, *arguments, env=env)
    assert done.code == 0
    assert "stranger_bad" not in done.err + done.out
    assert "stranger_bad" in sb(*command).err


def test_a_plugin_that_is_named_is_loaded_all_the_same(sb, plugin):
    assert "mine" in sb("list", "--no-plugins", "--plugin", plugin(GOOD)).out


@pytest.mark.parametrize(("said", "left_out"), [("1", True), ("true", True), ("0", False), ("", False), ("off", False)])
def test_the_environment_is_read_from_python_too(install, monkeypatch, said, left_out):
    install("stranger_good", GOOD)
    monkeypatch.setenv("SAMPLERBENCH_NO_PLUGINS", said)
    assert ("mine" in load_registry().samplers.things) is not left_out


def test_an_environment_that_says_nothing_clear_is_refused(sb, monkeypatch):
    sb("list", env={"SAMPLERBENCH_NO_PLUGINS": "perhaps"}).refused(2, "'perhaps'")
    monkeypatch.setenv("SAMPLERBENCH_NO_PLUGINS", "perhaps")
    with pytest.raises(samplerbench.InputError, match=r"SAMPLERBENCH_NO_PLUGINS 'perhaps': expected 1 or 0"):
        load_registry()


def test_a_slow_plugin_is_named_with_its_time(sb, install, monkeypatch):
    install("stranger_good", GOOD)
    assert not sb("list").err
    monkeypatch.setattr(registry, "SLOW_SECONDS", 0.0)
    listed = sb("list")
    assert listed.code == 0
    assert listed.err.startswith("Note: plugin stranger_good 1.0 took 0.")
    assert listed.err.endswith(" s to load; --no-plugins leaves it out\n")
    (remark,) = json.loads(sb("list", "--json").out)["remarks"]
    assert remark["origin"] == "stranger_good 1.0"


def test_files_in_the_current_folder_are_not_loaded_unless_named(sb, tmp_path):
    for name in ("stranger.py", "my_plugin.py", "samplerbench_plugin.py", "plugins.py", "conftest.py"):
        (tmp_path / "here" / name).write_text(f"import os; os.mkdir('was-imported')\n{GOOD}")
    assert "mine" not in sb("list").out
    assert not (tmp_path / "here" / "was-imported").exists()
    sb("list", "--plugin", "my_plugin").refused(3, "No module named 'my_plugin'", "give --plugin my_plugin.py")
    assert "mine" in sb("list", "--plugin", "my_plugin.py").out
    assert (tmp_path / "here" / "was-imported").exists()


# Names


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_two_packages_with_one_entry_point_name_are_both_refused(install, order):
    for letter in order:
        install(f"stranger_{letter}", spoilt('"mine"', f'"mine-{letter}"'), entry="mine", version=f"1.{ord(letter)}")
    found = load_registry()
    assert not {"mine-a", "mine-b"} & set(found.samplers.things)
    assert [str(b.origin) for b in found.broken] == ["stranger_a 1.97", "stranger_b 1.98"]
    for broken in found.broken:
        assert "entry point 'mine' is claimed by stranger_a 1.97 and by stranger_b 1.98" in broken.reason


def test_an_entry_point_with_the_built_in_s_name_harms_nobody_else(install):
    everyone = names(load_registry())
    install("stranger_bold", spoilt('"mine"', '"ddim"'), entry="builtin")
    found = load_registry()
    assert names(found) == everyone
    assert "samplerbench.plugins.samplers.ddim" in found.broken[0].reason


def alias(**aliases):
    """The good plugin with these aliases."""
    return spoilt("    convergence = 1", f"    aliases = {aliases!r}\n    convergence = 1")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            alias(euler_a=""),
            ["alias 'euler_a' of sampler 'mine'", "'euler-a'", "samplerbench.plugins.samplers.euler_ancestral"],
        ),
        (alias(DPMpp_2M=""), ["alias 'DPMpp_2M'", "'dpm-solver++'", "samplerbench.plugins.samplers.dpm_solver_pp"]),
        (alias(dpm_solver=""), ["alias 'dpm_solver'", "'dpm-solver'", "samplerbench.plugins.samplers.dpm_solver"]),
        (alias(MINE="grid=karras"), ["alias 'MINE'", "its own name"]),
        (alias(mein="etta=1"), ["alias 'mein'", "unknown option 'etta'"]),
        (alias(mein="eta"), ["'eta'", "option=value"]),
        (alias(**{"a:b": ""}), ["alias 'a:b'", "expected letters"]),
        (alias(**{"\x1b[31m": ""}), ["alias '\\x1b[31m'", "expected letters"]),
        (alias(**{"x" * 65: ""}), ["alias 'xxx", "64 characters"]),
        (spoilt('"mine"', '"dpm_solver"'), ["'dpm_solver'", "differs only in dashes from 'dpm-solver'"]),
        (spoilt('"mine"', '"dpmpp_2m"'), ["'dpmpp_2m' of sampler 'dpm-solver++'", "is taken by sampler 'dpmpp_2m'"]),
        (spoilt('{"mine": Mine}', '{"mine": Mine, "my-own": Mine}', alias(mein="")), ["'mein'", "'mine'", "'my-own'"]),
    ],
    ids=lambda value: str(value)[-1:] if isinstance(value, str) else value[0][:40].replace("\x1b", "ESC"),
)
def test_an_alias_belongs_to_one_sampler(sb, plugin, source, words):
    sb("list", "--plugin", plugin(source)).refused(3, "stranger.py", *words)


def test_two_strangers_that_claim_one_alias_are_told_of_each_other(sb, plugin):
    first = plugin(alias(mein=""), "first.py")
    second = plugin(spoilt('"mine"', '"yours"', alias(MEIN="")), "second.py")
    sb("list", "--plugin", first, "--plugin", second).refused(3, "alias 'MEIN'", "'mine'", "first.py", "second.py")


def test_an_alias_of_one_s_own_works_and_is_not_inherited(plugin):
    path = plugin(
        alias(MINE="", mein="grid=karras").replace(
            '{"mine": Mine}', '{"mine": Mine, "heir": type("Heir", (Mine,), {})}'
        )
    )
    found = load_registry([path])
    assert found.sampler_and_grid("Mein") == (found.sampler("mine"), "karras")


@pytest.mark.parametrize("name", ["../x", "a\x1b[31m", "\u202etxt", "x" * 300, "=1+1", "", "Mine", 3])
@pytest.mark.parametrize("kind", ["samplers", "models"])
def test_a_bad_name_is_refused_and_shown_escaped(sb, plugin, name, kind):
    source = f"from samplerbench import hookimpl\n@hookimpl\ndef samplerbench_{kind}():\n    return {{{name!r}: len}}\n"
    done = sb("list", "--plugin", plugin(source))
    done.refused(3, f"{kind[:-1]} name", "lower-case letters")
    assert len(done.err) < 600


def test_an_installed_version_cannot_write_to_the_terminal(sb, install):
    site = install("stranger_good", GOOD)
    (site / "stranger_good-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: stranger_good\nVersion: 1.0\x1b[31m\u202e\n"
    )
    assert sb("list").out.replace("\n", "").isprintable()


# What is not as it should be


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (spoilt("samplerbench_samplers", "samplerbench_sampler"), ["unknown hook 'samplerbench_sampler'",
         "did you mean 'samplerbench_samplers'", "hooks: samplerbench_samplers, samplerbench_grids"]),
        (spoilt("samplerbench_samplers()", "samplerbench_samplers(registry)"),
         ["samplerbench_samplers(registry)", "expected no arguments"]),
        (spoilt("@hookimpl\n", ""), ["samplerbench_samplers is not marked", "@hookimpl"]),
        (spoilt('return {"mine": Mine}', "pass"), ["samplerbench_samplers: returned None", "a dict"]),
        (spoilt('return {"mine": Mine}', 'yield "mine", Mine'), ["returned a generator", "a dict"]),
        (spoilt("step(self, run, x, a, b, past)", "step(self, x, a, b)"),
         ["step(self, x, a, b)", "expected step(self, run, x, a, b, past)"]),
        (spoilt("nfe(self, steps)", "nfe(self)"), ["nfe(self)", "expected nfe(self, steps)"]),
        (spoilt("def nfe", "def calls"), ["Mine lacks nfe", "a concrete subclass of Sampler"]),
        (spoilt("@dataclass(frozen=True)\n", "", spoilt("convergence = 1", "convergence = 1\n    eta: float = 0.5")),
         ["options (eta)", "@dataclass(frozen=True)"]),
        (spoilt("(frozen=True)", ""), ["frozen"]),
        (spoilt("convergence = 1", "convergence = 1\n    eta: float"), ["option eta has no default"]),
        (spoilt("convergence = 1", "convergence = 1\n    eta: float | None = None"), ["option eta", "int, float"]),
        (spoilt("convergence = 1", "convergence = 1\n    eta: 'Missing' = 0"), ["NameError", "Missing"]),
        (spoilt('"mine": Mine', '"mine": Mine()'), ["Mine()", "a concrete subclass of Sampler"]),
    ],
    ids=lambda value: str(value)[-1:] if isinstance(value, str) else value[0][:40],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_what_does(sb, plugin, source, words):
    sb("list", "--plugin", plugin(source)).refused(3, "stranger.py", *words)


OPTIONS = spoilt(
    "    convergence = 1",
    """    eta: float = 0.0
    order: Literal[1, 2] = 1
    twice: bool = False
    convergence = 1
    def __post_init__(self):
        if self.eta < 0:
            raise ValueError(f"eta {self.eta}: expected a number from 0 up")
        if self.eta > 8:
            raise KeyError("eight")""",
)


@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        ("mine:etta=1", 2, ["unknown option 'etta'", "did you mean 'eta'",
                            "eta (a finite number), order (1 or 2), twice (true or false)"]),
        ("mine:order=3", 2, ["option order '3'", "expected one of 1, 2"]),
        ("mine:twice=perhaps", 2, ["option twice 'perhaps'", "true or false"]),
        ("mine:eta=-1", 2, ["sampler 'mine'", "eta -1.0: expected a number from 0 up"]),
        ("mine:eta=9", 3, ["sampler 'mine'", "KeyError: 'eight'"]),
        ("mien", 2, ["unknown sampler 'mien'", "did you mean 'mine'"]),
    ],
)  # fmt: skip
def test_a_mistyped_option_is_answered_with_those_that_there_are(sb, plugin, spec, code, words):
    sb(*MIXTURE, "-s", spec, "--plugin", plugin(OPTIONS)).refused(code, *words)


CODE = """
@hookimpl
def samplerbench_grids():
    return {"mine": Steps}
@hookimpl
def samplerbench_models():
    return {"mine": lambda argument: exit(0)}
@hookimpl
def samplerbench_metrics():
    return {"mine": Score}
@dataclass(frozen=True)
class Steps(Grid):
    def times(self, schedule, steps):
        exit(0)
class Score(Metric):
    extractor, better, unit, least = "features", "lower", "", 1
    def prepare(self, reference):
        exit(0)
    def estimate(self, rows, prepared):
        return None
"""
TOY = str(Path(__file__).parents[1] / "toy.py")


@pytest.mark.parametrize(
    ("source", "arguments", "code", "words"),
    [
        (spoilt("return steps", "exit(0)"), ["-s", "mine"], 3, ["sampler 'mine'", "nfe(2)", "SystemExit"]),
        pytest.param(spoilt("return steps", "1 / 0"), ["-s", "mine"], 3, ["nfe(2)", "ZeroDivisionError"],
                     marks=FURTHER),
        (spoilt("return steps", "return 2.0"), ["-s", "mine"], 3, ["nfe(2) returned 2.0", "a whole number"]),
        pytest.param(spoilt("return steps", "return -steps"), ["-s", "mine"], 3,
                     ["nfe(2) returned -2", "a whole number"], marks=FURTHER),
        (spoilt("return steps", "return 10**30"), ["-s", "mine"], 3,
         ["nfe(2) returned 1000000000000000000000000000000;", "from 0 to 1000000"]),
        (spoilt("return steps", "return 10**5000"), ["-s", "mine"], 3, ["nfe(2) returned of type int", "1000000"]),
        pytest.param(spoilt("convergence = 1", "convergence = 10**30"), ["-s", "mine"], 3,
                     ["is 1000000", "from 1 to 99"], marks=FURTHER),
        (spoilt("convergence = 1", "convergence = type('S', (str,), {})(2)"), ["-s", "mine"], 3, ["is '2'"]),
        pytest.param(spoilt("convergence = 1", "convergence = property(exit)"), ["-s", "mine"], 3,
                     ["convergence", "SystemExit"], marks=FURTHER),
        (spoilt("convergence = 1", "convergence = 'high'"), ["-s", "mine"], 3, ["convergence is 'high'", "or None"]),
        (spoilt("convergence = 1", "def __post_init__(self):\n        exit(0)"), ["-s", "mine"], 3, ["SystemExit"]),
        (GOOD + CODE, ["-s", "mine", "--grid", "mine"], 3, ["grid 'mine'", "SystemExit"]),
        (GOOD + CODE.replace("    exit(0)", "    return 5"), ["-s", "mine", "--grid", "mine"], 3,
         ["grid 'mine'", "TypeError"]),
        (GOOD + CODE, ["-s", "mine", "--model", "mine"], 4, ["model 'mine'", "SystemExit"]),
        (GOOD + CODE, ["-s", "mine", "--metric", "mine", "--model", "toy", "--plugin", TOY], 3, ["metric 'mine'"]),
    ],
    ids=range(15),
)  # fmt: skip
def test_no_exit_and_no_exception_of_a_plugin_passes_for_the_program_s(sb, plugin, source, arguments, code, words):
    sb(*MIXTURE, *arguments, "--plugin", plugin(source)).refused(code, *words)


@pytest.mark.parametrize("raised", ["BaseException('odd')", "GeneratorExit", "Panic('odd')"])
def test_what_is_no_exception_of_the_usual_kind_is_the_plugin_s_fault_too(sb, plugin, raised):
    """Libraries that are written in other languages raise their own kinds."""
    kind = raised.partition("(")[0]
    panic = "class Panic(BaseException):\n    pass\n"
    for source, code in (
        (f"{panic}raise {raised}", 3),
        (panic + spoilt('return {"mine": Mine}', f"raise {raised}"), 3),
        (panic + spoilt("return steps", f"raise {raised}"), 3),
        (panic + spoilt("convergence = 1", f"def __post_init__(self):\n        raise {raised}"), 3),
    ):
        sb(*MIXTURE, "-s", "mine", "--plugin", plugin(source)).refused(code, kind)
    sb(*MIXTURE, "-s", "ddim", "--model", f"{plugin(f'{panic}raise {raised}')}:make").refused(4, kind)
    made = f"{panic}def make():\n    raise {raised}\n"
    sb(*MIXTURE, "-s", "ddim", "--model", f"{plugin(made)}:make").refused(4, kind)
    checked = sb("check", "mine", "--quick", "--plugin", plugin(panic + with_step(f"raise {raised}")))
    assert (checked.code, kind in checked.out) == (1, True)


def test_ctrl_c_is_the_user_s_wherever_it_comes(sb, plugin):
    done = sb("list", "--plugin", plugin("raise KeyboardInterrupt"))
    assert done.code == 130
    assert (
        done.err
        == f"Error: stopped while plugin {plugin('raise KeyboardInterrupt')} was loaded; --no-plugins leaves it out\n"
    )
    stopped = sb(*MIXTURE, "-s", "mine", "--plugin", plugin(with_step("raise KeyboardInterrupt")))
    assert stopped.code == 130
    assert "go on with: samplerbench run" in stopped.err


def test_a_metric_that_estimates_nothing_is_at_fault(sb, plugin):
    path = plugin(GOOD + CODE.replace("prepare(self, reference):\n        exit(0)", "_(self):\n        pass"))
    done = sb(*MIXTURE, "-s", "mine", "--metric", "mine", "--model", "toy", "--plugin", TOY, "--plugin", path)
    assert done.code == 3
    assert "metric 'mine': returned a NoneType; expected an Estimate" in done.err


def test_a_budget_that_a_plugin_cannot_answer_is_its_fault(sb, plugin):
    path = plugin(GOOD + "\n    def plan(self, nfe):\n        exit(0)\n".join(["", ""]))
    path = plugin(spoilt("    convergence = 1", "    convergence = 1\n    def plan(self, nfe):\n        exit(0)"))
    done = sb("run", "--model", "mixture", "--nfe", "4", "-n", "8", "-s", "mine", "--plugin", path)
    done.refused(3, "sampler 'mine'", "plan(4)", "SystemExit")


@pytest.mark.parametrize(
    "answer",
    ["self, 10**30", "self, 0", "self, True", "self, 2.0", "2, self", "self", "None", "self, '5'"],
)
def test_a_plan_that_no_run_can_follow_is_refused_with_what_is_expected(sb, plugin, answer):
    convergence = "    convergence = 1"
    path = plugin(spoilt(convergence, f"{convergence}\n    def plan(self, nfe):\n        return {answer}"))
    done = sb("run", "--model", "mixture", "--nfe", "4", "-n", "8", "-s", "mine", "-s", "ddim", "--plugin", path)
    done.refused(3, "sampler 'mine': plan(4) returned ", "whole number of steps from 1 to 10000")


@pytest.mark.usefixtures("functions_watched")
@pytest.mark.parametrize("name", ["torch.add", "NumPy's random stream"])
@pytest.mark.parametrize("declares", ["nfe", "convergence"])
def test_a_declaration_that_changes_the_process_is_refused_and_undone(sb, plugin, name, declares):
    meddling = {**REPLACING, **MEDDLING}[name]
    state, add = process_state(), torch.add
    source = {
        "nfe": spoilt("return steps", f"{meddling}; return steps"),
        "convergence": spoilt(
            "convergence = 1", f"@property\n    def convergence(self):\n        {meddling}\n        return 1"
        ),
    }[declares]
    sb(*MIXTURE, "-s", "mine", "--plugin", plugin(source)).refused(3, "sampler 'mine'", f"changed {name}; that was put")
    assert process_state() == state
    assert torch.add is add


def test_the_order_of_a_sampler_is_what_it_declared_before_the_run(plugin):
    path = plugin(spoilt("convergence = 1", "said = [1]\n    convergence = property(lambda self: self.said.pop())"))
    (cell,) = plan_for(Config(model="mixture", sampler=("mine",), steps=(2,)), load_registry([path])).cells
    assert cell.is_deterministic


WORDLESS = """
class Wordless(ValueError):
    def __str__(self):
        raise SystemExit(0)
"""


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (f"{WORDLESS}raise Wordless\n", 3),
        (WORDLESS + spoilt('return {"mine": Mine}', "raise Wordless"), 3),
        (WORDLESS + spoilt("return steps", "raise Wordless"), 3),
        (WORDLESS + spoilt("convergence = 1", "def __post_init__(self):\n        raise Wordless"), 2),
        (WORDLESS + with_step("raise Wordless"), 1),
    ],
    ids=["import", "hook", "nfe", "options", "step"],
)
def test_an_exception_without_words_is_an_error_like_any_other(sb, plugin, source, code):
    done = sb(*MIXTURE, "-s", "mine", "-s", "ddim", "--plugin", plugin(source))
    assert done.code == code
    assert "its text cannot be read (SystemExit)" in done.out + done.err
    assert "Traceback" not in done.err


def test_an_exception_without_words_leaves_its_tile_of_a_grid_empty(sb, plugin):
    path = plugin(WORDLESS + with_step("raise Wordless"))
    done = sb("grid", "--model", "toy", "-y", "sampler=mine,ddim", "--steps", "1", "--plugin", TOY, "--plugin", path)
    assert done.code == 1
    assert "its text cannot be read (SystemExit)" in done.err
    assert "Traceback" not in done.err


def test_a_very_long_text_of_an_exception_is_cut_before_it_is_made_one_line():
    class Long(Exception):
        def __str__(self):
            return type("Text", (str,), {"__iter__": None, "__format__": None})("word " * 10**6)

    assert reason_of(Long()) == f"Long: {'word ' * 60}"[:300].rstrip()


def test_an_exit_that_nothing_catches_is_still_no_success(sb, monkeypatch):
    monkeypatch.setattr("samplerbench.bench.cli.listing.listing", lambda *_: sys.exit(0))
    sb("list").refused(3, "sys.exit(0)")


# Cells


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (with_step("return x.double(), None"), ["step 0", "float64", "expected", "float32"]),
        pytest.param(with_step("return x.to('meta'), None"), ["step 0", "on meta", "on cpu"], marks=FURTHER),
        pytest.param(with_step("return x[:1], None"), ["step 0", "(1, ", "(8, "], marks=FURTHER),
        pytest.param(with_step("return x.numpy(), None"), ["step 0", "ndarray"], marks=FURTHER),
        pytest.param(with_step("return None"), ["step 0", "None", "the pair (x, past)"], marks=FURTHER),
        pytest.param(with_step("return None, None"), ["step 0", "None"], marks=FURTHER),
        (with_step("return x"), ["step 0", "the pair (x, past)"]),
        (with_step("return x * float('nan'), None"), ["step 0", "not finite"]),
        (with_step("raise SystemExit(0)"), ["SystemExit"]),
        pytest.param(with_step("raise BaseException('odd')"), ["BaseException: odd"], marks=FURTHER),
        pytest.param(with_step("raise GeneratorExit"), ["GeneratorExit"], marks=FURTHER),
        (with_step("return x, None"), ["made 0 model calls", "nfe(2) declares 2"]),
        pytest.param(
            with_step("[run.predict(x, a) for _ in range(9)]"),
            ["made 20 model calls", "nfe(2) declares 2"],
            marks=FURTHER,
        ),
    ],
    ids=[
        "dtype",
        "device",
        "shape",
        "array",
        "none",
        "none in pair",
        "no pair",
        "nan",
        "exit",
        "no exception",
        "generator",
        "0 calls",
        "10 x",
    ],
)
def test_a_step_that_goes_wrong_fails_its_own_cell(sb, plugin, source, words):
    done = sb(*MIXTURE, "-s", "mine", "-s", "ddim", "--plugin", plugin(source), "--json")
    assert done.code == 1
    table = json.loads(done.out)["table"]
    for word in words:
        assert word in row(table, "mine")["status"]
    assert row(table, "mine")["samples"] == 0
    assert row(table, "ddim")["status"] == "ok"


MEDDLING = {
    "torch's random stream": "import torch; torch.randn(1)",
    "NumPy's random stream": "import numpy; numpy.random.seed(5)",
    "Python's random stream": "import random; random.seed(5)",
    "torch's default dtype": "import torch; torch.set_default_dtype(torch.float64)",
    "torch's default device": "import torch; torch.set_default_device('meta')",
    "torch's threads": "import torch; torch.set_num_threads(torch.get_num_threads() + 1)",
    "torch's float32 precision": "import torch; torch.set_float32_matmul_precision('medium')",
    "torch's half precision": "import torch; torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False",
    "torch's deterministic algorithms": "import torch; torch.use_deterministic_algorithms(True)",
    "torch's denormal numbers": "import torch; torch.set_flush_denormal(True)",
    "torch's cuDNN": "import torch; torch.backends.cudnn.benchmark = True",
    "torch's oneDNN": "import torch; torch.backends.mkldnn.enabled = False",
    "torch's NNPACK": "import torch; torch.backends.nnpack.set_flags(False)",
    "torch's kernels of attention": "import torch; torch.backends.cuda.enable_flash_sdp(False)",
    "torch's libraries of linear algebra": "import torch; torch.backends.cuda.preferred_blas_library('cublaslt')",
    "torch's order of einsum": "import torch.backends.opt_einsum as o; o.enabled = not o.is_available()",
    "torch's autocast": "import torch; torch.autocast('cpu', dtype=torch.bfloat16).__enter__()",
    "torch's autograd": "import torch; torch.autograd.set_detect_anomaly(True)",
    "the environment variables of linear algebra": "import os; os.environ['NVIDIA_TF32_OVERRIDE'] = '1'",
    "NumPy's error state": "import numpy; numpy.seterr(all='raise')",
    "which warnings are errors": "import warnings; warnings.filterwarnings('error', 'of this kind')",
    "the current folder": "import os; os.chdir('/')",
}


def process_state():
    """What plugins must not change."""
    return [aspect.read() for aspect in process.ASPECTS.values()]


def test_each_aspect_has_its_meddler():
    cards = {"CUDA's random streams", "the random stream of mps or xpu", "CUDA's current device"}
    elsewhere = {*cards, "torch's interop threads"}
    assert set(MEDDLING) | elsewhere == set(process.ASPECTS)


@pytest.mark.parametrize("aspect", thinned(MEDDLING, *list(MEDDLING)[::8]))  # the next test has them all
def test_a_cell_that_changes_the_process_fails_and_leaves_no_trace(sb, plugin, aspect, tmp_path):
    before = process_state()
    path = plugin(with_step(MEDDLING[aspect]))
    done = sb(*MIXTURE, "-s", "mine", "-s", "ddpm", "--plugin", path, "-o", "run", "--json")
    assert process_state() == before
    assert done.code == 1
    table = json.loads(done.out)["table"]
    assert f"Mine or the network changed {aspect}" in row(table, "mine")["status"]
    assert row(table, "ddpm")["status"] == "ok"
    assert (tmp_path / "here" / "run" / "table.csv").exists()


@pytest.mark.parametrize("aspect", MEDDLING)
def test_an_import_that_changes_the_process_is_named_and_undone(sb, install, aspect):
    before = process_state()
    install("stranger_good", MEDDLING[aspect] + GOOD)
    listed = sb("list")
    assert process_state() == before
    assert listed.code == 0
    assert "mine" in listed.out
    assert listed.err == f"Note: plugin stranger_good 1.0 changed {aspect} while it was loaded; that was put back\n"


REPLACING = {
    "torch.add": "import torch; torch.add = lambda a, b, **_: a.sub(b)",
    "torch.Tensor.add": "import torch; torch.Tensor.add = torch.Tensor.sub",
    "torch.nn.functional.silu": "import torch; torch.nn.functional.silu = abs",
    "torch.nn.Conv2d.forward": "import torch; torch.nn.Conv2d.forward = lambda self, x: x",
    "numpy.linalg.eigvalsh": "import numpy; numpy.linalg.eigvalsh = numpy.linalg.eigvals",
    "math.log": "import math; math.log = lambda x: 0.0",
    "time.perf_counter": "import time; time.perf_counter = lambda: 0.0",
    "builtins.round": "import builtins; builtins.round = int",
    "samplerbench.samplers.predictor.Prediction.combine": "from samplerbench.samplers import predictor as p; "
    "p.Prediction.combine = lambda self, *a: 0",
    "samplerbench.plugins.samplers.ddim.DDIM.step": "import samplerbench as s; s.list_samplers()['ddim'].step = print",
    "samplerbench.plugins.samplers.ddim.DDIM.plan": "import samplerbench as s; s.list_samplers()['ddim'].plan = print",
}


def what_is(name):
    """What a dotted name stands for."""
    module = next(m for i in range(name.count("."), 0, -1) if (m := sys.modules.get(name.rsplit(".", i)[0])))
    found = module
    for part in name.removeprefix(f"{module.__name__}.").split("."):
        found = getattr(found, part)
    return found


@pytest.mark.usefixtures("functions_watched")
@pytest.mark.parametrize("name", REPLACING)
def test_an_import_that_replaces_a_function_is_named_and_undone(install, name):
    load_registry()
    before = what_is(name)
    install("stranger_good", REPLACING[name] + GOOD)
    found = load_registry()
    assert what_is(name) is before
    assert "mine" in found.samplers.things
    ((origin, text),) = [(str(r.origin), r.text) for r in found.remarks if "took" not in r.text]
    assert (origin, text) == ("stranger_good 1.0", f"changed {name} while it was loaded; that was put back")


@pytest.mark.usefixtures("functions_watched")
@pytest.mark.parametrize("name", ["torch.add", "samplerbench.plugins.samplers.ddim.DDIM.step"])
def test_a_cell_that_replaces_a_function_fails_and_the_next_is_as_it_would_be(sb, plugin, name):
    alone = json.loads(sb(*MIXTURE, "-s", "ddim", "-o", "alone", "--json").out)["table"]
    path = plugin(with_step(REPLACING[name]))
    done = sb(*MIXTURE, "-s", "mine", "-s", "ddim", "--plugin", path, "-o", "run", "--json")
    table = json.loads(done.out)["table"]
    assert f"Mine or the network changed {name}; that was put back" in row(table, "mine")["status"]
    assert row(table, "ddim")["ode_error"] == row(alone, "ddim")["ode_error"]
    assert row(table, "ddim")["status"] == "ok"


def test_parts_of_torch_that_replace_others_are_no_strangers():
    before = functions_now()
    torch.manual_seed = torch.seed  # as torch._dynamo replaces it when it is imported
    try:
        assert put_back_functions(before) == []
    finally:
        next(place for place in before.places if place.owner is torch).put_back("manual_seed")


def test_what_cannot_be_compared_is_another_thing():
    before = functions_now()
    seed, torch.seed = torch.seed, np.zeros(2)
    try:
        assert not before.are_unchanged()
        assert put_back_functions(before) == ["torch.seed"]
        assert torch.seed is seed
        assert before.are_unchanged()
    finally:
        torch.seed = seed


def test_functions_are_copied_again_only_where_one_was_replaced(monkeypatch):
    before = functions_now()
    assert functions_now() is before
    monkeypatch.setattr(torch.nn.Linear, "forward", torch.nn.Bilinear.forward)
    after = functions_now()
    assert after is not before
    assert functions_now() is after


def test_a_default_device_that_was_put_back_leaves_torch_as_fast_as_it_was():
    # While torch has a default device by name, a function of Python is called for each of its operations.
    watching = torch._C._len_torch_function_stack()
    with process.state_kept() as changed:
        torch.set_default_device("meta")
    assert changed == ["torch's default device"]
    assert torch._C._len_torch_function_stack() == watching
    assert torch.ones(1).device == torch.device("cpu")


def test_the_random_streams_go_on_as_if_nothing_had_been_drawn():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    with process.state_kept():
        expected = draw()
    with process.state_kept() as changed:
        [draw() for _ in range(700)]
    assert len(changed) == 3
    assert draw() == expected


def test_a_folder_that_is_gone_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with process.state_kept() as changed:
        pass
    assert changed == []


# Standard output


TALKS = """
import os, subprocess, sys
def talk(where):
    print(where, "by print")
    os.write(1, f"{where} by descriptor\\n".encode())
    subprocess.run([sys.executable, "-S", "-c", f"print('{where} by child')"])
talk("import")
"""


def said_by_program(arguments, cwd, _):
    """What a program of its own says."""
    code = "from samplerbench.bench.cli import main; main()"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, env=env, capture_output=True, text=True,
                          check=False)  # fmt: skip


def said_here(arguments, cwd, capfd):
    """What this process says, and what it starts."""
    with (
        pytest.MonkeyPatch.context() as patch,
        os.fdopen(1, "w", closefd=False) as out,  # those of a program, and not what pytest has in their place
        os.fdopen(2, "w", closefd=False) as err,
    ):
        patch.chdir(cwd)
        for name, value in {"stdout": out, "stderr": err, "argv": ["samplerbench", *arguments]}.items():
            patch.setattr(sys, name, value)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return subprocess.CompletedProcess(arguments, stopped.value.code, *capfd.readouterr())


@pytest.mark.parametrize("said", thinned([said_here, said_by_program], lambda said: said is said_here))
def test_whatever_a_plugin_prints_stdout_is_one_json(plugin, tmp_path, capfd, said):
    path = plugin(with_step("talk('step')", spoilt("return steps", "talk('nfe'); return steps", TALKS + GOOD)))
    command = ["run", "--model", "mixture", "-s", "mine", "--steps", "1", "-n", "2", "--json", "--plugin", path]
    done = said(command, tmp_path, capfd)
    assert done.returncode == 0, done.stderr
    assert row(json.loads(done.stdout)["table"], "mine")["status"] == "ok"
    for where in ("import", "nfe", "step"):
        for how in ("print", "descriptor", "child"):
            assert f"{where} by {how}\n" in done.stderr


def test_json_of_the_listing_has_nothing_else_in_it(sb, plugin):
    path = plugin("print('hello')\n" + spoilt("return steps", "print(1); return steps"))
    done = sb("list", "--json", "--plugin", path)
    assert "mine" in {r["name"] for r in json.loads(done.out)["samplers"]}


# Editing


def key_of(spec, plugins=()):
    """The key of a sampler's cell."""
    config = Config(model="mixture", sampler=(spec,), steps=(2,))
    return plan_for(config, load_registry(plugins)).cells[0].key


def test_the_key_of_a_cell_changes_with_the_sampler_s_file_and_with_nothing_else(plugin):
    path, other = plugin(GOOD), plugin(spoilt('"mine"', '"other"'), "other.py")
    key, other_key = key_of("mine", [path, other]), key_of("other", [path, other])
    assert key_of("mine", [path]) == key
    plugin(GOOD + "# a word\n")
    assert key_of("mine", [path, other]) != key
    assert key_of("other", [path, other]) == other_key
    plugin(GOOD)
    assert key_of("mine", [path, other]) == key


def test_an_edit_of_the_same_length_in_the_same_moment_counts(plugin, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = plugin(with_step("x = x * 1.25"))
    first = load_registry([path]).sampler("mine"), key_of("mine", [path])
    before = Path(path).stat()
    plugin(with_step("x = x * 1.75"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = load_registry([path]).sampler("mine"), key_of("mine", [path])
    assert first[1] != second[1]
    model = samplerbench.load_model("mixture")
    a, b = (samplerbench.sample(model, s, steps=2, n=2).x for s in (first[0], second[0]))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("edited", ["formula", "base", "unused"])
def test_the_key_of_a_cell_knows_the_modules_that_a_sampler_builds_on(install, edited):
    uses = "from .formula import formula\nfrom .base import Base\n"
    heir = spoilt("(Sampler)", "(Base)", spoilt("combine(b.alpha, b.sigma)", "combine(*formula(b))"))
    package = {
        "__init__.py": "",
        "main.py": uses + heir,
        "formula.py": "def formula(b):\n    return b.alpha, b.sigma\n",
        "base.py": "from samplerbench import Sampler\nclass Base(Sampler):\n    '''A base.'''\n",
        "unused.py": "x = 1\n",
    }
    site = install("stranger_pack", {f"stranger_pack/{name}": source for name, source in package.items()})
    key = key_of("mine")
    with (site / "stranger_pack" / f"{edited}.py").open("a") as file:
        file.write("# edited\n")
    assert key_of("mine") == key  # what was imported is what runs
    for name in [name for name in sys.modules if name.partition(".")[0] == "stranger_pack"]:
        del sys.modules[name]  # as another process begins
    assert (key_of("mine") != key) is (edited != "unused")


def test_an_edited_plugin_runs_again_in_the_folder_that_the_same_command_names(sb, plugin, tmp_path):
    path = plugin(GOOD)
    command = (*MIXTURE, "-s", "mine", "-s", "ddim", "--plugin", path, "--json")
    first = json.loads(sb(*command).out)
    plugin(with_step("x = x * 0.5"))
    done = sb(*command)
    second = json.loads(done.out)
    assert "edited since, and run again: mine" in done.err
    assert " 16 network evaluations to make" in done.err
    assert first["folder"] == second["folder"]
    assert row(first["table"], "mine")["ode_error"] != row(second["table"], "mine")["ode_error"]
    assert (
        pd.DataFrame([row(first["table"], "ddim")])
        .drop(columns="same_as")
        .equals(pd.DataFrame([row(second["table"], "ddim")]).drop(columns="same_as"))
    )
    assert "edited" not in sb(*command).err

"""Names, options and plugins: what is accepted, and what is said of the rest."""

import os
import re
import sys
import textwrap

import pytest
import torch

import samplerbench as sb
from samplerbench.samplers import registry as registries
from samplerbench.samplers.errors import closest
from samplerbench.samplers.exact import exact_model
from samplerbench.samplers.options import describe_options, parse_spec
from samplerbench.samplers.registry import default_registry, load_registry

MY_EULER = '''
"""Euler in sigma/alpha (Karras et al. 2022, algorithm 1 without churn)."""
from dataclasses import dataclass
from samplerbench import Sampler, hookimpl

@dataclass(frozen=True)
class Euler(Sampler):
    convergence = 1
    def nfe(self, steps):
        return steps
    def step(self, run, x, a, b, past):
        return run.predict(x, a).combine(b.alpha, b.sigma), None

@hookimpl
def samplerbench_samplers():
    return {"my-euler": Euler}
'''


@pytest.fixture
def plugin(tmp_path):
    """Write a plugin file; returns its path as text."""
    files = iter(range(10))

    def write(source, name=None):
        path = tmp_path / (name or f"plugin_{tmp_path.name.replace('-', '_')}_{next(files)}.py")
        path.write_text(textwrap.dedent(source))
        return str(path)

    return write


def names(registry):
    """All that is registered, by kind."""
    return {kind: sorted(getattr(registry, kind).things) for kind in ("samplers", "grids", "models", "metrics")}


def test_built_in_plugins_are_examined_once_and_each_registry_is_its_own(plugin, monkeypatch):
    load_registry()
    examined = []
    inner = registries.register_below
    monkeypatch.setattr(registries, "register_below", lambda *a: examined.append(a[1]) or inner(*a))
    mine, other = load_registry([plugin(MY_EULER)]), load_registry()
    assert registries.BUILT_IN not in examined
    assert "my-euler" in mine.samplers.things
    assert "my-euler" not in other.samplers.things
    assert mine.samplers.broken is mine.broken is not other.broken
    assert names(other) == names(default_registry())


def test_built_in_plugins_that_fail_are_tried_again(monkeypatch):
    monkeypatch.setattr(registries, "_built_in", {})
    monkeypatch.setitem(sys.modules, "samplerbench.plugins.samplers.heun", None)
    broken = load_registry()
    assert "heun" not in broken.samplers.things
    assert [b.origin.plugin for b in broken.broken] == ["samplerbench.plugins.samplers.heun"]
    monkeypatch.undo()
    assert "heun" in load_registry().samplers.things


def refuses(path, *words):
    """Loading the plugin is a PluginError of one line with these words."""
    with pytest.raises(sb.PluginError) as caught:
        load_registry([path])
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert path in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize(
    ("spec", "name", "options"),
    [
        ("ddim", "ddim", {}),
        ("ddim:", "ddim", {}),
        ("ddim:eta=0.5", "ddim", {"eta": "0.5"}),
        (" dpm-solver++:order=2,grid=karras ", "dpm-solver++", {"order": "2", "grid": "karras"}),
        ("ddim: eta = 1 , grid = leading", "ddim", {"eta": "1", "grid": "leading"}),
    ],
)
def test_specs_are_read(spec, name, options):
    assert parse_spec(spec) == (name, options)


@pytest.mark.parametrize("spec", ["", " ", ":eta=1", "ddim:eta", "ddim:=1", "ddim:eta=1,eta=1", "ddim:eta=1,eta =0.5"])
def test_malformed_specs_are_refused(spec):
    with pytest.raises(sb.InputError) as caught:
        parse_spec(spec)
    assert caught.value.exit_code == 2
    assert repr(spec) in str(caught.value)


def test_options_come_as_text_or_as_values():
    assert sb.make_sampler("ddim:eta=0.5") == sb.make_sampler("ddim", eta=0.5) != sb.make_sampler("ddim")
    assert sb.make_sampler("ddim", eta=1) == sb.make_sampler("ddim:eta=1")
    assert sb.make_sampler("dpm-solver:order=3").order == 3
    assert sb.make_sampler("ddpm:variance=large").variance == "large"


def test_an_option_may_have_the_name_of_a_method_if_its_field_ends_in_an_underscore():
    assert sb.make_sampler("dpm-solver:plan=fast") == sb.make_sampler("dpm-solver", plan="fast")
    assert sb.make_sampler("dpm-solver:plan=fast").plan_ == "fast"
    assert "plan=even|fast" in describe_options(sb.list_samplers()["dpm-solver"])
    with pytest.raises(sb.InputError, match=r"unknown option 'plan_' \(did you mean 'plan'\?\)"):
        sb.make_sampler("dpm-solver:plan_=fast")


@pytest.mark.parametrize(
    ("alias", "spec"),
    [
        ("Euler a", "euler-a"),
        ("euler_a", "euler-a"),
        ("EULER_ANCESTRAL", "euler-a"),
        ("DDIM", "ddim"),
        ("DDIM:eta=0.3", "ddim:eta=0.3"),
        ("DPM++ 2M", "dpm-solver++"),
        ("dpmpp_2m", "dpm-solver++"),
        ("dpmpp_2m:order=3", "dpm-solver++:order=3"),
    ],
)
def test_familiar_names_are_aliases(alias, spec):
    assert sb.make_sampler(alias) == sb.make_sampler(spec)


def spellings(name):
    """A name in other cases, and with spaces, underscores and dashes for one another or left out."""
    for text in {name, *(name.replace(a, b) for a in " _-" for b in (" ", "_", "-", ""))}:
        yield from {text, text.lower(), text.upper(), text.title()}


@pytest.mark.parametrize("cls", default_registry().samplers.things.values())
def test_names_and_familiar_names_are_known_in_every_spelling(cls):
    registry = default_registry()
    name = next(n for n, c in registry.samplers.things.items() if c is cls)
    assert cls.aliases or name in ("ddpm", "dpm-solver", "learned", "restart")
    for known, preset in {name: "", **cls.aliases}.items():
        expected = registry.sampler_and_grid(f"{name}:{preset}")
        for text in spellings(known):
            assert registry.sampler_and_grid(text) == expected, text


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("dpm++ 2m karas", "DPM++ 2M Karras"), ("DPMPP_2N", "dpmpp_2m"), ("EULER-B", "euler-a"), ("DDIMM", "ddim"),
        ("k_eulr_a", "k_euler_a"),
    ],
)  # fmt: skip
def test_a_slip_in_a_familiar_name_is_offered_that_name(typed, meant):
    with pytest.raises(sb.InputError, match=rf"did you mean '{re.escape(meant)}'\?"):
        sb.make_sampler(typed)


def test_a_name_in_another_case_is_offered():
    with pytest.raises(sb.InputError, match=r"unknown grid 'KARRAS' \(did you mean 'karras'\?\)"):
        sb.sample("mixture", "ddim", steps=2, grid="KARRAS")


def test_an_alias_can_bring_its_grid():
    sampler, grid = default_registry().sampler_and_grid("DPM++ 2M Karras")
    assert (sampler, grid) == (sb.make_sampler("dpm-solver++"), "karras")
    assert default_registry().sampler_and_grid("DPM++ 2M Karras:grid=logsnr")[1] == "logsnr"
    model = exact_model(sb.GaussianMixture(((0.2, 0.1),), (0.3,), (1.0,)), sb.vp_linear())
    by_alias = sb.sample(model, "DPM++ 2M Karras", steps=6, n=2).x
    assert torch.equal(by_alias, sb.sample(model, "dpm-solver++", steps=6, n=2, grid="karras").x)
    assert not torch.equal(by_alias, sb.sample(model, "dpm-solver++", steps=6, n=2).x)
    with pytest.raises(sb.InputError, match="grid"):
        sb.sample(model, "DPM++ 2M Karras", steps=6, n=2, grid="uniform")


def test_no_two_samplers_claim_the_same_alias():
    registry = default_registry()
    claimed = [alias for cls in registry.samplers.things.values() for alias in cls.aliases]
    assert len(claimed) > 5
    loose = {re.sub("[ _-]", "", name.lower()) for name in (*claimed, *registry.samplers.things)}
    assert registry.aliases().keys() == loose


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("ddmi", ("unknown sampler 'ddmi' (did you mean 'ddim'?)",)),  # as near to ddpm
        ("dimm", ("unknown sampler 'dimm'", "did you mean 'ddim'?", "ddpm", "dpm-solver++", "euler-a")),
        ("zzzzzz", ("unknown sampler 'zzzzzz'", "ddpm", "euler-a")),
        ("ddim:etta=1", ("unknown option 'etta'", "did you mean 'eta'?", "options: eta")),
        ("ddpm:eta=1", ("unknown option 'eta'", "options: variance")),
        ("ddpm:variance=medium", ("variance", "'medium'", "small, large")),
        ("dpm-solver:order=4", ("order", "'4'", "1, 2, 3")),
        ("dpm-solver:order=2.0", ("order", "'2.0'", "1, 2, 3")),
        ("ddim:eta=much", ("eta", "'much'", "a finite number")),
        ("ddim:eta=nan", ("eta", "'nan'", "a finite number")),
        ("ddim:eta=inf", ("eta", "a finite number")),
        ("ddim:eta=", ("eta", "a finite number")),
        ("ddim:eta=1.01", ("eta 1.01", "from 0 to 1")),
        ("ddim:eta=-0.1", ("eta -0.1", "from 0 to 1")),
        ("euler-a:eta=-1", ("eta -1.0", "from 0 up")),
    ],
)
def test_wrong_samplers_and_options_are_refused(spec, words):
    with pytest.raises(sb.InputError) as caught:
        sb.make_sampler(spec)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("value", ["much", True, None, [1], float("nan"), float("inf")])
def test_wrong_option_values_are_refused(value):
    with pytest.raises(sb.InputError, match="eta"):
        sb.make_sampler("ddim", eta=value)


def test_an_option_has_its_type():
    assert isinstance(sb.make_sampler("ddim", eta=1).eta, float)
    assert isinstance(sb.make_sampler("dpm-solver:order=2").order, int)
    with pytest.raises(sb.InputError, match="order"):
        sb.make_sampler("dpm-solver", order=True)


def test_the_closest_name_comes_before_one_of_the_same_letters():
    assert closest("abc", ["cab", "abcd"]) == " (did you mean 'abcd'?)"
    assert closest("ddmi", ["ddpm", "ddim"]) == closest("ddmi", ["ddim", "ddpm"]) == " (did you mean 'ddim'?)"
    assert closest("zzz", ["ddim"]) == ""


def test_an_unknown_model_names_the_closest():
    for name in ("nonsense", "x" * 300):  # the second is longer than a file's name may be
        with pytest.raises(sb.InputError, match=rf"unknown model '{name}' \(and no such file or folder\); there are"):
            sb.load_model(name)


def test_the_built_in_samplers_are_listed_with_their_origin():
    registry = default_registry()
    assert {"ddim", "ddpm", "dpm-solver", "dpm-solver++", "euler-a"} <= set(sb.list_samplers())
    assert list(sb.list_samplers()) == sorted(sb.list_samplers())
    assert registry.samplers.origins["ddim"].plugin == "samplerbench.plugins.samplers.ddim"
    assert registry.samplers.origins["ddim"].version
    assert all(issubclass(cls, sb.Sampler) for cls in sb.list_samplers().values())
    assert not registry.broken


def test_a_users_plugin_works_and_is_ddim(plugin):
    registry = load_registry([plugin(MY_EULER)])
    assert names(registry)["samplers"] == sorted([*sb.list_samplers(), "my-euler"])
    assert "my-euler" not in sb.list_samplers()  # named for one registry only
    mixture = sb.GaussianMixture(((-1.0, 0.5), (0.8, 1.0)), (0.02, 0.1), (0.5, 0.5))
    for schedule in (sb.vp_linear(), sb.edm(), sb.flow()):
        model = exact_model(mixture, schedule, "v")
        mine = sb.sample(model, registry.sampler("my-euler"), steps=5, n=3)
        assert torch.equal(mine.x, sb.sample(model, "ddim", steps=5, n=3).x)
        assert mine.nfe == 5


def test_a_plugin_may_add_grids_with_options(plugin):
    path = plugin(
        """
        from dataclasses import dataclass
        from samplerbench import Grid, hookimpl

        @dataclass(frozen=True)
        class Power(Grid):
            p: float = 1.0
            def times(self, schedule, steps):
                return [(schedule.timesteps - 1) * (1 - i / steps) ** self.p for i in range(steps)]

        @hookimpl
        def samplerbench_grids():
            return {"power": Power}
        """
    )
    levels = load_registry([path]).levels("power:p=2", sb.vp_linear(101), 2, integer=False)
    assert [level.t for level in levels[:-1]] == [100, 25]


def test_two_plugins_with_one_name_are_refused_naming_both(plugin):
    first, second = plugin(MY_EULER), plugin(MY_EULER)
    with pytest.raises(sb.PluginError) as caught:
        load_registry([first, second])
    assert "'my-euler' is registered twice" in str(caught.value)
    assert first in str(caught.value)
    assert second in str(caught.value)


def test_a_built_in_name_cannot_be_shadowed(plugin):
    path = plugin(MY_EULER.replace("my-euler", "ddim"))
    refuses(path, "sampler 'ddim' is registered twice", "samplerbench.plugins.samplers.ddim")


HOOK = "from samplerbench import hookimpl\n@hookimpl\n"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise RuntimeError('no luck')", ["RuntimeError", "no luck"]),
        ("import sys; sys.exit(0)", ["SystemExit"]),
        ("def broken(:", ["SyntaxError"]),
        ("import nothing_of_that_name", ["ModuleNotFoundError", "nothing_of_that_name"]),
        (HOOK + "def samplerbench_samplers():\n    raise ValueError('inside')", ["ValueError", "inside"]),
        (HOOK + "def samplerbench_samplers():\n    raise SystemExit(0)", ["SystemExit"]),
        (HOOK + "def samplerbench_sampler():\n    return {}", ["samplerbench_sampler"]),
        (HOOK + "def samplerbench_samplers(registry):\n    return {}", ["samplerbench_samplers", "registry"]),
        (HOOK + "def samplerbench_samplers():\n    return ['x']", ["samplers", "list", "a dict"]),
        ("def samplerbench_samplers():\n    return {}", ["samplerbench_samplers is not marked", "@hookimpl"]),
        ("", ["registers nothing", "@hookimpl"]),
    ],
    ids=[
        "raises", "exits", "syntax", "import", "hook raises", "hook exits", "hook name", "hook signature",
        "no dict", "no hookimpl", "empty",
    ],
)  # fmt: skip
def test_a_broken_plugin_file_is_a_plugin_error(plugin, source, words):
    refuses(plugin(source), *words)


@pytest.mark.parametrize("path", ["nowhere.py", "no_such_module_anywhere"])
def test_a_missing_plugin_is_a_plugin_error(path):
    refuses(path, path)


@pytest.fixture
def code(tmp_path):
    """Paths that end in .py and are no code, and the words that each is refused with."""
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "loop.py").symlink_to("loop.py")
    other = "a folder, pipe or device; expected a .py file"
    return {
        tmp_path / "pipe.py": other, tmp_path / "folder.py": other, tmp_path / "none.py": "no such file",
        tmp_path / "folder.py" / "loop" / "none.py": "no such file", tmp_path / "loop.py": "cannot be read (",
        tmp_path / f"{'x' * 300}.py": "cannot be read (",
    }  # fmt: skip


def test_what_is_no_file_of_code_is_said_without_an_exception_s_name(code):
    for path, words in code.items():
        with pytest.raises(sb.PluginError) as caught:
            load_registry([str(path)])
        assert str(caught.value).startswith(f"plugin {path}: {words}")
        for spec in (f"{path}:make", *[f"edm:{path}:make"] * (len(path.name) < 256)):
            with pytest.raises(sb.ModelError) as caught:
                sb.load_model(spec)
            assert str(caught.value).startswith(f"model {spec!r}: {words}")


@pytest.mark.parametrize("spec", ["{home}.py:make", "edm:{home}.py:make", "{name}:make", "edm:{name}:make"])
def test_code_that_imports_what_is_not_there_is_at_fault_itself(tmp_path, monkeypatch, spec):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"wants_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("import not_installed_anywhere\n")
    given = spec.format(home=tmp_path / name, name=name)
    with pytest.raises(sb.ModelError, match=r"ModuleNotFoundError: No module named 'not_installed_anywhere'"):
        sb.load_model(given)


def test_a_file_that_imports_a_module_of_its_own_name_is_not_taken_for_a_missing_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "not_on_the_path.py").write_text("import not_on_the_path\n")
    with pytest.raises(sb.ModelError, match="No module named 'not_on_the_path'"):
        sb.load_model("not_on_the_path.py:make")


@pytest.mark.parametrize(
    "module", ["not_installed_anywhere", "not_installed_anywhere.below", "json.nothing", "math.pi"]
)
def test_a_module_that_is_not_there_is_an_unknown_model(module):
    with pytest.raises(sb.InputError, match=f"unknown model '{module}'; there are"):
        sb.load_model(f"{module}:make")


@pytest.mark.parametrize("value", ["3", "'ddim'", "object", "lambda: None", "Sampler"])
def test_what_is_no_sampler_class_is_refused(plugin, value):
    hook = f"{HOOK}def samplerbench_samplers():\n    return {{'x': {value}}}"
    refuses(plugin(f"from samplerbench import Sampler\n{hook}"), "'x'")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "A",
        "../x",
        "a b",
        "a:b",
        "a,b",
        "a=b",
        "-a",
        ".a",
        "=1+1",
        "x\n",
        "a\x1b[31m",
        "\u202etxt",
        "x" * 65,
        3,
        None,
    ],
)
def test_names_that_could_mislead_are_refused(plugin, name):
    message = refuses(plugin(MY_EULER.replace('"my-euler"', repr(name))), "sampler name", "lower-case")
    assert message.isprintable()
    assert len(message) < 600


class Entry:
    """An installed package's entry point."""

    def __init__(self, name, value):
        self.name, self.value, self.dist = name, value, None


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Pretend that modules with these sources are installed beside the built-in plugins."""
    default_registry()  # loaded once, and before the pretence

    def install(**sources):
        entries = [Entry("builtin", "samplerbench.plugins")]
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
            entries.insert(0, Entry(name, name))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries if group == "samplerbench" else [])
        return load_registry()

    return install


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("stranger_raises", "raise RuntimeError('no luck')", "RuntimeError: no luck"),
        ("stranger_exits", "raise SystemExit(0)", "SystemExit"),
        ("stranger_syntax", "def broken(:", "SyntaxError"),
        ("stranger_hook", HOOK + "def samplerbench_sampler():\n    return {}", "samplerbench_sampler"),
        ("stranger_args", HOOK + "def samplerbench_samplers(x):\n    return {}", "samplerbench_samplers"),
        ("stranger_exit_in_hook", HOOK + "def samplerbench_models():\n    raise SystemExit(0)", "SystemExit"),
        ("stranger_shadow", MY_EULER.replace("my-euler", "ddpm"), "samplerbench.plugins.samplers.ddpm"),
    ],
)
def test_a_broken_installed_plugin_is_listed_and_the_others_load(installed, name, source, reason):
    registry = installed(**{name: source})
    assert names(registry) == names(default_registry())
    (broken,) = registry.broken
    assert broken.origin.plugin == name
    assert reason in broken.reason


def test_nothing_of_a_broken_plugin_stays_registered(installed):
    """Its first name is good, its second is taken: neither comes in, and every other plugin stays."""
    registry = installed(stranger_half=MY_EULER.replace("Euler}", 'Euler, "ddim": Euler}'))
    assert len(registry.broken) == 1
    assert names(registry) == names(default_registry())
    assert set(registry.samplers.origins) == set(registry.samplers.things)


def test_an_installed_plugin_comes_in_by_its_entry_point(installed):
    registry = installed(stranger_euler=MY_EULER)
    assert not registry.broken
    assert str(registry.samplers.origins["my-euler"]) == "stranger_euler"

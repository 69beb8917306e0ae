"""docs/: what the pages say is what the code says, and what samplers say of each other is true."""

import itertools
import json
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import samplerbench as sb
from cases import thinned
from samplerbench.bench.cli import CONTEXT, cli
from samplerbench.bench.cli.commands import commands_page
from samplerbench.bench.cli.listing import field_docstrings, page
from samplerbench.bench.conformance.sameness import Statement, difference, statements_of
from samplerbench.samplers.options import options_of
from samplerbench.samplers.registry import Registry, load_registry

DOCS = Path(__file__).parents[2] / "docs"


def built_in():
    """The registry without what else is installed."""
    everything, own = load_registry(), Registry()
    for kind in ("samplers", "grids", "metrics"):
        for name, thing in getattr(everything, kind).things.items():
            origin = getattr(everything, kind).origins[name]
            if origin.plugin.startswith("samplerbench.plugins"):
                getattr(own, kind).add(name, thing, origin)
    return own


OWN = built_in()
SAMPLERS = OWN.samplers.things
PAGE = page(OWN, "samplers")


@pytest.mark.parametrize("kind", ["samplers", "grids", "metrics", "names"])
def test_the_pages_are_those_that_the_command_makes(kind):
    stored = (DOCS / f"{kind}.md").read_text(encoding="utf-8")
    assert stored == page(OWN, kind), f"make it again: samplerbench list {kind} --markdown > docs/{kind}.md"
    assert len(stored) > 1000


@pytest.mark.parametrize("kind", ["samplers", "grids", "metrics", "names"])
def test_the_page_is_printed_by_the_command(kind):
    done = CliRunner().invoke(cli, ["list", kind, "--markdown"])
    assert done.exit_code == 0
    assert done.stdout == page(load_registry(), kind)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "--markdown"], "there is no page on models; expected samplers, grids, metrics or names"),
        (["samplers", "--markdown", "--json"], "--json and --markdown: expected one of them"),
    ],
)
def test_what_has_no_page_is_refused(arguments, message):
    with pytest.raises(sb.InputError, match=message):
        cli.main(["list", *arguments], standalone_mode=False)


def test_the_page_of_commands_is_the_one_that_the_command_makes():
    stored = (DOCS / "commands.md").read_text(encoding="utf-8")
    # Words alone: where click breaks a line is not ours.
    assert stored.split() == commands_page(cli).split(), "samplerbench list commands --markdown > docs/commands.md"
    assert all(f"\n## {name}\n" in stored for name in cli.commands)


def test_commands_are_listed_each_with_what_it_does():
    rows = json.loads(CliRunner().invoke(cli, ["list", "commands", "--json"]).stdout)["commands"]
    assert [row["name"] for row in rows] == sorted(cli.commands)
    assert all(len(row["what it does"]) > 10 for row in rows)
    done = CliRunner().invoke(cli, ["list", "commands"])
    names = [line.split()[0] for line in done.stdout.splitlines()[1:] if not line.startswith(" ")]
    assert names == sorted(cli.commands)


def commands_of(text):
    """The words of each command of this program in the shell blocks of a page."""
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("  #")[0].split("&&"):
                words = shlex.split(part, comments=True)
                if words[:1] == ["samplerbench"]:
                    yield words[1:]


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda p: p.name)
def test_every_command_on_a_page_is_one(path):
    for name, *rest in commands_of(path.read_text(encoding="utf-8")):
        command = cli.commands[name]
        # A command keeps the help option of the first context that it is asked in.
        context = click.Context(command, help_option_names=CONTEXT["help_option_names"])
        command.make_parser(context).parse_args(list(rest))  # raises for an option that is not there


def test_the_commands_on_the_pages_are_found():
    found = [words for path in DOCS.glob("*.md") for words in commands_of(path.read_text(encoding="utf-8"))]
    assert {words[0] for words in found} >= {"run", "table", "report", "grid", "list", "check"}
    assert len(found) > 25


def test_no_picture_is_large():
    pictures = [path for kind in ("png", "webp") for path in DOCS.rglob(f"*.{kind}")]
    assert len(pictures) > 8
    assert [path.name for path in pictures if path.stat().st_size > 200_000] == []


# ---- Links ----


def anchors(text):
    """What the headings of a page are called in a link."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]
    own = set(re.findall(r'<a id="([^"]+)"></a>', text))
    return own | {name if not (before := plain[:i].count(name)) else f"{name}-{before}" for i, name in enumerate(plain)}


@pytest.mark.parametrize(
    "path",
    sorted([*DOCS.glob("*.md"), *DOCS.parent.glob("*.md"), *DOCS.parent.glob("results/*.md")]),
    ids=lambda p: p.name,
)
def test_every_link_leads_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://", target):
            file, _, anchor = target.partition("#")
            there = (path.parent / file) if file else path
            assert there.exists(), target
            assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), target


def test_every_page_is_in_the_site_s_navigation():
    config = tomllib.loads((DOCS.parent / "zensical.toml").read_text())

    def pages(entry):
        return (
            [entry]
            if isinstance(entry, str)
            else [p for part in (entry.values() if isinstance(entry, dict) else entry) for p in pages(part)]
        )

    assert sorted(pages(config["project"]["nav"])) == sorted(path.name for path in DOCS.glob("*.md"))


def test_the_site_s_search_works_from_disk_and_asks_no_network():
    """A browser reads no index beside a page from disk: the plugin writes it as a script, for a worker of our own."""
    project = tomllib.loads((DOCS.parent / "zensical.toml").read_text())["project"]
    assert project["plugins"]["offline"]["enabled"]
    (script,) = (one["path"] for one in project["extra"]["polyfills"])
    assert "iframe-worker" in script  # by this name the plugin knows that it need not load its own
    assert "window.Worker=" in (DOCS / script).read_text()


# ---- What is on them ----


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_says_when_to_use_it_and_what_its_options_mean(name):
    text = PAGE.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    (advice,) = (part for part in text.split("\n\n") if part.startswith("**Use it** "))
    assert advice.endswith(".")
    assert len(advice) > 50
    meanings = field_docstrings(SAMPLERS[name])
    for key, option in options_of(SAMPLERS[name]).items():
        assert meanings[option.field]
        assert f"| `{key}` |" in text
        assert f"| `{option.default}` |" in text
    for alias in SAMPLERS[name].aliases:
        assert f"{alias} (`{name}" in text


def test_every_sampler_is_linked_by_its_own_anchor():
    links = dict(re.findall(r"^\| \[(.*?)\]\(#(.*?)\)", PAGE, flags=re.MULTILINE))
    assert sorted(links) == sorted(SAMPLERS)
    assert len(set(links.values())) == len(links)
    for name, anchor in links.items():
        assert f'<a id="{anchor}"></a>\n\n## {name}\n' in PAGE or (anchor == name and f"\n## {name}\n" in PAGE)


BARE = """
from dataclasses import dataclass
from samplerbench import Sampler, hookimpl

@dataclass(frozen=True)
class Base(Sampler):
    strength: float = 0.5
    "Of what | it does,\\n    in two lines."

    def nfe(self, steps):
        return 3 * steps

    def step(self, run, x, a, b, past):
        return run.predict(x, a).combine(b.alpha, b.sigma), None

@dataclass(frozen=True)
class Stranger(Base):
    count: int = 1
    on: bool = True

    @property
    def convergence(self):
        raise ValueError("no idea")

@hookimpl
def samplerbench_samplers():
    return {"stranger": Stranger}
"""


def test_a_strangers_sampler_without_docstrings_has_its_part(tmp_path):
    (tmp_path / "bare.py").write_text(BARE)
    text = page(load_registry([str(tmp_path / "bare.py")]), "samplers")
    part = text.partition("\n## stranger\n")[2].partition("\n## ")[0]
    assert part.strip().splitlines() == [
        "Order: raises ValueError. NFE: 3 steps.",
        "",
        "| option | values | default | meaning |",
        "| --- | --- | --- | --- |",
        "| `strength` | number | `0.5` | Of what \\| it does, in two lines. |",
        "| `count` | whole number | `1` |  |",
        "| `on` | `true`, `false` | `True` |  |",
    ]


# ---- Same as ----

STATEMENTS = [(name, statement) for name, cls in SAMPLERS.items() for statement in statements_of(cls)]


@pytest.mark.parametrize(("name", "statement"), thinned(STATEMENTS, *list(dict(reversed(STATEMENTS)).items())[::2]))
def test_what_is_said_to_be_the_same_is(name, statement):
    assert statement.spec.partition(":")[0] == name
    assert difference(OWN, statement) < 1e-10


def test_many_are_said_to_be_the_same_and_a_wrong_statement_would_be_seen():
    assert len(STATEMENTS) > 30
    assert {name for name, _ in STATEMENTS} > set(SAMPLERS) - {"dpm-solver-adaptive", "seeds"}
    for spec, other in itertools.product(["heun", "ddpm"], ["ddim", "dpm-solver"]):
        assert difference(OWN, Statement(spec, other, "")) > 1e-6


# ---- Metrics ----


def test_every_metric_says_what_it_is_and_when_it_is_not_there():
    text = page(OWN, "metrics")
    for name, metric in OWN.metrics.things.items():
        part = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert len(part) > 150
        assert f"| [{name}](#{name}) | {metric.extractor} | {metric.better} |" in text
    assert "| [fid_unbiased](#fid_unbiased) | features | lower |  | 4 d |" in text
    assert "| [clip_score](#clip_score) | clip | higher | % | 2 |" in text


def test_the_list_of_metrics_has_direction_unit_extractor_and_least_n():
    rows = json.loads(CliRunner().invoke(cli, ["list", "metrics", "--json"]).stdout)["metrics"]
    by_name = {row["name"]: row for row in rows}
    assert list(rows[0]) == ["name", "reads", "better", "unit", "least n", "what it is", "origin"]
    assert by_name["fid_unbiased"]["least n"] == "4 d"
    assert by_name["recall"]["better"] == "higher"
    assert by_name["recall"]["least n"] == "5"


def test_the_json_list_has_these_fields():
    rows = json.loads(CliRunner().invoke(cli, ["list", "samplers", "--json"]).stdout)["samplers"]
    assert {"name", "order", "NFE", "options", "other names", "what it is", "origin"} == set(rows[0])

"""The README is held to the program: its plugin runs, its commands and options exist."""

import re
import shlex
from pathlib import Path

import click
import pytest
import torch

import badge
import pages
import samplerbench as sb
from samplerbench.bench.cli import cli
from samplerbench.samplers.registry import load_registry

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


CONSOLES = [pair for block in blocks("console") for pair in pages.commands(block)]
"""What is typed, and the lines that it prints."""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """The plugin of the README, saved under the name that it is given there."""
    (text,) = (block for block in blocks("python") if "hookimpl" in block)
    path = tmp_path / "my_euler.py"
    path.write_text(text)
    return path


def test_the_plugin_is_as_short_as_it_says(plugin):
    assert len(plugin.read_text().splitlines()) <= 20


def test_the_plugin_runs_and_is_ddim(plugin):
    registry = load_registry([str(plugin)])
    model = sb.load_model("mixture")
    mine = sb.sample(model, registry.sampler("my-euler"), steps=7, n=5, dtype="float64")
    ddim = sb.sample(model, "ddim", steps=7, n=5, dtype="float64")
    assert torch.equal(mine.x, ddim.x)
    assert mine.nfe == 7


def test_the_plugin_can_be_compared(plugin, tmp_path):
    result = sb.run("mixture", ["my-euler", "ddim"], steps=[3], n=8, output=tmp_path / "run", plugins=[str(plugin)])
    assert list(result.table["same_as"])[1] == "my-euler"
    assert result.failed == 0


def test_every_command_parses():
    lines = [line.split("#")[0] for block in blocks("sh") for line in block.splitlines()]
    lines += [line for line, _ in CONSOLES]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("samplerbench")]
    assert len(commands) >= 8
    for name, *rest in commands:
        command = cli.commands[name]
        options = {opt for p in command.params if isinstance(p, click.Option) for opt in (*p.opts, *p.secondary_opts)}
        for word in rest:
            if word.startswith("-"):
                assert word in options, f"{name} {word}"


def test_a_model_from_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import samplerbench as sb\n"
        "def make():\n"
        "    return sb.wrap_network(lambda x, t: x, sb.vp_linear(), (1, 4, 4))\n"
    )
    assert sb.sample(sb.load_model(f"{path}:make"), "ddim", steps=2, n=3).images.shape == (3, 1, 4, 4)
    with pytest.raises(sb.ModelError, match="did you mean 'make'"):
        sb.load_model(f"{path}:mak")
    with pytest.raises(sb.ModelError, match="no such file"):
        sb.load_model(f"{tmp_path / 'other.py'}:make")
    with pytest.raises(sb.InputError, match="unknown model"):
        sb.load_model("nowhere:make")


def test_the_picture_comes_first_and_then_two_commands():
    pictures = re.findall(r"!\[[^\]]*\]\((\S+?)\)", README)
    assert pictures[:2] == ["docs/pictures/badge.svg", "docs/grid.png"]
    first = README.index("```sh")
    assert README.index(pictures[1]) < first < README.index("| sampler | steps |")
    assert blocks("sh")[0].splitlines() == ["pip install .", "samplerbench run"]


def test_the_badge_is_made_of_what_the_project_says():
    stored = (ROOT / "docs" / "pictures" / "badge.svg").read_text(encoding="utf-8")
    assert stored == badge.badge() + "\n", "make it again: python tests/tools/badge.py > docs/pictures/badge.svg"
    assert "Python 3.11 and later" in stored


def test_the_caption_is_explained_as_the_command_does(sb):
    command, printed = CONSOLES[0]
    assert command.startswith('samplerbench explain "Steps: 40, ')
    done = sb(*shlex.split(command)[1:])
    assert done.out.split() == " ".join(printed).split()  # where a line breaks depends on the terminal


def test_what_is_asked_of_the_run_above_agrees_with_its_table():
    """Value and time of each row of the ranking are those of the table."""
    table = {}
    for line in README.splitlines():
        if line.startswith("| ") and line.count("|") == 10:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            table[cells[0], cells[1]] = cells
    assert len(table) == 2 + 12  # heading and line
    (ranking,) = (printed for command, printed in CONSOLES if command == "samplerbench table --nfe 10")
    for line in ranking[1:-1]:
        _, _, sampler, steps, nfe, seconds, _, value, *_ = pages.fields(line)
        row = table[sampler, steps]
        assert (row[2], row[5]) == (nfe, value)
        assert row[6].startswith(f"{seconds} (")

"""docs/writing-a-sampler.md is followed line by line: its Python is the plugin, its commands print what it says."""

import re
import sys
from pathlib import Path

import pytest

import pages
import samplerbench
from samplerbench.bench import cli

commands, compare, parts = pages.commands, pages.compare, pages.parts

PAGE = Path(__file__).parents[2] / "docs" / "writing-a-sampler.md"


@pytest.mark.slow
def test_the_page_can_be_followed(follow, tmp_path, monkeypatch):
    plugin = ""
    followed = 0
    for language, text in parts(PAGE.read_text()):
        if language == "python":
            plugin += text if not plugin else f"\n{text}" if text.startswith(" ") else f"\n\n{text}"
            (tmp_path / "lu_2m.py").write_text(plugin)
        elif language == "console":
            for command, expected in commands(text):
                if command.startswith("pip install"):
                    pretend_to_install(tmp_path / command.split()[-1], monkeypatch)
                else:
                    compare(expected, follow(command))
                followed += 1
    assert followed == 11
    compile(plugin, "lu_2m.py", "exec")
    sys.modules.pop("lu_2m", None)


def pretend_to_install(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip leaves of a project: its module where Python looks, and its entry points beside it."""
    text = (project / "pyproject.toml").read_text()
    about = project / "src" / "lu_2m-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lu-2m\nVersion: 0.1.0\n")
    entry = text.partition("[project.entry-points.samplerbench]\n")[2].splitlines()[0].replace('"', "")
    (about / "entry_points.txt").write_text(f"[samplerbench]\n{entry}\n")
    monkeypatch.syspath_prepend(str(project / "src"))


def test_the_page_names_nothing_that_is_not_there():
    page = PAGE.read_text()
    for name in re.findall(r"\bsb\.(\w+)|samplerbench\.([A-Z]\w+)", page):
        assert "".join(name) in samplerbench.__all__
    options = {option for command in cli.cli.commands.values() for p in command.params for option in p.opts}
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", page):
        assert option in options


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        (["a  1.00  holds"], ["a  1.01  holds"]),
        (["a  apart by 3.0e-14"], ["a  apart by 8.1e-13"]),
        (["| s | ms/image |", "| x | 5 |"], ["| s | ms/image |", "| x | 9 |"]),
        (["...", "b"], ["a", "b"]),
        (["a", "..."], ["a", "b"]),
    ],
)
def test_what_agrees_with_the_page(page, printed):
    compare(page, printed)


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        (["a  1.00  holds"], ["a  1.05  holds"]),
        (["a  1.00  holds"], ["a  1.00  FAILS"]),
        (["a  apart by 3.0e-14"], ["a  apart by 8.1e-3"]),
        (["a  24 of 24"], ["a  23 of 24"]),
        (["| s | x |", "| x | 5 |"], ["| s | x |", "| x | 9 |"]),
        (["a"], ["a", "b"]),
        (["a", "b"], ["a"]),
        (["...", "c"], ["a", "b"]),
        (["...", "b"], ["a", "b", "c"]),
    ],
)
def test_what_does_not(page, printed):
    with pytest.raises(AssertionError):
        compare(page, printed)

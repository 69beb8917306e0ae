"""docs/tutorial.md: its commands are followed from top to bottom with few images, and print what the page shows."""

import re
import shlex
from pathlib import Path

import pytest

import pages
from samplerbench.bench.conformance.card import FULL
from samplerbench.bench.conformance.order import local_order
from samplerbench.samplers.registry import load_registry

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text(encoding="utf-8")
PARTS = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', PAGE, flags=re.DOTALL | re.MULTILINE)
FEWER = {
    " -o first": " -s ddim -s ddpm --steps 2 -n 24 -o first",
    " -n 256": " -n 24",
    " -n 384": " -n 48",
    " --nfe 10": " --nfe 3",
}
"""What stands on the page -> what a test draws."""
LINES = [line for language, _, text in PARTS if language == "sh" for line in text.splitlines()]
OURS = [shlex.split(line)[1:] for line in LINES if line.startswith("samplerbench ")]


def fewer(line):
    for text, less in FEWER.items():
        line = line.replace(text, less)
    return shlex.split(line)[1:]


def file_of(first):
    """The sampler of the page, before its mistake is mended and after."""
    (wrong,) = (text for _, title, text in PARTS if title == "my_sampler.py")
    if first:
        return wrong
    (mended,) = (text for language, title, text in PARTS if language == "python" and not title)
    # The lines of the fix stand in place of those between the same two lines of the file.
    before = re.search(r"^ {12}eps_before, _ = past\n.*?(?=^ {8}return )", wrong, flags=re.DOTALL | re.MULTILINE)[0]
    return wrong.replace(before, "".join(f"            {line}\n" for line in mended.splitlines()))


def test_it_goes_from_the_installation_to_a_verdict():
    assert "pip install ." in LINES
    assert [words[0] for words in OURS] == [
        "doctor", "run", "table", "new-plugin", "check", "check", "run", "table", "table", "table", "run", "table",
    ]  # fmt: skip
    assert [text for text in FEWER if not any(text in line for line in LINES)] == []


@pytest.mark.parametrize("first", [True, False], ids=["wrong", "mended"])
def test_the_line_that_fails_is_the_one_that_the_mend_is_for(first, tmp_path):
    """One line of the card: a whole card takes seconds."""
    path = tmp_path / "my_sampler.py"
    path.write_text(file_of(first))
    (line,) = local_order(load_registry([str(path)]).sampler("my-sampler"), FULL)
    assert line.holds is not first
    shown = [text for language, _, text in PARTS if language == "text" and text.startswith("check ")][not first]
    assert " ".join([line.name, line.claim, line.measured, "FAILS" if first else "holds"]) in " ".join(shown.split())


@pytest.mark.slow
def test_its_commands_print_what_it_shows(sb, tmp_path):
    cards = [text.splitlines() for language, _, text in PARTS if language == "text" and text.startswith("check ")]
    assert len(cards) == 2
    for line in LINES:
        if not line.startswith("samplerbench "):
            continue
        words = fewer(line)
        if words[0] == "doctor":
            continue  # of the whole machine; test_doctor.py
        if words[0] == "check":
            (tmp_path / "my_sampler.py").write_text(file_of(first=len(cards) == 2))
            done = sb(*words)
            pages.compare(cards[0], done.out.splitlines())
            assert done.code == (1 if len(cards) == 2 else 0)
            cards = cards[1:]
            continue
        done = sb(*words)
        assert done.code == 0, (line, done.err)
        if "--compare" in words:
            assert done.out.splitlines()[0].split() == ["metric", "A", "B", "A", "-", "B", "p", "A", "is"]
    assert not cards

"""docs/tasks.md: each task is done by its own commands, with a small model and few images in place of large ones."""

import re
import shlex
from pathlib import Path

import pytest

import pages

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOY = ROOT / "tests" / "toy.py"
SMALLER = {
    " --reference photos/ --extractor efficientnet-lite0": "",  # the toy has features and a reference of its own
    " --model FOLDER": "",
    " --device cuda --workers gpus -n 50000 -o big --dry-run": " --workers 8 -n 50000 -o big --dry-run",
    " --device cuda --workers gpus -n 50000 -o big --clock": " --steps 2 -n 24 -o big --clock",
    " --nfe 10": " --nfe 2",
    " --steps 5,10": " --steps 1,2",
    ",steps=10] > 2": ",steps=2] > 0.0001",
    " -n 1024": " -n 24",
    " -n 256": " -n 24",
}
"""What stands on the page -> what a test on one core without a GPU draws."""
NUMBER = re.compile(r"\d+\.\d+")
TASKS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE))


def commands_of(text: str) -> list[str]:
    """The command lines of a task."""
    block = "".join(code for language, code in pages.parts(text) if language == "sh")
    return block.replace(" \\\n   ", "").splitlines()


def shown(text: str) -> list[str]:
    """The lines that a task shows as printed."""
    return "".join(code for language, code in pages.parts(text) if language == "text").splitlines()


def smaller(line: str) -> list[str]:
    """A command line as the test gives it: with less to draw, on the toy model."""
    for text, less in SMALLER.items():
        line = line.replace(text, less)
    _, command, *words = shlex.split(line)
    model = {"run": ["--model", "toy", "--plugin", str(TOY)], "table": ["--plugin", str(TOY)]}
    return [command, *words, *model.get(command, model["table"] if command == "report" else [])]


@pytest.fixture
def done(sb, tmp_path):
    """Does a task in an empty folder with the user's own files; returns what each of its commands gave back."""
    (tmp_path / "prompts.txt").write_text("left\nright\n")
    assert sb("new-plugin", "my-sampler").code == 0

    def do(task: str) -> list:
        return [sb(*smaller(line)) for line in commands_of(TASKS[task])]

    return do


def test_each_task_takes_at_most_three_commands_and_the_readme_leads_to_it():
    assert len(TASKS) == 5
    for title, text in TASKS.items():
        assert 1 <= len(commands_of(text)) <= 3, title
        anchor = re.sub(r"[^\w ]", "", title.lower()).replace(" ", "-")
        assert f"(docs/tasks.md#{anchor})" in README, title


def test_every_replacement_is_of_something_on_the_page():
    lines = "\n".join(line for text in TASKS.values() for line in commands_of(text))
    assert [text for text in SMALLER if text not in lines] == []


def test_which_sampler_for_10_calls(done):
    ran, ranked, reported = done("Which sampler for 10 calls on my folder?")
    assert (ran.code, ranked.code, reported.code) == (0, 0, 0), ran.err
    heading, *rows = ranked.out.splitlines()
    words = heading.replace("toy quadrants", "fashion-mnist CNN")
    assert words.split() == shown(TASKS["Which sampler for 10 calls on my folder?"])[0].split()
    assert sorted(row.split()[3] for row in rows[:5]) == ["ddim", "ddpm", "dpm-solver++", "ipndm", "unipc"]
    assert Path(reported.out.strip()).name == "report.html"


@pytest.mark.slow  # a whole report card
def test_is_mine_better(done):
    checked, ran, compared = done("Is mine better?")
    assert (checked.code, ran.code, compared.code) == (0, 0, 0), (checked.err, ran.err, compared.err)
    assert "same samples" in compared.out  # the file of new-plugin is DDIM
    first = shown(TASKS["Is mine better?"])[0]
    assert compared.out.splitlines()[0].split() == first.split()


def test_what_is_clip_skip(done):
    (said,) = done("What is clip skip?")
    assert said.code == 0
    # Where a line breaks depends on the width of the terminal.
    assert said.out.split() == " ".join(shown(TASKS["What is clip skip?"])).split()


def test_run_on_8_gpus(done):
    planned, ran, table = done("Run on 8 GPUs")
    assert planned.code == 0
    assert "with 8 workers, each as fast as this process: about " in planned.out
    assert (ran.code, table.code) == (0, 0), ran.err
    assert table.out.startswith("| sampler |")


def test_fail_my_ci(done, sb):
    before = commands_of(TASKS["Fail my CI"])[0].replace("-o now", "-o baseline")
    assert sb(*smaller(before)).code == 0
    ran, limit, baseline = done("Fail my CI")
    assert ran.code == 0, ran.err
    assert limit.code == 1
    (line,) = shown(TASKS["Fail my CI"])
    line = line.replace("10 steps, 10 calls", "2 steps, 2 calls").replace("steps=10] > 2", "steps=2] > 0.0001")
    assert limit.err.count("\n") == 1
    assert NUMBER.sub("#", limit.err.strip()) == NUMBER.sub("#", line)
    assert baseline.code == 0, baseline.err  # the same sampler

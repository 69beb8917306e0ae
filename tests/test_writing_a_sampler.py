"""docs/writing-a-sampler.md is followed line by line: its Python is the plugin, its commands print what it says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import samplerbench
from samplerbench.bench import cli

PAGE = Path(__file__).parent.parent / "docs" / "writing-a-sampler.md"
ROUNDING = 1e-3
"""What is smaller than this in the page may be any other small number: it is what rounding, or few steps, left."""
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]*\w)")
CLOCKED = "ms/image"


def parts(page: str) -> list[tuple[str, str]]:
    """(language, text) of the code blocks, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[tuple[str, list[str]]]:
    """(command, lines that it prints) of a console block."""
    _, *given = re.split(r"^\$ ", block, flags=re.MULTILINE)
    return [(lines[0], lines[1:]) for lines in (text.splitlines() for text in given)]


def fields(line: str) -> list[str]:
    """The cells of a line of a Markdown table, or the columns of a listing."""
    if line.startswith("|"):
        return [cell.strip() for cell in line.strip("|").split("|")]
    return re.split(r"\s{2,}", line.strip())


def same(expected: str, printed: str) -> bool:
    """Whether two texts are equal but for the last digits of their numbers."""
    a, b = ([float(number) for number in NUMBER.findall(text)] for text in (expected, printed))
    if len(a) != len(b) or NUMBER.sub("#", expected) != NUMBER.sub("#", printed):
        return False
    return all(abs(x - y) <= 0.02 * abs(x) or max(abs(x), abs(y)) < ROUNDING for x, y in zip(a, b, strict=True))


def compare(expected: list[str], printed: list[str]) -> None:
    """Assert that lines are as the page has them; "..." stands for any number of lines."""
    clocked: set[int] = set()
    rest = list(printed)
    skipping = False
    for line in expected:
        if line == "...":
            skipping = True
            continue
        while skipping and rest and not agree(fields(line), fields(rest[0]), clocked):
            del rest[0]
        assert rest, f"{line!r} is not in\n" + "\n".join(printed)
        assert agree(fields(line), fields(rest[0]), clocked), f"page:    {line}\nprinted: {rest[0]}"
        clocked |= {i for i, cell in enumerate(fields(line)) if cell == CLOCKED}
        del rest[0]
        skipping = False
    assert skipping or not rest, "printed too:\n" + "\n".join(rest)


def agree(expected: list[str], printed: list[str], clocked: set[int]) -> bool:
    """Whether two lines have the same cells, but for those that a clock made."""
    if len(expected) != len(printed):
        return False
    pairs = enumerate(zip(expected, printed, strict=True))
    return all(i in clocked or same(a, b) for i, (a, b) in pairs)


@pytest.fixture
def follow(tmp_path, monkeypatch, capsys):
    """Carry out a command of the page in an empty folder; the lines that it prints on stdout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))  # a busy machine has a caption of its own
    threads = torch.get_num_threads()

    def carry_out(command: str) -> list[str]:
        words = shlex.split(command)
        if words[0] == "samplerbench":
            monkeypatch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as stopped:
                cli.main()
            out, err = capsys.readouterr()
            assert stopped.value.code == (1 if "FAILS" in out else 0), err
            return out.splitlines()
        if words[0] == "pytest":
            command = shlex.join([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words[1:]])
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    yield carry_out
    torch.set_num_threads(threads)


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

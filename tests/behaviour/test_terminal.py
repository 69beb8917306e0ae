"""What people see on a terminal: the stored screens, nothing cut at any width, no colours where none are wanted."""

import re

import pytest
from click.testing import CliRunner
from rich.console import Console

from samplerbench.bench.cli import cli
from samplerbench.bench.show.columns import entries_to_lines, in_parts, rows_to_lines, shared, total
from samplerbench.bench.show.sheet import sheet_of
from samplerbench.bench.show.terminal import SheetOnTerminal
from screens import (
    FOLDER,
    LABELS,
    SCREENS,
    WIDTHS,
    console_of,
    of_few_images,
    sheet_on,
    table_of_csv,
    with_troubles,
    without_trailing,
)

KINDS = ("samplers", "grids", "models", "metrics", "extractors", "data", "engines", "names", "commands", "api")
EDGES = (52, 61, 79, 97, 150)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SCREENS)
def test_screens_are_as_stored(name, width):
    shown = without_trailing(SCREENS[name](width))
    stored = (FOLDER / f"{name}-{width}.txt").read_text(encoding="utf-8")
    assert shown == stored, "look at it, and if it is meant: python tests/tools/screens.py"
    assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize("width", EDGES)
@pytest.mark.parametrize("table", [table_of_csv(), with_troubles(table_of_csv())], ids=["whole", "troubles"])
def test_every_field_and_the_whole_caption_are_there_at_every_width(table, width):
    sheet = sheet_of(table, LABELS)
    lines = sheet_on(width, table).splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert " ".join(sheet.caption.split()) in " ".join(words)
    letters = re.sub(r"\s", "", "".join(lines))
    for row in sheet.rows:
        for entry, column in zip(row, sheet.columns, strict=True):
            if not column.is_text:
                assert any(entry.whole in line for line in lines), entry
    for column in sheet.columns:
        assert column.heading.split()[0] in letters


@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_of_a_heading_is_broken(width):
    text = sheet_on(width, of_few_images(table_of_csv()))
    for word in ("ms/image", "unbiased", "sampler", "[fashion-", "CLIP]", "error", "note"):
        assert re.search(rf"(?<!\S){re.escape(word)}(?!\S)", text), word


def test_each_part_says_which_row_is_which():
    lines = sheet_on(80, table_of_csv()).splitlines()
    headings = [line for line in lines if line.startswith("sampler")]
    assert len(headings) == 2
    assert all(line.split()[:2] == ["sampler", "steps"] for line in headings)
    assert sum(line.startswith("ddim ") for line in lines) == 4
    wide = sheet_on(200, table_of_csv()).splitlines()
    assert sum(line.startswith("sampler") for line in wide) == 1


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"NO_COLOR": "1"}, {"TERM": "unknown"}])
def test_a_terminal_without_colours_gets_none(environment):
    screen = console_of(80, color_system="auto", _environ={"COLUMNS": "80", **environment})
    screen.print(SheetOnTerminal(sheet_of(table_of_csv(), LABELS)))
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", screen.file.getvalue())
    if environment.get("TERM") == "dumb":
        assert "\x1b" not in screen.file.getvalue()


@pytest.mark.parametrize(("kind", "width"), [*((kind, 80) for kind in KINDS), ("samplers", 60), ("samplers", 120)])
def test_a_list_fits_the_terminal_and_describes_every_entry(kind, width):
    done = CliRunner().invoke(cli, ["list", kind], env={"COLUMNS": str(width)})
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= width
    beside = lines[0].index("what")
    bare = [line for k, line in enumerate(lines[1:], 1) if line[:1].strip() and not "".join(
        other[beside:] for other in lines[k : k + 2])]  # fmt: skip
    assert not bare


@pytest.mark.parametrize(("command", "width"), [*((name, 80) for name in ("", *cli.commands)), ("", 60), ("run", 60)])
def test_no_help_text_is_cut(command, width):
    done = CliRunner().invoke(cli, [*filter(None, [command]), "-h"], env={"COLUMNS": str(width)}, terminal_width=width)
    assert done.exit_code == 0
    assert not re.search(r"[a-z ]\.\.\.$", done.stdout, flags=re.MULTILINE)
    letters = "".join(done.stdout.split())  # a word with a dash may go on in the next line
    for option in cli.commands[command].params if command else ():
        text = getattr(option, "help", "") or ""
        assert "".join(text.split()) in letters, option.name


def test_columns_fit_or_stand_in_parts():
    assert in_parts([5, 5, 5], [0], 19) == [[0, 1, 2]]
    assert in_parts([5, 5, 5], [0], 18) == [[0, 1], [0, 2]]
    assert in_parts([5, 50, 5], [0], 18) == [[0, 1], [0, 2]]
    assert in_parts([5, 5], [0, 1], 3) == [[0, 1]]
    assert shared([5, 5], [20, 8], 18) == [11, 5]
    assert total([5, 5]) == 12


def test_rows_in_a_pipe_are_a_line_each():
    lines = [["name", "text"], ["a", "word " * 40]]
    assert len(rows_to_lines(lines, None)) == 2
    folded = rows_to_lines(lines, 40)
    assert max(map(len, folded)) <= 40
    assert " ".join(folded).count("word") == 40
    assert rows_to_lines([], 40) == []


def test_a_name_that_is_too_long_goes_on_below():
    lines = entries_to_lines(("name", "what it is"), [("x" * 50, ["y " * 30])], 40)
    assert max(map(len, lines)) <= 40
    assert "".join(lines).count("x") == 50
    assert "".join(lines).count("y") == 30


def test_a_pipe_is_as_wide_as_it_is_told(monkeypatch):
    from samplerbench.bench.show.console import width_of_output

    monkeypatch.setenv("COLUMNS", "93")
    assert width_of_output() == 93
    assert isinstance(Console().width, int)

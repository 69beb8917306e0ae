"""A table as it is passed on: each format has the numbers of table.csv, names stay names, bold is what is shown."""

import csv
import dataclasses
import html.parser
import io
import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import samplerbench as sb_
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.judge.merge import Origin
from samplerbench.bench.judge.ranking import Answer, Other, clear_leaders
from samplerbench.bench.judge.statistics import metric_columns
from samplerbench.bench.judge.stored import StoredRun
from samplerbench.bench.judge.table import csv_to_frame, frame_to_csv
from samplerbench.bench.show.formats import (
    DATA,
    FORMATS,
    SHEETS,
    Content,
    Emphasis,
    Layout,
    content_of,
    emphasis_of,
    frame_for,
    merge_content,
    parse_columns,
    render,
    sheet_for,
    sort_rows,
)
from samplerbench.bench.show.latex import head, latex
from samplerbench.bench.show.page import write_report
from samplerbench.bench.show.sheet import (
    Column,
    Entry,
    Sheet,
    caption,
    interval_of,
    metrics_of,
    sheet_of,
    sheet_to_markdown,
    with_interval,
)
from samplerbench.samplers.registry import load_registry
from samplerbench.samplers.text import printable

TOY = str(Path(__file__).parents[1] / "toy.py")
REGISTRY = load_registry([TOY])
HOSTILE = [
    "<script>alert(1)</script>", "</caption><b>&amp;", "a | b \\| c", "\\input{/etc/passwd}", "$x^2_{3}$ 5 % #&~",
    "[1ex] *", "--- ''x`` ?`", "=cmd|'/c calc'!A1", "+1+1", "-2", "@SUM(A1)", "\tx", "[a](javascript:alert(1))",
    "![a](//x.invalid/p.png)", "`code` *b*", "é ß λ \u05e9 \U0001f600 ± x\u0301", "\x1b[31m\u202e\x00", "two\nlines",
    "\\end{tabular}\\write18{id}", '" onmouseover="x', "%\n\\relax", "^^5cinput",
]  # fmt: skip


def toy_run(folder, samplers, **settings):
    settings = {"steps": [2, 4], "n": 100} | settings
    sb_.run("toy", samplers, plugins=[TOY], output=folder, prompts=["left", "right"], **settings)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    samplers = ["ddpm", "ddpm:variance=large", "ddim:grid=logsnr", "raises"]
    return toy_run(tmp_path_factory.mktemp("sheet") / "run", samplers)


@pytest.fixture(scope="module")
def content(run):
    return content_of(StoredRun(run))


@pytest.fixture(scope="module")
def stored(run):
    return pd.read_csv(run / "table.csv")


class Cells(html.parser.HTMLParser):
    """The texts of a table's fields, and every tag."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.bold = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        elif tag == "caption":
            self.rows.append([""])

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data
            if self.tags[-1] == "strong":
                self.bold.append(data)


def markdown_rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (lines[0], *lines[2:])]


def latex_rows(text):
    lines = text.split("\\midrule\n")[1].split("\\bottomrule")[0].replace(" \\\\\n", "\n").splitlines()
    plain = [line.replace("\\,{\\scriptsize $\\pm$ ", " ± ").replace("}", "") for line in lines]
    return [[cell.strip() for cell in line.split(" & ")] for line in plain]


def made(content, form, **layout):
    return render(content, Layout(**layout), form).decode()


# The numbers are those of table.csv


def test_what_programs_read_has_every_digit(run, content, stored):
    assert made(content, "csv") == (run / "table.csv").read_text()
    rows = json.loads(made(content, "json"))["table"]
    assert len(rows) == len(stored) == 8
    seen = 0
    for row, expected in zip(rows, stored.to_dict("records"), strict=True):
        for name, value in expected.items():
            if isinstance(value, str) or pd.isna(value):
                assert row[name] == (value if isinstance(value, str) else None)
            else:
                assert row[name] == pytest.approx(value, rel=1e-9)
                seen += 1
    assert seen > 80


def test_parquet_has_every_digit_and_the_types(content, stored):
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    back = pd.read_parquet(io.BytesIO(render(content, Layout(), "parquet")))
    pd.testing.assert_frame_equal(back, stored, check_dtype=False)
    assert back["fid"].dtype == np.float64


@pytest.mark.parametrize(("form", "rows_of"), [
    ("md", lambda text: markdown_rows(text)[1:]),
    ("latex", latex_rows),
    ("html", lambda text: [[" ".join(cell.split()) for cell in row] for row in Cells(text).rows[2:]]),
])  # fmt: skip
@pytest.mark.parametrize("metric", ["fid", "clip_score", "ode_error"])
def test_what_people_read_has_the_digits_that_the_interval_supports(content, stored, form, rows_of, metric):
    rows = rows_of(made(content, form, columns=("steps", metric)))
    pivot = rows_of(made(content, form, pivot=metric))
    assert [int(row[0]) for row in rows] == stored["steps"].tolist()
    cells = [cell for row in pivot for cell in row[2:]]
    for row, cell, expected in zip(rows, cells, stored.to_dict("records"), strict=True):
        value, low, high = interval_of(expected, metric)
        if math.isnan(value):
            assert row[1] == "-"
            assert cell == ("failed" if expected["sampler"] == "raises" else "-")
            continue
        text = with_interval(value, low, high)
        assert row[1] == cell == text
        assert abs(float(text.split()[0]) - value) < (high - low if low < high else abs(value) / 50)


@pytest.mark.parametrize("metric", ["fid", "seconds_per_image", "ode_error"])
def test_a_pivot_for_programs_has_values_and_ends_of_intervals(content, stored, metric):
    rows = json.loads(made(content, "json", pivot=metric))
    assert (rows["pivot"], rows["across"]) == (metric, "steps")
    seen = 0
    for row in stored.to_dict("records"):
        (found,) = [r for r in rows["table"] if r["sampler"] == row["sampler"]]
        assert found["grid"] == row["grid"]
        for ending, name in zip(("", "_low", "_high"), metric_columns(metric), strict=True):
            if name in row and not pd.isna(row[name]):
                assert found[f"{row['steps']}{ending}"] == pytest.approx(row[name], rel=1e-9)
                seen += 1
    assert seen >= {"fid": 18, "seconds_per_image": 6, "ode_error": 2}[metric]


def test_a_pivot_of_budgets_has_a_column_a_budget(tmp_path):
    folder = toy_run(tmp_path / "run", ["ddim", "heun", "dpm-solver:order=3"], steps=[], nfe=[7, 10], n=8)
    content = content_of(StoredRun(folder))
    assert len(content.table["nfe"].unique()) > 2 or content.table["nfe"].max() <= 10
    heading, *rows = markdown_rows(made(content, "md", pivot="ode_error"))
    assert heading == ["sampler", "NFE 7", "NFE 10"]
    assert [row[0] for row in rows] == ["ddim", "heun", "dpm-solver:order=3"]
    assert "-" not in {cell for row in rows for cell in row}


def test_a_pivot_says_what_its_columns_hide(content, tmp_path):
    folder = toy_run(tmp_path / "run", ["ddim", "euler", "heun"], n=8)
    caption = sheet_for(content_of(StoredRun(folder)), Layout("ode_error")).caption
    assert "Steps are not model calls for heun." in caption
    assert "euler has the samples of ddim." in caption
    assert "Steps are not" not in sheet_for(content, Layout("fid")).caption


# Order and columns


def test_rows_are_sorted_and_columns_chosen(content, stored):
    frame = frame_for(content, Layout(sort=("steps", "-fid"), columns=("fid", "sampler", "steps")))
    assert list(frame) == ["fid", "sampler", "steps"]
    for _, part in frame.groupby("steps"):
        values = part["fid"].dropna().tolist()
        assert values == sorted(values, reverse=True)
        assert pd.isna(part["fid"].iloc[-1])  # that of the failed cell
    sheet = sheet_for(content, Layout(sort=("-steps",), columns=("steps", "fid_low", "note")))
    assert [column.heading for column in sheet.columns] == ["steps", "fid_low", "note"]
    assert [int(row[0].text) for row in sheet.rows] == sorted(stored["steps"], reverse=True)
    pivot = frame_for(content, Layout("fid", ("-2",), ("sampler", "2")))
    assert pivot["2"].dropna().is_monotonic_decreasing
    texts = [row[0].text for row in sheet_for(content, Layout("fid", ("-2",), ("sampler", "2"))).rows]
    assert texts == pivot["sampler"].tolist()


def test_bold_stays_with_its_row_when_rows_are_sorted(content):
    place = int(content.table["fid"].idxmin())
    for layout in (Layout(), Layout(sort=("-fid",)), Layout(sort=("fid",)), Layout("fid", ("-2",)), Layout("fid")):
        sheet = sheet_for(content, layout, Emphasis({(place, "fid")}))
        bold = [entry for row in sheet.rows for entry in row if entry.bold]
        assert [entry.whole for entry in bold] == [with_interval(*interval_of(content.table.loc[place], "fid"))]


# Bold


def test_the_best_is_bold_where_all_others_are_shown_to_be_worse(content, stored):
    emphasis = emphasis_of(content, "fid", REGISTRY)
    good = {"ddpm", "ddpm:variance=large"}
    two = dataclasses.replace(content, table=content.table.assign(
        samples=content.table["samples"].where(content.table["sampler"].isin(good), 0)))  # fmt: skip
    assert emphasis_of(two, "fid", REGISTRY).bold == {(0, "fid"), (1, "fid")}
    assert stored["sampler"].tolist()[:2] == ["ddpm", "ddpm"]
    for i, name in emphasis.bold:
        assert stored["fid"][i] == stored.loc[stored["steps"] == stored["steps"][i], name].min()
    text = render(two, Layout("fid"), "html", REGISTRY).decode()
    value = with_interval(*interval_of(stored.iloc[0], "fid")).split()[0]
    assert value in Cells(text).bold
    assert "Bold: the best for its number of steps" in text
    assert "\\textbf{" in render(two, Layout("fid"), "latex", REGISTRY).decode()
    assert f"**{with_interval(*interval_of(stored.iloc[0], 'fid'))}**" in render(two, Layout(), "md", REGISTRY).decode()


def test_equal_samplers_have_nothing_bold(tmp_path):
    content = content_of(StoredRun(toy_run(tmp_path / "run", ["ddim", "euler"])))
    for metric in ("", "fid", "ode_error"):
        emphasis = emphasis_of(content, metric, REGISTRY)
        assert not emphasis.bold
        assert emphasis.why.startswith(" Nothing is bold: that would be")


def test_one_that_is_not_told_apart_is_enough_for_none():
    others = tuple(Other(i, 1.0, 0.5, 1.5, 0.5, verdict) for i, verdict in enumerate(["better", "no difference shown"]))
    assert clear_leaders([Answer("fid", "lower", 5, 3, others)]) == set()
    assert clear_leaders([Answer("fid", "lower", 5, 3, others[:1])]) == {(3, "fid")}


def test_a_sampler_alone_is_not_bold(content):
    alone = content.table["samples"].where(content.table["sampler"] == "ddpm", 0)
    assert not emphasis_of(dataclasses.replace(content, table=content.table.assign(samples=alone)), "", REGISTRY).bold


def test_without_samples_or_model_nothing_is_bold_and_the_caption_says_why(run, content, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    next((tmp_path / "run" / "chunks").glob("*/*.safetensors")).unlink()
    partial = content_of(StoredRun(tmp_path / "run"))
    shutil.rmtree(tmp_path / "run" / "chunks")
    for lacking in (partial, content_of(StoredRun(tmp_path / "run"))):
        caption = sheet_for(lacking, Layout("fid"), emphasis_of(lacking, "fid", REGISTRY)).caption
        assert "Nothing is bold: not all samples of the rows are there to compare." in caption
    emphasis = emphasis_of(content, "fid", load_registry())
    assert (emphasis.bold, emphasis.why[:16]) == (set(), " Nothing is bold")
    assert "unknown model 'toy'" in capsys.readouterr().err
    assert "--compare" in emphasis_of(content, "seconds_per_image", REGISTRY).why


def test_the_best_of_several_runs_is_found_across_them(run, tmp_path):
    one = toy_run(tmp_path / "one", ["ddpm"])
    other = toy_run(tmp_path / "other", ["ddpm:variance=large"])
    content = merge_content([StoredRun(one), StoredRun(other)])
    assert emphasis_of(content, "fid", REGISTRY).bold == {(0, "fid"), (1, "fid")}
    heading, *rows = markdown_rows(made(content, "md", pivot="fid"))
    assert heading == ["sampler", "2 steps", "4 steps"]
    assert [row[0] for row in rows] == ["ddpm", "ddpm:variance=large"]


# Names stay names


class OfSteps(Origin):
    """A row of a run by steps, whatever cells its run has."""

    across, count = "steps", 2


@pytest.fixture(scope="module")
def hostile(content):
    """A table whose every text is another's."""
    rows = content.table.iloc[[i % 6 for i in range(len(HOSTILE))]].reset_index(drop=True)
    status = [f"failed: {text}" for text in HOSTILE]
    rows = rows.assign(sampler=HOSTILE, grid=HOSTILE[::-1], same_as=HOSTILE, model=" ".join(HOSTILE), status=status)
    labels = {"fid": {"label": " ".join(HOSTILE), "note": " ".join(HOSTILE)}}
    origins = [OfSteps(content.origins[0].run, i) for i in range(len(rows))]
    return Content(rows, labels, origins, {})


@pytest.mark.parametrize("pivot", ["", "fid"])
def test_html_has_no_element_of_a_name(hostile, pivot):
    cells = Cells(made(hostile, "html", pivot=pivot))
    assert set(cells.tags) <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "small", "strong"}
    names = [row[0] for row in cells.rows[2:]]
    assert "".join(names[0].split()) == HOSTILE[0].replace(" ", "")
    assert len(names) == len(HOSTILE)


@pytest.mark.parametrize("pivot", ["", "fid"])
def test_markdown_has_no_element_link_or_further_cell(hostile, pivot):
    text = made(hostile, "md", pivot=pivot)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == len(HOSTILE) + 2
    bare = text.replace("\\\\", "")
    assert len({line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines}) == 1
    assert "<" not in bare
    assert "](" not in bare
    assert "`" not in bare.replace("\\`", "")
    assert all(line.isprintable() for line in text.splitlines())


def test_a_spreadsheet_finds_no_formula(hostile):
    rows = list(csv.DictReader(io.StringIO(made(hostile, "csv"), newline="")))
    assert len(rows) == len(HOSTILE)
    guarded = 0
    for row, name in zip(rows, HOSTILE, strict=True):
        assert row["sampler"].removeprefix("'") == name
        assert row["sampler"][0] not in "=+-@\t\x1b"
        guarded += row["sampler"] != name
    assert guarded == 7
    assert {row["fid"] for row in rows if row["fid"]} <= {repr(v) for v in hostile.table["fid"].dropna().tolist()}


def test_the_table_of_a_run_has_no_formula_and_gives_the_same_texts_back(run, stored_as, tmp_path):
    table = StoredRun(run).table
    names = [
        *HOSTILE,
        "'=1",
        "''+1",
        "'",
        "'a",
        "\rx",
        "a\rb",
        "a\r\nb",
        "\x85x",
        "1",
        "007",
        "NA",
        "nan",
        "None",
        "1e5",
    ]
    rows = table.iloc[[i % len(table) for i in range(len(names))]].reset_index(drop=True)
    status = [f"failed: {name}" for name in names]
    samplers = [f"x:{name}" for name in names]  # what stands in front of an = would be a name for the rows
    rows = rows.assign(sampler=samplers, model=names, grid=names, status=status, same_as=[None, *names[1:]], steps=2)
    shutil.copytree(run, tmp_path / "run")
    stored_as(tmp_path / "run", rows)
    content = (tmp_path / "run" / "table.csv").read_bytes().decode()
    fields = list(csv.DictReader(io.StringIO(content, newline="")))
    assert all(row["grid"][0] not in "=+-@\t\r\x1b\x85" for row in fields)
    assert [name for row, name in zip(fields, names, strict=True) if row["grid"] != name] == [
        name for name in names if name.lstrip("'")[:1] in tuple("=+-@\t\r\x1b\x85")
    ]
    pd.testing.assert_frame_equal(StoredRun(tmp_path / "run").table, rows, check_exact=True)


def test_numbers_and_the_names_of_columns_keep_their_form():
    frame = pd.DataFrame({"nfe": pd.Series([5, None], dtype=object), "=x": [-0.5, 1e-300], "n": [7, -8]})
    assert frame_to_csv(frame) == "nfe,'=x,n\n5,-0.5,7\n,1e-300,-8\n"
    assert csv_to_frame(frame_to_csv(frame).encode()).to_dict("list")["=x"] == [-0.5, 1e-300]


def test_json_and_parquet_keep_names_as_they_are(hostile):
    assert [row["sampler"] for row in json.loads(made(hostile, "json"))["table"]] == HOSTILE


def test_latex_escapes_what_it_would_obey():
    assert latex("a_b&c") == r"a\_b\&c"
    assert latex("\\x{1}") == r"\textbackslash{}x\{1\}"
    assert latex("-0.5") == "$-$0.5"
    assert latex("dpm-solver++") == "dpm-solver++"
    assert latex("a---b") == "a-{}-{}-b"
    assert latex("é") == r"\'{e}"
    assert latex("λ") == "(U+03BB)"


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
@pytest.mark.parametrize("pivot", ["", "fid"])
def test_latex_compiles_whatever_the_names(hostile, content, tmp_path, pivot):
    tables = made(hostile, "latex", pivot=pivot) + render(content, Layout(pivot), "latex", REGISTRY).decode()
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{tables}\\end{{document}}\n"
    (tmp_path / "t.tex").write_text(document)
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-1500:]
    assert (tmp_path / "t.pdf").read_bytes().startswith(b"%PDF")


# The command


def test_a_format_is_printed_or_written(sb, run, content, tmp_path):
    for form in FORMATS:
        if form == "parquet":
            continue
        done = sb("table", run, "--format", form, "--plugin", TOY)
        assert done.code == 0, done.err
        written = sb("table", run, "--format", form, "--plugin", TOY, "-o", f"t.{form}")
        assert written.out == f"t.{form}\n"
        assert (tmp_path / f"t.{form}").read_text() == done.out
        if form in DATA:
            assert done.out == made(content, form)
    assert sb("table", run, "--json").out == sb("table", run, "--format", "json").out
    assert sb("table", run, "--sort=-fid", "--columns", "sampler,fid").out.startswith("| sampler | FID [toy quadrants]")
    pivot = sb("table", run, "--pivot", "fid", "--plugin", TOY)
    assert pivot.out == sb("table", run, "--pivot", "fid", "--plugin", TOY, "--format", "md").out
    assert sb("table", run).out == (run / "table.md").read_text()


def test_parquet_needs_a_file_and_its_library(sb, run, monkeypatch):
    sb("table", run, "--format", "parquet").refused(2, "parquet", "binary", "-o FILE")

    def missing(*_, **__):
        raise ImportError("no pyarrow")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", missing)
    sb("table", run, "--format", "parquet", "-o", "t.parquet").refused(2, "pyarrow", "samplerbench[parquet]")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--columns", "sampler,fidd"], 2, ["columns 'fidd'", "did you mean 'fid'"]),
        (["--columns", "fid,fid"], 2, ["given twice"]),
        (["--columns", "fid,,steps"], 2, ["a name is empty"]),
        (["--columns", ""], 2, ["a name is empty"]),
        (["--columns", "note", "--format", "csv"], 2, ["columns 'note'"]),
        (["--sort", "-stepz"], 2, ["sort 'stepz'", "did you mean 'steps'"]),
        (["--pivot", "fdi"], 2, ["pivot 'fdi'", "did you mean 'fid'", "seconds_per_image"]),
        (["--pivot", "fid", "--columns", "fid"], 2, ["columns 'fid'", "sampler"]),
        (["--format", "xml"], 2, ["'xml'", "latex"]),
        (["--format", "md", "--json"], 2, ["--json and --format md"]),
        (["-o", "t.csv"], 2, ["output t.csv", "--format"]),
        (["--format", "csv", "-o", "no/where.csv"], 5, ["output no/where.csv", "cannot be written"]),
        (["--format", "csv", "-o", "folder"], 5, ["output folder", "is no file"]),
        (["--format", "csv", "-o", "/dev/null"], 5, ["output /dev/null", "is no file"]),
        (["--compare", "ddpm", "raises", "--format", "csv"], 2, ["--compare with --format csv", "json"]),
        (["--nfe", "2", "--format", "latex"], 2, ["--nfe with --format latex"]),
        (["--seconds", "1", "--pivot", "fid"], 2, ["--seconds with --pivot"]),
        (["--pareto", "--sort", "fid"], 2, ["--pareto with --sort"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_done_is_one_line(sb, run, tmp_path, arguments, code, words):
    (tmp_path / "folder").mkdir()
    sb("table", run, *arguments).refused(code, *words)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_json_goes_with_the_rankings(sb, run):
    done = sb("table", run, "--nfe", "2", "--format", "json", "--plugin", TOY)
    assert json.loads(done.out)["table"][0]["budget"] == 2


def test_formats_are_those_of_the_command():
    assert set(FORMATS) == {*SHEETS, *DATA} == {"md", "latex", "html", "csv", "json", "parquet"}
    assert parse_columns("sort", "fid, -nfe") == ("fid", "-nfe")
    assert metrics_of(pd.DataFrame({"fid": [1.0], "fid_low": [1.0]})) == ["fid"]
    assert sort_rows(pd.DataFrame({"a": [1, 2]}), ()).equals(pd.DataFrame({"a": [1, 2]}))


# Markdown


def shown_by_markdown(text):
    """What stands in the fields of a Markdown table, and every element that is in one."""
    parser = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})
    fields = [token for token in parser.parse(text) if token.type == "inline"]
    return ["".join(child.content for child in field.children) for field in fields], {
        child.type for field in fields for child in field.children
    }


@pytest.mark.parametrize("text", [*HOSTILE, "7.77 (6.89-8.33)*", "*x*", "**", "a*b*c", "_x_", "snake_case", "~~x~~"])
def test_a_text_in_markdown_is_what_is_read(text):
    bold = Entry(printable(text), "± 1*", bold=True)
    shown = sheet_to_markdown(Sheet([Column("name", is_text=True)], [[Entry(printable(text))], [bold]], "* x *"))
    fields, elements = shown_by_markdown(shown)
    plain = " ".join(printable(text).split())
    assert [" ".join(field.split()) for field in fields[1:3]] == [plain, f"{plain} ± 1*"]
    assert fields[3] == "* x *"
    assert elements <= {"text", "text_special", "strong_open", "strong_close"}
    assert text != "snake_case" or "snake_case" in shown


# The caption


def test_the_caption_speaks_of_the_columns_that_are_there(content):
    whole = made(content, "md")
    assert "95 % interval" in whole
    assert "ms/image is the median" in whole
    assert "CLIP score: two templates" in whole
    few = made(content, "md", columns=("sampler", "steps", "fid"))
    assert "95 % interval" in few
    assert "ms/image" not in few
    assert "two templates" not in few
    assert "95 % interval" in made(content, "md", columns=("sampler", "ode_error"))
    assert "95 % interval" not in made(content, "md", columns=("sampler", "nfe"))


TOO_FEW = "FID is too high: it describes an image by 128 numbers, and 100 images are fewer than that."


def test_a_frechet_distance_of_fewer_samples_than_features_says_so(content):
    def with_features(**features):
        labels = {name: {**label, "features": features.get(name, "")} for name, label in content.labels.items()}
        return dataclasses.replace(content, labels=labels)

    few = with_features(fid="128", clip_score="128")
    for form in SHEETS:
        for pivot in ("", "fid"):
            assert TOO_FEW in made(few, form, pivot=pivot), form
        assert TOO_FEW not in made(few, form, columns=("sampler", "clip_score"))
        assert TOO_FEW not in made(few, form, pivot="clip_score")
        for enough in (content, with_features(), with_features(fid="100")):
            assert "is too high" not in made(enough, form)
    older = {name: {k: v for k, v in label.items() if k != "features"} for name, label in content.labels.items()}
    assert "is too high" not in made(dataclasses.replace(content, labels=older), "md")
    named = dataclasses.replace(few, labels={**few.labels, "fid": {**few.labels["fid"], "frechet": "FD-X"}})
    assert TOO_FEW.replace("FID", "FD-X") in made(named, "md")


def test_a_run_keeps_how_many_features_it_measured(run, edited, tmp_path):
    about = read_run(run).extractors
    assert (about["fid"]["features"], about["clip_score"]["features"]) == ("4", "")
    shutil.copytree(run, tmp_path / "run")
    edited(tmp_path / "run", extractors__fid__features="128")
    write_report(StoredRun(tmp_path / "run"))
    assert TOO_FEW in (tmp_path / "run" / "report.html").read_text()


def test_bold_is_explained_only_where_something_is_bold(content):
    for columns in (("sampler", "steps", "fid"), ("sampler", "steps", "clip_score"), ("sampler", "nfe"), ()):
        text = render(content, Layout(columns=columns), "md", REGISTRY).decode()
        assert ("**" in text) == (" Bold: " in text)
        assert ("**" not in text) == ("Nothing is bold" in text)


def test_the_extractor_stands_below_the_metric_in_latex():
    assert head(Column("FID [toy & CNN]")) == r"\shortstack[r]{FID\\{\scriptsize {[}toy \& CNN{]}}}"
    assert head(Column("steps")) == "steps"


@pytest.mark.parametrize("said", ["many", "", "٣", None, [64]])
def test_features_that_are_no_number_are_no_flag(run, said):
    table, labels = StoredRun(run).table, StoredRun(run).labels
    assert "is too high" not in caption(table, {"fid": {**labels["fid"], "features": said}}, ["fid"])
    assert "is too high" in caption(table, {"fid": {**labels["fid"], "features": "9999"}}, ["fid"])


@pytest.mark.parametrize(("value", "half", "text"), [
    (-0.0, 0.015, "0.000 ± 0.015"), (-0.004, 0.13, "0.00 ± 0.13"), (-0.006, 0.13, "-0.01 ± 0.13"), (-0.0, 0, "0"),
])  # fmt: skip
def test_a_difference_that_rounds_to_zero_has_no_sign(value, half, text):
    assert with_interval(value, value - half, value + half) == text


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [(12.345, 0.41, "12.35 ± 0.41"), (3.2e-7, 1.5e-8, "3.2e-07 ± 1.5e-08"), (-1.4e-13, 5.6e-14, "-1.4e-13 ± 5.6e-14"),
     (2.0, 0.0, "2")],
)  # fmt: skip
def test_a_tiny_interval_has_a_power_of_ten(value, half, text):
    assert with_interval(value, value - half, value + half) == text


def test_rows_without_a_time_have_no_mark_and_no_sentence_on_marks(content):
    """As of workers: no chunk was drawn alone."""
    table = content.table.assign(
        seconds_per_image=math.nan, seconds_low=math.nan, seconds_high=math.nan, timing="0 repeats"
    )
    sheet = sheet_of(table, content.labels)
    (place,) = (i for i, column in enumerate(sheet.columns) if column.heading == "ms/image")
    assert {row[place].whole for row in sheet.rows} == {"-"}
    assert "; no row has a time: fewer than 5 repeats." in sheet.caption
    assert "relied on" not in sheet.caption


@pytest.mark.parametrize(
    ("labels", "has_prompts", "given"),
    [
        ({"fid": {"data": "photos"}}, True, ", for these prompts and this reference;"),
        ({"fid": {"features": "64"}}, False, ", for this reference;"),
        ({"fid": {"label": "x"}, "kid": {"data": "photos"}}, True, ", for these prompts;"),
        ({}, False, ";"),
    ],
)
def test_intervals_are_for_what_the_run_has(labels, has_prompts, given):
    table = pd.DataFrame([{"model": "m", "sampler": "ddim", "grid": "uniform", "steps": 2, "nfe": 2, "guidance": 1.0,
                           "samples": 64, "fid": 2.0, "fid_low": 1.0, "fid_high": 3.0, "seconds_per_image": math.nan,
                           "seconds_low": math.nan, "seconds_high": math.nan, "ode_error": math.nan, "same_as": "",
                           "status": "ok"}])  # fmt: skip
    assert f"the value at this number of images{given}" in caption(table, labels, has_prompts=has_prompts)


def test_the_caption_of_a_run_without_prompts_or_reference_names_neither(sb):
    done = sb("run", "--model", "mixture", "-s", "ddim", "--steps", "2", "-n", "80", "-o", "out")
    again, pivot = sb("table", "out"), sb("table", "out", "--pivot", "ode_distance")
    page = Path("out", "report.html").read_text()
    for text in (done.out, again.out, pivot.out, Path("out", "table.md").read_text(), page):
        assert "at this number of images" in text
        assert "these prompts" not in text
        assert "this reference" not in text

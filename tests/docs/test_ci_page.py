"""docs/ci.md: its conditions are understood, and its lines are those that the command prints."""

import re
from pathlib import Path

import pandas as pd

from samplerbench.bench.judge.conditions import parse_condition
from samplerbench.bench.judge.table import COLUMNS, metric_columns
from samplerbench.bench.show.verdicts import worse_to_lines

PAGE = (Path(__file__).parents[2] / "docs" / "ci.md").read_text()


def test_every_condition_on_the_page_is_one_of_a_column_of_the_table():
    found = re.findall(r'--fail-if "(.*?)"', PAGE) + re.findall(r"`([a-z_\[\]=0-9]+ [<>] \S+)`", PAGE)
    assert len(found) >= 5
    assert {parse_condition(text).column for text in found} <= {*COLUMNS, *metric_columns("ode_error")}


def test_the_line_of_a_worse_row_is_as_the_command_prints_it():
    half = 0.68
    row = {"metric": "fid_unbiased", "row": "my-sampler, 5 steps, 5 calls", "difference": 2.24, "p": 1e-6}
    frame = pd.DataFrame([{**row, "low": 2.24 - half, "high": 2.24 + half}])
    (line,) = worse_to_lines(frame, Path("baseline"))
    assert f"\nFailed: {line}\n" in PAGE

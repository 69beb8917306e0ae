"""docs/guidance.md has the tables of results/guidance, and benchmarks/guidance_page.py puts them there."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
BUDGETS = """\
budget    rank  sampler  guidance  steps  NFE  unbiased FID [CNN]  less the best  p        verdict
3 calls   1     ddim     2         3      3    3.08 ± 0.98         -              -        best
3 calls   2     ddim     1         3      3    3.5 ± 1.8           0.4 ± 2.1      1        no difference shown
3 calls   3     ddpm     4         3      3    5.0 ± 0.1           1.9 ± 0.9      <0.0001  worse
3 calls   4     ddim     4         3      3    5.1 ± 0.1           2.0 ± 0.9      <0.0001  worse
3 calls   5     ddpm     1         3      3    6.0 ± 0.1           2.9 ± 0.9      <0.0001  worse
3 calls   -     ddpm     2         -      -    -                   -              -        not measured
10 calls  1     ddpm     1         10     10   1.08 ± 0.98         -              -        best
p is corrected for all comparisons that can be asked of a metric (unbiased FID: 63) and for look 1 at the run.
"""
VERDICTS = """\
| calls | the best | not told apart from it | shown to be worse |
| ---: | --- | --- | --- |
| 3 | `ddim` at 2, 3.08 ± 0.98 | `ddim` at 1 | `ddpm` at 1, 4, `ddim` at 4 |
| 10 | `ddpm` at 1, 1.08 ± 0.98 | - | - |"""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("guidance_page", ROOT / "benchmarks" / "guidance_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_verdicts_are_gathered_by_budget(script):
    assert script.verdicts(BUDGETS) == VERDICTS


def test_tables_replace_those_between_their_marks(script, tmp_path):
    (tmp_path / "fid.md").write_text("| new |\n")
    (tmp_path / "budgets.txt").write_text(BUDGETS)
    page = "a\n\n<!-- fid -->\n\n| old |\n\n<!-- end -->\n\nb\n\n<!-- verdicts -->\n\n-\n\n<!-- end -->\n"
    whole = page.replace("| old |", "| new |").replace("\n-\n", f"\n{VERDICTS}\n")
    assert script.filled(page, tmp_path) == whole
    assert script.filled(whole, tmp_path) == whole
    with pytest.raises(SystemExit, match="expected <!-- fid -->"):
        script.filled("a", tmp_path)


def test_the_page_has_the_tables_of_the_run(script):
    page = (ROOT / "docs" / "guidance.md").read_text(encoding="utf-8")
    assert script.filled(page, ROOT / "results" / "guidance") == page


def test_the_run_is_the_one_that_the_page_tells_of():
    table = pd.read_csv(ROOT / "results" / "guidance" / "table.csv")
    assert (len(table), table["sampler"].nunique()) == (180, 12)
    assert set(table["guidance"]) == {1, 2, 4}
    assert set(table["status"]) == {"ok"}
    # Two calls a step: what a budget cannot have is taken one lower.
    assert set(table["nfe"]) == {3, 5, 7, 8, 9, 10, 19, 20}
